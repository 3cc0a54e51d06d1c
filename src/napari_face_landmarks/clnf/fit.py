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
from napari_face_landmarks.clnf.parameters import TUNED, EngineConstants
from napari_face_landmarks.clnf.pdm import (
    N_RIGID,
    PDM,
    clamp,
    euler_angles,
    fit_pdm,
    project_kernel,
    rotation_matrix,
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
    pdm: PDM,
    experts: AnyExperts,
    settings: TrackerSettings,
    sigma: npt.NDArray[Any] | None = None,
    constants: EngineConstants = TUNED,
    engine: ModuleType | SimpleNamespace = numba_engine,
    held: npt.NDArray[np.bool_] | None = None,
) -> ClnfFit:
    """Refine a face's landmarks by CLNF.

    From coarse to fine: the patch experts of the view nearest to the pose are evaluated in a window round
    each landmark of the upright, scaled frame, and NU-RLMS moves the PDM to where they respond, first its
    pose, then all its parameters (Baltrusaitis et al. 2013; Zadeh et al. 2017). At each scale, each of the
    two phases takes at most `settings.max_iterations` steps and ends after the first that moves the landmarks
    less than `settings.convergence_px` on average; the next scale still runs, since its responses are new.
    With OpenFace's experts, scales at which the face would be enlarged are left out, as there.

    Three things are added to the published method, all only where `sigma` is given. Where the given landmarks
    are sure (`constants.sure_spread`) and none is held, the coarsest scale is left out. They act as a
    Gaussian prior in the response maps (`constants.prior_weight`). And the part of them that the PDM cannot
    express is kept in proportion to their certainty:
    ``landmarks = project(params) + c (given - project(start))`` with
    ``c = residual_share / (1 + (sigma / s / residual_sigma)**2)``.

    Experts that were trained on labels placed by hand may tell how far from there people put the landmarks
    (`PatchExperts.beyond`); that is added in the end.

    Parameters
    ----------
    grey : ndarray, (H, W), uint8
        The image.
    landmarks : ndarray, (68, 2)
        First landmarks, px, x then y; one that is not finite is left out of the fit.
    params : ndarray, (6 + m,), or None
        PDM parameters already fitted to `landmarks` (see `fit_landmarks`); fitted here if None.
    pdm : PDM
        Of 68 points.
    experts : PatchExperts or OpenFaceExperts
    settings : TrackerSettings
        `max_iterations`, `search_radius` and `convergence_px` are used.
    sigma : ndarray, (68,), optional
        Standard deviation that is expected of each of the first landmarks, px. Without it: plain CLNF.
    constants : EngineConstants
    engine : module
        `fast`, or `reference` to run the plain text of the method.
    held : ndarray, (68,), bool, optional
        Landmarks that are known to be in place, such as those placed by hand: in the normal equations they
        weigh `constants.held_weight` times as much as the others and are drawn to where they are given.

    Returns
    -------
    ClnfFit
        Always finite where `landmarks` are.

    Raises
    ------
    ImageError
        If `grey` is no (H, W) uint8 image.
    ModelError
        If the shapes of landmarks, parameters, sigma and PDM do not belong together.
    """
    given, claimed = _check_inputs(grey, landmarks, params, pdm, sigma)
    start = params
    try:
        if start is None:
            start = fit_landmarks(pdm, given, claimed)
    except ModelError:  # the landmarks are no face
        return _not_refined(landmarks, np.concatenate([[1.0], np.zeros(5 + pdm.n_modes)]), 0)
    start = clamp(pdm, start)
    first = _project(pdm, start)
    if not _usable(first, start, grey.shape):
        return _not_refined(landmarks, start, 0)
    known: npt.NDArray[np.bool_] = np.asarray(np.isfinite(given).all(axis=1))
    held = None if held is None or not (held & known).any() else np.asarray(held & known)
    given = np.where(known[:, None], given, first)
    grey = np.ascontiguousarray(grey)

    found, steps = start, 0
    begin = 0 if held is not None else _first_scale(claimed, first, experts, constants)
    for index in range(begin, len(experts.scales)):
        if index and isinstance(experts, OpenFaceExperts) and _enlarged(experts, index, found):
            break
        window = constants.window_at(index, settings.search_radius)
        at = _respond(grey, found, pdm, experts, index, window, constants, engine)
        if at is None:
            return _not_refined(landmarks, start, steps)
        maps, weights = at.maps, _weights(at, constants)
        if claimed is not None and constants.prior_weight > 0:
            precision = _prior_precision(claimed, start[0], at.scale, constants) * known
            maps = maps + np.float32(constants.hidden)
            maps = engine.multiply_prior(
                maps, at.centres, normalized_frame.transform(at.to_frame, given), precision
            )
            unseen = ~at.visible
            if unseen.any():
                weights[unseen & known] = weights[at.visible].mean() if at.visible.any() else constants.weight
        if held is not None:
            weights[held] = constants.held_weight * max(float(weights.max()), 1.0)
        local, taken = _search(
            at,
            maps,
            weights,
            pdm,
            constants,
            settings.max_iterations,
            settings.convergence_px,
            False,
            engine,
            held,
            None if held is None else normalized_frame.transform(at.to_frame, given),
        )
        if taken < 0 or not np.isfinite(local).all():
            return _not_refined(landmarks, start, steps)
        steps += taken
        found = normalized_frame.leave_frame(local, at.to_frame)
    assert at is not None  # there is a scale at least
    likelihood = engine.log_likelihood(maps, at.centres, _project(pdm, local), constants.sigma_at(at.scale))

    shares = _residual_shares(claimed, start[0], known, constants)
    result = _project(pdm, found) + shares[:, None] * (given - first)
    beyond = _beyond(experts, result, found)
    result += _in_image(beyond, found)
    growth = found[0] / start[0]
    moved = np.linalg.norm(result - given, axis=1).mean() / start[0]
    if (
        not _usable(result, found, grey.shape)
        or not 1 / LARGEST_GROWTH < growth < LARGEST_GROWTH
        or not moved < LARGEST_MOVE
    ):
        return _not_refined(landmarks, start, steps)
    return ClnfFit(result.astype(np.float32), found, start, shares, beyond, float(likelihood), steps, True)


@dataclass(frozen=True)
class OwnFit:
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


def fit_alone(
    grey: npt.NDArray[np.uint8],
    params: Floats,
    pdm: PDM,
    experts: AnyExperts,
    constants: EngineConstants,
    followed: bool = False,
    engine: ModuleType | SimpleNamespace = numba_engine,
) -> OwnFit:
    """Fit a face by CLNF alone, as OpenFace does: from a box on a first frame, then from the last frame.

    A scale at which the frame would be larger than the face in the image is left out, as is one whose window
    is 0.

    Parameters
    ----------
    grey : ndarray, (H, W), uint8
    params : ndarray, (6 + m,)
        Where to start: `params_of_crop`, or the last frame's parameters.
    pdm : PDM
        Of 68 points.
    experts : PatchExperts or OpenFaceExperts
    constants : EngineConstants
        Windows, iterations and all else.
    followed : bool
        Take the smaller windows of a face that is followed.
    engine : module
        `fast` or `reference`.

    Returns
    -------
    OwnFit
        Always finite.

    Raises
    ------
    ImageError
        If `grey` is no (H, W) uint8 image.
    ModelError
        If the shapes of parameters and PDM do not belong together.
    """
    _check_inputs(grey, np.zeros((N_LANDMARKS, 2)), params, pdm, None)
    start = clamp(pdm, params)
    first = _project(pdm, start) if np.isfinite(start).all() else np.full((N_LANDMARKS, 2), np.nan)
    failed = OwnFit(
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
        at = _respond(grey, found, pdm, experts, index, window, constants, engine)
        if at is None:
            return failed
        local, taken = _search(
            at,
            at.maps,
            _weights(at, constants),
            pdm,
            constants,
            constants.own_iterations,
            constants.own_convergence,
            True,
            engine,
        )
        if taken < 0 or not np.isfinite(local).all():
            return failed
        steps += taken
        found = normalized_frame.leave_frame(local, at.to_frame)
        last = (at, local, float(experts.scales[index]))
    points = _project(pdm, found)
    if last is None or not _usable(points, found, grey.shape):
        return failed
    at, local, scale = last
    places = _project(pdm, local)
    likelihood = engine.log_likelihood(at.maps, at.centres, places, constants.sigma_at(scale))
    confidence = _responses_at(at, places)
    if not np.isfinite(confidence).all():
        return failed
    return OwnFit(points.astype(np.float32), found, confidence, float(likelihood), steps, True)


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
    weights = None
    if sigma is not None:
        variance = np.square(np.asarray(sigma, dtype=np.float64))
        ordered = np.sort(variance)  # a tenth of the time of numpy.median
        typical = max(float(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2, 1e-6)
        weights = 2.0 * typical / (variance + typical)
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
    grey: npt.NDArray[np.uint8],
    found: Floats,
    pdm: PDM,
    experts: AnyExperts,
    index: int,
    window: int,
    constants: EngineConstants,
    engine: ModuleType | SimpleNamespace,
) -> _Responses | None:
    """Evaluate the experts of a scale about a face; None if the face has grown beyond all bounds."""
    scale = float(experts.scales[index])
    if isinstance(experts, OpenFaceExperts):  # frontal, with the present shape: the reference of OpenFace
        reference = np.concatenate([[scale, 0.0, 0.0, 0.0, 0.0, 0.0], found[N_RIGID:]])
        to_frame = normalized_frame.shape_to_reference(_project(pdm, found), _project(pdm, reference))
    else:
        to_frame = normalized_frame.image_to_frame(found, scale)
    local = normalized_frame.enter_frame(found, to_frame)
    view = nearest_view(experts, local, index)
    centres: npt.NDArray[Any] = _project(pdm, local)
    if not (centres.max(axis=0) - centres.min(axis=0) <= LARGEST_PICTURE).all():
        return None
    if not isinstance(experts, OpenFaceExperts):
        centres = np.rint(centres).astype(np.int64)
    maps = engine.response_maps(grey, to_frame, centres, window, experts, index, view, constants.checkerboard)
    _, visibility, confidences = views_of(experts, index)
    growth = local[0] / found[0]
    return _Responses(scale, growth, to_frame, local, centres, maps, visibility[view], confidences[view])


def _first_scale(
    claimed: Floats | None, first: Floats, experts: AnyExperts, constants: EngineConstants
) -> int:
    """Return the coarsest scale that is looked at: where the first landmarks are sure, the second.

    The coarsest finds landmarks that are far off, and moves those that are in place.
    """
    if claimed is None or len(experts.scales) < 2:
        return 0
    spread = math.sqrt(float(np.square(claimed).mean()))
    return int(spread < constants.sure_spread * float(inter_ocular(first)))


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
    pdm: PDM,
    constants: EngineConstants,
    max_iterations: int,
    least_motion: float,
    whole: bool,
    engine: ModuleType | SimpleNamespace,
    held: npt.NDArray[np.bool_] | None = None,
    targets: Floats | None = None,
) -> tuple[Floats, int]:
    """Run the engine's search; `least_motion` is in px of the image, `targets` of the frame.

    Steps are -1 where it broke down.
    """
    regularisation = constants.regularisation_at(at.scale)
    if constants.in_image:  # v and J shrink with the frame: so does what r counts against
        regularisation *= at.growth**2
    try:
        local, taken = engine.search(
            pdm,
            at.local,
            maps,
            at.centres,
            weights,
            constants.sigma_at(at.scale),
            regularisation,
            max_iterations,
            least_motion * at.growth,
            whole,
            held,
            targets,
        )
    except np.linalg.LinAlgError:  # of the reference; the fast engine says -1
        return at.local, -1
    return local, int(taken)


def _responses_at(at: _Responses, points: Floats) -> npt.NDArray[np.float32]:
    """Return the largest response beside each landmark, (68,); of one that is hidden, the others' mean."""
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


def _prior_precision(claimed: Floats, image_scale: float, scale: float, constants: EngineConstants) -> Floats:
    """Return the precision of the prior, (68,), px**-2 of the frame."""
    variance = (claimed / image_scale) ** 2 + constants.prior_floor**2
    return np.asarray(constants.prior_weight / (variance * scale**2))


def _residual_shares(
    claimed: Floats | None, image_scale: float, known: npt.NDArray[np.bool_], constants: EngineConstants
) -> Floats:
    if claimed is None:
        return np.zeros(N_LANDMARKS)
    doubt = (claimed / image_scale / constants.residual_sigma) ** 2
    return np.asarray(constants.residual_share / (1.0 + doubt) * known)


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
