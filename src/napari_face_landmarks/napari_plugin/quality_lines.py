"""What the quality plot draws, as numbers: curves thinned to the pixels there are, ranges, ticks; no Qt."""

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
    """One line of a strip.

    Attributes
    ----------
    name : str
        In the legend.
    values : ndarray, (T,), float32
    colour : int
        Which of the plot's colours.
    """

    name: str
    values: npt.NDArray[np.float32]
    colour: int


@dataclass(frozen=True)
class Strip:
    """One of the plots that lie under each other.

    Attributes
    ----------
    key : str
        Its name among `STRIPS`.
    title : str
        With the unit.
    curves : tuple of Curve
    limit : float or None
        Where a dashed line is drawn.
    low, high : float
        Ends of its axis.
    """

    key: str
    title: str
    curves: tuple[Curve, ...]
    limit: float | None
    low: float
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
            (Curve("mean", series.confidence[:, face], 0), Curve("lowest", series.lowest[:, face], 1)),
            limits.low_confidence,
            0.0,
            1.0,
        ),
        Strip(
            "movement",
            "Movement, %",
            (Curve("of the eyes' distance", movement, 0),),
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
) -> list[tuple[Floats, Floats]]:
    """Return the lines that draw a curve between two frames on so many pixels.

    Where more frames than pixels are in view, each pixel's smallest and largest value stand for its frames,
    so that no peak is lost however short it is.

    Parameters
    ----------
    frames : ndarray, (T,), int64
        Rising.
    values : ndarray, (T,)
        What is NaN parts the lines.
    low, high : float
        Frames at the left and the right edge.
    width : int
        Pixels.

    Returns
    -------
    list of (ndarray, ndarray)
        Frames and values of the points of each line; single points too.
    """
    start, stop = np.searchsorted(frames, [math.floor(low), math.ceil(high) + 1])
    start, stop = max(int(start) - 1, 0), min(int(stop) + 1, len(frames))  # lines go on beyond the edges
    x, y = frames[start:stop].astype(np.float64), np.asarray(values[start:stop], dtype=np.float64)
    if len(x) > 2 * width:
        step = (high - low) / width
        cell = np.floor((x - low) / step)
        first = np.flatnonzero(np.concatenate([[True], np.diff(cell) > 0]))
        bottom, top = np.fmin.reduceat(y, first), np.fmax.reduceat(y, first)
        x = np.repeat(low + (cell[first] + 0.5) * step, 2)
        turned = np.arange(len(first)) % 2 == 1  # up, then down: one stroke without ways back
        y = np.stack([np.where(turned, top, bottom), np.where(turned, bottom, top)], axis=1).ravel()
    known = np.isfinite(y)
    edges = np.flatnonzero(np.diff(known)) + 1
    parts = np.split(np.arange(len(x)), edges)
    return [(x[part], y[part]) for part in parts if len(part) and known[part[0]]]


def runs(
    frames: npt.NDArray[np.int64], codes: npt.NDArray[np.uint8], low: float, high: float, width: int
) -> list[tuple[float, float, int]]:
    """Return where a code stays the same: first frame, the frame after the last, and the code.

    Where more frames than pixels are in view, the largest code of each pixel stands for it, so that what is
    rare can be seen.
    """
    start, stop = np.searchsorted(frames, [math.floor(low), math.ceil(high) + 1])
    x, code = frames[start:stop].astype(np.float64), codes[start:stop]
    if not len(x):
        return []
    step = 1.0
    if len(x) > 2 * width:
        step = (high - low) / width
        cell = np.floor((x - low) / step)
        first = np.flatnonzero(np.concatenate([[True], np.diff(cell) > 0]))
        code, x = np.maximum.reduceat(code, first), low + cell[first] * step
    ends = np.append(x[1:], x[-1] + step)
    ends = np.where(ends > x + 1.5 * step, x + step, ends)  # frames that were left out are a gap
    new = np.concatenate([[True], (np.diff(code.astype(np.int16)) != 0) | (x[1:] > ends[:-1])])
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(x)) - 1
    return [(float(x[a]), float(ends[b]), int(code[a])) for a, b in zip(first, last, strict=True)]


def ticks(low: float, high: float, most: int) -> list[int]:
    """Return at most so many round frame numbers between two frames."""
    span = max(high - low, 1.0)
    step = 1
    while span / step > max(most, 1):
        lead = int(str(step)[0])
        step = step * 2 if lead in (1, 5) else step * 5 // 2
    return list(range(math.ceil(low / step) * step, math.floor(high) + 1, step))


def covered(left: Floats, right: Floats, width: int) -> list[tuple[int, int]]:
    """Return the pixels that spans cover, each once: first pixel, and the one after the last.

    Parameters
    ----------
    left, right : ndarray, (N,)
        Ends of the spans, pixels; each covers one pixel at least.
    width : int
        Pixels that there are.
    """
    start = np.clip(np.rint(left), 0, width - 1).astype(np.int64)
    stop = np.maximum(np.clip(np.rint(right), 0, width).astype(np.int64), start + 1)
    change = np.bincount(start, minlength=width + 1) - np.bincount(stop, minlength=width + 1)
    inside = np.concatenate([[False], np.cumsum(change)[:width] > 0, [False]])
    edges = np.flatnonzero(np.diff(inside))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def thinned(places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return marks, in pixels, without those that would be drawn on the same pixel."""
    return np.unique(np.rint(places))
