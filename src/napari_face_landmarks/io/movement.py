"""Datasets of movement (https://movement.neuroinformatics.dev), in memory and as netCDF files.

Dimensions time, space, keypoint and individual, in the singular as movement has them from 0.17 on (older
plural names are read too); variables ``position`` (px) and ``confidence``; attributes ``fps``,
``time_unit``, ``source_software``, ``source_file`` and ``ds_type``. The time of each frame is in seconds
where it is known, else its number. Variables and attributes that movement passes over keep the rest:
``source``, ``pose``, ``boxes``, ``misfit`` and ``by_hand``, and the coordinate ``frame``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import SOURCES
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import FaceLandmarksError, ResultError, in_one_line
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.files.optional import optional
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.io import hdf5
from napari_face_landmarks.io.common import (
    LANDMARK_NAMES,
    MOST_FACES,
    MOST_ROWS,
    NAMES,
    SOFTWARE,
    face_names,
    frame_rate_of,
    listed,
    make_tracks,
    names_in_files,
    order_by_number,
    order_of_faces,
    record_as_text,
    record_from_text,
    seconds_of,
    with_names,
)
from napari_face_landmarks.io.netcdf3 import check_classic

if TYPE_CHECKING:
    import xarray

POSE = ("scale", "pitch", "yaw", "roll", "tx", "ty")
BOX = ("x0", "y0", "x1", "y1", "score")
MISFIT = ("by_clnf", "off_model")
RECORD = "napari_face_landmarks"
OLD_NAMES = {"keypoints": "keypoint", "individuals": "individual"}
ATTRIBUTES = ("ds_type", "time_unit", "fps", RECORD)
"""Attributes of the dataset that are read."""
IN_ORDER = {
    "position": ("time", "space", "keypoint", "individual"),
    "confidence": ("time", "keypoint", "individual"),
    "source": ("time", "individual"),
    "pose": ("time", "individual", "pose_part"),
    "boxes": ("time", "individual", "box_part"),
    "misfit": ("time", "individual", "misfit_part"),
    "by_hand": ("time", "keypoint", "individual"),
    "timestamp": ("time",),
    "frame": ("time",),
    "time": ("time",),
    "space": ("space",),
    "keypoint": ("keypoint",),
    "individual": ("individual",),
}
"""Variables that are read, and their dimensions as movement and this module order them."""
DIMENSIONS = {dim for dims in IN_ORDER.values() for dim in dims}
LIMITS = {"time": MOST_ROWS, "space": 2, "keypoint": N_LANDMARKS, "individual": MOST_FACES}
NAMED = LIMITS.keys() - {"time"}
"""Coordinates that are texts."""
CDF = b"CDF"


def to_xarray(tracks: Tracks) -> xarray.Dataset:
    """Return tracks as a dataset in movement's conventions (see the module).

    Parameters
    ----------
    tracks : Tracks
        Landmarks (T, F, 68, 2).

    Returns
    -------
    xarray.Dataset
        ``position`` (time, space, keypoint, individual) float32, px; ``confidence`` (time, keypoint,
        individual), NaN where there is no landmark.

    Raises
    ------
    ResultError
        If xarray is not installed.
    """
    library = optional("xarray", "A dataset of movement")
    seconds, fps = seconds_of(tracks), frame_rate_of(tracks)
    there = np.isfinite(tracks.landmarks).all(axis=-1)
    confidence = np.where(there, tracks.confidence, np.float32(np.nan))
    attributes: dict[str, str | float] = {
        "source_software": SOFTWARE,
        "source_file": str(tracks.meta.get("path", "")),
        "ds_type": "poses",
        "time_unit": "frames" if seconds is None else "seconds",
        RECORD: record_as_text(tracks),
    }
    if fps is not None:
        attributes["fps"] = fps
    dataset: xarray.Dataset = library.Dataset(
        data_vars={
            "position": (
                ("time", "space", "keypoint", "individual"),
                np.ascontiguousarray(tracks.landmarks.transpose(0, 3, 2, 1)),
                {"units": "px", "long_name": "place in the picture, x to the right, y down"},
            ),
            "confidence": (
                ("time", "keypoint", "individual"),
                np.ascontiguousarray(confidence.transpose(0, 2, 1)),
            ),
            "source": (
                ("time", "individual"),
                tracks.source,
                {"flag_values": np.arange(len(SOURCES), dtype=np.uint8), "flag_meanings": " ".join(SOURCES)},
            ),
            "pose": (("time", "individual", "pose_part"), tracks.pose),
            "boxes": (("time", "individual", "box_part"), tracks.boxes),
            "misfit": (("time", "individual", "misfit_part"), tracks.misfit),
            "by_hand": (
                ("time", "keypoint", "individual"),
                np.ascontiguousarray(tracks.by_hand.transpose(0, 2, 1)).astype(np.uint8),
            ),
            "timestamp": (("time",), tracks.timestamps),
        },
        coords={
            "time": tracks.frame_indices if seconds is None else seconds,
            "space": ["x", "y"],
            "keypoint": list(LANDMARK_NAMES),
            "individual": names_in_files(tracks.meta.get(NAMES), tracks.n_faces),
            "frame": ("time", tracks.frame_indices),
            "pose_part": list(POSE),
            "box_part": list(BOX),
            "misfit_part": list(MISFIT),
        },
        attrs=attributes,
    )
    return dataset


def write_netcdf(path: Path, tracks: Tracks) -> None:
    """Write tracks as a netCDF file that movement reads (see the module).

    Raises
    ------
    ResultError
        If the file cannot be written, or xarray or h5netcdf is not installed.
    """
    h5netcdf, xarray = optional("h5netcdf", f"Writing {path}"), optional("xarray", f"Writing {path}")
    dataset = to_xarray(tracks)
    small = {"zlib": True, "complevel": 4, "shuffle": True}
    encoding = {name: small for name in ("position", "confidence", "pose", "boxes") if dataset[name].size}
    content = io.BytesIO()
    with replacing(path) as temporary:
        with h5netcdf.File(content, "w") as file:
            dataset.dump_to_store(xarray.backends.H5NetCDFStore(file), encoding=encoding)
        temporary.write_bytes(content.getbuffer())


def is_netcdf(path: Path) -> bool:
    """Return whether a file is a netCDF file that has positions."""
    if _is_classic(path):
        return True
    return {"position", "time"} <= hdf5.names_in(path)


def _is_classic(path: Path) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read(3) == CDF
    except OSError:
        return False


def read_netcdf(path: Path) -> Tracks:
    """Read tracks from a netCDF file of movement's, written here or by movement itself.

    Raises
    ------
    ResultError
        If it is no such file, or h5py (netCDF 4) or xarray (classic netCDF) is not installed.
    """
    if _is_classic(path):
        return _read_classic(path)
    with hdf5.reading(path) as file:
        return _tracks_of(*_in_hdf5(file, path), path)


def _read_classic(path: Path) -> Tracks:
    library = optional("xarray", f"Reading {path}")
    check_classic(path)
    try:
        with library.open_dataset(
            path, engine="scipy", decode_times=False, decode_timedelta=False
        ) as dataset:
            return from_xarray(dataset, path)
    except FaceLandmarksError:
        raise
    except hdf5.BROKEN_FILE as error:
        raise ResultError(
            f"{path} is no dataset of movement ({in_one_line(error)}): save it again."
        ) from None


@dataclass(frozen=True, slots=True)
class _Variable:
    """A variable of a dataset: its dimensions, how long they are, and its values once they are asked for."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    values: Callable[[], npt.NDArray[Any]]

    def along(self, *dims: str) -> npt.NDArray[Any]:
        """Return the values with their axes in this order."""
        return self.values().transpose([self.dims.index(name) for name in dims])


def _in_hdf5(file: Any, path: Path) -> tuple[dict[str, _Variable], dict[str, Any]]:
    """Return the variables of a netCDF 4 file and its attributes.

    Each variable has the numbers of its dimensions in ``_Netcdf4Coordinates``. Older files name them only by
    references, which the HDF5 library follows into memory that is not its own where they are damaged; there
    the dimensions are taken in movement's order.
    """
    numbers: dict[int, str] = {}
    for name in file:
        if _today(name) in DIMENSIONS:
            number = hdf5.attribute(hdf5.member(file, name, "Dataset", path), "_Netcdf4Dimid", path)
            if number is not None:
                numbers[int(number)] = _today(name)
    found: dict[str, _Variable] = {}
    for name in file:
        today = _today(name)
        if today not in IN_ORDER:
            continue
        dataset = hdf5.member(file, name, "Dataset", path)
        if hdf5.is_bare_dimension(dataset, path):
            continue
        ids = hdf5.attribute(dataset, "_Netcdf4Coordinates", path)
        numbered = IN_ORDER[today] if ids is None else tuple(map(numbers.get, np.ravel(ids).tolist()))
        dims = tuple(dim for dim in numbered if dim is not None)
        if len(dims) != len(numbered) or len(dims) != len(dataset.shape):
            if today in LIMITS or today in ("position", "confidence"):
                raise ResultError(
                    f"{path}: {name!r} has the shape {dataset.shape} and no dimensions that fit it: give a "
                    "dataset of movement."
                )
            continue  # another program's, of the same name
        found[today] = _Variable(dims, dataset.shape, partial(_values_of, file, name, dataset, path))
    attributes = {
        name: _single(hdf5.attribute(file, name, path)) for name in ATTRIBUTES if name in file.attrs
    }
    return found, attributes


def _today(name: str) -> str:
    """Return the name that movement gives a dimension or variable today."""
    return OLD_NAMES.get(name, name)


def _single(value: Any) -> Any:
    """Return an attribute as a text or number where it is a single one."""
    value = value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.size == 1 else value
    return value.decode() if isinstance(value, bytes) else value


def _values_of(file: Any, name: str, dataset: Any, path: Path) -> npt.NDArray[Any]:
    """Return the values of a dataset of a file, missing ones as NaN."""
    today = _today(name)
    if today in NAMED:
        return np.array(hdf5.texts(file, name, LIMITS[today], path), dtype=object)
    if {"scale_factor", "add_offset"} & set(dataset.attrs):
        raise ResultError(f"{path}: {name!r} is packed into small numbers: save it as it is.")
    values = hdf5.array(file, name, dataset.shape, path)
    for mark in ("_FillValue", "missing_value"):
        missing = _single(hdf5.attribute(dataset, mark, path))
        if missing is not None and values.dtype.kind == "f":
            values = np.where(values == missing, values.dtype.type(np.nan), values)
    return values


def from_xarray(dataset: xarray.Dataset, path: Path = Path("The dataset")) -> Tracks:
    """Return tracks of a dataset in movement's conventions.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of poses with 68 keypoints, in two dimensions.
    path : Path
        Where it comes from, for sentences.

    Raises
    ------
    ResultError
        If it is no such dataset.
    """
    found = {
        _today(str(name)): _Variable(
            tuple(_today(str(dim)) for dim in variable.dims), variable.shape, variable.to_numpy
        )
        for name, variable in dataset.variables.items()
        if _today(str(name)) in IN_ORDER
    }
    return _tracks_of(found, {str(name): value for name, value in dataset.attrs.items()}, path)


def _tracks_of(found: Mapping[str, _Variable], attributes: Mapping[str, Any], path: Path) -> Tracks:
    if attributes.get("ds_type", "poses") != "poses" or "position" not in found:
        raise ResultError(f"{path} has no poses: give a dataset of movement with ds_type 'poses'.")
    sizes: dict[str, int] = {}
    for name, variable in found.items():
        for dim, length in zip(variable.dims, variable.shape, strict=True):
            if sizes.setdefault(dim, length) != length:
                raise ResultError(
                    f"{path}: {name!r} has {length} values along {dim!r}, others {sizes[dim]}: save it again."
                )
    position = found["position"]
    if sorted(position.dims) != sorted(LIMITS):
        raise ResultError(f"{path} has the dimensions {listed(position.dims)}: give a dataset of movement.")
    if (
        any(sizes[name] > limit for name, limit in LIMITS.items())
        or sizes["time"] * sizes["individual"] > MOST_ROWS
    ):
        raise ResultError(
            f"{path} is larger than can be held, or has not {N_LANDMARKS} keypoints of x and y."
        )
    if sizes["keypoint"] != N_LANDMARKS or sizes["space"] != 2:
        raise ResultError(
            f"{path} has {sizes['keypoint']} keypoints: only faces of {N_LANDMARKS} points in 2D are read."
        )
    landmarks = position.along("time", "individual", "keypoint", "space")
    space = [str(name) for name in found["space"].values()] if "space" in found else ["x", "y"]
    if sorted(space) != ["x", "y"]:
        raise ResultError(f"{path} has the axes {listed(space)}: give one with x and y.")
    landmarks = landmarks[..., [space.index("x"), space.index("y")]]
    confidence = None
    if "confidence" in found:
        given = found["confidence"]
        if sorted(given.dims) == ["individual", "time"]:
            confidence = np.repeat(given.along("time", "individual")[..., None], N_LANDMARKS, axis=2)
        elif sorted(given.dims) == ["individual", "keypoint", "time"]:
            confidence = given.along("time", "individual", "keypoint")
        else:
            raise ResultError(
                f"{path}: the confidence has the dimensions {listed(given.dims)}: give a dataset of movement."
            )
        # without a confidence in movement: all of it NaN
        confidence = None if np.isnan(confidence).all() else confidence
    names = face_names(sizes["individual"])
    if "individual" in found:
        names = [str(value) for value in found["individual"].values()]
    points = np.arange(N_LANDMARKS)
    if "keypoint" in found:
        points = np.argsort(order_by_number([str(value) for value in found["keypoint"].values()]))
    faces = np.argsort(order_of_faces(names))
    where = np.ix_(faces, points)
    record = record_from_text(str(attributes[RECORD]), path) if RECORD in attributes else {}
    record = with_names(record, [names[face] for face in faces])
    fps = attributes.get("fps")
    if fps is not None and "fps" not in record.get("meta", {}):
        record = {**record, "meta": {**record.get("meta", {}), "fps": float(fps)}}
    frames, seconds = _times(found, sizes["time"], attributes)
    extra: dict[str, npt.NDArray[Any]] = {}
    for name in ("source", "pose", "boxes", "misfit"):
        dims = IN_ORDER[name]
        if name in found and sorted(found[name].dims) == sorted(dims):
            if any(sizes[part] > len(POSE) for part in dims[2:]):
                raise ResultError(
                    f"{path}: {name} does not fit the landmarks: the file is damaged, save it again."
                )
            extra[name] = found[name].along(*dims)[:, faces]
    if "by_hand" in found and sorted(found["by_hand"].dims) == ["individual", "keypoint", "time"]:
        marks = found["by_hand"].along("time", "individual", "keypoint")
        extra["by_hand"] = marks[:, where[0], where[1]]
    return make_tracks(
        path,
        landmarks[:, where[0], where[1]],
        None if confidence is None else confidence[:, where[0], where[1]],
        frames,
        seconds,
        record=record,
        **extra,
    )


def _times(
    found: Mapping[str, _Variable], length: int, attributes: Mapping[str, Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]:
    """Return the number and the time of every frame."""

    def of_frames(name: str) -> npt.NDArray[Any] | None:
        there = name in found and found[name].dims == ("time",)
        return found[name].values() if there else None

    given = of_frames("time")
    time = np.arange(length, dtype=np.float64) if given is None else given.astype(np.float64)
    in_seconds, fps = attributes.get("time_unit") == "seconds", attributes.get("fps")
    seconds, stamps, numbers = time if in_seconds else None, of_frames("timestamp"), of_frames("frame")
    if stamps is not None:
        seconds = stamps.astype(np.float64)
    if numbers is not None:
        return numbers.astype(np.int64), seconds
    frames = np.rint(time * float(fps)) if in_seconds and fps else time
    if in_seconds and not fps:
        frames = np.arange(length)
    return frames.astype(np.int64), seconds
