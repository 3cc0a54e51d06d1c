"""Results for other programs and for the eye: OpenFace's CSV, overlay videos and contact sheets."""

from napari_face_landmarks.export.drawing import draw_landmarks
from napari_face_landmarks.export.openface_csv import read_csv, to_dataframe, write_csv
from napari_face_landmarks.export.pictures import contact_sheet, write_overlay

__all__ = ["contact_sheet", "draw_landmarks", "read_csv", "to_dataframe", "write_csv", "write_overlay"]
