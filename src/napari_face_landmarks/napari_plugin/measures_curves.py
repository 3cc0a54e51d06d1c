"""The curves of one measure of one face, with their uncertainty, blinks and movements; drawn by pyqtgraph."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from qtpy import API_NAME
from qtpy.QtCore import QEvent
from qtpy.QtGui import QPalette
from qtpy.QtWidgets import QSizePolicy

os.environ.setdefault("PYQTGRAPH_QT_LIB", API_NAME)
import pyqtgraph as pg

from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.measures import Event, MeasureTable, blinks, movements
from napari_face_landmarks.measures.plot import SIDES, unit_in_words

BAND_POINTS = 4000
MARK = (128, 128, 128, 60)
SMALLEST = 100  # px, height
MOST_MARKED = 30_000
"""Frames of a recording up to which movements are marked: to find them takes 0.1 s for these."""


class SecondsAxis(pg.AxisItem):
    """The axis above the curves: the seconds of the frames below.

    Attributes
    ----------
    table : MeasureTable or None
    """

    table: MeasureTable | None = None

    def tickStrings(self, values: Any, scale: float, spacing: float) -> list[str]:
        """Return what is written at frames, a float each."""
        table = self.table
        if table is None or not np.isfinite(table.timestamps).all():
            return ["" for _ in values]
        seconds = np.interp(values, table.frame_indices, table.timestamps)
        digits = 1 if np.ptp(table.timestamps) < 10 else 0
        return [f"{second:.{digits}f} s" for second in seconds]


def columns_of(table: MeasureTable | None, name: str) -> list[tuple[str, str]]:
    """Return the columns that show a measure, each with its side: both sides, or one for the whole face."""
    known = () if table is None else table.names
    if name in known:
        return [(name, "both")]
    return [(full, side) for side in ("right", "left") if (full := f"{name}_{side}") in known]


class Curves(pg.PlotWidget):
    """Curves over the frames of one recording, with a cursor.

    Attributes
    ----------
    seconds : SecondsAxis
    cursor : pyqtgraph.InfiniteLine
        At the frame that is shown.
    marks : list of (float, float, int)
        First and last frame of each event, and that of its peak.
    """

    def __init__(self) -> None:
        self.seconds = SecondsAxis("top")
        super().__init__(background=None, axisItems={"top": self.seconds})
        self.marks: list[tuple[float, float, int]] = []
        self.setMinimumHeight(SMALLEST)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Ignored)  # what is left
        self.showGrid(x=False, y=True, alpha=0.2)
        self.legend = self.addLegend(offset=(-5, 5), labelTextSize="8pt")
        self.setLabel("bottom", "frame")
        self.showAxis("top")
        self.setMouseEnabled(x=True, y=False)
        self.getAxis("left").enableAutoSIPrefix(False)
        self.cursor = pg.InfiniteLine(0, angle=90, movable=True, pen=pg.mkPen("#f5c400", width=2))
        self._follow_theme()

    def changeEvent(self, event: Any) -> None:
        """Follow the theme."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.PaletteChange, QEvent.Type.StyleChange) and hasattr(self, "legend"):
            self._follow_theme()

    def _follow_theme(self) -> None:
        self.setBackground(self.palette().color(self.backgroundRole()))
        words = self.palette().color(QPalette.ColorRole.WindowText)
        for name in ("left", "bottom", "top"):
            self.getAxis(name).setPen(words)
            self.getAxis(name).setTextPen(words)
        self.legend.setLabelTextColor(words)
        for _, label in self.legend.items:
            label.setText(label.text)  # draws it in that colour

    def show_measure(self, table: MeasureTable | None, name: str, face: int, title: str = "") -> None:
        """Draw a measure of a face of a table; nothing where there is none."""
        self.clear()
        self.marks = []
        self.seconds.table = table
        self.setTitle(title or None, size="8pt")
        if table is None:
            return
        self.addItem(self.cursor, ignoreBounds=True)
        for column, side in columns_of(table, name):
            self._draw_curve(table, face, column, side)
            unit = table.columns[table.column(column)].unit
            self.setLabel("left", unit_in_words(unit))  # the name would not fit a low plot; the list has it
        self.enableAutoRange(axis="y")
        if name == "closure":
            self.setYRange(-0.1, 1.1)
        self._draw_marks(table, name, face)

    def frame_at(self, point: Any) -> int:
        """Return the frame under a point of the scene, or the peak of the event there."""
        place = self.getPlotItem().vb.mapSceneToView(point).x()
        return next((frame for first, last, frame in self.marks if first <= place <= last), round(place))

    def set_frame(self, frame: int) -> None:
        """Move the cursor."""
        self.cursor.blockSignals(True)
        self.cursor.setValue(frame)
        self.cursor.blockSignals(False)

    def _draw_curve(self, table: MeasureTable, face: int, column: str, side: str) -> None:
        values, errors = table.series(column, face), table.series_error(column, face)
        frames = table.frame_indices.astype(np.float64)
        colour = pg.mkColor(SIDES[side] if side != "both" else "#8a8a8a")
        known = np.flatnonzero(np.isfinite(values + errors))
        if len(known):  # one standard error on either side
            some = known[:: max(1, len(known) // BAND_POINTS)]
            edges = [
                pg.PlotCurveItem(frames[some], values[some] + sign * errors[some], pen=pg.mkPen(None))
                for sign in (1, -1)
            ]
            shade = pg.mkColor(colour)
            shade.setAlpha(45)
            self.addItem(pg.FillBetweenItem(*edges, brush=shade))
        pen = pg.mkPen(colour, width=2)
        shown = side.capitalize() if side != "both" else None
        curve = self.plot(frames, values, pen=pen, connect="finite", name=shown)
        curve.setDownsampling(auto=True, method="peak")

    def _draw_marks(self, table: MeasureTable, name: str, face: int) -> None:
        try:
            found = events_of(table, name, face)
        except FaceLandmarksError:  # no time stamps
            return
        for event in found:
            first, last = np.interp([event.onset, event.end], table.timestamps, table.frame_indices).tolist()
            region = pg.LinearRegionItem((first, last), movable=False, brush=MARK, pen=pg.mkPen(None))
            region.setZValue(-10)
            self.addItem(region, ignoreBounds=True)
            self.marks.append((first, last, event.frame))


def events_of(table: MeasureTable, name: str, face: int) -> list[Event]:
    """Return the blinks of a face, or the movements of a measure that take half its range or more."""
    if name == "closure":
        return [blink.main for blink in blinks(table) if blink.face == face]
    if len(table.frame_indices) > MOST_MARKED:
        return []
    found = []
    for column, _ in columns_of(table, name):
        low, high = np.nanpercentile(table.series(column, face), (1, 99))
        events = movements(table, column, smallest=max(0.0, float(high - low) / 2))
        found += [event for event in events if event.face == face]
    return found
