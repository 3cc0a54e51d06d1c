"""The curves of the tabs Check and Measure, linked to the time slider; drawn by pyqtgraph."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import qtpy
from qtpy.QtCore import QEvent, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QPalette
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_face_landmarks.data.fields import SOURCES
from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.measures import Event, MeasureTable, blinks, movements
from napari_face_landmarks.measures.plot import SIDE_COLOURS, unit_symbol
from napari_face_landmarks.napari_plugin.quality_strips import (
    STRIPS,
    Strip,
    envelope,
    snap_spans,
    step_function,
    strips_of,
)
from napari_face_landmarks.quality import Limits, Series, Suspect

os.environ["PYQTGRAPH_QT_LIB"] = qtpy.API_NAME  # pyqtgraph must use the same Qt binding as napari
import pyqtgraph as pg

MIN_FRAMES = 10.0  # in view at the strongest zoom
ZOOM_STEP = 1.2  # per wheel step
MIN_SIZE, PREFERRED_SIZE = QSize(200, 240), QSize(320, 300)
AXIS_WIDTH, RIGHT_MARGIN = 26, 6  # px
TITLE_HEIGHT, LANE_HEIGHT = 16, 22  # px; lanes are the bars above and below the strips
QWIDGETSIZE_MAX = 16777215  # px, no maximum
LABEL_SIZE = "8pt"
SHADE_OPACITY = 0.18  # of the frames to check

# Okabe and Ito's colour-blind safe palette (2008), with darker shades for the light theme
CURVES_ON_DARK = ("#56b4e9", "#e69f00", "#cc79a7")
CURVES_ON_LIGHT = ("#0072b2", "#a85f00", "#8f3d6b")
CHECK_ON_DARK, CHECK_ON_LIGHT = "#ff6f5e", "#c4200f"
SOURCES_ON_DARK = {"pfld": "#56b4e9", "clnf": "#f0e442", "carried": "#009e73", "manual": "#d55e00"}
SOURCES_ON_LIGHT = {"pfld": "#3d93c6", "clnf": "#8a7f00", "carried": "#00664b", "manual": "#d55e00"}
SOURCE_TITLES = {"pfld": "PFLD", "clnf": "CLNF", "carried": "carried", "manual": "manual"}


class QualityPlot(pg.GraphicsLayoutWidget):
    """Curves of one face over the frames of a run, with a cursor at the current frame.

    The wheel zooms, and pans with Shift; dragging with the right or the middle button pans too; a double
    click shows the whole run. A click or drag with the left button, the arrow keys, Home and End choose a
    frame and emit `frame_chosen`. Colours follow the palette, so that light and dark themes work.

    `view` are the frames at the left and the right edge, `cursor_frame` is the frame of the cursor or None.
    """

    frame_chosen = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("Quality plot")
        self.ci.layout.setContentsMargins(0, 2, RIGHT_MARGIN, 0)
        self.ci.layout.setSpacing(0)
        self._series: Series | None = None
        self._suspects: tuple[Suspect, ...] = ()
        self._limits = Limits()
        self._face = 0
        self._visible = frozenset(STRIPS)
        self._strips: list[Strip] = []
        self._plots: list[Any] = []
        self._curves: list[tuple[Any, Any, npt.NDArray[Any]]] = []  # line, isolated points, values
        self._cursors: list[Any] = []
        self._shades: list[tuple[Any, Strip]] = []
        self._source_bars: dict[int, Any] = {}
        self._marks: Any = None
        self._lane: Any = None
        self._dragged_from: tuple[float, tuple[float, float]] | None = None
        self.view = (0.0, 1.0)
        self.cursor_frame: int | None = None
        self._lay_out()
        self._layout_timer = QTimer(self)  # a change of theme arrives as several events
        self._layout_timer.setSingleShot(True)
        self._layout_timer.timeout.connect(self._lay_out)

    # contents and view

    def set_run(
        self,
        series: Series | None,
        suspects: Sequence[Suspect] = (),
        face: int = 0,
        limits: Limits | None = None,
    ) -> None:
        """Show a face of a run, keeping the view unless it was the whole run."""
        whole = self._series is None or self.view == self._extent()
        self._series = series if series is not None and series.n_frames else None
        self._suspects, self._face, self._limits = tuple(suspects), face, limits or Limits()
        low, high = self._extent() if whole or self._series is None else self.view
        self.view = self._clip_view(low, high)
        if not self._update_values():
            self._lay_out()

    def set_strips(self, shown: frozenset[str]) -> None:
        """Show these of `STRIPS`."""
        self._visible = shown
        self._lay_out()

    def set_cursor(self, frame: int | None) -> None:
        """Move the cursor to a frame, and pan if it is out of view."""
        if frame == self.cursor_frame:
            return
        self.cursor_frame = frame
        low, high = self.view
        first, last = self._extent()
        if frame is not None and not low <= frame <= high and first <= frame <= last:
            self._set_view(frame - (high - low) / 2, frame + (high - low) / 2)
        self._place_cursor()

    def show_all(self) -> None:
        """Show the whole run."""
        self._set_view(*self._extent())

    def zoom(self, factor: float, about: float | None = None) -> None:
        """Zoom in by `factor` around the frame `about`, by default the centre of the view."""
        low, high = self.view
        about = (low + high) / 2 if about is None else about
        span = max((high - low) / factor, MIN_FRAMES)
        fraction = (about - low) / max(high - low, 1e-9)
        self._set_view(about - fraction * span, about + (1 - fraction) * span)

    def pan(self, frames: float) -> None:
        """Move the view by a number of frames."""
        self._set_view(self.view[0] + frames, self.view[1] + frames)

    @property
    def inner_width(self) -> int:
        """Width of the strips, px."""
        return max(int(self.width()) - AXIS_WIDTH - RIGHT_MARGIN, 1)

    def frame_at(self, x: float) -> int:
        """Return the tracked frame nearest to `x`, px from the left."""
        low, high = self.view
        frame = low + (x - AXIS_WIDTH) / self.inner_width * (high - low)
        if self._series is None:
            return round(frame)
        frames = self._series.frames
        after = int(np.clip(np.searchsorted(frames, frame), 1, max(len(frames) - 1, 1)))
        neighbours = frames[max(after - 1, 0) : after + 1]
        return int(neighbours[np.argmin(np.abs(neighbours - frame))])

    def values_at(self, frame: int) -> str:
        """Return the values and findings of the face on a frame as text, for the tooltip."""
        series, face = self._series, self._face
        if series is None:
            return ""
        row = int(np.searchsorted(series.frames, frame))
        if row >= series.n_frames or series.frames[row] != frame:
            return f"frame {frame}: not tracked"
        title = f"frame {frame}"
        if np.isfinite(series.seconds[row]):
            title += f" ({series.seconds[row]:.2f} s)"
        if not series.present[row, face]:
            return f"{title}: no face"
        parts = [f"confidence {series.confidence[row, face]:.2f}, lowest {series.lowest[row, face]:.2f}"]
        distances = (
            ("movement", series.movement),
            ("PFLD to CLNF", series.by_clnf),
            ("to the PDM", series.off_model),
        )
        parts += [
            f"{name} {100 * values[row, face]:.1f} %"
            for name, values in distances
            if np.isfinite(values[row, face])
        ]
        if np.isfinite(series.pose[row, face]).all():
            pitch, yaw, roll = series.pose[row, face]
            parts.append(f"pitch {pitch:.0f}°, yaw {yaw:.0f}°, roll {roll:.0f}°")
        parts.append(SOURCE_TITLES.get(SOURCES[series.source[row, face]], ""))
        parts += [
            item.text for item in self._suspects if item.face == face and item.first <= frame <= item.last
        ]
        return f"{title}: " + "; ".join(parts)

    def _extent(self) -> tuple[float, float]:
        if self._series is None:
            return 0.0, 1.0
        first, last = float(self._series.frames[0]), float(self._series.frames[-1])
        return first, max(last, first + 1)

    def _clip_view(self, low: float, high: float) -> tuple[float, float]:
        first, last = self._extent()
        span = min(high - low, last - first)
        low = min(max(low, first), last - span)
        return low, low + span

    def _set_view(self, low: float, high: float) -> None:
        self.view = self._clip_view(low, high)
        self._draw_view()

    # drawing

    def sizeHint(self) -> QSize:
        """Return a size at which all strips are readable."""
        return PREFERRED_SIZE

    def minimumSizeHint(self) -> QSize:
        """Return a size at which the shapes of the curves are visible."""
        return MIN_SIZE

    def _colour(self, name: str) -> QColor:
        """Return the theme's colour of "text", "check", a curve ("0" to "2") or a source."""
        text = QColor(self.palette().color(self.foregroundRole()))
        dark = text.lightnessF() > 0.5
        if name == "check":
            return QColor(CHECK_ON_DARK if dark else CHECK_ON_LIGHT)
        if name.isdigit():
            return QColor((CURVES_ON_DARK if dark else CURVES_ON_LIGHT)[int(name)])
        return QColor((SOURCES_ON_DARK if dark else SOURCES_ON_LIGHT).get(name, text.name()))

    def _lay_out(self) -> None:
        """Create the plots of all strips and lanes."""
        for row in range(len(self._plots)):
            self.ci.layout.setRowMinimumHeight(row, 0)
            self.ci.layout.setRowMaximumHeight(row, QWIDGETSIZE_MAX)
        self.clear()
        self.setBackground(self.palette().color(self.backgroundRole()))
        self._plots, self._curves, self._cursors, self._shades, self._source_bars = [], [], [], [], {}
        series = self._series
        known = series is not None and self._face < series.n_faces
        self._strips = strips_of(series, self._face, self._limits, self._visible) if series and known else []
        if series is None:
            self.addLabel("No landmarks yet", color=self._colour("text").name())
            return
        self._marks = pg.ScatterPlotItem(symbol="t", size=8, pen=None, brush=self._colour("check"))
        self._lane = self._add_lane([], [self._marks])
        for strip in self._strips:
            self._add_strip(strip)
        if known and "source" in self._visible:
            legend = [(title, self._colour(name)) for name, title in SOURCE_TITLES.items()]
            self._source_bars = {
                code: pg.PlotCurveItem(fillLevel=0, pen=None, brush=self._colour(name))
                for code, name in enumerate(SOURCES)
                if name in SOURCE_TITLES
            }
            self._add_lane(legend, list(self._source_bars.values()))
        self._plots[-1].showAxis("bottom")
        if self._source_bars:
            self.ci.layout.setRowFixedHeight(len(self._plots) - 1, 2 * TITLE_HEIGHT + LANE_HEIGHT)
        self._draw_view()

    def _update_values(self) -> bool:
        """Show the current values in the existing strips; return False if they must be created again."""
        series = self._series
        if series is None or not self._plots or self._face >= series.n_faces:
            return False
        strips = strips_of(series, self._face, self._limits, self._visible)
        axes = [[(strip.key, strip.low, strip.high) for strip in each] for each in (strips, self._strips)]
        if axes[0] != axes[1]:
            return False
        curves = [curve for strip in strips for curve in reversed(strip.curves)]
        ranges = [(strip.low, strip.high) for strip in strips for _ in strip.curves]
        self._strips = strips
        self._curves = [
            (line, points, np.clip(curve.values, *low_high))
            for (line, points, _), curve, low_high in zip(self._curves, curves, ranges, strict=True)
        ]
        self._draw_view()
        return True

    def _add_plot(self, title: str, legend: Sequence[tuple[str, QColor]]) -> Any:
        """Add a plot below the others, with a title and a legend of curve names and their colours."""
        plot = self.addPlot(row=len(self._plots), col=0, enableMenu=False)
        plot.setMouseEnabled(x=False, y=False)
        plot.hideButtons()
        plot.layout.setContentsMargins(0, 0, 0, 0)
        plot.vb.setDefaultPadding(0)
        text = self._colour("text")
        names = [f'<span style="color:{colour.name()}">&#9473; {name}</span>' for name, colour in legend]
        plot.setTitle(" ".join([title, *names]), size=LABEL_SIZE, color=text.name(), justify="left")
        plot.titleLabel.setMaximumHeight(TITLE_HEIGHT)
        plot.layout.setRowFixedHeight(0, TITLE_HEIGHT)
        for side in ("left", "bottom"):
            axis = plot.getAxis(side)
            axis.setPen(pg.mkPen(text, width=1))
            axis.setTextPen(text)
            axis.setStyle(tickFont=self._small_font(), tickLength=-3, tickTextOffset=2)
        plot.getAxis("left").setWidth(AXIS_WIDTH)
        plot.hideAxis("bottom")
        cursor = pg.InfiniteLine(angle=90, pen=pg.mkPen(text, width=1))
        cursor.setZValue(10)
        plot.addItem(cursor, ignoreBounds=True)
        self._cursors.append(cursor)
        self._plots.append(plot)
        return plot

    def _add_lane(self, legend: Sequence[tuple[str, QColor]], items: Sequence[Any]) -> Any:
        plot = self._add_plot("", legend)
        plot.setYRange(0, 1, padding=0)
        axis = plot.getAxis("left")
        axis.setStyle(showValues=False)
        axis.setPen(pg.mkPen(None))
        for item in items:
            plot.addItem(item)
        self.ci.layout.setRowFixedHeight(len(self._plots) - 1, TITLE_HEIGHT + LANE_HEIGHT)
        return plot

    def _add_strip(self, strip: Strip) -> None:
        plot = self._add_plot(
            strip.title, [(curve.name, self._colour(str(curve.colour))) for curve in strip.curves]
        )
        plot.setYRange(strip.low, strip.high, padding=0.02)
        plot.getAxis("left").setTicks([[(value, f"{value:.0f}") for value in (strip.low, strip.high)]])
        shade = self._colour("check")
        shade.setAlphaF(SHADE_OPACITY)
        self._shades.append((pg.PlotCurveItem(fillLevel=strip.low, pen=None, brush=shade), strip))
        plot.addItem(self._shades[-1][0])
        for level in ([0.0] if strip.low < 0 else []) + ([] if strip.limit is None else [strip.limit]):
            colour = self._colour("text" if level == 0 else "check")
            style = Qt.PenStyle.DotLine if level == 0 else Qt.PenStyle.DashLine
            plot.addItem(pg.InfiniteLine(level, angle=0, pen=pg.mkPen(colour, width=1, style=style)))
        for curve in reversed(strip.curves):  # the first curve is drawn on top
            colour = self._colour(str(curve.colour))
            line = pg.PlotCurveItem(pen=pg.mkPen(colour, width=1), connect="finite")
            points = pg.ScatterPlotItem(size=3, pen=None, brush=colour)
            plot.addItem(line)
            plot.addItem(points)
            self._curves.append((line, points, np.clip(curve.values, strip.low, strip.high)))

    def _draw_view(self) -> None:
        """Draw the frames in view, reduced to the pixels available."""
        if self._series is None:
            return
        frames, (low, high), width = self._series.frames, self.view, self.inner_width
        suspects = [item for item in self._suspects if item.face == self._face]
        self._lane.setTitle(f"{len(suspects)} to check" if suspects else "none to check")
        marked = np.array([item.frame for item in suspects if low <= item.frame <= high], np.float64)
        step = (high - low) / width
        marked = marked[np.unique(np.floor(marked / step), return_index=True)[1]]  # one per pixel
        self._marks.setData(marked, np.full(len(marked), 0.5))
        spans = np.array([(item.first, item.last) for item in suspects]).reshape(-1, 2)
        x, inside = step_function(snap_spans(spans[(spans[:, 1] >= low) & (spans[:, 0] <= high)], low, step))
        for shade, strip in self._shades:
            shade.setData(x, np.where(inside, strip.high, strip.low))
        for line, points, values in self._curves:
            x, y, isolated = envelope(frames, values, low, high, width)
            line.setData(x, y)
            points.setData(x[isolated], y[isolated])
        if self._source_bars:
            codes = self._series.source[:, self._face]
            start, stop = np.searchsorted(frames, (low - 1, high + 1))
            frames, codes = frames[start:stop], codes[start:stop]
            for code, item in self._source_bars.items():
                edges = np.flatnonzero(np.diff(np.concatenate([[False], codes == code, [False]])))
                spans = np.stack([frames[edges[::2]], frames[edges[1::2] - 1]], axis=1)
                item.setData(*step_function(snap_spans(spans, low, step)))
        for plot in self._plots:
            plot.setXRange(low, high, padding=0)
        self._place_cursor()

    def _place_cursor(self) -> None:
        for cursor in self._cursors:
            cursor.setVisible(self.cursor_frame is not None)
            if self.cursor_frame is not None:
                cursor.setPos(self.cursor_frame)

    def _small_font(self) -> Any:
        font = self.font()
        font.setPointSizeF(max(0.8 * font.pointSizeF(), 7.0))
        return font

    # events

    def viewportEvent(self, event: Any) -> bool:
        """Show the values at the mouse as a tooltip."""
        if event.type() == QEvent.Type.ToolTip and self._series is not None:
            QToolTip.showText(event.globalPos(), self.values_at(self.frame_at(event.pos().x())), self)
            return True
        return bool(super().viewportEvent(event))

    def changeEvent(self, event: Any) -> None:
        """Redraw after a change of the theme or the font."""
        super().changeEvent(event)
        kinds = (QEvent.Type.PaletteChange, QEvent.Type.StyleChange, QEvent.Type.FontChange)
        if event.type() in kinds and hasattr(self, "_layout_timer"):
            self._layout_timer.start(0)

    def resizeEvent(self, event: Any) -> None:
        """Redraw for the new width."""
        super().resizeEvent(event)
        if hasattr(self, "_dragged_from"):
            self._draw_view()

    def wheelEvent(self, event: Any) -> None:
        """Zoom around the mouse; pan with Shift or a horizontal wheel."""
        delta = event.angleDelta()
        low, high = self.view
        if delta.x() or event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            self.pan(-(delta.x() or delta.y()) / 120 * 0.1 * (high - low))
        else:
            about = low + (event.position().x() - AXIS_WIDTH) / self.inner_width * (high - low)
            self.zoom(ZOOM_STEP ** (delta.y() / 120), about)
        event.accept()

    def mousePressEvent(self, event: Any) -> None:
        """Choose a frame, or start panning."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._choose(event.position().x())
        elif event.button() in (Qt.MouseButton.RightButton, Qt.MouseButton.MiddleButton):
            self._dragged_from = (event.position().x(), self.view)
        event.accept()

    def mouseMoveEvent(self, event: Any) -> None:
        """Choose frames or pan while a button is pressed."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._choose(event.position().x())
        elif self._dragged_from is not None:
            x, (low, high) = self._dragged_from
            frames = (x - event.position().x()) / self.inner_width * (high - low)
            self._set_view(low + frames, high + frames)

    def mouseReleaseEvent(self, event: Any) -> None:
        """End panning."""
        self._dragged_from = None

    def mouseDoubleClickEvent(self, event: Any) -> None:
        """Show the whole run."""
        self.show_all()

    def keyPressEvent(self, event: Any) -> None:
        """Go to the previous, next, first or last frame with arrow keys, Home and End; zoom with + and -."""
        series, key = self._series, event.key()
        if series is None:
            event.ignore()
            return
        row = int(np.searchsorted(series.frames, self.cursor_frame or 0))
        rows = {
            Qt.Key.Key_Left: row - 1,
            Qt.Key.Key_Right: row + 1,
            Qt.Key.Key_Home: 0,
            Qt.Key.Key_End: series.n_frames - 1,
        }
        if key in rows:
            self.frame_chosen.emit(int(series.frames[np.clip(rows[key], 0, series.n_frames - 1)]))
        elif key in (Qt.Key.Key_Plus, Qt.Key.Key_Equal, Qt.Key.Key_Minus):
            self.zoom(1 / ZOOM_STEP if key == Qt.Key.Key_Minus else ZOOM_STEP, self.cursor_frame)
        else:
            event.ignore()

    def _choose(self, x: float) -> None:
        if self._series is not None:
            self.frame_chosen.emit(self.frame_at(x))


MAX_BAND_POINTS = 4000
EVENT_COLOUR = (128, 128, 128, 60)
MIN_CURVES_HEIGHT = 100  # px, height
MAX_FRAMES_WITH_EVENTS = 30_000
"""Longest recording in which movements are marked; finding them takes 0.1 s at this length."""


class SecondsAxis(pg.AxisItem):
    """Axis above the curves that shows time stamps, in seconds, at the frame positions of `table`."""

    table: MeasureTable | None = None

    def tickStrings(self, values: Any, scale: float, spacing: float) -> list[str]:
        """Return the tick labels of frame positions."""
        table = self.table
        if table is None or not np.isfinite(table.timestamps).all():
            return ["" for _ in values]
        seconds = np.interp(values, table.frame_indices, table.timestamps)
        digits = 1 if np.ptp(table.timestamps) < 10 else 0
        return [f"{second:.{digits}f} s" for second in seconds]


def columns_of(table: MeasureTable | None, name: str) -> list[tuple[str, str]]:
    """Return the columns of a measure with their sides: "right" and "left", or one column, "both"."""
    names = () if table is None else table.names
    if name in names:
        return [(name, "both")]
    return [(column, side) for side in ("right", "left") if (column := f"{name}_{side}") in names]


class Curves(pg.PlotWidget):
    """Curves over the frames of one recording, with a cursor at the current frame.

    `marks` are the first, last and peak frame of each event.
    """

    def __init__(self) -> None:
        self.seconds = SecondsAxis("top")
        super().__init__(background=None, axisItems={"top": self.seconds})
        self.marks: list[tuple[float, float, int]] = []
        self.setMinimumHeight(MIN_CURVES_HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Ignored)
        self.showGrid(x=False, y=True, alpha=0.2)
        self.legend = self.addLegend(offset=(-5, 5), labelTextSize="8pt")
        self.setLabel("bottom", "frame")
        self.showAxis("top")
        self.seconds.setHeight(self.fontMetrics().height() + 8)  # the automatic height cuts off the labels
        self.setMouseEnabled(x=True, y=False)
        self.getAxis("left").enableAutoSIPrefix(False)
        self.cursor = pg.InfiniteLine(0, angle=90, movable=True, pen=pg.mkPen("#f5c400", width=2))
        self._apply_theme()

    def changeEvent(self, event: Any) -> None:
        """Follow changes of the theme."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.PaletteChange, QEvent.Type.StyleChange) and hasattr(self, "legend"):
            self._apply_theme()

    def _apply_theme(self) -> None:
        self.setBackground(self.palette().color(self.backgroundRole()))
        text = self.palette().color(QPalette.ColorRole.WindowText)
        for name in ("left", "bottom", "top"):
            self.getAxis(name).setPen(text)
            self.getAxis(name).setTextPen(text)
        self.legend.setLabelTextColor(text)
        for _, label in self.legend.items:
            label.setText(label.text)  # redraws it in the new colour

    def show_measure(self, table: MeasureTable | None, name: str, face: int, title: str = "") -> None:
        """Draw a measure of a face; without a table the plot is empty."""
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
            self.setLabel("left", unit_symbol(unit))  # the name would not fit a low plot; the list has it
        self.enableAutoRange(axis="y")
        if name == "closure":
            self.setYRange(-0.1, 1.1)
        self._draw_marks(table, name, face)

    def frame_at(self, point: Any) -> int:
        """Return the frame at a point of the scene; within an event, its peak frame."""
        x = self.getPlotItem().vb.mapSceneToView(point).x()
        return next((peak for first, last, peak in self.marks if first <= x <= last), round(x))

    def set_frame(self, frame: int) -> None:
        """Move the cursor to a frame without emitting its signals."""
        self.cursor.blockSignals(True)
        self.cursor.setValue(frame)
        self.cursor.blockSignals(False)

    def _draw_curve(self, table: MeasureTable, face: int, column: str, side: str) -> None:
        values, errors = table.series(column, face), table.series_error(column, face)
        frames = table.frame_indices.astype(np.float64)
        colour = pg.mkColor(SIDE_COLOURS[side] if side != "both" else "#8a8a8a")
        known = np.flatnonzero(np.isfinite(values + errors))
        if len(known):  # band of one standard error
            band = known[:: max(1, len(known) // MAX_BAND_POINTS)]
            edges = [
                pg.PlotCurveItem(frames[band], values[band] + sign * errors[band], pen=pg.mkPen(None))
                for sign in (1, -1)
            ]
            shade = pg.mkColor(colour)
            shade.setAlpha(45)
            self.addItem(pg.FillBetweenItem(*edges, brush=shade))
        pen = pg.mkPen(colour, width=2)
        label = side.capitalize() if side != "both" else None
        curve = self.plot(frames, values, pen=pen, connect="finite", name=label)
        curve.setDownsampling(auto=True, method="peak")

    def _draw_marks(self, table: MeasureTable, name: str, face: int) -> None:
        try:
            events = events_of(table, name, face)
        except FaceLandmarksError:  # no time stamps
            return
        for event in events:
            first, last = np.interp([event.onset, event.end], table.timestamps, table.frame_indices).tolist()
            region = pg.LinearRegionItem((first, last), movable=False, brush=EVENT_COLOUR, pen=pg.mkPen(None))
            region.setZValue(-10)
            self.addItem(region, ignoreBounds=True)
            self.marks.append((first, last, event.frame))


def events_of(table: MeasureTable, name: str, face: int) -> list[Event]:
    """Return the blinks of a face for "closure", else the movements of at least half the measure's range."""
    if name == "closure":
        return [blink.main for blink in blinks(table) if blink.face == face]
    if len(table.frame_indices) > MAX_FRAMES_WITH_EVENTS:
        return []
    events = []
    for column, _ in columns_of(table, name):
        low, high = np.nanpercentile(table.series(column, face), (1, 99))
        found = movements(table, column, smallest=max(0.0, float(high - low) / 2))
        events += [event for event in found if event.face == face]
    return events
