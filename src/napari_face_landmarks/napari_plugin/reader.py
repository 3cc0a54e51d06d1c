"""The reader that napari calls for video files: each becomes one lazy image layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from napari_face_landmarks.video import VIDEO_SUFFIXES, Video, open_video

PathLike = str | os.PathLike[str]
LayerData = tuple[Video, dict[str, Any], str]


def napari_get_reader(path: PathLike | Sequence[PathLike]) -> Callable[[Any], list[LayerData]] | None:
    """Return the function that reads `path`, or None if it is not a video file or not a list of them."""
    paths = _as_list(path)
    if paths and all(_is_video(item) for item in paths):
        return read_videos
    return None


def read_videos(path: PathLike | Sequence[PathLike]) -> list[LayerData]:
    """Open videos as lazy image layers, one for each file.

    Parameters
    ----------
    path : path or sequence of paths
        Video files.

    Returns
    -------
    list of (Video, dict, "image")
        The layer's metadata hold ``path``, ``fps`` and ``timestamps`` (seconds of each frame).

    Raises
    ------
    VideoError
        If a file cannot be read; the sentence says which and why.
    """
    return [_layer(open_video(item)) for item in _as_list(path)]


def _layer(video: Video) -> LayerData:
    info = video.info
    metadata = {"path": info.path, "fps": info.fps, "timestamps": info.timestamps}
    return video, {"name": Path(info.path).stem, "rgb": True, "metadata": metadata}, "image"


def _as_list(path: PathLike | Sequence[PathLike]) -> list[PathLike]:
    return [path] if isinstance(path, (str, os.PathLike)) else list(path)


def _is_video(path: PathLike) -> bool:
    name = os.fsdecode(path)
    return name.lower().endswith(VIDEO_SUFFIXES) and not os.path.isdir(name)
