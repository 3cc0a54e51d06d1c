"""Sample data: the demo's clip as an image layer."""

from __future__ import annotations

from napari_face_landmarks.napari_plugin.points_layer import LayerDataTuple


def moving_face() -> list[LayerDataTuple]:
    """Return the demo clip, a face in synthetic motion, (T, Y, X, 3) uint8, as one image layer."""
    from napari_face_landmarks.demo import FPS, make_demo_clip

    frames, _ = make_demo_clip()
    return [(frames, {"name": "Moving face", "rgb": True, "metadata": {"fps": FPS}}, "image")]
