"""Part models: small networks for each eye and the mouth, on crops of the frame's own resolution."""

from napari_face_landmarks.parts.network import (
    PartModels,
    PartOutput,
    follow_parts,
    place_parts,
    predict_parts,
    refine_parts,
)

__all__ = [
    "PartModels",
    "PartOutput",
    "follow_parts",
    "place_parts",
    "predict_parts",
    "refine_parts",
]
