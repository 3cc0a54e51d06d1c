"""From a face's place in the picture to the network's upright square input, and back."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.kernel import exact_kernel, kernel

CROP_SIZE = 112
CROP_MARGIN = 1.3
"""The crop's side in units of the larger side of the landmarks' upright bounding box."""

Floats = npt.NDArray[np.float32]


def roll_of_landmarks(landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the in-plane rotation of each face, radians, 0 upright, positive clockwise in the picture.

    The direction is that of the eyes' centres, which all of their twelve landmarks share in.

    Parameters
    ----------
    landmarks : ndarray, (..., 68, 2)
        Pixels, x then y.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    across = points[..., 42:48, :].mean(axis=-2) - points[..., 36:42, :].mean(axis=-2)
    return np.asarray(np.arctan2(across[..., 1], across[..., 0]))


def crops_of_landmarks(landmarks: npt.NDArray[np.floating], margin: float = CROP_MARGIN) -> Floats:
    """Return the crop of each face from its landmarks.

    Parameters
    ----------
    landmarks : ndarray, (F, 68, 2)
        Pixels, x then y.
    margin : float
        Side of the crop over the larger side of the landmarks' bounding box.

    Returns
    -------
    ndarray, (F, 4), float32
        Centre x, centre y, side (pixels) and roll (radians): the square whose upright frame holds the face.
    """
    points = np.ascontiguousarray(landmarks, dtype=np.float64)
    crops = np.empty((len(points), 4), dtype=np.float32)
    _crops(points, margin, crops)
    return crops


@exact_kernel
def _crops(points: npt.NDArray[np.float64], margin: float, crops: Floats) -> None:
    for face in range(points.shape[0]):
        across_x = across_y = total = 0.0
        for i in range(36, 42):
            across_x += points[face, i + 6, 0] - points[face, i, 0]
            across_y += points[face, i + 6, 1] - points[face, i, 1]
        roll = math.atan2(across_y, across_x)
        cos, sin = math.cos(roll), math.sin(roll)
        left = top = math.inf
        right = bottom = -math.inf
        for i in range(points.shape[1]):
            x = points[face, i, 0] * cos + points[face, i, 1] * sin
            y = points[face, i, 1] * cos - points[face, i, 0] * sin
            left, right = min(left, x), max(right, x)
            top, bottom = min(top, y), max(bottom, y)
            total += x + y
        middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
        crops[face, 0] = middle_x * cos - middle_y * sin
        crops[face, 1] = middle_x * sin + middle_y * cos
        crops[face, 2] = margin * max(right - left, bottom - top) if math.isfinite(total) else math.nan
        crops[face, 3] = roll


def crops_of_landmarks_reference(landmarks: npt.NDArray[np.floating], margin: float = CROP_MARGIN) -> Floats:
    """Do what `crops_of_landmarks` does, in plain NumPy: the text that its kernel is tested against."""
    points = np.asarray(landmarks, dtype=np.float64)
    roll = roll_of_landmarks(points)
    cos, sin = np.cos(roll)[:, None], np.sin(roll)[:, None]
    upright_x = points[..., 0] * cos + points[..., 1] * sin
    upright_y = points[..., 1] * cos - points[..., 0] * sin
    middle_x = (upright_x.min(1) + upright_x.max(1)) / 2
    middle_y = (upright_y.min(1) + upright_y.max(1)) / 2
    side = margin * np.maximum(np.ptp(upright_x, axis=1), np.ptp(upright_y, axis=1))
    c, s = cos[:, 0], sin[:, 0]
    centre_x = middle_x * c - middle_y * s
    centre_y = middle_x * s + middle_y * c
    return np.stack([centre_x, centre_y, side, roll], axis=1).astype(np.float32)


def to_image(fractions: npt.NDArray[np.floating], crops: npt.NDArray[np.floating]) -> Floats:
    """Map coordinates in crops to pixels of the picture.

    Parameters
    ----------
    fractions : ndarray, (F, N, 2)
        Fractions of the crop, x then y; 0 and 1 are its borders.
    crops : ndarray, (F, 4)
        Centre x, centre y, side, roll.

    Returns
    -------
    ndarray, (F, N, 2), float32
        Pixels, x then y.
    """
    centre = np.asarray(crops, dtype=np.float64)
    offset = (np.asarray(fractions, dtype=np.float64) - 0.5) * centre[:, None, 2:3]
    cos, sin = np.cos(centre[:, 3])[:, None], np.sin(centre[:, 3])[:, None]
    x = centre[:, None, 0] + offset[..., 0] * cos - offset[..., 1] * sin
    y = centre[:, None, 1] + offset[..., 0] * sin + offset[..., 1] * cos
    return np.stack([x, y], axis=-1).astype(np.float32)


def to_crop(points: npt.NDArray[np.floating], crops: npt.NDArray[np.floating]) -> Floats:
    """Map pixels of the picture to fractions of the crops: the inverse of `to_image`."""
    centre = np.asarray(crops, dtype=np.float64)
    offset = np.asarray(points, dtype=np.float64) - centre[:, None, :2]
    cos, sin = np.cos(centre[:, 3])[:, None], np.sin(centre[:, 3])[:, None]
    x = (offset[..., 0] * cos + offset[..., 1] * sin) / centre[:, None, 2]
    y = (offset[..., 1] * cos - offset[..., 0] * sin) / centre[:, None, 2]
    return (np.stack([x, y], axis=-1) + 0.5).astype(np.float32)


def sample_crops(
    rgb: npt.NDArray[np.uint8], crops: npt.NDArray[np.floating], size: int = CROP_SIZE
) -> Floats:
    """Cut the crops out of a picture: the network's input.

    Sampled bilinearly by a kernel of our own, so that the pixels do not depend on the version of OpenCV, and
    averaged over a grid of samples where the crop is larger than the network's input, so that a large face
    does not alias. Outside the picture its border pixels go on.

    Parameters
    ----------
    rgb : ndarray, (H, W, 3), uint8
        The picture.
    crops : ndarray, (F, 4)
        Centre x, centre y, side (pixels), roll (radians).
    size : int
        Side of the network's input, pixels.

    Returns
    -------
    ndarray, (F, 3, size, size), float32
        RGB in 0 to 1.
    """
    out = np.empty((len(crops), 3, size, size), dtype=np.float32)
    for crop, target in zip(np.asarray(crops, dtype=np.float64), out, strict=True):
        samples = min(16, max(1, math.ceil(crop[2] / size - 0.25)))
        _sample(rgb, crop[0], crop[1], crop[2], crop[3], samples, target)
    return out


@kernel
def _sample(
    rgb: npt.NDArray[np.uint8], cx: float, cy: float, side: float, roll: float, samples: int, out: Floats
) -> None:
    height, width = rgb.shape[0], rgb.shape[1]
    size = out.shape[1]
    step = np.float32(side / (size * samples))
    ax, ay = np.float32(math.cos(roll)) * step, np.float32(math.sin(roll)) * step
    top_x, top_y = np.float32(width - 1), np.float32(height - 1)
    norm = np.float32(1.0 / (255.0 * samples * samples))
    half = np.float32(size * samples * 0.5 - 0.5)
    x0, y0 = np.float32(cx), np.float32(cy)
    for row in range(size):
        for column in range(size):
            red = green = blue = np.float32(0)
            for j in range(samples):
                v = np.float32(row * samples + j) - half
                for i in range(samples):
                    u = np.float32(column * samples + i) - half
                    x = min(max(x0 + u * ax - v * ay, np.float32(0)), top_x)
                    y = min(max(y0 + u * ay + v * ax, np.float32(0)), top_y)
                    xi, yi = int(x), int(y)
                    fx, fy = x - np.float32(xi), y - np.float32(yi)
                    xj, yj = min(xi + 1, width - 1), min(yi + 1, height - 1)
                    w00 = (np.float32(1) - fx) * (np.float32(1) - fy)
                    w01 = fx * (np.float32(1) - fy)
                    w10 = (np.float32(1) - fx) * fy
                    w11 = fx * fy
                    red += (
                        w00 * rgb[yi, xi, 0]
                        + w01 * rgb[yi, xj, 0]
                        + w10 * rgb[yj, xi, 0]
                        + w11 * rgb[yj, xj, 0]
                    )
                    green += (
                        w00 * rgb[yi, xi, 1]
                        + w01 * rgb[yi, xj, 1]
                        + w10 * rgb[yj, xi, 1]
                        + w11 * rgb[yj, xj, 1]
                    )
                    blue += (
                        w00 * rgb[yi, xi, 2]
                        + w01 * rgb[yi, xj, 2]
                        + w10 * rgb[yj, xi, 2]
                        + w11 * rgb[yj, xj, 2]
                    )
            out[0, row, column] = red * norm
            out[1, row, column] = green * norm
            out[2, row, column] = blue * norm
