"""Checks of output paths, done before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.files.atomic import check_writable, make_folder, same_file


def check_distinct(read: Sequence[Path], written: Sequence[Path]) -> None:
    """Raise a `ResultError` if an output is named twice or is also an input."""
    for index, path in enumerate(written):
        if os.path.realpath(path) in map(os.path.realpath, written[:index]):
            raise ResultError(f"{path} is named twice: give each output file a different name.")
        if any(same_file(path, other) for other in read):
            raise ResultError(f"{path} is one of the input files: give another name for the output.")


def prepare_place(path: Path) -> None:
    """Create the folder of an output file if necessary; raise a `ResultError` if it is not writable."""
    make_folder(path.parent)
    check_writable(path)
