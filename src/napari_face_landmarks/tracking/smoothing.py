"""Temporal smoothing without lag: each frame is averaged with those around it that move along with it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.ibug import inter_ocular

Floats = npt.NDArray[np.float32]

TOLERANCE = 0.02
"""How far a pair of frames may be from steady motion (a standard deviation), in inter-ocular distances."""


def smooth_centre(window: Floats, tolerance: float = TOLERANCE) -> Floats:
    """Smooth the middle frame of a window.

    Frames at the same distance before and after are taken as pairs. A pair's mean is where steady motion
    would have put the landmark, so averaging with it removes jitter but neither lags behind nor rounds off a
    steady movement; each pair counts by a Gaussian of how far its mean is from the middle frame (a bilateral
    filter, Tomasi and Manduchi 1998, in time), so that a blink or a cut stays sharp.

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
    reach = len(window) // 2
    centre = window[reach].astype(np.float64)
    if reach == 0 or not np.isfinite(centre).any():
        return np.array(window[reach], dtype=np.float32)
    spread = tolerance * np.maximum(inter_ocular(np.nan_to_num(centre)), 1e-6)[:, None]
    total = centre.copy()
    weights = np.ones(centre.shape[:-1])
    for k in range(1, reach + 1):
        pair = (window[reach - k].astype(np.float64) + window[reach + k]) / 2
        apart = ((pair - centre) ** 2).sum(axis=-1)
        weight = 2 * np.exp(-apart / (2 * spread**2))
        usable = np.isfinite(weight)
        weight = np.where(usable, weight, 0)
        total += weight[..., None] * np.where(usable[..., None], pair, 0)
        weights += weight
    return np.asarray(total / weights[..., None], dtype=np.float32)
