"""List of the file formats of tracks, for scripts, the command line and napari."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.files.npz import BROKEN_FILE
from napari_face_landmarks.files.optional import optional
from napari_face_landmarks.io import deeplabcut, movement, npz_format, openface_csv, pts, sleap, tidy

if TYPE_CHECKING:
    from napari_face_landmarks.data.tracks import Tracks


@dataclass(frozen=True, slots=True)
class Format:
    """A file format.

    Attributes
    ----------
    name : str
        Name for `format=` and ``--format``.
    title : str
        Name in file dialogs.
    suffixes : tuple of str
        The first is the default. The longest suffix that matches a file's name selects the format; among
        equal ones, the first format in `FORMATS`.
    write : callable
        Called with a path and tracks.
    read : callable
        Called with a path; returns tracks.
    recognise : callable
        Returns whether the content of a file has this format; raises nothing.
    loses : str
        What is not stored. All formats store frames, faces and landmarks, bit for bit unless stated here.
    read_by : str
        Other programs that read the format.
    needs : tuple of str
        Required optional libraries.
    also_read : tuple of str
        Suffixes of files that are read but not written in this format.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    write: Callable[[Path, Tracks], None]
    read: Callable[[Path], Tracks]
    recognise: Callable[[Path], bool]
    loses: str
    read_by: str
    needs: tuple[str, ...] = ()
    also_read: tuple[str, ...] = ()


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return {"landmarks.npy", "record.npy"} <= set(archive.namelist())
    except BROKEN_FILE:
        return False


FORMATS: tuple[Format, ...] = (
    Format(
        "openface",
        "OpenFace CSV",
        (".csv",),
        openface_csv.write_csv,
        openface_csv.read_csv,
        openface_csv.is_openface,
        "names of faces, settings and counts of the run",
        "programs that read OpenFace's files",
    ),
    Format(
        "npz",
        "NumPy, everything",
        (".npz",),
        npz_format.write_npz,
        npz_format.read_tracks_npz,
        _is_npz,
        "nothing",
        "NumPy",
    ),
    Format(
        "deeplabcut-h5",
        "DeepLabCut H5",
        (".dlc.h5", ".h5"),
        deeplabcut.write_dlc_h5,
        deeplabcut.read_dlc_h5,
        deeplabcut.is_dlc_h5,
        "nothing; other programs see no source, pose or time",
        "DeepLabCut, pandas, movement",
        ("h5py", "tables"),
    ),
    Format(
        "deeplabcut-csv",
        "DeepLabCut CSV",
        (".dlc.csv", ".csv"),
        deeplabcut.write_dlc_csv,
        deeplabcut.read_dlc_csv,
        deeplabcut.is_dlc_csv,
        "source, manual marks, irises, standard errors, pose, face score, time, settings; "
        "the name of a single face; untracked frames before the first tracked one are read as empty ones",
        "DeepLabCut, LightningPose (one face), movement, pandas",
    ),
    Format(
        "sleap",
        "SLEAP analysis H5",
        (".analysis.h5", ".h5"),
        sleap.write_sleap,
        sleap.read_sleap,
        sleap.is_sleap,
        "nothing; other programs see no source, pose or time",
        "SLEAP, sleap-io, movement, MATLAB",
        ("h5py",),
        (".csv",),
    ),
    Format(
        "movement",
        "movement netCDF",
        (".nc",),
        movement.write_netcdf,
        movement.read_netcdf,
        movement.is_netcdf,
        "nothing",
        "movement (0.17 or newer), xarray",
        ("xarray", "h5netcdf", "h5py"),
    ),
    Format(
        "pts",
        "iBUG .pts in a ZIP",
        (".zip", ".pts"),
        pts.write_pts,
        pts.read_pts,
        pts.is_pts,
        "confidence, source, manual marks, irises, standard errors, names of faces, pose, face score, time, "
        "settings; outside a ZIP models and pixel aspect; "
        "frames without a face, faces with missing landmarks; "
        "coordinates are rounded to a millionth of a pixel",
        "menpo, programs that read 300-W and 300-VW",
    ),
    Format(
        "tidy-csv",
        "Tidy CSV",
        (".tidy.csv", ".csv"),
        tidy.write_tidy_csv,
        tidy.read_tidy_csv,
        tidy.is_tidy_csv,
        "face score, names of faces, settings and counts of the run",
        "pandas, R, spreadsheets",
    ),
    Format(
        "parquet",
        "Tidy Parquet",
        (".parquet",),
        tidy.write_parquet,
        tidy.read_parquet,
        tidy.is_parquet,
        "face score",
        "pandas, polars, R's arrow, DuckDB",
        ("pyarrow",),
    ),
)
"""All formats; the first of those that share a suffix is the default for it."""

SUFFIXES = tuple(
    dict.fromkeys(suffix for item in FORMATS for suffix in item.suffixes if suffix.count(".") == 1)
)
"""Suffixes of all formats, without the double ones that select among formats with a common suffix."""


def format_named(name: str) -> Format:
    """Return the format with a name."""
    for item in FORMATS:
        if item.name == name:
            return item
    names = ", ".join(item.name for item in FORMATS)
    raise ResultError(f"There is no format {name!r}: choose one of {names}.")


def format_to_write(path: str | os.PathLike[str], name: str | None = None) -> Format:
    """Return the format for writing a file; raise an error if its libraries are not installed."""
    path = Path(path)
    if name is None:
        chosen = _format_by_suffix(path)
    else:
        chosen = format_named(name)
        folder = chosen.name == "pts" and not path.suffix
        if not path.name.lower().endswith(chosen.suffixes) and not folder:
            raise ResultError(
                f"{path} does not end in {' or '.join(chosen.suffixes)}, as files in the format {name} do: "
                "give a name that does."
            )
    for library in chosen.needs:
        optional(library, f"Writing {path}")
    return chosen


def named_by_suffix(path: str | os.PathLike[str], name: str) -> str:
    """Return the format selected by a double suffix such as ``.analysis.h5``, else `name`.

    Older versions of napari select writers only by the last part of the suffix.
    """
    for item in FORMATS:
        if item.suffixes[0].count(".") > 1 and os.fspath(path).lower().endswith(item.suffixes[0]):
            return item.name
    return name


def _format_by_suffix(path: Path) -> Format:
    lengths = [
        max((len(suffix) for suffix in item.suffixes if path.name.lower().endswith(suffix)), default=0)
        for item in FORMATS
    ]
    if max(lengths) == 0:
        raise ResultError(
            f"{path} has no suffix of a format: give a name that ends in {', '.join(SUFFIXES[:-1])} or "
            f"{SUFFIXES[-1]}."
        )
    return FORMATS[lengths.index(max(lengths))]


def recognise(path: str | os.PathLike[str]) -> Format | None:
    """Return the format of a file from its suffix and content; None if it is not recognised."""
    path = Path(path)
    if os.path.isdir(path):
        return format_named("pts") if pts.is_pts(path) else None
    for item in FORMATS:
        if path.name.lower().endswith((*item.suffixes, *item.also_read)) and item.recognise(path):
            return item
    return None


def write_tracks(path: str | os.PathLike[str], tracks: Tracks, name: str | None = None) -> None:
    """Write tracks to a file, atomically.

    Parameters
    ----------
    path : path-like
        Its suffix selects the format if `name` is None.
    tracks : Tracks
        Landmarks (T, F, 68, 2).
    name : str, optional
        The format, if several share the suffix.

    Raises
    ------
    ResultError
        If there is no such format, a library is missing, the file cannot be written, or the tracks have no
        frames (which only ``.npz`` can store).
    """
    chosen = format_to_write(path, name)
    if chosen.name != "npz":
        if not tracks.n_frames:
            raise ResultError(f"{path} cannot be written: there are no frames in the result.")
        if not tracks.n_faces:  # stored as one face that is absent from all frames
            tracks = tracks.with_room_for(1)
    chosen.write(Path(path), tracks)


def read_tracks(path: str | os.PathLike[str], name: str | None = None) -> Tracks:
    """Read tracks from a file of any supported format.

    Parameters
    ----------
    path : path-like
        The file, or for iBUG's files also a folder.
    name : str, optional
        The format; by default recognised from the content.

    Raises
    ------
    ResultError
        If the file is missing or has another format, or a library is missing.
    """
    path = Path(path)
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        # a pipe would block; pathlib's tests raise errors in unreadable folders
        raise ResultError(f"{path} is not a file: choose a file of landmarks.")
    chosen = format_named(name) if name is not None else recognise(path) or _format_by_suffix(path)
    return chosen.read(path)
