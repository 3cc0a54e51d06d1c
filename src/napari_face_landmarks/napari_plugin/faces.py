"""The faces dock: choose, name, delete, merge and split the tracks of faces; each can be undone."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from magicgui.widgets import ComboBox, Container, Label, LineEdit, PushButton
from napari.layers import Image
from napari.utils.notifications import show_error
from qtpy.QtWidgets import QAbstractItemView, QListWidget

from napari_face_landmarks.correction import (
    choose_faces,
    delete_face,
    merge_faces,
    names_of_faces,
    rename_face,
    split_face,
)
from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.napari_plugin.boxes import Purpose, add_boxes_layer
from napari_face_landmarks.napari_plugin.editing import LayerEditor, editor_of
from napari_face_landmarks.napari_plugin.live import results_of
from napari_face_landmarks.napari_plugin.saving import has_landmarks
from napari_face_landmarks.napari_plugin.time_axis import frame_shown, show_frame
from napari_face_landmarks.tracking.results import Tracks

NOTHING = "There are no landmarks: track a video, or open a file of landmarks."
SMALLEST_LIST = 80  # px


class FacesDock(Container):
    """The faces of a layer of landmarks.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Filled in by napari.

    Attributes
    ----------
    layers : ComboBox
        The layer.
    list : QListWidget
        Its faces; several can be selected.
    new_name : LineEdit
    rename_button, keep_button, delete_button, merge_button, split_button, undo_button, redo_button
    look_button, ignore_button : PushButton
        Boxes for the next run.
    status : Label
    """

    def __init__(self, napari_viewer: Any) -> None:
        self._viewer = napari_viewer
        self._there = SimpleNamespace(open=True)
        self._watched: list[Any] = []
        self.layers = ComboBox(
            label="Landmarks", choices=self._landmark_layers, tooltip="The layer of landmarks."
        )
        policy = self.layers.native.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        self.layers.native.setSizeAdjustPolicy(policy)
        self.list = QListWidget()
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.list.setMinimumHeight(SMALLEST_LIST)
        self.list.setToolTip("The faces and on how many frames each is; double-click goes to the first.")
        self.new_name = LineEdit(
            label="Name", tooltip="The selected face's name; kept in files that keep settings."
        )
        self.rename_button = PushButton(text="Rename", tooltip="Give the selected face this name.")
        self.keep_button = PushButton(text="Keep only these", tooltip="Drop all faces but the selected ones.")
        self.delete_button = PushButton(text="Delete", tooltip="Drop the selected faces on all frames.")
        self.merge_button = PushButton(
            text="Merge", tooltip="Make the selected faces one; where both are there the surer one stays."
        )
        self.split_button = PushButton(
            text="Split here", tooltip="Make the selected face another one from the frame shown on."
        )
        self.undo_button = PushButton(text="Undo", tooltip="Take the last change back.")
        self.redo_button = PushButton(text="Redo", tooltip="Do it again.")
        self.look_button = PushButton(
            text="Look here …",
            tooltip="Draw a box round a face, forehead to chin, where none is found; then run again.",
        )
        self.ignore_button = PushButton(
            text="Ignore …",
            tooltip="Draw a box in which no face is followed; then run again.",
        )
        self.status = Label(value="")
        super().__init__(
            widgets=[
                self.layers,
                self.new_name,
                _row(self.rename_button, self.keep_button),
                _row(self.delete_button, self.merge_button, self.split_button),
                _row(self.undo_button, self.redo_button),
                _row(self.look_button, self.ignore_button),
                self.status,
            ]
        )
        self.status.native.setWordWrap(True)
        self.native.layout().insertWidget(1, self.list)
        self.layers.changed.connect(self._look)
        self.list.itemSelectionChanged.connect(self._on_selection)
        self.list.itemDoubleClicked.connect(lambda _: self.go_to_first())
        self.rename_button.changed.connect(self.rename)
        self.keep_button.changed.connect(self.keep)
        self.delete_button.changed.connect(self.delete)
        self.merge_button.changed.connect(self.merge)
        self.split_button.changed.connect(self.split)
        self.undo_button.changed.connect(lambda: self._step("undo"))
        self.redo_button.changed.connect(lambda: self._step("redo"))
        self.look_button.changed.connect(lambda: self.draw("look"))
        self.ignore_button.changed.connect(lambda: self.draw("ignore"))
        events = napari_viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.connect(self.reset_choices)
        self.native.destroyed.connect(self._on_destroyed)
        self._look()

    def _landmark_layers(self, _: Any = None) -> list[Any]:
        return [layer for layer in self._viewer.layers if has_landmarks(layer)]

    def reset_choices(self, *_: Any) -> None:
        """Look again which layers there are."""
        if self._there.open:
            self.layers.reset_choices()
            self._look()

    @property
    def editor(self) -> LayerEditor | None:
        """The editor of the chosen layer; None where there is none, or a run still fills it."""
        layer = self.layers.value
        if layer is None or results_of(layer) is not None:
            return None
        try:
            editor = editor_of(layer)
        except FaceLandmarksError as error:
            self._tell_error(str(error))
            return None
        if editor not in self._watched:
            self._watched.append(editor)
            editor.changed.append(self._look)
        return editor

    @property
    def selected(self) -> list[int]:
        """The selected faces."""
        return sorted(index.row() for index in self.list.selectedIndexes())

    def select(self, faces: list[int]) -> None:
        """Select faces in the list."""
        for row in range(self.list.count()):
            self.list.item(row).setSelected(row in faces)

    def _look(self, *_: Any) -> None:
        """Show the faces as they are now."""
        if not self._there.open:
            return
        editor, kept = self.editor, self.selected
        self.list.clear()
        if editor is not None:
            tracks = editor.tracks
            counts = tracks.present.sum(axis=0).tolist()
            for name, count in zip(names_of_faces(tracks), counts, strict=True):
                self.list.addItem(f"{name} ({count} frame{'s' * (count != 1)})")
            self.select(kept)
        self.undo_button.enabled = editor is not None and editor.can_undo is not None
        self.redo_button.enabled = editor is not None and editor.can_redo is not None
        self.status.value = NOTHING if self.layers.value is None else ""
        self._on_selection()

    def _on_selection(self) -> None:
        count = len(self.selected)
        one = count == 1
        self.rename_button.enabled = self.split_button.enabled = self.new_name.enabled = one
        self.merge_button.enabled = count == 2
        self.delete_button.enabled = count > 0
        self.keep_button.enabled = 0 < count < self.list.count()
        editor = self.editor
        if one and editor is not None:
            self.new_name.value = names_of_faces(editor.tracks)[self.selected[0]]

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
        face = self.selected[0]
        self._do("naming a face", lambda tracks: rename_face(tracks, face, self.new_name.value))

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
        face, frame = self.selected[0], frame_shown(self._viewer, self.layers.value) or 0
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
        videos = [layer for layer in self._viewer.layers if isinstance(layer, Image)]
        if not videos:
            self._tell_error("There is no video to draw on: open one first.")
            return
        add_boxes_layer(self._viewer, videos[-1], purpose)

    def _step(self, what: str) -> None:
        editor = self.editor
        if editor is not None:
            getattr(editor, what)()

    def _tell_error(self, sentence: str) -> None:
        self.status.value = sentence
        show_error(sentence)

    def _on_destroyed(self) -> None:
        self._there.open = False


def _row(*buttons: Any) -> Container:
    row = Container(widgets=list(buttons), layout="horizontal", labels=False)
    row.margins = (0, 0, 0, 0)
    return row
