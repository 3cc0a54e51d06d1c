"""Coordinate axes of a face: the canthal line is the horizontal, the midline the vertical."""

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
"""Indices of the irises' centres, which follow the landmarks; NaN if unknown."""
ORIGIN, ANGLE = 140, 142
"""Variable numbers after those of the points (2 i and 2 i + 1): the origin's u and v, the axes' angle."""


@dataclass(frozen=True, slots=True)
class FaceAxes:
    """Landmarks of N faces in the axes of each face.

    The horizontal is the line fitted to the four canthi by total least squares, positive towards the
    subject's left; the vertical is at right angles to it, positive towards the chin. The origin is the
    midpoint of the inner canthi, so the midline is ``u = 0``. Canthi hardly move with expression or palsy,
    unlike brows and mouth, whose asymmetry a line through them would hide.

    Attributes
    ----------
    u, v : ndarray, (70, N), float64
        Horizontal and vertical coordinates, in the unit of the landmarks.
    angle_slope : ndarray, (4, 2, N), float64
        Derivative of the angle of the horizontal with respect to each of `CANTHI`, along u and v, in radians
        per unit.
    line : ndarray, (N,), float64
        v of the canthal line.
    """

    u: Floats
    v: Floats
    angle_slope: Floats
    line: Floats

    def horizontal(self, landmark: int) -> Quantity:
        """Return the distance of a landmark from the midline, positive to the subject's left."""
        return Quantity(self.u[landmark], {2 * landmark: 1.0, ORIGIN: -1.0, ANGLE: self.v[landmark]})

    def vertical(self, landmark: int) -> Quantity:
        """Return the distance of a landmark below the midpoint of the inner canthi."""
        return Quantity(self.v[landmark], {2 * landmark + 1: 1.0, ORIGIN + 1: -1.0, ANGLE: -self.u[landmark]})

    def below_line(self, landmark: int) -> Quantity:
        """Return the distance of a landmark below the canthal line, positive towards the chin."""
        middle = self.u[list(CANTHI)].mean(axis=0)
        gradient: dict[int, Floats | float] = {ANGLE: middle - self.u[landmark]}
        for canthus in CANTHI:
            gradient[2 * canthus + 1] = -1 / len(CANTHI)
        variable = 2 * landmark + 1
        gradient[variable] = gradient.get(variable, 0.0) + 1.0
        return Quantity(self.v[landmark] - self.line, gradient)

    def landmark_gradient(self, quantity: Quantity) -> tuple[list[int], Floats]:
        """Return the derivatives of a quantity with respect to displacements of landmarks.

        `quantity` is a function of coordinates of this object. Returns the K landmarks that it depends on,
        and its slopes along the horizontal and the vertical of the face, (K, 2, N) float64. Displacing a
        canthus rotates the axes (``d theta = angle_slope . d``); displacing an inner one also moves the
        origin.
        """
        direct = {variable // 2 for variable in quantity.gradient if variable < ORIGIN}
        landmarks = sorted(direct.union(CANTHI))
        index = {landmark: number for number, landmark in enumerate(landmarks)}
        slopes = np.zeros((len(landmarks), 2, len(self.line)))
        for variable, slope in quantity.gradient.items():
            if variable < ORIGIN:
                slopes[index[variable // 2], variable % 2] += slope
            elif variable == ANGLE:
                for canthus, rotation in zip(CANTHI, self.angle_slope, strict=True):
                    slopes[index[canthus]] += slope * rotation
            else:
                for canthus in INNER_CANTHI:
                    slopes[index[canthus], variable - ORIGIN] += slope / len(INNER_CANTHI)
        return landmarks, slopes


def face_axes(landmarks: npt.NDArray[Any]) -> FaceAxes:
    """Transform landmarks to the axes of their faces.

    Parameters
    ----------
    landmarks : ndarray, (N, 68 or 70, 2)
        x then y, y down; NaN rows give NaN. Points 68 and 69, if present, are the centres of the right and
        the left iris.
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
