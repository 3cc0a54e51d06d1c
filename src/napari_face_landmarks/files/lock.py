"""A lock on an open file, released when the process ends for whatever reason."""

from __future__ import annotations

import sys
from typing import BinaryIO

from napari_face_landmarks.files.atomic import NOT_SUPPORTED

_FAR = 1 << 40  # beyond the content: on Windows a locked byte cannot be read


def try_to_lock(stream: BinaryIO) -> bool:
    """Lock an open file for this process; return False if another holds it, True on drives without locks."""
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
        return error.errno in NOT_SUPPORTED
    return True
