"""Functions shared by the writers of videos that are made from a video and its tracks."""

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
    """Open a source of frames; raise an `ImageError` if it has fewer frames than the tracks."""
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
    source_path = path_of(source)
    if source_path is not None and same_file(path, source_path):
        raise ResultError(f"{os.fspath(path)} is the video itself: give another name for the output.")


def path_of(source: Any) -> str | os.PathLike[str] | None:
    """Return the path of a source of frames; None for arrays."""
    path = source.info.path if isinstance(source, Video) else source
    return path if isinstance(path, (str, os.PathLike)) else None


def tracked_frames(frames: Any, tracks: Tracks) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield each row of the tracks with its frame of an opened source."""
    start, stop = int(tracks.frame_indices[0]), int(tracks.frame_indices[-1]) + 1
    row_of = {int(index): row for row, index in enumerate(tracks.frame_indices)}
    for index, frame in enumerate(read_frames(frames, start, stop), start=start):
        if index in row_of:
            check_size(frame.shape[:2], tracks)
            yield row_of[index], frame


def frame_rate(tracks: Tracks) -> float:
    """Return the frame rate for a video of the tracked frames; 25 if unknown."""
    return float(np.clip((frame_rate_of(tracks) or 25.0) / tracks.meta.get(EVERY, 1), 0.1, 1000))


def write_from(
    path: str | os.PathLike[str],
    frames: Iterator[npt.NDArray[np.uint8]],
    source: Any,
    times: Sequence[float] | npt.NDArray[np.float64],
    fps: float,
    pixel_aspect: float = 1.0,
) -> None:
    """Write frames with the sound of their source; at a constant `fps` if `times` are not valid."""
    seconds, file = np.asarray(times, dtype=np.float64), path_of(source)
    valid = np.isfinite(seconds).all() and bool((np.diff(seconds) > 0).all())
    write_video(
        path,
        frames,
        fps=fps,
        timestamps=seconds.tolist() if valid else None,
        sound=None if file is None or image_paths(file) else file,
        pixel_aspect=pixel_aspect,
    )


def counted(
    frames: Iterator[npt.NDArray[np.uint8]], total: int, progress: Progress | None
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield frames and report progress: the number of frames consumed, and the total."""
    for done, frame in enumerate(frames, start=1):
        yield frame
        if progress is not None:
            progress(done, total)
