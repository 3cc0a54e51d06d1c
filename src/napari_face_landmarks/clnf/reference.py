"""Reference implementation of CLNF in NumPy, float64; `numba_engine` is tested against it.

Baltrusaitis, Robinson and Morency 2013, "Constrained Local Neural Fields for robust facial landmark detection
in the wild"; Zadeh et al. 2017, "Convolutional experts constrained local model"; Saragih, Lucey and Cohn
2011, "Deformable model fitting by regularized landmark mean-shift". Slow: for testing and the ablation only.

Arrays are float64: response maps (68, window, window); their centres (68, 2) and points (68, 2) in pixels of
the normalised frame, x then y, centres integer except with OpenFace's experts; PDM parameters (6 + m,) in the
normalised frame; weights (68,), the diagonal of W; the transform `to_frame` (2, 3) from image to normalised
frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf import normalized_frame
from napari_face_landmarks.clnf.parameters import MIN_RESPONSE, Steps
from napari_face_landmarks.clnf.patch_experts import N_INPUTS, REACH, SUPPORT, PatchExperts
from napari_face_landmarks.clnf.pdm import (
    N_RIGID,
    PDM,
    SMALLEST_SCALE,
    clamp,
    euler_angles,
    project,
    rotation_matrix,
    shape_3d,
)
from napari_face_landmarks.errors import ModelError

Floats = npt.NDArray[np.float64]
Centres = npt.NDArray[Any]  # of the response maps: integers or floats


def sample_frame(
    grey: npt.NDArray[np.uint8], to_frame: Floats, x0: int, y0: int, width: int, height: int
) -> Floats:
    """Sample the normalised frame like `normalized_frame.sample_frame`, (height, width)."""
    columns, rows = np.meshgrid(np.arange(width) + x0, np.arange(height) + y0)
    positions = normalized_frame.transform(
        normalized_frame.invert_kernel(to_frame), np.stack([columns, rows], axis=-1).astype(np.float64)
    )
    pixels_per_pixel = 1.0 / np.sqrt(np.linalg.det(to_frame[:, :2]))
    depth = float(np.clip(np.log2(pixels_per_pixel), 0.0, normalized_frame.MAX_LEVELS - 1))
    first = int(depth)
    level = grey.astype(np.float64)
    for _ in range(first):
        level = halve(level)
    fine = bilinear(level, (positions + 0.5) / 2**first - 0.5)
    coarse = bilinear(halve(level), (positions + 0.5) / 2 ** (first + 1) - 0.5)
    return fine + (depth - first) * (coarse - fine)


def halve(level: Floats) -> Floats:
    """Return the means of 2 x 2 blocks; an odd last row or column is repeated."""
    even = np.pad(level, [(0, level.shape[0] % 2), (0, level.shape[1] % 2)], mode="edge")
    return np.asarray((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4)


def bilinear(level: Floats, positions: Floats) -> Floats:
    """Sample an image, padded by its border pixels, bilinearly at points (..., 2), x then y."""
    height, width = level.shape
    x = np.clip(positions[..., 0], 0, width - 1)
    y = np.clip(positions[..., 1], 0, height - 1)
    i, j = x.astype(int), y.astype(int)
    i1, j1 = np.minimum(i + 1, width - 1), np.minimum(j + 1, height - 1)
    a, b = x - i, y - j
    upper = level[j, i] * (1 - a) + level[j, i1] * a
    lower = level[j1, i] * (1 - a) + level[j1, i1] * a
    return np.asarray(upper * (1 - b) + lower * b)


def im2col(area: Floats) -> Floats:
    """Return the experts' inputs, (window**2, 122), of an image area, (window + 10, window + 10).

    Row ``y * window + x`` is a 1, then the contrast-normalised support region of cell (x, y) of the response
    map, column by column.
    """
    window = area.shape[0] - SUPPORT + 1
    rows = np.ones((window * window, N_INPUTS))
    for y in range(window):
        for x in range(window):
            support = area[y : y + SUPPORT, x : x + SUPPORT]
            rows[y * window + x, 1:] = normalized_frame.contrast_normalise(support.T.ravel())
    return rows


def expert_response(inputs: Floats, w1: Floats, w2: Floats, w3: Floats) -> Floats:
    """Return an expert's responses, (positions,), by the three layers of CE-CLM."""
    first = np.maximum(inputs @ w1, 0.0)
    second = np.maximum(np.column_stack([np.ones(len(first)), first]) @ w2, 0.0)
    third = np.column_stack([np.ones(len(second)), second]) @ w3
    return np.asarray(1.0 / (1.0 + np.exp(-third)))


def response_maps(
    grey: npt.NDArray[np.uint8],
    to_frame: Floats,
    centres: Centres,
    window: int,
    experts: PatchExperts,
    scale: int,
    view: int,
    checkerboard: bool = False,
    im2col: Callable[[Floats], Floats] = im2col,
) -> Floats:
    """Evaluate the patch experts of a scale and view in a window around each landmark.

    Responses are 0 to 1; cell [k, y, x] is at ``centres[k] + (x, y) - window // 2``. Maps of landmarks hidden
    in the view are 1. With `checkerboard`, only every second cell is evaluated, including the centre; the
    others are 0. The benchmark's ablation replaces `im2col`.
    """
    if not isinstance(experts, PatchExperts):
        raise ModelError("The NumPy reference does not support OpenFace's patch experts: use another bundle.")
    maps = np.ones((len(centres), window, window))
    side = window + SUPPORT - 1
    for k, (x, y) in enumerate(centres):
        if not experts.visibility[view, k]:
            continue
        reach = window // 2 + REACH
        area = sample_frame(grey, to_frame, int(x) - reach, int(y) - reach, side, side)
        weights = [w[scale, view, k].astype(np.float64) for w in (experts.w1, experts.w2, experts.w3)]
        maps[k] = expert_response(im2col(area), *weights).reshape(window, window)
        if checkerboard:
            maps[k][np.add.outer(np.arange(window), np.arange(window)) % 2 == 1] = 0.0
    return maps


def multiply_prior(maps: Floats, centres: Centres, prior: Floats, precision: Floats) -> Floats:
    """Multiply each response map by a Gaussian around the initial landmark (a product of experts).

    `prior`, (68, 2), are the initial landmarks in the normalised frame; `precision`, (68,), is 1 / variance,
    px**-2, or 0 for no prior.
    """
    count = len(maps)
    distance = np.sum((_cells(maps, centres) - prior[:count, None, None]) ** 2, axis=-1)
    return np.asarray(maps * np.exp(-0.5 * precision[:count, None, None] * distance))


def _cells(maps: Floats, centres: Centres) -> Floats:
    """Return the coordinates of all cells in the normalised frame, (count, window, window, 2)."""
    offsets = np.arange(maps.shape[1]) - maps.shape[1] // 2
    x, y = np.meshgrid(offsets, offsets)
    return np.asarray(centres[: len(maps), None, None] + np.stack([x, y], axis=-1), dtype=np.float64)


def kernel_density(maps: Floats, centres: Centres, points: Floats, sigma: float) -> Floats:
    """Return the responses weighted by a Gaussian kernel around each landmark, (count, window, window)."""
    distance = np.sum((_cells(maps, centres) - points[: len(maps), None, None]) ** 2, axis=-1)
    return np.asarray(maps * np.exp(-0.5 * distance / sigma**2))


def mean_shift(maps: Floats, centres: Centres, points: Floats, sigma: float) -> Floats:
    """Return the mean-shift vectors v, (68, 2) (Saragih et al. 2011, equation 13).

    The kernel-weighted mean of the map's cells minus the landmark, which is clamped to its map; 0 if the map
    is nearly empty. `sigma` is the standard deviation of the kernel, px of the normalised frame.
    """
    reach = maps.shape[1] // 2
    inside = np.clip(points, centres - reach, centres + reach)
    density = kernel_density(maps, centres, inside, sigma)
    total = density.sum(axis=(1, 2))
    mean = (density[..., None] * _cells(maps, centres)).sum(axis=(1, 2))
    empty = total < MIN_RESPONSE
    shift = np.zeros(points.shape)
    shift[: len(maps)] = mean / np.where(empty, 1.0, total)[:, None] - inside[: len(maps)]
    shift[: len(maps)][empty] = 0.0
    return shift


def jacobian(pdm: PDM, params: Floats, rigid: bool = False) -> Floats:
    """Return the Jacobian of the projection with respect to the step of `update`, (2 n, 6 + m) or (2 n, 6).

    Rows are the n x coordinates, then the n y coordinates. The rotation is parametrised by small angles w
    about the axes of the model, ``R (I + [w]_x)``, not by Euler angles (Saragih et al. 2011, section 3.1).
    With `rigid`, there are only the columns of s, w and t.
    """
    n = pdm.n_points
    scale, view = params[0], rotation_matrix(params[1:4])[:2]
    x, y, z = shape = shape_3d(pdm, params[N_RIGID:])
    zeros = np.zeros(n)
    result = np.zeros((2 * n, N_RIGID if rigid else len(params)))
    result[:, 0] = (view @ shape).ravel()
    for column, rotated in enumerate(([zeros, -z, y], [z, zeros, -x], [-y, x, zeros]), start=1):
        result[:, column] = scale * (view @ np.array(rotated)).ravel()
    result[:n, 4] = 1.0
    result[n:, 5] = 1.0
    if not rigid:
        result[:, N_RIGID:] = scale * np.tensordot(view, pdm.components, axes=1).reshape(2 * n, -1)
    return result


def update(pdm: PDM, params: Floats, delta: Floats) -> Floats:
    """Update the parameters by a step, (6,) or (6 + m,), in the order of the columns of `jacobian`.

    The steps of scale, translation and q are added; the rotation is multiplied from the right by the
    orthonormalised ``I + [w]_x``; q is clamped to 3 standard deviations.
    """
    updated = np.array(params, dtype=np.float64)
    updated[0] = max(updated[0] + delta[0], SMALLEST_SCALE)
    wx, wy, wz = delta[1:4]
    left, _, right = np.linalg.svd(np.array([[1.0, -wz, wy], [wz, 1.0, -wx], [-wy, wx, 1.0]]))
    updated[1:4] = euler_angles(rotation_matrix(updated[1:4]) @ (left @ right))
    updated[4 : len(delta)] += delta[4:]
    return clamp(pdm, updated)


def nu_rlms_step(
    pdm: PDM, params: Floats, shift: Floats, weights: Floats, regularisation: float, rigid: bool
) -> Floats:
    """Return the parameters after one step of NU-RLMS (Baltrusaitis et al. 2013, equation 12).

    ``dp = -(J'WJ + r Lambda^-1)^-1 (r Lambda^-1 p - J'W v)`` with the mean-shift vectors v, `shift` (68, 2),
    and the regularisation r; pose parameters are not regularised. With `rigid`, only the pose is updated.
    """
    slope = jacobian(pdm, params, rigid)
    w = np.diag(np.concatenate([weights, weights]))
    v = shift.T.ravel()
    inverse_variance = np.concatenate([np.zeros(6), np.zeros(0) if rigid else 1.0 / pdm.eigenvalues])
    p = params[: len(inverse_variance)]
    hessian = slope.T @ w @ slope + regularisation * np.diag(inverse_variance)
    gradient = regularisation * inverse_variance * p - slope.T @ w @ v
    return update(pdm, params, np.asarray(-np.linalg.solve(hessian, gradient), dtype=np.float64))


def search(
    pdm: PDM,
    params: Floats,
    maps: Floats,
    centres: Centres,
    weights: Floats,
    steps: Steps,
    targets: Floats | None = None,
) -> tuple[Floats, int]:
    """Run NU-RLMS on the response maps of one scale, first on the pose, then on all parameters.

    For landmarks with `targets`, (68, 2) px of the normalised frame, NaN for the others, the vector to the
    target replaces the mean-shift vector. Returns the parameters and the number of steps of both phases.
    """
    iterations = 0
    has_target = np.zeros(len(weights), bool) if targets is None else np.isfinite(targets).all(axis=1)
    for rigid in (True, False):
        for _ in range(steps.max_iterations):
            points = project(pdm, params)
            shift = mean_shift(maps, centres, points, steps.sigma)
            if targets is not None:
                shift[has_target] = targets[has_target] - points[has_target]
            params = nu_rlms_step(pdm, params, shift, weights, steps.regularisation, rigid)
            iterations += 1
            moves = project(pdm, params) - points
            motion = np.linalg.norm(moves) if steps.whole else np.linalg.norm(moves, axis=1).mean()
            if motion < steps.min_motion:
                break
    return params, iterations


def log_likelihood(maps: Floats, centres: Centres, points: Floats, sigma: float) -> float:
    """Return the mean over landmarks of the log of the kernel-weighted response at the landmark."""
    density = kernel_density(maps, centres, points, sigma).sum(axis=(1, 2)) / (2 * np.pi * sigma**2)
    return float(np.log(np.maximum(density, MIN_RESPONSE)).mean())
