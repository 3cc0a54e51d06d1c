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
from napari_face_landmarks.clnf.patch_experts import SUPPORT, PatchExperts
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

PIXELS = SUPPORT * SUPPORT
LARGEST_PRODUCT = 1 << 18  # multiplications; from here on OpenBLAS may share a product among threads


def response_maps(
    grey: npt.NDArray[np.uint8],
    to_frame: Floats,
    centres: npt.NDArray[np.int64],
    window: int,
    experts: PatchExperts,
    scale: int,
    view: int,
    checkerboard: bool = False,
) -> Floats32:
    """Evaluate the patch experts in a window round each landmark: `reference.response_maps` in float32.

    The picture of the frame is taken once for all landmarks. Contrast normalisation is moved behind the first
    layer's product: its weights sum to 0, so that a support's mean does not count, and the norm divides the
    product instead of the pixels.
    """
    maps = np.empty((len(centres), window, window), np.float32)
    _response_maps(
        grey,
        to_frame,
        centres,
        experts.w1[scale, view],
        experts.w2[scale, view],
        experts.w3[scale, view],
        experts.visibility[view],
        2 if checkerboard else 1,
        maps,
    )
    return maps


@kernel
def _response_maps(
    grey: npt.NDArray[np.uint8],
    to_frame: Floats,
    centres: npt.NDArray[np.int64],
    w1: Floats32,
    w2: Floats32,
    w3: Floats32,
    visible: npt.NDArray[np.bool_],
    stride: int,
    maps: Floats32,
) -> None:
    n, window = maps.shape[0], maps.shape[1]
    margin = window // 2 + REACH
    x0, y0 = centres[0, 0], centres[0, 1]
    x1, y1 = x0, y0
    for k in range(1, n):
        x0, y0 = min(x0, centres[k, 0]), min(y0, centres[k, 1])
        x1, y1 = max(x1, centres[k, 0]), max(y1, centres[k, 1])
    x0, y0 = x0 - margin, y0 - margin
    width, height = x1 + margin + 1 - x0, y1 + margin + 1 - y0
    picture = sample_kernel(grey, to_frame, x0, y0, width, height)
    means, factors = _contrast(picture)
    cells = (window * window + stride - 1) // stride
    width1, width2 = w1.shape[2], w2.shape[2]
    inputs = np.empty((cells, PIXELS), np.float32)
    first, second = np.empty((cells, width1), np.float32), np.empty((cells, width2), np.float32)
    block = max(1, LARGEST_PRODUCT // (PIXELS * width1))
    zero, one = np.float32(0.0), np.float32(1.0)
    for k in range(n):
        if not visible[k]:
            for y in range(window):
                for x in range(window):
                    maps[k, y, x] = one
            continue
        left, top = centres[k, 0] - margin - x0, centres[k, 1] - margin - y0
        _im2col(picture, left, top, means[left + window // 2, top + window // 2], window, stride, inputs)
        for start in range(0, cells, block):
            stop = min(start + block, cells)
            np.dot(inputs[start:stop], w1[k, 1:], first[start:stop])
        p = 0
        for y in range(window):
            for x in range(y % stride, window, stride):
                factor = factors[left + x, top + y]
                for j in range(width1):
                    first[p, j] = max(first[p, j] * factor + w1[k, 0, j], zero)
                p += 1
        np.dot(first, w2[k, 1:], second)
        p = 0
        for y in range(window):
            for x in range((y + 1) % stride, window, stride):
                maps[k, y, x] = zero
            for x in range(y % stride, window, stride):
                total = w3[k, 0]
                for j in range(width2):
                    total += w3[k, 1 + j] * max(second[p, j] + w2[k, 0, j], zero)
                maps[k, y, x] = one / (one + np.exp(-total))
                p += 1


@kernel
def _contrast(picture: Floats32) -> tuple[Floats32, Floats32]:
    """Return the mean and the factor 1 / norm of every whole support of a picture, by running sums."""
    width, height = picture.shape
    across, down = width - SUPPORT + 1, height - SUPPORT + 1
    means, factors = np.empty((across, down), np.float32), np.empty((across, down), np.float32)
    middle = np.float64(picture[width // 2, height // 2])  # keeps the sums of squares small
    sums, squares = np.zeros(height), np.zeros(height)
    for c in range(width):
        for r in range(height):
            value = np.float64(picture[c, r]) - middle
            sums[r] += value
            squares[r] += value * value
        if c >= SUPPORT:
            for r in range(height):
                value = np.float64(picture[c - SUPPORT, r]) - middle
                sums[r] -= value
                squares[r] -= value * value
        if c < SUPPORT - 1:
            continue
        x = c - SUPPORT + 1
        total, total_squares = 0.0, 0.0
        for r in range(height):
            total += sums[r]
            total_squares += squares[r]
            if r >= SUPPORT:
                total -= sums[r - SUPPORT]
                total_squares -= squares[r - SUPPORT]
            if r >= SUPPORT - 1:
                mean = total / PIXELS
                norm = math.sqrt(max(total_squares - total * mean, 0.0))
                means[x, r - SUPPORT + 1] = mean + middle
                factors[x, r - SUPPORT + 1] = 1.0 / max(norm, FLATTEST)
    return means, factors


@kernel
def _im2col(
    picture: Floats32, left: int, top: int, level: float, window: int, stride: int, inputs: Floats32
) -> None:
    """Fill the supports (cells, 121) of an area of interest, less a grey level, column by column.

    The supports along a row of the map overlap by all but one column: each is a stretch of one strip.
    """
    strip = np.empty((window + SUPPORT - 1) * SUPPORT, np.float32)
    row = 0
    for y in range(window):
        for c in range(window + SUPPORT - 1):
            for r in range(SUPPORT):
                strip[SUPPORT * c + r] = picture[left + c, top + y + r] - level
        for x in range(y % stride, window, stride):
            for j in range(PIXELS):
                inputs[row, j] = strip[SUPPORT * x + j]
            row += 1


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
    for j in range(6 + m):
        params[j] = start[j]
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
            for j in range(6 + m):
                params[j] = moved[j]
            project_kernel(mean, components, params, shape, points_moved)
            motion = 0.0
            for k in range(n):
                motion += math.hypot(points_moved[0, k] - points[0, k], points_moved[1, k] - points[1, k])
                points[0, k], points[1, k] = points_moved[0, k], points_moved[1, k]
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
