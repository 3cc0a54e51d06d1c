"""The journal of a run: its results and states, appended to one file as they come.

A journal begins with `MAGIC`. Records follow: four letters that say what it is, the number of bytes (uint32,
little-endian), these bytes, and a CRC-32 of all that (uint32). ``HEAD`` is what the run is, as JSON;
``FRAM`` are finished frames, each of them `frame_type`; ``STAT`` is the state from which the run goes on
after the frames before it. What a crash cut off or damaged, and all after it, counts as not written.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import TRACKED
from napari_face_landmarks.data.frame import FrameResult
from napari_face_landmarks.errors import ResultError, in_one_line
from napari_face_landmarks.files.atomic import to_disk
from napari_face_landmarks.tracking.state import LARGEST_STATE, TrackerState, state_from_bytes, state_to_bytes

MAGIC = b"NFLJRNL1"
SYNC_SECONDS = 1.0
"""A crash loses at most the results of so many seconds, and of one frame."""
LARGEST_HEAD = 1 << 20
LARGEST_FRAMES = 64 << 20
MOST_BUFFERED = 8 << 20
"""Bytes of results that wait to be written at most."""
_FRONT, _BACK = struct.Struct("<4sI"), struct.Struct("<I")
_LARGEST = {b"HEAD": LARGEST_HEAD, b"FRAM": LARGEST_FRAMES, b"STAT": LARGEST_STATE}


def frame_type(max_faces: int) -> np.dtype[Any]:
    """Return how a frame is stored: its index, then the arrays that the tracker computes."""
    arrays = [(item.name, item.dtype, (max_faces, *item.shape)) for item in TRACKED]
    return np.dtype([("index", "<i8"), *arrays])


def frame_to_bytes(result: FrameResult, kind: np.dtype[Any]) -> bytes:
    """Return a frame's result as `kind`, a `frame_type`, stores it."""
    row = np.zeros((), kind)
    for name in kind.names or ():
        row[name] = getattr(result, name)
    return row.tobytes()


class Journal:
    """A journal that is being written.

    Parameters
    ----------
    stream : file
        Open for reading and writing, at its end.
    max_faces : int
        Slots of each frame.
    """

    def __init__(self, stream: BinaryIO, max_faces: int) -> None:
        self._stream = stream
        self._type = frame_type(max_faces)
        self._buffer: list[bytes] = []
        self._end = 0
        self._synced = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether it is time to call `sync`."""
        full = len(self._buffer) * self._type.itemsize >= MOST_BUFFERED
        return full or time.monotonic() - self._synced >= SYNC_SECONDS

    def add(self, result: FrameResult) -> None:
        """Take a result, to be written by the next `sync`."""
        self._buffer.append(frame_to_bytes(result, self._type))

    def sync(self, state: TrackerState) -> None:
        """Write the results taken so far and the state after them, down to the disk."""
        self._stream.seek(self._end)  # over what an earlier call could not finish
        self._stream.truncate()
        if self._buffer:
            self._append(b"FRAM", b"".join(self._buffer))
        self._append(b"STAT", state_to_bytes(state))
        self._settle()
        self._buffer.clear()
        self._synced = time.monotonic()

    def begin(self, head: Mapping[str, Any]) -> None:
        """Empty the file and write what the run is."""
        self._stream.seek(0)
        self._stream.truncate()
        self._stream.write(MAGIC)
        self._append(b"HEAD", json.dumps(head, sort_keys=True).encode())
        self._settle()

    def go_on(self, end: int) -> None:
        """Drop what comes after `end`, and append from there on."""
        self._end = end

    def close(self) -> None:
        """Close the file; what was not synced is lost."""
        with contextlib.suppress(OSError):  # of what a full disk did not take, which was told before
            self._stream.close()

    def _settle(self) -> None:
        self._stream.flush()
        to_disk(self._stream.fileno())
        self._end = self._stream.tell()

    def _append(self, kind: bytes, payload: bytes) -> None:
        front = _FRONT.pack(kind, len(payload))
        check = zlib.crc32(payload, zlib.crc32(front))
        self._stream.write(b"".join([front, payload, _BACK.pack(check)]))


@dataclass(frozen=True, slots=True)
class JournalContent:
    """What a journal holds up to the last state in it.

    Attributes
    ----------
    head : dict
        What the run is.
    state : TrackerState or None
        The last state; None where there is none yet.
    n_frames : int
        Finished frames before it.
    end : int
        Its last byte's place, plus one.
    """

    head: dict[str, Any]
    state: TrackerState | None
    n_frames: int
    end: int


def read_journal(stream: BinaryIO, max_faces: int, at: int | None = None) -> JournalContent | None:
    """Read a journal up to the last state that is whole; None where not even its head is.

    Parameters
    ----------
    stream : file
        Open for reading.
    max_faces : int
        Slots of each frame, as the run that is to go on has them.
    at : int, optional
        Read up to the state before the result of this frame instead; no state where there is none.

    Raises
    ------
    ResultError
        If it is a whole journal with a head that says nothing.
    """
    size = frame_type(max_faces).itemsize
    head: dict[str, Any] | None = None
    last: tuple[bytes, int, int] | None = None
    state: TrackerState | None = None
    n_frames, begin = 0, 0
    for kind, payload, end in _records(stream):
        if kind == b"HEAD" and head is None:
            head, begin = _head(payload), end
        elif head is None or kind == b"HEAD" or (kind == b"FRAM" and len(payload) % size):
            break
        elif kind == b"FRAM":
            n_frames += len(payload) // size
        elif at is None:
            last = payload, n_frames, end
        elif (state := state_from_bytes(payload)).next_result == at:
            return JournalContent(head, state, n_frames, end)
    if head is None:
        return None
    if last is None:
        return JournalContent(head, None, 0, begin)
    return JournalContent(head, state_from_bytes(last[0]), last[1], last[2])


def read_frames(stream: BinaryIO, max_faces: int, n_frames: int) -> dict[str, npt.NDArray[Any]]:
    """Return the first frames of a journal, each field of `frame_type` as one array (N, ...)."""
    kind_of_frame = frame_type(max_faces)
    names = kind_of_frame.names or ()
    arrays = {
        name: np.empty((n_frames, *kind_of_frame[name].shape), kind_of_frame[name].base) for name in names
    }
    done = 0
    for kind, payload, _ in _records(stream):
        if kind == b"FRAM" and done < n_frames:
            rows = np.frombuffer(payload, kind_of_frame)[: n_frames - done]
            for name in names:
                arrays[name][done : done + len(rows)] = rows[name]
            done += len(rows)
    if done < n_frames:
        raise ResultError(f"The journal of the run holds {done} of {n_frames} frames only: begin anew.")
    return arrays


def _records(stream: BinaryIO) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield kind, bytes and end of each record, up to the first that is not whole."""
    stream.seek(0, os.SEEK_END)
    size = stream.tell()
    stream.seek(0)
    if stream.read(len(MAGIC)) != MAGIC:
        return
    place = len(MAGIC)
    while place + _FRONT.size + _BACK.size <= size:
        front = stream.read(_FRONT.size)
        kind, length = _FRONT.unpack(front)
        place += _FRONT.size + length + _BACK.size
        if length > _LARGEST.get(kind, -1) or place > size:
            return
        payload = stream.read(length)
        if _BACK.unpack(stream.read(_BACK.size))[0] != zlib.crc32(payload, zlib.crc32(front)):
            return
        yield kind, payload, place


def _head(payload: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(payload))
    except (ValueError, TypeError, RecursionError) as error:
        raise ResultError(
            f"The journal of the run cannot be read ({in_one_line(error)}): begin anew."
        ) from None
