"""Landmarks as a table in OpenFace's column convention: written so that nothing is lost, and read back.

The columns, in the order of OpenFace 2 (Baltrusaitis et al. 2018, "OpenFace 2.0"):

- ``frame`` (from 1), ``face_id`` (from 0), ``timestamp`` (s), ``confidence`` (mean of the landmarks', 0 to
  1), ``success`` (1: there is a face);
- ``pose_Tx, pose_Ty, pose_Tz`` (mm from the camera; only where the size of the picture is known),
  ``pose_Rx, pose_Ry, pose_Rz`` (rad; R = Rx Ry Rz);
- ``x_0 .. x_67, y_0 .. y_67`` (px, pixel centres at whole numbers, from 0);
- ``p_scale, p_rx, p_ry, p_rz, p_tx, p_ty``, the weak-perspective pose (px per mm, rad, px).

Columns that OpenFace does not have follow: ``source``, ``c_0 .. c_67`` (confidence of each landmark) and
``box_x0, box_y0, box_x1, box_y1, box_score``. As OpenFace does for one face, a frame without a face has one
row with ``success`` 0; its numbers are 0. Reading makes such rows NaN again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.export.files import replacing
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.tracking.results import SOURCES, Tracks

if TYPE_CHECKING:
    import pandas

FRAME_COLUMNS = ("frame", "face_id", "timestamp", "confidence", "success")
TRANSLATION_COLUMNS = ("pose_Tx", "pose_Ty", "pose_Tz")
ROTATION_COLUMNS = ("pose_Rx", "pose_Ry", "pose_Rz")
LANDMARK_COLUMNS = tuple(f"{axis}_{i}" for axis in "xy" for i in range(N_LANDMARKS))
RIGID_COLUMNS = ("p_scale", "p_rx", "p_ry", "p_rz", "p_tx", "p_ty")
CONFIDENCE_COLUMNS = tuple(f"c_{i}" for i in range(N_LANDMARKS))
BOX_COLUMNS = ("box_x0", "box_y0", "box_x1", "box_y1", "box_score")

LARGEST_HEADER = 1 << 20  # bytes; OpenFace's own is 8 kB
MOST_ROWS = 2_000_000
MOST_FACES = 1000
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
    present = np.isfinite(tracks.landmarks[part]).any(axis=(2, 3))
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
    return columns


def _as_text(column: tuple[str, npt.NDArray[Any]]) -> list[str]:
    """Return the values as the shortest decimals that give the same float32 or float64 again."""
    return [str(text) for text in column[1].astype(str).tolist()]


def _image_size(tracks: Tracks) -> tuple[int, int] | None:
    size = tracks.meta.get("size")
    return (int(size[0]), int(size[1])) if size is not None else None


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
    import pandas as pd

    target = Path(path)
    _check_header(target)
    wanted = {*FRAME_COLUMNS, *ROTATION_COLUMNS, *LANDMARK_COLUMNS, *RIGID_COLUMNS, "source"}
    wanted |= {*CONFIDENCE_COLUMNS, *BOX_COLUMNS}
    parts: list[dict[str, npt.NDArray[Any]]] = []
    n_rows = 0
    try:
        with pd.read_csv(
            target,
            usecols=lambda name: str(name).strip() in wanted,
            skipinitialspace=True,
            float_precision="round_trip",
            chunksize=ROWS_AT_A_TIME,
            low_memory=False,
            index_col=False,
            encoding="utf-8-sig",
        ) as chunks:
            for chunk in chunks:
                chunk.columns = [str(name).strip() for name in chunk.columns]
                parts.append(_read_part(chunk, target, n_rows))
                n_rows += len(chunk)
                if n_rows > MOST_ROWS:
                    raise ResultError(
                        f"{target} has more than {MOST_ROWS} rows: split it and read the parts."
                    )
    except ResultError:
        raise
    except OSError as error:
        raise ResultError(f"{target} cannot be read ({(error.strerror or str(error)).lower()}).") from error
    except (ValueError, pd.errors.ParserError, OverflowError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else "malformed"
        raise ResultError(f"{target} is not a table of landmarks that can be read ({reason}).") from error
    if n_rows == 0:
        raise ResultError(f"{target} has no rows: track the video again.")
    return _assemble({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, target)


def _check_header(path: Path) -> None:
    try:
        with open(path, "rb") as stream:
            head = stream.read(LARGEST_HEADER)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ResultError(f"{path} cannot be read ({reason}): check the name of the file.") from error
    line = head.split(b"\n", 1)[0]
    if b"\0" in head or len(line) == LARGEST_HEADER:
        raise ResultError(f"{path} is not a table of text: give a CSV file in OpenFace's columns.")
    names = {name.strip() for name in line.decode("utf-8-sig", errors="replace").split(",")}
    missing = [name for name in ("frame", "timestamp", *LANDMARK_COLUMNS) if name not in names]
    if missing:
        raise ResultError(
            f"{path} has no column {missing[0]!r}: give a CSV file of a video in OpenFace's columns "
            "(frame, timestamp, x_0 .. x_67, y_0 .. y_67)."
        )


def _read_part(chunk: Any, path: Path, first_row: int) -> dict[str, npt.NDArray[Any]]:
    """Return a part of the table as arrays of one row per face and frame; `first_row` counts from 0."""

    def numbers(names: tuple[str, ...]) -> npt.NDArray[np.float64] | None:
        if not all(name in chunk.columns for name in names):
            return None
        for name in names:
            if chunk[name].dtype.kind not in "iufb":
                raise ResultError(f"{path} has text where numbers belong, in the column {name!r}.")
        return np.asarray(chunk[list(names)].to_numpy(dtype=np.float64))

    def refuse(bad: npt.NDArray[np.bool_], what: str) -> None:
        if bad.any():
            line = first_row + int(np.argmax(bad)) + 2
            raise ResultError(f"{path} has {what} in line {line}: correct that line or remove it.")

    n = len(chunk)
    part: dict[str, npt.NDArray[Any]] = {}
    for name, default, low, high in (
        ("frame", None, 1, 2**53),
        ("face_id", 0, 0, MOST_FACES - 1),
        ("success", 1, 0, 1),
    ):
        column = numbers((name,))
        values = np.full(n, default, dtype=np.float64) if column is None else column[:, 0]
        refuse(~((values >= low) & (values <= high) & (values == np.floor(values))), f"no valid {name}")
        part[name] = values.astype(np.int64)
    timestamp = numbers(("timestamp",))
    assert timestamp is not None
    refuse(np.isinf(timestamp[:, 0]), "no valid timestamp")
    part["timestamp"] = timestamp[:, 0]

    success = part["success"] == 1
    landmarks = numbers(LANDMARK_COLUMNS)
    assert landmarks is not None
    refuse(
        success & (np.isinf(landmarks).any(axis=1) | np.isnan(landmarks).all(axis=1)), "no valid landmarks"
    )
    part["landmarks"] = landmarks.reshape(n, 2, N_LANDMARKS).transpose(0, 2, 1).astype(np.float32)

    each = numbers(CONFIDENCE_COLUMNS)
    face = numbers(("confidence",))
    if each is None:
        each = np.repeat(np.ones((n, 1)) if face is None else face, N_LANDMARKS, axis=1)
    refuse(success & ~((each >= 0) & (each <= 1)).all(axis=1), "no valid confidence")
    part["confidence"] = each.astype(np.float32)

    pose = numbers(RIGID_COLUMNS)
    if pose is None:
        pose = np.full((n, 6), np.nan)
        rotation = numbers(ROTATION_COLUMNS)
        if rotation is not None:
            pose[:, 1:4] = rotation
    part["pose"] = pose.astype(np.float32)
    boxes = numbers(BOX_COLUMNS)
    part["boxes"] = (np.full((n, 5), np.nan) if boxes is None else boxes).astype(np.float32)
    if "source" in chunk.columns:
        codes = {name: code for code, name in enumerate(SOURCES)}
        source = np.array([codes.get(str(value).strip(), -1) for value in chunk["source"]])
        refuse(source < 0, "no valid source")
    else:
        source = np.full(n, SOURCES.index("clnf"))
    part["source"] = source.astype(np.uint8)
    return part


def _assemble(rows: Mapping[str, npt.NDArray[Any]], path: Path) -> Tracks:
    """Return the rows as arrays (T, F, ...); frames and faces that have no row stay empty."""
    frames, first, t = np.unique(rows["frame"], return_index=True, return_inverse=True)
    n_frames, n_faces = len(frames), int(rows["face_id"].max()) + 1
    if n_frames * n_faces > MOST_ROWS:
        raise ResultError(
            f"{path} names {n_faces} faces on {n_frames} frames, more than can be held: split it."
        )
    f = rows["face_id"]
    cell = t * n_faces + f
    if len(np.unique(cell)) < len(cell):
        raise ResultError(f"{path} has the same face more than once on a frame: remove the repeated rows.")
    arrays: dict[str, npt.NDArray[Any]] = {}
    success = rows["success"] == 1
    shapes = {"landmarks": (N_LANDMARKS, 2), "confidence": (N_LANDMARKS,), "pose": (6,), "boxes": (5,)}
    for name, shape in shapes.items():
        arrays[name] = np.full((n_frames, n_faces, *shape), np.nan, dtype=np.float32)
        arrays[name][t[success], f[success]] = rows[name][success]
    arrays["confidence"] = np.nan_to_num(arrays["confidence"])
    source = np.zeros((n_frames, n_faces), dtype=np.uint8)
    source[t[success], f[success]] = rows["source"][success]
    return Tracks(
        landmarks=arrays["landmarks"],
        confidence=arrays["confidence"],
        source=source,
        pose=arrays["pose"],
        boxes=arrays["boxes"],
        frame_indices=frames - 1,
        timestamps=rows["timestamp"][first],
    )
