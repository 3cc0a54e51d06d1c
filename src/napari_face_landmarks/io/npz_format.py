"""Tracks with everything they have, as NumPy's ``.npz``: an array for each of `FIELDS`, and a JSON record."""

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
from napari_face_landmarks.io.common import checked_record, record_as_text

_OF_FRAMES = {"frame_indices": "<i8", "timestamps": "<f8"}
_MOST_FRAMES, _MOST_FACES = 100_000_000, 1024
_LARGEST_RECORD = 16 << 20
_LARGEST_FILE = 64 << 30


def write_npz(path: Path, tracks: Tracks) -> None:
    """Write tracks with their settings, counts and warnings."""
    types = {**{item.name: item.dtype for item in FIELDS}, **_OF_FRAMES}
    arrays = {name: np.ascontiguousarray(getattr(tracks, name), dtype=kind) for name, kind in types.items()}
    text = np.frombuffer(record_as_text(tracks).encode(), dtype=np.uint8)
    with replacing(path) as unfinished:
        np.savez_compressed(unfinished, allow_pickle=False, record=text, **arrays)


def read_tracks_npz(path: Path) -> Tracks:
    """Read tracks that `write_npz` wrote."""
    again = "choose a file that `Tracks.save` wrote"
    limits = {item.name: (_MOST_FRAMES, _MOST_FACES, *item.shape) for item in FIELDS}
    needed = {item.name: limits[item.name] for item in FIELDS if item.required}
    arrays = read_npz(
        path,
        {**needed, **dict.fromkeys(_OF_FRAMES, (_MOST_FRAMES,)), "record": (_LARGEST_RECORD,)},
        _LARGEST_FILE,
        error=ResultError,
        again=again,
        optional={name: limit for name, limit in limits.items() if name not in needed},
    )
    try:
        record = json.loads(arrays.pop("record").tobytes())
        _check_arrays(arrays)
        return Tracks(**dict[str, Any](arrays), meta=dict(record["meta"]), **checked_record(record, path))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ResultError(f"{path} is not a file of tracks ({in_one_line(error)}); {again}.") from None


def _check_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    frames, faces = arrays["source"].shape
    wanted = {item.name: (item.dtype, (frames, faces, *item.shape)) for item in FIELDS}
    wanted |= {name: (kind, (frames,)) for name, kind in _OF_FRAMES.items()}
    for name, array in arrays.items():
        kind, shape = wanted[name]
        if array.shape != shape or array.dtype != np.dtype(kind):
            raise ValueError(f"{name} is {array.dtype} of the shape {array.shape}, not {kind} of {shape}")
    if arrays["source"].max(initial=0) >= len(SOURCES):
        raise ValueError("source has an unknown code")
