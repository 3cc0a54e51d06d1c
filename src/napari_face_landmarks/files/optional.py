"""Optional libraries: imported when they are used; an error says how to install them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from napari_face_landmarks.errors import ResultError

EXTRA_OF = {"matplotlib": "plot"}
"""The extra of this package that installs a library, if it is not "formats"."""


def optional(library: str, what: str) -> Any:
    """Import an optional library; `what` needs it is the beginning of the error message."""
    try:
        return import_module(library)
    except ImportError:
        extra = EXTRA_OF.get(library, "formats")
        raise ResultError(
            f"{what} needs the library {library}: pip install {library}, or "
            f'pip install "napari-face-landmarks[{extra}]".'
        ) from None


def installed(library: str) -> bool:
    """Return whether a library is installed, without importing it."""
    return find_spec(library) is not None
