"""What the formats share: names of landmarks and faces, a row for every frame, and checked tracks."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import NONE, PFLD, SOURCES
from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.ibug import N_LANDMARKS, REGIONS
from napari_face_landmarks.settings import settings_from_dict

Floats = npt.NDArray[np.float32]

SOFTWARE = "napari-face-landmarks"
MOST_ROWS = 2_000_000
"""Faces times frames that are read; as float32 landmarks a gigabyte."""
MOST_FACES = 1000
MOST_EMPTY = 64
"""Cells of the grid of frames and faces that may be empty for each that is not: as many as faces followed."""
SMALL_GRID = 16
MOST_FRAMES = 100_000_000
UNKNOWN_SOURCE = PFLD
"""What landmarks count as whose file does not say where they come from."""

LANDMARK_NAMES = tuple(
    f"{region.replace(' ', '_')}_{index:02d}" for region, indices in REGIONS.items() for index in indices
)
"""A name for each landmark: its region and its index, such as ``right_eye_36``."""


LONGEST_NAME = 100
"""Letters of a face's name that are kept."""
NAMES = "face_names"
"""Entry of `Tracks.meta` with the names that faces were given."""
RESERVED = ("single",)
"""What DeepLabCut calls the bodyparts of no individual."""


def face_names(n_faces: int) -> list[str]:
    """Return the names of faces without one of their own: ``face_0`` and so on."""
    return [f"face_{face}" for face in range(n_faces)]


def listed(names: Iterable[object]) -> str:
    """Return names out of a file as a part of a sentence: one line, at most 200 characters."""
    return " ".join(", ".join(map(str, names)).split())[:200]


def names_in_files(given: Any, n_faces: int) -> list[str]:
    """Return the names of faces as files of poses have them: given ones, sane and each once.

    Parameters
    ----------
    given : object
        ``meta["face_names"]``, whatever it is.
    n_faces : int

    Returns
    -------
    list of str
        What is no list of names gives those of `face_names`, as does an empty name. Names are one line of
        at most `LONGEST_NAME` letters that any encoding of Unicode can hold.
    """
    names = face_names(n_faces)
    listed = given if isinstance(given, (list, tuple)) else ()
    for face, name in enumerate(listed[:n_faces]):
        text = str(name)[: 2 * LONGEST_NAME].encode("utf-8", "replace").decode()
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:LONGEST_NAME]
        names[face] = f"{text}_face" if text in RESERVED else text.strip() or names[face]
    for face, name in enumerate(names):
        others = names[:face] + names[face + 1 :]
        if name in others:
            names[face] = next(new for k in range(2, 10**6) if (new := f"{name}_{k}") not in others)
    return names


def with_names(record: dict[str, Any] | None, names: Sequence[str]) -> dict[str, Any]:
    """Return the record of a run with the names that a file has for its faces.

    Parameters
    ----------
    record : dict or None
        What `record_of` made.
    names : sequence of str
        As the file has them, in the order of the faces; none where it has no place for them. Those of
        `face_names` are no names of their own, and where the names are what is written for the record's,
        these stay as they were given.
    """
    record = record or {}
    meta = record.get("meta", {})
    known, found = names_in_files(meta.get(NAMES), len(names)), names_in_files(list(names), len(names))
    if found == known:
        return record
    return {**record, "meta": {**meta, NAMES: found}}


def order_of_faces(names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return which face each name is: by its number where all are those of `face_names`, else in order."""
    if sorted(names) == sorted(face_names(len(names))):
        return order_by_number(names)
    return np.arange(len(names))


def order_by_number(names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the index that each name ends in, or 0 to N - 1 in order where they are not these, each once."""
    numbers = [int(found.group(1)) if (found := re.search(r"(\d{1,6})$", name)) else -1 for name in names]
    if sorted(numbers) == list(range(len(names))):
        return np.array(numbers, dtype=np.int64)
    return np.arange(len(names))


def exact_numbers() -> dict[str, str]:
    """Return what has pandas' reader of CSV files round correctly, as it does unasked from pandas 3 on."""
    import pandas

    return {} if int(pandas.__version__.partition(".")[0]) >= 3 else {"float_precision": "round_trip"}


def frame_rate_of(tracks: Tracks) -> float | None:
    """Return the frames per second that the tracks know of, from their meta or their timestamps."""
    fps = tracks.meta.get("fps")
    if isinstance(fps, (int, float)) and np.isfinite(fps) and fps > 0:
        return float(fps)
    steps = np.diff(tracks.frame_indices)
    seconds = np.diff(tracks.timestamps)
    good = np.isfinite(seconds) & (seconds > 0) & (steps > 0)
    return float(steps[good].sum() / seconds[good].sum()) if good.any() else None


def seconds_of(tracks: Tracks) -> npt.NDArray[np.float64] | None:
    """Return the time of every frame, (T,) s; None where it is not known for all."""
    if np.isfinite(tracks.timestamps).all() and (np.diff(tracks.timestamps) > 0).all():
        return tracks.timestamps
    fps = frame_rate_of(tracks)
    return None if fps is None else tracks.frame_indices / fps


def check_grid(path: Path, n_frames: int, n_faces: int, given: int) -> None:
    """Refuse a file whose few faces would make a large grid of frames and faces.

    Parameters
    ----------
    path : Path
        For the sentence.
    n_frames, n_faces : int
        Of the grid.
    given : int
        How many faces on frames the file has, or rows from which they come.

    Raises
    ------
    ResultError
        If the grid would hold more than there can be, or next to nothing.
    """
    if n_faces > MOST_FACES or n_frames * n_faces > min(MOST_ROWS, MOST_EMPTY * (given + SMALL_GRID)):
        raise ResultError(
            f"{path} names {n_faces} faces on {n_frames} frames, more than can be held: split it."
        )


@dataclasses.dataclass(frozen=True)
class Dense:
    """Landmarks with a row for every frame of the video from its first to the last tracked one.

    Attributes
    ----------
    landmarks : ndarray, (N, F, 68, 2), float32
        Pixels, x then y; NaN where there is no face or the frame was not tracked.
    confidence : ndarray, (N, F, 68), float32
        0 to 1, NaN where there is no landmark.
    """

    landmarks: Floats
    confidence: Floats


def dense(tracks: Tracks, path: Path) -> Dense:
    """Return `tracks` with a row for every frame, as programs expect that count rows.

    Raises
    ------
    ResultError
        If the frames' numbers are no such numbers, or there would be too many rows.
    """
    rows = tracks.frame_indices
    n_frames = int(rows.max()) + 1 if len(rows) else 0
    if len(rows) and (int(rows.min()) < 0 or n_frames * max(1, tracks.n_faces) > MOST_ROWS):
        raise ResultError(
            f"{path} would have {n_frames} rows for {tracks.n_faces} faces, more than it can hold: "
            "save as .npz."
        )
    landmarks = np.full((n_frames, tracks.n_faces, N_LANDMARKS, 2), np.nan, dtype=np.float32)
    confidence = np.full((n_frames, tracks.n_faces, N_LANDMARKS), np.nan, dtype=np.float32)
    landmarks[rows] = tracks.landmarks
    confidence[rows] = np.where(np.isfinite(tracks.landmarks).all(axis=-1), tracks.confidence, np.nan)
    return Dense(landmarks, confidence)


def make_tracks(
    path: Path,
    landmarks: npt.NDArray[Any],
    confidence: npt.NDArray[Any] | None,
    frame_indices: npt.NDArray[Any] | None = None,
    timestamps: npt.NDArray[Any] | None = None,
    source: npt.NDArray[Any] | None = None,
    pose: npt.NDArray[Any] | None = None,
    boxes: npt.NDArray[Any] | None = None,
    record: dict[str, Any] | None = None,
    misfit: npt.NDArray[Any] | None = None,
    by_hand: npt.NDArray[Any] | None = None,
) -> Tracks:
    """Return tracks of what was read from a file, checked; what it does not have is filled in.

    Parameters
    ----------
    path : Path
        The file, for sentences.
    landmarks : ndarray, (T, F, 68, 2)
        Pixels, x then y; a landmark with a NaN is none.
    confidence : ndarray, (T, F, 68), optional
        0 to 1, NaN counts as 0; 1 where it is not given.
    frame_indices : ndarray, (T,), optional
        0, 1, 2 and so on where not given.
    timestamps : ndarray, (T,), optional
        Seconds; the frame over the rate of `record` where not given.
    source : ndarray, (T, F), optional
        Index into `SOURCES`; "pfld" where not given.
    pose, boxes : ndarray, optional
        As in `Tracks`; NaN, and the landmarks' box, where not given.
    record : dict, optional
        What `record_of` made: settings, stats, warnings, meta.
    misfit : ndarray, (T, F, 2), optional
        As in `Tracks`.
    by_hand : ndarray, (T, F, 68), optional
        As in `Tracks`, or as numbers that are not 0; only of landmarks that are there.

    Raises
    ------
    ResultError
        If the arrays do not fit together or hold what no landmarks are.
    """
    if landmarks.ndim != 4 or landmarks.shape[2:] != (N_LANDMARKS, 2):
        raise ResultError(
            f"{path} has landmarks of the shape {landmarks.shape}: give faces of {N_LANDMARKS} points."
        )
    n_frames, n_faces = landmarks.shape[:2]
    points = np.array(landmarks, dtype=np.float32)
    if np.isinf(points).any():
        raise ResultError(f"{path} has landmarks that are infinite: correct the file.")
    points[np.isnan(points).any(axis=-1)] = np.nan
    there = np.asarray(np.isfinite(points).all(axis=-1))
    sure = np.ones(there.shape, np.float32) if confidence is None else np.array(confidence, np.float32)
    sure = np.where(there & np.isfinite(sure), sure, np.float32(0))
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ResultError(f"{path} has confidences that are not between 0 and 1: correct the file.")
    present = there.any(axis=-1)
    codes = np.full(present.shape, UNKNOWN_SOURCE) if source is None else np.asarray(source)
    codes = np.where(present, codes, NONE)
    if codes.size and not ((codes >= 0) & (codes < len(SOURCES))).all():
        raise ResultError(f"{path} has a source that is none of {', '.join(SOURCES)}: correct the file.")
    frames = np.arange(n_frames) if frame_indices is None else np.asarray(frame_indices)
    if len(frames) and not (frames.min() >= 0 and frames.max() < MOST_FRAMES and (np.diff(frames) > 0).all()):
        raise ResultError(f"{path} has frames that are not numbered upwards from 0: correct the file.")
    record = record or {}
    meta = dict(record.get("meta", {}))
    seconds = np.full(n_frames, np.nan)
    if timestamps is not None:
        seconds = np.array(timestamps, dtype=np.float64)
    elif "fps" in meta and isinstance(meta["fps"], (int, float)) and meta["fps"] > 0:
        seconds = frames / float(meta["fps"])
    tracks = Tracks(
        landmarks=points,
        confidence=sure,
        source=codes.astype(np.uint8),
        pose=np.full((n_frames, n_faces, 6), np.nan, np.float32) if pose is None else np.asarray(pose, "f4"),
        boxes=boxes_of(points) if boxes is None else np.asarray(boxes, "f4"),
        frame_indices=frames.astype(np.int64),
        timestamps=seconds,
        misfit=np.zeros((0, 0, 2), np.float32) if misfit is None else np.asarray(misfit, "f4"),
        by_hand=np.zeros(there.shape, np.bool_) if by_hand is None else marks_by_hand(by_hand, there, path),
        **_checked_record(record, path),
    )
    _check_shapes(tracks, path)
    if not isinstance(meta.get("fps"), (int, float)):
        fps = frame_rate_of(tracks)
        if fps is not None:
            meta["fps"] = fps
    return dataclasses.replace(tracks, meta=meta)


def marks_by_hand(
    values: npt.NDArray[Any], there: npt.NDArray[np.bool_], path: Path
) -> npt.NDArray[np.bool_]:
    """Return which landmarks were placed by hand, (T, F, 68) bool, of what a file says.

    Raises
    ------
    ResultError
        If it is of another shape than the landmarks.
    """
    if values.shape != there.shape:
        raise ResultError(f"{path}: by_hand does not fit the landmarks: the file is damaged, save it again.")
    return np.asarray((np.nan_to_num(np.asarray(values, np.float32)) != 0) & there)


def _check_shapes(tracks: Tracks, path: Path) -> None:
    each = (tracks.n_frames, tracks.n_faces)
    wanted = {
        "confidence": (*each, N_LANDMARKS),
        "source": each,
        "pose": (*each, 6),
        "boxes": (*each, 5),
        "frame_indices": each[:1],
        "timestamps": each[:1],
    }
    for name, shape in wanted.items():
        if getattr(tracks, name).shape != shape:
            raise ResultError(
                f"{path}: {name} does not fit the landmarks: the file is damaged, save it again."
            )


def boxes_of(landmarks: Floats) -> Floats:
    """Return the box of each face, (T, F, 5) float32: x0, y0, x1, y1 and a score that is not known, NaN."""
    there = np.isfinite(landmarks)
    low = np.where(there, landmarks, np.inf).min(axis=2)
    high = np.where(there, landmarks, -np.inf).max(axis=2)
    boxes = np.concatenate([low, high, np.full((*low.shape[:2], 1), np.nan)], axis=-1)
    return np.where(np.isfinite(boxes), boxes, np.nan).astype(np.float32)


def record_of(tracks: Tracks) -> dict[str, Any]:
    """Return what is known of a run apart from its arrays, ready for JSON."""
    return {
        "settings": tracks.settings.to_dict(),
        "stats": tracks.stats.to_dict(),
        "warnings": list(tracks.warnings),
        "meta": dict(tracks.meta),
    }


def record_as_text(tracks: Tracks) -> str:
    """Return `record_of` as JSON."""
    return json.dumps(record_of(tracks))


def record_from_text(text: str | bytes, path: Path) -> dict[str, Any]:
    """Return what `record_as_text` wrote.

    Raises
    ------
    ResultError
        If it is no such text.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("meta", {}), dict):
        raise ResultError(f"{path}: the record of the run is damaged: save the file again.")
    return record


def _checked_record(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return settings, stats and warnings of a record."""
    try:
        stats = dict(record.get("stats", {}))
        stats.pop("fps", None)
        return {
            "settings": settings_from_dict(record.get("settings", {})),
            "stats": RunStats(**stats),
            "warnings": tuple(str(text) for text in record.get("warnings", ())),
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ResultError(f"{path}: the record of the run is damaged: save the file again.") from None
