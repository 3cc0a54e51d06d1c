"""Run the part models: lids, irises and lips at the frame's own resolution."""

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
CERTAIN, UNCERTAIN = 0.02, 0.04
"""Spreads, over the inter-ocular distance, up to which a part model is followed, and from which it is not."""
NARROW_EYE, NARROWEST_EYE = 0.55, 0.40
"""Shares of the other eye's width below which an eye, turned away, is left to PFLD partly and wholly."""


@dataclass(frozen=True, slots=True)
class PartModels:
    """The networks of the parts, as a bundle has them.

    Attributes
    ----------
    eye : onnxruntime.InferenceSession
        One right eye, or a mirrored left one.
    mouth : onnxruntime.InferenceSession
        Ends in a linear map of its landmarks (`training.linear_calibration`).
    """

    eye: onnxruntime.InferenceSession
    mouth: onnxruntime.InferenceSession


@dataclass(frozen=True, slots=True)
class PartOutput:
    """What the part models give of F faces.

    Attributes
    ----------
    landmarks : ndarray, (F, 68, 2), float32
        Pixels of the frame, x then y; NaN but for eyes and mouth (36 to 67).
    sigma : ndarray, (F, 68), float32
        Standard deviation of each landmark's error along one axis, pixels; NaN likewise.
    iris : ndarray, (F, 2, 3), float32
        Of the right and the left eye: centre x, centre y and horizontal diameter, pixels.
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
        Where the faces are, as PFLD or CLNF give them; pixels, x then y.

    Raises
    ------
    ModelError
        If a network cannot be run or is another one.
    """
    count = len(landmarks)
    crops, (lids, lids_sigma, iris, iris_sigma, visible, shut), (lips, lips_sigma) = _look(
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
    given = lids, lids_sigma, iris, iris_sigma, lips, lips_sigma, crops
    _place(*given, parts.landmarks, parts.sigma, parts.iris, parts.iris_sigma)
    return parts


def _look(
    models: PartModels, pictures: Pictures, landmarks: npt.NDArray[np.floating]
) -> tuple[Floats, list[Floats], list[Floats]]:
    """Return the crops of faces' parts and what the networks of eyes and mouth say of them."""
    eyes = network_input(models.eye, (2 * len(landmarks), 3, EYE_SIZE, EYE_SIZE), EYE_OUTPUTS)
    mouths = network_input(models.mouth, (len(landmarks), 3, MOUTH_SIZE, MOUTH_SIZE), MOUTH_OUTPUTS)
    crops = part_inputs(pictures, landmarks, eyes, mouths)
    return crops, _run(models.eye, eyes, EYE_OUTPUTS, 6), _run(models.mouth, mouths, MOUTH_OUTPUTS, 20)


@exact_kernel
def _place(
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
    """Take what the networks give of crops to the picture; the left eye's is mirrored."""
    for face in range(len(crops)):
        for i in range(36):
            landmarks[face, i, 0] = landmarks[face, i, 1] = sigma[face, i] = np.nan
        for part in range(3):
            crop, eye = crops[face, part], 2 * face + part
            side, roll = float(crop[2]), float(crop[3])
            cos, sin = math.cos(roll) * side, math.sin(roll) * side
            for i in range(20 if part == 2 else 7):
                if part == 2:
                    x, y, spread, place = lips[face, i, 0], lips[face, i, 1], lips_sigma[face, i], MOUTH[i]
                elif i < 6:
                    x, y, spread = lids[eye, i, 0], lids[eye, i, 1], lids_sigma[eye, i]
                    place = LEFT_EYE[i] if part else RIGHT_EYE[i]
                else:
                    x, y, spread, place = iris[eye, 0], iris[eye, 1], iris_sigma[eye], -1
                across, down = (0.5 - x if part == 1 else x - 0.5), y - 0.5
                x, y = crop[0] + across * cos - down * sin, crop[1] + across * sin + down * cos
                if place >= 0:
                    landmarks[face, place, 0], landmarks[face, place, 1] = x, y
                    sigma[face, place] = spread * side
                else:
                    irises[face, part, 0], irises[face, part, 1] = x, y
                    irises[face, part, 2] = iris[eye, 2] * side
                    irises_sigma[face, part] = spread * side


def part_weights(parts: PartOutput, landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Return how far the part models are followed at each landmark, (F, 68): 1 wholly, 0 not at all.

    The lids of an eye are followed alike, by their mean spread, so that the aperture is of one kind; an eye
    that is turned away is not followed, as part models have not learned those. Arrays: `landmarks`
    (F, 68, 2).
    """
    weight = np.zeros(parts.sigma.shape, np.float32)
    _weigh(parts.landmarks, parts.sigma, np.asarray(landmarks, np.float32), weight)
    return weight


@exact_kernel
def _weigh(parts: Floats, sigma: Floats, landmarks: Floats, weight: Floats) -> None:
    widths, towards = np.empty(2), np.empty(3)
    for face in range(len(parts)):
        known = True
        for i in range(36, N_LANDMARKS):
            known &= math.isfinite(parts[face, i, 0]) and math.isfinite(parts[face, i, 1])
        if not known:
            continue
        of = landmarks[face]
        unit = math.hypot(of[45, 0] - of[36, 0], of[45, 1] - of[36, 1])
        for eye in range(2):
            first = 36 + 6 * eye
            widths[eye] = math.hypot(of[first + 3, 0] - of[first, 0], of[first + 3, 1] - of[first, 1])
        towards[2] = 1.0
        for eye in range(2):
            share = widths[eye] / max(widths[1 - eye], 1e-3)
            towards[eye] = min(max((share - NARROWEST_EYE) / (NARROW_EYE - NARROWEST_EYE), 0.0), 1.0)
        for part, first, last in ((0, 36, 42), (1, 42, 48), (2, 48, N_LANDMARKS)):
            mean = 0.0
            for i in range(first, last):
                mean += sigma[face, i] / (last - first)
            for i in range(first, last):
                spread = (sigma[face, i] if part == 2 else mean) / max(unit, 1e-3)
                follow = min(max((UNCERTAIN - spread) / (UNCERTAIN - CERTAIN), 0.0), 1.0) * towards[part]
                weight[face, i] = follow if math.isfinite(spread + unit) else 0.0


def follow_parts(landmarks: Floats, parts: Floats, weight: Floats) -> Floats:
    """Return landmarks (..., 68, 2) moved to those of the part models, (..., 68, 2), by weight (..., 68)."""
    moved = np.array(landmarks, np.float32)
    _move(parts.reshape(-1, 2), weight.reshape(-1), moved.reshape(-1, 2))
    return moved


@exact_kernel
def _move(parts: Floats, weight: Floats, landmarks: Floats) -> None:
    for i in range(len(weight)):
        if weight[i] > 0:
            for axis in range(2):
                landmarks[i, axis] += weight[i] * (parts[i, axis] - landmarks[i, axis])


@exact_kernel
def _follow(parts: Floats, spread: Floats, weight: Floats, landmarks: Floats, sigma: Floats) -> None:
    """Weigh part models, and move landmarks and their sigma to theirs, in place."""
    _weigh(parts, spread, landmarks, weight)
    for face in range(len(weight)):
        _move(parts[face], weight[face], landmarks[face])
        for i in range(N_LANDMARKS):
            if weight[face, i] > 0:
                sigma[face, i] += weight[face, i] * (spread[face, i] - sigma[face, i])


def place_parts(models: PartModels, rgb: npt.NDArray[np.uint8], landmarks: Floats) -> Floats:
    """Return landmarks (F, 68, 2) with lids and lips from the part models where these are confident."""
    parts = predict_parts(models, rgb, landmarks)
    return follow_parts(landmarks, parts.landmarks, part_weights(parts, landmarks))


def refine_parts(
    models: PartModels, pictures: Pictures, landmarks: Floats, sigma: Floats
) -> tuple[Floats, Floats, Floats]:
    """Take lids and lips from the part models where these are confident, for faces of one or more frames.

    The confidence stays PFLD's: it says whether there is a face, which part models assume.

    Parameters
    ----------
    models : PartModels
    pictures : ndarray, (H, W, 3), uint8, or list of them
        The frame, or one for each face.
    landmarks, sigma : ndarray, (F, 68, 2) and (F, 68), float32
        As PFLD gives them.

    Returns
    -------
    landmarks, sigma : ndarray, (F, 68, 2) and (F, 68), float32
        With those of eyes and mouth.
    iris : ndarray, (F, 8), float32
        As in `FaceArrays`.
    """
    crops, (lids, lids_sigma, iris, iris_sigma, visible, _), (lips, lips_sigma) = _look(
        models, pictures, landmarks
    )
    moved, spread, found = landmarks.copy(), sigma.copy(), np.empty((len(sigma), 2, 4), np.float32)
    given = lids, lids_sigma, iris, iris_sigma, lips, lips_sigma, crops
    _place_and_follow(*given, visible, moved, spread, found)
    return moved, spread, found.reshape(-1, 8)


@exact_kernel
def _place_and_follow(
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
    found: Floats,
) -> None:
    parts, spread = np.empty_like(landmarks), np.empty_like(sigma)
    irises = np.empty((len(found), 2, 3), np.float32)
    irises_sigma = np.empty((len(found), 2), np.float32)
    _place(lids, lids_sigma, iris, iris_sigma, lips, lips_sigma, crops, parts, spread, irises, irises_sigma)
    _follow(parts, spread, np.zeros_like(sigma), landmarks, sigma)
    for face in range(len(found)):
        for eye in range(2):
            for value in range(3):
                found[face, eye, value] = irises[face, eye, value]
            found[face, eye, 3] = visible[2 * face + eye]


def _run(
    session: onnxruntime.InferenceSession, inputs: Floats, names: tuple[str, ...], count: int
) -> list[Floats]:
    """Return what a network gives of some crops; or refuse one that is no part model."""
    try:
        outputs = run_network(session, inputs, "crops", names)
    except Exception as error:
        raise ModelError(f"A part model cannot be run ({in_one_line(error)}): use another bundle.") from error
    if outputs[0].shape != (len(inputs), count, 2) or outputs[1].shape != (len(inputs), count):
        raise ModelError(f"A part model gives the shapes {[o.shape for o in outputs]}: use another bundle.")
    return outputs
