"""Results for other programs and for the eye: files of tracks, plots, overlay videos and contact sheets."""

from napari_face_landmarks.export.drawing import draw_landmarks
from napari_face_landmarks.export.formats import FORMATS, Format, read_tracks, recognise, write_tracks
from napari_face_landmarks.export.movement import from_xarray, to_xarray
from napari_face_landmarks.export.openface_csv import read_csv, to_dataframe, write_csv
from napari_face_landmarks.export.pictures import contact_sheet, write_overlay
from napari_face_landmarks.export.plot import plot_tracks
from napari_face_landmarks.export.tidy import to_tidy

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
