"""CLNF as users run it: compiled loops round batched float32 matrix products.

The functions here do what those of the same name in `reference` do. Products over landmarks go to
`numpy.matmul`, whose single products are too small for the BLAS library to start threads of its own; the
loops release the GIL.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.frame import FLATTEST, sample_kernel
from napari_face_landmarks.clnf.kernel import kernel
from napari_face_landmarks.clnf.patch_experts import N_INPUTS, SUPPORT, PatchExperts
from napari_face_landmarks.clnf.pdm import (
    PDM,
    jacobian_kernel,
    normal_equations_kernel,
    project_kernel,
    solve_kernel,
    update_kernel,
)
from napari_face_landmarks.clnf.reference import LEAST_RESPONSE, REACH

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]

BATCH = 17  # landmarks at a time: their inputs fit the processor's second-level cache


def response_maps(
    grey: npt.NDArray[np.uint8],
    to_frame: Floats,
    centres: npt.NDArray[np.int64],
    window: int,
    experts: PatchExperts,
    scale: int,
    view: int,
) -> Floats32:
    """Evaluate the patch experts in a window round each landmark: `reference.response_maps` in float32.

    The picture of the frame is taken once for all landmarks.
    """
    margin = window // 2 + REACH
    low, high = centres.min(axis=0) - margin, centres.max(axis=0) + margin
    picture = sample_kernel(
        grey, to_frame, int(low[0]), int(low[1]), int(high[0] - low[0] + 1), int(high[1] - low[1] + 1)
    )
    corners = centres - margin - low
    w1, w2, w3 = experts.w1[scale, view], experts.w2[scale, view], experts.w3[scale, view]
    n, cells = len(centres), window * window
    maps = np.empty((n, window, window), np.float32)
    batch = min(BATCH, n)
    inputs = np.empty((batch, cells, N_INPUTS), np.float32)
    first = np.empty((batch, cells, w1.shape[-1]), np.float32)
    second = np.empty((batch, cells, w2.shape[-1]), np.float32)
    for start in range(0, n, batch):
        part = slice(start, min(start + batch, n))
        size = part.stop - part.start
        _im2col(picture, corners[part], window, inputs)
        np.matmul(inputs[:size], w1[part], out=first[:size])
        _rectify(first)
        np.matmul(first[:size], w2[part, 1:], out=second[:size])
        _last_layers(second, w2[part, 0], w3[part], experts.visibility[view, part], maps[part])
    return maps


@kernel
def _im2col(picture: Floats32, corners: npt.NDArray[np.int64], window: int, inputs: Floats32) -> None:
    """Fill the inputs (landmarks, window**2, 122) from the transposed picture (width, height)."""
    count = np.float32(SUPPORT * SUPPORT)
    for k in range(corners.shape[0]):
        for y in range(window):
            for x in range(window):
                row = inputs[k, y * window + x]
                left, top = corners[k, 0] + x, corners[k, 1] + y
                row[0] = np.float32(1.0)
                total = np.float32(0.0)
                for c in range(SUPPORT):
                    for r in range(SUPPORT):
                        value = picture[left + c, top + r]
                        row[1 + SUPPORT * c + r] = value
                        total += value
                mean = total / count
                squares = np.float32(0.0)
                for j in range(1, N_INPUTS):
                    row[j] -= mean
                    squares += row[j] * row[j]
                factor = np.float32(1.0) / max(np.sqrt(squares), np.float32(FLATTEST))
                for j in range(1, N_INPUTS):
                    row[j] *= factor


@kernel
def _rectify(values: Floats32) -> None:
    flat = values.reshape(-1)
    for j in range(flat.shape[0]):
        flat[j] = max(flat[j], np.float32(0.0))


@kernel
def _last_layers(
    second: Floats32, bias: Floats32, w3: Floats32, visible: npt.NDArray[np.bool_], maps: Floats32
) -> None:
    """Add the second layer's bias, rectify, and apply the third layer; hidden landmarks' maps are 1."""
    window = maps.shape[1]
    width = second.shape[2]
    for k in range(maps.shape[0]):
        for y in range(window):
            for x in range(window):
                row = second[k, y * window + x]
                total = w3[k, 0]
                for j in range(width):
                    total += w3[k, 1 + j] * max(row[j] + bias[k, j], np.float32(0.0))
                maps[k, y, x] = np.float32(1.0) / (np.float32(1.0) + np.exp(-total))
        if not visible[k]:
            maps[k] = np.float32(1.0)


def multiply_prior(
    maps: Floats32, centres: npt.NDArray[np.int64], prior: Floats, precision: Floats
) -> Floats32:
    """Multiply each map by a Gaussian about where the landmark was first found, in place."""
    _multiply_prior(maps, centres, prior, precision)
    return maps


@kernel
def _multiply_prior(maps: Floats32, centres: npt.NDArray[np.int64], prior: Floats, precision: Floats) -> None:
    window = maps.shape[1]
    across, down = np.empty(window, np.float32), np.empty(window, np.float32)
    for k in range(maps.shape[0]):
        _gaussian(centres[k, 0] - prior[k, 0], precision[k], across)
        _gaussian(centres[k, 1] - prior[k, 1], precision[k], down)
        for y in range(window):
            for x in range(window):
                maps[k, y, x] *= down[y] * across[x]


@kernel
def _gaussian(middle: float, precision: float, values: npt.NDArray[Any]) -> None:
    """Fill the values of exp(-precision d**2 / 2) at whole steps about the middle."""
    reach = values.shape[0] // 2
    for j in range(values.shape[0]):
        d = middle + j - reach
        values[j] = math.exp(-0.5 * precision * d * d)


@kernel
def _mean_shift(
    maps: Floats32, centres: npt.NDArray[np.int64], points: Floats, sigma: float, shift: Floats
) -> None:
    """Fill v, (2, 68), for the points (2, 68)."""
    window = maps.shape[1]
    reach = window // 2
    across, down = np.empty(window, np.float32), np.empty(window, np.float32)
    precision = 1.0 / (sigma * sigma)
    for k in range(maps.shape[0]):
        dx = min(max(points[0, k] - centres[k, 0], -float(reach)), float(reach))
        dy = min(max(points[1, k] - centres[k, 1], -float(reach)), float(reach))
        _gaussian(-dx, precision, across)
        _gaussian(-dy, precision, down)
        total, mean_x, mean_y = 0.0, 0.0, 0.0
        for y in range(window):
            part, part_x = np.float32(0.0), np.float32(0.0)
            for x in range(window):
                density = maps[k, y, x] * across[x]
                part += density
                part_x += density * np.float32(x - reach)
            total += down[y] * part
            mean_x += down[y] * part_x
            mean_y += down[y] * part * (y - reach)
        if total < LEAST_RESPONSE:
            shift[0, k], shift[1, k] = 0.0, 0.0
        else:
            shift[0, k], shift[1, k] = mean_x / total - dx, mean_y / total - dy


def search(
    model: PDM,
    params: Floats,
    maps: Floats32,
    centres: npt.NDArray[np.int64],
    weights: Floats,
    sigma: float,
    regularisation: float,
    max_iterations: int,
    least_motion: float,
) -> tuple[Floats, int]:
    """Run NU-RLMS on the maps of one scale: `reference.search`; iterations are -1 where it broke down."""
    found = np.empty_like(params)
    iterations = _search(
        model.mean,
        model.components,
        model.eigenvalues,
        params,
        maps,
        centres,
        weights,
        sigma,
        regularisation,
        max_iterations,
        least_motion,
        found,
    )
    return found, int(iterations)


@kernel
def _search(
    mean: Floats,
    components: Floats,
    eigenvalues: Floats,
    start: Floats,
    maps: Floats32,
    centres: npt.NDArray[np.int64],
    weights: Floats,
    sigma: float,
    regularisation: float,
    max_iterations: int,
    least_motion: float,
    params: Floats,
) -> int:
    n, m = components.shape[1], components.shape[2]
    moved = start.copy()
    shape = np.empty((3, n))
    points, points_moved = np.empty((2, n)), np.empty((2, n))
    shift = np.empty((2, n))
    slope = np.empty((2 * n, 6 + m))
    hessian, step = np.empty((6 + m, 6 + m)), np.empty(6 + m)
    params[:] = start
    project_kernel(mean, components, params, shape, points)
    iterations = 0
    for phase in range(2):
        rigid = phase == 0
        count = 6 if rigid else 6 + m
        for _ in range(max_iterations):
            _mean_shift(maps, centres, points, sigma, shift)
            jacobian_kernel(components, params, shape, rigid, slope)
            normal_equations_kernel(slope, weights, shift, count, hessian, step)
            if not rigid:
                for k in range(m):
                    hessian[6 + k, 6 + k] += regularisation / eigenvalues[k]
                    step[6 + k] -= regularisation * params[6 + k] / eigenvalues[k]
            if not solve_kernel(hessian, step, count):
                return -1
            update_kernel(eigenvalues, params, step, count, moved)
            params[:] = moved
            project_kernel(mean, components, params, shape, points_moved)
            motion = 0.0
            for k in range(n):
                motion += math.hypot(points_moved[0, k] - points[0, k], points_moved[1, k] - points[1, k])
            points[:] = points_moved
            iterations += 1
            if motion / n < least_motion:
                break
    return iterations


def log_likelihood(maps: Floats32, centres: npt.NDArray[np.int64], points: Floats, sigma: float) -> float:
    """Return the mean log response at the landmarks: `reference.log_likelihood`."""
    return float(_log_likelihood(maps, centres, points, sigma))


@kernel
def _log_likelihood(maps: Floats32, centres: npt.NDArray[np.int64], points: Floats, sigma: float) -> float:
    window = maps.shape[1]
    across, down = np.empty(window), np.empty(window)
    precision = 1.0 / (sigma * sigma)
    logs = 0.0
    for k in range(maps.shape[0]):
        _gaussian(centres[k, 0] - points[k, 0], precision, across)
        _gaussian(centres[k, 1] - points[k, 1], precision, down)
        total = 0.0
        for y in range(window):
            for x in range(window):
                total += maps[k, y, x] * across[x] * down[y]
        logs += math.log(max(total * precision / (2.0 * math.pi), LEAST_RESPONSE))
    return float(logs / maps.shape[0])
