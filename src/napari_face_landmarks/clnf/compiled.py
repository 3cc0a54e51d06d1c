"""Kernels of a CLNF fit: its start, each scale before and after the matrix products, and its end.

`fit_scale` does in a few compiled calls what `fit` does step by step with other engines and experts. Before
the matrix products of the patch experts' layers these are normalised frame and support regions; after them,
response maps, prior, targets, NU-RLMS and the parameters in the image. Large kernels are called from Python,
since LLVM would optimise them again in each kernel that calls them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.normalized_frame import frame_kernel, invert_kernel, move_pose
from napari_face_landmarks.clnf.numba_engine import (
    last_layer_kernel,
    layer_products,
    log_likelihood_kernel,
    multiply_prior_kernel,
    search_kernel,
)
from napari_face_landmarks.clnf.parameters import (
    LARGEST_FACE,
    LARGEST_GROWTH,
    LARGEST_MOVE,
    LARGEST_SCALE,
    SMALLEST_SCALE,
    EngineConstants,
)
from napari_face_landmarks.clnf.patch_experts import PatchExperts
from napari_face_landmarks.clnf.pdm import PDM, clamp_kernel, project_kernel
from napari_face_landmarks.jit import exact_kernel

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

NO_SIGMA = np.zeros(0)
NONE_FIXED = np.zeros(0, np.bool_)


@dataclass(frozen=True)
class Initial:
    """Initial landmarks of a fit."""

    landmarks: Floats  # (68, 2), px; unknown landmarks are filled in from the PDM
    known: Flags  # (68,)
    sigma: Floats | None  # (68,), px
    fixed: Flags | None  # (68,)
    projected: Floats  # (68, 2), px; the PDM fitted to the landmarks
    scale: float  # s of that fit


@dataclass(frozen=True)
class ScaleLimits:
    """Parameters of the search at one scale."""

    index: int  # of the scale
    window: int  # side of the response maps
    searched: int  # number of landmarks
    max_iterations: int  # of each phase
    min_motion: float  # px of the image


@exact_kernel
def usable_kernel(points: Floats, params: Floats, size: tuple[int, int]) -> bool:
    """Return whether a face, (n, 2), is finite, of a plausible scale and mostly inside the image."""
    total, inside = 0.0, 0
    for value in params:
        total += value
    for x, y in points:
        total += x + y
        inside += int(-0.5 < x < size[1] - 0.5 and -0.5 < y < size[0] - 0.5)
    fits = SMALLEST_SCALE <= params[0] <= LARGEST_SCALE
    return math.isfinite(total) and fits and 2 * inside >= len(points)


@exact_kernel
def clean_kernel(sigma: Floats) -> None:
    """Replace invalid sigmas, in place, by 100 times the largest valid one (at least 1 px)."""
    largest = 1.0
    for value in sigma:
        if math.isfinite(value):
            largest = max(largest, value)
    for k in range(len(sigma)):
        if not (math.isfinite(sigma[k]) and sigma[k] >= 0):
            sigma[k] = 100.0 * largest


@exact_kernel
def start_kernel(
    mean: Floats,
    components: Floats,
    eigenvalues: Floats,
    size: tuple[int, int],
    start: Floats,
    landmarks: Floats,
    known: Flags,
    projected: Floats,
) -> bool:
    """Clamp and project the parameters; fill unknown landmarks, (68, 2), from them; False if unusable."""
    n = len(known)
    clamp_kernel(eigenvalues, start)
    points = np.empty((2, n))
    project_kernel(mean, components, start, np.empty((3, n)), points)
    for k in range(n):
        projected[k, 0], projected[k, 1] = points[0, k], points[1, k]
        known[k] = math.isfinite(landmarks[k, 0]) and math.isfinite(landmarks[k, 1])
        if not known[k]:
            landmarks[k, 0], landmarks[k, 1] = points[0, k], points[1, k]
    return usable_kernel(projected, start, size)


@exact_kernel
def end_kernel(
    mean: Floats,
    components: Floats,
    size: tuple[int, int],
    start: Floats,
    landmarks: Floats,
    known: Flags,
    sigma: Floats,
    projected: Floats,
    found: Floats,
    residual_share: float,
    residual_sigma: float,
    result: Floats,
    shares: Floats,
) -> bool:
    """Fill the final landmarks, (68, 2), and the shares of the residual kept; False if they diverged."""
    n = len(known)
    points = np.empty((2, n))
    project_kernel(mean, components, found, np.empty((3, n)), points)
    moved = 0.0
    for k in range(n):
        shares[k] = 0.0
        if len(sigma) and known[k]:
            relative_sigma = sigma[k] / start[0] / residual_sigma
            shares[k] = residual_share / (1.0 + relative_sigma * relative_sigma)
        for axis in range(2):
            result[k, axis] = points[axis, k] + shares[k] * (landmarks[k, axis] - projected[k, axis])
        moved += math.hypot(result[k, 0] - landmarks[k, 0], result[k, 1] - landmarks[k, 1]) / n
    growth = found[0] / start[0]
    likely = 1 / LARGEST_GROWTH < growth < LARGEST_GROWTH and moved / start[0] < LARGEST_MOVE
    return likely and usable_kernel(result, found, size)


def fit_scale(
    grey: npt.NDArray[np.uint8],
    found: Floats,
    initial: Initial,
    pdm: PDM,
    experts: PatchExperts,
    constants: EngineConstants,
    limits: ScaleLimits,
) -> tuple[Floats | None, int, float]:
    """Search at one scale; return the PDM parameters in the image, the steps of NU-RLMS and the likelihood.

    Arrays: `grey` (H, W) uint8, C-contiguous; `found` (6 + m,), the current parameters in the image. The
    parameters are None if the face is too large or the search failed; the likelihood is the mean log response
    at the landmarks.
    """
    index, window, count = limits.index, limits.window, limits.searched
    scale, stride = float(experts.scales[index]), 2 if constants.checkerboard else 1
    to_frame, local, centres = np.empty((2, 3)), np.empty_like(found), np.empty((count, 2), np.int64)
    shape = pdm.mean, pdm.components
    view = _begin(found, *shape, scale, experts.view_centres, to_frame, local, centres)
    if view < 0:
        return None, 0, -math.inf
    w1, w2, w3 = experts.w1[index, view], experts.w2[index, view], experts.w3[index, view]
    products, maps = layer_products(grey, to_frame, centres, window, stride, (w1, w2))
    params, likelihood = np.empty_like(found), np.empty(1)
    sigma = NO_SIGMA if initial.sigma is None else initial.sigma
    fixed = NONE_FIXED if initial.fixed is None else initial.fixed
    prior = constants.weight, constants.prior_weight, constants.prior_floor, constants.response_floor
    steps = _end(
        products,
        w2,
        w3,
        experts.visibility[view],
        experts.confidences[index, view],
        stride,
        maps,
        initial.landmarks,
        initial.known,
        initial.scale,
        sigma,
        fixed,
        prior,
        constants.fixed_weight,
        constants.in_image,
        to_frame,
        scale,
        centres,
        local,
        *shape,
        pdm.eigenvalues,
        constants.sigma_at(scale),
        constants.regularisation_at(scale),
        limits.max_iterations,
        limits.min_motion,
        params,
        likelihood,
    )
    return (None if steps < 0 else params), max(steps, 0), float(likelihood[0])


@exact_kernel
def _begin(
    found: Floats,
    mean: Floats,
    components: Floats,
    scale: float,
    view_centres: Floats,
    to_frame: Floats,
    local: Floats,
    centres: npt.NDArray[np.int64],
) -> int:
    """Fill the normalised frame, parameters and landmarks in it; return the view, -1 if too large a face."""
    frame_kernel(found, scale, to_frame)
    moved = move_pose(found, to_frame)
    for j in range(len(moved)):
        local[j] = moved[j]
    n = components.shape[1]
    points = np.empty((2, n))
    project_kernel(mean, components, local, np.empty((3, n)), points)
    for axis in range(2):
        low = high = points[axis, 0]
        for k in range(n):
            low, high = min(low, points[axis, k]), max(high, points[axis, k])
        if not high - low <= LARGEST_FACE:
            return -1
        for k in range(len(centres)):
            centres[k, axis] = np.int64(np.rint(points[axis, k]))
    pitch, yaw = math.degrees(local[1]), math.degrees(local[2])
    view, nearest = 0, math.inf
    for each in range(len(view_centres)):
        distance = (view_centres[each, 0] - pitch) ** 2 + (view_centres[each, 1] - yaw) ** 2
        if distance < nearest:
            view, nearest = each, distance
    return view


@exact_kernel
def _end(
    values: Floats32,
    w2: Floats32,
    w3: Floats32,
    visible: Flags,
    confidences: Floats,
    stride: int,
    maps: Floats32,
    landmarks: Floats,
    known: Flags,
    first_scale: float,
    sigma: Floats,
    fixed: Flags,
    prior: tuple[float, float, float, float],
    fixed_weight: float,
    in_image: bool,
    to_frame: Floats,
    scale: float,
    centres: npt.NDArray[np.int64],
    local: Floats,
    mean: Floats,
    components: Floats,
    eigenvalues: Floats,
    kernel_sigma: float,
    regularisation: float,
    max_iterations: int,
    min_motion: float,
    params: Floats,
    likelihood: Floats,
) -> int:
    """Fill the parameters in the image and the likelihood; return the steps, -1 if the search failed."""
    n, count = len(known), len(maps)
    weight, prior_weight, prior_floor, response_floor = prior
    last_layer_kernel(values, w2, w3, visible, stride, maps)
    targets, weights, has_target = np.empty((n, 2)), np.empty(n), np.zeros(n, np.bool_)
    seen, total = 0, 0.0
    for k in range(n):
        for axis in range(2):
            targets[k, axis] = to_frame[axis, 0] * landmarks[k, 0] + to_frame[axis, 1] * landmarks[k, 1]
            targets[k, axis] += to_frame[axis, 2]
        weights[k] = (weight * confidences[k] if weight > 0 else 1.0) if visible[k] else 0.0
        seen, total = seen + int(visible[k]), total + weights[k]
    if len(sigma) and prior_weight > 0:
        precision = np.zeros(n)
        for k in range(n):
            if known[k]:
                variance = (sigma[k] / first_scale) ** 2 + prior_floor**2
                precision[k] = prior_weight / (variance * scale**2)
                if not visible[k]:
                    weights[k] = total / seen if seen else weight
        for k in range(count):
            for y in range(maps.shape[1]):
                for x in range(maps.shape[2]):
                    maps[k, y, x] += np.float32(response_floor)
        multiply_prior_kernel(maps, centres, targets, precision)
    total = largest = 0.0
    for k in range(count):
        total += weights[k] / count
    for k in range(count, n):
        weights[k], has_target[k] = total if known[k] else 0.0, True
    if len(fixed):
        for k in range(n):
            largest = max(largest, weights[k])
        for k in range(n):
            if fixed[k]:
                weights[k], has_target[k] = fixed_weight * max(largest, 1.0), True
    growth = math.sqrt(to_frame[0, 0] ** 2 + to_frame[0, 1] ** 2)
    if in_image:  # v and J scale with the frame, and so must r
        regularisation *= growth**2
    found = np.empty_like(local)
    steps = search_kernel(
        mean,
        components,
        eigenvalues,
        local,
        maps,
        centres,
        weights,
        kernel_sigma,
        regularisation,
        max_iterations,
        min_motion * growth,
        False,
        has_target,
        targets,
        found,
    )
    for value in found:
        if steps < 0 or not math.isfinite(value):
            return -1
    points = np.empty((2, n))
    project_kernel(mean, components, found, np.empty((3, n)), points)
    likelihood[0] = log_likelihood_kernel(maps, centres, points.T.copy(), kernel_sigma)
    moved = move_pose(found, invert_kernel(to_frame))
    for j in range(len(moved)):
        params[j] = moved[j]
    return steps
