"""Where files are written: names that cannot work are refused before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from napari_face_landmarks.errors import ResultError, reason_of
from napari_face_landmarks.files.atomic import check_writable, same_file


def check_distinct(read: Sequence[Path], written: Sequence[Path]) -> None:
    """Refuse to write one file twice, or over a file that is read."""
    for index, path in enumerate(written):
        if os.path.realpath(path) in map(os.path.realpath, written[:index]):
            raise ResultError(f"{path} is named twice: give each file that is written a name of its own.")
        if any(same_file(path, other) for other in read):
            raise ResultError(f"{path} is one of the files to read: give another name for what is written.")


def prepare_place(path: Path) -> None:
    """Make the folder of a file to be written if need be, and refuse where nothing can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = reason_of(error)
        raise ResultError(f"The folder {path.parent} cannot be made ({reason}): choose another.") from error
    check_writable(path)
