"""The results of a benchmark as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_face_landmarks.benchmark.long_run import slope_text
from napari_face_landmarks.benchmark.run import Benchmark
from napari_face_landmarks.benchmark.throughput import Cost, VideoRates
from napari_face_landmarks.files.markdown import table, write_section

SECTION = "speed table"
"""Name in the markers ``<!-- speed table -->`` and ``<!-- end of speed table -->``."""


def benchmark_table(result: Benchmark) -> str:
    """Return the results of a benchmark as Markdown tables."""
    about = result.machine
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items() if number)
    busy = "" if about["load"] is None else f", load average {about['load']:.1f} before the start"
    parts = [
        f"{about['processor']}, {about['cores']} cores{busy}; Python {about['python']}, {versions}; "
        f"models {result.models}.",
        *[f"**{sentence}**" for sentence in result.warnings],
        "Milliseconds per call, after warm-up:",
        table(
            ("call", "median", "quartiles"),
            [(t.name, _ms(t.median), f"{_ms(t.quartile_1)} to {_ms(t.quartile_3)}") for t in result.kernels],
        ),
        "Effect of each optimisation, `refine` always, one thread except in the last row. The baseline is "
        f"slow and runs on {result.ablation[0].frames} frames only, on which landmarks are compared.",
        table(
            ("step", "frames per second", "relative to previous", "relative to baseline", "landmarks moved"),
            [
                (s.name, _rate(s.fps), f"{s.speedup:.2f} x", f"{s.total:.1f} x", f"{s.moved:.2f} %")
                for s in result.ablation
            ],
        ),
        "Frames per second from file to landmarks, and the limiting stage (decoding runs in parallel):",
        *[_rates(video) for video in result.videos],
        "Cost of a frame by image width, with a face of proportional size (frames in memory, `refine` "
        "always, one thread, ms):",
        _costs("width", result.sizes),
        "Cost of a frame by number of faces (same image size, default number of threads, whose stages "
        "overlap, ms):",
        _costs("faces", result.faces),
        f"After {result.length.frames:,} frames a frame costs {slope_text(result.length.slope)} more than "
        "in a new run (`refine` always, one thread)"
        + (
            "."
            if result.length.growth_mb is None
            else f"; the memory grew by {result.length.growth_mb:+.0f} MB (without results)."
        ),
    ]
    video = result.videos[0].name if result.videos else ""
    if result.steadiness:
        parts += [
            f"Jitter of the landmarks of a face at rest ({video}, {result.steadiness[0].frames} such frames; "
            "root mean square of the second difference, px; smoothed over 5 frames unless stated otherwise):",
            table(("run", "px"), [(s.name, f"{s.jitter:.3f}") for s in result.steadiness]),
        ]
    if result.peak_mb is not None:
        parts.append(
            f"Peak memory of a process that tracks {video} with the defaults: {result.peak_mb:.0f} MB."
        )
    if result.start_seconds is not None:
        parts.append(
            f"A process that tracks one frame of it takes {result.start_seconds:.2f} s, with its start."
        )
    return "\n\n".join(parts) + "\n"


def write_table(path: Path, result: Benchmark) -> None:
    """Write the tables to a Markdown file, between the markers of `SECTION` if it has them.

    Raises
    ------
    ResultError
        If the file cannot be written, or has only one of the markers.
    """
    write_section(path, benchmark_table(result), SECTION)


def _rates(video: VideoRates) -> str:
    rows = [("decoding alone", "", "", _rate(video.decoding_fps), "")]
    for rate in video.rates:
        limit = rate.bound.replace("; ms per frame:", ", ms:")
        every = "" if rate.refine == "off" else str(rate.every)
        rows.append((rate.refine, every, str(rate.threads), _rate(rate.fps), limit))
    title = f"{video.name}, {video.width} x {video.height}, {video.frames} frames"
    return f"{title}:\n\n" + table(("refine", "skip", "threads", "frames per second", "limited by"), rows)


def _costs(name: str, costs: Sequence[Cost]) -> str:
    stages = [stage for stage in ("pfld", "clnf", "smoothing") if any(c.stage_ms.get(stage) for c in costs)]
    rows = [(str(c.value), _ms(c.ms), *[_ms(c.stage_ms.get(stage, 0.0)) for stage in stages]) for c in costs]
    return table((name, "all", *stages), rows)


def _ms(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


def _rate(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"
