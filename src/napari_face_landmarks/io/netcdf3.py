"""The head of a classic netCDF file, walked through before another library believes what it claims.

The layout is that of NetCDF's own specification: magic number, number of records, then lists of dimensions,
attributes and variables, all big-endian, names and values padded to four bytes.
"""

from __future__ import annotations

import struct
from pathlib import Path

from napari_face_landmarks.errors import ResultError

LARGEST_HEAD = 16 << 20
MOST_ENTRIES = 10_000
MOST_DIMENSIONS = 16
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8}
_DIMENSIONS, _VARIABLES, _ATTRIBUTES = 10, 11, 12


class _Head:
    """The bytes of the head and how far they are read."""

    def __init__(self, content: bytes, wide: bool) -> None:
        self.content, self.place, self.wide = content, 4, wide

    def take(self, count: int) -> bytes:
        """Return so many bytes."""
        if not 0 <= count <= len(self.content) - self.place:
            raise ValueError("its head is cut off or claims more than it has")
        self.place += count
        return self.content[self.place - count : self.place]

    def number(self) -> int:
        """Return a count."""
        value = int(struct.unpack(">i", self.take(4))[0])
        if value < 0:
            raise ValueError("its head has a negative number")
        return value

    def offset(self) -> int:
        """Return a place in the file."""
        return int(struct.unpack(">q", self.take(8))[0]) if self.wide else self.number()

    def padded(self, count: int) -> None:
        """Pass over bytes that are padded to four."""
        self.take(count + -count % 4)

    def entries(self, kind: int) -> int:
        """Return the length of a list of a kind."""
        tag, count = self.number(), self.number()
        if (tag, count) != (0, 0) and (tag != kind or count > MOST_ENTRIES):
            raise ValueError("its head has a damaged list")
        return count

    def attributes(self) -> None:
        """Pass over a list of attributes."""
        for _ in range(self.entries(_ATTRIBUTES)):
            self.padded(self.number())
            kind = self.number()
            if kind not in _SIZES:
                raise ValueError("its head has an unknown type")
            self.padded(self.number() * _SIZES[kind])


def check_classic(path: Path) -> None:
    """Refuse a classic netCDF file that claims more than it holds.

    Raises
    ------
    ResultError
        If its head is damaged or a variable would be larger than the file.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            _check(stream.read(min(size, LARGEST_HEAD)), size)
    except (OSError, ValueError, struct.error) as error:
        raise ResultError(f"{path} is no whole netCDF file ({error}): save it again.") from None


def _check(content: bytes, size: int) -> None:
    if len(content) < 8 or content[3] not in (1, 2):
        raise ValueError("its version is not known")
    head = _Head(content, wide=content[3] == 2)
    records = head.number()
    lengths = []
    for _ in range(head.entries(_DIMENSIONS)):
        head.padded(head.number())
        lengths.append(head.number() or records)
    head.attributes()
    for _ in range(head.entries(_VARIABLES)):
        head.padded(head.number())
        values = 1
        dimensions = head.number()
        if dimensions > MOST_DIMENSIONS:
            raise ValueError("a variable has too many dimensions")
        for _ in range(dimensions):
            dimension = head.number()
            if dimension >= len(lengths):
                raise ValueError("a variable has an unknown dimension")
            values *= lengths[dimension]
        head.attributes()
        kind = head.number()
        head.take(4)  # the size, which is 0xFFFFFFFF where it is large
        begin = head.offset()
        if kind not in _SIZES or not 0 <= begin <= size or values * _SIZES[kind] > size:
            raise ValueError("a variable is larger than the file")
