"""Conversion of frames to upright ones with square pixels for tracking, and of landmarks back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.tracking.regions import Region, Regions
from napari_face_landmarks.video.pixels import resize

PIXEL_ASPECT = "pixel_aspect"
"""Entry of `Tracks.meta`: how much wider than high pixels are shown, where they are not square."""
TURN = "turn"
"""Entry of `Tracks.meta`: `FrameView.turn`, where frames were turned for tracking."""


@dataclass(frozen=True)
class FrameView:
    """Conversion of frames that are not upright, or have no square pixels, for tracking."""

    size: tuple[int, int]  # height and width of a frame
    pixel_aspect: float = 1.0  # how much wider than high a pixel is shown
    # what makes a frame upright, in this order: whether rows and columns are swapped, then the columns
    # reversed, then the rows
    turn: tuple[bool, bool, bool] = (False, False, False)

    @cached_property
    def stretch(self) -> float:
        """How much wider the turned frame is made, with a whole number of columns."""
        width = self._turned[1]
        aspect = 1 / self.pixel_aspect if self.turn[0] else self.pixel_aspect
        return max(1, round(width * aspect)) / width

    @property
    def seen_size(self) -> tuple[int, int]:
        """Height and width of the converted frames."""
        height, width = self._turned
        return height, round(width * self.stretch)

    @property
    def _turned(self) -> tuple[int, int]:
        return self.size[::-1] if self.turn[0] else self.size

    @cached_property
    def _changes(self) -> bool:
        return any(self.turn) or self.stretch != 1

    def __bool__(self) -> bool:
        """Return whether frames are converted at all."""
        return self._changes

    def frame(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return a frame (H, W, 3), converted."""
        if not self:
            return rgb
        seen = rgb.transpose(1, 0, 2) if self.turn[0] else rgb
        seen = np.ascontiguousarray(seen[:: -1 if self.turn[2] else 1, :: -1 if self.turn[1] else 1])
        return resize(seen, *self.seen_size, (1.0, 1 / self.stretch))

    def seen(self, points: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Convert points of the source frames, (..., 2), x then y, to converted frames."""
        found = np.array(points[..., ::-1] if self.turn[0] else points, dtype=np.float32)
        for axis, reversed_ in enumerate(self.turn[1:]):
            if reversed_:
                found[..., axis] = self._turned[1 - axis] - 1 - found[..., axis]
        if self.stretch != 1:
            found[..., 0] = (found[..., 0] + 0.5) * self.stretch - 0.5
        return found

    def in_source(self, points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Convert points of converted frames, (..., 2), x then y, to the source frames."""
        if not self:
            return points
        found = points.copy()
        if self.stretch != 1:
            found[..., 0] = (found[..., 0] + 0.5) / self.stretch - 0.5
        for axis, reversed_ in enumerate(self.turn[1:]):
            if reversed_:
                found[..., axis] = self._turned[1 - axis] - 1 - found[..., axis]
        return np.ascontiguousarray(found[..., ::-1]) if self.turn[0] else found

    def iris_in_source(self, iris: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Convert irises of converted frames, (..., 8) as in `FaceArrays`, to the source frames."""
        if not self:
            return iris
        found = iris.copy()
        for first in (0, 4):
            found[..., first : first + 2] = self.in_source(iris[..., first : first + 2])
            found[..., first + 2] /= self.stretch
        return found

    def regions(self, regions: Regions, back: bool = False) -> Regions:
        """Convert regions of the source frames to converted frames, or `back`."""

        def moved(region: Region) -> Region:
            given = np.array(region.box, dtype=np.float32).reshape(2, 2)
            corners = (self.in_source if back else self.seen)(given)
            (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
            return Region((float(x0), float(y0), float(x1), float(y1)), region.first, region.last)

        if not self:
            return regions
        return Regions(tuple(map(moved, regions.look)), tuple(map(moved, regions.ignore)))

    @property
    def meta(self) -> dict[str, Any]:
        """What results record of it."""
        turned = {TURN: list(self.turn)} if any(self.turn) else {}
        stretch = self.stretch
        return turned if stretch == 1 else {**turned, PIXEL_ASPECT: 1 / stretch if self.turn[0] else stretch}


def recorded_view(tracks: Tracks, size: tuple[int, int]) -> FrameView:
    """Return the conversion of frames of a size (height, width) with which tracks were made."""
    aspect, turn = tracks.meta.get(PIXEL_ASPECT), tracks.meta.get(TURN)
    known = isinstance(aspect, (int, float)) and np.isfinite(aspect) and 0.01 < aspect < 100
    turned = isinstance(turn, (list, tuple)) and len(turn) == 3
    return FrameView(
        size,
        float(aspect) if known and aspect is not None else 1.0,
        tuple(map(bool, turn)) if turned and turn is not None else (False, False, False),  # type: ignore[arg-type]
    )
