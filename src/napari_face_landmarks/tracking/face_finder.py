"""Faces of one frame: detections that PFLD confirms."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.detection import detect_faces, roll_from_points
from napari_face_landmarks.detection.boxes import SAME_FACE, boxes_kernel
from napari_face_landmarks.jit import exact_kernel
from napari_face_landmarks.models import Models
from napari_face_landmarks.pfld import PfldOutput, crops_of_boxes, crops_of_landmarks, predict, predict_twice
from napari_face_landmarks.pfld.crop import CROP_MARGIN, crops_kernel
from napari_face_landmarks.pfld.network import replace_faces
from napari_face_landmarks.settings import TrackerSettings

Floats = npt.NDArray[np.float32]

CANDIDATES = 4
"""Detections on which PFLD runs in addition to twice the number of faces wanted."""
CANDIDATE_SCORE = 0.4
"""Score from which PFLD runs on a detection; lower than for detections without PFLD's confirmation."""
SMALLEST_FACE = 12.0
"""Side of the smallest crop that is tracked, pixels."""
STAY_SHARE = 0.6
"""A tracked face is kept down to this share of `min_confidence`, for example during an occlusion."""


def find_faces(
    models: Models,
    settings: TrackerSettings,
    rgb: npt.NDArray[np.uint8],
    stats: RunStats,
    regions: Floats | None = None,
) -> tuple[Floats, PfldOutput]:
    """Detect the faces of a frame (H, W, 3): the detector's boxes that PFLD confirms, (F, 5) float32.

    PFLD rejects printed faces, whose landmarks are less certain. `max_faces` and `min_confidence` of the
    settings are used. PFLD also runs in the boxes `regions`, (N, 5), with the threshold of tracked faces.
    """
    began = time.perf_counter()
    most = CANDIDATES + 2 * settings.max_faces
    found = detect_faces(models.detector, rgb, min_score=CANDIDATE_SCORE, max_faces=most)
    stats.add_time("detect", time.perf_counter() - began)
    began = time.perf_counter()
    roll = np.array([roll_from_points(points) for points in found.points], dtype=np.float64)
    boxes = found.boxes
    if regions is not None and len(regions):
        boxes, roll = np.concatenate([boxes, regions]), np.concatenate([roll, np.zeros(len(regions))])
    output = predict_in_boxes(models, rgb, crops_of_boxes(boxes, roll))
    score = face_scores(output)
    sure = found_scores(output) >= settings.min_confidence
    sure[len(found) :] = score[len(found) :] >= STAY_SHARE * settings.min_confidence
    usable = np.flatnonzero(usable_faces(output, rgb.shape, sure, boxes[:, 4]))
    order = usable[np.argsort(-score[usable], kind="stable")]
    if len(boxes):
        stats.add_time("pfld", time.perf_counter() - began)
    return boxes[order], take_faces(output, order)


def predict_in_boxes(models: Models, rgb: npt.NDArray[np.uint8], crops: Floats) -> PfldOutput:
    """Run PFLD on crops from boxes, and again, plain and mirrored, on the crops of the faces found."""
    output = predict_twice(models.pfld, rgb, crops)
    better = crops_of_landmarks(output.landmarks)
    sure = np.flatnonzero((output.score >= 0.05) & (better[:, 2] >= SMALLEST_FACE))
    replace_faces(output, sure, predict(models.pfld, rgb, better[sure], mirrored=True))
    return output


def usable_faces(
    output: PfldOutput, shape: tuple[int, ...], sure: npt.NDArray[np.bool_], rank: Floats
) -> npt.NDArray[np.bool_]:
    """Return which faces can be tracked, (F,): confident, in the frame, large enough, not duplicates.

    Of duplicates the one of the highest `rank`, (F,), is kept.
    """
    good = np.array(sure)
    _usable(output.landmarks, np.ascontiguousarray(rank), shape[0], shape[1], good)
    return good


def still_faces(output: PfldOutput, shape: tuple[int, ...], least: float) -> npt.NDArray[np.bool_]:
    """Return which faces remain tracked: `usable_faces` whose score is at least `least`, (F,) bool."""
    good = np.empty(len(output.score), np.bool_)
    _still(output.landmarks, output.confidence, output.score, least, shape[0], shape[1], good)
    return good


@exact_kernel
def _still(
    landmarks: Floats,
    confidence: Floats,
    score: Floats,
    least: float,
    height: int,
    width: int,
    good: npt.NDArray[np.bool_],
) -> None:
    scores = np.empty(len(good), np.float32)
    _face_scores(score, confidence, scores)
    for face in range(len(good)):
        good[face] = scores[face] >= least
    _usable(landmarks, scores, height, width, good)


@exact_kernel
def _usable(landmarks: Floats, rank: Floats, height: int, width: int, good: npt.NDArray[np.bool_]) -> None:
    boxes, crops = np.empty((len(good), 4), np.float32), np.empty((len(good), 4), np.float32)
    boxes_kernel(landmarks, boxes)
    crops_kernel(landmarks.astype(np.float64), CROP_MARGIN, crops)
    for face in range(len(good)):
        x, y, side = crops[face, 0], crops[face, 1], crops[face, 2]
        good[face] &= side >= SMALLEST_FACE and side <= 4 * max(height, width)
        good[face] &= x > 0 and x < width and y > 0 and y < height
    waiting = good.copy()
    for _ in range(len(good)):  # the best of those that wait, and not those that are the same face
        best = -1
        for face in range(len(good)):
            if waiting[face] and (best < 0 or rank[face] > rank[best]):
                best = face
        if best < 0:
            break
        waiting[best] = False
        for face in range(len(good)):
            one, other = boxes[best], boxes[face]
            across = float(min(one[2], other[2])) - max(one[0], other[0])
            down = float(min(one[3], other[3])) - max(one[1], other[1])
            shared = max(across, 0.0) * max(down, 0.0)
            union = -shared
            for box in (one, other):
                union += (float(box[2]) - box[0]) * (float(box[3]) - box[1])
            if waiting[face] and shared > SAME_FACE * max(union, 1e-9):
                waiting[face] = good[face] = False


def face_scores(output: PfldOutput) -> Floats:
    """Return the confidence that each crop shows a face with correctly placed landmarks, (F,).

    The smaller of the face score and the mean confidence of the landmarks, which is low on letters and
    clouds.
    """
    scores = np.empty(len(output.score), np.float32)
    _face_scores(output.score, output.confidence, scores)
    return scores


@exact_kernel
def record_kernel(
    landmarks: Floats, confidence: Floats, score: Floats, row: int, confidences: Floats, boxes: Floats
) -> None:
    """Write the confidence of a face of an output, (68,), and its box with its score, (1, 5)."""
    part = slice(row, row + 1)
    for i in range(len(confidences)):
        confidences[i] = confidence[row, i]
    boxes_kernel(landmarks[part], boxes)
    _face_scores(score[part], confidence[part], boxes[0, 4:])


@exact_kernel
def _face_scores(score: Floats, confidence: Floats, scores: Floats) -> None:
    for face in range(len(score)):
        total = 0.0
        for value in confidence[face]:
            total += value
        scores[face] = min(float(score[face]), total / confidence.shape[1])


def found_scores(output: PfldOutput) -> Floats:
    """Return the confidence that each crop shows a face, for faces not tracked before, (F,).

    A face half occluded or half outside the image has unreliable landmarks; those of the other half suffice,
    at the share of the score at which a tracked face is kept.
    """
    middle = np.median(output.confidence, axis=1)
    return np.asarray(np.minimum(output.score, middle / STAY_SHARE), dtype=np.float32)


def join_faces(outputs: Sequence[PfldOutput]) -> PfldOutput:
    """Concatenate outputs of one frame."""
    if len(outputs) == 1:
        return outputs[0]
    return PfldOutput(
        np.concatenate([output.landmarks for output in outputs]),
        np.concatenate([output.sigma for output in outputs]),
        np.concatenate([output.confidence for output in outputs]),
        np.concatenate([output.score for output in outputs]),
    )


def take_faces(output: PfldOutput, rows: npt.NDArray[np.int64]) -> PfldOutput:
    """Return some of the faces of an output; rows that it does not have are left out."""
    return output.rows(rows[rows < len(output.score)])
