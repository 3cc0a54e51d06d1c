"""Qt and magicgui building blocks of the panels: forms, rows, layer list, scroll area, close confirmation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

from magicgui.widgets import CheckBox, ComboBox, Container, Label, LineEdit, PushButton, SpinBox
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer
from qtpy.QtGui import QFontMetricsF, QGuiApplication
from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QDockWidget,
    QFileDialog,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLayout,
    QMainWindow,
    QMessageBox,
    QPlainTextEdit,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QTableWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_face_landmarks.napari_plugin.layers import CurrentLandmarks, current_landmarks, show_alone
from napari_face_landmarks.versions import about
from napari_face_landmarks.video import VIDEO_SUFFIXES

PLUGIN, SAMPLE = "napari-face-landmarks", "moving_face"
MIN_CONTROL_WIDTH = 110  # px
MIN_CHOICE_CHARS = 9  # as in "clnf-only"; longer names are elided
MIN_LAYER_NAME_CHARS = 8
TEXT_MARGIN = 1  # px, left and right of the text of a closed combo box
MIN_PANEL_SIZE = QSize(200, 180)  # px
MIN_TABLE_HEIGHT = 90  # px
NO_WRAP_WIDTH = 10_000  # px, at which no text is wrapped


def horizontal_row(*widgets: Any) -> Container:
    """Return magicgui widgets side by side."""
    row = Container(widgets=list(widgets), layout="horizontal", labels=False)
    row.margins = (0, 0, 0, 0)
    return row


def button(text: str, tooltip: str, call: Callable[[], Any] | None = None) -> QPushButton:
    """Return a Qt button that calls `call` without arguments."""
    widget = with_tooltip(QPushButton(text), tooltip)
    if call is not None:
        widget.clicked.connect(lambda: call())
    return widget


def push_button(
    text: str, tooltip: str = "", call: Callable[..., Any] | None = None, enabled: bool = True
) -> PushButton:
    """Return a magicgui button."""
    widget = PushButton(text=text, tooltip=tooltip, enabled=enabled)
    if call is not None:
        widget.changed.connect(call)
    return widget


def with_tooltip(widget: Any, tooltip: str) -> Any:
    """Set the tooltip of a Qt widget and return the widget."""
    widget.setToolTip(tooltip)
    return widget


class WrappedLabel(QLabel):
    """Label that wraps its text and allows copying it; a height of at least `lines` keeps the layout."""

    def __init__(self, lines: int = 1) -> None:
        super().__init__()
        self._lines = lines
        self.setWordWrap(True)
        self.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)

    def heightForWidth(self, width: int) -> int:
        """Return the height of the wrapped text, and at least that of the lines."""
        first, further = super().heightForWidth(NO_WRAP_WIDTH), self._lines - 1
        minimum = first + further * ceil(QFontMetricsF(self.font()).lineSpacing())
        return max(int(super().heightForWidth(width)), int(minimum))


def read_only_table(columns: int) -> QTableWidget:
    """Return an empty table with selectable rows that the user cannot edit."""
    table = QTableWidget(0, columns)
    table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
    table.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
    table.setWordWrap(False)
    table.setMinimumHeight(MIN_TABLE_HEIGHT)
    return table


def hbox(*parts: Any) -> QHBoxLayout:
    """Return Qt widgets and layouts side by side; a part may be a tuple (part, stretch factor)."""
    return _add_parts(QHBoxLayout(), parts)


def vbox(*parts: Any) -> QVBoxLayout:
    """Return Qt widgets and layouts below each other, given as in `hbox`."""
    return _add_parts(QVBoxLayout(), parts)


def set_contents(widget: QWidget, *parts: Any) -> None:
    """Lay out parts in a widget with `vbox`, without margins."""
    column = vbox(*parts)
    column.setContentsMargins(0, 0, 0, 0)
    widget.setLayout(column)


def _add_parts(layout: Any, parts: Sequence[Any]) -> Any:
    for part in parts:
        part, stretch = part if isinstance(part, tuple) else (part, 0)
        add = layout.addLayout if isinstance(part, QLayout) else layout.addWidget
        add(part, stretch)
    return layout


def with_label(widget: Any) -> Any:
    """Return a magicgui control with its label in front; widgets without a separate label are unchanged."""
    if not isinstance(widget, (ComboBox, LineEdit, SpinBox)):
        return widget
    row = Container(widgets=[widget])
    row.margins = (0, 0, 0, 0)
    return row


def elide_long_items(box: QComboBox, min_chars: int = 0) -> None:
    """Let a combo box be narrower than its longest item, but wide enough for `min_chars` characters."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    if min_chars:
        box.setMinimumContentsLength(min_chars)


def call_while_open(widget: QWidget, current: CurrentLandmarks, callback: Callable[[], None]) -> None:
    """Call `callback` whenever the current landmarks layer changes, until Qt deletes the widget."""
    disconnect = current.connect(callback)
    widget.destroyed.connect(lambda: disconnect())


def set_dock_title(widget: QWidget, title: str) -> None:
    """Set the title of the dock that contains a widget, and keep it when the dock is moved."""
    dock = widget.parentWidget()
    while dock is not None and not isinstance(dock, QDockWidget):
        dock = dock.parentWidget()
    if dock is None or dock.windowTitle() == title:
        return
    dock.setWindowTitle(title)

    def set_text(_: Any = None) -> None:
        label = getattr(dock.titleBarWidget(), "title", None)  # napari makes a new title bar on each move
        if isinstance(label, QLabel):
            label.setText(title)

    for signal in (dock.dockLocationChanged, dock.topLevelChanged, dock.visibilityChanged):
        signal.connect(set_text)
    set_text()


class Docked(QWidget):
    """Base class of dock contents; deleted when the dock is closed, where napari only removes the widget.

    The dock's title is `title` alone: with the plugin name that napari adds it would be cut off.
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title

    def showEvent(self, event: Any) -> None:
        """Set the dock's title."""
        super().showEvent(event)
        set_dock_title(self, self._title)

    def event(self, event: Any) -> bool:
        """Call `leave` when the dock is closed: napari then removes this widget from it."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.leave()
        return bool(super().event(event))

    def leave(self) -> None:
        """Delete the widget: otherwise it would keep following the viewer, and might crash Python at exit."""
        self.deleteLater()


class Scrolling(QScrollArea):
    """Vertical scroll area: the minimum heights of docks would otherwise push the window off the screen."""

    def __init__(self, panel: QWidget) -> None:
        super().__init__()
        self.setWidget(panel)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def minimumSizeHint(self) -> QSize:
        """Return the width that the panel needs, and a small height."""
        width = self.widget().minimumSizeHint().width() + self.verticalScrollBar().sizeHint().width()
        return QSize(max(width, MIN_PANEL_SIZE.width()), MIN_PANEL_SIZE.height())

    def sizeHint(self) -> QSize:
        """Return the minimum width, which leaves most of the window to the canvas, and the full height."""
        minimum = self.minimumSizeHint()
        return QSize(minimum.width(), max(minimum.height(), self.widget().sizeHint().height()))


class LayerChooser(QComboBox):
    """Combo box of a viewer's landmarks layers; all of them in a viewer show the same current layer."""

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._current = current_landmarks(viewer)
        self.setToolTip("Landmarks layer that all tabs work on.")
        elide_long_items(self, MIN_LAYER_NAME_CHARS)
        self._fill()
        self.currentIndexChanged.connect(lambda _: self._current.choose(self.currentData()))
        call_while_open(self, self._current, self._fill)

    def _fill(self) -> None:
        with signals_blocked(self):
            self.clear()
            for layer in self._current.layers:
                self.addItem(layer.name, layer)
            layer = self._current.layer
            self.setCurrentIndex(-1 if layer is None else self._current.layers.index(layer))

    def paintEvent(self, event: Any) -> None:
        """Elide a long name in the middle: layer names often differ only at the end."""
        painter, option = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(option)
        combo_box, text_field = QStyle.ComplexControl.CC_ComboBox, QStyle.SubControl.SC_ComboBoxEditField
        field = self.style().subControlRect(combo_box, option, text_field, self)
        option.currentText = self.fontMetrics().elidedText(
            option.currentText, Qt.TextElideMode.ElideMiddle, field.width() - 2 * TEXT_MARGIN
        )
        painter.drawComplexControl(combo_box, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)


class Form(QWidget):
    """Form of magicgui controls with a column of labels."""

    def __init__(self, controls: Sequence[Any]) -> None:
        super().__init__()
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        for control in controls:
            if isinstance(control, CheckBox):  # contains its own label
                form.addRow(control.native)
                continue
            label = with_tooltip(QLabel(control.label), control.tooltip)
            if isinstance(control, ComboBox):
                elide_long_items(control.native, MIN_CHOICE_CHARS)
            if isinstance(control, Label):
                control.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
            control.native.setMinimumWidth(MIN_CONTROL_WIDTH)
            form.addRow(label, control.native)


class Advanced(QWidget):
    """Collapsible form; a click on the heading shows or hides it."""

    def __init__(self, controls: Sequence[Any]) -> None:
        super().__init__()
        self.heading = with_tooltip(QToolButton(), "Models, all settings, and which frames to track.")
        self.heading.setText("Advanced")
        self.heading.setCheckable(True)
        self.heading.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.heading.setArrowType(Qt.ArrowType.RightArrow)
        self._form = Form(controls)
        self._form.setVisible(False)
        set_contents(self, self.heading, self._form)
        self.heading.toggled.connect(self._on_toggled)

    def minimumSizeHint(self) -> QSize:
        """Return a size that is wide enough for the form even when collapsed: the dock keeps its width."""
        minimum = super().minimumSizeHint()
        return QSize(max(minimum.width(), self._form.minimumSizeHint().width()), minimum.height())

    def _on_toggled(self, shown: bool) -> None:
        self.heading.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)
        self._form.setVisible(shown)


def video_patterns() -> str:
    """Return the name filter of a file dialog for videos."""
    return f"Videos ({' '.join(f'*{suffix}' for suffix in VIDEO_SUFFIXES)})"


class Welcome(QWidget):
    """Buttons shown while the viewer has no video: open a file, the sample, or the dock "Many videos".

    `open_study` opens that dock.
    """

    def __init__(self, viewer: Any, open_study: Callable[[], Any]) -> None:
        super().__init__()
        self.open_button = button("Open a video …", "Choose a video file.", lambda: open_video(viewer, self))
        self.sample_button = button(
            "Open the sample",
            "A face that moves for a few seconds.",
            lambda: viewer.open_sample(PLUGIN, SAMPLE),
        )
        self.many_button = button(
            "Many videos …", "Track several videos or a folder, with all measures in one table.", open_study
        )
        hint = QLabel("Open a video first, or track many at once:")
        set_contents(self, hint, hbox(self.open_button, self.sample_button), self.many_button)


def open_video(viewer: Any, parent: QWidget) -> None:
    """Ask for a video file, and show it alone."""
    path, _ = QFileDialog.getOpenFileName(parent, "Open a video", "", video_patterns())
    if path:
        show_alone(viewer, viewer.open(path, plugin=PLUGIN)[0])


class CloseGuard(QObject):
    """Asks for confirmation when the user closes the window of a widget while `busy` returns True."""

    def __init__(self, widget: QWidget, busy: Callable[[], bool]) -> None:
        super().__init__(widget)
        self._busy = busy
        self._window: Any = widget.window()
        parent = widget.parentWidget()
        while parent is not None:  # `widget.window()` may be a floating dock
            self._window = parent if isinstance(parent, QMainWindow) else self._window
            parent = parent.parentWidget()
        self._window.installEventFilter(self)

    @property
    def window_is_open(self) -> bool:
        """Whether the window exists and is shown."""
        try:
            return bool(self._window.isVisible())
        except RuntimeError:  # Qt has deleted it
            return False

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Ask before the window closes, and keep it open unless the user confirms."""
        if event.type() == QEvent.Type.Close and event.spontaneous() and self._busy():
            buttons = QMessageBox.StandardButton
            answer = QMessageBox.question(
                watched,
                "Face landmarks",
                "Landmarks are being tracked in this window. Close it and stop the run?",
                buttons.Yes | buttons.No,
                buttons.No,
            )
            if answer != buttons.Yes:
                event.ignore()
                return True
        return False


def paint_later(window: QWidget) -> None:
    """Suspend painting of a window until the event loop runs: changes until then are painted once."""
    window.setUpdatesEnabled(False)
    timer = QTimer(window)  # deleted with the window
    timer.timeout.connect(lambda: window.setUpdatesEnabled(True))
    timer.timeout.connect(timer.deleteLater)
    timer.start(0)


ABOUT = (
    "68 face landmarks on video: PFLD with CLNF refinement. The code is under the BSD 3-Clause licence; each "
    "bundle of models has its own. Please paste these lines into bug reports:"
)


def show_about(parent: Any = None) -> QDialog:
    """Show the versions in a dialog, which closes with `parent`, and return it."""
    dialog = QDialog(parent)
    dialog.setWindowTitle("About Face Landmarks")
    dialog.resize(420, 420)
    intro = QLabel(ABOUT)
    intro.setWordWrap(True)
    versions = "Versions of the plugin, Python, the operating system, the models and the libraries."
    text = with_tooltip(QPlainTextEdit(about()), versions)
    text.setReadOnly(True)
    buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
    copy = buttons.addButton("Copy", QDialogButtonBox.ButtonRole.ActionRole)
    copy.setToolTip("Copy the versions to the clipboard.")
    copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(text.toPlainText()))
    close = buttons.button(QDialogButtonBox.StandardButton.Close)
    close.setToolTip("Close this window.")
    buttons.rejected.connect(dialog.close)
    dialog.setLayout(vbox(intro, text, buttons))
    dialog.show()
    return dialog
