"""A schematic face with known measures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.ibug import MIRROR_68


def drawn_face() -> npt.NDArray[np.float64]:
    """Return landmarks (68, 2): all canthi at y = 0, the outer ones 100 apart, the midline at x = 0."""
    face = np.zeros((68, 2))
    face[0:17, 0] = np.linspace(-70, 70, 17)
    face[0:17, 1] = 90 - 0.018 * face[0:17, 0] ** 2
    face[8] = 0, 90
    right = {
        17: (-55, -20), 18: (-45, -26), 19: (-37, -28), 20: (-29, -27), 21: (-20, -24),
        36: (-50, 0), 37: (-43, -5), 38: (-32, -5), 39: (-20, 0), 40: (-32, 5), 41: (-43, 5),
        31: (-12, 36), 32: (-6, 38),
        48: (-25, 60), 49: (-16, 55), 50: (-7, 53), 58: (-8, 71), 59: (-17, 67),
        60: (-20, 60), 61: (-8, 58), 67: (-8, 62),
    }  # fmt: skip
    middle = {27: -4, 28: 8, 29: 20, 30: 30, 33: 40, 51: 54, 57: 72, 62: 58, 66: 63}
    for i, (x, y) in right.items():
        face[i] = x, y
        face[MIRROR_68[i]] = -x, y
    for i, y in middle.items():
        face[i] = 0, y
    return face


def mirrored(landmarks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return landmarks (..., 68, 2) of the horizontally flipped image."""
    return landmarks[..., MIRROR_68, :] * (-1, 1)
