"""Temporal smoothing without lag: symmetric pairs of neighbouring frames, weighted bilaterally."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.ibug import OUTER_EYES
from napari_face_landmarks.jit import exact_kernel

Floats = npt.NDArray[np.float32]

TOLERANCE = 0.02
"""Standard deviation of the bilateral weight: deviation from uniform motion, inter-ocular distances."""
LID_TOLERANCE = 0.004
"""The same for the distance between the lids, which a blink changes by little more than `TOLERANCE`."""
LID_NOISE = 1.2
"""Noise of a lid landmark relative to the `STEADY` landmarks, which neither blinks nor speech move."""
UPPER_LIDS, LOWER_LIDS = np.array([[37, 38], [43, 44]]), np.array([[41, 40], [47, 46]])
STEADY = np.array([*range(27, 36), 36, 39, 42, 45])
FASTEST_BY_FRAMES = 60.0
"""Frames per second up to which the window is in frames; at higher rates its duration is constant."""
MAX_RATE = 1000.0


def window_at_rate(window: int, fps: float | None) -> int:
    """Return the odd window length in frames; above 60 fps, with the duration that it has at 60 fps.

    Examples
    --------
    >>> window_at_rate(5, 25.0), window_at_rate(5, 240.0)
    (5, 21)
    """
    if window == 1 or fps is None or not fps > FASTEST_BY_FRAMES:
        return window
    return 2 * round((window * min(fps, MAX_RATE) / FASTEST_BY_FRAMES - 1) / 2) + 1


def smooth_centre(window: Floats, tolerance: float = TOLERANCE) -> Floats:
    """Return the smoothed middle frame, (F, 68, 2), of a window, (2 k + 1, F, 68, 2) px; NaN stays NaN.

    Frames at the same distance before and after the middle one are averaged in pairs, so that uniform motion
    is preserved without lag. The outermost pair has half the weight, which cancels alternation between
    frames, as with CLNF on every second frame. The weight of a pair is a Gaussian of the distance of its mean
    from the middle frame, with the standard deviation `tolerance` in inter-ocular distances (a temporal
    bilateral filter, Tomasi and Manduchi 1998), so that abrupt motion stays sharp. For the lids, the weight
    also decreases if the distance between them differs from the middle frame by more than the noise of the
    face's steady landmarks, so that blinks are kept.
    """
    if len(window) == 1:
        return np.array(window[0], dtype=np.float32)
    smoothed = np.empty(window.shape[1:], np.float32)
    _smooth(np.ascontiguousarray(window, dtype=np.float32), tolerance, smoothed)
    return smoothed


def smooth_at(landmarks: Callable[[int], Floats | None], index: int, window: int) -> Floats:
    """Smooth the frame at an index over a window; `landmarks(index)` returns (F, 68, 2) px or None."""
    middle = landmarks(index)
    assert middle is not None
    frames = np.empty((window, *middle.shape), np.float32)
    for row in range(window):
        points = landmarks(index - window // 2 + row)
        frames[row] = np.nan if points is None else points
    return smooth_centre(frames)


@exact_kernel
def _noise(window: Floats, face: int) -> float:
    """Return the noise variance per coordinate of the steady landmarks, from their second differences."""
    total, count = 0.0, 0
    for t in range(1, window.shape[0] - 1):
        for i in STEADY:
            for axis in range(2):
                bend = float(window[t - 1, face, i, axis]) - 2 * float(window[t, face, i, axis])
                bend += float(window[t + 1, face, i, axis])
                if math.isfinite(bend):
                    total += bend * bend
                    count += 1
    return total / (6 * count) if count else 0.0


@exact_kernel
def _lid_weight(window: Floats, face: int, eye: int, k: int, noise: float, tolerance: float) -> float:
    """Return the weight of the k-th pair of frames for the lids of an eye, 0 to 1.

    The vector between the lids is a mean over two pairs of landmarks. In its squared difference between the
    middle frame and the mean of the pair, noise contributes 3 variances of a coordinate; twice that is
    tolerated.
    """
    reach = window.shape[0] // 2
    square = 0.0
    for axis in range(2):
        apart = 0.0
        for pair in range(2):
            upper, lower = UPPER_LIDS[eye, pair], LOWER_LIDS[eye, pair]
            apart += float(window[reach, face, lower, axis]) - float(window[reach, face, upper, axis])
            for t in (reach - k, reach + k):
                apart -= (float(window[t, face, lower, axis]) - float(window[t, face, upper, axis])) / 2
        square += (apart / 2) ** 2
    if not math.isfinite(square):
        return 1.0  # the pair is skipped in any case
    return math.exp(-max(square - 6 * noise, 0.0) / (2 * (tolerance * tolerance + 3 * noise)))


@exact_kernel
def _smooth(window: Floats, tolerance: float, smoothed: Floats) -> None:
    reach = window.shape[0] // 2
    first, last = OUTER_EYES
    lids = np.ones((3, reach + 1))
    eye_of = np.full(window.shape[2], 2)
    for eye in range(2):
        for pair in range(2):
            eye_of[UPPER_LIDS[eye, pair]] = eye
            eye_of[LOWER_LIDS[eye, pair]] = eye
    for face in range(window.shape[1]):
        eyes = window[reach, face]
        across = math.hypot(float(eyes[last, 0]) - eyes[first, 0], float(eyes[last, 1]) - eyes[first, 1])
        across = max(across, 1e-6) if math.isfinite(across) else 1e-6
        spread = tolerance * across
        noise = LID_NOISE**2 * _noise(window, face)
        for eye in range(2):
            for k in range(1, reach + 1):
                lids[eye, k] = _lid_weight(window, face, eye, k, noise, LID_TOLERANCE * across)
        for i in range(window.shape[2]):
            x, y = float(window[reach, face, i, 0]), float(window[reach, face, i, 1])
            total_x, total_y, weights = x, y, 1.0
            for k in range(1, reach + 1):
                pair_x = (float(window[reach - k, face, i, 0]) + window[reach + k, face, i, 0]) / 2
                pair_y = (float(window[reach - k, face, i, 1]) + window[reach + k, face, i, 1]) / 2
                apart = (pair_x - x) ** 2 + (pair_y - y) ** 2
                if math.isfinite(apart):
                    weight = (2 if k < reach else 1) * math.exp(-apart / (2 * spread * spread))
                    weight *= lids[eye_of[i], k]
                    total_x += weight * pair_x
                    total_y += weight * pair_y
                    weights += weight
            smoothed[face, i, 0], smoothed[face, i, 1] = total_x / weights, total_y / weights
