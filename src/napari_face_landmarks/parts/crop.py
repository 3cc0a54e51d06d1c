"""Crops of the eyes and of the mouth, placed by the landmarks of the whole face."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.jit import exact_kernel
from napari_face_landmarks.pfld.crop import Pictures, by_picture, flat_pixels, sample_kernel

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
_MIRRORED = (False, True), (False, False)  # of eyes and mouths, every first and second

Floats = npt.NDArray[np.float32]


def face_units(landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the length by which the crops of each face are scaled, (F,) pixels.

    The root mean square of the outer inter-canthal distance and the height of the nose, so that neither yaw
    nor pitch makes the crops much smaller. It does not depend on lids, lips and jaw, which move. Arrays:
    `landmarks` (F, 68, 2), pixels, x then y.
    """
    return np.asarray(part_crops(landmarks)[:, 2, 2], np.float64) / MOUTH_SIDE


def rolls(landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the roll of each face (F, 68, 2) by the centres of its eyes, (F,) radians, clockwise."""
    return np.asarray(part_crops(landmarks)[:, 2, 3], np.float64)


def part_crops(landmarks: npt.NDArray[np.floating]) -> Floats:
    """Return the crops of both eyes and the mouth of each face.

    Arrays: `landmarks` (F, 68, 2), pixels, x then y. Returns (F, 3, 4) float32.
    """
    points = np.ascontiguousarray(landmarks, dtype=np.float64)
    crops = np.empty((len(points), 3, 4), np.float32)
    _part_crops(points, crops)
    return crops


@exact_kernel
def _part_crops(points: npt.NDArray[np.float64], crops: Floats) -> None:
    for face in range(len(points)):
        of = points[face]
        for part in range(3):
            first, count = 36 + 6 * part, 6 if part < 2 else 12
            for axis in range(2):
                total = 0.0
                for i in range(first, first + count):
                    total += of[i, axis]
                crops[face, part, axis] = total / count
        across = down = 0.0
        for axis in range(2):
            eyes = (of[36, axis] + of[39, axis] + of[42, axis] + of[45, axis]) / 4
            across += (of[45, axis] - of[36, axis]) ** 2
            down += ((of[33, axis] - eyes) / NOSE_HEIGHT) ** 2
        unit = math.sqrt((across + down) / 2)
        x = y = 0.0
        for i in range(36, 42):
            x += of[i + 6, 0] - of[i, 0]
            y += of[i + 6, 1] - of[i, 1]
        for part in range(3):
            crops[face, part, 2] = unit * (EYE_SIDE if part < 2 else MOUTH_SIDE)
            crops[face, part, 3] = math.atan2(y, x)


def part_inputs(
    pictures: Pictures, landmarks: npt.NDArray[np.floating], eyes: Floats, mouths: Floats
) -> Floats:
    """Return the crops of F faces' parts, (F, 3, 4) float32, and fill the networks' inputs.

    Arrays: `pictures` (H, W, 3) uint8, or one for each face; `landmarks` (F, 68, 2), pixels, x then y; `eyes`
    (2 F, 3, 48, 48) float32 and `mouths` (F, 3, 56, 56) float32.
    """
    points, crops = np.ascontiguousarray(landmarks, np.float64), np.empty((len(landmarks), 3, 4), np.float32)
    for rgb, rows in by_picture(pictures, len(points)):
        of_faces = slice(2 * rows.start, 2 * rows.stop)
        into = crops[rows], eyes[of_faces], mouths[rows]
        _part_inputs(flat_pixels(rgb), rgb.shape[0], rgb.shape[1], points[rows], *_MIRRORED, *into)
    return crops


@exact_kernel
def _part_inputs(
    pixels: npt.NDArray[np.uint8],
    height: int,
    width: int,
    points: npt.NDArray[np.float64],
    mirrored: tuple[bool, bool],
    plain: tuple[bool, bool],
    crops: Floats,
    eyes: Floats,
    mouths: Floats,
) -> None:
    _part_crops(points, crops)
    of_eyes, of_mouths = np.empty((len(eyes), 4)), np.empty((len(mouths), 4))
    for face in range(len(crops)):
        for j in range(4):
            of_eyes[2 * face, j], of_eyes[2 * face + 1, j] = crops[face, 0, j], crops[face, 1, j]
            of_mouths[face, j] = crops[face, 2, j]
    sample_kernel(pixels, height, width, of_eyes, mirrored, eyes)
    sample_kernel(pixels, height, width, of_mouths, plain, mouths)


def eye_crops(landmarks: npt.NDArray[np.floating]) -> Floats:
    """Return the crops of both eyes of each face, (F, 2, 4), as `part_crops` does."""
    return part_crops(landmarks)[:, :2]


def mouth_crops(landmarks: npt.NDArray[np.floating]) -> Floats:
    """Return the crop of each face's mouth, (F, 4), as `part_crops` does."""
    return part_crops(landmarks)[:, 2]
