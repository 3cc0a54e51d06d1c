"""Arrays from untrusted HDF5 files: no external links, no pickles, sizes checked before allocation.

Files are made in memory and then written as bytes: if the HDF5 library cannot write, as on a full disk, it
prints a stack of errors and may abort the process.
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
"""The group for what a format does not store; other programs ignore it."""
EXTRA = tuple(item for item in FIELDS if item.name not in ("landmarks", "confidence"))
"""The arrays in that group; what is found with the landmarks elsewhere is not in it."""
MAGIC = b"\x89HDF\r\n\x1a\n"
HEAP = b"GCOL"
"""The signature of a global heap, in which HDF5 keeps strings of variable length."""
MAX_FILE_BYTES = 64 << 30
MAX_CHUNK_BYTES = 256 << 20
MAX_RECORD_BYTES = 16 << 20
DEFLATE = 1100
"""The largest factor by which deflate can shrink data."""
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
"""What h5py and xarray raise over damaged files."""
SAFE_FILTERS = frozenset({1, 2, 3, 32000})
"""Deflate, shuffle, checksums and LZF; others have had vulnerabilities, or are loaded from plugin files."""
MAX_STRINGS = 200_000
"""Entries of all global heaps together."""
MAX_HEAPS = 256
UNDEFINED_ADDRESS = b"\xff" * 8
"""The address that HDF5 calls undefined."""
DIMENSION_ONLY = b"This is a netCDF dimension but not a netCDF variable"
MAX_VALUES = common.MAX_ROWS * N_LANDMARKS * 3
COMPRESSED = {"compression": "gzip", "compression_opts": 4, "shuffle": True}


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Any]:
    """Open an HDF5 file; errors while it is read become a `ResultError`."""
    h5py = optional("h5py", f"Reading {path}")
    if not path.is_file():
        raise ResultError(f"{path} is missing: check the name of the file.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ResultError(f"{path} is larger than {MAX_FILE_BYTES} bytes, the most that is read: split it.")
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
    """Refuse a file whose layout could make the HDF5 library loop forever or allocate without bound."""
    if not is_hdf5(path):
        raise ResultError(f"{path} is not an HDF5 file: check the name of the file.")
    left, heaps = MAX_STRINGS, MAX_HEAPS
    try:
        with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            sizes = content[13:15] if content[8:9] in (b"\0", b"\1") else content[9:11]
            driver = {b"\0": content[48:56], b"\1": content[52:60]}.get(content[8:9], UNDEFINED_ADDRESS)
            # sizes of addresses and lengths, 8 bytes in today's files; a driver information block would be
            # read at the length that it claims
            if sizes != b"\x08\x08" or driver != UNDEFINED_ADDRESS:
                raise ResultError(f"{path} has an unusual HDF5 layout: save it again.")
            place = content.find(HEAP)
            while place >= 0:
                entries = _count_heap_entries(content, place, left, path)
                left, heaps = left - entries, heaps - bool(entries)
                if heaps < 0:
                    raise ResultError(f"{path} has too many strings: save it again.")
                place = content.find(HEAP, place + len(HEAP))
    except OSError as error:
        raise ResultError(
            f"{path} cannot be read ({in_one_line(error)}): check the name of the file."
        ) from None


def _count_heap_entries(content: mmap.mmap, place: int, most: int, path: Path) -> int:
    """Return the number of entries of a global heap; 0 for a chance match of the signature."""
    if place + 16 > len(content):
        return 0
    version, reserved, size = struct.unpack_from("<B3sQ", content, place + 4)
    if version != 1 or reserved != bytes(3):
        return 0
    at, end, count = place + 16, place + size, 0
    while at + 16 <= end and end <= len(content) and count < most:
        index, length = struct.unpack_from("<H6xQ", content, at)
        step = length if index == 0 else 16 + (length + 7) // 8 * 8  # 0 is the free space
        if step < 16:
            break
        at, count = at + step, count + 1
    if end > len(content) or at > end or at + 16 <= end:
        raise ResultError(f"{path} has damaged or too many strings: save it again.")
    return count


def root_names(path: Path) -> set[str]:
    """Return the names at the root of an HDF5 file; none if it cannot be read or h5py is not installed."""
    if not is_hdf5(path):
        return set()
    try:
        with reading(path) as file:
            return {str(name) for name in file}
    except FaceLandmarksError:
        return set()


def member(group: Any, name: str, kind: str, path: Path) -> Any:
    """Return a "Group" or "Dataset" of a group, refusing links out of the file."""
    h5py = optional("h5py", f"Reading {path}")
    if name not in group:
        raise ResultError(f"{path} has no {name!r}: check that it is a file of landmarks.")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ResultError(f"{path}: {name!r} is a link, which is not followed: save the file again.")
    found = group[name]
    if not isinstance(found, getattr(h5py, kind)):
        raise ResultError(f"{path}: {name!r} is not a {kind.lower()}: check that it is a file of landmarks.")
    if kind == "Dataset" and (found.external or found.is_virtual):
        raise ResultError(
            f"{path}: {name!r} has its values in other files, which are not read: save the file again."
        )
    return found


def array(
    group: Any, name: str, limits: tuple[int, ...], path: Path, kinds: str = "biuf"
) -> npt.NDArray[Any]:
    """Return an array of a group, checked before it is read: length of each axis, kind of NumPy type."""
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
    """Return whether an HDF5 type is numeric or text; other types, if damaged, crash the library."""
    from h5py import h5t

    return kind.get_class() in (h5t.INTEGER, h5t.FLOAT, h5t.STRING, h5t.OPAQUE, h5t.ENUM)


def attribute(item: Any, name: str, path: Path) -> Any:
    """Return an attribute of a group or dataset, its type checked before it is read; None where missing."""
    if name not in item.attrs:
        return None
    found = item.attrs.get_id(name)
    if not _is_plain(found.get_type()) or found.get_storage_size() > path.stat().st_size:
        raise ResultError(f"{path}: {name!r} is neither a number nor text: save it again.")
    return item.attrs[name]


def is_dimension_only(dataset: Any, path: Path) -> bool:
    """Return whether a dataset represents a netCDF dimension without coordinates."""
    called = attribute(dataset, "NAME", path)
    return isinstance(called, bytes) and called.startswith(DIMENSION_ONLY)


def _check_storage(dataset: Any, name: str, path: Path) -> None:
    """Refuse a dataset that claims more than the file can hold, or is compressed with an unusual filter."""
    packing = dataset.id.get_create_plist()
    if {packing.get_filter(k)[0] for k in range(packing.get_nfilters())} - SAFE_FILTERS:
        raise ResultError(f"{path}: {name!r} is packed in a way that is not read: save it with gzip.")
    length = path.stat().st_size
    stored, size = min(dataset.id.get_storage_size(), length), dataset.dtype.itemsize
    chunk = int(np.prod(dataset.chunks, dtype=np.float64)) * size if dataset.chunks else 0
    if dataset.size * size > DEFLATE * stored or chunk > min(MAX_CHUNK_BYTES, DEFLATE * length):
        raise ResultError(f"{path}: {name!r} claims more values than the file can hold: save it again.")
    place = dataset.id.get_offset() if dataset.dtype.kind == "O" else None
    if place is not None:  # HDF5 allocates the length that a string claims before it reads it
        with open(path, "rb") as stream:
            stream.seek(place)
            kind = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])
            raw = stream.read(kind.itemsize * dataset.size)
            texts_there = np.frombuffer(raw[: len(raw) // kind.itemsize * kind.itemsize], kind)
        if texts_there["length"].max(initial=0) > length:
            raise ResultError(f"{path}: {name!r} has a string longer than the file: save it again.")


def rows(dataset: Any, name: str, path: Path) -> npt.NDArray[Any]:
    """Return a table of records, its size checked; the caller has checked its type."""
    if (
        len(dataset.shape) != 1
        or dataset.shape[0] > common.MAX_ROWS
        or dataset.size * dataset.dtype.itemsize > 8 * MAX_VALUES
    ):
        raise ResultError(f"{path}: {name!r} is larger than the tables that are read: split it.")
    _check_storage(dataset, name, path)
    return np.asarray(dataset[()])


def texts(group: Any, name: str, most: int, path: Path) -> list[str]:
    """Return a list of strings of a group."""
    values = array(group, name, (most,), path, kinds="SO").tolist()
    try:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    except UnicodeDecodeError:
        raise ResultError(
            f"{path}: {name!r} is not a list of strings in UTF-8: save the file again."
        ) from None


def text(group: Any, name: str, path: Path) -> bytes:
    """Return a single string of a group that was written as bytes (uint8)."""
    return array(group, name, (MAX_RECORD_BYTES,), path, kinds="u").astype(np.uint8).tobytes()


def write_extra(content: io.BytesIO, tracks: Tracks) -> None:
    """Add the group for what a format does not store to an HDF5 file in memory."""
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
    """Return the kind of NumPy type in which a field is stored: HDF5 has no bool."""
    return np.dtype(item.dtype).kind.replace("b", "u")


def assemble_tracks(
    file: Any,
    path: Path,
    landmarks: npt.NDArray[Any],
    confidence: npt.NDArray[Any] | None,
    names: Sequence[str],
    scorer: str = "",
) -> Tracks:
    """Return tracks of landmarks (N, F, 68, 2) and confidence (N, F, 68) of the frames 0 to N - 1.

    `names` are those of the faces; the group `EXTRA_GROUP`, where present, has the rest. `scorer` is text of
    `common.scorer_name` that the format has elsewhere, if any.
    """
    plain = common.add_meta(common.add_names(None, names), common.parse_scorer(scorer))
    plain_arrays = {"landmarks": landmarks, "confidence": confidence}
    if EXTRA_GROUP not in file:
        return common.make_tracks(path, plain_arrays, record=plain)
    group = member(file, EXTRA_GROUP, "Group", path)
    frames = array(group, "frame_indices", (common.MAX_ROWS,), path, kinds="i")
    n_frames, n_faces = landmarks.shape[:2]
    each = (common.MAX_ROWS, common.MAX_FACES)
    seconds = array(group, "timestamps", (common.MAX_ROWS,), path, kinds="f")
    extra = {
        item.name: array(group, item.name, (*each, *item.shape), path, kinds=_kind_of(item))
        for item in EXTRA
        if item.required or item.name in group
    }
    fit = all(len(values) == len(frames) for values in (seconds, *extra.values()))
    fit &= extra["source"].shape[1] == n_faces and bool(((frames >= 0) & (frames < n_frames)).all())
    if not fit:  # another program has removed frames or faces
        return common.make_tracks(path, plain_arrays, record=plain)
    tracked = {name: None if values is None else values[frames] for name, values in plain_arrays.items()}
    record = common.add_names(common.record_from_json(text(group, "record", path), path), names)
    return common.make_tracks(path, {**tracked, **extra}, frames, seconds, record)
