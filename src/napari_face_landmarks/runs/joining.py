"""The pieces of a video put together to what an uncut run gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.frame import FrameResult, stack_frames, unstack_frames
from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.runs.chunks import (
    Piece,
    TrackedPiece,
    can_join,
    piece_journal,
    read_piece,
)
from napari_face_landmarks.tracking import FaceTracker
from napari_face_landmarks.tracking.run import concealed_in_words
from napari_face_landmarks.tracking.state import TrackerState
from napari_face_landmarks.video import Video

JOINED = "pieces_joined"
"""Entry of `Tracks.meta`: how many pieces the video was cut into, and which were tracked again."""


def join_pieces(
    tracker: FaceTracker,
    video: Video,
    output: str,
    pieces: Sequence[Piece],
    tell: Callable[[int, int], None],
) -> Tracks | None:
    """Join the pieces of a video that lie in their journals.

    A piece that cannot be joined without a seam, or is not there, is tracked again from where the one before
    ends; `Tracks.meta` says which.

    Parameters
    ----------
    tracker : FaceTracker
        With the settings and models of the pieces.
    video : Video
    output : str
        The output whose pieces they are.
    pieces : sequence of Piece
        In order.
    tell : callable
        Told the frames that are joined and all.

    Returns
    -------
    Tracks or None
        None where the first piece is not there: nothing can be joined to it.
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
        tell(piece.last, pieces[-1].last)
        if len(part.arrays["index"]) < piece.last - piece.first:
            break
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
    return _tracks(tracker, video, arrays, ends, {"pieces": len(pieces), "tracked_again_from": again})


def _track_again(
    tracker: FaceTracker, video: Video, piece: Piece, before: TrackerState
) -> TrackedPiece | None:
    """Track the frames of a piece from the state before them, as an uncut run does; None without frames."""
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
    for end in ends:
        stats.seconds += end.stats.seconds
        stats.prepare_seconds += end.stats.prepare_seconds
        for stage in stats.stage_seconds:
            stats.stage_seconds[stage] += end.stats.stage_seconds[stage]
            stats.stage_calls[stage] += end.stats.stage_calls[stage]
        sentences += end.warnings
        concealed.update(end.concealed)
    for result in unstack_frames(arrays):
        stats.count(result)
    stats.completed = len(arrays["index"]) == len(video)
    with closing(tracker.track_frames(video)) as run:  # for the meta of the video and the models
        tracks = run.tracks(arrays)
    return dataclasses.replace(
        tracks,
        stats=stats,
        warnings=(*dict.fromkeys(sentences), *concealed_in_words(sorted(concealed))),
        meta={**tracks.meta, JOINED: joined},
    )
