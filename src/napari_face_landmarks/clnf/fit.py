"""CLNF: refine initial landmarks, fit a face without initial landmarks, propagate a correction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf import normalized_frame, numba_engine
from napari_face_landmarks.clnf.compiled import (
    NO_SIGMA,
    Initial,
    ScaleLimits,
    clean_kernel,
    end_kernel,
    fit_scale,
    start_kernel,
    usable_kernel,
)
from napari_face_landmarks.clnf.openface_experts import AnyExperts, OpenFaceExperts, views_of
from napari_face_landmarks.clnf.parameters import LARGEST_FACE, TUNED, EngineConstants, Steps
from napari_face_landmarks.clnf.patch_experts import PatchExperts
from napari_face_landmarks.clnf.pdm import (
    N_RIGID,
    PDM,
    clamp,
    euler_angles,
    fit_pdm,
    fit_pdm_again,
    project_kernel,
    rotation_matrix,
    sigma_weights,
)
from napari_face_landmarks.errors import ImageError, ModelError
from napari_face_landmarks.ibug import N_LANDMARKS, OUTER_EYES
from napari_face_landmarks.settings import TrackerSettings

Floats = npt.NDArray[np.float64]

MIN_RELATIVE_SCALE = 0.9  # scales are skipped if the face is smaller than this share, as in OpenFace
EVIDENCE_WINDOW = 21
"""Side of the response maps of `log_responses`, px."""
RESPONSE_OFFSET = 0.01
"""Added to responses before taking the logarithm."""


@dataclass(frozen=True)
class ClnfModel:
    """Models and constants of CLNF."""

    pdm: PDM  # of 68 points
    experts: AnyExperts
    constants: EngineConstants = TUNED
    engine: ModuleType | SimpleNamespace = numba_engine  # or `reference`


@dataclass(frozen=True)
class ClnfFit:
    """Result of refining one face."""

    landmarks: npt.NDArray[np.float32]  # (68, 2); pixels, x then y; the initial ones if not converged
    params: Floats  # (6 + m,); PDM parameters in the image: s, rx, ry, rz, tx, ty, q
    start: Floats  # (6 + m,); PDM parameters fitted to the initial landmarks
    shares: Floats  # (68,); share of the initial landmarks' residual from the PDM that is kept
    likelihood: float  # mean log response at the landmarks, finest scale; -inf if not converged
    iterations: int  # NU-RLMS steps
    # false if the initial landmarks are not those of a face, the face is too small or outside the image, the
    # equations are singular, or the landmarks diverge
    converged: bool


def refine(
    grey: npt.NDArray[np.uint8],
    landmarks: npt.NDArray[Any],
    params: Floats | None,
    model: ClnfModel,
    settings: TrackerSettings,
    sigma: npt.NDArray[Any] | None = None,
    fixed: npt.NDArray[np.bool_] | None = None,
    searched: int = N_LANDMARKS,
) -> ClnfFit:
    """Refine the landmarks of a face by CLNF.

    From coarse to fine, the patch experts of the view nearest to the pose are evaluated in a window around
    each landmark in the normalised frame, and NU-RLMS fits the PDM to the response maps: first the pose, then
    all parameters (Baltrusaitis et al. 2013; Zadeh et al. 2017). At each scale, each phase takes at most
    `settings.max_iterations` steps and ends after a step that moves the landmarks by less than
    `settings.convergence_px` on average. With OpenFace's experts, scales at which the face would be enlarged
    are skipped, as in OpenFace.

    With `sigma`, there are three additions. The coarsest scale is skipped if the initial landmarks are
    confident (`confident_sigma`) and none is fixed. The response maps are multiplied by a Gaussian prior at
    the initial landmarks (`prior_weight`). A share ``residual_share / (1 + (sigma / s / residual_sigma)**2)``
    of the initial landmarks' residual from the PDM, ``landmarks - project(start)``, is kept.

    Parameters
    ----------
    grey : ndarray, (H, W), uint8
        The image.
    landmarks : ndarray, (68, 2)
        Initial landmarks, px, x then y; landmarks that are not finite are ignored.
    params : ndarray, (6 + m,), or None
        PDM parameters fitted to `landmarks` (`fit_landmarks`); fitted here if None.
    model : ClnfModel
    settings : TrackerSettings
        `max_iterations`, `search_radius` and `convergence_px` are used.
    sigma : ndarray, (68,), optional
        Standard deviation of each initial landmark, px. Without it, CLNF is as published.
    fixed : ndarray, (68,), bool, optional
        Fixed landmarks, such as manual ones: the PDM is fitted to them with `fixed_weight`, without search.
    searched : int
        Number of landmarks, from the first, that are searched; to the others the PDM is fitted with the mean
        weight. With OpenFace's experts, all are searched.

    Returns
    -------
    ClnfFit
        Finite wherever `landmarks` are.

    Raises
    ------
    ImageError, ModelError
        If `grey` is not an (H, W) uint8 image, or shapes do not match.
    """
    pdm = model.pdm
    given, spread = _check_inputs(grey, landmarks, params, pdm, sigma)
    try:
        start = np.array(fit_landmarks(pdm, given, spread) if params is None else params, np.float64)
    except ModelError:  # not the landmarks of a face
        return _not_refined(landmarks, np.concatenate([[1.0], np.zeros(5 + pdm.n_modes)]), 0)
    known, projected, size = np.empty(N_LANDMARKS, np.bool_), np.empty((N_LANDMARKS, 2)), grey.shape[:2]
    if not start_kernel(pdm.mean, pdm.components, pdm.eigenvalues, size, start, given, known, projected):
        return _not_refined(landmarks, start, 0)
    fixed = None if fixed is None or not (fixed & known).any() else np.asarray(fixed & known)
    initial = Initial(given, known, spread, fixed, projected, float(start[0]))
    count = N_LANDMARKS if isinstance(model.experts, OpenFaceExperts) else searched
    grey = np.ascontiguousarray(grey)
    found, steps, likelihood = _coarse_to_fine(grey, start, initial, model, settings, count)
    if found is None:
        return _not_refined(landmarks, start, steps)

    arrays = start, given, known, NO_SIGMA if spread is None else spread, projected
    share = model.constants.residual_share, model.constants.residual_sigma
    result, shares = np.empty((N_LANDMARKS, 2)), np.empty(N_LANDMARKS)
    if not end_kernel(pdm.mean, pdm.components, size, *arrays, found, *share, result, shares):
        return _not_refined(landmarks, start, steps)
    return ClnfFit(result.astype(np.float32), found, start, shares, likelihood, steps, True)


def _coarse_to_fine(
    grey: npt.NDArray[np.uint8],
    start: Floats,
    initial: Initial,
    model: ClnfModel,
    settings: TrackerSettings,
    count: int,
) -> tuple[Floats | None, int, float]:
    """Search at all scales; return the PDM parameters (None on failure), steps and likelihood."""
    experts, constants = model.experts, model.constants
    found, steps, likelihood, at = start, 0, -math.inf, None
    for index in range(_first_scale(initial, model), len(experts.scales)):
        if index and isinstance(experts, OpenFaceExperts) and _enlarged(experts, index, found):
            break
        window = constants.window_at(index, settings.search_radius)
        if model.engine is numba_engine and type(experts) is PatchExperts:
            limits = ScaleLimits(index, window, count, settings.max_iterations, settings.convergence_px)
            params, taken, likelihood = fit_scale(grey, found, initial, model.pdm, experts, constants, limits)
            if params is None:
                return None, steps, likelihood
            found, steps = params, steps + taken
            continue
        at = _respond(grey, found, model, index, window, count)
        if at is None:
            return None, steps, likelihood
        maps, weights = _with_prior(at, initial, model)
        weights, targets = _with_targets(at, weights, initial, constants)
        criteria = settings.max_iterations, settings.convergence_px
        local, taken = _search(at, maps, weights, model, criteria, targets=targets)
        if taken < 0 or not np.isfinite(local).all():
            return None, steps, likelihood
        steps += taken
        found = normalized_frame.move_pose(local, normalized_frame.invert_kernel(at.to_frame))
    if at is not None:
        points, sigma = _project(model.pdm, local), constants.sigma_at(at.scale)
        likelihood = float(model.engine.log_likelihood(maps, at.centres, points, sigma))
    return found, steps, likelihood


def _with_prior(at: _Responses, initial: Initial, model: ClnfModel) -> tuple[npt.NDArray[Any], Floats]:
    """Return the response maps multiplied by the prior, and the diagonal of W."""
    constants, maps, weights = model.constants, at.maps, _weights(at, model.constants)
    if initial.sigma is None or constants.prior_weight <= 0:
        return maps, weights
    variance = (initial.sigma / initial.scale) ** 2 + constants.prior_floor**2
    precision = constants.prior_weight / (variance * at.scale**2) * initial.known  # px**-2 of the frame
    centres = normalized_frame.transform(at.to_frame, initial.landmarks)
    maps = model.engine.multiply_prior(
        maps + np.float32(constants.response_floor), at.centres, centres, precision
    )
    hidden = ~at.visible
    if hidden.any():
        seen = weights[at.visible].mean() if at.visible.any() else constants.weight
        weights[hidden & initial.known] = seen
    return maps, weights


def _with_targets(
    at: _Responses, weights: Floats, initial: Initial, constants: EngineConstants
) -> tuple[Floats, Floats | None]:
    """Return the diagonal of W, and the targets, (68, 2), of landmarks that are fixed or not searched."""
    fixed, count = initial.fixed, len(at.maps)
    if fixed is None and count == N_LANDMARKS:
        return weights, None
    targets = normalized_frame.transform(at.to_frame, initial.landmarks)
    has_target = np.arange(N_LANDMARKS) >= count
    weights = np.where(has_target, weights[:count].mean() * initial.known, weights)
    if fixed is not None:
        weights[fixed] = constants.fixed_weight * max(float(weights.max()), 1.0)
        has_target |= fixed
    targets[~has_target] = np.nan
    return weights, targets


@dataclass(frozen=True)
class ClnfOnlyFit:
    """Result of fitting one face by CLNF alone, without initial landmarks."""

    landmarks: npt.NDArray[np.float32]  # (68, 2); pixels, x then y
    params: Floats  # (6 + m,); PDM parameters in the image; the initial ones if not converged
    # (68,); response at each landmark, 0 to 1; for landmarks hidden in the view, the mean of the others
    confidence: npt.NDArray[np.float32]
    likelihood: float  # mean log response at the landmarks, finest scale; -inf if not converged
    iterations: int  # NU-RLMS steps
    converged: bool  # false if the search failed


def fit_clnf_only(
    grey: npt.NDArray[np.uint8], params: Floats, model: ClnfModel, tracked: bool = False
) -> ClnfOnlyFit:
    """Fit a face by CLNF alone, as OpenFace does.

    The initial parameters are those of a box (`params_of_crop`) or of the previous frame (`tracked`, which
    has smaller windows). Scales with a window of 0, or at which the face would be enlarged, are skipped.
    Arrays: `grey` (H, W) uint8; `params` (6 + m,). The result is always finite. Raises an `ImageError` if
    `grey` is not such an image, and a `ModelError` if parameters and PDM do not match.
    """
    pdm, experts, constants = model.pdm, model.experts, model.constants
    _check_inputs(grey, np.zeros((N_LANDMARKS, 2)), params, pdm, None)
    start = clamp(pdm, params)
    shape = _project(pdm, start) if np.isfinite(start).all() else np.full((N_LANDMARKS, 2), np.nan)
    failed = ClnfOnlyFit(
        np.nan_to_num(shape).astype(np.float32), start, np.zeros(N_LANDMARKS, np.float32), -math.inf, 0, False
    )
    if not _usable(shape, start, grey.shape[:2]):
        return failed
    grey = np.ascontiguousarray(grey)
    windows = constants.tracked_windows if tracked else constants.windows
    found, steps, last = start, 0, None
    for index, window in enumerate(windows[: len(experts.scales)]):
        if window == 0 or _enlarged(experts, index, found):
            continue
        at = _respond(grey, found, model, index, window)
        if at is None:
            return failed
        limits = constants.clnf_only_iterations, constants.clnf_only_convergence
        local, taken = _search(at, at.maps, _weights(at, constants), model, limits, whole=True)
        if taken < 0 or not np.isfinite(local).all():
            return failed
        steps += taken
        found = normalized_frame.move_pose(local, normalized_frame.invert_kernel(at.to_frame))
        last = (at, local)
    points = _project(pdm, found)
    if last is None or not _usable(points, found, grey.shape[:2]):
        return failed
    at, local = last
    in_frame = _project(pdm, local)
    likelihood = model.engine.log_likelihood(at.maps, at.centres, in_frame, constants.sigma_at(at.scale))
    confidence = _responses_at(at, in_frame)
    if not np.isfinite(confidence).all():
        return failed
    return ClnfOnlyFit(points.astype(np.float32), found, confidence, float(likelihood), steps, True)


def params_of_crop(pdm: PDM, crop: npt.NDArray[Any], margin: float) -> Floats:
    """Return the PDM parameters, (6 + m,), of the mean face in a square crop.

    `crop` (4,) is centre x, centre y, side (px) and roll (rad); `margin` is the side relative to the longer
    side of the landmarks' bounding box.
    """
    low, high = pdm.mean[:2].min(axis=1), pdm.mean[:2].max(axis=1)
    scale = float(crop[2]) / margin / float((high - low).max())
    roll = float(crop[3])
    centre = np.asarray(crop[:2], dtype=np.float64) - scale * _rotation_2d(roll) @ ((low + high) / 2)
    return np.concatenate([[scale, 0.0, 0.0, roll], centre, np.zeros(pdm.n_modes)])


def fit_landmarks(
    pdm: PDM, landmarks: npt.NDArray[Any], sigma: npt.NDArray[Any] | None = None, start: Floats | None = None
) -> Floats:
    """Fit the PDM to initial landmarks, weighted by `sigma`; return the parameters, (6 + m,) float64.

    Arrays: `landmarks` (68, 2), pixels, x then y; `sigma` (68,), px; `start` (6 + m,).
    """
    if sigma is not None and start is not None:
        fitted = fit_pdm_again(pdm, landmarks, sigma, start)
        if fitted is not None:
            return fitted
    weights = None if sigma is None else sigma_weights(np.asarray(sigma, dtype=np.float64))
    return fit_pdm(pdm, landmarks, weights, start)


@dataclass(frozen=True)
class Correction:
    """Change by CLNF on a frame, as parameters of the PDM, for propagation to other frames."""

    growth: float  # scale after over scale before
    rotation: Floats  # (3, 3); rotation about the axes of the face: ``R_after = R_before @ rotation``
    shift: Floats  # (2,); change of the translation in the upright frame, units of the PDM
    shape: Floats  # (m,); change of q
    shares: Floats  # (68,); share of the initial landmarks' residual from the PDM that is kept


def measure_correction(pdm: PDM, params_from: Floats, params_to: Floats, shares: Floats) -> Correction:
    """Return the correction between PDM parameters before and after refinement.

    Arrays: `params_from` and `params_to` (6 + m,); `shares` (68,).
    """
    if len(params_from) != N_RIGID + pdm.n_modes or len(params_to) != len(params_from):
        raise ModelError(
            f"The parameters have lengths {len(params_from)} and {len(params_to)}: a PDM with {pdm.n_modes} "
            f"modes needs {N_RIGID + pdm.n_modes}."
        )
    before = rotation_matrix(params_from[1:4])
    upright = _rotation_2d(-normalized_frame.upright_angle(before))
    return Correction(
        growth=float(params_to[0] / params_from[0]),
        rotation=before.T @ rotation_matrix(params_to[1:4]),
        shift=upright @ (params_to[4:6] - params_from[4:6]) / params_from[0],
        shape=params_to[N_RIGID:] - params_from[N_RIGID:],
        shares=np.asarray(shares, dtype=np.float64),
    )


def apply_correction(
    pdm: PDM, correction: Correction, params: Floats, landmarks: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float32], Floats]:
    """Apply a correction to the same face on another frame.

    Arrays: `params` (6 + m,); `landmarks` (68, 2), px, x then y. Returns corrected landmarks, (68, 2)
    float32, and parameters, (6 + m,) float64.
    """
    before = rotation_matrix(params[1:4])
    carried = np.array(params, dtype=np.float64)
    carried[0] = params[0] * correction.growth
    carried[1:4] = euler_angles(before @ correction.rotation)
    carried[4:6] = (
        params[4:6] + params[0] * _rotation_2d(normalized_frame.upright_angle(before)) @ correction.shift
    )
    carried[N_RIGID:] += correction.shape
    carried = clamp(pdm, carried)
    residual = np.nan_to_num(np.asarray(landmarks, dtype=np.float64) - _project(pdm, params))
    result = _project(pdm, carried) + correction.shares[:, None] * residual
    return result.astype(np.float32), carried


def nearest_view(experts: AnyExperts, upright: Floats, index: int = 0) -> int:
    """Return the view of a scale nearest in pitch and yaw to PDM parameters in the normalised frame."""
    pitch, yaw = math.degrees(upright[1]), math.degrees(upright[2])
    centres = views_of(experts, index)[0]
    return int(np.argmin((centres[:, 0] - pitch) ** 2 + (centres[:, 1] - yaw) ** 2))


@dataclass(frozen=True)
class _Responses:
    """Response maps of a face at one scale."""

    scale: float  # of the PDM in the normalised frame
    growth: float  # px of the normalised frame per px of the image
    to_frame: Floats  # (2, 3); similarity transform from image to normalised frame
    local: Floats  # (6 + m,); PDM parameters in the normalised frame
    centres: npt.NDArray[Any]  # (68, 2); of the maps, px of the normalised frame
    maps: npt.NDArray[Any]  # (count, window, window)
    visible: npt.NDArray[np.bool_]  # (68,)
    confidences: Floats  # (68,); of the experts


def _respond(
    grey: npt.NDArray[np.uint8],
    found: Floats,
    model: ClnfModel,
    index: int,
    window: int,
    count: int = N_LANDMARKS,
) -> _Responses | None:
    """Evaluate the first `count` experts of a scale; None if the face is larger than `LARGEST_FACE`."""
    pdm, experts = model.pdm, model.experts
    scale = float(experts.scales[index])
    openface = isinstance(experts, OpenFaceExperts)
    if openface:  # OpenFace aligns to the current shape in frontal view
        reference = np.concatenate([[scale, 0.0, 0.0, 0.0, 0.0, 0.0], found[N_RIGID:]])
        to_frame = normalized_frame.shape_to_reference(_project(pdm, found), _project(pdm, reference))
    else:
        to_frame = normalized_frame.image_to_frame(found, scale)
    local = normalized_frame.move_pose(found, to_frame)
    view = nearest_view(experts, local, index)
    centres: npt.NDArray[Any] = _project(pdm, local)
    if not (centres.max(axis=0) - centres.min(axis=0) <= LARGEST_FACE).all():
        return None
    if not openface:
        centres = np.rint(centres).astype(np.int64)
    checkerboard = model.constants.checkerboard
    maps = model.engine.response_maps(
        grey, to_frame, centres[:count], window, experts, index, view, checkerboard
    )
    _, visibility, confidences = views_of(experts, index)
    growth = local[0] / found[0]
    return _Responses(scale, growth, to_frame, local, centres, maps, visibility[view], confidences[view])


def _first_scale(initial: Initial, model: ClnfModel) -> int:
    """Return the first scale: 1 if the initial landmarks are confident and none is fixed, otherwise 0.

    The coarsest scale corrects large errors, but displaces accurate landmarks.
    """
    if initial.fixed is not None or initial.sigma is None or len(model.experts.scales) < 2:
        return 0
    spread = math.sqrt(float(np.dot(initial.sigma, initial.sigma)) / N_LANDMARKS)
    right, left = (initial.projected[eye].tolist() for eye in OUTER_EYES)
    return int(spread < model.constants.confident_sigma * math.dist(right, left))


def _enlarged(experts: AnyExperts, index: int, found: Floats) -> bool:
    """Return whether the face would be enlarged at a scale of the normalised frame."""
    return bool(MIN_RELATIVE_SCALE * experts.scales[index] > found[0])


def _weights(at: _Responses, constants: EngineConstants) -> Floats:
    """Return the diagonal of W, (68,); if `constants.weight` is 0, it is 1 for all visible landmarks."""
    weights = constants.weight * at.confidences if constants.weight > 0 else np.ones(N_LANDMARKS)
    return np.asarray(np.where(at.visible, weights, 0.0))


def _search(
    at: _Responses,
    maps: npt.NDArray[Any],
    weights: Floats,
    model: ClnfModel,
    limits: tuple[int, float],
    whole: bool = False,
    targets: Floats | None = None,
) -> tuple[Floats, int]:
    """Run the engine's search; return the parameters and the number of steps, -1 if it failed.

    `limits` are the maximum iterations of each phase and the minimum motion, px of the image; `targets` are
    in px of the normalised frame.
    """
    constants, (max_iterations, min_motion) = model.constants, limits
    regularisation = constants.regularisation_at(at.scale)
    if constants.in_image:  # v and J scale with the frame, and so must r
        regularisation *= at.growth**2
    steps = Steps(constants.sigma_at(at.scale), regularisation, max_iterations, min_motion * at.growth, whole)
    try:
        local, taken = model.engine.search(model.pdm, at.local, maps, at.centres, weights, steps, targets)
    except np.linalg.LinAlgError:  # by the reference; the compiled engine returns -1
        return at.local, -1
    return local, int(taken)


def _responses_at(at: _Responses, points: Floats) -> npt.NDArray[np.float32]:
    """Return the largest response near each landmark, (68,); for hidden landmarks, the mean of the others."""
    window = at.maps.shape[1]
    reach = window // 2
    cells = np.clip(np.rint(points - at.centres).astype(np.int64) + reach, 1, window - 2)
    best = np.zeros(len(points))
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            best = np.maximum(best, at.maps[np.arange(len(points)), cells[:, 1] + dy, cells[:, 0] + dx])
    best = np.clip(best, 0.0, 1.0)
    if at.visible.any():
        best[~at.visible] = best[at.visible].mean()
    return best.astype(np.float32)


def log_responses(
    grey: npt.NDArray[np.uint8], params: Floats, candidates: list[npt.NDArray[Any]], model: ClnfModel
) -> Floats:
    """Return the mean log response of the two finest scales at N candidate positions, (N, 68) float64.

    Arrays: `grey` (H, W) uint8; `params` (6 + m,); `candidates` N of (68, 2), px, x then y.
    """
    found = np.full((2, len(candidates), N_LANDMARKS), np.nan)
    scales = len(model.experts.scales)
    for row, index in enumerate(range(max(scales - 2, 0), scales)):
        at = _respond(np.ascontiguousarray(grey), params, model, index, EVIDENCE_WINDOW)
        if at is not None:
            in_frame = [normalized_frame.transform(at.to_frame, np.asarray(p, float)) for p in candidates]
            found[row] = np.log([_responses_at(at, points) + RESPONSE_OFFSET for points in in_frame])
    return np.asarray(found[: min(scales, 2)].mean(axis=0))


def _project(pdm: PDM, params: Floats) -> Floats:
    """Compiled `pdm.project`, (68, 2)."""
    points = np.empty((2, pdm.n_points))
    project_kernel(pdm.mean, pdm.components, params, np.empty((3, pdm.n_points)), points)
    return points.T


def _rotation_2d(angle: float) -> Floats:
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def _usable(points: Floats, params: Floats, size: tuple[int, int]) -> bool:
    """Return whether a face is finite, of a usable size and mostly inside the image."""
    return bool(usable_kernel(np.ascontiguousarray(points), params, size))


def _not_refined(landmarks: npt.NDArray[Any], start: Floats, steps: int) -> ClnfFit:
    unchanged = np.asarray(landmarks, dtype=np.float32).copy()
    return ClnfFit(unchanged, start, start, np.ones(N_LANDMARKS), -math.inf, steps, False)


def _check_inputs(
    grey: npt.NDArray[np.uint8],
    landmarks: npt.NDArray[Any],
    params: Floats | None,
    pdm: PDM,
    sigma: npt.NDArray[Any] | None,
) -> tuple[Floats, Floats | None]:
    if grey.ndim != 2 or grey.dtype != np.uint8 or 0 in grey.shape:
        raise ImageError(
            f"CLNF needs a greyscale image (H, W) of type uint8, not {grey.shape} of type {grey.dtype}."
        )
    given = np.array(landmarks, dtype=np.float64, order="C")
    spread = None if sigma is None else np.array(sigma, dtype=np.float64)
    for name, array, shape in (
        ("landmarks", given, (N_LANDMARKS, 2)),
        ("params", params, (N_RIGID + pdm.n_modes,)),
        ("sigma", spread, (N_LANDMARKS,)),
        ("the mean shape of the PDM", pdm.mean, (3, N_LANDMARKS)),
    ):
        if array is not None and array.shape != shape:
            raise ModelError(f"For CLNF, {name} must have the shape {shape}, not {array.shape}.")
    if spread is not None:
        clean_kernel(spread)
    return given, spread
