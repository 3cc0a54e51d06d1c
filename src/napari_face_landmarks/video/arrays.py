"""Adapters that present arrays, lists and iterators as frames (T, Y, X[, C])."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import ImageError

ENDLESS = 10**9
"""Frame count reported for an iterator, whose length is unknown."""
_MAX_CHANNELS = 4


class FrameArray:
    """Lazy frames (T, Y, X[, C]) of an array with more axes, or in another order.

    `time` is the time axis (None for a single image), `colour` a channel axis before y and x (None if there
    is none, or if it is the last axis), `n_last` the number of trailing axes of a frame: 2, or 3 with
    channels.
    """

    def __init__(self, data: Any, time: int | None, colour: int | None, n_last: int) -> None:
        self._data, self._time, self._colour = data, time, colour
        shape = tuple(int(length) for length in data.shape)
        channels = () if colour is None or shape[colour] == 2 else (shape[colour],)
        n_frames = 1 if time is None else shape[time]
        self.shape: tuple[int, ...] = (n_frames, *shape[len(shape) - n_last :], *channels)
        self.dtype, self.ndim, self._n_leading = data.dtype, len(self.shape), len(shape) - n_last

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frame: int) -> npt.NDArray[Any]:
        key = [0] * self._n_leading
        if self._time is not None:
            key[self._time] = int(frame)
        index = tuple(slice(None) if axis == self._colour else number for axis, number in enumerate(key))
        image = read_frame(self._data, index if self._n_leading > 1 else key[0] if self._n_leading else ...)
        if self._colour is None:
            return image
        if image.shape[0] == 2:
            return np.asarray(image.mean(axis=0), dtype=image.dtype)
        return np.moveaxis(image, 0, -1)


class FrameList:
    """Frames of a list of arrays or of image paths; paths are `independent` images, without scene cuts."""

    def __init__(self, frames: Sequence[Any]) -> None:
        first = _as_array(frames[0])
        self.independent = isinstance(frames[0], (str, Path))
        self._frames, self.dtype = frames, first.dtype
        self.shape = (len(frames), *first.shape)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, frame: int) -> npt.NDArray[Any]:
        return _as_array(self._frames[frame])


def _as_array(frame: Any) -> npt.NDArray[Any]:
    """Read an image path, or convert a frame (of decord, or any array-like) to an array."""
    from napari_face_landmarks.video.images import read_image

    if isinstance(frame, (str, Path)):
        return read_image(frame)
    return np.asarray(frame.asnumpy() if hasattr(frame, "asnumpy") else frame)


class FrameStream:
    """Frames of an iterator: their number is unknown, and they are read once, in order.

    Attributes
    ----------
    times : list of float or None
        Time in seconds of each frame read so far; None unless the iterator has `times`, like `LiveFrames`.
    """

    def __init__(self, frames: Iterable[Any]) -> None:
        self.times: list[float] | None = getattr(frames, "times", None)
        iterator = iter(frames)
        first = next(iterator, None)
        if first is None:
            raise ImageError("There are no frames to track: the iterator is empty.")
        self._first = _as_array(first)
        self._frames: Iterator[Any] | None = chain([first], iterator)
        self.dtype, self.shape = self._first.dtype, (ENDLESS, *self._first.shape)
        self.ndim = len(self.shape)

    def __getitem__(self, frame: int) -> npt.NDArray[Any]:
        if frame != 0:
            raise IndexError(f"There is no frame {frame}: frames of an iterator are read in order.")
        return self._first

    def frames(self, start: int, stop: int, every: int = 1) -> Iterator[npt.NDArray[Any]]:
        """Yield every n-th frame from `start` to `stop`; may be called only once."""
        frames, self._frames = self._frames, None
        if frames is None:
            raise ImageError("The iterator of frames has already been read: create a new one.")
        yield from map(_as_array, islice(frames, start, stop, every))


def read_frame(source: Any, index: Any) -> npt.NDArray[Any]:
    """Return ``numpy.asarray(source[index])`` of an array-like.

    Dask arrays are computed without Dask's callbacks, which all threads share: napari's cache is such a
    callback, and raises a KeyError if another thread computes at the same time.
    """
    frame = source[index]
    graph = getattr(frame, "__dask_graph__", None)
    return np.asarray(frame if graph is None or graph() is None else frame.compute(callbacks=()))


def _is_sequence(frames: Any) -> bool:
    """Return whether frames can be indexed by number, like the readers of pims and decord."""
    indexable = hasattr(frames, "__len__") and hasattr(frames, "__getitem__")
    return indexable and not isinstance(frames, (str, bytes, Mapping))


def as_frames(frames: Any, colour_last: bool | None = None) -> Any:
    """Return arrays, lists and iterators as lazy frames (T, Y, X[, C]).

    Parameters
    ----------
    frames : array-like, sequence or iterable of arrays, or sequence of image paths
        Leading axes of length 1 are dropped, as in (T, 1, Y, X) and (1, T, 1, Y, X); (Y, X) and
        (Y, X, 3 or 4) are a single image; (T, C, 1, Y, X) may have up to four channels.
    colour_last : bool, optional
        Whether the last axis is the channel axis. By default if its length is 3 or 4, or 1 in (T, Y, X, 1).

    Returns
    -------
    array-like
        `frames` itself if it has these axes already, or axes that are not supported.

    Raises
    ------
    ImageError
        If there are no frames, or the first image of a list cannot be read.
    """
    if getattr(frames, "shape", None) is None:
        if isinstance(frames, (list, tuple)) or _is_sequence(frames):
            if not len(frames):
                raise ImageError("There are no frames to track: the list is empty.")
            return as_frames(FrameList(frames))
        if isinstance(frames, Iterable) and not isinstance(frames, (bytes, dict, set)):
            return FrameStream(frames)
        return frames
    shape = tuple(frames.shape)
    if any(n != n for n in shape) or len(shape) < 2:  # NaN: a Dask array of unknown length
        return frames
    if colour_last is None:
        colour_last = len(shape) > 2 and (shape[-1] in (3, 4) or (shape[-1] == 1 and len(shape) == 4))
    n_last = 3 if colour_last else 2
    lead = shape[: len(shape) - n_last]
    if len(lead) == 1:
        return frames
    long = [axis for axis, length in enumerate(lead) if length != 1]
    if len(long) <= 1:
        time = long[0] if long else (0 if lead else None)
        return FrameArray(frames, time, None, n_last)
    if long == [0, 1] and len(shape) == 5 and not colour_last and lead[1] <= _MAX_CHANNELS:
        return FrameArray(frames, 0, 1, n_last)
    return frames
