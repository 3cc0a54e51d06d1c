"""Datasets of movement (https://movement.neuroinformatics.dev), in memory and as netCDF files.

Dimensions time, space, keypoint and individual, in the singular as movement has them from 0.17 on (older
plural names are read too); variables ``position`` (px) and ``confidence``; attributes ``fps``,
``time_unit``, ``source_software``, ``source_file`` and ``ds_type``. The time of each frame is in seconds
where it is known, else its number. Variables and attributes that movement passes over keep the rest:
``source``, ``pose``, ``boxes``, ``misfit`` and ``by_hand``, and the coordinate ``frame``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import FaceLandmarksError, ResultError, in_one_line
from napari_face_landmarks.export import hdf5
from napari_face_landmarks.export.classic import check_classic
from napari_face_landmarks.export.files import replacing
from napari_face_landmarks.export.optional import optional
from napari_face_landmarks.export.parts import (
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
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.tracking.results import SOURCES, Tracks

if TYPE_CHECKING:
    import xarray

POSE = ("scale", "pitch", "yaw", "roll", "tx", "ty")
BOX = ("x0", "y0", "x1", "y1", "score")
MISFIT = ("by_clnf", "off_model")
RECORD = "napari_face_landmarks"
OLD_NAMES = {"keypoints": "keypoint", "individuals": "individual"}
LIMITS = {"time": MOST_ROWS, "space": 2, "keypoint": N_LANDMARKS, "individual": MOST_FACES}
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
    optional("h5netcdf", f"Writing {path}")
    dataset = to_xarray(tracks)
    small = {"zlib": True, "complevel": 4, "shuffle": True}
    encoding = {name: small for name in ("position", "confidence", "pose", "boxes") if dataset[name].size}
    with replacing(path) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)


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
        If it is no such file, or xarray or h5netcdf is not installed.
    """
    library = optional("xarray", f"Reading {path}")
    if not path.is_file():
        raise ResultError(f"{path} is missing: check the name of the file.")
    classic = _is_classic(path)
    if classic:
        check_classic(path)
    else:
        optional("h5netcdf", f"Reading {path}")
        with hdf5.reading(path) as file:
            hdf5.check_attributes(file, path)
            for name in file:  # no links and no values elsewhere, before another library follows them
                hdf5.check_values(file, name, path)
    try:
        with library.open_dataset(
            path, engine="scipy" if classic else "h5netcdf", decode_times=False, decode_timedelta=False
        ) as dataset:
            return from_xarray(
                dataset.rename({a: b for a, b in OLD_NAMES.items() if a in dataset.dims}), path
            )
    except FaceLandmarksError:
        raise
    except hdf5.BROKEN_FILE as error:
        raise ResultError(
            f"{path} is no dataset of movement ({in_one_line(error)}): save it again."
        ) from None


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
    if dataset.attrs.get("ds_type", "poses") != "poses" or "position" not in dataset:
        raise ResultError(f"{path} has no poses: give a dataset of movement with ds_type 'poses'.")
    position = dataset["position"]
    if set(position.dims) != set(LIMITS):
        raise ResultError(f"{path} has the dimensions {listed(position.dims)}: give a dataset of movement.")
    sizes = dataset.sizes
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
    landmarks = position.transpose("time", "individual", "keypoint", "space").to_numpy()
    space = [str(name) for name in dataset["space"].to_numpy()] if "space" in dataset.coords else ["x", "y"]
    if sorted(space) != ["x", "y"]:
        raise ResultError(f"{path} has the axes {listed(space)}: give one with x and y.")
    landmarks = landmarks[..., [space.index("x"), space.index("y")]]
    confidence = None
    if "confidence" in dataset:
        values = dataset["confidence"]
        if "keypoint" not in values.dims:
            values = values.expand_dims(keypoint=sizes["keypoint"])
        confidence = values.transpose("time", "individual", "keypoint").to_numpy()
        # without a confidence in movement: all of it NaN
        confidence = None if np.isnan(confidence).all() else confidence
    names = face_names(sizes["individual"])
    if "individual" in dataset.coords:
        names = [str(value) for value in dataset["individual"].to_numpy()]
    points = np.arange(N_LANDMARKS)
    if "keypoint" in dataset.coords:
        points = np.argsort(order_by_number([str(value) for value in dataset["keypoint"].to_numpy()]))
    faces = np.argsort(order_of_faces(names))
    where = np.ix_(faces, points)
    record = record_from_text(str(dataset.attrs[RECORD]), path) if RECORD in dataset.attrs else {}
    record = with_names(record, [names[face] for face in faces])
    fps = dataset.attrs.get("fps")
    if fps is not None and "fps" not in record.get("meta", {}):
        record = {**record, "meta": {**record.get("meta", {}), "fps": float(fps)}}
    frames, seconds = _times(dataset, sizes["time"], fps)
    extra: dict[str, npt.NDArray[Any]] = {}
    parts = {"source": (), "pose": ("pose_part",), "boxes": ("box_part",), "misfit": ("misfit_part",)}
    for name, last in parts.items():
        if name in dataset and set(dataset[name].dims) == {"time", "individual", *last}:
            if any(sizes[part] > len(POSE) for part in last):
                raise ResultError(
                    f"{path}: {name} does not fit the landmarks: the file is damaged, save it again."
                )
            extra[name] = dataset[name].transpose("time", "individual", *last).to_numpy()[:, faces]
    if "by_hand" in dataset and set(dataset["by_hand"].dims) == {"time", "individual", "keypoint"}:
        marks = dataset["by_hand"].transpose("time", "individual", "keypoint").to_numpy()
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
    dataset: xarray.Dataset, length: int, fps: Any
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]:
    """Return the number and the time of every frame."""
    time = np.arange(length, dtype=np.float64)
    if "time" in dataset.coords:
        time = dataset["time"].to_numpy().astype(np.float64)
    in_seconds = dataset.attrs.get("time_unit") == "seconds"
    seconds = time if in_seconds else None
    if "timestamp" in dataset and dataset["timestamp"].dims == ("time",):
        seconds = dataset["timestamp"].to_numpy().astype(np.float64)
    if "frame" in dataset.coords and dataset["frame"].dims == ("time",):
        return dataset["frame"].to_numpy().astype(np.int64), seconds
    frames = np.rint(time * float(fps)) if in_seconds and fps else time
    if in_seconds and not fps:
        frames = np.arange(length)
    return frames.astype(np.int64), seconds
