"""A run whose results go to a journal as they come, so that it can go on after a crash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from napari_face_landmarks.data.frame import FrameResult, unstack_frames
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ResultError, VideoError, reason_of
from napari_face_landmarks.files.atomic import name_beside
from napari_face_landmarks.files.lock import try_to_lock
from napari_face_landmarks.runs.checkpoint import (
    Journal,
    JournalContent,
    frame_type,
    read_frames,
    read_journal,
)
from napari_face_landmarks.tracking.provenance import provenance
from napari_face_landmarks.tracking.regions import Regions
from napari_face_landmarks.tracking.state import TrackerState
from napari_face_landmarks.tracking.tracker import FaceTracker
from napari_face_landmarks.video import Video

_SAMPLE, _SAMPLES = 1 << 16, 33


def journal_of(output: str | os.PathLike[str]) -> Path:
    """Return the path of the journal of a run whose results go to `output`."""
    path = Path(output)
    return path.with_name(name_beside(path.name, ".journal"))


def video_identity(video: Video) -> dict[str, Any]:
    """Return what tells a video's content from another's, wherever the file lies.

    Its size, its frames, and a SHA-256 of 33 parts of 64 kB from its beginning to its end: reading all of a
    recording of hours would take as long as a part of the run.

    Raises
    ------
    VideoError
        If the file cannot be read.
    """
    path = video.info.path
    try:
        with open(path, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            found = hashlib.sha256()
            for place in np.linspace(0, max(0, size - _SAMPLE), _SAMPLES).astype(np.int64).tolist():
                stream.seek(place)
                found.update(stream.read(_SAMPLE))
    except OSError as error:
        reason = reason_of(error)
        raise VideoError(f"{path} cannot be read ({reason}): check the path of the video.") from None
    frames, height, width, _ = video.shape
    return {
        "bytes": size,
        "sha256_of_parts": found.hexdigest(),
        "frames": frames,
        "height": height,
        "width": width,
    }


def run_identity(
    tracker: FaceTracker, video: Video, start: int, stop: int, regions: Regions | None = None
) -> dict[str, Any]:
    """Return all that the results of a run depend on; runs with the same give the same, bit for bit."""
    return {
        **provenance(tracker.models),
        "settings": tracker.settings.to_dict(),
        "video": video_identity(video),
        "range": [start, stop],
        "frame": str(frame_type(tracker.settings.max_faces).descr),
        **({"regions": regions.to_dict()} if regions else {}),
    }


_IN_WORDS = {
    "video": "of another video",
    "settings": "with other settings",
    "range": "over other frames",
    "regions": "with other boxes",
    "models": "with other models",
    "models_version": "with other models",
    "models_sha256": "with other models",
    "version": "with another version of the plugin",
    "frame": "with another version of the plugin",
    "libraries": "with other versions of libraries",
}


class Recording:
    """A run of a tracker over a video that is written to a journal.

    Made by `Recording.begin`. At most one process at a time has the journal.

    Attributes
    ----------
    kept : int
        Frames that were finished in an earlier run.
    done : int
        Frames that are finished, those included.
    total : int
        Frames of the whole run.
    """

    def __init__(
        self,
        tracker: FaceTracker,
        video: Video,
        path: Path,
        stream: BinaryIO,
        frames: tuple[int, int],
        content: JournalContent | None,
        regions: Regions,
    ) -> None:
        self.path = path
        self.kept = self.done = 0 if content is None else content.n_frames
        self.total = frames[1] - frames[0]
        self._tracker, self._video, self._stream, self._frames = tracker, video, stream, frames
        self._journal = Journal(stream, tracker.settings.max_faces)
        self._state: TrackerState | None = None if content is None else content.state
        self._regions = regions

    @staticmethod
    def begin(
        tracker: FaceTracker,
        video: Video,
        path: str | os.PathLike[str],
        *,
        resume: bool = False,
        or_anew: bool = False,
        start: int = 0,
        stop: int | None = None,
        regions: Regions | None = None,
    ) -> Recording:
        """Open a journal, to go on with the run in it or to begin one.

        Parameters
        ----------
        tracker : FaceTracker
        video : Video
        path : path-like
            The journal; `journal_of` gives the usual one.
        resume : bool
            Go on from the last state that is in the journal; without one, begin.
        or_anew : bool
            Begin anew, instead of refusing, where the journal is of another run.
        start, stop : int
            The frames to track.
        regions : Regions, optional
            As for `FaceTracker.track`; the run in the journal has to be one with the same.

        Raises
        ------
        ResultError
            If another process has the journal, it cannot be written, or it is of another run.
        """
        path = Path(path)
        last = len(video) if stop is None else min(stop, len(video))
        frames = max(0, start), last
        identity = run_identity(tracker, video, *frames, regions)
        try:
            stream: BinaryIO = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | _BINARY, 0o666), "r+b")
        except OSError as error:
            reason = reason_of(error)
            raise ResultError(f"{path} cannot be written ({reason}): choose another place.") from error
        try:
            if not try_to_lock(stream):
                raise ResultError(
                    f"Another process is at work on {path}: wait until it has ended, or give another output."
                )
            content = (
                _content(stream, path, tracker.settings.max_faces, identity, or_anew) if resume else None
            )
            recording = Recording(tracker, video, path, stream, frames, content, regions or Regions())
            if content is None:
                recording._journal.begin(identity)
            else:
                recording._journal.go_on(content.end)
            return recording
        except OSError as error:
            _close(stream)
            if isinstance(error, VideoError):
                raise
            reason = reason_of(error)
            raise ResultError(f"{path} cannot be written ({reason}): choose another place.") from error
        except BaseException:
            _close(stream)
            raise

    def results(self, states_before: Sequence[int] = ()) -> Generator[FrameResult, None, None]:
        """Track the frames that are left, and give each result once the journal has taken it.

        However it ends, what was given is in the journal afterwards.

        Parameters
        ----------
        states_before : sequence of int
            Frames before whose results the state is stored in any case.

        Raises
        ------
        FaceLandmarksError
            As `FaceTracker.track_frames`; and if the journal cannot be written.
        """
        run = self._tracker.track_frames(self._video, *self._frames, self._state, self._regions)
        try:
            with closing(run):
                for result in run:
                    self._journal.add(result)
                    self.done += 1
                    if self._journal.is_due or result.index + 1 in states_before:
                        self._sync()
                    yield result
        finally:
            self._sync()

    def _sync(self) -> None:
        state = None if self._tracker.last_run is None else self._tracker.last_run.state()
        if state is None or (self._state is not None and state.next_result == self._state.next_result):
            return
        self._state = state
        try:
            self._journal.sync(state)
        except OSError as error:
            reason = reason_of(error)
            raise ResultError(
                f"{self.path} cannot be written ({reason}): make room; the frames before are kept there."
            ) from error

    @property
    def state(self) -> TrackerState | None:
        """Where the run stood when the journal was last written."""
        return self._state

    def earlier(self) -> list[FrameResult]:
        """Return the results that were finished in an earlier run."""
        arrays = read_frames(self._stream, self._tracker.settings.max_faces, self.kept)
        self._stream.seek(0, os.SEEK_END)
        return list(unstack_frames(arrays))

    def tracks(self) -> Tracks:
        """Return all finished frames, read from the journal; they take as much memory as they have bytes."""
        arrays = read_frames(self._stream, self._tracker.settings.max_faces, self.done)
        return self._tracker.collect(arrays)

    def close(self, *, remove: bool = False) -> None:
        """Let go of the journal; `remove` it where its results are safe in another file."""
        if remove and os.name != "nt":  # while the lock is held
            self.path.unlink(missing_ok=True)
        self._journal.close()
        if remove and os.name == "nt":  # which removes no open file
            self.path.unlink(missing_ok=True)


_BINARY = getattr(os, "O_BINARY", 0)


def _close(stream: BinaryIO) -> None:
    with suppress(OSError):  # of what a full disk did not take, which is told by its own error
        stream.close()


def _content(
    stream: BinaryIO, path: Path, max_faces: int, identity: dict[str, Any], or_anew: bool
) -> JournalContent | None:
    """Return what a journal holds if it is of the run `identity`."""
    try:
        content = read_journal(stream, max_faces)
        other = None if content is None else _difference(content.head, identity)
        if other is not None:
            raise ResultError(
                f"{path} is of a run {other}: resume with what it was begun with, or begin anew."
            )
    except ResultError:
        if or_anew:
            return None
        raise
    return content


def _difference(head: dict[str, Any], identity: dict[str, Any]) -> str | None:
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
