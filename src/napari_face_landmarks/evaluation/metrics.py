"""Errors of landmarks on labelled faces, and calibration of their confidence.

Faces are fitted by the public `FaceTracker.fit` with a box for each face. Errors are distances to the labels
divided by the inter-ocular distance of the labels, as fractions: 0.03 is 3 %.
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
"""Mean error above which a fit is poor; also the end of the cumulative error curve."""
JAW = list(REGIONS["jaw"])
INNER = [i for i in range(N_LANDMARKS) if i not in REGIONS["jaw"]]
N_BINS = 10
MAX_CONFIDENCE = 1 - 2.0**-24
"""Largest float32 below 1; replaces a confidence of 1."""


@dataclass(frozen=True)
class EvaluationPlan:
    """What to measure."""

    refine: tuple[RefineMode, ...] = DEFAULT_REFINE
    conditions: tuple[Condition, ...] = DEFAULT_CONDITIONS  # corruptions, see `perturb`
    boxes: BoxSource = DEFAULT_BOXES  # {"truth", "detector", "jitter"}; source of the boxes
    seed: int = 0  # random seed of corruptions and jitter
    threads: int = 1  # number of threads; the results do not depend on it


@dataclass(frozen=True)
class Fits:
    """Fits of all faces with one bundle and refine mode under one condition."""

    bundle: str
    refine: str
    condition: str
    # (N,), bool; False if the detector did not find the face or the fit failed; the other arrays are then NaN
    # or False
    found: Mask
    landmarks: Floats  # (N, 68, 2); pixels of the image, x then y
    distances: Floats  # (N, 68); error of each landmark
    confidence: Floats  # (N, 68)
    sigma: Floats  # (N, 68); claimed standard deviation of each landmark's error along either axis, pixels
    score: Floats  # (N,); score of the face
    refined: Mask  # (N,), bool; whether the landmarks come from CLNF
    covered: Mask  # (N, 68), bool; whether a landmark is occluded
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
    # confidence, confidence_visible: means over the landmarks
    confidence: float
    confidence_visible: float
    # error, error_visible: means over the landmarks
    error: float
    error_visible: float


@dataclass(frozen=True)
class Reliability:
    """Expected and observed error of the landmarks in deciles of the expected error."""

    # mean error that corresponds to the confidence (`expected_error`), in each bin, ascending
    expected: tuple[float, ...]
    observed: tuple[float, ...]  # mean error against the labels
    confidence: tuple[float, ...]  # mean confidence: the expected share of landmarks within 8 %
    within: tuple[float, ...]  # share of landmarks that are within 8 %


@dataclass(frozen=True)
class PoorFits:
    """Separation of poor fits (mean error over 8 %) from good ones by the score of a face."""

    # fits, poor: number of fits and of poor fits
    fits: int
    poor: int
    # by_confidence, by_score: area under the ROC curve of the mean confidence of the landmarks, and of the
    # face score: the probability that a poor fit has a lower value than a good one. None if all fits are poor
    # or all good
    by_confidence: float | None
    by_score: float | None


@dataclass(frozen=True)
class Summary:
    """Summary of `Fits`. All means are over the faces that were found."""

    bundle: str
    refine: str
    condition: str
    # faces, found: number of faces, and of those that were found
    faces: int
    found: int
    # mean, median, standard_error: statistics of the mean error of a face over its 68 landmarks
    mean: float
    median: float
    standard_error: float
    # inner, jaw: mean error over the inner 51 landmarks and over the 17 of the jaw
    inner: float
    jaw: float
    failures: float  # share of all faces that are poor fits or were not found
    # normalised area under the cumulative error curve from 0 to 8 %; faces not found count as failures
    auc: float
    confidence: float  # mean of the landmarks' confidence
    refined: float  # share of faces whose landmarks come from CLNF
    milliseconds: float  # mean processor time per face on one core, without detection
    # relative change of the mean error against uncorrupted images, over the faces found in both
    growth: float | None
    better_than_off: float | None  # share of faces whose error is smaller than with ``refine="off"``
    poor_fits: PoorFits
    reliability: Reliability
    # risk-coverage curve: mean error of the 10, 20, .. 100 % of the faces with the highest mean confidence
    risk: tuple[float, ...]
    covered: Covered | None  # None if nothing was occluded
    errors: tuple[float | None, ...]  # mean error of each face; None if it was not found


def fit_faces(
    faces: LabelledFaces,
    bundles: Mapping[str, Models],
    plan: EvaluationPlan,
    advance: Callable[[], None] | None = None,
) -> list[Fits]:
    """Fit every face under every condition, with every refine mode and every bundle, named as in `bundles`.

    The fits are in this order. `advance` is called in the calling thread after each face.
    """
    keys = [(name, mode, way) for way in plan.conditions for mode in plan.refine for name in bundles]
    count = len(faces)
    made: dict[tuple[str, str, str], Fits] = {
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
    of_thread = local()  # a tracker per thread; the models are shared and immutable

    def work(index: int) -> None:
        if not hasattr(of_thread, "trackers"):
            of_thread.trackers = _trackers(bundles, plan)
        _fit_face(faces, index, bundles, plan, of_thread.trackers, made)

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
    return [made[key] for key in keys]


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
    """Fill the row of one face in all fits."""
    original, labels, name = picture(faces, index), faces.landmarks[index], faces.names[index]
    unit = inter_ocular(labels)
    for condition in plan.conditions:
        seen = perturb(original, labels, condition, name, plan.seed)
        for bundle in bundles:
            box: Floats | None = true_box(labels)
            if plan.boxes == "jitter":
                box = jittered_box(labels, name, plan.seed)
            elif plan.boxes == "detector":
                box = detected_box(trackers[bundle, "detect"], seen.image, labels)
            for mode in plan.refine:
                row = made[bundle, mode, condition]
                row.covered[index] = seen.covered
                if box is None:
                    continue
                began = time.thread_time()
                fit = trackers[bundle, mode].fit(seen.image, box[None])
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
    """Summarise fits, with comparisons to unrefined fits and to uncorrupted images."""
    by_key = {(one.bundle, one.refine, one.condition): one for one in fits}
    return [
        _summary(
            one,
            off=by_key.get((one.bundle, "off", one.condition)) if one.refine != "off" else None,
            plain=by_key.get((one.bundle, one.refine, "none")) if one.condition != "none" else None,
        )
        for one in fits
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

    Of `faces` in all; `errors` (N,) are those of the faces that were found.
    """
    return float(np.clip(POOR - errors, 0, None).sum() / (POOR * faces))


def roc_area(score: Floats, good: Mask) -> float | None:
    """Return the area under the ROC curve of a score for fits being `good`, (N,); None if all are alike."""
    n_good = int(np.count_nonzero(good))
    n_poor = len(good) - n_good
    if not n_good or not n_poor:
        return None
    _, place, number = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(number) - (number - 1) / 2)[place]  # the mean rank, from 1, of equal scores
    return float((ranks[good].sum() - n_good * (n_good + 1) / 2) / (n_good * n_poor))


def poor_fits(fits: Sequence[Fits]) -> PoorFits:
    """Return the separation of poor and good fits, pooled over all given fits."""
    errors = np.concatenate([one.errors[one.found] for one in fits])
    good = errors <= POOR
    return PoorFits(
        fits=len(good),
        poor=int(np.count_nonzero(~good)),
        by_confidence=roc_area(np.concatenate([one.face_confidence[one.found] for one in fits]), good),
        by_score=roc_area(np.concatenate([one.score[one.found] for one in fits]), good),
    )


def pooled_poor_fits(fits: Sequence[Fits]) -> dict[tuple[str, str], PoorFits]:
    """Return `poor_fits` pooled over all conditions, for each bundle and refine mode."""
    keys = dict.fromkeys((one.bundle, one.refine) for one in fits)
    return {key: poor_fits([one for one in fits if (one.bundle, one.refine) == key]) for key in keys}


def expected_error(confidence: npt.NDArray[np.floating]) -> Floats:
    """Return the mean error, a fraction of the inter-ocular distance, that corresponds to a confidence.

    For a circular normal error that stays within 8 % with the probability ``1 - exp(-0.08**2 / (2
    sigma**2))``, the mean is ``sigma sqrt(pi / 2)``. A confidence of 1 corresponds to 1.7 %.
    """
    exponent = -np.log1p(-np.clip(np.asarray(confidence, dtype=np.float64), 1e-6, MAX_CONFIDENCE))
    return np.asarray(POOR / np.sqrt(2 * exponent) * math.sqrt(math.pi / 2))


def reliability(confidence: Floats, distances: Floats) -> Reliability:
    """Return expected and observed error in ten bins with equal numbers of the landmarks found, (N, 68)."""
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
    """Return the mean error of the 10, 20, .. 100 % most confident faces found, rounded up to whole faces."""
    if not len(errors):
        return ()
    ranked = errors[np.argsort(-score, kind="stable")]
    counts = [math.ceil(len(ranked) * part / N_BINS) for part in range(1, N_BINS + 1)]
    return tuple(float(ranked[:count].mean()) for count in counts)
