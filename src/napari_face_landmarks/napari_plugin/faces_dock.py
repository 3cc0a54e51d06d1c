"""The tab Faces: the tracks of faces are chosen, named, deleted, merged and split; boxes for the next run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from magicgui.widgets import LineEdit
from qtpy.QtWidgets import QAbstractItemView, QListWidget

from napari_face_landmarks.correction import (
    choose_faces,
    delete_face,
    merge_faces,
    names_of_faces,
    rename_face,
    split_face,
)
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.napari_plugin.edit_history import LayerEditor
from napari_face_landmarks.napari_plugin.layers import frame_shown, image_layers, show_frame
from napari_face_landmarks.napari_plugin.panels import EditingDock, undo_and_redo
from napari_face_landmarks.napari_plugin.points_layer import transforms_of
from napari_face_landmarks.napari_plugin.qt_forms import push, row_of, with_help
from napari_face_landmarks.quality.statistics import count as counted
from napari_face_landmarks.tracking.regions import Region, Regions

SMALLEST_LIST = 80  # px
ONE = "To track more faces at once, raise Faces under Advanced in the tab Track, and run again."


class FacesDock(EditingDock):
    """The panel Faces: a list of them, and buttons for the selected ones."""

    def __init__(self, napari_viewer: Any) -> None:
        self._marked = False
        help_of_list = "The faces and on how many frames each is; a click marks one, two go to its first."
        self.list = with_help(QListWidget(), help_of_list)
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.list.setMinimumHeight(SMALLEST_LIST)
        self.new_name = LineEdit(
            label="Name", tooltip="The selected face's name; kept in files that keep settings."
        )
        self.rename_button = push("Rename", "Give the selected face this name.", self.rename)
        self.keep_button = push("Keep only these", "Drop all faces but the selected ones.", self.keep)
        self.delete_button = push("Delete", "Drop the selected faces on all frames.", self.delete)
        self.merge_button = push(
            "Merge",
            "Make the selected faces one; where both are there, the more confident stays.",
            self.merge,
        )
        self.split_button = push(
            "Split here", "Make the selected face another one from the frame shown on.", self.split
        )
        self.undo_button, self.redo_button = undo_and_redo()
        self.look_button = push(
            "Look for a face …",
            "Draw a box round a face, forehead to chin, where none is found; then run again.",
            lambda: self.draw("look"),
        )
        self.ignore_button = push(
            "Ignore a region …",
            "Draw a box in which no face is followed; then run again.",
            lambda: self.draw("ignore"),
        )
        super().__init__(
            napari_viewer,
            [
                self.new_name,
                row_of(self.rename_button, self.keep_button),
                row_of(self.delete_button, self.merge_button, self.split_button),
                row_of(self.undo_button, self.redo_button),
                row_of(self.look_button, self.ignore_button),
            ],
        )
        self.native.layout().insertWidget(1, self.list)
        self.list.itemSelectionChanged.connect(self._on_selection)
        self.list.itemDoubleClicked.connect(lambda _: self.go_to_first())
        self._look()

    @property
    def selected(self) -> list[int]:
        """The selected faces."""
        return sorted(index.row() for index in self.list.selectedIndexes())

    def select(self, faces: list[int]) -> None:
        """Select faces in the list."""
        for row in range(self.list.count()):
            self.list.item(row).setSelected(row in faces)

    def _show(self, editor: LayerEditor | None) -> None:
        kept = self.selected
        self.list.clear()
        if editor is not None:
            tracks = editor.tracks
            counts = tracks.present.sum(axis=0).tolist()
            for name, count in zip(names_of_faces(tracks), counts, strict=True):
                self.list.addItem(f"{name} ({counted(count, 'frame')})")
            self.select(kept)
            self.status.value = ONE if self.list.count() == 1 else ""
        super()._show(editor)
        self._on_selection()

    def _on_selection(self) -> None:
        count = len(self.selected)
        one = count == 1
        self.rename_button.enabled = self.split_button.enabled = self.new_name.enabled = one
        self.merge_button.enabled = count == 2
        self.delete_button.enabled = count > 0
        self.keep_button.enabled = 0 < count < self.list.count()
        editor = self.editor
        # as a placeholder, which typing replaces
        name = names_of_faces(editor.tracks)[self.selected[0]] if one and editor is not None else ""
        self.new_name.native.setPlaceholderText(name)
        self.new_name.value = ""
        if editor is not None:
            self._mark(self.selected)

    def _mark(self, faces: list[int]) -> None:
        """Highlight faces in the picture, on the frame shown; napari's selection does that."""
        if not faces and not self._marked:  # what is selected then is the user's
            return
        self._marked, layer = bool(faces), self.layer
        if not faces:
            layer.selected_data = set()
            return
        frame = frame_shown(self._viewer, layer)
        rows = np.flatnonzero(layer.shown & (frame is None or layer.data[:, 0] == frame))
        layer.selected_data = set(rows[layer.features["face"].iloc[rows].isin(faces)].tolist())

    def set_active(self, active: bool) -> None:
        """Follow the landmarks, or leave them alone, and no face marked, while the panel is hidden."""
        if not active and self.editor is not None:
            self._mark([])
        super().set_active(active)

    def _do(self, words: str, change: Callable[[Tracks], Tracks]) -> None:
        editor = self.editor
        if editor is None:
            return
        try:
            editor.apply(change(editor.tracks), words)
        except FaceLandmarksError as error:
            self._tell_error(str(error))

    def rename(self) -> None:
        """Give the selected face the name that is written there."""
        face, name = self.selected[0], self.new_name.value
        if name:
            self._do("naming a face", lambda tracks: rename_face(tracks, face, name))
        else:
            self.status.value = "Write the new name first."

    def keep(self) -> None:
        """Drop all faces but the selected ones."""
        faces = self.selected
        self._do("choosing faces", lambda tracks: choose_faces(tracks, faces))

    def delete(self) -> None:
        """Drop the selected faces."""
        faces = self.selected

        def without(tracks: Tracks) -> Tracks:
            for face in reversed(faces):
                tracks = delete_face(tracks, face)
            return tracks

        self._do("deleting faces", without)

    def merge(self) -> None:
        """Make the two selected faces one."""
        face, other = self.selected
        self._do("merging faces", lambda tracks: merge_faces(tracks, face, other))

    def split(self) -> None:
        """Make the selected face another one from the frame shown on."""
        face, frame = self.selected[0], frame_shown(self._viewer, self.layer) or 0
        self._do("splitting a face", lambda tracks: split_face(tracks, face, frame))

    def go_to_first(self) -> None:
        """Show the first frame of the selected face."""
        editor = self.editor
        if editor is not None and self.selected:
            there = editor.tracks.present[:, self.selected[0]]
            if there.any():
                show_frame(self._viewer, editor.layer, int(editor.tracks.frame_indices[there.argmax()]))

    def draw(self, purpose: Purpose) -> None:
        """Have the user draw boxes that the next run looks in or ignores."""
        videos = image_layers(self._viewer)
        if not videos:
            self._tell_error("There is no video to draw on: open one first.")
            return
        add_boxes_layer(self._viewer, videos[-1], purpose)


Purpose = Literal["look", "ignore"]
PURPOSE = "face_landmarks_boxes"
"""Metadata of a Shapes layer: what its boxes are for."""
NAMES: dict[Purpose, str] = {"look": "Look for a face here", "ignore": "Ignore faces here"}
COLOURS: dict[Purpose, str] = {"look": "#35d07f", "ignore": "#ff7f50"}
EDGE = 2  # px


def add_boxes_layer(viewer: Any, video: Any, purpose: Purpose) -> Any:
    """Return the Shapes layer for boxes of a purpose, made if there is none, ready to be drawn in.

    The transforms of `video`, an image layer, are copied.
    """
    found = [layer for layer in viewer.layers if layer.metadata.get(PURPOSE) == purpose]
    layer = found[-1] if found else None
    if layer is None:
        layer = viewer.add_shapes(
            name=NAMES[purpose],
            ndim=int(video.ndim),
            edge_color=COLOURS[purpose],
            face_color="transparent",
            edge_width=EDGE,
            metadata={PURPOSE: purpose},
            **transforms_of(video),
        )
    viewer.layers.selection.active = layer
    layer.mode = "add_rectangle"
    return layer


def regions_of_layers(layers: Any) -> Regions:
    """Return what the boxes of all Shapes layers that `add_boxes_layer` made tell the tracker.

    A box to look in begins on the frame it was drawn on and holds for that one; a box to ignore holds for the
    whole video, wherever it was drawn. Of other shapes than rectangles the bounding box counts; what is
    smaller than a pixel is left out.
    """
    found: dict[str, list[Region]] = {"look": [], "ignore": []}
    for layer in layers:
        purpose = layer.metadata.get(PURPOSE)
        if purpose not in found or not hasattr(layer, "shape_type"):
            continue
        for corners in layer.data:
            points = np.asarray(corners, dtype=np.float64)
            low, high = points[:, -2:].min(axis=0), points[:, -2:].max(axis=0)
            if (high - low < 1).any() or not np.isfinite(points).all():
                continue
            box = (float(low[1]), float(low[0]), float(high[1]), float(high[0]))
            frame = round(float(points[:, 0].mean())) if points.shape[1] == 3 else 0
            region = Region(box, frame, frame) if purpose == "look" else Region(box)
            found[purpose].append(region)
    return Regions(tuple(found["look"]), tuple(found["ignore"]))
