"""Exceptions. Each message is one sentence that says what is wrong, where, and what to do."""

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
    """The requested measures cannot be computed: no rest frame, no time stamps, an impossible scale."""


def in_one_line(error: BaseException) -> str:
    """Return an error's message as one non-empty line of at most 200 characters, for use in a sentence."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def reason_of(error: OSError) -> str:
    """Return the operating system's reason for an error, for use in a sentence."""
    return (error.strerror or in_one_line(error)).lower()


@contextmanager
def os_errors_as(kind: type[FaceLandmarksError], problem: str, advice: str) -> Iterator[None]:
    """Replace an `OSError` raised in the block by an error of `kind`: "`problem` (reason): `advice`."."""
    try:
        yield
    except FaceLandmarksError:  # a `VideoError` is an `OSError`
        raise
    except OSError as error:
        raise kind(f"{problem} ({reason_of(error)}): {advice}.") from error


def printable(text: str) -> str:
    """Return text as one printable line, with line breaks and other unprintable characters escaped.

    File names may contain control characters and undecodable bytes.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
