"""Edits of a layer of landmarks that can be undone: what was dragged is marked as placed by hand; no Qt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.edit import place_by_hand
from napari_face_landmarks.data.fields import MANUAL, NONE, SOURCES
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.napari_plugin.colours import mode_of
from napari_face_landmarks.napari_plugin.point_properties import (
    BORDER_COLOUR,
    PointRows,
    features_of,
    point_rows,
)
from napari_face_landmarks.napari_plugin.points_layer import MOVED, rows_of_tracks, tracks_of_layer

BY_HAND_COLOUR = (1.0, 1.0, 1.0, 1.0)
"""Border of a landmark that was placed by hand; its symbol is another one too."""
BY_HAND_SYMBOL, SYMBOL = "star", "disc"
MOST_EDITS = 100
FOUND = "tracks_found"
"""Metadata: the tracks as they were before the first edit."""


@dataclass(frozen=True)
class _Edit:
    """What an edit changed: some rows of the arrays, or, where faces come or go, all.

    Attributes
    ----------
    words : str
        What it was, for "Undo ...".
    before, after : dict or Tracks
        Arrays of the rows; or the tracks.
    rows : ndarray, (N,), or None
    """

    words: str
    before: Any
    after: Any
    rows: npt.NDArray[np.int64] | None


class LayerEditor:
    """Keeps a layer of landmarks and its tracks in step; belongs on the GUI thread, where there is one.

    Parameters
    ----------
    layer : napari.layers.Points
        With landmarks, as this plugin makes them.

    Attributes
    ----------
    tracks : Tracks
        As the layer shows them now.
    changed : list of callable
        Called after each edit, undo and redo.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.changed: list[Callable[[], None]] = []
        self._undo: list[_Edit] = []
        self._redo: list[_Edit] = []
        self._writing = False
        self.tracks = tracks_of_layer(layer)
        found = layer.metadata.get(FOUND, layer.metadata.get("tracks", self.tracks))
        layer.metadata = {**layer.metadata, "tracks": self.tracks, FOUND: found}
        self._index()
        self._mark(np.arange(self.tracks.n_frames))
        layer.events.data.connect(self._on_data)

    @property
    def can_undo(self) -> str | None:
        """What would be undone, in words; None where there is nothing."""
        return self._undo[-1].words if self._undo else None

    @property
    def can_redo(self) -> str | None:
        """What would be done again, in words; None where there is nothing."""
        return self._redo[-1].words if self._redo else None

    def apply(self, tracks: Tracks, words: str) -> None:
        """Show other tracks in the layer, as one edit."""
        edit = _difference(self.tracks, tracks, words)
        self._undo = [*self._undo[1 - MOST_EDITS :], edit]
        self._redo.clear()
        self._show(tracks, edit.rows)

    def undo(self) -> None:
        """Take the last edit back."""
        if self._undo:
            edit = self._undo.pop()
            self._redo.append(edit)
            self._show(_with(self.tracks, edit.before, edit.rows), edit.rows)

    def redo(self) -> None:
        """Do the edit again that was taken back last."""
        if self._redo:
            edit = self._redo.pop()
            self._undo.append(edit)
            self._show(_with(self.tracks, edit.after, edit.rows), edit.rows)

    def _index(self) -> None:
        """Note where each landmark is in the layer, (T, F, 68), -1 where it is not."""
        layer, tracks = self.layer, self.tracks
        self._where = np.full((tracks.n_frames, tracks.n_faces, N_LANDMARKS), -1, dtype=np.int64)
        data = np.asarray(layer.data)
        frames = np.rint(data[:, 0]).astype(np.int64) if data.shape[1] == 3 else tracks.frame_indices[:1]
        row = np.searchsorted(tracks.frame_indices, np.broadcast_to(frames, len(data)))
        shown = np.flatnonzero(np.asarray(layer.shown))
        face, landmark = (layer.features[name].to_numpy(np.int64) for name in ("face", "landmark"))
        self._where[row[shown], face[shown], landmark[shown]] = shown
        self._of_point = np.full((len(data), 3), -1, dtype=np.int64)
        self._of_point[shown] = np.stack([row, face, landmark], axis=1)[shown]

    def _on_data(self, event: Any) -> None:
        action = str(getattr(event, "action", "")).rpartition(".")[2].lower()
        if self._writing or action not in ("changed", "added", "removed"):
            return
        if action != "changed" or len(self.layer.data) != len(self._of_point):
            self._taken_from_layer()
            return
        indices = np.atleast_1d(np.asarray(getattr(event, "data_indices", ()), dtype=np.int64))
        n = len(self._of_point)
        indices = np.unique(np.where(indices < 0, indices + n, indices))
        self._moved(indices[(indices >= 0) & (indices < n)])

    def _moved(self, indices: npt.NDArray[np.int64]) -> None:
        """Take note of points that were dragged."""
        tracks, points = self.tracks, np.asarray(self.layer.data)[indices][:, [-1, -2]]
        places = self._of_point[indices]
        known = places[:, 0] >= 0
        places, points = places[known], points[known]
        old = tracks.landmarks[places[:, 0], places[:, 1], places[:, 2]]
        far = np.abs(points - old).max(axis=1, initial=0) > MOVED
        places, points = places[far], points[far]
        for row, face in np.unique(places[:, :2], axis=0):
            same = (places[:, 0] == row) & (places[:, 1] == face)
            tracks = place_by_hand(tracks, int(row), int(face), places[same, 2].tolist(), points[same])
        if len(places):
            count = len(places)
            self.apply(tracks, f"moving {count} landmarks" if count > 1 else "moving a landmark")

    def _taken_from_layer(self) -> None:
        """Take over points that were added or deleted."""
        tracks = tracks_of_layer(self.layer)
        edit = _difference(self.tracks, tracks, "adding or deleting points")
        self._undo.append(edit)
        self._redo.clear()
        self.tracks = tracks
        self.layer.metadata = {**self.layer.metadata, "tracks": tracks}
        self._index()
        for call in self.changed:
            call()

    def _show(self, tracks: Tracks, rows: npt.NDArray[np.int64] | None) -> None:
        """Write tracks into the layer: some rows in place where no point comes or goes, else all."""
        self.tracks = tracks
        self._writing = True
        try:
            layer = self.layer
            if rows is not None and self._fits(rows):
                self._write(rows)
            else:
                self._replace()
            layer.metadata = {**layer.metadata, "tracks": tracks}
            layer.refresh()
        finally:
            self._writing = False
        for call in self.changed:
            call()

    def _fits(self, rows: npt.NDArray[np.int64]) -> bool:
        there = np.isfinite(self.tracks.landmarks[rows]).all(axis=-1)
        return bool(
            self._where.shape == (*self.tracks.source.shape, N_LANDMARKS)
            and np.array_equal(there, self._where[rows] >= 0)
        )

    def _write(self, rows: npt.NDArray[np.int64]) -> None:
        points, where = self._rows_of(rows), self._where[rows].ravel()
        keep = where >= 0
        where, layer = where[keep], self.layer
        layer.data[where] = points.data[keep]
        layer.face_color[where] = points.colours(mode_of(layer))[keep]
        layer.size[where] = points.size[keep]
        features = layer.features
        features.iloc[where, features.columns.get_loc("confidence")] = points.confidence[keep]
        self._mark(rows)

    def _replace(self) -> None:
        layer = self.layer
        rows = rows_of_tracks(self.tracks, int(layer.ndim))
        layer.selected_data = set()
        layer.data = rows.data
        layer.features = features_of(rows)
        if len(rows.data):
            layer.face_color = rows.colours(mode_of(layer))
            layer.size = rows.size
            layer.shown = True
            layer.border_color = BORDER_COLOUR
            layer.symbol = SYMBOL
        self._index()
        self._mark(np.arange(self.tracks.n_frames))

    def _rows_of(self, rows: npt.NDArray[np.int64]) -> PointRows:
        tracks = self.tracks
        points = point_rows(
            tracks.landmarks[rows],
            tracks.confidence[rows],
            tracks.source[rows],
            tracks.frame_indices[rows],
            int(self.layer.ndim),
        )
        return dataclasses.replace(points, source=self._codes(rows))

    def _codes(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return where each landmark of some frames comes from, (N * F * 68,).

        Beside those placed by hand, the others of a face keep the source that they were found with.
        """
        tracks, found = self.tracks, self.layer.metadata.get(FOUND)
        marked = tracks.by_hand[rows]
        codes = tracks.source[rows]
        if isinstance(found, Tracks) and found.source.shape == tracks.source.shape:
            before = found.source[rows]
            codes = np.where((codes == MANUAL) & marked.any(axis=-1) & (before != NONE), before, codes)
        each = np.where(marked, np.uint8(MANUAL), codes[..., None])
        return each.astype(np.uint8).ravel()

    def _mark(self, rows: npt.NDArray[np.int64]) -> None:
        """Give the landmarks of some frames the look and source of those placed by hand, or of the others."""
        if not len(self.layer.data):
            return
        where, marked = self._where[rows].ravel(), self.tracks.by_hand[rows].ravel()
        codes = self._codes(rows)
        keep = where >= 0
        where, marked, codes = where[keep], marked[keep], codes[keep]
        layer = self.layer
        looks = np.asarray(layer.symbol)
        star, disc = _symbols()
        if not marked.any() and not (looks[where] == star).any():
            return
        words = np.array(SOURCES, dtype=object)[codes]
        features = layer.features
        features.iloc[where, features.columns.get_loc("source")] = words
        layer.border_color[where[marked]] = BY_HAND_COLOUR
        layer.border_color[where[~marked]] = _plain_border()
        looks[where[marked]], looks[where[~marked]] = star, disc
        layer.refresh()


_editors: WeakKeyDictionary[Any, LayerEditor] = WeakKeyDictionary()


def editor_of(layer: Any) -> LayerEditor:
    """Return the one editor of a layer, made when it is first asked for.

    Raises
    ------
    ResultError
        If the layer has no landmarks.
    """
    if layer not in _editors:
        _editors[layer] = LayerEditor(layer)
    return _editors[layer]


def _symbols() -> tuple[Any, Any]:
    """Return napari's values of the two symbols, which it has no public name for."""
    from napari.layers import Points

    both = Points(np.zeros((2, 2)), symbol=[BY_HAND_SYMBOL, SYMBOL]).symbol
    return both[0], both[1]


def _plain_border() -> tuple[float, ...]:
    return (*(int(BORDER_COLOUR[k : k + 2], 16) / 255 for k in (1, 3, 5)), 1.0)


def _difference(before: Tracks, after: Tracks, words: str) -> _Edit:
    same_names = before.meta.get("face_names") == after.meta.get("face_names")
    if before.source.shape != after.source.shape or not same_names:
        return _Edit(words, before, after, None)
    changed = np.zeros(before.n_frames, dtype=np.bool_)
    for name, array in before.arrays().items():
        old, new = (values.reshape(before.n_frames, -1) for values in (array, getattr(after, name)))
        different = old != new
        if old.dtype.kind == "f":
            different &= ~(np.isnan(old) & np.isnan(new))
        changed |= different.any(axis=1)
    rows = np.flatnonzero(changed)
    parts = [
        {name: array[rows].copy() for name, array in tracks.arrays().items()} for tracks in (before, after)
    ]
    return _Edit(words, parts[0], parts[1], rows)


def _with(tracks: Tracks, part: Any, rows: npt.NDArray[np.int64] | None) -> Tracks:
    if rows is None:
        return part  # type: ignore[no-any-return]
    copy = tracks.copy()
    for name, values in part.items():
        getattr(copy, name)[rows] = values
    return copy
