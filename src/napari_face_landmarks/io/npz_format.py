"""NumPy's ``.npz`` with everything that tracks have: an array for each of `FIELDS`, and a JSON record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import FIELDS, SOURCES
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ResultError, in_one_line
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.files.npz import read_npz
from napari_face_landmarks.io.common import checked_record, record_to_json

_PER_FRAME = {"frame_indices": "<i8", "timestamps": "<f8"}
_MAX_FRAMES, _MAX_FACES = 100_000_000, 1024
_MAX_RECORD_BYTES = 16 << 20
_MAX_FILE_BYTES = 64 << 30


def write_npz(path: Path, tracks: Tracks) -> None:
    """Write tracks with their settings, counts and warnings."""
    types = {**{item.name: item.dtype for item in FIELDS}, **_PER_FRAME}
    arrays = {name: np.ascontiguousarray(getattr(tracks, name), dtype=kind) for name, kind in types.items()}
    text = np.frombuffer(record_to_json(tracks).encode(), dtype=np.uint8)
    with replacing(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, record=text, **arrays)


def read_tracks_npz(path: Path) -> Tracks:
    """Read tracks that `write_npz` wrote."""
    advice = "choose a file that `Tracks.save` wrote"
    limits = {item.name: (_MAX_FRAMES, _MAX_FACES, *item.shape) for item in FIELDS}
    required = {item.name: limits[item.name] for item in FIELDS if item.required}
    arrays = read_npz(
        path,
        {**required, **dict.fromkeys(_PER_FRAME, (_MAX_FRAMES,)), "record": (_MAX_RECORD_BYTES,)},
        _MAX_FILE_BYTES,
        error=ResultError,
        hint=advice,
        optional={name: limit for name, limit in limits.items() if name not in required},
    )
    try:
        record = json.loads(arrays.pop("record").tobytes())
        _check_arrays(arrays)
        return Tracks(**dict[str, Any](arrays), meta=dict(record["meta"]), **checked_record(record, path))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ResultError(f"{path} is not a file of tracks ({in_one_line(error)}); {advice}.") from None


def _check_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    frames, faces = arrays["source"].shape
    expected = {item.name: (item.dtype, (frames, faces, *item.shape)) for item in FIELDS}
    expected |= {name: (dtype, (frames,)) for name, dtype in _PER_FRAME.items()}
    for name, array in arrays.items():
        dtype, shape = expected[name]
        if array.shape != shape or array.dtype != np.dtype(dtype):
            raise ValueError(f"{name} has {array.dtype} {array.shape} instead of {dtype} {shape}")
    if arrays["source"].max(initial=0) >= len(SOURCES):
        raise ValueError("source has an unknown code")
