"""Which detections are faces: matching with the known ones, precision and recall; NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.detection.boxes import centres, iou, sizes

Array = npt.NDArray[Any]

MATCH_OVERLAP = 0.5
FALSE_ALARMS_ALLOWED = 0.02
"""Per picture; recall is reported at the lowest score that keeps to it."""


def average_precision(scores: Array, right: Array, n_faces: int) -> float:
    """Return the area under the interpolated precision-recall curve.

    Parameters
    ----------
    scores : ndarray, (N,)
    right : ndarray, (N,) bool
        Whether each detection matches a face.
    n_faces : int
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    precision = hits / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(precision[right[order]]) / max(n_faces, 1))


def match(
    boxes: Array,
    points: Array,
    truth: Array,
    true_points: Array,
    ignore: Array,
    reach: float | None = None,
) -> tuple[Array, Array, Array, Array]:
    """Match detections, best first, with the faces of one picture.

    Parameters
    ----------
    boxes : ndarray, (N, 4) or (N, 5)
    points : ndarray, (N, 5, 2)
    truth : ndarray, (M, 4)
    true_points : ndarray, (M, 5, 2)
    ignore : ndarray, (K, 4)
        What lies in these boxes and is no known face counts neither way.
    reach : float, optional
        A detection is a face where its box overlaps the true one by half; with `reach`, also where its points
        lie on the average as near to the true ones, in units of the root of the true box's area.

    Returns
    -------
    state : ndarray, (N,) int
        1 a face found, 0 a false alarm, -1 not counted (a doubtful face, or a part of one).
    overlap : ndarray, (N,) float
        Intersection over union of the detections that found a face (with `reach`, the like for points
        where that is more), else NaN.
    error : ndarray, (N,) float
        Their mean point error over the root of the box's area, else NaN.
    face : ndarray, (N,) int
        The face found, or -1.
    """
    n = len(boxes)
    state, face = np.zeros(n, int), np.full(n, -1)
    overlap, error = np.full(n, np.nan), np.full(n, np.nan)
    free = np.ones(len(truth), bool)
    known = np.asarray(truth, np.float32).reshape(-1, 4)
    pairs = iou(boxes, known)
    extents = np.sqrt(sizes(known).prod(axis=1))
    if reach is not None and n and len(known):
        apart = np.linalg.norm(points[:, None] - true_points[None], axis=-1).mean(axis=-1) / extents
        pairs = np.maximum(pairs, 1 - apart * (1 - MATCH_OVERLAP) / reach)
    for i in range(n):
        candidates = np.where(free, pairs[i], 0.0)
        if len(truth) and candidates.max() >= MATCH_OVERLAP:
            j = int(candidates.argmax())
            free[j] = False
            state[i], overlap[i], face[i] = 1, candidates[j], j
            error[i] = np.linalg.norm(points[i] - true_points[j], axis=1).mean() / extents[j]
            continue
        centre = centres(boxes[i])
        if len(ignore) and ((centre >= ignore[:, :2]) & (centre < ignore[:, 2:])).all(1).any():
            state[i] = -1
    return state, overlap, error, face


def recall_at(
    scores: Array, right: Array, n_faces: int, n_pictures: int, allowed: float = FALSE_ALARMS_ALLOWED
) -> tuple[float, float]:
    """Return the share of the faces found with few enough false alarms, and the score that it takes.

    Parameters
    ----------
    scores : ndarray, (N,)
    right : ndarray, (N,) bool
        Whether each detection matches a face.
    n_faces, n_pictures : int
    allowed : float
        False alarms per picture.

    Returns
    -------
    recall : float
    score : float
        Detections above it count.
    """
    false = np.sort(scores[~right])[::-1]
    most = int(allowed * n_pictures)
    lowest = float(false[most]) if len(false) > most else 0.0
    return float(np.count_nonzero(scores[right] > lowest) / max(n_faces, 1)), lowest
