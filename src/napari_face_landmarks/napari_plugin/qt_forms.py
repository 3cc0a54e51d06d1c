"""How docks lay out their controls: rows, forms that scroll, lists that a narrow dock does not cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from magicgui.widgets import CheckBox, ComboBox, Container, FloatSpinBox, Label, LineEdit, SpinBox
from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import QComboBox, QFormLayout, QFrame, QLabel, QScrollArea, QSizePolicy, QWidget

from napari_face_landmarks.settings import REFINE_MODES

SMALLEST_CONTROL, SMALLEST_FORM = 110, 150  # px, width and height
LONGEST_CHOICE = 15  # letters: bundles with their licence


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


def fill_with_layers(box: QComboBox, layers: Sequence[Any]) -> None:
    """Have a list offer layers; a new one is chosen, for it is what the user works on; nothing is emitted."""
    before = [box.itemData(row) for row in range(box.count())]
    chosen = box.currentData()
    new = [layer for layer in layers if layer not in before]
    if new or chosen not in layers:
        chosen = ([*new] or [*layers] or [None])[-1]
    box.blockSignals(True)
    box.clear()
    for layer in layers:
        box.addItem(layer.name, layer)
    box.setCurrentIndex(-1 if chosen is None else list(layers).index(chosen))
    box.blockSignals(False)


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
