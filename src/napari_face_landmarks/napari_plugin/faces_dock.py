"""The tab Faces: select, rename, delete, merge and split faces; draw regions for the next run."""

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
from napari_face_landmarks.napari_plugin.qt_forms import horizontal_row, push_button, with_tooltip
from napari_face_landmarks.quality.statistics import count as counted
from napari_face_landmarks.tracking.regions import Region, Regions

MIN_LIST_HEIGHT = 80  # px
ONE_FACE = "To track more faces at once, raise Faces under Advanced in the tab Track, and run again."


class FacesDock(EditingDock):
    """The panel Faces: a list of the faces, and buttons for the selected ones."""

    def __init__(self, napari_viewer: Any) -> None:
        self._highlighted = False
        list_help = (
            "Faces with their number of frames; click to mark one, double-click to go to its first frame."
        )
        self.list = with_tooltip(QListWidget(), list_help)
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.list.setMinimumHeight(MIN_LIST_HEIGHT)
        self.new_name = LineEdit(
            label="Name", tooltip="New name of the selected face; saved in formats that store settings."
        )
        self.rename_button = push_button("Rename", "Give the selected face this name.", self.rename)
        self.keep_button = push_button("Keep only these", "Delete all other faces.", self.keep)
        self.delete_button = push_button("Delete", "Delete the selected faces on all frames.", self.delete)
        self.merge_button = push_button(
            "Merge",
            "Merge the two selected faces; on frames with both, the more confident one is kept.",
            self.merge,
        )
        self.split_button = push_button(
            "Split here", "Split the selected face in two; the new face starts at this frame.", self.split
        )
        self.undo_button, self.redo_button = undo_and_redo()
        self.look_button = push_button(
            "Look for a face …",
            "Draw a box around a face that was not found, from forehead to chin; then run again.",
            lambda: self.draw("look"),
        )
        self.ignore_button = push_button(
            "Ignore a region …",
            "Draw a box in which faces are ignored; then run again.",
            lambda: self.draw("ignore"),
        )
        super().__init__(
            napari_viewer,
            [
                self.new_name,
                horizontal_row(self.rename_button, self.keep_button),
                horizontal_row(self.delete_button, self.merge_button, self.split_button),
                horizontal_row(self.undo_button, self.redo_button),
                horizontal_row(self.look_button, self.ignore_button),
            ],
        )
        self.native.layout().insertWidget(1, self.list)
        self.list.itemSelectionChanged.connect(self._on_selection)
        self.list.itemDoubleClicked.connect(lambda _: self.go_to_first())
        self._update()

    @property
    def selected(self) -> list[int]:
        """Indices of the selected faces."""
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
            self.status.value = ONE_FACE if self.list.count() == 1 else ""
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
        # the current name is a placeholder, which typing replaces
        name = names_of_faces(editor.tracks)[self.selected[0]] if one and editor is not None else ""
        self.new_name.native.setPlaceholderText(name)
        self.new_name.value = ""
        if editor is not None:
            self._mark(self.selected)

    def _mark(self, faces: list[int]) -> None:
        """Highlight faces on the current frame by selecting their points."""
        if not faces and not self._highlighted:  # keep the user's own selection
            return
        self._highlighted, layer = bool(faces), self.layer
        if not faces:
            layer.selected_data = set()
            return
        frame = frame_shown(self._viewer, layer)
        rows = np.flatnonzero(layer.shown & (frame is None or layer.data[:, 0] == frame))
        layer.selected_data = set(rows[layer.features["face"].iloc[rows].isin(faces)].tolist())

    def set_active(self, active: bool) -> None:
        """Start or stop following the landmarks; a hidden panel highlights no face."""
        if not active and self.editor is not None:
            self._mark([])
        super().set_active(active)

    def _apply(self, description: str, change: Callable[[Tracks], Tracks]) -> None:
        editor = self.editor
        if editor is None:
            return
        try:
            editor.apply(change(editor.tracks), description)
        except FaceLandmarksError as error:
            self._show_error(str(error))

    def rename(self) -> None:
        """Give the selected face the entered name."""
        face, name = self.selected[0], self.new_name.value
        if name:
            self._apply("naming a face", lambda tracks: rename_face(tracks, face, name))
        else:
            self.status.value = "Enter the new name first."

    def keep(self) -> None:
        """Delete all faces but the selected ones."""
        faces = self.selected
        self._apply("choosing faces", lambda tracks: choose_faces(tracks, faces))

    def delete(self) -> None:
        """Delete the selected faces."""
        faces = self.selected

        def delete_selected(tracks: Tracks) -> Tracks:
            for face in reversed(faces):
                tracks = delete_face(tracks, face)
            return tracks

        self._apply("deleting faces", delete_selected)

    def merge(self) -> None:
        """Merge the two selected faces."""
        face, other = self.selected
        self._apply("merging faces", lambda tracks: merge_faces(tracks, face, other))

    def split(self) -> None:
        """Split the selected face at the current frame."""
        face, frame = self.selected[0], frame_shown(self._viewer, self.layer) or 0
        self._apply("splitting a face", lambda tracks: split_face(tracks, face, frame))

    def go_to_first(self) -> None:
        """Show the first frame of the selected face."""
        editor = self.editor
        if editor is not None and self.selected:
            there = editor.tracks.present[:, self.selected[0]]
            if there.any():
                show_frame(self._viewer, editor.layer, int(editor.tracks.frame_indices[there.argmax()]))

    def draw(self, purpose: Purpose) -> None:
        """Let the user draw boxes in which the next run looks for faces or ignores them."""
        videos = image_layers(self._viewer)
        if not videos:
            self._show_error("There is no video to draw on: open one first.")
            return
        add_boxes_layer(self._viewer, videos[-1], purpose)


Purpose = Literal["look", "ignore"]
PURPOSE = "face_landmarks_boxes"
"""Metadata key of a Shapes layer: the purpose of its boxes."""
NAMES: dict[Purpose, str] = {"look": "Look for a face here", "ignore": "Ignore faces here"}
COLOURS: dict[Purpose, str] = {"look": "#35d07f", "ignore": "#ff7f50"}
EDGE_WIDTH = 2  # px


def add_boxes_layer(viewer: Any, video: Any, purpose: Purpose) -> Any:
    """Return the Shapes layer for boxes of a purpose, in drawing mode, creating it if necessary.

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
            edge_width=EDGE_WIDTH,
            metadata={PURPOSE: purpose},
            **transforms_of(video),
        )
    viewer.layers.selection.active = layer
    layer.mode = "add_rectangle"
    return layer


def regions_of_layers(layers: Any) -> Regions:
    """Return the tracker's regions from the Shapes layers created by `add_boxes_layer`.

    A box to look for a face applies to the frame on which it was drawn, a box to ignore to the whole
    video. Shapes other than rectangles are replaced by their bounding boxes; shapes smaller than a pixel are
    left out.
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
