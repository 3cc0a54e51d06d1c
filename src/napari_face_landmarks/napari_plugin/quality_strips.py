"""Data of the quality plot without Qt: its strips, and curves reduced to the pixels available."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.quality import Limits, Series

Floats = npt.NDArray[np.float64]

HEADROOM = 1.25
"""Smallest maximum of an axis from 0, in multiples of its limit."""
MAX_HEADROOM = 4.0
"""Largest maximum of such an axis, in multiples of its limit: one jump should not flatten the rest."""
MIN_ANGLE_RANGE = 15.0
"""Smallest half range of the head pose axis, degrees."""


@dataclass(frozen=True)
class Curve:
    """A curve of a strip."""

    name: str  # in the legend
    values: npt.NDArray[np.float32]  # (T,)
    colour: int  # index into the plot's colours


@dataclass(frozen=True)
class Strip:
    """One of the plots stacked above each other."""

    key: str  # of `STRIPS`
    title: str  # with the unit
    curves: tuple[Curve, ...]
    limit: float | None  # drawn as a dashed line
    low: float  # axis minimum
    high: float  # axis maximum


STRIPS = {
    "confidence": "Confidence",
    "movement": "Movement",
    "misfit": "Misfit",
    "pose": "Head pose",
    "source": "Source",
}
"""Strips that can be shown, with their titles in the menu."""


def strips_of(series: Series, face: int, limits: Limits, shown: frozenset[str]) -> list[Strip]:
    """Return the selected strips of a face, except "source", which is not a curve."""
    movement, by_clnf = 100 * series.movement[:, face], 100 * series.by_clnf[:, face]
    off_model = 100 * series.off_model[:, face]
    jump, disagreement = 100 * limits.jump, 100 * limits.disagreement
    pitch, yaw, roll = series.pose[:, face].T
    angle = _axis_limit(np.abs(series.pose[:, face]), MIN_ANGLE_RANGE, 180.0)
    strips = [
        Strip(
            "confidence",
            "Confidence",
            (
                Curve("mean", series.confidence[:, face], 0),
                Curve("lowest landmark", series.lowest[:, face], 1),
            ),
            limits.low_confidence,
            0.0,
            1.0,
        ),
        Strip(
            "movement",
            "Movement, %",
            (Curve("of the inter-ocular distance", movement, 0),),
            jump,
            0.0,
            _axis_limit(movement, HEADROOM * jump, MAX_HEADROOM * jump),
        ),
        Strip(
            "misfit",
            "Misfit, %",
            (Curve("PFLD to CLNF", by_clnf, 0), Curve("to the PDM", off_model, 1)),
            disagreement,
            0.0,
            _axis_limit(np.stack([by_clnf, off_model]), HEADROOM * disagreement, MAX_HEADROOM * disagreement),
        ),
        Strip(
            "pose",
            "Head, °",
            (Curve("pitch", pitch, 0), Curve("yaw", yaw, 1), Curve("roll", roll, 2)),
            None,
            -angle,
            angle,
        ),
    ]
    return [strip for strip in strips if strip.key in shown]


def _axis_limit(values: npt.NDArray[np.float32], low: float, high: float) -> float:
    return float(np.clip(values[np.isfinite(values)].max(initial=0), low, high))


def envelope(
    frames: npt.NDArray[np.int64], values: npt.NDArray[Any], low: float, high: float, width: int
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """Return the polyline of a curve between the frames `low` and `high`, `width` pixels wide.

    If there are more than two frames per pixel, each pixel is represented by its minimum and maximum, so that
    even short peaks remain and single missing frames leave no gap. `frames` (T,) are ascending; NaN in
    `values` (T,) interrupts the line. Returned are frames and values of its N points, (N,) float64, and which
    points are isolated, (N,) bool: these are not part of any line segment.
    """
    start, stop = np.searchsorted(frames, [math.floor(low), math.ceil(high) + 1])
    start, stop = max(int(start) - 1, 0), min(int(stop) + 1, len(frames))  # continue beyond the edges
    x, y = frames[start:stop].astype(np.float64), np.asarray(values[start:stop], dtype=np.float64)
    if len(x) > 2 * width:
        step = (high - low) / width
        cell = np.floor((x - low) / step)
        first = np.flatnonzero(np.concatenate([[True], np.diff(cell) > 0]))
        bottom, top = np.fmin.reduceat(y, first), np.fmax.reduceat(y, first)
        x = np.repeat(low + (cell[first] + 0.5) * step, 2)
        downwards = np.arange(len(first)) % 2 == 1  # alternately up and down: shortest polyline
        y = np.stack([np.where(downwards, top, bottom), np.where(downwards, bottom, top)], axis=1).ravel()
    known = np.isfinite(y)
    padded = np.concatenate([[False], known, [False]])
    return x, y, known & ~padded[:-2] & ~padded[2:]


def step_function(spans: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return a step function that is true on spans (N, 2) of frames, first and last, which may overlap.

    Returned are the positions of its steps, each twice, (4 * M,) float64, and the values there, bool.
    """
    ordered = np.asarray(spans, dtype=np.float64).reshape(-1, 2)
    ordered = ordered[np.argsort(ordered[:, 0], kind="stable")]
    reach = np.maximum.accumulate(ordered[:, 1]) if len(ordered) else ordered[:, 1]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:, 0] > reach[:-1] + 1])[: len(ordered)])
    last = np.append(first[1:], len(ordered))[: len(first)] - 1
    left, right = ordered[first, 0] - 0.5, reach[last] + 0.5
    x = np.stack([left, left, right, right], axis=1).ravel()
    return x, np.tile([False, True, True, False], len(first))


def snap_spans(spans: npt.NDArray[Any], low: float, step: float) -> Floats:
    """Return spans (N, 2), extended to whole steps from `low` if a step is longer than a frame."""
    if step <= 1:
        return spans.astype(np.float64)
    cells = np.floor((spans - low) / step)
    return np.stack([low + cells[:, 0] * step, low + (cells[:, 1] + 1) * step - 1], axis=1)
