"""Conversion of frames to RGB uint8, (H, W, 3), and kernels for greyscale and resizing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import ImageError
from napari_face_landmarks.jit import kernel

LARGEST_SIDE = 32767  # px; keeps pixel indices within the integers of the kernels
BITS = (8, 10, 12, 14, 16)
"""Bit depths of cameras and scanners."""
UNIT_FLOAT = 1.1
"""Maximum of floats whose white is taken as 1; filters overshoot."""


@dataclass(frozen=True, slots=True)
class PixelRange:
    """The pixel values of black and white."""

    black: float
    white: float


BYTES = PixelRange(0.0, 255.0)
"""Range of uint8."""


def to_rgb8(
    image: Any, where: str = "The image", pixel_range: PixelRange | None = None
) -> npt.NDArray[np.uint8]:
    """Convert an image (H, W) or (H, W, 1, 3 or 4) to RGB uint8, (H, W, 3)."""
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(
            f"{where} has the shape {array.shape}: give a greyscale (Y, X), RGB (Y, X, 3) or RGBA (Y, X, 4) "
            "image."
        )
    if 0 in array.shape or max(array.shape[:2]) > LARGEST_SIDE:
        raise ImageError(
            f"{where} has the shape {array.shape}: give an image with sides of 1 to {LARGEST_SIDE} px."
        )
    array = _to_uint8(array[:, :, :3] if array.ndim == 3 else array, where, pixel_range)
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    return np.ascontiguousarray(array)


def _to_uint8(array: npt.NDArray[Any], where: str, pixel_range: PixelRange | None) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return np.asarray(array, dtype=np.uint8) * np.uint8(255)
    if array.dtype.kind not in "iuf":
        raise ImageError(f"{where} has the dtype {array.dtype}: give bool, integer or float pixels.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ImageError(
            f"{where} has pixels that are not finite (NaN or infinity): replace them with finite numbers."
        )
    if pixel_range is None:
        pixel_range = range_of_type(array.dtype)
        if array.dtype.kind == "f" and float(array.max()) > 1.0:
            pixel_range = BYTES
    elif np.count_nonzero(array > pixel_range.white) > array.size / 2:  # this image has another bit depth
        pixel_range = pixel_range_of([array])[0]
    black, white = pixel_range.black, max(pixel_range.white, pixel_range.black + 1e-9)
    levels = (np.clip(array, black, white) - black) * (255.0 / (white - black))
    return np.asarray(levels + 0.5, dtype=np.uint8)


def pixel_range_of(frames: Sequence[Any]) -> tuple[PixelRange, str | None]:
    """Estimate the pixel values of black and white of a video; return them and a warning if unusual.

    Integers of more than 8 bits are assumed to have 8, 10, 12, 14 or 16 significant bits, depending on the
    brightest pixels; floats are assumed to range from 0 to 1 or -1 to 1, or like such integers. The brightest
    and darkest thousandth of the pixels are ignored.
    """
    arrays = [array for frame in frames if (array := np.asarray(frame)).ndim in (2, 3) and array.size]
    kind = arrays[0].dtype if arrays else np.dtype(np.uint8)
    if kind.itemsize == 1 or kind.kind not in "iuf" or not arrays:
        return range_of_type(kind), None
    lows, highs = [], []
    for array in arrays:
        colours = array[:, :, :3] if array.ndim == 3 else array
        values = colours[:: max(1, colours.shape[0] // 512), :: max(1, colours.shape[1] // 512)]
        finite = values[np.isfinite(values)] if kind.kind == "f" else values.ravel()
        if finite.size:
            low, high = np.percentile(finite, (0.1, 99.9))
            lows.append(float(low))
            highs.append(float(high))
    if not highs:
        return range_of_type(kind), None
    estimate, default = _range(min(lows), max(highs), kind), range_of_type(kind)
    if estimate == default or max(highs) <= default.black:
        return default, None
    return estimate, (
        f"The pixels have the dtype {kind} and range from {min(lows):.4g} to {max(highs):.6g}: "
        f"{estimate.black:g} is used as black and {estimate.white:g} as white."
    )


def range_of_type(kind: np.dtype[Any]) -> PixelRange:
    """Return the default range of a dtype."""
    if kind.kind in "iu":
        return PixelRange(0.0, float(np.iinfo(kind).max))
    return PixelRange(0.0, 1.0)


def _range(low: float, high: float, kind: np.dtype[Any]) -> PixelRange:
    largest = float(np.iinfo(kind).max) if kind.kind in "iu" else np.inf
    if kind.kind == "f" and max(abs(low), abs(high)) <= UNIT_FLOAT:
        return PixelRange(-1.0 if low < -0.01 else 0.0, 1.0)
    reach = max(abs(low), abs(high)) if low < -0.01 * abs(high) else high
    whites = [2.0**bits - 1 for bits in BITS if 2.0**bits - 1 <= largest]
    white = next((value for value in whites if reach <= value + 0.5), max(largest, 0))
    if not np.isfinite(white):
        white = high
    return PixelRange(-white - 1 if low < -0.01 * abs(high) else 0.0, white)


def to_grey(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the luma (ITU-R BT.601, rounded) of an RGB uint8 image, (H, W) uint8.

    Like `halve` and `resize`, it does not use OpenCV, so that landmarks do not depend on its version.
    """
    grey = np.empty(rgb.shape[:2], np.uint8)
    _grey(np.ascontiguousarray(rgb).reshape(-1), grey.reshape(-1))
    return grey


# Flat arrays and unsigned indices let the compiler vectorise these loops.


@kernel
def _grey(rgb: npt.NDArray[np.uint8], grey: npt.NDArray[np.uint8]) -> None:
    for i in range(grey.shape[0]):
        p = np.uint64(3 * i)
        luma = np.uint32(9798) * np.uint32(rgb[p])  # 0.299, 0.587 and 0.114 of 2 ** 15
        luma += np.uint32(19235) * np.uint32(rgb[p + np.uint64(1)])
        luma += np.uint32(3735) * np.uint32(rgb[p + np.uint64(2)])
        grey[i] = np.uint8((luma + np.uint32(16384)) >> np.uint32(15))


def halve(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the means of 2 x 2 pixels, (H // 2, W // 2, 3) uint8; an odd last row or column is dropped."""
    half = np.empty((rgb.shape[0] // 2, rgb.shape[1] // 2, 3), np.uint8)
    _halve(np.ascontiguousarray(rgb).reshape(-1), rgb.shape[1], half)
    return half


@kernel
def _halve(rgb: npt.NDArray[np.uint8], width: int, half: npt.NDArray[np.uint8]) -> None:
    pitch, right = np.uint64(3 * width), np.uint64(3)
    for r in range(half.shape[0]):
        row = half[r].reshape(-1)
        for k in range(3):
            for c in range(half.shape[1]):
                p = np.uint64(2 * r) * pitch + np.uint64(6 * c + k)
                total = np.uint32(rgb[p]) + np.uint32(rgb[p + right])
                total += np.uint32(rgb[p + pitch]) + np.uint32(rgb[p + pitch + right])
                row[np.uint64(3 * c + k)] = np.uint8((total + np.uint32(2)) >> np.uint32(2))


def resize(
    rgb: npt.NDArray[np.uint8], height: int, width: int, step: tuple[float, float]
) -> npt.NDArray[np.uint8]:
    """Sample an RGB uint8 image bilinearly, (height, width, 3); border pixels are replicated."""
    resized = np.empty((height, width, 3), np.uint8)
    size = rgb.shape[:2]
    _resize(np.ascontiguousarray(rgb).reshape(-1), size[0], size[1], step[0], step[1], resized)
    return resized


@kernel
def _resize(
    rgb: npt.NDArray[np.uint8],
    height: int,
    width: int,
    step_y: float,
    step_x: float,
    resized: npt.NDArray[np.uint8],
) -> None:
    columns = resized.shape[1]
    left, right = np.empty(columns, np.uint64), np.empty(columns, np.uint64)
    shares = np.empty(columns, np.float32)
    line = np.empty(3 * width, np.float32)
    for c in range(columns):
        x = min(max((c + 0.5) * step_x - 0.5, 0.0), width - 1.0)
        left[c], right[c] = 3 * int(x), 3 * min(int(x) + 1, width - 1)
        shares[c] = x - int(x)
    for r in range(resized.shape[0]):
        y = min(max((r + 0.5) * step_y - 0.5, 0.0), height - 1.0)
        share = np.float32(y - int(y))
        above = np.uint64(3 * width * int(y))
        below = np.uint64(3 * width * min(int(y) + 1, height - 1))
        for i in range(line.shape[0]):
            upper = np.float32(rgb[above + np.uint64(i)])
            line[i] = upper + share * (np.float32(rgb[below + np.uint64(i)]) - upper)
        row = resized[r].reshape(-1)
        for k in range(3):
            for c in range(columns):
                first = line[left[c] + np.uint64(k)]
                second = line[right[c] + np.uint64(k)]
                row[np.uint64(3 * c + k)] = np.uint8(first + shares[c] * (second - first) + np.float32(0.5))
