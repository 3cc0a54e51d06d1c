"""Arrays from untrusted ``.npz`` files: no pickles, and every size checked before it is allocated."""

from __future__ import annotations

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

MOST_INFLATED = 1032
"""How many times longer deflated bytes can get."""
BROKEN_FILE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    SyntaxError,
    RuntimeError,  # an encrypted archive, or a compression that is not known
    TypeError,  # a shape of truths
    struct.error,
    MemoryError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    tokenize.TokenError,  # a header that is no Python literal
)
"""What reading a damaged archive may raise."""


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
    """Read named arrays from an untrusted ``.npz`` file; nothing is allocated before its size was checked.

    Parameters
    ----------
    path : str, Path or BytesIO
        The file, or its bytes.
    largest : mapping of str to tuple of int
        The arrays to read: their number of axes, and the largest length of each axis.
    largest_file : int
        Bound on the file, bytes.
    error : type
        What is raised.
    again : str
        What the sentence tells the user to do.
    longest_text : int
        Characters that an element of an array of text may have; 0 refuses such arrays.
    optional : mapping of str to tuple of int, optional
        Arrays that are read too where the file has them.

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    ModelError or `error`
        If the file is missing, too large, no ``.npz``, or an array is missing, an object array or too large.
    """
    file = path if isinstance(path, BytesIO) else Path(path)
    path = "The array data" if isinstance(file, BytesIO) else file
    try:
        size = len(file.getbuffer()) if isinstance(file, BytesIO) else file.stat().st_size
        if size > largest_file:
            raise error(f"{path} is larger than the {largest_file} bytes such a file may have; {again}.")
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
                    raise error(f"{path}: {name} has {wrong}, which no such file has; {again}.")
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
    """Return what is wrong with the shape and type that an array claims, or nothing.

    The archive's directory may lie about lengths: no array is larger than what deflating could make of the
    whole file, `size` bytes.
    """
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(member)
    fits = len(shape) == len(limits) and all(0 <= a <= b for a, b in zip(shape, limits, strict=True))
    claimed = dtype.itemsize
    for length in shape:
        claimed *= int(length)
    largest_item = 4 * longest_text if dtype.kind == "U" else 8
    most = min(archive.getinfo(name).file_size, MOST_INFLATED * size)
    too_large = dtype.itemsize > largest_item or claimed > most
    if not fits or dtype.hasobject or too_large:
        return f"the shape {shape} and type {dtype}"
    return ""
