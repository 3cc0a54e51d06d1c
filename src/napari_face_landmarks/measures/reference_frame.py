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


@dataclass(frozen=True, slots=True)
class FaceAxes:
    """Landmarks of N faces in the face's own axes.

    The horizontal is the line fitted to the four canthi by total least squares, positive towards the
    subject's left; the vertical is at right angles to it, positive towards the chin. The origin is the
    midpoint of the inner canthi, so the midline is ``u = 0``. Canthi hardly move with expression or palsy; a
    line through the brows or the mouth would hide what is to be measured.

    Attributes
    ----------
    u, v : ndarray, (N, 68), float64
        Horizontal and vertical coordinates, in the unit of the landmarks.
    angle_slope : ndarray, (N, 4, 2), float64
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
        return self._coordinate(landmark, 0)

    def vertical(self, landmark: int) -> Quantity:
        """Return the height of a landmark below the inner canthi's midpoint."""
        return self._coordinate(landmark, 1)

    def below_line(self, landmark: int) -> Quantity:
        """Return the height of a landmark below the canthal line, positive towards the chin."""
        # The line runs through the mean of the four canthi, not through the origin, and turns with them.
        gradient = dict(self._coordinate(landmark, 1).gradient)
        zeros = np.zeros(len(self.line))
        middle = self.u[:, CANTHI].mean(axis=1)
        for place, canthus in enumerate(CANTHI):
            along, down = gradient.get(canthus, (zeros, zeros))
            shift = (1 / len(INNER_CANTHI) if canthus in INNER_CANTHI else 0.0) - 1 / len(CANTHI)
            along = along + middle * self.angle_slope[:, place, 0]
            gradient[canthus] = along, down + shift + middle * self.angle_slope[:, place, 1]
        return Quantity(self.v[:, landmark] - self.line, gradient)

    def _coordinate(self, landmark: int, axis: int) -> Quantity:
        # A displacement (a, b) of landmark i changes u_i by a and v_i by b. A canthus also turns the axes by
        # d(theta), which changes u_i by v_i d(theta) and v_i by -u_i d(theta); inner canthi move the origin.
        turned = self.v[:, landmark] if axis == 0 else -self.u[:, landmark]
        zeros = np.zeros(len(turned))
        gradient: dict[int, tuple[Floats, Floats]] = {}
        for place, canthus in enumerate(CANTHI):
            both = [turned * self.angle_slope[:, place, 0], turned * self.angle_slope[:, place, 1]]
            if canthus in INNER_CANTHI:
                both[axis] = both[axis] - 1 / len(INNER_CANTHI)
            gradient[canthus] = both[0], both[1]
        own = list(gradient.get(landmark, (zeros, zeros)))
        own[axis] = own[axis] + 1
        gradient[landmark] = own[0], own[1]
        return Quantity((self.u if axis == 0 else self.v)[:, landmark], gradient)


def face_axes(landmarks: npt.NDArray[Any]) -> FaceAxes:
    """Return landmarks in the axes of their faces.

    Parameters
    ----------
    landmarks : ndarray, (N, 68, 2)
        x then y, y down; NaN rows give NaN.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    canthi = points[:, CANTHI, :]
    centre = canthi.mean(axis=1, keepdims=True)
    dx, dy = np.moveaxis(canthi - centre, -1, 0)
    angle = 0.5 * np.arctan2(2 * (dx * dy).sum(axis=1), (dx**2 - dy**2).sum(axis=1))
    across = points[:, CANTHI[-1]] - points[:, CANTHI[0]]
    backwards = across[:, 0] * np.cos(angle) + across[:, 1] * np.sin(angle) < 0
    angle = np.where(backwards, angle + np.pi, angle)
    along = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    down = np.stack([-along[:, 1], along[:, 0]], axis=-1)
    offset = points - points[:, INNER_CANTHI, :].mean(axis=1, keepdims=True)
    u = np.einsum("nij,nj->ni", offset, along)
    v = np.einsum("nij,nj->ni", offset, down)
    across_u = u[:, CANTHI] - u[:, CANTHI].mean(axis=1, keepdims=True)
    across_v = v[:, CANTHI] - v[:, CANTHI].mean(axis=1, keepdims=True)
    spread = (across_u**2).sum(axis=1) - (across_v**2).sum(axis=1)
    spread = np.where(np.abs(spread) > 0, spread, np.nan)[:, None]
    slope = np.stack([across_v / spread, across_u / spread], axis=-1)
    return FaceAxes(u, v, slope, v[:, CANTHI].mean(axis=1))
