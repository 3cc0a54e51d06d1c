"""Lock on an open file, which the system releases when the process ends for any reason."""

from __future__ import annotations

import sys
from typing import BinaryIO

from napari_face_landmarks.files.atomic import NOT_SUPPORTED

_LOCK_OFFSET = 1 << 40  # beyond the content, since locked bytes cannot be read on Windows


def try_to_lock(stream: BinaryIO) -> bool:
    """Lock an open file; return False if another process has locked it, True on drives without locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            position = stream.tell()
            stream.seek(_LOCK_OFFSET)
            try:
                msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
            finally:
                stream.seek(position)
        else:
            import fcntl

            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in NOT_SUPPORTED
    return True
