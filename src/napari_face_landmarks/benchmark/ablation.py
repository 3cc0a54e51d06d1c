"""Ablation: the optimisations added one by one to the plain method."""

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
"""Loops, every frame, three iterations, a large search radius, no early exit, no smoothing."""


@dataclass(frozen=True)
class Step:
    """One step of the ablation: the previous step with one more optimisation."""

    name: str  # the optimisation
    settings: TrackerSettings
    engine: ModuleType  # implementation of CLNF
    threads: int = 1


@dataclass(frozen=True)
class StepResult:
    """Result of a step of the ablation."""

    name: str
    fps: float  # frames per second, end to end
    frames: int  # number of frames
    # speedup, total: speed-up relative to the previous step and to the baseline
    speedup: float
    total: float
    moved: float  # mean distance of the landmarks from those of the baseline, % of the inter-ocular distance


def steps(threads: int) -> list[Step]:
    """Return the steps from the baseline to the defaults of a run with `refine` always."""
    users = TrackerSettings(refine="always", pfld_every=1)
    last = TrackerSettings(refine="always")
    skipping = BASELINE.replace(clnf_every=users.clnf_every, smoothing_window=users.smoothing_window)
    leaving = skipping.replace(convergence_px=users.convergence_px)
    fewer = leaving.replace(max_iterations=users.max_iterations)
    compiled, strided = engine(looped_im2col), engine(vectorised_im2col)
    every, window = users.clnf_every, users.smoothing_window
    return [
        Step("baseline: loops, 3 iterations, radius 1.5, every frame", BASELINE, reference),
        Step("contrast normalisation compiled (Numba)", BASELINE, compiled),
        Step("im2col with bias from a strided view", BASELINE, strided),
        Step(f"CLNF on every {every}nd frame, smoothing over {window}", skipping, strided),
        Step(f"early exit below {users.convergence_px:g} px", leaving, strided),
        Step(f"{users.max_iterations} iterations", fewer, strided),
        Step(f"search radius {users.search_radius:g}", users, strided),
        Step("all landmarks of a scale at once, float32, compiled search", users, numba_engine),
        Step(f"PFLD on every {last.pfld_every}rd frame where faces move little", last, numba_engine),
        Step("threads: frames overlap", last, numba_engine, threads),
    ]


def run_ablation(
    models: Models,
    video: Any,
    *,
    frames: int,
    seconds: float,
    say: Callable[[str], None] = lambda text: None,
) -> list[StepResult]:
    """Run a video with the optimisations added one by one.

    The video, (T, Y, X, 3), has a face on its first frames. The baseline runs on `frames` of them, on which
    landmarks are compared; a faster step uses as many more as take about so many `seconds`. `say` is called
    with each result as a sentence.
    """
    results: list[StepResult] = []
    truth: npt.NDArray[np.float32] | None = None
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
        if truth is None:
            truth = tracks.landmarks
        total_gain = fps / (results[0].fps if results else fps)
        moved = 100 * _moved(tracks.landmarks, truth)
        results.append(StepResult(step.name, fps, count, fps / (rate or fps), total_gain, moved))
        say(
            f"{step.name}: {fps:.1f} frames per second, {total_gain:.1f} times the baseline, "
            f"landmarks {moved:.2f} % away"
        )
    return results


def _moved(landmarks: npt.NDArray[np.float32], truth: npt.NDArray[np.float32]) -> float:
    """Return the mean distance in inter-ocular distances over the frames with complete smoothing windows."""
    count = min(len(landmarks), len(truth))
    kept = slice(0, max(1, count - 2))
    distance = np.linalg.norm(landmarks[kept] - truth[kept], axis=-1).mean(axis=-1) / inter_ocular(
        truth[kept]
    )
    return float(np.nanmean(distance))
