"""Training of the models, from labelled faces to a bundle: ``python -m napari_face_landmarks.training``."""
