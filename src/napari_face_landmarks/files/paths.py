"""Checks of paths: links that leave a folder, and suffixes."""

from __future__ import annotations

from pathlib import Path

from napari_face_landmarks.errors import ModelError, ResultError


def check_inside(path: Path, folder: Path) -> None:
    """Raise a `ModelError` if a file, existing or not, is a link out of `folder`, which may be a link."""
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # circular links
        inside = False
    if not inside:
        raise ModelError(f"{path} is a link to a file outside its folder: copy the file itself there.")


def checked_suffix(path: str | Path, suffixes: tuple[str, ...]) -> Path:
    """Return the path of an output file; raise a `ResultError` if its suffix is not one of `suffixes`."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise ResultError(f"{path} does not end in {' or '.join(suffixes)}: use that suffix.")
    return path
