"""The current landmarks layer: one choice for each viewer, shared by all panels; no Qt."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from napari_face_landmarks.napari_plugin.layer_queries import has_landmarks, results_of

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
