"""The face's own axes: the canthal line is the horizontal, the midline the vertical."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.measures.quantity import Quantity

Floats = npt.NDArray[np.float64]

CANTHI = (36, 39, 42, 45)
"""Outer and inner canthus of the right eye, inner and outer canthus of the left eye (iBUG 68, from 0)."""
INNER_CANTHI = (39, 42)
RIGHT_IRIS, LEFT_IRIS = 68, 69
"""Places of the irises' centres after the landmarks; NaN where they are not known."""
ORIGIN, ANGLE = 140, 142
"""Variables after those of the points (2 i and 2 i + 1): the origin's place, and the angle of the axes."""


@dataclass(frozen=True, slots=True)
class FaceAxes:
    """Landmarks of N faces in the face's own axes.

    The horizontal is the line fitted to the four canthi by total least squares, positive towards the
    subject's left; the vertical is at right angles to it, positive towards the chin. The origin is the
    midpoint of the inner canthi, so the midline is ``u = 0``. Canthi hardly move with expression or palsy; a
    line through the brows or the mouth would hide what is to be measured.

    Attributes
    ----------
    u, v : ndarray, (70, N), float64
        Horizontal and vertical coordinates, in the unit of the landmarks.
    angle_slope : ndarray, (4, 2, N), float64
        Derivative of the horizontal's angle with respect to each of `CANTHI`, along u and v, radians a unit.
    line : ndarray, (N,), float64
        Height v of the canthal line.
    """

    u: Floats
    v: Floats
    angle_slope: Floats
    line: Floats

    def horizontal(self, landmark: int) -> Quantity:
        """Return the distance of a landmark from the midline, positive to the subject's left."""
        own: dict[int, Floats | float] = {2 * landmark: 1.0, ORIGIN: -1.0, ANGLE: self.v[landmark]}
        return Quantity(self.u[landmark], own)

    def vertical(self, landmark: int) -> Quantity:
        """Return the height of a landmark below the inner canthi's midpoint."""
        own: dict[int, Floats | float] = {2 * landmark + 1: 1.0, ORIGIN + 1: -1.0}
        own[ANGLE] = -self.u[landmark]
        return Quantity(self.v[landmark], own)

    def below_line(self, landmark: int) -> Quantity:
        """Return the height of a landmark below the canthal line, positive towards the chin."""
        middle = self.u[list(CANTHI)].mean(axis=0)
        gradient: dict[int, Floats | float] = {ANGLE: middle - self.u[landmark]}
        for canthus in CANTHI:
            gradient[2 * canthus + 1] = -1 / len(CANTHI)
        own = 2 * landmark + 1
        gradient[own] = gradient.get(own, 0.0) + 1.0
        return Quantity(self.v[landmark] - self.line, gradient)

    def landmark_gradient(self, quantity: Quantity) -> tuple[list[int], Floats]:
        """Return the derivatives of a quantity with respect to the landmarks' own displacements.

        Of a quantity made of this object's coordinates: the K landmarks that it depends on, and its slopes
        along the horizontal and the vertical of the face, (K, 2, N) float64. A displaced canthus turns the
        axes (``d theta = angle_slope . d``), and an inner one moves their origin.
        """
        moved = {variable // 2 for variable in quantity.gradient if variable < ORIGIN}
        used = sorted(moved.union(CANTHI))
        place = {landmark: number for number, landmark in enumerate(used)}
        slopes = np.zeros((len(used), 2, len(self.line)))
        for variable, slope in quantity.gradient.items():
            if variable < ORIGIN:
                slopes[place[variable // 2], variable % 2] += slope
            elif variable == ANGLE:
                for canthus, turned in zip(CANTHI, self.angle_slope, strict=True):
                    slopes[place[canthus]] += slope * turned
            else:
                for canthus in INNER_CANTHI:
                    slopes[place[canthus], variable - ORIGIN] += slope / len(INNER_CANTHI)
        return used, slopes


def face_axes(landmarks: npt.NDArray[Any]) -> FaceAxes:
    """Return landmarks in the axes of their faces.

    Parameters
    ----------
    landmarks : ndarray, (N, 68 or 70, 2)
        x then y, y down; NaN rows give NaN. The last two are the centres of the right and the left iris.
    """
    x, y = np.moveaxis(np.asarray(landmarks, dtype=np.float64), (1, 2), (1, 0)).copy()
    if len(x) == RIGHT_IRIS:
        unknown = np.full((2, x.shape[1]), np.nan)
        x, y = np.concatenate([x, unknown]), np.concatenate([y, unknown])
    canthi = list(CANTHI)
    dx, dy = x[canthi] - x[canthi].mean(axis=0), y[canthi] - y[canthi].mean(axis=0)
    angle = 0.5 * np.arctan2(2 * (dx * dy).sum(axis=0), (dx**2 - dy**2).sum(axis=0))
    backwards = (dx[-1] - dx[0]) * np.cos(angle) + (dy[-1] - dy[0]) * np.sin(angle) < 0
    angle = np.where(backwards, angle + np.pi, angle)
    cosine, sine = np.cos(angle), np.sin(angle)
    x -= x[list(INNER_CANTHI)].mean(axis=0)
    y -= y[list(INNER_CANTHI)].mean(axis=0)
    u, v = x * cosine + y * sine, y * cosine - x * sine
    across, down = u[canthi] - u[canthi].mean(axis=0), v[canthi] - v[canthi].mean(axis=0)
    spread = (across**2).sum(axis=0) - (down**2).sum(axis=0)
    spread = np.where(np.abs(spread) > 0, spread, np.nan)
    slope = np.stack([down / spread, across / spread], axis=1)
    return FaceAxes(u, v, slope, v[canthi].mean(axis=0))
