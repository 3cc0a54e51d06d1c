"""Export of measures and events: wide and long tables, CSV, Parquet, xarray."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import MeasureError
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.files.optional import optional
from napari_face_landmarks.jit import exact_kernel

if TYPE_CHECKING:
    import pandas
    import xarray

    from napari_face_landmarks.measures.events import Blink, Event
    from napari_face_landmarks.measures.table import MeasureTable

FLAGS = ("low_confidence", "turned")
CHUNK = 5000
"""Rows of a CSV file that are formatted at a time."""
TIMES = ("time", "onset", "full", "peak", "release", "end", "duration")
"""Columns in seconds, written with microseconds even for long recordings."""
COMPILED_CELLS = 1_000_000
"""Number of CSV cells from which compiling the formatting kernel pays off."""
LONGEST_CELL = len(",-0.000123457")
POWERS = 10.0 ** np.arange(10)
COMMA, MINUS, POINT, ZERO, NEWLINE = b",-.0\n"
_QUOTE, _MARKS = '"', frozenset(',"\r\n')


def to_dataframe(table: MeasureTable, long: bool = False) -> pandas.DataFrame:
    """Convert a table of measures to a DataFrame.

    Parameters
    ----------
    table : MeasureTable
    long : bool
        One row per measure (tidy form: frame, time, face, measure, side, unit, value, error) instead of one
        per frame and face.

    Returns
    -------
    DataFrame
        Frames and faces are counted from 0, time is in seconds. Wide columns are named ``NAME_UNIT`` and
        ``NAME_UNIT_se``, the standard error. Frames without the face are left out.
    """
    import pandas as pd

    return pd.DataFrame(columns_of(table, long))


def columns_of(table: MeasureTable, long: bool = False) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of `to_dataframe` as arrays, so that CSV can be written without pandas."""
    present = np.isfinite(table.values[..., 0])
    rows, faces = np.nonzero(present)
    index = {
        "frame": table.frame_indices[rows],
        "time": table.timestamps[rows],
        "face": np.array(table.face_names, dtype=object)[faces],
        **{flag: getattr(table, flag)[present] for flag in FLAGS},
        "pose_corrected": np.full(len(rows), table.pose_corrected),
    }
    count = len(table.columns)
    if not long:
        columns = index
        block = np.empty((2 * count, len(rows)), np.float32)
        block[::2] = table.values[present].T
        block[1::2] = table.errors[present].T
        for column, value, error in zip(table.columns, block[::2], block[1::2], strict=True):
            name = column_name(column.name, column.unit)
            columns |= {name: value, f"{name}_se": error}
        return columns
    return {
        **{name: np.repeat(array, count) for name, array in index.items()},
        **{
            title: np.tile(np.array([getattr(column, key) for column in table.columns], object), len(rows))
            for title, key in (("measure", "name"), ("side", "side"), ("unit", "unit"))
        },
        "value": table.values[present].ravel(),
        "error": table.errors[present].ravel(),
    }


def column_name(name: str, unit: str) -> str:
    """Return a column's name with its unit, such as ``mouth_opening_mm``."""
    return name if unit == "ratio" and name.startswith(("closure", "eye_a")) else f"{name}_{unit}"


def to_xarray(table: MeasureTable) -> xarray.Dataset:
    """Convert a table to a Dataset with movement's dimensions time and individuals, and measure."""
    xr = optional("xarray", "Exporting measures to xarray")
    timed = np.isfinite(table.timestamps).all()
    return xr.Dataset(
        {
            "value": (("time", "individuals", "measure"), table.values),
            "error": (("time", "individuals", "measure"), table.errors),
            **{flag: (("time", "individuals"), getattr(table, flag)) for flag in FLAGS},
        },
        coords={
            "time": table.timestamps if timed else table.frame_indices,
            "individuals": list(table.face_names),
            "measure": list(table.names),
            "unit": ("measure", [column.unit for column in table.columns]),
            "frame": ("time", table.frame_indices),
        },
        attrs={
            "time_unit": "seconds" if timed else "frames",
            "scale": table.scale.in_words(),
            "pose_corrected": int(table.pose_corrected),
        },
    )


def events_to_dataframe(blinks: Sequence[Blink], movements: Sequence[Event] = ()) -> pandas.DataFrame:
    """Return a table of events, times in seconds: one row per eye and blink, then one per movement."""
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


def write_table(
    path: str | os.PathLike[str], frame: pandas.DataFrame | Mapping[str, npt.NDArray[Any]]
) -> None:
    """Write columns atomically as CSV (decimal points, UTF-8) or Parquet, chosen by the path's suffix.

    Raises
    ------
    MeasureError
        If the suffix is neither ``.csv`` nor ``.parquet``.
    ResultError
        If the file cannot be written, or pyarrow is missing for Parquet.
    """
    suffix = os.fspath(path).lower().rpartition(".")[2]
    if suffix == "csv":
        columns = {name: np.asarray(frame[name]) for name in frame}
        length = max(map(len, columns.values()))
        format_rows = _compiled_rows if length * len(columns) >= COMPILED_CELLS else _rows
        with replacing(path) as part, open(part, "wb") as stream:
            stream.write(f"{','.join(_csv_cells('', np.array(list(columns), object)))}\n".encode())
            for first in range(0, length, CHUNK):
                chunk = {name: column[first : first + CHUNK] for name, column in columns.items()}
                stream.writelines(format_rows(*_csv_parts(chunk)))
    elif suffix == "parquet":
        optional("pyarrow", "Writing Parquet")
        import pandas as pd

        with replacing(path) as part:
            pd.DataFrame(frame).to_parquet(part, index=False)
    else:
        raise MeasureError(f"{os.fspath(path)} ends in neither .csv nor .parquet: choose one of them.")


def _csv_parts(columns: Mapping[str, npt.NDArray[Any]]) -> tuple[list[bytes], npt.NDArray[np.float64]]:
    """Return the formatted beginning of each row, and the float columns at its end, (N, M).

    The file equals that of ``DataFrame.to_csv`` with ``float_format="%.6g"``, which is slower as it calls
    Python functions for each number, except that `TIMES` have more digits and booleans are upper case.
    """
    first = max(
        (k + 1 for k, (name, part) in enumerate(columns.items()) if part.dtype.kind != "f" or name in TIMES),
        default=0,
    )
    length, floats = len(next(iter(columns.values()))), list(columns.values())[first:]
    numbers = np.empty((length, len(floats)))
    for index, column in enumerate(floats):
        numbers[:, index] = column
    cells = [_csv_cells(name, column) for name, column in list(columns.items())[:first]]
    cells += [[""] * length] * (not cells or len(floats) > 0)
    return [",".join(row).encode() for row in zip(*cells, strict=True)], numbers


def _rows(heads: Sequence[bytes], numbers: npt.NDArray[np.float64]) -> Iterator[bytes]:
    """Yield the rows of a CSV file from their beginnings and numbers."""
    template = ",".join(["%.6g"] * numbers.shape[1]) + "\n"
    for head, row in zip(heads, numbers.tolist(), strict=True):
        yield head + (template % tuple(row)).replace("nan", "").encode()


def _compiled_rows(heads: Sequence[bytes], numbers: npt.NDArray[np.float64]) -> Iterator[bytes]:
    """Yield the same bytes as `_rows` in larger blocks."""
    stops = np.cumsum([0, *map(len, heads)])
    joined = np.frombuffer(b"".join(heads), np.uint8)
    buffer = np.empty(len(joined) + len(heads) * (LONGEST_CELL * numbers.shape[1] + 1), np.uint8)
    row = 0
    while row < len(heads):
        done, length = _fill(buffer, row, joined, stops, numbers)
        yield buffer[:length].tobytes()
        yield from _rows(heads[done : done + 1], numbers[done : done + 1])
        row = done + 1


@exact_kernel
def _fill(buffer: Any, first: int, heads: Any, stops: Any, numbers: Any) -> tuple[int, int]:
    """Write rows from `first` on; return the row at which it stopped, and the number of bytes before it.

    It stops at numbers that "%.6g" writes with an exponent, and at numbers so close to halfway between two
    decimals that the rounding error of the product could decide between them.
    """
    end = 0
    for row in range(first, len(numbers)):
        begin = end
        for position in range(stops[row], stops[row + 1]):
            buffer[end] = heads[position]
            end += 1
        for column in range(numbers.shape[1]):
            number = numbers[row, column]
            if column:
                buffer[end] = COMMA
                end += 1
            if number != number:
                continue
            size, decimals = abs(number), 5
            if not (1e-4 <= size < 999999 or size == 0):
                return row, begin
            while size * POWERS[decimals] >= 1e6:
                decimals -= 1
            while decimals < 9 and size * POWERS[decimals] < 1e5:
                decimals += 1
            digits = int(size * POWERS[decimals])
            remainder = size * POWERS[decimals] - digits
            if abs(remainder - 0.5) < 1e-9:  # the product is wrong by up to 1.1e-10
                return row, begin
            if remainder > 0.5:
                digits += 1
            while decimals and digits % 10 == 0:
                digits //= 10
                decimals -= 1
            if np.signbit(number):
                buffer[end] = MINUS
                end += 1
            width = decimals + 1
            while width < 6 and digits >= POWERS[width]:
                width += 1
            width += decimals > 0
            for position in range(end + width - 1, end - 1, -1):
                if decimals and position == end + width - 1 - decimals:
                    buffer[position] = POINT
                else:
                    buffer[position] = ZERO + digits % 10
                    digits //= 10
            end += width
        buffer[end] = NEWLINE
        end += 1
    return len(numbers), end


def _csv_cells(name: str, column: npt.NDArray[Any]) -> list[str]:
    """Return a column as text: strings are quoted if necessary, missing values are empty."""
    values = column.tolist()
    if column.dtype.kind == "f" and name in TIMES:  # six digits would resolve 0.1 s after three hours
        return ["" if value != value else f"{value:.6f}".rstrip("0").rstrip(".") for value in values]
    if column.dtype.kind == "f":
        return ["" if value != value else f"{value:.6g}" for value in values]
    if column.dtype.kind == "b":  # read as booleans by R, Excel and pandas; R reads "True" as text
        return ["TRUE" if value else "FALSE" for value in values]
    if column.dtype.kind in "iu":
        return [str(value) for value in values]
    texts = ["" if value is None or value != value else str(value) for value in values]
    quoted = {text: f'"{text.replace(_QUOTE, 2 * _QUOTE)}"' for text in set(texts) if set(text) & _MARKS}
    return [quoted.get(text, text) for text in texts]
