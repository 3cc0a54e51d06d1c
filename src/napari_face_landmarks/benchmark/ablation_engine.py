"""CLNF engines of the ablation's first steps: the NumPy reference with individual parts optimised."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import cast

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from napari_face_landmarks.clnf import reference
from napari_face_landmarks.clnf.normalized_frame import MIN_NORM
from napari_face_landmarks.clnf.patch_experts import N_INPUTS, SUPPORT
from napari_face_landmarks.jit import kernel

Floats = npt.NDArray[np.float64]


@kernel
def normalise_supports(rows: Floats) -> None:
    """Subtract each row's mean and divide by its norm, in place (compiled contrast normalisation)."""
    for i in range(rows.shape[0]):
        total = 0.0
        for j in range(rows.shape[1]):
            total += rows[i, j]
        mean = total / rows.shape[1]
        squares = 0.0
        for j in range(rows.shape[1]):
            rows[i, j] -= mean
            squares += rows[i, j] * rows[i, j]
        factor = 1.0 / max(np.sqrt(squares), MIN_NORM)
        for j in range(rows.shape[1]):
            rows[i, j] *= factor


def looped_im2col(area: Floats) -> Floats:
    """Return the rows of `reference.im2col`, by loops with the compiled contrast normalisation."""
    window = area.shape[0] - SUPPORT + 1
    rows = np.ones((window * window, N_INPUTS))
    for y in range(window):
        for x in range(window):
            support = area[y : y + SUPPORT, x : x + SUPPORT].T.reshape(1, -1)
            normalise_supports(support)
            rows[y * window + x, 1:] = support[0]
    return rows


def strided_im2col(area: Floats, rows: Floats) -> None:
    """Fill `rows`, except for the bias in column 0, with the support regions in `area`, without loops."""
    window = area.shape[0] - SUPPORT + 1
    supports = sliding_window_view(area, (SUPPORT, SUPPORT)).transpose(0, 1, 3, 2)
    rows[:, 1:].reshape(window, window, SUPPORT, SUPPORT)[...] = supports


def vectorised_im2col(area: Floats) -> Floats:
    """Return the rows of `reference.im2col`, by `strided_im2col` and one call of the normalisation."""
    window = area.shape[0] - SUPPORT + 1
    rows = np.ones((window * window, N_INPUTS))
    strided_im2col(area, rows)
    normalise_supports(rows[:, 1:])
    return rows


def engine(im2col: Callable[[Floats], Floats]) -> ModuleType:
    """Return the reference engine with the given im2col."""
    return cast(
        ModuleType,
        SimpleNamespace(
            response_maps=partial(reference.response_maps, im2col=im2col),
            multiply_prior=reference.multiply_prior,
            search=reference.search,
            log_likelihood=reference.log_likelihood,
        ),
    )
