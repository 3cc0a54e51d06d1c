"""Opening of videos and image sequences, and sequential reading of frames from them and from arrays."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator
from typing import Any, cast

import numpy.typing as npt

from napari_face_landmarks.errors import ImageError, VideoError
from napari_face_landmarks.video.arrays import FrameList, FrameStream, as_frames, read_frame
from napari_face_landmarks.video.images import ImageIterator, ImageSequence, image_paths
from napari_face_landmarks.video.index import VideoInfo, index_video
from napari_face_landmarks.video.reader import Video, VideoWarning, frame_range


def open_video(path: str | os.PathLike[str], stream: int | None = None) -> Video:
    """Open a video file as a lazy array.

    All packets of the file are read once without decoding, so that the number of frames and their time stamps
    are exact.

    Parameters
    ----------
    path : str or os.PathLike
        A local video file; or a folder of images (in natural order), a multi-page TIFF file or an image.
    stream : int, optional
        Number of the video stream to read, counted from 0. By default the stream marked as default, otherwise
        the largest one that is not an attached picture.

    Returns
    -------
    Video
        Shape (T, H, W, 3), uint8, RGB, upright.

    Raises
    ------
    VideoError
        If the path does not exist, or is not a video or image, has no video stream or cannot be decoded.

    Warns
    -----
    VideoWarning
        If the file is truncated; its remaining frames can be read. ``video.info.warnings`` has the message.
    """
    if image_paths(path):
        if stream:
            raise VideoError(f"{path} contains images and no video stream {stream}: omit the stream.")
        return ImageSequence(_absolute(path))
    source = index_video(_absolute(path), stream)
    for sentence in source.info.warnings:
        warnings.warn(sentence, VideoWarning, stacklevel=2)
    return Video(source)


def probe(path: str | os.PathLike[str], stream: int | None = None) -> VideoInfo:
    """Return the properties of a video; parameters and errors are those of `open_video`."""
    absolute = _absolute(path)
    return ImageSequence(absolute).info if image_paths(path) else index_video(absolute, stream).info


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.fsdecode(path))


def read_frames(
    source: Any, start: int = 0, stop: int | None = None, every: int = 1
) -> Generator[npt.NDArray[Any], None, None]:
    """Read frames sequentially from a file, a `Video` or any array-like.

    Parameters
    ----------
    source : path, Video or array-like of shape (T, Y, X[, C])
        Arrays of any library are read as ``numpy.asarray(source[t])``, so lazy arrays are not loaded whole.
    start, stop : int
        First frame, and the one after the last; clipped to the existing frames.
    every : int
        Only every n-th of these frames.

    Returns
    -------
    generator of ndarray, (Y, X[, C])
        RGB uint8 from a video; from an array its own dtype.

    Raises
    ------
    VideoError
        If a file cannot be opened or read.
    ImageError
        If `source` is neither a path nor indexable by frame.
    """
    if isinstance(source, Video):
        return source.frames(start, stop, every)
    if isinstance(source, FrameList) and source.independent:  # reading continues after a damaged image
        numbers = range(*frame_range(start, stop, len(source)), every)
        return cast(Generator[npt.NDArray[Any], None, None], ImageIterator(source, numbers))
    return _frames_of(source, start, stop, every)


def _frames_of(
    source: Any, start: int, stop: int | None, every: int
) -> Generator[npt.NDArray[Any], None, None]:
    if isinstance(source, (str, os.PathLike)):
        with open_video(source) as video:
            yield from video.frames(start, stop, every)
    else:
        source = as_frames(source)
        first, last = frame_range(start, stop, frame_count(source))
        if isinstance(source, FrameStream):
            yield from source.frames(first, last, every)
            return
        for number in range(first, last, every):
            yield read_frame(source, number)


def frame_count(source: Any) -> int:
    """Return the number of frames of a path, a `Video` or an array-like of shape (T, Y, X[, C])."""
    if isinstance(source, (str, os.PathLike)):
        return probe(source).n_frames
    try:
        shape = getattr(source, "shape", None)
        return int(shape[0]) if shape is not None else len(source)
    except (TypeError, IndexError, ValueError):  # ValueError: a Dask array of unknown length
        raise ImageError(
            f"Frames cannot be read from a {type(source).__name__}: give a path or an array (T, Y, X[, C]) "
            "whose length is known."
        ) from None
