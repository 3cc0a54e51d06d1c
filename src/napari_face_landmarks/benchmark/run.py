"""The complete benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_face_landmarks.benchmark.ablation import StepResult, run_ablation
from napari_face_landmarks.benchmark.jitter import Steadiness, steadiness
from napari_face_landmarks.benchmark.kernels import kernel_times
from napari_face_landmarks.benchmark.long_run import LengthCost, length_cost, slope_text
from napari_face_landmarks.benchmark.throughput import (
    FACES,
    WIDTHS,
    Cost,
    VideoRates,
    face_costs,
    size_costs,
    video_rates,
)
from napari_face_landmarks.benchmark.timing import BUSY, Timing, machine, peak_of_run, start_of_run
from napari_face_landmarks.clnf.patch_experts import PatchExperts
from napari_face_landmarks.errors import ModelError, ResultError
from napari_face_landmarks.files.json_file import write_json
from napari_face_landmarks.models import Models
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking import FaceTracker
from napari_face_landmarks.video import open_video
from napari_face_landmarks.video.container import thread_count


@dataclass(frozen=True)
class Effort:
    """Amount of measurement."""

    calls: int = 500  # number of calls of each kernel
    baseline_frames: int = 40  # frames of the ablation's baseline
    step_seconds: float = 4.0  # duration of each faster step of the ablation
    runs: int = 3  # runs of each video in each mode
    stop: int | None = 800  # number of frames of these runs; None for the whole video
    cost_frames: int = 100  # frames of a run for each image size and number of faces
    cost_runs: int = 7  # number of these runs; the median run is reported
    length: int = 20_000  # frames of the long run
    widths: tuple[int, ...] = WIDTHS  # image widths
    faces: tuple[int, ...] = FACES  # numbers of faces


QUICK = Effort(
    calls=20,
    baseline_frames=1,
    step_seconds=0.0,
    runs=1,
    stop=6,
    cost_frames=4,
    cost_runs=1,
    length=60,
    widths=(320, 640),
    faces=(1, 2),
)


@dataclass(frozen=True)
class Benchmark:
    """Results of the benchmark.

    Attributes
    ----------
    machine : dict
        Processor, cores, versions, load average before the start.
    models : str
        Name and version of the bundle.
    effort : Effort
    kernels : list of Timing
    ablation : list of StepResult
    videos : list of VideoRates
    sizes, faces : list of Cost
    length : LengthCost
    steadiness : list of Steadiness
        Jitter on the first video.
    peak_mb : float or None
        Peak memory of a process that tracks the first video; None if unknown.
    start_seconds : float or None
        Seconds of a process that tracks one frame of it with compiled kernels; None if unknown.
    warnings : list of str
        Reasons why the results may be unreliable.
    """

    machine: dict[str, Any]
    models: str
    effort: Effort
    kernels: list[Timing]
    ablation: list[StepResult]
    videos: list[VideoRates]
    sizes: list[Cost]
    faces: list[Cost]
    length: LengthCost
    steadiness: list[Steadiness]
    peak_mb: float | None
    start_seconds: float | None
    warnings: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write all results as JSON."""
        write_json(path, self)


def run_benchmark(
    paths: Sequence[Path],
    models: Models,
    *,
    effort: Effort | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Benchmark:
    """Measure kernels, optimisations, whole runs, and the cost of a frame under various conditions.

    Parameters
    ----------
    paths : sequence of Path
        Videos of a face; whole runs use all of them, everything else the first.
    models : Models
        Models of a bundle, with PFLD and CEN patch experts.
    effort : Effort, optional
        Amount of measurement.
    say : callable
        Called with each result as a sentence.

    Raises
    ------
    ModelError
        If the models lack PFLD or CEN patch experts.
    ResultError
        If the first video has no face on its first frame.
    VideoError
        If a video cannot be read.
    """
    effort = effort or Effort()
    if models.pfld is None or not isinstance(models.experts, PatchExperts):
        raise ModelError(
            f"The benchmark needs PFLD and CEN patch experts, which {models.name} lacks: choose a bundle."
        )
    about = machine()
    warnings = _reliability_warnings(about)
    for sentence in warnings:
        say(sentence)
    for path in paths:  # unreadable videos are reported before the long measurements
        with open_video(path):
            pass
    tracker = FaceTracker(models, TrackerSettings(refine="always"), 1)
    tracker.prepare()
    with open_video(paths[0]) as video:
        frames = [np.asarray(video[number]) for number in range(min(60, effort.length, len(video)))]
        fit = tracker.fit(frames[0])
        if len(fit.landmarks) == 0:
            raise ResultError(f"{paths[0]} has no face on its first frame: choose another video.")
        say("Kernels")
        kernels = kernel_times(models, frames[0], fit.landmarks[0], effort.calls)
        for timing in kernels:
            say(f"{timing.name}: {timing.median:.4f} ms ({timing.quartile_1:.4f} to {timing.quartile_3:.4f})")
        say("Ablation")
        ablation = run_ablation(
            models, video, frames=effort.baseline_frames, seconds=effort.step_seconds, say=say
        )
    say("Whole runs")
    threads = sorted({1, thread_count()})
    videos = [
        video_rates(models, path, runs=effort.runs, threads=threads, stop=effort.stop, say=say)
        for path in paths
    ]
    sizes, faces = _costs(models, frames[0], fit.boxes[0], effort, say)
    say("Length of the video")
    length = length_cost(models, frames, effort.length)
    say(f"{length.ms:.2f} ms per frame, and {slope_text(length.slope)} more after {length.frames} frames")
    say("Jitter")
    steady = steadiness(models, paths[0], effort.stop, say)
    peak = peak_of_run(models.name, paths[0], effort.stop)
    if peak is not None:
        say(f"Peak memory of a process that tracks {paths[0].name}: {peak:.0f} MB")
    start = start_of_run(models.name, paths[0])
    if start is not None:
        say(f"A process that tracks one frame takes {start:.2f} s")
    name = f"{models.name} {models.version}"
    measured = (kernels, ablation, videos, sizes, faces, length, steady, peak, start)
    return Benchmark(about, name, effort, *measured, warnings)


def _reliability_warnings(about: dict[str, Any]) -> list[str]:
    """Return reasons why times on this machine may be unreliable."""
    warnings = []
    if about["load"] is not None and about["load"] > BUSY:
        warnings.append(
            f"The machine was busy when the benchmark started (load average {about['load']:.1f}): "
            "the times are not reliable."
        )
    if not about["numba"]:
        warnings.append("Numba is not installed; all times are much longer without it: install Numba.")
    return warnings


def _costs(
    models: Models, frame: Any, box: Any, effort: Effort, say: Callable[[str], None]
) -> tuple[list[Cost], list[Cost]]:
    """Return the cost of a frame by image size and by number of faces."""
    frames, runs = effort.cost_frames, effort.cost_runs
    say("Image size")
    sizes = size_costs(models, frame, effort.widths, frames, runs)
    _report(sizes, "px wide", say)
    say("Number of faces")
    faces = face_costs(models, _around(frame, box), effort.faces, frames, runs)
    _report(faces, "faces", say)
    return sizes, faces


def _report(costs: Sequence[Cost], unit: str, say: Callable[[str], None]) -> None:
    for cost in costs:
        parts = ", ".join(f"{name} {ms:.2f}" for name, ms in cost.stage_ms.items() if ms > 0.005)
        say(f"{cost.value} {unit}: {cost.ms:.2f} ms per frame ({parts})")


def _around(frame: Any, box: Any) -> Any:
    """Return the part of a frame around a face, with a margin of half its size on every side."""
    x0, y0, x1, y1 = (float(value) for value in box[:4])
    reach = 0.5 * max(x1 - x0, y1 - y0)
    top, left = max(0, int(y0 - reach)), max(0, int(x0 - reach))
    return np.ascontiguousarray(frame[top : int(y1 + reach), left : int(x1 + reach)])
