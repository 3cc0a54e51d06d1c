"""Refit of a face to manual landmarks."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf import numba_engine
from napari_face_landmarks.clnf.fit import refine
from napari_face_landmarks.clnf.pdm import PDM, fit_pdm, project
from napari_face_landmarks.correction import constants
from napari_face_landmarks.data.edit import HAND_ERROR, edited_values, row_of, with_face
from napari_face_landmarks.data.names import MODELS
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ImageError, ModelError, ResultError
from napari_face_landmarks.ibug import N_LANDMARKS, inter_ocular
from napari_face_landmarks.models import Models
from napari_face_landmarks.parts import refine_parts
from napari_face_landmarks.pfld import crops_of_landmarks, predict_twice
from napari_face_landmarks.pfld.network import POOR_NME
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.frame_source import check_size, recorded_pixel_range
from napari_face_landmarks.tracking.frame_view import recorded_view
from napari_face_landmarks.video.pixels import to_grey, to_rgb8

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Refit:
    """A refitted face.

    Attributes
    ----------
    landmarks : ndarray, (68, 2), float32
        Pixels, x then y; manual landmarks are unchanged.
    confidence : ndarray, (68,), float32
        0 to 1; 1 for manual landmarks. For the others, PFLD's confidence on the frame, reduced down to 0.5 by
        their distance from PFLD's landmarks; 0.5 without PFLD.
    sigma : ndarray, (68,), float32
        Standard deviation of each landmark's error along one axis, pixels: 1 % of the inter-ocular distance
        for manual landmarks; for the others PFLD's sigma, or their distance from PFLD's landmarks if that is
        larger.
    params : ndarray, (6 + m,), float64
        Parameters of the PDM.
    refined : bool
        Whether CLNF converged; if not, the landmarks are those of the initial PDM fit.
    doubtful : ndarray, (68,), bool
        Manual landmarks that are inconsistent with the others: they keep their positions but are ignored in
        the fit. All False if there are fewer than four manual landmarks.
    """

    landmarks: Floats
    confidence: Floats
    sigma: Floats
    params: npt.NDArray[np.float64]
    refined: bool
    doubtful: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(N_LANDMARKS, np.bool_))


class CorrectionWarning(UserWarning):
    """A manual landmark is inconsistent with the others, or the tracks were made with other models."""


def warn_of_other_models(models: Models, tracks: Tracks) -> None:
    """Warn, at the caller's caller, if the tracks were made with other models."""
    if (name := tracks.meta.get(MODELS, models.name)) != models.name:
        warnings.warn(
            f"The landmarks were tracked with the models {name!r} but are corrected with {models.name!r}: "
            f"load the models {name!r} instead.",
            CorrectionWarning,
            stacklevel=3,
        )


@dataclass(frozen=True, slots=True)
class _Start:
    """Initial landmarks for CLNF."""

    landmarks: npt.NDArray[np.float64]  # (68, 2), px
    sigma: npt.NDArray[np.float64]  # (68,), px
    confidence: Floats  # (68,)


def refit(
    models: Models,
    image: Any,
    landmarks: npt.ArrayLike,
    held: npt.ArrayLike,
    settings: TrackerSettings | None = None,
    engine: ModuleType = numba_engine,
) -> Refit:
    """Fit a face to manual landmarks.

    The PDM is fitted twice, to all landmarks equally and mainly to the manual ones, and PFLD runs on the
    crops of both fits. Of the given landmarks, the fit and PFLD's outputs, those that agree best with the
    manual landmarks are refined by CLNF, in which manual landmarks have `EngineConstants.fixed_weight` times
    the weight of the others. A manual landmark that is far from its position predicted by PFLD from all
    others, for example after the wrong landmark was dragged, is ignored in the fit.

    Parameters
    ----------
    models : Models
        From `load_models`.
    image : array-like, (H, W), (H, W, 3) or (H, W, 4)
        The frame.
    landmarks : array-like, (68, 2)
        Current landmarks, including the manual ones; px, x then y; NaN if unknown.
    held : array-like, (68,), bool
        Mask of the manual landmarks.
    settings : TrackerSettings, optional
        `max_iterations` (at least 5 are used), `search_radius` and `convergence_px` apply.
    engine : module
        Implementation of CLNF: `clnf.numba_engine` or `clnf.reference`.

    Returns
    -------
    Refit

    Raises
    ------
    ImageError
        If the shape or dtype of the image, the landmarks or the mask is wrong.
    ModelError
        If there are too few landmarks to locate the face.
    """
    given = np.array(landmarks, dtype=np.float64)
    fixed = np.asarray(held)
    if given.shape != (N_LANDMARKS, 2) or fixed.shape != (N_LANDMARKS,) or fixed.dtype != np.bool_:
        raise ImageError(
            f"The landmarks have the shape {given.shape}, and the mask has the dtype {fixed.dtype} and shape "
            f"{fixed.shape}: give ({N_LANDMARKS}, 2) and bool ({N_LANDMARKS},)."
        )
    fixed = fixed & np.isfinite(given).all(axis=1)
    rgb, pdm = to_rgb8(image), models.pdm
    settings = settings or TrackerSettings()
    best, size, predictions = _best_start(models, rgb, given, fixed)
    manual, doubtful = given, _doubtful(models, rgb, given, fixed)
    if doubtful.any():
        given, fixed = np.where(doubtful[:, None], np.nan, given), fixed & ~doubtful
        best, size, predictions = _best_start(models, rgb, given, fixed)
    points, sigma = best.landmarks.copy(), best.sigma.copy()
    points[fixed], sigma[fixed] = given[fixed], constants.MANUAL_SIGMA * size
    params = fit_pdm(
        pdm, points, np.where(fixed, constants.MANUAL_WEIGHT, 1.0 / (1.0 + (sigma / (0.05 * size)) ** 2))
    )
    settings = settings.replace(max_iterations=max(settings.max_iterations, constants.MIN_ITERATIONS))
    fit = refine(to_grey(rgb), points, params, models.clnf(engine), settings, sigma, fixed=fixed)
    fitted = fit.landmarks.astype(np.float64) if fit.converged else project(pdm, params)
    fitted = _moved_to_manual(fitted, given, fixed, size)
    fitted[doubtful] = manual[doubtful]
    confidence, spread = _confidence_and_sigma(fitted, predictions)
    by_hand = fixed | doubtful
    confidence[by_hand], spread[by_hand] = 1.0, HAND_ERROR * inter_ocular(fitted)
    return Refit(fitted.astype(np.float32), confidence, spread, fit.params, fit.converged, doubtful)


def refit_in_tracks(
    models: Models, image: Any, tracks: Tracks, frame: int, face: int, settings: TrackerSettings | None = None
) -> Tracks:
    """Return a copy of the tracks with a face on one frame refitted to its manual landmarks.

    Parameters
    ----------
    models : Models
    image : array-like, (H, W), (H, W, 3) or (H, W, 4)
        The frame.
    tracks : Tracks
    frame, face : int
        Index of the frame in the video, and of the face.
    settings : TrackerSettings, optional
        By default, the settings of the tracks.

    Raises
    ------
    ResultError
        If there is no such face on the frame, or it has too few landmarks.
    ImageError
        If the image is invalid, or its size differs from that of the tracked frames.

    Warns
    -----
    CorrectionWarning
        If manual landmarks are inconsistent with the others, or the tracks were made with other models.
    """
    row = row_of(tracks, frame, face)
    warn_of_other_models(models, tracks)
    rgb = to_rgb8(image, f"Frame {frame}", recorded_pixel_range(tracks))
    check_size(rgb.shape[:2], tracks)
    by_hand, view = tracks.by_hand[row, face], recorded_view(tracks, (rgb.shape[0], rgb.shape[1]))
    try:
        landmarks = view.seen(tracks.landmarks[row, face])
        fit = refit(models, view.frame(rgb), landmarks, by_hand, settings or tracks.settings)
    except ModelError as error:
        raise ResultError(
            f"Face {face} on frame {frame} cannot be refitted ({str(error).rstrip('.')}): correct more "
            "landmarks by hand."
        ) from error
    if fit.doubtful.any():
        numbers = ", ".join(map(str, np.flatnonzero(fit.doubtful)))
        warnings.warn(
            f"The manual landmarks on frame {frame} disagree: {numbers} is far from where the others predict "
            "it, keeps its position and is ignored in the fit; check that the right landmark was moved.",
            CorrectionWarning,
            stacklevel=2,
        )
    confidence, sigma = fit.confidence, fit.sigma
    if models.pfld is None:  # nothing new is known about the other landmarks
        before = tracks.confidence[row, face]
        confidence = np.where(by_hand | (before == 0), confidence, before)
        sigma = np.where(by_hand, sigma, tracks.sigma[row, face])
    landmarks, pose = view.in_source(fit.landmarks), fit.params[:6]
    return with_face(tracks, row, face, edited_values(tracks, row, face, landmarks, confidence, sigma, pose))


def _best_start(
    models: Models, rgb: npt.NDArray[np.uint8], given: npt.NDArray[np.float64], fixed: npt.NDArray[np.bool_]
) -> tuple[_Start, float, list[_Start]]:
    """Return the start that agrees best with the manual landmarks, the face's size (px), PFLD's outputs."""
    fits = _pdm_fits(models.pdm, given, fixed)
    sigma = [constants.AGREEMENT * max(float(inter_ocular(points)), 1.0) for points in fits]
    unknown = np.full(N_LANDMARKS, 0.5, np.float32)
    predictions = _predictions(models, rgb, fits)
    completed = np.where(np.isfinite(given), given, fits[0])
    starts = [
        _Start(completed, np.full(N_LANDMARKS, 0.5 * sigma[0]), unknown),
        _Start(fits[1], np.full(N_LANDMARKS, sigma[1]), unknown),
        *predictions,
    ]
    best = min(starts, key=lambda start: _cost(start, given, fixed))
    return best, max(float(inter_ocular(fits[1])), 1.0), predictions


def _confidence_and_sigma(
    landmarks: npt.NDArray[np.float64], predictions: list[_Start]
) -> tuple[Floats, Floats]:
    """Return confidence and sigma (px), (68,), of landmarks from the nearest of PFLD's outputs.

    Where a landmark is farther from PFLD's than PFLD's sigma, its distance is taken as its sigma, up to the
    sigma at which the confidence is 0.5: there PFLD is wrong, and nothing is known. Without PFLD that holds
    for all landmarks.
    """
    radius = POOR_NME * max(float(inter_ocular(landmarks)), 1.0)
    max_sigma = radius / np.sqrt(2 * np.log(2))
    if not predictions:
        return np.full(N_LANDMARKS, 0.5, np.float32), np.full(N_LANDMARKS, max_sigma, np.float32)
    distances = [np.linalg.norm(landmarks - each.landmarks, axis=1) / np.sqrt(2) for each in predictions]
    nearest = int(np.argmin(np.mean(distances, axis=1)))
    distance = np.clip(distances[nearest], 1e-9, max_sigma)
    confidence = np.minimum(predictions[nearest].confidence, -np.expm1(-0.5 * (radius / distance) ** 2))
    sigma = np.maximum(predictions[nearest].sigma, distance)
    return confidence.astype(np.float32), sigma.astype(np.float32)


def _pdm_fits(
    pdm: PDM, given: npt.NDArray[np.float64], fixed: npt.NDArray[np.bool_]
) -> list[npt.NDArray[np.float64]]:
    """Return the landmarks of the PDM fitted to all landmarks equally, and mainly to the manual ones."""
    weights = np.ones(N_LANDMARKS), np.where(fixed, constants.MANUAL_WEIGHT, constants.UNKNOWN_WEIGHT)
    return [project(pdm, fit_pdm(pdm, given, each)) for each in weights]


def _doubtful(
    models: Models, rgb: npt.NDArray[np.uint8], given: npt.NDArray[np.float64], fixed: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Return the mask, (68,), of manual landmarks that PFLD finds inconsistent with all other manual ones."""

    def prediction_from(used: npt.NDArray[np.bool_]) -> _Start | None:
        landmarks = np.where((fixed & ~used)[:, None], np.nan, given)
        predictions = _predictions(models, rgb, _pdm_fits(models.pdm, landmarks, used))
        return min(predictions, key=lambda start: _cost(start, given, used), default=None)

    doubtful = np.zeros(N_LANDMARKS, np.bool_)
    while (used := fixed & ~doubtful).sum() >= constants.MIN_TO_DOUBT:
        best = prediction_from(used)
        if best is None or _distances(best, given)[used].max() < constants.AGREEMENT:
            break
        candidates = []
        farthest_first = np.flatnonzero(used)[np.argsort(-_distances(best, given)[used])]
        for tested in farthest_first[: constants.MAX_TESTED]:
            others = used.copy()
            others[tested] = False
            start = prediction_from(others)
            if start is not None and _distances(start, given)[others].max() < constants.AGREEMENT:
                candidates.append((float(_distances(start, given)[tested]), int(tested)))
        if not candidates or max(candidates)[0] < constants.DOUBTFUL_DISTANCE:
            break
        doubtful[max(candidates)[1]] = True
    return doubtful


def _distances(start: _Start, given: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the distances of a start from the given landmarks, (68,), in inter-ocular distances."""
    size = max(float(inter_ocular(start.landmarks)), 1.0)
    return np.asarray(np.linalg.norm(start.landmarks - given, axis=1) / size)


def _predictions(
    models: Models, rgb: npt.NDArray[np.uint8], fits: list[npt.NDArray[np.float64]]
) -> list[_Start]:
    """Return PFLD's outputs on the crops of PDM fits, except where PFLD finds no face."""
    if models.pfld is None:
        return []
    output = predict_twice(models.pfld, rgb, crops_of_landmarks(np.stack(fits)))
    landmarks, sigma = output.landmarks, output.sigma
    if models.parts is not None:
        landmarks, sigma, _ = refine_parts(models.parts, rgb, landmarks, sigma)
    return [
        _Start(points.astype(np.float64), sigma[row].astype(np.float64), output.confidence[row])
        for row, points in enumerate(landmarks)
        if np.isfinite(points).all() and output.confidence[row].any()
    ]


def _cost(start: _Start, given: npt.NDArray[np.float64], fixed: npt.NDArray[np.bool_]) -> float:
    """Return the mean distance of a start from the manual landmarks, plus a penalty for low confidence."""
    distance = _distances(start, given)[fixed].mean() if fixed.any() else 0.0
    return float(distance + constants.AGREEMENT * (1.0 - start.confidence.mean()))


def _moved_to_manual(
    landmarks: npt.NDArray[np.float64],
    given: npt.NDArray[np.float64],
    fixed: npt.NDArray[np.bool_],
    size: float,
) -> npt.NDArray[np.float64]:
    """Move the manual landmarks to their positions; their neighbours follow."""
    if not fixed.any():
        return landmarks
    shifts = given[fixed] - landmarks[fixed]
    distance = np.linalg.norm(landmarks[:, None] - landmarks[fixed][None], axis=-1)
    near = np.exp(-0.5 * (distance / (constants.NEIGHBOUR_RANGE * size)) ** 2)
    share = near / np.maximum(near.sum(axis=1, keepdims=True), 1.0)
    moved = landmarks + share @ shifts
    moved[fixed] = given[fixed]
    return np.asarray(moved)
