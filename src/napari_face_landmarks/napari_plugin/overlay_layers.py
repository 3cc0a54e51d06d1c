"""Colours, and layers that overlay the landmarks of the current frame: outlines, numbers, trails; no Qt.

Lines are pairs of a start and a direction, (S, 2, 2), y then x, as napari's Vectors layer takes them.
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
"""(S, 2) the landmarks at the ends of each line of a face's outlines: brows, eyes, nose, lips, jaw."""
LINE_WIDTH = 0.01
"""Width of outlines over the side of the landmarks' box."""
FAINTEST = 0.15
"""Opacity of a trail's oldest end."""


@dataclass(frozen=True, slots=True)
class ShownFaces:
    """The faces of one frame, as their layer shows them."""

    landmarks: Floats  # (F, 68, 2), px, x then y; NaN where there is no point
    colours: Floats  # (F, 68, 4), RGBA, 0 to 1


def recolour(layer: Any, by: ColourMode) -> None:
    """Colour the points of a layer of landmarks by something else; nothing is computed again.

    A run that goes on into the layer goes on in these colours. Raises a `ResultError` if the layer has no
    landmarks, and a `ValueError` if `by` is no mode of `landmark_colours`.
    """
    features = layer.features
    if not {"landmark", "face"} <= set(features.columns):
        raise ResultError(f"The layer {layer.name!r} has no landmarks: choose one that this plugin made.")
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
    """Return the faces that a layer of landmarks shows on a frame, in its own data; None without time."""
    data = layer.data
    here = layer.shown if frame is None or data.shape[1] < 3 else layer.shown & (data[:, 0] == frame)
    rows = np.flatnonzero(here)
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

    They are lines (S, 2, 2) float32, start and direction, y then x, and RGBA (S, 4) float32, for each the
    mean of the `colours` (F, 68, 4) of its ends, white where not given. Lines with an end that is not finite
    are left out.
    """
    ends = np.asarray(landmarks, np.float32)[:, SEGMENTS].reshape(-1, 2, 2)[..., ::-1]
    good = np.isfinite(ends).all(axis=(1, 2))
    shades = np.ones((len(ends), 4), np.float32)
    if colours is not None:
        shades = np.asarray(colours, np.float32)[:, SEGMENTS].mean(axis=2).reshape(-1, 4)
    return _as_lines(ends[good]), shades[good]


def line_width(landmarks: npt.NDArray[Any]) -> float:
    """Return the width of outlines that suits the largest of the faces (F, 68, 2), px."""
    good = np.isfinite(landmarks).all(axis=-1)
    sides = [
        float(np.ptp(face[known], axis=0).max())
        for face, known in zip(landmarks, good, strict=True)
        if known.any()
    ]
    return LINE_WIDTH * max(sides, default=0.0) or LINE_WIDTH


def trail_segments(places: npt.NDArray[Any], colours: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Return where landmarks have been as lines, the older the fainter.

    `places` (W, K, 2), px, x then y, are those of K landmarks on successive frames, NaN where there was none;
    `colours` (K, 4) are RGBA. Returned are lines (S, 2, 2) float32, start and direction, y then x, and RGBA
    (S, 4) float32, whose opacity falls with age.
    """
    places = np.asarray(places, np.float32)[..., ::-1]
    n_steps = max(len(places) - 1, 0)
    ends = np.stack([places[:n_steps], places[1:]], axis=2)
    shades = np.broadcast_to(np.asarray(colours, np.float32), (n_steps, *np.shape(colours))).copy()
    shades[..., 3] *= np.linspace(FAINTEST, 1, n_steps, dtype=np.float32)[:, np.newaxis]
    good = np.isfinite(ends).all(axis=(2, 3))
    return _as_lines(ends[good]), shades[good]


def places_over(layer: Any, frames: range, landmarks: Sequence[int]) -> Floats:
    """Return where landmarks of all faces are on successive frames of their layer (t, y, x).

    They are (W, K, 2) float32, px, x then y; the K are the chosen landmarks, 0 to 67, of the first face, of
    the second, and so on; NaN where there is no point.
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
    places = np.full((len(frames), n_faces * len(landmarks), 2), np.nan, np.float32)
    at = np.rint(time[rows]).astype(np.int64) - frames.start
    places[at, face * len(landmarks) + column] = layer.data[rows][:, :-3:-1]
    return places


def chosen_landmarks(text: str) -> list[int]:
    """Return the landmarks that a text names, such as ``"30, 36-47"``, in order, each once.

    A `ResultError` says so if it names what is no landmark.
    """
    numbers: set[int] = set()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        found = re.fullmatch(r"(\d{1,2})(?:\s*-\s*(\d{1,2}))?", part)
        first = int(found.group(1)) if found else -1
        last = int(found.group(2) or first) if found else -1
        if not 0 <= first <= last < N_LANDMARKS:
            raise ResultError(
                f"{part!r} names no landmarks: give numbers from 0 to {N_LANDMARKS - 1}, such as 30, 36-47."
            )
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def in_plane(layer: Any) -> dict[str, Any]:
    """Return what places a layer of (y, x) where a layer of (t, y, x) or (y, x) is in the world."""
    ndim = layer.ndim
    corners = np.zeros((3, ndim))
    corners[1, -2] = corners[2, -1] = 1
    origin, down, right = (np.asarray(layer.data_to_world(corner))[-2:] for corner in corners)
    affine = np.eye(3)
    affine[:2, 0], affine[:2, 1], affine[:2, 2] = down - origin, right - origin, origin
    return {"affine": affine, "units": layer.units[-2:], "axis_labels": layer.axis_labels[-2:]}


def apart_from_each_other(places: npt.NDArray[Any], room: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """Return at which of some places (N, 2), y then x, words of a height and a width have room in turn."""
    kept: list[npt.NDArray[Any]] = []
    apart = np.zeros(len(places), np.bool_)
    for number, place in enumerate(places):
        apart[number] = not kept or bool((np.abs(np.array(kept) - place) >= room).any(axis=1).all())
        if apart[number]:
            kept.append(place)
    return apart


def _as_lines(ends: Floats) -> Floats:
    return np.stack([ends[:, 0], ends[:, 1] - ends[:, 0]], axis=1)


NUMBER_SIZE, NUMBER_COLOUR = 9, "magenta"  # points; readable on light skin, dark hair and the canvas
NUMBER_ROOM = (16.0, 23.0)  # px on the screen, height and width of a number
MOST_LINES = 20_000  # of trails: more are too slow to draw
WIDER = 1.15  # lines get another width only where it differs by more

Lines = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


class FrameLayers:
    """Outlines, numbers and trails of the frame that a viewer shows of a landmarks layer.

    Each is a layer while it is wanted, in `layers` by "outlines", "numbers" and "trails". Layers are added
    and removed by `update` alone, which must not be called while the layer list is reporting a change (from
    a handler of ``layers.events``): napari then crashes. Whatever happened to the layers meanwhile -
    removed, renamed, moved, put back - is dealt with in the next `update`.

    `layer` has the landmarks, or is None; another one may be set before an `update`. `outlines` and `numbers`
    say whether they are wanted, `trails` which landmarks have trails, over `window` frames back.
    """

    def __init__(self, viewer: Any, layer: Any = None) -> None:
        self._viewer, self.layer = ref(viewer), layer
        self.outlines = self.numbers = False
        self.trails: Sequence[int] = ()
        self.window = 25
        self.layers: dict[str, Any] = {}
        self._drawn: Any = None  # the landmarks that `layers` were drawn for
        self._name = ""
        self._updating = False

    @property
    def viewer(self) -> Any:
        """The viewer; None once it has gone, which this object does not prevent."""
        return self._viewer()

    def update(self) -> None:
        """Have the layers show the frame that the viewer is at."""
        if self._updating or self.viewer is None:  # a layer that is added or removed may move the slider
            return
        self._updating = True
        try:
            self._forget_removed()
            wanted = {"outlines": self.outlines, "numbers": self.numbers, "trails": bool(len(self.trails))}
            there = self.layer is not None and self.layer in self.viewer.layers
            if not there or self._drawn is not self.layer:
                self._take_away(list(self.layers))
            self._drawn = self.layer
            self._take_away([kind for kind in self.layers if not wanted[kind]])
            if there and any(wanted.values()):
                self._draw()
        finally:
            self._updating = False

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
        if self.numbers:
            self._draw_numbers(faces)
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

    def _draw_numbers(self, faces: ShownFaces) -> None:
        face, landmark = np.nonzero(np.isfinite(faces.landmarks).all(axis=-1))
        points = faces.landmarks[face, landmark][:, ::-1]
        plane = in_plane(self.layer)["affine"][:2, :2]
        apart = apart_from_each_other(points @ plane.T * camera_of(self.viewer).zoom, NUMBER_ROOM)
        words = np.where(apart, landmark.astype(str), "")
        layer = self.layers.get("numbers")
        if layer is not None and len(layer.data) == len(points):
            layer.data = points
            layer.features = {"number": words}
            return
        if layer is not None:  # napari keeps the texts of points in step with neither more nor fewer of them
            self._take_away(["numbers"])
        text = {"string": "{number}", "size": NUMBER_SIZE, "color": NUMBER_COLOUR, "anchor": "lower_left"}
        self.layers["numbers"] = self._add(
            self.viewer.add_points,
            "numbers",
            points,
            features={"number": words},
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
