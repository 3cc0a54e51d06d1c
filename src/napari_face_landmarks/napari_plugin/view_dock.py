"""The tab View: colours with a legend, outlines, numbers and trails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QFrame,
    QGridLayout,
    QLabel,
    QLineEdit,
    QSizePolicy,
    QSpinBox,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.napari_plugin.layers import NO_LANDMARKS, camera_of, current_landmarks, per_viewer
from napari_face_landmarks.napari_plugin.overlay_layers import FrameLayers, chosen_landmarks, recolour
from napari_face_landmarks.napari_plugin.qt_forms import (
    LayerChooser,
    button,
    call_while_open,
    hbox,
    vbox,
    with_tooltip,
)
from napari_face_landmarks.visualization.colours import COLOUR_MODES, ColourMode, legend_of, mode_of

MODE_TITLES = {"confidence": "Confidence", "source": "Source", "region": "Face region"}
DEFAULT_TRAILS = "30"  # the tip of the nose
MAX_WINDOW = 1000  # frames
OVERLAYS = {
    "Outlines": "Connect the landmarks of brows, eyes, nose, lips and jaw on the current frame.",
    "Numbers": "Show the numbers of the landmarks, 0 to 67; zoom in to see all of them.",
    "Trails": "Draw the paths of the landmarks below over the preceding frames.",
}
"""Overlays with their tooltips."""

_overlays: WeakKeyDictionary[Any, Overlays] = WeakKeyDictionary()


class Overlays:
    """Overlay layers of a viewer, redrawn after changes of the viewer or the landmarks.

    They remain when the dock is closed. The callbacks in `updated` are called after each update.
    """

    def __init__(self, viewer: Any) -> None:
        self.shown = FrameLayers(viewer)
        self.updated: list[Callable[[], None]] = []
        self._current = current_landmarks(viewer)
        self._timer = QTimer()  # runs after the handlers of layer events, which must not remove layers
        self._timer.setSingleShot(True)
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._update)
        self._current.connect(self._on_current)
        viewer.dims.events.point.connect(self.schedule)
        camera_of(viewer).events.zoom.connect(self._on_zoom)
        viewer.layers.events.removed.connect(self.schedule)
        self._on_current()

    def schedule(self, _: Any = None) -> None:
        """Update in the next turn of the event loop."""
        self._timer.start()

    def _on_zoom(self, _: Any = None) -> None:
        if self.shown.numbers:  # the zoom changes how many numbers fit
            self.schedule()

    def _on_current(self) -> None:
        layer = self._current.layer
        if layer is not self.shown.layer:
            if self.shown.layer is not None:
                with suppress(RuntimeError, ValueError, TypeError):
                    self.shown.layer.events.set_data.disconnect(self.schedule)
            if layer is not None:
                layer.events.set_data.connect(self.schedule)
            self.shown.layer = layer
        self.schedule()

    def _update(self) -> None:
        self.shown.update()
        for callback in list(self.updated):
            callback()


def overlays_of(viewer: Any) -> Overlays:
    """Return the viewer's `Overlays`, of which there is one."""
    return per_viewer(_overlays, viewer, Overlays)


class ViewDock(QWidget):
    """The panel View: colours of the landmarks, and the overlay layers (`shown`)."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._current = current_landmarks(napari_viewer)
        self._overlays = overlays_of(napari_viewer)
        self.shown = self._overlays.shown
        self._make_controls(napari_viewer)
        self._lay_out()
        self._update_boxes()
        self.colour.currentIndexChanged.connect(self._on_colour)
        for box in (self.outlines, self.numbers, self.trails):
            box.toggled.connect(self._on_choice)
        self.landmarks.editingFinished.connect(self._on_choice)
        self.window.valueChanged.connect(self._on_choice)
        call_while_open(self, self._current, self._on_layer)
        self._overlays.updated.append(self._update_boxes)
        updated, call = self._overlays.updated, self._update_boxes
        self.destroyed.connect(lambda: updated.remove(call))
        self._on_layer()

    def _make_controls(self, viewer: Any) -> None:
        self.layers = LayerChooser(viewer)
        self.colour = with_tooltip(
            QComboBox(),
            "Colour the points by confidence (0 to 1), by source or by facial region; no new run is needed.",
        )
        for mode in COLOUR_MODES:
            self.colour.addItem(MODE_TITLES[mode], mode)
        self.outlines, self.numbers, self.trails = (
            with_tooltip(QCheckBox(words), tooltip) for words, tooltip in OVERLAYS.items()
        )
        self.landmarks = with_tooltip(QLineEdit(DEFAULT_TRAILS), "Landmarks with trails, such as 30, 36-47.")
        self.use_selected = button(
            "Selected", "Use the landmarks of the layer's selected points.", self._use_selected
        )
        window_help = "Length of the trails in frames; long trails take longer to draw."
        self.window = with_tooltip(QSpinBox(), window_help)
        self.window.setRange(1, MAX_WINDOW)
        self.window.setValue(25)
        self.legend = QWidget()
        self.legend.setLayout(QGridLayout())
        self._entries: Any = None
        self.status = QLabel("")
        self.status.setWordWrap(True)

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Layer", self.layers)
        form.addRow("Colour by", self.colour)
        form.addRow(self.legend)
        form.addRow(hbox(self.outlines, self.numbers, self.trails))
        form.addRow("Trails of no.", hbox(self.landmarks, self.use_selected))
        form.addRow("Trail, frames", self.window)
        for field in (self.layers, self.colour, self.landmarks):
            field.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        column = vbox(form, self.status)
        column.addStretch(1)
        self.setLayout(column)

    @property
    def layer(self) -> Any:
        """The current landmarks layer, or None."""
        return self._current.layer

    def _on_layer(self) -> None:
        layer = self.layer
        for control in (self.colour, self.outlines, self.numbers, self.trails, self.window, self.landmarks):
            control.setEnabled(layer is not None)
        self.use_selected.setEnabled(layer is not None)
        self.status.setText("" if layer is not None else NO_LANDMARKS)
        if layer is not None:
            with signals_blocked(self.colour):
                self.colour.setCurrentIndex(COLOUR_MODES.index(mode_of(layer)))
        self._show_legend()

    def _on_colour(self, _: int) -> None:
        if self.layer is not None:
            recolour(self.layer, self.mode)
            self._show_legend()

    @property
    def mode(self) -> ColourMode:
        """The chosen colour mode."""
        mode: ColourMode = self.colour.currentData()
        return mode

    def _on_choice(self, _: Any = None) -> None:
        try:
            chosen = chosen_landmarks(self.landmarks.text())
            self.status.setText("")
        except FaceLandmarksError as error:
            chosen = []
            self.status.setText(str(error))
        self.shown.outlines = self.outlines.isChecked()
        self.shown.numbers = self.numbers.isChecked()
        self.shown.trails = chosen if self.trails.isChecked() else []
        self.shown.window = self.window.value()
        self._overlays.schedule()

    def _use_selected(self) -> None:
        rows = sorted(self.layer.selected_data)
        landmarks = sorted({int(number) for number in self.layer.features["landmark"].iloc[rows]})
        if not landmarks:
            self.status.setText("No points are selected: select some of the layer's points first.")
            return
        self.landmarks.setText(", ".join(str(number) for number in landmarks))
        self.trails.setChecked(True)
        self._on_choice()

    def _update_boxes(self) -> None:
        """Check the boxes of the overlays drawn; an overlay layer that the user removed is unchecked."""
        for box, wanted in (
            (self.outlines, self.shown.outlines),
            (self.numbers, self.shown.numbers),
            (self.trails, bool(self.shown.trails) or (self.trails.isChecked() and bool(self.status.text()))),
        ):
            with signals_blocked(box):
                box.setChecked(wanted)

    def _show_legend(self) -> None:
        grid, entries = self.legend.layout(), legend_of(self.mode)
        if entries == self._entries:
            return
        self._entries = entries
        while grid.count():
            old = grid.takeAt(0).widget()
            old.setParent(None)  # removes it immediately; `deleteLater` waits for the event loop
            old.deleteLater()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(3)
        per_row = len(entries) if self.mode == "confidence" else 2
        for number, entry in enumerate(entries):
            row, column = divmod(number, per_row)
            swatch, label = QFrame(), QLabel(entry.label)
            swatch.setFixedSize(16, 12)
            swatch.setStyleSheet(f"background-color: {entry.colour}; border: 1px solid #808080;")
            swatch.setAccessibleName(f"{entry.label}: {entry.colour}")
            grid.addWidget(swatch, row, 2 * column, Qt.AlignmentFlag.AlignVCenter)
            grid.addWidget(label, row, 2 * column + 1)
        grid.setColumnStretch(2 * per_row, 1)
