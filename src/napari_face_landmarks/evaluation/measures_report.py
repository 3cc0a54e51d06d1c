"""Accuracy of measures of a face: agreement with labels, shut eyes, known deformations.

The mean error of landmarks does not show whether measures are accurate: it is small also for a model that
gives every eye the mean aperture or makes every mouth symmetric. Agreement is reported as correlation, slope,
bias and limits of agreement (Bland and Altman 1986, "Statistical methods for assessing agreement between two
methods of clinical measurement").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.evaluation.boxes import true_box
from napari_face_landmarks.evaluation.corruptions import generator
from napari_face_landmarks.evaluation.dataset import LabelledFaces, picture
from napari_face_landmarks.evaluation.metrics import EvaluationPlan, Fits, roc_area
from napari_face_landmarks.ibug import inter_ocular
from napari_face_landmarks.measures import values_of
from napari_face_landmarks.measures.definitions import name_without_side
from napari_face_landmarks.measures.table import LOW_CONFIDENCE, measured_faces
from napari_face_landmarks.measures.uncertainty import error_covariance, error_factors
from napari_face_landmarks.models import Models
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking import FaceTracker

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

POWERS = {"px": 1, "px2": 2}
"""Exponents of the inter-ocular distance by which lengths and areas are divided."""
SHUT, OPEN = 0.06, 0.2
"""Labelled apertures (lid distance over eye width) below which an eye is shut, above which it is open."""
LIMITS = 1.96
"""Number of standard deviations between bias and limits of agreement."""
DEFORMED_FACES = 60


@dataclass(frozen=True)
class Deformation:
    """A smooth local displacement of the skin with known effect on the landmarks."""

    right: tuple[int, ...]  # displaced landmarks on the right side; their mean is the centre
    left: tuple[int, ...]  # the same on the left side
    reach: float  # standard deviation of the Gaussian fall-off, inter-ocular distances
    down: float  # largest displacement along the vertical of the face, inter-ocular distances


DEFORMATIONS = {
    "commissure": Deformation((48,), (54,), 0.15, 0.08),
    "brow": Deformation((18, 19, 20), (23, 24, 25), 0.2, -0.08),
    "lower lip": Deformation((58, 59), (55, 56), 0.1, 0.05),
}


@dataclass(frozen=True)
class Agreement:
    """Agreement of a measure of the fitted landmarks with the same measure of the labels.

    Lengths are in inter-ocular distances (areas: their squares), angles in degrees, apertures are ratios.
    """

    measure: str
    faces: int
    correlation: float  # Pearson's; NaN if the labels do not vary
    slope: float  # of the regression of fitted on labelled values; NaN if the labels do not vary
    bias: float  # mean difference, fitted minus labelled
    lowest: float  # lower limit of agreement
    highest: float  # upper limit of agreement
    within_one: float = math.nan  # share of differences within one standard error; NaN without these errors
    within_two: float = math.nan  # share within two standard errors


@dataclass(frozen=True)
class ShutEyes:
    """Fitted apertures of eyes labelled shut and open."""

    shut: int  # number of eyes labelled shut
    open: int  # number of eyes labelled open
    shut_aperture: float  # mean over the shut eyes
    open_aperture: float  # mean over the open eyes
    share: float  # `shut_aperture` over `open_aperture`
    roc_area: float | None  # probability that an open eye has a larger aperture than a shut one
    winks: int  # number of faces with one eye shut and the other open
    wink_share: float  # mean aperture of their shut eyes over that of their open eyes


@dataclass(frozen=True)
class MeasureSummary:
    """Accuracy of the measures for one bundle, refine mode and condition."""

    bundle: str
    refine: str
    condition: str
    agreement: tuple[Agreement, ...]
    confident: tuple[Agreement, ...]  # on faces whose confidence is not flagged as low by `measure`
    eyes: ShutEyes
    # share of each of `DEFORMATIONS` that the landmarks follow; empty for conditions other than ``"none"``
    followed: dict[str, float]


@dataclass(frozen=True)
class Measured:
    """One measure of N faces, or of both sides of N / 2 faces."""

    values: Floats  # (N,); pixels or their squares, ratios, or degrees
    errors: Floats  # (N,); standard errors
    unit: Floats  # (N,); divisor of `values` for the comparison of faces of different sizes


def measured_values(
    landmarks: npt.NDArray[np.floating],
    sigma: npt.NDArray[np.floating] | None = None,
    covariance: Floats | None = None,
    factors: Mapping[str, float] | None = None,
) -> dict[str, Measured]:
    """Return the compared measures of landmarks (N, 68, 2), pixels, by name; both sides are concatenated.

    `sigma`, (N, 68), is the predicted standard deviation of the landmarks; without it, standard errors are
    NaN. `covariance`, (140, 140), is that of errors over sigma (`error_covariance`; default: identity
    matrix), and `factors` are the measures' `error_factors` (default: 1).
    """
    sigma = np.full(landmarks.shape[:2], np.nan) if sigma is None else sigma
    covariance = np.eye(140) if covariance is None else covariance
    columns, values, errors = measured_faces(landmarks, sigma, covariance, factors or {})
    unit = inter_ocular(landmarks)
    found: dict[str, Measured] = {}
    for index, column in enumerate(columns):
        if column.side == "symmetry" or column.name.startswith("mrd"):
            continue
        name = name_without_side(column.name)
        measured = Measured(values[:, index], errors[:, index], unit ** POWERS.get(column.unit, 0))
        if name in found:
            both = zip(vars(found[name]).values(), vars(measured).values(), strict=True)
            measured = Measured(*(np.concatenate(pair) for pair in both))
        found[name] = measured
    return found


def agreement(measure: str, found: Measured, labelled: Measured, faces: Mask | None = None) -> Agreement:
    """Compare a measure with the labels, where both are finite, on all faces or on `faces`, (N,) bool."""
    known = np.isfinite(found.values) & np.isfinite(labelled.values)
    if faces is not None:
        known &= np.tile(faces, len(known) // len(faces))
    ours, truth = (one.values[known] / one.unit[known] for one in (found, labelled))
    if len(ours) < 3:
        return Agreement(measure, len(ours), *([math.nan] * 5))
    difference = ours - truth
    bias, spread = float(difference.mean()), LIMITS * float(difference.std(ddof=1))
    slope = correlation = math.nan
    if np.ptp(truth) > 1e-9:
        slope = float(np.cov(truth, ours)[0, 1] / truth.var(ddof=1))
        correlation = slope * float(truth.std() / ours.std()) if ours.std() > 1e-12 else 0.0
    ratio = error_ratios(found, labelled, known)
    within = _mean(ratio <= 1), _mean(ratio <= 2)
    return Agreement(measure, len(ours), correlation, slope, bias, bias - spread, bias + spread, *within)


def error_ratios(found: Measured, labelled: Measured, known: Mask | None = None) -> Floats:
    """Return the absolute differences over their standard errors, where finite and `known`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.abs(found.values - labelled.values) / found.errors
    return np.asarray(ratio[np.isfinite(ratio) & (True if known is None else known)])


def shut_eyes(found: npt.NDArray[np.floating], labels: npt.NDArray[np.floating]) -> ShutEyes:
    """Compare the apertures, in fitted landmarks (N, 68, 2), of eyes labelled shut and open."""
    sides = ("eye_aperture_right", "eye_aperture_left")
    apertures = np.stack([values_of(found, side) for side in sides], axis=1)
    truth = np.stack([values_of(labels, side) for side in sides], axis=1)
    known = np.isfinite(apertures)
    shut, opened = known & (truth < SHUT), known & (truth > OPEN)
    winks = (shut & opened[:, ::-1]).any(axis=1)
    either = shut | opened
    means = _mean(apertures[shut]), _mean(apertures[opened])
    both = _mean(apertures[winks][shut[winks]]), _mean(apertures[winks][opened[winks]])
    return ShutEyes(
        shut=int(shut.sum()),
        open=int(opened.sum()),
        shut_aperture=means[0],
        open_aperture=means[1],
        share=_ratio(*means),
        roc_area=roc_area(apertures[either], opened[either]),
        winks=int(winks.sum()),
        wink_share=_ratio(*both),
    )


def deform(
    image: npt.NDArray[np.uint8], landmarks: Floats, deformation: Deformation, left: bool, sign: float
) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Displace the skin on one side of a face; return the image and its landmarks, (68, 2)."""
    unit = float(inter_ocular(landmarks))
    across = (landmarks[45] - landmarks[36]) / unit
    move = sign * deformation.down * unit * np.array([-across[1], across[0]])
    centre = landmarks[list(deformation.left if left else deformation.right)].mean(axis=0)
    reach = 2 * (deformation.reach * unit) ** 2

    def displacement(points: Floats) -> Floats:
        return np.asarray(np.exp(-((points - centre) ** 2).sum(-1) / reach)[..., None] * move)

    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float64)
    grid = np.stack([x, y], axis=-1)
    source = (grid - displacement(grid)).astype(np.float32)
    warped = cv2.remap(
        image, source[..., 0], source[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    moved = landmarks.copy()
    for _ in range(20):  # fixed point of y = x + d(y): the image is sampled at y - d(y)
        moved = landmarks + displacement(moved)
    return np.asarray(warped, dtype=np.uint8), moved


def share_followed(before: Floats, after: Floats, truth: Floats) -> float:
    """Return the slope, through the origin, of fitted on true displacements, (N, K, 2)."""
    moved = after - before
    known = np.isfinite(moved).all(axis=(1, 2))
    square = float((truth[known] ** 2).sum())
    return float((moved[known] * truth[known]).sum()) / square if square > 0 else math.nan


def deformations_followed(
    faces: LabelledFaces, bundles: Mapping[str, Models], plan: EvaluationPlan
) -> dict[tuple[str, str], dict[str, float]]:
    """Return the share of each of `DEFORMATIONS` that the landmarks follow, by bundle and refine mode.

    `DEFORMED_FACES` faces are deformed on one side; the box is that of the original labels in both images.
    """
    order = generator(plan.seed, "deformed", "").permutation(len(faces))[:DEFORMED_FACES]
    keys = [(name, mode) for name in bundles for mode in plan.refine]

    def fitted(index: int) -> dict[tuple[tuple[str, str], str], list[Floats]]:
        """Return, of the displaced landmarks of a face, fits before and after, and true displacements."""
        image, labels = picture(faces, index), faces.landmarks[index]
        box = true_box(labels)[None]
        rng = generator(plan.seed, "deformed", faces.names[index])
        unit = float(inter_ocular(labels))
        seen = {}
        for place, deformation in DEFORMATIONS.items():
            left, sign = bool(rng.random() < 0.5), float(rng.choice([-1.0, 1.0]))
            part = list(deformation.left if left else deformation.right)
            seen[place] = (*deform(image, labels, deformation, left, sign), part)
        found: dict[tuple[tuple[str, str], str], list[Floats]] = {}
        for key in keys:
            tracker = FaceTracker(bundles[key[0]], TrackerSettings(refine=key[1]))
            before = tracker.fit(image, box).landmarks[0]
            for place, (warped, moved, part) in seen.items():
                after = tracker.fit(warped, box).landmarks[0]
                rows = [points[part].astype(np.float64) for points in (before / unit, after / unit)]
                found[key, place] = [*rows, ((moved - labels) / unit)[part]]
        return found

    with ThreadPoolExecutor(max(1, plan.threads)) as pool:
        results = list(pool.map(fitted, order.tolist()))
    return {
        key: {
            place: share_followed(*map(np.stack, zip(*(found[key, place] for found in results), strict=True)))
            for place in DEFORMATIONS
        }
        for key in keys
    }


def measure_fits(
    fits: Sequence[Fits], faces: LabelledFaces, bundles: Mapping[str, Models], plan: EvaluationPlan
) -> list[MeasureSummary]:
    """Return the accuracy of the measures for each of the fits of `fit_faces`."""
    followed = deformations_followed(faces, bundles, plan) if "none" in plan.conditions else {}
    labelled = measured_values(faces.landmarks)
    summaries = []
    for fit in fits:
        errors = error_covariance(fit.bundle), error_factors(fit.bundle)
        found = measured_values(fit.landmarks, fit.sigma, *errors)
        confident = fit.face_confidence >= LOW_CONFIDENCE
        summaries.append(
            MeasureSummary(
                bundle=fit.bundle,
                refine=fit.refine,
                condition=fit.condition,
                agreement=tuple(agreement(name, found[name], labelled[name]) for name in labelled),
                confident=tuple(agreement(name, found[name], labelled[name], confident) for name in labelled),
                eyes=shut_eyes(fit.landmarks, faces.landmarks),
                followed=dict(followed.get((fit.bundle, fit.refine), {})) if fit.condition == "none" else {},
            )
        )
    return summaries


def tables(summaries: Sequence[MeasureSummary]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, head and rows of three tables: agreement, shut eyes, deformations."""
    first = ["condition", "refine", "bundle"]
    agreements, eyes, followed = [], [], []
    for summary in summaries:
        key = [summary.condition, summary.refine, summary.bundle]
        for item, confident in zip(summary.agreement, summary.confident, strict=True):
            numbers = (item.correlation, item.slope, item.bias, item.lowest, item.highest)
            shares = (_percent(item.within_one), _percent(item.within_two))
            row = [item.measure, *key, str(item.faces), *map(_number, numbers), *shares]
            agreements.append(
                [*row, str(confident.faces), _number(confident.correlation), _number(confident.slope)]
            )
        e = summary.eyes
        row = [f"{e.shut} / {e.open}", *map(_number, (e.shut_aperture, e.open_aperture, e.share, e.roc_area))]
        eyes.append([*key, *row, str(e.winks), _number(e.wink_share)])
        if summary.followed:
            followed.append([*key, *(_number(summary.followed[place]) for place in DEFORMATIONS)])
    names = [item.measure for item in summaries[0].agreement] if summaries else []
    agreements.sort(key=lambda row: names.index(row[0]))
    head = ["measure", *first, "faces", "correlation", "slope", "bias", "lower limit", "upper limit"]
    head += ["within 1 SE", "2 SE", "confident faces", "their correlation", "their slope"]
    return [
        ("Measures of the landmarks against those of the labels", head, agreements),
        (
            "Eyes labelled shut and open",
            [*first, "shut / open eyes", "aperture shut", "open", "share", "ROC area", "winks", "wink share"],
            eyes,
        ),
        ("Share of known deformations that the landmarks follow", [*first, *DEFORMATIONS], followed),
    ]


def _mean(values: npt.NDArray[Any]) -> float:
    return float(values.mean()) if values.size else math.nan


def _ratio(value: float, whole: float) -> float:
    return value / whole if whole > 0 else math.nan


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %" if math.isfinite(value) else "-"
