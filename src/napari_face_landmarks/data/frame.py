"""Result of one frame of a video, or of a still image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import TRACKED, FaceArrays, document, empty_arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameResult(FaceArrays):
    """The faces of one frame.

    For videos each array has ``settings.max_faces`` rows, and a face keeps its row from frame to frame; rows
    without a face are empty. For stills there is one row per face.

    Attributes
    ----------
    index : int
        Index of the frame in the source, from 0.
    """

    index: int = 0


document(FrameResult, "F")

FaceFit = FrameResult
"""Result of `FaceTracker.fit`: the faces of a still."""


def empty_frame(index: int, n_faces: int) -> FrameResult:
    """Return a frame without faces."""
    return FrameResult(index=index, **{name: array.copy() for name, array in _empty(n_faces).items()})


@lru_cache(maxsize=8)
def _empty(n_faces: int) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a frame without faces; copying these is faster than filling new ones."""
    return empty_arrays(n_faces)


def stack_frames(frames: Sequence[FrameResult], n_faces: int) -> dict[str, npt.NDArray[Any]]:
    """Stack the arrays that the tracker computes for N frames, (N, F, ...), and ``index``, (N,) int64."""
    arrays = {
        item.name: np.stack([getattr(frame, item.name) for frame in frames])
        if frames
        else item.empty(0, n_faces)
        for item in TRACKED
    }
    return {"index": np.array([frame.index for frame in frames], dtype=np.int64), **arrays}


def unstack_frames(arrays: Mapping[str, npt.NDArray[Any]]) -> Iterator[FrameResult]:
    """Yield the frames that `stack_frames` stacked."""
    for row, index in enumerate(arrays["index"]):
        yield FrameResult(index=int(index), **{item.name: arrays[item.name][row] for item in TRACKED})
