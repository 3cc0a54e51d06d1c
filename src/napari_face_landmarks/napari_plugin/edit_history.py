"""Edits of a layer of landmarks that can be undone: what was dragged is marked as placed by hand; no Qt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.edit import set_manual_landmarks
from napari_face_landmarks.data.fields import MANUAL, NONE, SOURCES
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.napari_plugin.points_layer import (
    BORDER_COLOUR,
    MOVED,
    PointRows,
    features_of,
    point_rows,
    rows_of_tracks,
    tracks_of_layer,
)
from napari_face_landmarks.visualization.colours import mode_of

BY_HAND_COLOUR = (0.8, 0.0, 0.8, 1.0)
"""Border of a landmark that was placed by hand; its symbol is another one too."""
BY_HAND_SYMBOL, SYMBOL = "star", "disc"
MOST_EDITS = 100
MOST_MOVED = 1000  # points that were moved one by one before there was an editor; more were moved by a script
FOUND = "tracks_found"
"""Metadata: the tracks as they were before the first edit."""


@dataclass(frozen=True)
class _Edit:
    """What an edit changed: some rows of the arrays, or, where faces come or go, all."""

    words: str  # for "Undo ..."
    before: Any  # arrays of the rows, or the tracks
    after: Any
    rows: npt.NDArray[np.int64] | None  # (N,)


class LayerEditor:
    """Keeps a landmarks layer and its tracks in step; belongs on the GUI thread, where there is one.

    The editor owns the arrays of `tracks` and writes edits of a few frames into them: copying and comparing
    all arrays of a long video would take half a second for each dragged point. After each edit `tracks` is
    another object.

    Parameters
    ----------
    layer : napari.layers.Points
        With landmarks, as this plugin makes them.

    Attributes
    ----------
    tracks : Tracks
        As the layer shows them now.
    manual : ndarray, (T,), int64
        How many landmarks of each frame were corrected by hand.
    changed : list of callable
        Called after each edit, undo and redo.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.changed: list[Callable[[], None]] = []
        self._undo: list[_Edit] = []
        self._redo: list[_Edit] = []
        self._writing = False
        metadata = layer.metadata
        before = metadata.get("tracks")
        order = moved = None
        if isinstance(before, Tracks):
            order = _order(layer, before)
            moved = None if order is None else _moved_points(layer, before)
        if moved is not None:
            found, self.tracks = before, before.copy()
        else:
            self.tracks = tracks_of_layer(layer)
            found = before if isinstance(before, Tracks) else self.tracks.copy()
        layer.metadata = {**metadata, "tracks": self.tracks, FOUND: metadata.get(FOUND, found)}
        self._index(order)
        if self.manual.any():
            self._mark(np.flatnonzero(self.manual))
            layer.refresh(extent=False, thumbnail=False)
        if moved is not None:
            self._moved(moved)  # before there was an editor
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
        self._do(_difference(self.tracks, tracks, words))

    def undo(self) -> None:
        """Take the last edit back."""
        if self._undo:
            edit = self._undo.pop()
            self._redo.append(edit)
            self._show(edit.before, edit.rows)

    def redo(self) -> None:
        """Do the edit again that was taken back last."""
        if self._redo:
            edit = self._redo.pop()
            self._undo.append(edit)
            self._show(edit.after, edit.rows)

    def _do(self, edit: _Edit, dragged: bool = False) -> None:
        self._undo = [*self._undo[1 - MOST_EDITS :], edit]
        self._redo.clear()
        self._show(edit.after, edit.rows, dragged)

    def _index(self, of_point: npt.NDArray[np.int64] | None = None) -> None:
        """Note where each landmark is in the layer, (T, F, 68), -1 where it is not; and what is marked."""
        layer, tracks = self.layer, self.tracks
        shape = (*tracks.source.shape, N_LANDMARKS)
        self.manual = tracks.by_hand.reshape(tracks.n_frames, -1).sum(axis=1)
        self._starred = np.zeros(len(layer.data), dtype=np.bool_)
        self._where = np.full(shape, -1, dtype=np.int64)
        self._of_point = np.full(len(layer.data), -1, dtype=np.int64)  # into the flat landmarks
        if not len(layer.data):
            return
        shown = np.flatnonzero(layer.shown)
        of_point = _order(layer, tracks) if of_point is None else of_point
        if of_point is None:
            data = np.asarray(layer.data)[shown]
            frames = np.rint(data[:, 0]).astype(np.int64) if data.shape[1] == 3 else tracks.frame_indices[:1]
            row = np.searchsorted(tracks.frame_indices, np.broadcast_to(frames, len(data)))
            face, landmark = (
                layer.features[name].to_numpy()[shown].astype(np.int64) for name in ("face", "landmark")
            )
            of_point = np.ravel_multi_index((row, face, landmark), shape)
        self._where.reshape(-1)[of_point] = shown
        self._of_point[shown] = of_point

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
        tracks = self.tracks
        indices = indices[self._of_point[indices] >= 0]
        points = np.asarray(self.layer.data[indices])[:, [-1, -2]]
        row, face, landmark = np.unravel_index(self._of_point[indices], self._where.shape)
        far = np.abs(points - tracks.landmarks[row, face, landmark]).max(axis=1, initial=0) > MOVED
        row, face, landmark, points = row[far], face[far], landmark[far], points[far]
        if not len(row):
            return
        rows = np.unique(row)
        before = _part(tracks, rows)
        few = tracks.take_frames(rows)
        for at, which in np.unique(np.stack([row, face], axis=1), axis=0):
            same = (row == at) & (face == which)
            place = int(np.searchsorted(rows, at))
            few = set_manual_landmarks(few, place, int(which), landmark[same].tolist(), points[same])
        words = f"moving {len(row)} landmarks" if len(row) > 1 else "moving a landmark"
        self._do(_Edit(words, before, few.arrays(), rows), dragged=True)

    def _taken_from_layer(self) -> None:
        """Take over points that were added or deleted."""
        tracks = tracks_of_layer(self.layer)
        self._undo.append(_difference(self.tracks, tracks, "adding or deleting points"))
        self._redo.clear()
        self.tracks = tracks
        self.layer.metadata = {**self.layer.metadata, "tracks": tracks}
        self._index()
        self._starred[:] = self._of_point >= 0
        self._starred &= tracks.by_hand.reshape(-1)[self._of_point]
        for call in self.changed:
            call()

    def _show(self, content: Any, rows: npt.NDArray[np.int64] | None, dragged: bool = False) -> None:
        """Have other tracks, or other frames of these, and write them into the layer.

        They are written in place where no point comes or goes; else all points are replaced. Where napari has
        just moved points it has also looked for those of the frame shown, which takes long in a long video.
        """
        if rows is None:
            self.tracks = content.copy()
        else:
            for name, values in content.items():
                getattr(self.tracks, name)[rows] = values
            self.tracks = dataclasses.replace(self.tracks)
            self.manual[rows] = self.tracks.by_hand[rows].sum(axis=(1, 2))
        self._writing = True
        try:
            layer = self.layer
            if rows is None or not self._fits(rows):
                self._replace()
                dragged = False
            else:
                self._write(rows)
            layer.metadata = {**layer.metadata, "tracks": self.tracks}
            if dragged:
                layer.events.set_data()
            else:
                layer.refresh(extent=False, thumbnail=False)
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
        self._mark(np.flatnonzero(self.manual))

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

        Besides those placed by hand, the others of a face keep the source that they were found with.
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
        changing = marked | self._starred[where]  # reading the symbols themselves would take seconds
        where, marked, codes = where[changing], marked[changing], codes[changing]
        if not len(where):
            return
        layer = self.layer
        symbols = np.asarray(layer.symbol)
        star, disc = map(type(symbols[0]), (BY_HAND_SYMBOL, SYMBOL))  # napari has no public name for the type
        features = layer.features
        features.iloc[where, features.columns.get_loc("source")] = np.array(SOURCES, dtype=object)[codes]
        layer.border_color[where[marked]] = BY_HAND_COLOUR
        layer.border_color[where[~marked]] = _plain_border()
        symbols[where[marked]], symbols[where[~marked]] = star, disc
        self._starred[where] = marked


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
    return _Edit(words, _part(before, rows), _part(after, rows), rows)


def _part(tracks: Tracks, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return copies of some frames of the arrays."""
    return tracks.take_frames(rows).arrays()


def _order(layer: Any, tracks: Tracks) -> npt.NDArray[np.int64] | None:
    """Return which of the flat landmarks (T * F * 68) each shown point of a layer is.

    None where the points are not those that this plugin makes of the tracks, in its order.
    """
    found = np.isfinite(tracks.landmarks[..., 0])
    data, shown = layer.data, np.asarray(layer.shown)
    if int(shown.sum()) != int(found.sum()) or not {"landmark", "face"} <= set(layer.features.columns):
        return None
    keep = slice(None) if shown.all() else shown
    all_there = bool(found.all())

    def same(values: Any, expected: Any) -> bool:
        wanted = np.broadcast_to(expected, found.shape)
        return np.array_equal(values[keep], wanted.reshape(-1) if all_there else wanted[found])

    frames = tracks.frame_indices.astype(np.float32)[:, np.newaxis, np.newaxis]
    if not (
        same(layer.features["landmark"].to_numpy(), np.arange(N_LANDMARKS, dtype=np.int32))
        and same(layer.features["face"].to_numpy(), np.arange(found.shape[1], dtype=np.int32)[:, np.newaxis])
        and (data.shape[1] < 3 or same(data[:, 0], frames))
    ):
        return None
    return np.arange(found.size) if all_there else np.flatnonzero(found)


def _moved_points(layer: Any, tracks: Tracks) -> npt.NDArray[np.int64] | None:
    """Return which points of a layer, in the order of tracks, are elsewhere; None where they are too many."""
    places = tracks.landmarks.reshape(-1, 2)
    if np.isnan(places).any():
        places = places[np.isfinite(places[:, 0])]
    shown = np.asarray(layer.shown)
    data = layer.data if shown.all() else layer.data[shown]
    far = (np.abs(data[:, -1] - places[:, 0]) > MOVED) | (np.abs(data[:, -2] - places[:, 1]) > MOVED)
    moved = np.flatnonzero(shown)[far] if len(data) < len(layer.data) else np.flatnonzero(far)
    return moved if len(moved) <= MOST_MOVED else None
