"""Frames of any kind to the one kind that the rest works on: RGB uint8, (H, W, 3), contiguous."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import ImageError

LARGEST_SIDE = 32767  # what OpenCV's resampling can address


def to_rgb8(image: Any, where: str = "The image") -> npt.NDArray[np.uint8]:
    """Convert an image to RGB uint8.

    Parameters
    ----------
    image : array-like, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
        Grey, RGB or RGBA; bool, any integer type or float. Integers wider than 8 bits are read as using the
        whole range of their type, negative ones as 0; floats as 0 to 1, or as 0 to 255 where any value is
        above 1. Alpha is dropped.
    where : str
        What to call the image in an error's sentence, for example ``"Frame 12"``.

    Returns
    -------
    ndarray, (H, W, 3), uint8
        C-contiguous; a view of `image` where nothing had to change.

    Raises
    ------
    ImageError
        If the shape is none of the above, the type is not numeric, or a pixel is not finite.
    """
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(
            f"{where} has the shape {array.shape}: give a grey (Y, X), RGB (Y, X, 3) or RGBA (Y, X, 4) image."
        )
    if 0 in array.shape or max(array.shape[:2]) > LARGEST_SIDE:
        raise ImageError(
            f"{where} has the shape {array.shape}: give an image with sides of 1 to {LARGEST_SIDE} px."
        )
    array = _to_uint8(array[:, :, :3] if array.ndim == 3 else array, where)
    if array.ndim == 2:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(array), cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    return np.ascontiguousarray(array)


def _to_uint8(array: npt.NDArray[Any], where: str) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return np.asarray(array, dtype=np.uint8) * np.uint8(255)
    if np.issubdtype(array.dtype, np.integer):
        top = float(np.iinfo(array.dtype).max)
        return np.asarray(np.clip(array, 0, None) * (255.0 / top) + 0.5, dtype=np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ImageError(
                f"{where} has pixels that are not finite (NaN or infinity): replace them by numbers."
            )
        scale = 255.0 if float(array.max()) <= 1.0 else 1.0
        return np.asarray(np.clip(array * scale, 0, 255) + 0.5, dtype=np.uint8)
    raise ImageError(f"{where} has the type {array.dtype}: give bool, integer or float pixels.")


def to_grey(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the luma (ITU-R BT.601) of an RGB uint8 image, (H, W) uint8."""
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
