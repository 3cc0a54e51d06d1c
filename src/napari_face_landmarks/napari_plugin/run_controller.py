"""A run of the dock, in a worker process or a thread, and the layer to which it writes; no Qt."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Points
from vispy.gloo.context import get_current_canvas

from napari_face_landmarks.data.names import MODELS
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ModelError, ResultError
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.jit import NotCompiledError, only_cached
from napari_face_landmarks.models import DEFAULT_BUNDLE, Models, load_models
from napari_face_landmarks.models.catalog import known_models
from napari_face_landmarks.napari_plugin.layers import (
    current_landmarks,
    landmark_layers,
    running_results,
    show_frame,
    video_of_layer,
)
from napari_face_landmarks.napari_plugin.points_layer import (
    MIN_POINT_SIZE,
    PointRows,
    blank_rows,
    features_of,
    layer_metadata,
    layer_name,
    point_rows,
    source_names,
    style_of_points,
    transforms_of,
)
from napari_face_landmarks.napari_plugin.preferences import read_preferences
from napari_face_landmarks.priority import behind_a_window
from napari_face_landmarks.processes import can_start_python
from napari_face_landmarks.quality.statistics import count as counted
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.control import RunControl
from napari_face_landmarks.tracking.refinement_notice import RefinementNotice
from napari_face_landmarks.tracking.regions import Regions
from napari_face_landmarks.video import Video
from napari_face_landmarks.visualization.colours import DEFAULT_MODE, landmark_colours, mode_of

if TYPE_CHECKING:
    from napari_face_landmarks.runs.worker import RemoteRun, RunRequest
    from napari_face_landmarks.tracking import FrameResult
    from napari_face_landmarks.tracking.run import Run


MAX_CACHED_MODELS = 4
RATE_WINDOW = 10.0  # seconds over which frames per second are counted
MIN_WORKER_FRAMES = 250
"""Shortest run that uses a worker process, which takes a second to start."""


@lru_cache(maxsize=MAX_CACHED_MODELS)
def load_cached(name_or_folder: str) -> Models:
    """Return ``load_models(name_or_folder)``, keeping the most recently used models in memory."""
    return load_models(name_or_folder)


def models_of_tracks(tracks: Tracks) -> Models:
    """Return the models with which landmarks were tracked, or the default models if that is not recorded.

    ``meta["models"]`` of the tracks is the name of a bundle, of OpenFace's models or of a folder. A
    `ModelError` is raised if they are neither installed nor in a folder of models that the user has chosen.
    """
    name = str(tracks.meta.get(MODELS, DEFAULT_BUNDLE))
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
class BackgroundRun(RunControl):
    """Input, state and results of a run; written by the worker thread, controlled by the GUI."""

    load: Callable[[], Models]  # called in the worker thread
    settings: TrackerSettings
    frames: Any  # array-like or `Video`
    start: int
    stop: int  # exclusive
    resume_checkpoint: bool = True  # resume an interrupted run over the same frames
    message: str = ""  # current stage
    results: list[FrameResult] = field(default_factory=list)  # in order; append only
    notice: str | None = None  # shown once: refinement was switched on
    tracks: Tracks | None = None  # all finished frames, when the run has ended
    error: str | None = None  # reason of a premature end, one sentence
    regions: Regions = field(default_factory=Regions)
    models: str | None = None  # bundle or folder loaded by `load`; needed for a worker process
    checkpoints: Path | None = None  # folder of checkpoints; without it none is written
    shows: bool = False  # whether the newest frame is displayed
    _remote: RemoteRun | None = None

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def stage(self) -> str:
        """Stage of a run before its first frame, as text; empty later."""
        from napari_face_landmarks.runs.worker import start_message

        return start_message(self.message)

    def show(self, wanted: bool) -> None:
        """Set whether the newest frame is displayed."""
        if wanted != self.shows:
            self.shows = wanted
            if self._remote is not None:
                self._remote.show(wanted)

    def request(self) -> RunRequest | None:
        """Return the request for a worker process, or None if the run should use a thread.

        Threads are used if the frames are not from a video file, for short runs, and if this Python is
        embedded in a program and cannot be started separately.
        """
        from napari_face_landmarks.runs.worker import RunRequest

        models = self._models_of_worker()
        if models is None or not isinstance(self.frames, Video) or self.stop - self.start < MIN_WORKER_FRAMES:
            return None
        return RunRequest(
            models,
            self.settings.to_dict(),
            self.frames.info.path,
            list(self.frames.source.state),
            self.start,
            self.stop,
            self.resume_checkpoint,
            self.regions.to_dict(),
            None if self.checkpoints is None else str(self.checkpoints),
            self.frames.info.stream,
        )

    def _models_of_worker(self) -> str | None:
        return self.models if can_start_python() else None

    def compile_elsewhere(self) -> Generator[None]:
        """Compile the kernels into Numba's cache in a worker process, if one can be started."""
        from napari_face_landmarks.runs.worker import RemoteRun, RunRequest

        models = self._models_of_worker()
        if models is None:
            return
        request = RunRequest(models, self.settings.to_dict(), "", (), 0, 0, False, {}, None)
        with suppress(OSError, ResultError), closing(RemoteRun(request, None, self)) as remote:
            for _ in remote.fill([]):
                self.message = remote.message
                yield
                if self.cancelled:
                    return

    def consume(self, run: Run | RemoteRun) -> Generator[None]:
        """Collect the results of a run, yielding after each batch, and its tracks at the end."""
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
    """Run the tracker, yielding after each step; errors are stored in ``run.error``.

    This is a generator because napari can stop generators between two steps; the caller must then close it.
    Long runs over a video file use a worker process.
    """
    from napari_face_landmarks.runs.worker import RemoteRun

    with _store_errors(run):
        if run.cancelled:  # before it started
            return
        request = run.request()
        run.message = "Starting …"
        if request is not None:
            try:
                run._remote = RemoteRun(request, run.frames, run)
            except OSError:  # no process can be started: use this thread
                run._remote = None
        if run._remote is None:
            yield from track_here(run)
        else:
            run._remote.show(run.shows)
            yield from run.consume(run._remote)


def track_here(run: BackgroundRun) -> Generator[None]:
    """Run the tracker in this process; otherwise like `track_in_background`."""
    from napari_face_landmarks.runs.checkpoint import open_run
    from napari_face_landmarks.runs.worker import LOADING, PREPARING
    from napari_face_landmarks.tracking import FaceTracker

    with _store_errors(run), behind_a_window():
        run.message = LOADING
        yield
        models = run.load()
        run.message = PREPARING
        yield
        tracker = FaceTracker(models, run.settings)
        try:
            with only_cached():
                tracker.prepare()
        except NotCompiledError:
            yield from run.compile_elsewhere()
            run.message = PREPARING
        run.wait()
        if run.cancelled:
            return
        with open_run(
            tracker, run.frames, run.start, run.stop, run.resume_checkpoint, run.regions, run.checkpoints
        ) as (
            opened,
            earlier,
        ):
            opened.control = run
            run.results.extend(earlier)
            yield from run.consume(opened)


@contextmanager
def _store_errors(run: BackgroundRun) -> Iterator[None]:
    from napari_face_landmarks.runs.worker import error_sentence

    try:
        yield
    except Exception as error:
        run.error = error_sentence(error)


def describe_progress(run: BackgroundRun, times: deque[tuple[float, int]]) -> str:
    """Return the progress of a run as text: finished frames, frames per second and remaining time.

    `times` are clock times in seconds and the frames finished by then, latest last; entries older than
    `RATE_WINDOW` are removed.
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
        text += f", {rate:.0f} fps, {format_duration((total - done) / rate)} left"
    return text


def describe_end(run: BackgroundRun) -> str:
    """Return the outcome of a run as text."""
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
        return (
            f"Stopped early:{kept} {summarize_warnings(run.tracks.warnings) if run.tracks.warnings else ''}"
        )
    if not stats.frames_with_faces:
        return f"Done: no face was found on {counted(done, 'frame')}."
    faces = "a face" if run.tracks.n_faces == 1 else f"{run.tracks.n_faces} faces, at least one"
    text = f"Done: {counted(done, 'frame')}, {faces} on {stats.frames_with_faces}"
    if stats.refined:
        text += f", {counted(stats.refined, 'face')} refined by CLNF"
    return f"{text}; {stats.fps:.0f} fps."


def summarize_warnings(warnings: tuple[str, ...]) -> str:
    """Return the first warning and the number of further ones."""
    more = len(warnings) - 1
    return warnings[0] + (f" ({counted(more, 'more warning')} in the layer's metadata.)" if more else "")


def format_duration(seconds: float) -> str:
    """Return a duration in minutes and seconds as text."""
    minutes, remainder = divmod(round(seconds), 60)
    return f"{minutes} min {remainder:02d} s" if minutes else f"{remainder} s"


INITIAL_ROWS = 4_000_000  # at most, preallocated for possible faces; the layer grows if there are more
MAX_TRIMMED_ROWS = 150_000  # removing rows from a million takes napari half a second


class LiveLandmarks:
    """A Points `layer` to which the landmarks of frames `start` to `stop` are written during a run.

    Rows not yet written are hidden. All methods must be called in the GUI thread if there is one. The
    transforms of `image_layer`, the video, are copied; `max_faces` is the largest possible number of faces.
    With `in_steps` the layer is added by `add_in_steps`, else immediately.
    """

    def __init__(
        self, viewer: Any, image_layer: Any, start: int, stop: int, max_faces: int, in_steps: bool = False
    ) -> None:
        self._viewer = viewer
        self._start, self._stop = start, stop
        self._image_layer = image_layer
        self._ndim = int(image_layer.ndim)
        self._max_faces = max_faces
        self._written: list[FrameResult] = []
        per_face = (stop - start) * N_LANDMARKS
        self._n_faces = max(1, min(max_faces, INITIAL_ROWS // per_face))
        rows = self._blank(self._n_faces)
        zero = np.zeros(1)
        self.layer = Points(
            rows.data,
            name=layer_name(image_layer),
            # scalars, which napari broadcasts: half the memory and time of passing arrays
            face_color=landmark_colours(DEFAULT_MODE, zero, zero, zero)[0],
            size=np.float32(MIN_POINT_SIZE),
            shown=False,
            visible=not in_steps,
            features=features_of(rows),
            **style_of_points(),
            **transforms_of(image_layer),
        )
        running_results[self.layer] = self._written  # before the layer's events reach the panels
        if not in_steps:
            viewer.add_layer(self.layer)

    def add_in_steps(self) -> Generator[bool]:
        """Add, select and draw the layer in separate steps, which would block the GUI too long together."""
        selection = self._viewer.layers.selection
        before = set(selection)
        with selection.events.blocker_all():
            self._viewer.add_layer(self.layer)
            selection.active = None
            selection.update(before)
        yield True
        if self.layer in self._viewer.layers:
            selection.active = self.layer
        yield True
        empty_texts = [text for text in _text_visuals() if not any(text.text)]
        try:
            for text in empty_texts:  # vispy builds a program even for these, in half the points' time
                text.visible = False
            self.layer.visible = True
            yield True
        finally:
            for text in empty_texts:
                text.visible = True
        yield True

    def _blank(self, n_faces: int) -> PointRows:
        return blank_rows(range(self._start, self._stop), n_faces, self._ndim)

    def write(self, results: Sequence[FrameResult]) -> None:
        """Write the landmarks of successive frames into the layer, which `show` then redraws."""
        if not results:
            return
        self._written.extend(results)
        needed = max(_faces_used(result) for result in results)
        if needed > self._n_faces:
            # slow for long videos: reserve rows for more faces than needed
            self._n_faces = min(self._max_faces, max(needed, 2 * self._n_faces))
        if len(self.layer.data) != (self._stop - self._start) * self._n_faces * N_LANDMARKS:
            blank = self._blank(self._n_faces)
            self._replace_rows(
                blank.data, blank.colours(mode_of(self.layer)), blank.size, blank.found, features_of(blank)
            )
            results = self._written
        n = self._n_faces
        rows = point_rows(
            np.stack([result.landmarks[:n] for result in results]),
            np.stack([result.confidence[:n] for result in results]),
            np.stack([result.source[:n] for result in results]),
            np.array([result.index for result in results]),
            self._ndim,
        )
        first = (results[0].index - self._start) * n * N_LANDMARKS
        self._write_rows(rows, slice(first, first + len(rows.data)))

    def show(self, first: int, last: int) -> None:
        """Redraw the layer if one of the written frames `first` to `last` is displayed.

        Other redraws, about ten per second, would not change the display.
        """
        if self._ndim < 3 or self._in_view(first, last):
            # without extents: the slider's range is that of the video
            self.layer.refresh(thumbnail=False, extent=False)

    def _in_view(self, first: int, last: int) -> bool:
        dims = self._viewer.dims
        axis = dims.ndim - self._ndim
        if axis in dims.displayed:
            return True
        point = np.array(dims.point, dtype=np.float64)
        reach = np.zeros_like(point)
        reach[axis] = dims.thickness[axis] / 2
        ends = [float(self.layer.world_to_data(place)[0]) for place in (point - reach, point + reach)]
        return min(ends) - 0.5 <= last and first <= max(ends) + 0.5

    def _write_rows(self, rows: PointRows, where: slice) -> None:
        layer = self.layer
        layer.data[where] = rows.data
        layer.face_color[where] = rows.colours(mode_of(layer))
        layer.size[where] = rows.size
        layer.shown[where] = rows.found
        features = layer.features
        features.iloc[where, features.columns.get_loc("confidence")] = rows.confidence
        features.iloc[where, features.columns.get_loc("source")] = source_names(rows.source)

    def _replace_rows(self, data: Any, colour: Any, size: Any, shown: Any, features: Any) -> None:
        """Replace all rows of the layer by a different number of rows."""
        layer = self.layer
        layer.selected_data = set()
        layer.data = data
        layer.features = features
        layer.face_color[:] = colour
        layer.size[:] = size
        layer.shown[:] = shown

    def finish(self, tracks: Tracks) -> None:
        """Remove the hidden rows, so that the layer equals `tracks_to_layer_data` of `tracks`.

        In layers of more than `MAX_TRIMMED_ROWS` rows they remain, hidden. Points dragged during the run are
        not moved back.
        """
        layer = self.layer
        keep = np.array(layer.shown)
        if not keep.all() and len(keep) <= MAX_TRIMMED_ROWS:
            self._replace_rows(
                np.asfortranarray(layer.data[keep]),
                layer.face_color[keep],
                layer.size[keep],
                True,
                layer.features[keep].reset_index(drop=True),
            )
        layer.metadata = {**layer.metadata, **layer_metadata(tracks, self._image_layer)}
        layer.refresh()
        self.release()

    def release(self) -> None:
        """Allow editing the layer: the run no longer writes to it."""
        running_results.pop(self.layer, None)
        current_landmarks(self._viewer).refresh()


def _text_visuals() -> Iterator[Any]:
    """Yield the text visuals of the Points layers in vispy's current canvas."""
    nodes: list[Any] = [getattr(get_current_canvas(), "scene", None)]
    while nodes:
        node = nodes.pop()
        nodes += getattr(node, "children", ())
        if hasattr(node, "points_markers") and hasattr(node, "text"):
            yield node.text


def _faces_used(result: FrameResult) -> int:
    """Return the number of faces of which a frame needs rows: its highest face index plus 1."""
    return int(np.nonzero(np.isfinite(result.landmarks).any(axis=(1, 2)))[0].max(initial=-1)) + 1


class ShownRun:
    """Shows the finished frames of a run over `video`, an image layer, in a viewer.

    To be created before the run starts. `follow` is the check box for showing the newest frame; it is
    unchecked when the user moves the slider. `done` is the number of frames shown, and `times` are clock
    times in seconds with the frames shown by then.
    """

    def __init__(self, viewer: Any, video: Any, run: BackgroundRun, follow: Any) -> None:
        self.video = video
        self.done = 0
        self.times: deque[tuple[float, int]] = deque()
        self._viewer, self._run, self._follow = viewer, run, follow
        self._live: LiveLandmarks | None = LiveLandmarks(
            viewer, video, run.start, run.stop, run.settings.max_faces, in_steps=True
        )
        self._steps = self._live.add_in_steps()
        self._followed: tuple[int, ...] | None = tuple(viewer.dims.current_step)
        run.show(bool(follow.value))
        if isinstance(run.frames, Video):
            run.frames.keeps_frames = True  # so that the viewer need not decode them again to follow

    @property
    def layer(self) -> Any:
        """The Points layer; None if the run ended before its first frame."""
        return None if self._live is None else self._live.layer

    def add_step(self) -> bool:
        """Do the next step of adding the layer; return False if there is none left."""
        return next(self._steps, False)

    def update(self) -> None:
        """Show the frames finished since the last call."""
        self._run.show(bool(self._follow.value))
        results = self._run.results[self.done :]
        self.done += len(results)
        if self.done == len(results):  # no rate before the first results, which may be a checkpoint's
            self.times.clear()
        self.times.append((time.monotonic(), self.done))
        if results and self._live is not None:
            if self.done == len(results):
                self._hide_earlier()
            self._live.write(results)
            if self._live.layer in self._viewer.layers and not self._follow_to(results[-1].index):
                self._live.show(results[0].index, results[-1].index)

    def _hide_earlier(self) -> None:
        """Hide the landmarks of earlier runs over the video, which would overlap the new ones."""
        for layer in landmark_layers(self._viewer):
            if layer is not self.layer and video_of_layer(self._viewer, layer) is self.video:
                layer.visible = False

    def stop_following(self) -> None:
        """Stop following the newest frame, and stop using the check box, which Qt may have deleted."""
        self._follow = SimpleNamespace(value=False)

    def finish(self) -> None:
        """Show the remaining frames after the run has ended; without any frame the layer is removed."""
        if isinstance(self._run.frames, Video):
            self._run.frames.keeps_frames = False
        while self._run.tracks is not None and self.add_step():
            pass
        self._steps.close()  # a run without frames may have left texts hidden
        self.update()
        if self._live is None:
            return
        if self._run.tracks is not None:
            self._live.finish(self._run.tracks)  # even if the layer was removed: that may be undone
            return
        self._live.release()
        if self._live.layer in self._viewer.layers:
            self._viewer.layers.remove(self._live.layer)
        self._live = None

    def _follow_to(self, frame: int) -> bool:
        """Show a frame unless the user has moved the slider; return whether this redrew the canvas."""
        dims = self._viewer.dims
        if self.video.ndim < 3 or self.video not in self._viewer.layers:
            return False
        if self._followed is not None and tuple(dims.current_step) != self._followed:
            self._follow.value = False
        if self._follow.value:
            before = tuple(dims.current_step)
            show_frame(self._viewer, self.video, frame)
            self._followed = tuple(dims.current_step)
            return self._followed != before
        self._followed = None
        return False
