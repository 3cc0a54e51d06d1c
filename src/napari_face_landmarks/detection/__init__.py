"""Face detection by a small single-stage network: boxes, scores and five points."""

from napari_face_landmarks.detection.detector import (
    DEFAULT_INPUT_SIZE,
    DEFAULT_MIN_SCORE,
    Detections,
    detect_faces,
)
from napari_face_landmarks.detection.roll import roll_from_points

__all__ = ["DEFAULT_INPUT_SIZE", "DEFAULT_MIN_SCORE", "Detections", "detect_faces", "roll_from_points"]
