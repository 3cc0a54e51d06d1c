"""The held-out split of the part models: by person, with enough shut eyes among those held out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.evaluation import split

HELD_OUT_PERSONS = frozenset(
    {
        "grid_s2", "grid_swiz3n",
        "hdtf_lieu",
        "nvidia_sample",
        "mead_M003", "mead_W023",
    }
)  # fmt: skip
"""Persons of clips that are held out with all their clips; the other persons are used for training."""


def split_masks(
    stem: str, arrays: Mapping[str, npt.NDArray[Any]]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return `evaluation.split.split_masks` with the persons that the part models hold out."""
    return split.split_masks(stem, arrays, HELD_OUT_PERSONS)
