"""Image layers as frames for the tracker, read one by one and never while napari reads them; no Qt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import ImageError
from napari_face_landmarks.video import Video, read_frame

SLICING = "dask_optimized_slicing"
"""The attribute of layers that napari enters as a context around each reading of their data."""
_reading = threading.RLock()
"""Held by whoever reads lazy data of a layer, napari or a run; such data may share one reader."""


def count_frames(image_layer: Any) -> int:
    """Return the number of frames of an image layer, 1 for a single image; no pixel is read.

    Raises
    ------
    ImageError
        If the layer is no image, has other dimensions, no pixels or none that are numbers.
    """
    name = f"The layer {str(getattr(image_layer, 'name', type(image_layer).__name__))!r}"
    if image_layer is None:
        raise ImageError("There is no video: open one, or choose an image layer.")
    if not hasattr(image_layer, "rgb") or not hasattr(image_layer, "multiscale"):
        raise ImageError(f"{name} is no image layer: choose the layer of the video.")
    data = _finest(image_layer)
    shape = tuple(int(length) for length in data.shape)
    n_axes = len(shape) - bool(image_layer.rgb)
    if n_axes not in (2, 3):
        raise ImageError(
            f"{name} has the shape {shape}: give an image layer (T, Y, X) or (Y, X), grey or RGB; "
            "split other axes into layers first."
        )
    if 0 in shape:
        raise ImageError(f"{name} has the shape {shape}: there is nothing in it to look for faces in.")
    dtype = np.dtype(data.dtype)
    if dtype.kind not in "buif":
        raise ImageError(f"{name} has the type {dtype}: give bool, integer or float pixels.")
    return shape[0] if n_axes == 3 else 1


def frames_of_layer(image_layer: Any) -> Any:
    """Return the frames of an image layer as the tracker reads them.

    Parameters
    ----------
    image_layer : napari.layers.Image
        (T, Y, X) or a single (Y, X), grey, RGB or RGBA; lazy data stay lazy. Of a multiscale layer the finest
        level is read.

    Returns
    -------
    array-like, (T, Y, X) or (T, Y, X, 3 or 4)
        The layer's own data where they are a NumPy array or a `Video` with a time axis. Other data are read
        frame by frame, and from now on never while napari reads them, because many readers are not
        thread-safe.

    Raises
    ------
    ImageError
        As `count_frames`.
    """
    count_frames(image_layer)
    data, still = _finest(image_layer), int(image_layer.ndim) == 2
    shared, turn = not isinstance(data, (np.ndarray, Video)), _turn(image_layer)
    if shared:
        _serialise(image_layer)
    return LayerFrames(data, still, turn) if shared or still or any(turn) else data


def _finest(image_layer: Any) -> Any:
    return image_layer.data[0] if image_layer.multiscale else image_layer.data


def _turn(layer: Any) -> tuple[bool, bool, bool]:
    """Return what turns the layer's data as napari shows them, to the nearest of 90 degrees (`FrameView`)."""
    if not hasattr(layer, "data_to_world"):
        return (False, False, False)
    origin, *steps = np.zeros((3, layer.ndim))
    steps[0][-2] = steps[1][-1] = 1
    zero = np.asarray(layer.data_to_world(origin))
    down, right = (np.asarray(layer.data_to_world(step)) - zero for step in steps)
    if abs(down[-1]) + abs(right[-2]) > abs(down[-2]) + abs(right[-1]):
        return True, bool(down[-1] < 0), bool(right[-2] < 0)
    return False, bool(right[-1] < 0), bool(down[-2] < 0)


class LayerFrames:
    """The frames of a layer's data, read one by one while napari does not read them.

    Parameters
    ----------
    data : array-like, (T, Y, X[, C]) or (Y, X[, C])
    still : bool
        Whether they are a single image, without a time axis.
    turn : (bool, bool, bool)
        What makes frames upright, as in `FrameView`; the frames are not turned yet.
    """

    def __init__(self, data: Any, still: bool, turn: tuple[bool, bool, bool]) -> None:
        self._data, self._still, self.turn = data, still, turn
        self.video = data if isinstance(data, Video) else None
        shape = tuple(int(length) for length in data.shape)
        self.shape = (1, *shape) if still else shape
        self.dtype, self.ndim = data.dtype, len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frame: int) -> npt.NDArray[Any]:
        if not 0 <= frame < len(self):
            raise IndexError(f"There is no frame {frame}: the layer has {len(self)}, counted from 0.")
        with _reading:
            return read_frame(self._data, ... if self._still else int(frame))


def _serialise(layer: Any) -> None:
    """Have napari read a layer's data only while no run does; once is enough."""
    for holder in (layer, getattr(layer, "_slicing_state", None)):  # the latter since napari 0.9
        slicing = getattr(holder, SLICING, None)
        if slicing is not None and not hasattr(slicing, "waits"):
            setattr(holder, SLICING, _waiting(slicing))


def _waiting(slicing: Callable[[], AbstractContextManager[Any]]) -> Callable[[], AbstractContextManager[Any]]:
    @contextmanager
    def waiting() -> Iterator[Any]:
        with _reading, slicing() as found:
            yield found

    waiting.waits = True  # type: ignore[attr-defined]
    return waiting
