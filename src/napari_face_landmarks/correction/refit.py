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
        0 to 1; 1 for manual landmarks. That of the others is PFLD's on the frame, less where they are far
        from PFLD's, and 0.5 where nothing is known: PFLD is off, or there is none.
    sigma : ndarray, (68,), float32
        Standard deviation of each landmark's error along one axis, pixels, found likewise; 1 % of the
        inter-ocular distance for manual landmarks.
    params : ndarray, (6 + m,), float64
        Parameters of the shape model.
    refined : bool
        Whether CLNF converged; if not, the landmarks are those of the initial fit.
    doubtful : ndarray, (68,), bool
        Manual landmarks that are inconsistent with the others: they are kept in the result but were ignored
        in the fit. Always False if there are fewer than four.
    """

    landmarks: Floats
    confidence: Floats
    sigma: Floats
    params: npt.NDArray[np.float64]
    refined: bool
    doubtful: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(N_LANDMARKS, np.bool_))


class CorrectionWarning(UserWarning):
    """A manual landmark is inconsistent with the others, or the models are not those of the tracks."""


def warn_of_other_models(models: Models, tracks: Tracks) -> None:
    """Warn the caller's caller where tracks name other models than these."""
    if (name := tracks.meta.get(MODELS, models.name)) != models.name:
        warnings.warn(
            f"The landmarks were tracked with the models {name!r}, and are corrected with {models.name!r}: "
            "load those that they were tracked with.",
            CorrectionWarning,
            stacklevel=3,
        )


@dataclass(frozen=True, slots=True)
class _Start:
    """Initial landmarks of a fit with their standard deviations (px)."""

    landmarks: npt.NDArray[np.float64]
    sigma: npt.NDArray[np.float64]
    confidence: Floats


def refit(
    models: Models,
    image: Any,
    landmarks: npt.ArrayLike,
    held: npt.ArrayLike,
    settings: TrackerSettings | None = None,
    engine: ModuleType = numba_engine,
) -> Refit:
    """Fit a face to manual landmarks.

    The shape model is fitted to the manual landmarks and, with a low weight, to the others; PFLD runs on the
    resulting crop and on that of the given landmarks. The result that agrees best with the manual landmarks
    is refined by CLNF, in which their weight is `EngineConstants.held_weight` times that of the others. A
    manual landmark that is far from PFLD's prediction for all the others, as after dragging the wrong one, is
    ignored in the fit.

    Parameters
    ----------
    models : Models
        From `load_models`.
    image : array-like, (H, W), (H, W, 3) or (H, W, 4)
        The frame.
    landmarks : array-like, (68, 2)
        Current landmarks, manual ones included; px, x then y; NaN if unknown.
    held : array-like, (68,), bool
        Which landmarks are manual.
    settings : TrackerSettings, optional
        `max_iterations` (at least 5 here), `search_radius` and `convergence_px` are used.
    engine : module
        Implementation of CLNF.

    Returns
    -------
    Refit

    Raises
    ------
    ImageError
        If the image, the landmarks or the mask have another shape or dtype.
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
    best, across, seen = _best_start(models, rgb, given, fixed)
    placed, doubtful = given, _doubtful(models, rgb, given, fixed)
    if doubtful.any():
        given, fixed = np.where(doubtful[:, None], np.nan, given), fixed & ~doubtful
        best, across, seen = _best_start(models, rgb, given, fixed)
    points, sigma = best.landmarks.copy(), best.sigma.copy()
    points[fixed], sigma[fixed] = given[fixed], constants.HAND_SIGMA * across
    weights = _weights(sigma, fixed, across)
    params = fit_pdm(pdm, points, weights)
    thorough = settings.replace(max_iterations=max(settings.max_iterations, constants.ITERATIONS))
    fit = refine(to_grey(rgb), points, params, models.clnf(engine), thorough, sigma, held=fixed)
    found = fit.landmarks.astype(np.float64) if fit.converged else project(pdm, params)
    found = _drawn_to(found, given, fixed, across)
    found[doubtful] = placed[doubtful]
    confidence, spread = _certainty(found, seen)
    by_hand = fixed | doubtful
    confidence[by_hand], spread[by_hand] = 1.0, HAND_ERROR * inter_ocular(found)
    return Refit(found.astype(np.float32), confidence, spread, fit.params, fit.converged, doubtful)


def refit_in_tracks(
    models: Models, image: Any, tracks: Tracks, frame: int, face: int, settings: TrackerSettings | None = None
) -> Tracks:
    """Return a copy of tracks in which a face on one frame is refitted to its manual landmarks.

    Parameters
    ----------
    models : Models
    image : array-like, (H, W), (H, W, 3) or (H, W, 4)
        The frame.
    tracks : Tracks
    frame, face : int
        Index of the frame in the video, and of the face.
    settings : TrackerSettings, optional
        Default: the settings of the tracks.

    Raises
    ------
    ResultError
        If there is no such face on the frame.
    ImageError, ModelError
        See `refit`; also if the frame has another size than those of the tracks.

    Warns
    -----
    CorrectionWarning
        If manual landmarks are inconsistent with the others, or the tracks were made with other models.
    """
    row = row_of(tracks, frame, face)
    warn_of_other_models(models, tracks)
    rgb = to_rgb8(image, f"Frame {frame}", recorded_pixel_range(tracks))
    check_size(rgb.shape[:2], tracks)
    held, view = tracks.by_hand[row, face], recorded_view(tracks, (rgb.shape[0], rgb.shape[1]))
    try:
        given = view.seen(tracks.landmarks[row, face])
        fit = refit(models, view.frame(rgb), given, held, settings or tracks.settings)
    except ModelError as error:
        raise ResultError(
            f"Face {face} on frame {frame} cannot be refitted ({str(error).rstrip('.')}): place more "
            "landmarks by hand."
        ) from error
    if fit.doubtful.any():
        numbers = ", ".join(map(str, np.flatnonzero(fit.doubtful)))
        warnings.warn(
            f"The landmarks placed by hand on frame {frame} disagree: {numbers} is far from its position "
            "according to the others, and stays where it was placed; check that the right one was moved.",
            CorrectionWarning,
            stacklevel=2,
        )
    confidence, sigma = fit.confidence, fit.sigma
    if models.pfld is None:  # the other landmarks are as certain as they were
        before = tracks.confidence[row, face]
        confidence = np.where(held | (before == 0), confidence, before)
        sigma = np.where(held, sigma, tracks.sigma[row, face])
    landmarks, pose = view.in_source(fit.landmarks), fit.params[:6]
    return with_face(tracks, row, face, edited_values(tracks, row, face, landmarks, confidence, sigma, pose))


def _best_start(
    models: Models, rgb: npt.NDArray[np.uint8], given: npt.NDArray[np.float64], fixed: npt.NDArray[np.bool_]
) -> tuple[_Start, float, list[_Start]]:
    """Return the start that agrees best with the manual landmarks, the face's size (px), and PFLD's."""
    fits = _both_fits(models.pdm, given, fixed)
    spread = [constants.FAR_OFF * max(float(inter_ocular(points)), 1.0) for points in fits]
    no_evidence = np.full(N_LANDMARKS, 0.5, np.float32)
    seen = _seen(models, rgb, fits)
    as_it_is = np.where(np.isfinite(given), given, fits[0])
    starts = [
        _Start(as_it_is, np.full(N_LANDMARKS, 0.5 * spread[0]), no_evidence),
        _Start(fits[1], np.full(N_LANDMARKS, spread[1]), no_evidence),
        *seen,
    ]
    best = min(starts, key=lambda start: _badness(start, given, fixed))
    return best, max(float(inter_ocular(fits[1])), 1.0), seen


def _certainty(found: npt.NDArray[np.float64], seen: list[_Start]) -> tuple[Floats, Floats]:
    """Return confidence and sigma (px), (68,), of landmarks according to the nearest of PFLD's outputs.

    They are PFLD's where the landmarks are. A landmark that is farther from PFLD's counts as off by as much,
    up to a confidence of 0.5: there PFLD is wrong, and nothing is known. So it is everywhere without PFLD.
    """
    radius = POOR_NME * max(float(inter_ocular(found)), 1.0)
    vague = radius / np.sqrt(2 * np.log(2))
    if not seen:
        return np.full(N_LANDMARKS, 0.5, np.float32), np.full(N_LANDMARKS, vague, np.float32)
    off = [np.linalg.norm(found - start.landmarks, axis=1) / np.sqrt(2) for start in seen]
    nearest = int(np.argmin(np.mean(off, axis=1)))
    apart = np.clip(off[nearest], 1e-9, vague)
    confidence = np.minimum(seen[nearest].confidence, -np.expm1(-0.5 * (radius / apart) ** 2))
    sigma = np.maximum(seen[nearest].sigma, apart)
    return confidence.astype(np.float32), sigma.astype(np.float32)


def _both_fits(
    pdm: PDM, given: npt.NDArray[np.float64], fixed: npt.NDArray[np.bool_]
) -> list[npt.NDArray[np.float64]]:
    """Return the landmarks of the model fitted to all landmarks equally, and to the manual ones."""
    return [project(pdm, _fitted(pdm, given, fixed, rest)) for rest in (1.0, constants.REST_WEIGHT)]


def _doubtful(
    models: Models, rgb: npt.NDArray[np.uint8], given: npt.NDArray[np.float64], fixed: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Return the manual landmarks that are inconsistent with all others according to PFLD, (68,)."""

    def seen_about(marks: npt.NDArray[np.bool_]) -> _Start | None:
        known = np.where((fixed & ~marks)[:, None], np.nan, given)
        seen = _seen(models, rgb, _both_fits(models.pdm, known, marks))
        return min(seen, key=lambda start: _badness(start, given, marks), default=None)

    doubtful = np.zeros(N_LANDMARKS, np.bool_)
    while (left := fixed & ~doubtful).sum() >= constants.ENOUGH_TO_DOUBT:
        best = seen_about(left)
        if best is None or _off(best, given, left).max() < constants.FAR_OFF:
            break
        found = []
        for one in np.flatnonzero(left)[np.argsort(-_off(best, given, left))][: constants.MOST_DOUBTED]:
            others, alone = left.copy(), np.arange(N_LANDMARKS) == one
            others[one] = False
            start = seen_about(others)
            if start is not None and _off(start, given, others).max() < constants.FAR_OFF:
                found.append((float(_off(start, given, alone)[0]), int(one)))
        if not found or max(found)[0] < constants.FAR_PLACED:
            break
        doubtful[max(found)[1]] = True
    return doubtful


def _off(
    start: _Start, given: npt.NDArray[np.float64], marks: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return how far a start is from marked landmarks, in inter-ocular distances."""
    across = max(float(inter_ocular(start.landmarks)), 1.0)
    return np.asarray(np.linalg.norm(start.landmarks - given, axis=1)[marks] / across)


def _fitted(
    pdm: PDM, given: npt.NDArray[np.float64], fixed: npt.NDArray[np.bool_], rest: float
) -> npt.NDArray[np.float64]:
    return fit_pdm(pdm, given, np.where(fixed, constants.HELD_WEIGHT if rest < 1 else 1.0, rest))


def _seen(models: Models, rgb: npt.NDArray[np.uint8], fits: list[npt.NDArray[np.float64]]) -> list[_Start]:
    """Return PFLD's output at the fits of the model."""
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


def _badness(start: _Start, given: npt.NDArray[np.float64], fixed: npt.NDArray[np.bool_]) -> float:
    """Return how far a start is from the manual landmarks, and how uncertain it is."""
    off = _off(start, given, fixed).mean() if fixed.any() else 0.0
    return float(off + constants.FAR_OFF * (1.0 - start.confidence.mean()))


def _weights(
    sigma: npt.NDArray[np.float64], fixed: npt.NDArray[np.bool_], across: float
) -> npt.NDArray[np.float64]:
    doubt = (sigma / (0.05 * across)) ** 2
    return np.asarray(np.where(fixed, constants.HELD_WEIGHT, 1.0 / (1.0 + doubt)))


def _drawn_to(
    found: npt.NDArray[np.float64],
    given: npt.NDArray[np.float64],
    fixed: npt.NDArray[np.bool_],
    across: float,
) -> npt.NDArray[np.float64]:
    """Return the landmarks with the manual ones in place; neighbours follow their last displacement."""
    if not fixed.any():
        return found
    rest = given[fixed] - found[fixed]
    apart = np.linalg.norm(found[:, None] - found[fixed][None], axis=-1) / (constants.SPREAD * across)
    near = np.exp(-0.5 * apart**2)
    share = near / np.maximum(near.sum(axis=1, keepdims=True), 1.0)
    moved = found + share @ rest
    moved[fixed] = given[fixed]
    return np.asarray(moved)
