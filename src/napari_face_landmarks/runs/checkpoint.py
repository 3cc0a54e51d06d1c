"""Runs that survive a crash: results and states are appended to a checkpoint file, from which a run resumes.

The file begins with `MAGIC`. Records follow: four letters that name its kind, the number of bytes (uint32,
little-endian), these bytes, and a CRC-32 of all that (uint32). ``HEAD`` is the identity of the run, as JSON;
``FRAM`` are finished frames, each of them `frame_type`; ``STAT`` is the state from which the run resumes
after the frames before it. What a crash cut off or damaged, and all after it, counts as not written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import TRACKED
from napari_face_landmarks.data.frame import FrameResult, unstack_frames
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import (
    FaceLandmarksError,
    ResultError,
    VideoError,
    in_one_line,
    os_errors_as,
)
from napari_face_landmarks.files.atomic import companion_name, to_disk
from napari_face_landmarks.files.lock import try_to_lock
from napari_face_landmarks.tracking.provenance import provenance
from napari_face_landmarks.tracking.regions import Regions
from napari_face_landmarks.tracking.run import Run
from napari_face_landmarks.tracking.state import LARGEST_STATE, TrackerState, state_from_bytes, state_to_bytes
from napari_face_landmarks.tracking.tracker import FaceTracker
from napari_face_landmarks.video import Video

MAGIC = b"NFLCKPT2"
MAGIC_OF_0_1 = b"NFLJRNL1"
SYNC_SECONDS = 1.0
"""A crash loses at most the results of this time, and of one frame."""
KEEP_DAYS = 30
LARGEST_HEAD = 1 << 20
LARGEST_FRAMES = 64 << 20
MOST_BUFFERED = 8 << 20
"""Maximum number of buffered bytes."""
_log = logging.getLogger(__name__)
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


class Log:
    """A checkpoint file that is being written to a stream, open for reading and writing, from `end` on."""

    def __init__(self, stream: BinaryIO, max_faces: int, end: int = 0) -> None:
        self._stream, self._end = stream, end
        self._type = frame_type(max_faces)
        self._buffer: list[bytes] = []
        self._synced = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether it is time to call `sync`."""
        full = len(self._buffer) * self._type.itemsize >= MOST_BUFFERED
        return full or time.monotonic() - self._synced >= SYNC_SECONDS

    def add(self, result: FrameResult) -> None:
        """Buffer a result until the next `sync`."""
        self._buffer.append(frame_to_bytes(result, self._type))

    def sync(self, state: TrackerState) -> None:
        """Write the buffered results and the state after them, synchronised to the disk."""
        self._stream.seek(self._end)  # overwrites what an earlier call could not finish
        self._stream.truncate()
        if self._buffer:
            self._append(b"FRAM", b"".join(self._buffer))
        self._append(b"STAT", state_to_bytes(state))
        self._flush()
        self._buffer.clear()
        self._synced = time.monotonic()

    def begin(self, head: Mapping[str, Any]) -> None:
        """Truncate the file and write the identity of the run."""
        self._stream.seek(0)
        self._stream.truncate()
        self._stream.write(MAGIC)
        self._append(b"HEAD", json.dumps(head, sort_keys=True).encode())
        self._flush()

    def close(self) -> None:
        """Close the file; what was not synced is lost."""
        with contextlib.suppress(OSError):  # a full disk, which has raised an error before
            self._stream.close()

    def _flush(self) -> None:
        self._stream.flush()
        to_disk(self._stream.fileno())
        self._end = self._stream.tell()

    def _append(self, kind: bytes, payload: bytes) -> None:
        front = _FRONT.pack(kind, len(payload))
        check = zlib.crc32(payload, zlib.crc32(front))
        self._stream.write(b"".join([front, payload, _BACK.pack(check)]))


@dataclass(frozen=True, slots=True)
class Content:
    """What a checkpoint file holds up to the last state in it."""

    state: TrackerState | None  # the last state; None where there is none yet
    n_frames: int  # finished frames before it
    end: int  # its last byte's place, plus one


def read_checkpoint(
    stream: BinaryIO, max_faces: int, at: int | None = None, identity: Mapping[str, Any] | None = None
) -> Content | None:
    """Read a checkpoint file up to the last intact state; None if its head is damaged.

    `max_faces` are the slots of each frame of the run to resume. With `at`, read up to the state before this
    frame; with `identity`, raise a `ResultError` if the file is of another run, whose states may differ.
    """
    size = frame_type(max_faces).itemsize
    head: dict[str, Any] | None = None
    last: tuple[bytes, int, int] | None = None
    state: TrackerState | None = None
    n_frames, begin = 0, 0
    for kind, payload, end in _records(stream):
        if kind == b"HEAD" and head is None:
            head, begin = _head(payload), end
            if identity is not None and (other := _difference(head, identity)) is not None:
                raise ResultError(
                    f"The checkpoint is of a run {other}: resume under the same conditions, or do not resume."
                )
        elif head is None or kind == b"HEAD" or (kind == b"FRAM" and len(payload) % size):
            break
        elif kind == b"FRAM":
            n_frames += len(payload) // size
        elif at is None:
            last = payload, n_frames, end
        elif (state := state_from_bytes(payload)).next_result == at:
            return Content(state, n_frames, end)
    if head is None:
        return None
    if last is None:
        return Content(None, 0, begin)
    return Content(state_from_bytes(last[0]), last[1], last[2])


def read_frames(stream: BinaryIO, max_faces: int, n_frames: int) -> dict[str, npt.NDArray[Any]]:
    """Return the first frames of a checkpoint file, each field of `frame_type` as one array (N, ...)."""
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
        raise ResultError(
            f"The checkpoint of the run holds {done} of {n_frames} frames only: do not resume it."
        )
    return arrays


def _records(stream: BinaryIO) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield kind, bytes and end of each record, up to the first damaged one."""
    stream.seek(0, os.SEEK_END)
    size = stream.tell()
    stream.seek(0)
    magic = stream.read(len(MAGIC))
    if magic == MAGIC_OF_0_1:
        raise ResultError(
            "The checkpoint of the run was written by version 0.1.0 of napari-face-landmarks, whose states "
            "cannot be read: finish the run with that version, or do not resume it."
        )
    if magic != MAGIC:
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
            f"The checkpoint of the run cannot be read ({in_one_line(error)}): do not resume it."
        ) from None


_SAMPLE, _SAMPLES = 1 << 16, 33


def journal_of(output: str | os.PathLike[str]) -> Path:
    """Return the path of the checkpoint file of a run whose results go to `output`."""
    path = Path(output)
    return path.with_name(companion_name(path.name, ".journal"))


def video_identity(video: Video) -> dict[str, Any]:
    """Return the identity of a video's content: size, frames and a SHA-256 of 33 parts of 64 kB.

    Reading all of a recording of hours would take as long as a part of the run.
    """
    path, found, total = video.info.path, hashlib.sha256(), 0
    samples = max(1, _SAMPLES // len(video.files))
    with os_errors_as(VideoError, f"{path} cannot be read", "check the path of the video"):
        for file in video.files:
            with open(file, "rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                total += size
                for place in np.linspace(0, max(0, size - _SAMPLE), samples).astype(np.int64).tolist():
                    stream.seek(place)
                    found.update(stream.read(_SAMPLE))
    frames, height, width, _ = video.shape
    return {
        "bytes": total,
        "sha256_of_parts": found.hexdigest(),
        "frames": frames,
        "height": height,
        "width": width,
        **({"stream": video.info.stream} if video.info.stream else {}),
    }


def run_identity(
    tracker: FaceTracker, video: Video, part: range, regions: Regions | None = None
) -> dict[str, Any]:
    """Return all that determines a run's results, with the fingerprint of the code, not its version."""
    made_with = provenance(tracker.models)
    del made_with["version"]
    return {
        **made_with,
        "settings": tracker.settings.to_dict(),
        "video": video_identity(video),
        "range": [part.start, part.stop, part.step][: 2 if part.step == 1 else 3],
        "frame": str(frame_type(tracker.settings.max_faces).descr),
        **({"regions": regions.to_dict()} if regions else {}),
    }


_IN_WORDS = {
    "video": "of another video",
    "code_sha256": "with another version of the plugin",
    "frame": "with another version of the plugin",
    "settings": "with other settings",
    "range": "over other frames",
    "regions": "with other boxes",
    "models": "with other models",
    "models_version": "with other models",
    "models_sha256": "with other models",
    "experts": "with patch experts on other hardware",
    "libraries": "with other versions of libraries",
}


class CheckpointedRun:
    """A run of a tracker over a video whose results are written to a checkpoint file, however it ends.

    Made by `CheckpointedRun.begin`; at most one process at a time holds the file. Iterating `run` gives the
    frames that are left, each once the checkpoint has it. `kept` frames were finished in an earlier run,
    `done` are finished now, of `total`. Before the frames `states_before` the state is written in any case.
    """

    def __init__(
        self, path: Path, stream: BinaryIO, tracker: FaceTracker, run: Run, content: Content | None
    ) -> None:
        self.path, self.run = path, run
        self.kept = self.done = 0 if content is None else content.n_frames
        self.total = run.source.n_frames
        self.states_before: Sequence[int] = ()
        self._state = None if content is None else content.state
        self._stream = stream
        self._max_faces = tracker.settings.max_faces
        self._log = Log(stream, self._max_faces, 0 if content is None else content.end)
        run.recorder = self

    @staticmethod
    def begin(
        tracker: FaceTracker,
        video: Video,
        path: str | os.PathLike[str],
        *,
        resume: bool = False,
        or_restart: bool = False,
        part: range | None = None,
        regions: Regions | None = None,
    ) -> CheckpointedRun:
        """Open a checkpoint file to resume the run in it, or to begin one.

        With `resume`, the run resumes from the last state in the file, if any; with `or_restart` a file of
        another run is replaced. `part` are the frames to track, by default all; `regions` are as for
        `FaceTracker.track`. Raises a `ResultError` if another process holds the file, it cannot be written,
        or it is of another run.
        """
        path = Path(path)
        part = range(len(video)) if part is None else part
        part = range(max(0, part.start), min(part.stop, len(video)), part.step)
        identity = run_identity(tracker, video, part, regions)
        with os_errors_as(ResultError, f"{path} cannot be written", "choose another folder"):
            stream: BinaryIO = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | _BINARY, 0o666), "r+b")
            try:
                if not try_to_lock(stream):
                    raise ResultError(
                        f"Another process is using {path}: wait until it has ended, or give another output."
                    )
                content = None
                if resume:
                    content = _content(stream, path, tracker.settings.max_faces, identity, or_restart)
                state = None if content is None else content.state
                run = tracker.track_frames(video, part.start, part.stop, state, regions, every=part.step)
                checkpointed = CheckpointedRun(path, stream, tracker, run, content)
                if content is None:
                    checkpointed._log.begin(identity)
                return checkpointed
            except BaseException:
                with contextlib.suppress(OSError):  # of a full disk, which has raised its own before
                    stream.close()
                raise

    def add(self, result: FrameResult) -> None:
        """Write a result, now or within `SYNC_SECONDS`; called by the run."""
        self._log.add(result)
        self.done += 1
        if self._log.is_due or result.index + 1 in self.states_before:
            self.sync()

    def sync(self) -> None:
        """Write all results so far and the state after them; called by the run at its end."""
        state = self.run.state()
        if state is None or (self._state is not None and state.next_result == self._state.next_result):
            return
        self._state = state
        advice = "make room; the frames before are kept there"
        with os_errors_as(ResultError, f"{self.path} cannot be written", advice):
            self._log.sync(state)

    def earlier(self) -> list[FrameResult]:
        """Return the results that were finished in an earlier run."""
        arrays = read_frames(self._stream, self._max_faces, self.kept)
        self._stream.seek(0, os.SEEK_END)
        return list(unstack_frames(arrays))

    def tracks(self) -> Tracks:
        """Return all finished frames, read from the file; they take as much memory as they have bytes."""
        return self.run.tracks(read_frames(self._stream, self._max_faces, self.done))

    def close(self, *, remove: bool = False) -> None:
        """End the run and release the file; `remove` it where its results are safe in another file."""
        try:
            self.run.close()
        finally:
            if remove and os.name != "nt":  # while the lock is held
                self.path.unlink(missing_ok=True)
            self._log.close()
            if remove and os.name == "nt":  # which removes no open file
                self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def open_run(
    tracker: FaceTracker,
    frames: Any,
    start: int,
    stop: int,
    resume: bool,
    regions: Regions,
    folder: Path | None,
) -> Iterator[tuple[Run, list[FrameResult]]]:
    """Open a run; for a video file with a checkpoint, named by the run's identity.

    There is no checkpoint without a writable folder, or if another process holds it. With `resume`, an
    interrupted run of the same identity is resumed. Files of more than `KEEP_DAYS` days are removed. At the
    end of the block the run is closed, and the checkpoint of a complete run removed.
    """
    checkpointed = None
    try:
        if folder is not None and isinstance(frames, Video):
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob("*.journal"):
                if time.time() - path.stat().st_mtime > KEEP_DAYS * 86400:
                    path.unlink(missing_ok=True)
            text = json.dumps(run_identity(tracker, frames, range(start, stop), regions), sort_keys=True)
            path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.journal"
            checkpointed = CheckpointedRun.begin(
                tracker,
                frames,
                path,
                resume=resume,
                or_restart=True,
                part=range(start, stop),
                regions=regions,
            )
    except (FaceLandmarksError, OSError) as error:
        _log.warning("No checkpoint of the run is written: %s", error)
    if checkpointed is None:
        with contextlib.closing(tracker.track_frames(frames, start, stop, regions=regions)) as run:
            yield run, []
        return
    try:
        yield checkpointed.run, checkpointed.earlier()
    finally:
        checkpointed.close(remove=checkpointed.run.stats.completed)


_BINARY = getattr(os, "O_BINARY", 0)


def _content(
    stream: BinaryIO, path: Path, max_faces: int, identity: dict[str, Any], or_restart: bool
) -> Content | None:
    """Return what a checkpoint file holds if it is of the run `identity`."""
    try:
        return read_checkpoint(stream, max_faces, identity=identity)
    except ResultError as error:
        if or_restart:
            return None
        raise ResultError(f"{path}: {error}") from None


def _difference(head: Mapping[str, Any], identity: Mapping[str, Any]) -> str | None:
    """Return in words how a run differs from another, or None."""
    for key, words in _IN_WORDS.items():
        if head.get(key) != identity.get(key):
            if key == "settings":
                return f"{words} ({_first_other(head.get(key), identity[key])})"
            return words
    return None


def _first_other(before: Any, now: dict[str, Any]) -> str:
    known = before if isinstance(before, dict) else {}
    name = next((name for name in now if known.get(name) != now[name]), "others")
    return f"{name} was {known.get(name)!r}"
