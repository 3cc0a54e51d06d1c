"""Drawing of landmarks on images: outlines of regions, colours of confidence, markers of sources."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import SOURCES
from napari_face_landmarks.ibug import OUTLINES
from napari_face_landmarks.opencv import cv2

SUBPIXEL_BITS = 4  # OpenCV draws with a resolution of 1/16 px
DARK = (20, 20, 20)
LIGHT = (240, 240, 240)
_SEGMENTS = [(int(a), int(b)) for outline in OUTLINES for a, b in pairwise(outline)]
EDGE_OPACITY = 0.5  # of the dark edges around lines and points

# viridis from dark blue (0) to yellow (1): perceptually uniform and safe for colour blindness
_VIRIDIS = np.ascontiguousarray(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]
)


def confidence_colours(confidence: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return the RGB of each confidence, (..., 3) uint8: viridis from 0 (dark blue) to 1 (yellow)."""
    index = np.clip(np.nan_to_num(np.asarray(confidence, dtype=np.float64)), 0, 1) * 255 + 0.5
    return np.asarray(_VIRIDIS[index.astype(np.int64)])


def draw_landmarks(
    rgb: npt.NDArray[np.uint8],
    landmarks: npt.NDArray[Any],
    confidence: npt.NDArray[Any] | None = None,
    source: npt.NDArray[Any] | None = None,
    colours: npt.NDArray[np.uint8] | None = None,
    outlines: bool = True,
) -> npt.NDArray[np.uint8]:
    """Draw the landmarks of all faces of a frame, anti-aliased, with line widths that depend on face size.

    The colour of a line segment is that of the less confident of its ends. Points are discs for the source
    "pfld", squares for "clnf", diamonds for "carried" and triangles for "manual".

    Parameters
    ----------
    rgb : ndarray, (H, W, 3), uint8
        The frame; not modified.
    landmarks : ndarray, (F, 68, 2) or (68, 2)
        Pixels, x then y; landmarks that are not finite are omitted.
    confidence : ndarray, (F, 68) or (68,), optional
        0 to 1. Default: 1.
    source : ndarray of uint8, (F,) or (), optional
        Index into `tracking.SOURCES`. Default: "pfld".
    colours : ndarray, (F, 68, 3) or (68, 3), uint8, optional
        RGB of each landmark. Default: from its confidence.
    outlines : bool
        Whether the landmarks of a facial region are connected by lines.

    Returns
    -------
    ndarray, (H, W, 3), uint8
        A new image.
    """
    canvas = np.ascontiguousarray(rgb).copy()
    points = np.asarray(landmarks, dtype=np.float64).reshape(-1, 68, 2)
    n_faces = len(points)
    weights = np.ones((n_faces, 68)) if confidence is None else np.asarray(confidence).reshape(n_faces, 68)
    codes = np.full(n_faces, SOURCES.index("pfld")) if source is None else np.asarray(source).reshape(n_faces)
    shades = confidence_colours(weights) if colours is None else np.reshape(colours, (n_faces, 68, 3))
    lines = _SEGMENTS if outlines else []
    for face, of_face, shade, code in zip(points, weights, shades, codes, strict=True):
        _draw_face(canvas, face, of_face, shade.tolist(), lines, SOURCES[int(code)])
    return canvas


def _draw_face(
    canvas: npt.NDArray[np.uint8],
    points: npt.NDArray[Any],
    confidence: npt.NDArray[Any],
    shades: list[tuple[int, int, int]],
    lines: list[tuple[int, int]],
    source: str,
) -> None:
    limit = 4 * max(canvas.shape)  # OpenCV's fixed-point coordinates overflow beyond it
    drawable = (np.isfinite(points) & (np.abs(points) < limit)).all(axis=1)
    if not drawable.any():
        return
    extent = float(np.ptp(points[drawable], axis=0).max())
    thickness = max(1, round(extent / 250))
    radius = max(1.0, extent / 120)
    segments = [(a, b) for a, b in lines if drawable[a] and drawable[b]]
    confidence = np.nan_to_num(confidence, nan=np.inf)
    edges = canvas.copy()
    for a, b in segments:
        cv2.line(edges, _fixed(points[a]), _fixed(points[b]), DARK, thickness + 2, cv2.LINE_AA, SUBPIXEL_BITS)
    for i in np.nonzero(drawable)[0]:
        _draw_point(edges, points[i], radius + 0.8, source, DARK)
    cv2.addWeighted(edges, EDGE_OPACITY, canvas, 1 - EDGE_OPACITY, 0, dst=canvas)
    for a, b in segments:
        shade = shades[a] if confidence[a] <= confidence[b] else shades[b]
        cv2.line(canvas, _fixed(points[a]), _fixed(points[b]), shade, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    for i in np.nonzero(drawable)[0]:
        _draw_point(canvas, points[i], radius, source, shades[i])


_MARKERS: dict[str, npt.NDArray[np.float64]] = {
    "clnf": np.array([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
    "carried": np.array([(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)]),
    "manual": np.array([(0, -1.4), (1.3, 1.0), (-1.3, 1.0)]),
}


def _draw_point(
    canvas: npt.NDArray[np.uint8], point: npt.NDArray[Any], radius: float, source: str, colour: Sequence[int]
) -> None:
    if source in _MARKERS:
        corners = np.rint((point + radius * _MARKERS[source]) * (1 << SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(canvas, [corners], colour, cv2.LINE_AA, SUBPIXEL_BITS)
    else:
        reach = round(radius * (1 << SUBPIXEL_BITS))
        cv2.circle(canvas, _fixed(point), reach, colour, cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS)


def draw_legend(canvas: npt.NDArray[np.uint8], title: str, entries: Sequence[tuple[str, str]]) -> None:
    """Draw a title, and labels with colours ``#rrggbb``, in the lower left corner of `canvas`, in place."""
    side = min(canvas.shape[:2])
    height = round(45 * max(0.35, side / 640))
    gap, end = height // 4, canvas.shape[0] - height // 4
    for line, (label, colour) in enumerate([*reversed(entries), (title, "")]):
        top = end - (line + 1) * height
        if top <= 0:  # the image is too small for this line
            return
        left = height if colour else 0
        if colour:
            rgb = int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
            for reach, shade in ((0, DARK), (1, rgb)):  # a square with an edge
                corners = (gap + reach, top + gap + reach), (height - gap - reach, top + height - gap - reach)
                cv2.rectangle(canvas, *corners, shade, cv2.FILLED)
        draw_caption(canvas[top:, left:], label, side=side)


def draw_caption(
    canvas: npt.NDArray[np.uint8], text: str, colour: tuple[int, int, int] = LIGHT, side: int | None = None
) -> None:
    """Draw a line of text in the upper left corner of `canvas`, in place; `side` sets its size."""
    size = max(0.35, (side or min(canvas.shape[:2])) / 640)
    weight = max(1, round(1.5 * size))
    (width, height), descent = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, weight)
    margin = max(3, height // 2)
    text_mask = np.zeros((height + descent + 2 * margin, width + 2 * margin), dtype=np.uint8)
    origin = (margin, height + margin)
    cv2.putText(text_mask, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size, 255, weight, cv2.LINE_AA)
    corner = canvas[: text_mask.shape[0], : text_mask.shape[1]]
    text_mask = text_mask[: corner.shape[0], : corner.shape[1]]
    edges = cv2.dilate(text_mask, np.ones((3, 3), dtype=np.uint8))
    for mask, shade in ((edges, DARK), (text_mask, colour)):
        opacity = mask[:, :, np.newaxis] / 255.0
        corner[...] = np.rint(corner * (1 - opacity) + np.array(shade) * opacity).astype(np.uint8)


def describe_frame(
    frame: int, source: npt.NDArray[Any], confidence: npt.NDArray[Any], seconds: float = float("nan")
) -> str:
    """Return the caption of a frame: index, time, and source and mean confidence (F, 68) of each face."""
    time = f", {seconds:.2f} s" if np.isfinite(seconds) else ""
    faces = [
        f"{SOURCES[int(code)]} {float(np.nanmean(of_face)):.2f}"
        for code, of_face in zip(source, confidence, strict=True)
        if code != SOURCES.index("none")
    ]
    return f"frame {frame}{time}: {', '.join(faces) if faces else 'no face'}"


def _fixed(point: npt.NDArray[Any]) -> tuple[int, int]:
    x, y = np.rint(point * (1 << SUBPIXEL_BITS)).astype(np.int64).tolist()
    return x, y
