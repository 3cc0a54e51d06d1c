"""A run for the dock, in a worker process or on a thread here, and how far it is; knows no Qt."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_face_landmarks.priority import behind_a_window
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.control import RunControl
from napari_face_landmarks.tracking.refinement_notice import RefinementNotice
from napari_face_landmarks.tracking.regions import Regions
from napari_face_landmarks.video import Video

if TYPE_CHECKING:
    from napari_face_landmarks.models import Models
    from napari_face_landmarks.runs.worker import RemoteRun, RunRequest
    from napari_face_landmarks.tracking import FrameResult, Tracks
    from napari_face_landmarks.tracking.run import Run

WORTH_IT = 250
"""Frames from which a run gets a worker process, which takes a second to start."""


@dataclass
class BackgroundRun:
    """What is to be tracked and how far it is; written by the worker thread, read by the GUI.

    Parameters
    ----------
    load : callable
        Returns the models; called on the worker thread.
    settings : TrackerSettings
        How to track.
    frames : array-like
        What the tracker reads.
    start, stop : int
        The frames to track, `stop` not among them.
    go_on : bool
        Whether to resume an interrupted run over the same frames, where there is a checkpoint of one.

    Attributes
    ----------
    message : str
        What is going on, in words.
    results : list of FrameResult
        The finished frames, in order; only ever appended to.
    notice : str or None
        A notice for the user, shown once: that refinement switched on.
    tracks : Tracks or None
        All finished frames, once the run has ended.
    error : str or None
        Why it ended before its time, in one sentence.
    models : str, optional
        The bundle or folder that `load` loads; a worker process can do the run where it is given.
    journals : Path, optional
        The folder of checkpoint files; without it none is written.
    shows : bool
        Whether the newest frame is displayed.
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
    regions: Regions = field(default_factory=Regions)
    models: str | None = None
    journals: Path | None = None
    shows: bool = False
    control: RunControl = field(default_factory=RunControl)
    _remote: RemoteRun | None = None

    @property
    def doing(self) -> str:
        """What is going on before the first frame, in words; empty later."""
        from napari_face_landmarks.runs.worker import what_is_done

        return what_is_done(self.message)

    @property
    def cancelled(self) -> bool:
        """Whether the run was asked to end after the current frame."""
        return self.control.cancelled

    @property
    def paused(self) -> bool:
        """Whether the run was asked to wait after the current frame."""
        return self.control.paused

    def cancel(self) -> None:
        """Ask the run to end after the current frame, paused or not."""
        self.control.cancel()

    def pause(self) -> None:
        """Ask the run to wait after the current frame."""
        self.control.pause()

    def resume(self) -> None:
        """Let the run continue."""
        self.control.resume()

    def show(self, wanted: bool) -> None:
        """Say whether the newest frame is displayed."""
        if wanted != self.shows:
            self.shows = wanted
            if self._remote is not None:
                self._remote.show(wanted)

    def request(self) -> RunRequest | None:
        """Return what to ask a worker process for; None where a thread here does the run.

        That is where the frames are not those of a file, where there are few of them, or where this Python is
        built into a program and cannot be started separately.
        """
        from napari_face_landmarks.runs.worker import RunRequest

        if self.models is None or not isinstance(self.frames, Video) or self.stop - self.start < WORTH_IT:
            return None
        if getattr(sys, "frozen", False) or not sys.executable:
            return None
        return RunRequest(
            self.models,
            self.settings.to_dict(),
            self.frames.info.path,
            list(self.frames.source.state),
            self.start,
            self.stop,
            self.go_on,
            self.regions.to_dict(),
            None if self.journals is None else str(self.journals),
        )

    def consume(self, run: Run | RemoteRun) -> Generator[None]:
        """Take the results of a run as they come, yielding after each batch, and its tracks at the end."""
        notice = RefinementNotice()
        try:
            with closing(run):
                for new in run.fill(self.results):
                    self.message = getattr(run, "message", "")
                    if self.settings.refine == "auto":
                        for result in self.results[len(self.results) - new :]:
                            self.notice = notice.look(result, run.stats) or self.notice
                    yield
        finally:
            self.notice = notice.sentence(run.stats) or self.notice
            if self.results:
                self.tracks = run.tracks(self.results)


def track_in_background(run: BackgroundRun) -> Generator[None]:
    """Do a run, yielding after each step; errors end up in ``run.error``.

    A generator, because napari can stop those between two steps; it has to be closed then. Long runs over a
    video file are done by a worker process.
    """
    from napari_face_landmarks.runs.worker import RemoteRun

    with _errors_reported(run):
        request = run.request()
        run.message = "Starting …"
        if request is not None:
            try:
                run._remote = RemoteRun(request, run.frames, run.control)
            except OSError:  # then it is done here
                run._remote = None
        if run._remote is None:
            yield from track_here(run)
        else:
            run._remote.show(run.shows)
            yield from run.consume(run._remote)


def track_here(run: BackgroundRun) -> Generator[None]:
    """Do a run in this process, as `track_in_background`."""
    from napari_face_landmarks.runs.checkpoint import open_run
    from napari_face_landmarks.runs.worker import LOADING, PREPARING
    from napari_face_landmarks.tracking import FaceTracker

    with _errors_reported(run), behind_a_window():
        run.message = LOADING
        yield
        models = run.load()
        run.message = PREPARING
        yield
        run.control.wait()
        if run.cancelled:
            return
        tracker = FaceTracker(models, run.settings)
        with open_run(tracker, run.frames, run.start, run.stop, run.go_on, run.regions, run.journals) as (
            opened,
            earlier,
        ):
            opened.control = run.control
            run.results.extend(earlier)
            yield from run.consume(opened)


@contextmanager
def _errors_reported(run: BackgroundRun) -> Iterator[None]:
    from napari_face_landmarks.runs.worker import in_a_sentence

    try:
        yield
    except Exception as error:
        run.error = in_a_sentence(error)
