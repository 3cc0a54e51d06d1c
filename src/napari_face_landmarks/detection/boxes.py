"""Geometry of boxes: centres and sizes, intersection over union, non-maximum suppression.

A box is a row ``x0, y0, x1, y1`` in pixels, optionally followed by a score.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.jit import exact_kernel

Boxes = npt.NDArray[np.floating]

SAME_FACE = 0.35
"""Boxes with a larger intersection over union belong to the same face."""


def centres(boxes: Boxes) -> Boxes:
    """Return the centres of boxes, (..., 4 or more), as (..., 2): x, y in pixels."""
    return (boxes[..., :2] + boxes[..., 2:4]) / 2


def sizes(boxes: Boxes) -> Boxes:
    """Return the widths and heights of boxes, (..., 4 or more), as (..., 2): pixels."""
    return boxes[..., 2:4] - boxes[..., :2]


def boxes_of(landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Return the bounding boxes of the landmarks of faces, (F, 68, 2) pixels, as (F, 4) float32."""
    points = np.asarray(landmarks, dtype=np.float32)
    if not len(points):
        return np.zeros((0, 4), np.float32)
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)


@exact_kernel
def boxes_kernel(landmarks: npt.NDArray[np.float32], boxes: npt.NDArray[np.float32]) -> None:
    """Compiled `boxes_of`; fills the first four columns of `boxes`, with NaN where a landmark is NaN."""
    for face in range(len(landmarks)):
        for axis in range(2):
            low = high = landmarks[face, 0, axis]
            for i in range(1, landmarks.shape[1]):
                value = landmarks[face, i, axis]
                if not low <= value:  # also True if either is NaN
                    low = value if low == low else low
                if not high >= value:
                    high = value if high == high else high
            boxes[face, axis], boxes[face, 2 + axis] = low, high


def iou(boxes: Boxes, others: Boxes) -> npt.NDArray[np.float64]:
    """Return the intersection over union of every pair of boxes, (N, M) float64, 0 to 1."""
    a = np.asarray(boxes, dtype=np.float64)[:, None, :4]
    b = np.asarray(others, dtype=np.float64)[None, :, :4]
    overlap = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    intersection = overlap[..., 0] * overlap[..., 1]
    union = sizes(a).prod(axis=-1) + sizes(b).prod(axis=-1) - intersection
    return np.asarray(intersection / np.maximum(union, 1e-9))


def suppress(
    boxes: Boxes, scores: npt.NDArray[np.floating], max_overlap: float, max_count: int | None = None
) -> npt.NDArray[np.int64]:
    """Return the rows of boxes (N, 4 or more) kept by greedy non-maximum suppression, best first, (K,).

    A box is dropped if its IoU with a kept box of higher score exceeds `max_overlap`; at most `max_count`
    boxes are kept.
    """
    candidates = np.argsort(-np.asarray(scores), kind="stable")
    kept: list[int] = []
    while candidates.size and (max_count is None or len(kept) < max_count):
        best, candidates = candidates[:1], candidates[1:]
        kept.append(int(best[0]))
        candidates = candidates[~(iou(boxes[best], boxes[candidates])[0] > max_overlap)]
    return np.asarray(kept, dtype=np.int64)
