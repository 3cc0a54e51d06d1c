"""First-order standard errors of measures, from the uncertainty of the landmarks.

Errors of neighbouring landmarks are correlated: a whole mouth is displaced, or a canthus together with its
lids. `error_covariance` returns these correlations as measured on labelled faces (``landmark_errors.npz``,
written by ``python -m napari_face_landmarks.training errors``), and `error_factors` the factors by which
standard errors predicted from them were wrong there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.ibug import N_LANDMARKS, inter_ocular
from napari_face_landmarks.measures.definitions import name_without_side
from napari_face_landmarks.measures.quantity import Quantity
from napari_face_landmarks.measures.reference_frame import FaceAxes

Floats = npt.NDArray[np.float64]

RADIUS = 0.08
"""A confidence is the probability of an error under this share of the inter-ocular distance."""
SATURATED = 1 - 2**-24
"""Largest float32 below 1; higher confidences are clipped to it."""
ON_ONE_THREAD = 200_000
"""Multiplications in a matrix product up to which BLAS uses one thread; further threads would only spin."""
IRIS_ERROR = 0.01
"""Standard deviation of an iris centre along one axis, in inter-ocular distances (3 % of the eye's width)."""
ERRORS_FILE = Path(__file__).with_name("landmark_errors.npz")
"""Per bundle name, the lower triangle of the second moments (136, 136) of normalised errors; rows are
landmark 0 along u, landmark 0 along v, landmark 1 along u, and so on. ``NAME measures`` and ``NAME factors``
are the data of `error_factors`; ``NAME origin`` records how they were measured."""
OTHER_MODELS = "open"
"""Bundle whose errors are used for models that are not in `ERRORS_FILE`."""


def sigma_of_confidence(landmarks: npt.NDArray[Any], confidence: npt.NDArray[Any]) -> Floats:
    """Return the standard deviation of each landmark's error along either axis in pixels, (..., 68) float64.

    Inverts ``confidence = 1 - exp(-r**2 / (2 sigma**2))`` with r = 8 % of the inter-ocular distance (a
    Rayleigh distribution of the length of the error), for landmarks (..., 68, 2) in pixels and confidence
    (..., 68); a confidence of 0 gives an infinite sigma.
    """
    clipped = np.clip(np.asarray(confidence, np.float64), 0.0, SATURATED)
    radius = RADIUS * inter_ocular(landmarks)[..., None]
    with np.errstate(divide="ignore"):
        return np.asarray(radius / np.sqrt(-2 * np.log1p(-clipped)))


def error_shares(
    landmarks: npt.NDArray[Any], confidence: npt.NDArray[Any], sigma: npt.NDArray[Any]
) -> Floats:
    """Return the standard deviation of each point's error in inter-ocular distances, (..., 70).

    The points are the landmarks (..., 68, 2) and the centres of the two irises. `sigma`, (..., 68), is in the
    unit of the landmarks; NaN is replaced by the value that follows from the confidence, (..., 68).
    """
    unit = np.maximum(inter_ocular(landmarks), 1e-9)[..., None]
    shares = np.where(np.isfinite(sigma), sigma, sigma_of_confidence(landmarks, confidence)) / unit
    irises = np.full((*shares.shape[:-1], 2), IRIS_ERROR)
    return np.concatenate([shares, irises], axis=-1)


@lru_cache
def has_errors(bundle: str) -> bool:
    """Return whether the errors of a bundle were measured; if not, those of `OTHER_MODELS` are used."""
    with np.load(ERRORS_FILE, allow_pickle=False) as file:
        return bundle in file


@lru_cache
def error_covariance(bundle: str = OTHER_MODELS) -> Floats:
    """Return the second moments of landmark errors, divided by the predicted sigma, (140, 140) float64.

    Rows are landmark 0 along u, landmark 0 along v, landmark 1 along u, and so on, in the axes of the face;
    the last four are the irises, uncorrelated with all others. The moments are around zero, so they include
    errors common to all faces. Independent errors with correct sigma would give the identity. `bundle` is the
    name of the models of the landmarks; `OTHER_MODELS` replaces models without measured errors.
    """
    with np.load(ERRORS_FILE, allow_pickle=False) as file:
        triangle = file[bundle if bundle in file else OTHER_MODELS].astype(np.float64)
    lower = np.zeros((2 * N_LANDMARKS, 2 * N_LANDMARKS))
    lower[np.tril_indices(len(lower))] = triangle
    return with_irises(lower + np.tril(lower, -1).T)


@lru_cache
def error_factors(bundle: str = OTHER_MODELS) -> dict[str, float]:
    """Return the factors that correct the first-order standard errors, by the name of the measure.

    Errors have heavier tails than a normal distribution, and sigma is not equally accurate for all parts of a
    face. With these factors about 73 % of the errors are below one standard error, and at least 92 % below
    two. Keys are names without a side, and names of differences; `bundle` is that of `error_covariance`.
    """
    with np.load(ERRORS_FILE, allow_pickle=False) as file:
        bundle = bundle if bundle in file else OTHER_MODELS
        if f"{bundle} factors" not in file:
            return {}
        names, factors = file[f"{bundle} measures"], file[f"{bundle} factors"]
    return dict(zip(names.tolist(), factors.tolist(), strict=True))


def factors_of_columns(names: Sequence[str], factors: Mapping[str, float]) -> Floats:
    """Return the factor of each column, (M,); symmetries have the factor of the difference, others 1."""
    return np.array([factors.get(name_without_side(name), 1.0) for name in names])


def with_irises(covariance: Floats) -> Floats:
    """Extend the second moments of the landmarks' errors by independent irises, (140, 140)."""
    extended = np.eye(2 * (N_LANDMARKS + 2))
    extended[: len(covariance), : len(covariance)] = covariance
    return extended


def error_slopes(axes: FaceAxes, quantity: Quantity, sigma: Floats) -> tuple[list[int], Floats]:
    """Return the change of a quantity per sigma of each landmark along either axis of the face.

    `quantity` is a function of the coordinates in `axes`, of N faces; `sigma`, (70, N), is the predicted
    standard deviation of each point's error along either axis, in the unit of the landmarks. Returns the R
    rows of `error_covariance` that the slopes belong to, and the slopes, (R, N) float64.
    """
    points, slopes = axes.landmark_gradient(quantity)
    slopes *= sigma[points, None]
    return [2 * point + axis for point in points for axis in (0, 1)], slopes.reshape(2 * len(points), -1)


def error_product(
    first: tuple[list[int], Floats], second: tuple[list[int], Floats], covariance: Floats
) -> Floats:
    """Return the first-order covariance of the errors of two quantities, (N,); for one twice, its variance.

    ``sum_ij g_i C_ij h_j`` with slopes g and h from `error_slopes` and C from `error_covariance`.
    """
    (rows, g), (columns, h) = first, second
    block = covariance[np.ix_(rows, columns)]
    step = max(1, ON_ONE_THREAD // block.size)
    chunks = [slice(k, k + step) for k in range(0, g.shape[1], step)]
    return np.concatenate([np.einsum("ij,ij->j", g[:, chunk], block @ h[:, chunk]) for chunk in chunks])
