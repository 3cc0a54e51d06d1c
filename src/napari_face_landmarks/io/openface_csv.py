"""Tables with OpenFace's columns (CSV), stored without loss of precision; OpenFace's files can be read, too.

The columns, in the order of OpenFace 2 (Baltrusaitis et al. 2018, "OpenFace 2.0"):

- ``frame`` (from 1 as in OpenFace; everywhere else frames are counted from 0), ``face_id`` (from 0),
  ``timestamp`` (s), ``confidence`` (mean over the landmarks, 0 to 1), ``success`` (1: there is a face);
- ``pose_Tx, pose_Ty, pose_Tz`` (mm from the camera; only if the frame size is known),
  ``pose_Rx, pose_Ry, pose_Rz`` (rad; R = Rx Ry Rz);
- ``x_0 .. x_67, y_0 .. y_67`` (px, pixel centres at whole numbers, from 0);
- ``p_scale, p_rx, p_ry, p_rz, p_tx, p_ty``, the weak-perspective pose (px per mm, rad, px).

Additional columns follow: ``source``, ``c_0 .. c_67`` (confidence of each landmark), those of the other
arrays (`OTHERS`), ``pixel_aspect`` if the pixels of the video are not square, and ``models``, the name of the
models of the landmarks, if known. Flags of landmarks, such as manual ones, are listed in a column with the
name of the array ("36 45"), which is absent if none is set. As in OpenFace, a frame without a face has one
row with ``success`` 0 whose numbers are 0; they are read as NaN.

These tables can be read, too: those of OpenFace's FaceLandmarkImg (column ``face``, one image) and of py-feat
(frames from 0, one face per row of a frame or per ``Identity``); tables separated by semicolons with decimal
commas, or by tabs; tables with frames from 0, and with empty rows for absent faces.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import CLNF, FIELDS, SOURCES, Field
from napari_face_landmarks.data.names import MODELS
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ResultError, in_one_line, reason_of
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.io import common
from napari_face_landmarks.tracking.camera import head_position, head_rotation, recorded_focal, shown_size
from napari_face_landmarks.tracking.frame_view import PIXEL_ASPECT

if TYPE_CHECKING:
    import pandas

FRAME_COLUMNS = ("frame", "face_id", "timestamp", "confidence", "success")
TRANSLATION_COLUMNS = ("pose_Tx", "pose_Ty", "pose_Tz")
ROTATION_COLUMNS = ("pose_Rx", "pose_Ry", "pose_Rz")
LANDMARK_COLUMNS = tuple(f"{axis}_{i}" for axis in "xy" for i in range(N_LANDMARKS))
RIGID_COLUMNS = ("p_scale", "p_rx", "p_ry", "p_rz", "p_tx", "p_ty")
SOURCE_COLUMN = "source"
NO_NUMBERS = ["", "nan", "NaN", "-nan", "nan(ind)", "-nan(ind)", "1.#QNAN", "-1.#IND", "NA", "#N/A"]
"""Missing values as programs write them, including OpenFace on Windows."""
CONFIDENCE_COLUMNS = tuple(f"c_{i}" for i in range(N_LANDMARKS))
OTHERS = tuple(item for item in FIELDS if item.name not in ("landmarks", "confidence", "pose", "source"))
"""Fields whose columns have the field's own names."""
FLAGS = tuple(item for item in OTHERS if item.per_landmark and np.dtype(item.dtype).kind == "b")
"""Those with a flag per landmark."""
IMAGE_FACE_COLUMN = "face"
"""Face number in tables of FaceLandmarkImg, which have no frames."""
SCORE_COLUMN, IDENTITY_COLUMN = "FaceScore", "Identity"
"""Columns of py-feat."""
TEXTS = (SOURCE_COLUMN, IDENTITY_COLUMN, MODELS, *(item.column for item in FLAGS))
"""Columns of strings; all others are numbers."""

_LANDMARK = re.compile("[0-9]{1,2}")
MAX_LINE_LENGTH = 1 << 20  # characters; OpenFace's own are 8000
CHUNK_ROWS = 4096


def field_columns(item: Field) -> tuple[str, ...]:
    """Return the names of the columns of a field of `OTHERS`."""
    if item.per_landmark and item not in FLAGS:
        return tuple(f"{item.column}_{k}" for k in range(N_LANDMARKS))
    return item.columns


NUMBERS = frozenset(
    [*FRAME_COLUMNS, IMAGE_FACE_COLUMN, SCORE_COLUMN, PIXEL_ASPECT]
    + [*ROTATION_COLUMNS, *LANDMARK_COLUMNS, *RIGID_COLUMNS, *CONFIDENCE_COLUMNS]
    + [name for item in OTHERS if item not in FLAGS for name in field_columns(item)]
)
"""Columns of numbers that are read."""


def write_csv(path: str | os.PathLike[str], tracks: Tracks) -> None:
    """Write landmarks in OpenFace's columns (see the module), atomically.

    `read_csv` returns the same landmarks, confidences, sources, poses and boxes bit for bit.

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
        step = max(1, CHUNK_ROWS // max(1, tracks.n_faces))
        stream.write(",".join(name for name, _ in _columns(tracks, slice(0, 0), 0)) + "\n")
        for start in range(0, tracks.n_frames, step):
            columns = _columns(tracks, slice(start, start + step), missing=0)
            stream.writelines(",".join(row) + "\n" for row in zip(*map(_format_values, columns), strict=True))


def to_dataframe(tracks: Tracks) -> pandas.DataFrame:
    """Convert tracks to a table with the columns of the CSV file (see the module).

    Parameters
    ----------
    tracks : Tracks
        Landmarks (T, F, 68, 2).

    Returns
    -------
    pandas.DataFrame
        One row per frame and face, and one for each frame without a face, with ``success`` 0 and NaN for
        unknown numbers (which are 0 in the file).
    """
    import pandas as pd

    return pd.DataFrame(dict(_columns(tracks, slice(None), missing=np.nan)))


def _columns(tracks: Tracks, frames: slice, missing: float) -> list[tuple[str, npt.NDArray[Any]]]:
    """Return names and values of the columns for some frames; `missing` replaces numbers of absent faces."""
    present = np.asarray(np.isfinite(tracks.landmarks[frames]).any(axis=(2, 3)))
    has_row = present.copy()
    if has_row.shape[1]:
        has_row[:, 0] |= ~present.any(axis=1)
    t, f = np.nonzero(has_row)
    success = present[t, f]

    def table_rows(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        rows = values[frames][t, f].reshape(len(t), int(np.prod(values.shape[2:])))
        return np.where(success[:, np.newaxis], rows, np.float32(missing))

    pose, confidence = table_rows(tracks.pose), table_rows(tracks.confidence)
    xy = table_rows(tracks.landmarks)
    columns: list[tuple[str, npt.NDArray[Any]]] = [
        ("frame", tracks.frame_indices[frames][t] + 1),
        ("face_id", f),
        ("timestamp", tracks.timestamps[frames][t]),
        ("confidence", np.nan_to_num(confidence.mean(axis=1))),
        ("success", success.astype(np.int64)),
    ]
    size, focal = shown_size(tracks), recorded_focal(tracks)
    if size is not None:
        position = np.where(success[:, np.newaxis], head_position(pose, size, focal), missing)
        columns += zip(TRANSLATION_COLUMNS, position.astype(np.float32).T, strict=True)
    rotation = pose[:, 1:4]
    if size is not None and focal is not None:
        rotation = np.where(success[:, np.newaxis], head_rotation(pose, size, focal), missing)
        rotation = rotation.astype(np.float32)
    columns += zip(ROTATION_COLUMNS, rotation.T, strict=True)
    columns += zip(LANDMARK_COLUMNS, [*xy[:, 0::2].T, *xy[:, 1::2].T], strict=True)
    columns += zip(RIGID_COLUMNS, pose.T, strict=True)
    columns.append((SOURCE_COLUMN, np.array(SOURCES)[np.where(success, tracks.source[frames][t, f], 0)]))
    columns += zip(CONFIDENCE_COLUMNS, confidence.T, strict=True)
    for item in OTHERS:
        values = getattr(tracks, item.name)
        if item not in FLAGS:
            columns += zip(field_columns(item), table_rows(values).T, strict=True)
        elif values.any():
            columns.append((item.column, _join_indices(values[frames][t, f])))
    columns += [(name, np.full(len(t), value)) for name, value in common.meta_columns(tracks).items()]
    return columns


def _join_indices(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.str_]:
    """Return the indices of the landmarks flagged in each row, (rows,), such as "36 45"."""
    return np.array([" ".join(map(str, np.flatnonzero(row))) for row in flags], dtype=np.str_)


def _format_values(column: tuple[str, npt.NDArray[Any]]) -> list[str]:
    """Format values as the shortest decimals that are read back as the same float32 or float64."""
    return [str(text) for text in column[1].astype(str).tolist()]


def read_csv(path: str | os.PathLike[str]) -> Tracks:
    """Read landmarks from a table in OpenFace's columns, including OpenFace's own files.

    Column names may have leading spaces (OpenFace before 2.1), and unknown columns are ignored. Rows with
    ``success`` 0 or without landmarks become NaN. Without columns for the confidence of landmarks, these get
    the confidence of their face; without ``source``, it is "clnf".

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    Tracks
        One frame for each frame number in the file, in ascending order.

    Raises
    ------
    ResultError
        If the file is missing, lacks columns, has an incomplete or invalid row, the same face twice on a
        frame, or too many rows.
    """
    target = Path(path)
    try:
        with _open(target) as stream:
            rows = _read(stream, target)
    except ResultError:
        raise
    except OSError as error:
        reason = reason_of(error)
        raise ResultError(f"{target} cannot be read ({reason}): check the name of the file.") from error
    except (csv.Error, ValueError, OverflowError, MemoryError) as error:  # pandas' parser errors too
        raise _table_error(target, error) from error
    return _assemble(rows, target)


def _open(path: Path) -> TextIO:
    return open(path, encoding=common.text_encoding(path), newline="")


def _read(stream: TextIO, path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read and check arrays with one row per face and frame."""
    import pandas as pd

    lines = _Lines(stream, path)
    header = next(csv.reader([lines.read_line()]), [])
    indices = _column_index(header, path)
    lines.min_commas = max(indices.values())
    # pandas gets column numbers for names, since names may be repeated
    used = {name: str(index) for name, index in indices.items() if name in NUMBERS or name in TEXTS}
    numbers = [index for name, index in used.items() if name not in TEXTS]
    first_line = lines.line + 1
    table = pd.read_csv(
        lines,
        header=None,
        names=[str(index) for index in range(len(header))],
        index_col=False,
        usecols=list(used.values()),
        dtype={index: np.float64 if index in numbers else str for index in used.values()},
        keep_default_na=False,
        na_values=dict.fromkeys(numbers, NO_NUMBERS),
        skipinitialspace=True,
        skip_blank_lines=False,
        nrows=common.MAX_ROWS + 1,
        **common.exact_decimals(),
    )
    if not len(table):
        raise ResultError(f"{path} has no rows: track the video again.")
    if len(table) > common.MAX_ROWS:
        raise ResultError(f"{path} has more than {common.MAX_ROWS} rows: split it.")
    named = table.rename(columns={index: name for name, index in used.items()})
    return _Table(named, path, first_line).read()


def is_openface(path: Path) -> bool:
    """Return whether a file has OpenFace's landmark columns."""
    try:
        with _open(path) as stream:
            header = next(csv.reader([_Lines(stream, path).read_line()]), [])
    except (OSError, ResultError, ValueError, csv.Error):
        return False
    names = {name.strip() for name in header}
    return {"x_0", "y_67"} <= names and bool({"frame", IMAGE_FACE_COLUMN} & names)


class _Lines(io.TextIOBase):
    """Lines of a table, checked before pandas parses them: length, encoding, number of columns.

    If the first line is separated by semicolons or tabs, decimal commas are converted to points.
    """

    def __init__(self, stream: TextIO, path: Path) -> None:
        self.stream, self.path = stream, path
        self.line, self.min_commas, self.separator = 0, 0, ","
        self.header_read = False

    def read_line(self) -> str:
        """Return the next line, empty at the end."""
        line, self.line = self.stream.readline(MAX_LINE_LENGTH), self.line + 1
        if self.line == 1 and line.lower().startswith("sep="):  # Excel's separator line
            line, self.line = self.stream.readline(MAX_LINE_LENGTH), self.line + 1
        if self.header_read and line.isspace():
            self._check_end()
            return ""
        if len(line) == MAX_LINE_LENGTH or "\0" in line:
            raise ResultError(f"{self.path} is not a table of text: give a CSV file in OpenFace's columns.")
        if not self.header_read and "," not in line:
            self.separator = next((separator for separator in ";\t" if separator in line), ",")
        self.header_read = True
        if self.separator != ",":
            line = line.replace(",", ".").replace(self.separator, ",")
        if line and line.count(",") < self.min_commas:
            raise ResultError(_line_error(self.path, "too few values", self.line))
        return line

    def _check_end(self) -> None:
        """Read all remaining lines; raise an error unless they are blank."""
        while line := self.stream.readline(MAX_LINE_LENGTH):
            if not line.isspace():
                raise ResultError(_line_error(self.path, "too few values", self.line))

    def read(self, size: int | None = -1) -> str:
        """Return complete lines of about `size` characters in total."""
        lines: list[str] = []
        length = 0
        while (size is None or size < 0 or length < size) and (line := self.read_line()):
            lines.append(line)
            length += len(line)
        return "".join(lines)


def _line_error(path: Path, problem: str, line: int) -> str:
    return f"{path} has {problem} in line {line}: correct that line or remove it."


def _table_error(path: Path, error: Exception) -> ResultError:
    """Return the error for a table that pandas cannot parse: names the first cell that is not a number."""
    with contextlib.suppress(OSError, ValueError, csv.Error), _open(path) as stream:
        lines = csv.reader(iter(_Lines(stream, path).read_line, ""))
        names = [name.strip() for name in next(lines, [])]
        for number, row in enumerate(lines, start=2):
            for name, text in zip(names, row, strict=False):
                if name in NUMBERS and not _is_number(text):
                    return ResultError(
                        f"{path} has no number in line {number}, column {name!r}: correct that line."
                    )
    return ResultError(f"{path} is not a table of text ({in_one_line(error)}): give a CSV file.")


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def _column_index(names: list[str], path: Path) -> dict[str, int]:
    """Return the index of each column; raise an error if required columns are missing."""
    indices = {name.strip(): index for index, name in enumerate(names)}
    required = (*(() if IMAGE_FACE_COLUMN in indices else ("frame",)), *LANDMARK_COLUMNS)
    missing = [name for name in required if name not in indices]
    if missing:
        raise ResultError(
            f"{path} has no column {missing[0]!r} among its {len(indices)} ({common.joined(indices)[:80]} …):"
            " give a CSV file in OpenFace's columns (frame, x_0 .. x_67, y_0 .. y_67)."
        )
    return indices


@dataclass(frozen=True)
class _Table:
    """A table with named columns, and the line number of its first row in the file."""

    table: pandas.DataFrame
    path: Path
    first_line: int

    def read(self) -> dict[str, npt.NDArray[Any]]:
        """Return checked arrays with one row per face and frame."""
        n = len(self.table)
        arrays: dict[str, npt.NDArray[Any]] = {
            "frame": self.frames(),
            "face_id": self.faces(),
            "success": self.whole_numbers("success", 1, 0, 1) == 1,
            "timestamp": self.numbers(["timestamp"])[:, 0],
        }
        if self.has(IDENTITY_COLUMN):
            arrays[IDENTITY_COLUMN] = np.array(self.texts(IDENTITY_COLUMN), dtype=object)
        self.refuse(np.isinf(arrays["timestamp"]), "no valid timestamp")
        landmarks = self.numbers(LANDMARK_COLUMNS)
        arrays["success"] &= ~np.isnan(landmarks).all(axis=1)
        success = arrays["success"]
        self.refuse(success & np.isinf(landmarks).any(axis=1), "no valid landmarks")
        arrays["landmarks"] = landmarks.reshape(n, 2, N_LANDMARKS).transpose(0, 2, 1)
        if self.has(*CONFIDENCE_COLUMNS):
            confidence = self.numbers(CONFIDENCE_COLUMNS)
        else:
            names = [name for name in ("confidence", SCORE_COLUMN) if self.has(name)]
            face = self.numbers(names[:1]) if names else np.ones((n, 1))
            confidence = np.repeat(face, N_LANDMARKS, axis=1)
        self.refuse(success & ~((confidence >= 0) & (confidence <= 1)).all(axis=1), "no valid confidence")
        arrays["confidence"] = confidence
        arrays["pose"] = np.full((n, 6), np.nan)
        if self.has(*RIGID_COLUMNS):
            arrays["pose"] = self.numbers(RIGID_COLUMNS)
        elif self.has(*ROTATION_COLUMNS):
            arrays["pose"][:, 1:4] = self.numbers(ROTATION_COLUMNS)
        arrays["source"] = self.sources(success)
        if self.has(PIXEL_ASPECT):
            arrays[PIXEL_ASPECT] = self.numbers([PIXEL_ASPECT])[:, 0]
        if self.has(MODELS):
            arrays[MODELS] = np.array(self.texts(MODELS))
        for item in OTHERS:
            if not self.has(*field_columns(item)):
                continue
            values = self.flags(item) if item in FLAGS else self.numbers(field_columns(item))
            arrays[item.name] = values.reshape(n, *item.shape).astype(item.dtype)
        return arrays

    def frames(self) -> npt.NDArray[np.int64]:
        """Return the frame of each row, from 0; 0 in tables of images."""
        if not self.has("frame"):
            return np.zeros(len(self.table), dtype=np.int64)
        first = 0 if self.has(SCORE_COLUMN) or self.table["frame"].iloc[0] == 0 else 1
        return self.whole_numbers("frame", None, first, 2**53) - first

    def faces(self) -> npt.NDArray[np.int64]:
        """Return the face of each row; -1 in tables of py-feat, for which `_pyfeat_faces` assigns faces."""
        if self.has(SCORE_COLUMN) and not self.has("face_id"):
            return np.full(len(self.table), -1, dtype=np.int64)
        name = "face_id" if self.has("frame") else IMAGE_FACE_COLUMN
        return self.whole_numbers(name, 0, 0, common.MAX_FACES - 1)

    def has(self, *names: str) -> bool:
        """Return whether the table has all of these columns."""
        return set(names) <= set(self.table.columns)

    def numbers(self, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return columns, (rows, names) float64; missing cells and columns are NaN."""
        return np.asarray(self.table.reindex(columns=list(names)), dtype=np.float64)

    def texts(self, name: str) -> list[str]:
        """Return a column of strings."""
        return [str(text).strip() for text in self.table[name]]

    def whole_numbers(self, name: str, default: int | None, low: int, high: int) -> npt.NDArray[np.int64]:
        """Return a column of integers from `low` to `high`, or the default if it is missing."""
        if default is not None and not self.has(name):
            return np.full(len(self.table), default, dtype=np.int64)
        values = self.numbers([name])[:, 0]
        self.refuse(~((values >= low) & (values <= high) & (values == np.floor(values))), f"no valid {name}")
        return values.astype(np.int64)

    def sources(self, success: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Return the source of each row as an index into `SOURCES`; "clnf" without that column."""
        if not self.has(SOURCE_COLUMN):
            return np.full(len(self.table), CLNF)
        codes = {name: code for code, name in enumerate(SOURCES)}
        source = np.array([codes.get(text, -1) for text in self.texts(SOURCE_COLUMN)], dtype=np.int64)
        self.refuse(success & (source < 1), "no valid source")
        return source

    def flags(self, item: Field) -> npt.NDArray[np.bool_]:
        """Return flags of the landmarks listed in a column, (rows, 68) bool."""
        flags = np.zeros((len(self.table), N_LANDMARKS), dtype=np.bool_)
        bad = np.zeros(len(self.table), dtype=np.bool_)
        for k, text in enumerate(self.texts(item.column)):
            words = text.split()
            bad[k] = not all(_LANDMARK.fullmatch(word) and int(word) < N_LANDMARKS for word in words)
            if not bad[k]:
                flags[k, [int(word) for word in words]] = True
        self.refuse(bad, f"no valid {item.column}")
        return flags

    def refuse(self, bad: npt.NDArray[np.bool_], problem: str) -> None:
        """Raise a `ResultError` for the first bad row, if any."""
        if bad.any():
            raise ResultError(_line_error(self.path, problem, self.first_line + int(np.argmax(bad))))


def _assemble(rows: Mapping[str, npt.NDArray[Any]], path: Path) -> Tracks:
    """Assemble tracks from rows; faces without a row on a frame are absent there."""
    frames, first, t = np.unique(rows["frame"], return_index=True, return_inverse=True)
    f, success = rows["face_id"], rows["success"]
    names: list[str] = []
    if (f < 0).any():
        f, names = _pyfeat_faces(t, rows.get(IDENTITY_COLUMN))
    n_faces = common.count_faces(path, t, f)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for item in FIELDS:
        if item.name in rows:
            arrays[item.name] = item.empty(len(frames), n_faces)
            arrays[item.name][t[success], f[success]] = rows[item.name][success]
    record = common.add_meta(common.add_names(None, names), rows)
    return common.make_tracks(path, arrays, frames, rows["timestamp"][first], record)


def _pyfeat_faces(
    t: npt.NDArray[np.int64], identities: npt.NDArray[np.object_] | None
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return the face of each row and the names of the faces: by identity, else by order on each frame."""
    import pandas as pd

    if identities is not None:
        known = np.array([text.lower() not in ("", "nan", "none") for text in identities])
        f, names = pd.factorize(identities[known])
        if len(set(zip(t[known], f, strict=True))) == len(f):
            faces = np.zeros(len(t), dtype=np.int64)
            faces[known] = f
            empty_frames = np.setdiff1d(t[~known], t[known])
            if len(empty_frames) == (~known).sum():  # rows without identity belong to frames without a face
                return faces, [str(name) for name in names]
    return pd.Series(t).groupby(t).cumcount().to_numpy(np.int64), []
