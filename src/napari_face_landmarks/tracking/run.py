"""One run of the tracker: its counts and warnings, and its results smoothed, in their order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.frame import FrameResult
from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.detection.boxes import boxes_of
from napari_face_landmarks.errors import FaceLandmarksError, VideoError
from napari_face_landmarks.tracking.frame_source import FrameSource
from napari_face_landmarks.tracking.regions import Regions
from napari_face_landmarks.tracking.smoothing import smooth_centre
from napari_face_landmarks.tracking.state import Standing, TrackerState

Floats = npt.NDArray[np.float32]
NAMED = 5
"""Of many frames, how many are named in a sentence."""


@dataclass
class Run:
    """One run of the tracker: its counts and warnings grow while it goes on.

    Attributes
    ----------
    source : FrameSource
        What is tracked.
    stats : RunStats
        Counts and times.
    warnings : list of str
        What went wrong on the way, a sentence each.
    broken_off : bool
        Whether the source broke off before its end.
    standing : callable or None
        Gives how the tracker stands after the last frame before smoothing; None where it cannot tell.
    recent : tuple of FrameResult
        The frames that smoothing still looks at after the last result.
    waiting : int
        How many of these are not given out yet.
    regions : Regions
        Where to look for faces, and what to pass over.
    mended : tuple of int
        Frames that the decoder mended before those that this run reads, where it goes on from a state.
    """

    source: FrameSource
    stats: RunStats = field(default_factory=RunStats)
    warnings: list[str] = field(default_factory=list)
    broken_off: bool = False
    standing: Callable[[], Standing] | None = None
    recent: tuple[FrameResult, ...] = ()
    waiting: int = 0
    regions: Regions = field(default_factory=Regions)
    mended: tuple[int, ...] = ()

    def mended_before(self, stop: int) -> tuple[int, ...]:
        """Return the frames of the run before frame `stop` that were damaged and mended, in order."""
        read = {k for k in self.source.mended if self.source.start <= k < stop}
        return tuple(sorted(read.union(self.mended)))

    def all_warnings(self) -> tuple[str, ...]:
        """Return the warnings of the frames given out so far, with one of all that the decoder mended."""
        mended = self.mended_before(self.source.start + self.stats.frames)
        return (*self.warnings, *mended_in_words(mended))

    def state(self) -> TrackerState | None:
        """Return where the run stands after the result given out last, to go on from there another time.

        To be called by whoever takes the results, between two of them. None where nothing was given out yet.
        """
        if self.standing is None or not self.recent:
            return None
        standing = self.standing()
        warnings = tuple(self.warnings[: standing.n_warnings])
        return TrackerState(
            standing,
            self.recent,
            self.waiting,
            deepcopy(self.stats),
            warnings,
            self.mended_before(standing.next_index),
        )


def mended_in_words(frames: Sequence[int]) -> tuple[str, ...]:
    """Return a sentence about the frames, in order, that the decoder mended; none where there are none."""
    if not frames:
        return ()
    first = ", ".join(map(str, frames[:NAMED]))
    if len(frames) == 1:
        return (f"Frame {first} is damaged in part: the decoder mended it, and its landmarks may be off.",)
    more = f" and {len(frames) - NAMED} more" if len(frames) > NAMED else ""
    return (
        f"{len(frames)} frames are damaged in part ({first}{more}): the decoder mended them, and their "
        "landmarks may be off.",
    )


def ends_run(run: Run, error: FaceLandmarksError, first: bool) -> bool:
    """Take note of an error that came in place of a frame, and return whether it ends the run.

    Parameters
    ----------
    run : Run
    error : FaceLandmarksError
        As `rgb_frames` gives it.
    first : bool
        Whether no frame came before it.

    Raises
    ------
    VideoError
        If the video breaks off before its first frame.
    """
    ends = isinstance(error, VideoError)
    if ends and first:
        raise error
    run.warnings.append(str(error))
    run.broken_off = run.broken_off or ends
    return ends


def smoothed_results(
    run: Run,
    raw_results: Generator[FrameResult, None, None],
    window: int,
    began: float,
    state: TrackerState | None = None,
) -> Generator[FrameResult, None, None]:
    """Yield the results of a run, each smoothed and counted as soon as the frames that it needs are there.

    Parameters
    ----------
    run : Run
        Its counts, and what a state of it needs, follow the results.
    raw_results : generator of FrameResult
        In the order of the frames; closed where this generator is.
    window : int
        Frames that smoothing looks at.
    began : float
        When the run began, seconds of `time.perf_counter`.
    state : TrackerState, optional
        Where the run goes on from.
    """
    recent: deque[FrameResult] = deque(() if state is None else state.recent, maxlen=window)
    waiting = 0 if state is None else state.waiting
    with closing(raw_results):  # ends its threads
        for raw in raw_results:
            recent.append(raw)
            waiting += 1
            if waiting > window // 2:
                yield _finished(run, recent, waiting, began)
                waiting -= 1
    for left in range(waiting, 0, -1):
        yield _finished(run, recent, left, began)


def _finished(run: Run, recent: deque[FrameResult], waiting: int, began: float) -> FrameResult:
    """Return the first of the recent frames that wait, smoothed and counted; the run stands after it."""
    start = time.perf_counter()
    reach = (recent.maxlen or 1) // 2
    middle = len(recent) - waiting
    blank = np.full_like(recent[middle].landmarks, np.nan)
    around = range(middle - reach, middle + reach + 1)
    stack = np.stack([recent[k].landmarks if 0 <= k < len(recent) else blank for k in around])
    landmarks = smooth_centre(stack)
    boxes = np.concatenate([boxes_of(landmarks), recent[middle].boxes[:, 4:]], axis=1)
    result = replace(recent[middle], landmarks=landmarks, boxes=boxes)
    run.stats.add_time("smoothing", time.perf_counter() - start)
    run.stats.count(result)
    run.stats.seconds = time.perf_counter() - began
    run.recent, run.waiting = tuple(recent), waiting - 1
    return result
