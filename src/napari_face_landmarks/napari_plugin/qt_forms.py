"""How docks lay out their controls: rows, forms that scroll, lists that a narrow dock does not cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from magicgui.widgets import CheckBox, ComboBox, Container, FloatSpinBox, Label, LineEdit, SpinBox
from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import QComboBox, QFormLayout, QFrame, QLabel, QScrollArea, QSizePolicy, QWidget

from napari_face_landmarks.napari_plugin.current_layer import CurrentLandmarks, current_landmarks
from napari_face_landmarks.settings import REFINE_MODES

SMALLEST_CONTROL, SMALLEST_FORM = 110, 150  # px, width and height
LONGEST_CHOICE = 15  # letters: bundles with their licence
LETTERS_OF_A_LAYER = 8


def row_of(*widgets: Any) -> Container:
    """Return widgets of magicgui side by side."""
    row = Container(widgets=list(widgets), layout="horizontal", labels=False)
    row.margins = (0, 0, 0, 0)
    return row


def with_label(widget: Any) -> Any:
    """Return a control of magicgui with its label before it; what bears its words itself as it is."""
    if not isinstance(widget, (ComboBox, LineEdit, SpinBox)):
        return widget
    row = Container(widgets=[widget])
    row.margins = (0, 0, 0, 0)
    return row


def may_be_narrow(box: QComboBox, letters: int = 0) -> None:
    """Have a closed list cut its line at the end, instead of being as wide as its longest.

    Parameters
    ----------
    box : QComboBox
    letters : int
        How many it has room for at least.
    """
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    if letters:
        box.setMinimumContentsLength(letters)


def call_while_open(widget: QWidget, current: CurrentLandmarks, callback: Callable[[], None]) -> None:
    """Call back when the current landmarks change, until Qt deletes a widget."""
    disconnect = current.connect(callback)
    widget.destroyed.connect(lambda: disconnect())


class LayerChooser(QComboBox):
    """The list of a viewer's landmarks layers; all such lists of a viewer show the same current one.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._current = current_landmarks(viewer)
        self.setToolTip("The landmarks layer that is viewed, checked and corrected.")
        may_be_narrow(self, LETTERS_OF_A_LAYER)
        self._fill()
        self.currentIndexChanged.connect(lambda _: self._current.choose(self.currentData()))
        call_while_open(self, self._current, self._fill)

    def _fill(self) -> None:
        self.blockSignals(True)
        self.clear()
        for layer in self._current.layers:
            self.addItem(layer.name, layer)
        layer = self._current.layer
        self.setCurrentIndex(-1 if layer is None else self._current.layers.index(layer))
        self.blockSignals(False)


def setting_control(item: dataclasses.Field[Any]) -> Any:
    """Return the control of a setting, made from what its field says of it."""
    common = {"name": item.name, "label": item.metadata["label"], "tooltip": item.metadata["help"]}
    if "low" not in item.metadata:
        return ComboBox(choices=REFINE_MODES, value=item.default, **common)
    kind = SpinBox if item.type == "int" else FloatSpinBox
    low, high, step = (item.metadata[key] for key in ("low", "high", "step"))
    return kind(min=low, max=high, step=step, value=item.default, **common)


class ScrollingForm(QScrollArea):
    """Controls under each other, labels in a column of their own; scrolls where the dock is low."""

    def __init__(self, controls: Sequence[Any]) -> None:
        super().__init__()
        body = QWidget()
        form = QFormLayout(body)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for control in controls:
            if isinstance(control, CheckBox):  # has its words in itself
                form.addRow(control.native)
                continue
            label = QLabel(control.label)
            label.setToolTip(control.tooltip)
            if isinstance(control, ComboBox):
                may_be_narrow(control.native, LONGEST_CHOICE)
            if isinstance(control, Label):
                control.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
            control.native.setMinimumWidth(SMALLEST_CONTROL)
            form.addRow(label, control.native)
        self.setWidget(body)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)

    def sizeHint(self) -> QSize:
        """Return the size at which nothing has to scroll."""
        return self.widget().sizeHint() + self._room_for_scroll_bar()

    def minimumSizeHint(self) -> QSize:
        """Return a size that is wide enough for all controls and high enough for some."""
        smallest = self.widget().minimumSizeHint() + self._room_for_scroll_bar()
        return QSize(smallest.width(), min(smallest.height(), SMALLEST_FORM))

    def _room_for_scroll_bar(self) -> QSize:
        return QSize(self.verticalScrollBar().sizeHint().width(), 0)
