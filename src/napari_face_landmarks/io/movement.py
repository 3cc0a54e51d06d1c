"""Datasets of movement (https://movement.neuroinformatics.dev), in memory and as netCDF files.

Dimensions are time, space, keypoint and individual (the former plural names are read, too), variables
``position`` (px) and ``confidence``, attributes ``fps``, ``time_unit``, ``source_software``, ``source_file``
and ``ds_type``. ``time`` is in seconds if known, otherwise the frame number. The other arrays of `FIELDS` are
variables that movement ignores, and ``frame`` is a coordinate.
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
    """Return the dimensions of an array of `EXTRA` in the order of the file."""
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
"""Variables that are read, with their dimensions in the order in which movement and this module write."""
DIMENSIONS = {dim for dims in VARIABLES.values() for dim in dims}
LIMITS = {"time": common.MAX_ROWS, "space": 2, "keypoint": N_LANDMARKS, "individual": common.MAX_FACES}
STRING_COORDINATES = LIMITS.keys() - {"time"}
"""Coordinates that are strings."""
CDF = b"CDF"
"""Signature of classic netCDF files, which are refused."""


def to_xarray(tracks: Tracks) -> xarray.Dataset:
    """Convert tracks to a dataset in movement's conventions (see the module).

    Parameters
    ----------
    tracks : Tracks
        Landmarks (T, F, 68, 2).

    Returns
    -------
    xarray.Dataset
        ``position`` (time, space, keypoint, individual) float32, px; ``confidence`` (time, keypoint,
        individual), NaN for missing landmarks.

    Raises
    ------
    ResultError
        If xarray is not installed.
    """
    library = optional("xarray", "A dataset of movement")
    seconds, fps = seconds_of(tracks), frame_rate_of(tracks)
    present = np.isfinite(tracks.landmarks).all(axis=-1)
    confidence = np.where(present, tracks.confidence, np.float32(np.nan))
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
    compression = {"zlib": True, "complevel": 4, "shuffle": True}
    encoding = {str(name): compression for name, values in dataset.data_vars.items() if values.size}
    content = io.BytesIO()
    with replacing(path) as temporary:
        with h5netcdf.File(content, "w") as file:
            dataset.dump_to_store(xarray.backends.H5NetCDFStore(file), encoding=encoding)
        temporary.write_bytes(content.getvalue())


def is_netcdf(path: Path) -> bool:
    """Return whether a netCDF file has positions, or is a classic one, which `read_netcdf` refuses."""
    return _is_classic(path) or {"position", "time"} <= hdf5.root_names(path)


def _is_classic(path: Path) -> bool:
    return common.first_bytes(path, 3) == CDF


def read_netcdf(path: Path) -> Tracks:
    """Read tracks from a netCDF file in movement's conventions."""
    if _is_classic(path):
        raise ResultError(
            f"{path} is a classic netCDF file, which is not read: save it as netCDF 4, in Python with "
            "xarray.load_dataset(path).to_netcdf(new_path, engine='h5netcdf')."
        )
    with hdf5.reading(path) as file:
        return _assemble(*_read_variables(file, path), path)


@dataclass(frozen=True, slots=True)
class _Variable:
    """Dimensions and shape of a variable, and a function that reads its values."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    values: Callable[[], npt.NDArray[Any]]

    def transposed(self, *dims: str) -> npt.NDArray[Any]:
        """Read the values, with axes in the given order."""
        return self.values().transpose([self.dims.index(name) for name in dims])


def _read_variables(file: Any, path: Path) -> tuple[dict[str, _Variable], dict[str, Any]]:
    """Return the variables and attributes of a netCDF 4 file.

    Variables have the ids of their dimensions in ``_Netcdf4Coordinates``. Older files have only references,
    which are not dereferenced (with damaged ones the HDF5 library reads out of bounds); movement's order is
    assumed.
    """
    dims_by_id: dict[int, str] = {}
    for name in file:
        if _current_name(name) in DIMENSIONS:
            dim_id = hdf5.attribute(hdf5.member(file, name, "Dataset", path), "_Netcdf4Dimid", path)
            if dim_id is not None:
                dims_by_id[int(dim_id)] = _current_name(name)
    variables: dict[str, _Variable] = {}
    for name in file:
        current = _current_name(name)
        if current not in VARIABLES:
            continue
        dataset = hdf5.member(file, name, "Dataset", path)
        if hdf5.is_dimension_only(dataset, path):
            continue
        ids = hdf5.attribute(dataset, "_Netcdf4Coordinates", path)
        names = VARIABLES[current] if ids is None else tuple(map(dims_by_id.get, np.ravel(ids).tolist()))
        dims = tuple(dim for dim in names if dim is not None)
        if len(dims) != len(names) or len(dims) != len(dataset.shape):
            if current in LIMITS or current in ("position", "confidence"):
                raise ResultError(
                    f"{path}: {name!r} has the shape {dataset.shape} and no dimensions that fit it: "
                    "choose a dataset of movement."
                )
            continue  # a variable of another program with the same name
        variables[current] = _Variable(dims, dataset.shape, partial(_read_values, file, name, dataset, path))
    attributes = {
        name: _scalar(hdf5.attribute(file, name, path)) for name in ATTRIBUTES if name in file.attrs
    }
    return variables, attributes


def _current_name(name: str) -> str:
    """Return the current name of a dimension or variable in movement."""
    return FORMER_NAMES.get(name, name)


def _scalar(value: Any) -> Any:
    """Return a single-valued attribute as a string or number; others are unchanged."""
    value = value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.size == 1 else value
    return value.decode() if isinstance(value, bytes) else value


def _read_values(file: Any, name: str, dataset: Any, path: Path) -> npt.NDArray[Any]:
    """Read the values of a dataset, missing ones as NaN."""
    current = _current_name(name)
    if current in STRING_COORDINATES:
        return np.array(hdf5.texts(file, name, LIMITS[current], path), dtype=object)
    if {"scale_factor", "add_offset"} & set(dataset.attrs):
        raise ResultError(f"{path}: {name!r} is packed with a scale or offset: save it without packing.")
    values = hdf5.array(file, name, dataset.shape, path)
    for attribute in ("_FillValue", "missing_value"):
        missing = _scalar(hdf5.attribute(dataset, attribute, path))
        if missing is not None and values.dtype.kind == "f":
            values = np.where(values == missing, values.dtype.type(np.nan), values)
    return values


def from_xarray(dataset: xarray.Dataset, path: Path = Path("The dataset")) -> Tracks:
    """Convert a dataset of 68 keypoints in movement's conventions to tracks; `ResultError` for others."""
    variables = {
        _current_name(str(name)): _Variable(
            tuple(_current_name(str(dim)) for dim in variable.dims), variable.shape, variable.to_numpy
        )
        for name, variable in dataset.variables.items()
        if _current_name(str(name)) in VARIABLES
    }
    return _assemble(variables, {str(name): value for name, value in dataset.attrs.items()}, path)


def _assemble(variables: Mapping[str, _Variable], attributes: Mapping[str, Any], path: Path) -> Tracks:
    if attributes.get("ds_type", "poses") != "poses" or "position" not in variables:
        raise ResultError(f"{path} has no poses: choose a dataset of movement with ds_type 'poses'.")
    sizes = _checked_sizes(variables, path)
    landmarks = variables["position"].transposed("time", "individual", "keypoint", "space")
    space = [str(name) for name in variables["space"].values()] if "space" in variables else ["x", "y"]
    if sorted(space) != ["x", "y"]:
        raise ResultError(f"{path} has the axes {common.joined(space)}: give a dataset with x and y.")
    landmarks = landmarks[..., [space.index("x"), space.index("y")]]
    names = face_identifiers(sizes["individual"])
    if "individual" in variables:
        names = [str(value) for value in variables["individual"].values()]
    points = np.arange(N_LANDMARKS)
    if "keypoint" in variables:
        points = np.argsort(common.order_by_number([str(value) for value in variables["keypoint"].values()]))
    faces = np.argsort(common.face_order(names))
    record = common.record_from_json(str(attributes[RECORD]), path) if RECORD in attributes else {}
    record = common.add_names(record, [names[face] for face in faces])
    fps = attributes.get("fps")
    if fps is not None and "fps" not in record.get("meta", {}):
        record = {**record, "meta": {**record.get("meta", {}), "fps": float(fps)}}
    arrays = {
        "landmarks": landmarks,
        "confidence": _confidence(variables, path),
        **_extra_arrays(variables, sizes, path),
    }
    for name, values in arrays.items():
        if values is not None:
            arrays[name] = values[:, faces][:, :, points] if FIELD[name].per_landmark else values[:, faces]
    return common.make_tracks(path, arrays, *_times(variables, sizes["time"], attributes), record)


def _checked_sizes(variables: Mapping[str, _Variable], path: Path) -> dict[str, int]:
    """Return the length of each dimension; raise an error if variables disagree or it is too long."""
    sizes: dict[str, int] = {}
    for name, variable in variables.items():
        for dim, length in zip(variable.dims, variable.shape, strict=True):
            if sizes.setdefault(dim, length) != length:
                raise ResultError(
                    f"{path}: {name!r} has {length} values along {dim!r}, others {sizes[dim]}: save it again."
                )
    dims = variables["position"].dims
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


def _confidence(variables: Mapping[str, _Variable], path: Path) -> npt.NDArray[Any] | None:
    """Return the confidence of each landmark, (T, F, 68); None if it is missing or NaN everywhere."""
    if "confidence" not in variables:
        return None
    given = variables["confidence"]
    if sorted(given.dims) == ["individual", "time"]:
        confidence = np.repeat(given.transposed("time", "individual")[..., None], N_LANDMARKS, axis=2)
    elif sorted(given.dims) == ["individual", "keypoint", "time"]:
        confidence = given.transposed("time", "individual", "keypoint")
    else:
        raise ResultError(
            f"{path}: the confidence has the dimensions {common.joined(given.dims)}: choose a "
            "dataset of movement."
        )
    return None if np.isnan(confidence).all() else confidence  # movement stores unknown confidence as NaN


def _extra_arrays(
    variables: Mapping[str, _Variable], sizes: Mapping[str, int], path: Path
) -> dict[str, npt.NDArray[Any] | None]:
    """Return the arrays of `EXTRA` in the file, (T, F, ...), without other variables of the same names."""
    arrays: dict[str, npt.NDArray[Any] | None] = {}
    for item in EXTRA:
        dims = _dims(item)
        if item.name not in variables or sorted(variables[item.name].dims) != sorted(dims):
            continue
        if item.parts and sizes[dims[-1]] != len(item.parts):  # before its values are read
            raise ResultError(
                f"{path}: {item.name} does not fit the landmarks: the file is damaged, save it again."
            )
        order = ("time", "individual", "keypoint") if item.per_landmark else dims
        arrays[item.name] = variables[item.name].transposed(*order)
    return arrays


def _times(
    variables: Mapping[str, _Variable], length: int, attributes: Mapping[str, Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]:
    """Return the number and the time of each frame."""

    def per_frame(name: str) -> npt.NDArray[Any] | None:
        valid = name in variables and variables[name].dims == ("time",)
        return variables[name].values() if valid else None

    coordinate = per_frame("time")
    time = np.arange(length, dtype=np.float64) if coordinate is None else coordinate.astype(np.float64)
    in_seconds, fps = attributes.get("time_unit") == "seconds", attributes.get("fps")
    seconds, timestamps, numbers = time if in_seconds else None, per_frame("timestamp"), per_frame("frame")
    if timestamps is not None:
        seconds = timestamps.astype(np.float64)
    if numbers is not None:
        return numbers.astype(np.int64), seconds
    frames = np.rint(time * float(fps)) if in_seconds and fps else time
    if in_seconds and not fps:
        frames = np.arange(length)
    return frames.astype(np.int64), seconds
