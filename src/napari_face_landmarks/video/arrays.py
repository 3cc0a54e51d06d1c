"""Arrays, lists and iterators as frames; axes of length 1 are dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import ImageError

ENDLESS = 10**9
"""The number of frames of an iterator, which is not known."""
MOST_CHANNELS = 4


class FrameArray:
    """An array with other axes as lazy frames (T, Y, X[, C]).

    `time` is the axis of time (None for a single image), `colour` an axis of channels before y and x (None if
    there is none, or it is the last), `n_last` the number of axes of a frame at the end: 2, or 3 with
    channels.
    """

    def __init__(self, data: Any, time: int | None, colour: int | None, n_last: int) -> None:
        self._data, self._time, self._colour = data, time, colour
        shape = tuple(int(length) for length in data.shape)
        channels = () if colour is None or shape[colour] == 2 else (shape[colour],)
        n_frames = 1 if time is None else shape[time]
        self.shape: tuple[int, ...] = (n_frames, *shape[len(shape) - n_last :], *channels)
        self.dtype, self.ndim, self._lead = data.dtype, len(self.shape), len(shape) - n_last

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frame: int) -> npt.NDArray[Any]:
        key = [0] * self._lead
        if self._time is not None:
            key[self._time] = int(frame)
        index = tuple(slice(None) if axis == self._colour else number for axis, number in enumerate(key))
        found = read_frame(self._data, index if self._lead > 1 else key[0] if self._lead else ...)
        if self._colour is None:
            return found
        if found.shape[0] == 2:
            return np.asarray(found.mean(axis=0), dtype=found.dtype)
        return np.moveaxis(found, 0, -1)


class FrameList:
    """A list of frames, arrays of any kind or paths of images; `independent` ones have no scene cuts."""

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
    """Return a frame as an array: of a path, of a frame of decord, or converted by NumPy."""
    from napari_face_landmarks.video.pictures import read_picture

    if isinstance(frame, (str, Path)):
        return read_picture(frame)
    return np.asarray(frame.asnumpy() if hasattr(frame, "asnumpy") else frame)


class FrameStream:
    """Frames as they come from an iterator: how many is not known, and each is read once, in order.

    Attributes
    ----------
    times : list of float or None
        Seconds of the frames read so far, where the iterator knows them (`LiveFrames`).
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
        """Yield every n-th of the frames from `start` on; once only."""
        frames, self._frames = self._frames, None
        if frames is None:
            raise ImageError("The iterator of frames was read already: make another one.")
        yield from map(_as_array, islice(frames, start, stop, every))


def read_frame(source: Any, index: Any) -> npt.NDArray[Any]:
    """Return ``numpy.asarray(source[index])`` of an array-like.

    Dask arrays are computed without Dask's callbacks, which all threads share: napari's cache, one of these,
    raises a KeyError if another thread computes at the same time.
    """
    frame = source[index]
    graph = getattr(frame, "__dask_graph__", None)
    return np.asarray(frame if graph is None or graph() is None else frame.compute(callbacks=()))


def _is_sequence(frames: Any) -> bool:
    """Return whether frames can be taken by their numbers, as those of pims and decord."""
    known = hasattr(frames, "__len__") and hasattr(frames, "__getitem__")
    return known and not isinstance(frames, (str, bytes, Mapping))


def as_frames(frames: Any, colour_last: bool | None = None) -> Any:
    """Return arrays, lists and iterators as frames (T, Y, X[, C]), each read when it is asked for.

    Parameters
    ----------
    frames : array-like, sequence or iterable of arrays, sequence of paths of pictures
        Axes of length 1 are dropped: (T, 1, Y, X), (1, T, 1, Y, X); (Y, X) and (Y, X, 3 or 4) are a single
        picture; of (T, C, 1, Y, X) up to four channels are read.
    colour_last : bool, optional
        Whether the last axis is of channels; by default where it is 3 or 4 long.

    Returns
    -------
    array-like
        `frames` itself where it has these axes.

    Raises
    ------
    ImageError
        If there is no frame, or other axes.
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
    if any(n != n for n in shape) or len(shape) < 2:  # a length that is not known
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
    if long == [0, 1] and len(shape) == 5 and not colour_last and lead[1] <= MOST_CHANNELS:
        return FrameArray(frames, 0, 1, n_last)
    return frames
