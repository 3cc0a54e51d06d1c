"""Run the part models: lids, irises and lips at the frame's own resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime

from napari_face_landmarks.errors import ModelError, in_one_line
from napari_face_landmarks.ibug import N_LANDMARKS, inter_ocular
from napari_face_landmarks.parts.crop import EYE_SIZE, LEFT_EYE, MOUTH, MOUTH_SIZE, eye_crops, mouth_crops
from napari_face_landmarks.pfld.crop import sample_crops, to_image
from napari_face_landmarks.pfld.network import PfldOutput

Floats = npt.NDArray[np.float32]

EYE_OUTPUTS = ("landmarks", "sigma", "iris", "iris_sigma", "iris_confidence", "shut")
MOUTH_OUTPUTS = ("landmarks", "sigma")
CERTAIN, UNCERTAIN = 0.035, 0.07
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
    eyes, mouths = eye_crops(landmarks), mouth_crops(landmarks)
    inputs = sample_crops(rgb, eyes.reshape(-1, 4), EYE_SIZE)
    inputs[1::2] = inputs[1::2, :, :, ::-1].copy()
    points, sigma, iris, iris_sigma, iris_confidence, shut = _run(models.eye, inputs, EYE_OUTPUTS, 6)
    lips, lips_sigma = _run(models.mouth, sample_crops(rgb, mouths, MOUTH_SIZE), MOUTH_OUTPUTS, 20)

    points = np.concatenate([points, iris[:, None, :2]], axis=1)
    points[1::2, :, 0] = 1 - points[1::2, :, 0]
    sides = eyes.reshape(-1, 4)[:, 2]
    points = to_image(points, eyes.reshape(-1, 4)).reshape(count, 2, 7, 2)
    sigma = (sigma * sides[:, None]).reshape(count, 2, 6)
    placed = np.full((count, N_LANDMARKS, 2), np.nan, np.float32)
    spread = np.full((count, N_LANDMARKS), np.nan, np.float32)
    placed[:, 36:42], spread[:, 36:42] = points[:, 0, :6], sigma[:, 0]
    placed[:, LEFT_EYE], spread[:, LEFT_EYE] = points[:, 1, :6], sigma[:, 1]
    placed[:, MOUTH], spread[:, MOUTH] = to_image(lips, mouths), lips_sigma * mouths[:, 2:3]
    irises = np.concatenate(
        [points[:, :, 6], (iris[:, 2] * sides).reshape(count, 2, 1).astype(np.float32)], axis=2
    )
    return PartOutput(
        placed,
        spread,
        irises,
        (iris_sigma * sides).reshape(count, 2),
        iris_confidence.reshape(count, 2),
        shut.reshape(count, 2),
    )


def part_weights(parts: PartOutput, landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Return how far the part models are followed at each landmark, (F, 68): 1 wholly, 0 not at all.

    The lids of an eye are followed alike, by their mean spread, so that the aperture is of one kind; an eye
    that is turned away is not followed, as part models have not learned those.

    Parameters
    ----------
    parts : PartOutput
        Of F faces.
    landmarks : ndarray, (F, 68, 2)
        Of the whole face, as PFLD gives them; pixels.
    """
    unit = np.maximum(inter_ocular(landmarks), 1e-3)[:, None]
    spread = parts.sigma / unit
    for first in (36, 42):
        spread[:, first : first + 6] = spread[:, first : first + 6].mean(axis=1, keepdims=True)
    weight = np.nan_to_num(np.clip((UNCERTAIN - spread) / (UNCERTAIN - CERTAIN), 0, 1))
    widths = np.linalg.norm(landmarks[:, [39, 45]] - landmarks[:, [36, 42]], axis=2)
    share = widths / np.maximum(widths[:, ::-1], 1e-3)
    towards = np.clip((share - NARROWEST_EYE) / (NARROW_EYE - NARROWEST_EYE), 0, 1)
    weight[:, 36:42] *= towards[:, :1]
    weight[:, 42:48] *= towards[:, 1:]
    weight[~np.isfinite(parts.landmarks[:, 36:]).all(axis=(1, 2))] = 0
    return np.asarray(weight, dtype=np.float32)


def follow_parts(landmarks: Floats, parts: Floats, weight: Floats) -> Floats:
    """Return landmarks (..., 68, 2) moved to those of the part models, (..., 68, 2), by weight (..., 68)."""
    share = weight[..., None]
    return np.asarray(np.where(share > 0, landmarks + share * (parts - landmarks), landmarks), np.float32)


def place_parts(models: PartModels, rgb: npt.NDArray[np.uint8], landmarks: Floats) -> Floats:
    """Return landmarks (F, 68, 2) with lids and lips from the part models where these are confident."""
    parts = predict_parts(models, rgb, landmarks)
    return follow_parts(landmarks, parts.landmarks, part_weights(parts, landmarks))


def refine_parts(
    models: PartModels, rgb: npt.NDArray[np.uint8], output: PfldOutput
) -> tuple[PfldOutput, PartOutput, Floats]:
    """Take lids and lips from the part models where these are confident.

    The confidence stays PFLD's: it tells whether there is a face, which part models take for granted.

    Parameters
    ----------
    models : PartModels
    rgb : ndarray, (H, W, 3), uint8
        The frame.
    output : PfldOutput
        What PFLD gives of F faces.

    Returns
    -------
    output : PfldOutput
        The same with other landmarks and spreads of eyes and mouth.
    parts : PartOutput
    weight : ndarray, (F, 68), float32
        How far the part models were followed, from 0 to 1.
    """
    parts = predict_parts(models, rgb, output.landmarks)
    weight = part_weights(parts, output.landmarks)
    landmarks = follow_parts(output.landmarks, parts.landmarks, weight)
    sigma = np.where(weight > 0, output.sigma + weight * (parts.sigma - output.sigma), output.sigma)
    return (
        PfldOutput(landmarks, np.asarray(sigma, np.float32), output.confidence, output.score),
        parts,
        weight,
    )


def _run(
    session: onnxruntime.InferenceSession, inputs: Floats, names: tuple[str, ...], count: int
) -> list[Floats]:
    """Return what a network gives of some crops; or refuse one that is no part model."""
    try:
        outputs: list[Floats] = session.run(list(names), {"crops": inputs})
    except Exception as error:
        raise ModelError(f"A part model cannot be run ({in_one_line(error)}): use another bundle.") from error
    if outputs[0].shape != (len(inputs), count, 2) or outputs[1].shape != (len(inputs), count):
        raise ModelError(f"A part model gives the shapes {[o.shape for o in outputs]}: use another bundle.")
    return outputs
