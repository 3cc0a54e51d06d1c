"""How the quality plot is painted: functions over a painter, the strips first and the cursor over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QPainter, QPalette, QPen, QPolygonF

from napari_face_landmarks.data.fields import SOURCES
from napari_face_landmarks.napari_plugin.quality_colours import SOURCE_WORDS, colour_of
from napari_face_landmarks.napari_plugin.quality_lines import Strip, covered, envelope, runs, thinned, ticks
from napari_face_landmarks.quality import Series

EDGE, GAP = 6, 6  # px round the plot, and between strips
MARKS = 12  # px, height of the lane with what is to be checked
BAND = 10  # px, height of the lane with where the landmarks come from
SAMPLE = 12  # px that a line in a legend takes
PIXELS_A_TICK = 70


@dataclass(frozen=True)
class Sheet:
    """What is painted on.

    Attributes
    ----------
    painter : QPainter
    palette : QPalette
    low, high : float
        The frames at the left and the right edge.
    width, height : int
        Pixels.
    """

    painter: QPainter
    palette: QPalette
    low: float
    high: float
    width: int
    height: int

    @property
    def inner(self) -> int:
        """The width of the strips, px."""
        return max(self.width - 2 * EDGE, 1)

    @property
    def line(self) -> int:
        """The height of a line of text, px."""
        return int(self.painter.fontMetrics().height())

    def place_of(self, frame: Any) -> Any:
        """Return where a frame, or an array of frames, is, px from the left."""
        return place_of(frame, self.low, self.high, self.inner)

    def colour(self, name: str) -> QColor:
        """Return a colour, see `colour_of`."""
        return colour_of(name, self.palette)

    def wide(self, text: str) -> int:
        """Return the width of a text, px."""
        return int(self.painter.fontMetrics().horizontalAdvance(text))


def place_of(frame: Any, low: float, high: float, inner: int) -> Any:
    """Return where a frame, or an array of frames, is, px from the left of the plot."""
    return EDGE + (frame - low) / max(high - low, 1e-9) * inner


def paint_strips(
    sheet: Sheet,
    strips: Sequence[Strip],
    places: npt.NDArray[np.float64],
    series: Series | None,
    sources: npt.NDArray[np.uint8] | None,
) -> None:
    """Paint all but the cursor.

    Parameters
    ----------
    sheet : Sheet
    strips : sequence of Strip
    places : ndarray, (N, 3)
        The worst, the first and the last frame of each place to check.
    series : Series or None
        Whose frames the strips are of; without it there is nothing to paint.
    sources : ndarray, (T,), or None
        Where the landmarks of each frame come from; not shown where None.
    """
    painter, line = sheet.painter, sheet.line
    if series is None:
        painter.setPen(sheet.colour("text"))
        whole = QRectF(0, 0, sheet.width, sheet.height)
        painter.drawText(whole, Qt.AlignmentFlag.AlignCenter, "No landmarks yet")
        return
    bottom = sheet.height - EDGE - line
    _paint_marks(sheet, places, float(EDGE), bottom)
    top = float(EDGE + MARKS + line)
    if sources is not None:
        _paint_sources(sheet, series.frames, sources, bottom - BAND - line - GAP)
        bottom -= BAND + line + 2 * GAP
    if strips:
        each = (bottom - top) / len(strips)
        for k, strip in enumerate(strips):
            area = QRectF(EDGE, top + k * each, sheet.inner, each - GAP)
            _paint_strip(sheet, strip, series.frames, area)
    _paint_ticks(sheet)


def paint_cursor(sheet: Sheet, frame: int) -> None:
    """Paint a line at a frame, and its number below."""
    painter, x, line = sheet.painter, sheet.place_of(frame), sheet.line
    foot = sheet.height - EDGE - line
    painter.setPen(QPen(sheet.colour("text"), 1))
    painter.drawLine(QPointF(x, EDGE + line), QPointF(x, foot))
    wide = sheet.wide(f"{frame}") + 8
    place = QRectF(min(max(x - wide / 2, 0), sheet.width - wide), foot, wide, line + EDGE)
    painter.fillRect(place, sheet.palette.color(QPalette.ColorRole.Window))
    painter.drawRect(place.adjusted(0, 0, -1, -1))
    painter.drawText(place, Qt.AlignmentFlag.AlignCenter, f"{frame}")


def _paint_marks(sheet: Sheet, places: npt.NDArray[np.float64], top: float, bottom: float) -> None:
    """Mark what is to be checked, above the strips and faintly behind them."""
    painter, colour = sheet.painter, sheet.colour("check")
    said = f"{len(places)} to check" if len(places) else "none to check"
    _paint_legend(sheet, EDGE, top, [(said, colour)])
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(colour)
    tip = top + sheet.line + MARKS - 2
    worst = places[(places[:, 0] >= sheet.low) & (places[:, 0] <= sheet.high), 0]
    for x in thinned(sheet.place_of(worst)).tolist():
        corners = [QPointF(x, tip), QPointF(x - 4, tip - 8), QPointF(x + 4, tip - 8)]
        painter.drawPolygon(QPolygonF(corners))
    colour.setAlphaF(0.18)
    painter.setBrush(colour)
    seen = places[(places[:, 2] >= sheet.low) & (places[:, 1] <= sheet.high)]
    left, right = sheet.place_of(seen[:, 1]) - EDGE, sheet.place_of(seen[:, 2] + 1) - EDGE
    for start, stop in covered(left, right, sheet.inner):
        painter.drawRect(QRectF(EDGE + start, tip, stop - start, bottom - tip))


def _paint_legend(
    sheet: Sheet, x: float, top: float, entries: Sequence[tuple[str, QColor]], title: str = ""
) -> None:
    """Write a title and names beside samples of their colours, as far as there is room."""
    painter, ascent = sheet.painter, sheet.painter.fontMetrics().ascent()
    base = top + ascent
    if title:
        painter.setPen(sheet.colour("text"))
        painter.drawText(QPointF(x, base), title)
        x += sheet.wide(title) + 10
    for name, colour in entries:
        if x + SAMPLE + sheet.wide(name) > EDGE + sheet.inner + 2:
            return
        painter.setPen(QPen(colour, 3))
        painter.drawLine(QPointF(x, base - ascent / 3), QPointF(x + SAMPLE - 4, base - ascent / 3))
        painter.setPen(sheet.colour("text"))
        painter.drawText(QPointF(x + SAMPLE, base), name)
        x += SAMPLE + sheet.wide(name) + 10


def _paint_strip(sheet: Sheet, strip: Strip, frames: npt.NDArray[np.int64], area: QRectF) -> None:
    painter, line = sheet.painter, sheet.line
    entries = [(curve.name, sheet.colour(str(curve.colour))) for curve in strip.curves]
    _paint_legend(sheet, area.left(), area.top(), entries, strip.title)
    box = area.adjusted(0, line, 0, 0)
    if box.height() < 8:
        return
    painter.setPen(QPen(sheet.colour("faint"), 1))
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.drawRect(box)
    if strip.low < 0 < strip.high:
        _paint_level(painter, 0, strip, box)
    if strip.limit is not None:
        painter.setPen(QPen(sheet.colour("check"), 1, Qt.PenStyle.DashLine))
        _paint_level(painter, strip.limit, strip, box)
    painter.save()
    painter.setClipRect(box)
    # what is thinned fills pixels from top to bottom, and smooth lines take twenty times as long
    dense = (sheet.high - sheet.low) > 2 * sheet.inner
    painter.setRenderHint(QPainter.RenderHint.Antialiasing, not dense)
    for curve in reversed(strip.curves):  # the first on top
        painter.setPen(QPen(sheet.colour(str(curve.colour)), 1 if dense else 1.3))
        for at, values in envelope(frames, curve.values, sheet.low, sheet.high, sheet.inner):
            x, y = sheet.place_of(at).tolist(), _height_of(values, strip, box).tolist()
            points = [QPointF(a, b) for a, b in zip(x, y, strict=True)]
            if len(points) == 1:
                painter.drawEllipse(points[0], 1.0, 1.0)
            else:
                painter.drawPolyline(QPolygonF(points))
    painter.restore()
    if box.height() > 2 * line:
        painter.setPen(sheet.colour("text"))
        inside = box.adjusted(3, 1, -3, -1)
        right = Qt.AlignmentFlag.AlignRight
        painter.drawText(inside, right | Qt.AlignmentFlag.AlignTop, f"{strip.high:.0f}")
        painter.drawText(inside, right | Qt.AlignmentFlag.AlignBottom, f"{strip.low:.0f}")


def _paint_level(painter: QPainter, value: float, strip: Strip, box: QRectF) -> None:
    y = float(_height_of(np.array(value), strip, box))
    painter.drawLine(QPointF(box.left(), y), QPointF(box.right(), y))


def _height_of(values: npt.NDArray[np.float64], strip: Strip, box: QRectF) -> npt.NDArray[np.float64]:
    """Return where values are, px from the top; those beyond the axis are at its end."""
    share = (np.clip(values, strip.low, strip.high) - strip.low) / (strip.high - strip.low)
    return np.asarray(box.bottom() - 1 - share * (box.height() - 2))


def _paint_sources(
    sheet: Sheet, frames: npt.NDArray[np.int64], sources: npt.NDArray[np.uint8], top: float
) -> None:
    """Paint a band that says where the landmarks of each frame come from."""
    _paint_legend(sheet, EDGE, top, [(words, sheet.colour(name)) for name, words in SOURCE_WORDS.items()])
    sheet.painter.setPen(Qt.PenStyle.NoPen)
    for first, end, code in runs(frames, sources, sheet.low, sheet.high, sheet.inner):
        if code:
            left = max(sheet.place_of(first), EDGE)
            right = min(sheet.place_of(end), EDGE + sheet.inner)
            sheet.painter.setBrush(sheet.colour(SOURCES[code]))
            sheet.painter.drawRect(QRectF(left, top + sheet.line + 1, max(right - left, 1.0), BAND))


def _paint_ticks(sheet: Sheet) -> None:
    sheet.painter.setPen(sheet.colour("text"))
    for frame in ticks(sheet.low, sheet.high, sheet.inner // PIXELS_A_TICK):
        text = f"{frame}"
        wide = sheet.wide(text)
        x = min(max(sheet.place_of(frame) - wide / 2, 0), sheet.width - wide)
        sheet.painter.drawText(QPointF(x, sheet.height - EDGE - 2), text)
