"""Reading of arrays from untrusted ``.npz`` files, without pickles and with checks of sizes."""

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

_MAX_COMPRESSION = 1032  # ratio of deflate
BROKEN_FILE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    SyntaxError,
    RuntimeError,  # encryption, or an unknown compression
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
    hint: str = "take the file from the release again",
    longest_text: int = 0,
    optional: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Read named arrays from an untrusted ``.npz`` file; sizes are checked before memory is allocated.

    `largest` has the arrays to read, and `optional` those to read if present, with the maximum length of each
    axis; `largest_file` is in bytes; `longest_text` is the maximum number of characters of a string, 0 to
    refuse strings. Raises `error`, with `hint` for the user, if the file is invalid, or an array is missing,
    too large or of objects.
    """
    file = path if isinstance(path, BytesIO) else Path(path)
    path = "The array data" if isinstance(file, BytesIO) else file
    try:
        size = len(file.getbuffer()) if isinstance(file, BytesIO) else file.stat().st_size
        if size > largest_file:
            raise error(f"{path} is larger than {largest_file} bytes, the maximum for such a file; {hint}.")
        with zipfile.ZipFile(file) as archive:
            present = {name.removesuffix(".npy") for name in archive.namelist()}
            missing = sorted(set(largest) - present)
            if missing:
                raise error(f"{path} has no array named {missing[0]!r}; {hint}.")
            arrays = {}
            extra = {name: limits for name, limits in (optional or {}).items() if name in present}
            for name, limits in {**largest, **extra}.items():
                invalid = _invalid_header(archive, f"{name}.npy", limits, longest_text, size)
                if invalid:
                    raise error(f"{path}: the array {name} has {invalid}, which is invalid; {hint}.")
                with archive.open(f"{name}.npy") as member:
                    arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
            return arrays
    except FileNotFoundError:
        raise error(f"{path} is missing; {hint}.") from None
    except error:
        raise
    except BROKEN_FILE as reason:
        raise error(f"{path} cannot be read ({in_one_line(reason)}); {hint}.") from None


def _invalid_header(
    archive: zipfile.ZipFile, name: str, limits: tuple[int, ...], longest_text: int, size: int
) -> str:
    """Return the shape and dtype that an array declares, if invalid, or an empty string.

    Declared lengths may be false, so arrays must also be small enough for a compressed file of `size` bytes.
    """
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(member)
    fits = len(shape) == len(limits) and all(0 <= a <= b for a, b in zip(shape, limits, strict=True))
    declared = dtype.itemsize * math.prod(map(int, shape))
    max_item = 4 * longest_text if dtype.kind == "U" else 8
    available = min(archive.getinfo(name).file_size, _MAX_COMPRESSION * size)
    too_large = dtype.itemsize > max_item or declared > available
    if not fits or dtype.hasobject or too_large:
        return f"the shape {shape} and dtype {dtype}"
    return ""
