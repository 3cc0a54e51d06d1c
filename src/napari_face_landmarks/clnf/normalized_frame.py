"""The normalised frame: the image warped to the scale and rotation for which the patch experts are trained.

Its origin is the translation of the pose, with x right and y down; it is sampled at integer coordinates.
Sampling is trilinear, between pixels and between levels of a pyramid of 2 x 2 means, so that large faces are
not aliased and samples change smoothly with the size of the face.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.pdm import rotation_kernel
from napari_face_landmarks.jit import exact_kernel, kernel

MAX_LEVELS = 15  # of the pyramid; 15 halvings reduce a side of 32767 px to one pixel
MIN_NORM = 1.0  # minimum of the norm by which a support region is divided, grey levels


def upright_angle(rotation: npt.NDArray[Any]) -> float:
    """Return the roll of a pose, radians: the in-plane rotation nearest to its rotation matrix, (3, 3)."""
    return math.atan2(rotation[1, 0] - rotation[0, 1], rotation[0, 0] + rotation[1, 1])


def image_to_frame(params: npt.NDArray[Any], scale: float) -> npt.NDArray[np.float64]:
    """Return the similarity transform A from image to normalised frame for a pose, (2, 3) float64.

    ``x_frame = A[:, :2] @ x_image + A[:, 2]`` maps (tx, ty) of the PDM parameters in the image, s, rx, ry, rz
    (rad), tx, ty (px), ..., to (0, 0), rotates the face upright, and scales it by ``scale / s`` to the PDM's
    scale in the normalised frame, such as 0.25.
    """
    to_frame = np.empty((2, 3))
    frame_kernel(np.asarray(params, dtype=np.float64), float(scale), to_frame)
    return to_frame


def shape_to_reference(points: npt.NDArray[Any], reference: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the similarity transform between two shapes that defines OpenFace's normalised frame.

    The scale is the ratio of the root mean square distances from the centroids; the rotation is the
    least-squares one. Rotated heads become larger than by `image_to_frame`. Arrays: `points` and `reference`
    (n, 2), pixels. Returns (2, 3) float64.
    """
    centre, target = points.mean(axis=0), reference.mean(axis=0)
    source, centred = points - centre, reference - target
    factor = math.sqrt(float((centred**2).sum()) / max(float((source**2).sum()), 1e-12))
    sine = float((source[:, 0] * centred[:, 1] - source[:, 1] * centred[:, 0]).sum())
    cosine = float((source * centred).sum())
    length = math.hypot(sine, cosine) or 1.0
    sine, cosine = factor * sine / length, factor * cosine / length
    turn = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([turn, target - turn @ centre])


def transform(matrix: npt.NDArray[np.float64], points: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Apply a (2, 3) affine matrix to points (..., 2), x then y."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2], dtype=np.float64)


def sample_frame(
    grey: npt.NDArray[np.uint8], to_frame: npt.NDArray[np.float64], x0: int, y0: int, width: int, height: int
) -> npt.NDArray[np.float32]:
    """Sample a rectangle of the normalised frame, (height, width) float32, grey levels 0 to 255.

    Pixel [r, c] is at (x0 + c, y0 + r) in the normalised frame. Arrays: `grey` (H, W) uint8, padded by its
    border pixels; `to_frame` (2, 3), see `image_to_frame`.
    """
    image = np.ascontiguousarray(grey, dtype=np.uint8)
    return sample_kernel(image, np.asarray(to_frame, dtype=np.float64), x0, y0, width, height).T


def contrast_normalise(supports: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Subtract the mean of support regions, (..., n), and divide them by their norm, at least `MIN_NORM`."""
    centred = supports - supports.mean(axis=-1, keepdims=True)
    norm = np.sqrt((centred * centred).sum(axis=-1, keepdims=True))
    return np.asarray(centred / np.maximum(norm, MIN_NORM))


@kernel
def invert_kernel(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the inverse of a (2, 3) affine matrix."""
    determinant = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
    back = np.empty((2, 3))
    back[0, 0], back[0, 1] = matrix[1, 1] / determinant, -matrix[0, 1] / determinant
    back[1, 0], back[1, 1] = -matrix[1, 0] / determinant, matrix[0, 0] / determinant
    back[0, 2] = -back[0, 0] * matrix[0, 2] - back[0, 1] * matrix[1, 2]
    back[1, 2] = -back[1, 0] * matrix[0, 2] - back[1, 1] * matrix[1, 2]
    return back


@exact_kernel
def frame_kernel(params: npt.NDArray[np.float64], scale: float, to_frame: npt.NDArray[np.float64]) -> float:
    """Compiled `image_to_frame`: fills the matrix; returns the roll of the pose like `upright_angle`."""
    rotation = rotation_kernel(params[1], params[2], params[3])
    angle = math.atan2(rotation[1, 0] - rotation[0, 1], rotation[0, 0] + rotation[1, 1])
    factor = scale / params[0]
    cosine, sine = factor * math.cos(angle), factor * math.sin(angle)
    tx, ty = params[4], params[5]
    to_frame[0, 0], to_frame[0, 1], to_frame[0, 2] = cosine, sine, -cosine * tx - sine * ty
    to_frame[1, 0], to_frame[1, 1], to_frame[1, 2] = -sine, cosine, sine * tx - cosine * ty
    return angle


@kernel
def move_pose(
    params: npt.NDArray[np.float64], similarity: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Apply a similarity transform, (2, 3), to the pose of PDM parameters, (6 + m,); return new parameters.

    Their projection is the transformed projection of `params`: `image_to_frame` converts parameters from
    the image to the normalised frame.
    """
    moved = params.copy()
    cosine, sine = similarity[0, 0], similarity[1, 0]
    growth = math.hypot(cosine, sine)
    cosine, sine = cosine / growth, sine / growth
    rotation = rotation_kernel(params[1], params[2], params[3])
    moved[0] = growth * params[0]
    for column in range(3):
        top, below = rotation[0, column], rotation[1, column]
        rotation[0, column], rotation[1, column] = cosine * top - sine * below, sine * top + cosine * below
    moved[2] = math.asin(min(1.0, max(-1.0, rotation[0, 2])))
    if abs(rotation[0, 2]) > 1.0 - 1e-12:  # gimbal lock
        moved[1], moved[3] = math.atan2(rotation[2, 1], rotation[1, 1]), 0.0
    else:
        moved[1] = math.atan2(-rotation[1, 2], rotation[2, 2])
        moved[3] = math.atan2(-rotation[0, 1], rotation[0, 0])
    moved[4] = similarity[0, 0] * params[4] + similarity[0, 1] * params[5] + similarity[0, 2]
    moved[5] = similarity[1, 0] * params[4] + similarity[1, 1] * params[5] + similarity[1, 2]
    return moved


@kernel
def _halve(level: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the means of 2 x 2 blocks; an odd last row or column is repeated."""
    height, width = level.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2
    half = np.empty((rows, columns), np.float32)
    for r in range(rows):
        top = 2 * r
        bottom = min(top + 1, height - 1)
        for c in range(width // 2):
            half[r, c] = np.float32(0.25) * (
                np.float32(level[top, 2 * c])
                + np.float32(level[top, 2 * c + 1])
                + np.float32(level[bottom, 2 * c])
                + np.float32(level[bottom, 2 * c + 1])
            )
        if width % 2:
            half[r, columns - 1] = np.float32(0.5) * (
                np.float32(level[top, width - 1]) + np.float32(level[bottom, width - 1])
            )
    return half


@kernel
def _add_level(
    samples: npt.NDArray[np.float32], level: npt.NDArray[Any], to_level: npt.NDArray[np.float64], share: float
) -> None:
    """Add `share` times the bilinear samples of a pyramid level to the transposed image."""
    height, width = level.shape
    pitch, count = width + 1, samples.shape[1]
    plane = np.empty((height + 1) * pitch, np.float32)  # padded by a row and a column
    for j in range(height + 1):
        row, source = plane[j * pitch : (j + 1) * pitch], level[min(j, height - 1)]
        for i in range(width):
            row[i] = source[i]
        row[width] = row[width - 1]
    pixels, across, down = np.empty(count, np.int32), np.empty(count, np.float32), np.empty(count, np.float32)
    part = np.float32(share)
    right, bottom = width - 1.0, height - 1.0
    for c in range(samples.shape[0]):
        start_x = to_level[0, 0] * c + to_level[0, 2]
        start_y = to_level[1, 0] * c + to_level[1, 2]
        for r in range(count):  # two loops, so that both are vectorised
            u = min(max(start_x + to_level[0, 1] * r, 0.0), right)
            v = min(max(start_y + to_level[1, 1] * r, 0.0), bottom)
            left, top = np.int32(u), np.int32(v)
            across[r], down[r] = np.float32(u - left), np.float32(v - top)
            pixels[r] = np.int32(top * pitch + left)
        column = samples[c]
        for r in range(count):
            p = np.uint64(pixels[r])
            q = p + np.uint64(pitch)
            p1, q1 = p + np.uint64(1), q + np.uint64(1)
            upper = plane[p] + across[r] * (plane[p1] - plane[p])
            lower = plane[q] + across[r] * (plane[q1] - plane[q])
            column[r] += part * (upper + down[r] * (lower - upper))


@kernel
def sample_kernel(
    grey: npt.NDArray[np.uint8], to_frame: npt.NDArray[np.float64], x0: int, y0: int, width: int, height: int
) -> npt.NDArray[np.float32]:
    """Return `sample_frame` transposed, (width, height): columns are contiguous."""
    determinant = to_frame[0, 0] * to_frame[1, 1] - to_frame[0, 1] * to_frame[1, 0]
    back = invert_kernel(to_frame)
    back[0, 2] += back[0, 0] * x0 + back[0, 1] * y0  # position of the first pixel
    back[1, 2] += back[1, 0] * x0 + back[1, 1] * y0
    depth = min(max(-0.5 * math.log2(abs(determinant)), 0.0), float(MAX_LEVELS - 1))
    first = int(depth)
    share = depth - first

    # the sampled part of the image, aligned to blocks of the coarsest level
    block = 2 ** (first + 1)
    low_x = back[0, 2] + min(back[0, 0] * width, 0.0) + min(back[0, 1] * height, 0.0) - 2 * block
    low_y = back[1, 2] + min(back[1, 0] * width, 0.0) + min(back[1, 1] * height, 0.0) - 2 * block
    high_x = back[0, 2] + max(back[0, 0] * width, 0.0) + max(back[0, 1] * height, 0.0) + 2 * block
    high_y = back[1, 2] + max(back[1, 0] * width, 0.0) + max(back[1, 1] * height, 0.0) + 2 * block
    last_x, last_y = grey.shape[1] - 1, grey.shape[0] - 1
    left = int(min(max(low_x, 0.0), float(last_x))) // block * block
    top = int(min(max(low_y, 0.0), float(last_y))) // block * block
    right = min((int(min(max(high_x, 0.0), float(last_x))) // block + 1) * block, last_x + 1)
    bottom = min((int(min(max(high_y, 0.0), float(last_y))) // block + 1) * block, last_y + 1)
    crop = grey[top:bottom, left:right]

    samples = np.zeros((width, height), np.float32)
    if first == 0:
        _add_level(samples, crop.astype(np.float32), _to_level(back, left, top, first), 1.0 - share)
        if share == 0.0:
            return samples
    level = _halve(crop)
    for depth_reached in range(1, first + 2):
        part = 1.0 - share if depth_reached == first else share
        if depth_reached >= first and part > 0.0:
            _add_level(samples, level, _to_level(back, left, top, depth_reached), part)
        if depth_reached <= first:
            level = _halve(level)
    return samples


@kernel
def _to_level(back: npt.NDArray[np.float64], left: int, top: int, depth: int) -> npt.NDArray[np.float64]:
    """Return the (2, 3) matrix from (column, row) of the result to pixels of a level of the pyramid."""
    unit = 1.0 / 2**depth
    matrix = np.empty((2, 3))
    for axis in range(2):
        matrix[axis, 0], matrix[axis, 1] = back[axis, 0] * unit, back[axis, 1] * unit
    matrix[0, 2] = (back[0, 2] - left + 0.5) * unit - 0.5
    matrix[1, 2] = (back[1, 2] - top + 0.5) * unit - 0.5
    return matrix
