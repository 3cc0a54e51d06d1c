"""Detection of faces on one frame: boxes of the detector confirmed by PFLD."""

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
"""PFLD runs on at most this many detections in addition to twice `max_faces`."""
CANDIDATE_SCORE = 0.4
"""Detector score from which PFLD runs on a detection; lower than without confirmation by PFLD."""
SMALLEST_FACE = 12.0
"""Minimum side of a face's crop, pixels."""
STAY_SHARE = 0.6
"""Share of `min_confidence` down to which a tracked face is kept, for example during an occlusion."""


def min_tracked_score(settings: TrackerSettings) -> float:
    """Return the score down to which a tracked face is kept."""
    return STAY_SHARE * settings.min_confidence


def find_faces(
    models: Models,
    settings: TrackerSettings,
    rgb: npt.NDArray[np.uint8],
    stats: RunStats,
    regions: Floats | None = None,
) -> tuple[Floats, PfldOutput]:
    """Detect faces on a frame, (H, W, 3): boxes confirmed by PFLD, (F, 5) float32, and PFLD's output.

    PFLD rejects printed faces, whose landmarks are less confident. PFLD also runs in the boxes `regions`,
    (N, 5), with the lower threshold of tracked faces. Faces are ordered by score, best first.
    """
    began = time.perf_counter()
    limit = CANDIDATES + 2 * settings.max_faces
    found = detect_faces(models.detector, rgb, min_score=CANDIDATE_SCORE, max_faces=limit)
    stats.add_time("detect", time.perf_counter() - began)
    began = time.perf_counter()
    roll = np.array([roll_from_points(points) for points in found.points], dtype=np.float64)
    boxes = found.boxes
    if regions is not None and len(regions):
        boxes, roll = np.concatenate([boxes, regions]), np.concatenate([roll, np.zeros(len(regions))])
    output = predict_in_boxes(models, rgb, crops_of_boxes(boxes, roll))
    score = face_scores(output)
    confident = found_scores(output) >= settings.min_confidence
    confident[len(found) :] = score[len(found) :] >= min_tracked_score(settings)
    usable = np.flatnonzero(usable_faces(output, rgb.shape, confident, boxes[:, 4]))
    order = usable[np.argsort(-score[usable], kind="stable")]
    if len(boxes):
        stats.add_time("pfld", time.perf_counter() - began)
    return boxes[order], output.rows(order)


def predict_in_boxes(models: Models, rgb: npt.NDArray[np.uint8], crops: Floats) -> PfldOutput:
    """Run PFLD on crops from boxes, then again on the crops of the landmarks found, also mirrored."""
    output = predict_twice(models.pfld, rgb, crops)
    refined = crops_of_landmarks(output.landmarks)
    faces = np.flatnonzero((output.score >= 0.05) & (refined[:, 2] >= SMALLEST_FACE))
    replace_faces(output, faces, predict(models.pfld, rgb, refined[faces], mirrored=True))
    return output


def usable_faces(
    output: PfldOutput, shape: tuple[int, ...], confident: npt.NDArray[np.bool_], rank: Floats
) -> npt.NDArray[np.bool_]:
    """Return whether each face can be tracked, (F,): confident, in the frame, large enough, no duplicate.

    Of duplicates, the one with the highest `rank`, (F,), is kept.
    """
    good = np.array(confident)
    _usable(output.landmarks, np.ascontiguousarray(rank), shape[0], shape[1], good)
    return good


def still_faces(output: PfldOutput, shape: tuple[int, ...], min_score: float) -> npt.NDArray[np.bool_]:
    """Return which faces remain tracked: `usable_faces` with a score of at least `min_score`, (F,) bool."""
    good = np.empty(len(output.score), np.bool_)
    _still(output.landmarks, output.confidence, output.score, min_score, shape[0], shape[1], good)
    return good


@exact_kernel
def _still(
    landmarks: Floats,
    confidence: Floats,
    score: Floats,
    min_score: float,
    height: int,
    width: int,
    good: npt.NDArray[np.bool_],
) -> None:
    scores = np.empty(len(good), np.float32)
    _face_scores(score, confidence, scores)
    for face in range(len(good)):
        good[face] = scores[face] >= min_score
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
    remaining = good.copy()
    for _ in range(len(good)):  # non-maximum suppression by rank
        best = -1
        for face in range(len(good)):
            if remaining[face] and (best < 0 or rank[face] > rank[best]):
                best = face
        if best < 0:
            break
        remaining[best] = False
        for face in range(len(good)):
            first, second = boxes[best], boxes[face]
            across = float(min(first[2], second[2])) - max(first[0], second[0])
            down = float(min(first[3], second[3])) - max(first[1], second[1])
            shared = max(across, 0.0) * max(down, 0.0)
            union = -shared
            for box in (first, second):
                union += (float(box[2]) - box[0]) * (float(box[3]) - box[1])
            if remaining[face] and shared > SAME_FACE * max(union, 1e-9):
                remaining[face] = good[face] = False


def face_scores(output: PfldOutput) -> Floats:
    """Return the confidence that each crop shows a face with accurate landmarks, (F,).

    The minimum of the face score and the mean confidence of the landmarks, which is low on letters and
    clouds.
    """
    scores = np.empty(len(output.score), np.float32)
    _face_scores(output.score, output.confidence, scores)
    return scores


@exact_kernel
def record_kernel(
    landmarks: Floats, confidence: Floats, score: Floats, row: int, confidences: Floats, boxes: Floats
) -> None:
    """Fill the confidence, (68,), and the box with score, (1, 5), of one row of an output."""
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
    """Return the confidence that each crop shows a face, for new faces, (F,).

    Heavily occluded faces, or faces partly outside the image, are detected if half of the landmarks are
    confident: the median is compared with the lower threshold of tracked faces.
    """
    median = np.median(output.confidence, axis=1)
    return np.asarray(np.minimum(output.score, median / STAY_SHARE), dtype=np.float32)


def join_faces(outputs: Sequence[PfldOutput]) -> PfldOutput:
    """Concatenate outputs."""
    if len(outputs) == 1:
        return outputs[0]
    arrays = ((output.landmarks, output.sigma, output.confidence, output.score) for output in outputs)
    return PfldOutput(*map(np.concatenate, zip(*arrays, strict=True)))
