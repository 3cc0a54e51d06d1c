"""One Points layer that fills while a run goes on: allocated once, written in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.napari_plugin.layers import (
    PointRows,
    features_of,
    layer_metadata,
    layer_name,
    point_rows,
    source_names,
    style_of_points,
    transforms_of,
)

if TYPE_CHECKING:
    from napari_face_landmarks.tracking import FrameResult, Tracks

ROWS_AT_ONCE = 4_000_000  # allocated for faces that may never come; more faces make the layer grow

_filling: WeakKeyDictionary[Any, list[FrameResult]] = WeakKeyDictionary()


def results_of(layer: Any) -> list[FrameResult] | None:
    """Return the finished frames of the run that fills a layer, a list that grows; None without one."""
    return _filling.get(layer)


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

    Attributes
    ----------
    layer : napari.layers.Points
        The layer.
    """

    def __init__(self, viewer: Any, image_layer: Any, start: int, stop: int, max_faces: int) -> None:
        self._start, self._stop = start, stop
        self._image_layer = image_layer
        self._ndim = int(image_layer.ndim)
        self._max_faces = max_faces
        self._written: list[FrameResult] = []
        per_face = (stop - start) * N_LANDMARKS
        self._n_faces = max(1, min(max_faces, ROWS_AT_ONCE // per_face))
        rows = self._blank(self._n_faces)
        self.layer = viewer.add_points(
            rows.data,
            name=layer_name(image_layer),
            face_color=rows.colour,
            size=rows.size,
            shown=rows.found,
            features=features_of(rows),
            **style_of_points(),
            **transforms_of(image_layer),
        )
        _filling[self.layer] = self._written

    def _blank(self, n_faces: int) -> PointRows:
        each = (self._stop - self._start, n_faces)
        return point_rows(
            np.full((*each, N_LANDMARKS, 2), np.nan, dtype=np.float32),
            np.zeros((*each, N_LANDMARKS), dtype=np.float32),
            np.zeros(each, dtype=np.uint8),
            np.arange(self._start, self._stop),
            self._ndim,
        )

    def write(self, results: Sequence[FrameResult]) -> None:
        """Write the landmarks of successive frames and show them."""
        if not results:
            return
        self._written.extend(results)
        needed = max(_faces_used(result) for result in results)
        if needed > self._n_faces:
            # takes a while on long videos, so room for some more faces is made at once
            self._n_faces = min(self._max_faces, max(needed, 2 * self._n_faces))
        if len(self.layer.data) != (self._stop - self._start) * self._n_faces * N_LANDMARKS:
            blank = self._blank(self._n_faces)
            self._replace(blank.data, blank.colour, blank.size, blank.found, features_of(blank))
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
        # extents are left alone: the slider's range is that of the video and does not change
        self.layer.refresh(thumbnail=False, extent=False)

    def _put(self, rows: PointRows, where: slice) -> None:
        layer = self.layer
        layer.data[where] = rows.data
        layer.face_color[where] = rows.colour
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

        Points that were moved by hand during the run stay where they are.
        """
        layer = self.layer
        keep = np.array(layer.shown)
        if not keep.all():
            self._replace(
                np.asfortranarray(layer.data[keep]),
                layer.face_color[keep],
                layer.size[keep],
                True,
                layer.features[keep].reset_index(drop=True),
            )
        layer.metadata = layer_metadata(tracks, self._image_layer)
        _filling.pop(layer, None)
        layer.refresh()


def _faces_used(result: FrameResult) -> int:
    """Return how many rows the faces of a frame take."""
    return int(np.nonzero(np.isfinite(result.landmarks).any(axis=(1, 2)))[0].max(initial=-1)) + 1
