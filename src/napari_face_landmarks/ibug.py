"""The iBUG 68-point scheme: regions, mirrored indices and outlines.

"Right" is the subject's right, on the left of the image. Indices count from 0; they count from 1 in Sagonas
et al. 2013, "300 Faces in-the-Wild Challenge", figure 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

N_LANDMARKS = 68
OUTER_EYES = (36, 45)

REGIONS: dict[str, range] = {
    "jaw": range(0, 17),
    "right brow": range(17, 22),
    "left brow": range(22, 27),
    "nose bridge": range(27, 31),
    "nose base": range(31, 36),
    "right eye": range(36, 42),
    "left eye": range(42, 48),
    "outer lip": range(48, 60),
    "inner lip": range(60, 68),
}
CLOSED_REGIONS = ("right eye", "left eye", "outer lip", "inner lip")


def _outlines() -> tuple[npt.NDArray[np.int64], ...]:
    lines = []
    for name, region in REGIONS.items():
        indices = list(region)
        if name in CLOSED_REGIONS:
            indices.append(indices[0])
        lines.append(np.asarray(indices, dtype=np.int64))
    return tuple(lines)


OUTLINES = _outlines()
"""One array of indices per region, in drawing order; closed regions repeat their first index."""


def _mirror() -> npt.NDArray[np.int64]:
    mirror = np.arange(N_LANDMARKS)
    pairs = [(i, 16 - i) for i in range(8)]
    pairs += [(17 + i, 26 - i) for i in range(5)]
    pairs += [(31, 35), (32, 34)]
    pairs += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]
    pairs += [(48, 54), (49, 53), (50, 52), (55, 59), (56, 58)]
    pairs += [(60, 64), (61, 63), (65, 67)]
    for a, b in pairs:
        mirror[a], mirror[b] = b, a
    return mirror.astype(np.int64)


MIRROR_68 = _mirror()
"""(68,): index of each landmark in the horizontally flipped image."""


def inter_ocular(landmarks: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the distance between the outer eye corners, (...) px, of landmarks (..., 68, 2)."""
    right, left = (np.asarray(landmarks)[..., corner, :].astype(np.float64) for corner in OUTER_EYES)
    return np.asarray(np.linalg.norm(right - left, axis=-1))


def nme(landmarks: npt.NDArray[Any], truth: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the mean error of landmarks (..., 68, 2) divided by the inter-ocular distance of `truth`."""
    difference = np.asarray(landmarks, dtype=np.float64) - np.asarray(truth, dtype=np.float64)
    return np.asarray(np.linalg.norm(difference, axis=-1).mean(axis=-1) / inter_ocular(truth))
