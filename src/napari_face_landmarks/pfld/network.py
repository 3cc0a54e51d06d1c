"""Run PFLD on crops: landmarks with their standard deviations, confidence and a face score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from napari_face_landmarks.errors import ModelError, in_one_line
from napari_face_landmarks.files.onnx_run import network_input, run_network
from napari_face_landmarks.ibug import MIRROR_68, N_LANDMARKS, OUTER_EYES, inter_ocular
from napari_face_landmarks.jit import exact_kernel
from napari_face_landmarks.pfld.crop import (
    CROP_MARGIN,
    CROP_SIZE,
    Pictures,
    crops_kernel,
    crops_of_landmarks,
    sample_crops,
    to_image,
)
from napari_face_landmarks.pfld.custom import CustomPfld, custom_crops, run_custom

Floats = npt.NDArray[np.float32]

POOR_NME = 0.08
"""Error, in inter-ocular distances, above which a landmark counts as poor; confidence refers to it."""
BOX_TO_CROP = 1.05
"""Side of the first crop divided by the longer side of a face box from forehead to chin."""
BOX_TO_CROP_SHIFT = 0.11
"""Downward shift of the first crop's centre from the centre of the box, in heights of the box."""
MAX_BATCH = 16
MIN_SCORE = 0.05
"""`predict_twice` runs PFLD only once on crops with a lower face score."""
PFLD_OUTPUTS = ("landmarks", "sigma", "score")
MAX_CROP_ERRORS = (0.08, 0.12, 0.15)
"""PFLD runs again on a better crop above these errors: shift (of the side), log scale, roll (radians)."""


@dataclass(frozen=True, slots=True)
class PfldOutput:
    """PFLD's output for F crops.

    Attributes
    ----------
    landmarks : ndarray, (F, 68, 2), float32
        Pixels of the image, x then y.
    sigma : ndarray, (F, 68), float32
        Standard deviation of each landmark's error along one axis, pixels.
    confidence : ndarray, (F, 68), float32
        Probability that the landmark lies within 8 % of the inter-ocular distance of the truth.
    score : ndarray, (F,), float32
        Probability that the crop shows a face.
    """

    landmarks: Floats
    sigma: Floats
    confidence: Floats
    score: Floats

    def rows(self, rows: Any) -> PfldOutput:
        """Return some of the faces; `rows` is an index of arrays."""
        return PfldOutput(self.landmarks[rows], self.sigma[rows], self.confidence[rows], self.score[rows])


def predict(
    session: onnxruntime.InferenceSession | CustomPfld,
    pictures: Pictures,
    crops: npt.NDArray[np.floating],
    mirrored: bool = False,
) -> PfldOutput:
    """Run the network on crops.

    Guo et al. 2019, "PFLD: A Practical Facial Landmark Detector" (arXiv 1902.10859). The standard deviation
    of each landmark is trained by maximum likelihood of its error under a circular normal distribution; for
    the error d, ``P(d < r) = 1 - exp(-r^2 / (2 sigma^2))``.

    Parameters
    ----------
    session : onnxruntime.InferenceSession or CustomPfld
        The network ``pfld.onnx``, or a custom one.
    pictures : ndarray, (H, W, 3), uint8, or list of them
        The image, or one for each crop.
    crops : ndarray, (F, 4)
        Centre x, centre y, side (pixels), roll (radians).
    mirrored : bool
        Average the outputs for the crops and their mirror images. Takes twice the time and reduces the error
        by 2 %. A quarter of the squared distance of the two outputs is added to the variance. Custom networks
        ignore it.

    Raises
    ------
    ModelError
        If the network cannot be run or its outputs have other shapes.
    """
    crops = np.asarray(crops, dtype=np.float32).reshape(-1, 4)
    if isinstance(session, CustomPfld):
        return _predict_custom(session, pictures, crops)
    if not len(crops):
        empty = np.zeros((0, N_LANDMARKS), np.float32)
        return PfldOutput(np.zeros((0, N_LANDMARKS, 2), np.float32), empty, empty, np.zeros(0, np.float32))
    run, batches = _run_mirrored if mirrored else _run, []
    for first in range(0, len(crops), MAX_BATCH):
        batch = slice(first, first + MAX_BATCH)
        inputs = network_input(session, (len(crops[batch]), 3, CROP_SIZE, CROP_SIZE), PFLD_OUTPUTS)
        images = pictures[batch] if isinstance(pictures, list) else pictures
        batches.append(run(session, sample_crops(images, crops[batch], out=inputs)))
    if len(batches) > 1:
        batches = [[np.concatenate(arrays) for arrays in zip(*batches, strict=True)]]
    fractions, spread, score = batches[0]
    return output_in_image(fractions, spread, score, crops)


def _run(session: onnxruntime.InferenceSession, inputs: Floats) -> list[Floats]:
    """Return landmarks, sigma and score for the crops; raise a `ModelError` if the network is no PFLD."""
    try:
        outputs = run_network(session, inputs, "crops", PFLD_OUTPUTS)
    except Exception as error:
        raise ModelError(
            f"The landmark network cannot be run ({in_one_line(error)}): use another bundle."
        ) from error
    count = len(inputs)
    shapes = [values.shape for values in outputs]
    if shapes != [(count, N_LANDMARKS, 2), (count, N_LANDMARKS), (count,)]:
        raise ModelError(f"The landmark network gives the shapes {shapes}: use another bundle.")
    return outputs


def _run_mirrored(session: onnxruntime.InferenceSession, inputs: Floats) -> list[Floats]:
    """Return the mean outputs for the crops and their mirror images."""
    landmarks, sigma, score = _run(session, inputs)
    other, other_sigma, other_score = _run(session, np.ascontiguousarray(inputs[..., ::-1]))
    other, other_sigma = other[:, MIRROR_68], other_sigma[:, MIRROR_68]
    other[..., 0] = 1 - other[..., 0]
    squared_distance = ((landmarks - other) ** 2).sum(axis=-1)
    variance = (sigma**2 + other_sigma**2) / 2 + squared_distance / 4
    means = (landmarks + other) / 2, np.sqrt(variance), (score + other_score) / 2
    return [np.ascontiguousarray(array) for array in means]


def output_in_image(fractions: Floats, spread: Floats, score: Floats, crops: Floats) -> PfldOutput:
    """Convert a network's outputs for crops (F, 4) to image pixels; faces with non-finite values get score 0.

    Landmarks (F, 68, 2) and their standard deviations `spread`, (F, 68), are fractions of the crop; `score`,
    (F,), is a probability.
    """
    landmarks, sigma = np.empty_like(fractions), np.empty_like(spread)
    confidence, face_score = np.empty_like(spread), np.empty_like(score)
    _output_in_image(fractions, spread, score, crops, landmarks, sigma, confidence, face_score)
    return PfldOutput(landmarks, sigma, confidence, face_score)


@exact_kernel
def _output_in_image(
    fractions: Floats,
    spread: Floats,
    score: Floats,
    crops: Floats,
    landmarks: Floats,
    sigma: Floats,
    confidence: Floats,
    face_score: Floats,
) -> None:
    for face in range(len(score)):
        cx, cy, side = float(crops[face, 0]), float(crops[face, 1]), float(crops[face, 2])
        cos, sin = math.cos(crops[face, 3]), math.sin(crops[face, 3])
        usable = math.isfinite(score[face])
        for i in range(fractions.shape[1]):
            u, v = (fractions[face, i, 0] - 0.5) * side, (fractions[face, i, 1] - 0.5) * side
            landmarks[face, i, 0] = cx + u * cos - v * sin
            landmarks[face, i, 1] = cy + u * sin + v * cos
            sigma[face, i] = spread[face, i] * side
            usable &= math.isfinite(landmarks[face, i, 0]) and math.isfinite(landmarks[face, i, 1])
            usable &= math.isfinite(sigma[face, i]) and sigma[face, i] > 0
        face_score[face] = score[face] if usable else 0.0
        if not usable:
            landmarks[face], sigma[face], confidence[face] = 0.0, 1.0, 0.0
            continue
        right, left = landmarks[face, OUTER_EYES[0]], landmarks[face, OUTER_EYES[1]]
        radius = POOR_NME * math.hypot(float(left[0]) - right[0], float(left[1]) - right[1])
        for i in range(fractions.shape[1]):
            ratio = radius / sigma[face, i]
            confidence[face, i] = 1.0 - math.exp(-0.5 * ratio * ratio)


def _predict_custom(network: CustomPfld, pictures: Pictures, crops: Floats) -> PfldOutput:
    """Run a custom network; the confidence of all landmarks is the face score of the default PFLD."""
    score = predict(network.scorer, pictures, crops).score
    crops = custom_crops(network, crops, BOX_TO_CROP, BOX_TO_CROP_SHIFT)
    landmarks = to_image(run_custom(network, pictures, crops), crops)
    finite = np.isfinite(landmarks).all(axis=(1, 2))
    landmarks[~finite] = 0
    score = np.where(finite, score, 0).astype(np.float32)
    sigma = np.maximum(network.sigma * inter_ocular(landmarks), 1e-3)[:, None] * np.ones(68)
    confidence = np.repeat(score[:, None], 68, axis=1)
    return PfldOutput(landmarks, sigma.astype(np.float32), confidence, score)


def predict_twice(
    session: onnxruntime.InferenceSession | CustomPfld,
    pictures: Pictures,
    crops: npt.NDArray[np.floating],
) -> PfldOutput:
    """Run the network, and once more on crops of its landmarks where they differ from the given crops.

    The second run makes the result nearly independent of the origin of the crop: a detector's box, a user's
    box or the last frame before a fast movement. For parameters and errors, see `predict`.
    """
    crops = np.asarray(crops, dtype=np.float32).reshape(-1, 4)
    output = predict(session, pictures, crops)
    misplaced = np.empty(len(crops), np.bool_)
    if find_misplaced(crops, output.landmarks, output.score, misplaced):
        rows = np.flatnonzero(misplaced)
        images = [pictures[row] for row in rows] if isinstance(pictures, list) else pictures
        replace_faces(output, rows, predict(session, images, crops_of_landmarks(output.landmarks[rows])))
    return output


def replace_faces(output: PfldOutput, rows: npt.NDArray[np.int64], other: PfldOutput) -> None:
    """Overwrite the faces `rows` of `output`, in place, by all faces of `other`."""
    output.landmarks[rows], output.sigma[rows] = other.landmarks, other.sigma
    output.confidence[rows], output.score[rows] = other.confidence, other.score


@exact_kernel
def find_misplaced(crops: Floats, landmarks: Floats, score: Floats, misplaced: npt.NDArray[np.bool_]) -> bool:
    """Mark in `misplaced` the crops (F, 4) whose errors exceed `MAX_CROP_ERRORS`; return whether any does."""
    better = np.empty((len(misplaced), 4), np.float32)
    crops_kernel(landmarks.astype(np.float64), CROP_MARGIN, better)
    circle, any_misplaced = 2 * math.pi, False
    for face in range(len(misplaced)):
        misplaced[face] = False
        side, better_side = float(crops[face, 2]), float(better[face, 2])
        if not (better_side > 1 and score[face] > MIN_SCORE):
            continue
        if not side > 0:  # an empty crop
            misplaced[face] = any_misplaced = True
            continue
        dx, dy = float(better[face, 0]) - crops[face, 0], float(better[face, 1]) - crops[face, 1]
        roll = float(better[face, 3]) - crops[face, 3]
        misplaced[face] = (
            math.hypot(dx, dy) > MAX_CROP_ERRORS[0] * side
            or abs(math.log(better_side / side)) > MAX_CROP_ERRORS[1]
            or abs((roll + math.pi) % circle - math.pi) > MAX_CROP_ERRORS[2]
        )
        any_misplaced = any_misplaced or misplaced[face]
    return any_misplaced


def crops_of_boxes(boxes: npt.NDArray[np.floating], roll: npt.NDArray[np.floating] | float = 0.0) -> Floats:
    """Return the first crop of each face box.

    Parameters
    ----------
    boxes : ndarray, (F, 4) or (F, 5)
        x0, y0, x1, y1 in pixels; from forehead to chin, as the detector's.
    roll : float or ndarray, (F,)
        In-plane rotation of each face, radians.

    Returns
    -------
    ndarray, (F, 4), float32
        Centre x, centre y, side (pixels), roll (radians).
    """
    box = np.asarray(boxes, dtype=np.float64)
    roll = np.broadcast_to(np.asarray(roll, dtype=np.float64), len(box))
    height = box[:, 3] - box[:, 1]
    shift = BOX_TO_CROP_SHIFT * height
    return np.stack(
        [
            (box[:, 0] + box[:, 2]) / 2 - np.sin(roll) * shift,
            (box[:, 1] + box[:, 3]) / 2 + np.cos(roll) * shift,
            BOX_TO_CROP * np.maximum(box[:, 2] - box[:, 0], height),
            roll,
        ],
        axis=1,
    ).astype(np.float32)
