"""A run for the dock, in a worker process or on a thread here; its models, and what is said of it; no Qt."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.models import DEFAULT_BUNDLE, Models, load_models
from napari_face_landmarks.models.catalog import known_models
from napari_face_landmarks.napari_plugin.preferences import read_preferences
from napari_face_landmarks.priority import behind_a_window
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.control import RunControl
from napari_face_landmarks.tracking.refinement_notice import RefinementNotice
from napari_face_landmarks.tracking.regions import Regions
from napari_face_landmarks.video import Video

if TYPE_CHECKING:
    from napari_face_landmarks.runs.worker import RemoteRun, RunRequest
    from napari_face_landmarks.tracking import FrameResult
    from napari_face_landmarks.tracking.run import Run

MODELS_KEPT = 4
RATE_WINDOW = 10.0  # seconds over which frames per second are counted
WORTH_IT = 250
"""Frames from which a run gets a worker process, which takes a second to start."""


@lru_cache(maxsize=MODELS_KEPT)
def load_cached(name_or_folder: str) -> Models:
    """Return models as `load_models` does; those that were loaded last stay loaded."""
    return load_models(name_or_folder)


def models_of_tracks(tracks: Tracks) -> Models:
    """Return the models that landmarks were tracked with, the default ones where that is not known.

    Parameters
    ----------
    tracks : Tracks
        Their ``meta["models"]`` is the name of a bundle, of OpenFace's models or of a folder.

    Raises
    ------
    ModelError
        If the models are not installed, and in none of the folders that the user has chosen.
    """
    name = str(tracks.meta.get("models", DEFAULT_BUNDLE))
    known = [info.key for info in known_models()]
    if name in known:
        return load_cached(name)
    for folder in read_preferences().folders():
        if Path(folder).name == name and Path(folder).is_dir():
            return load_cached(folder)
    raise ModelError(
        f"The landmarks were tracked with the models {name!r}, which are not installed here: choose their "
        "folder as models in the panel Track, then refit."
    )


@dataclass
class BackgroundRun:
    """What is to be tracked and how far it is; written by the worker thread, read by the GUI."""

    load: Callable[[], Models]  # called on the worker thread
    settings: TrackerSettings
    frames: Any  # what the tracker reads
    start: int
    stop: int  # not tracked itself
    go_on: bool = True  # resume an interrupted run over the same frames, if there is a checkpoint of one
    message: str = ""  # what is going on
    results: list[FrameResult] = field(default_factory=list)  # in order; only ever appended to
    notice: str | None = None  # shown once: that refinement switched on
    tracks: Tracks | None = None  # all finished frames, once the run has ended
    error: str | None = None  # why it ended before its time, in one sentence
    regions: Regions = field(default_factory=Regions)
    models: str | None = None  # the bundle or folder that `load` loads; a worker process needs it
    journals: Path | None = None  # folder of checkpoints; without it none is written
    shows: bool = False  # whether the newest frame is displayed
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
            self.frames.info.stream,
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


# in words


def describe_progress(run: BackgroundRun, times: deque[tuple[float, int]]) -> str:
    """Return how far a run is, how quick, and how long it will take.

    Parameters
    ----------
    run : BackgroundRun
    times : deque of (float, int)
        Seconds on the clock and frames finished by then, the latest last; what is older than `RATE_WINDOW` is
        dropped.
    """
    now, done = times[-1]
    while now - times[0][0] > RATE_WINDOW:
        times.popleft()
    total = run.stop - run.start
    if run.paused:
        return f"Paused after {done} of {total} frames."
    seconds = now - times[0][0]
    rate = (done - times[0][1]) / seconds if seconds > 0 else 0.0
    text = f"{done} of {total} frames"
    if rate > 0:
        text += f", {rate:.0f} fps, {duration((total - done) / rate)} left"
    return text


def describe_end(run: BackgroundRun) -> str:
    """Return how a run ended and what it found."""
    done, total = len(run.results), run.stop - run.start
    kept = f" {done} of {total} frames are finished and kept." if done else ""
    if run.error is not None:
        return run.error + kept
    if run.tracks is None:
        return "Cancelled before the first frame was finished." if not done else "Cancelled." + kept
    stats = run.tracks.stats
    if run.cancelled:
        return "Cancelled." + kept
    if not stats.completed:
        return f"Broke off:{kept} {warnings_in_words(run.tracks.warnings) if run.tracks.warnings else ''}"
    if not stats.frames_with_faces:
        return f"Done: no face was found on {counted(done, 'frame')}."
    text = f"Done: {counted(done, 'frame')}, a face on {stats.frames_with_faces}"
    if stats.refined:
        text += f", {counted(stats.refined, 'face')} refined by CLNF"
    return f"{text}; {stats.fps:.0f} fps."


def warnings_in_words(warnings: tuple[str, ...]) -> str:
    """Return the first of several warnings, and how many more there are."""
    more = len(warnings) - 1
    return warnings[0] + (f" ({counted(more, 'more warning')} in the layer's metadata.)" if more else "")


def counted(number: int, word: str) -> str:
    """Return a number with its word, in the plural where there are several."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def duration(seconds: float) -> str:
    """Return a duration in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
