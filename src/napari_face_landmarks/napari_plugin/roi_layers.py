"""Boxes that users draw in Shapes layers: where to look for a face, what to ignore; no Qt."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from napari_face_landmarks.napari_plugin.points_layer import transforms_of
from napari_face_landmarks.tracking.regions import Region, Regions

Purpose = Literal["look", "ignore"]
PURPOSE = "face_landmarks_boxes"
"""Metadata of a Shapes layer: what its boxes are for."""
NAMES: dict[Purpose, str] = {"look": "Look for a face here", "ignore": "Ignore faces here"}
COLOURS: dict[Purpose, str] = {"look": "#35d07f", "ignore": "#ff7f50"}
EDGE = 2  # px


def add_boxes_layer(viewer: Any, video: Any, purpose: Purpose) -> Any:
    """Return the Shapes layer for boxes of a purpose, made if there is none, ready to be drawn in.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
    video : napari.layers.Image
        Its transforms are copied.
    purpose : {"look", "ignore"}
    """
    found = [layer for layer in viewer.layers if layer.metadata.get(PURPOSE) == purpose]
    layer = (
        found[-1]
        if found
        else viewer.add_shapes(
            name=NAMES[purpose],
            ndim=int(video.ndim),
            edge_color=COLOURS[purpose],
            face_color="transparent",
            edge_width=EDGE,
            metadata={PURPOSE: purpose},
            **transforms_of(video),
        )
    )
    viewer.layers.selection.active = layer
    layer.mode = "add_rectangle"
    return layer


def regions_of_layers(layers: Any) -> Regions:
    """Return what the boxes of all Shapes layers that `add_boxes_layer` made tell the tracker.

    A box to look in begins on the frame it was drawn on and holds for that one; a box to ignore holds for
    the whole video, wherever it was drawn. Of other shapes than rectangles the bounding box counts; what is
    smaller than a pixel is left out.

    Parameters
    ----------
    layers : iterable of napari.layers.Layer
    """
    found: dict[str, list[Region]] = {"look": [], "ignore": []}
    for layer in layers:
        purpose = layer.metadata.get(PURPOSE)
        if purpose not in found or not hasattr(layer, "shape_type"):
            continue
        for corners in layer.data:
            points = np.asarray(corners, dtype=np.float64)
            low, high = points[:, -2:].min(axis=0), points[:, -2:].max(axis=0)
            if (high - low < 1).any() or not np.isfinite(points).all():
                continue
            box = (float(low[1]), float(low[0]), float(high[1]), float(high[0]))
            frame = round(float(points[:, 0].mean())) if points.shape[1] == 3 else 0
            region = Region(box, frame, frame) if purpose == "look" else Region(box)
            found[purpose].append(region)
    return Regions(tuple(found["look"]), tuple(found["ignore"]))
