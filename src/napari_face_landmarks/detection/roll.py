"""Roll of a face from its five points."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def roll_from_points(points: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the in-plane rotation of faces.

    It is the direction of the sum of three vectors: between the eyes, between the mouth corners, and
    perpendicular to the axis from the eyes to the mouth. This is more stable than the eyes alone, and valid
    for profile views.

    Parameters
    ----------
    points : ndarray, (..., 5, 2)
        Right eye, left eye, nose tip, right and left mouth corner; x, y in pixels.

    Returns
    -------
    ndarray, (...) float64
        Radians, -pi to pi; 0 is upright, positive is clockwise in the image (y points down).
    """
    p = np.asarray(points, dtype=np.float64)
    across = (p[..., 1, :] - p[..., 0, :]) + (p[..., 4, :] - p[..., 3, :])
    down = (p[..., 3, :] + p[..., 4, :]) - (p[..., 0, :] + p[..., 1, :])
    side = across + np.stack([down[..., 1], -down[..., 0]], axis=-1)
    return np.asarray(np.arctan2(side[..., 1], side[..., 0]))
