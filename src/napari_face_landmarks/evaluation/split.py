"""The held-out split: which faces no training ever sees, decided by their file names alone."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

SEED = "napari-face-landmarks 2026"
HELD_OUT_PERCENT = 15


def is_held_out(name: str) -> bool:
    """Return whether the face of the file `name` is kept for measuring (15 %, seeded hash of its stem).

    Pictures of one HELEN photograph (``NNNN_1.jpg``, ``NNNN_2.jpg``) and of one person in a numbered set
    share what comes before the last underscore where that is a number, and so fall on the same side.
    """
    stem = PurePosixPath(name).stem
    head = stem.rsplit("_", 1)[0]
    key = head if head.isdigit() else stem
    digest = hashlib.sha256(f"{SEED}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < HELD_OUT_PERCENT


def held_out_mask(names: npt.NDArray[np.str_]) -> npt.NDArray[np.bool_]:
    """Return `is_held_out` of each name, (N,) bool."""
    return np.array([is_held_out(str(name)) for name in names], dtype=np.bool_)
