"""NumPy reference implementations of the package's kernels, for testing the compiled ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.pdm import N_RIGID, PDM, _checked_target, clamp, fit_rigid, project
from napari_face_landmarks.clnf.reference import jacobian, update
from napari_face_landmarks.ibug import inter_ocular
from napari_face_landmarks.parts import PartOutput
from napari_face_landmarks.parts.crop import EYE_SIDE, LEFT_EYE, MOUTH, MOUTH_SIDE, NOSE_HEIGHT
from napari_face_landmarks.parts.network import CONFIDENT_SIGMA, NARROW_EYE, UNCERTAIN_SIGMA, WIDE_EYE
from napari_face_landmarks.pfld import PfldOutput
from napari_face_landmarks.pfld.crop import CROP_MARGIN, crops_of_landmarks, to_image
from napari_face_landmarks.pfld.network import MAX_CROP_ERRORS, POOR_NME
from napari_face_landmarks.tracking.smoothing import (
    LID_NOISE,
    LID_TOLERANCE,
    LOWER_LIDS,
    STEADY,
    TOLERANCE,
    UPPER_LIDS,
)

Floats = npt.NDArray[Any]


def roll_of_landmarks(landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the in-plane rotation of each face, radians: 0 is upright, positive clockwise in the image.

    It is the direction between the eyes' centres, the means of six landmarks each.

    Parameters
    ----------
    landmarks : ndarray, (..., 68, 2)
        Pixels, x then y.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    across = points[..., 42:48, :].mean(axis=-2) - points[..., 36:42, :].mean(axis=-2)
    return np.asarray(np.arctan2(across[..., 1], across[..., 0]))


def crops_of_landmarks_reference(landmarks: npt.NDArray[np.floating], margin: float = CROP_MARGIN) -> Floats:
    """Reference of `crops_of_landmarks`."""
    points = np.asarray(landmarks, dtype=np.float64)
    roll = roll_of_landmarks(points)
    cos, sin = np.cos(roll)[:, None], np.sin(roll)[:, None]
    upright_x = points[..., 0] * cos + points[..., 1] * sin
    upright_y = points[..., 1] * cos - points[..., 0] * sin
    middle_x = (upright_x.min(1) + upright_x.max(1)) / 2
    middle_y = (upright_y.min(1) + upright_y.max(1)) / 2
    side = margin * np.maximum(np.ptp(upright_x, axis=1), np.ptp(upright_y, axis=1))
    c, s = cos[:, 0], sin[:, 0]
    centre_x = middle_x * c - middle_y * s
    centre_y = middle_x * s + middle_y * c
    return np.stack([centre_x, centre_y, side, roll], axis=1).astype(np.float32)


def output_in_image_reference(fractions: Floats, spread: Floats, score: Floats, crops: Floats) -> PfldOutput:
    """Reference of `output_in_image`."""
    landmarks = to_image(fractions, crops)
    sigma = np.asarray(spread * crops[:, 2:3], dtype=np.float32)
    finite = np.isfinite(landmarks).all(axis=(1, 2)) & np.isfinite(sigma).all(axis=1)
    finite &= (sigma > 0).all(axis=1) & np.isfinite(score)
    score = np.where(finite, score, 0).astype(np.float32)
    landmarks[~finite] = 0
    sigma[~finite] = 1
    return PfldOutput(landmarks, sigma, confidence_of(landmarks, sigma), score)


def misplaced_reference(crops: Floats, landmarks: Floats) -> npt.NDArray[np.bool_]:
    """Reference of `find_misplaced`."""
    crops, better = crops.astype(np.float64), crops_of_landmarks(landmarks).astype(np.float64)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        shift = np.linalg.norm(better[:, :2] - crops[:, :2], axis=1) / crops[:, 2]
        scale = np.abs(np.log(np.maximum(better[:, 2], 1e-3) / crops[:, 2]))
    roll = np.abs((better[:, 3] - crops[:, 3] + np.pi) % (2 * np.pi) - np.pi)
    largest_shift, largest_scale, largest_roll = MAX_CROP_ERRORS
    off = (shift > largest_shift) | (scale > largest_scale) | (roll > largest_roll) | ~(crops[:, 2] > 0)
    return np.asarray((better[:, 2] > 1) & off)


def part_crops_reference(landmarks: Floats) -> Floats:
    """Reference of `part_crops`."""
    points = np.asarray(landmarks, dtype=np.float64)
    across = points[:, 45] - points[:, 36]
    down = (points[:, 33] - points[:, [36, 39, 42, 45]].mean(axis=1)) / NOSE_HEIGHT
    unit = np.sqrt(((across**2).sum(axis=1) + (down**2).sum(axis=1)) / 2)
    crops = np.empty((len(points), 3, 4))
    for part, (first, last) in enumerate(((36, 42), (42, 48), (48, 60))):
        crops[:, part, :2] = points[:, first:last].mean(axis=1)
    crops[:, :, 2] = unit[:, None] * [EYE_SIDE, EYE_SIDE, MOUTH_SIDE]
    crops[:, :, 3] = roll_of_landmarks(points)[:, None]
    return crops


def parts_in_image_reference(eye: list[Floats], mouth: list[Floats], crops: Floats) -> PartOutput:
    """Reference of `predict_parts` for the networks' outputs for the crops of F faces, (F, 3, 4)."""
    lids, sigma, iris, iris_sigma, confidence, shut = (values.astype(np.float64) for values in eye)
    eyes, sides = crops[:, :2].reshape(-1, 4), crops[:, :2, 2]
    points = np.concatenate([lids, iris[:, None, :2]], axis=1)
    points[1::2, :, 0] = 1 - points[1::2, :, 0]
    points = to_image(points, eyes).reshape(-1, 2, 7, 2)
    landmarks, spread = np.full((len(crops), 68, 2), np.nan), np.full((len(crops), 68), np.nan)
    for side, places in enumerate((np.arange(36, 42), LEFT_EYE)):
        landmarks[:, places] = points[:, side, :6]
        spread[:, places] = sigma[side::2] * sides[:, side, None]
    landmarks[:, MOUTH] = to_image(mouth[0], crops[:, 2])
    spread[:, MOUTH] = mouth[1] * crops[:, 2, 2:3]
    diameter = iris[:, 2].reshape(-1, 2) * sides
    return PartOutput(
        landmarks,
        spread,
        np.concatenate([points[:, :, 6], diameter[..., None]], axis=2),
        iris_sigma.reshape(-1, 2) * sides,
        confidence.reshape(-1, 2),
        shut.reshape(-1, 2),
    )


def part_weights_reference(parts: PartOutput, landmarks: Floats) -> Floats:
    """Reference of `part_weights`."""
    spread = parts.sigma / np.maximum(inter_ocular(landmarks), 1e-3)[:, None]
    for first in (36, 42):
        spread[:, first : first + 6] = spread[:, first : first + 6].mean(axis=1, keepdims=True)
    weight = np.nan_to_num(np.clip((UNCERTAIN_SIGMA - spread) / (UNCERTAIN_SIGMA - CONFIDENT_SIGMA), 0, 1))
    widths = np.linalg.norm(landmarks[:, [39, 45]] - landmarks[:, [36, 42]], axis=2)
    share = widths / np.maximum(widths[:, ::-1], 1e-3)
    towards = np.clip((share - NARROW_EYE) / (WIDE_EYE - NARROW_EYE), 0, 1)
    weight[:, 36:42] *= towards[:, :1]
    weight[:, 42:48] *= towards[:, 1:]
    weight[~np.isfinite(parts.landmarks[:, 36:]).all(axis=(1, 2))] = 0
    return np.asarray(weight)


def smooth_centre_reference(window: Floats, tolerance: float = TOLERANCE) -> Floats:
    """Reference of `smooth_centre`."""
    reach = len(window) // 2
    centre = window[reach].astype(np.float64)
    if reach == 0 or not np.isfinite(centre).any():
        return np.array(window[reach], dtype=np.float32)
    across = np.maximum(inter_ocular(np.nan_to_num(centre)), 1e-6)
    spread = tolerance * across[:, None]
    bends = np.diff(window[:, :, STEADY].astype(np.float64), n=2, axis=0)
    known = np.isfinite(bends)
    squares = np.where(known, bends, 0.0) ** 2
    noise = LID_NOISE**2 * squares.sum(axis=(0, 2, 3)) / np.maximum(6 * known.sum(axis=(0, 2, 3)), 1)
    total = centre.copy()
    weights = np.ones(centre.shape[:-1])
    for k in range(1, reach + 1):
        pair = (window[reach - k].astype(np.float64) + window[reach + k]) / 2
        apart = ((pair - centre) ** 2).sum(axis=-1)
        weight = (2 if k < reach else 1) * np.exp(-apart / (2 * spread**2))
        for upper, lower in zip(UPPER_LIDS, LOWER_LIDS, strict=True):
            off = ((centre - pair)[:, lower] - (centre - pair)[:, upper]).mean(axis=1)
            square = np.maximum((off**2).sum(axis=-1) - 6 * noise, 0)
            agreed = np.exp(-square / (2 * ((LID_TOLERANCE * across) ** 2 + 3 * noise)))
            weight[:, [*upper, *lower]] *= agreed[:, None]
        usable = np.isfinite(weight)
        weight = np.where(usable, weight, 0)
        total += weight[..., None] * np.where(usable[..., None], pair, 0)
        weights += weight
    return np.asarray(total / weights[..., None], dtype=np.float32)


def fit_pdm_reference(
    pdm: PDM,
    landmarks: npt.NDArray[Any],
    weights: npt.NDArray[Any] | None = None,
    params: Floats | None = None,
    *,
    noise: float = 1.0,
    max_iterations: int = 40,
) -> Floats:
    """Reference of `fit_pdm`."""
    target, weight = _checked_target(pdm, landmarks, weights)
    params = fit_rigid(pdm, target, weight) if params is None else clamp(pdm, params)
    weight_xy = np.concatenate([weight, weight])

    def objective(p: Floats, sigma: float) -> float:
        error = (target - project(pdm, p)).T.ravel()
        return float(weight_xy @ error**2 / sigma**2 + np.sum(p[N_RIGID:] ** 2 / pdm.eigenvalues))

    for rigid in (True, False):
        for _ in range(max_iterations):
            sigma = params[0] * noise
            error = (target - project(pdm, params)).T.ravel()
            slope = jacobian(pdm, params, rigid)
            hessian = slope.T @ (weight_xy[:, None] * slope) / sigma**2
            step = slope.T @ (weight_xy * error) / sigma**2
            if not rigid:
                hessian[N_RIGID:, N_RIGID:] += np.diag(1.0 / pdm.eigenvalues)
                step[N_RIGID:] -= params[N_RIGID:] / pdm.eigenvalues
            moved = update(pdm, params, np.linalg.solve(hessian, step))
            if not objective(moved, sigma) < objective(params, sigma):
                break
            motion = np.abs(project(pdm, moved) - project(pdm, params)).max()
            params = moved
            if motion < 0.01 * params[0]:
                break
    return params


def confidence_of(landmarks: Floats, sigma: Floats) -> Floats:
    """Return the probability that each landmark's error is under 8 % of the inter-ocular distance.

    Parameters
    ----------
    landmarks : ndarray, (F, 68, 2)
        Pixels; only their inter-ocular distance is used.
    sigma : ndarray, (F, 68)
        Pixels.
    """
    radius = POOR_NME * inter_ocular(landmarks)[:, None]
    return np.asarray(1 - np.exp(-(radius**2) / (2 * np.asarray(sigma, np.float64) ** 2)), dtype=np.float32)
