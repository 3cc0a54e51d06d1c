"""The viewer's layers without Qt: the current landmarks layer, which panels share, and videos with frames."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import ImageError
from napari_face_landmarks.video import Video
from napari_face_landmarks.video.arrays import FrameArray

if TYPE_CHECKING:
    from napari_face_landmarks.tracking import FrameResult


T = TypeVar("T")
NO_LANDMARKS = "There are no landmarks: track a video, or open a file of landmarks."
"""Status of every panel while the viewer has no landmarks layer."""
AROUND = 1.5  # side of the view over the side of a face's box, after zooming in on a face
VIDEO = "video_id"
"""Metadata key of a landmarks layer: unique id of the image layer in which it was tracked."""


def has_landmarks(layer: Any) -> bool:
    """Return whether a layer is a Points layer with the features of landmarks."""
    features = getattr(layer, "features", None)
    return hasattr(layer, "face_color") and features is not None and {"landmark", "face"} <= set(features)


def landmark_layers(viewer: Any) -> list[Any]:
    """Return the viewer's landmarks layers, topmost last."""
    return [layer for layer in viewer.layers if has_landmarks(layer)]


def image_layers(viewer: Any) -> list[Any]:
    """Return the viewer's image layers, topmost last."""
    from napari.layers import Image  # readers import this module without napari

    return [layer for layer in viewer.layers if isinstance(layer, Image)]


def video_of_layer(viewer: Any, layer: Any) -> Any:
    """Return the image layer in which a landmarks layer was tracked, or None if the viewer does not have it.

    A landmarks layer opened from a file is matched to an image layer by name.
    """
    if layer is None:
        return None
    key, videos = layer.metadata.get(VIDEO), image_layers(viewer)
    found = [video for video in videos if key is not None and video.unique_id == key]
    named = [video for video in videos if layer.name.startswith(f"{video.name} landmarks")]
    found = found or named or [video for video in videos if layer.name == video.name]
    return found[-1] if found else None


running_results: WeakKeyDictionary[Any, list[FrameResult]] = WeakKeyDictionary()
"""Layers to which a run is writing, each with the growing list of finished frames."""

_current_landmarks: WeakKeyDictionary[Any, CurrentLandmarks] = WeakKeyDictionary()


class CurrentLandmarks:
    """The current landmarks layer of a viewer, with callbacks for its changes.

    A new landmarks layer becomes the current one, and so does a layer that is selected in the layer list.
    When the current layer is removed, the topmost remaining one replaces it.

    `layer` is the current one or None, `layers` are all landmarks layers, topmost last.
    """

    def __init__(self, viewer: Any) -> None:
        self._layers = viewer.layers  # not the viewer, whose weak key in a dictionary holds this
        self.layer: Any = None
        self.layers: list[Any] = []
        self._callbacks: list[Callable[[], None]] = []
        self._reported: list[tuple[Any, str, bool]] = []
        events = viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.connect(self._on_layers)
        viewer.layers.selection.events.active.connect(self._on_active)
        self._on_layers()

    @property
    def being_tracked(self) -> bool:
        """Whether a run is still writing to the current layer."""
        return self.layer is not None and self.layer in running_results

    def choose(self, layer: Any) -> None:
        """Make a landmarks layer the current one."""
        if layer in self.layers and layer is not self.layer:
            self.layer = layer
            self._emit()

    def connect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when the current layer, the list or a name changes, or a run starts or ends.

        Returns a function that disconnects it.
        """
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
        """Call the callbacks if a name has changed, or a run has started or stopped writing to a layer."""
        state = [(layer, layer.name, layer in running_results) for layer in self.layers]
        if state != self._reported:
            self._reported = state
            self._emit()

    def _on_active(self, event: Any) -> None:
        self.choose(event.value)

    def _emit(self) -> None:
        for callback in list(self._callbacks):
            callback()


def current_landmarks(viewer: Any) -> CurrentLandmarks:
    """Return the viewer's `CurrentLandmarks`, of which there is one."""
    return per_viewer(_current_landmarks, viewer, CurrentLandmarks)


def per_viewer(instances: WeakKeyDictionary[Any, T], viewer: Any, make: Callable[[Any], T]) -> T:
    """Return the viewer's instance from `instances`, creating it with ``make(viewer)`` on first use."""
    viewer = getattr(viewer, "__wrapped__", viewer)  # docks receive a proxy, which is deleted with the dock
    if viewer not in instances:
        instances[viewer] = make(viewer)
    return instances[viewer]


def camera_of(viewer: Any) -> Any:
    """Return the viewer's camera (``viewer.scene.camera`` since napari 0.9)."""
    return getattr(viewer, "scene", viewer).camera


def text_overlay_of(viewer: Any) -> Any:
    """Return the viewer's text overlay (``viewer.canvas.overlays.text`` since napari 0.9)."""
    return viewer.canvas.overlays.text if hasattr(viewer, "canvas") else viewer.text_overlay


def frame_shown(viewer: Any, layer: Any) -> int | None:
    """Return the index, in the data of a layer (t, y, x), of the frame at which the slider is.

    The layer's scale and translation of the time axis are taken into account; None without a time axis.
    """
    if layer.ndim < 3 or viewer.dims.ndim < layer.ndim:
        return None
    return int(np.rint(layer.world_to_data(viewer.dims.point)[0]))


def show_frame(viewer: Any, layer: Any, frame: int) -> bool:
    """Move the slider to a frame index of a layer (t, y, x); return whether the layer has a time axis."""
    if layer.ndim < 3 or viewer.dims.ndim < layer.ndim:
        return False
    point = np.array(layer.world_to_data(viewer.dims.point), dtype=np.float64)
    point[0] = frame
    viewer.dims.set_point(viewer.dims.ndim - layer.ndim, float(layer.data_to_world(point)[0]))
    return True


def show_alone(viewer: Any, video: Any, *landmarks: Any) -> None:
    """Hide all other videos and landmarks, fit the video into the view and go to one of its frames."""
    shown = {layer.unique_id for layer in (video, *landmarks)}
    for layer in (*image_layers(viewer), *landmark_layers(viewer)):
        layer.visible = layer.unique_id in shown
    if not 0 <= (frame_shown(viewer, video) or 0) < len(video.data):  # the slider was beyond its end
        show_frame(viewer, video, 0)
    _fit(viewer, video)


def _fit(viewer: Any, video: Any) -> None:
    try:
        viewer.reset_view(layers=[video])
    except TypeError:  # older napari versions have no such argument
        viewer.reset_view()


def zoom_in(viewer: Any, video: Any, layer: Any, frame: int, landmarks: npt.NDArray[Any]) -> None:
    """Zoom in on landmarks (N, 2), unless they are large enough already to be dragged."""
    camera, points = camera_of(viewer), landmarks[np.isfinite(landmarks).all(axis=1)][:, ::-1]
    if video is None or not len(points):
        return
    ends = [
        layer.data_to_world((frame, *end)[-layer.ndim :])[-2:]
        for end in (points.min(axis=0), points.max(axis=0))
    ]
    middle, side = np.mean(ends, axis=0), AROUND * float(np.ptp(ends, axis=0).max())
    center, before = camera.center, camera.zoom
    _fit(viewer, video)
    zoom = camera.zoom * float(np.ptp(video.extent.world[:, -2:], axis=0).min()) / side
    large = before > zoom / 2
    near = np.abs(np.array(center[-2:]) - middle).max() < side / 2
    camera.zoom = before if large else zoom
    camera.center = center if large and near else (*camera.center[:-2], *middle)


SLICING = "dask_optimized_slicing"
"""Layer attribute with the context manager that napari enters whenever it reads the layer's data."""
_reading = threading.RLock()
"""Held while napari or a run reads a layer's lazy data; several layers may share one file reader."""


def count_frames(image_layer: Any) -> int:
    """Return the number of frames of an image layer, 1 for a single image, without reading pixels.

    Raises
    ------
    ImageError
        If the layer is not an image layer, is not (T, Y, X) or (Y, X), is empty or not numeric.
    """
    name = f"The layer {str(getattr(image_layer, 'name', type(image_layer).__name__))!r}"
    if image_layer is None:
        raise ImageError("There is no video: open one, or choose an image layer.")
    if not hasattr(image_layer, "rgb") or not hasattr(image_layer, "multiscale"):
        raise ImageError(f"{name} is not an image layer: choose the layer of the video.")
    data = _finest(image_layer)
    shape = tuple(int(length) for length in data.shape)
    n_axes = len(shape) - bool(image_layer.rgb)
    if n_axes not in (2, 3):
        raise ImageError(
            f"{name} has the shape {shape}: it must be (T, Y, X) or (Y, X), greyscale or RGB; "
            "split other axes into layers first."
        )
    if 0 in shape:
        raise ImageError(f"{name} has the shape {shape}: it contains no pixels.")
    dtype = np.dtype(data.dtype)
    if dtype.kind not in "buif":
        raise ImageError(f"{name} has the dtype {dtype}: pixels must be bool, integer or float.")
    return shape[0] if n_axes == 3 else 1


def frames_of_layer(image_layer: Any) -> Any:
    """Return the frames of an image layer as an array-like for the tracker.

    Parameters
    ----------
    image_layer : napari.layers.Image
        (T, Y, X) or a single (Y, X), greyscale, RGB or RGBA; lazy data stay lazy. The finest level of a
        multiscale layer is used.

    Returns
    -------
    array-like, (T, Y, X) or (T, Y, X, 3 or 4)
        The layer's own data if they are a NumPy array or a `Video` with a time axis, shown upright. Other
        data are read frame by frame, and from now on never while napari reads them, because many readers are
        not thread-safe.

    Raises
    ------
    ImageError
        As in `count_frames`.
    """
    count_frames(image_layer)
    data, still = _finest(image_layer), int(image_layer.ndim) == 2
    lazy, turn = not isinstance(data, (np.ndarray, Video)), _turn(image_layer)
    if lazy:
        _lock_slicing(image_layer)
    return LayerFrames(data, still, turn) if lazy or still or any(turn) else data


def _finest(image_layer: Any) -> Any:
    return image_layer.data[0] if image_layer.multiscale else image_layer.data


def _turn(layer: Any) -> tuple[bool, bool, bool]:
    """Return (transpose, flip x, flip y), which turn the data as displayed, to the nearest 90 degrees."""
    if not hasattr(layer, "data_to_world"):
        return (False, False, False)
    origin, *steps = np.zeros((3, layer.ndim))
    steps[0][-2] = steps[1][-1] = 1
    zero = np.asarray(layer.data_to_world(origin))
    down, right = (np.asarray(layer.data_to_world(step)) - zero for step in steps)
    if abs(down[-1]) + abs(right[-2]) > abs(down[-2]) + abs(right[-1]):
        return True, bool(down[-1] < 0), bool(right[-2] < 0)
    return False, bool(right[-1] < 0), bool(down[-2] < 0)


class LayerFrames(FrameArray):
    """The frames of a layer's data, read one by one while napari does not read them.

    `data` are (T, Y, X[, C]), or (Y, X[, C]) if `still`. Frames are returned as stored: the tracker applies
    `turn`, which makes them upright.
    """

    def __init__(self, data: Any, still: bool, turn: tuple[bool, bool, bool]) -> None:
        super().__init__(data, None if still else 0, None, len(data.shape) - (not still))
        self.turn, self.video = turn, data if isinstance(data, Video) else None

    def __getitem__(self, frame: int) -> npt.NDArray[Any]:
        if not 0 <= frame < len(self):
            raise IndexError(f"There is no frame {frame}: the layer has {len(self)}, counted from 0.")
        with _reading:
            return super().__getitem__(frame)


def _lock_slicing(layer: Any) -> None:
    """Make napari wait while a run reads the layer's data; further calls have no effect."""
    for holder in (layer, getattr(layer, "_slicing_state", None)):  # the latter since napari 0.9
        slicing = getattr(holder, SLICING, None)
        if slicing is not None and not hasattr(slicing, "locked"):
            setattr(holder, SLICING, _locked(slicing))


def _locked(slicing: Callable[[], AbstractContextManager[Any]]) -> Callable[[], AbstractContextManager[Any]]:
    @contextmanager
    def locked() -> Iterator[Any]:
        with _reading, slicing() as entered:
            yield entered

    locked.locked = True  # type: ignore[attr-defined]
    return locked
