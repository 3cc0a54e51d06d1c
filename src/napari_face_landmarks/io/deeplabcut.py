"""DeepLabCut's tables: CSV, and HDF5 as pandas writes it.

Columns have the levels scorer, individuals (not with one face), bodyparts and coords (x, y, likelihood).
There is a row for every frame of the video from 0 on, since some programs count the rows instead of reading
the index. The scorer is this program with its models (`common.scorer_name`). Manual labels
(``CollectedData_*``) have x and y only, and name images instead of frames: the frame is the number at the end
of the image's name. Their landmarks are manual, with confidence 1.

DeepLabCut's own HDF5 files have column names in pickles, which could execute code. `_PlainUnpickler` refuses
everything but lists, tuples, dicts, numbers and strings.
"""

from __future__ import annotations

import csv
import io
import itertools
import pickle
import pickletools
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import MANUAL
from napari_face_landmarks.data.names import NAMES, RESERVED, face_identifier, names_in_files
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ResultError, in_one_line
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.files.optional import optional
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.io import common, hdf5

KEY = "df_with_missing"
COORDS = ("x", "y", "likelihood")
LEVELS = ("scorer", "individuals", "bodyparts", "coords")
MAX_COLUMNS = common.MAX_FACES * N_LANDMARKS * len(COORDS)
MAX_LINE_LENGTH = 32 << 20  # characters
MAX_CSV_BYTES = 16 << 30
CHUNK_ROWS = 1024
MAX_NAME_LENGTH = 256

Columns = list[tuple[str, ...]]


def column_names(tracks: Tracks) -> list[tuple[str, ...]]:
    """Return the columns' names, with the levels as in the file: three for one face, four for more."""
    faces = names_in_files(tracks.meta.get(NAMES), tracks.n_faces)
    columns = list(itertools.product([common.scorer_name(tracks)], faces, common.LANDMARK_NAMES, COORDS))
    return [(a, c, d) for a, _, c, d in columns] if tracks.n_faces == 1 else list(columns)


def level_names(n_faces: int) -> tuple[str, ...]:
    """Return the names of the columns' levels."""
    return tuple(level for level in LEVELS if n_faces != 1 or level != "individuals")


def _table_values(tracks: Tracks, path: Path) -> npt.NDArray[np.float32]:
    """Return the table, (N, F * 68 * 3) float32; missing landmarks have a likelihood of 0.

    pandas' CSV reader would take a first row without values for the name of the index.
    """
    landmarks, confidence = common.dense_arrays(tracks, path)
    values = np.concatenate([landmarks, np.nan_to_num(confidence)[..., np.newaxis]], axis=-1)
    return values.reshape(len(values), -1)


def write_dlc_csv(path: Path, tracks: Tracks) -> None:
    """Write landmarks as DeepLabCut's CSV file (see the module)."""
    values = _table_values(tracks, path)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        header = csv.writer(stream, lineterminator="\n")
        for level, names in zip(
            level_names(tracks.n_faces), zip(*column_names(tracks), strict=True), strict=True
        ):
            header.writerow([level, *names])
        for start in range(0, len(values), CHUNK_ROWS):
            part = values[start : start + CHUNK_ROWS]
            # the shortest decimals that are read back as the same float32
            cells = np.where(np.isnan(part), "", part.astype(str)).tolist()
            stream.writelines(f"{start + i},{','.join(row)}\n" for i, row in enumerate(cells))


def is_dlc_csv(path: Path) -> bool:
    """Return whether a CSV file begins as DeepLabCut's."""
    return common.first_bytes(path, 7) in (b"scorer,", b"scorer;")


def read_dlc_csv(path: Path) -> Tracks:
    """Read landmarks from DeepLabCut's CSV file, one or several individuals of 68 bodyparts.

    Names ending in 0 to 67, or 1 to 68, give the landmark; otherwise the order does.
    """
    import pandas as pd

    with common.reading_table(path, "a table of DeepLabCut's", MAX_CSV_BYTES):
        with open(path, encoding=common.text_encoding(path), newline="") as stream:
            mark = ";" if stream.readline(MAX_LINE_LENGTH).startswith("scorer;") else ","
            stream.seek(0)
            header = {row[0]: row[1:] for row in _header_rows(stream, path, mark)}
            n_lines = len(header)
        n_index = 1  # columns without a name; labels placed by hand have three
        while header and all(row[:1] == [""] for row in header.values()):
            header, n_index = {level: row[1:] for level, row in header.items()}, n_index + 1
        names = [header[level] for level in LEVELS if level in header]
        columns: Columns = list(zip(*names, strict=True)) if len({len(row) for row in names}) == 1 else []
        place, faces, scorer = _column_indices(
            columns, tuple(level for level in LEVELS if level in header), path
        )
        table = pd.read_csv(
            path,
            header=None,
            skiprows=n_lines,
            sep=mark,
            decimal="," if mark == ";" else ".",
            dtype={k: str if k < n_index else np.float64 for k in range(n_index + len(columns))},
            na_values=[""],
            encoding=common.text_encoding(path),
            **common.exact_decimals(),
        )
    if table.shape[1] != len(columns) + n_index:
        raise ResultError(
            f"{path} has {table.shape[1]} columns under {len(columns) + n_index} names: correct it."
        )
    index = _parse_frames(table.iloc[:, :n_index].fillna("").agg("/".join, axis=1).tolist(), path)
    return _tracks(index, table.iloc[:, n_index:].to_numpy(np.float64), place, faces, scorer, path)


def _parse_frames(names: list[str], path: Path) -> npt.NDArray[np.float64]:
    """Return the frame of each row: its number, or that at the end of the name of a picture."""
    try:
        return np.array(names, dtype=np.float64)
    except ValueError:
        pass
    places = [re.split(r"[\\/]", name) for name in names]
    clips = sorted({"/".join(place[:-1]) for place in places})
    if len(clips) > 1:
        raise ResultError(
            f"{path} has labels of {len(clips)} clips ({common.joined(clips)[:80]}): give a "
            "file with those of one."
        )
    numbers = [re.search(r"(\d{1,9})(\.\w+)?$", place[-1]) for place in places]
    if not all(numbers):
        raise ResultError(
            f"{path} has neither frame numbers nor pictures with numbers in its first column: correct it."
        )
    return np.array([int(number.group(1)) for number in numbers if number], dtype=np.float64)


def _header_rows(stream: Any, path: Path, mark: str) -> list[list[str]]:
    rows = []
    while (line := stream.readline(MAX_LINE_LENGTH)) and len(line) < MAX_LINE_LENGTH:
        rows.append(next(csv.reader([line], delimiter=mark), []) or [""])
        if rows[-1][0] == "coords" or len(rows) == len(LEVELS):
            break
    if not rows or rows[-1][0] != "coords" or any(row[0] not in LEVELS for row in rows):
        raise ResultError(
            f"{path} does not begin with the names of DeepLabCut's columns: choose such a file."
        )
    return rows


def _column_indices(
    columns: Columns, levels: tuple[str, ...], path: Path
) -> tuple[npt.NDArray[np.int64], list[str], str]:
    """Return the columns of each face, (F, 68, 3), or (F, 68, 2) without likelihoods, names, and scorer."""
    wanted = [level for level in ("individuals", "bodyparts", "coords") if level in levels]
    if "bodyparts" not in wanted or "coords" not in wanted or not 0 < len(columns) <= MAX_COLUMNS:
        raise ResultError(f"{path} does not name bodyparts and coords: give a file of DeepLabCut's.")
    keys = [tuple(column[levels.index(level)] for level in wanted) for column in columns]
    if "individuals" not in wanted:
        keys = [(face_identifier(0), *key) for key in keys]
    place = {key: k for k, key in enumerate(keys)}
    several = len({key[0] for key in keys}) > 1
    keys = [key for key in keys if not (several and key[0] in RESERVED)]  # unique bodyparts are of no face
    faces = list(dict.fromkeys(key[0] for key in keys))
    parts = list(dict.fromkeys(key[1] for key in keys))
    if len(parts) != N_LANDMARKS or len(faces) > common.MAX_FACES:
        raise ResultError(
            f"{path} has {len(parts)} bodyparts of {len(faces)} individuals ({common.joined(parts)[:80]}): "
            f"it must have {N_LANDMARKS} bodyparts, and at most {common.MAX_FACES} individuals."
        )
    coords = COORDS[:2] if {key[2] for key in keys} == set(COORDS[:2]) else COORDS
    places = np.zeros((len(faces), N_LANDMARKS, len(coords)), dtype=np.int64)
    try:
        faces = [faces[face] for face in np.argsort(common.face_order(faces))]
        for f, face in enumerate(faces):
            for p, part in zip(common.order_by_number(parts), parts, strict=True):
                places[f, p] = [place[face, part, coord] for coord in coords]
    except KeyError:
        raise ResultError(
            f"{path} lacks x, y or likelihood of {common.joined([face, part])}: give a file that has all."
        ) from None
    scorer = columns[0][levels.index("scorer")] if "scorer" in levels else ""
    return places, faces if "individuals" in wanted else [], scorer


def _tracks(
    index: npt.NDArray[Any],
    values: npt.NDArray[Any],
    places: npt.NDArray[np.int64],
    faces: list[str],
    scorer: str,
    path: Path,
    file: Any = None,
) -> Tracks:
    whole = np.isfinite(index) & (index == np.floor(index)) & (index >= 0)
    if (
        not whole.all()
        or (len(index) and index.max() >= common.MAX_ROWS)
        or len(np.unique(index)) < len(index)
    ):
        raise ResultError(f"{path} must have frame numbers in its first column, each once: correct them.")
    if len(index) * places.shape[0] > common.MAX_ROWS:
        raise ResultError(f"{path} has more faces and frames than can be read: split it.")
    order = np.argsort(index, kind="stable")
    cells = values[order][:, places.reshape(-1)].reshape(-1, *places.shape)
    frames = index[order].astype(np.int64)
    record = common.add_meta(common.add_names(None, faces), common.parse_scorer(scorer))
    if places.shape[-1] == 2:
        there = np.isfinite(cells).all(axis=-1)
        manual = np.full(there.shape[:2], MANUAL)
        arrays = {"landmarks": cells, "source": manual, "by_hand": there}
        return common.make_tracks(path, arrays, frames, record=record)
    landmarks, confidence = cells[..., :2], cells[..., 2]
    if file is not None and np.array_equal(frames, np.arange(len(frames))):
        return hdf5.assemble_tracks(file, path, landmarks, confidence, faces, scorer)
    return common.make_tracks(path, {"landmarks": landmarks, "confidence": confidence}, frames, record=record)


def write_dlc_h5(path: Path, tracks: Tracks) -> None:
    """Write landmarks as DeepLabCut's HDF5 file; the group `hdf5.EXTRA_GROUP` has the rest."""
    import pandas as pd

    optional("tables", f"Writing {path}")
    optional("h5py", f"Writing {path}")
    values = _table_values(tracks, path)
    columns = pd.MultiIndex.from_tuples(column_names(tracks), names=level_names(tracks.n_faces))
    frame = pd.DataFrame(values.astype(np.float64), columns=columns, index=np.arange(len(values)))
    with replacing(path) as temporary:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from pandas and PyTables, about names and speed
            with pd.HDFStore(
                temporary, "w", 4, "zlib", driver="H5FD_CORE", driver_core_backing_store=0
            ) as store:
                # "table" would pickle the names into an attribute, of at most 64 KiB: five faces
                store.put(KEY, frame, format="fixed")
                content = io.BytesIO(store.root._v_file.get_file_image())
        hdf5.write_extra(content, tracks)
        temporary.write_bytes(content.getvalue())


def is_dlc_h5(path: Path) -> bool:
    """Return whether an HDF5 file has the table that DeepLabCut writes."""
    return KEY in hdf5.root_names(path)


def read_dlc_h5(path: Path) -> Tracks:
    """Read landmarks from DeepLabCut's HDF5 file; its pickles execute nothing."""
    with hdf5.reading(path) as file:
        if KEY not in file:
            raise ResultError(
                f"{path} has neither a table of DeepLabCut's nor tracks of SLEAP's: choose a file that has."
            )
        group = hdf5.member(file, KEY, "Group", path)
        read = _read_table if "table" in group else _read_fixed
        index, values, columns, levels = read(group, path)
        return _tracks(index, values, *_column_indices(columns, levels, path), path, file)


def _read_fixed(group: Any, path: Path) -> tuple[Any, Any, Columns, tuple[str, ...]]:
    """Return the index, values and columns of a table that pandas wrote as "fixed"."""
    if _integer(group, "nblocks", path) != 1:
        raise ResultError(f"{path} has a table of several types: give a file of DeepLabCut's.")
    n_levels = _integer(group, "block0_items_nlevels", path)
    if not 3 <= n_levels <= len(LEVELS):
        raise ResultError(f"{path} has columns of {n_levels} levels: give a file of DeepLabCut's.")
    index = _read_index(group, path)
    values = hdf5.array(group, "block0_values", (common.MAX_ROWS, MAX_COLUMNS), path, kinds="fiu")
    names, levels = [], []
    for k in range(n_levels):
        level = hdf5.texts(group, f"block0_items_level{k}", MAX_COLUMNS, path)
        label = hdf5.array(group, f"block0_items_label{k}", (MAX_COLUMNS,), path, kinds="iu")
        if len(label) != values.shape[1] or not ((label >= 0) & (label < len(level))).all():
            raise ResultError(f"{path} has damaged names of columns: save it again.")
        names.append([level[i] for i in label])
        levels.append(_text(hdf5.attribute(group[f"block0_items_level{k}"], "name", path)))
    if len(index) != len(values):
        raise ResultError(f"{path} has {len(values)} rows under {len(index)} numbers: save it again.")
    return index, values, list(zip(*names, strict=True)), tuple(levels)


def _read_index(group: Any, path: Path) -> npt.NDArray[np.float64]:
    """Return the frame of each row; manual labels have a path, in one or several parts, instead."""
    if "axis1" in group:
        dataset = hdf5.member(group, "axis1", "Dataset", path)
        if dataset.dtype.kind in "iuf":
            return hdf5.array(group, "axis1", (common.MAX_ROWS,), path).astype(np.float64)
        return _parse_frames(hdf5.texts(group, "axis1", common.MAX_ROWS, path), path)
    parts = []
    for k in range(min(_integer(group, "axis1_nlevels", path), 8)):
        level = np.array([*hdf5.texts(group, f"axis1_level{k}", common.MAX_ROWS, path), ""], dtype=object)
        label = hdf5.array(group, f"axis1_label{k}", (common.MAX_ROWS,), path, kinds="iu")
        if not ((label >= -1) & (label < len(level) - 1)).all():
            raise ResultError(f"{path} has damaged names of rows: save it again.")
        parts.append(level[label])
    return _parse_frames(["/".join(names) for names in zip(*parts, strict=True)], path)


def _read_table(group: Any, path: Path) -> tuple[Any, Any, Columns, tuple[str, ...]]:
    """Return the index, values and columns of a table that pandas wrote as "table", as DeepLabCut has it."""
    dataset = hdf5.member(group, "table", "Dataset", path)
    fields = dataset.dtype.fields or {}
    block = dataset.dtype["values_block_0"] if "values_block_0" in fields else None
    if (
        set(fields) != {"index", "values_block_0"}
        or block is None
        or len(block.shape) != 1
        or block.hasobject
    ):
        raise ResultError(
            f"{path} has a table of other columns than DeepLabCut's: give a file of DeepLabCut's."
        )
    table = hdf5.rows(dataset, "table", path)
    columns = _unpickle_plain(hdf5.attribute(dataset, "values_block_0_kind", path), path)
    info = _unpickle_plain(hdf5.attribute(group, "info", path), path)
    names: Any = []
    if isinstance(info, dict) and isinstance(info.get(1), dict):
        names = info[1].get("names")
    named = isinstance(columns, list) and all(
        isinstance(column, tuple)
        and all(isinstance(name, str) and len(name) <= MAX_NAME_LENGTH for name in column)
        for column in columns
    )
    fit = named and isinstance(names, list) and len(columns) == block.shape[0]
    if not fit or any(len(column) != len(names) for column in columns):
        raise ResultError(f"{path} has damaged names of columns: save it again.")
    return table["index"].astype(np.float64), table["values_block_0"], columns, tuple(map(str, names))


def _integer(group: Any, name: str, path: Path) -> int:
    value = hdf5.attribute(group, name, path)
    return 0 if value is None else int(value)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, tuples, dicts, numbers and texts, and refuses everything that names a Python object."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse to import anything."""
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to objects outside the pickle."""
        raise pickle.UnpicklingError("it refers to an entry that is missing")


def _unpickle_plain(pickled: Any, path: Path) -> Any:
    """Return the lists, tuples, dicts, numbers and texts of a pickle; nothing is imported or called."""
    try:
        if not isinstance(pickled, (bytes, np.void)):
            raise TypeError("it is not a pickle")
        data = bytes(pickled)
        for operation, value, _ in pickletools.genops(data):
            if "PUT" in operation.name and not 0 <= int(value or 0) <= len(data):
                raise ValueError("it numbers more entries than it has")  # the unpickler makes room for them
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # damaged pickles raise errors of almost any type
        raise ResultError(
            f"{path} names its columns in a pickle that is not plain text ({in_one_line(error)}), as files "
            "of Python 2 do: convert it by pandas.read_hdf(FILE).to_csv(FILE.csv), and give that file."
        ) from None
