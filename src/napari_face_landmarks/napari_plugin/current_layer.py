"""The current landmarks layer, which all panels of a viewer share; videos; the time slider; no Qt."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

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
    from napari.layers import Image  # readers import this module without napari

    return [layer for layer in viewer.layers if isinstance(layer, Image)]


def video_of_layer(viewer: Any, layer: Any) -> Any:
    """Return the image layer that a landmarks layer was tracked in, or None if the viewer does not have it.

    A landmarks layer that was opened from a file belongs to the image layer of its name.
    """
    if layer is None:
        return None
    key, videos = layer.metadata.get(VIDEO), image_layers(viewer)
    found = [video for video in videos if key is not None and video.unique_id == key]
    named = [video for video in videos if layer.name.startswith(f"{video.name} landmarks")]
    found = found or named or [video for video in videos if layer.name == video.name]
    return found[-1] if found else None


filling: WeakKeyDictionary[Any, list[FrameResult]] = WeakKeyDictionary()
"""The layers that a run fills, and the frames it has finished."""


def results_of(layer: Any) -> list[FrameResult] | None:
    """Return the finished frames of the run that fills a layer, a list that grows; None without one."""
    return filling.get(layer)


_of_viewers: WeakKeyDictionary[Any, CurrentLandmarks] = WeakKeyDictionary()


class CurrentLandmarks:
    """The current landmarks layer of a viewer, and who wants to know when it changes.

    A new landmarks layer becomes the current one, and so does one that is selected in the layer list. Where
    the current layer is removed the uppermost of the others takes its place.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel

    Attributes
    ----------
    layer : napari.layers.Points or None
        The current one.
    layers : list of napari.layers.Points
        All landmarks layers, the uppermost last.
    """

    def __init__(self, viewer: Any) -> None:
        self._layers = viewer.layers  # not the viewer, which holds this object weakly
        self.layer: Any = None
        self.layers: list[Any] = []
        self._callbacks: list[Callable[[], None]] = []
        self._last: list[tuple[Any, str, bool]] = []
        events = viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.connect(self._on_layers)
        viewer.layers.selection.events.active.connect(self._on_active)
        self._on_layers()

    @property
    def filling(self) -> bool:
        """Whether a run still fills the current layer."""
        return self.layer is not None and results_of(self.layer) is not None

    def choose(self, layer: Any) -> None:
        """Make a landmarks layer the current one."""
        if layer in self.layers and layer is not self.layer:
            self.layer = layer
            self._emit()

    def connect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after the current layer, the list, a name or a run's end; return what ends that."""
        self._callbacks.append(callback)

        def disconnect() -> None:
            with suppress(ValueError):
                self._callbacks.remove(callback)

        return disconnect

    def _on_layers(self, _: Any = None) -> None:
        known = [layer for layer in self._layers if has_landmarks(layer)]
        new = [layer for layer in known if layer not in self.layers]
        for layer in new:
            layer.events.name.connect(self.refresh)
        for layer in self.layers:
            if layer not in known:
                layer.events.name.disconnect(self.refresh)
        before, self.layers = self.layer, known
        if new or before not in known:
            self.layer = (new or known or [None])[-1]
        self.refresh()

    def refresh(self, _: Any = None) -> None:
        """Call back if a name has changed, or a run no longer fills a layer."""
        now = [(layer, layer.name, results_of(layer) is not None) for layer in self.layers]
        if now != self._last:
            self._last = now
            self._emit()

    def _on_active(self, event: Any) -> None:
        self.choose(event.value)

    def _emit(self) -> None:
        for callback in list(self._callbacks):
            callback()


def current_landmarks(viewer: Any) -> CurrentLandmarks:
    """Return the one `CurrentLandmarks` of a viewer."""
    if viewer not in _of_viewers:
        _of_viewers[viewer] = CurrentLandmarks(viewer)
    return _of_viewers[viewer]


def camera_of(viewer: Any) -> Any:
    """Return the camera of a viewer; napari 0.9 has it in its scene."""
    return getattr(viewer, "scene", viewer).camera


def text_over_picture(viewer: Any) -> Any:
    """Return the text that a viewer shows over its picture; napari 0.9 has it in its canvas."""
    return viewer.canvas.overlays.text if hasattr(viewer, "canvas") else viewer.text_overlay


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
