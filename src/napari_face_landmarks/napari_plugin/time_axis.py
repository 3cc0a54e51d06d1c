"""From the viewer's time slider to the frame of a layer and back, transforms of the layer included."""

from __future__ import annotations

from typing import Any

import numpy as np


def frame_shown(viewer: Any, layer: Any) -> int | None:
    """Return the frame of a layer (t, y, x) that the slider is at, in the layer's own data.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
    layer : napari.layers.Layer
        Its scale and translation of the time axis are taken into account.

    Returns
    -------
    int or None
        None where the layer has no time axis.
    """
    if layer.ndim < 3 or viewer.dims.ndim < layer.ndim:
        return None
    return int(np.rint(layer.world_to_data(viewer.dims.point)[0]))


def show_frame(viewer: Any, layer: Any, frame: int) -> bool:
    """Move the slider to a frame of a layer (t, y, x); return whether the layer has a time axis.

    Parameters
    ----------
    viewer, layer
        As of `frame_shown`.
    frame : int
        In the layer's own data.
    """
    if layer.ndim < 3 or viewer.dims.ndim < layer.ndim:
        return False
    place = np.array(layer.world_to_data(viewer.dims.point), dtype=np.float64)
    place[0] = frame
    viewer.dims.set_point(viewer.dims.ndim - layer.ndim, float(layer.data_to_world(place)[0]))
    return True
