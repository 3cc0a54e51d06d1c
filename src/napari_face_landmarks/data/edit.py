"""Edits of tracks: manual landmarks; faces renamed, deleted, merged, split and selected.

Each edit returns new tracks, except `set_face`, which changes one face on one frame in place at constant
cost, for callers that own a copy (`Tracks.copy`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import FIELDS, MANUAL
from napari_face_landmarks.data.names import (
    LONGEST_NAME,
    NAMES,
    NEW_TRACKS,
    SEVERAL,
    face_label,
    names_of_faces,
    people_in_words,
)
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.ibug import N_LANDMARKS, inter_ocular

FaceValues = dict[str, npt.NDArray[Any]]
"""The arrays of one face on one frame, each of the shape `Field.shape`."""
HAND_ERROR = 0.01
"""Standard deviation of a manual landmark's error along one axis, in inter-ocular distances."""


def rename_face(tracks: Tracks, face: int, name: str) -> Tracks:
    """Return the tracks with a face renamed.

    Raises
    ------
    ResultError
        If there is no such face, or the name is empty, too long or another face's.
    """
    _check_face(tracks, face)
    name = " ".join(name.split())
    if not name or len(name) > LONGEST_NAME:
        raise ResultError(
            f"The name has {len(name)} characters: choose one of 1 to {LONGEST_NAME} characters."
        )
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
        First and last frame, both included; all where not given, and then the faces after it move up.

    Raises
    ------
    ResultError
        If there is no such face.
    """
    _check_face(tracks, face)
    if frames is None:
        return choose_faces(tracks, [other for other in range(tracks.n_faces) if other != face])
    copy = tracks.copy()
    _clear(copy, (tracks.frame_indices >= frames[0]) & (tracks.frame_indices <= frames[1]), face)
    return copy


def choose_faces(tracks: Tracks, faces: Sequence[int]) -> Tracks:
    """Return the tracks of some faces only, in the given order.

    Raises
    ------
    ResultError
        If there is no such face, or one is given twice.
    """
    for face in faces:
        _check_face(tracks, face)
    if len(set(faces)) < len(faces):
        raise ResultError(f"The faces {list(faces)} contain a face twice: give each once.")
    names = names_of_faces(tracks)
    chosen = _with_names(tracks.take_faces(list(faces)), [names[face] for face in faces])
    return _with_people(chosen, lambda _, face: faces.index(face) if face in faces else -1)


def merge_faces(tracks: Tracks, face: int, other: int) -> Tracks:
    """Return the tracks with two faces merged into `face`, which keeps its name.

    On frames with both, the one with manual landmarks is kept, else the more confident one.

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
    copy = tracks.copy()
    for array in copy.arrays().values():
        array[taken, face] = array[taken, other]
    return delete_face(_with_people(copy, lambda _, each: face if each == other else each), other)


def split_face(tracks: Tracks, face: int, frame: int) -> Tracks:
    """Return the tracks with a face split at a frame, from which on it is a new face, the last one.

    Raises
    ------
    ResultError
        If there is no such face, or it is not present both before the frame and from it on.
    """
    _check_face(tracks, face)
    after = tracks.frame_indices >= frame
    there = tracks.present[:, face]
    if not (there & after).any() or not (there & ~after).any():
        raise ResultError(
            f"Face {face} is not present both before frame {frame} and from it on: choose another frame."
        )
    names = names_of_faces(tracks)
    split = tracks.with_room_for(tracks.n_faces + 1)
    for array in split.arrays().values():
        array[after, -1] = array[after, face]
    _clear(split, after, face)
    new = next(name for k in range(tracks.n_faces, 10**6) if (name := face_label(k)) not in names)
    split = _with_names(split, [*names, new])
    return _with_people(split, lambda at, each: tracks.n_faces if each == face and at >= frame else each)


def row_of(tracks: Tracks, frame: int, face: int) -> int:
    """Return the row of a frame in the arrays, having checked that the tracks have it and the face."""
    found = np.flatnonzero(tracks.frame_indices == frame)
    if not len(found) or not 0 <= face < tracks.n_faces:
        raise ResultError(
            f"There is no face {face} on frame {frame} of the tracks: choose one that they have."
        )
    return int(found[0])


def set_manual_landmarks(
    tracks: Tracks, row: int, face: int, landmarks: Sequence[int], places: npt.ArrayLike
) -> Tracks:
    """Return the tracks with manual landmarks of a face on one frame; a plain copy where none is given.

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
    return with_face(tracks, row, face, manual_values(tracks, row, face, landmarks, places))


def manual_values(
    tracks: Tracks, row: int, face: int, landmarks: Sequence[int], places: npt.ArrayLike
) -> FaceValues:
    """Return what `set_manual_landmarks` makes of a face, for `set_face`, without copying the tracks."""
    _check_face(tracks, face)
    points, which = np.asarray(places, dtype=np.float32), list(landmarks)
    good = 0 <= row < tracks.n_frames and all(0 <= k < N_LANDMARKS for k in which)
    if not good or points.shape != (len(which), 2) or not np.isfinite(points).all():
        raise ResultError(
            "Manual landmarks are 0 to 67, each with a finite x and y, on a tracked frame: correct them."
        )
    values = values_of_face(tracks, row, face)
    if not which:
        return values
    moved, confidence, sigma = values["landmarks"], values["confidence"], values["sigma"]
    moved[which], confidence[which] = points, 1
    sigma[which] = HAND_ERROR * inter_ocular(moved)
    edited = edited_values(tracks, row, face, moved, confidence, sigma, values["pose"])
    edited["by_hand"][which] = True
    return edited


def edited_values(
    tracks: Tracks,
    row: int,
    face: int,
    landmarks: npt.NDArray[Any],
    confidence: npt.NDArray[Any],
    sigma: npt.NDArray[Any],
    pose: npt.NDArray[Any],
) -> FaceValues:
    """Return a face on one frame with its landmarks replaced, for `set_face`; its source is "manual".

    Landmarks (68, 2), confidence and sigma (68,) and pose (6,) are as in `Tracks`. The box encloses the
    landmarks, its score is kept, and values that described the previous fit become unknown.
    """
    values = values_of_face(tracks, row, face)
    for item in FIELDS:
        if item.reset_by_edits:
            values[item.name] = item.empty()
    there = landmarks[np.isfinite(landmarks).all(axis=-1)]
    values["boxes"][:4] = [*there.min(axis=0), *there.max(axis=0)]
    values |= {"landmarks": landmarks, "confidence": confidence, "sigma": sigma, "pose": pose}
    values["source"] = np.array(MANUAL, np.uint8)
    return values


def with_face(tracks: Tracks, row: int, face: int, values: FaceValues) -> Tracks:
    """Return a copy of the tracks with other arrays of a face on one frame."""
    copy = tracks.copy()
    set_face(copy, row, face, values)
    return copy


def values_of_face(tracks: Tracks, row: int, face: int) -> FaceValues:
    """Return a copy of all arrays of a face on one frame."""
    return {name: np.array(array[row, face]) for name, array in tracks.arrays().items()}


def set_face(tracks: Tracks, row: int, face: int, values: Mapping[str, npt.NDArray[Any]]) -> None:
    """Set the arrays of a face on one frame, in place."""
    for name, value in values.items():
        getattr(tracks, name)[row, face] = value


def reset_fit(tracks: Tracks, where: Any) -> None:
    """Reset, in place, the values that describe a fit, at rows and faces `where` landmarks were edited."""
    for item in FIELDS:
        if item.reset_by_edits:
            getattr(tracks, item.name)[where] = item.fill


def _clear(tracks: Tracks, rows: npt.NDArray[np.bool_], face: int) -> None:
    for item in FIELDS:
        getattr(tracks, item.name)[rows, face] = item.fill


def _with_names(tracks: Tracks, names: list[str]) -> Tracks:
    return dataclasses.replace(tracks, meta={**tracks.meta, NAMES: names})


def _with_people(tracks: Tracks, now: Callable[[int, int], int]) -> Tracks:
    """Return tracks whose meta and warnings name the faces which still are another person from a frame on.

    `now` returns which face one is now that was another person from a frame on; -1 where it is gone.
    """
    given = tracks.meta.get(NEW_TRACKS)
    if not given:
        return tracks
    several = []
    for frame, face in given:
        after, at = tracks.frame_indices >= frame, now(frame, face)
        there = tracks.present[:, at] if at >= 0 else after & ~after
        if (there & after).any() and (there & ~after).any():
            several.append([frame, at])
    meta = {key: value for key, value in tracks.meta.items() if key != NEW_TRACKS}
    others = [sentence for sentence in tracks.warnings if not sentence.startswith(SEVERAL)]
    return dataclasses.replace(
        tracks,
        meta={**meta, NEW_TRACKS: several} if several else meta,
        warnings=(*others, *people_in_words(several)),
    )


def _check_face(tracks: Tracks, face: int) -> None:
    if not 0 <= face < tracks.n_faces:
        raise ResultError(f"There is no face {face}: the tracks have {tracks.n_faces} faces, counted from 0.")
