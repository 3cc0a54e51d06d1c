"""Exceptions; each message is one sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class FaceLandmarksError(Exception):
    """Base class of all errors that the package raises for invalid input."""


class SettingsError(FaceLandmarksError, ValueError):
    """A setting is out of range; the message names the setting and the range."""


class ImageError(FaceLandmarksError, ValueError):
    """An image or frame has an unsupported shape or dtype, or pixels that are not finite."""


class VideoError(FaceLandmarksError, OSError):
    """A video cannot be opened or decoded."""


class ModelError(FaceLandmarksError, ValueError):
    """A model file is missing, modified or malformed."""


class ResultError(FaceLandmarksError, ValueError):
    """A landmark file or another output cannot be read or written."""


class MeasureError(FaceLandmarksError, ValueError):
    """Landmarks cannot be measured as asked: no rest frame, no time stamps, an impossible scale."""


def in_one_line(error: BaseException) -> str:
    """Return the message of an error for use in a sentence: one line, at most 200 characters, not empty."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def reason_of(error: OSError) -> str:
    """Return the operating system's reason for an error, for use in a sentence."""
    return (error.strerror or in_one_line(error)).lower()


@contextmanager
def os_errors_as(kind: type[FaceLandmarksError], what: str, advice: str) -> Iterator[None]:
    """Raise an error of `kind` instead of an `OSError` of the block: "`what` (its reason): `advice`."."""
    try:
        yield
    except FaceLandmarksError:  # a `VideoError` is an `OSError`
        raise
    except OSError as error:
        raise kind(f"{what} ({reason_of(error)}): {advice}.") from error


def printable(text: str) -> str:
    """Return text as one printable line: line breaks and other control characters are escaped.

    File names may contain these, and bytes that cannot be decoded.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
