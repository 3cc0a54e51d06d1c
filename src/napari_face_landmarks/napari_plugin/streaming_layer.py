"""A Points layer that fills while a run goes on, written in place, and the slider that follows it; no Qt."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Points

from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.napari_plugin.current_layer import current_landmarks, filling, show_frame
from napari_face_landmarks.napari_plugin.points_layer import (
    SMALLEST_POINT,
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
from napari_face_landmarks.napari_plugin.run_controller import BackgroundRun
from napari_face_landmarks.video import Video
from napari_face_landmarks.visualization.colours import DEFAULT_MODE, landmark_colours, mode_of

if TYPE_CHECKING:
    from napari_face_landmarks.tracking import FrameResult, Tracks


ROWS_AT_ONCE = 4_000_000  # allocated for faces that may never come; more faces make the layer grow
MOST_TRIMMED = 150_000  # rows; napari takes half a second to give up some of a million


class LiveLandmarks:
    """A Points layer for the landmarks of frames `start` to `stop`, shown as they come.

    Rows that are not filled yet are hidden. All methods belong on the GUI thread, where there is one.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
        The layer is added to it.
    image_layer : napari.layers.Image
        The video; its transforms are copied.
    start, stop : int
        The frames that will come, `stop` not among them.
    max_faces : int
        The largest number of faces that may come.
    in_steps : bool
        Whether the layer is added by `add_in_steps`, not at once.

    Attributes
    ----------
    layer : napari.layers.Points
        The layer.
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
        self._n_faces = max(1, min(max_faces, ROWS_AT_ONCE // per_face))
        rows = self._blank(self._n_faces)
        nobody = np.zeros(1)
        self.layer = Points(
            rows.data,
            name=layer_name(image_layer),
            # one of each, which napari repeats: half the memory and time of arrays of ours
            face_color=landmark_colours(DEFAULT_MODE, nobody, nobody, nobody)[0],
            size=np.float32(SMALLEST_POINT),
            shown=False,
            visible=not in_steps,
            features=features_of(rows),
            **style_of_points(),
            **transforms_of(image_layer),
        )
        filling[self.layer] = self._written  # before anyone hears of the layer
        if not in_steps:
            viewer.add_layer(self.layer)

    def add_in_steps(self) -> Iterator[bool]:
        """Add the layer, and have it drawn a step later: at once, both take napari too long."""
        self._viewer.add_layer(self.layer)
        yield True
        self.layer.visible = True
        yield True

    def _blank(self, n_faces: int) -> PointRows:
        return blank_rows(self._start, self._stop, n_faces, self._ndim)

    def write(self, results: Sequence[FrameResult]) -> None:
        """Write the landmarks of successive frames; `show` has them seen."""
        if not results:
            return
        self._written.extend(results)
        needed = max(_faces_used(result) for result in results)
        if needed > self._n_faces:
            # takes a while on long videos, so room for some more faces is made at once
            self._n_faces = min(self._max_faces, max(needed, 2 * self._n_faces))
        if len(self.layer.data) != (self._stop - self._start) * self._n_faces * N_LANDMARKS:
            blank = self._blank(self._n_faces)
            self._replace(
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
        self._put(rows, slice(first, first + len(rows.data)))

    def show(self, first: int, last: int) -> None:
        """Have napari draw again if it shows one of the frames `first` to `last`, which were written.

        It would otherwise draw the same picture again, ten times a second.
        """
        if self._ndim < 3 or self._in_view(first, last):
            # extents are left alone: the slider's range is that of the video and does not change
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

    def _put(self, rows: PointRows, where: slice) -> None:
        layer = self.layer
        layer.data[where] = rows.data
        layer.face_color[where] = rows.colours(mode_of(layer))
        layer.size[where] = rows.size
        layer.shown[where] = rows.found
        features = layer.features
        features.iloc[where, features.columns.get_loc("confidence")] = rows.confidence
        features.iloc[where, features.columns.get_loc("source")] = source_names(rows.source)

    def _replace(self, data: Any, colour: Any, size: Any, shown: Any, features: Any) -> None:
        """Give the layer these rows, another number than it has."""
        layer = self.layer
        layer.selected_data = set()
        layer.data = data
        layer.features = features
        layer.face_color[:] = colour
        layer.size[:] = size
        layer.shown[:] = shown

    def finish(self, tracks: Tracks) -> None:
        """Drop the rows that stayed hidden; what is left is what `tracks_to_layer_data` gives for `tracks`.

        In layers of more than `MOST_TRIMMED` rows they stay, hidden as they are.
        Points that were moved by hand during the run stay where they are.
        """
        layer = self.layer
        keep = np.array(layer.shown)
        if not keep.all() and len(keep) <= MOST_TRIMMED:
            self._replace(
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
        """Let the layer be edited: no run fills it any more."""
        filling.pop(self.layer, None)
        current_landmarks(self._viewer).refresh()


def _faces_used(result: FrameResult) -> int:
    """Return how many rows the faces of a frame take."""
    return int(np.nonzero(np.isfinite(result.landmarks).any(axis=(1, 2)))[0].max(initial=-1)) + 1


class ShownRun:
    """Shows in a viewer what a run has finished.

    Parameters
    ----------
    viewer : napari.Viewer
        The layer of landmarks is added to it.
    video : napari.layers.Image
        What is tracked.
    run : BackgroundRun
        Not begun yet.
    follow : CheckBox
        Whether the viewer is to show the newest frame; switched off where the user looks at another one.

    Attributes
    ----------
    video : napari.layers.Image
    done : int
        Frames that were taken over from the run.
    times : deque of (float, int)
        When, on the clock, how many were.
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
            run.frames.keeps_frames = True  # for the viewer, so that it need not decode them again to follow

    @property
    def layer(self) -> Any:
        """The Points layer; None where a run ended before its first frame."""
        return None if self._live is None else self._live.layer

    def begin(self) -> bool:
        """Do the next step of adding the layer; return whether there was one."""
        return next(self._steps, False)

    def look(self) -> None:
        """Take over what the working thread has finished since the last look."""
        self._run.show(bool(self._follow.value))
        results = self._run.results[self.done :]
        self.done += len(results)
        self.times.append((time.monotonic(), self.done))
        if results and self._live is not None:
            self._live.write(results)
            if self._live.layer in self._viewer.layers and not self._follow_to(results[-1].index):
                self._live.show(results[0].index, results[-1].index)

    def stop_following(self) -> None:
        """Leave the slider alone from now on, and the check box too: Qt may have deleted it."""
        self._follow = SimpleNamespace(value=False)

    def finish(self) -> None:
        """Show the rest, after the run has ended; without a single finished frame the layer goes."""
        if isinstance(self._run.frames, Video):
            self._run.frames.keeps_frames = False
        while self._run.tracks is not None and self.begin():
            pass
        self.look()
        if self._live is None:
            return
        if self._run.tracks is not None:
            self._live.finish(self._run.tracks)  # a layer that was removed, too: its removal may be undone
            return
        self._live.release()
        if self._live.layer in self._viewer.layers:
            self._viewer.layers.remove(self._live.layer)
        self._live = None

    def _follow_to(self, frame: int) -> bool:
        """Show a frame, unless the user looks at another one; return whether napari has drawn it."""
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
