"""The errors users meet: each message is one sentence that says what is wrong, where, and what to do."""

from __future__ import annotations


class FaceLandmarksError(Exception):
    """Base of all errors that the plugin raises on purpose."""


class SettingsError(FaceLandmarksError, ValueError):
    """A setting is out of its range; the sentence names the setting and the range."""


class ImageError(FaceLandmarksError, ValueError):
    """An image or frame cannot be used: wrong shape, wrong type or pixels that are not finite."""


class VideoError(FaceLandmarksError, OSError):
    """A video cannot be opened or decoded."""


class ModelError(FaceLandmarksError, ValueError):
    """A model file is missing, altered or malformed."""


class ResultError(FaceLandmarksError, ValueError):
    """A file of results cannot be read or written."""


class MeasureError(FaceLandmarksError, ValueError):
    """Landmarks cannot be measured as asked: no rest frame, no time stamps, an impossible scale."""


def in_one_line(error: BaseException) -> str:
    """Return what an error says as a part of a sentence: one line, at most 200 characters, never empty."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def reason_of(error: OSError) -> str:
    """Return why the system refused something, as a part of a sentence."""
    return (error.strerror or in_one_line(error)).lower()


def printable(text: str) -> str:
    """Return text as one line that any screen and file takes: line breaks and the like as their codes.

    Names of files may hold such, and bytes that are no text at all.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
