"""Functions shared by the formats: names of landmarks and faces, metadata, checks, assembly of tracks."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import FIELD, FIELDS, NONE, PFLD, SOURCES, Field
from napari_face_landmarks.data.names import MODELS, NAMES, face_identifiers, names_in_files
from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.data.tracks import Tracks, frame_rate_of
from napari_face_landmarks.errors import ResultError, in_one_line, reason_of
from napari_face_landmarks.ibug import N_LANDMARKS, REGIONS
from napari_face_landmarks.settings import settings_from_dict
from napari_face_landmarks.tracking.frame_view import PIXEL_ASPECT

Floats = npt.NDArray[np.float32]

SOFTWARE = "napari-face-landmarks"
MAX_ROWS = 2_000_000
"""Maximum product of faces and frames that is read: a gigabyte of float32 landmarks."""
MAX_FACES = 1000
MAX_CELLS_PER_FACE = 64
"""Maximum size of the grid of frames and faces per face in the file: the most faces of a run."""
SMALL_GRID = 40_000
"""Grids of frames and faces up to this size are always allowed."""
MAX_FRAMES = 100_000_000
UNKNOWN_SOURCE = PFLD
"""Source of landmarks if a file does not store it."""

LANDMARK_NAMES = tuple(
    f"{region.replace(' ', '_')}_{index:02d}" for region, indices in REGIONS.items() for index in indices
)
"""Names of the landmarks from region and index, such as ``right_eye_36``."""


def joined(names: Iterable[object]) -> str:
    """Join names from a file for a message: one line, at most 200 characters."""
    return " ".join(", ".join(map(str, names)).split())[:200]


def add_names(record: dict[str, Any] | None, names: Sequence[str]) -> dict[str, Any]:
    """Return a record (`record_to_json`) with the names of the faces in a file, in order.

    The record is unchanged if the names are those that its own names get in files.
    """
    record = record or {}
    meta = record.get("meta", {})
    own, new = names_in_files(meta.get(NAMES), len(names)), names_in_files(list(names), len(names))
    return record if new == own else {**record, "meta": {**meta, NAMES: new}}


META_COLUMNS = (PIXEL_ASPECT, MODELS)
"""Entries of `Tracks.meta` that measures need; tables have columns of the same names."""
_SCORER = re.compile(rf"{SOFTWARE}(?:_([^@]*))?(?:@([0-9.]{{1,20}}))?")
_MODELS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def meta_columns(tracks: Tracks) -> dict[str, Any]:
    """Return the values of `META_COLUMNS` that are known for the tracks."""
    meta = {MODELS: "", **tracks.meta}
    known = PIXEL_ASPECT in meta, _MODELS_NAME.fullmatch(str(meta[MODELS]))
    return {name: meta[name] for name, is_known in zip(META_COLUMNS, known, strict=True) if is_known}


def scorer_name(tracks: Tracks) -> str:
    """Return the name of this program and the models, and the aspect of non-square pixels, as one string.

    For formats without metadata: ``napari-face-landmarks_open``, ``napari-face-landmarks_open@1.25``.
    """
    known = meta_columns(tracks)
    aspect = f"@{known[PIXEL_ASPECT]}" if PIXEL_ASPECT in known else ""
    return f"{SOFTWARE}_{known.get(MODELS, '')}".removesuffix("_") + aspect


def parse_scorer(scorer: str) -> dict[str, Any]:
    """Parse the string of `scorer_name` into columns for `add_meta`."""
    match = _SCORER.fullmatch(scorer)
    return {} if match is None else {MODELS: [match[1] or ""], PIXEL_ASPECT: [match[2] or 0]}


def add_meta(record: dict[str, Any] | None, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with the first values of the `META_COLUMNS` of a table, if they are valid."""
    record = record or {}
    values = {name: columns[name][0] for name in META_COLUMNS if name in columns}
    valid: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        if 0.01 < (aspect := float(values.get(PIXEL_ASPECT, 0))) < 100:
            valid[PIXEL_ASPECT] = aspect
    if isinstance(name := values.get(MODELS), str) and _MODELS_NAME.fullmatch(name):
        valid[MODELS] = str(name)
    return {**record, "meta": {**record.get("meta", {}), **valid}}


def face_order(names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the face index of each name: the number in names from `face_identifiers`, else the position."""
    if sorted(names) == sorted(face_identifiers(len(names))):
        return order_by_number(names)
    return np.arange(len(names))


def order_by_number(names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the numbers that names end in, counted from 0, if they are consecutive; else the positions."""
    numbers = [int(match.group(1)) if (match := re.search(r"(\d{1,6})$", name)) else -1 for name in names]
    for first in (0, 1):
        if sorted(numbers) == list(range(first, len(names) + first)):
            return np.array(numbers, dtype=np.int64) - first
    return np.arange(len(names))


BOMS_UTF16 = (BOM_UTF16_LE, BOM_UTF16_BE)


def text_encoding(path: str | os.PathLike[str]) -> str:
    """Return the encoding of a text file: UTF-16 if it has the byte order mark (Excel), else UTF-8."""
    with open(path, "rb") as stream:
        return "utf-16" if stream.read(2) in BOMS_UTF16 else "utf-8-sig"


def exact_decimals() -> dict[str, str]:
    """Return the options for `pandas.read_csv` to parse decimals exactly; none from pandas 3 on."""
    import pandas

    return {} if int(pandas.__version__.partition(".")[0]) >= 3 else {"float_precision": "round_trip"}


def first_bytes(path: Path, count: int) -> bytes:
    """Return the first bytes of a text file in UTF-8, without byte order mark; none if it is unreadable."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(2 * count + len(BOM_UTF8) + 1)
        if start[:2] in BOMS_UTF16:
            start = start[: 2 * count + 2].decode("utf-16", "replace").encode()
        return start.removeprefix(BOM_UTF8)[:count]
    except OSError:
        return b""


def count_faces(
    path: Path, t: npt.NDArray[Any], face: npt.NDArray[Any], what: str = "face", rows: str = "rows"
) -> int:
    """Return the number of faces in rows with the indices of a frame `t` (N,) and a face (N,).

    Raises an error if a face is on a frame more than once, or the grid is too large (`check_grid`).
    """
    n_faces = int(face.max(initial=-1)) + 1
    check_grid(path, int(t.max(initial=-1)) + 1, n_faces, len(face))
    if len(np.unique(t * n_faces + face)) < len(face):
        raise ResultError(
            f"{path} has the same {what} more than once on a frame: remove the repeated {rows}."
        )
    return n_faces


@contextmanager
def reading_table(path: Path, what: str, max_bytes: int) -> Iterator[None]:
    """Convert errors while a file is read to a `ResultError`, also if it has more than `max_bytes`."""
    try:
        if path.stat().st_size > max_bytes:
            raise ResultError(f"{path} is larger than the limit of {max_bytes} bytes: split it.")
        yield
    except ResultError:
        raise
    except OSError as error:
        reason = reason_of(error)
        raise ResultError(f"{path} cannot be read ({reason}): check the name of the file.") from None
    except (ValueError, TypeError, ArithmeticError, LookupError, csv.Error, MemoryError) as error:
        raise ResultError(f"{path} is not {what} ({in_one_line(error)}): correct it.") from None


def check_grid(path: Path, n_frames: int, n_faces: int, n_present: int) -> None:
    """Raise an error if the grid of frames and faces is too large for `n_present` faces in the file."""
    limit = min(MAX_ROWS, max(MAX_CELLS_PER_FACE * n_present, SMALL_GRID))
    if n_faces > MAX_FACES or n_frames * n_faces > limit:
        raise ResultError(
            f"{path} names {n_faces} faces on {n_frames} frames, more than can be read: split it."
        )


def dense_arrays(tracks: Tracks, path: Path) -> tuple[Floats, Floats]:
    """Return landmarks (N, F, 68, 2) and confidence (N, F, 68) with a row for every frame of the video.

    For programs that count rows. The rows run from frame 0 to the last tracked one; missing landmarks are
    NaN.
    """
    rows = tracks.frame_indices
    n_frames = int(rows.max()) + 1 if len(rows) else 0
    if len(rows) and (int(rows.min()) < 0 or n_frames * max(1, tracks.n_faces) > MAX_ROWS):
        raise ResultError(
            f"{path} would have {n_frames} rows for {tracks.n_faces} faces, more than can be "
            "written: save as .npz."
        )
    landmarks = np.full((n_frames, tracks.n_faces, N_LANDMARKS, 2), np.nan, dtype=np.float32)
    confidence = np.full((n_frames, tracks.n_faces, N_LANDMARKS), np.nan, dtype=np.float32)
    landmarks[rows] = tracks.landmarks
    confidence[rows] = np.where(np.isfinite(tracks.landmarks).all(axis=-1), tracks.confidence, np.nan)
    return landmarks, confidence


def make_tracks(
    path: Path,
    arrays: Mapping[str, npt.NDArray[Any] | None],
    frame_indices: npt.NDArray[Any] | None = None,
    timestamps: npt.NDArray[Any] | None = None,
    record: dict[str, Any] | None = None,
) -> Tracks:
    """Assemble tracks from arrays read from the file `path`: check them, and fill in missing ones.

    `arrays` are face arrays (T, F, ...) of any numeric type by their names in `FIELDS`; ``landmarks`` is
    required. Landmarks with a NaN are missing. Defaults: confidence 1, source `UNKNOWN_SOURCE`, boxes around
    the landmarks, otherwise the fill values of `FIELDS`; `frame_indices` (T,) 0, 1, 2, ...; `timestamps` (T,)
    in seconds from the frame rate of `record` (see `record_to_json`). Raises a `ResultError` if shapes are
    inconsistent or values out of range.
    """
    points = _checked_landmarks(arrays["landmarks"], path)
    present = np.asarray(np.isfinite(points).all(axis=-1))
    checked = {
        "landmarks": points,
        "confidence": _checked_confidence(arrays.get("confidence"), present, path),
        "source": _checked_source(arrays.get("source"), np.asarray(present.any(axis=-1)), path),
    }
    for item in FIELDS:
        if item.name not in checked:
            checked[item.name] = _checked_field(arrays.get(item.name), item, present, path)
    if arrays.get("boxes") is None:
        checked["boxes"] = boxes_of(points)
    frames = np.arange(len(points)) if frame_indices is None else np.asarray(frame_indices)
    if len(frames) and not (frames.min() >= 0 and frames.max() < MAX_FRAMES and (np.diff(frames) > 0).all()):
        raise ResultError(f"{path} has frame numbers that are negative or do not increase: correct the file.")
    record = record or {}
    meta = dict(record.get("meta", {}))
    seconds = np.full(len(points), np.nan)
    if timestamps is not None:
        seconds = np.array(timestamps, dtype=np.float64)
    elif isinstance(meta.get("fps"), (int, float)) and meta["fps"] > 0:
        seconds = frames / float(meta["fps"])
    if frames.shape != points.shape[:1] or seconds.shape != points.shape[:1]:
        raise _shape_error("frame_indices" if frames.shape != points.shape[:1] else "timestamps", path)
    tracks = Tracks(
        **dict[str, Any](checked),
        frame_indices=frames.astype(np.int64),
        timestamps=seconds,
        **checked_record(record, path),
    )
    if not isinstance(meta.get("fps"), (int, float)):
        fps = frame_rate_of(tracks)
        if fps is not None:
            meta["fps"] = fps
    return dataclasses.replace(tracks, meta=meta)


def _checked_landmarks(values: npt.NDArray[Any] | None, path: Path) -> Floats:
    shape = () if values is None else values.shape
    if len(shape) != 4 or shape[2:] != FIELD["landmarks"].shape:
        raise ResultError(
            f"{path} has landmarks of the shape {shape}: give faces of {N_LANDMARKS} landmarks."
        )
    points = np.array(values, dtype=np.float32)
    if np.isinf(points).any():
        raise ResultError(f"{path} has landmarks that are infinite: correct the file.")
    points[np.isnan(points).any(axis=-1)] = np.nan
    return points


def _checked_confidence(
    values: npt.NDArray[Any] | None, present: npt.NDArray[np.bool_], path: Path
) -> Floats:
    """Return the confidence of each landmark, 1 by default, 0 for missing landmarks or values."""
    if values is not None and values.shape != present.shape:
        raise _shape_error("confidence", path)
    confidence = np.ones(present.shape, np.float32) if values is None else np.array(values, np.float32)
    confidence = np.where(present & np.isfinite(confidence), confidence, np.float32(0))
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ResultError(f"{path} has confidences that are not between 0 and 1: correct the file.")
    return confidence


def _checked_source(
    values: npt.NDArray[Any] | None, present: npt.NDArray[np.bool_], path: Path
) -> npt.NDArray[np.uint8]:
    """Return the sources, `UNKNOWN_SOURCE` by default, `NONE` for absent faces."""
    if values is not None and values.shape != present.shape:
        raise _shape_error("source", path)
    codes = np.where(present, UNKNOWN_SOURCE if values is None else values, NONE)
    if not np.isin(codes, np.arange(len(SOURCES))).all():
        raise ResultError(f"{path} has a source other than {', '.join(SOURCES)}: correct the file.")
    return codes.astype(np.uint8)


def _checked_field(
    values: npt.NDArray[Any] | None, item: Field, present: npt.NDArray[np.bool_], path: Path
) -> npt.NDArray[Any]:
    """Return an array with the data type of its field; flags of missing landmarks are False."""
    leading = present.shape[:2]
    if values is None:
        return item.empty(*leading)
    if values.shape != (*leading, *item.shape):
        raise _shape_error(item.name, path)
    if np.dtype(item.dtype).kind != "b":
        return np.asarray(values, item.dtype)
    flags = np.nan_to_num(np.asarray(values, np.float32)) != 0
    return np.asarray(flags & present if item.per_landmark else flags)


def _shape_error(name: str, path: Path) -> ResultError:
    return ResultError(f"{path}: {name} does not fit the landmarks: the file is damaged, save it again.")


def boxes_of(landmarks: Floats) -> Floats:
    """Return the bounding box of each face's landmarks, (T, F, 5) float32; the score is NaN."""
    finite = np.isfinite(landmarks)
    low = np.where(finite, landmarks, np.inf).min(axis=2)
    high = np.where(finite, landmarks, -np.inf).max(axis=2)
    boxes = np.concatenate([low, high, np.full((*low.shape[:2], 1), np.nan)], axis=-1)
    return np.where(np.isfinite(boxes), boxes, np.nan).astype(np.float32)


def record_to_json(tracks: Tracks) -> str:
    """Return settings, statistics, warnings and metadata of tracks, their "record", as JSON."""
    record = {
        "settings": tracks.settings.to_dict(),
        "stats": tracks.stats.to_dict(),
        "warnings": list(tracks.warnings),
        "meta": dict(tracks.meta),
    }
    return json.dumps(record)


def record_from_json(text: str | bytes, path: Path) -> dict[str, Any]:
    """Parse a record written by `record_to_json`."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("meta", {}), dict):
        raise ResultError(f"{path}: the record of the run is damaged: save the file again.")
    return record


def checked_record(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return settings, statistics and warnings of a record as arguments of `Tracks`."""
    try:
        stats = dict(record.get("stats", {}))
        stats.pop("fps", None)
        return {
            # earlier versions ran PFLD on every frame
            "settings": settings_from_dict({"pfld_every": 1, **record.get("settings", {})}),
            "stats": RunStats(**stats),
            "warnings": tuple(str(text) for text in record.get("warnings", ())),
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ResultError(f"{path}: the record of the run is damaged: save the file again.") from None
