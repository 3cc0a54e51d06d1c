"""One run of the tracker behind the widget: what the working thread does and what it tells; knows no Qt."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.results import CLNF, RunStats

if TYPE_CHECKING:
    from napari_face_landmarks.models import Models
    from napari_face_landmarks.tracking import FaceTracker, FrameResult, Tracks

LOG = logging.getLogger(__name__)

FRAMES_MEASURED = 8  # after refinement switched on, before its speed is told


@dataclass
class BackgroundRun:
    """What is to be tracked and how far it is; written by the working thread, read by the GUI.

    Parameters
    ----------
    load : callable
        Gives the models; called on the working thread.
    settings : TrackerSettings
        How to track.
    frames : array-like
        What the tracker reads.
    start, stop : int
        The frames to track, `stop` not among them.

    Attributes
    ----------
    message : str
        What is going on, in words.
    results : list of FrameResult
        The finished frames, in order; only ever appended to.
    notice : str or None
        What to tell the user once: that refinement switched on.
    tracks : Tracks or None
        All finished frames, once the run has ended.
    error : str or None
        Why it ended before its time, in one sentence.
    cancelled : threading.Event
        Set to ask the run to end after the frame at hand.
    """

    load: Callable[[], Models]
    settings: TrackerSettings
    frames: Any
    start: int
    stop: int
    message: str = ""
    results: list[FrameResult] = field(default_factory=list)
    notice: str | None = None
    tracks: Tracks | None = None
    error: str | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)


def track_in_background(run: BackgroundRun) -> Generator[None]:
    """Do a run, yielding after each step; errors end up in ``run.error``.

    A generator, because napari can stop those between two steps; it has to be closed then.
    """
    try:
        yield from _steps(run)
    except FaceLandmarksError as error:
        run.error = str(error)
    except Exception as error:
        LOG.exception("The run stopped")
        reason = " ".join(str(error).split())[:200] or "no reason given"
        run.error = f"The run stopped at an unexpected error ({type(error).__name__}: {reason})."


def _steps(run: BackgroundRun) -> Generator[None]:
    from napari_face_landmarks.tracking import FaceTracker

    run.message = "Loading the models …"
    yield
    models = run.load()
    run.message = "Preparing: the first run after an installation compiles for some seconds …"
    yield
    if run.cancelled.is_set():
        return
    tracker = FaceTracker(models, run.settings)
    notice = _Notice(run)
    try:
        frames = tracker.track_frames(run.frames, run.start, run.stop)
        with closing(frames) as results:
            for result in results:
                run.results.append(result)
                run.message = ""
                notice.look(result, _stats(tracker))
                if run.cancelled.is_set():
                    break
                yield
            notice.give(_stats(tracker))
    finally:
        if run.results:
            run.tracks = tracker.collect(run.results)


def _stats(tracker: FaceTracker) -> RunStats:
    return RunStats() if tracker.last_run is None else tracker.last_run.stats


class _Notice:
    """Watch a run for the moment that refinement switches on, and measure what it costs."""

    def __init__(self, run: BackgroundRun) -> None:
        self._run = run
        self._since: tuple[int, dict[str, float]] | None = None

    def look(self, result: FrameResult, stats: RunStats) -> None:
        """Take note of a finished frame."""
        if self._run.settings.refine != "auto" or self._run.notice is not None:
            return
        if self._since is None:
            if (result.source == CLNF).any():
                self._since = (stats.frames, dict(stats.stage_seconds))
        elif stats.frames - self._since[0] >= FRAMES_MEASURED:
            self.give(stats)

    def give(self, stats: RunStats) -> None:
        """Tell the user, where there is something to tell that was not told before."""
        if self._since is None or self._run.notice is not None:
            return
        frames, seconds = self._since
        spent = {stage: stats.stage_seconds[stage] - seconds[stage] for stage in seconds}
        self._run.notice = refinement_notice(stats.frames - frames, spent)


def refinement_notice(frames: int, seconds: Mapping[str, float]) -> str:
    """Return what to tell the user when refinement has switched on by itself.

    Parameters
    ----------
    frames : int
        Frames finished since then; with 0 nothing is said of the speed.
    seconds : mapping of str to float
        Time spent on them in each stage; decoding runs beside the others.
    """
    text = (
        "Hard landmarks were detected (pen marks, occlusion, paralysis or pose): "
        "shape-constrained refinement (CLNF) is on."
    )
    busy = max(seconds["decode"], sum(spent for stage, spent in seconds.items() if stage != "decode"))
    if frames < 1 or busy <= 0:
        return text
    return f"{text} Expect about {frames / busy:.0f} frames per second on this machine while it is on."
