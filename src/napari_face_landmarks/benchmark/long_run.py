"""Growth of the cost of a frame with the length of a run."""

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
"""Number of new runs timed alternately with the long run."""
TIMED = 500
"""Approximate number of timed frames of each short run."""
BLOCK = 25
"""Approximate number of frames per turn; few, so that other load on the machine affects both runs alike."""
MEMORY_EVERY = 100
"""Frames between two measurements of the memory."""
WARM_UP = 1000
"""Number of frames after which a run has allocated its working memory."""
MEDIANS_ERROR = math.sqrt(math.pi / 2)
"""Standard error of the median over that of the mean, for many normally distributed values."""


@dataclass(frozen=True)
class Slope:
    """Relative additional cost of a late frame compared with an early one."""

    share: float  # median over the short runs, a fraction
    error: float  # standard error from the scatter of the short runs; NaN for fewer than three


@dataclass(frozen=True)
class LengthCost:
    """Cost of a frame early and late in a run."""

    frames: int  # frames of the long run before it is timed
    ms: float  # median milliseconds per frame
    slope: Slope  # additional cost relative to a new run
    # growth of the memory, without results, from frame 1,000 (or half of the frames) to the last
    growth_mb: float | None


def length_cost(models: Models, frames: Sequence[Frame], count: int) -> LengthCost:
    """Track a long video, made by repeating `frames`, and measure whether late frames take longer.

    Other load on the machine has a larger effect than the run's length. After `count` frames (rounded up to
    whole repetitions of `frames`, forwards and backwards) the long run is therefore timed alternately with
    new runs over the same frames, block by block. All use one thread, since times vary more when two threads
    wait for each other.
    """
    cycle = period(len(frames))
    count = -(-count // cycle) * cycle
    short_runs = min(SHORT_RUNS, max(1, count // (4 * cycle)))
    rounds = max(1, min(TIMED, count) // cycle)
    tracker = FaceTracker(models, TrackerSettings(refine="always"), threads=1)
    memory, ratios, ms = [], [], []
    with closing(tracker.track_frames(Repeated(frames, count + short_runs * (rounds + 2) * cycle))) as late:
        for done in range(1, count + 1):
            next(late)
            if done % MEMORY_EVERY == 0 or done == 1:
                memory.append(resident_mb())
        for number in range(short_runs):
            with closing(tracker.track_frames(Repeated(frames, (rounds + 2) * cycle))) as early:
                seconds = _alternating((early, late), cycle, rounds, first=number % 2)
            ratios.append(seconds[1] / seconds[0])
            ms.append(1e3 * seconds / (rounds * cycle))
    first = memory[min(len(memory) // 2, WARM_UP // MEMORY_EVERY)]
    growth = None if first is None or memory[-1] is None else memory[-1] - first
    return LengthCost(count, float(np.median(ms)), _slope(np.array(ratios)), growth)


def _alternating(runs: Sequence[Results], cycle: int, rounds: int, first: int) -> Floats:
    """Return the seconds that two runs take for some rounds, (2,) float64, alternating block by block.

    A preceding round, in which a new run detects its face and allocates memory, is not counted.
    """
    bounds = np.linspace(0, cycle, max(1, round(cycle / BLOCK)) + 1).astype(int)
    seconds = np.zeros((rounds + 1, 2))
    for round_seconds in seconds:
        for size in np.diff(bounds):
            for run in (first, 1 - first):
                round_seconds[run] += _seconds_of(runs[run], int(size))
    return np.asarray(seconds[1:].sum(axis=0))


def _seconds_of(results: Results, count: int) -> float:
    """Return the seconds that the next `count` results take."""
    began = time.perf_counter()
    for _ in range(count):
        next(results)
    return time.perf_counter() - began


def _slope(ratios: Floats) -> Slope:
    """Return the slope of the ratios of late to early costs, one for each short run."""
    count = len(ratios)
    error = MEDIANS_ERROR * float(ratios.std(ddof=1)) / math.sqrt(count) if count > 2 else math.nan
    return Slope(float(np.median(ratios)) - 1, error)


def slope_text(slope: Slope) -> str:
    """Format a slope in percent, with its standard error if known."""
    error = "" if math.isnan(slope.error) else f" (standard error {100 * slope.error:.2f})"
    return f"{100 * slope.share:+.2f} %{error}"
