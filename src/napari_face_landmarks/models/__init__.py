"""Model bundles (one folder each, with a model card) and external models."""

from napari_face_landmarks.models.bundle import DEFAULT_BUNDLE, Models, bundle_folder, list_models, load_card
from napari_face_landmarks.models.loading import load_models

__all__ = ["DEFAULT_BUNDLE", "Models", "bundle_folder", "list_models", "load_card", "load_models"]
