"""The ablation and the throughput as bar charts, drawn with matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_face_landmarks.benchmark.race import Race
from napari_face_landmarks.benchmark.run import Benchmark
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.files.optional import optional


def check_plot() -> None:
    """Raise `ResultError` if matplotlib is missing; called before a long benchmark."""
    optional("matplotlib", "A plot")


def write_plot(path: Path, result: Benchmark) -> None:
    """Draw bar charts of the ablation (logarithmic) and of the throughput on each video, as a PNG.

    Raises
    ------
    ResultError
        If matplotlib is not installed, or the file cannot be written.
    """
    counts = [len(result.ablation), *(1 + len(video.rates) for video in result.videos)]
    figure = _figure(0.3 * (sum(counts) + 3 * len(counts)))
    panels = figure.subplots(len(counts), squeeze=False, height_ratios=[count + 2 for count in counts])[:, 0]
    steps = [(step.name, step.fps) for step in result.ablation]
    _bars(panels[0], "Optimisations added one by one: frames per second (logarithmic)", steps, log=True)
    for axes, video in zip(panels[1:], result.videos, strict=True):
        bars = [("decoding alone", video.decoding_fps)]
        for rate in video.rates:
            skip = "" if rate.refine == "off" else f", skip {rate.every}"
            plural = "s" if rate.threads > 1 else ""
            bars.append((f"refine {rate.refine}{skip}, {rate.threads} thread{plural}", rate.fps))
        _bars(axes, f"{video.name}, {video.width} x {video.height}: frames per second", bars)
        axes.patches[0].set_color("C2")
    _save(figure, path)


def write_race_plot(path: Path, race: Race) -> None:
    """Draw medians and ranges of the frames per second of a race, a panel for each number of cores, as a PNG.

    Raises
    ------
    ResultError
        If matplotlib is not installed, or the file cannot be written.
    """
    numbers = sorted({entry.cores for entry in race.entries}, reverse=True)
    figure = _figure(0.3 * len(race.entries) + len(numbers))
    for axes, cores in zip(figure.subplots(len(numbers), squeeze=False)[:, 0], numbers, strict=True):
        entries = sorted((e for e in race.entries if e.cores == cores), key=lambda e: -e.median("fps"))
        plural = "s" if cores > 1 else ""
        title = f"{race.video}, on {cores} core{plural}: frames per second, median and range"
        _bars(axes, title, [(entry.label, entry.median("fps")) for entry in entries])
        for place, entry in enumerate(entries):
            axes.plot(entry.range("fps"), (place, place), color="black", linewidth=1.5)
            axes.patches[place].set_color("C0" if entry.ours else "C2")
    _save(figure, path)


def _figure(height: float) -> Any:
    """Return an empty figure with the given height in inches."""
    check_plot()
    from matplotlib.figure import Figure

    return Figure(figsize=(12, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _bars(axes: Any, title: str, bars: list[tuple[str, float]], log: bool = False) -> None:
    """Draw a labelled horizontal bar for each (name, value), from top to bottom."""
    names, values = zip(*bars, strict=True)
    drawn = axes.barh(range(len(bars)), values, log=log)
    axes.set_yticks(range(len(bars)), names)
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.set_title(title, loc="left")
    axes.bar_label(drawn, [f"{value:.2f}" if value < 10 else f"{value:.0f}" for value in values], padding=3)
