"""The tab Check: curves linked to the time slider, the frames to check, and statistics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from qtpy.QtCore import QAbstractListModel, QModelIndex, Qt
from qtpy.QtWidgets import (
    QComboBox,
    QListView,
    QMenu,
    QScrollArea,
    QSizePolicy,
    QSplitter,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_face_landmarks.data.frame import FrameResult
from napari_face_landmarks.data.names import face_label
from napari_face_landmarks.data.tracks import Tracks, collect
from napari_face_landmarks.napari_plugin.commands import CHECK_SHORTCUTS
from napari_face_landmarks.napari_plugin.curves import QualityPlot
from napari_face_landmarks.napari_plugin.layers import NO_LANDMARKS, frame_shown, show_frame
from napari_face_landmarks.napari_plugin.panels import EnlargeableCurves, FollowingPanel
from napari_face_landmarks.napari_plugin.qt_forms import (
    LayerChooser,
    WrappedLabel,
    button,
    hbox,
    set_contents,
    vbox,
    with_tooltip,
)
from napari_face_landmarks.napari_plugin.quality_strips import STRIPS
from napari_face_landmarks.quality import (
    Check,
    Limits,
    Series,
    Suspect,
    check,
    check_series,
    join_series,
    series_of,
)
from napari_face_landmarks.quality.suspects import OF_DISTANCE

FRAMES_PER_UPDATE = 400
"""Frames of a run added to the curves in one update, which takes some milliseconds of the GUI thread."""


def extend_series(series: Series | None, results: Sequence[FrameResult], fps: Any = None) -> Series | None:
    """Return `series` extended by up to `FRAMES_PER_UPDATE` finished frames.

    `series` covers the first frames of `results`, all finished frames of a run; the frame rate `fps` gives
    their time stamps.
    """
    done = 0 if series is None else series.n_frames
    new = results[max(done - 1, 0) : done + FRAMES_PER_UPDATE]
    if len(new) <= min(done, 1):
        return series
    seconds = None
    if isinstance(fps, (int, float)) and fps > 0:
        seconds = np.arange(new[-1].index + 1) / float(fps)
    new_series = series_of(collect(new, timestamps=seconds))
    return new_series if series is None else join_series(series, new_series)


class SuspectsModel(QAbstractListModel):
    """List model of the frames to check; Qt requests only the visible rows."""

    def __init__(self, parent: Any) -> None:
        super().__init__(parent)
        self.suspects: list[Suspect] = []
        self._n_faces = 0

    def set_suspects(self, suspects: list[Suspect], n_faces: int) -> None:
        """Replace the rows; with several faces each row names its face."""
        if suspects == self.suspects and n_faces == self._n_faces:
            return
        self.beginResetModel()
        self.suspects, self._n_faces = suspects, n_faces
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Return the number of suspects."""
        return 0 if parent is not None and parent.isValid() else len(self.suspects)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return the text of a row, or its tooltip, which adds the range of frames."""
        if not index.isValid() or index.row() >= len(self.suspects):
            return None
        suspect = self.suspects[index.row()]
        face = f", face {suspect.face}" if self._n_faces > 1 else ""
        if role == Qt.ItemDataRole.DisplayRole:
            text = suspect.text.replace(OF_DISTANCE, "")  # the full text would be cut off
            return f"{suspect.frame}{face}: {text}"
        if role == Qt.ItemDataRole.ToolTipRole:
            several = f" ({suspect.first} to {suspect.last})" if suspect.first != suspect.last else ""
            return f"Frame {suspect.frame}{several}{face}: {suspect.text}"
        return None


LOOK_AT_ONE = "Look at one nevertheless: an error that is the same on all frames is not detected."
CHECK_SECONDS = 1.5  # between two checks during a run
ORDERS = ("Worst first", "By time")
MIN_TEXT_HEIGHT = 60  # px, of the list and the statistics
HEIGHTS = [380, 170, 170]  # px, preferred, of plot, list and statistics


class QualityDock(FollowingPanel):
    """The panel Check: curves, the list of frames to check, and statistics.

    `found` is the check shown, or None; during a run it is updated.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._active = True
        self._limits = Limits()
        self._live: Series | None = None
        self._checked_at = 0.0
        self._selecting = False
        self.found: Check | None = None
        self._make_controls()
        self._lay_out()
        self._connect()
        self._start_following()

    def _make_controls(self) -> None:
        self.layers = LayerChooser(self._viewer)
        self.faces = with_tooltip(QComboBox(), "Face whose curves are shown.")
        self.plot = QualityPlot()
        self.strips = button("Curves", "Select the curves to show, or enlarge them.")
        menu = QMenu(self.strips)
        self.wide = EnlargeableCurves(self._viewer, self.plot, "Face landmarks: check")
        enlarge = menu.addAction("Enlarge")
        enlarge.setCheckable(True)
        enlarge.toggled.connect(self.wide.button.setChecked)
        self.wide.button.toggled.connect(enlarge.setChecked)
        menu.addSeparator()
        for key, name in STRIPS.items():
            action = menu.addAction(name)
            action.setCheckable(True)
            action.setChecked(True)
            action.setData(key)
        self.strips.setMenu(menu)
        keys = {name: key.upper() for name, key in CHECK_SHORTCUTS.items()}
        self.previous_button = button(
            "Previous",
            f"Go to the previous frame in the list. Key: {keys['previous_to_check']}.",
            self.previous_to_check,
        )
        self.next_button = button(
            "Next",
            f"Go to the next frame in the list, starting with the first. Key: {keys['next_to_check']}.",
            self.next_to_check,
        )
        self._step_buttons = [(each, each.toolTip()) for each in (self.previous_button, self.next_button)]
        self.order = with_tooltip(QComboBox(), "Order of the list, which Previous and Next follow.")
        self.order.addItems(ORDERS)
        self.list = with_tooltip(QListView(), "Frames to check, with the reason; click one to go to it.")
        self.list.setModel(SuspectsModel(self.list))
        self.list.setUniformItemSizes(True)
        self.list.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setEditTriggers(QListView.EditTrigger.NoEditTriggers)
        self.list.setAccessibleName("Frames to check")
        self.statistics = WrappedLabel()

    def _lay_out(self) -> None:
        self.order.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        listed = QWidget()
        set_contents(listed, hbox(self.previous_button, self.next_button, (self.order, 1)), self.list)
        self.list.setMinimumHeight(MIN_TEXT_HEIGHT)
        text = QScrollArea()
        text.setWidget(self.statistics)
        text.setWidgetResizable(True)
        text.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        text.setMinimumHeight(MIN_TEXT_HEIGHT)
        splitter = QSplitter(Qt.Orientation.Vertical)
        for part, stretch in ((self.wide, 5), (listed, 3), (text, 3)):
            splitter.addWidget(part)
            splitter.setStretchFactor(splitter.count() - 1, stretch)
        splitter.setChildrenCollapsible(False)
        splitter.setSizes(HEIGHTS)
        self.setLayout(vbox(hbox((self.layers, 1), self.faces, self.strips), (splitter, 1)))

    def _connect(self) -> None:
        self.faces.currentIndexChanged.connect(self._show_face)
        self.order.currentIndexChanged.connect(self._show_list)
        self.strips.menu().triggered.connect(self._on_strips_changed)
        self.plot.frame_chosen.connect(self.go_to)
        self.list.selectionModel().currentChanged.connect(self._on_row_changed)
        self.list.clicked.connect(self._go_to_row)
        self._viewer.dims.events.current_step.connect(self._on_slider)

    def set_active(self, active: bool) -> None:
        """Start or stop following the landmarks; hidden panels do not follow them."""
        self._active = active
        self._poll()

    # going to frames

    def go_to(self, frame: int) -> None:
        """Move the viewer to a frame of the layer; a layer without time axis moves the plot's cursor only."""
        if self._layer is None or not show_frame(self._viewer, self._layer, frame):
            self.plot.set_cursor(frame)

    def next_to_check(self) -> Suspect | None:
        """Go to the next suspect in the list, with wrap-around, and return it."""
        return self._step(1)

    def previous_to_check(self) -> Suspect | None:
        """Go to the previous suspect in the list, with wrap-around, and return it."""
        return self._step(-1)

    def _step(self, step: int) -> Suspect | None:
        model = self._model()
        suspects: list[Suspect] = model.suspects
        if not suspects:
            return None
        row = int(self.list.currentIndex().row())
        if self.order.currentIndex() == 1:
            row = self._row_in_time(suspects, step)
        elif row < 0:
            row = 0 if step > 0 else len(suspects) - 1
        else:
            row = (row + step) % len(suspects)
        index = model.index(row)
        self._select(index)
        self.list.scrollTo(index)
        self._go_to_row(index)
        return suspects[row]

    def _row_in_time(self, suspects: list[Suspect], step: int) -> int:
        """Return the row of the first suspect after, or the last one before, the current frame."""
        frame = -1 if self.plot.cursor_frame is None else self.plot.cursor_frame
        current = int(self.list.currentIndex().row())
        if 0 <= current < len(suspects) and suspects[current].frame == frame:
            return (current + step) % len(suspects)
        later = [row for row, suspect in enumerate(suspects) if suspect.frame > frame]
        if step > 0:
            return later[0] if later else 0
        earlier = [row for row, suspect in enumerate(suspects) if suspect.frame < frame]
        return earlier[-1] if earlier else len(suspects) - 1

    def _on_row_changed(self, index: QModelIndex, _: QModelIndex) -> None:
        if index.isValid() and not self._selecting:  # by a click or by the arrow keys
            self._go_to_row(index)

    def _select(self, index: QModelIndex) -> None:
        """Select a row of the list without going to its frame."""
        self._selecting = True
        self.list.setCurrentIndex(index)
        self._selecting = False

    def _go_to_row(self, index: QModelIndex) -> None:
        suspect = self._model().suspects[index.row()]
        row = self.faces.findData(suspect.face)
        if row >= 0:
            self.faces.setCurrentIndex(row)
        self.go_to(suspect.frame)

    def _on_slider(self, *_: Any) -> None:
        if self.is_open and self._layer is not None:
            self.plot.set_cursor(frame_shown(self._viewer, self._layer))

    # following the landmarks

    def _is_active(self) -> bool:
        return self._active or self.wide.enlarged

    def _on_layer(self) -> None:
        self._live = None
        self._show(None)
        if self._layer is not None:
            self.statistics.setText("Checking the landmarks …")
            self._on_slider()

    def _on_run(self, results: Sequence[FrameResult]) -> None:
        series = extend_series(self._live, results, self._layer.metadata.get("fps"))
        if series is None or series is self._live:
            return
        self._live = series
        now = time.monotonic()
        if not self._busy and now - self._checked_at > CHECK_SECONDS:
            self._checked_at = now
            self._compute(lambda: check_series(series, self._limits), self._show)
        if self.found is not None:
            self.plot.set_run(series, self.found.suspects, self._face(), self._limits)

    def _on_landmarks(self, read: Callable[[], Tracks]) -> None:
        def show(found: Check | str) -> None:
            self._live = None
            self._show(None if isinstance(found, str) else found)
            if isinstance(found, str):
                self.statistics.setText(found)

        self._compute(lambda: check(read(), self._limits), show)

    # showing the result

    def _show(self, found: Check | None) -> None:
        self.found = found
        faces = [] if found is None else [face.face for face in found.statistics.faces] or [0]
        if faces != [self.faces.itemData(row) for row in range(self.faces.count())]:
            before = self._face()
            with signals_blocked(self.faces):
                self.faces.clear()
                for face in faces:
                    self.faces.addItem(face_label(face), face)
                self.faces.setCurrentIndex(max(self.faces.findData(before), 0))
        self.faces.setVisible(len(faces) > 1)
        self._show_face()
        self._show_list()
        lines = [NO_LANDMARKS] if found is None else [*self._all_good(found), *found.words]
        self.statistics.setText("\n".join(lines))

    def _all_good(self, found: Check) -> list[str]:
        """Return the message shown when no frame is listed, even if the movement curve exceeds its limit."""
        if found.suspects:
            return []
        fast = bool((found.series.movement > self._limits.jump).any())
        explanation = "Movements beyond the limit are not jumps: the frames around them move similarly."
        return ["No frame needs a check.", LOOK_AT_ONE] + fast * [explanation]

    def _face(self) -> int:
        face = self.faces.currentData()
        return 0 if face is None else int(face)

    def _show_face(self, *_: Any) -> None:
        if self.found is None:
            self.plot.set_run(None)
        else:
            series = self.found.series if self._live is None else self._live
            self.plot.set_run(series, self.found.suspects, self._face(), self._limits)

    def _show_list(self, *_: Any) -> None:
        suspects = [] if self.found is None else list(self.found.suspects)
        if self.order.currentIndex() == 1:
            suspects.sort(key=lambda suspect: (suspect.frame, suspect.face))
        model, row = self._model(), self.list.currentIndex().row()
        current = model.suspects[row] if 0 <= row < len(model.suspects) else None
        model.set_suspects(suspects, 0 if self.found is None else len(self.found.statistics.faces))
        for new_row, suspect in enumerate(suspects):
            if current is not None and (suspect.frame, suspect.face) == (current.frame, current.face):
                self._select(model.index(new_row))
                break
        for each, tooltip in self._step_buttons:
            each.setEnabled(bool(suspects))
            each.setToolTip(tooltip if suspects else "The list is empty.")

    def _model(self) -> SuspectsModel:
        return cast(SuspectsModel, self.list.model())

    def _on_strips_changed(self, *_: Any) -> None:
        actions = self.strips.menu().actions()
        chosen = (action.data() for action in actions if action.isChecked())
        self.plot.set_strips(frozenset(key for key in chosen if key in STRIPS))
