"""Videos that are made from another video and its tracks: what they share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.tracks import Tracks, frame_rate_of
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.files.atomic import same_file
from napari_face_landmarks.tracking.frame_source import EVERY, check_length, check_size, recorded_stream
from napari_face_landmarks.video import Video, frame_count, open_video, read_frames, write_video
from napari_face_landmarks.video.images import image_paths

Progress = Callable[[int, int | None], None]


@contextlib.contextmanager
def opened(source: Any, tracks: Tracks) -> Iterator[Any]:
    """Yield the opened source of frames; raise an `ImageError` if it has fewer frames than the tracks."""
    with contextlib.ExitStack() as stack:
        is_path = isinstance(source, (str, os.PathLike))
        frames = stack.enter_context(open_video(source, recorded_stream(tracks))) if is_path else source
        check_length(frame_count(frames), int(tracks.frame_indices.max()))
        yield frames


def check_output(path: str | os.PathLike[str], source: Any, tracks: Tracks) -> None:
    """Raise a `ResultError` if there are no frames, or if the output is the video itself."""
    if len(tracks.frame_indices) == 0:
        raise ResultError(
            f"{os.fspath(path)} cannot be written: the result has no frames; track at least one."
        )
    read = path_of(source)
    if read is not None and same_file(path, read):
        raise ResultError(f"{os.fspath(path)} is the video itself: give another name for the output.")


def path_of(source: Any) -> str | os.PathLike[str] | None:
    """Return the file that frames are read from; None where there is none."""
    read = source.info.path if isinstance(source, Video) else source
    return read if isinstance(read, (str, os.PathLike)) else None


def tracked_frames(frames: Any, tracks: Tracks) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield the rows of tracks, in the order of the frames, each with its frame of an opened source."""
    start, stop = int(tracks.frame_indices[0]), int(tracks.frame_indices[-1]) + 1
    row_of = {int(index): row for row, index in enumerate(tracks.frame_indices)}
    for index, frame in enumerate(read_frames(frames, start, stop), start=start):
        if index in row_of:
            check_size(frame.shape[:2], tracks)
            yield row_of[index], frame


def frame_rate(tracks: Tracks) -> float:
    """Return the frame rate for a video of the tracked frames, or 25 if it is unknown."""
    return float(np.clip((frame_rate_of(tracks) or 25.0) / tracks.meta.get(EVERY, 1), 0.1, 1000))


def write_from(
    path: str | os.PathLike[str],
    frames: Iterator[npt.NDArray[np.uint8]],
    source: Any,
    times: Sequence[float] | npt.NDArray[np.float64],
    fps: float,
    pixel_aspect: float = 1.0,
) -> None:
    """Write frames with the sound of the video that they were made from."""
    seconds, file = np.asarray(times, dtype=np.float64), path_of(source)
    even = not np.isfinite(seconds).all() or bool((np.diff(seconds) <= 0).any())
    write_video(
        path,
        frames,
        fps=fps,
        timestamps=None if even else seconds.tolist(),
        sound=None if file is None or image_paths(file) else file,
        pixel_aspect=pixel_aspect,
    )


def counted(
    frames: Iterator[npt.NDArray[np.uint8]], total: int, progress: Progress | None
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield frames, and report the number of those that were written and the total."""
    for done, frame in enumerate(frames, start=1):
        yield frame
        if progress is not None:
            progress(done, total)
