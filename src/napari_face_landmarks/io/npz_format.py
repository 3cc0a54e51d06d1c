"""Tracks with all there is, as NumPy's ``.npz``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import SOURCES
from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ResultError, in_one_line
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.files.npz import read_npz
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.io.common import record_as_text
from napari_face_landmarks.settings import settings_from_dict

_TYPES = {
    "landmarks": "f4",
    "confidence": "f4",
    "source": "u1",
    "pose": "f4",
    "boxes": "f4",
    "frame_indices": "i8",
    "timestamps": "f8",
    "misfit": "f4",
    "by_hand": "?",
}
_MOST_FRAMES, _MOST_FACES = 100_000_000, 1024
_LARGEST_RECORD = 16 << 20
_LARGEST_FILE = 64 << 30
_LARGEST: dict[str, tuple[int, ...]] = {
    "landmarks": (_MOST_FRAMES, _MOST_FACES, N_LANDMARKS, 2),
    "confidence": (_MOST_FRAMES, _MOST_FACES, N_LANDMARKS),
    "source": (_MOST_FRAMES, _MOST_FACES),
    "pose": (_MOST_FRAMES, _MOST_FACES, 6),
    "boxes": (_MOST_FRAMES, _MOST_FACES, 5),
    "frame_indices": (_MOST_FRAMES,),
    "timestamps": (_MOST_FRAMES,),
    "record": (_LARGEST_RECORD,),
}
_NOT_IN_OLD_FILES: dict[str, tuple[int, ...]] = {
    "misfit": (_MOST_FRAMES, _MOST_FACES, 2),
    "by_hand": (_MOST_FRAMES, _MOST_FACES, N_LANDMARKS),
}


def write_npz(path: Path, tracks: Tracks) -> None:
    """Write tracks with their settings, counts and warnings.

    Raises
    ------
    ResultError
        If the file cannot be written.
    """
    arrays = {name: np.ascontiguousarray(getattr(tracks, name), dtype=kind) for name, kind in _TYPES.items()}
    text = np.frombuffer(record_as_text(tracks).encode(), dtype=np.uint8)
    with replacing(path) as unfinished:
        np.savez_compressed(unfinished, allow_pickle=False, record=text, **arrays)


def read_tracks_npz(path: Path) -> Tracks:
    """Read tracks that `write_npz` wrote.

    Raises
    ------
    ResultError
        If the file cannot be read or is not of that form.
    """
    again = "choose a file that `Tracks.save` wrote"
    arrays = read_npz(
        path, _LARGEST, _LARGEST_FILE, error=ResultError, again=again, optional=_NOT_IN_OLD_FILES
    )
    try:
        record = json.loads(arrays.pop("record").tobytes())
        _check_arrays(arrays)
        stats = dict(record["stats"])
        stats.pop("fps", None)
        return Tracks(
            **arrays,
            settings=settings_from_dict(record["settings"]),
            stats=RunStats(**stats),
            warnings=tuple(str(text) for text in record["warnings"]),
            meta=dict(record["meta"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ResultError(f"{path} is no file of tracks ({in_one_line(error)}); {again}.") from None


def _check_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    frames, faces = arrays["source"].shape
    largest = {**_LARGEST, **_NOT_IN_OLD_FILES}
    for name, array in arrays.items():
        kind, limits = _TYPES[name], largest[name]
        shape = (frames, faces, *limits[2:])[: len(limits)] if len(limits) > 1 else (frames,)
        if array.shape != shape or array.dtype != np.dtype(kind):
            raise ValueError(f"{name} is {array.dtype} of the shape {array.shape}, not {kind} of {shape}")
    if arrays["source"].size and arrays["source"].max() >= len(SOURCES):
        raise ValueError("source has an unknown code")
