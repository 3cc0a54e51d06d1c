"""Undoable edits of a landmarks layer, which mark dragged landmarks as manual; no Qt."""

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

MANUAL_COLOUR = (0.8, 0.0, 0.8, 1.0)
"""Border of manual landmarks, which have their own symbol too."""
MANUAL_SYMBOL, SYMBOL = "star", "disc"
MAX_EDITS = 100
MAX_MOVED = 1000  # points dragged before the editor was created; if more differ, a script has moved them
FOUND = "tracks_found"
"""Metadata key: the tracks before the first edit."""


@dataclass(frozen=True)
class _Edit:
    """Data before and after an edit: of the changed frames, or all if the number of faces changed."""

    description: str  # completes "Undo ..."
    before: Any  # arrays of the frames `rows`, or `Tracks` if `rows` is None
    after: Any
    rows: npt.NDArray[np.int64] | None  # (N,) of changed frames


class LayerEditor:
    """Synchronises a landmarks layer with its tracks; must be used in the GUI thread if there is one.

    The editor owns the arrays of `tracks` and writes edits of a few frames in place: copying and comparing
    all arrays of a long video would take half a second for each dragged point. After each edit `tracks` is
    a new object.

    Parameters
    ----------
    layer : napari.layers.Points
        A landmarks layer of this plugin.

    Attributes
    ----------
    tracks : Tracks
        The landmarks as shown in the layer.
    manual : ndarray, (T,), int64
        Number of manual landmarks on each frame.
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
            order = _landmark_of_points(layer, before)
            moved = None if order is None else _moved_points(layer, before)
        if moved is not None:
            found, self.tracks = before, before.copy()
        else:
            self.tracks = tracks_of_layer(layer)
            found = before if isinstance(before, Tracks) else self.tracks.copy()
        layer.metadata = {**metadata, "tracks": self.tracks, FOUND: metadata.get(FOUND, found)}
        self._build_index(order)
        if self.manual.any():
            self._mark(np.flatnonzero(self.manual))
            layer.refresh(extent=False, thumbnail=False)
        if moved is not None:
            self._on_moved(moved)  # dragged before the editor was created
        layer.events.data.connect(self._on_data)

    @property
    def can_undo(self) -> str | None:
        """Description of the edit that would be undone; None if there is none."""
        return self._undo[-1].description if self._undo else None

    @property
    def can_redo(self) -> str | None:
        """Description of the edit that would be redone; None if there is none."""
        return self._redo[-1].description if self._redo else None

    def apply(self, tracks: Tracks, description: str) -> None:
        """Replace the tracks as one edit, and update the layer."""
        self._record(_difference(self.tracks, tracks, description))

    def undo(self) -> None:
        """Undo the last edit."""
        if self._undo:
            edit = self._undo.pop()
            self._redo.append(edit)
            self._set_content(edit.before, edit.rows)

    def redo(self) -> None:
        """Redo the edit that was undone last."""
        if self._redo:
            edit = self._redo.pop()
            self._undo.append(edit)
            self._set_content(edit.after, edit.rows)

    def _record(self, edit: _Edit, dragged: bool = False) -> None:
        self._undo = [*self._undo[1 - MAX_EDITS :], edit]
        self._redo.clear()
        self._set_content(edit.after, edit.rows, dragged)

    def _build_index(self, of_point: npt.NDArray[np.int64] | None = None) -> None:
        """Index the point of each landmark, (T, F, 68), and the flat landmark of each point; -1 if none."""
        layer, tracks = self.layer, self.tracks
        shape = (*tracks.source.shape, N_LANDMARKS)
        self.manual = tracks.by_hand.reshape(tracks.n_frames, -1).sum(axis=1)
        self._marked = np.zeros(len(layer.data), dtype=np.bool_)
        self._point_of = np.full(shape, -1, dtype=np.int64)
        self._landmark_of = np.full(len(layer.data), -1, dtype=np.int64)  # into the flat landmarks
        if not len(layer.data):
            return
        shown = np.flatnonzero(layer.shown)
        of_point = _landmark_of_points(layer, tracks) if of_point is None else of_point
        if of_point is None:
            data = np.asarray(layer.data)[shown]
            frames = np.rint(data[:, 0]).astype(np.int64) if data.shape[1] == 3 else tracks.frame_indices[:1]
            row = np.searchsorted(tracks.frame_indices, np.broadcast_to(frames, len(data)))
            face, landmark = (
                layer.features[name].to_numpy()[shown].astype(np.int64) for name in ("face", "landmark")
            )
            of_point = np.ravel_multi_index((row, face, landmark), shape)
        self._point_of.reshape(-1)[of_point] = shown
        self._landmark_of[shown] = of_point

    def _on_data(self, event: Any) -> None:
        action = str(getattr(event, "action", "")).rpartition(".")[2].lower()
        if self._writing or action not in ("changed", "added", "removed"):
            return
        if action != "changed" or len(self.layer.data) != len(self._landmark_of):
            self._read_from_layer()
            return
        indices = np.atleast_1d(np.asarray(getattr(event, "data_indices", ()), dtype=np.int64))
        n = len(self._landmark_of)
        indices = np.unique(np.where(indices < 0, indices + n, indices))
        self._on_moved(indices[(indices >= 0) & (indices < n)])

    def _on_moved(self, indices: npt.NDArray[np.int64]) -> None:
        """Record dragged points as manual landmarks."""
        tracks = self.tracks
        indices = indices[self._landmark_of[indices] >= 0]
        points = np.asarray(self.layer.data[indices])[:, [-1, -2]]
        row, face, landmark = np.unravel_index(self._landmark_of[indices], self._point_of.shape)
        far = np.abs(points - tracks.landmarks[row, face, landmark]).max(axis=1, initial=0) > MOVED
        row, face, landmark, points = row[far], face[far], landmark[far], points[far]
        if not len(row):
            return
        rows = np.unique(row)
        before = _copy_frames(tracks, rows)
        few = tracks.take_frames(rows)
        for a_row, a_face in np.unique(np.stack([row, face], axis=1), axis=0):
            same = (row == a_row) & (face == a_face)
            index = int(np.searchsorted(rows, a_row))
            few = set_manual_landmarks(few, index, int(a_face), landmark[same].tolist(), points[same])
        description = f"moving {len(row)} landmarks" if len(row) > 1 else "moving a landmark"
        self._record(_Edit(description, before, few.arrays(), rows), dragged=True)

    def _read_from_layer(self) -> None:
        """Read the tracks from the layer again after points were added or deleted."""
        tracks = tracks_of_layer(self.layer)
        self._undo.append(_difference(self.tracks, tracks, "adding or deleting points"))
        self._redo.clear()
        self.tracks = tracks
        self.layer.metadata = {**self.layer.metadata, "tracks": tracks}
        self._build_index()
        self._marked[:] = self._landmark_of >= 0
        self._marked &= tracks.by_hand.reshape(-1)[self._landmark_of]
        for call in self.changed:
            call()

    def _set_content(self, content: Any, rows: npt.NDArray[np.int64] | None, dragged: bool = False) -> None:
        """Replace the tracks, or the frames `rows` of them, and update the layer.

        Points are written in place if their number does not change, else all are replaced. After a drag
        napari has already sliced the layer, which takes long in a long video and is not repeated.
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
            if rows is None or not self._can_write_in_place(rows):
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

    def _can_write_in_place(self, rows: npt.NDArray[np.int64]) -> bool:
        there = np.isfinite(self.tracks.landmarks[rows]).all(axis=-1)
        return bool(
            self._point_of.shape == (*self.tracks.source.shape, N_LANDMARKS)
            and np.array_equal(there, self._point_of[rows] >= 0)
        )

    def _write(self, rows: npt.NDArray[np.int64]) -> None:
        points, where = self._rows_of(rows), self._point_of[rows].ravel()
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
        self._build_index()
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
        """Return the source code of each landmark of some frames, (N * F * 68,).

        In a face with manual landmarks, the others keep their original source.
        """
        tracks, found = self.tracks, self.layer.metadata.get(FOUND)
        manual = tracks.by_hand[rows]
        codes = tracks.source[rows]
        if isinstance(found, Tracks) and found.source.shape == tracks.source.shape:
            before = found.source[rows]
            codes = np.where((codes == MANUAL) & manual.any(axis=-1) & (before != NONE), before, codes)
        return np.where(manual, np.uint8(MANUAL), codes[..., None]).astype(np.uint8).ravel()

    def _mark(self, rows: npt.NDArray[np.int64]) -> None:
        """Set symbol, border and source of the landmarks of some frames: manual or not."""
        if not len(self.layer.data):
            return
        where, manual = self._point_of[rows].ravel(), self.tracks.by_hand[rows].ravel()
        codes = self._codes(rows)
        keep = where >= 0
        where, manual, codes = where[keep], manual[keep], codes[keep]
        changing = manual | self._marked[where]  # comparing the symbols themselves would take seconds
        where, manual, codes = where[changing], manual[changing], codes[changing]
        if not len(where):
            return
        layer = self.layer
        symbols = np.asarray(layer.symbol)
        star, disc = map(type(symbols[0]), (MANUAL_SYMBOL, SYMBOL))  # napari has no public name for the type
        features = layer.features
        features.iloc[where, features.columns.get_loc("source")] = np.array(SOURCES, dtype=object)[codes]
        layer.border_color[where[manual]] = MANUAL_COLOUR
        layer.border_color[where[~manual]] = _plain_border()
        symbols[where[manual]], symbols[where[~manual]] = star, disc
        self._marked[where] = manual


_editors: WeakKeyDictionary[Any, LayerEditor] = WeakKeyDictionary()


def editor_of(layer: Any) -> LayerEditor:
    """Return the editor of a layer, of which there is one, created on first use.

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


def _difference(before: Tracks, after: Tracks, description: str) -> _Edit:
    same_names = before.meta.get("face_names") == after.meta.get("face_names")
    if before.source.shape != after.source.shape or not same_names:
        return _Edit(description, before, after, None)
    changed = np.zeros(before.n_frames, dtype=np.bool_)
    for name, array in before.arrays().items():
        old, new = (values.reshape(before.n_frames, -1) for values in (array, getattr(after, name)))
        different = old != new
        if old.dtype.kind == "f":
            different &= ~(np.isnan(old) & np.isnan(new))
        changed |= different.any(axis=1)
    rows = np.flatnonzero(changed)
    return _Edit(description, _copy_frames(before, rows), _copy_frames(after, rows), rows)


def _copy_frames(tracks: Tracks, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return copies of the arrays of some frames."""
    return tracks.take_frames(rows).arrays()


def _landmark_of_points(layer: Any, tracks: Tracks) -> npt.NDArray[np.int64] | None:
    """Return the index into the flat landmarks (T * F * 68) of each shown point of a layer.

    None if the points are not in the order in which this plugin creates them from the tracks.
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
    """Return which points of a layer, ordered like the tracks, were moved; None if more than `MAX_MOVED`."""
    landmarks = tracks.landmarks.reshape(-1, 2)
    if np.isnan(landmarks).any():
        landmarks = landmarks[np.isfinite(landmarks[:, 0])]
    shown = np.asarray(layer.shown)
    data = layer.data if shown.all() else layer.data[shown]
    far = (np.abs(data[:, -1] - landmarks[:, 0]) > MOVED) | (np.abs(data[:, -2] - landmarks[:, 1]) > MOVED)
    moved = np.flatnonzero(shown)[far] if len(data) < len(layer.data) else np.flatnonzero(far)
    return moved if len(moved) <= MAX_MOVED else None
