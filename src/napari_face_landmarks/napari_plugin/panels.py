"""What panels have in common: they follow the landmarks of a layer, or edit them; curves can be enlarged."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

from magicgui.widgets import Container, Label, PushButton
from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtWidgets import QWidget
from superqt.utils import create_worker

from napari_face_landmarks.data.frame import FrameResult
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.napari_plugin.edit_history import LayerEditor, editor_of
from napari_face_landmarks.napari_plugin.layers import NOTHING, current_landmarks, results_of
from napari_face_landmarks.napari_plugin.points_layer import copy_of_points, tracks_of_points
from napari_face_landmarks.napari_plugin.qt_forms import (
    Docked,
    LayerChooser,
    button,
    call_while_open,
    fill,
    push,
    with_label,
)

LOOK_MS = 300  # between two looks at whether the layer has changed
LOW_WINDOW = 800
"""px; in a window that is lower enlarged curves float, as no height would be left for a dock."""
FLOATING = (900, 320)  # px
SETTLED = 0.8  # seconds without a change by hand, after which a layer has something new


def reader_of(layer: Any, changed: bool = False) -> Callable[[], Tracks]:
    """Return a function that reads a layer's landmarks in any thread; `changed`: points were moved.

    It raises a `ResultError` if the points, as they are now, are no landmarks.
    """
    tracks = layer.metadata.get("tracks")
    if isinstance(tracks, Tracks) and not changed:
        return lambda: tracks
    return partial(tracks_of_points, *copy_of_points(layer))


def do_elsewhere(
    work: Callable[[], Any], show: Callable[[Any], None], finished: Callable[[], None] | None = None
) -> None:
    """Do some work in another thread, and show what it returns, or why it cannot in a sentence."""

    def do() -> Any:
        try:
            return work()
        except FaceLandmarksError as error:
            return str(error)

    create_worker(do, _start_thread=True, _connect={"returned": show, "finished": finished or (lambda: None)})


class FollowingPanel(QWidget):
    """A panel that computes something from the current landmarks layer, again whenever that changes."""

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer
        self._current = current_landmarks(viewer)
        self._there = SimpleNamespace(open=True)  # outlives this widget, whose parts Qt deletes
        self._layer: Any = None
        self._seen: Tracks | None = None
        self._looked = self._busy = False
        self._moved_at: float | None = None
        self._asked = 0

    def _follow(self) -> None:
        """Begin, once all controls are there."""
        there = self._there
        self.destroyed.connect(lambda: setattr(there, "open", False))
        call_while_open(self, self._current, self._on_current)
        self._timer = QTimer(self)
        self._timer.setInterval(LOOK_MS)
        self._timer.timeout.connect(self._look)
        self._timer.start()
        self._on_layer()
        self._on_current()

    @property
    def is_open(self) -> bool:
        """Whether the panel is there still; napari's events may come after Qt has deleted it."""
        return bool(self._there.open)

    def _on_layer(self) -> None:
        """Show that there is another current layer, or none; what was computed is of no use."""
        raise NotImplementedError

    def _on_run(self, results: Sequence[FrameResult]) -> None:
        """Show what there is new of the frames that a run has finished so far."""
        raise NotImplementedError

    def _on_landmarks(self, read: Callable[[], Tracks]) -> None:
        """Compute from other landmarks, those that `read` returns."""
        raise NotImplementedError

    def _wanted(self) -> bool:
        """Whether the landmarks are to be looked at now."""
        raise NotImplementedError

    def _on_current(self) -> None:
        layer = self._current.layer
        if not self.is_open or layer is self._layer:
            return
        if self._layer is not None:
            with suppress(ValueError, RuntimeError):
                self._layer.events.data.disconnect(self._on_points_moved)
        self._layer = layer
        self._forget()
        self._on_layer()
        if layer is not None:
            layer.events.data.connect(self._on_points_moved)
            QTimer.singleShot(0, self._look)  # a run that begins has its results ready by then

    def _on_points_moved(self, *_: Any) -> None:
        self._moved_at = time.monotonic()

    def _forget(self) -> None:
        """Have the layer be new at the next look; what is being computed is of no use."""
        self._seen, self._moved_at, self._looked = None, None, False
        self._asked += 1

    def _look(self) -> None:
        """See whether there is something new of the layer."""
        layer = self._layer
        if layer is None or not self.is_open or not self._wanted():
            return
        results = results_of(layer)
        if results is not None:
            self._moved_at = None
            self._on_run(results)
            return
        if self._busy:
            return
        tracks = layer.metadata.get("tracks")
        known = isinstance(tracks, Tracks)
        fresh = known and tracks is not self._seen  # an edit, or those of a run that has ended
        settled = self._moved_at is not None and time.monotonic() - self._moved_at > SETTLED
        if fresh or settled or not (known or self._looked):
            self._seen, self._moved_at, self._looked = tracks if known else None, None, True
            self._on_landmarks(reader_of(layer, changed=not fresh))

    def _compute(self, work: Callable[[], Any], show: Callable[[Any], None]) -> None:
        """Do some work as `do_elsewhere`; show its result unless something else is wanted by then."""
        self._busy, asked = True, self._asked

        def returned(found: Any) -> None:
            if self.is_open and asked == self._asked:
                show(found)

        def finished() -> None:
            self._busy = False

        do_elsewhere(work, returned, finished)


class Wide(QWidget):
    """Curves of a panel, which its `button` moves into a wide dock with a title, and back.

    The dock is under the picture, where time runs along the slider, or floats where the window is low.
    """

    def __init__(self, viewer: Any, curves: QWidget, title: str) -> None:
        super().__init__()
        self._viewer, self._curves, self._title = viewer, curves, title
        self._below: _Below | None = None
        self.button = button(
            "Enlarge", "Show the curves in a wide dock of their own; again to have them here."
        )
        self.button.setCheckable(True)
        self.button.toggled.connect(self._move)
        self.setSizePolicy(curves.sizePolicy())
        fill(self, curves)

    @property
    def below(self) -> bool:
        """Whether the curves are under the picture."""
        return self._below is not None

    def _take_back(self) -> None:  # a method: Qt does not call it once the panel is deleted
        self.button.setChecked(False)

    def _move(self, wide: bool) -> None:
        self.setVisible(not wide)
        if wide:
            self._below = _Below(self._curves, self._title, self._take_back)
            self._viewer.window.add_dock_widget(self._below, name=self._title, area="bottom")
            dock: Any = self._below.parent()  # what napari returns is a proxy
            window = dock.parent()
            window.resizeDocks([dock], [FLOATING[1]], Qt.Orientation.Vertical)
            self._below.watch(window)
            return
        below, self._below = self._below, None
        self.layout().addWidget(self._curves)
        if below is not None and below.parent() is not None:
            self._viewer.window.remove_dock_widget(below)


class _Below(Docked):
    """What is in the wide dock; gives the curves back (`closed`) when that is closed."""

    def __init__(self, curves: QWidget, title: str, closed: Callable[[], None]) -> None:
        super().__init__(title)
        self._closed = closed
        fill(self, curves)

    def leave(self) -> None:
        """Give the curves back."""
        QTimer.singleShot(0, self._closed)

    def watch(self, window: Any) -> None:
        """Have the dock float wherever its window is too low for it, now or later."""
        self._window = window
        for watched in (window, self.parent()):
            watched.installEventFilter(self)
        self._float_if_low()

    def _float_if_low(self) -> None:
        dock: Any = self.parent()
        if dock is None or not self._window.isVisible():  # a dock that floats then crashes Qt
            return
        if self._window.height() < LOW_WINDOW and not dock.isFloating():
            dock.setFloating(True)
            dock.resize(*FLOATING)

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Look at the window again when its size changes; leave the dock when it is closed."""
        if watched is self._window and event.type() == QEvent.Type.Resize:
            QTimer.singleShot(0, self._float_if_low)
        elif watched is not self._window and event.type() == QEvent.Type.Close:
            self.leave()
        return False


STEPS = {"undo": "Undone", "redo": "Done again"}
FILLING = "The run still fills this layer: corrections are possible when it has ended."


class EditingDock(Container):
    """A dock that edits a layer of landmarks, which is chosen in `layers`.

    `widgets` are its controls of magicgui between the list of layers and the status; `undo_button` and
    `redo_button` are for them to hold.
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
        for each, word, what in ((self.undo_button, "undo", undo), (self.redo_button, "redo", redo)):
            each.enabled = bool(what) and not self.busy
            each.tooltip = f"{word.capitalize()} {what}." if what else f"There is nothing to {word}."
        if editor is None:
            self.status.value = FILLING if self._current.filling else NOTHING

    def _step(self, what: str) -> None:
        editor = self.editor
        words = None if editor is None or self.busy else getattr(editor, f"can_{what}")
        if words:  # on other frames than the one on show, perhaps: nothing else would tell
            getattr(editor, what)()
            self.status.value = f"{STEPS[what]}: {words}. {self.status.value}".strip()

    def _tell_error(self, sentence: str) -> None:
        self.status.value = sentence
        show_error(sentence)

    def _on_destroyed(self) -> None:
        self._there.open = False


def undo_and_redo() -> tuple[PushButton, PushButton]:
    """Return the two buttons; their tooltips come to say what they would do."""
    return push("Undo", "Take the last change back."), push("Redo", "Do it again.")
