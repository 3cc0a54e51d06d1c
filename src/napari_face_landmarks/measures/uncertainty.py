"""Standard errors of measures, to first order, from the uncertainty of the landmarks."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.ibug import REGIONS, inter_ocular
from napari_face_landmarks.measures.quantity import Quantity
from napari_face_landmarks.measures.reference_frame import FaceAxes

Floats = npt.NDArray[np.float64]

RADIUS = 0.08
"""A confidence is the probability of an error under this share of the inter-ocular distance."""
SATURATED = 1 - 2**-24
"""The largest float32 confidence below 1: more certain landmarks count as this certain."""
CORRELATION_LENGTH = 0.14
"""Distance, in inter-ocular distances, at which the correlation of two landmarks' errors falls to 1/e.

An assumption of the order that contour points have; not yet measured on labelled faces.
"""
IRIS_ERROR = 0.01
"""Standard deviation of the iris's centre along one axis, in inter-ocular distances: 3 % of the eye's
width."""
SHARED = 0.55
"""Assumed correlation of the errors of two landmarks of one region that lie next to each other."""


def sigma_of_confidence(landmarks: npt.NDArray[Any], confidence: npt.NDArray[Any]) -> Floats:
    """Return the standard deviation of each landmark's error along either axis, px.

    Inverts ``confidence = 1 - exp(-r**2 / (2 sigma**2))`` with r = 8 % of the inter-ocular distance (a
    Rayleigh distribution of the error's length).

    Parameters
    ----------
    landmarks : ndarray, (..., 68, 2)
        Pixels, x then y.
    confidence : ndarray, (..., 68)
        From 0 to 1; 0 gives an infinite sigma.

    Returns
    -------
    ndarray, (..., 68), float64
    """
    known = np.clip(np.asarray(confidence, np.float64), 0.0, SATURATED)
    radius = RADIUS * inter_ocular(landmarks)[..., None]
    with np.errstate(divide="ignore"):
        return np.asarray(radius / np.sqrt(-2 * np.log1p(-known)))


def error_shares(
    landmarks: npt.NDArray[Any], confidence: npt.NDArray[Any], sigma: npt.NDArray[Any]
) -> Floats:
    """Return the standard deviation of each point's error, as a share of the inter-ocular distance.

    Parameters
    ----------
    landmarks : ndarray, (..., 68, 2)
    confidence : ndarray, (..., 68)
        Used where `sigma` is not known.
    sigma : ndarray, (..., 68)
        Standard deviations along one axis, in the unit of the landmarks; NaN where not known.

    Returns
    -------
    ndarray, (..., 70), float64
        Of the landmarks and the centres of the two irises.
    """
    unit = np.maximum(inter_ocular(landmarks), 1e-9)[..., None]
    known = np.isfinite(sigma)
    from_confidence = sigma_of_confidence(landmarks, confidence)
    shares = np.where(known, sigma, from_confidence) / unit
    irises = np.full((*shares.shape[:-1], 2), IRIS_ERROR)
    return np.concatenate([shares, irises], axis=-1)


@lru_cache
def _same_region() -> npt.NDArray[np.bool_]:
    region = np.zeros(68, np.int64)
    for number, indices in enumerate(REGIONS.values()):
        region[list(indices)] = number
    return np.asarray(region[:, None] == region[None, :])


def error_correlation(places: npt.NDArray[Any]) -> Floats:
    """Return how the errors of landmarks correlate: less with distance, and only within a region.

    ``rho_ij = SHARED exp(-d_ij / CORRELATION_LENGTH)`` for two landmarks of one region, 0 for others.

    Parameters
    ----------
    places : ndarray, (68, 2)
        A typical face; only distances relative to the inter-ocular distance count.

    Returns
    -------
    ndarray, (70, 70), float64
        Symmetric, ones on the diagonal; of the landmarks and the two irises, which go with no other.
    """
    points = np.asarray(places, np.float64)
    apart = np.linalg.norm(points[:, None] - points[None, :], axis=-1) / inter_ocular(points)
    rho = np.zeros((70, 70))
    rho[:68, :68] = np.where(_same_region(), SHARED * np.exp(-apart / CORRELATION_LENGTH), 0.0)
    np.fill_diagonal(rho, 1.0)
    return rho


def standard_error(axes: FaceAxes, quantity: Quantity, sigma: Floats, correlation: Floats) -> Floats:
    """Return the standard error of a quantity to first order.

    ``var = sum_ij rho_ij sigma_i sigma_j (g_i . g_j)`` with the derivatives g of the quantity.

    Parameters
    ----------
    axes : FaceAxes
        Of N faces, which the quantity is made of.
    quantity : Quantity
    sigma : ndarray, (N, 70), float64
        Standard deviation of each point's error along either axis, in the unit of the landmarks.
    correlation : ndarray, (70, 70), float64

    Returns
    -------
    ndarray, (N,), float64
    """
    used, slopes = axes.landmark_gradient(quantity)
    rho = correlation[np.ix_(used, used)]
    variance = np.zeros(len(sigma))
    for axis in (0, 1):
        scaled = slopes[..., axis] * sigma[:, used]
        variance += np.einsum("nk,nk->n", scaled @ rho, scaled)
    return np.sqrt(np.maximum(variance, 0))
