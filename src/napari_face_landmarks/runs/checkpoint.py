"""Checkpointed runs: results and tracker states are appended to a file from which the run can be resumed.

The file begins with `MAGIC`, followed by records. A record is a kind of four letters, the payload's length
(uint32, little-endian), the payload, and the CRC-32 of all these (uint32). The payload of ``HEAD`` is the
identity of the run, as JSON; of ``FRAM``, finished frames, each stored as `frame_type`; of ``STAT``, the
tracker state after the preceding frames. A truncated or damaged record and all records after it are ignored.
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
"""Results are written at least this often; a crash loses at most these and one frame."""
KEEP_DAYS = 30
_MAX_BUFFER_BYTES = 8 << 20
_log = logging.getLogger(__name__)
_HEADER, _CHECKSUM = struct.Struct("<4sI"), struct.Struct("<I")
_MAX_PAYLOAD = {b"HEAD": 1 << 20, b"FRAM": 64 << 20, b"STAT": LARGEST_STATE}


def frame_type(max_faces: int) -> np.dtype[Any]:
    """Return the dtype of a stored frame: its index and the arrays that the tracker computes."""
    arrays = [(item.name, item.dtype, (max_faces, *item.shape)) for item in TRACKED]
    return np.dtype([("index", "<i8"), *arrays])


def frame_to_bytes(result: FrameResult, kind: np.dtype[Any]) -> bytes:
    """Return a frame's result as bytes of the dtype `kind`, a `frame_type`."""
    row = np.zeros((), kind)
    for name in kind.names or ():
        row[name] = getattr(result, name)
    return row.tobytes()


class CheckpointWriter:
    """Appends records to a checkpoint file, open for reading and writing, after position `end`."""

    def __init__(self, stream: BinaryIO, max_faces: int, end: int = 0) -> None:
        self._stream, self._end = stream, end
        self._type = frame_type(max_faces)
        self._buffer: list[bytes] = []
        self._synced = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether `sync` should be called now."""
        full = len(self._buffer) * self._type.itemsize >= _MAX_BUFFER_BYTES
        return full or time.monotonic() - self._synced >= SYNC_SECONDS

    def add(self, result: FrameResult) -> None:
        """Buffer a result until the next `sync`."""
        self._buffer.append(frame_to_bytes(result, self._type))

    def sync(self, state: TrackerState) -> None:
        """Write the buffered results and the state after them, and flush the file to the disk."""
        self._stream.seek(self._end)  # overwrites records of a failed call
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
        """Close the file; results that were not synced are lost."""
        with contextlib.suppress(OSError):  # a full disk, reported by an earlier write
            self._stream.close()

    def _flush(self) -> None:
        self._stream.flush()
        to_disk(self._stream.fileno())
        self._end = self._stream.tell()

    def _append(self, kind: bytes, payload: bytes) -> None:
        header = _HEADER.pack(kind, len(payload))
        checksum = zlib.crc32(payload, zlib.crc32(header))
        self._stream.write(b"".join([header, payload, _CHECKSUM.pack(checksum)]))


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a checkpoint file up to its last state."""

    state: TrackerState | None  # the last state; None if there is none yet
    n_frames: int  # finished frames before the state
    end: int  # file position after the state


def read_checkpoint(
    stream: BinaryIO, max_faces: int, at: int | None = None, identity: Mapping[str, Any] | None = None
) -> Content | None:
    """Read a checkpoint file up to the last intact state; None if its head is damaged.

    Frames have `max_faces` faces. With `at`, read up to the state before this frame; with `identity`, raise a
    `ResultError` if the file belongs to another run, whose states may differ.
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
                    f"The checkpoint belongs to a run {other}: resume under the same conditions, or do not "
                    "resume."
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
            f"The checkpoint of the run has only {done} of {n_frames} frames: do not resume it."
        )
    return arrays


def _records(stream: BinaryIO) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield the kind, payload and end position of each record before the first damaged one."""
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
    end = len(MAGIC)
    while end + _HEADER.size + _CHECKSUM.size <= size:
        header = stream.read(_HEADER.size)
        kind, length = _HEADER.unpack(header)
        end += _HEADER.size + length + _CHECKSUM.size
        if length > _MAX_PAYLOAD.get(kind, -1) or end > size:
            return
        payload = stream.read(length)
        if _CHECKSUM.unpack(stream.read(_CHECKSUM.size))[0] != zlib.crc32(payload, zlib.crc32(header)):
            return
        yield kind, payload, end


def _head(payload: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(payload))
    except (ValueError, TypeError, RecursionError) as error:
        raise ResultError(
            f"The checkpoint of the run cannot be read ({in_one_line(error)}): do not resume it."
        ) from None


_SAMPLE_BYTES, _N_SAMPLES = 1 << 16, 33


def journal_of(output: str | os.PathLike[str]) -> Path:
    """Return the path of the checkpoint file of a run whose results go to `output`."""
    path = Path(output)
    return path.with_name(companion_name(path.name, ".journal"))


def video_identity(video: Video) -> dict[str, Any]:
    """Return values that identify a video: sizes, number of frames, and the SHA-256 of 33 samples of 64 kB.

    Hashing the whole file would noticeably delay runs over long recordings.
    """
    path, digest, total = video.info.path, hashlib.sha256(), 0
    n_samples = max(1, _N_SAMPLES // len(video.files))
    with os_errors_as(VideoError, f"{path} cannot be read", "check the path of the video"):
        for file in video.files:
            with open(file, "rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                total += size
                offsets = np.linspace(0, max(0, size - _SAMPLE_BYTES), n_samples).astype(np.int64)
                for offset in offsets.tolist():
                    stream.seek(offset)
                    digest.update(stream.read(_SAMPLE_BYTES))
    frames, height, width, _ = video.shape
    return {
        "bytes": total,
        "sha256_of_parts": digest.hexdigest(),
        "frames": frames,
        "height": height,
        "width": width,
        **({"stream": video.info.stream} if video.info.stream else {}),
    }


def run_identity(
    tracker: FaceTracker, video: Video, part: range, regions: Regions | None = None
) -> dict[str, Any]:
    """Return everything that determines a run's results: of the code, its hash and not its version."""
    software = provenance(tracker.models)
    del software["version"]
    return {
        **software,
        "settings": tracker.settings.to_dict(),
        "video": video_identity(video),
        "range": [part.start, part.stop, part.step][: 2 if part.step == 1 else 3],
        "frame": str(frame_type(tracker.settings.max_faces).descr),
        **({"regions": regions.to_dict()} if regions else {}),
    }


_DIFFERENCES = {
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
    """A run of a tracker over a video whose results are written to a checkpoint file.

    Created by `CheckpointedRun.begin`; only one process at a time can use the file. Iterating over `run`
    yields the remaining frames. Of `total` frames, `kept` were finished in an earlier run and `done` are
    finished so far, including these. A state is always written before each of the frames `states_before`.
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
        self._writer = CheckpointWriter(stream, self._max_faces, 0 if content is None else content.end)
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
        """Open a checkpoint file and begin a run, or resume the run in it.

        With `resume`, the run resumes from the last state in the file, if any; with `or_restart`, a file of
        another run is replaced. `part` is the range of frames to track, by default all; `regions` are as for
        `FaceTracker.track`. Raises a `ResultError` if another process uses the file, it cannot be written, or
        it belongs to another run.
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
                    checkpointed._writer.begin(identity)
                return checkpointed
            except BaseException:
                with contextlib.suppress(OSError):  # a full disk, reported by the first error
                    stream.close()
                raise

    def add(self, result: FrameResult) -> None:
        """Add a result, and write it at once if a sync is due; called by the run."""
        self._writer.add(result)
        self.done += 1
        if self._writer.is_due or result.index + 1 in self.states_before:
            self.sync()

    def sync(self) -> None:
        """Write all results so far and the state after them; called by the run at its end."""
        state = self.run.state()
        if state is None or (self._state is not None and state.next_result == self._state.next_result):
            return
        self._state = state
        advice = "free some space; the earlier frames are kept in it"
        with os_errors_as(ResultError, f"{self.path} cannot be written", advice):
            self._writer.sync(state)

    def earlier(self) -> list[FrameResult]:
        """Return the results that were finished in an earlier run."""
        arrays = read_frames(self._stream, self._max_faces, self.kept)
        self._stream.seek(0, os.SEEK_END)
        return list(unstack_frames(arrays))

    def tracks(self) -> Tracks:
        """Return all finished frames, which are read from the file into memory."""
        return self.run.tracks(read_frames(self._stream, self._max_faces, self.done))

    def close(self, *, remove: bool = False) -> None:
        """End the run and close the file, or `remove` it because its results are stored in another file."""
        try:
            self.run.close()
        finally:
            if remove and os.name != "nt":  # while the lock is held
                self.path.unlink(missing_ok=True)
            self._writer.close()
            if remove and os.name == "nt":  # Windows cannot remove open files
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
    """Open a run, and for a video file a checkpoint in `folder`, named after the run's identity.

    Yields the run and the results of an interrupted run of the same identity, which `resume` resumes. The run
    has no checkpoint if there is no writable folder or another process uses the file. Checkpoints older than
    `KEEP_DAYS` days are removed. At the end of the block, the run is closed and its checkpoint removed if the
    run is complete.
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
        _log.warning("The run is not checkpointed: %s", error)
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
    """Return the content of a checkpoint file of the run `identity`."""
    try:
        return read_checkpoint(stream, max_faces, identity=identity)
    except ResultError as error:
        if or_restart:
            return None
        raise ResultError(f"{path}: {error}") from None


def _difference(head: Mapping[str, Any], identity: Mapping[str, Any]) -> str | None:
    """Return a phrase for the first difference between two runs, or None."""
    for key, phrase in _DIFFERENCES.items():
        if head.get(key) != identity.get(key):
            if key == "settings":
                return f"{phrase} ({_first_changed(head.get(key), identity[key])})"
            return phrase
    return None


def _first_changed(before: Any, now: dict[str, Any]) -> str:
    earlier = before if isinstance(before, dict) else {}
    name = next((name for name in now if earlier.get(name) != now[name]), "others")
    return f"{name} was {earlier.get(name)!r}"
