"""Which layers of a viewer are landmarks and which may be videos; no Qt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from napari.layers import Image

if TYPE_CHECKING:
    from napari_face_landmarks.tracking import FrameResult

NOTHING = "There are no landmarks: track a video, or open a file of landmarks."
"""What every dock says where the viewer has no layer of landmarks."""
VIDEO = "video_id"
"""Metadata of a landmarks layer: the unique id of the image layer that it was tracked in."""


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


def video_of_layer(viewer: Any, layer: Any) -> Any:
    """Return the image layer that a landmarks layer was tracked in, or None if the viewer does not have it.

    A landmarks layer that was opened from a file belongs to the image layer that its name begins with.
    """
    if layer is None:
        return None
    key, videos = layer.metadata.get(VIDEO), image_layers(viewer)
    found = [video for video in videos if key is not None and video.unique_id == key]
    found = found or [video for video in videos if layer.name.startswith(f"{video.name} landmarks")]
    return found[-1] if found else None


filling: WeakKeyDictionary[Any, list[FrameResult]] = WeakKeyDictionary()
"""The layers that a run fills, and the frames it has finished."""


def results_of(layer: Any) -> list[FrameResult] | None:
    """Return the finished frames of the run that fills a layer, a list that grows; None without one."""
    return filling.get(layer)
