"""One run of the tracker behind the widget: what the working thread does and what it tells; knows no Qt."""

from __future__ import annotations

import dataclasses
import logging
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.napari_plugin.checkpoints import begin_recording
from napari_face_landmarks.priority import behind_a_window
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.refinement_notice import RefinementNotice
from napari_face_landmarks.tracking.regions import Regions

if TYPE_CHECKING:
    from napari_face_landmarks.models import Models
    from napari_face_landmarks.tracking import FaceTracker, FrameResult, Tracks

LOG = logging.getLogger(__name__)

SWITCH_INTERVAL = 0.0005
"""Seconds after which a Python thread lets another go on while there is a run; a tenth of Python's own.

Drawing and tracking let go of Python's lock hundreds of times a second, and wait that long to have it back.
"""
_switching = threading.Lock()
_intervals: list[float] = []


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
    go_on : bool
        Whether to go on with an interrupted run over the same frames, where one was written down.

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
    seconds_paused : float
        How long it has waited.
    models : str, optional
        The bundle or folder that `load` loads; a process of its own can do the run where it is given.
    journals : Path, optional
        The folder in which the run is written down as it goes; without it, it is not.
    shows : bool
        Whether the newest frame is looked at.
    """

    load: Callable[[], Models]
    settings: TrackerSettings
    frames: Any
    start: int
    stop: int
    go_on: bool = True
    message: str = ""
    results: list[FrameResult] = field(default_factory=list)
    notice: str | None = None
    tracks: Tracks | None = None
    error: str | None = None
    seconds_paused: float = 0.0
    regions: Regions = field(default_factory=Regions)
    models: str | None = None
    journals: Path | None = None
    shows: bool = False
    _listener: Callable[[str], None] | None = None
    _talking: threading.RLock = field(default_factory=threading.RLock)
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _may_go_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._may_go_on.set()

    @property
    def cancelled(self) -> bool:
        """Whether the run was asked to end after the frame at hand."""
        return self._cancelled.is_set()

    @property
    def paused(self) -> bool:
        """Whether the run was asked to wait after the frame at hand."""
        return not self._may_go_on.is_set()

    def cancel(self) -> None:
        """Ask the run to end after the frame at hand, paused or not."""
        with self._talking:
            self._cancelled.set()
            self._may_go_on.set()
            self._say("cancel")

    def pause(self) -> None:
        """Ask the run to wait after the frame at hand."""
        with self._talking:
            if not self.cancelled:
                self._may_go_on.clear()
                self._say("pause")

    def resume(self) -> None:
        """Have the run go on."""
        with self._talking:
            self._may_go_on.set()
            self._say("resume")

    def show(self, wanted: bool) -> None:
        """Say whether the newest frame is looked at."""
        with self._talking:
            if wanted != self.shows:
                self.shows = wanted
                self._say("show" if wanted else "hide")

    def listen(self, listener: Callable[[str], None] | None) -> None:
        """Have someone told what is asked of the run: first what was asked before."""
        with self._talking:
            self._listener = listener
            for word, asked in (("show", self.shows), ("pause", self.paused), ("cancel", self.cancelled)):
                if asked:
                    self._say(word)

    def _say(self, word: str) -> None:
        if self._listener is not None:
            self._listener(word)

    def put_together(self) -> Tracks | None:
        """Return the finished frames where whoever did the run cannot; None without any."""
        from napari_face_landmarks.tracking import FaceTracker

        if not self.results:
            return None
        tracker = FaceTracker(self.load(), self.settings)
        with closing(tracker.track_frames(self.frames, self.start, self.stop, regions=self.regions)):
            return tracker.collect(self.results)

    def may_go_on(self) -> bool:
        """Wait while the run is paused; return False if it is to end. For the working thread."""
        if self.paused:
            began = time.perf_counter()
            self._may_go_on.wait()
            self.seconds_paused += time.perf_counter() - began
        return not self.cancelled


@contextmanager
def quick_switches() -> Iterator[None]:
    """Have threads take turns quickly until the last run ends; then as Python has them by itself."""
    with _switching:
        _intervals.append(sys.getswitchinterval() if not _intervals else _intervals[0])
        sys.setswitchinterval(min(SWITCH_INTERVAL, _intervals[0]))
    try:
        yield
    finally:
        with _switching:
            before = _intervals.pop()
            if not _intervals:
                sys.setswitchinterval(before)


def track_in_background(run: BackgroundRun) -> Generator[None]:
    """Do a run, yielding after each step; errors end up in ``run.error``.

    A generator, because napari can stop those between two steps; it has to be closed then. Long runs over a
    video file are done by a process of their own.
    """
    from napari_face_landmarks.napari_plugin.subprocess_run import order_of, track_apart

    with _errors_told(run):
        order = order_of(run)
        if order is None or not (yield from track_apart(run, order)):
            yield from track_here(run)


def track_here(run: BackgroundRun) -> Generator[None]:
    """Do a run in this process, as `track_in_background`."""
    with _errors_told(run), quick_switches(), behind_a_window():
        yield from _steps(run)


@contextmanager
def _errors_told(run: BackgroundRun) -> Iterator[None]:
    try:
        yield
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
    if not run.may_go_on():
        return
    tracker = FaceTracker(models, run.settings)
    recording = begin_recording(
        tracker, run.frames, run.start, run.stop, run.go_on, run.regions, run.journals
    )
    notice = RefinementNotice()
    try:
        if recording is None:
            frames = tracker.track_frames(run.frames, run.start, run.stop, regions=run.regions)
        else:
            run.results.extend(recording.earlier())
            frames = recording.run
        with closing(frames) as results:
            for result in results:
                run.results.append(result)
                run.message = ""
                if run.settings.refine == "auto":
                    run.notice = notice.look(result, _stats(tracker, run)) or run.notice
                if not run.may_go_on():
                    break
                yield
            run.notice = notice.sentence(_stats(tracker, run)) or run.notice
    finally:
        if run.results:
            tracks = tracker.collect(run.results)
            run.tracks = dataclasses.replace(tracks, stats=_stats(tracker, run))
        if recording is not None:
            recording.close(remove=run.tracks is not None and run.tracks.stats.completed)


def _stats(tracker: FaceTracker, run: BackgroundRun) -> RunStats:
    """Return the counts of the run so far; time that it was paused does not count."""
    if tracker.last_run is None:
        return RunStats()
    stats = tracker.last_run.stats
    return dataclasses.replace(stats, seconds=stats.seconds - run.seconds_paused)
