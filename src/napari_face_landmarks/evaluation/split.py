"""Held-out split: faces that are never used for training, chosen by file names and persons."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

SEED = "napari-face-landmarks 2026"
HELD_OUT_PERCENT = 15
HELD_OUT_PERSONS = frozenset(
    {
        "grid_s2", "grid_swiz3n",
        "hdtf_lieu",
        "nvidia_sample",
        "mead_M003", "mead_W023",
    }
)  # fmt: skip
"""Persons in clips who are held out with all their clips; all others are used for training."""
CLIPS = ("grid_", "hdtf_", "mead_", "nvidia_", "obama", "pexels_", "reagan")
"""Prefixes of the names of persons in clips; they are too few for a split by hash."""
CALTECH_HELD_OUT = 400
"""Images of Caltech, ordered by person, are held out if their number is higher than this."""
CALTECH_GAP = 22
"""Number of images before the held-out ones that are not used, since they may show the same person."""


def is_held_out(name: str) -> bool:
    """Return whether the image file `name` is held out: 15 % are, by a seeded hash of the stem.

    If the part before the last underscore is a number, that of a HELEN photograph (``NNNN_1.jpg``) or of a
    person, only this part is hashed, so that all its images are on one side.
    """
    stem = PurePosixPath(name).stem
    head = stem.rsplit("_", 1)[0]
    key = head if head.isdigit() else stem
    digest = hashlib.sha256(f"{SEED}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < HELD_OUT_PERCENT


def held_out_mask(names: npt.NDArray[np.str_]) -> npt.NDArray[np.bool_]:
    """Return `is_held_out` of each name, (N,) bool."""
    return np.array([is_held_out(str(name)) for name in names], dtype=np.bool_)


def split_masks(
    stem: str, arrays: Mapping[str, npt.NDArray[Any]]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return masks of the training images and of the held-out images, (N,) bool each; no person is in both.

    `stem` is the name of the file without suffix. Its arrays ``names`` and, if present, ``person`` decide:
    persons in clips are held out by name, those of Caltech by image number, all others by a hash of the name.
    """
    names = [str(name) for name in arrays["names"]]
    if stem == "caltech_faces":
        numbers = np.array([int(PurePosixPath(name).stem.rsplit("_", 1)[1]) for name in names])
        return numbers <= CALTECH_HELD_OUT - CALTECH_GAP, numbers > CALTECH_HELD_OUT
    people = names
    if "person" in arrays:
        people = [str(person) for person in arrays["person"]]
    elif stem == "rendered_heads":  # images of one person in different clothes
        people = [name.rsplit("_", 1)[0].removeprefix("X_") for name in names]
    held_out = np.array(
        [
            person in HELD_OUT_PERSONS if person.startswith(CLIPS) else is_held_out(person)
            for person in people
        ],
        dtype=np.bool_,
    )
    return ~held_out, held_out
