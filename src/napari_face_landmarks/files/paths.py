"""Files of a model folder may not be links to what lies outside it."""

from __future__ import annotations

from pathlib import Path

from napari_face_landmarks.errors import ModelError


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
