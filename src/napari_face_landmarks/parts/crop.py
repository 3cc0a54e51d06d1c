"""Crops of the eyes and of the mouth, placed by the landmarks of the whole face."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

EYE_SIZE = 48
"""Side of the eye network's input, pixels."""
MOUTH_SIZE = 56
"""Side of the mouth network's input, pixels."""
EYE_SIDE = 0.58
"""Side of an eye's crop in units of `face_units`: about 1.8 widths of the eye."""
MOUTH_SIDE = 1.0
"""Side of the mouth's crop in the same unit: about 1.9 widths of a mouth at rest."""
NOSE_HEIGHT = 0.56
"""Distance of the subnasale (33) from the eyes' centre over the outer inter-canthal distance, frontally."""

RIGHT_EYE = np.arange(36, 42)
LEFT_EYE = np.array([45, 44, 43, 42, 47, 46])
"""Landmarks of the left eye in the order of those of the right eye in a mirrored picture."""
MOUTH = np.arange(48, 68)

Floats = npt.NDArray[np.float32]


def face_units(landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the length by which the crops of each face are scaled, (F,) pixels.

    The root mean square of the outer inter-canthal distance and the height of the nose, so that neither yaw
    nor pitch makes the crops much smaller. It does not depend on lids, lips and jaw, which move.

    Parameters
    ----------
    landmarks : ndarray, (F, 68, 2)
        Pixels, x then y.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    across = points[:, 45] - points[:, 36]
    eyes = (points[:, [36, 39, 42, 45]]).mean(axis=1)
    down = (points[:, 33] - eyes) / NOSE_HEIGHT
    return np.asarray(np.sqrt(((across**2).sum(axis=1) + (down**2).sum(axis=1)) / 2))


def rolls(landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the roll of each face (F, 68, 2) by the centres of its eyes, (F,) radians, clockwise."""
    points = np.asarray(landmarks, dtype=np.float64)
    across = points[:, 42:48].mean(axis=1) - points[:, 36:42].mean(axis=1)
    return np.asarray(np.arctan2(across[:, 1], across[:, 0]))


def eye_crops(landmarks: npt.NDArray[np.floating]) -> Floats:
    """Return the crops of both eyes of each face.

    Parameters
    ----------
    landmarks : ndarray, (F, 68, 2)
        Pixels, x then y.

    Returns
    -------
    ndarray, (F, 2, 4), float32
        Of the right and the left eye: centre x, centre y, side (pixels), roll (radians).
    """
    points = np.asarray(landmarks, dtype=np.float64)
    crops = np.empty((len(points), 2, 4), np.float32)
    crops[:, 0, :2] = points[:, 36:42].mean(axis=1)
    crops[:, 1, :2] = points[:, 42:48].mean(axis=1)
    crops[:, :, 2] = EYE_SIDE * face_units(points)[:, None]
    crops[:, :, 3] = rolls(points)[:, None]
    return crops


def mouth_crops(landmarks: npt.NDArray[np.floating]) -> Floats:
    """Return the crop of each face's mouth, (F, 4) float32, as `eye_crops` does."""
    points = np.asarray(landmarks, dtype=np.float64)
    crops = np.empty((len(points), 4), np.float32)
    crops[:, :2] = points[:, 48:60].mean(axis=1)
    crops[:, 2] = MOUTH_SIDE * face_units(points)
    crops[:, 3] = rolls(points)
    return crops
