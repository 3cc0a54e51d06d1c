"""Landmarks as rows of a Points layer: places, colours, sizes and the table that goes with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from napari_face_landmarks.data.fields import SOURCES
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.napari_plugin.colours import DEFAULT_MODE, ColourMode, landmark_colours

POINT_SIZE = 0.03  # diameter over the side of the landmarks' box (geometric mean of width and height)
SMALLEST_POINT = 1.0  # px
BORDER_COLOUR = "#101010"
BORDER_WIDTH = np.float32(0.12)  # over the diameter; napari makes an array of this type

_WORDS = np.array(SOURCES, dtype=object)


@dataclass(frozen=True)
class PointRows:
    """Landmarks as rows of a Points layer, ordered by frame, then face, then landmark.

    Parameters
    ----------
    data : ndarray, (N, 3) or (N, 2), float32
        Frame, y, x (or y, x) in pixels; Fortran-ordered, which napari slices fastest.
    size : ndarray, (N,), float32
        Diameter, px, in proportion to the face.
    landmark, face : ndarray, (N,), int32
        Index of the landmark (0 to 67) and of the face.
    confidence : ndarray, (N,), float32
        0 to 1.
    source : ndarray, (N,), uint8
        Index into `tracking.SOURCES`.
    found : ndarray, (N,), bool
        False where there is no face; there `data` is 0.
    """

    data: npt.NDArray[np.float32]
    size: npt.NDArray[np.float32]
    landmark: npt.NDArray[np.int32]
    face: npt.NDArray[np.int32]
    confidence: npt.NDArray[np.float32]
    source: npt.NDArray[np.uint8]
    found: npt.NDArray[np.bool_]

    def colours(self, by: ColourMode = DEFAULT_MODE) -> npt.NDArray[np.float32]:
        """Return the colour of each row, (N, 4) float32, RGBA, 0 to 1."""
        return landmark_colours(by, self.confidence, self.source, self.landmark)


def blank_rows(start: int, stop: int, n_faces: int, ndim: int = 3) -> PointRows:
    """Return rows without landmarks for the frames `start` to `stop`, to be filled in.

    Parameters
    ----------
    start, stop : int
        Frames, `stop` not among them.
    n_faces : int
        Faces on each frame.
    ndim : int
        3 for rows (t, y, x), 2 for (y, x).
    """
    n_frames = stop - start
    count = n_frames * n_faces * N_LANDMARKS
    data = np.zeros((count, ndim), dtype=np.float32, order="F")
    if ndim == 3:
        data[:, 0] = np.repeat(np.arange(start, stop, dtype=np.float32), n_faces * N_LANDMARKS)
    return PointRows(
        data=data,
        size=np.full(count, SMALLEST_POINT, dtype=np.float32),
        landmark=np.tile(np.arange(N_LANDMARKS, dtype=np.int32), n_frames * n_faces),
        face=np.tile(np.repeat(np.arange(n_faces, dtype=np.int32), N_LANDMARKS), n_frames),
        confidence=np.zeros(count, dtype=np.float32),
        source=np.zeros(count, dtype=np.uint8),
        found=np.zeros(count, dtype=np.bool_),
    )


def point_rows(
    landmarks: npt.NDArray[Any],
    confidence: npt.NDArray[Any],
    source: npt.NDArray[Any],
    frame_indices: npt.NDArray[Any],
    ndim: int = 3,
) -> PointRows:
    """Lay landmarks out as rows of a Points layer.

    Parameters
    ----------
    landmarks : ndarray, (T, F, 68, 2)
        Pixels, x then y; NaN where there is no face.
    confidence : ndarray, (T, F, 68)
        0 to 1.
    source : ndarray, (T, F)
        Index into `tracking.SOURCES`.
    frame_indices : ndarray, (T,)
        Index of each frame in the video.
    ndim : int
        3 for rows (t, y, x), 2 for (y, x).

    Returns
    -------
    PointRows
        ``T * F * 68`` rows.
    """
    n_frames, n_faces = landmarks.shape[:2]
    found = np.asarray(np.isfinite(landmarks).all(axis=-1))
    data = np.zeros((found.size, ndim), dtype=np.float32, order="F")
    if ndim == 3:
        data[:, 0] = np.repeat(np.asarray(frame_indices, dtype=np.float32), n_faces * N_LANDMARKS)
    data[:, -2] = np.where(found, landmarks[..., 1], 0).ravel()
    data[:, -1] = np.where(found, landmarks[..., 0], 0).ravel()
    return PointRows(
        data=data,
        size=np.repeat(_point_sizes(landmarks, found), N_LANDMARKS),
        landmark=np.tile(np.arange(N_LANDMARKS, dtype=np.int32), n_frames * n_faces),
        face=np.tile(np.repeat(np.arange(n_faces, dtype=np.int32), N_LANDMARKS), n_frames),
        confidence=np.array(confidence, dtype=np.float32).ravel(),  # the layer's own, which may be edited
        source=np.repeat(np.asarray(source, dtype=np.uint8).ravel(), N_LANDMARKS),
        found=found.ravel(),
    )


def take_found(rows: PointRows) -> PointRows:
    """Return the rows where there is a face."""
    if rows.found.all():
        return rows
    keep = rows.found
    return PointRows(
        data=np.asfortranarray(rows.data[keep]),
        size=rows.size[keep],
        landmark=rows.landmark[keep],
        face=rows.face[keep],
        confidence=rows.confidence[keep],
        source=rows.source[keep],
        found=rows.found[keep],
    )


def features_of(rows: PointRows) -> pd.DataFrame:
    """Return the table that goes with the rows: landmark, face, confidence, source (in words).

    The words are an array of Python's strings: napari makes one of every column whenever a point is selected,
    which for a categorical of a long video takes longer than all the rest.
    """
    columns = {
        "landmark": rows.landmark,
        "face": rows.face,
        "confidence": rows.confidence,
        "source": pd.Series(source_names(rows.source), dtype=object, copy=False),
    }
    return pd.DataFrame(columns, copy=False)


def source_names(source: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    """Return the names of source codes, (N,) of str."""
    return np.asarray(_WORDS[source])


def source_codes(names: pd.Series[Any]) -> npt.NDArray[np.uint8]:
    """Return the code of each name of a source, (N,) uint8; 0 ("none") for names that there are not."""
    codes, words = pd.factorize(names)
    known = [SOURCES.index(word) if word in SOURCES else 0 for word in words] + [0]  # last: no name
    return np.asarray(np.array(known, np.uint8)[codes])


def _point_sizes(landmarks: npt.NDArray[Any], found: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Return the diameter for each face, (T * F,), px."""
    some = found[..., np.newaxis]
    low = np.where(some, landmarks, np.inf).min(axis=2)
    high = np.where(some, landmarks, -np.inf).max(axis=2)
    sides = np.where(np.any(found, axis=2, keepdims=True), high - low, 0)
    size = np.maximum(POINT_SIZE * np.sqrt(sides.prod(axis=-1)), SMALLEST_POINT)
    return np.asarray(size, dtype=np.float32).ravel()


def style_of_points() -> dict[str, Any]:
    """Return how landmarks look, apart from their colours and sizes."""
    return {"symbol": "disc", "border_color": BORDER_COLOUR, "border_width": BORDER_WIDTH}
