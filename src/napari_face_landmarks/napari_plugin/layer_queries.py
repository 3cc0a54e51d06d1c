"""Which layers of a viewer are landmarks and which may be videos; no Qt."""

from __future__ import annotations

from typing import Any

from napari.layers import Image

NOTHING = "There are no landmarks: track a video, or open a file of landmarks."
"""What every dock says where the viewer has no layer of landmarks."""


def has_landmarks(layer: Any) -> bool:
    """Return whether a layer is a Points layer with landmarks that can be exported."""
    features = getattr(layer, "features", None)
    return hasattr(layer, "face_color") and features is not None and {"landmark", "face"} <= set(features)


def landmark_layers(viewer: Any) -> list[Any]:
    """Return the layers of landmarks of a viewer, the uppermost last."""
    return [layer for layer in viewer.layers if has_landmarks(layer)]


def image_layers(viewer: Any) -> list[Any]:
    """Return the image layers of a viewer, the uppermost last."""
    return [layer for layer in viewer.layers if isinstance(layer, Image)]
