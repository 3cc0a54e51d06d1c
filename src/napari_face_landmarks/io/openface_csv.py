"""Landmarks as a table in OpenFace's column convention: written so that nothing is lost, and read back.

The columns, in the order of OpenFace 2 (Baltrusaitis et al. 2018, "OpenFace 2.0"):

- ``frame`` (from 1), ``face_id`` (from 0), ``timestamp`` (s), ``confidence`` (mean of the landmarks', 0 to
  1), ``success`` (1: there is a face);
- ``pose_Tx, pose_Ty, pose_Tz`` (mm from the camera; only where the size of the picture is known),
  ``pose_Rx, pose_Ry, pose_Rz`` (rad; R = Rx Ry Rz);
- ``x_0 .. x_67, y_0 .. y_67`` (px, pixel centres at whole numbers, from 0);
- ``p_scale, p_rx, p_ry, p_rz, p_tx, p_ty``, the weak-perspective pose (px per mm, rad, px).

Columns that OpenFace does not have follow: ``source``, ``c_0 .. c_67`` (confidence of each landmark),
``box_x0, box_y0, box_x1, box_y1, box_score`` and ``misfit_by_clnf, misfit_off_model`` (see `Tracks.misfit`);
where landmarks were placed by hand, ``by_hand`` lists them ("36 45").
As OpenFace does for one face, a frame without a face has one row with ``success`` 0; its numbers are 0.
Reading makes such rows NaN again.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import SOURCES
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ResultError, reason_of
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.io.common import MOST_FACES, MOST_ROWS, check_grid, frame_rate_of

if TYPE_CHECKING:
    import pandas

FRAME_COLUMNS = ("frame", "face_id", "timestamp", "confidence", "success")
TRANSLATION_COLUMNS = ("pose_Tx", "pose_Ty", "pose_Tz")
ROTATION_COLUMNS = ("pose_Rx", "pose_Ry", "pose_Rz")
LANDMARK_COLUMNS = tuple(f"{axis}_{i}" for axis in "xy" for i in range(N_LANDMARKS))
RIGID_COLUMNS = ("p_scale", "p_rx", "p_ry", "p_rz", "p_tx", "p_ty")
CONFIDENCE_COLUMNS = tuple(f"c_{i}" for i in range(N_LANDMARKS))
BOX_COLUMNS = ("box_x0", "box_y0", "box_x1", "box_y1", "box_score")
MISFIT_COLUMNS = ("misfit_by_clnf", "misfit_off_model")
BY_HAND_COLUMN = "by_hand"

_LANDMARK = re.compile("[0-9]{1,2}")
LARGEST_LINE = 1 << 20  # characters; OpenFace's own are 8000
ROWS_AT_A_TIME = 4096


def write_csv(path: str | os.PathLike[str], tracks: Tracks) -> None:
    """Write landmarks in OpenFace's column convention (see the module).

    The file appears whole or not at all, and `read_csv` gives back the same landmarks, confidences, sources,
    poses and boxes bit for bit.

    Parameters
    ----------
    path : path-like
        The file to write or replace.
    tracks : Tracks
        Landmarks (T, F, 68, 2).

    Raises
    ------
    ResultError
        If the file cannot be written.
    """
    with replacing(path) as temporary, open(temporary, "w", encoding="ascii", newline="") as stream:
        frames_at_a_time = max(1, ROWS_AT_A_TIME // max(1, tracks.landmarks.shape[1]))
        stream.write(",".join(name for name, _ in _columns(tracks, slice(0, 0), 0)) + "\n")
        for start in range(0, len(tracks.landmarks), frames_at_a_time):
            columns = _columns(tracks, slice(start, start + frames_at_a_time), missing=0)
            stream.writelines(",".join(row) + "\n" for row in zip(*map(_as_text, columns), strict=True))


def to_dataframe(tracks: Tracks) -> pandas.DataFrame:
    """Return the landmarks as a table with the columns of the CSV file (see the module).

    Parameters
    ----------
    tracks : Tracks
        Landmarks (T, F, 68, 2).

    Returns
    -------
    pandas.DataFrame
        One row per frame and face, and one for each frame without a face, where ``success`` is 0 and what is
        not known is NaN (where the file has 0).
    """
    import pandas as pd

    return pd.DataFrame(dict(_columns(tracks, slice(None), missing=np.nan)))


def _columns(tracks: Tracks, part: slice, missing: float) -> list[tuple[str, npt.NDArray[Any]]]:
    """Return the table's columns, name and values, for some frames; `missing` stands where no face is."""
    present = np.asarray(np.isfinite(tracks.landmarks[part]).any(axis=(2, 3)))
    shown = present.copy()
    if shown.shape[1]:
        shown[:, 0] |= ~present.any(axis=1)
    t, f = np.nonzero(shown)
    success = present[t, f]

    def known(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        rows = values[part][t, f].reshape(len(t), int(np.prod(values.shape[2:])))
        return np.where(success[:, np.newaxis], rows, np.float32(missing))

    pose, confidence = known(tracks.pose), known(tracks.confidence)
    xy = known(tracks.landmarks)
    columns: list[tuple[str, npt.NDArray[Any]]] = [
        ("frame", tracks.frame_indices[part][t] + 1),
        ("face_id", f),
        ("timestamp", tracks.timestamps[part][t]),
        ("confidence", np.nan_to_num(confidence.mean(axis=1))),
        ("success", success.astype(np.int64)),
    ]
    size = _image_size(tracks)
    if size is not None:
        place = np.where(success[:, np.newaxis], _translation_mm(pose, size), missing).astype(np.float32)
        columns += zip(TRANSLATION_COLUMNS, place.T, strict=True)
    columns += zip(ROTATION_COLUMNS, pose[:, 1:4].T, strict=True)
    columns += zip(LANDMARK_COLUMNS, [*xy[:, 0::2].T, *xy[:, 1::2].T], strict=True)
    columns += zip(RIGID_COLUMNS, pose.T, strict=True)
    columns.append(("source", np.array(SOURCES)[np.where(success, tracks.source[part][t, f], 0)]))
    columns += zip(CONFIDENCE_COLUMNS, confidence.T, strict=True)
    columns += zip(BOX_COLUMNS, known(tracks.boxes).T, strict=True)
    columns += zip(MISFIT_COLUMNS, known(tracks.misfit).T, strict=True)
    if tracks.by_hand.any():
        columns.append((BY_HAND_COLUMN, _lists_of(tracks.by_hand[part][t, f])))
    return columns


def _lists_of(marks: npt.NDArray[np.bool_]) -> npt.NDArray[np.str_]:
    """Return the indices of the landmarks that are marked in each row, (rows,): "36 45", empty for none."""
    return np.array([" ".join(map(str, np.flatnonzero(row))) for row in marks], dtype=np.str_)


def _as_text(column: tuple[str, npt.NDArray[Any]]) -> list[str]:
    """Return the values as the shortest decimals that give the same float32 or float64 again."""
    return [str(text) for text in column[1].astype(str).tolist()]


def _image_size(tracks: Tracks) -> tuple[int, int] | None:
    height, width = tracks.meta.get("height"), tracks.meta.get("width")
    return None if height is None or width is None else (int(height), int(width))


def _translation_mm(pose: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return where the head is from the camera, (N, 3) mm, x right, y down, z away.

    The camera is the one that OpenFace assumes where none is given: a focal length of 500 px at 640 x 480,
    its axis through the middle of the picture. Weak perspective puts the head at z = focal length / scale.
    """
    height, width = size
    focal = (500 * width / 640 + 500 * height / 480) / 2
    pose = pose.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = focal / pose[:, 0]
        x = (pose[:, 4] - width / 2) * z / focal
        y = (pose[:, 5] - height / 2) * z / focal
    return np.stack([x, y, z], axis=1)


def read_csv(path: str | os.PathLike[str]) -> Tracks:
    """Read landmarks from a table in OpenFace's column convention, OpenFace's own files included.

    Names of columns may have spaces before them (OpenFace before 2.1). Other columns than the module's are
    passed over. Rows with ``success`` 0 become NaN. Where a file has no confidence for each landmark, each
    gets that of its face; where it has no ``source``, its landmarks count as "clnf".

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    Tracks
        One frame for each frame number of the file, in their order.

    Raises
    ------
    ResultError
        If the file is missing, has no such columns, a row that is incomplete or out of range, the same face
        twice on a frame, or more rows than can be held.
    """
    target = Path(path)
    parts: list[dict[str, npt.NDArray[Any]]] = []
    n_rows = 0
    try:
        with open(target, encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(_lines(stream, target))
            places = _checked_header(next(lines, []), target)
            while rows := list(itertools.islice(lines, ROWS_AT_A_TIME)):
                parts.append(_Part(rows, places, target, first_line=n_rows + 2).read())
                n_rows += len(rows)
                if n_rows > MOST_ROWS:
                    raise ResultError(f"{target} has more than {MOST_ROWS} rows: split it.")
    except (csv.Error, UnicodeDecodeError) as error:
        raise ResultError(f"{target} is not a table of text ({error}): give a CSV file.") from error
    except OSError as error:
        reason = reason_of(error)
        raise ResultError(f"{target} cannot be read ({reason}): check the name of the file.") from error
    if n_rows == 0:
        raise ResultError(f"{target} has no rows: track the video again.")
    return _assemble({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, target)


def _lines(stream: TextIO, path: Path) -> Iterator[str]:
    while line := stream.readline(LARGEST_LINE):
        if len(line) == LARGEST_LINE or "\0" in line:
            raise ResultError(f"{path} is not a table of text: give a CSV file in OpenFace's columns.")
        yield line


def _checked_header(names: list[str], path: Path) -> dict[str, int]:
    """Return the place of each column."""
    places = {name.strip(): place for place, name in enumerate(names)}
    missing = [name for name in ("frame", "timestamp", *LANDMARK_COLUMNS) if name not in places]
    if missing:
        raise ResultError(
            f"{path} has no column {missing[0]!r}: give a CSV file of a video in OpenFace's columns "
            "(frame, timestamp, x_0 .. x_67, y_0 .. y_67)."
        )
    return places


@dataclass(frozen=True)
class _Part:
    """Some rows of the table, and where they are in the file."""

    rows: list[list[str]]
    places: Mapping[str, int]
    path: Path
    first_line: int

    def read(self) -> dict[str, npt.NDArray[Any]]:
        """Return arrays of one row per face and frame, checked."""
        n, last = len(self.rows), max(self.places.values())
        short = np.array([len(row) <= last for row in self.rows])
        self.refuse(short, "too few values")
        part: dict[str, npt.NDArray[Any]] = {
            "frame": self.whole_numbers("frame", None, 1, 2**53),
            "face_id": self.whole_numbers("face_id", 0, 0, MOST_FACES - 1),
        }
        success = self.whole_numbers("success", 1, 0, 1) == 1
        timestamp = self.numbers(("timestamp",))[:, 0]
        self.refuse(np.isinf(timestamp), "no valid timestamp")

        landmarks = self.numbers(LANDMARK_COLUMNS)
        unusable = np.isinf(landmarks).any(axis=1) | np.isnan(landmarks).all(axis=1)
        self.refuse(success & unusable, "no valid landmarks")

        if self.has(CONFIDENCE_COLUMNS):
            confidence = self.numbers(CONFIDENCE_COLUMNS)
        else:
            face = self.numbers(("confidence",)) if self.has(("confidence",)) else np.ones((n, 1))
            confidence = np.repeat(face, N_LANDMARKS, axis=1)
        self.refuse(success & ~((confidence >= 0) & (confidence <= 1)).all(axis=1), "no valid confidence")

        pose = np.full((n, 6), np.nan)
        if self.has(RIGID_COLUMNS):
            pose = self.numbers(RIGID_COLUMNS)
        elif self.has(ROTATION_COLUMNS):
            pose[:, 1:4] = self.numbers(ROTATION_COLUMNS)
        boxes = self.numbers(BOX_COLUMNS) if self.has(BOX_COLUMNS) else np.full((n, 5), np.nan)
        misfit = self.numbers(MISFIT_COLUMNS) if self.has(MISFIT_COLUMNS) else np.full((n, 2), np.nan)

        source = np.full(n, SOURCES.index("clnf"))
        if self.has(("source",)):
            place = self.places["source"]
            codes = {name: code for code, name in enumerate(SOURCES)}
            source = np.array([codes.get(row[place].strip(), -1) for row in self.rows])
            self.refuse(success & (source < 1), "no valid source")
        return {
            **part,
            "success": success,
            "timestamp": timestamp,
            "landmarks": landmarks.reshape(n, 2, N_LANDMARKS).transpose(0, 2, 1).astype(np.float32),
            "confidence": confidence.astype(np.float32),
            "pose": pose.astype(np.float32),
            "boxes": boxes.astype(np.float32),
            "misfit": misfit.astype(np.float32),
            "source": source.astype(np.int8),
            "by_hand": self.marks(BY_HAND_COLUMN) & np.isfinite(landmarks.reshape(n, 2, N_LANDMARKS)).all(1),
        }

    def has(self, names: Sequence[str]) -> bool:
        """Return whether the table has all these columns."""
        return all(name in self.places for name in names)

    def numbers(self, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return the columns, (rows, names) float64; what is empty is NaN."""
        places = [self.places[name] for name in names]
        try:
            return np.array([[float(row[k] or "nan") for k in places] for row in self.rows], dtype=np.float64)
        except ValueError:
            for line, row in enumerate(self.rows, start=self.first_line):
                for name, place in zip(names, places, strict=True):
                    if not _is_number(row[place]):
                        raise ResultError(
                            f"{self.path} has no number in line {line}, column {name!r}: correct that line."
                        ) from None
            raise

    def whole_numbers(self, name: str, default: int | None, low: int, high: int) -> npt.NDArray[np.int64]:
        """Return a column, or its default where the table has none, checked."""
        if default is not None and not self.has((name,)):
            return np.full(len(self.rows), default, dtype=np.int64)
        values = self.numbers((name,))[:, 0]
        self.refuse(~((values >= low) & (values <= high) & (values == np.floor(values))), f"no valid {name}")
        return values.astype(np.int64)

    def marks(self, name: str) -> npt.NDArray[np.bool_]:
        """Return the landmarks that a column lists, (rows, 68) bool; none where the table has it not."""
        found = np.zeros((len(self.rows), N_LANDMARKS), dtype=np.bool_)
        bad = np.zeros(len(self.rows), dtype=np.bool_)
        if self.has((name,)):
            for k, row in enumerate(self.rows):
                words = row[self.places[name]].split()
                bad[k] = not all(_LANDMARK.fullmatch(word) and int(word) < N_LANDMARKS for word in words)
                if not bad[k]:
                    found[k, [int(word) for word in words]] = True
        self.refuse(bad, f"no valid {name}")
        return found

    def refuse(self, bad: npt.NDArray[np.bool_], what: str) -> None:
        """Raise ResultError for the first row that is bad."""
        if bad.any():
            line = self.first_line + int(np.argmax(bad))
            raise ResultError(f"{self.path} has {what} in line {line}: correct that line or remove it.")


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def _assemble(rows: Mapping[str, npt.NDArray[Any]], path: Path) -> Tracks:
    """Return the rows as arrays (T, F, ...); frames and faces that have no row stay empty."""
    frames, first, t = np.unique(rows["frame"], return_index=True, return_inverse=True)
    n_frames, n_faces = len(frames), int(rows["face_id"].max()) + 1
    check_grid(path, n_frames, n_faces, len(rows["frame"]))
    f = rows["face_id"]
    cell = t * n_faces + f
    if len(np.unique(cell)) < len(cell):
        raise ResultError(f"{path} has the same face more than once on a frame: remove the repeated rows.")
    arrays: dict[str, npt.NDArray[Any]] = {}
    success = rows["success"]
    shapes: dict[str, tuple[int, ...]] = {
        "landmarks": (N_LANDMARKS, 2),
        "confidence": (N_LANDMARKS,),
        "pose": (6,),
        "boxes": (5,),
        "misfit": (2,),
    }
    for name, shape in shapes.items():
        arrays[name] = np.full((n_frames, n_faces, *shape), np.nan, dtype=np.float32)
        arrays[name][t[success], f[success]] = rows[name][success]
    arrays["confidence"] = np.nan_to_num(arrays["confidence"])
    by_hand = np.zeros((n_frames, n_faces, N_LANDMARKS), dtype=np.bool_)
    by_hand[t[success], f[success]] = rows["by_hand"][success]
    source = np.zeros((n_frames, n_faces), dtype=np.uint8)
    source[t[success], f[success]] = rows["source"][success]
    tracks = Tracks(
        landmarks=arrays["landmarks"],
        confidence=arrays["confidence"],
        source=source,
        pose=arrays["pose"],
        boxes=arrays["boxes"],
        misfit=arrays["misfit"],
        frame_indices=frames - 1,
        timestamps=rows["timestamp"][first],
        by_hand=by_hand,
    )
    fps = frame_rate_of(tracks)
    return tracks if fps is None else replace(tracks, meta={"fps": fps})
