"""Parts that panels are made of: forms, rows, lists of layers, and the question before a window closes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

from magicgui.widgets import CheckBox, ComboBox, Container, FloatSpinBox, Label, LineEdit, PushButton, SpinBox
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
from napari_face_landmarks.settings import REFINE_MODES
from napari_face_landmarks.versions import about
from napari_face_landmarks.video import VIDEO_SUFFIXES

PLUGIN, SAMPLE = "napari-face-landmarks", "moving_face"
SMALLEST_CONTROL = 110  # px, width
LONGEST_CHOICE = 9  # letters, as in "clnf-only"; longer names are elided
LETTERS_OF_A_LAYER = 8
EDGE = 1  # px, on both sides of a list's words
SMALLEST_PANEL = QSize(200, 180)  # px
LOWEST_TABLE = 90  # px
ONE_LINE = 10_000  # px, a width in which nothing is wrapped


def row_of(*widgets: Any) -> Container:
    """Return widgets of magicgui side by side."""
    row = Container(widgets=list(widgets), layout="horizontal", labels=False)
    row.margins = (0, 0, 0, 0)
    return row


def button(text: str, tooltip: str, call: Callable[[], Any] | None = None) -> QPushButton:
    """Return a button of Qt."""
    made = with_help(QPushButton(text), tooltip)
    if call is not None:
        made.clicked.connect(lambda: call())
    return made


def push(
    text: str, tooltip: str = "", call: Callable[..., Any] | None = None, enabled: bool = True
) -> PushButton:
    """Return a button of magicgui."""
    made = PushButton(text=text, tooltip=tooltip, enabled=enabled)
    if call is not None:
        made.changed.connect(call)
    return made


def with_help(widget: Any, tooltip: str) -> Any:
    """Return a widget of Qt, which now has a tooltip."""
    widget.setToolTip(tooltip)
    return widget


class Words(QLabel):
    """Words that are wrapped and may be copied, at least so many `lines` high: what is above stays there."""

    def __init__(self, lines: int = 1) -> None:
        super().__init__()
        self._lines = lines
        self.setWordWrap(True)
        self.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)

    def heightForWidth(self, width: int) -> int:
        """Return the height that the words need, or that of the lines."""
        one, more = super().heightForWidth(ONE_LINE), self._lines - 1
        least = one + more * ceil(QFontMetricsF(self.font()).lineSpacing())
        return max(int(super().heightForWidth(width)), int(least))


def table_to_read(columns: int) -> QTableWidget:
    """Return a table without rows yet, of which the user selects rows and edits nothing."""
    table = QTableWidget(0, columns)
    table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
    table.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
    table.setWordWrap(False)
    table.setMinimumHeight(LOWEST_TABLE)
    return table


def line_of(*parts: Any) -> QHBoxLayout:
    """Return widgets of Qt and layouts side by side, each alone or with its share of the room left."""
    return _filled(QHBoxLayout(), parts)


def column_of(*parts: Any) -> QVBoxLayout:
    """Return widgets of Qt and layouts under each other, as `line_of`."""
    return _filled(QVBoxLayout(), parts)


def fill(widget: QWidget, *parts: Any) -> None:
    """Fill a widget with a `column_of` parts, without margins."""
    column = column_of(*parts)
    column.setContentsMargins(0, 0, 0, 0)
    widget.setLayout(column)


def _filled(layout: Any, parts: Sequence[Any]) -> Any:
    for part in parts:
        part, share = part if isinstance(part, tuple) else (part, 0)
        add = layout.addLayout if isinstance(part, QLayout) else layout.addWidget
        add(part, share)
    return layout


def with_label(widget: Any) -> Any:
    """Return a control of magicgui with its label before it; what bears its words itself as it is."""
    if not isinstance(widget, (ComboBox, LineEdit, SpinBox)):
        return widget
    row = Container(widgets=[widget])
    row.margins = (0, 0, 0, 0)
    return row


def may_be_narrow(box: QComboBox, letters: int = 0) -> None:
    """Have a closed list cut its line at the end, instead of being as wide as its longest.

    `letters` is how many it has room for at least.
    """
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    if letters:
        box.setMinimumContentsLength(letters)


def call_while_open(widget: QWidget, current: CurrentLandmarks, callback: Callable[[], None]) -> None:
    """Call back when the current landmarks change, until Qt deletes a widget."""
    disconnect = current.connect(callback)
    widget.destroyed.connect(lambda: disconnect())


def entitle(widget: QWidget, title: str) -> None:
    """Show a title in the bar of the dock that a widget is in, now and wherever the dock is moved to."""
    dock = widget.parentWidget()
    while dock is not None and not isinstance(dock, QDockWidget):
        dock = dock.parentWidget()
    if dock is None or dock.windowTitle() == title:
        return
    dock.setWindowTitle(title)

    def show(_: Any = None) -> None:
        words = getattr(dock.titleBarWidget(), "title", None)  # napari makes a new bar each time
        if isinstance(words, QLabel):
            words.setText(title)

    for moved in (dock.dockLocationChanged, dock.topLevelChanged, dock.visibilityChanged):
        moved.connect(show)
    show()


class Docked(QWidget):
    """What fills a dock, and is deleted when that is closed: napari only takes it out.

    The dock's bar bears `title`, without the plugin's name that napari adds, which would be cut off.
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title

    def showEvent(self, event: Any) -> None:
        """Have the bar bear the title."""
        super().showEvent(event)
        entitle(self, self._title)

    def event(self, event: Any) -> bool:
        """Leave the dock where that is closed: napari then takes this widget out of it."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.leave()
        return bool(super().event(event))

    def leave(self) -> None:
        """End with the dock: what lived on would follow the viewer, and might crash Python at its end."""
        self.deleteLater()


class Scrolling(QScrollArea):
    """A panel that scrolls where the window is low, and so never pushes the window off the screen."""

    def __init__(self, panel: QWidget) -> None:
        super().__init__()
        self.setWidget(panel)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def minimumSizeHint(self) -> QSize:
        """Return a size that is wide enough for the panel, and low."""
        width = self.widget().minimumSizeHint().width() + self.verticalScrollBar().sizeHint().width()
        return QSize(max(width, SMALLEST_PANEL.width()), SMALLEST_PANEL.height())

    def sizeHint(self) -> QSize:
        """Return the height at which nothing has to scroll; more width would narrow the picture."""
        smallest = self.minimumSizeHint()
        return QSize(smallest.width(), max(smallest.height(), self.widget().sizeHint().height()))


class LayerChooser(QComboBox):
    """The list of a viewer's landmarks layers; all such lists of a viewer show the same current one."""

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._current = current_landmarks(viewer)
        self.setToolTip("The landmarks layer that is viewed, checked and corrected.")
        may_be_narrow(self, LETTERS_OF_A_LAYER)
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
        """Shorten a long name in the middle: its end says more than "landm" would."""
        painter, option = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(option)
        kinds = QStyle.ComplexControl.CC_ComboBox, QStyle.SubControl.SC_ComboBoxEditField
        room = self.style().subControlRect(kinds[0], option, kinds[1], self).width() - 2 * EDGE
        option.currentText = self.fontMetrics().elidedText(
            option.currentText, Qt.TextElideMode.ElideMiddle, room
        )
        painter.drawComplexControl(kinds[0], option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)


def setting_control(item: dataclasses.Field[Any]) -> Any:
    """Return the control of a setting, made from what its field says of it."""
    common = {"name": item.name, "label": item.metadata["label"], "tooltip": item.metadata["help"]}
    if "low" not in item.metadata:
        return ComboBox(choices=REFINE_MODES, value=item.default, **common)
    kind = SpinBox if item.type == "int" else FloatSpinBox
    low, high, step = (item.metadata[key] for key in ("low", "high", "step"))
    return kind(min=low, max=high, step=step, value=item.default, **common)


class Form(QWidget):
    """Controls of magicgui under each other, with labels in a column of their own."""

    def __init__(self, controls: Sequence[Any]) -> None:
        super().__init__()
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        for control in controls:
            if isinstance(control, CheckBox):  # has its words in itself
                form.addRow(control.native)
                continue
            label = with_help(QLabel(control.label), control.tooltip)
            if isinstance(control, ComboBox):
                may_be_narrow(control.native, LONGEST_CHOICE)
            if isinstance(control, Label):
                control.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
            control.native.setMinimumWidth(SMALLEST_CONTROL)
            form.addRow(label, control.native)


class Advanced(QWidget):
    """A form that is shown when its heading is clicked on."""

    def __init__(self, controls: Sequence[Any]) -> None:
        super().__init__()
        self.heading = with_help(QToolButton(), "Models, all settings, and which frames to track.")
        self.heading.setText("Advanced")
        self.heading.setCheckable(True)
        self.heading.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.heading.setArrowType(Qt.ArrowType.RightArrow)
        self._form = Form(controls)
        self._form.setVisible(False)
        fill(self, self.heading, self._form)
        self.heading.toggled.connect(self._on_toggled)

    def minimumSizeHint(self) -> QSize:
        """Return a size that is wide enough for the form, shown or not: a dock should not grow with it."""
        smallest = super().minimumSizeHint()
        return QSize(max(smallest.width(), self._form.minimumSizeHint().width()), smallest.height())

    def _on_toggled(self, shown: bool) -> None:
        self.heading.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)
        self._form.setVisible(shown)


def video_patterns() -> str:
    """Return the line of a file dialog that shows videos."""
    return f"Videos ({' '.join(f'*{suffix}' for suffix in VIDEO_SUFFIXES)})"


class Welcome(QWidget):
    """What is shown while a viewer has no video: buttons that open one, the sample, or `many` videos."""

    def __init__(self, viewer: Any, many: Callable[[], Any]) -> None:
        super().__init__()
        self.open_button = button("Open a video …", "Choose a video file.", lambda: open_video(viewer, self))
        self.sample_button = button(
            "Open the sample",
            "A face that moves for a few seconds.",
            lambda: viewer.open_sample(PLUGIN, SAMPLE),
        )
        self.many_button = button(
            "Many videos …", "Track several videos or a folder, with all measures in one table.", many
        )
        words = QLabel("Open a video first, or track many at once:")
        fill(self, words, line_of(self.open_button, self.sample_button), self.many_button)


def open_video(viewer: Any, parent: QWidget) -> None:
    """Ask for a video file, and show it alone."""
    path, _ = QFileDialog.getOpenFileName(parent, "Open a video", "", video_patterns())
    if path:
        show_alone(viewer, viewer.open(path, plugin=PLUGIN)[0])


class CloseGuard(QObject):
    """Asks before the window of a widget is closed by its user while something goes on in it (`busy`)."""

    def __init__(self, widget: QWidget, busy: Callable[[], bool]) -> None:
        super().__init__(widget)
        self._busy = busy
        self._window: Any = widget.window()
        above = widget.parentWidget()
        while above is not None:  # a floating dock is a window too
            self._window = above if isinstance(above, QMainWindow) else self._window
            above = above.parentWidget()
        self._window.installEventFilter(self)

    @property
    def window_is_open(self) -> bool:
        """Whether the window is there and shown."""
        try:
            return bool(self._window.isVisible())
        except RuntimeError:  # Qt has deleted it
            return False

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Ask, and have the window stay open if that is the answer."""
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
    """Have a window painted once, after what goes on now and the next layout, not together with them."""
    window.setUpdatesEnabled(False)
    timer = QTimer(window)  # goes with the window
    timer.timeout.connect(lambda: window.setUpdatesEnabled(True))
    timer.timeout.connect(timer.deleteLater)
    timer.start(0)


WORDS = (
    "68 face landmarks on video: PFLD with CLNF refinement. The code is under the BSD 3-Clause licence, each "
    "bundle of models under its own. In a report of a bug, paste these lines:"
)


def show_about(parent: Any = None) -> QDialog:
    """Show the versions in a window of their own, which closes with `parent`, and return it."""
    dialog = QDialog(parent)
    dialog.setWindowTitle("About Face Landmarks")
    dialog.resize(420, 420)
    words = QLabel(WORDS)
    words.setWordWrap(True)
    versions = "Versions of the plugin, Python, the system, the models and the libraries."
    text = with_help(QPlainTextEdit(about()), versions)
    text.setReadOnly(True)
    buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
    copy = buttons.addButton("Copy", QDialogButtonBox.ButtonRole.ActionRole)
    copy.setToolTip("Copy the lines to the clipboard.")
    copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(text.toPlainText()))
    close = buttons.button(QDialogButtonBox.StandardButton.Close)
    close.setToolTip("Close this window.")
    buttons.rejected.connect(dialog.close)
    dialog.setLayout(column_of(words, text, buttons))
    dialog.show()
    return dialog
