"""Division of a long video into chunks that are tracked in parallel and joined.

Every chunk begins `WARM_UP` frames early, so that its tracker converges to that of the previous chunk. If the
states of both agree within `SAME_PX` at the join, the chunks are joined; otherwise the chunk is tracked again
from the state of the previous one, as in a run over the whole video.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import itertools
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.fit import apply_correction
from napari_face_landmarks.clnf.pdm import PDM, project
from napari_face_landmarks.data.frame import FrameResult, stack_frames, unstack_frames
from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.files.atomic import companion_name
from napari_face_landmarks.files.lock import try_to_lock
from napari_face_landmarks.runs.checkpoint import read_checkpoint, read_frames
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking import FaceTracker
from napari_face_landmarks.tracking.pfld_tracker import DETECT_EVERY, frames_ahead
from napari_face_landmarks.tracking.refinement import STAY_REFINED
from napari_face_landmarks.tracking.run import concealed_in_words
from napari_face_landmarks.tracking.smoothing import window_at_rate
from napari_face_landmarks.tracking.state import ClnfFace, FaceState, Refinement, TrackerState
from napari_face_landmarks.video import Video

JOINED = "pieces_joined"
"""Entry of `Tracks.meta`: the number of chunks, and the first frames of those that were tracked again."""
SAME_PX = 1e-4
"""Maximum distance in px of landmarks of two states that count as equal."""
WARM_UP = 60
"""Extra frames tracked before a chunk; runs from different frames converge within 50."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of frames of a video that is tracked separately."""

    start: int  # the first frame that is tracked
    # first, last: the frames that the chunk contributes to the result, `last` excluded
    first: int
    last: int
    stop: int  # the frame after the last that is tracked


def chunks_of(n_frames: int, length: int, settings: TrackerSettings, fps: float | None = None) -> list[Chunk]:
    """Return the chunks of a video, each of about `length` frames; one chunk if the video is short."""
    count = max(1, n_frames // max(length, 2 * WARM_UP))
    ends = [n_frames * number // count for number in range(count + 1)]
    # CLNF and the detector run on multiples of these frame numbers: a chunk begins where both run
    step = settings.clnf_every * DETECT_EVERY
    tail = window_at_rate(settings.smoothing_window, fps) // 2 + frames_ahead(settings.pfld_every) + 1
    return [
        Chunk(max(0, first - WARM_UP) // step * step, first, last, min(n_frames, last + tail))
        for first, last in itertools.pairwise(ends)
    ]


def chunk_journal(output: str | Path, chunk: Chunk) -> Path:
    """Return the path of the checkpoint of a chunk of the video of `output`."""
    path = Path(output)
    return path.with_name(companion_name(path.name, f".{chunk.first}.journal"))


def remove_chunks(output: str | Path) -> None:
    """Remove the checkpoints of all chunks of an output, whatever their length, except those in use."""
    path = Path(output)
    prefix = companion_name(path.name, "")
    for journal in path.parent.glob(f"{glob.escape(prefix)}.*.journal"):
        if journal.name[len(prefix) + 1 :].partition(".")[0].isdecimal():
            with contextlib.suppress(OSError):
                with open(journal, "r+b") as stream:
                    unused = try_to_lock(stream)
                if unused:
                    journal.unlink()


@dataclass(frozen=True, slots=True)
class TrackedChunk:
    """The results of a chunk."""

    arrays: dict[str, npt.NDArray[Any]]  # each field of `frame_type`, from `first` to `last`
    before: TrackerState | None  # the state before its first frame
    after: TrackerState  # the state after its last frame


def read_chunk(path: Path, chunk: Chunk, max_faces: int) -> TrackedChunk | None:
    """Read the results of a chunk from its checkpoint; None if they are incomplete."""
    try:
        with open(path, "rb") as stream:
            content = read_checkpoint(stream, max_faces)
            if content is None or content.n_frames < chunk.last - chunk.start:
                return None
            arrays = read_frames(stream, max_faces, chunk.last - chunk.start)
            before = read_checkpoint(stream, max_faces, at=chunk.first)
            after = read_checkpoint(stream, max_faces, at=chunk.last)
    except (OSError, ResultError):
        return None
    if after is None or after.state is None:
        return None
    own = {name: array[chunk.first - chunk.start :] for name, array in arrays.items()}
    return TrackedChunk(own, None if before is None else before.state, after.state)


def can_join(before: TrackerState | None, after: TrackerState | None, pdm: PDM) -> bool:
    """Return whether a run may continue from `after`, the state of a warmed-up chunk, instead of `before`."""
    if before is None or after is None:
        return False
    return _equal(_relevant_state(before, pdm), _relevant_state(after, pdm))


def _equal(a: Any, b: Any) -> bool:
    """Return whether two structures are equal, their arrays within `SAME_PX`."""
    if isinstance(a, np.ndarray):
        same_shape = isinstance(b, np.ndarray) and a.shape == b.shape
        return same_shape and np.allclose(a, b, rtol=0, atol=SAME_PX, equal_nan=True)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        same_length = isinstance(b, (tuple, list)) and len(a) == len(b)
        return same_length and all(map(_equal, a, b))
    return not isinstance(b, np.ndarray) and bool(a == b)


def _relevant_state(state: TrackerState, pdm: PDM) -> Any:
    """Return the parts of a state on which later results depend."""
    faces = state.faces
    return (
        faces.next_index,
        state.waiting,
        dict(faces.last_boxes),
        dict(faces.last_seen),
        dict(faces.looks),
        [(item.slots, item.crops) for item in faces.ahead],
        [(frame.index, frame.landmarks) for frame in state.recent],
        [_relevant_face(face, faces.next_index, pdm) for face in faces.faces],
    )


def _relevant_face(face: FaceState | ClnfFace | None, next_index: int, pdm: PDM) -> Any:
    if face is None:
        return None
    if isinstance(face, ClnfFace):
        shape = project(pdm, face.fit.params)
        return face.fit.landmarks, shape, face.unseen, np.array(face.usual)
    return face.landmarks, face.places, _relevant_refinement(face.refinement, face.landmarks, next_index, pdm)


def _relevant_refinement(item: Refinement, landmarks: npt.NDArray[Any], next_index: int, pdm: PDM) -> Any:
    unsure_at = item.unsure_at if next_index - item.unsure_at < STAY_REFINED else None
    if item.params is None:
        return unsure_at, item.correction is None
    shape = project(pdm, item.params)
    if item.correction is None:
        return unsure_at, shape
    corrected, _ = apply_correction(pdm, item.correction, item.params, landmarks)
    return unsure_at, shape, item.refined_at, corrected


def join_chunks(
    tracker: FaceTracker,
    video: Video,
    output: str,
    chunks: Sequence[Chunk],
    progress: Callable[[int, int], None],
) -> Tracks | None:
    """Join the chunks of a video from their checkpoints; None if that of the first chunk is incomplete.

    A chunk that cannot be joined, or whose checkpoint is incomplete, is tracked again from the end of the
    previous one and listed in `Tracks.meta`. `progress` is called with the number of joined frames and the
    total.
    """
    max_faces = tracker.settings.max_faces
    parts: list[TrackedChunk] = []
    ends: list[TrackerState] = []  # the last state of each uninterrupted run
    again: list[int] = []
    for chunk in chunks:
        part = read_chunk(chunk_journal(output, chunk), chunk, max_faces)
        before = ends[-1] if ends else None
        if part is None or (before is not None and not can_join(before, part.before, tracker.models.pdm)):
            if before is None:
                return None
            part = _track_again(tracker, video, chunk, before)
            again.append(chunk.first)
            if part is None:  # the video has no more readable frames
                break
            ends[-1] = part.after
        else:
            ends.append(part.after)
        parts.append(part)
        progress(chunk.last, chunks[-1].last)
        if len(part.arrays["index"]) < chunk.last - chunk.first:
            break
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
    return _tracks(tracker, video, arrays, ends, {"pieces": len(chunks), "tracked_again_from": again})


def _track_again(
    tracker: FaceTracker, video: Video, chunk: Chunk, before: TrackerState
) -> TrackedChunk | None:
    """Track the frames of a chunk from the state before them; None if there are no frames."""
    results: list[FrameResult] = []
    with closing(tracker.track_frames(video, 0, chunk.stop, before)) as run:
        for result in run:
            results.append(result)
            if result.index + 1 == chunk.last:
                break
        after = run.state()
    if after is None or not results:
        return None
    return TrackedChunk(stack_frames(results, tracker.settings.max_faces), before, after)


def _tracks(
    tracker: FaceTracker,
    video: Video,
    arrays: dict[str, npt.NDArray[Any]],
    ends: Sequence[TrackerState],
    joined: dict[str, Any],
) -> Tracks:
    stats, warnings, concealed = RunStats(), list[str](), set[int]()
    cuts, new_tracks = set[int](), set[tuple[int, int]]()
    for end in ends:
        stats.seconds += end.stats.seconds
        stats.prepare_seconds += end.stats.prepare_seconds
        for stage in stats.stage_seconds:
            stats.stage_seconds[stage] += end.stats.stage_seconds[stage]
            stats.stage_calls[stage] += end.stats.stage_calls[stage]
        warnings += end.warnings
        concealed.update(end.concealed)
        cuts.update(end.faces.cuts)
        new_tracks.update(end.faces.new_tracks)
    for result in unstack_frames(arrays):
        stats.count(result)
    stats.completed = len(arrays["index"]) == len(video)
    with closing(tracker.track_frames(video)) as run:  # provides the metadata of the video and the models
        run.context.cuts, run.context.new_tracks = sorted(cuts), sorted(new_tracks)
        tracks = run.tracks(arrays)
    return dataclasses.replace(
        tracks,
        stats=stats,
        warnings=(*dict.fromkeys(warnings), *concealed_in_words(sorted(concealed))),
        meta={**tracks.meta, JOINED: joined},
    )
