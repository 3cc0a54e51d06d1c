"""napari readers of videos and landmarks, sample data, and writers of landmarks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_face_landmarks.video import VIDEO_SUFFIXES, Video, open_video

if TYPE_CHECKING:
    from napari_face_landmarks.napari_plugin.points_layer import LayerDataTuple


PathLike = str | os.PathLike[str]
LayerData = tuple[Video, dict[str, Any], str]
AXES = ("frame", "y", "x")
"""Axis labels of videos."""


def napari_get_reader(path: PathLike | Sequence[PathLike]) -> Callable[[Any], list[LayerData]] | None:
    """Return the reader of `path`, or None unless it is a video file or a list of video files."""
    return read_videos if _all(path, _is_video) else None


def read_videos(path: PathLike | Sequence[PathLike]) -> list[LayerData]:
    """Open videos as lazy image layers, one for each file.

    Parameters
    ----------
    path : path or sequence of paths
        Video files.

    Returns
    -------
    list of (Video, dict, "image")
        The metadata contain ``path``, ``fps`` and ``timestamps`` (of each frame, seconds).

    Raises
    ------
    VideoError
        If a file cannot be read.
    """
    return [_layer(open_video(item)) for item in _as_list(path)]


def napari_get_landmarks_reader(path: PathLike | Sequence[PathLike]) -> Callable[[Any], list[Any]] | None:
    """Return the reader of `path`, or None unless all files are landmarks in a supported format."""
    from napari_face_landmarks.io import recognise

    return read_landmarks if _all(path, lambda item: recognise(item) is not None) else None


def read_landmarks(path: PathLike | Sequence[PathLike]) -> list[Any]:
    """Read landmark files as Points layers, one for each file.

    Parameters
    ----------
    path : path or sequence of paths
        Files in any of `io.formats.FORMATS`.

    Returns
    -------
    list of (ndarray, dict, "points")
        As from `tracks_to_layer_data`, with the features landmark, face, confidence and source, and the
        metadata ``tracks``, ``fps`` and ``path``.

    Raises
    ------
    ResultError
        If a file cannot be read.
    """
    from napari_face_landmarks.io import read_tracks
    from napari_face_landmarks.napari_plugin.points_layer import tracks_to_layer_data

    layers = []
    for item in _as_list(path):
        ((data, attributes, kind),) = tracks_to_layer_data(read_tracks(item))
        attributes["name"] = Path(item).name.partition(".")[0] or attributes["name"]
        attributes["metadata"] = {**attributes["metadata"], "path": os.fspath(item)}
        layers.append((data, attributes, kind))
    return layers


def _layer(video: Video) -> LayerData:
    info = video.info
    metadata = {"path": info.path, "fps": info.fps, "timestamps": info.timestamps}
    attributes: dict[str, Any] = {
        "name": Path(info.path).stem,
        "rgb": True,
        "axis_labels": AXES,
        "metadata": metadata,
    }
    if info.pixel_aspect != 1:
        attributes["scale"] = (1.0, 1.0, info.pixel_aspect)
    return video, attributes, "image"


def _as_list(path: PathLike | Sequence[PathLike]) -> list[PathLike]:
    return [path] if isinstance(path, (str, os.PathLike)) else list(path)


def _all(path: PathLike | Sequence[PathLike], accepted: Callable[[PathLike], bool]) -> bool:
    """Return whether there is at least one path and all are accepted."""
    paths = _as_list(path)
    return bool(paths) and all(map(accepted, paths))


def _is_video(path: PathLike) -> bool:
    name = os.fsdecode(path)
    return name.lower().endswith(VIDEO_SUFFIXES) and not os.path.isdir(name)


def moving_face() -> list[LayerDataTuple]:
    """Return the demo clip, a face in synthetic motion, (T, Y, X, 3) uint8, as an image layer."""
    from napari_face_landmarks.demo import FPS, make_demo_clip

    frames, _ = make_demo_clip()
    attributes = {"name": "Moving face", "rgb": True, "axis_labels": AXES, "metadata": {"fps": FPS}}
    return [(frames, attributes, "image")]


Writer = Callable[[str, Any, dict[str, Any]], list[str]]


def _writer(name: str) -> Writer:
    """Return a napari writer of the format `name`.

    The writer raises a `ResultError` if the layer has no landmarks or the file cannot be written.
    """

    def write(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
        from napari_face_landmarks.io.formats import named_by_suffix, write_tracks
        from napari_face_landmarks.napari_plugin.points_layer import tracks_of_points

        write_tracks(Path(path), tracks_of_points(data, attributes), named_by_suffix(path, name))
        return [str(path)]

    return write


write_openface = _writer("openface")
write_npz = _writer("npz")
write_deeplabcut_h5 = _writer("deeplabcut-h5")
write_deeplabcut_csv = _writer("deeplabcut-csv")
write_sleap = _writer("sleap")
write_movement = _writer("movement")
write_pts = _writer("pts")
write_tidy_csv = _writer("tidy-csv")
write_parquet = _writer("parquet")
