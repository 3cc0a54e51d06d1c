"""Datasets of movement (https://movement.neuroinformatics.dev), in memory and as netCDF files.

Dimensions time, space, keypoint and individual (older plural names are read too); variables ``position`` (px)
and ``confidence``; attributes ``fps``, ``time_unit``, ``source_software``, ``source_file`` and ``ds_type``.
``time`` is in seconds if they are known, otherwise the frame. The other fields of `FIELDS` are variables that
movement ignores, and ``frame`` is a coordinate.
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

from napari_face_landmarks.data.fields import FIELD, SOURCES, Field
from napari_face_landmarks.data.names import NAMES, face_identifiers, names_in_files
from napari_face_landmarks.data.tracks import Tracks, frame_rate_of, seconds_of
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.files.optional import optional
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.io import common, hdf5
from napari_face_landmarks.io.hdf5 import EXTRA

if TYPE_CHECKING:
    import xarray

RECORD = "napari_face_landmarks"
FORMER_NAMES = {"keypoints": "keypoint", "individuals": "individual"}
ATTRIBUTES = ("ds_type", "time_unit", "fps", RECORD)
"""Attributes of the dataset that are read."""


def _dims(item: Field) -> tuple[str, ...]:
    """Return the dimensions of an array of `EXTRA`, as they are written."""
    if item.per_landmark:
        return "time", "keypoint", "individual"
    return ("time", "individual", f"{item.column}_part") if item.parts else ("time", "individual")


VARIABLES = {
    "position": ("time", "space", "keypoint", "individual"),
    "confidence": ("time", "keypoint", "individual"),
    **{item.name: _dims(item) for item in EXTRA},
    "timestamp": ("time",),
    "frame": ("time",),
    "time": ("time",),
    "space": ("space",),
    "keypoint": ("keypoint",),
    "individual": ("individual",),
}
"""Variables that are read, with their dimensions in the order of movement and of this module."""
DIMENSIONS = {dim for dims in VARIABLES.values() for dim in dims}
LIMITS = {"time": common.MAX_ROWS, "space": 2, "keypoint": N_LANDMARKS, "individual": common.MAX_FACES}
STRING_COORDINATES = LIMITS.keys() - {"time"}
"""Coordinates that are strings."""
CDF = b"CDF"
"""The beginning of classic netCDF files, which nothing writes here."""


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
        "source_software": common.SOFTWARE,
        "source_file": str(tracks.meta.get("path", "")),
        "ds_type": "poses",
        "time_unit": "frames" if seconds is None else "seconds",
        RECORD: common.record_to_json(tracks),
    }
    if fps is not None:
        attributes["fps"] = fps
    dataset: xarray.Dataset = library.Dataset(
        data_vars={
            "position": (
                ("time", "space", "keypoint", "individual"),
                np.ascontiguousarray(tracks.landmarks.transpose(0, 3, 2, 1)),
                {"units": "px", "long_name": FIELD["landmarks"].description},
            ),
            "confidence": (
                ("time", "keypoint", "individual"),
                np.ascontiguousarray(confidence.transpose(0, 2, 1)),
            ),
            **{item.name: _variable(tracks, item) for item in EXTRA},
            "timestamp": (("time",), tracks.timestamps),
        },
        coords={
            "time": tracks.frame_indices if seconds is None else seconds,
            "space": ["x", "y"],
            "keypoint": list(common.LANDMARK_NAMES),
            "individual": names_in_files(tracks.meta.get(NAMES), tracks.n_faces),
            "frame": ("time", tracks.frame_indices),
            **{f"{item.column}_part": list(item.parts) for item in EXTRA if item.parts},
        },
        attrs=attributes,
    )
    return dataset


def _variable(tracks: Tracks, item: Field) -> tuple[tuple[str, ...], npt.NDArray[Any], dict[str, Any]]:
    """Return the dimensions, values and attributes of an array of `EXTRA`; netCDF has no bool."""
    values, attributes = getattr(tracks, item.name), dict[str, Any](long_name=item.description)
    if item.name == "source":
        codes = np.arange(len(SOURCES), dtype=np.uint8)
        attributes |= {"flag_values": codes, "flag_meanings": " ".join(SOURCES)}
    values = values.astype(np.uint8) if values.dtype == np.bool_ else values
    values = values.swapaxes(1, 2) if item.per_landmark else values
    return _dims(item), np.ascontiguousarray(values), attributes


def write_netcdf(path: Path, tracks: Tracks) -> None:
    """Write tracks as a netCDF file that movement reads (see the module)."""
    h5netcdf, xarray = optional("h5netcdf", f"Writing {path}"), optional("xarray", f"Writing {path}")
    dataset = to_xarray(tracks)
    small = {"zlib": True, "complevel": 4, "shuffle": True}
    encoding = {str(name): small for name, values in dataset.data_vars.items() if values.size}
    content = io.BytesIO()
    with replacing(path) as temporary:
        with h5netcdf.File(content, "w") as file:
            dataset.dump_to_store(xarray.backends.H5NetCDFStore(file), encoding=encoding)
        temporary.write_bytes(content.getvalue())


def is_netcdf(path: Path) -> bool:
    """Return whether a file is a netCDF file that has positions, or a classic one, which is refused."""
    return _is_classic(path) or {"position", "time"} <= hdf5.root_names(path)


def _is_classic(path: Path) -> bool:
    return common.first_bytes(path, 3) == CDF


def read_netcdf(path: Path) -> Tracks:
    """Read tracks from a netCDF file of movement's, written here or by movement itself."""
    if _is_classic(path):
        raise ResultError(
            f"{path} is a classic netCDF file, which is not read: save it as netCDF 4, in Python with "
            "xarray.load_dataset(path).to_netcdf(new_path, engine='h5netcdf')."
        )
    with hdf5.reading(path) as file:
        return _assemble(*_read_variables(file, path), path)


@dataclass(frozen=True, slots=True)
class _Variable:
    """A variable of a dataset: its dimensions, its shape, and a function that reads its values."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    values: Callable[[], npt.NDArray[Any]]

    def along(self, *dims: str) -> npt.NDArray[Any]:
        """Return the values with their axes in this order."""
        return self.values().transpose([self.dims.index(name) for name in dims])


def _read_variables(file: Any, path: Path) -> tuple[dict[str, _Variable], dict[str, Any]]:
    """Return the variables of a netCDF 4 file and its attributes.

    Each variable has the numbers of its dimensions in ``_Netcdf4Coordinates``. Older files have only
    references, which are not dereferenced (the HDF5 library reads out of bounds if they are damaged);
    movement's order is assumed.
    """
    numbers: dict[int, str] = {}
    for name in file:
        if _current_name(name) in DIMENSIONS:
            number = hdf5.attribute(hdf5.member(file, name, "Dataset", path), "_Netcdf4Dimid", path)
            if number is not None:
                numbers[int(number)] = _current_name(name)
    found: dict[str, _Variable] = {}
    for name in file:
        today = _current_name(name)
        if today not in VARIABLES:
            continue
        dataset = hdf5.member(file, name, "Dataset", path)
        if hdf5.is_dimension_only(dataset, path):
            continue
        ids = hdf5.attribute(dataset, "_Netcdf4Coordinates", path)
        numbered = VARIABLES[today] if ids is None else tuple(map(numbers.get, np.ravel(ids).tolist()))
        dims = tuple(dim for dim in numbered if dim is not None)
        if len(dims) != len(numbered) or len(dims) != len(dataset.shape):
            if today in LIMITS or today in ("position", "confidence"):
                raise ResultError(
                    f"{path}: {name!r} has the shape {dataset.shape} and no dimensions that fit it: "
                    "choose a dataset of movement."
                )
            continue  # another program's, of the same name
        found[today] = _Variable(dims, dataset.shape, partial(_read_values, file, name, dataset, path))
    attributes = {
        name: _scalar(hdf5.attribute(file, name, path)) for name in ATTRIBUTES if name in file.attrs
    }
    return found, attributes


def _current_name(name: str) -> str:
    """Return the current name of a dimension or variable in movement."""
    return FORMER_NAMES.get(name, name)


def _scalar(value: Any) -> Any:
    """Return an attribute as a string or number if it is a single one."""
    value = value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.size == 1 else value
    return value.decode() if isinstance(value, bytes) else value


def _read_values(file: Any, name: str, dataset: Any, path: Path) -> npt.NDArray[Any]:
    """Return the values of a dataset of a file, missing ones as NaN."""
    today = _current_name(name)
    if today in STRING_COORDINATES:
        return np.array(hdf5.texts(file, name, LIMITS[today], path), dtype=object)
    if {"scale_factor", "add_offset"} & set(dataset.attrs):
        raise ResultError(f"{path}: {name!r} is packed into small numbers: save it as it is.")
    values = hdf5.array(file, name, dataset.shape, path)
    for mark in ("_FillValue", "missing_value"):
        missing = _scalar(hdf5.attribute(dataset, mark, path))
        if missing is not None and values.dtype.kind == "f":
            values = np.where(values == missing, values.dtype.type(np.nan), values)
    return values


def from_xarray(dataset: xarray.Dataset, path: Path = Path("The dataset")) -> Tracks:
    """Return tracks of a dataset of 68 keypoints in movement's conventions; a `ResultError` for others."""
    found = {
        _current_name(str(name)): _Variable(
            tuple(_current_name(str(dim)) for dim in variable.dims), variable.shape, variable.to_numpy
        )
        for name, variable in dataset.variables.items()
        if _current_name(str(name)) in VARIABLES
    }
    return _assemble(found, {str(name): value for name, value in dataset.attrs.items()}, path)


def _assemble(found: Mapping[str, _Variable], attributes: Mapping[str, Any], path: Path) -> Tracks:
    if attributes.get("ds_type", "poses") != "poses" or "position" not in found:
        raise ResultError(f"{path} has no poses: choose a dataset of movement with ds_type 'poses'.")
    sizes = _checked_sizes(found, path)
    landmarks = found["position"].along("time", "individual", "keypoint", "space")
    space = [str(name) for name in found["space"].values()] if "space" in found else ["x", "y"]
    if sorted(space) != ["x", "y"]:
        raise ResultError(f"{path} has the axes {common.joined(space)}: give one with x and y.")
    landmarks = landmarks[..., [space.index("x"), space.index("y")]]
    names = face_identifiers(sizes["individual"])
    if "individual" in found:
        names = [str(value) for value in found["individual"].values()]
    points = np.arange(N_LANDMARKS)
    if "keypoint" in found:
        points = np.argsort(common.order_by_number([str(value) for value in found["keypoint"].values()]))
    faces = np.argsort(common.face_order(names))
    record = common.record_from_json(str(attributes[RECORD]), path) if RECORD in attributes else {}
    record = common.add_names(record, [names[face] for face in faces])
    fps = attributes.get("fps")
    if fps is not None and "fps" not in record.get("meta", {}):
        record = {**record, "meta": {**record.get("meta", {}), "fps": float(fps)}}
    arrays = {
        "landmarks": landmarks,
        "confidence": _confidence(found, path),
        **_extra_arrays(found, sizes, path),
    }
    for name, values in arrays.items():
        if values is not None:
            arrays[name] = values[:, faces][:, :, points] if FIELD[name].per_landmark else values[:, faces]
    return common.make_tracks(path, arrays, *_times(found, sizes["time"], attributes), record)


def _checked_sizes(found: Mapping[str, _Variable], path: Path) -> dict[str, int]:
    """Return the length of each dimension, having checked that the variables agree on it."""
    sizes: dict[str, int] = {}
    for name, variable in found.items():
        for dim, length in zip(variable.dims, variable.shape, strict=True):
            if sizes.setdefault(dim, length) != length:
                raise ResultError(
                    f"{path}: {name!r} has {length} values along {dim!r}, others {sizes[dim]}: save it again."
                )
    dims = found["position"].dims
    if sorted(dims) != sorted(LIMITS):
        raise ResultError(f"{path} has the dimensions {common.joined(dims)}: choose a dataset of movement.")
    if sizes["keypoint"] != N_LANDMARKS or sizes["space"] != 2:
        raise ResultError(
            f"{path} must have {N_LANDMARKS} (x, y) keypoints: found {sizes['keypoint']} keypoints in "
            f"{sizes['space']} dimensions."
        )
    if sizes["individual"] > common.MAX_FACES or sizes["time"] * sizes["individual"] > common.MAX_ROWS:
        raise ResultError(
            f"{path} has {sizes['individual']} individuals on {sizes['time']} frames, more than can be read: "
            "split it."
        )
    return sizes


def _confidence(found: Mapping[str, _Variable], path: Path) -> npt.NDArray[Any] | None:
    """Return the confidence of each landmark, (T, F, 68); None where there is none."""
    if "confidence" not in found:
        return None
    given = found["confidence"]
    if sorted(given.dims) == ["individual", "time"]:
        confidence = np.repeat(given.along("time", "individual")[..., None], N_LANDMARKS, axis=2)
    elif sorted(given.dims) == ["individual", "keypoint", "time"]:
        confidence = given.along("time", "individual", "keypoint")
    else:
        raise ResultError(
            f"{path}: the confidence has the dimensions {common.joined(given.dims)}: choose a "
            "dataset of movement."
        )
    return None if np.isnan(confidence).all() else confidence  # movement fills in NaN where it has none


def _extra_arrays(
    found: Mapping[str, _Variable], sizes: Mapping[str, int], path: Path
) -> dict[str, npt.NDArray[Any] | None]:
    """Return the arrays of `EXTRA` that there are, (T, F, ...); others may have variables of these names."""
    arrays: dict[str, npt.NDArray[Any] | None] = {}
    for item in EXTRA:
        dims = _dims(item)
        if item.name not in found or sorted(found[item.name].dims) != sorted(dims):
            continue
        if item.parts and sizes[dims[-1]] != len(item.parts):  # before its values are read
            raise ResultError(
                f"{path}: {item.name} does not fit the landmarks: the file is damaged, save it again."
            )
        order = ("time", "individual", "keypoint") if item.per_landmark else dims
        arrays[item.name] = found[item.name].along(*order)
    return arrays


def _times(
    found: Mapping[str, _Variable], length: int, attributes: Mapping[str, Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]:
    """Return the index and the time of every frame."""

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
