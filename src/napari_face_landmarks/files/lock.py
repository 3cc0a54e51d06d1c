"""A lock on an open file that ends with the process, however that ends."""

from __future__ import annotations

import sys
from typing import BinaryIO

from napari_face_landmarks.files.atomic import NOT_OFFERED

_FAR = 1 << 40  # a place that no reader looks at: on Windows a locked byte cannot be read


def try_to_lock(stream: BinaryIO) -> bool:
    """Lock an open file for this process, or return False where another one has it.

    On drives that know no locks, as some in a network, it counts as locked: nobody could be kept out.
    """
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
    except OSError as error:
        return error.errno in NOT_OFFERED
    return True
