"""Writing files so that a reader finds the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from napari_face_landmarks.errors import ResultError, reason_of

LONGEST_FILE_NAME = 255
"""Bytes, on the file systems in common use."""
ROOM_FOR_END = 32
LEFT_BEHIND_SECONDS = 86400
"""A temporary file that nobody has written to for so long is nobody's."""
NOT_OFFERED = frozenset(
    getattr(errno, name)
    for name in ("EINVAL", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK")
    if hasattr(errno, name)
)
"""What some network drives answer where they have no such operation."""


def name_beside(name: str, end: str) -> str:
    """Return the name of a file that belongs to another: its name and an end.

    Parameters
    ----------
    name : str
        Of the file that it belongs to.
    end : str
        Such as ``.journal``.

    Returns
    -------
    str
        `name` is shortened where the whole would be longer than names may be, and told from others that begin
        alike by a hash; to the same for all ends of up to `ROOM_FOR_END` bytes.
    """
    whole, room = os.fsencode(name), LONGEST_FILE_NAME - max(ROOM_FOR_END, len(os.fsencode(end)))
    if len(whole) > room:
        mark = f"~{hashlib.sha256(whole).hexdigest()[:12]}"
        name = whole[: max(0, room - len(mark))].decode("utf-8", "ignore") + mark
    return name + end


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to, and move what was written there to `path`, or what it links to.

    The temporary file lies in the folder of `path` and has its suffix. It is flushed to the disk before it
    takes the place of `path`; if the block fails, it is removed and `path` stays as it was. One that a killed
    process left behind is removed the next time that `path` is written, once it is a day old.

    Parameters
    ----------
    path : path-like
        The file to write or replace.

    Yields
    ------
    Path
        Where to write.

    Raises
    ------
    ResultError
        If the folder is missing or the file cannot be written there.
    """
    target = Path(path)
    check_writable(target)
    place = _behind_links(target)
    beside = place.with_name(target.name)  # writers go by the suffix of the name that was given
    _remove_left_behind(beside)
    temporary = beside.with_name(name_beside(f".{target.stem}", f"-{secrets.token_hex(4)}{target.suffix}"))
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            to_disk(stream.fileno())
        os.replace(temporary, place)
        sync_folder(place.parent)
    except OSError as error:
        raise ResultError(f"{target} cannot be written ({reason_of(error)}): choose another file.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _behind_links(path: Path) -> Path:
    """Return where a file lies to which a link leads, or would lie; `path` itself where it is no link."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


def _remove_left_behind(target: Path) -> None:
    """Remove temporary files of `target` that nobody has written to for long."""
    front = name_beside(f".{target.stem}", "-")
    with contextlib.suppress(OSError):
        for path in target.parent.glob(f"{glob.escape(front)}*{glob.escape(target.suffix)}"):
            mark = path.name[len(front) : len(path.name) - len(target.suffix)]
            hexadecimal = len(mark) == 8 and set(mark) <= set("0123456789abcdef")
            if hexadecimal and time.time() - path.stat().st_mtime > LEFT_BEHIND_SECONDS:
                path.unlink()


def to_disk(handle: int) -> None:
    """Have what was written to an open file on the disk, as far as its file system offers it."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Have the names in a folder on the disk, as far as the system offers it."""
    if os.name == "nt":  # no folder can be opened there
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def same_file(path: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Return whether two names are of one file; names that no file can have are of none."""
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise ResultError if a file could not be created or replaced at `path`; nothing is left behind."""
    target = Path(path)
    if os.path.isdir(target):
        raise ResultError(f"{target} is a folder: give the name of a file.")
    place = _behind_links(target)
    if os.path.lexists(place) and not os.path.isfile(place):
        raise ResultError(f"{target} is a device, a pipe or a link to itself: give the name of a file.")
    folder = place.parent
    if not os.path.isdir(folder):
        raise ResultError(f"The folder {folder} does not exist: create it or choose another.")
    if os.path.exists(target) and not os.access(target, os.W_OK):
        raise ResultError(f"{target} is write-protected: choose another file.")
    probe = folder / f".{secrets.token_hex(8)}".ljust(len(os.fsencode(place.name)), "x")
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ResultError(f"{target} is too long a name: give a shorter one.") from error
        raise ResultError(
            f"No file can be written in {folder} ({reason_of(error)}): choose another folder."
        ) from error
