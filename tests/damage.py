"""Ways to damage files: by bytes, or by members, cells, entries, records and datasets."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
import zlib
from typing import Any

import numpy as np

from napari_face_landmarks.io.hdf5 import MAGIC

SMALL = 64 << 10
"""Maximum size of a small file, bytes; larger inputs are truncated."""
NUMBERS = (
    -1,
    0,
    1,
    2,
    7,
    68,
    255,
    1 << 15,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    123456789,
    1 << 40,
    (1 << 63) - 1,
)
WORDS = (
    "",
    " ",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1",
    "0",
    "1",
    "68",
    "999",
    "2147483648",
    "9" * 40,
    "0x10",
    "1_0",
    "١٢",
    "none",
    "pfld",
    "true",
    "null",
    '"',
    "'",
    "\\",
    "\n",
    "\r",
    "\0",
    ",",
    ",,,,",
    "{",
    "[",
    "\ufeff",
    "💥",
    "../../etc/passwd",
    "a" * 5000,
)


def varint(number: int) -> bytes:
    out = bytearray()
    while True:
        out.append(number & 0x7F | (0x80 if number > 0x7F else 0))
        number >>= 7
        if not number:
            return bytes(out)


def damaged(rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    """Return one of the files, damaged in one to three ways."""
    content = seeds[int(rng.integers(len(seeds)))]
    sound = content[:8] == MAGIC  # `_datasets` uses the HDF5 library, which may loop forever on damaged files
    for _ in range(int(rng.integers(1, 4))):
        ways = [_bytes, _bytes, _numbers, _pieces, _cut]
        if content[:2] == b"PK":
            ways += [_members] * 6
        elif content[:4] == b"NFLJ":
            ways += [_records] * 8
        elif sound:  # damaged bytes are rejected before the package's own code is reached
            ways += [_datasets] * 16
        elif _is_text(content):
            ways += [_words] * 4 + [_lines] * 3
            if content.lstrip()[:1] in b"{[" and content.strip():
                ways += [_json] * 4
        way = ways[int(rng.integers(len(ways)))]
        content, sound = way(rng, content), sound and way is _datasets
    return content[:SMALL] if len(content) > SMALL and len(content) > 2 * max(map(len, seeds)) else content


def _is_text(content: bytes) -> bool:
    return b"\0" not in content[:200] and all(c < 127 for c in content[:200])


def _place(rng: np.random.Generator, content: bytes) -> int:
    most = len(content) if rng.random() < 0.5 else min(len(content), 600)
    return int(rng.integers(max(most, 1)))


def _bytes(rng: np.random.Generator, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 12)) if changed else 0):
        at = _place(rng, content)
        bit = 1 << int(rng.integers(8))
        changed[at] = int(rng.integers(256)) if rng.random() < 0.7 else changed[at] ^ bit
    return bytes(changed)


def _numbers(rng: np.random.Generator, content: bytes) -> bytes:
    at, number = _place(rng, content), NUMBERS[int(rng.integers(len(NUMBERS)))]
    form = ("<b", "<h", "<i", "<q", ">i", ">q", "<f", "<d", "varint")[int(rng.integers(9))]
    if form == "varint":
        packed = varint(number & (1 << 64) - 1)
    elif form in ("<f", "<d"):
        packed = struct.pack(form, (np.nan, np.inf, 1e30, -1.0, 0.0)[int(rng.integers(5))])
    else:
        bits = 8 * struct.calcsize(form)
        packed = struct.pack(form.upper(), number & (1 << bits) - 1)
    return content[:at] + packed + content[at + (len(packed) if rng.random() < 0.8 else 0) :]


def _pieces(rng: np.random.Generator, content: bytes) -> bytes:
    a, b, size = _place(rng, content), _place(rng, content), int(rng.integers(1, 200))
    kind = rng.integers(4)
    if kind == 0:
        return content[:a] + content[a + size :]
    if kind == 1:
        return content[:a] + content[b : b + size] + content[a:]
    if kind == 2:
        return content[:a] + content[b : b + size] * int(rng.integers(2, 40)) + content[a:]
    return content[:a] + bytes(size) + content[a + size :]


def _cut(rng: np.random.Generator, content: bytes) -> bytes:
    if rng.random() < 0.5:
        return content[: _place(rng, content)]
    return content + rng.bytes(int(rng.integers(1, 99)))


def _words(rng: np.random.Generator, content: bytes) -> bytes:
    """Replace cells between separators by words that are hard to parse."""
    text = content.decode("utf-8", "replace")
    for _ in range(int(rng.integers(1, 4))):
        separator = (",", " ", "\n", '"', ":")[int(rng.integers(5))]
        cells = text.split(separator)
        at = int(rng.integers(min(len(cells), 400) if rng.random() < 0.7 else len(cells)))
        cells[at] = WORDS[int(rng.integers(len(WORDS)))]
        text = separator.join(cells)
    return text.encode("utf-8", "replace")


def _lines(rng: np.random.Generator, content: bytes) -> bytes:
    lines = content.split(b"\n")
    a, b = int(rng.integers(len(lines))), int(rng.integers(len(lines)))
    kind = rng.integers(4)
    if kind == 0:
        del lines[a]
    elif kind == 1:
        lines.insert(a, lines[b])
    elif kind == 2:
        lines[a], lines[b] = lines[b], lines[a]
    else:
        lines[a : a + 1] = [lines[a]] * int(rng.integers(2, 30))
    return b"\n".join(lines)


STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e308,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "x",
    "💥" * 9,
    [],
    {},
    [1, 2],
    {"a": None},
    [[[[]]]],
)


def _json(rng: np.random.Generator, content: bytes) -> bytes:
    """Replace, drop or add an entry somewhere in a JSON document."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return content
    strange = STRANGE[int(rng.integers(len(STRANGE)))]
    place = document
    for _ in range(6):
        if not isinstance(place, (dict, list)) or not place:
            break
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = keys[int(rng.integers(len(keys)))]
        if rng.random() < 0.5 or not isinstance(place[key], (dict, list)):
            kind = rng.integers(4)
            if kind == 0:
                del place[key]
            elif kind == 1 and isinstance(place, dict):
                place[WORDS[int(rng.integers(len(WORDS)))]] = strange
            else:
                place[key] = strange
            return json.dumps(document).encode()
        place = place[key]
    return json.dumps(strange).encode()


def _members(rng: np.random.Generator, content: bytes) -> bytes:
    """Damage a member of an archive and rewrite the archive with valid checksums, or with a false size."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:
        return content
    if not members:
        return content
    at = int(rng.integers(len(members)))
    name, inner = members[at]
    kind = rng.integers(7)
    if kind == 0:
        del members[at]
    elif kind == 1:
        members[at] = (members[int(rng.integers(len(members)))][0], inner)
    elif kind == 2 and inner[:6] == b"\x93NUMPY":
        members[at] = (name, _npy_header(rng, inner))
    elif kind == 3:
        members[at] = (name, inner + bytes(int(rng.integers(1, 1 << 20))))
    elif _is_text(inner) and kind < 6:
        change = (_words, _json, _lines)[int(rng.integers(3))]
        members[at] = (name, change(rng, inner))
    else:
        change = (_bytes, _numbers, _pieces, _cut)[int(rng.integers(4))]
        members[at] = (name, change(rng, inner))
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")
        for each, inner in members:
            archive.writestr(each.replace("\0", "_") or "x", inner)
    packed = bytearray(out.getvalue())
    if rng.random() < 0.25:  # the sizes of a member in the directory
        found = packed.find(b"PK\1\2")
        for _ in range(at):
            found = packed.find(b"PK\1\2", found + 4) if found >= 0 else found
        if found >= 0:
            offset = 20 if rng.random() < 0.3 else 24
            claim = int(rng.choice([0, 1, 1 << 20, (1 << 31) - 1, (1 << 32) - 2]))
            packed[found + offset : found + offset + 4] = struct.pack("<I", claim)
    return bytes(packed)


def _records(rng: np.random.Generator, content: bytes) -> bytes:
    """Damage records of a checkpoint log, or their order, and write them with valid checksums."""
    place, records = 8, []
    while place + 12 <= len(content):
        kind, length = struct.unpack("<4sI", content[place : place + 8])
        records.append((kind, content[place + 8 : place + 8 + length]))
        place += 12 + length
    if not records:
        return content
    at = int(rng.integers(len(records)))
    kind, payload = records[at]
    way = rng.integers(6)
    if way == 0:
        del records[at]
    elif way == 1:
        records.insert(at, records[int(rng.integers(len(records)))])
    elif way == 2:
        records[at] = (records[int(rng.integers(len(records)))][0], payload)
    else:
        text, zero, arrays = payload.partition(b"\0") if kind == b"STAT" else (payload, b"", b"")
        change = (_json, _words, _numbers)[int(rng.integers(3))] if kind != b"FRAM" else _pieces
        if rng.random() < 0.2:
            arrays = _pieces(rng, arrays) if arrays else arrays
        records[at] = (kind, change(rng, text) + zero + arrays)
    out = [content[:8]]
    for kind, payload in records:
        front = struct.pack("<4sI", kind, len(payload))
        out.append(front + payload + struct.pack("<I", zlib.crc32(payload, zlib.crc32(front))))
    return b"".join(out)


STRANGE_ARRAYS: tuple[Any, ...] = (
    np.zeros(0),
    np.zeros((3, 3), np.int8),
    np.full((2, 68, 2, 4), np.inf, np.float32),
    np.arange(1000.0),
    np.array([b"a", b"\xff\xfe", b"face_0"]),
    np.zeros((1, 1), [("a", "<f8"), ("b", "<i4", (3,))]),
    np.zeros(4, np.complex64),
    np.uint64((1 << 64) - 1),
    np.bool_(True),
)


def _datasets(rng: np.random.Generator, content: bytes) -> bytes:
    """Drop, replace, resize or rename a dataset of an HDF5 file, or change its values or attributes."""
    import h5py

    stream = io.BytesIO(content)
    try:
        with h5py.File(stream, "r+") as file:
            places: list[Any] = [file]
            file.visititems(lambda _, item: places.append(item))
            item = places[int(rng.integers(len(places)))]
            kind = rng.integers(8)
            if kind < 3 and len(item.attrs):
                _attribute(rng, item.attrs)
            elif isinstance(item, h5py.Dataset):
                _dataset(rng, item, int(kind))
            else:
                file.move(places[-1].name, f"/{WORDS[int(rng.integers(len(WORDS)))].strip('/') or 'x'}")
    except Exception:  # cannot be changed in this way, or is damaged already
        return content
    return stream.getvalue()


def _attribute(rng: np.random.Generator, attributes: Any) -> None:
    name = list(attributes)[int(rng.integers(len(attributes)))]
    value = attributes[name]
    if rng.random() < 0.2:
        del attributes[name]
    elif isinstance(value, (str, bytes, np.void)) and rng.random() < 0.6:
        text = value.encode() if isinstance(value, str) else bytes(value)
        changed = (_json, _words, _bytes, _cut)[int(rng.integers(4))](rng, text)
        attributes[name] = changed.decode("utf-8", "replace") if isinstance(value, str) else np.void(changed)
    elif rng.random() < 0.5:
        attributes[name] = STRANGE_ARRAYS[int(rng.integers(len(STRANGE_ARRAYS)))]
    else:
        attributes[name] = WORDS[int(rng.integers(len(WORDS)))].replace("\0", "")


def _dataset(rng: np.random.Generator, dataset: Any, kind: int) -> None:
    group, name, shape, dtype = dataset.parent, dataset.name, dataset.shape, dataset.dtype
    if kind == 3:
        del group[name]
    elif kind == 4:
        del group[name]
        group[name] = STRANGE_ARRAYS[int(rng.integers(len(STRANGE_ARRAYS)))]
    elif kind == 5 and shape:  # another length: slightly different, or more than the memory
        axis, most = int(rng.integers(len(shape))), (3, 100, 1_500_000, 1 << 40)[int(rng.integers(4))]
        longer = tuple(int(rng.integers(most)) if k == axis else n for k, n in enumerate(shape))
        del group[name]
        group.create_dataset(name, longer, dtype, chunks=(1,) * (len(shape) - 1) + (64,))
    elif dataset.size > SMALL and dtype.kind in "iuf":  # enlarged before: too large for the memory
        return
    elif kind == 6 and dtype.kind in "iuf":
        del group[name]
        other = np.dtype(("<f8", "<i8", "|u1", "<f2", ">i4")[int(rng.integers(5))])
        group[name] = np.zeros(shape, other)
    elif dtype.kind in "iuf" and dataset.size:
        values = dataset[()]
        with np.errstate(all="ignore"):
            np.ravel(values)[int(rng.integers(dataset.size))] = np.array(
                NUMBERS[int(rng.integers(len(NUMBERS)))]
                if dtype.kind != "f"
                else (np.nan, np.inf, -1e30, 2.0)[int(rng.integers(4))]
            ).astype(dtype)
        dataset[()] = values
    elif dataset.size:
        dataset[int(rng.integers(len(dataset)))] = WORDS[int(rng.integers(len(WORDS)))].encode()[:40]


SHAPES = (
    "(1000000, 1000, 68, 2)",
    "(1000000, 68, 2)",
    "(2000000,)",
    "(-5,)",
    "(0,)",
    "()",
    "(2, 0, 68, 2)",
    "(99999999999999999999,)",
    "(1, 1, 68, 2)",
    "(1024, 256)",
    "(3072, 256)",
    "(6, 107, 122, 128)",
    "(True,)",
)
TYPES = (
    "'<f8'",
    "'<f4'",
    "'|u1'",
    "'|O'",
    "'<U256'",
    "'<i8'",
    "'|S99999'",
    "[('a', '<f8')]",
    "'<c16'",
    "'<M8[s]'",
)


def _npy_header(rng: np.random.Generator, inner: bytes) -> bytes:
    """Replace the header of an array: huge shapes, objects, text, records."""
    length = struct.unpack("<H", inner[8:10])[0]
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    descr = TYPES[int(rng.integers(len(TYPES)))]
    header = f"{{'descr': {descr}, 'fortran_order': {bool(rng.integers(2))}, 'shape': {shape}, }}"
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    return inner[:8] + struct.pack("<H", len(header)) + header.encode() + inner[10 + length :]
