"""Arrays from untrusted ``.npz`` files: no pickles, and sizes are checked before memory is allocated."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import FaceLandmarksError, ModelError, in_one_line

MAX_INFLATION = 1032
"""Largest compression ratio of deflate."""
BROKEN_FILE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    SyntaxError,
    RuntimeError,  # an encrypted archive, or an unknown compression
    TypeError,  # a shape of booleans
    struct.error,
    MemoryError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    tokenize.TokenError,  # a header that is not a Python literal
)
"""Exceptions that a damaged archive can raise."""


def read_npz(
    path: str | Path | BytesIO,
    largest: Mapping[str, tuple[int, ...]],
    largest_file: int,
    *,
    error: type[FaceLandmarksError] = ModelError,
    again: str = "take the file from the release again",
    longest_text: int = 0,
    optional: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Read named arrays from an untrusted ``.npz`` file; sizes are checked before memory is allocated.

    `largest` and `optional` are the arrays to read, the latter if present, with the maximum length of each
    axis; `largest_file` is in bytes; `longest_text` the maximum number of characters of an element, 0 refuses
    text. Raises `error`, with `again`, what the user should do, if the file is invalid or an array missing,
    too large or of objects.
    """
    file = path if isinstance(path, BytesIO) else Path(path)
    path = "The array data" if isinstance(file, BytesIO) else file
    try:
        size = len(file.getbuffer()) if isinstance(file, BytesIO) else file.stat().st_size
        if size > largest_file:
            raise error(f"{path} is larger than {largest_file} bytes, the maximum for such a file; {again}.")
        with zipfile.ZipFile(file) as archive:
            there = {name.removesuffix(".npy") for name in archive.namelist()}
            missing = sorted(set(largest) - there)
            if missing:
                raise error(f"{path} has no array named {missing[0]!r}; {again}.")
            arrays = {}
            more = {name: limits for name, limits in (optional or {}).items() if name in there}
            for name, limits in {**largest, **more}.items():
                wrong = _wrong_header(archive, f"{name}.npy", limits, longest_text, size)
                if wrong:
                    raise error(f"{path}: the array {name} has {wrong}, which is invalid; {again}.")
                with archive.open(f"{name}.npy") as member:
                    arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
            return arrays
    except FileNotFoundError:
        raise error(f"{path} is missing; {again}.") from None
    except error:
        raise
    except BROKEN_FILE as reason:
        raise error(f"{path} cannot be read ({in_one_line(reason)}); {again}.") from None


def _wrong_header(
    archive: zipfile.ZipFile, name: str, limits: tuple[int, ...], longest_text: int, size: int
) -> str:
    """Return the shape and dtype that an array declares if they are invalid, otherwise an empty string.

    Declared lengths may be false, so an array is also limited to what a file of `size` bytes could decompress
    to.
    """
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(member)
    fits = len(shape) == len(limits) and all(0 <= a <= b for a, b in zip(shape, limits, strict=True))
    declared = dtype.itemsize * math.prod(map(int, shape))
    largest_item = 4 * longest_text if dtype.kind == "U" else 8
    most = min(archive.getinfo(name).file_size, MAX_INFLATION * size)
    too_large = dtype.itemsize > largest_item or declared > most
    if not fits or dtype.hasobject or too_large:
        return f"the shape {shape} and dtype {dtype}"
    return ""
