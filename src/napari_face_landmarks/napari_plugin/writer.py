"""The writers that napari calls for Points layers with landmarks: one for each format of files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari_face_landmarks.io.formats import named_by_suffix, write_tracks
from napari_face_landmarks.napari_plugin.points_layer import tracks_of_points

Writer = Callable[[str, Any, dict[str, Any]], list[str]]


def _writer(name: str) -> Writer:
    """Return the function that writes a layer in the format `name`.

    It is called with a path, the layer's data and attributes, returns the paths that were written and raises
    ResultError if the layer has no landmarks or the file cannot be written.
    """

    def write(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
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
