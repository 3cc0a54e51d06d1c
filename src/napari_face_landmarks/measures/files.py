"""Tables of measures for other programs: wide and long CSV, Parquet, xarray, and tables of events."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_face_landmarks.errors import MeasureError
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.files.optional import optional

if TYPE_CHECKING:
    import pandas
    import xarray

    from napari_face_landmarks.measures.events import Blink, Event
    from napari_face_landmarks.measures.table import MeasureTable

FLAGS = ("low_confidence", "turned")
CHUNK = 5000
"""Rows of a CSV file that are formatted at once."""
TIMES = ("time", "onset", "full", "peak", "release", "end", "duration")
"""Columns in seconds, which are written to the microsecond however long the recording is."""
_QUOTE, _MARKS = '"', frozenset(',"\r\n')


def to_dataframe(table: MeasureTable, long: bool = False) -> pandas.DataFrame:
    """Return a table of measures as pandas has it.

    Parameters
    ----------
    table : MeasureTable
    long : bool
        One row for each measure (tidy form: frame, time, face, measure, side, unit, value, error) in place of
        one for each frame and face.

    Returns
    -------
    DataFrame
        Frames and faces are counted from 0, time is in seconds. Wide columns are named ``NAME_UNIT`` and
        ``NAME_UNIT_se``, the standard error. Frames without the face are left out.
    """
    import pandas as pd

    rows, faces = np.nonzero(np.isfinite(table.values[..., 0]))
    names = np.array(table.face_names, dtype=object)
    index = {
        "frame": table.frame_indices[rows],
        "time": table.timestamps[rows],
        "face": names[faces],
        **{flag: getattr(table, flag)[rows, faces] for flag in FLAGS},
    }
    count = len(table.columns)
    if not long:
        titles = [column_name(column.name, column.unit) for column in table.columns]
        block = np.empty((2 * count, len(rows)), np.float32)
        for place in range(count):
            block[2 * place] = table.values[rows, faces, place]
            block[2 * place + 1] = table.errors[rows, faces, place]
        measures = pd.DataFrame(block.T, columns=[f"{name}{end}" for name in titles for end in ("", "_se")])
        return pd.concat([pd.DataFrame(index), measures], axis=1)
    values, errors = table.values[rows, faces], table.errors[rows, faces]
    repeated = {name: np.repeat(array, count) for name, array in index.items()}
    return pd.DataFrame(
        {
            **repeated,
            **{
                key: np.tile([getattr(column, key) for column in table.columns], len(rows))
                for key in ("name", "side", "unit")
            },
            "value": values.ravel(),
            "error": errors.ravel(),
        }
    ).rename(columns={"name": "measure"})


def column_name(name: str, unit: str) -> str:
    """Return a column's name with its unit, such as ``mouth_opening_mm``."""
    return name if unit == "ratio" and name.startswith(("closure", "eye_a")) else f"{name}_{unit}"


def to_xarray(table: MeasureTable) -> xarray.Dataset:
    """Return a table in movement's conventions: dimensions time and individuals, and measure."""
    xr = optional("xarray", "Exporting measures to xarray")
    known = np.isfinite(table.timestamps).all()
    return xr.Dataset(
        {
            "value": (("time", "individuals", "measure"), table.values),
            "error": (("time", "individuals", "measure"), table.errors),
            **{flag: (("time", "individuals"), getattr(table, flag)) for flag in FLAGS},
        },
        coords={
            "time": table.timestamps if known else table.frame_indices,
            "individuals": list(table.face_names),
            "measure": list(table.names),
            "unit": ("measure", [column.unit for column in table.columns]),
            "frame": ("time", table.frame_indices),
        },
        attrs={
            "time_unit": "seconds" if known else "frames",
            "scale": table.scale.in_words(),
            "pose_corrected": int(table.pose_corrected),
        },
    )


def events_to_dataframe(blinks: Sequence[Blink], movements: Sequence[Event] = ()) -> pandas.DataFrame:
    """Return one row for each event: the closures of each blink, then movements; times in seconds."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for number, blink in enumerate(blinks):
        for event in (blink.right, blink.left):
            if event is not None:
                rows.append({"event": "blink", "number": number, **_as_row(event), "delay": blink.delay})
    rows += [{"event": "movement", "number": k, **_as_row(event)} for k, event in enumerate(movements)]
    columns = ["event", "number", *_ROW, "delay"]
    return pd.DataFrame(rows, columns=columns)


_ROW = (
    "measure", "face", "side", "frame", "onset", "full", "peak", "release", "end", "duration", "value",
    "baseline", "amplitude", "error", "rise_velocity", "fall_velocity", "complete",
)  # fmt: skip


def _as_row(event: Event) -> dict[str, Any]:
    return {name: getattr(event, name) for name in _ROW}


def write_table(path: str | os.PathLike[str], frame: pandas.DataFrame) -> None:
    """Write a DataFrame as CSV (decimal points, UTF-8) or Parquet, by the path's suffix, whole or not at all.

    Raises
    ------
    MeasureError
        If the suffix is neither ``.csv`` nor ``.parquet``.
    ResultError
        If the file cannot be written, or a library for it is missing.
    """
    suffix = os.fspath(path).lower().rpartition(".")[2]
    if suffix == "csv":
        with replacing(path) as part, open(part, "w", encoding="utf-8", newline="") as stream:
            frame[:0].to_csv(stream, index=False, lineterminator="\n")
            for first in range(0, len(frame), CHUNK):
                stream.writelines(_csv_lines(frame[first : first + CHUNK]))
    elif suffix == "parquet":
        optional("pyarrow", "Writing Parquet")
        with replacing(path) as part:
            frame.to_parquet(part, index=False)
    else:
        raise MeasureError(f"{os.fspath(path)} ends in neither .csv nor .parquet: choose one of them.")


def _csv_lines(frame: pandas.DataFrame) -> Iterator[str]:
    """Yield rows as ``DataFrame.to_csv`` with ``float_format="%.6g"`` writes them, in a fifth of the time.

    Only `TIMES` have more digits. That calls functions of Python for each number; here one formats all floats
    at the end of a row.
    """
    kinds = enumerate(frame.dtypes.items())
    first = max((place + 1 for place, (name, kind) in kinds if kind.kind != "f" or name in TIMES), default=0)
    form = ",".join([""] * bool(first) + ["%.6g"] * (frame.shape[1] - first)) + "\n"
    cells = [_csv_cells(frame.iloc[:, place]) for place in range(first)] or [[""] * len(frame)]
    numbers = frame.iloc[:, first:].to_numpy().tolist()
    for head, row in zip(zip(*cells, strict=True), numbers, strict=True):
        yield ",".join(head) + (form % tuple(row)).replace("nan", "")


def _csv_cells(column: pandas.Series) -> list[str]:
    """Return the cells of a column: quoted where a text needs it, empty where a value is missing."""
    values = column.tolist()
    if column.dtype.kind == "f" and column.name in TIMES:  # six digits would be 0.1 s after three hours
        return ["" if value != value else f"{value:.6f}".rstrip("0").rstrip(".") for value in values]
    if column.dtype.kind == "f":
        return ["" if value != value else f"{value:.6g}" for value in values]
    if column.dtype.kind in "biu":
        return [str(value) for value in values]
    texts = ["" if value is None or value != value else str(value) for value in values]
    quoted = {text: f'"{text.replace(_QUOTE, 2 * _QUOTE)}"' for text in set(texts) if set(text) & _MARKS}
    return [quoted.get(text, text) for text in texts]
