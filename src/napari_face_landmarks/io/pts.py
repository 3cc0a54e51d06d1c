"""iBUG's ``.pts`` files, as in 300-W and 300-VW: one file per face and frame, in a ZIP archive or a folder.

In the files the centre of the upper left pixel is (1, 1), here (0, 0). Files are named after the frame,
counted from 1 as in 300-VW: ``000001.pts``, or ``000001_face_0.pts`` if there are several faces. Files with
other names are read as frames of a video in alphabetical order; single files can be read, too. The archive's
comment names the models (`common.scorer_name`).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.names import face_identifier
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ResultError, in_one_line, os_errors_as, reason_of
from napari_face_landmarks.files.atomic import check_writable, replacing
from napari_face_landmarks.files.npz import BROKEN_FILE
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.io.common import (
    MAX_ROWS,
    add_meta,
    count_faces,
    make_tracks,
    parse_scorer,
    scorer_name,
)

ORIGIN = 1.0
"""Coordinates of the centre of the first pixel in these files."""
MAX_BYTES = 64 << 10  # bytes; a file has 2 kB
NUMBERED = re.compile(r"^(\d{1,9})(?:_face_(\d{1,4}))?$")
HEADER = re.compile(rb"\s*version:\s*1\s+n_points:\s*(\d+)\s*\{([^{}]*)\}\s*\Z")


def _format_points(landmarks: npt.NDArray[np.float32]) -> str:
    lines = [f"{x:.6f} {y:.6f}" for x, y in (landmarks.astype(np.float64) + ORIGIN).tolist()]
    return "\n".join([f"version: 1\nn_points:  {N_LANDMARKS}\n{{", *lines, "}", ""])


def _named_texts(tracks: Tracks) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each file."""
    complete = np.isfinite(tracks.landmarks).all(axis=(2, 3))
    for t, f in zip(*np.nonzero(complete), strict=True):
        frame = f"{int(tracks.frame_indices[t]) + 1:06d}"
        name = frame if tracks.n_faces == 1 else f"{frame}_{face_identifier(f)}"
        yield f"{name}.pts", _format_points(tracks.landmarks[t, f])


def write_pts(path: Path, tracks: Tracks) -> None:
    """Write a ``.pts`` file for each complete face on each frame (see the module)."""
    suffix = path.suffix.lower()
    if not np.isfinite(tracks.landmarks).all(axis=(2, 3)).any():
        raise ResultError(
            f"{path} would be empty, since no frame has a face with all landmarks: check the video, or save "
            "as .npz."
        )
    if suffix == ".pts":
        texts = [text for _, text in _named_texts(tracks)]
        if len(texts) != 1:
            raise ResultError(f"{path} can store one face, not {len(texts)}: give a name that ends in .zip.")
        with replacing(path) as temporary:
            temporary.write_text(texts[0], encoding="ascii")
    elif suffix == ".zip":
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.comment = scorer_name(tracks).encode()
            for name, text in _named_texts(tracks):
                archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    else:
        _write_folder(path, tracks)


def _write_folder(path: Path, tracks: Tracks) -> None:
    if path.exists():
        raise ResultError(f"{path} exists: give the name of a new folder.")
    check_writable(path)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with os_errors_as(ResultError, f"{path} cannot be written", "choose another folder"):
            temporary.mkdir()
            for name, text in _named_texts(tracks):
                (temporary / name).write_text(text, encoding="ascii")
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_pts(path: Path) -> bool:
    """Return whether a path is a ``.pts`` file, or an archive or folder of such files."""
    try:
        if path.is_dir():
            return next(path.glob("*.pts"), None) is not None
        if path.suffix.lower() == ".pts":
            with open(path, "rb") as stream:
                return stream.read(8) == b"version:"
        with zipfile.ZipFile(path) as archive:
            return any(name.lower().endswith(".pts") for name in archive.namelist()[:1000])
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile):
        return False


def read_pts(path: Path) -> Tracks:
    """Read a ``.pts`` file, or an archive or folder of them (see the module)."""
    try:
        if path.is_dir():
            files = sorted(path.glob("*.pts"))
            return _tracks(((file.stem, _read_bytes(file)) for file in files), len(files), path)
        if path.suffix.lower() == ".pts":
            return _tracks(iter([(path.stem, _read_bytes(path))]), 1, path)
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.lower().endswith(".pts")]
            if any(info.file_size > MAX_BYTES for info in members):
                raise ResultError(f"{path} has a member larger than any .pts file: make it again.")
            read = ((Path(info.filename).stem, archive.open(info).read(MAX_BYTES + 1)) for info in members)
            comment = archive.comment.decode("utf-8", "replace")
            return _tracks(read, len(members), path, comment)
    except OSError as error:
        reason = reason_of(error)
        raise ResultError(f"{path} cannot be read ({reason}): check the name of the file.") from None
    except ResultError:
        raise
    except BROKEN_FILE as error:
        raise ResultError(f"{path} cannot be read ({in_one_line(error)}): make it again.") from None


def _read_bytes(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _parse_points(content: bytes, name: str, path: Path) -> npt.NDArray[np.float64]:
    """Parse the landmarks of one file, (68, 2), pixel coordinates from 0."""
    match = HEADER.match(content) if len(content) <= MAX_BYTES else None
    if match is None:
        raise ResultError(
            f"{path}: {name}.pts is not a .pts file (version: 1, n_points, braces): correct it."
        )
    try:
        values = np.array(match.group(2).split(), dtype=np.float64)
    except ValueError:
        values = np.zeros(0)
    if (
        int(match.group(1)) != N_LANDMARKS
        or values.shape != (2 * N_LANDMARKS,)
        or not np.isfinite(values).all()
    ):
        raise ResultError(
            f"{path}: {name}.pts must have {N_LANDMARKS} points of two numbers each: correct it."
        )
    return values.reshape(N_LANDMARKS, 2) - ORIGIN


def _tracks(files: Iterator[tuple[str, bytes]], n_files: int, path: Path, scorer: str = "") -> Tracks:
    if not 0 < n_files <= MAX_ROWS:
        raise ResultError(f"{path} has {n_files} .pts files: give 1 to {MAX_ROWS}.")
    names, points = [], np.empty((n_files, N_LANDMARKS, 2), dtype=np.float32)
    for k, (name, content) in enumerate(files):
        names.append(name)
        points[k] = _parse_points(content, name, path)
    matches = [match for name in names if (match := NUMBERED.match(name)) and int(match.group(1)) > 0]
    if len(matches) == len(names):
        frame = np.array([int(match.group(1)) - 1 for match in matches])
        face = np.array([int(match.group(2) or 0) for match in matches])
    else:
        frame, face = np.argsort(np.argsort(names)), np.zeros(n_files, dtype=np.int64)
    frames, t = np.unique(frame, return_inverse=True)
    n_faces = count_faces(path, t, face, rows="files")
    landmarks = np.full((len(frames), n_faces, N_LANDMARKS, 2), np.nan, dtype=np.float32)
    landmarks[t, face] = points
    return make_tracks(path, {"landmarks": landmarks}, frames, record=add_meta(None, parse_scorer(scorer)))
