"""Run the part models: lids, irises and lips at the resolution of the frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime

from napari_face_landmarks.errors import ModelError, in_one_line
from napari_face_landmarks.files.onnx_run import network_input, run_network
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.jit import exact_kernel
from napari_face_landmarks.parts.crop import EYE_SIZE, LEFT_EYE, MOUTH, MOUTH_SIZE, RIGHT_EYE, part_inputs
from napari_face_landmarks.pfld.crop import Pictures

Floats = npt.NDArray[np.float32]

EYE_OUTPUTS = ("landmarks", "sigma", "iris", "iris_sigma", "iris_confidence", "shut")
MOUTH_OUTPUTS = ("landmarks", "sigma")
CONFIDENT_SIGMA, UNCERTAIN_SIGMA = 0.02, 0.04
"""Sigma, in inter-ocular distances, below which a part model has weight 1, and above which weight 0."""
WIDE_EYE, NARROW_EYE = 0.55, 0.40
"""Width of an eye / width of the other eye above which its model has weight 1, and below which weight 0."""


@dataclass(frozen=True, slots=True)
class PartModels:
    """The part networks of a model bundle.

    Attributes
    ----------
    eye : onnxruntime.InferenceSession
        Network for right eyes and mirrored left eyes.
    mouth : onnxruntime.InferenceSession
        Network for mouths; ends in a linear map of its landmarks (`training.linear_calibration`).
    """

    eye: onnxruntime.InferenceSession
    mouth: onnxruntime.InferenceSession


@dataclass(frozen=True, slots=True)
class PartOutput:
    """Outputs of the part models for F faces.

    Attributes
    ----------
    landmarks : ndarray, (F, 68, 2), float32
        Pixels of the frame, x then y, of eyes and mouth (36 to 67); NaN for the other landmarks.
    sigma : ndarray, (F, 68), float32
        Standard deviation of each landmark's error along one axis, pixels; NaN for the other landmarks.
    iris : ndarray, (F, 2, 3), float32
        Centre x, centre y and horizontal diameter of the right and the left iris, pixels.
    iris_sigma : ndarray, (F, 2), float32
        Standard deviation of the centre's error along one axis, pixels.
    iris_confidence : ndarray, (F, 2), float32
        Probability that the iris is visible.
    shut : ndarray, (F, 2), float32
        Probability that the eye is shut.
    """

    landmarks: Floats
    sigma: Floats
    iris: Floats
    iris_sigma: Floats
    iris_confidence: Floats
    shut: Floats


def predict_parts(
    models: PartModels, rgb: npt.NDArray[np.uint8], landmarks: npt.NDArray[np.floating]
) -> PartOutput:
    """Run the part models on a frame.

    Parameters
    ----------
    models : PartModels
    rgb : ndarray, (H, W, 3), uint8
        The frame.
    landmarks : ndarray, (F, 68, 2)
        Landmarks of the faces from PFLD or CLNF; pixels, x then y.

    Returns
    -------
    PartOutput

    Raises
    ------
    ModelError
        If a network cannot be run or is no part model.
    """
    count = len(landmarks)
    crops, (lids, lids_sigma, iris, iris_sigma, visible, shut), (lips, lips_sigma) = _run_parts(
        models, rgb, landmarks
    )
    parts = PartOutput(
        np.empty((count, N_LANDMARKS, 2), np.float32),
        np.empty((count, N_LANDMARKS), np.float32),
        np.empty((count, 2, 3), np.float32),
        np.empty((count, 2), np.float32),
        visible.reshape(count, 2),
        shut.reshape(count, 2),
    )
    outputs = lids, lids_sigma, iris, iris_sigma, lips, lips_sigma, crops
    _outputs_in_image(*outputs, parts.landmarks, parts.sigma, parts.iris, parts.iris_sigma)
    return parts


def _run_parts(
    models: PartModels, pictures: Pictures, landmarks: npt.NDArray[np.floating]
) -> tuple[Floats, list[Floats], list[Floats]]:
    """Return the crops of all parts, and the outputs of the eye and mouth networks for them."""
    eyes = network_input(models.eye, (2 * len(landmarks), 3, EYE_SIZE, EYE_SIZE), EYE_OUTPUTS)
    mouths = network_input(models.mouth, (len(landmarks), 3, MOUTH_SIZE, MOUTH_SIZE), MOUTH_OUTPUTS)
    crops = part_inputs(pictures, landmarks, eyes, mouths)
    return crops, _run(models.eye, eyes, EYE_OUTPUTS, 6), _run(models.mouth, mouths, MOUTH_OUTPUTS, 20)


@exact_kernel
def _outputs_in_image(
    lids: Floats,
    lids_sigma: Floats,
    iris: Floats,
    iris_sigma: Floats,
    lips: Floats,
    lips_sigma: Floats,
    crops: Floats,
    landmarks: Floats,
    sigma: Floats,
    irises: Floats,
    irises_sigma: Floats,
) -> None:
    """Map network outputs from crop to image coordinates; left-eye outputs are mirrored."""
    for face in range(len(crops)):
        for i in range(36):
            landmarks[face, i, 0] = landmarks[face, i, 1] = sigma[face, i] = np.nan
        for part in range(3):
            crop, eye = crops[face, part], 2 * face + part
            side, roll = float(crop[2]), float(crop[3])
            cos, sin = math.cos(roll) * side, math.sin(roll) * side
            for i in range(20 if part == 2 else 7):
                if part == 2:
                    x, y, spread, index = lips[face, i, 0], lips[face, i, 1], lips_sigma[face, i], MOUTH[i]
                elif i < 6:
                    x, y, spread = lids[eye, i, 0], lids[eye, i, 1], lids_sigma[eye, i]
                    index = LEFT_EYE[i] if part else RIGHT_EYE[i]
                else:
                    x, y, spread, index = iris[eye, 0], iris[eye, 1], iris_sigma[eye], -1
                dx, dy = (0.5 - x if part == 1 else x - 0.5), y - 0.5
                x, y = crop[0] + dx * cos - dy * sin, crop[1] + dx * sin + dy * cos
                if index >= 0:
                    landmarks[face, index, 0], landmarks[face, index, 1] = x, y
                    sigma[face, index] = spread * side
                else:
                    irises[face, part, 0], irises[face, part, 1] = x, y
                    irises[face, part, 2] = iris[eye, 2] * side
                    irises_sigma[face, part] = spread * side


def part_weights(parts: PartOutput, landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Return the weights of the part models' landmarks relative to `landmarks` (F, 68, 2): (F, 68), 0 to 1.

    All lids of an eye have the same weight, from their mean sigma, so that the eye aperture comes from one
    model. The weight of an eye that is turned away is 0, as the part models are not trained on such eyes.
    """
    weight = np.zeros(parts.sigma.shape, np.float32)
    _part_weights(parts.landmarks, parts.sigma, np.asarray(landmarks, np.float32), weight)
    return weight


@exact_kernel
def _part_weights(parts: Floats, sigma: Floats, landmarks: Floats, weight: Floats) -> None:
    widths, visibility = np.empty(2), np.empty(3)
    for face in range(len(parts)):
        finite = True
        for i in range(36, N_LANDMARKS):
            finite &= math.isfinite(parts[face, i, 0]) and math.isfinite(parts[face, i, 1])
        if not finite:
            continue
        xy = landmarks[face]
        unit = math.hypot(xy[45, 0] - xy[36, 0], xy[45, 1] - xy[36, 1])
        for eye in range(2):
            first = 36 + 6 * eye
            widths[eye] = math.hypot(xy[first + 3, 0] - xy[first, 0], xy[first + 3, 1] - xy[first, 1])
        visibility[2] = 1.0
        for eye in range(2):
            ratio = widths[eye] / max(widths[1 - eye], 1e-3)
            visibility[eye] = min(max((ratio - NARROW_EYE) / (WIDE_EYE - NARROW_EYE), 0.0), 1.0)
        for part, first, last in ((0, 36, 42), (1, 42, 48), (2, 48, N_LANDMARKS)):
            mean = 0.0
            for i in range(first, last):
                mean += sigma[face, i] / (last - first)
            for i in range(first, last):
                spread = (sigma[face, i] if part == 2 else mean) / max(unit, 1e-3)
                confidence = min(
                    max((UNCERTAIN_SIGMA - spread) / (UNCERTAIN_SIGMA - CONFIDENT_SIGMA), 0.0), 1.0
                )
                weight[face, i] = confidence * visibility[part] if math.isfinite(spread + unit) else 0.0


def follow_parts(landmarks: Floats, parts: Floats, weight: Floats) -> Floats:
    """Return the weighted mean of landmarks and the part models' landmarks `parts`, both (..., 68, 2).

    `weight`, (..., 68), is that of `parts`, 0 to 1.
    """
    blended = np.array(landmarks, np.float32)
    _blend(parts.reshape(-1, 2), weight.reshape(-1), blended.reshape(-1, 2))
    return blended


@exact_kernel
def _blend(parts: Floats, weight: Floats, landmarks: Floats) -> None:
    for i in range(len(weight)):
        if weight[i] > 0:
            for axis in range(2):
                landmarks[i, axis] += weight[i] * (parts[i, axis] - landmarks[i, axis])


def place_parts(models: PartModels, rgb: npt.NDArray[np.uint8], landmarks: Floats) -> Floats:
    """Return landmarks (F, 68, 2) with lids and lips from the part models where these are confident.

    For parameters and errors, see `predict_parts`.
    """
    parts = predict_parts(models, rgb, landmarks)
    return follow_parts(landmarks, parts.landmarks, part_weights(parts, landmarks))


def refine_parts(
    models: PartModels, pictures: Pictures, landmarks: Floats, sigma: Floats
) -> tuple[Floats, Floats, Floats]:
    """Replace lids and lips by those of the part models where these are confident.

    The faces may be from several frames. Their confidence remains that of PFLD, since it tells whether there
    is a face; part models assume one.

    Parameters
    ----------
    models : PartModels
    pictures : ndarray, (H, W, 3), uint8, or list of them
        The frame, or one for each face.
    landmarks, sigma : ndarray, (F, 68, 2) and (F, 68), float32
        PFLD's landmarks and their standard deviations, pixels.

    Returns
    -------
    landmarks, sigma : ndarray, (F, 68, 2) and (F, 68), float32
        Copies with the eyes and the mouth refined.
    iris : ndarray, (F, 8), float32
        See `FaceArrays`.

    Raises
    ------
    ModelError
        If a network cannot be run or is no part model.
    """
    crops, (lids, lids_sigma, iris, iris_sigma, visible, _), (lips, lips_sigma) = _run_parts(
        models, pictures, landmarks
    )
    landmarks, sigma, irises = landmarks.copy(), sigma.copy(), np.empty((len(sigma), 2, 4), np.float32)
    outputs = lids, lids_sigma, iris, iris_sigma, lips, lips_sigma, crops
    _refine(*outputs, visible, landmarks, sigma, irises)
    return landmarks, sigma, irises.reshape(-1, 8)


@exact_kernel
def _refine(
    lids: Floats,
    lids_sigma: Floats,
    iris: Floats,
    iris_sigma: Floats,
    lips: Floats,
    lips_sigma: Floats,
    crops: Floats,
    visible: Floats,
    landmarks: Floats,
    sigma: Floats,
    irises: Floats,
) -> None:
    parts, spread, weight = np.empty_like(landmarks), np.empty_like(sigma), np.zeros_like(sigma)
    circles, circles_sigma = np.empty((len(irises), 2, 3), np.float32), np.empty((len(irises), 2), np.float32)
    _outputs_in_image(
        lids, lids_sigma, iris, iris_sigma, lips, lips_sigma, crops, parts, spread, circles, circles_sigma
    )
    _part_weights(parts, spread, landmarks, weight)
    for face in range(len(irises)):
        _blend(parts[face], weight[face], landmarks[face])
        for i in range(N_LANDMARKS):
            if weight[face, i] > 0:
                sigma[face, i] += weight[face, i] * (spread[face, i] - sigma[face, i])
        for eye in range(2):
            for value in range(3):
                irises[face, eye, value] = circles[face, eye, value]
            irises[face, eye, 3] = visible[2 * face + eye]


def _run(
    session: onnxruntime.InferenceSession, inputs: Floats, names: tuple[str, ...], count: int
) -> list[Floats]:
    """Return the network's outputs for the crops; raise a `ModelError` if it is no part model."""
    try:
        outputs = run_network(session, inputs, "crops", names)
    except Exception as error:
        raise ModelError(f"A part model cannot be run ({in_one_line(error)}): use another bundle.") from error
    if outputs[0].shape != (len(inputs), count, 2) or outputs[1].shape != (len(inputs), count):
        raise ModelError(f"A part model gives the shapes {[o.shape for o in outputs]}: use another bundle.")
    return outputs
