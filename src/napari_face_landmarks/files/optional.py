"""Import of optional libraries, with an error that says how to install a missing one."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from napari_face_landmarks.errors import ResultError


def optional(library: str, purpose: str) -> Any:
    """Import an optional library; an error begins with `purpose`, the noun phrase of what needs it."""
    try:
        return import_module(library)
    except ImportError:
        extra = "plot" if library == "matplotlib" else "formats"
        raise ResultError(
            f"{purpose} needs the library {library}: pip install {library}, or "
            f'pip install "napari-face-landmarks[{extra}]".'
        ) from None


def installed(library: str) -> bool:
    """Return whether a library is installed, without importing it."""
    return find_spec(library) is not None
