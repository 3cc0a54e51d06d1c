"""The layers of a viewer: the current landmarks, which all panels share; videos and their frames; no Qt."""

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
NOTHING = "There are no landmarks: track a video, or open a file of landmarks."
"""What every dock says where the viewer has no layer of landmarks."""
AROUND = 1.5  # times the side of a face's box: what is seen when zooming in on it
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

    `layer` is the current one, or None, `layers` are all landmarks layers, the uppermost last.
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
    return one_of(_of_viewers, viewer, CurrentLandmarks)


def one_of(of_viewers: WeakKeyDictionary[Any, T], viewer: Any, make: Callable[[Any], T]) -> T:
    """Return what there is once for each viewer, made when it is first asked for."""
    viewer = getattr(viewer, "__wrapped__", viewer)  # a panel's own is a proxy that goes with it
    if viewer not in of_viewers:
        of_viewers[viewer] = make(viewer)
    return of_viewers[viewer]


def camera_of(viewer: Any) -> Any:
    """Return the camera of a viewer; napari 0.9 has it in its scene."""
    return getattr(viewer, "scene", viewer).camera


def text_over_picture(viewer: Any) -> Any:
    """Return the text that a viewer shows over its picture; napari 0.9 has it in its canvas."""
    return viewer.canvas.overlays.text if hasattr(viewer, "canvas") else viewer.text_overlay


def frame_shown(viewer: Any, layer: Any) -> int | None:
    """Return the frame of a layer (t, y, x) that the slider is at, in the layer's own data.

    The layer's scale and translation of the time axis are taken into account; None where it has no time axis.
    """
    if layer.ndim < 3 or viewer.dims.ndim < layer.ndim:
        return None
    return int(np.rint(layer.world_to_data(viewer.dims.point)[0]))


def show_frame(viewer: Any, layer: Any, frame: int) -> bool:
    """Move the slider to a frame of a layer (t, y, x), in its own data; return whether it has a time axis."""
    if layer.ndim < 3 or viewer.dims.ndim < layer.ndim:
        return False
    place = np.array(layer.world_to_data(viewer.dims.point), dtype=np.float64)
    place[0] = frame
    viewer.dims.set_point(viewer.dims.ndim - layer.ndim, float(layer.data_to_world(place)[0]))
    return True


def show_alone(viewer: Any, video: Any, *landmarks: Any) -> None:
    """Hide all videos and landmarks but these, as large as they fit; go to a frame that the video has."""
    shown = {layer.unique_id for layer in (video, *landmarks)}
    for layer in (*image_layers(viewer), *landmark_layers(viewer)):
        layer.visible = layer.unique_id in shown
    if not 0 <= (frame_shown(viewer, video) or 0) < len(video.data):  # of a longer video before
        show_frame(viewer, video, 0)
    _fit(viewer, video)


def _fit(viewer: Any, video: Any) -> None:
    try:
        viewer.reset_view(layers=[video])
    except TypeError:  # an older napari
        viewer.reset_view()


def zoom_in(viewer: Any, video: Any, layer: Any, frame: int, landmarks: npt.NDArray[Any]) -> None:
    """Have landmarks (N, 2) fill the canvas, unless they do: in a small face none can be grasped."""
    camera, places = camera_of(viewer), landmarks[np.isfinite(landmarks).all(axis=1)][:, ::-1]
    if video is None or not len(places):
        return
    ends = [
        layer.data_to_world((frame, *end)[-layer.ndim :])[-2:]
        for end in (places.min(axis=0), places.max(axis=0))
    ]
    middle, side = np.mean(ends, axis=0), AROUND * float(np.ptp(ends, axis=0).max())
    center, before = camera.center, camera.zoom
    _fit(viewer, video)
    zoom = camera.zoom * float(np.ptp(video.extent.world[:, -2:], axis=0).min()) / side
    near = np.abs(np.array(center[-2:]) - middle).max() < side / 2
    camera.zoom = before if before > zoom / 2 else zoom
    camera.center = center if near and before > zoom / 2 else (*camera.center[:-2], *middle)


SLICING = "dask_optimized_slicing"
"""The attribute of layers that napari enters as a context around each reading of their data."""
_reading = threading.RLock()
"""Held by whoever reads lazy data of a layer, napari or a run; such data may share one reader."""


def count_frames(image_layer: Any) -> int:
    """Return the number of frames of an image layer, 1 for a single image; no pixel is read.

    Raises
    ------
    ImageError
        If the layer is no image, has other dimensions, no pixels or none that are numbers.
    """
    name = f"The layer {str(getattr(image_layer, 'name', type(image_layer).__name__))!r}"
    if image_layer is None:
        raise ImageError("There is no video: open one, or choose an image layer.")
    if not hasattr(image_layer, "rgb") or not hasattr(image_layer, "multiscale"):
        raise ImageError(f"{name} is no image layer: choose the layer of the video.")
    data = _finest(image_layer)
    shape = tuple(int(length) for length in data.shape)
    n_axes = len(shape) - bool(image_layer.rgb)
    if n_axes not in (2, 3):
        raise ImageError(
            f"{name} has the shape {shape}: give an image layer (T, Y, X) or (Y, X), grey or RGB; "
            "split other axes into layers first."
        )
    if 0 in shape:
        raise ImageError(f"{name} has the shape {shape}: there is nothing in it to look for faces in.")
    dtype = np.dtype(data.dtype)
    if dtype.kind not in "buif":
        raise ImageError(f"{name} has the type {dtype}: give bool, integer or float pixels.")
    return shape[0] if n_axes == 3 else 1


def frames_of_layer(image_layer: Any) -> Any:
    """Return the frames of an image layer as the tracker reads them.

    Parameters
    ----------
    image_layer : napari.layers.Image
        (T, Y, X) or a single (Y, X), grey, RGB or RGBA; lazy data stay lazy. Of a multiscale layer the finest
        level is read.

    Returns
    -------
    array-like, (T, Y, X) or (T, Y, X, 3 or 4)
        The layer's own data where they are a NumPy array or a `Video` with a time axis. Other data are read
        frame by frame, and from now on never while napari reads them, because many readers are not
        thread-safe.

    Raises
    ------
    ImageError
        As `count_frames`.
    """
    count_frames(image_layer)
    data, still = _finest(image_layer), int(image_layer.ndim) == 2
    shared, turn = not isinstance(data, (np.ndarray, Video)), _turn(image_layer)
    if shared:
        _serialise(image_layer)
    return LayerFrames(data, still, turn) if shared or still or any(turn) else data


def _finest(image_layer: Any) -> Any:
    return image_layer.data[0] if image_layer.multiscale else image_layer.data


def _turn(layer: Any) -> tuple[bool, bool, bool]:
    """Return what turns the layer's data as napari shows them, to the nearest of 90 degrees (`FrameView`)."""
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

    `data` are (T, Y, X[, C]), or (Y, X[, C]) of a `still`; `turn` is what makes frames upright, as in
    `FrameView`: the frames are not turned yet.
    """

    def __init__(self, data: Any, still: bool, turn: tuple[bool, bool, bool]) -> None:
        super().__init__(data, None if still else 0, None, len(data.shape) - (not still))
        self.turn, self.video = turn, data if isinstance(data, Video) else None

    def __getitem__(self, frame: int) -> npt.NDArray[Any]:
        if not 0 <= frame < len(self):
            raise IndexError(f"There is no frame {frame}: the layer has {len(self)}, counted from 0.")
        with _reading:
            return super().__getitem__(frame)


def _serialise(layer: Any) -> None:
    """Have napari read a layer's data only while no run does; once is enough."""
    for holder in (layer, getattr(layer, "_slicing_state", None)):  # the latter since napari 0.9
        slicing = getattr(holder, SLICING, None)
        if slicing is not None and not hasattr(slicing, "waits"):
            setattr(holder, SLICING, _waiting(slicing))


def _waiting(slicing: Callable[[], AbstractContextManager[Any]]) -> Callable[[], AbstractContextManager[Any]]:
    @contextmanager
    def waiting() -> Iterator[Any]:
        with _reading, slicing() as found:
            yield found

    waiting.waits = True  # type: ignore[attr-defined]
    return waiting
