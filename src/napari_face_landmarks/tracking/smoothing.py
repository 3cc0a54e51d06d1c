"""Temporal smoothing without lag: each frame is averaged with its neighbours in steady motion."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.ibug import OUTER_EYES
from napari_face_landmarks.jit import exact_kernel

Floats = npt.NDArray[np.float32]

TOLERANCE = 0.02
"""How far a pair of frames may be from steady motion (a standard deviation), in inter-ocular distances."""


def smooth_centre(window: Floats, tolerance: float = TOLERANCE) -> Floats:
    """Smooth the middle frame of a window.

    Frames at the same distance before and after are taken as pairs. A pair's mean is where steady motion
    would have put the landmark, so averaging with it removes jitter but neither lags behind nor rounds off a
    steady movement. The outermost pair counts half, so that what alternates from frame to frame, as it does
    where CLNF runs on every second one, goes altogether. Each pair counts by a Gaussian of how far its mean
    is from the middle frame (a bilateral filter, Tomasi and Manduchi 1998, in time), so that a blink or a cut
    stays sharp.

    Parameters
    ----------
    window : ndarray, (2 k + 1, F, 68, 2), float32
        Pixels; NaN where a frame has no face or lies outside the run.
    tolerance : float
        Standard deviation of that Gaussian, in units of the inter-ocular distance.

    Returns
    -------
    ndarray, (F, 68, 2), float32
        The middle frame, smoothed; NaN stays NaN.
    """
    if len(window) == 1:
        return np.array(window[0], dtype=np.float32)
    smoothed = np.empty(window.shape[1:], np.float32)
    _smooth(np.ascontiguousarray(window, dtype=np.float32), tolerance, smoothed)
    return smoothed


def smooth_at(landmarks: Callable[[int], Floats | None], place: int, window: int) -> Floats:
    """Smooth the landmarks of one frame of a sequence.

    Parameters
    ----------
    landmarks : callable
        Returns the landmarks, (F, 68, 2) px, of the frame at a place of the sequence, or None where there is
        no such frame; there is one at `place`.
    place : int
        The frame to smooth.
    window : int
        How many frames are looked at, `place` in their middle; odd.

    Returns
    -------
    ndarray, (F, 68, 2), float32
    """
    around = [landmarks(k) for k in range(place - window // 2, place + window // 2 + 1)]
    blank = np.full_like(around[window // 2], np.nan)
    return smooth_centre(np.stack([blank if points is None else points for points in around]))


@exact_kernel
def _smooth(window: Floats, tolerance: float, smoothed: Floats) -> None:
    reach = window.shape[0] // 2
    first, last = OUTER_EYES
    for face in range(window.shape[1]):
        eyes = window[reach, face]
        across = math.hypot(float(eyes[last, 0]) - eyes[first, 0], float(eyes[last, 1]) - eyes[first, 1])
        spread = tolerance * max(across, 1e-6) if math.isfinite(across) else tolerance * 1e-6
        for i in range(window.shape[2]):
            x, y = float(window[reach, face, i, 0]), float(window[reach, face, i, 1])
            total_x, total_y, weights = x, y, 1.0
            for k in range(1, reach + 1):
                pair_x = (float(window[reach - k, face, i, 0]) + window[reach + k, face, i, 0]) / 2
                pair_y = (float(window[reach - k, face, i, 1]) + window[reach + k, face, i, 1]) / 2
                apart = (pair_x - x) ** 2 + (pair_y - y) ** 2
                if math.isfinite(apart):
                    weight = (2 if k < reach else 1) * math.exp(-apart / (2 * spread * spread))
                    total_x += weight * pair_x
                    total_y += weight * pair_y
                    weights += weight
            smoothed[face, i, 0], smoothed[face, i, 1] = total_x / weights, total_y / weights
