"""Where the tracker is told to look for a face, and what it is told to pass over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import ImageError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Region:
    """A box on some frames.

    Parameters
    ----------
    box : (float, float, float, float)
        x0, y0, x1, y1, pixels; for a face from the forehead to the chin.
    first, last : int, optional
        The frames it holds for, both included; from the beginning, and to the end, where not given.

    Raises
    ------
    ImageError
        If the box is no box, or the frames are not in order.
    """

    box: tuple[float, float, float, float]
    first: int | None = None
    last: int | None = None

    def __post_init__(self) -> None:
        sides = list(self.box)
        finite = len(sides) == 4 and all(math.isfinite(side) for side in sides)
        if not finite or self.box[2] - self.box[0] < 1 or self.box[3] - self.box[1] < 1:
            raise ImageError(
                f"The box {self.box} is none: give x0, y0, x1, y1 with x1 > x0, y1 > y0, in pixels."
            )
        if self.first is not None and self.last is not None and self.last < self.first:
            raise ImageError(f"A box holds for the frames {self.first} to {self.last}: give them in order.")

    def holds(self, frame: int) -> bool:
        """Return whether it holds on a frame."""
        return (self.first is None or frame >= self.first) and (self.last is None or frame <= self.last)


@dataclass(frozen=True, slots=True)
class Regions:
    """What a user tells the tracker of places in the video.

    Parameters
    ----------
    look : tuple of Region
        A face is looked for here where the detector finds none, as long as fewer faces are followed than
        wanted; for certain on the first frame of each.
    ignore : tuple of Region
        Faces whose middle is in one of these are passed over.
    """

    look: tuple[Region, ...] = ()
    ignore: tuple[Region, ...] = ()

    def begins(self, frame: int) -> bool:
        """Return whether a box to look in begins on a frame."""
        return any(region.first == frame for region in self.look)

    def boxes(self, frame: int) -> Floats:
        """Return the boxes to look in on a frame, (N, 5) float32, with the score 1."""
        found = [(*region.box, 1.0) for region in self.look if region.holds(frame)]
        return np.array(found, dtype=np.float32).reshape(-1, 5)

    def ignores(self, boxes: npt.NDArray[np.floating], frame: int) -> npt.NDArray[np.bool_]:
        """Return which faces are passed over on a frame, (N,) bool, by their boxes, (N, 4 or more)."""
        middle = (np.asarray(boxes)[:, :2] + np.asarray(boxes)[:, 2:4]) / 2
        return inside(middle, [region for region in self.ignore if region.holds(frame)])


def inside(points: npt.NDArray[np.floating], regions: Sequence[Region]) -> npt.NDArray[np.bool_]:
    """Return which points, (N, 2) x then y, are in one of the regions, (N,) bool."""
    found = np.zeros(len(points), dtype=np.bool_)
    for region in regions:
        x0, y0, x1, y1 = region.box
        x, y = points[:, 0], points[:, 1]
        found |= (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    return found
