"""A face fitted anew about landmarks that were placed by hand."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf import fast
from napari_face_landmarks.clnf.fit import refine
from napari_face_landmarks.clnf.pdm import PDM, fit_pdm, project
from napari_face_landmarks.correction.constants import (
    FAR_OFF,
    HAND_SIGMA,
    HELD_WEIGHT,
    ITERATIONS,
    REST_WEIGHT,
    SPREAD,
)
from napari_face_landmarks.correction.edits import row_of, with_face
from napari_face_landmarks.errors import ImageError, ModelError, ResultError
from napari_face_landmarks.ibug import N_LANDMARKS, inter_ocular
from napari_face_landmarks.images import to_grey, to_rgb8
from napari_face_landmarks.models import Models
from napari_face_landmarks.pfld import PfldOutput, crops_of_landmarks, predict_twice
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.results import Tracks

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Refit:
    """A face fitted anew.

    Attributes
    ----------
    landmarks : ndarray, (68, 2), float32
        Pixels, x then y; those placed by hand exactly where they were placed.
    confidence : ndarray, (68,), float32
        0 to 1; 1 for those placed by hand.
    params : ndarray, (6 + m,), float64
        Parameters of the shape model.
    refined : bool
        Whether CLNF had its part; False where its search broke down, and the landmarks are the start's.
    """

    landmarks: Floats
    confidence: Floats
    params: npt.NDArray[np.float64]
    refined: bool


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a fit may begin: landmarks, and how sure each is (px)."""

    landmarks: npt.NDArray[np.float64]
    sigma: npt.NDArray[np.float64]
    confidence: Floats


def refit(
    models: Models,
    image: Any,
    landmarks: npt.ArrayLike,
    held: npt.ArrayLike,
    settings: TrackerSettings | None = None,
    engine: ModuleType = fast,
) -> Refit:
    """Fit a face anew about landmarks that were placed by hand.

    The shape model is fitted to the placed landmarks and, with a low weight, the others; PFLD looks again at
    where that puts the face, and at where the landmarks are. The start that agrees best with the placed ones
    is refined by CLNF, where they count `EngineConstants.held_weight` times as much as the others.

    Parameters
    ----------
    models : Models
        What `load_models` gives.
    image : array-like, (H, W), (H, W, 3) or (H, W, 4)
        The frame.
    landmarks : array-like, (68, 2)
        The face as it is, the placed ones where they were placed; px, x then y; NaN for those unknown.
    held : array-like, (68,), bool
        Which were placed by hand.
    settings : TrackerSettings, optional
        `max_iterations` (at least 5 here), `search_radius` and `convergence_px` are used.
    engine : module
        `clnf.fast` or `clnf.reference`.

    Returns
    -------
    Refit

    Raises
    ------
    ImageError
        If the image, the landmarks or the marks are of no such kind.
    ModelError
        If the landmarks are too few to tell where the face is.
    """
    given = np.array(landmarks, dtype=np.float64)
    fixed = np.asarray(held)
    if given.shape != (N_LANDMARKS, 2) or fixed.shape != (N_LANDMARKS,) or fixed.dtype != np.bool_:
        raise ImageError(
            f"A face to fit anew has landmarks of the shape {given.shape} and marks {fixed.dtype} of "
            f"{fixed.shape}: give ({N_LANDMARKS}, 2) and bool ({N_LANDMARKS},)."
        )
    fixed = fixed & np.isfinite(given).all(axis=1)
    rgb, pdm = to_rgb8(image), models.pdm
    settings = settings or TrackerSettings()
    near, far = _fitted(pdm, given, fixed, 1.0), _fitted(pdm, given, fixed, REST_WEIGHT)
    starts = _starts(models, rgb, given, [project(pdm, near), project(pdm, far)])
    best = min(starts, key=lambda start: _badness(start, given, fixed))
    points, sigma = best.landmarks.copy(), best.sigma.copy()
    across = max(float(inter_ocular(project(pdm, far))), 1.0)
    points[fixed], sigma[fixed] = given[fixed], HAND_SIGMA * across
    weights = _weights(sigma, fixed, across)
    params = fit_pdm(pdm, points, weights, noise=models.constants.fit_noise)
    thorough = settings.replace(max_iterations=max(settings.max_iterations, ITERATIONS))
    fit = refine(
        to_grey(rgb), points, params, pdm, models.experts, thorough, sigma, models.constants, engine, fixed
    )
    found = fit.landmarks.astype(np.float64) if fit.converged else project(pdm, params)
    found = _drawn_to(found, given, fixed, across)
    confidence = np.where(fixed, 1.0, best.confidence).astype(np.float32)
    return Refit(found.astype(np.float32), confidence, fit.params, fit.converged)


def refit_in_tracks(
    models: Models,
    image: Any,
    tracks: Tracks,
    frame: int,
    face: int,
    settings: TrackerSettings | None = None,
) -> Tracks:
    """Return a copy of tracks in which a face on one frame is fitted anew about its landmarks placed by hand.

    Parameters
    ----------
    models : Models
    image : array-like, (H, W), (H, W, 3) or (H, W, 4)
        The frame.
    tracks : Tracks
    frame, face : int
        The frame's number in the video, and the face.
    settings : TrackerSettings, optional
        Those of the tracks where not given.

    Raises
    ------
    ResultError
        If there is no such face on the frame.
    ImageError, ModelError
        As `refit`.
    """
    row = row_of(tracks, frame, face)
    held = tracks.by_hand[row, face]
    try:
        fit = refit(models, image, tracks.landmarks[row, face], held, settings or tracks.settings)
    except ModelError as error:
        raise ResultError(
            f"Face {face} on frame {frame} cannot be fitted anew ({str(error).rstrip('.')}): place more "
            "landmarks by hand."
        ) from error
    return with_face(tracks, row, face, fit.landmarks, fit.confidence, fit.params[:6])


def _fitted(
    pdm: PDM, given: npt.NDArray[np.float64], fixed: npt.NDArray[np.bool_], rest: float
) -> npt.NDArray[np.float64]:
    return fit_pdm(pdm, given, np.where(fixed, HELD_WEIGHT if rest < 1 else 1.0, rest))


def _starts(
    models: Models,
    rgb: npt.NDArray[np.uint8],
    given: npt.NDArray[np.float64],
    fits: list[npt.NDArray[np.float64]],
) -> list[_Start]:
    """Return the places where the fit may begin: what PFLD sees there, and the model's own fits."""
    doubtful = np.full(N_LANDMARKS, 0.5, np.float32)
    spread = [FAR_OFF * max(float(inter_ocular(points)), 1.0) for points in fits]
    as_it_is = np.where(np.isfinite(given), given, fits[0])
    starts = [
        _Start(as_it_is, np.full(N_LANDMARKS, 0.5 * spread[0]), doubtful),
        _Start(fits[1], np.full(N_LANDMARKS, spread[1]), doubtful),
    ]
    if models.pfld is not None:
        output = predict_twice(models.pfld, rgb, crops_of_landmarks(np.stack(fits)))
        starts += [_seen(output, row) for row in range(len(fits)) if np.isfinite(output.landmarks[row]).all()]
    return starts


def _seen(output: PfldOutput, row: int) -> _Start:
    return _Start(
        output.landmarks[row].astype(np.float64), output.sigma[row].astype(np.float64), output.confidence[row]
    )


def _badness(start: _Start, given: npt.NDArray[np.float64], fixed: npt.NDArray[np.bool_]) -> float:
    """Return how far a start is from the landmarks placed by hand, and how unsure of itself."""
    across = max(float(inter_ocular(start.landmarks)), 1.0)
    off = np.linalg.norm(start.landmarks - given, axis=1)[fixed].mean() if fixed.any() else 0.0
    return float(off / across + FAR_OFF * (1.0 - start.confidence.mean()))


def _weights(
    sigma: npt.NDArray[np.float64], fixed: npt.NDArray[np.bool_], across: float
) -> npt.NDArray[np.float64]:
    doubt = (sigma / (0.05 * across)) ** 2
    return np.asarray(np.where(fixed, HELD_WEIGHT, 1.0 / (1.0 + doubt)))


def _drawn_to(
    found: npt.NDArray[np.float64],
    given: npt.NDArray[np.float64],
    fixed: npt.NDArray[np.bool_],
    across: float,
) -> npt.NDArray[np.float64]:
    """Return the landmarks with the placed ones in place; neighbours follow their last step."""
    if not fixed.any():
        return found
    rest = given[fixed] - found[fixed]
    apart = np.linalg.norm(found[:, None] - found[fixed][None], axis=-1) / (SPREAD * across)
    near = np.exp(-0.5 * apart**2)
    share = near / np.maximum(near.sum(axis=1, keepdims=True), 1.0)
    moved = found + share @ rest
    moved[fixed] = given[fixed]
    return np.asarray(moved)
