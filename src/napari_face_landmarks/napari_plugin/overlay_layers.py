"""Layers that overlay the landmarks of the current frame: outlines, labels and trails; no Qt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.napari_plugin.display_settings import (
    SEGMENTS,
    ShownFaces,
    faces_at,
    in_plane,
    line_width,
    outline_segments,
    places_over,
    trail_segments,
)
from napari_face_landmarks.napari_plugin.time_axis import frame_shown

LABEL_SIZE = 9  # points
MOST_LINES = 20_000  # of trails: more are too slow to draw
WIDER = 1.15  # lines get another width only where it differs by more

Lines = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


class FrameLayers:
    """Outlines, labels and trails of the frame that a viewer shows of a landmarks layer.

    Each is a layer while it is wanted. Layers are added and removed by `update` and `remove` alone, which
    must not be called while the layer list is reporting a change (from a handler of ``layers.events``):
    napari then crashes. Whatever happened to the layers meanwhile - removed, renamed, moved, put back - is
    dealt with in the next `update`.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
    layer : napari.layers.Points, optional
        The landmarks.

    Attributes
    ----------
    layer : napari.layers.Points or None
        The landmarks; another one may be set before an `update`.
    outlines, labels : bool
        Whether they are wanted.
    trails : sequence of int
        The landmarks whose trails are wanted.
    window : int
        How many frames back trails go.
    layers : dict of str to napari layer
        By "outlines", "labels" and "trails".
    """

    def __init__(self, viewer: Any, layer: Any = None) -> None:
        self.viewer, self.layer = viewer, layer
        self.outlines = self.labels = False
        self.trails: Sequence[int] = ()
        self.window = 25
        self.layers: dict[str, Any] = {}
        self._drawn: Any = None  # the landmarks that `layers` were drawn for
        self._name = ""
        self._updating = False

    def update(self) -> None:
        """Have the layers show the frame that the viewer is at."""
        if self._updating:  # a layer that is added or removed may move the slider
            return
        self._updating = True
        try:
            self._forget_removed()
            wanted = {"outlines": self.outlines, "labels": self.labels, "trails": bool(len(self.trails))}
            there = self.layer is not None and self.layer in self.viewer.layers
            if not there or self._drawn is not self.layer:
                self._take_away(list(self.layers))
            self._drawn = self.layer
            self._take_away([kind for kind in self.layers if not wanted[kind]])
            if there and any(wanted.values()):
                self._draw()
        finally:
            self._updating = False

    def remove(self) -> None:
        """Take the layers away."""
        self.outlines = self.labels = False
        self.trails = ()
        self.update()

    def _forget_removed(self) -> None:
        """Want no more what the user has removed; what was removed with the landmarks is wanted still."""
        removed = [kind for kind, layer in self.layers.items() if layer not in self.viewer.layers]
        for kind in removed:
            self.layers.pop(kind, None)
            if self._drawn is not None and self._drawn in self.viewer.layers:
                setattr(self, kind, () if kind == "trails" else False)

    def _take_away(self, kinds: Sequence[str]) -> None:
        layers = [self.layers.pop(kind) for kind in kinds]
        for layer in layers:
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)

    def _draw(self) -> None:
        frame = frame_shown(self.viewer, self.layer)
        faces = faces_at(self.layer, frame)
        if self.outlines:
            lines = outline_segments(faces.landmarks, faces.colours)
            self._draw_lines("outlines", lines, len(SEGMENTS), line_width(faces.landmarks))
        if self.labels:
            self._draw_labels(faces)
        if len(self.trails) and frame is not None:
            self._draw_lines("trails", self._trails(frame, faces), self.window, line_width(faces.landmarks))
        if self._name != self.layer.name:
            self._name = self.layer.name
            for kind, layer in self.layers.items():
                layer.name = f"{self._name} {kind}"

    def _trails(self, frame: int, faces: ShownFaces) -> Lines:
        places = places_over(self.layer, range(max(0, frame - self.window), frame + 1), self.trails)
        n_faces = places.shape[1] // len(self.trails)
        colours = np.ones((n_faces, N_LANDMARKS, 4), np.float32)
        colours[: len(faces.colours)] = faces.colours[:n_faces]
        colours[..., 3] = 1
        lines, shades = trail_segments(places, colours[:, list(self.trails)].reshape(-1, 4))
        return lines[-MOST_LINES:], shades[-MOST_LINES:]

    def _draw_lines(self, kind: str, lines: Lines, at_a_time: int, width: float) -> None:
        """Draw lines in a layer that keeps its number of them, unseen ones included, while that will do."""
        data, colours = lines
        layer = self.layers.get(kind)
        room = 0 if layer is None else len(layer.data)
        if layer is None or len(data) > room:
            room = at_a_time * max(1, -(-len(data) // at_a_time))
        rows, shades = np.zeros((room, 2, 2), np.float32), np.zeros((room, 4), np.float32)
        rows[: len(data)], shades[: len(data)] = data, colours
        if layer is None:
            self.layers[kind] = self._add(
                self.viewer.add_vectors, kind, rows, edge_color=shades, edge_width=width, vector_style="line"
            )
            return
        layer.data = rows
        layer.edge_color = shades
        ratio = width / float(layer.edge_width)
        if not 1 / WIDER < ratio < WIDER:
            layer.edge_width = width

    def _draw_labels(self, faces: ShownFaces) -> None:
        face, landmark = np.nonzero(np.isfinite(faces.landmarks).all(axis=-1))
        points = faces.landmarks[face, landmark][:, ::-1]
        layer = self.layers.get("labels")
        if layer is not None and len(layer.data) == len(points):
            layer.data = points
            layer.features = {"label": landmark}
            return
        if layer is not None:  # napari keeps the texts of points in step with neither more nor fewer of them
            self._take_away(["labels"])
        text = {"string": "{label}", "size": LABEL_SIZE, "color": "white", "anchor": "lower_left"}
        self.layers["labels"] = self._add(
            self.viewer.add_points,
            "labels",
            points,
            features={"label": landmark},
            text=text,
            size=1,
            opacity=0.9,
            **({"face_color": "transparent", "border_color": "transparent"} if len(points) else {}),
        )

    def _add(self, add: Any, kind: str, data: Any, **attributes: Any) -> Any:
        """Add a layer; the layers that were selected stay so."""
        selected = set(self.viewer.layers.selection)
        active = self.viewer.layers.selection.active
        added = add(data, ndim=2, name=f"{self.layer.name} {kind}", **attributes, **in_plane(self.layer))
        self.viewer.layers.selection.clear()
        self.viewer.layers.selection.update(selected)
        self.viewer.layers.selection.active = active
        return added
