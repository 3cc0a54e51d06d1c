"""What the quality plot draws, as numbers: its strips, and curves thinned to the pixels there are; no Qt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.quality import Limits, Series

Floats = npt.NDArray[np.float64]

HEADROOM = 1.25
"""An axis from 0 shows at least so many times its limit ..."""
MOST_HEADROOM = 4.0
"""... and at most so many times: a single jump would press all else to the ground."""
LEAST_TURN = 15.0
"""Degrees that the axis of the head's pose shows at least, to either side."""


@dataclass(frozen=True)
class Curve:
    """One line of a strip."""

    name: str  # in the legend
    values: npt.NDArray[np.float32]  # (T,)
    colour: int  # which of the plot's


@dataclass(frozen=True)
class Strip:
    """One of the plots that lie under each other."""

    key: str  # of `STRIPS`
    title: str  # with the unit
    curves: tuple[Curve, ...]
    limit: float | None  # where a dashed line is drawn
    low: float  # of its axis
    high: float


STRIPS = {
    "confidence": "Confidence",
    "movement": "Movement",
    "misfit": "Misfit",
    "pose": "Head pose",
    "source": "Where from",
}
"""What can be shown, and its name in the menu."""


def strips_of(series: Series, face: int, limits: Limits, shown: frozenset[str]) -> list[Strip]:
    """Return the curves of a face that are to be shown, but for where its landmarks come from."""
    movement, by_clnf = 100 * series.movement[:, face], 100 * series.by_clnf[:, face]
    off_model = 100 * series.off_model[:, face]
    jump, apart = 100 * limits.jump, 100 * limits.disagreement
    pitch, yaw, roll = series.pose[:, face].T
    turn = _largest(np.abs(series.pose[:, face]), LEAST_TURN, 180.0)
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
            _largest(movement, HEADROOM * jump, MOST_HEADROOM * jump),
        ),
        Strip(
            "misfit",
            "Misfit, %",
            (Curve("PFLD to CLNF", by_clnf, 0), Curve("off the model", off_model, 1)),
            apart,
            0.0,
            _largest(np.stack([by_clnf, off_model]), HEADROOM * apart, MOST_HEADROOM * apart),
        ),
        Strip(
            "pose",
            "Head, °",
            (Curve("pitch", pitch, 0), Curve("yaw", yaw, 1), Curve("roll", roll, 2)),
            None,
            -turn,
            turn,
        ),
    ]
    return [strip for strip in strips if strip.key in shown]


def _largest(values: npt.NDArray[np.float32], least: float, most: float) -> float:
    known = values[np.isfinite(values)]
    return float(np.clip(known.max(initial=0), least, most))


def envelope(
    frames: npt.NDArray[np.int64], values: npt.NDArray[Any], low: float, high: float, width: int
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """Return the line that draws a curve between the frames `low` and `high` on so many pixels.

    Where more frames than pixels are in view, the smallest and the largest value of each pixel represent its
    frames, so that no peak is lost however short it is, and a missing frame makes no gap. `frames` (T,) rise;
    a NaN of `values` (T,) parts the line. Returned are frames and values of the N points of the line,
    float64, and which have none next to them, so that a line shows nothing of them.
    """
    start, stop = np.searchsorted(frames, [math.floor(low), math.ceil(high) + 1])
    start, stop = max(int(start) - 1, 0), min(int(stop) + 1, len(frames))  # lines continue beyond the edges
    x, y = frames[start:stop].astype(np.float64), np.asarray(values[start:stop], dtype=np.float64)
    if len(x) > 2 * width:
        step = (high - low) / width
        cell = np.floor((x - low) / step)
        first = np.flatnonzero(np.concatenate([[True], np.diff(cell) > 0]))
        bottom, top = np.fmin.reduceat(y, first), np.fmax.reduceat(y, first)
        x = np.repeat(low + (cell[first] + 0.5) * step, 2)
        downwards = np.arange(len(first)) % 2 == 1  # up, then down: one stroke without detours
        y = np.stack([np.where(downwards, top, bottom), np.where(downwards, bottom, top)], axis=1).ravel()
    known = np.isfinite(y)
    padded = np.concatenate([[False], known, [False]])
    return x, y, known & ~padded[:-2] & ~padded[2:]


def intervals(spans: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return a step function that is true on spans (N, 2) of frames, first and last, which may overlap.

    It is given by the frames at which it steps, each twice, (4 * M,) float64, and its values there, bool.
    """
    ordered = np.asarray(spans, dtype=np.float64).reshape(-1, 2)
    ordered = ordered[np.argsort(ordered[:, 0], kind="stable")]
    reach = np.maximum.accumulate(ordered[:, 1]) if len(ordered) else ordered[:, 1]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:, 0] > reach[:-1] + 1])[: len(ordered)])
    ends = np.append(begins[1:], len(ordered))[: len(begins)] - 1
    left, right = ordered[begins, 0] - 0.5, reach[ends] + 0.5
    x = np.stack([left, left, right, right], axis=1).ravel()
    return x, np.tile([False, True, True, False], len(begins))


def coarser(spans: npt.NDArray[Any], low: float, step: float) -> Floats:
    """Return spans (N, 2) that begin and end at whole steps from `low`, if frames are shorter than a step."""
    if step <= 1:
        return spans.astype(np.float64)
    cells = np.floor((spans - low) / step)
    return np.stack([low + cells[:, 0] * step, low + (cells[:, 1] + 1) * step - 1], axis=1)
