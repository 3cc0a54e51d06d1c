"""Checks of the names of files: no links out of a folder, the right suffix."""

from __future__ import annotations

from pathlib import Path

from napari_face_landmarks.errors import ModelError, ResultError


def check_inside(path: Path, folder: Path) -> None:
    """Refuse a file of a folder that is a link out of it; the folder itself may be reached by a link.

    Parameters
    ----------
    path : Path
        The file; it need not exist.
    folder : Path
        The folder whose file it is to be.

    Raises
    ------
    ModelError
        If it lies elsewhere.
    """
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a circle of links
        inside = False
    if not inside:
        raise ModelError(f"{path} is a link out of its folder: put the file itself there.")


def checked_suffix(path: str | Path, suffixes: tuple[str, ...]) -> Path:
    """Return the path of a file to write.

    Raises
    ------
    ResultError
        If it has none of the suffixes.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise ResultError(f"{path} does not end in {' or '.join(suffixes)}: give a name that does.")
    return path
