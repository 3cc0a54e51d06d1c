"""The held-out split of the part models: by person, with enough shut eyes among those held out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.evaluation.split import is_held_out

HELD_OUT_PERSONS = frozenset(
    {
        "grid_s2", "grid_swiz3n",
        "hdtf_lieu",
        "nvidia_sample",
        "mead_M003", "mead_W023",
    }
)  # fmt: skip
"""People of the clips that are held out with all of their clips; the others of these clips are trained on."""
CLIPS = ("grid_", "hdtf_", "mead_", "nvidia_", "obama", "pexels_", "reagan")
"""How the names of people in clips begin: there are too few of them for a hash to choose well."""
CALTECH_HELD_OUT = 400
"""Caltech's faces come person by person: those with a higher number are held out."""
CALTECH_GAP = 22
"""So many before them are neither trained on nor measured, as a person's pictures may straddle the border."""


def person_of(stem: str, name: str) -> str:
    """Return the person shown by the picture `name` of the file of training data `stem`, for the split.

    Rendered heads are the same person in any clothes (``AIAN_F_1_Medi``, ``AIAN_F_1_Casual``).
    """
    if stem == "rendered_heads":
        return name.rsplit("_", 1)[0].removeprefix("X_")
    return name


def split_masks(
    stem: str, arrays: Mapping[str, npt.NDArray[Any]]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which pictures of a file are trained on, and which are held out, (N,) bool each.

    Parameters
    ----------
    stem : str
        Name of the file without its ending, such as ``grid_blinks``.
    arrays : mapping of str to ndarray
        Its arrays; ``names``, and ``person`` where there is one, are used.

    Notes
    -----
    No person is on both sides: people in clips are held out by name, those of Caltech by picture number, all
    others by the hash of their name.
    """
    names = [str(name) for name in arrays["names"]]
    if stem == "caltech_faces":
        numbers = np.array([int(PurePosixPath(name).stem.rsplit("_", 1)[1]) for name in names])
        return numbers <= CALTECH_HELD_OUT - CALTECH_GAP, numbers > CALTECH_HELD_OUT
    if "person" in arrays:
        people = [str(person) for person in arrays["person"]]
    else:
        people = [person_of(stem, name) for name in names]
    held_out = np.array(
        [
            person in HELD_OUT_PERSONS if person.startswith(CLIPS) else is_held_out(person)
            for person in people
        ],
        dtype=np.bool_,
    )
    return ~held_out, held_out
