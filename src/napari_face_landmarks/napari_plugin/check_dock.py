"""The tab Check: curves tied to the time slider, the frames to check, and the statistics in words."""

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
from napari_face_landmarks.napari_plugin.layers import NOTHING, frame_shown, show_frame
from napari_face_landmarks.napari_plugin.panels import FollowingPanel, Wide
from napari_face_landmarks.napari_plugin.qt_forms import (
    LayerChooser,
    Words,
    button,
    column_of,
    fill,
    line_of,
    with_help,
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

FRAMES_AT_A_TIME = 400
"""Frames of a run that are looked at in one go: some milliseconds on the GUI's thread."""


def grown_series(series: Series | None, results: Sequence[FrameResult], fps: Any = None) -> Series | None:
    """Return the series of a run with at most `FRAMES_AT_A_TIME` more of its finished frames.

    `series` is of the first frames of `results`, which are all that are finished; `fps` gives the time of
    each frame.
    """
    done = 0 if series is None else series.n_frames
    fresh = results[max(done - 1, 0) : done + FRAMES_AT_A_TIME]
    if len(fresh) <= min(done, 1):
        return series
    seconds = None
    if isinstance(fps, (int, float)) and fps > 0:
        seconds = np.arange(fresh[-1].index + 1) / float(fps)
    more = series_of(collect(fresh, timestamps=seconds))
    return more if series is None else join_series(series, more)


class SuspectsModel(QAbstractListModel):
    """The places to check, one row each; however many, only those in sight are asked for."""

    def __init__(self, parent: Any) -> None:
        super().__init__(parent)
        self.places: list[Suspect] = []
        self._n_faces = 0

    def fill(self, places: list[Suspect], n_faces: int) -> None:
        """Show other places."""
        if places == self.places and n_faces == self._n_faces:
            return
        self.beginResetModel()
        self.places, self._n_faces = places, n_faces
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Return the number of places."""
        return 0 if parent is not None and parent.isValid() else len(self.places)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a row says, and as its tooltip all of it."""
        if not index.isValid() or index.row() >= len(self.places):
            return None
        place = self.places[index.row()]
        face = f", face {place.face}" if self._n_faces > 1 else ""
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{place.frame}{face}: {place.text.replace(OF_DISTANCE, '')}"  # or it would be cut off
        if role == Qt.ItemDataRole.ToolTipRole:
            frames = (
                f"Frame {place.frame}"
                if place.first == place.last
                else (f"Frame {place.frame}, of {place.first} to {place.last}")
            )
            return f"{frames}{face}: {place.text}"
        return None


LOOK_AT_ONE = "Look at one all the same: what is wrong on all frames stands out on none."
OF_DISTANCE = " of the inter-ocular distance"
CHECK_EVERY = 1.5  # seconds, while a run goes on
ORDERS = ("Worst first", "In order of time")
SMALLEST_TEXT = 60  # px, height of list and statistics
SIZES = [380, 170, 170]  # px, heights of plot, list and statistics in a dock that is high enough


class QualityDock(FollowingPanel):
    """The panel Check: curves, the list of frames to check, and statistics in words.

    `found` is what is shown, or None; it grows while a run goes on.
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
        self._follow()

    def _make_controls(self) -> None:
        self.layers = LayerChooser(self._viewer)
        self.faces = with_help(QComboBox(), "The face whose curves are shown.")
        self.plot = QualityPlot()
        self.strips = button("Curves", "Which curves are shown, and where.")
        menu = QMenu(self.strips)
        self.wide = Wide(self._viewer, self.plot, "Face landmarks: check")
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
            f"Go to the frame above it in the list. Key: {keys['previous_to_check']}.",
            self.previous_to_check,
        )
        self.next_button = button(
            "Next",
            f"Go to the next frame of the list, starting with the first. Key: {keys['next_to_check']}.",
            self.next_to_check,
        )
        self._ways = [(each, each.toolTip()) for each in (self.previous_button, self.next_button)]
        ways = "How the list is ordered, and the way that Next and Previous take."
        self.order = with_help(QComboBox(), ways)
        self.order.addItems(ORDERS)
        self.list = with_help(QListView(), "Frames to look at and why; a click goes there.")
        self.list.setModel(SuspectsModel(self.list))
        self.list.setUniformItemSizes(True)
        self.list.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setEditTriggers(QListView.EditTrigger.NoEditTriggers)
        self.list.setAccessibleName("Frames to check")
        self.statistics = Words()

    def _lay_out(self) -> None:
        self.order.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        listed = QWidget()
        fill(listed, line_of(self.previous_button, self.next_button, (self.order, 1)), self.list)
        self.list.setMinimumHeight(SMALLEST_TEXT)
        words = QScrollArea()
        words.setWidget(self.statistics)
        words.setWidgetResizable(True)
        words.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        words.setMinimumHeight(SMALLEST_TEXT)
        parts = QSplitter(Qt.Orientation.Vertical)
        for part, share in ((self.wide, 5), (listed, 3), (words, 3)):
            parts.addWidget(part)
            parts.setStretchFactor(parts.count() - 1, share)
        parts.setChildrenCollapsible(False)
        parts.setSizes(SIZES)
        self.setLayout(column_of(line_of((self.layers, 1), self.faces, self.strips), (parts, 1)))

    def _connect(self) -> None:
        self.faces.currentIndexChanged.connect(self._show_face)
        self.order.currentIndexChanged.connect(self._show_list)
        self.strips.menu().triggered.connect(self._on_strips_changed)
        self.plot.frame_chosen.connect(self.go_to)
        self.list.selectionModel().currentChanged.connect(self._on_place_chosen)
        self.list.clicked.connect(self._go_to_place)
        self._viewer.dims.events.current_step.connect(self._on_slider)

    def set_active(self, active: bool) -> None:
        """Have the panel follow the landmarks, or leave them alone while it is hidden."""
        self._active = active
        self._look()

    # going to frames

    def go_to(self, frame: int) -> None:
        """Show a frame of the layer in the viewer."""
        if self._layer is None or not show_frame(self._viewer, self._layer, frame):
            self.plot.set_cursor(frame)

    def next_to_check(self) -> Suspect | None:
        """Go to the next suspect in the list, with wrap-around, and return it."""
        return self._step(1)

    def previous_to_check(self) -> Suspect | None:
        """Go to the place before it in the list; return it."""
        return self._step(-1)

    def _step(self, step: int) -> Suspect | None:
        model = self._model()
        places: list[Suspect] = model.places
        if not places:
            return None
        row = int(self.list.currentIndex().row())
        if self.order.currentIndex() == 1:
            row = self._row_in_time(places, step)
        elif row < 0:
            row = 0 if step > 0 else len(places) - 1
        else:
            row = (row + step) % len(places)
        index = model.index(row)
        self._select(index)
        self.list.scrollTo(index)
        self._go_to_place(index)
        return places[row]

    def _row_in_time(self, places: list[Suspect], step: int) -> int:
        """Return the row after, or before, the frame that the slider is at."""
        now = -1 if self.plot.cursor_frame is None else self.plot.cursor_frame
        at = int(self.list.currentIndex().row())
        if 0 <= at < len(places) and places[at].frame == now:
            return (at + step) % len(places)
        later = [row for row, place in enumerate(places) if place.frame > now]
        if step > 0:
            return later[0] if later else 0
        earlier = [row for row, place in enumerate(places) if place.frame < now]
        return earlier[-1] if earlier else len(places) - 1

    def _on_place_chosen(self, index: QModelIndex, _: QModelIndex) -> None:
        if index.isValid() and not self._selecting:  # by a click or by the arrow keys
            self._go_to_place(index)

    def _select(self, index: QModelIndex) -> None:
        """Mark a row of the list without going there."""
        self._selecting = True
        self.list.setCurrentIndex(index)
        self._selecting = False

    def _go_to_place(self, index: QModelIndex) -> None:
        place = self._model().places[index.row()]
        row = self.faces.findData(place.face)
        if row >= 0:
            self.faces.setCurrentIndex(row)
        self.go_to(place.frame)

    def _on_slider(self, *_: Any) -> None:
        if self.is_open and self._layer is not None:
            self.plot.set_cursor(frame_shown(self._viewer, self._layer))

    # what is looked at

    def _wanted(self) -> bool:
        return self._active or self.wide.below

    def _on_layer(self) -> None:
        self._live = None
        self._show(None)
        if self._layer is not None:
            self.statistics.setText("Looking through the landmarks …")
            self._on_slider()

    def _on_run(self, results: Sequence[FrameResult]) -> None:
        grown = grown_series(self._live, results, self._layer.metadata.get("fps"))
        if grown is None or grown is self._live:
            return
        self._live = grown
        now = time.monotonic()
        if not self._busy and now - self._checked_at > CHECK_EVERY:
            self._checked_at = now
            self._compute(lambda: check_series(grown, self._limits), self._show)
        if self.found is not None:
            self.plot.set_run(grown, self.found.suspects, self._face(), self._limits)

    def _on_landmarks(self, read: Callable[[], Tracks]) -> None:
        def show(found: Check | str) -> None:
            self._live = None
            self._show(None if isinstance(found, str) else found)
            if isinstance(found, str):
                self.statistics.setText(found)

        self._compute(lambda: check(read(), self._limits), show)

    # showing it

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
        self.statistics.setText(NOTHING if found is None else "\n".join([*self._none(found), *found.words]))

    def _none(self, found: Check) -> list[str]:
        """Return what is said if no frame is listed, also though a curve is beyond its limit."""
        if found.suspects:
            return []
        fast = bool((found.series.movement > self._limits.jump).any())
        told = ["No frame needs a check.", LOOK_AT_ONE]
        return told + fast * ["Fast movements are like those around them: no jumps."]

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
        places = [] if self.found is None else list(self.found.suspects)
        if self.order.currentIndex() == 1:
            places.sort(key=lambda place: (place.frame, place.face))
        model, row = self._model(), self.list.currentIndex().row()
        current = model.places[row] if 0 <= row < len(model.places) else None
        model.fill(places, 0 if self.found is None else len(self.found.statistics.faces))
        for kept, place in enumerate(places):
            if current is not None and (place.frame, place.face) == (current.frame, current.face):
                self._select(model.index(kept))
                break
        for each, tooltip in self._ways:
            each.setEnabled(bool(places))
            each.setToolTip(tooltip if places else "No frame is in the list.")

    def _model(self) -> SuspectsModel:
        return cast(SuspectsModel, self.list.model())

    def _on_strips_changed(self, *_: Any) -> None:
        actions = self.strips.menu().actions()
        chosen = (action.data() for action in actions if action.isChecked())
        self.plot.set_strips(frozenset(key for key in chosen if key in STRIPS))
