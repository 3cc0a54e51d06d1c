"""The quality plot: strips of curves over the frames, painted by Qt alone, quick at any length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QSize, Qt, Signal
from qtpy.QtGui import QPainter, QPixmap
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_face_landmarks.data.fields import SOURCES
from napari_face_landmarks.napari_plugin.quality_colours import SOURCE_WORDS
from napari_face_landmarks.napari_plugin.quality_lines import STRIPS, Strip, strips_of
from napari_face_landmarks.napari_plugin.quality_paint import (
    EDGE,
    Sheet,
    paint_cursor,
    paint_strips,
    place_of,
)
from napari_face_landmarks.quality import Limits, Series, Suspect

LEAST_FRAMES = 10.0  # that can be zoomed to
ZOOM = 1.2  # a step of the wheel
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
        return place_of(frame, *self.view, self._width())

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
            paint_strips(self._sheet(painter), self._strips, self._places, self._series, self._sources())
            painter.end()
        painter = QPainter(self)
        painter.drawPixmap(0, 0, self._picture)
        low, high = self.view
        if self._series is not None and self.cursor_frame is not None and low <= self.cursor_frame <= high:
            painter.setFont(self._small_font())
            paint_cursor(self._sheet(painter), self.cursor_frame)
        painter.end()

    def _small_font(self) -> Any:
        font = self.font()
        font.setPointSizeF(max(0.85 * font.pointSizeF(), 7.0))
        return font

    def _sheet(self, painter: QPainter) -> Sheet:
        return Sheet(painter, self.palette(), *self.view, self.width(), self.height())

    def _sources(self) -> Any:
        """Return where the face's landmarks come from on each frame; None where that is not shown."""
        if self._series is None or self._face >= self._series.n_faces or "source" not in self._shown:
            return None
        return self._series.source[:, self._face]

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
