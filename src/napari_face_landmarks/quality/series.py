"""Time series of a run: confidence, movement, misfit, head pose, source."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import BY_CLNF, MANUAL, NONE, OFF_MODEL, SOURCES
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.ibug import N_LANDMARKS, REGIONS, inter_ocular

if TYPE_CHECKING:
    import pandas

Floats = npt.NDArray[np.float32]

PARTS = {
    "jaw": [*REGIONS["jaw"]],
    "right brow": [*REGIONS["right brow"]],
    "left brow": [*REGIONS["left brow"]],
    "nose": [*REGIONS["nose bridge"], *REGIONS["nose base"]],
    "right eye": [*REGIONS["right eye"]],
    "left eye": [*REGIONS["left eye"]],
    "lips": [*REGIONS["outer lip"], *REGIONS["inner lip"]],
}
"""The R facial regions that are checked separately, and their landmarks."""
_SHARES = np.array([np.isin(np.arange(N_LANDMARKS), part) / len(part) for part in PARTS.values()], np.float32)
SIDES = ("eyes", "brows")
"""Parts whose left and right sides are compared."""
_LIDS = (((43, 47), (44, 46)), ((37, 41), (38, 40)))  # left, right: upper and lower lid
_BROWS, _EYES = ((22, 27), (17, 22)), ((42, 48), (36, 42))
CHUNK_FRAMES = 4096
BLOCK = 16
"""Frames per block; the typical movement is the largest median of a block and its two neighbours."""


@dataclass(frozen=True)
class Series:
    """Values for each face and frame; NaN if there is no face or the value is unknown.

    Attributes
    ----------
    frames : ndarray, (T,), int64
        Index of each frame in the source.
    seconds : ndarray, (T,), float64
        Time stamps; NaN if unknown.
    confidence : ndarray, (T, F), float32
        Mean over the landmarks, 0 to 1.
    lowest : ndarray, (T, F), float32
        Confidence of the least confident landmark, 0 to 1.
    movement : ndarray, (T, F), float32
        Mean movement of the landmarks since the previous frame, in inter-ocular distances; divided by the
        number of frames if some were skipped.
    by_clnf : ndarray, (T, F), float32
        Mean distance by which CLNF moved PFLD's landmarks, in inter-ocular distances.
    off_model : ndarray, (T, F), float32
        Mean distance of the landmarks from the closest shape of the shape model, in inter-ocular distances.
    pose : ndarray, (T, F, 3), float32
        Pitch, yaw and roll of the head, degrees.
    source : ndarray, (T, F), uint8
        Index into `tracking.SOURCES`; 0 if there is no face.
    region_confidence : ndarray, (T, F, R), float32
        Mean confidence of each of `PARTS`, 0 to 1.
    region_movement : ndarray, (T, F, R), float32
        Like `movement`, for each of `PARTS` relative to the whole face.
    left_minus_right : ndarray, (T, F, 2), float32
        Left minus right opening of the eyes, and left minus right distance between eye and brow, in
        inter-ocular distances.
    manual : ndarray, (T, F), bool
        Faces with manual landmarks, which count as checked.
    """

    frames: npt.NDArray[np.int64]
    seconds: npt.NDArray[np.float64]
    confidence: Floats
    lowest: Floats
    movement: Floats
    by_clnf: Floats
    off_model: Floats
    pose: Floats
    source: npt.NDArray[np.uint8]
    region_confidence: Floats
    region_movement: Floats
    left_minus_right: Floats
    manual: npt.NDArray[np.bool_]

    @property
    def n_frames(self) -> int:
        """The number of frames, T."""
        return len(self.frames)

    @property
    def n_faces(self) -> int:
        """The number of faces, F."""
        return int(self.source.shape[1])

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Whether there is a face, (T, F) bool."""
        return np.asarray(self.source > NONE)


def series_of(tracks: Tracks) -> Series:
    """Compute the time series of tracks.

    Parameters
    ----------
    tracks : Tracks
        Landmarks (T, F, 68, 2), from a run or a file.

    Returns
    -------
    Series
    """
    present = tracks.present
    lowest = np.where(np.isfinite(tracks.landmarks).all(axis=-1), tracks.confidence, np.inf).min(axis=-1)
    movement, region_movement = _movement(tracks)
    return Series(
        frames=tracks.frame_indices,
        seconds=tracks.timestamps,
        confidence=_known(tracks.confidence.mean(axis=-1), present),
        lowest=_known(np.where(np.isfinite(lowest), lowest, np.nan), present),
        movement=movement,
        by_clnf=_known(tracks.misfit[..., BY_CLNF], present),
        off_model=_known(tracks.misfit[..., OFF_MODEL], present),
        pose=_known(np.degrees(tracks.pose[..., 1:4]), present[..., np.newaxis]),
        source=tracks.source,
        region_confidence=_known(tracks.confidence @ _SHARES.T, present[..., np.newaxis]),
        region_movement=region_movement,
        left_minus_right=_left_minus_right(tracks),
        manual=np.asarray((tracks.source == MANUAL) | tracks.by_hand.any(axis=-1)),
    )


def _known(values: npt.NDArray[Any], present: npt.NDArray[np.bool_]) -> Floats:
    return np.where(present & np.isfinite(values), values, np.nan).astype(np.float32)


def _movement(tracks: Tracks) -> tuple[Floats, Floats]:
    """Return `Series.movement` and `Series.region_movement`."""
    movement = np.full(tracks.source.shape, np.nan, np.float32)
    by_region = np.full((*tracks.source.shape, len(PARTS)), np.nan, np.float32)
    for start in range(1, tracks.n_frames, CHUNK_FRAMES):
        stop = min(start + CHUNK_FRAMES, tracks.n_frames)
        points = tracks.landmarks[start - 1 : stop].astype(np.float64)
        steps = np.diff(points, axis=0)
        lengths = np.linalg.norm(steps, axis=-1)
        known = np.isfinite(lengths)
        count = known.sum(axis=-1)
        mean = np.where(known, lengths, 0).sum(axis=-1) / np.maximum(count, 1)
        gap = np.maximum(np.diff(tracks.frame_indices[start - 1 : stop]), 1)[:, np.newaxis]
        scale = gap * np.maximum(inter_ocular(points[:-1]), 1e-6)
        movement[start:stop] = np.where(count > 0, mean / scale, np.nan)
        # relative to the face; NaN if any landmark is missing
        relative = np.linalg.norm(steps - steps.mean(axis=-2, keepdims=True), axis=-1)
        by_region[start:stop] = relative @ _SHARES.T / scale[..., np.newaxis]
    return movement, by_region


def _left_minus_right(tracks: Tracks) -> Floats:
    """Return `Series.left_minus_right`."""
    points = tracks.landmarks
    sides = []
    for lids, brow, eye in zip(_LIDS, _BROWS, _EYES, strict=True):
        gaps = [
            np.linalg.norm(points[..., upper, :] - points[..., lower, :], axis=-1) for upper, lower in lids
        ]
        opening = (gaps[0] + gaps[1]) / 2
        raised = points[..., slice(*brow), :].mean(axis=-2) - points[..., slice(*eye), :].mean(axis=-2)
        sides.append(np.stack([opening, np.linalg.norm(raised, axis=-1)], axis=-1))
    unit = np.maximum(inter_ocular(points), 1e-6)
    return np.asarray((sides[0] - sides[1]) / unit[..., np.newaxis], np.float32)


def spikes(values: Floats) -> Floats:
    """Return the height of local extremes of a series (T, ...) above the closer neighbour; otherwise 0."""
    heights = np.zeros_like(values)
    before, after = values[1:-1] - values[:-2], values[1:-1] - values[2:]
    heights[1:-1] = np.where(before * after > 0, np.minimum(np.abs(before), np.abs(after)), 0)
    return heights


def join_series(first: Series, second: Series) -> Series:
    """Concatenate two series with the same number of faces, for unfinished runs.

    Parameters
    ----------
    first, second : Series
        `second` covers later frames. Its first frame may repeat the last frame of `first` as the reference
        for its movement; the repeated frame is dropped.
    """
    if first.n_frames and second.n_frames and second.frames[0] == first.frames[-1]:
        second = _part(second, slice(1, None))
    names = [item.name for item in dataclasses.fields(Series)]
    return Series(**{name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in names})


def _part(series: Series, rows: slice) -> Series:
    return Series(**{item.name: getattr(series, item.name)[rows] for item in dataclasses.fields(Series)})


def typical_movement(movement: Floats) -> Floats:
    """Return the typical movement around each frame, (T, F), in the unit of `movement`; NaN if unknown."""
    n_frames, n_faces = movement.shape
    n_blocks = -(-n_frames // BLOCK)
    padded = np.full(((n_blocks + 2) * BLOCK, n_faces), np.nan, np.float32)
    padded[BLOCK : BLOCK + n_frames] = movement
    blocks = np.sort(padded.reshape(n_blocks + 2, BLOCK, n_faces), axis=1)  # NaN last
    middle = np.maximum(np.isfinite(blocks).sum(axis=1, keepdims=True) - 1, 0) // 2
    medians = np.take_along_axis(blocks, middle, axis=1)[:, 0]
    typical = np.fmax(np.fmax(medians[:-2], medians[1:-1]), medians[2:])
    return np.asarray(np.repeat(typical, BLOCK, axis=0)[:n_frames], dtype=np.float32)


def series_to_dataframe(series: Series) -> pandas.DataFrame:
    """Return a table with one row per frame and face: frame, time (s), face, source, values of `Series`.

    Movement and misfit are in percent of the inter-ocular distance, angles in degrees.
    """
    import pandas as pd

    n_frames, n_faces = series.source.shape
    percent = {
        "movement_percent": series.movement,
        "by_clnf_percent": series.by_clnf,
        "off_model_percent": series.off_model,
    }
    angles = dict(zip(("pitch_deg", "yaw_deg", "roll_deg"), np.moveaxis(series.pose, -1, 0), strict=True))
    return pd.DataFrame(
        {
            "frame": np.repeat(series.frames, n_faces),
            "time": np.repeat(series.seconds, n_faces),
            "face": np.tile(np.arange(n_faces), n_frames),
            "source": np.array(SOURCES)[series.source.ravel()],
            "confidence": series.confidence.ravel(),
            "lowest_confidence": series.lowest.ravel(),
            **{name: 100 * values.ravel() for name, values in percent.items()},
            **{name: values.ravel() for name, values in angles.items()},
        }
    )
