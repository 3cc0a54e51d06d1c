"""The models that travel with the plugin, in bundles: one folder each with a model card."""

from napari_face_landmarks.models.bundle import (
    DEFAULT_BUNDLE,
    Models,
    bundle_folder,
    list_models,
    load_card,
    load_models,
)

__all__ = ["DEFAULT_BUNDLE", "Models", "bundle_folder", "list_models", "load_card", "load_models"]
