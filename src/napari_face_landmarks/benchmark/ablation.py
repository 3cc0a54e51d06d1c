"""Ablation: optimisations added one by one to an unoptimised baseline."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.benchmark.ablation_engine import engine, looped_im2col, vectorised_im2col
from napari_face_landmarks.clnf import numba_engine, reference
from napari_face_landmarks.ibug import inter_ocular
from napari_face_landmarks.models import Models
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking import FaceTracker
from napari_face_landmarks.video.container import thread_count

BASELINE = TrackerSettings(
    refine="always",
    pfld_every=1,
    clnf_every=1,
    max_iterations=3,
    search_radius=1.5,
    convergence_px=0.0,
    smoothing_window=1,
)
"""Baseline: every frame, three iterations, large search radius, neither early exit nor smoothing."""


@dataclass(frozen=True)
class Step:
    """One step of the ablation: the previous step with one more optimisation."""

    name: str  # of the optimisation
    settings: TrackerSettings
    engine: ModuleType  # implementation of CLNF
    threads: int = 1


@dataclass(frozen=True)
class StepResult:
    """Result of a step of the ablation."""

    name: str
    fps: float  # frames per second, end to end
    frames: int  # number of frames
    speedup: float  # relative to the previous step
    total: float  # speed-up relative to the baseline
    moved: float  # mean distance of the landmarks from those of the baseline, % of the inter-ocular distance


def steps(threads: int) -> list[Step]:
    """Return the steps from the baseline to the default settings with ``refine="always"``."""
    full = TrackerSettings(refine="always", pfld_every=1)
    final = TrackerSettings(refine="always")
    smoothed = BASELINE.replace(clnf_every=full.clnf_every, smoothing_window=full.smoothing_window)
    early_exit = smoothed.replace(convergence_px=full.convergence_px)
    fewer_iterations = early_exit.replace(max_iterations=full.max_iterations)
    compiled, strided = engine(looped_im2col), engine(vectorised_im2col)
    clnf_every, window = full.clnf_every, full.smoothing_window
    return [
        Step("baseline: loops, 3 iterations, radius 1.5, every frame", BASELINE, reference),
        Step("contrast normalisation compiled (Numba)", BASELINE, compiled),
        Step("im2col with bias from a strided view", BASELINE, strided),
        Step(f"CLNF on every {clnf_every}nd frame, smoothing over {window}", smoothed, strided),
        Step(f"early exit below {full.convergence_px:g} px", early_exit, strided),
        Step(f"{full.max_iterations} iterations", fewer_iterations, strided),
        Step(f"search radius {full.search_radius:g}", full, strided),
        Step("all landmarks of a scale at once, float32, compiled search", full, numba_engine),
        Step(f"PFLD on every {final.pfld_every}rd frame where faces move little", final, numba_engine),
        Step("threads: frames overlap", final, numba_engine, threads),
    ]


def run_ablation(
    models: Models,
    video: Any,
    *,
    frames: int,
    seconds: float,
    say: Callable[[str], None] = lambda text: None,
) -> list[StepResult]:
    """Track a video, (T, Y, X, 3) with a face on its first frames, at every step of the ablation.

    The baseline runs on the first `frames` frames, on which landmarks are compared. Faster steps run on more
    frames, for about `seconds` each. `say` receives a sentence about each result.
    """
    results: list[StepResult] = []
    baseline: npt.NDArray[np.float32] | None = None
    total = len(video)
    frames = min(frames, total)
    for step in steps(thread_count()):
        rate = results[-1].fps if results else 0.0
        count = min(total, max(frames, int(seconds * rate)))
        tracker = FaceTracker(models, step.settings, step.threads, engine=step.engine)
        tracker.prepare()
        began = time.perf_counter()
        tracks = tracker.track(video, stop=count)
        fps = tracks.n_frames / (time.perf_counter() - began)
        if baseline is None:
            baseline = tracks.landmarks
        total_speedup = fps / (results[0].fps if results else fps)
        moved = 100 * _moved(tracks.landmarks, baseline)
        results.append(StepResult(step.name, fps, count, fps / (rate or fps), total_speedup, moved))
        say(
            f"{step.name}: {fps:.1f} frames per second, {total_speedup:.1f} times the baseline, "
            f"landmarks {moved:.2f} % away"
        )
    return results


def _moved(landmarks: npt.NDArray[np.float32], baseline: npt.NDArray[np.float32]) -> float:
    """Return the mean distance in inter-ocular distances over the frames with complete smoothing windows."""
    count = max(1, min(len(landmarks), len(baseline)) - 2)
    landmarks, baseline = landmarks[:count], baseline[:count]
    distance = np.linalg.norm(landmarks - baseline, axis=-1).mean(axis=-1)
    return float(np.nanmean(distance / inter_ocular(baseline)))
