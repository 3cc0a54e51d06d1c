"""Base classes of panels that follow or edit the current landmarks layer, and curves that can be enlarged."""

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
from napari_face_landmarks.napari_plugin.layers import NO_LANDMARKS, current_landmarks, running_results
from napari_face_landmarks.napari_plugin.points_layer import copy_of_points, tracks_of_points
from napari_face_landmarks.napari_plugin.qt_forms import (
    Docked,
    LayerChooser,
    button,
    call_while_open,
    push_button,
    set_contents,
    with_label,
)

POLL_MS = 300  # between two checks for changes of the layer
MIN_HEIGHT_TO_DOCK = 800  # px; in lower windows enlarged curves float, which leaves the canvas its height
FLOATING_SIZE = (900, 320)  # px
SETTLE_SECONDS = 0.8  # without a further manual change, before the layer is read again


def reader_of(layer: Any, moved: bool = False) -> Callable[[], Tracks]:
    """Return a function that reads a layer's landmarks and may be called in any thread.

    The tracks in the layer's metadata are used unless points were `moved`; the function raises a
    `ResultError` if the points are not landmarks.
    """
    tracks = layer.metadata.get("tracks")
    if isinstance(tracks, Tracks) and not moved:
        return lambda: tracks
    return partial(tracks_of_points, *copy_of_points(layer))


def run_in_thread(
    work: Callable[[], Any], show: Callable[[Any], None], finished: Callable[[], None] | None = None
) -> None:
    """Call `work` in a thread, and then `show` with its result, or with the message of a plugin error."""

    def work_or_message() -> Any:
        try:
            return work()
        except FaceLandmarksError as error:
            return str(error)

    connect = {"returned": show, "finished": finished or (lambda: None)}
    create_worker(work_or_message, _start_thread=True, _connect=connect)


class FollowingPanel(QWidget):
    """Base class of panels that compute something from the current landmarks layer whenever it changes."""

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer
        self._current = current_landmarks(viewer)
        self._state = SimpleNamespace(open=True)  # outlives the widget
        self._layer: Any = None
        self._tracks_read: Tracks | None = None
        self._was_read = self._busy = False
        self._moved_at: float | None = None
        self._generation = 0

    def _start_following(self) -> None:
        """Connect signals and start the timer; to be called when all controls exist."""
        state = self._state
        self.destroyed.connect(lambda: setattr(state, "open", False))
        call_while_open(self, self._current, self._on_current)
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._poll)
        self._timer.start()
        self._on_layer()
        self._on_current()

    @property
    def is_open(self) -> bool:
        """Whether the panel still exists; napari's events may arrive after Qt has deleted it."""
        return bool(self._state.open)

    def _on_layer(self) -> None:
        """Clear the panel: the current layer has changed, or there is none."""
        raise NotImplementedError

    def _on_run(self, results: Sequence[FrameResult]) -> None:
        """Update the panel with the frames that a run in progress has finished so far."""
        raise NotImplementedError

    def _on_landmarks(self, read: Callable[[], Tracks]) -> None:
        """Compute from the changed landmarks, which `read` returns."""
        raise NotImplementedError

    def _is_active(self) -> bool:
        """Whether the panel should follow the landmarks now."""
        raise NotImplementedError

    def _on_current(self) -> None:
        layer = self._current.layer
        if not self.is_open or layer is self._layer:
            return
        if self._layer is not None:
            with suppress(ValueError, RuntimeError):
                self._layer.events.data.disconnect(self._on_points_moved)
        self._layer = layer
        self._invalidate()
        self._on_layer()
        if layer is not None:
            layer.events.data.connect(self._on_points_moved)
            QTimer.singleShot(0, self._poll)  # by then a starting run has registered its results

    def _on_points_moved(self, *_: Any) -> None:
        self._moved_at = time.monotonic()

    def _invalidate(self) -> None:
        """Read the layer again at the next poll, and discard the result of a computation in progress."""
        self._tracks_read, self._moved_at, self._was_read = None, None, False
        self._generation += 1

    def _poll(self) -> None:
        """Update the panel if the layer has changed."""
        layer = self._layer
        if layer is None or not self.is_open or not self._is_active():
            return
        results = running_results.get(layer)
        if results is not None:
            self._moved_at = None
            self._on_run(results)
            return
        if self._busy:
            return
        tracks = layer.metadata.get("tracks")
        known = isinstance(tracks, Tracks)
        replaced = known and tracks is not self._tracks_read  # by an edit, or at the end of a run
        moved = self._moved_at is not None and time.monotonic() - self._moved_at > SETTLE_SECONDS
        if replaced or moved or not (known or self._was_read):
            self._tracks_read, self._moved_at, self._was_read = tracks if known else None, None, True
            self._on_landmarks(reader_of(layer, moved=not replaced))

    def _compute(self, work: Callable[[], Any], show: Callable[[Any], None]) -> None:
        """Call `work` in a thread, and `show` with its result unless the layer has changed meanwhile."""
        self._busy, generation = True, self._generation

        def returned(result: Any) -> None:
            if self.is_open and generation == self._generation:
                show(result)

        def finished() -> None:
            self._busy = False

        run_in_thread(work, returned, finished)


class EnlargeableCurves(QWidget):
    """Curves of a panel; `button` moves them into a wide dock with a title, and back.

    The dock is below the canvas, along the time slider; in a low window it floats.
    """

    def __init__(self, viewer: Any, curves: QWidget, title: str) -> None:
        super().__init__()
        self._viewer, self._curves, self._title = viewer, curves, title
        self._dock: _WideDock | None = None
        self.button = button("Enlarge", "Show the curves in a wide dock; click again to return them here.")
        self.button.setCheckable(True)
        self.button.toggled.connect(self._move)
        self.setSizePolicy(curves.sizePolicy())
        set_contents(self, curves)

    @property
    def enlarged(self) -> bool:
        """Whether the curves are in their wide dock."""
        return self._dock is not None

    def _return(self) -> None:  # a method: Qt does not call it once the panel is deleted
        self.button.setChecked(False)

    def _move(self, enlarge: bool) -> None:
        self.setVisible(not enlarge)
        if enlarge:
            self._dock = _WideDock(self._curves, self._title, self._return)
            self._viewer.window.add_dock_widget(self._dock, name=self._title, area="bottom")
            dock: Any = self._dock.parent()  # `add_dock_widget` returns a proxy
            window = dock.parent()
            window.resizeDocks([dock], [FLOATING_SIZE[1]], Qt.Orientation.Vertical)
            self._dock.watch(window)
            return
        contents, self._dock = self._dock, None
        self.layout().addWidget(self._curves)
        if contents is not None and contents.parent() is not None:
            self._viewer.window.remove_dock_widget(contents)


class _WideDock(Docked):
    """Contents of the wide dock; calls `closed`, which returns the curves, when the dock is closed."""

    def __init__(self, curves: QWidget, title: str, closed: Callable[[], None]) -> None:
        super().__init__(title)
        self._closed = closed
        set_contents(self, curves)

    def leave(self) -> None:
        """Return the curves to their panel."""
        QTimer.singleShot(0, self._closed)

    def watch(self, window: Any) -> None:
        """Float the dock while its window is too low for it, now and after a resize."""
        self._window = window
        for watched in (window, self.parent()):
            watched.installEventFilter(self)
        self._float_if_low()

    def _float_if_low(self) -> None:
        dock: Any = self.parent()
        if dock is None or not self._window.isVisible():  # floating a dock of a hidden window crashes Qt
            return
        if self._window.height() < MIN_HEIGHT_TO_DOCK and not dock.isFloating():
            dock.setFloating(True)
            dock.resize(*FLOATING_SIZE)

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Check the height again when the window is resized; return the curves when the dock is closed."""
        if watched is self._window and event.type() == QEvent.Type.Resize:
            QTimer.singleShot(0, self._float_if_low)
        elif watched is not self._window and event.type() == QEvent.Type.Close:
            self.leave()
        return False


DONE = {"undo": "Undone", "redo": "Redone"}
BEING_TRACKED = "This layer is still being tracked: it can be corrected when the run has ended."


class EditingDock(Container):
    """Base class of panels that edit the landmarks layer chosen in `layers`.

    `widgets` are the magicgui controls between the list of layers and the status; subclasses create
    `undo_button` and `redo_button` and include them there.
    """

    undo_button: PushButton
    redo_button: PushButton

    def __init__(self, viewer: Any, widgets: list[Any]) -> None:
        self._viewer = viewer
        self._active = self.is_open = True
        self._connected: list[LayerEditor] = []
        self._current = current_landmarks(viewer)
        self.layers = LayerChooser(viewer)
        self.status = Label(value="")
        # labelled one by one: a label column of magicgui would indent all rows without a label
        rows = [with_label(widget) for widget in (*widgets, self.status)]
        super().__init__(widgets=rows, labels=False)
        self.native.layout().insertWidget(0, self.layers)
        self.native.layout().addStretch(1)
        self.status.native.setWordWrap(True)
        self.undo_button.changed.connect(lambda: self._undo_or_redo("undo"))
        self.redo_button.changed.connect(lambda: self._undo_or_redo("redo"))
        call_while_open(self.native, self._current, self._on_layer)
        self.native.destroyed.connect(self._on_destroyed)

    @property
    def layer(self) -> Any:
        """The current landmarks layer, or None."""
        return self._current.layer

    @property
    def editor(self) -> LayerEditor | None:
        """Editor of the current layer; None without a layer and while a run is writing to it."""
        if self.layer is None or self._current.being_tracked:
            return None
        try:
            editor = editor_of(self.layer)
        except FaceLandmarksError:  # a layer without points yet
            return None
        if editor not in self._connected:
            self._connected.append(editor)
            editor.changed.append(self._update)
        return editor

    def set_active(self, active: bool) -> None:
        """Start or stop following the landmarks; hidden panels do not follow them."""
        self._active = active
        self._update()

    @property
    def busy(self) -> bool:
        """Whether an operation is running during which edits are disabled."""
        return False

    def _on_layer(self) -> None:
        self._update()

    def _update(self) -> None:
        """Show the state of the current layer's editor, unless the panel is hidden or closed."""
        if self.is_open and self._active:
            self._show(self.editor)

    def _show(self, editor: LayerEditor | None) -> None:
        undo, redo = (None, None) if editor is None else (editor.can_undo, editor.can_redo)
        for each, action, edit in ((self.undo_button, "undo", undo), (self.redo_button, "redo", redo)):
            each.enabled = bool(edit) and not self.busy
            each.tooltip = f"{action.capitalize()} {edit}." if edit else f"There is nothing to {action}."
        if editor is None:
            self.status.value = BEING_TRACKED if self._current.being_tracked else NO_LANDMARKS

    def _undo_or_redo(self, action: str) -> None:
        editor = self.editor
        edit = None if editor is None or self.busy else getattr(editor, f"can_{action}")
        if edit:  # reported, since it may affect only frames that are not shown
            getattr(editor, action)()
            self.status.value = f"{DONE[action]}: {edit}. {self.status.value}".strip()

    def _show_error(self, sentence: str) -> None:
        self.status.value = sentence
        show_error(sentence)

    def _on_destroyed(self) -> None:
        self.is_open = False


def undo_and_redo() -> tuple[PushButton, PushButton]:
    """Return the Undo and the Redo button; `EditingDock` sets their tooltips."""
    return push_button("Undo"), push_button("Redo")
