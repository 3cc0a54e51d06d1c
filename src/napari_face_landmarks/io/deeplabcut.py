"""DeepLabCut's tables: CSV, and HDF5 as pandas writes it.

Columns have the levels scorer, individuals (absent for one face), bodyparts and coords (x, y, likelihood).
There is a row for every frame of the video from 0 on, since some programs count rows instead of reading the
index. The scorer names this program and the models (`common.scorer_name`). Manual labels
(``CollectedData_*``) have only x and y, and rows named after images: the frame is the number at the end of
the image's name. Their landmarks are read as manual with confidence 1.

DeepLabCut's own HDF5 files store column names in pickles, which could execute code. `_PlainUnpickler` refuses
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
    """Return the names of the columns, tuples of one name per level (three for one face, else four)."""
    faces = names_in_files(tracks.meta.get(NAMES), tracks.n_faces)
    columns = list(itertools.product([common.scorer_name(tracks)], faces, common.LANDMARK_NAMES, COORDS))
    return [(a, c, d) for a, _, c, d in columns] if tracks.n_faces == 1 else list(columns)


def level_names(n_faces: int) -> tuple[str, ...]:
    """Return the names of the column levels."""
    return tuple(level for level in LEVELS if n_faces != 1 or level != "individuals")


def _table_values(tracks: Tracks, path: Path) -> npt.NDArray[np.float32]:
    """Return the values of the table, (N, F * 68 * 3) float32.

    Missing landmarks have a likelihood of 0, since pandas' CSV reader would take a first row without values
    for the name of the index.
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
            # astype(str) gives the shortest decimals that are read back as the same float32
            cells = np.where(np.isnan(part), "", part.astype(str)).tolist()
            stream.writelines(f"{start + i},{','.join(row)}\n" for i, row in enumerate(cells))


def is_dlc_csv(path: Path) -> bool:
    """Return whether a CSV file begins like DeepLabCut's."""
    return common.first_bytes(path, 7) in (b"scorer,", b"scorer;")


def read_dlc_csv(path: Path) -> Tracks:
    """Read landmarks from a CSV file of DeepLabCut with one or several individuals of 68 bodyparts.

    Bodyparts whose names end in 0 to 67, or 1 to 68, are assigned to these landmarks, others in their order.
    """
    import pandas as pd

    with common.reading_table(path, "a table of DeepLabCut's", MAX_CSV_BYTES):
        with open(path, encoding=common.text_encoding(path), newline="") as stream:
            separator = ";" if stream.readline(MAX_LINE_LENGTH).startswith("scorer;") else ","
            stream.seek(0)
            header = {row[0]: row[1:] for row in _header_rows(stream, path, separator)}
            n_lines = len(header)
        n_index = 1  # columns without a name; files of manual labels have three
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
            sep=separator,
            decimal="," if separator == ";" else ".",
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
    """Return the frame number of each row: its name, or the number at the end of an image's name."""
    try:
        return np.array(names, dtype=np.float64)
    except ValueError:
        pass
    paths = [re.split(r"[\\/]", name) for name in names]
    clips = sorted({"/".join(parts[:-1]) for parts in paths})
    if len(clips) > 1:
        raise ResultError(
            f"{path} has labels of {len(clips)} clips ({common.joined(clips)[:80]}): give a "
            "file with labels of one clip."
        )
    matches = [re.search(r"(\d{1,9})(\.\w+)?$", parts[-1]) for parts in paths]
    if not all(matches):
        raise ResultError(
            f"{path} has neither frame numbers nor images with numbers in its first column: correct it."
        )
    return np.array([int(match.group(1)) for match in matches if match], dtype=np.float64)


def _header_rows(stream: Any, path: Path, separator: str) -> list[list[str]]:
    rows = []
    while (line := stream.readline(MAX_LINE_LENGTH)) and len(line) < MAX_LINE_LENGTH:
        rows.append(next(csv.reader([line], delimiter=separator), []) or [""])
        if rows[-1][0] == "coords" or len(rows) == len(LEVELS):
            break
    if not rows or rows[-1][0] != "coords" or any(row[0] not in LEVELS for row in rows):
        raise ResultError(
            f"{path} does not begin with DeepLabCut's column names: choose a file of DeepLabCut."
        )
    return rows


def _column_indices(
    columns: Columns, levels: tuple[str, ...], path: Path
) -> tuple[npt.NDArray[np.int64], list[str], str]:
    """Return column indices (F, 68, 3), or (F, 68, 2) without likelihoods, names of faces, and scorer."""
    key_levels = [level for level in ("individuals", "bodyparts", "coords") if level in levels]
    if "bodyparts" not in key_levels or "coords" not in key_levels or not 0 < len(columns) <= MAX_COLUMNS:
        raise ResultError(f"{path} does not name bodyparts and coords: give a file of DeepLabCut.")
    keys = [tuple(column[levels.index(level)] for level in key_levels) for column in columns]
    if "individuals" not in key_levels:
        keys = [(face_identifier(0), *key) for key in keys]
    index = {key: k for k, key in enumerate(keys)}
    several = len({key[0] for key in keys}) > 1
    keys = [key for key in keys if not (several and key[0] in RESERVED)]  # unique bodyparts have no face
    faces = list(dict.fromkeys(key[0] for key in keys))
    parts = list(dict.fromkeys(key[1] for key in keys))
    if len(parts) != N_LANDMARKS or len(faces) > common.MAX_FACES:
        raise ResultError(
            f"{path} has {len(parts)} bodyparts of {len(faces)} individuals ({common.joined(parts)[:80]}): "
            f"it must have {N_LANDMARKS} bodyparts, and at most {common.MAX_FACES} individuals."
        )
    coords = COORDS[:2] if {key[2] for key in keys} == set(COORDS[:2]) else COORDS
    indices = np.zeros((len(faces), N_LANDMARKS, len(coords)), dtype=np.int64)
    try:
        faces = [faces[face] for face in np.argsort(common.face_order(faces))]
        for f, face in enumerate(faces):
            for p, part in zip(common.order_by_number(parts), parts, strict=True):
                indices[f, p] = [index[face, part, coord] for coord in coords]
    except KeyError:
        raise ResultError(
            f"{path} lacks x, y or likelihood of {common.joined([face, part])}: give a complete file."
        ) from None
    scorer = columns[0][levels.index("scorer")] if "scorer" in levels else ""
    return indices, faces if "individuals" in key_levels else [], scorer


def _tracks(
    rows: npt.NDArray[Any],
    values: npt.NDArray[Any],
    columns: npt.NDArray[np.int64],
    faces: list[str],
    scorer: str,
    path: Path,
    file: Any = None,
) -> Tracks:
    """Assemble tracks from frame numbers (N,), values (N, columns), and the result of `_column_indices`."""
    is_frame = np.isfinite(rows) & (rows == np.floor(rows)) & (rows >= 0) & (rows < common.MAX_ROWS)
    if not is_frame.all() or len(np.unique(rows)) < len(rows):
        raise ResultError(f"{path} must have frame numbers in its first column, each once: correct them.")
    if len(rows) * columns.shape[0] > common.MAX_ROWS:
        raise ResultError(f"{path} has more faces and frames than can be read: split it.")
    order = np.argsort(rows, kind="stable")
    cells = values[order][:, columns.reshape(-1)].reshape(-1, *columns.shape)
    frames = rows[order].astype(np.int64)
    record = common.add_meta(common.add_names(None, faces), common.parse_scorer(scorer))
    if columns.shape[-1] == 2:
        present = np.isfinite(cells).all(axis=-1)
        manual = np.full(present.shape[:2], MANUAL)
        arrays = {"landmarks": cells, "source": manual, "by_hand": present}
        return common.make_tracks(path, arrays, frames, record=record)
    landmarks, confidence = cells[..., :2], cells[..., 2]
    if file is not None and np.array_equal(frames, np.arange(len(frames))):
        return hdf5.assemble_tracks(file, path, landmarks, confidence, faces, scorer)
    return common.make_tracks(path, {"landmarks": landmarks, "confidence": confidence}, frames, record=record)


def write_dlc_h5(path: Path, tracks: Tracks) -> None:
    """Write tracks as DeepLabCut's HDF5 file; the group `hdf5.EXTRA_GROUP` has all other arrays."""
    import pandas as pd

    optional("tables", f"Writing {path}")
    optional("h5py", f"Writing {path}")
    values = _table_values(tracks, path)
    columns = pd.MultiIndex.from_tuples(column_names(tracks), names=level_names(tracks.n_faces))
    frame = pd.DataFrame(values.astype(np.float64), columns=columns, index=np.arange(len(values)))
    with replacing(path) as temporary:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pandas and PyTables warn about names and speed
            with pd.HDFStore(
                temporary, "w", 4, "zlib", driver="H5FD_CORE", driver_core_backing_store=0
            ) as store:
                # "table" would pickle the names into an attribute of at most 64 KiB, enough for five faces
                store.put(KEY, frame, format="fixed")
                content = io.BytesIO(store.root._v_file.get_file_image())
        hdf5.write_extra(content, tracks)
        temporary.write_bytes(content.getvalue())


def is_dlc_h5(path: Path) -> bool:
    """Return whether an HDF5 file has DeepLabCut's table."""
    return KEY in hdf5.root_names(path)


def read_dlc_h5(path: Path) -> Tracks:
    """Read landmarks from an HDF5 file of DeepLabCut; pickles in it cannot execute code."""
    with hdf5.reading(path) as file:
        if KEY not in file:
            raise ResultError(
                f"{path} has neither DeepLabCut's table nor SLEAP's tracks: choose a file of one of them."
            )
        group = hdf5.member(file, KEY, "Group", path)
        read = _read_table if "table" in group else _read_fixed
        index, values, columns, levels = read(group, path)
        return _tracks(index, values, *_column_indices(columns, levels, path), path, file)


def _read_fixed(group: Any, path: Path) -> tuple[Any, Any, Columns, tuple[str, ...]]:
    """Return the index, values, columns and levels of a table that pandas wrote in the format "fixed"."""
    if _integer(group, "nblocks", path) != 1:
        raise ResultError(f"{path} has a table with several data types: give a file of DeepLabCut.")
    n_levels = _integer(group, "block0_items_nlevels", path)
    if not 3 <= n_levels <= len(LEVELS):
        raise ResultError(f"{path} has columns with {n_levels} levels: give a file of DeepLabCut.")
    index = _read_index(group, path)
    values = hdf5.array(group, "block0_values", (common.MAX_ROWS, MAX_COLUMNS), path, kinds="fiu")
    names, levels = [], []
    for k in range(n_levels):
        level = hdf5.texts(group, f"block0_items_level{k}", MAX_COLUMNS, path)
        label = hdf5.array(group, f"block0_items_label{k}", (MAX_COLUMNS,), path, kinds="iu")
        if len(label) != values.shape[1] or not ((label >= 0) & (label < len(level))).all():
            raise ResultError(f"{path} has damaged column names: save it again.")
        names.append([level[i] for i in label])
        levels.append(_text(hdf5.attribute(group[f"block0_items_level{k}"], "name", path)))
    if len(index) != len(values):
        raise ResultError(f"{path} has {len(values)} rows under {len(index)} numbers: save it again.")
    return index, values, list(zip(*names, strict=True)), tuple(levels)


def _read_index(group: Any, path: Path) -> npt.NDArray[np.float64]:
    """Return the frame of each row; manual labels have a path, in one or several parts, instead of it."""
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
            raise ResultError(f"{path} has damaged row names: save it again.")
        parts.append(level[label])
    return _parse_frames(["/".join(names) for names in zip(*parts, strict=True)], path)


def _read_table(group: Any, path: Path) -> tuple[Any, Any, Columns, tuple[str, ...]]:
    """Return the same as `_read_fixed` for the format "table", in which DeepLabCut writes."""
    dataset = hdf5.member(group, "table", "Dataset", path)
    fields = dataset.dtype.fields or {}
    block = dataset.dtype["values_block_0"] if "values_block_0" in fields else None
    if (
        set(fields) != {"index", "values_block_0"}
        or block is None
        or len(block.shape) != 1
        or block.hasobject
    ):
        raise ResultError(f"{path} has columns other than DeepLabCut's: give a file of DeepLabCut.")
    table = hdf5.rows(dataset, "table", path)
    columns = _unpickle_plain(hdf5.attribute(dataset, "values_block_0_kind", path), path)
    info = _unpickle_plain(hdf5.attribute(group, "info", path), path)
    levels: Any = []
    if isinstance(info, dict) and isinstance(info.get(1), dict):
        levels = info[1].get("names")
    valid = isinstance(columns, list) and all(
        isinstance(column, tuple)
        and all(isinstance(name, str) and len(name) <= MAX_NAME_LENGTH for name in column)
        for column in columns
    )
    valid = valid and isinstance(levels, list) and len(columns) == block.shape[0]
    if not valid or any(len(column) != len(levels) for column in columns):
        raise ResultError(f"{path} has damaged column names: save it again.")
    return table["index"].astype(np.float64), table["values_block_0"], columns, tuple(map(str, levels))


def _integer(group: Any, name: str, path: Path) -> int:
    value = hdf5.attribute(group, name, path)
    return 0 if value is None else int(value)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler for lists, tuples, dicts, numbers and strings; refuses references to Python objects."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse to import anything."""
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to objects outside the pickle."""
        raise pickle.UnpicklingError("it refers to an entry that is missing")


def _unpickle_plain(pickled: Any, path: Path) -> Any:
    """Unpickle lists, tuples, dicts, numbers and strings without importing or calling anything."""
    try:
        if not isinstance(pickled, (bytes, np.void)):
            raise TypeError("it is not a pickle")
        data = bytes(pickled)
        for operation, value, _ in pickletools.genops(data):
            if "PUT" in operation.name and not 0 <= int(value or 0) <= len(data):
                # the unpickler would allocate memory for all of them
                raise ValueError("it numbers more entries than it has")
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # damaged pickles raise errors of almost any type
        raise ResultError(
            f"{path} stores its column names in a pickle that is not plain data ({in_one_line(error)}), like "
            "files of Python 2: convert it with pandas.read_hdf(FILE).to_csv(FILE.csv), and give that file."
        ) from None
