"""Landmarks as images: overlays on frames and videos, contact sheets, figures."""

from napari_face_landmarks.visualization.anonymise import cover_faces, write_anonymised
from napari_face_landmarks.visualization.contact_sheet import OverlayStyle, contact_sheet, write_overlay
from napari_face_landmarks.visualization.face_crops import write_face_crops
from napari_face_landmarks.visualization.figure import plot_tracks
from napari_face_landmarks.visualization.overlay import draw_landmarks

__all__ = [
    "OverlayStyle",
    "contact_sheet",
    "cover_faces",
    "draw_landmarks",
    "plot_tracks",
    "write_anonymised",
    "write_face_crops",
    "write_overlay",
]
