"""Common functions of the formats: names of landmarks, a row for every frame, and checked tracks."""

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
MOST_ROWS = 2_000_000
"""Faces times frames that are read; as float32 landmarks a gigabyte."""
MOST_FACES = 1000
MOST_EMPTY = 64
"""Cells of the grid of frames and faces that may be empty for each that is not: the most faces of a run."""
SMALL_GRID = 40_000
"""Cells of a grid that is always allowed."""
MOST_FRAMES = 100_000_000
UNKNOWN_SOURCE = PFLD
"""The source of landmarks whose file has none."""

LANDMARK_NAMES = tuple(
    f"{region.replace(' ', '_')}_{index:02d}" for region, indices in REGIONS.items() for index in indices
)
"""A name for each landmark: its region and its index, such as ``right_eye_36``."""


def listed(names: Iterable[object]) -> str:
    """Return names from a file for a sentence: one line, at most 200 characters."""
    return " ".join(", ".join(map(str, names)).split())[:200]


def with_names(record: dict[str, Any] | None, names: Sequence[str]) -> dict[str, Any]:
    """Return the record of a run (`record_of`) with the names that a file has for its faces, in their order.

    The record's names are kept where they are written as the file's names; those of `face_identifiers` are
    dropped.
    """
    record = record or {}
    meta = record.get("meta", {})
    known, found = names_in_files(meta.get(NAMES), len(names)), names_in_files(list(names), len(names))
    if found == known:
        return record
    return {**record, "meta": {**meta, NAMES: found}}


META_COLUMNS = (PIXEL_ASPECT, MODELS)
"""What tables have a column for, as measures need it: it is in `Tracks.meta` under the same name."""
_SCORER = re.compile(rf"{SOFTWARE}(?:_([^@]*))?(?:@([0-9.]{{1,20}}))?")
_NAME_OF_MODELS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def meta_columns(tracks: Tracks) -> dict[str, Any]:
    """Return the values of the `META_COLUMNS` that a table of tracks has."""
    meta = {MODELS: "", **tracks.meta}
    known = PIXEL_ASPECT in meta, _NAME_OF_MODELS.fullmatch(str(meta[MODELS]))
    return {name: meta[name] for name, good in zip(META_COLUMNS, known, strict=True) if good}


def scorer_of(tracks: Tracks) -> str:
    """Return this program's name with the models, and the aspect of pixels that are not square.

    For formats with a free text only: ``napari-face-landmarks_open``, ``napari-face-landmarks_open@1.25``.
    """
    known = meta_columns(tracks)
    aspect = f"@{known[PIXEL_ASPECT]}" if PIXEL_ASPECT in known else ""
    return f"{SOFTWARE}_{known.get(MODELS, '')}".removesuffix("_") + aspect


def meta_of(scorer: str) -> dict[str, Any]:
    """Return what `scorer_of` names, as columns for `with_meta`."""
    found = _SCORER.fullmatch(scorer)
    return {} if found is None else {MODELS: [found[1] or ""], PIXEL_ASPECT: [found[2] or 0]}


def with_meta(record: dict[str, Any] | None, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a run with the first values of the `META_COLUMNS` in a table, if they can be."""
    record = record or {}
    found = {name: columns[name][0] for name in META_COLUMNS if name in columns}
    known: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        if 0.01 < (aspect := float(found.get(PIXEL_ASPECT, 0))) < 100:
            known[PIXEL_ASPECT] = aspect
    if isinstance(name := found.get(MODELS), str) and _NAME_OF_MODELS.fullmatch(name):
        known[MODELS] = str(name)
    return {**record, "meta": {**record.get("meta", {}), **known}}


def order_of_faces(names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return which face each name is: by its number where they are `face_identifiers`, else in order."""
    if sorted(names) == sorted(face_identifiers(len(names))):
        return order_by_number(names)
    return np.arange(len(names))


def order_by_number(names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the numbers at the end of names, from 0, if 0 to N - 1 or 1 to N, else their positions."""
    numbers = [int(found.group(1)) if (found := re.search(r"(\d{1,6})$", name)) else -1 for name in names]
    for first in (0, 1):
        if sorted(numbers) == list(range(first, len(names) + first)):
            return np.array(numbers, dtype=np.int64) - first
    return np.arange(len(names))


BOMS_UTF16 = (BOM_UTF16_LE, BOM_UTF16_BE)


def encoding_of(path: str | os.PathLike[str]) -> str:
    """Return the encoding of a text file: UTF-16 where it begins with its mark, as Excel's, else UTF-8."""
    with open(path, "rb") as stream:
        return "utf-16" if stream.read(2) in BOMS_UTF16 else "utf-8-sig"


def exact_numbers() -> dict[str, str]:
    """Return the options with which pandas reads decimals exactly: none from pandas 3 on."""
    import pandas

    return {} if int(pandas.__version__.partition(".")[0]) >= 3 else {"float_precision": "round_trip"}


def beginning(path: Path, count: int) -> bytes:
    """Return the first bytes of a file, of UTF-16 as UTF-8, after its byte order mark; none if unreadable."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(2 * count + len(BOM_UTF8) + 1)
        if start[:2] in BOMS_UTF16:
            start = start[: 2 * count + 2].decode("utf-16", "replace").encode()
        return start.removeprefix(BOM_UTF8)[:count]
    except OSError:
        return b""


def check_faces(
    path: Path, t: npt.NDArray[Any], face: npt.NDArray[Any], what: str = "face", rows: str = "rows"
) -> int:
    """Return how many faces there are in rows of a face (N,) on a frame each, the `t`-th (N,).

    A large grid (`check_grid`) is refused, and a face that is on a frame more than once.
    """
    n_faces = int(face.max(initial=-1)) + 1
    check_grid(path, int(t.max(initial=-1)) + 1, n_faces, len(face))
    if len(np.unique(t * n_faces + face)) < len(face):
        raise ResultError(
            f"{path} has the same {what} more than once on a frame: remove the repeated {rows}."
        )
    return n_faces


@contextmanager
def reading_table(path: Path, what: str, largest: int) -> Iterator[None]:
    """Refuse a file of more than `largest` bytes; errors while it is read become a `ResultError`."""
    try:
        if path.stat().st_size > largest:
            raise ResultError(f"{path} is larger than {largest} bytes, the most that is read: split it.")
        yield
    except ResultError:
        raise
    except OSError as error:
        reason = reason_of(error)
        raise ResultError(f"{path} cannot be read ({reason}): check the name of the file.") from None
    except (ValueError, TypeError, ArithmeticError, LookupError, csv.Error, MemoryError) as error:
        raise ResultError(f"{path} is not {what} ({in_one_line(error)}): correct it.") from None


def check_grid(path: Path, n_frames: int, n_faces: int, given: int) -> None:
    """Refuse a file whose `given` faces would need a large grid of frames, or rows, and faces."""
    if n_faces > MOST_FACES or n_frames * n_faces > min(MOST_ROWS, max(MOST_EMPTY * given, SMALL_GRID)):
        raise ResultError(
            f"{path} names {n_faces} faces on {n_frames} frames, more than can be read: split it."
        )


def dense(tracks: Tracks, path: Path) -> tuple[Floats, Floats]:
    """Return landmarks (N, F, 68, 2) and confidence (N, F, 68) with a row for every frame of the video.

    For programs that count rows: from the video's first frame to the last tracked one. NaN where there is no
    landmark.
    """
    rows = tracks.frame_indices
    n_frames = int(rows.max()) + 1 if len(rows) else 0
    if len(rows) and (int(rows.min()) < 0 or n_frames * max(1, tracks.n_faces) > MOST_ROWS):
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
    """Return checked tracks of what was read from the file `path`; what it does not have is filled in.

    `arrays` are arrays of faces (T, F, ...) of any numeric type by their names in `FIELDS`; ``landmarks`` is
    required. A landmark with a NaN is missing. The default confidence is 1, the source `UNKNOWN_SOURCE`, the
    boxes those of the landmarks; other arrays get the fill values of `FIELDS`. `frame_indices`, (T,), are 0,
    1, 2, ... by default, `timestamps`, (T,) s, by the frame rate of `record` (see `record_of`). Raises a
    `ResultError` if the arrays do not fit together or have values out of range.
    """
    points = _checked_landmarks(arrays["landmarks"], path)
    there = np.asarray(np.isfinite(points).all(axis=-1))
    whole = {
        "landmarks": points,
        "confidence": _checked_confidence(arrays.get("confidence"), there, path),
        "source": _checked_source(arrays.get("source"), np.asarray(there.any(axis=-1)), path),
    }
    for item in FIELDS:
        if item.name not in whole:
            whole[item.name] = _as_field(arrays.get(item.name), item, there, path)
    if arrays.get("boxes") is None:
        whole["boxes"] = boxes_of(points)
    frames = np.arange(len(points)) if frame_indices is None else np.asarray(frame_indices)
    if len(frames) and not (frames.min() >= 0 and frames.max() < MOST_FRAMES and (np.diff(frames) > 0).all()):
        raise ResultError(f"{path} has frames that are not numbered upwards from 0: correct the file.")
    record = record or {}
    meta = dict(record.get("meta", {}))
    seconds = np.full(len(points), np.nan)
    if timestamps is not None:
        seconds = np.array(timestamps, dtype=np.float64)
    elif isinstance(meta.get("fps"), (int, float)) and meta["fps"] > 0:
        seconds = frames / float(meta["fps"])
    if frames.shape != points.shape[:1] or seconds.shape != points.shape[:1]:
        raise _does_not_fit("frame_indices" if frames.shape != points.shape[:1] else "timestamps", path)
    tracks = Tracks(
        **dict[str, Any](whole),
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


def _checked_confidence(values: npt.NDArray[Any] | None, there: npt.NDArray[np.bool_], path: Path) -> Floats:
    """Return the confidences, with 0 where there is no landmark or no number."""
    if values is not None and values.shape != there.shape:
        raise _does_not_fit("confidence", path)
    given = np.ones(there.shape, np.float32) if values is None else np.array(values, np.float32)
    confidence = np.where(there & np.isfinite(given), given, np.float32(0))
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ResultError(f"{path} has confidences that are not between 0 and 1: correct the file.")
    return confidence


def _checked_source(
    values: npt.NDArray[Any] | None, present: npt.NDArray[np.bool_], path: Path
) -> npt.NDArray[np.uint8]:
    """Return the sources, with `NONE` where there is no face."""
    if values is not None and values.shape != present.shape:
        raise _does_not_fit("source", path)
    codes = np.where(present, UNKNOWN_SOURCE if values is None else values, NONE)
    if not np.isin(codes, np.arange(len(SOURCES))).all():
        raise ResultError(f"{path} has a source that is none of {', '.join(SOURCES)}: correct the file.")
    return codes.astype(np.uint8)


def _as_field(
    values: npt.NDArray[Any] | None, item: Field, there: npt.NDArray[np.bool_], path: Path
) -> npt.NDArray[Any]:
    """Return an array in the type of its field; marks of landmarks only where there is one."""
    leading = there.shape[:2]
    if values is None:
        return item.empty(*leading)
    if values.shape != (*leading, *item.shape):
        raise _does_not_fit(item.name, path)
    if np.dtype(item.dtype).kind != "b":
        return np.asarray(values, item.dtype)
    marks = np.nan_to_num(np.asarray(values, np.float32)) != 0
    return np.asarray(marks & there if item.per_landmark else marks)


def _does_not_fit(name: str, path: Path) -> ResultError:
    return ResultError(f"{path}: {name} does not fit the landmarks: the file is damaged, save it again.")


def boxes_of(landmarks: Floats) -> Floats:
    """Return the bounding box of each face's landmarks, (T, F, 5) float32; the score is NaN."""
    there = np.isfinite(landmarks)
    low = np.where(there, landmarks, np.inf).min(axis=2)
    high = np.where(there, landmarks, -np.inf).max(axis=2)
    boxes = np.concatenate([low, high, np.full((*low.shape[:2], 1), np.nan)], axis=-1)
    return np.where(np.isfinite(boxes), boxes, np.nan).astype(np.float32)


def record_of(tracks: Tracks) -> dict[str, Any]:
    """Return everything but the arrays of tracks, for JSON."""
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
    """Return the record that `record_as_text` wrote."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("meta", {}), dict):
        raise ResultError(f"{path}: the record of the run is damaged: save the file again.")
    return record


def checked_record(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return settings, stats and warnings of a record."""
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
