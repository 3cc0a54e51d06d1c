"""From landmarks to numbers: lengths, angles and areas of a face, blinks, movements, asymmetry."""

from napari_face_landmarks.measures.definitions import MEASURES, PAIRS, Measure, measure_named, values_of
from napari_face_landmarks.measures.reference_frame import FaceAxes, face_axes

__all__ = ["MEASURES", "PAIRS", "FaceAxes", "Measure", "face_axes", "measure_named", "values_of"]
