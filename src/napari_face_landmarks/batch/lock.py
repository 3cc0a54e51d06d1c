"""A lock on an open file that ends with the process, however that ends."""

from __future__ import annotations

import sys
from typing import BinaryIO

_FAR = 1 << 40  # a place that no reader looks at: on Windows a locked byte cannot be read


def try_to_lock(stream: BinaryIO) -> bool:
    """Lock an open file for this process, or return False where another one has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            place = stream.tell()
            stream.seek(_FAR)
            try:
                msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
            finally:
                stream.seek(place)
        else:
            import fcntl

            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
