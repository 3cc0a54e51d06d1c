"""Safe reading of untrusted HDF5 files: no external links, no pickles, sizes checked before allocation.

Files are created in memory and then written as bytes: when the HDF5 library itself cannot write, for example
on a full disk, it prints a stack of errors and may abort the process.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import FIELDS, Field
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import FaceLandmarksError, ResultError, in_one_line
from napari_face_landmarks.files.optional import optional
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.io import common

EXTRA_GROUP = "napari_face_landmarks"
"""Group with the data that a format does not store; other programs ignore it."""
EXTRA = tuple(item for item in FIELDS if item.name not in ("landmarks", "confidence"))
"""Arrays in that group; formats store landmarks and confidence themselves."""
MAGIC = b"\x89HDF\r\n\x1a\n"
HEAP = b"GCOL"
"""Signature of a global heap, which stores strings of variable length."""
MAX_FILE_BYTES = 64 << 30
MAX_CHUNK_BYTES = 256 << 20
MAX_RECORD_BYTES = 16 << 20
DEFLATE = 1100
"""Greatest compression ratio of deflate."""
BROKEN_FILE = (
    OSError,
    LookupError,
    ValueError,
    TypeError,
    RuntimeError,
    AttributeError,
    ArithmeticError,
    SystemError,
    MemoryError,
)
"""Errors that h5py and xarray raise for damaged files."""
SAFE_FILTERS = frozenset({1, 2, 3, 32000})
"""Deflate, shuffle, checksums and LZF; other filters had vulnerabilities, or are loaded from plugin files."""
MAX_STRINGS = 200_000
"""Maximum number of entries of all global heaps together."""
MAX_HEAPS = 256
UNDEFINED_ADDRESS = b"\xff" * 8
DIMENSION_ONLY = b"This is a netCDF dimension but not a netCDF variable"
MAX_VALUES = common.MAX_ROWS * N_LANDMARKS * 3
COMPRESSED = {"compression": "gzip", "compression_opts": 4, "shuffle": True}


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Any]:
    """Open an HDF5 file, and convert errors while it is read to a `ResultError`."""
    h5py = optional("h5py", f"Reading {path}")
    if not path.is_file():
        raise ResultError(f"{path} is missing: check the name of the file.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ResultError(f"{path} is larger than the limit of {MAX_FILE_BYTES} bytes: split it.")
    check_layout(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FaceLandmarksError:
        raise
    except BROKEN_FILE as error:
        raise ResultError(f"{path} cannot be read ({in_one_line(error)}): save it again.") from None


def is_hdf5(path: Path) -> bool:
    """Return whether a file has the signature of HDF5."""
    return common.first_bytes(path, len(MAGIC)) == MAGIC


def check_layout(path: Path) -> None:
    """Raise an error if the layout of a file could make the HDF5 library hang or exhaust the memory."""
    if not is_hdf5(path):
        raise ResultError(f"{path} is not an HDF5 file: check the name of the file.")
    strings_left, heaps_left = MAX_STRINGS, MAX_HEAPS
    try:
        with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            sizes = content[13:15] if content[8:9] in (b"\0", b"\1") else content[9:11]
            driver = {b"\0": content[48:56], b"\1": content[52:60]}.get(content[8:9], UNDEFINED_ADDRESS)
            # sizes of addresses and lengths are 8 bytes in usual files; a driver information block would be
            # read with the length that it claims
            if sizes != b"\x08\x08" or driver != UNDEFINED_ADDRESS:
                raise ResultError(f"{path} has an unusual HDF5 layout: save it again.")
            offset = content.find(HEAP)
            while offset >= 0:
                entries = _count_heap_entries(content, offset, strings_left, path)
                strings_left, heaps_left = strings_left - entries, heaps_left - bool(entries)
                if heaps_left < 0:
                    raise ResultError(f"{path} has too many strings: save it again.")
                offset = content.find(HEAP, offset + len(HEAP))
    except OSError as error:
        raise ResultError(
            f"{path} cannot be read ({in_one_line(error)}): check the name of the file."
        ) from None


def _count_heap_entries(content: mmap.mmap, start: int, limit: int, path: Path) -> int:
    """Return the number of entries of a global heap; 0 for a chance match of the signature."""
    if start + 16 > len(content):
        return 0
    version, reserved, size = struct.unpack_from("<B3sQ", content, start + 4)
    if version != 1 or reserved != bytes(3):
        return 0
    offset, end, count = start + 16, start + size, 0
    while offset + 16 <= end and end <= len(content) and count < limit:
        index, length = struct.unpack_from("<H6xQ", content, offset)
        step = length if index == 0 else 16 + (length + 7) // 8 * 8  # 0 is free space
        if step < 16:
            break
        offset, count = offset + step, count + 1
    if end > len(content) or offset > end or offset + 16 <= end:
        raise ResultError(f"{path} has damaged or too many strings: save it again.")
    return count


def root_names(path: Path) -> set[str]:
    """Return the names in the root group of an HDF5 file; none if unreadable or h5py is not installed."""
    if not is_hdf5(path):
        return set()
    try:
        with reading(path) as file:
            return {str(name) for name in file}
    except FaceLandmarksError:
        return set()


def member(group: Any, name: str, kind: str, path: Path) -> Any:
    """Return a member of a group, of the `kind` "Group" or "Dataset"; links out of the file are refused."""
    h5py = optional("h5py", f"Reading {path}")
    if name not in group:
        raise ResultError(f"{path} has no {name!r}: check that it is a file of landmarks.")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ResultError(f"{path}: {name!r} is a link, which is not followed: save the file again.")
    item = group[name]
    if not isinstance(item, getattr(h5py, kind)):
        raise ResultError(f"{path}: {name!r} is not a {kind.lower()}: check that it is a file of landmarks.")
    if kind == "Dataset" and (item.external or item.is_virtual):
        raise ResultError(
            f"{path}: {name!r} has its values in other files, which are not read: save the file again."
        )
    return item


def array(
    group: Any, name: str, limits: tuple[int, ...], path: Path, kinds: str = "biuf"
) -> npt.NDArray[Any]:
    """Read an array of a group after checking its type, its size, and the length of each axis."""
    dataset = member(group, name, "Dataset", path)
    fits = len(dataset.shape) == len(limits) and all(
        a <= b for a, b in zip(dataset.shape, limits, strict=True)
    )
    if not fits or not _is_plain(dataset.id.get_type()) or dataset.dtype.kind not in kinds:
        raise ResultError(
            f"{path}: {name!r} is {dataset.dtype} of the shape {dataset.shape}: save the file again."
        )
    _check_storage(dataset, name, path)
    return np.asarray(dataset[()])


def _is_plain(kind: Any) -> bool:
    """Return whether an HDF5 type is numeric or text; damaged other types crash the library."""
    from h5py import h5t

    return kind.get_class() in (h5t.INTEGER, h5t.FLOAT, h5t.STRING, h5t.OPAQUE, h5t.ENUM)


def attribute(item: Any, name: str, path: Path) -> Any:
    """Read an attribute of a group or dataset after checking its type and size; None if it is missing."""
    if name not in item.attrs:
        return None
    stored = item.attrs.get_id(name)
    if not _is_plain(stored.get_type()) or stored.get_storage_size() > path.stat().st_size:
        raise ResultError(f"{path}: {name!r} is neither a number nor text: save it again.")
    return item.attrs[name]


def is_dimension_only(dataset: Any, path: Path) -> bool:
    """Return whether a dataset represents a netCDF dimension without coordinates."""
    label = attribute(dataset, "NAME", path)
    return isinstance(label, bytes) and label.startswith(DIMENSION_ONLY)


def _check_storage(dataset: Any, name: str, path: Path) -> None:
    """Raise an error if a dataset claims more than the file can hold, or uses an unusual filter."""
    creation = dataset.id.get_create_plist()
    if {creation.get_filter(k)[0] for k in range(creation.get_nfilters())} - SAFE_FILTERS:
        raise ResultError(f"{path}: {name!r} has an unsupported compression: save it with gzip.")
    length = path.stat().st_size
    stored, size = min(dataset.id.get_storage_size(), length), dataset.dtype.itemsize
    chunk = int(np.prod(dataset.chunks, dtype=np.float64)) * size if dataset.chunks else 0
    if dataset.size * size > DEFLATE * stored or chunk > min(MAX_CHUNK_BYTES, DEFLATE * length):
        raise ResultError(f"{path}: {name!r} claims more values than the file can hold: save it again.")
    offset = dataset.id.get_offset() if dataset.dtype.kind == "O" else None
    if offset is not None:  # HDF5 allocates the length that a string claims before it reads it
        with open(path, "rb") as stream:
            stream.seek(offset)
            dtype = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])
            raw = stream.read(dtype.itemsize * dataset.size)
            strings = np.frombuffer(raw[: len(raw) // dtype.itemsize * dtype.itemsize], dtype)
        if strings["length"].max(initial=0) > length:
            raise ResultError(f"{path}: {name!r} has a string longer than the file: save it again.")


def rows(dataset: Any, name: str, path: Path) -> npt.NDArray[Any]:
    """Read a table of records after checking its size; the caller has checked its type."""
    if (
        len(dataset.shape) != 1
        or dataset.shape[0] > common.MAX_ROWS
        or dataset.size * dataset.dtype.itemsize > 8 * MAX_VALUES
    ):
        raise ResultError(f"{path}: {name!r} has too many rows to be read: split it.")
    _check_storage(dataset, name, path)
    return np.asarray(dataset[()])


def texts(group: Any, name: str, limit: int, path: Path) -> list[str]:
    """Read at most `limit` strings from a dataset of a group."""
    values = array(group, name, (limit,), path, kinds="SO").tolist()
    try:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    except UnicodeDecodeError:
        raise ResultError(
            f"{path}: {name!r} is not a list of strings in UTF-8: save the file again."
        ) from None


def text(group: Any, name: str, path: Path) -> bytes:
    """Read a single string of a group that is stored as bytes (uint8)."""
    return array(group, name, (MAX_RECORD_BYTES,), path, kinds="u").astype(np.uint8).tobytes()


def write_extra(content: io.BytesIO, tracks: Tracks) -> None:
    """Add the group `EXTRA_GROUP` to an HDF5 file in memory."""
    h5py = optional("h5py", "Writing HDF5")
    with h5py.File(content, "r+") as file:
        group = file.create_group(EXTRA_GROUP)
        for name in (*(item.name for item in EXTRA), "frame_indices", "timestamps"):
            values = getattr(tracks, name)
            group.create_dataset(name, data=values.astype(np.uint8) if values.dtype == np.bool_ else values)
        group.create_dataset(
            "record", data=np.frombuffer(common.record_to_json(tracks).encode(), dtype=np.uint8)
        )


def _kind_of(item: Field) -> str:
    """Return the kind of the NumPy type in which a field is stored; HDF5 has no bool."""
    return np.dtype(item.dtype).kind.replace("b", "u")


def assemble_tracks(
    file: Any,
    path: Path,
    landmarks: npt.NDArray[Any],
    confidence: npt.NDArray[Any] | None,
    names: Sequence[str],
    scorer: str = "",
) -> Tracks:
    """Assemble tracks from landmarks (N, F, 68, 2) and confidence (N, F, 68) of the frames 0 to N - 1.

    `names` are those of the faces. Everything else is read from `EXTRA_GROUP` if the file has it. `scorer` is
    the string of `common.scorer_name`, if the format stores it.
    """
    basic_record = common.add_meta(common.add_names(None, names), common.parse_scorer(scorer))
    basic_arrays = {"landmarks": landmarks, "confidence": confidence}
    if EXTRA_GROUP not in file:
        return common.make_tracks(path, basic_arrays, record=basic_record)
    group = member(file, EXTRA_GROUP, "Group", path)
    frames = array(group, "frame_indices", (common.MAX_ROWS,), path, kinds="i")
    n_frames, n_faces = landmarks.shape[:2]
    limits = (common.MAX_ROWS, common.MAX_FACES)
    seconds = array(group, "timestamps", (common.MAX_ROWS,), path, kinds="f")
    extra = {
        item.name: array(group, item.name, (*limits, *item.shape), path, kinds=_kind_of(item))
        for item in EXTRA
        if item.required or item.name in group
    }
    consistent = all(len(values) == len(frames) for values in (seconds, *extra.values()))
    consistent &= extra["source"].shape[1] == n_faces and bool(((frames >= 0) & (frames < n_frames)).all())
    if not consistent:  # another program removed frames or faces
        return common.make_tracks(path, basic_arrays, record=basic_record)
    tracked = {name: None if values is None else values[frames] for name, values in basic_arrays.items()}
    record = common.add_names(common.record_from_json(text(group, "record", path), path), names)
    return common.make_tracks(path, {**tracked, **extra}, frames, seconds, record)
