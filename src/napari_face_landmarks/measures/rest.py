"""Choice of the frames on which a face is at rest: given by the user, or the calmest second."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import MeasureError
from napari_face_landmarks.measures.definitions import FACES_PER_CHUNK, measure_landmarks
from napari_face_landmarks.measures.uncertainty import error_shares

SECONDS = 1.0
"""Duration of the rest interval."""
FRAMES_WITHOUT_TIME = 25
"""Length of the rest interval in recordings without time stamps."""
MOVING = (
    "eye_height_right",
    "eye_height_left",
    "brow_height_right",
    "brow_height_left",
    "commissure_excursion_right",
    "commissure_excursion_left",
    "mouth_opening",
)
"""Measures whose changes between frames are the movement of a face."""
PARTS = (slice(0, 17), slice(5, 12), slice(17, 27), slice(27, 36), slice(36, 48), slice(48, 68))
"""Landmarks of jaw, chin, brows, nose, eyes and mouth, each of which may be occluded."""
BEST = 10
"""Percentile over the recording that is the lowest uncertainty of a part."""
UNCERTAINTY_COST, TURN_COST = 0.05, 0.2
"""Costs of a part that is twice as uncertain as at `BEST`, and of full foreshortening, in units of the
movement between frames (inter-canthal distances, summed over `MOVING`)."""
OPEN_MOUTH, SHUT_EYES = 0.06, 0.6
"""A face is not at rest if its mouth is open by more than this beyond its closed state (inter-canthal
distances), or an eye is below this share of its open height."""
SHUT, OPEN = 10, 90
"""Percentiles over the recording: opening of the closed mouth, height of the open eye."""


def rest_rows(
    tracks: Tracks, usable: npt.NDArray[np.bool_], rest: int | str
) -> tuple[npt.NDArray[np.int64], ...]:
    """Return for each face the rows of the tracks on which it is at rest, (R,) int64 each.

    `usable`, (T, F) bool, marks confident faces; `rest` is a frame number of the video, or "auto" for the
    calmest second of each face. Empty if a face is never usable, or absent from the given frame. Raises a
    `MeasureError` if the frame is not in the tracks or has no face.
    """
    if rest == "auto":
        return tuple(_calmest(tracks, usable[:, face], face) for face in range(usable.shape[1]))
    if isinstance(rest, bool) or not isinstance(rest, (int, np.integer)):
        raise MeasureError(f"The rest frame is {rest!r:.40}: give a frame's number, or auto.")
    rows = np.flatnonzero(tracks.frame_indices == int(rest))
    if not len(rows):
        first, last = int(tracks.frame_indices[0]), int(tracks.frame_indices[-1])
        raise MeasureError(f"There is no frame {rest} for the rest: give one from {first} to {last}.")
    present = np.isfinite(tracks.landmarks[rows[0]]).all(axis=(1, 2))
    if not present.any():
        raise MeasureError(f"Frame {rest} has no face: choose another rest frame.")
    return tuple(rows if has_face else rows[:0] for has_face in present)


def _calmest(tracks: Tracks, usable: npt.NDArray[np.bool_], face: int) -> npt.NDArray[np.int64]:
    """Return the rows of the `SECONDS` with least movement, occlusion and head rotation, and open eyes.

    For a face that is never usable for so long without interruption, return its calmest frames.
    """
    rows = np.flatnonzero(usable)
    if len(rows) <= 2:
        return rows
    *moving, size = measure_landmarks(tracks.landmarks[:, face], (*MOVING, "inter_canthal_distance"))[:, rows]
    shape = np.transpose(moving) / max(float(np.median(size)), 1e-9)
    eyes, mouth = shape[:, :2], shape[:, 6]
    open_eyes, shut_mouth = np.percentile(eyes, OPEN, axis=0), np.percentile(mouth, SHUT)
    cost = np.abs(np.diff(shape, axis=0, prepend=shape[:1])).sum(axis=1)
    cost += (eyes < SHUT_EYES * open_eyes).any(axis=1) | (mouth > shut_mouth + OPEN_MOUTH)
    cost += UNCERTAINTY_COST * _excess_uncertainty(tracks, rows, face)
    cost += TURN_COST * _foreshortening(tracks, rows, face)
    length = min(_window(tracks.timestamps[rows]), len(rows))
    total = np.convolve(cost, np.ones(length), "valid")
    contiguous = rows[length - 1 :] - rows[: len(rows) - length + 1] < length + length // 4
    total = np.where(contiguous, total, np.inf)
    if not np.isfinite(total).any():
        return np.sort(rows[np.argsort(cost, kind="stable")[:length]])
    first = int(np.argmin(total))
    return rows[first : first + length]


def _excess_uncertainty(tracks: Tracks, rows: npt.NDArray[np.int64], face: int) -> npt.NDArray[np.float64]:
    """Return the largest relative increase of a part's uncertainty above its `BEST`, 0 to 1, (R,).

    This detects occlusions that change no measure, such as a hand in front of the chin.
    """
    chunks = []
    for first in range(0, len(rows), FACES_PER_CHUNK):
        chunk = rows[first : first + FACES_PER_CHUNK]
        arrays = (array[chunk, face] for array in (tracks.landmarks, tracks.confidence, tracks.sigma))
        shares = error_shares(*arrays)
        chunks.append([shares[:, part].mean(axis=1) for part in PARTS])
    parts = np.concatenate(chunks, axis=1)
    best = np.percentile(parts, BEST, axis=1)[:, None]
    return np.asarray((parts / np.maximum(best, 1e-9)).max(axis=0) - 1).clip(0, 1)


def _foreshortening(tracks: Tracks, rows: npt.NDArray[np.int64], face: int) -> npt.NDArray[np.float64]:
    """Return the share by which yaw and pitch shorten lengths, (R,); 0 without a pose."""
    pitch, yaw = tracks.pose[rows, face, 1:3].astype(np.float64).T
    return np.asarray(np.nan_to_num(1 - np.cos(pitch) * np.cos(yaw)))


def is_a_second(rows: npt.NDArray[np.int64], seconds: npt.NDArray[Any]) -> bool:
    """Return whether rest frames are one interval of `SECONDS`; `seconds` are the times of all frames."""
    length = _window(seconds)
    return len(rows) >= length and bool(rows[-1] - rows[0] < length + length // 4)


def _window(seconds: npt.NDArray[Any]) -> int:
    """Return the number of frames in `SECONDS`, from their times."""
    steps = np.diff(seconds)
    steps = steps[np.isfinite(steps) & (steps > 0)]
    if not len(steps):
        return FRAMES_WITHOUT_TIME
    return max(1, round(SECONDS / float(np.median(steps))))
