"""A long video cut into pieces that are tracked in parallel, and joined without a seam.

Every piece begins some frames early, so that the tracker has converged at the join. There, if the states of
both pieces agree within `SAME_PX`, they are joined; otherwise the piece is tracked again from the state of
the previous one, as in a run over the whole video.
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
from napari_face_landmarks.tracking.pfld_tracker import LOOK_FOR_MORE_EVERY, frames_ahead
from napari_face_landmarks.tracking.refinement import STAY_REFINED
from napari_face_landmarks.tracking.run import concealed_in_words
from napari_face_landmarks.tracking.smoothing import window_at_rate
from napari_face_landmarks.tracking.state import ClnfFace, FaceState, Refinement, TrackerState
from napari_face_landmarks.video import Video

JOINED = "pieces_joined"
"""Entry of `Tracks.meta`: how many pieces the video was cut into, and which were tracked again."""
SAME_PX = 1e-4
"""Largest distance of the landmarks of two states, px, that count as equal."""
WARM_UP = 60
"""Frames that a piece tracks before its own; within 50, runs from different frames become equal."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Frames of a video that are tracked separately."""

    start: int  # the first frame that is tracked
    # first, last: the frames of the result that the piece provides, `last` excluded
    first: int
    last: int
    stop: int  # the frame after the last that is tracked


def cut(n_frames: int, length: int, settings: TrackerSettings, fps: float | None = None) -> list[Piece]:
    """Return the pieces of a video, each of about `length` frames; a single one of a short video."""
    count = max(1, n_frames // max(length, 2 * WARM_UP))
    ends = [n_frames * number // count for number in range(count + 1)]
    # CLNF and the detector run on multiples of these frame numbers: a piece begins where both run
    step = settings.clnf_every * LOOK_FOR_MORE_EVERY
    tail = window_at_rate(settings.smoothing_window, fps) // 2 + frames_ahead(settings.pfld_every) + 1
    return [
        Piece(max(0, first - WARM_UP) // step * step, first, last, min(n_frames, last + tail))
        for first, last in itertools.pairwise(ends)
    ]


def piece_journal(output: str | Path, piece: Piece) -> Path:
    """Return the path of the checkpoint of a piece of the video of `output`."""
    path = Path(output)
    return path.with_name(companion_name(path.name, f".{piece.first}.journal"))


def remove_pieces(output: str | Path) -> None:
    """Remove the checkpoints of all pieces of an output, also of other cuts, except those in use."""
    path = Path(output)
    front = companion_name(path.name, "")
    for journal in path.parent.glob(f"{glob.escape(front)}.*.journal"):
        if journal.name[len(front) + 1 :].partition(".")[0].isdecimal():
            with contextlib.suppress(OSError):
                with open(journal, "r+b") as stream:
                    free = try_to_lock(stream)
                if free:
                    journal.unlink()


@dataclass(frozen=True, slots=True)
class TrackedPiece:
    """The results of a piece."""

    arrays: dict[str, npt.NDArray[Any]]  # the piece's own frames, each field of `frame_type`
    before: TrackerState | None  # the state before its first frame
    after: TrackerState  # the state after its last frame


def read_piece(path: Path, piece: Piece, max_faces: int) -> TrackedPiece | None:
    """Read a piece from its checkpoint; None where it is incomplete."""
    try:
        with open(path, "rb") as stream:
            content = read_checkpoint(stream, max_faces)
            if content is None or content.n_frames < piece.last - piece.start:
                return None
            arrays = read_frames(stream, max_faces, piece.last - piece.start)
            before = read_checkpoint(stream, max_faces, at=piece.first)
            after = read_checkpoint(stream, max_faces, at=piece.last)
    except (OSError, ResultError):
        return None
    if after is None or after.state is None:
        return None
    own = {name: array[piece.first - piece.start :] for name, array in arrays.items()}
    return TrackedPiece(own, None if before is None else before.state, after.state)


def can_join(before: TrackerState | None, after: TrackerState | None, pdm: PDM) -> bool:
    """Return whether a run may continue from `after`, a warmed-up piece's state, instead of `before`."""
    if before is None or after is None:
        return False
    return _alike(_what_matters(before, pdm), _what_matters(after, pdm))


def _alike(one: Any, other: Any) -> bool:
    """Return whether two structures are equal, their arrays within `SAME_PX`."""
    if isinstance(one, np.ndarray):
        same_shape = isinstance(other, np.ndarray) and one.shape == other.shape
        return same_shape and np.allclose(one, other, rtol=0, atol=SAME_PX, equal_nan=True)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)):
        same_length = isinstance(other, (tuple, list)) and len(one) == len(other)
        return same_length and all(map(_alike, one, other))
    return not isinstance(other, np.ndarray) and bool(one == other)


def _what_matters(state: TrackerState, pdm: PDM) -> Any:
    """Return all of a state on which the results after it depend."""
    faces = state.faces
    return (
        faces.next_index,
        state.waiting,
        dict(faces.last_boxes),
        dict(faces.last_seen),
        dict(faces.looks),
        [(item.slots, item.crops) for item in faces.ahead],
        [(frame.index, frame.landmarks) for frame in state.recent],
        [_of_face(face, faces.next_index, pdm) for face in faces.faces],
    )


def _of_face(face: FaceState | ClnfFace | None, next_index: int, pdm: PDM) -> Any:
    if face is None:
        return None
    if isinstance(face, ClnfFace):
        shape = project(pdm, face.fit.params)
        return face.fit.landmarks, shape, face.unseen, np.array(face.usual)
    return face.landmarks, face.places, _of_refinement(face.refinement, face.landmarks, next_index, pdm)


def _of_refinement(item: Refinement, landmarks: npt.NDArray[Any], next_index: int, pdm: PDM) -> Any:
    unsure_at = item.unsure_at if next_index - item.unsure_at < STAY_REFINED else None
    if item.params is None:
        return unsure_at, item.correction is None
    shape = project(pdm, item.params)
    if item.correction is None:
        return unsure_at, shape
    carried, _ = apply_correction(pdm, item.correction, item.params, landmarks)
    return unsure_at, shape, item.refined_at, carried


def join_pieces(
    tracker: FaceTracker,
    video: Video,
    output: str,
    pieces: Sequence[Piece],
    progress: Callable[[int, int], None],
) -> Tracks | None:
    """Join the pieces of a video, in order, from their checkpoints; None if the first is missing.

    A piece that cannot be joined without a seam, or is missing, is tracked again from the end of the previous
    one; `Tracks.meta` lists these. `progress` is called with the number of frames joined and of all.
    """
    max_faces = tracker.settings.max_faces
    parts: list[TrackedPiece] = []
    ends: list[TrackerState] = []  # of what was tracked in one go
    again: list[int] = []
    for piece in pieces:
        part = read_piece(piece_journal(output, piece), piece, max_faces)
        before = ends[-1] if ends else None
        if part is None or (before is not None and not can_join(before, part.before, tracker.models.pdm)):
            if before is None:
                return None
            part = _track_again(tracker, video, piece, before)
            again.append(piece.first)
            if part is None:  # the video breaks off
                break
            ends[-1] = part.after
        else:
            ends.append(part.after)
        parts.append(part)
        progress(piece.last, pieces[-1].last)
        if len(part.arrays["index"]) < piece.last - piece.first:
            break
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
    return _tracks(tracker, video, arrays, ends, {"pieces": len(pieces), "tracked_again_from": again})


def _track_again(
    tracker: FaceTracker, video: Video, piece: Piece, before: TrackerState
) -> TrackedPiece | None:
    """Track the frames of a piece from the state before them; None where there are no frames."""
    results: list[FrameResult] = []
    with closing(tracker.track_frames(video, 0, piece.stop, before)) as run:
        for result in run:
            results.append(result)
            if result.index + 1 == piece.last:
                break
        after = run.state()
    if after is None or not results:
        return None
    return TrackedPiece(stack_frames(results, tracker.settings.max_faces), before, after)


def _tracks(
    tracker: FaceTracker,
    video: Video,
    arrays: dict[str, npt.NDArray[Any]],
    ends: Sequence[TrackerState],
    joined: dict[str, Any],
) -> Tracks:
    stats, sentences, concealed = RunStats(), list[str](), set[int]()
    cuts, new_tracks = set[int](), set[tuple[int, int]]()
    for end in ends:
        stats.seconds += end.stats.seconds
        stats.prepare_seconds += end.stats.prepare_seconds
        for stage in stats.stage_seconds:
            stats.stage_seconds[stage] += end.stats.stage_seconds[stage]
            stats.stage_calls[stage] += end.stats.stage_calls[stage]
        sentences += end.warnings
        concealed.update(end.concealed)
        cuts.update(end.faces.cuts)
        new_tracks.update(end.faces.new_tracks)
    for result in unstack_frames(arrays):
        stats.count(result)
    stats.completed = len(arrays["index"]) == len(video)
    with closing(tracker.track_frames(video)) as run:  # for the meta of the video and the models
        run.context.cuts, run.context.new_tracks = sorted(cuts), sorted(new_tracks)
        tracks = run.tracks(arrays)
    return dataclasses.replace(
        tracks,
        stats=stats,
        warnings=(*dict.fromkeys(sentences), *concealed_in_words(sorted(concealed))),
        meta={**tracks.meta, JOINED: joined},
    )
