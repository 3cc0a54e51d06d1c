"""Checks of output paths, made before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.files.atomic import check_writable, make_folder, same_file


def check_distinct(inputs: Sequence[Path], outputs: Iterable[Path | None]) -> list[Path]:
    """Return the outputs that are not None; raise a `ResultError` if two are the same or one is an input."""
    paths = [path for path in outputs if path is not None]
    for index, path in enumerate(paths):
        if os.path.realpath(path) in map(os.path.realpath, paths[:index]):
            raise ResultError(f"{path} is named twice: give each output file a different name.")
        if any(same_file(path, other) for other in inputs):
            raise ResultError(f"{path} is one of the input files: give another name for the output.")
    return paths


def prepare_output(path: Path) -> None:
    """Create the folder of an output file if necessary; raise a `ResultError` if it is not writable."""
    make_folder(path.parent)
    check_writable(path)
