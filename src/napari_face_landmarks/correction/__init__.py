"""Manual correction: refit of faces to manual landmarks, propagation of corrections, edits of faces."""

from napari_face_landmarks.correction.propagation import propagate, propagate_steps
from napari_face_landmarks.correction.refit import CorrectionWarning, Refit, refit, refit_in_tracks
from napari_face_landmarks.data.edit import (
    choose_faces,
    delete_face,
    merge_faces,
    rename_face,
    set_manual_landmarks,
    split_face,
)
from napari_face_landmarks.data.names import names_of_faces

carry_on, carry_on_steps, place_by_hand = propagate, propagate_steps, set_manual_landmarks  # earlier names

__all__ = [
    "CorrectionWarning",
    "Refit",
    "carry_on",
    "carry_on_steps",
    "choose_faces",
    "delete_face",
    "merge_faces",
    "names_of_faces",
    "place_by_hand",
    "propagate",
    "propagate_steps",
    "refit",
    "refit_in_tracks",
    "rename_face",
    "set_manual_landmarks",
    "split_face",
]
