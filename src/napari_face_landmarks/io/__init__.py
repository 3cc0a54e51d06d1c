"""Reading and writing of tracks, with one module per format."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_face_landmarks.io.formats import FORMATS, Format, read_tracks, recognise, write_tracks
    from napari_face_landmarks.io.movement import from_xarray, to_xarray
    from napari_face_landmarks.io.openface_csv import read_csv, to_dataframe, write_csv
    from napari_face_landmarks.io.tidy import to_tidy

_NAMES = {
    "formats": ("FORMATS", "Format", "read_tracks", "recognise", "write_tracks"),
    "movement": ("from_xarray", "to_xarray"),
    "openface_csv": ("read_csv", "to_dataframe", "write_csv"),
    "tidy": ("to_tidy",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "FORMATS",
    "Format",
    "from_xarray",
    "read_csv",
    "read_tracks",
    "recognise",
    "to_dataframe",
    "to_tidy",
    "to_xarray",
    "write_csv",
    "write_tracks",
]


def __getattr__(name: str) -> Any:
    """Import the module of a name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
