"""Errors of landmarks on labelled faces, and calibration of their confidence.

Each face is fitted by `FaceTracker.fit` in a given box. Errors are distances to the labels as fractions of
the labelled inter-ocular distance: 0.03 is 3 %.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from threading import local
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import CLNF
from napari_face_landmarks.evaluation.boxes import MAX_FACES, detected_box, jittered_box, true_box
from napari_face_landmarks.evaluation.corruptions import perturb
from napari_face_landmarks.evaluation.dataset import LabelledFaces, picture
from napari_face_landmarks.evaluation.options import (
    DEFAULT_BOXES,
    DEFAULT_CONDITIONS,
    DEFAULT_REFINE,
    BoxSource,
    Condition,
)
from napari_face_landmarks.ibug import N_LANDMARKS, REGIONS, inter_ocular
from napari_face_landmarks.models import Models
from napari_face_landmarks.settings import RefineMode, TrackerSettings
from napari_face_landmarks.tracking import FaceTracker

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

POOR = 0.08
"""Mean error above which a fit is poor; upper limit of the cumulative error curve."""
JAW = list(REGIONS["jaw"])
INNER = [i for i in range(N_LANDMARKS) if i not in REGIONS["jaw"]]
N_BINS = 10
MAX_CONFIDENCE = 1 - 2.0**-24
"""Largest float32 below 1, to which confidences are clipped."""


@dataclass(frozen=True)
class EvaluationPlan:
    """What to measure."""

    refine: tuple[RefineMode, ...] = DEFAULT_REFINE
    conditions: tuple[Condition, ...] = DEFAULT_CONDITIONS  # corruptions, see `perturb`
    boxes: BoxSource = DEFAULT_BOXES  # source of the boxes
    seed: int = 0  # random seed of corruptions and jitter
    threads: int = 1  # has no effect on the results


@dataclass(frozen=True)
class Fits:
    """Fits of N faces with one bundle and refine mode under one condition."""

    bundle: str
    refine: str
    condition: str
    # (N,); False if the detector missed the face or the fit failed; other arrays are then NaN or False
    found: Mask
    landmarks: Floats  # (N, 68, 2); pixels of the image, x then y
    distances: Floats  # (N, 68); error of each landmark
    confidence: Floats  # (N, 68)
    sigma: Floats  # (N, 68); predicted standard deviation of the error along each axis, pixels
    score: Floats  # (N,); score of the face
    refined: Mask  # (N,); whether the landmarks come from CLNF
    covered: Mask  # (N, 68); whether a landmark is occluded
    seconds: Floats  # (N,); processor time of the fit

    @property
    def errors(self) -> Floats:
        """Mean error of each face over its landmarks, (N,); NaN if it was not found."""
        return np.asarray(self.distances.mean(axis=1))

    @property
    def face_confidence(self) -> Floats:
        """Mean confidence of each face over its landmarks, (N,); NaN if it was not found."""
        return np.asarray(self.confidence.mean(axis=1))


@dataclass(frozen=True)
class Covered:
    """Occluded landmarks compared with visible landmarks of the same faces."""

    landmarks: int  # number of occluded landmarks
    confidence: float  # mean over the occluded landmarks
    confidence_visible: float
    error: float  # mean over the occluded landmarks
    error_visible: float


@dataclass(frozen=True)
class Reliability:
    """Expected and observed errors of landmarks, means over deciles of the expected error (ascending)."""

    expected: tuple[float, ...]  # `expected_error` of the confidence
    observed: tuple[float, ...]  # error against the labels
    confidence: tuple[float, ...]  # the expected share of landmarks with an error of at most 8 %
    within: tuple[float, ...]  # observed share of these landmarks


@dataclass(frozen=True)
class PoorFits:
    """Separation of poor fits (mean error over 8 %) from good ones by the score of a face."""

    fits: int  # number of fits
    poor: int  # number of poor fits
    # area under the ROC curve of the mean confidence of the landmarks and of the face score: probability that
    # a poor fit has a lower value than a good one; None if all fits are poor or all are good
    by_confidence: float | None
    by_score: float | None


@dataclass(frozen=True)
class Summary:
    """Summary of `Fits`; statistics are over the faces that were found unless stated otherwise."""

    bundle: str
    refine: str
    condition: str
    faces: int  # number of faces
    found: int  # number of faces that were found
    mean: float  # of the faces' errors (means over 68 landmarks)
    median: float  # of the same
    standard_error: float  # of `mean`
    inner: float  # mean error over the inner 51 landmarks
    jaw: float  # mean error over the 17 landmarks of the jaw
    failures: float  # share of all faces that are poor fits or were not found
    auc: float  # `curve_area` over all faces
    confidence: float  # mean over the landmarks
    refined: float  # share of faces whose landmarks come from CLNF
    milliseconds: float  # mean processor time per face on one core, without detection
    growth: float | None  # relative change of the mean error from uncorrupted images, faces found in both
    better_than_off: float | None  # share of faces whose error is smaller than with ``refine="off"``
    poor_fits: PoorFits
    reliability: Reliability
    risk: tuple[float, ...]  # `risk_curve`
    covered: Covered | None  # None if nothing was occluded
    errors: tuple[float | None, ...]  # mean error of each face; None if it was not found


def fit_faces(
    faces: LabelledFaces,
    bundles: Mapping[str, Models],
    plan: EvaluationPlan,
    advance: Callable[[], None] | None = None,
) -> list[Fits]:
    """Fit every face for every condition, refine mode and bundle; the fits are ordered in this way.

    `advance` is called in the calling thread after each face.
    """
    keys = [(name, mode, way) for way in plan.conditions for mode in plan.refine for name in bundles]
    count = len(faces)
    fits: dict[tuple[str, str, str], Fits] = {
        key: Fits(
            *key,
            found=np.zeros(count, np.bool_),
            landmarks=np.full((count, N_LANDMARKS, 2), np.nan),
            distances=np.full((count, N_LANDMARKS), np.nan),
            confidence=np.full((count, N_LANDMARKS), np.nan),
            sigma=np.full((count, N_LANDMARKS), np.nan),
            score=np.full(count, np.nan),
            refined=np.zeros(count, np.bool_),
            covered=np.zeros((count, N_LANDMARKS), np.bool_),
            seconds=np.full(count, np.nan),
        )
        for key in keys
    }
    FaceTracker(next(iter(bundles.values()))).prepare()
    of_thread = local()  # trackers per thread; the models are shared and immutable

    def work(index: int) -> None:
        if not hasattr(of_thread, "trackers"):
            of_thread.trackers = _trackers(bundles, plan)
        _fit_face(faces, index, bundles, plan, of_thread.trackers, fits)

    with ThreadPoolExecutor(max(1, plan.threads)) as pool:
        tasks = [pool.submit(work, index) for index in range(count)]
        try:
            for task in as_completed(tasks):
                task.result()
                if advance is not None:
                    advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [fits[key] for key in keys]


def _trackers(bundles: Mapping[str, Models], plan: EvaluationPlan) -> dict[tuple[str, str], FaceTracker]:
    trackers: dict[tuple[str, str], FaceTracker] = {
        (name, mode): FaceTracker(models, TrackerSettings(refine=mode))
        for name, models in bundles.items()
        for mode in plan.refine
    }
    for name, models in bundles.items():
        trackers[name, "detect"] = FaceTracker(models, TrackerSettings(max_faces=MAX_FACES))
    return trackers


def _fit_face(
    faces: LabelledFaces,
    index: int,
    bundles: Mapping[str, Models],
    plan: EvaluationPlan,
    trackers: Mapping[tuple[str, str], FaceTracker],
    made: Mapping[tuple[str, str, str], Fits],
) -> None:
    """Fill in one face in all fits."""
    original, labels, name = picture(faces, index), faces.landmarks[index], faces.names[index]
    unit = inter_ocular(labels)
    for condition in plan.conditions:
        perturbed = perturb(original, labels, condition, name, plan.seed)
        for bundle in bundles:
            box: Floats | None = true_box(labels)
            if plan.boxes == "jitter":
                box = jittered_box(labels, name, plan.seed)
            elif plan.boxes == "detector":
                box = detected_box(trackers[bundle, "detect"], perturbed.image, labels)
            for mode in plan.refine:
                row = made[bundle, mode, condition]
                row.covered[index] = perturbed.covered
                if box is None:
                    continue
                began = time.thread_time()
                fit = trackers[bundle, mode].fit(perturbed.image, box[None])
                if not np.isfinite(fit.landmarks).all():
                    continue
                row.seconds[index] = time.thread_time() - began
                row.found[index] = True
                row.landmarks[index] = fit.landmarks[0]
                row.distances[index] = np.linalg.norm(fit.landmarks[0] - labels, axis=1) / unit
                row.confidence[index], row.sigma[index] = fit.confidence[0], fit.sigma[0]
                row.score[index] = fit.boxes[0, 4]
                row.refined[index] = fit.source[0] == CLNF


def summarise(fits: Sequence[Fits]) -> list[Summary]:
    """Summarise fits and compare them with unrefined fits and uncorrupted images."""
    by_key = {(fit.bundle, fit.refine, fit.condition): fit for fit in fits}
    return [
        _summary(
            fit,
            off=by_key.get((fit.bundle, "off", fit.condition)) if fit.refine != "off" else None,
            plain=by_key.get((fit.bundle, fit.refine, "none")) if fit.condition != "none" else None,
        )
        for fit in fits
    ]


def _summary(fits: Fits, off: Fits | None, plain: Fits | None) -> Summary:
    found = fits.found
    errors, distances = fits.errors[found], fits.distances[found]
    confidence = fits.confidence[found]
    return Summary(
        bundle=fits.bundle,
        refine=fits.refine,
        condition=fits.condition,
        faces=len(found),
        found=len(errors),
        mean=_mean(errors),
        median=float(np.median(errors)) if len(errors) else math.nan,
        standard_error=float(errors.std(ddof=1) / math.sqrt(len(errors))) if len(errors) > 1 else math.nan,
        inner=_mean(distances[:, INNER]),
        jaw=_mean(distances[:, JAW]),
        failures=1 - float(np.count_nonzero(errors <= POOR)) / len(found),
        auc=curve_area(errors, len(found)),
        confidence=_mean(confidence),
        refined=_mean(fits.refined[found]),
        milliseconds=1e3 * _mean(fits.seconds[found]),
        growth=None if plain is None else _growth(fits, plain),
        better_than_off=None if off is None else _mean(errors < off.errors[found]),
        poor_fits=poor_fits([fits]),
        reliability=reliability(confidence, distances),
        risk=risk_curve(fits.face_confidence[found], errors),
        covered=_covered(fits),
        errors=tuple(float(error) if math.isfinite(error) else None for error in fits.errors),
    )


def _mean(values: npt.NDArray[Any]) -> float:
    return float(values.mean()) if values.size else math.nan


def _growth(fits: Fits, plain: Fits) -> float:
    both = fits.found & plain.found
    before = _mean(plain.errors[both])
    return _mean(fits.errors[both]) / before - 1 if before > 0 else math.nan


def _covered(fits: Fits) -> Covered | None:
    rows = fits.found & fits.covered.any(axis=1)
    if not rows.any():
        return None
    hidden = fits.covered[rows]
    confidence, distances = fits.confidence[rows], fits.distances[rows]
    return Covered(
        landmarks=int(hidden.sum()),
        confidence=_mean(confidence[hidden]),
        confidence_visible=_mean(confidence[~hidden]),
        error=_mean(distances[hidden]),
        error_visible=_mean(distances[~hidden]),
    )


def curve_area(errors: Floats, faces: int) -> float:
    """Return the exact area under the cumulative error curve from 0 to `POOR`, divided by `POOR`; 0 to 1.

    `faces` counts all faces; `errors`, (N,), are those of the found faces. The others count as failures.
    """
    return float(np.clip(POOR - errors, 0, None).sum() / (POOR * faces))


def roc_area(score: Floats, good: Mask) -> float | None:
    """Return the area under the ROC curve of a score as predictor of `good`, (N,); None if all are equal."""
    n_good = int(np.count_nonzero(good))
    n_poor = len(good) - n_good
    if not n_good or not n_poor:
        return None
    _, index, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[index]  # from 1; mean rank of equal scores
    return float((ranks[good].sum() - n_good * (n_good + 1) / 2) / (n_good * n_poor))


def poor_fits(fits: Sequence[Fits]) -> PoorFits:
    """Return the separation of poor and good fits, pooled over `fits`."""
    errors = np.concatenate([fit.errors[fit.found] for fit in fits])
    good = errors <= POOR
    return PoorFits(
        fits=len(good),
        poor=int(np.count_nonzero(~good)),
        by_confidence=roc_area(np.concatenate([fit.face_confidence[fit.found] for fit in fits]), good),
        by_score=roc_area(np.concatenate([fit.score[fit.found] for fit in fits]), good),
    )


def pooled_poor_fits(fits: Sequence[Fits]) -> dict[tuple[str, str], PoorFits]:
    """Return `poor_fits` pooled over all conditions, for each bundle and refine mode."""
    keys = dict.fromkeys((fit.bundle, fit.refine) for fit in fits)
    return {key: poor_fits([fit for fit in fits if (fit.bundle, fit.refine) == key]) for key in keys}


def expected_error(confidence: npt.NDArray[np.floating]) -> Floats:
    """Return the mean error, a fraction of the inter-ocular distance, that corresponds to a confidence.

    The confidence is the probability of an error of at most 8 %, for an isotropic normal distribution
    ``1 - exp(-0.08**2 / (2 sigma**2))``; the mean error is ``sigma sqrt(pi / 2)``. The largest confidence, 1,
    corresponds to 1.7 %.
    """
    exponent = -np.log1p(-np.clip(np.asarray(confidence, dtype=np.float64), 1e-6, MAX_CONFIDENCE))
    return np.asarray(POOR / np.sqrt(2 * exponent) * math.sqrt(math.pi / 2))


def reliability(confidence: Floats, distances: Floats) -> Reliability:
    """Return expected and observed errors in ten bins with equal numbers of landmarks; inputs are (N, 68)."""
    flat, error = confidence.ravel(), distances.ravel()
    expected = expected_error(flat)
    bins = [rows for rows in np.array_split(np.argsort(expected, kind="stable"), N_BINS) if len(rows)]
    return Reliability(
        expected=tuple(_mean(expected[rows]) for rows in bins),
        observed=tuple(_mean(error[rows]) for rows in bins),
        confidence=tuple(_mean(flat[rows]) for rows in bins),
        within=tuple(_mean(error[rows] <= POOR) for rows in bins),
    )


def risk_curve(score: Floats, errors: Floats) -> tuple[float, ...]:
    """Return the risk-coverage curve: mean error of the 10, 20, .. 100 % most confident found faces."""
    if not len(errors):
        return ()
    ranked = errors[np.argsort(-score, kind="stable")]
    counts = [math.ceil(len(ranked) * part / N_BINS) for part in range(1, N_BINS + 1)]
    return tuple(float(ranked[:count].mean()) for count in counts)
