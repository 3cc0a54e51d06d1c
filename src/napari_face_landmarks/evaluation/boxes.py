"""Boxes of labelled faces: from the labels, jittered like those of a tracker, or from the detector."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.detection.boxes import SAME_FACE, centres, iou, sizes
from napari_face_landmarks.evaluation.corruptions import generator
from napari_face_landmarks.tracking import FaceTracker

INSET = 0.02
FOREHEAD = 0.31
BELOW_CHIN = 0.02
"""The detector's box relative to the bounding box of the 68 landmarks: narrower by INSET of the width on each
side, extended by FOREHEAD of the height upwards and BELOW_CHIN downwards; medians over 719 faces of 300-W."""
JITTER_SHIFT = 0.04
"""Standard deviation of the shift along each axis, relative to the box's longer side."""
JITTER_SCALE = 0.045
"""Standard deviation of the logarithm of the scale."""
MAX_FACES = 8
"""Maximum number of detections, so that other faces in the image do not displace the labelled one."""


def true_box(landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the box of labels (68, 2) from forehead to chin, as the detector draws it: x0, y0, x1, y1."""
    points = np.asarray(landmarks, dtype=np.float64)
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    width, height = x1 - x0, y1 - y0
    return np.array(
        [x0 + INSET * width, y0 - FOREHEAD * height, x1 - INSET * width, y1 + BELOW_CHIN * height]
    )


def jittered_box(landmarks: npt.NDArray[np.floating], name: str, seed: int) -> npt.NDArray[np.float64]:
    """Return the true box, shifted and scaled like a tracker's at random, determined by `seed` and `name`."""
    box = true_box(landmarks)
    rng = generator(seed, "jitter", name)
    centre, half = centres(box), sizes(box) / 2
    centre = centre + rng.normal(0, JITTER_SHIFT, 2) * 2 * half.max()
    half = half * math.exp(rng.normal(0, JITTER_SCALE))
    return np.concatenate([centre - half, centre + half])


def detected_box(
    finder: FaceTracker, image: npt.NDArray[np.uint8], landmarks: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64] | None:
    """Return the detection of the labelled face, (4,), or None; `finder` has `MAX_FACES` as ``max_faces``."""
    detections = finder.detect(image)
    if not len(detections):
        return None
    overlaps = iou(detections, true_box(landmarks)[None])[:, 0]
    best = int(overlaps.argmax())
    return np.asarray(detections[best, :4], dtype=np.float64) if overlaps[best] > SAME_FACE else None
