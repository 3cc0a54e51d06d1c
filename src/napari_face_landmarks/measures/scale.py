"""Scale of lengths: percent of the inter-canthal distance, or millimetres from the iris or a known length."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import MeasureError

IRIS_MM = 11.77
"""Horizontal visible iris diameter; the convention of Emotrics and FACE-gram."""
IRIS_SHARE = 0.5 / IRIS_MM
"""Standard deviation of the iris diameter between people, as a share of the diameter."""
SMALLEST_MM_PER_PX, LARGEST_MM_PER_PX = 1e-4, 100.0
LONGEST_MM = 1000.0
_DISTANCE = re.compile(r"(\d{1,2})-(\d{1,2})\s*=\s*([0-9.]+)\s*mm")


@dataclass(frozen=True, slots=True)
class Scale:
    """Scale and unit of lengths.

    Attributes
    ----------
    kind : str
        ``"percent"`` of the outer inter-canthal distance at rest; ``"iris"``; ``"mm_per_px"``; or
        ``"distance"``, a known length between two landmarks at rest.
    mm_per_px : float
        Used by ``"mm_per_px"``.
    landmarks : (int, int)
        Used by ``"distance"``.
    mm : float
        Used by ``"distance"``.
    """

    kind: str = "percent"
    mm_per_px: float = math.nan
    landmarks: tuple[int, int] = (36, 45)
    mm: float = math.nan

    @property
    def unit(self) -> str:
        """The unit of lengths: ``"percent"`` or ``"mm"``."""
        return "percent" if self.kind == "percent" else "mm"

    @property
    def share_error(self) -> float:
        """Standard error of the scale, as a share; common to all lengths."""
        return IRIS_SHARE if self.kind == "iris" else 0.0

    def in_words(self) -> str:
        """Return a sentence that explains the unit in reports."""
        if self.kind == "percent":
            return "Lengths are in percent of the distance between the outer canthi at rest."
        if self.kind == "iris":
            return f"Millimetres assume a visible iris diameter of {IRIS_MM} mm (±4 % between people)."
        if self.kind == "mm_per_px":
            return f"Millimetres follow from {self.mm_per_px:g} mm per pixel, as given."
        a, b = self.landmarks
        return f"Millimetres follow from {self.mm:g} mm between landmarks {a} and {b} at rest, as given."


def parse_scale(text: str | float | None) -> Scale:
    """Parse a scale given by the user.

    Parameters
    ----------
    text : str, float or None
        ``"percent"``, ``"iris"``, a number of millimetres per pixel, or ``"36-45=90mm"``.

    Raises
    ------
    MeasureError
        If it is none of these, or impossible for a face.
    """
    if text is None or text == "percent":
        return Scale()
    if text == "iris":
        return Scale("iris")
    if isinstance(text, str) and (match := _DISTANCE.fullmatch(text.strip())):
        return _distance_scale(int(match[1]), int(match[2]), match[3])
    try:
        number = float(str(text))  # float(True) would be 1
    except (TypeError, ValueError):
        raise MeasureError(
            f"The scale is {text!r:.60}: give iris, percent, millimetres per pixel such as 0.25, or a known "
            'distance between two landmarks such as "36-45=90mm".'
        ) from None
    if not SMALLEST_MM_PER_PX <= number <= LARGEST_MM_PER_PX:
        raise MeasureError(
            f"The scale is {number:g} mm per pixel: give a number from {SMALLEST_MM_PER_PX:g} to "
            f"{LARGEST_MM_PER_PX:g}."
        )
    return Scale("mm_per_px", mm_per_px=number)


def _distance_scale(first: int, second: int, text: str) -> Scale:
    try:
        mm = float(text)
    except ValueError:
        mm = math.nan
    if first == second or max(first, second) > 67:
        raise MeasureError(f"A scale needs two landmarks from 0 to 67, not {first} and {second}.")
    if not 0 < mm <= LONGEST_MM:
        raise MeasureError(
            f"The known distance is {text} mm: give a length between two landmarks of one face, up to "
            f"{LONGEST_MM:g} mm."
        )
    return Scale("distance", landmarks=(first, second), mm=mm)


def unit_per_pixel(
    scale: Scale, rest: npt.NDArray[Any], iris_px: npt.NDArray[Any] | None = None
) -> npt.NDArray[np.float64]:
    """Return the factor from pixels to the unit of the scale for each face, (F,) float64.

    `rest`, (F, 68, 2), are landmarks at rest in pixels, NaN for faces without a rest frame; `iris_px`, (F,),
    are iris diameters in pixels, NaN if not visible. Raises a `MeasureError` if the scale is the iris and no
    face has a visible one.
    """
    if scale.kind == "mm_per_px":
        return np.full(len(rest), scale.mm_per_px)
    if scale.kind == "iris":
        if iris_px is None or not np.isfinite(iris_px).any():
            raise MeasureError(
                "The scale is the iris, but these landmarks have none: track with models that find the iris, "
                "or give millimetres per pixel or a known distance."
            )
        return np.asarray(IRIS_MM / iris_px, dtype=np.float64)
    a, b = (36, 45) if scale.kind == "percent" else scale.landmarks
    length = np.linalg.norm(rest[:, a].astype(np.float64) - rest[:, b], axis=-1)
    with np.errstate(divide="ignore"):
        factor = (100.0 if scale.kind == "percent" else scale.mm) / length
    return np.asarray(np.where(length > 0, factor, np.nan))
