"""Results for other programs and for the eye: files of tracks, plots, overlay videos and contact sheets."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_face_landmarks.export.drawing import draw_landmarks
    from napari_face_landmarks.export.formats import FORMATS, Format, read_tracks, recognise, write_tracks
    from napari_face_landmarks.export.movement import from_xarray, to_xarray
    from napari_face_landmarks.export.openface_csv import read_csv, to_dataframe, write_csv
    from napari_face_landmarks.export.pictures import contact_sheet, write_overlay
    from napari_face_landmarks.export.plot import plot_tracks
    from napari_face_landmarks.export.tidy import to_tidy

_HOMES = {
    "FORMATS": "formats",
    "Format": "formats",
    "contact_sheet": "pictures",
    "draw_landmarks": "drawing",
    "from_xarray": "movement",
    "plot_tracks": "plot",
    "read_csv": "openface_csv",
    "read_tracks": "formats",
    "recognise": "formats",
    "to_dataframe": "openface_csv",
    "to_tidy": "tidy",
    "to_xarray": "movement",
    "write_csv": "openface_csv",
    "write_overlay": "pictures",
    "write_tracks": "formats",
}

__all__ = [
    "FORMATS",
    "Format",
    "contact_sheet",
    "draw_landmarks",
    "from_xarray",
    "plot_tracks",
    "read_csv",
    "read_tracks",
    "recognise",
    "to_dataframe",
    "to_tidy",
    "to_xarray",
    "write_csv",
    "write_overlay",
    "write_tracks",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for: who writes a table does not pay for what draws."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
