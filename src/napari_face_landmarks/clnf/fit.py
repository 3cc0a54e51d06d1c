"""CLNF from an image and first landmarks to refined landmarks, and its correction carried to other frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf import normalized_frame, numba_engine
from napari_face_landmarks.clnf.openface_experts import AnyExperts, OpenFaceExperts, views_of
from napari_face_landmarks.clnf.parameters import TUNED, EngineConstants, Steps
from napari_face_landmarks.clnf.pdm import (
    N_RIGID,
    PDM,
    clamp,
    euler_angles,
    fit_pdm,
    project_kernel,
    rotation_matrix,
    spread_weights,
)
from napari_face_landmarks.errors import ImageError, ModelError
from napari_face_landmarks.ibug import N_LANDMARKS, inter_ocular
from napari_face_landmarks.settings import TrackerSettings

Floats = npt.NDArray[np.float64]

SMALLEST_SCALE = 0.1  # px per unit of the PDM: outer eye corners 9 px apart
LARGEST_SCALE = 200.0
LARGEST_MOVE = 45.0  # units of the PDM, half the distance of the outer eye corners, mean over landmarks
LARGEST_GROWTH = 2.0
LARGEST_PICTURE = 1000  # px of the normalised frame
LEAST_ENLARGED = 0.9  # of a scale: a face whose own scale is smaller is not looked at there, as in OpenFace


@dataclass(frozen=True)
class ClnfModel:
    """What CLNF runs with.

    Attributes
    ----------
    pdm : PDM
        Of 68 points.
    experts : PatchExperts or OpenFaceExperts
    constants : EngineConstants
    engine : module
        `numba_engine`, or `reference`: the method in plain NumPy.
    """

    pdm: PDM
    experts: AnyExperts
    constants: EngineConstants = TUNED
    engine: ModuleType | SimpleNamespace = numba_engine


@dataclass(frozen=True)
class ClnfFit:
    """What CLNF found on one face.

    Attributes
    ----------
    landmarks : ndarray, (68, 2), float32
        Pixels, x then y; the given ones where `converged` is False.
    params : ndarray, (6 + m,), float64
        PDM parameters in the image: s, rx, ry, rz, tx, ty, q.
    start : ndarray, (6 + m,), float64
        PDM parameters fitted to the given landmarks.
    shares : ndarray, (68,), float64
        Share c of the given landmarks' residual outside the PDM that `landmarks` keeps.
    beyond : ndarray, (68, 2), float64
        How far `landmarks` are from where the search ended, because people put them there
        (`PatchExperts.beyond`); units of the PDM in the upright frame.
    likelihood : float
        Mean log response at the landmarks, finest scale; -inf where `converged` is False.
    iterations : int
        NU-RLMS steps taken.
    converged : bool
        True if the search ended with a usable face; False if it broke down (no face to fit, face too small or
        outside the image, singular equations, landmarks running away) and `landmarks` are the given ones.
    """

    landmarks: npt.NDArray[np.float32]
    params: Floats
    start: Floats
    shares: Floats
    beyond: Floats
    likelihood: float
    iterations: int
    converged: bool


def refine(
    grey: npt.NDArray[np.uint8],
    landmarks: npt.NDArray[Any],
    params: Floats | None,
    model: ClnfModel,
    settings: TrackerSettings,
    sigma: npt.NDArray[Any] | None = None,
    held: npt.NDArray[np.bool_] | None = None,
) -> ClnfFit:
    """Refine a face's landmarks by CLNF.

    From coarse to fine, the patch experts of the view nearest to the pose are evaluated in a window around
    each landmark of the upright, scaled frame, and NU-RLMS moves the PDM to where they respond: first its
    pose, then all its parameters (Baltrusaitis et al. 2013; Zadeh et al. 2017). At each scale, each of the
    two phases takes at most `settings.max_iterations` steps and ends after the first that moves the landmarks
    by less than `settings.convergence_px` on average. With OpenFace's experts, scales at which the face would
    be enlarged are left out, as in OpenFace.

    Three things are added to the published method, all only where `sigma` is given. Where the given landmarks
    are confident (`sure_spread` of the constants) and none is held, the coarsest scale is left out. They act
    as a Gaussian prior in the response maps (`prior_weight`). And a share of their residual outside the PDM
    is kept, ``c (given - project(start))``, ``c = residual_share / (1 + (sigma / s / residual_sigma)**2)``.

    Parameters
    ----------
    grey : ndarray, (H, W), uint8
        The image.
    landmarks : ndarray, (68, 2)
        First landmarks, px, x then y; one that is not finite is left out of the fit.
    params : ndarray, (6 + m,), or None
        PDM parameters already fitted to `landmarks` (see `fit_landmarks`); fitted here if None.
    model : ClnfModel
    settings : TrackerSettings
        `max_iterations`, `search_radius` and `convergence_px` are used.
    sigma : ndarray, (68,), optional
        Expected standard deviation of each first landmark, px. Without it: plain CLNF.
    held : ndarray, (68,), bool, optional
        Landmarks that are known to be in place, such as manual ones: in the normal equations they weigh
        `held_weight` times as much as the others and are drawn to where they are given.

    Returns
    -------
    ClnfFit
        Always finite where `landmarks` are.

    Raises
    ------
    ImageError, ModelError
        If `grey` is no (H, W) uint8 image, or the shapes of the arrays do not belong together.
    """
    pdm, constants = model.pdm, model.constants
    given, claimed = _check_inputs(grey, landmarks, params, pdm, sigma)
    try:
        start = clamp(pdm, fit_landmarks(pdm, given, claimed) if params is None else params)
    except ModelError:  # the landmarks are no face
        return _not_refined(landmarks, np.concatenate([[1.0], np.zeros(5 + pdm.n_modes)]), 0)
    projected = _project(pdm, start)
    if not _usable(projected, start, grey.shape):
        return _not_refined(landmarks, start, 0)
    known: npt.NDArray[np.bool_] = np.asarray(np.isfinite(given).all(axis=1))
    fixed = None if held is None or not (held & known).any() else np.asarray(held & known)
    first = _First(np.where(known[:, None], given, projected), known, claimed, fixed, float(start[0]))
    found, steps, likelihood = _coarse_to_fine(np.ascontiguousarray(grey), start, first, model, settings)
    if found is None:
        return _not_refined(landmarks, start, steps)

    shares = _residual_shares(first, constants)
    result = _project(pdm, found) + shares[:, None] * (first.landmarks - projected)
    beyond = _beyond(model.experts, result, found)
    result += _in_image(beyond, found)
    growth = found[0] / start[0]
    moved = np.linalg.norm(result - first.landmarks, axis=1).mean() / start[0]
    if (
        not _usable(result, found, grey.shape)
        or not 1 / LARGEST_GROWTH < growth < LARGEST_GROWTH
        or not moved < LARGEST_MOVE
    ):
        return _not_refined(landmarks, start, steps)
    return ClnfFit(result.astype(np.float32), found, start, shares, beyond, likelihood, steps, True)


@dataclass(frozen=True)
class _First:
    """First landmarks, (68, 2) px: which are known, their sigma, which are held; the scale s of their fit."""

    landmarks: Floats
    known: npt.NDArray[np.bool_]
    sigma: Floats | None
    held: npt.NDArray[np.bool_] | None
    scale: float


def _coarse_to_fine(
    grey: npt.NDArray[np.uint8], start: Floats, first: _First, model: ClnfModel, settings: TrackerSettings
) -> tuple[Floats | None, int, float]:
    """Search scale after scale; return the parameters (None: broke down), steps and likelihood."""
    experts, constants = model.experts, model.constants
    found, steps, likelihood = start, 0, -math.inf
    begin = 0 if first.held is not None else _first_scale(first.sigma, _project(model.pdm, start), model)
    for index in range(begin, len(experts.scales)):
        if index and isinstance(experts, OpenFaceExperts) and _enlarged(experts, index, found):
            break
        at = _respond(grey, found, model, index, constants.window_at(index, settings.search_radius))
        if at is None:
            return None, steps, likelihood
        maps, weights = _with_prior(at, first, model)
        targets = None
        if first.held is not None:
            weights[first.held] = constants.held_weight * max(float(weights.max()), 1.0)
            targets = normalized_frame.transform(at.to_frame, first.landmarks)
            targets[~first.held] = np.nan
        limits = settings.max_iterations, settings.convergence_px
        local, taken = _search(at, maps, weights, model, limits, targets=targets)
        if taken < 0 or not np.isfinite(local).all():
            return None, steps, likelihood
        steps += taken
        found = normalized_frame.move_pose(local, normalized_frame.invert_kernel(at.to_frame))
    assert at is not None  # there is at least one scale
    points, sigma = _project(model.pdm, local), constants.sigma_at(at.scale)
    return found, steps, float(model.engine.log_likelihood(maps, at.centres, points, sigma))


def _with_prior(at: _Responses, first: _First, model: ClnfModel) -> tuple[npt.NDArray[Any], Floats]:
    """Return the response maps with the first landmarks' prior, and the weights of the landmarks."""
    constants, maps, weights = model.constants, at.maps, _weights(at, model.constants)
    if first.sigma is None or constants.prior_weight <= 0:
        return maps, weights
    variance = (first.sigma / first.scale) ** 2 + constants.prior_floor**2
    precision = constants.prior_weight / (variance * at.scale**2) * first.known  # px**-2 of the frame
    centres = normalized_frame.transform(at.to_frame, first.landmarks)
    maps = model.engine.multiply_prior(maps + np.float32(constants.hidden), at.centres, centres, precision)
    unseen = ~at.visible
    if unseen.any():
        seen = weights[at.visible].mean() if at.visible.any() else constants.weight
        weights[unseen & first.known] = seen
    return maps, weights


@dataclass(frozen=True)
class ClnfOnlyFit:
    """What CLNF found by itself, without first landmarks.

    Attributes
    ----------
    landmarks : ndarray, (68, 2), float32
        Pixels, x then y.
    params : ndarray, (6 + m,), float64
        PDM parameters in the image.
    confidence : ndarray, (68,), float32
        The experts' response at each landmark, 0 to 1; a landmark that the view hides has the others' mean.
    likelihood : float
        Mean log response at the landmarks, finest scale; -inf where `converged` is False.
    iterations : int
        NU-RLMS steps taken.
    converged : bool
        False if the search broke down; `params` are then where it started.
    """

    landmarks: npt.NDArray[np.float32]
    params: Floats
    confidence: npt.NDArray[np.float32]
    likelihood: float
    iterations: int
    converged: bool


def fit_clnf_only(
    grey: npt.NDArray[np.uint8], params: Floats, model: ClnfModel, followed: bool = False
) -> ClnfOnlyFit:
    """Fit a face by CLNF alone, as OpenFace does: from a box on a first frame, then from the last frame.

    A scale at which the frame would be larger than the face in the image is left out, as is one whose window
    is 0.

    Parameters
    ----------
    grey : ndarray, (H, W), uint8
    params : ndarray, (6 + m,)
        Where to start: `params_of_crop`, or the last frame's parameters.
    model : ClnfModel
        Its constants give the windows and iterations.
    followed : bool
        Use the smaller windows of a face that is tracked.

    Returns
    -------
    ClnfOnlyFit
        Always finite.

    Raises
    ------
    ImageError
        If `grey` is no (H, W) uint8 image.
    ModelError
        If the shapes of parameters and PDM do not belong together.
    """
    pdm, experts, constants = model.pdm, model.experts, model.constants
    _check_inputs(grey, np.zeros((N_LANDMARKS, 2)), params, pdm, None)
    start = clamp(pdm, params)
    first = _project(pdm, start) if np.isfinite(start).all() else np.full((N_LANDMARKS, 2), np.nan)
    failed = ClnfOnlyFit(
        np.nan_to_num(first).astype(np.float32), start, np.zeros(N_LANDMARKS, np.float32), -math.inf, 0, False
    )
    if not _usable(first, start, grey.shape):
        return failed
    grey = np.ascontiguousarray(grey)
    windows = constants.followed_windows if followed else constants.windows
    found, steps, last = start, 0, None
    for index, window in enumerate(windows[: len(experts.scales)]):
        if window == 0 or _enlarged(experts, index, found):
            continue
        at = _respond(grey, found, model, index, window)
        if at is None:
            return failed
        limits = constants.own_iterations, constants.own_convergence
        local, taken = _search(at, at.maps, _weights(at, constants), model, limits, whole=True)
        if taken < 0 or not np.isfinite(local).all():
            return failed
        steps += taken
        found = normalized_frame.move_pose(local, normalized_frame.invert_kernel(at.to_frame))
        last = (at, local)
    points = _project(pdm, found)
    if last is None or not _usable(points, found, grey.shape):
        return failed
    at, local = last
    places = _project(pdm, local)
    likelihood = model.engine.log_likelihood(at.maps, at.centres, places, constants.sigma_at(at.scale))
    confidence = _responses_at(at, places)
    if not np.isfinite(confidence).all():
        return failed
    return ClnfOnlyFit(points.astype(np.float32), found, confidence, float(likelihood), steps, True)


def params_of_crop(pdm: PDM, crop: npt.NDArray[Any], margin: float) -> Floats:
    """Return the parameters, (6 + m,), of the mean face in a crop.

    Parameters
    ----------
    pdm : PDM
    crop : ndarray, (4,)
        Centre x, centre y, side (px) and roll (rad) of the upright square round the face.
    margin : float
        The crop's side over the larger side of the landmarks' bounding box.
    """
    low, high = pdm.mean[:2].min(axis=1), pdm.mean[:2].max(axis=1)
    scale = float(crop[2]) / margin / float((high - low).max())
    roll = float(crop[3])
    place = np.asarray(crop[:2], dtype=np.float64) - scale * _turn(roll) @ ((low + high) / 2)
    return np.concatenate([[scale, 0.0, 0.0, roll], place, np.zeros(pdm.n_modes)])


def fit_landmarks(
    pdm: PDM,
    landmarks: npt.NDArray[Any],
    sigma: npt.NDArray[Any] | None = None,
    start: Floats | None = None,
    constants: EngineConstants = TUNED,
) -> Floats:
    """Fit the PDM to first landmarks, the surer ones more closely.

    Parameters
    ----------
    pdm : PDM
    landmarks : ndarray, (68, 2)
        Pixels, x then y.
    sigma : ndarray, (68,), optional
        Standard deviation of each landmark, px.
    start : ndarray, (6 + m,), optional
        Where to start, for example the last frame's parameters.
    constants : EngineConstants
        `fit_noise` is used.

    Returns
    -------
    ndarray, (6 + m,), float64

    Raises
    ------
    ModelError
        If fewer than six landmarks are usable, or they all lie in one place.
    """
    weights = None if sigma is None else spread_weights(np.asarray(sigma, dtype=np.float64))
    return fit_pdm(pdm, landmarks, weights, start, noise=constants.fit_noise)


@dataclass(frozen=True)
class Correction:
    """What CLNF changed on a frame, in the PDM's own space, ready to be carried to the next frames.

    Attributes
    ----------
    growth : float
        Scale after over scale before.
    rotation : ndarray, (3, 3), float64
        Turn about the face's own axes: ``R_after = R_before @ rotation``.
    shift : ndarray, (2,), float64
        Change of the translation in the upright frame, units of the PDM.
    shape : ndarray, (m,), float64
        Change of q.
    shares : ndarray, (68,), float64
        Share kept of the first landmarks' residual outside the PDM.
    beyond : ndarray, (68, 2), float64
        What is added to the landmarks, units of the PDM in the upright frame.
    """

    growth: float
    rotation: Floats
    shift: Floats
    shape: Floats
    shares: Floats
    beyond: Floats


def measure_correction(
    pdm: PDM, params_from: Floats, params_to: Floats, shares: Floats, beyond: Floats
) -> Correction:
    """Return what leads from the PDM fitted to first landmarks to the refined one.

    Parameters
    ----------
    pdm : PDM
    params_from, params_to : ndarray, (6 + m,)
        `ClnfFit.start` and `ClnfFit.params`.
    shares : ndarray, (68,)
        `ClnfFit.shares`.
    beyond : ndarray, (68, 2)
        `ClnfFit.beyond`.

    Returns
    -------
    Correction
    """
    if len(params_from) != N_RIGID + pdm.n_modes or len(params_to) != len(params_from):
        raise ModelError(
            f"Parameters of the lengths {len(params_from)} and {len(params_to)} do not fit a model of "
            f"{pdm.n_modes} components: give {N_RIGID + pdm.n_modes} of each."
        )
    before = rotation_matrix(params_from[1:4])
    upright = _turn(-normalized_frame.upright_angle(before))
    return Correction(
        growth=float(params_to[0] / params_from[0]),
        rotation=before.T @ rotation_matrix(params_to[1:4]),
        shift=upright @ (params_to[4:6] - params_from[4:6]) / params_from[0],
        shape=params_to[N_RIGID:] - params_from[N_RIGID:],
        shares=np.asarray(shares, dtype=np.float64),
        beyond=np.asarray(beyond, dtype=np.float64),
    )


def apply_correction(
    pdm: PDM, correction: Correction, params: Floats, landmarks: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float32], Floats]:
    """Carry a correction to another frame of the same face.

    Parameters
    ----------
    pdm : PDM
    correction : Correction
    params : ndarray, (6 + m,)
        PDM fitted to the frame's first landmarks (`fit_landmarks`).
    landmarks : ndarray, (68, 2)
        The frame's first landmarks, px, x then y.

    Returns
    -------
    landmarks : ndarray, (68, 2), float32
        Pixels; applied to the frame that it was measured on, a correction gives `ClnfFit.landmarks` again.
    params : ndarray, (6 + m,), float64
    """
    before = rotation_matrix(params[1:4])
    carried = np.array(params, dtype=np.float64)
    carried[0] = params[0] * correction.growth
    carried[1:4] = euler_angles(before @ correction.rotation)
    carried[4:6] = params[4:6] + params[0] * _turn(normalized_frame.upright_angle(before)) @ correction.shift
    carried[N_RIGID:] += correction.shape
    carried = clamp(pdm, carried)
    residual = np.nan_to_num(np.asarray(landmarks, dtype=np.float64) - _project(pdm, params))
    result = _project(pdm, carried) + correction.shares[:, None] * residual
    result += _in_image(correction.beyond, carried)
    return result.astype(np.float32), carried


def to_upright(displacements: npt.NDArray[Any], params: Floats) -> Floats:
    """Return displacements in the image, (n, 2) px, in units of the PDM in the upright frame of a pose."""
    return np.asarray(displacements @ _upright(params) / params[0])


def _in_image(upright: Floats, params: Floats) -> Floats:
    """Return what `to_upright` gave as pixels of the image."""
    return np.asarray(params[0] * upright @ _upright(params).T)


def _upright(params: Floats) -> Floats:
    """Return the turn from the upright frame of a pose to the image, (2, 2)."""
    return _turn(normalized_frame.upright_angle(rotation_matrix(params[1:4])))


def nearest_view(experts: AnyExperts, upright: Floats, index: int = 0) -> int:
    """Return the view of a scale that is nearest to the pitch and yaw of parameters of the upright frame."""
    pitch, yaw = math.degrees(upright[1]), math.degrees(upright[2])
    centres = views_of(experts, index)[0]
    return int(np.argmin((centres[:, 0] - pitch) ** 2 + (centres[:, 1] - yaw) ** 2))


@dataclass(frozen=True)
class _Responses:
    """A face at one scale: the frame, its parameters there, and what the experts respond about it."""

    scale: float
    growth: float
    to_frame: Floats
    local: Floats
    centres: npt.NDArray[Any]
    maps: npt.NDArray[Any]
    visible: npt.NDArray[np.bool_]
    confidences: Floats


def _respond(
    grey: npt.NDArray[np.uint8], found: Floats, model: ClnfModel, index: int, window: int
) -> _Responses | None:
    """Evaluate the experts of a scale around a face; None if the face has grown beyond all bounds."""
    pdm, experts = model.pdm, model.experts
    scale = float(experts.scales[index])
    openface = isinstance(experts, OpenFaceExperts)
    if openface:  # OpenFace's reference: frontal, with the present shape
        reference = np.concatenate([[scale, 0.0, 0.0, 0.0, 0.0, 0.0], found[N_RIGID:]])
        to_frame = normalized_frame.shape_to_reference(_project(pdm, found), _project(pdm, reference))
    else:
        to_frame = normalized_frame.image_to_frame(found, scale)
    local = normalized_frame.move_pose(found, to_frame)
    view = nearest_view(experts, local, index)
    centres: npt.NDArray[Any] = _project(pdm, local)
    if not (centres.max(axis=0) - centres.min(axis=0) <= LARGEST_PICTURE).all():
        return None
    if not openface:
        centres = np.rint(centres).astype(np.int64)
    checkerboard = model.constants.checkerboard
    maps = model.engine.response_maps(grey, to_frame, centres, window, experts, index, view, checkerboard)
    _, visibility, confidences = views_of(experts, index)
    growth = local[0] / found[0]
    return _Responses(scale, growth, to_frame, local, centres, maps, visibility[view], confidences[view])


def _first_scale(sigma: Floats | None, first: Floats, model: ClnfModel) -> int:
    """Return the scale to begin with: the second where the first landmarks are confident.

    The coarsest finds landmarks that are far off, and moves those that are in place.
    """
    if sigma is None or len(model.experts.scales) < 2:
        return 0
    spread = math.sqrt(float(np.square(sigma).mean()))
    return int(spread < model.constants.sure_spread * float(inter_ocular(first)))


def _enlarged(experts: AnyExperts, index: int, found: Floats) -> bool:
    """Return whether the frame of a scale would show a face larger than the image does."""
    return bool(LEAST_ENLARGED * experts.scales[index] > found[0])


def _weights(at: _Responses, constants: EngineConstants) -> Floats:
    """Return the diagonal of W, (68,); all landmarks that are seen count the same where the factor is 0."""
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
    """Run the engine's search; return the parameters and the steps taken, -1 where it broke down.

    `limits` are the iterations of each phase and the least motion, px of the image; `targets` are in px of
    the frame.
    """
    constants, (max_iterations, least_motion) = model.constants, limits
    regularisation = constants.regularisation_at(at.scale)
    if constants.in_image:  # v and J shrink with the frame, and so does what r counts against
        regularisation *= at.growth**2
    steps = Steps(
        constants.sigma_at(at.scale), regularisation, max_iterations, least_motion * at.growth, whole
    )
    try:
        local, taken = model.engine.search(model.pdm, at.local, maps, at.centres, weights, steps, targets)
    except np.linalg.LinAlgError:  # of the reference; the compiled engine returns -1
        return at.local, -1
    return local, int(taken)


def _responses_at(at: _Responses, points: Floats) -> npt.NDArray[np.float32]:
    """Return the largest response next to each landmark, (68,); the mean of the others for a hidden one."""
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


def _project(pdm: PDM, params: Floats) -> Floats:
    """Return `pdm.project` by its kernel, (68, 2)."""
    points = np.empty((2, pdm.n_points))
    project_kernel(pdm.mean, pdm.components, params, np.empty((3, pdm.n_points)), points)
    return points.T


def _turn(angle: float) -> Floats:
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def _residual_shares(first: _First, constants: EngineConstants) -> Floats:
    if first.sigma is None:
        return np.zeros(N_LANDMARKS)
    doubt = (first.sigma / first.scale / constants.residual_sigma) ** 2
    return np.asarray(constants.residual_share / (1.0 + doubt) * first.known)


def _beyond(experts: AnyExperts, landmarks: Floats, params: Floats) -> Floats:
    """Return how far beyond the search's landmarks (px) people put them, (68, 2), PDM units, upright."""
    if isinstance(experts, OpenFaceExperts) or experts.beyond is None:
        return np.zeros((N_LANDMARKS, 2))
    own = normalized_frame.transform(normalized_frame.image_to_frame(params, 1.0), landmarks).ravel()
    return np.asarray((experts.beyond[0] + own @ experts.beyond[1:]).reshape(N_LANDMARKS, 2))


def _usable(points: Floats, params: Floats, size: tuple[int, ...]) -> bool:
    """Return whether a face is finite, of a size that can be searched and mostly inside the image."""
    if not (np.isfinite(params).all() and np.isfinite(points).all()):
        return False
    inside = ((points > -0.5) & (points < np.array([size[1], size[0]]) - 0.5)).all(axis=1)
    return bool(SMALLEST_SCALE <= params[0] <= LARGEST_SCALE and 2 * np.count_nonzero(inside) >= len(points))


def _not_refined(landmarks: npt.NDArray[Any], start: Floats, steps: int) -> ClnfFit:
    kept = np.asarray(landmarks, dtype=np.float32).copy()
    return ClnfFit(
        kept, start, start, np.ones(N_LANDMARKS), np.zeros((N_LANDMARKS, 2)), -math.inf, steps, False
    )


def _check_inputs(
    grey: npt.NDArray[np.uint8],
    landmarks: npt.NDArray[Any],
    params: Floats | None,
    pdm: PDM,
    sigma: npt.NDArray[Any] | None,
) -> tuple[Floats, Floats | None]:
    if grey.ndim != 2 or grey.dtype != np.uint8 or 0 in grey.shape:
        raise ImageError(
            f"CLNF was given an image {grey.shape} {grey.dtype}: give a grey (H, W) uint8 image."
        )
    given = np.asarray(landmarks, dtype=np.float64)
    claimed = None if sigma is None else np.asarray(sigma, dtype=np.float64)
    shapes = {
        "landmarks": (given, (N_LANDMARKS, 2)),
        "params": (params, (N_RIGID + pdm.n_modes,)),
        "sigma": (claimed, (N_LANDMARKS,)),
        "the mean of the PDM": (pdm.mean, (3, N_LANDMARKS)),
    }
    for name, (array, shape) in shapes.items():
        if array is not None and array.shape != shape:
            raise ModelError(f"CLNF was given {name} of the shape {array.shape}: give {shape}.")
    if claimed is not None:
        largest = np.nanmax(np.where(np.isfinite(claimed), claimed, 0.0), initial=1.0)
        claimed = np.where(np.isfinite(claimed) & (claimed >= 0), claimed, 100.0 * largest)
    return given, claimed
