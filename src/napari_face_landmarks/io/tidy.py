"""Tidy tables with one row per landmark, face and frame, as CSV or Parquet.

Columns: ``frame`` (from 0), ``time`` (s, empty if unknown), ``face`` and ``landmark`` (from 0), ``x``, ``y``
(px), ``confidence``, other arrays (`EXTRA`; values of a face are repeated for each landmark, true and false
are 1 and 0), ``pixel_aspect`` if pixels are not square, ``models`` (their name) if known, and ``source``.
Optional columns may be missing in files. Frames without a face have rows with empty x and y and the source
"none", so that the table is a full grid that can be pivoted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import FIELDS, SOURCES, Field
from napari_face_landmarks.data.names import MODELS
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ResultError, in_one_line
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.files.optional import optional
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.io import common
from napari_face_landmarks.tracking.frame_view import PIXEL_ASPECT

if TYPE_CHECKING:
    import pandas

FIRST_COLUMNS = ("frame", "time", "face", "landmark", "x", "y", "confidence")
LAST_COLUMN = "source"  # text in the last column reveals truncated rows
EXTRA = tuple(item for item in FIELDS if item.name not in ("landmarks", "confidence", "source", "boxes"))
"""Fields after the first columns, including all that measures and their standard errors need."""
EXTRA_COLUMNS = tuple(name for item in EXTRA for name in item.columns)
COLUMNS = (*FIRST_COLUMNS, *EXTRA_COLUMNS, *common.META_COLUMNS, LAST_COLUMN)
NEEDED = ("frame", "face", "landmark", "x", "y")
MAX_HEADER_LENGTH = 1 << 16
RECORD = b"napari_face_landmarks"
MAX_FILE_BYTES = 64 << 30
CHUNK_FRAMES = 1024
CHUNK_ROWS = 1 << 16
MAX_ROWS_PER_BYTE = 32
"""Maximum rows per byte of a Parquet file: three times the ratio for frames without faces."""


def to_tidy(tracks: Tracks, part: slice = slice(None)) -> pandas.DataFrame:
    """Convert tracks to a tidy table (see the module).

    Parameters
    ----------
    tracks : Tracks
        Landmarks (T, F, 68, 2).
    part : slice
        Rows of the frames to convert.

    Returns
    -------
    pandas.DataFrame
        ``T * F * 68`` rows.
    """
    import pandas as pd

    landmarks = tracks.landmarks[part]
    n_frames, n_faces = landmarks.shape[:2]
    each = n_faces * N_LANDMARKS
    return pd.DataFrame(
        {
            "frame": np.repeat(tracks.frame_indices[part], each),
            "time": np.repeat(tracks.timestamps[part], each),
            "face": np.tile(np.repeat(np.arange(n_faces), N_LANDMARKS), n_frames),
            "landmark": np.tile(np.arange(N_LANDMARKS), n_frames * n_faces),
            "x": landmarks[..., 0].ravel(),
            "y": landmarks[..., 1].ravel(),
            "confidence": tracks.confidence[part].ravel(),
            **{
                name: values
                for item in EXTRA
                for name, values in _columns(item, getattr(tracks, item.name)[part]).items()
            },
            **{
                name: pd.Categorical.from_codes(np.zeros(len(landmarks) * each, np.int8), [value])
                if name == MODELS
                else value
                for name, value in common.meta_columns(tracks).items()
            },
            LAST_COLUMN: pd.Categorical.from_codes(
                np.repeat(tracks.source[part].ravel(), N_LANDMARKS).astype(np.int8), categories=list(SOURCES)
            ),
        }
    )


def _columns(item: Field, values: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a field of `EXTRA` with values (T, F, ...), one row per landmark."""
    values = values.astype(np.uint8) if values.dtype == np.bool_ else values
    if item.per_landmark:
        return {item.column: values.ravel()}
    parts = values.reshape(-1, len(item.columns)).T
    return {name: np.repeat(part, N_LANDMARKS) for name, part in zip(item.columns, parts, strict=True)}


def write_tidy_csv(path: Path, tracks: Tracks) -> None:
    """Write tracks as a tidy CSV file (see the module)."""
    with replacing(path) as temporary, open(temporary, "w", encoding="ascii", newline="") as stream:
        for start in range(0, tracks.n_frames, CHUNK_FRAMES):
            table = to_tidy(tracks, slice(start, start + CHUNK_FRAMES))
            table.to_csv(stream, header=start == 0, index=False, lineterminator="\n")


def is_tidy_csv(path: Path) -> bool:
    """Return whether a CSV file has the columns of a tidy table of landmarks, in any order."""
    return _parse_header(path) is not None


def _parse_header(path: Path) -> tuple[int, str, str] | None:
    """Return the number of lines before the header, separator and decimal mark; None for other files."""
    try:
        with open(path, encoding=common.text_encoding(path), newline="") as stream:
            line, skipped = stream.readline(MAX_HEADER_LENGTH), 0
            if line.lower().startswith("sep="):  # Excel's separator line
                line, skipped = stream.readline(MAX_HEADER_LENGTH), 1
            numbers = stream.read(MAX_HEADER_LENGTH)
    except (OSError, UnicodeError):
        return None
    for separator in ",;\t":
        if set(NEEDED) <= {name.strip('"') for name in line.strip().split(separator)}:
            return skipped, separator, "," if separator != "," and "," in numbers else "."
    return None


def read_tidy_csv(path: Path) -> Tracks:
    """Read tracks from a tidy CSV file."""
    import pandas as pd

    header = _parse_header(path)
    if header is None:
        raise ResultError(
            f"{path} lacks one of the columns {', '.join(NEEDED)}: choose a tidy table of landmarks."
        )
    with common.reading_table(path, "a tidy table", MAX_FILE_BYTES):
        table = pd.read_csv(
            path,
            skiprows=header[0],
            sep=header[1],
            decimal=header[2],
            usecols=lambda name: name in COLUMNS,
            dtype={"frame": np.int64, "face": np.int64, "landmark": np.int64}
            | dict.fromkeys(("source", MODELS), "category")
            | dict.fromkeys(("time", "x", "y", "confidence", *EXTRA_COLUMNS, PIXEL_ASPECT), np.float64),
            encoding=common.text_encoding(path),
            **common.exact_decimals(),
        )
    return from_tidy(table, path)


def write_parquet(path: Path, tracks: Tracks) -> None:
    """Write tracks as a tidy Parquet file, with the record of the run in its metadata."""
    pyarrow = optional("pyarrow", f"Writing {path}")
    parquet = optional("pyarrow.parquet", f"Writing {path}")
    table = pyarrow.Table.from_pandas(to_tidy(tracks), preserve_index=False)
    table = table.replace_schema_metadata(
        {**(table.schema.metadata or {}), RECORD: common.record_to_json(tracks).encode()}
    )
    with replacing(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd")


def is_parquet(path: Path) -> bool:
    """Return whether a file has the signature of Parquet."""
    return common.first_bytes(path, 4) == b"PAR1"


def read_parquet(path: Path) -> Tracks:
    """Read tracks from a tidy Parquet file."""
    import pandas as pd

    pyarrow = optional("pyarrow", f"Reading {path}")
    parquet = optional("pyarrow.parquet", f"Reading {path}")
    if not path.is_file():
        raise ResultError(f"{path} is missing: check the name of the file.")
    try:
        with parquet.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            if not set(NEEDED) <= names or file.metadata.num_rows > common.MAX_ROWS * N_LANDMARKS:
                raise ResultError(
                    f"{path} lacks one of the columns {', '.join(NEEDED)}, or has too many rows: split it."
                )
            if file.metadata.num_rows > MAX_ROWS_PER_BYTE * path.stat().st_size:
                raise ResultError(f"{path} claims more rows than landmarks would give: save it again.")
            used = [name for name in COLUMNS if name in names]
            types = pyarrow.types
            for name in used:
                kind = file.schema_arrow.field(name).type
                if name in ("source", MODELS):
                    valid = types.is_dictionary(kind) or types.is_string(kind) or types.is_large_string(kind)
                else:
                    valid = types.is_integer(kind) or types.is_floating(kind)
                if not valid:
                    raise ResultError(
                        f"{path}: {name} has the type {kind}: choose a tidy table of landmarks."
                    )
            text = (file.schema_arrow.metadata or {}).get(RECORD)
            _check_repeats(file, path)
            columns = file.read(columns=used)
            table = pd.DataFrame({name: columns[name].to_pandas() for name in used})
    except (OSError, ValueError, KeyError, TypeError, MemoryError, pyarrow.ArrowException) as error:
        if isinstance(error, ResultError):
            raise
        raise ResultError(f"{path} cannot be read ({in_one_line(error)}): save it again.") from None
    return from_tidy(table, path, common.record_from_json(text, path) if text is not None else None)


def _check_repeats(file: Any, path: Path) -> None:
    """Raise an error before a file with repeated landmarks is read: equal rows compress extremely well."""
    for batch in file.iter_batches(CHUNK_ROWS, columns=["frame", "face", "landmark"]):
        frame, face, landmark = (
            batch.column(k).to_numpy(zero_copy_only=False).astype(np.float64) for k in range(3)
        )
        cell = (frame * common.MAX_FACES + face) * N_LANDMARKS + landmark
        if len(np.unique(cell)) < len(cell):
            raise ResultError(f"{path} has a landmark more than once on a frame: remove the repeated rows.")


def from_tidy(table: pandas.DataFrame, path: Path, record: dict[str, Any] | None = None) -> Tracks:
    """Convert a tidy table with the columns `NEEDED` and rows in any order to tracks."""
    frame = _integers(table, "frame", common.MAX_FRAMES - 1, path)
    face = _integers(table, "face", common.MAX_FACES - 1, path)
    landmark = _integers(table, "landmark", N_LANDMARKS - 1, path)
    if not len(frame):
        raise ResultError(f"{path} has no rows: track the video again.")
    frames, first, t = np.unique(frame, return_index=True, return_inverse=True)
    n_frames, n_faces = len(frames), int(face.max()) + 1
    common.check_grid(path, n_frames, n_faces, len(frame) // 16)  # a few landmarks make a face
    cell = (t * n_faces + face) * N_LANDMARKS + landmark
    if np.bincount(cell, minlength=1).max() > 1:
        raise ResultError(f"{path} has a landmark more than once on a frame: remove the repeated rows.")
    shape = (n_frames, n_faces, N_LANDMARKS)
    arrays: dict[str, npt.NDArray[Any]] = {}

    def per_landmark(*names: str, fill: float) -> npt.NDArray[np.float32]:
        values = np.full((int(np.prod(shape)), len(names)), fill, dtype=np.float32)
        for k, name in enumerate(names):
            values[cell, k] = table[name].to_numpy(np.float64)
        return values.reshape(*shape, len(names))

    arrays["landmarks"] = per_landmark("x", "y", fill=np.nan)
    if "confidence" in table:
        arrays["confidence"] = per_landmark("confidence", fill=0)[..., 0]
    if "source" in table:
        arrays["source"] = np.zeros((n_frames, n_faces), dtype=np.uint8)
        arrays["source"][t, face] = _source_codes(table, path)
    for item in EXTRA:
        if not set(item.columns) <= set(table.columns):
            continue
        if item.per_landmark:
            arrays[item.name] = per_landmark(item.column, fill=item.fill)[..., 0]
        else:
            arrays[item.name] = item.empty(n_frames, n_faces)
            values = table[list(item.columns)].to_numpy(np.float64)
            arrays[item.name][t, face] = values.reshape(len(values), *item.shape)
    seconds = table["time"].to_numpy(np.float64) if "time" in table else None
    if seconds is not None and np.isinf(seconds).any():
        raise ResultError(f"{path} has times that are infinite: correct the file.")
    record = common.add_meta(
        record, {name: table[name].iloc for name in common.META_COLUMNS if name in table}
    )
    return common.make_tracks(path, arrays, frames, None if seconds is None else seconds[first], record)


def _source_codes(table: pandas.DataFrame, path: Path) -> npt.NDArray[Any]:
    """Return the source of each row as an index into `SOURCES`."""
    names = table["source"].astype("category").cat
    codes = np.array([SOURCES.index(str(name)) if str(name) in SOURCES else -1 for name in names.categories])
    rows = names.codes.to_numpy()
    if (rows < 0).any() or (codes < 0).any():
        raise ResultError(f"{path} has a source other than {', '.join(SOURCES)}: correct the file.")
    return np.asarray(codes[rows])


def _integers(table: pandas.DataFrame, name: str, limit: int, path: Path) -> npt.NDArray[np.int64]:
    values = table[name].to_numpy(np.float64)
    if not ((values >= 0) & (values <= limit) & (values == np.floor(values))).all():
        raise ResultError(
            f"{path} has a {name} that is not a whole number from 0 to {limit}: correct the file."
        )
    return np.asarray(values, dtype=np.int64)
