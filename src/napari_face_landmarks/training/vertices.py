"""The vertices of the face mesh that PFLD learns beside the landmarks, and which is which in a mirror.

Meshes are made by machine, but by one that has seen many more faces than a few thousand: what it places
densely and always in the same way steadies what the network learns from labels placed by hand.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def mirrored_vertices(mean: Floats) -> Indices:
    """Return for each vertex of a mean mesh (V, 3) the one that is nearest to it in a mirror, (V,) int64."""
    centred = mean - [mean[:, 0].mean(), 0, 0]
    apart = centred[:, None] * [-1.0, 1.0, 1.0] - centred[None]
    return np.asarray(np.square(apart).sum(axis=2).argmin(axis=1), dtype=np.int64)


def learned_vertices(mean: Floats, count: int, skin: int) -> tuple[Indices, Indices]:
    """Return vertices in pairs of right and left, spread over the mesh as its vertices are.

    Parameters
    ----------
    mean : ndarray, (V, 3), float64
        The mean mesh, symmetrical but for noise.
    count : int
        How many; even.
    skin : int
        The first so many vertices are taken from; those after them are the irises'.

    Returns
    -------
    vertices : ndarray, (count,), int64
    mirror : ndarray, (count,), int64
        Which of `vertices` each becomes in a mirror, as places in that array.
    """
    other = mirrored_vertices(mean[:skin])
    right = np.flatnonzero((other[other] == np.arange(skin)) & (mean[:skin, 0] < mean[other, 0]))
    chosen = right[np.linspace(0, len(right) - 1, count // 2).round().astype(int)]
    half = np.arange(count // 2)
    return np.concatenate([chosen, other[chosen]]), np.concatenate([half + count // 2, half])
