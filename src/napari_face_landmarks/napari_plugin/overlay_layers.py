"""Colours of landmarks, and overlay layers of the current frame: outlines, numbers, trails; no Qt.

Lines are (S, 2, 2), start and direction, y then x, as in napari's Vectors layer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from weakref import ref

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.ibug import N_LANDMARKS, OUTLINES
from napari_face_landmarks.napari_plugin.layers import camera_of, frame_shown
from napari_face_landmarks.napari_plugin.points_layer import source_codes
from napari_face_landmarks.visualization.colours import COLOUR_BY, ColourMode, landmark_colours

Floats = npt.NDArray[np.float32]

SEGMENTS = np.array([pair for outline in OUTLINES for pair in pairwise(outline)], dtype=np.int64)
"""Landmarks at the ends of each line of a face's outlines (brows, eyes, nose, lips, jaw), (S, 2)."""
LINE_WIDTH = 0.01
"""Width of outlines relative to the side of the landmarks' bounding box."""
MIN_TRAIL_OPACITY = 0.15
"""Opacity of the oldest end of a trail."""


@dataclass(frozen=True, slots=True)
class ShownFaces:
    """Faces of one frame as displayed in their layer."""

    landmarks: Floats  # (F, 68, 2), px, x then y; NaN where there is no point
    colours: Floats  # (F, 68, 4), RGBA, 0 to 1


def recolour(layer: Any, by: ColourMode) -> None:
    """Change the colours of a landmarks layer without computing anything else again.

    A run that is writing to the layer continues with these colours. Raises a `ResultError` if the layer has
    no landmarks, and a `ValueError` if `by` is not a mode of `landmark_colours`.
    """
    features = layer.features
    if not {"landmark", "face"} <= set(features.columns):
        raise ResultError(f"The layer {layer.name!r} has no landmarks: choose one created by this plugin.")
    n = len(features)
    landmark = features["landmark"].to_numpy()
    confidence = features["confidence"].to_numpy() if "confidence" in features else np.ones(n, np.float32)
    source = source_codes(features["source"]) if "source" in features else np.zeros(n, np.uint8)
    colours = landmark_colours(by, confidence, source, landmark.astype(np.int64, copy=False))
    if len(layer.face_color) == n:
        layer.face_color[...] = colours
    layer.metadata = {**layer.metadata, COLOUR_BY: by}
    layer.refresh(extent=False)


def faces_at(layer: Any, frame: int | None) -> ShownFaces:
    """Return the faces that a landmarks layer shows on a frame; `frame` is None without a time axis."""
    data = layer.data
    on_frame = layer.shown if frame is None or data.shape[1] < 3 else layer.shown & (data[:, 0] == frame)
    rows = np.flatnonzero(on_frame)
    features = layer.features
    face = features["face"].to_numpy()[rows].astype(np.int64)
    landmark = features["landmark"].to_numpy()[rows].astype(np.int64)
    n_faces = int(face.max()) + 1 if len(face) else 0
    landmarks = np.full((n_faces, N_LANDMARKS, 2), np.nan, np.float32)
    colours = np.zeros((n_faces, N_LANDMARKS, 4), np.float32)
    landmarks[face, landmark] = data[rows][:, :-3:-1]
    colours[face, landmark] = layer.face_color[rows]
    return ShownFaces(landmarks, colours)


def outline_segments(
    landmarks: npt.NDArray[Any], colours: npt.NDArray[Any] | None = None
) -> tuple[Floats, Floats]:
    """Return the outlines of faces (F, 68, 2), px, x then y: brows, eyes, nose, lips and jaw.

    Returned are lines (S, 2, 2) float32, start and direction, y then x, and their RGBA (S, 4) float32, the
    mean of the `colours` (F, 68, 4) of the ends, by default white. Lines with a non-finite end are left out.
    """
    ends = np.asarray(landmarks, np.float32)[:, SEGMENTS].reshape(-1, 2, 2)[..., ::-1]
    finite = np.isfinite(ends).all(axis=(1, 2))
    rgba = np.ones((len(ends), 4), np.float32)
    if colours is not None:
        rgba = np.asarray(colours, np.float32)[:, SEGMENTS].mean(axis=2).reshape(-1, 4)
    return _as_lines(ends[finite]), rgba[finite]


def line_width(landmarks: npt.NDArray[Any]) -> float:
    """Return the width of outlines, proportional to the largest of the faces (F, 68, 2), px."""
    finite = np.isfinite(landmarks).all(axis=-1)
    sides = [
        float(np.ptp(face[known], axis=0).max())
        for face, known in zip(landmarks, finite, strict=True)
        if known.any()
    ]
    return LINE_WIDTH * max(sides, default=0.0) or LINE_WIDTH


def trail_segments(paths: npt.NDArray[Any], colours: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Return the trails of landmarks as lines whose opacity decreases with age.

    `paths` (W, K, 2), px, x then y, are K landmarks on successive frames, NaN if missing; `colours` (K, 4)
    are RGBA. Returned are lines (S, 2, 2) float32, start and direction, y then x, and RGBA (S, 4) float32.
    """
    paths = np.asarray(paths, np.float32)[..., ::-1]
    n_steps = max(len(paths) - 1, 0)
    ends = np.stack([paths[:n_steps], paths[1:]], axis=2)
    rgba = np.broadcast_to(np.asarray(colours, np.float32), (n_steps, *np.shape(colours))).copy()
    rgba[..., 3] *= np.linspace(MIN_TRAIL_OPACITY, 1, n_steps, dtype=np.float32)[:, np.newaxis]
    finite = np.isfinite(ends).all(axis=(2, 3))
    return _as_lines(ends[finite]), rgba[finite]


def paths_of_landmarks(layer: Any, frames: range, landmarks: Sequence[int]) -> Floats:
    """Return the positions of landmarks of all faces on successive frames of their layer (t, y, x).

    They are (W, K, 2) float32, px, x then y, NaN if missing. K counts the chosen landmarks, 0 to 67, of the
    first face, then of the second, and so on.
    """
    time = layer.data[:, 0]
    rows = np.flatnonzero(layer.shown & (time >= frames.start) & (time < frames.stop))
    features = layer.features
    chosen = np.full(N_LANDMARKS, -1)
    chosen[list(landmarks)] = np.arange(len(landmarks))
    column = chosen[features["landmark"].to_numpy()[rows].astype(np.int64)]
    rows, column = rows[column >= 0], column[column >= 0]
    face = features["face"].to_numpy()[rows].astype(np.int64)
    n_faces = int(face.max()) + 1 if len(face) else 0
    paths = np.full((len(frames), n_faces * len(landmarks), 2), np.nan, np.float32)
    index = np.rint(time[rows]).astype(np.int64) - frames.start
    paths[index, face * len(landmarks) + column] = layer.data[rows][:, :-3:-1]
    return paths


def chosen_landmarks(text: str) -> list[int]:
    """Parse a list of landmarks such as ``"30, 36-47"``; return them in order without duplicates.

    A `ResultError` is raised for anything else than numbers and ranges of landmarks.
    """
    numbers: set[int] = set()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.fullmatch(r"(\d{1,2})(?:\s*-\s*(\d{1,2}))?", part)
        first = int(match.group(1)) if match else -1
        last = int(match.group(2) or first) if match else -1
        if not 0 <= first <= last < N_LANDMARKS:
            raise ResultError(
                f"{part!r} is not a landmark: enter numbers from 0 to {N_LANDMARKS - 1}, such as 30, 36-47."
            )
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def in_plane(layer: Any) -> dict[str, Any]:
    """Return the transforms that align a layer (y, x) with a layer (t, y, x) or (y, x)."""
    ndim = layer.ndim
    corners = np.zeros((3, ndim))
    corners[1, -2] = corners[2, -1] = 1
    origin, down, right = (np.asarray(layer.data_to_world(corner))[-2:] for corner in corners)
    affine = np.eye(3)
    affine[:2, 0], affine[:2, 1], affine[:2, 2] = down - origin, right - origin, origin
    return {"affine": affine, "units": layer.units[-2:], "axis_labels": layer.axis_labels[-2:]}


def select_spaced(points: npt.NDArray[Any], size: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """Select points (N, 2), y then x, at which labels of a height and width fit without overlap, greedily."""
    kept: list[npt.NDArray[Any]] = []
    selected = np.zeros(len(points), np.bool_)
    for number, point in enumerate(points):
        selected[number] = not kept or bool((np.abs(np.array(kept) - point) >= size).any(axis=1).all())
        if selected[number]:
            kept.append(point)
    return selected


def _as_lines(ends: Floats) -> Floats:
    return np.stack([ends[:, 0], ends[:, 1] - ends[:, 0]], axis=1)


NUMBER_SIZE, NUMBER_COLOUR = 9, "magenta"  # pt; readable on light skin, dark hair and the canvas
NUMBER_SPACING = (16.0, 23.0)  # height and width of a number, px on the screen
MAX_TRAIL_LINES = 20_000  # more are too slow to draw
MAX_WIDTH_RATIO = 1.15  # the width of lines is only changed if it differs by more

Lines = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


class FrameLayers:
    """Outlines, numbers and trails of the current frame of a landmarks layer.

    Each overlay that is switched on has a layer, in `layers` under "outlines", "numbers" and "trails".
    Only `update` adds and removes layers; it must not be called from a handler of ``layers.events``, where
    napari would crash. It also handles overlay layers that were removed, renamed or moved meanwhile.

    `layer` is the landmarks layer or None and may be replaced before an `update`. `outlines` and `numbers`
    switch these overlays on, `trails` are the landmarks with trails, which cover the last `window` frames.
    """

    def __init__(self, viewer: Any, layer: Any = None) -> None:
        self._viewer, self.layer = ref(viewer), layer
        self.outlines = self.numbers = False
        self.trails: Sequence[int] = ()
        self.window = 25
        self.layers: dict[str, Any] = {}
        self._drawn: Any = None  # the landmarks layer for which `layers` were drawn
        self._name = ""
        self._updating = False

    @property
    def viewer(self) -> Any:
        """The viewer, to which this object holds a weak reference; None after it was deleted."""
        return self._viewer()

    def update(self) -> None:
        """Update the overlay layers to the current frame."""
        if self._updating or self.viewer is None:  # adding or removing a layer may move the slider
            return
        self._updating = True
        try:
            self._switch_off_removed()
            wanted = {"outlines": self.outlines, "numbers": self.numbers, "trails": bool(len(self.trails))}
            in_viewer = self.layer is not None and self.layer in self.viewer.layers
            if not in_viewer or self._drawn is not self.layer:
                self._remove(list(self.layers))
            self._drawn = self.layer
            self._remove([kind for kind in self.layers if not wanted[kind]])
            if in_viewer and any(wanted.values()):
                self._draw()
        finally:
            self._updating = False

    def _switch_off_removed(self) -> None:
        """Switch off overlays whose layers the user removed, unless the landmarks were removed too."""
        removed = [kind for kind, layer in self.layers.items() if layer not in self.viewer.layers]
        for kind in removed:
            self.layers.pop(kind, None)
            if self._drawn is not None and self._drawn in self.viewer.layers:
                setattr(self, kind, () if kind == "trails" else False)

    def _remove(self, kinds: Sequence[str]) -> None:
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
        if self.numbers:
            self._draw_numbers(faces)
        if len(self.trails) and frame is not None:
            self._draw_lines("trails", self._trails(frame, faces), self.window, line_width(faces.landmarks))
        if self._name != self.layer.name:
            self._name = self.layer.name
            for kind, layer in self.layers.items():
                layer.name = f"{self._name} {kind}"

    def _trails(self, frame: int, faces: ShownFaces) -> Lines:
        window = range(max(0, frame - self.window), frame + 1)
        paths = paths_of_landmarks(self.layer, window, self.trails)
        n_faces = paths.shape[1] // len(self.trails)
        colours = np.ones((n_faces, N_LANDMARKS, 4), np.float32)
        colours[: len(faces.colours)] = faces.colours[:n_faces]
        colours[..., 3] = 1
        lines, rgba = trail_segments(paths, colours[:, list(self.trails)].reshape(-1, 4))
        return lines[-MAX_TRAIL_LINES:], rgba[-MAX_TRAIL_LINES:]

    def _draw_lines(self, kind: str, lines: Lines, block: int, width: float) -> None:
        """Draw lines in a layer of constant length, padded with invisible lines; it grows in blocks."""
        data, colours = lines
        layer = self.layers.get(kind)
        length = 0 if layer is None else len(layer.data)
        if layer is None or len(data) > length:
            length = block * max(1, -(-len(data) // block))
        rows, rgba = np.zeros((length, 2, 2), np.float32), np.zeros((length, 4), np.float32)
        rows[: len(data)], rgba[: len(data)] = data, colours
        if layer is None:
            self.layers[kind] = self._add(
                self.viewer.add_vectors, kind, rows, edge_color=rgba, edge_width=width, vector_style="line"
            )
            return
        layer.data = rows
        layer.edge_color = rgba
        ratio = width / float(layer.edge_width)
        if not 1 / MAX_WIDTH_RATIO < ratio < MAX_WIDTH_RATIO:
            layer.edge_width = width

    def _draw_numbers(self, faces: ShownFaces) -> None:
        face, landmark = np.nonzero(np.isfinite(faces.landmarks).all(axis=-1))
        points = faces.landmarks[face, landmark][:, ::-1]
        plane = in_plane(self.layer)["affine"][:2, :2]
        selected = select_spaced(points @ plane.T * camera_of(self.viewer).zoom, NUMBER_SPACING)
        numbers = np.where(selected, landmark.astype(str), "")
        layer = self.layers.get("numbers")
        if layer is not None and len(layer.data) == len(points):
            layer.data = points
            layer.features = {"number": numbers}
            return
        if layer is not None:  # napari does not update the texts when the number of points changes
            self._remove(["numbers"])
        text = {"string": "{number}", "size": NUMBER_SIZE, "color": NUMBER_COLOUR, "anchor": "lower_left"}
        self.layers["numbers"] = self._add(
            self.viewer.add_points,
            "numbers",
            points,
            features={"number": numbers},
            text=text,
            size=1,
            opacity=0.9,
            **({"face_color": "transparent", "border_color": "transparent"} if len(points) else {}),
        )

    def _add(self, add: Any, kind: str, data: Any, **attributes: Any) -> Any:
        """Add a layer without changing the selection."""
        selected = set(self.viewer.layers.selection)
        active = self.viewer.layers.selection.active
        added = add(data, ndim=2, name=f"{self.layer.name} {kind}", **attributes, **in_plane(self.layer))
        self.viewer.layers.selection.clear()
        self.viewer.layers.selection.update(selected)
        self.viewer.layers.selection.active = active
        return added
