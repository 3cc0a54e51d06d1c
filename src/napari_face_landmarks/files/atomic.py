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

_MAX_NAME_BYTES = 255  # on common file systems
_MAX_SUFFIX_BYTES = 32
_ABANDONED_SECONDS = 86400  # age from which a temporary file counts as abandoned
NOT_SUPPORTED = frozenset(
    getattr(errno, name)
    for name in ("EINVAL", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK")
    if hasattr(errno, name)
)
"""Errors of network drives that lack an operation."""


def companion_name(name: str, suffix: str) -> str:
    """Return the name of a companion file: the name of the main file and a suffix such as ``.journal``.

    A name that is too long is shortened and made unique by a hash, which is the same for all suffixes.
    """
    encoded = os.fsencode(name)
    limit = _MAX_NAME_BYTES - max(_MAX_SUFFIX_BYTES, len(os.fsencode(suffix)))
    if len(encoded) > limit:
        digest = f"~{hashlib.sha256(encoded).hexdigest()[:12]}"
        name = encoded[: max(0, limit - len(digest))].decode("utf-8", "ignore") + digest
    return name + suffix


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path, and move the file written there to `path` or to the target of its link.

    The temporary file has the folder and suffix of `path`, and is flushed to the disk before it is moved. If
    the block fails, it is removed and `path` is unchanged. A temporary file of a killed process is removed by
    a later call if it is more than a day old.
    """
    target = Path(path)
    check_writable(target)
    destination = _link_target(target)
    companion = destination.with_name(target.name)  # writers depend on the suffix of the given name
    _remove_abandoned(companion)
    temporary = companion.with_name(
        companion_name(f".{target.stem}", f"-{secrets.token_hex(4)}{target.suffix}")
    )
    try:
        with os_errors_as(ResultError, f"{target} cannot be written", "choose another file"):
            yield temporary
            with open(temporary, "rb+") as stream:
                to_disk(stream.fileno())
            os.replace(temporary, destination)
            sync_folder(destination.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _link_target(path: Path) -> Path:
    """Return the target of a link, existing or not, or `path` itself if it is not a link."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


def _remove_abandoned(target: Path) -> None:
    """Remove abandoned temporary files of `target`."""
    prefix = companion_name(f".{target.stem}", "-")
    with contextlib.suppress(OSError):
        for path in target.parent.glob(f"{glob.escape(prefix)}*{glob.escape(target.suffix)}"):
            token = path.name[len(prefix) : len(path.name) - len(target.suffix)]
            hexadecimal = len(token) == 8 and set(token) <= set("0123456789abcdef")
            if hexadecimal and time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
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
    """Create a folder and its missing parents."""
    with os_errors_as(ResultError, f"The folder {folder} cannot be created", "choose another"):
        folder.mkdir(parents=True, exist_ok=True)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise a `ResultError` if a file cannot be created or replaced at `path`; nothing is changed."""
    target = Path(path)
    if os.path.isdir(target):
        raise ResultError(f"{target} is a folder: give the name of a file.")
    destination = _link_target(target)
    if os.path.lexists(destination) and not os.path.isfile(destination):
        raise ResultError(f"{target} is a device, a pipe or a link to itself: give the name of a file.")
    folder = destination.parent
    if not os.path.isdir(folder):
        raise ResultError(f"The folder {folder} does not exist: create it or choose another.")
    if os.path.exists(target) and not os.access(target, os.W_OK):
        raise ResultError(f"{target} is write-protected: choose another file.")
    probe = folder / f".{secrets.token_hex(8)}".ljust(len(os.fsencode(destination.name)), "x")
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ResultError(f"The name of {target} is too long: give a shorter one.") from error
        raise ResultError(
            f"No file can be written in {folder} ({reason_of(error)}): choose another folder."
        ) from error
