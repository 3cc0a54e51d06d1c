"""Crops of the eyes and the mouth, located from the landmarks of the whole face."""

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
"""Side of an eye's crop in `face_units`: about 1.8 times the width of the eye."""
MOUTH_SIDE = 1.0
"""Side of the mouth's crop in `face_units`: about 1.9 times the width of a mouth at rest."""
NOSE_HEIGHT = 0.56
"""Distance of the subnasale (33) from the eyes' centre / outer inter-canthal distance, of a frontal face."""

RIGHT_EYE = np.arange(36, 42)
LEFT_EYE = np.array([45, 44, 43, 42, 47, 46])
"""Landmarks of the left eye in the order of their mirror images in `RIGHT_EYE`."""
MOUTH = np.arange(48, 68)
_MIRRORED = (False, True), (False, False)  # crops of even and odd index: of eyes, and of mouths

Floats = npt.NDArray[np.float32]


def face_units(landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the length unit of each face's crops, (F,) pixels.

    It is the root mean square of the outer inter-canthal distance and the height of the nose divided by
    `NOSE_HEIGHT`, so that neither yaw nor pitch makes the crops much smaller, and does not depend on lids,
    lips and jaw, which move. Arrays: `landmarks` (F, 68, 2), pixels, x then y.
    """
    return np.asarray(part_crops(landmarks)[:, 2, 2], np.float64) / MOUTH_SIDE


def rolls(landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the roll of the line between the eyes' centres for faces (F, 68, 2), (F,) radians, clockwise."""
    return np.asarray(part_crops(landmarks)[:, 2, 3], np.float64)


def part_crops(landmarks: npt.NDArray[np.floating]) -> Floats:
    """Return the crops of the right eye, the left eye and the mouth of each face, (F, 3, 4) float32.

    A crop is centre x, y, side (pixels) and roll (radians). Arrays: `landmarks` (F, 68, 2), pixels, x then y.
    """
    points = np.ascontiguousarray(landmarks, dtype=np.float64)
    crops = np.empty((len(points), 3, 4), np.float32)
    _part_crops(points, crops)
    return crops


@exact_kernel
def _part_crops(points: npt.NDArray[np.float64], crops: Floats) -> None:
    for face in range(len(points)):
        landmarks = points[face]
        for part in range(3):
            first, count = 36 + 6 * part, 6 if part < 2 else 12
            for axis in range(2):
                total = 0.0
                for i in range(first, first + count):
                    total += landmarks[i, axis]
                crops[face, part, axis] = total / count
        across = down = 0.0
        for axis in range(2):
            eyes = (landmarks[36, axis] + landmarks[39, axis] + landmarks[42, axis] + landmarks[45, axis]) / 4
            across += (landmarks[45, axis] - landmarks[36, axis]) ** 2
            down += ((landmarks[33, axis] - eyes) / NOSE_HEIGHT) ** 2
        unit = math.sqrt((across + down) / 2)
        x = y = 0.0
        for i in range(36, 42):
            x += landmarks[i + 6, 0] - landmarks[i, 0]
            y += landmarks[i + 6, 1] - landmarks[i, 1]
        for part in range(3):
            crops[face, part, 2] = unit * (EYE_SIDE if part < 2 else MOUTH_SIDE)
            crops[face, part, 3] = math.atan2(y, x)


def part_inputs(
    pictures: Pictures, landmarks: npt.NDArray[np.floating], eyes: Floats, mouths: Floats
) -> Floats:
    """Sample the crops of F faces as the networks' inputs, `eyes` and `mouths`; return the crops.

    Arrays: `pictures` (H, W, 3) uint8, or one for each face; `landmarks` (F, 68, 2), pixels, x then y; `eyes`
    (2 F, 3, 48, 48) and `mouths` (F, 3, 56, 56) float32, which are filled. Returns (F, 3, 4) as `part_crops`.
    """
    points, crops = np.ascontiguousarray(landmarks, np.float64), np.empty((len(landmarks), 3, 4), np.float32)
    for rgb, rows in by_picture(pictures, len(points)):
        outputs = crops[rows], eyes[2 * rows.start : 2 * rows.stop], mouths[rows]
        _part_inputs(flat_pixels(rgb), rgb.shape[0], rgb.shape[1], points[rows], *_MIRRORED, *outputs)
    return crops


@exact_kernel
def _part_inputs(
    pixels: npt.NDArray[np.uint8],
    height: int,
    width: int,
    points: npt.NDArray[np.float64],
    mirrored_eyes: tuple[bool, bool],
    mirrored_mouths: tuple[bool, bool],
    crops: Floats,
    eyes: Floats,
    mouths: Floats,
) -> None:
    _part_crops(points, crops)
    eye_crops, mouth_crops = np.empty((len(eyes), 4)), np.empty((len(mouths), 4))
    for face in range(len(crops)):
        for j in range(4):
            eye_crops[2 * face, j], eye_crops[2 * face + 1, j] = crops[face, 0, j], crops[face, 1, j]
            mouth_crops[face, j] = crops[face, 2, j]
    sample_kernel(pixels, height, width, eye_crops, mirrored_eyes, eyes)
    sample_kernel(pixels, height, width, mouth_crops, mirrored_mouths, mouths)


def eye_crops(landmarks: npt.NDArray[np.floating]) -> Floats:
    """Return the crops of both eyes of each face, (F, 2, 4); see `part_crops`."""
    return part_crops(landmarks)[:, :2]


def mouth_crops(landmarks: npt.NDArray[np.floating]) -> Floats:
    """Return the crop of each face's mouth, (F, 4); see `part_crops`."""
    return part_crops(landmarks)[:, 2]
