"""Libraries that only some formats need: imported when they are used, and asked for in one sentence."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from napari_face_landmarks.errors import ResultError

EXTRA_OF = {"matplotlib": "plot"}
"""The extra of this package that installs a library, where it is not "formats"."""


def optional(library: str, what: str) -> Any:
    """Import a library.

    Parameters
    ----------
    library : str
        Its name in Python.
    what : str
        What it is needed for, as the sentence begins.

    Raises
    ------
    ResultError
        If it is not installed; the sentence says what to type.
    """
    try:
        return import_module(library)
    except ImportError:
        extra = EXTRA_OF.get(library, "formats")
        raise ResultError(
            f"{what} needs the library {library}: pip install {library}, or "
            f'pip install "napari-face-landmarks[{extra}]".'
        ) from None


def installed(library: str) -> bool:
    """Return whether a library could be imported, without importing it."""
    return find_spec(library) is not None
