"""Conversion of frames to upright frames with square pixels for tracking, and of landmarks back."""

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
"""Entry of `Tracks.meta`: width over height of a pixel as displayed, if not 1."""
TURN = "turn"
"""Entry of `Tracks.meta`: `FrameView.turn`, if frames were rotated or mirrored for tracking."""


@dataclass(frozen=True)
class FrameView:
    """Conversion between source frames and the upright frames with square pixels that are tracked."""

    size: tuple[int, int]  # height and width of a source frame
    pixel_aspect: float = 1.0  # width over height of a pixel as displayed
    # operations that make a frame upright, in this order: swap rows and columns, reverse columns, rows
    turn: tuple[bool, bool, bool] = (False, False, False)

    @cached_property
    def stretch(self) -> float:
        """Horizontal scale factor of the upright frame, rounded to a whole number of columns."""
        width = self._turned[1]
        aspect = 1 / self.pixel_aspect if self.turn[0] else self.pixel_aspect
        return max(1, round(width * aspect)) / width

    @property
    def seen_size(self) -> tuple[int, int]:
        """Height and width of the tracked frames."""
        height, width = self._turned
        return height, round(width * self.stretch)

    @property
    def _turned(self) -> tuple[int, int]:
        return self.size[::-1] if self.turn[0] else self.size

    @cached_property
    def _changes(self) -> bool:
        return any(self.turn) or self.stretch != 1

    def __bool__(self) -> bool:
        """Return whether frames need any conversion."""
        return self._changes

    def frame(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Convert a source frame, (H, W, 3), for tracking."""
        if not self:
            return rgb
        seen = rgb.transpose(1, 0, 2) if self.turn[0] else rgb
        seen = np.ascontiguousarray(seen[:: -1 if self.turn[2] else 1, :: -1 if self.turn[1] else 1])
        return resize(seen, *self.seen_size, (1.0, 1 / self.stretch))

    def seen(self, points: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Convert points, (..., 2), x then y, from source to tracked frames."""
        moved = np.array(points[..., ::-1] if self.turn[0] else points, dtype=np.float32)
        for axis, reversed_ in enumerate(self.turn[1:]):
            if reversed_:
                moved[..., axis] = self._turned[1 - axis] - 1 - moved[..., axis]
        if self.stretch != 1:
            moved[..., 0] = (moved[..., 0] + 0.5) * self.stretch - 0.5
        return moved

    def in_source(self, points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Convert points, (..., 2), x then y, from tracked to source frames."""
        if not self:
            return points
        moved = points.copy()
        if self.stretch != 1:
            moved[..., 0] = (moved[..., 0] + 0.5) / self.stretch - 0.5
        for axis, reversed_ in enumerate(self.turn[1:]):
            if reversed_:
                moved[..., axis] = self._turned[1 - axis] - 1 - moved[..., axis]
        return np.ascontiguousarray(moved[..., ::-1]) if self.turn[0] else moved

    def iris_in_source(self, iris: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Convert irises, (..., 8) as in `FaceArrays`, from tracked to source frames."""
        if not self:
            return iris
        moved = iris.copy()
        for first in (0, 4):
            moved[..., first : first + 2] = self.in_source(iris[..., first : first + 2])
            moved[..., first + 2] /= self.stretch
        return moved

    def regions(self, regions: Regions, back: bool = False) -> Regions:
        """Convert regions from source to tracked frames, or `back`."""

        def converted(region: Region) -> Region:
            box = np.array(region.box, dtype=np.float32).reshape(2, 2)
            corners = (self.in_source if back else self.seen)(box)
            (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
            return Region((float(x0), float(y0), float(x1), float(y1)), region.first, region.last)

        if not self:
            return regions
        return Regions(tuple(map(converted, regions.look)), tuple(map(converted, regions.ignore)))

    @property
    def meta(self) -> dict[str, Any]:
        """Entries of `Tracks.meta` about the conversion."""
        turned = {TURN: list(self.turn)} if any(self.turn) else {}
        stretch = self.stretch
        return turned if stretch == 1 else {**turned, PIXEL_ASPECT: 1 / stretch if self.turn[0] else stretch}


def recorded_view(tracks: Tracks, size: tuple[int, int]) -> FrameView:
    """Return the conversion recorded in tracks, for frames of a size (height, width)."""
    aspect, turn = tracks.meta.get(PIXEL_ASPECT), tracks.meta.get(TURN)
    known = isinstance(aspect, (int, float)) and np.isfinite(aspect) and 0.01 < aspect < 100
    turned = isinstance(turn, (list, tuple)) and len(turn) == 3
    return FrameView(
        size,
        float(aspect) if known and aspect is not None else 1.0,
        tuple(map(bool, turn)) if turned and turn is not None else (False, False, False),  # type: ignore[arg-type]
    )
