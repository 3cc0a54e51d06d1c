"""Whether the frames of a long video cost more the later they come."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.benchmark.throughput import Frame, Repeated, period
from napari_face_landmarks.benchmark.timing import resident_mb
from napari_face_landmarks.data.frame import FrameResult
from napari_face_landmarks.models import Models
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking import FaceTracker

Floats = npt.NDArray[np.float64]
Results = Iterator[FrameResult]

YOUNG_RUNS = 16
"""Runs that are begun anew, one after the other, to be timed in turn with the long one."""
TIMED = 500
"""Frames of each of these that are timed, about."""
BLOCK = 25
"""Frames of the two that are timed in turn, about: few, so that both meet what the machine does meanwhile."""
MEMORY_EVERY = 100
"""Frames from one look at the memory to the next."""
SETTLED = 1000
"""Frames after which a run is taken to hold what it needs."""
MEDIANS_ERROR = math.sqrt(math.pi / 2)
"""Standard error of a median beside that of a mean, of many values that are scattered normally."""


@dataclass(frozen=True)
class Slope:
    """By how much a late frame costs more than an early one.

    Attributes
    ----------
    share : float
        The median over the young runs: 0.01 for one percent more.
    error : float
        Its standard error, from how the young runs scatter; NaN where there are fewer than three.
    """

    share: float
    error: float


@dataclass(frozen=True)
class LengthCost:
    """Whether the thousandth frame costs what the twenty-thousandth does.

    Attributes
    ----------
    frames : int
        Frames that the long run had done when it began to be timed.
    ms : float
        Median milliseconds a frame.
    slope : Slope
        By how much a frame after these costs more than one of a run that has just begun.
    growth_mb : float or None
        Growth of the process's memory from the 1,000th frame (or half) to the last, results not kept.
    """

    frames: int
    ms: float
    slope: Slope
    growth_mb: float | None


def length_cost(models: Models, frames: Sequence[Frame], count: int) -> LengthCost:
    """Track a long video, made of a few frames, and see whether later frames cost more.

    What the machine does meanwhile weighs more than what is looked for. So the run, once it has done `count`
    frames, is timed in turn with runs that have just begun, over the same frames, block by block; and all
    run on one thread, since what two threads that wait for each other take depends on more than their work.

    Parameters
    ----------
    models : Models
    frames : sequence of ndarray, (H, W, 3), uint8
        Shown forth and back, again and again.
    count : int
        Frames of the long run before it is timed; rounded up to whole rounds.
    """
    once = period(len(frames))
    count = -(-count // once) * once
    young_runs = min(YOUNG_RUNS, max(1, count // (4 * once)))
    rounds = max(1, min(TIMED, count) // once)
    tracker = FaceTracker(models, TrackerSettings(refine="always"), threads=1)
    memory, ratios, ms = [], [], []
    with closing(tracker.track_frames(Repeated(frames, count + young_runs * (rounds + 2) * once))) as late:
        for done in range(1, count + 1):
            next(late)
            if done % MEMORY_EVERY == 0 or done == 1:
                memory.append(resident_mb())
        for number in range(young_runs):
            with closing(tracker.track_frames(Repeated(frames, (rounds + 2) * once))) as early:
                seconds = _in_turn((early, late), once, rounds, first=number % 2)
            ratios.append(seconds[1] / seconds[0])
            ms.append(1e3 * seconds / (rounds * once))
    first = memory[min(len(memory) // 2, SETTLED // MEMORY_EVERY)]
    growth = None if first is None or memory[-1] is None else memory[-1] - first
    return LengthCost(count, float(np.median(ms)), _slope(np.array(ratios)), growth)


def _in_turn(runs: Sequence[Results], once: int, rounds: int, first: int) -> Floats:
    """Return the seconds that each of two runs takes for some rounds, block by block in turn, (2,) float64.

    A round goes before that does not count, in which a new run finds its face and its memory.
    """
    bounds = np.linspace(0, once, max(1, round(once / BLOCK)) + 1).astype(int)
    seconds = np.zeros((rounds + 1, 2))
    for round_seconds in seconds:
        for size in np.diff(bounds):
            for run in (first, 1 - first):
                round_seconds[run] += _seconds_of(runs[run], int(size))
    return np.asarray(seconds[1:].sum(axis=0))


def _seconds_of(results: Results, count: int) -> float:
    """Take results, and return how long that took, seconds."""
    began = time.perf_counter()
    for _ in range(count):
        next(results)
    return time.perf_counter() - began


def _slope(ratios: Floats) -> Slope:
    """Return the slope from what late frames cost beside early ones, one ratio for each young run."""
    count = len(ratios)
    error = MEDIANS_ERROR * float(ratios.std(ddof=1)) / math.sqrt(count) if count > 2 else math.nan
    return Slope(float(np.median(ratios)) - 1, error)


def in_words(slope: Slope) -> str:
    """Return a slope in percent, with its standard error where there is one."""
    error = "" if math.isnan(slope.error) else f" (standard error {100 * slope.error:.2f})"
    return f"{100 * slope.share:+.2f} %{error}"
