"""Edits of tracks: landmarks placed by hand, faces named, deleted, merged, split and chosen.

Nothing is changed in place: each returns new tracks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.tracks import MANUAL, NONE, Tracks
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.ibug import N_LANDMARKS

PER_FACE = ("landmarks", "confidence", "source", "pose", "boxes", "misfit", "by_hand")
EMPTY: dict[str, Any] = {
    "landmarks": np.nan,
    "confidence": 0,
    "source": NONE,
    "pose": np.nan,
    "boxes": np.nan,
    "misfit": np.nan,
    "by_hand": False,
}
LONGEST_NAME = 100


def names_of_faces(tracks: Tracks) -> list[str]:
    """Return the name of each face: the one it was given, else "Face 1" and so on."""
    given = tracks.meta.get("face_names", ())
    names = [str(name) for name in given] if isinstance(given, (list, tuple)) else []
    return [
        names[face] if face < len(names) and names[face] else f"Face {face + 1}"
        for face in range(tracks.n_faces)
    ]


def rename_face(tracks: Tracks, face: int, name: str) -> Tracks:
    """Return the tracks with a face named.

    Raises
    ------
    ResultError
        If there is no such face, or the name is empty, too long or another face's.
    """
    _check_face(tracks, face)
    name = " ".join(name.split())
    if not name or len(name) > LONGEST_NAME:
        raise ResultError(f"The name has {len(name)} letters: give one of 1 to {LONGEST_NAME}.")
    names = names_of_faces(tracks)
    if name in names[:face] + names[face + 1 :]:
        raise ResultError(f"Another face is named {name!r}: choose another name.")
    names[face] = name
    return _with_names(tracks, names)


def delete_face(tracks: Tracks, face: int, frames: tuple[int, int] | None = None) -> Tracks:
    """Return the tracks without a face, or without it on some frames.

    Parameters
    ----------
    tracks : Tracks
    face : int
    frames : (int, int), optional
        First and last frame in the video, both included; all where not given, and faces after it move up.

    Raises
    ------
    ResultError
        If there is no such face.
    """
    _check_face(tracks, face)
    if frames is None:
        return choose_faces(tracks, [other for other in range(tracks.n_faces) if other != face])
    copy = _copy(tracks)
    _clear(copy, (tracks.frame_indices >= frames[0]) & (tracks.frame_indices <= frames[1]), face)
    return copy


def choose_faces(tracks: Tracks, faces: Sequence[int]) -> Tracks:
    """Return the tracks of some faces only, in the order given.

    Raises
    ------
    ResultError
        If there is no such face, or one is named twice.
    """
    for face in faces:
        _check_face(tracks, face)
    if len(set(faces)) < len(faces):
        raise ResultError(f"The faces {list(faces)} name one twice: name each once.")
    names = names_of_faces(tracks)
    kept: dict[str, Any] = {name: getattr(tracks, name)[:, list(faces)] for name in PER_FACE}
    return _with_names(dataclasses.replace(tracks, **kept), [names[face] for face in faces])


def merge_faces(tracks: Tracks, face: int, other: int) -> Tracks:
    """Return the tracks with two faces as one, `face`, which keeps its name.

    Where both are there, what was placed by hand stays, else the surer one.

    Raises
    ------
    ResultError
        If there are no two such faces.
    """
    _check_face(tracks, face)
    _check_face(tracks, other)
    if face == other:
        raise ResultError(f"Face {face} cannot be merged with itself: choose two faces.")
    rank = np.where(tracks.present, 1 + tracks.confidence.mean(axis=-1), 0) + 2 * tracks.by_hand.any(axis=-1)
    taken = rank[:, other] > rank[:, face]
    copy = _copy(tracks)
    for name in PER_FACE:
        getattr(copy, name)[taken, face] = getattr(tracks, name)[taken, other]
    return delete_face(copy, other)


def split_face(tracks: Tracks, face: int, frame: int) -> Tracks:
    """Return the tracks with a face that is another one, the last, from a frame of the video on.

    Raises
    ------
    ResultError
        If there is no such face, or it is not there on both sides of the frame.
    """
    _check_face(tracks, face)
    after = tracks.frame_indices >= frame
    there = tracks.present[:, face]
    if not (there & after).any() or not (there & ~after).any():
        raise ResultError(
            f"Face {face} is not there both before frame {frame} and from it on: choose another frame."
        )
    names = names_of_faces(tracks)
    parts: dict[str, Any] = {}
    for name in PER_FACE:
        values = getattr(tracks, name)
        added = np.full_like(values[:, :1], EMPTY[name])
        added[after, 0] = values[after, face]
        parts[name] = np.concatenate([values, added], axis=1)
    split = dataclasses.replace(tracks, **parts)
    _clear(split, after, face)
    fresh = next(name for k in range(1, 10**6) if (name := f"Face {k}") not in names)
    return _with_names(split, [*names, fresh])


def row_of(tracks: Tracks, frame: int, face: int) -> int:
    """Return the row of a frame of the video, on which a face of the tracks may be.

    Raises
    ------
    ResultError
        If the tracks have no such frame or face.
    """
    found = np.flatnonzero(tracks.frame_indices == frame)
    if not len(found) or not 0 <= face < tracks.n_faces:
        raise ResultError(
            f"There is no face {face} on frame {frame} of the tracks: choose one that they have."
        )
    return int(found[0])


def place_by_hand(
    tracks: Tracks, row: int, face: int, landmarks: Sequence[int], places: npt.ArrayLike
) -> Tracks:
    """Return the tracks with landmarks of a face placed by hand; unchanged where none is placed.

    Parameters
    ----------
    tracks : Tracks
    row, face : int
        Of the arrays.
    landmarks : sequence of int
        0 to 67.
    places : array-like, (N, 2)
        Pixels, x then y.

    Raises
    ------
    ResultError
        If there is no such face, frame or landmark, or a place is not finite.
    """
    _check_face(tracks, face)
    points, which = np.asarray(places, dtype=np.float32), list(landmarks)
    good = 0 <= row < tracks.n_frames and all(0 <= k < N_LANDMARKS for k in which)
    if not good or points.shape != (len(which), 2) or not np.isfinite(points).all():
        raise ResultError(
            "Landmarks placed by hand are 0 to 67, each with a finite x and y, on a tracked frame."
        )
    if not which:
        return _copy(tracks)
    moved = tracks.landmarks[row, face].copy()
    confidence = tracks.confidence[row, face].copy()
    marks = tracks.by_hand[row, face].copy()
    moved[which], confidence[which], marks[which] = points, 1, True
    placed = with_face(tracks, row, face, moved, confidence, tracks.pose[row, face])
    placed.by_hand[row, face] = marks
    placed.source[row, face] = MANUAL
    return placed


def with_face(
    tracks: Tracks,
    row: int,
    face: int,
    landmarks: npt.NDArray[Any],
    confidence: npt.NDArray[Any],
    pose: npt.NDArray[Any],
) -> Tracks:
    """Return a copy of the tracks with a face's landmarks on one frame replaced; its source is "manual"."""
    copy = _copy(tracks)
    copy.landmarks[row, face], copy.confidence[row, face] = landmarks, confidence
    copy.pose[row, face], copy.source[row, face] = pose, MANUAL
    there = landmarks[np.isfinite(landmarks).all(axis=-1)]
    copy.boxes[row, face, :4] = [*there.min(axis=0), *there.max(axis=0)]
    copy.misfit[row, face] = np.nan
    return copy


def _copy(tracks: Tracks) -> Tracks:
    return dataclasses.replace(tracks, **{name: getattr(tracks, name).copy() for name in PER_FACE})


def _clear(tracks: Tracks, rows: npt.NDArray[np.bool_], face: int) -> None:
    for name in PER_FACE:
        getattr(tracks, name)[rows, face] = EMPTY[name]


def _with_names(tracks: Tracks, names: list[str]) -> Tracks:
    return dataclasses.replace(tracks, meta={**tracks.meta, "face_names": names})


def _check_face(tracks: Tracks, face: int) -> None:
    if not 0 <= face < tracks.n_faces:
        raise ResultError(f"There is no face {face}: the tracks have {tracks.n_faces}, counted from 0.")
