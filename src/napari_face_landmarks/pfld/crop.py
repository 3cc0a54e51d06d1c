"""Upright square crops of faces: sampling them as network input, and mapping coordinates to and from them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.jit import exact_kernel, kernel

CROP_SIZE = 112
CROP_MARGIN = 1.3
"""Side of the crop divided by the larger side of the landmarks' upright bounding box."""

LARGEST_CROP = 1e6
"""Limit of a crop's position and side, pixels; far beyond the largest image."""
MAX_BLOCK = 64
"""Maximum side, pixels, of the blocks that are averaged before a large crop is sampled."""

MAX_SAMPLES = 2
"""Maximum number of samples averaged along each axis; larger crops are sampled from block means."""
FIELD_BITS, WEIGHT_STEPS = 21, 2048
"""Bits of each colour's sum, and integer steps of the bilinear weights.

The sums of red, green and blue are packed into one 64-bit integer, so that one product serves all three. They
fit: 255 * 2048 * `MAX_SAMPLES` ** 2 is less than 2 ** 21.
"""
FIELD = 2**FIELD_BITS - 1

Floats = npt.NDArray[np.float32]
Pictures = npt.NDArray[np.uint8] | list[npt.NDArray[np.uint8]]
"""One image, or a list with one for each crop or face."""


def crops_of_landmarks(landmarks: npt.NDArray[np.floating], margin: float = CROP_MARGIN) -> Floats:
    """Return upright square crops of faces, (F, 4) float32: centre x, y, side (pixels), roll (radians).

    `landmarks` are (F, 68, 2) in pixels; `margin` is the crop's side divided by the larger side of their
    upright bounding box.
    """
    points = np.ascontiguousarray(landmarks, dtype=np.float64)
    crops = np.empty((len(points), 4), dtype=np.float32)
    crops_kernel(points, margin, crops)
    return crops


@exact_kernel
def crops_kernel(points: npt.NDArray[np.float64], margin: float, crops: Floats) -> None:
    """Compiled `crops_of_landmarks`; fills `crops`, (F, 4)."""
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


def by_picture(pictures: Pictures, count: int) -> Iterator[tuple[npt.NDArray[np.uint8], slice]]:
    """Yield each image (H, W, 3) with the slice of the `count` crops or faces that it shows.

    `pictures` is one image, or a list with one for each crop.
    """
    if not isinstance(pictures, list):
        yield pictures, slice(0, count)
        return
    first = 0
    for last in range(1, count + 1):
        if last == count or pictures[last] is not pictures[first]:
            yield pictures[first], slice(first, last)
            first = last


def flat_pixels(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the pixels of an image as a flat read-only array.

    Numba compiles separate kernels for read-only and writable arrays, which may round differently with fast
    math; always passing read-only arrays avoids that.
    """
    pixels = np.ascontiguousarray(rgb).reshape(-1)
    pixels.flags.writeable = False
    return pixels


def to_image(fractions: npt.NDArray[np.floating], crops: npt.NDArray[np.floating]) -> Floats:
    """Map points in crops, (F, N, 2) as fractions of the side, to image pixels, (F, N, 2) float32."""
    centre = np.asarray(crops, dtype=np.float64)
    offset = (np.asarray(fractions, dtype=np.float64) - 0.5) * centre[:, None, 2:3]
    cos, sin = np.cos(centre[:, 3])[:, None], np.sin(centre[:, 3])[:, None]
    x = centre[:, None, 0] + offset[..., 0] * cos - offset[..., 1] * sin
    y = centre[:, None, 1] + offset[..., 0] * sin + offset[..., 1] * cos
    return np.stack([x, y], axis=-1).astype(np.float32)


def to_crop(points: npt.NDArray[np.floating], crops: npt.NDArray[np.floating]) -> Floats:
    """Map image pixels to fractions of the crops: the inverse of `to_image`."""
    centre = np.asarray(crops, dtype=np.float64)
    offset = np.asarray(points, dtype=np.float64) - centre[:, None, :2]
    cos, sin = np.cos(centre[:, 3])[:, None], np.sin(centre[:, 3])[:, None]
    x = (offset[..., 0] * cos + offset[..., 1] * sin) / centre[:, None, 2]
    y = (offset[..., 1] * cos - offset[..., 0] * sin) / centre[:, None, 2]
    return (np.stack([x, y], axis=-1) + 0.5).astype(np.float32)


def sample_crops(
    pictures: Pictures,
    crops: npt.NDArray[np.floating],
    size: int = CROP_SIZE,
    mirrored: tuple[bool, bool] = (False, False),
    out: Floats | None = None,
) -> Floats:
    """Sample crops (F, 4) of images (H, W, 3) uint8 as network input, (F, 3, size, size) float32, 0 to 1.

    Sampling is bilinear, by a kernel of the package, so that it does not depend on OpenCV's version. Where
    the crop is larger than the input, a grid of samples is averaged; if it is more than 2.25 times as large,
    means of 2 x 2, 4 x 4, ... pixels are sampled. Border pixels are replicated. Weights are rounded to steps
    of 1 / `WEIGHT_STEPS`. `mirrored` says whether an image's crops of even and of odd index are mirrored;
    `out` is filled and returned if given.
    """
    if out is None:
        out = np.empty((len(crops), 3, size, size), dtype=np.float32)
    crops64 = np.asarray(crops, np.float64)
    for rgb, rows in by_picture(pictures, len(crops)):
        sample_kernel(flat_pixels(rgb), rgb.shape[0], rgb.shape[1], crops64[rows], mirrored, out[rows])
    return out


@exact_kernel
def sample_kernel(
    pixels: npt.NDArray[np.uint8],
    height: int,
    width: int,
    crops: npt.NDArray[np.float64],
    mirrored: tuple[bool, bool],
    out: Floats,
) -> None:
    """Compiled `sample_crops` for one image; `pixels` are its values from `flat_pixels`."""
    size = out.shape[2]
    for row in range(len(crops)):
        x, y, side, roll = crops[row, 0], crops[row, 1], crops[row, 2], crops[row, 3]
        if not (abs(x) + abs(y) + abs(roll) + side <= LARGEST_CROP and side > 0):  # also True for NaN
            out[row] = 0
            continue
        samples, block = max(1, math.ceil(side / size - 0.25)), 1
        while samples > MAX_SAMPLES and block < MAX_BLOCK:
            samples, block = (samples + 1) // 2, 2 * block
        _sample(pixels, height, width, x, y, side, roll, min(samples, MAX_SAMPLES), block, out[row])
        if mirrored[row % 2]:
            for colour in range(3):
                for line in range(size):
                    for column in range(size // 2):
                        other = size - 1 - column
                        value = out[row, colour, line, column]
                        out[row, colour, line, column] = out[row, colour, line, other]
                        out[row, colour, line, other] = value


@kernel
def _sample(
    pixels: npt.NDArray[np.uint8],
    height: int,
    width: int,
    cx: float,
    cy: float,
    side: float,
    roll: float,
    samples: int,
    block: int,
    out: Floats,
) -> None:
    size = out.shape[1]
    step = side / (size * samples)
    ax, ay = math.cos(roll) * step, math.sin(roll) * step
    half = size * samples * 0.5 - 0.5
    reach = half * (abs(ax) + abs(ay)) + block

    left = int(min(max(cx - reach, 0.0), width - 1.0)) // block
    top = int(min(max(cy - reach, 0.0), height - 1.0)) // block
    right = int(min(max(cx + reach + block, 0.0), width - 1.0)) // block + 1
    bottom = int(min(max(cy + reach + block, 0.0), height - 1.0)) // block + 1
    n_columns, n_rows = right - left, bottom - top
    packed = np.empty((n_rows + 1) * (n_columns + 1), np.int64)
    _pack_colours(pixels, height, width, left, top, n_columns, n_rows, block, packed)

    unit = 1.0 / block
    x0 = np.float32((cx + 0.5) * unit - 0.5 - left)
    y0 = np.float32((cy + 0.5) * unit - 0.5 - top)
    dx, dy = np.float32(ax * unit), np.float32(ay * unit)
    zero, scale = np.float32(0), np.float32(WEIGHT_STEPS)
    last_x, last_y = np.float32(n_columns - 1), np.float32(n_rows - 1)
    pitch = np.int32(n_columns + 1)
    norm = np.float32(1.0 / (255.0 * WEIGHT_STEPS * samples * samples))
    indices, weights, sums = np.empty(size, np.int32), np.empty((3, size), np.int32), np.empty(size, np.int64)
    weights_01, weights_10, weights_11 = weights[0], weights[1], weights[2]
    for row in range(size):
        sums[:] = 0
        for j in range(samples):
            v = np.float32(row * samples + j - half)
            start_x, start_y = x0 - v * dy, y0 + v * dx
            for i in range(samples):
                # positions and weights of a row's samples first, in a loop that is vectorised; then the sums
                for column in range(size):
                    u = np.float32(column * samples + i - half)
                    x = min(max(start_x + u * dx, zero), last_x)
                    y = min(max(start_y + u * dy, zero), last_y)
                    xi, yi = np.int32(x), np.int32(y)
                    fx, fy = (x - np.float32(xi)) * scale, y - np.float32(yi)
                    w11 = np.int32(fx * fy)
                    weights_11[column] = w11
                    weights_01[column] = np.int32(np.int32(fx) - w11)
                    weights_10[column] = np.int32(np.int32(fy * scale) - w11)
                    indices[column] = np.int32(yi * pitch + xi)
                for column in range(size):
                    p = np.uint64(indices[column])
                    q = p + np.uint64(pitch)
                    first = packed[p]
                    right, below = packed[p + np.uint64(1)] - first, packed[q] - first
                    diagonal = packed[q + np.uint64(1)] - first
                    sums[column] += (
                        WEIGHT_STEPS * first
                        + np.int64(weights_01[column]) * right
                        + np.int64(weights_10[column]) * below
                        + np.int64(weights_11[column]) * diagonal
                    )
        red, green, blue = out[0, row], out[1, row], out[2, row]
        for column in range(size):
            red[column] = np.float32(np.int32(sums[column] & FIELD)) * norm
        for column in range(size):
            green[column] = np.float32(np.int32((sums[column] >> FIELD_BITS) & FIELD)) * norm
        for column in range(size):
            blue[column] = np.float32(np.int32(sums[column] >> 2 * FIELD_BITS)) * norm


@kernel
def _pack_colours(
    pixels: npt.NDArray[np.uint8],
    height: int,
    width: int,
    left: int,
    top: int,
    n_columns: int,
    n_rows: int,
    block: int,
    packed: npt.NDArray[np.int64],
) -> None:
    """Copy a part of an image, or the means of its blocks; the colours of a pixel are packed in one integer.

    `packed` is ((n_rows + 1) * (n_columns + 1),): the last row and column are repeated, so that every pixel
    has a right and a lower neighbour.
    """
    sums = np.empty(3 * n_columns * block, np.float32)
    norm, half = np.float32(1.0 / (block * block)), np.float32(0.5)
    for r in range(n_rows + 1):
        line, start = top + min(r, n_rows - 1), r * (n_columns + 1)
        target = packed[start : start + n_columns]
        if block == 1:
            source = pixels[3 * (line * width + left) : 3 * (line * width + left + n_columns)]
            for c in range(n_columns):
                red, green = np.int64(source[3 * c]), np.int64(source[3 * c + 1])
                target[c] = red | (green << FIELD_BITS) | (np.int64(source[3 * c + 2]) << 2 * FIELD_BITS)
        else:
            _sum_lines(pixels, height, width, line * block, left * block, block, sums)
            for c in range(n_columns):
                red_sum = green_sum = blue_sum = np.float32(0)
                for k in range(c * block, (c + 1) * block):
                    red_sum += sums[3 * k]
                    green_sum += sums[3 * k + 1]
                    blue_sum += sums[3 * k + 2]
                red, green = np.int64(red_sum * norm + half), np.int64(green_sum * norm + half)
                target[c] = red | (green << FIELD_BITS) | (np.int64(blue_sum * norm + half) << 2 * FIELD_BITS)
        packed[start + n_columns] = packed[start + n_columns - 1]


@kernel
def _sum_lines(
    pixels: npt.NDArray[np.uint8], height: int, width: int, top: int, left: int, lines: int, sums: Floats
) -> None:
    """Sum n pixels from `left` over `lines` into `sums`, (3 n,); border pixels are replicated."""
    inside = 3 * min(len(sums) // 3, width - left)
    sums[:] = np.float32(0)
    for y in range(top, top + lines):
        start = 3 * (min(y, height - 1) * width + left)
        line = pixels[start : start + inside]
        for k in range(inside):
            sums[k] += line[k]
    for k in range(inside, len(sums)):
        sums[k] = sums[k - 3]
