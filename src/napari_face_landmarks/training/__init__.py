"""Training of all models of a bundle from labelled faces: ``python -m napari_face_landmarks.training``."""
