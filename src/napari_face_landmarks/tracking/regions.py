"""Regions of the video to search for a face, and regions to ignore."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.detection.boxes import centres
from napari_face_landmarks.errors import ImageError, SettingsError
from napari_face_landmarks.files.json_file import read_json

Floats = npt.NDArray[np.float32]
LARGEST_FILE = 1 << 20
MAX_REGIONS = 1000
LARGEST = 1e8
"""Maximum of a coordinate (pixels) or a frame number in a file of boxes."""


@dataclass(frozen=True, slots=True)
class Region:
    """A box that applies to a range of frames.

    Parameters
    ----------
    box : (float, float, float, float)
        x0, y0, x1, y1 in pixels; a face from forehead to chin.
    first, last : int, optional
        First and last frame to which the box applies; by default those of the video.

    Raises
    ------
    ImageError
        If the box or the range of frames is empty.
    """

    box: tuple[float, float, float, float]
    first: int | None = None
    last: int | None = None

    def __post_init__(self) -> None:
        sides = list(self.box)
        finite = len(sides) == 4 and all(math.isfinite(side) for side in sides)
        if not finite or self.box[2] - self.box[0] < 1 or self.box[3] - self.box[1] < 1:
            raise ImageError(
                f"The box {self.box} is not valid: give x0, y0, x1, y1 in pixels, with x1 > x0 and y1 > y0."
            )
        if self.first is not None and self.last is not None and self.last < self.first:
            raise ImageError(
                f"A box has the first frame {self.first} and the last {self.last}: give them in order."
            )

    def applies(self, frame: int) -> bool:
        """Return whether the box applies to a frame."""
        return (self.first is None or frame >= self.first) and (self.last is None or frame <= self.last)


@dataclass(frozen=True, slots=True)
class Regions:
    """Regions in which faces are searched for or ignored.

    Parameters
    ----------
    look : tuple of Region
        Boxes in which a face is searched for while fewer than `max_faces` faces are tracked: whenever the
        detector runs, and on the first frame of each box.
    ignore : tuple of Region
        Faces whose centre is in one of these boxes are ignored.
    """

    look: tuple[Region, ...] = ()
    ignore: tuple[Region, ...] = ()

    def __bool__(self) -> bool:
        """Return whether there are any boxes."""
        return bool(self.look or self.ignore)

    def to_dict(self) -> dict[str, Any]:
        """Return the regions as plain values for JSON, the input of `regions_from_dict`."""
        return {name: [_as_dict(region) for region in getattr(self, name)] for name in ("look", "ignore")}

    def begins(self, frame: int) -> bool:
        """Return whether `frame` is the first frame of a box in `look`."""
        return any(region.first == frame for region in self.look)

    def boxes(self, frame: int) -> Floats:
        """Return the boxes of `look` on a frame with a score of 1, (N, 5) float32."""
        boxes = [(*region.box, 1.0) for region in self.look if region.applies(frame)]
        return np.array(boxes, dtype=np.float32).reshape(-1, 5)

    def ignores(self, boxes: npt.NDArray[np.floating], frame: int) -> npt.NDArray[np.bool_]:
        """Return whether each face is ignored on a frame, (N,) bool, from its box, (N, 4 or more)."""
        return inside(centres(np.asarray(boxes)), [region for region in self.ignore if region.applies(frame)])


def inside(points: npt.NDArray[np.floating], regions: Sequence[Region]) -> npt.NDArray[np.bool_]:
    """Return whether each point, (N, 2) x then y, is in one of the regions, (N,) bool."""
    result = np.zeros(len(points), dtype=np.bool_)
    for region in regions:
        x0, y0, x1, y1 = region.box
        x, y = points[:, 0], points[:, 1]
        result |= (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    return result


def _as_dict(region: Region) -> dict[str, Any]:
    frames = {name: getattr(region, name) for name in ("first", "last")}
    return {"box": list(region.box), **{name: frame for name, frame in frames.items() if frame is not None}}


def regions_from_dict(values: Any) -> Regions:
    """Convert plain values, such as parsed JSON, to regions.

    Parameters
    ----------
    values : object
        ``{"look": [...], "ignore": [...]}``, both optional lists of
        ``{"box": [x0, y0, x1, y1], "first": 10, "last": 20}``; first and last are optional.

    Raises
    ------
    SettingsError
        If they are invalid, or if there are more than `MAX_REGIONS`.
    """
    if not isinstance(values, Mapping) or not set(values) <= {"look", "ignore"}:
        raise SettingsError('Boxes are given as {"look": [...], "ignore": [...]}: remove other keys.')
    lists = {name: values.get(name, []) for name in ("look", "ignore")}
    if not all(isinstance(found, (list, tuple)) for found in lists.values()):
        raise SettingsError('"look" and "ignore" must be lists of boxes: put the boxes in brackets.')
    if sum(map(len, lists.values())) > MAX_REGIONS:
        raise SettingsError(f"There are more than {MAX_REGIONS} boxes: remove some.")
    return Regions(*(tuple(map(_region, found)) for found in lists.values()))


def _region(values: Any) -> Region:
    box = values.get("box") if isinstance(values, Mapping) else None
    if not isinstance(box, (list, tuple)) or not set(values) <= {"box", "first", "last"}:
        raise SettingsError(
            f'A box is given as {{"box": [x0, y0, x1, y1], "first": 10, "last": 20}}, not as {values!r:.60}: '
            "first and last are optional."
        )
    frames = [values.get(name) for name in ("first", "last")]
    if not all(_is_number(side) and abs(side) <= LARGEST for side in box) or not all(
        frame is None or (_is_number(frame) and isinstance(frame, int) and 0 <= frame <= LARGEST)
        for frame in frames
    ):
        raise SettingsError(
            f"The box {values!r:.60} has an invalid value: give pixels, and whole frame numbers from 0."
        )
    try:
        return Region(tuple(map(float, box)), *frames)  # type: ignore[arg-type]  # Region checks the length
    except ImageError as error:
        raise SettingsError(str(error)) from None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def read_regions(path: str | os.PathLike[str]) -> Regions:
    """Read regions from a JSON file with the content that `regions_from_dict` takes.

    Raises
    ------
    SettingsError
        If the file cannot be read, is larger than `LARGEST_FILE`, or has no regions.
    """
    values = read_json(path, "boxes", LARGEST_FILE, SettingsError, "give a JSON file of boxes")
    try:
        return regions_from_dict(values)
    except SettingsError as error:
        raise SettingsError(f"{os.fspath(path)}: {error}") from None
