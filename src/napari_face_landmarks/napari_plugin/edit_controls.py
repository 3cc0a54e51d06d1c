"""What docks have in common that edit a layer of landmarks: the layer, undo and redo, what is said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from magicgui.widgets import Container, Label, PushButton
from napari.utils.notifications import show_error

from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.napari_plugin.current_layer import NOTHING, current_landmarks
from napari_face_landmarks.napari_plugin.edit_history import LayerEditor, editor_of
from napari_face_landmarks.napari_plugin.qt_forms import LayerChooser, call_while_open, with_label

FILLING = "The run still fills this layer: corrections are possible when it has ended."


class EditingDock(Container):
    """A dock that edits a layer of landmarks.

    Parameters
    ----------
    viewer : napari.Viewer
    widgets : list of magicgui widget
        The dock's controls between the list of layers and the status.

    Attributes
    ----------
    layers : LayerChooser
        What is edited.
    undo_button, redo_button : PushButton
        For `widgets` to hold.
    status : Label
    """

    undo_button: PushButton
    redo_button: PushButton

    def __init__(self, viewer: Any, widgets: list[Any]) -> None:
        self._viewer = viewer
        self._active = True
        self._there = SimpleNamespace(open=True)  # outlives this dock, whose parts Qt deletes
        self._watched: list[LayerEditor] = []
        self._current = current_landmarks(viewer)
        self.layers = LayerChooser(viewer)
        self.status = Label(value="")
        # labels of its own: magicgui would move everything that has none to the right
        rows = [with_label(widget) for widget in (*widgets, self.status)]
        super().__init__(widgets=rows, labels=False)
        self.native.layout().insertWidget(0, self.layers)
        self.native.layout().addStretch(1)
        self.status.native.setWordWrap(True)
        self.undo_button.changed.connect(lambda: self._step("undo"))
        self.redo_button.changed.connect(lambda: self._step("redo"))
        call_while_open(self.native, self._current, self._on_layer)
        self.native.destroyed.connect(self._on_destroyed)

    @property
    def layer(self) -> Any:
        """The current landmarks layer, or None."""
        return self._current.layer

    @property
    def editor(self) -> LayerEditor | None:
        """The editor of the current layer; None where there is none, or a run still fills it."""
        if self.layer is None or self._current.filling:
            return None
        try:
            editor = editor_of(self.layer)
        except FaceLandmarksError:  # a layer without points yet
            return None
        if editor not in self._watched:
            self._watched.append(editor)
            editor.changed.append(self._look)
        return editor

    def set_active(self, active: bool) -> None:
        """Have the panel follow the landmarks, or leave them alone while it is hidden."""
        self._active = active
        self._look()

    @property
    def busy(self) -> bool:
        """Whether something goes on that edits must wait for."""
        return False

    def _on_layer(self) -> None:
        self._look()

    def _look(self) -> None:
        """Show what can be done now; does nothing once the dock is closed."""
        if self._there.open and self._active:
            self._show(self.editor)

    def _show(self, editor: LayerEditor | None) -> None:
        undo, redo = (None, None) if editor is None else (editor.can_undo, editor.can_redo)
        for button, word, what in ((self.undo_button, "undo", undo), (self.redo_button, "redo", redo)):
            button.enabled = bool(what) and not self.busy
            button.tooltip = f"{word.capitalize()} {what}." if what else f"There is nothing to {word}."
        if editor is None:
            self.status.value = FILLING if self._current.filling else NOTHING

    def _step(self, what: str) -> None:
        editor = self.editor
        if editor is not None and not self.busy:
            getattr(editor, what)()

    def _tell_error(self, sentence: str) -> None:
        self.status.value = sentence
        show_error(sentence)

    def _on_destroyed(self) -> None:
        self._there.open = False


def undo_and_redo() -> tuple[PushButton, PushButton]:
    """Return the two buttons; their tooltips come to say what they would do."""
    return PushButton(text="Undo", tooltip="Take the last change back."), PushButton(
        text="Redo", tooltip="Do it again."
    )
