"""Checks of output paths, done before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.files.atomic import check_writable, make_folder, same_file


def check_distinct(read: Sequence[Path], named: Iterable[Path | None]) -> list[Path]:
    """Return the outputs that are named; raise a `ResultError` if one is named twice or is also an input."""
    written = [path for path in named if path is not None]
    for index, path in enumerate(written):
        if os.path.realpath(path) in map(os.path.realpath, written[:index]):
            raise ResultError(f"{path} is named twice: give each output file a different name.")
        if any(same_file(path, other) for other in read):
            raise ResultError(f"{path} is one of the input files: give another name for the output.")
    return written


def prepare_place(path: Path) -> None:
    """Create the folder of an output file if necessary; raise a `ResultError` if it is not writable."""
    make_folder(path.parent)
    check_writable(path)
