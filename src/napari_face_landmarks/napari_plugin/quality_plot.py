"""The quality plot: strips of curves over the frames, painted by Qt alone, quick at any length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QPainter, QPen, QPixmap, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_face_landmarks.napari_plugin.quality_lines import (
    STRIPS,
    Strip,
    covered,
    envelope,
    runs,
    strips_of,
    thinned,
    ticks,
)
from napari_face_landmarks.quality import Limits, Series, Suspect
from napari_face_landmarks.tracking.results import SOURCES

# Okabe and Ito's colours (2008), which stay apart for the colour-blind; the light theme's are darker shades
CURVES_ON_DARK = ("#56b4e9", "#e69f00", "#cc79a7")
CURVES_ON_LIGHT = ("#0072b2", "#a85f00", "#8f3d6b")
CHECK_ON_DARK, CHECK_ON_LIGHT = "#ff6f5e", "#c4200f"
SOURCES_ON_DARK = {"pfld": "#56b4e9", "clnf": "#f0e442", "carried": "#009e73", "manual": "#d55e00"}
SOURCES_ON_LIGHT = {"pfld": "#3d93c6", "clnf": "#8a7f00", "carried": "#00664b", "manual": "#d55e00"}
SOURCE_WORDS = {"pfld": "PFLD", "clnf": "CLNF", "carried": "carried", "manual": "by hand"}

EDGE, GAP = 6, 6  # px round the plot, and between strips
MARKS = 12  # px, height of the lane with what is to be checked
BAND = 10  # px, height of the lane with where the landmarks come from
LEAST_FRAMES = 10.0  # that can be zoomed to
ZOOM = 1.2  # a step of the wheel
PIXELS_A_TICK = 70
SMALLEST, PREFERRED = QSize(200, 180), QSize(320, 300)


class QualityPlot(QWidget):
    """Curves of one face over the frames of a run, with a cursor at the frame that is shown.

    The wheel zooms, with Shift it moves along; dragging with the right or the middle button moves along too;
    a double click shows the whole run. A click, or dragging with the left button, chooses a frame; so do the
    arrow keys, Home and End. Text, lines and marks follow the palette, so that light and dark themes work.

    Attributes
    ----------
    frame_chosen : Signal(int)
        A frame was clicked on.
    view : (float, float)
        The frames at the left and the right edge.
    cursor_frame : int or None
        Where the cursor is.
    """

    frame_chosen = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(False)
        self.setAccessibleName("Quality plot")
        self._series: Series | None = None
        self._suspects: tuple[Suspect, ...] = ()
        self._places = np.zeros((0, 3))  # worst, first and last frame of those of the face
        self._limits = Limits()
        self._face = 0
        self._shown = frozenset(STRIPS)
        self._strips: list[Strip] = []
        self._picture: QPixmap | None = None
        self._dragged_from: tuple[float, tuple[float, float]] | None = None
        self.view = (0.0, 1.0)
        self.cursor_frame: int | None = None

    # what is shown

    def set_run(
        self,
        series: Series | None,
        suspects: Sequence[Suspect] = (),
        face: int = 0,
        limits: Limits | None = None,
    ) -> None:
        """Show a face of a run; what is in view stays so, unless it was the whole run before."""
        whole = self._series is None or self.view == self._extent()
        self._series = series if series is not None and series.n_frames else None
        self._suspects, self._face, self._limits = tuple(suspects), face, limits or Limits()
        mine = [(item.frame, item.first, item.last) for item in suspects if item.face == face]
        self._places = np.array(mine, dtype=np.float64).reshape(-1, 3)
        if whole or self._series is None:
            self.view = self._extent()
        else:
            self._set_view(*self.view)
        self._lay_out()

    def set_strips(self, shown: frozenset[str]) -> None:
        """Choose among `STRIPS` what is shown."""
        self._shown = shown
        self._lay_out()

    def set_cursor(self, frame: int | None) -> None:
        """Move the cursor to a frame; a frame out of view is brought into view."""
        if frame == self.cursor_frame:
            return
        self.cursor_frame = frame
        low, high = self.view
        if frame is not None and self._series is not None and not low <= frame <= high:
            first, last = self._extent()
            if first <= frame <= last:
                self._set_view(frame - (high - low) / 2, frame + (high - low) / 2)
        self.update()

    def show_all(self) -> None:
        """Show the whole run."""
        self.view = self._extent()
        self._repaint()

    def zoom(self, factor: float, about: float | None = None) -> None:
        """Show `factor` times fewer frames, where the frame `about` stays at its place."""
        low, high = self.view
        about = (low + high) / 2 if about is None else about
        span = max((high - low) / factor, LEAST_FRAMES)
        share = (about - low) / max(high - low, 1e-9)
        self._set_view(about - share * span, about + (1 - share) * span)

    def pan(self, frames: float) -> None:
        """Move what is in view by so many frames."""
        self._set_view(self.view[0] + frames, self.view[1] + frames)

    def place_of(self, frame: Any) -> Any:
        """Return where a frame, or an array of frames, is, px from the left."""
        low, high = self.view
        return EDGE + (frame - low) / max(high - low, 1e-9) * self._width()

    def frame_at(self, x: float) -> int:
        """Return the tracked frame next to a place, px from the left."""
        low, high = self.view
        frame = low + (x - EDGE) / max(self._width(), 1) * (high - low)
        if self._series is None:
            return round(frame)
        frames = self._series.frames
        after = int(np.clip(np.searchsorted(frames, frame), 1, max(len(frames) - 1, 1)))
        near = frames[max(after - 1, 0) : after + 1]
        return int(near[np.argmin(np.abs(near - frame))])

    def values_at(self, frame: int) -> str:
        """Return what is known of the face on a frame, in words."""
        series = self._series
        if series is None:
            return ""
        row = int(np.searchsorted(series.frames, frame))
        if row >= series.n_frames or series.frames[row] != frame:
            return f"frame {frame}: not tracked"
        where = f"frame {frame}"
        if np.isfinite(series.seconds[row]):
            where += f" ({series.seconds[row]:.2f} s)"
        if not series.present[row, self._face]:
            return f"{where}: no face"
        face = self._face
        said = [f"confidence {series.confidence[row, face]:.2f}, lowest {series.lowest[row, face]:.2f}"]
        named = (
            ("movement", series.movement),
            ("PFLD to CLNF", series.by_clnf),
            ("off the model", series.off_model),
        )
        for name, values in named:
            if np.isfinite(values[row, face]):
                said.append(f"{name} {100 * values[row, face]:.1f} %")
        if np.isfinite(series.pose[row, face]).all():
            pitch, yaw, roll = series.pose[row, face]
            said.append(f"pitch {pitch:.0f}°, yaw {yaw:.0f}°, roll {roll:.0f}°")
        said.append(SOURCE_WORDS.get(SOURCES[series.source[row, face]], ""))
        said += [
            item.text for item in self._suspects if item.face == face and item.first <= frame <= item.last
        ]
        return f"{where}: " + "; ".join(said)

    def _extent(self) -> tuple[float, float]:
        if self._series is None:
            return 0.0, 1.0
        first, last = float(self._series.frames[0]), float(self._series.frames[-1])
        return first, max(last, first + 1)

    def _set_view(self, low: float, high: float) -> None:
        first, last = self._extent()
        span = min(high - low, last - first)
        low = min(max(low, first), last - span)
        self.view = (low, low + span)
        self._repaint()

    def _lay_out(self) -> None:
        series = self._series
        known = series is not None and self._face < series.n_faces
        self._strips = strips_of(series, self._face, self._limits, self._shown) if series and known else []
        self._repaint()

    def _repaint(self) -> None:
        self._picture = None
        self.update()

    def _width(self) -> int:
        return max(int(self.width()) - 2 * EDGE, 1)

    # painting

    def sizeHint(self) -> QSize:
        """Return a size at which all strips can be read."""
        return PREFERRED

    def minimumSizeHint(self) -> QSize:
        """Return a size at which the shapes of the curves can be seen."""
        return SMALLEST

    def paintEvent(self, event: Any) -> None:
        """Paint the strips, which are kept as a picture until they change, and the cursor over them."""
        ratio = self.devicePixelRatioF()
        if self._picture is None or self._picture.devicePixelRatio() != ratio:
            self._picture = QPixmap(self.size() * ratio)
            self._picture.setDevicePixelRatio(ratio)
            self._picture.fill(Qt.GlobalColor.transparent)
            painter = QPainter(self._picture)
            painter.setFont(self._small_font())
            self._paint_strips(painter)
            painter.end()
        painter = QPainter(self)
        painter.drawPixmap(0, 0, self._picture)
        low, high = self.view
        if self._series is not None and self.cursor_frame is not None and low <= self.cursor_frame <= high:
            painter.setFont(self._small_font())
            self._paint_cursor(painter, self.cursor_frame)
        painter.end()

    def _small_font(self) -> Any:
        font = self.font()
        font.setPointSizeF(max(0.85 * font.pointSizeF(), 7.0))
        return font

    @property
    def _dark(self) -> bool:
        palette = self.palette()
        return bool(palette.color(palette.ColorRole.WindowText).lightnessF() > 0.5)

    def _colour(self, name: str) -> QColor:
        """Return the palette's text colour ("text"), a fainter one ("faint"), or one of ours."""
        palette = self.palette()
        colour = QColor(palette.color(palette.ColorRole.WindowText))
        if name == "faint":
            colour.setAlphaF(0.25)
        elif name == "check":
            return QColor(CHECK_ON_DARK if self._dark else CHECK_ON_LIGHT)
        elif name.isdigit():
            return QColor((CURVES_ON_DARK if self._dark else CURVES_ON_LIGHT)[int(name)])
        elif name in SOURCE_WORDS:
            return QColor((SOURCES_ON_DARK if self._dark else SOURCES_ON_LIGHT)[name])
        return colour

    def _paint_strips(self, painter: QPainter) -> None:
        if self._series is None or self._face >= self._series.n_faces:
            painter.setPen(self._colour("text"))
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, "No landmarks yet")
            return
        line = painter.fontMetrics().height()
        bottom = self.height() - EDGE - line
        top = float(EDGE)
        self._paint_marks(painter, top, bottom)
        top += MARKS + line
        if "source" in self._shown:
            self._paint_sources(painter, bottom - BAND - line - GAP, line)
            bottom -= BAND + line + 2 * GAP
        if self._strips:
            each = (bottom - top) / len(self._strips)
            for k, strip in enumerate(self._strips):
                self._paint_strip(painter, strip, QRectF(EDGE, top + k * each, self._width(), each - GAP))
        self._paint_ticks(painter, line)

    def _paint_marks(self, painter: QPainter, top: float, bottom: float) -> None:
        """Mark what is to be checked, above the strips and faintly behind them."""
        places = self._places
        colour = self._colour("check")
        low, high = self.view
        line = painter.fontMetrics().height()
        said = f"{len(places)} to check" if len(places) else "none to check"
        self._paint_legend(painter, EDGE, top, [(said, colour)], "")
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colour)
        tip = top + line + MARKS - 2
        worst = places[(places[:, 0] >= low) & (places[:, 0] <= high), 0]
        for x in thinned(self.place_of(worst)).tolist():
            painter.drawPolygon(
                QPolygonF([QPointF(x, tip), QPointF(x - 4, tip - 8), QPointF(x + 4, tip - 8)])
            )
        behind = QColor(colour)
        behind.setAlphaF(0.18)
        painter.setBrush(behind)
        seen = places[(places[:, 2] >= low) & (places[:, 1] <= high)]
        left, right = self.place_of(seen[:, 1]) - EDGE, self.place_of(seen[:, 2] + 1) - EDGE
        for start, stop in covered(left, right, self._width()):
            painter.drawRect(QRectF(EDGE + start, tip, stop - start, bottom - tip))

    def _paint_legend(
        self, painter: QPainter, x: float, top: float, entries: Sequence[tuple[str, QColor]], title: str
    ) -> None:
        """Write a title and names beside samples of their colours, as far as there is room."""
        metrics = painter.fontMetrics()
        base = top + metrics.ascent()
        if title:
            painter.setPen(self._colour("text"))
            painter.drawText(QPointF(x, base), title)
            x += metrics.horizontalAdvance(title) + 10
        for name, colour in entries:
            if x + 12 + metrics.horizontalAdvance(name) > EDGE + self._width() + 2:
                return
            painter.setPen(QPen(colour, 3))
            painter.drawLine(
                QPointF(x, base - metrics.ascent() / 3), QPointF(x + 8, base - metrics.ascent() / 3)
            )
            painter.setPen(self._colour("text"))
            painter.drawText(QPointF(x + 12, base), name)
            x += 12 + metrics.horizontalAdvance(name) + 10

    def _paint_strip(self, painter: QPainter, strip: Strip, area: QRectF) -> None:
        line = painter.fontMetrics().height()
        entries = [(curve.name, self._colour(str(curve.colour))) for curve in strip.curves]
        self._paint_legend(painter, area.left(), area.top(), entries, strip.title)
        box = area.adjusted(0, line, 0, 0)
        if box.height() < 8 or self._series is None:
            return
        painter.setPen(QPen(self._colour("faint"), 1))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(box)
        if strip.low < 0 < strip.high:
            middle = self._level(0, strip, box)
            painter.drawLine(QPointF(box.left(), middle), QPointF(box.right(), middle))
        if strip.limit is not None:
            painter.setPen(QPen(self._colour("check"), 1, Qt.PenStyle.DashLine))
            level = self._level(strip.limit, strip, box)
            painter.drawLine(QPointF(box.left(), level), QPointF(box.right(), level))
        painter.save()
        painter.setClipRect(box)
        low, high = self.view
        # what is thinned fills pixels from top to bottom, and smooth lines take twenty times as long
        dense = (high - low) > 2 * self._width()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, not dense)
        wide = 1 if dense else 1.3
        for curve in reversed(strip.curves):  # the first on top
            painter.setPen(QPen(self._colour(str(curve.colour)), wide))
            for frames, values in envelope(self._series.frames, curve.values, low, high, self._width()):
                x = EDGE + (frames - low) / (high - low) * self._width()
                share = (np.clip(values, strip.low, strip.high) - strip.low) / (strip.high - strip.low)
                y = box.bottom() - 1 - share * (box.height() - 2)
                points = [QPointF(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
                if len(points) == 1:
                    painter.drawEllipse(points[0], 1.0, 1.0)
                else:
                    painter.drawPolyline(QPolygonF(points))
        painter.restore()
        painter.setPen(self._colour("text"))
        for value, flag in (
            (strip.high, Qt.AlignmentFlag.AlignTop),
            (strip.low, Qt.AlignmentFlag.AlignBottom),
        ):
            text = f"{value:g}" if value == round(value) else f"{value:.0f}"
            if box.height() > 2 * line:
                painter.drawText(box.adjusted(3, 1, -3, -1), Qt.AlignmentFlag.AlignRight | flag, text)

    def _level(self, value: float, strip: Strip, box: QRectF) -> float:
        share = (value - strip.low) / (strip.high - strip.low)
        return float(box.bottom() - 1 - share * (box.height() - 2))

    def _paint_sources(self, painter: QPainter, top: float, line: int) -> None:
        """Paint a band that says where the landmarks of each frame come from."""
        if self._series is None:
            return
        entries = [(words, self._colour(name)) for name, words in SOURCE_WORDS.items()]
        self._paint_legend(painter, EDGE, top, entries, "")
        painter.setPen(Qt.PenStyle.NoPen)
        low, high = self.view
        for first, end, code in runs(
            self._series.frames, self._series.source[:, self._face], low, high, self._width()
        ):
            if code:
                left, right = max(self.place_of(first), EDGE), min(self.place_of(end), EDGE + self._width())
                painter.setBrush(self._colour(SOURCES[code]))
                painter.drawRect(QRectF(left, top + line + 1, max(right - left, 1.0), BAND))

    def _paint_ticks(self, painter: QPainter, line: int) -> None:
        painter.setPen(self._colour("text"))
        low, high = self.view
        base = self.height() - EDGE + painter.fontMetrics().descent() - 2
        for frame in ticks(low, high, self._width() // PIXELS_A_TICK):
            text = f"{frame}"
            wide = painter.fontMetrics().horizontalAdvance(text)
            x = min(max(self.place_of(frame) - wide / 2, 0), self.width() - wide)
            painter.drawText(QPointF(x, base - painter.fontMetrics().descent()), text)

    def _paint_cursor(self, painter: QPainter, frame: int) -> None:
        x, line = self.place_of(frame), painter.fontMetrics().height()
        foot = self.height() - EDGE - line
        painter.setPen(QPen(self._colour("text"), 1))
        painter.drawLine(QPointF(x, EDGE + line), QPointF(x, foot))
        text = f"{frame}"
        wide = painter.fontMetrics().horizontalAdvance(text) + 8
        place = QRectF(min(max(x - wide / 2, 0), self.width() - wide), foot, wide, line + EDGE)
        palette = self.palette()
        painter.fillRect(place, palette.color(palette.ColorRole.Window))
        painter.drawRect(place.adjusted(0, 0, -1, -1))
        painter.drawText(place, Qt.AlignmentFlag.AlignCenter, text)

    # what the user does

    def event(self, event: Any) -> bool:
        """Tell the values under the mouse."""
        if event.type() == QEvent.Type.ToolTip and self._series is not None:
            QToolTip.showText(event.globalPos(), self.values_at(self.frame_at(event.pos().x())), self)
            return True
        return bool(super().event(event))

    def changeEvent(self, event: Any) -> None:
        """Paint anew after a change of the theme or the font."""
        self._picture = None
        super().changeEvent(event)

    def resizeEvent(self, event: Any) -> None:
        """Paint anew in another size."""
        self._picture = None
        super().resizeEvent(event)

    def wheelEvent(self, event: Any) -> None:
        """Zoom about the mouse; with Shift, or sideways, move along."""
        turn = event.angleDelta()
        if turn.x() or event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            steps = (turn.x() or turn.y()) / 120
            self.pan(-steps * 0.1 * (self.view[1] - self.view[0]))
        else:
            low, high = self.view
            about = low + (event.position().x() - EDGE) / self._width() * (high - low)
            self.zoom(ZOOM ** (turn.y() / 120), about)
        event.accept()

    def mousePressEvent(self, event: Any) -> None:
        """Choose a frame, or begin to move along."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._choose(event.position().x())
        elif event.button() in (Qt.MouseButton.RightButton, Qt.MouseButton.MiddleButton):
            self._dragged_from = (event.position().x(), self.view)

    def mouseMoveEvent(self, event: Any) -> None:
        """Go on choosing or moving along."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._choose(event.position().x())
        elif self._dragged_from is not None:
            x, (low, high) = self._dragged_from
            frames = (x - event.position().x()) / self._width() * (high - low)
            self._set_view(low + frames, high + frames)

    def mouseReleaseEvent(self, event: Any) -> None:
        """End moving along."""
        self._dragged_from = None

    def mouseDoubleClickEvent(self, event: Any) -> None:
        """Show the whole run."""
        self.show_all()

    def keyPressEvent(self, event: Any) -> None:
        """Go a frame on or back, or to the first or last one; plus and minus zoom."""
        series, key = self._series, event.key()
        if series is None:
            super().keyPressEvent(event)
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
            self.zoom(1 / ZOOM if key == Qt.Key.Key_Minus else ZOOM, self.cursor_frame)
        else:
            super().keyPressEvent(event)

    def _choose(self, x: float) -> None:
        if self._series is not None:
            self.frame_chosen.emit(self.frame_at(x))
