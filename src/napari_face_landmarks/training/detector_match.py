"""Matching of detections with labelled faces; precision and recall."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.detection.boxes import centres, iou, sizes

Array = npt.NDArray[Any]

MATCH_OVERLAP = 0.5
FALSE_ALARMS_ALLOWED = 0.02
"""False alarms per image at which recall is reported."""


def average_precision(scores: Array, right: Array, n_faces: int) -> float:
    """Return the area under the interpolated precision-recall curve; `right`, (N,) bool, marks matches."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    precision = hits / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(precision[right[order]]) / max(n_faces, 1))


def match(
    boxes: Array, points: Array, truth: Array, true_points: Array, ignore: Array
) -> tuple[Array, Array, Array]:
    """Match detections (N, 4 or 5), best first, and their points (N, 5, 2) with the faces of an image.

    A detection matches if its IoU with the true box is at least one half. Unmatched detections in the boxes
    `ignore`, (K, 4), are not counted. Returns arrays (N,): the state, 1 for a match, 0 for a false alarm and
    -1 if not counted; the IoU; the mean error of the points over the square root of the true box's area.
    """
    n = len(boxes)
    state = np.zeros(n, int)
    overlap, error = np.full(n, np.nan), np.full(n, np.nan)
    free = np.ones(len(truth), bool)
    known = np.asarray(truth, np.float32).reshape(-1, 4)
    pairs = iou(boxes, known)
    extents = np.sqrt(sizes(known).prod(axis=1))
    for i in range(n):
        candidates = np.where(free, pairs[i], 0.0)
        if len(truth) and candidates.max() >= MATCH_OVERLAP:
            j = int(candidates.argmax())
            free[j] = False
            state[i], overlap[i] = 1, candidates[j]
            error[i] = np.linalg.norm(points[i] - true_points[j], axis=1).mean() / extents[j]
            continue
        centre = centres(boxes[i])
        if len(ignore) and ((centre >= ignore[:, :2]) & (centre < ignore[:, 2:])).all(1).any():
            state[i] = -1
    return state, overlap, error


def recall_at(scores: Array, right: Array, n_faces: int, n_pictures: int) -> tuple[float, float]:
    """Return recall and score threshold at `FALSE_ALARMS_ALLOWED`; `right`, (N,) bool, marks matches."""
    false = np.sort(scores[~right])[::-1]
    limit = int(FALSE_ALARMS_ALLOWED * n_pictures)
    lowest = float(false[limit]) if len(false) > limit else 0.0
    return float(np.count_nonzero(scores[right] > lowest) / max(n_faces, 1)), lowest
