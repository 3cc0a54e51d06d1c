"""What a result was made with, so that it can be made again."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from napari_face_landmarks.models import Models

LIBRARIES = ("numpy", "numba", "onnxruntime", "av", "opencv-python")
"""The libraries on whose versions landmarks may depend in their last digits."""


def provenance(models: Models) -> dict[str, Any]:
    """Return what `Tracks.meta` says of how a run was made, apart from its settings and its video.

    Parameters
    ----------
    models : Models

    Returns
    -------
    dict
        ``version`` of this package; ``models`` and ``models_version``, the bundle; ``models_sha256`` of each
        of its files; ``libraries``, their versions, Python's and the kind of machine.
    """
    return {
        "version": version("napari-face-landmarks"),
        "models": models.name,
        "models_version": models.version,
        "models_sha256": models_sha256(models.card),
        "libraries": dict(library_versions()),
    }


def models_sha256(card: Mapping[str, Any]) -> dict[str, str]:
    """Return the sha256 of each file of a bundle, which were checked when it was loaded."""
    files = card.get("files", {})
    return {str(name): str(entry["sha256"]) for name, entry in sorted(files.items())}


@lru_cache
def library_versions() -> tuple[tuple[str, str], ...]:
    """Return the names and versions of `LIBRARIES`, of Python and of the machine's processor."""
    found = [("python", platform.python_version()), ("machine", f"{platform.system()} {platform.machine()}")]
    for name in LIBRARIES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:  # another build of it, such as opencv-python-headless
            continue
    return tuple(found)
