"""Atomic writing: a reader finds the old file or the new one, never a partial one."""

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

from napari_face_landmarks.errors import ResultError, os_errors_as, reason_of

LONGEST_FILE_NAME = 255
"""Bytes, on common file systems."""
ROOM_FOR_END = 32
ABANDONED_SECONDS = 86400
"""Age in seconds from which a temporary file counts as abandoned."""
NOT_SUPPORTED = frozenset(
    getattr(errno, name)
    for name in ("EINVAL", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK")
    if hasattr(errno, name)
)
"""Errors of network drives that lack an operation."""


def companion_name(name: str, end: str) -> str:
    """Return the name of a companion file: the name of the main file and a suffix such as ``.journal``.

    Names longer than `LONGEST_FILE_NAME` are shortened, and made unique by a hash that all suffixes share.
    """
    whole, room = os.fsencode(name), LONGEST_FILE_NAME - max(ROOM_FOR_END, len(os.fsencode(end)))
    if len(whole) > room:
        mark = f"~{hashlib.sha256(whole).hexdigest()[:12]}"
        name = whole[: max(0, room - len(mark))].decode("utf-8", "ignore") + mark
    return name + end


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path, and move the file written there to `path` or to the target of its link.

    The temporary file has the folder and suffix of `path`, and is synchronised to the disk first. If the
    block fails, it is removed and `path` is unchanged; one left by a killed process is removed by a later
    call, once it is a day old.
    """
    target = Path(path)
    check_writable(target)
    place = _link_target(target)
    companion = place.with_name(target.name)  # writers depend on the suffix of the given name
    _remove_abandoned(companion)
    temporary = companion.with_name(
        companion_name(f".{target.stem}", f"-{secrets.token_hex(4)}{target.suffix}")
    )
    try:
        with os_errors_as(ResultError, f"{target} cannot be written", "choose another file"):
            yield temporary
            with open(temporary, "rb+") as stream:
                to_disk(stream.fileno())
            os.replace(temporary, place)
            sync_folder(place.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _link_target(path: Path) -> Path:
    """Return the target of a link, which need not exist; `path` itself if it is not a link."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


def _remove_abandoned(target: Path) -> None:
    """Remove abandoned temporary files of `target`."""
    front = companion_name(f".{target.stem}", "-")
    with contextlib.suppress(OSError):
        for path in target.parent.glob(f"{glob.escape(front)}*{glob.escape(target.suffix)}"):
            mark = path.name[len(front) : len(path.name) - len(target.suffix)]
            hexadecimal = len(mark) == 8 and set(mark) <= set("0123456789abcdef")
            if hexadecimal and time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                path.unlink()


def to_disk(handle: int) -> None:
    """Flush an open file to the disk, if its file system supports that."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Flush the entries of a folder to the disk, if the system supports that."""
    if os.name == "nt":  # folders cannot be opened there
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def same_file(path: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Return whether two paths refer to the same existing file."""
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


def make_folder(folder: Path) -> None:
    """Create a folder and those above it where they are missing."""
    with os_errors_as(ResultError, f"The folder {folder} cannot be created", "choose another"):
        folder.mkdir(parents=True, exist_ok=True)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise a `ResultError` if a file cannot be created or replaced at `path`; nothing is changed."""
    target = Path(path)
    if os.path.isdir(target):
        raise ResultError(f"{target} is a folder: give the name of a file.")
    place = _link_target(target)
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
            raise ResultError(f"The name of {target} is too long: give a shorter one.") from error
        raise ResultError(
            f"No file can be written in {folder} ({reason_of(error)}): choose another folder."
        ) from error
