"""PFLD: 68 landmarks, their standard deviations and a face score from an upright crop."""

from napari_face_landmarks.pfld.crop import crops_of_landmarks
from napari_face_landmarks.pfld.network import PfldOutput, crops_of_boxes, predict, predict_twice

__all__ = ["PfldOutput", "crops_of_boxes", "crops_of_landmarks", "predict", "predict_twice"]
