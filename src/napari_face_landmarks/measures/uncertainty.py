"""Standard errors of measures, to first order, from the uncertainty of the landmarks.

The errors of landmarks go together: a mouth is found too low as a whole, a canthus drags its lids along.
`error_covariance` has how they do, as measured on labelled faces (``landmark_errors.npz``, written by
``python -m napari_face_landmarks.training errors``), and `error_factors` by which factor the standard error
that follows from it was wrong there.
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
"""The largest float32 confidence below 1: more certain landmarks count as this certain."""
ON_ONE_THREAD = 200_000
"""Multiplications in a matrix product up to which BLAS uses one thread; more threads would spin."""
IRIS_ERROR = 0.01
"""Standard deviation of the iris's centre along one axis, in inter-ocular distances: 3 % of the eye's
width."""
ERRORS_FILE = Path(__file__).with_name("landmark_errors.npz")
"""For each bundle by name the lower triangle of the second moments (136, 136) of normalised errors; rows are
landmark 0 along u, along v, landmark 1 along u, and so on. ``NAME measures`` and ``NAME factors`` are for
`error_factors`, and ``NAME origin`` says where they come from."""
OTHER_MODELS = "open"
"""The bundle whose errors are used for models that are not in `ERRORS_FILE`."""


def sigma_of_confidence(landmarks: npt.NDArray[Any], confidence: npt.NDArray[Any]) -> Floats:
    """Return the standard deviation of each landmark's error along either axis, px, (..., 68) float64.

    Inverts ``confidence = 1 - exp(-r**2 / (2 sigma**2))`` with r = 8 % of the inter-ocular distance (a
    Rayleigh distribution of the error's length), for landmarks (..., 68, 2) in pixels and their confidence
    (..., 68); a confidence of 0 gives an infinite sigma.
    """
    known = np.clip(np.asarray(confidence, np.float64), 0.0, SATURATED)
    radius = RADIUS * inter_ocular(landmarks)[..., None]
    with np.errstate(divide="ignore"):
        return np.asarray(radius / np.sqrt(-2 * np.log1p(-known)))


def error_shares(
    landmarks: npt.NDArray[Any], confidence: npt.NDArray[Any], sigma: npt.NDArray[Any]
) -> Floats:
    """Return the standard deviation of each point's error over the inter-ocular distance, (..., 70).

    Of the landmarks (..., 68, 2) and the centres of the two irises. `sigma`, (..., 68), is in the unit of the
    landmarks; where it is not known (NaN) it follows from the confidence (..., 68).
    """
    unit = np.maximum(inter_ocular(landmarks), 1e-9)[..., None]
    known = np.isfinite(sigma)
    from_confidence = sigma_of_confidence(landmarks, confidence)
    shares = np.where(known, sigma, from_confidence) / unit
    irises = np.full((*shares.shape[:-1], 2), IRIS_ERROR)
    return np.concatenate([shares, irises], axis=-1)


@lru_cache
def has_errors(bundle: str) -> bool:
    """Return whether the errors of a bundle's landmarks were measured; else those of `OTHER_MODELS` count."""
    with np.load(ERRORS_FILE, allow_pickle=False) as measured:
        return bundle in measured


@lru_cache
def error_covariance(bundle: str = OTHER_MODELS) -> Floats:
    """Return the second moments of the landmarks' errors over their claimed sigma, (140, 140) float64.

    Of landmark 0 along u, landmark 0 along v, landmark 1 along u, ...; the last four of the two irises, whose
    errors go with no other. Along the axes of the face and around zero, so what is wrong on every face counts
    too. If sigma were right and errors independent, it would be the identity. `bundle` are the models that
    found the landmarks; those of `OTHER_MODELS` count where they were not measured.
    """
    with np.load(ERRORS_FILE, allow_pickle=False) as measured:
        triangle = measured[bundle if bundle in measured else OTHER_MODELS].astype(np.float64)
    lower = np.zeros((2 * N_LANDMARKS, 2 * N_LANDMARKS))
    lower[np.tril_indices(len(lower))] = triangle
    return with_irises(lower + np.tril(lower, -1).T)


@lru_cache
def error_factors(bundle: str = OTHER_MODELS) -> dict[str, float]:
    """Return what the first-order standard error of each measure is multiplied with, by its name.

    Errors have heavier tails than a normal distribution, and sigma is not right alike for all parts of a
    face: these factors make about 73 % of the errors smaller than one standard error, and at least 92 %
    smaller than two. Names are those without a side, and those of differences between the sides; others have
    no factor. `bundle` is as of `error_covariance`.
    """
    with np.load(ERRORS_FILE, allow_pickle=False) as measured:
        bundle = bundle if bundle in measured else OTHER_MODELS
        if f"{bundle} factors" not in measured:
            return {}
        names, factors = measured[f"{bundle} measures"], measured[f"{bundle} factors"]
    return dict(zip(names.tolist(), factors.tolist(), strict=True))


def factors_of_columns(names: Sequence[str], factors: Mapping[str, float]) -> Floats:
    """Return the factor of each column, (M,); the symmetry of two sides has that of their difference."""
    return np.array([factors.get(name_without_side(name), 1.0) for name in names])


def with_irises(covariance: Floats) -> Floats:
    """Return the second moments (140, 140) of landmarks and irises from those of the landmarks."""
    whole = np.eye(2 * (N_LANDMARKS + 2))
    whole[: len(covariance), : len(covariance)] = covariance
    return whole


def error_slopes(axes: FaceAxes, quantity: Quantity, sigma: Floats) -> tuple[list[int], Floats]:
    """Return by how much one sigma of each landmark, along either axis of the face, changes a quantity.

    Of N faces whose axes the quantity is made of; `sigma`, (70, N), is the claimed standard deviation of each
    point's error along either axis, in the unit of the landmarks. Returns the R rows of `error_covariance` to
    which the slopes belong, and these, (R, N) float64.
    """
    used, slopes = axes.landmark_gradient(quantity)
    slopes *= sigma[used, None]
    return [2 * landmark + axis for landmark in used for axis in (0, 1)], slopes.reshape(2 * len(used), -1)


def error_product(
    first: tuple[list[int], Floats], second: tuple[list[int], Floats], covariance: Floats
) -> Floats:
    """Return the covariance of the errors of two quantities to first order, (N,); of one twice, the variance.

    ``sum_ij g_i C_ij h_j`` with the slopes g and h of the two, as `error_slopes` returns them, and C as
    `error_covariance` does.
    """
    (rows, slopes), (columns, others) = first, second
    chosen = covariance[np.ix_(rows, columns)]
    step = max(1, ON_ONE_THREAD // chosen.size)
    parts = [slice(k, k + step) for k in range(0, slopes.shape[1], step)]
    return np.concatenate([np.einsum("ij,ij->j", slopes[:, p], chosen @ others[:, p]) for p in parts])
