"""Edits of tracks: manual landmarks; renaming, deleting, merging, splitting and selecting faces.

Edits return new tracks, except `set_face` and `reset_fit`, which work in place, for callers that own a copy
(`Tracks.copy`); `set_face` has a constant cost.
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
"""Arrays of one face on one frame by name, each of shape `Field.shape`."""
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
        First and last frame, inclusive. By default the face is removed, and later faces move up by one.

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
        If there is no such face, or a face is given twice.
    """
    for face in faces:
        _check_face(tracks, face)
    if len(set(faces)) < len(faces):
        raise ResultError(f"The faces {list(faces)} contain a face twice: give each face once.")
    names = names_of_faces(tracks)
    chosen = _with_names(tracks.take_faces(list(faces)), [names[face] for face in faces])
    return _with_people(chosen, lambda _, face: faces.index(face) if face in faces else -1)


def merge_faces(tracks: Tracks, face: int, other: int) -> Tracks:
    """Return the tracks with two faces merged into `face`, which keeps its name.

    On frames with both faces, the one with manual landmarks is kept, else the more confident one.

    Raises
    ------
    ResultError
        If there is no such face, or both are the same.
    """
    _check_face(tracks, face)
    _check_face(tracks, other)
    if face == other:
        raise ResultError(f"Face {face} cannot be merged with itself: choose two faces.")
    rank = np.where(tracks.present, 1 + tracks.confidence.mean(axis=-1), 0) + 2 * tracks.by_hand.any(axis=-1)
    from_other = rank[:, other] > rank[:, face]
    copy = tracks.copy()
    for array in copy.arrays().values():
        array[from_other, face] = array[from_other, other]
    return delete_face(_with_people(copy, lambda _, each: face if each == other else each), other)


def split_face(tracks: Tracks, face: int, frame: int) -> Tracks:
    """Return the tracks with a face split at a frame: from there on it becomes a new face, the last one.

    Raises
    ------
    ResultError
        If there is no such face, or it is not present both before the frame and from it on.
    """
    _check_face(tracks, face)
    after = tracks.frame_indices >= frame
    present = tracks.present[:, face]
    if not (present & after).any() or not (present & ~after).any():
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
    """Return the row of a frame in the arrays; raise an error if the tracks lack the frame or the face."""
    rows = np.flatnonzero(tracks.frame_indices == frame)
    if not len(rows) or not 0 <= face < tracks.n_faces:
        raise ResultError(
            f"There is no face {face} on frame {frame} of the tracks: choose a face and frame that they have."
        )
    return int(rows[0])


def set_manual_landmarks(
    tracks: Tracks, row: int, face: int, landmarks: Sequence[int], places: npt.ArrayLike
) -> Tracks:
    """Return the tracks with manual landmarks of a face on one frame; an unchanged copy if N is 0.

    Parameters
    ----------
    tracks : Tracks
    row, face : int
        Indices into the arrays.
    landmarks : sequence of N int
        Indices of landmarks, 0 to 67.
    places : array-like, (N, 2)
        Coordinates in pixels, x then y.

    Raises
    ------
    ResultError
        If there is no such face, frame or landmark, or a coordinate is not finite.
    """
    return with_face(tracks, row, face, manual_values(tracks, row, face, landmarks, places))


def manual_values(
    tracks: Tracks, row: int, face: int, landmarks: Sequence[int], places: npt.ArrayLike
) -> FaceValues:
    """Return the arrays of a face after `set_manual_landmarks`, for `set_face`; tracks are not copied."""
    _check_face(tracks, face)
    points, indices = np.asarray(places, dtype=np.float32), list(landmarks)
    in_range = 0 <= row < tracks.n_frames and all(0 <= k < N_LANDMARKS for k in indices)
    if not in_range or points.shape != (len(indices), 2) or not np.isfinite(points).all():
        raise ResultError(
            "Manual landmarks are 0 to 67, each with a finite x and y, on a tracked frame: correct them."
        )
    values = values_of_face(tracks, row, face)
    if not indices:
        return values
    moved, confidence, sigma = values["landmarks"], values["confidence"], values["sigma"]
    moved[indices], confidence[indices] = points, 1
    sigma[indices] = HAND_ERROR * inter_ocular(moved)
    edited = edited_values(tracks, row, face, moved, confidence, sigma, values["pose"])
    edited["by_hand"][indices] = True
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
    """Return the arrays of a face on one frame with its landmarks replaced, for `set_face`.

    Landmarks (68, 2), confidence and sigma (68,) and pose (6,) are as in `Tracks`. The source becomes
    "manual", the box encloses the landmarks and keeps its score, and arrays that describe a fit are reset.
    """
    values = values_of_face(tracks, row, face)
    for item in FIELDS:
        if item.reset_by_edits:
            values[item.name] = item.empty()
    finite = landmarks[np.isfinite(landmarks).all(axis=-1)]
    values["boxes"][:4] = [*finite.min(axis=0), *finite.max(axis=0)]
    values |= {"landmarks": landmarks, "confidence": confidence, "sigma": sigma, "pose": pose}
    values["source"] = np.array(MANUAL, np.uint8)
    return values


def with_face(tracks: Tracks, row: int, face: int, values: FaceValues) -> Tracks:
    """Return a copy of the tracks with the arrays of a face on one frame replaced."""
    copy = tracks.copy()
    set_face(copy, row, face, values)
    return copy


def values_of_face(tracks: Tracks, row: int, face: int) -> FaceValues:
    """Return copies of all arrays of a face on one frame."""
    return {name: np.array(array[row, face]) for name, array in tracks.arrays().items()}


def set_face(tracks: Tracks, row: int, face: int, values: Mapping[str, npt.NDArray[Any]]) -> None:
    """Set the arrays of a face on one frame, in place."""
    for name, value in values.items():
        getattr(tracks, name)[row, face] = value


def reset_fit(tracks: Tracks, where: Any) -> None:
    """Reset in place the arrays that describe a fit; `where` indexes rows and faces with edited landmarks."""
    for item in FIELDS:
        if item.reset_by_edits:
            getattr(tracks, item.name)[where] = item.fill


def _clear(tracks: Tracks, rows: npt.NDArray[np.bool_], face: int) -> None:
    for item in FIELDS:
        getattr(tracks, item.name)[rows, face] = item.fill


def _with_names(tracks: Tracks, names: list[str]) -> Tracks:
    return dataclasses.replace(tracks, meta={**tracks.meta, NAMES: names})


def _with_people(tracks: Tracks, new_face: Callable[[int, int], int]) -> Tracks:
    """Update metadata and warnings about faces that are another person from a frame on (`NEW_TRACKS`).

    `new_face(frame, face)` returns the index, after an edit, of a face from that frame on; -1 if deleted.
    """
    entries = tracks.meta.get(NEW_TRACKS)
    if not entries:
        return tracks
    several = []
    for frame, old_face in entries:
        face = new_face(frame, old_face)
        if face < 0:
            continue
        after, present = tracks.frame_indices >= frame, tracks.present[:, face]
        if (present & after).any() and (present & ~after).any():
            several.append([frame, face])
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
