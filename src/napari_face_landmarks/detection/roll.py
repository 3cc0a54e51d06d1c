"""What the five points of a face say about its roll."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def roll_from_points(points: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the in-plane rotation of faces.

    The eyes, the mouth corners and the axis from the eyes down to the mouth are averaged, which is steadier
    than the eyes alone and holds where the head is turned to the side.

    Parameters
    ----------
    points : ndarray, (..., 5, 2)
        Right eye, left eye, nose tip, right and left mouth corner; x, y in pixels.

    Returns
    -------
    ndarray, (...) float64
        Radians, -pi to pi; 0 is upright, positive is clockwise as seen in the picture (y points down).
    """
    p = np.asarray(points, dtype=np.float64)
    across = (p[..., 1, :] - p[..., 0, :]) + (p[..., 4, :] - p[..., 3, :])
    down = (p[..., 3, :] + p[..., 4, :]) - (p[..., 0, :] + p[..., 1, :])
    side = across + np.stack([down[..., 1], -down[..., 0]], axis=-1)
    return np.asarray(np.arctan2(side[..., 1], side[..., 0]))
