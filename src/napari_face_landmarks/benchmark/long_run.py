"""Whether the cost of a frame grows with the length of a run."""

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

SHORT_RUNS = 16
"""Number of new runs that are timed alternately with the long run."""
TIMED = 500
"""Approximate number of timed frames of each short run."""
BLOCK = 25
"""Approximate number of frames per turn: few, so that other load on the machine affects both runs alike."""
MEMORY_EVERY = 100
"""Frames between two measurements of the memory."""
WARM_UP = 1000
"""Frames after which a run has allocated its working memory."""
MEDIANS_ERROR = math.sqrt(math.pi / 2)
"""Ratio of the standard errors of median and mean for many normally distributed values."""


@dataclass(frozen=True)
class Slope:
    """Additional cost of a late frame relative to an early one."""

    share: float  # median over the short runs; 0.01 is one percent
    error: float  # its standard error from the scatter of the short runs; NaN for fewer than three


@dataclass(frozen=True)
class LengthCost:
    """Cost of a frame early and late in a run."""

    frames: int  # frames of the long run before it is timed
    ms: float  # median milliseconds per frame
    slope: Slope  # additional cost of a later frame relative to a frame of a new run
    # growth of the process's memory from the 1,000th frame (or half of the frames) to the last, without
    # results
    growth_mb: float | None


def length_cost(models: Models, frames: Sequence[Frame], count: int) -> LengthCost:
    """Track a long video, made of a few frames, and measure whether later frames take longer.

    Other load on the machine has a larger effect than the one measured here. After `count` frames (rounded up
    to whole repetitions of the given ones, forwards and backwards) the long run is therefore timed
    alternately with new runs over the same frames, block by block. All run on one thread, since the time of
    two threads that wait for each other varies more.
    """
    once = period(len(frames))
    count = -(-count // once) * once
    short_runs = min(SHORT_RUNS, max(1, count // (4 * once)))
    rounds = max(1, min(TIMED, count) // once)
    tracker = FaceTracker(models, TrackerSettings(refine="always"), threads=1)
    memory, ratios, ms = [], [], []
    with closing(tracker.track_frames(Repeated(frames, count + short_runs * (rounds + 2) * once))) as late:
        for done in range(1, count + 1):
            next(late)
            if done % MEMORY_EVERY == 0 or done == 1:
                memory.append(resident_mb())
        for number in range(short_runs):
            with closing(tracker.track_frames(Repeated(frames, (rounds + 2) * once))) as early:
                seconds = _alternating((early, late), once, rounds, first=number % 2)
            ratios.append(seconds[1] / seconds[0])
            ms.append(1e3 * seconds / (rounds * once))
    first = memory[min(len(memory) // 2, WARM_UP // MEMORY_EVERY)]
    growth = None if first is None or memory[-1] is None else memory[-1] - first
    return LengthCost(count, float(np.median(ms)), _slope(np.array(ratios)), growth)


def _alternating(runs: Sequence[Results], once: int, rounds: int, first: int) -> Floats:
    """Return the seconds of two runs for some rounds, alternating block by block, (2,) float64.

    A first round, in which a new run detects its face and allocates memory, is not counted.
    """
    bounds = np.linspace(0, once, max(1, round(once / BLOCK)) + 1).astype(int)
    seconds = np.zeros((rounds + 1, 2))
    for round_seconds in seconds:
        for size in np.diff(bounds):
            for run in (first, 1 - first):
                round_seconds[run] += _seconds_of(runs[run], int(size))
    return np.asarray(seconds[1:].sum(axis=0))


def _seconds_of(results: Results, count: int) -> float:
    """Consume results and return the elapsed seconds."""
    began = time.perf_counter()
    for _ in range(count):
        next(results)
    return time.perf_counter() - began


def _slope(ratios: Floats) -> Slope:
    """Return the slope from the cost ratios of late and early frames, one for each short run."""
    count = len(ratios)
    error = MEDIANS_ERROR * float(ratios.std(ddof=1)) / math.sqrt(count) if count > 2 else math.nan
    return Slope(float(np.median(ratios)) - 1, error)


def slope_text(slope: Slope) -> str:
    """Return a slope in percent, with its standard error if known."""
    error = "" if math.isnan(slope.error) else f" (standard error {100 * slope.error:.2f})"
    return f"{100 * slope.share:+.2f} %{error}"
