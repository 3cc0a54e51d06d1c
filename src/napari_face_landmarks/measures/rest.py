"""The frames on which a face is at rest: chosen, or the calmest second of the recording."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import MeasureError
from napari_face_landmarks.measures.definitions import FACES_PER_CHUNK, measure_landmarks
from napari_face_landmarks.measures.uncertainty import error_shares

SECONDS = 1.0
"""Length of the calm stretch that counts as rest."""
FRAMES_WITHOUT_TIME = 25
"""Its length where the recording has no time stamps."""
MOVING = (
    "eye_height_right",
    "eye_height_left",
    "brow_height_right",
    "brow_height_left",
    "commissure_excursion_right",
    "commissure_excursion_left",
    "mouth_opening",
)
"""Measures whose movement distinguishes a calm face from a moving one."""
PARTS = (slice(0, 17), slice(5, 12), slice(17, 27), slice(27, 36), slice(36, 48), slice(48, 68))
"""Landmarks of the jaw, chin, brows, nose, eyes and mouth, any of which may be hidden."""
BEST = 10
"""Percentile of a part's uncertainty over the recording that is its best."""
DOUBT, TURNED = 0.05, 0.2
"""What a part that is twice as uncertain as at its best, and a foreshortening by all of a length, count in a
face's movement from one frame to the next (of the inter-canthal distance, of all of `MOVING` together)."""
OPEN_MOUTH, SHUT_EYES = 0.06, 0.6
"""A mouth that is opened this far beyond its shut state (of the inter-canthal distance), or an eye this share
of its open height, is no rest."""
SHUT, OPEN = 10, 90
"""Percentiles over the recording of the opening of a mouth that is shut, and of the height of an open eye."""


def rest_rows(
    tracks: Tracks, usable: npt.NDArray[np.bool_], rest: int | str
) -> tuple[npt.NDArray[np.int64], ...]:
    """Return for each face the rows of the tracks on which it is at rest, (R,) int64 each.

    `usable`, (T, F) bool, is where there is a confident face; `rest` a frame's number in the video, or "auto"
    for the calmest second of each face. Empty where a face is never usable, or not on the frame that was
    given. Raises a `MeasureError` if the frame is none of the tracks', or no face is there.
    """
    if rest == "auto":
        return tuple(_calmest(tracks, usable[:, face], face) for face in range(usable.shape[1]))
    if isinstance(rest, bool) or not isinstance(rest, (int, np.integer)):
        raise MeasureError(f"The rest frame is {rest!r:.40}: give a frame's number, or auto.")
    rows = np.flatnonzero(tracks.frame_indices == int(rest))
    if not len(rows):
        first, last = int(tracks.frame_indices[0]), int(tracks.frame_indices[-1])
        raise MeasureError(f"There is no frame {rest} for the rest: give one from {first} to {last}.")
    there = np.isfinite(tracks.landmarks[rows[0]]).all(axis=(1, 2))
    if not there.any():
        raise MeasureError(f"Frame {rest} has no face: choose another rest frame.")
    return tuple(rows if found else rows[:0] for found in there)


def _calmest(tracks: Tracks, usable: npt.NDArray[np.bool_], face: int) -> npt.NDArray[np.int64]:
    """Return the rows of the stretch of `SECONDS` that is calm, open-eyed, unhidden and frontal.

    Of a face that is never seen for so long without interruption, they are those of its calmest frames.
    """
    rows = np.flatnonzero(usable)
    if len(rows) <= 2:
        return rows
    found = measure_landmarks(tracks.landmarks[:, face], (*MOVING, "inter_canthal_distance"))[:, rows]
    moving = found[:-1].T / max(float(np.median(found[-1])), 1e-9)
    open_eyes, shut_mouth = np.percentile(moving[:, :2], OPEN, axis=0), np.percentile(moving[:, 6], SHUT)
    speed = np.abs(np.diff(moving, axis=0, prepend=moving[:1])).sum(axis=1)
    tense = (moving[:, :2] < SHUT_EYES * open_eyes).any(axis=1) | (moving[:, 6] > shut_mouth + OPEN_MOUTH)
    cost = speed + tense + DOUBT * _doubt(tracks, rows, face) + TURNED * _foreshortening(tracks, rows, face)
    length = min(_window(tracks.timestamps[rows]), len(rows))
    total = np.convolve(cost, np.ones(length), "valid")
    in_a_row = rows[length - 1 :] - rows[: len(rows) - length + 1] < length + length // 4
    total = np.where(in_a_row, total, np.inf)
    if not np.isfinite(total).any():
        return np.sort(rows[np.argsort(cost, kind="stable")[:length]])
    first = int(np.argmin(total))
    return rows[first : first + length]


def _doubt(tracks: Tracks, rows: npt.NDArray[np.int64], face: int) -> npt.NDArray[np.float64]:
    """Return by which share the least certain part of a face is less certain than on its best frames, (R,).

    A hand before the chin moves no lid and no corner of the mouth: the chin's uncertainty tells of it.
    """
    found = []
    for first in range(0, len(rows), FACES_PER_CHUNK):
        some = rows[first : first + FACES_PER_CHUNK]
        arrays = (array[some, face] for array in (tracks.landmarks, tracks.confidence, tracks.sigma))
        shares = error_shares(*arrays)
        found.append([shares[:, part].mean(axis=1) for part in PARTS])
    parts = np.concatenate(found, axis=1)
    best = np.percentile(parts, BEST, axis=1)[:, None]
    return np.asarray((parts / np.maximum(best, 1e-9)).max(axis=0) - 1).clip(0, 1)


def _foreshortening(tracks: Tracks, rows: npt.NDArray[np.int64], face: int) -> npt.NDArray[np.float64]:
    """Return by which share lengths across or along a turned face look too short; 0 without a pose, (R,)."""
    pitch, yaw = tracks.pose[rows, face, 1:3].astype(np.float64).T
    return np.asarray(np.nan_to_num(1 - np.cos(pitch) * np.cos(yaw)))


def is_a_second(rows: npt.NDArray[np.int64], seconds: npt.NDArray[Any]) -> bool:
    """Return whether the rows of a rest make one stretch of `SECONDS` of frames at the times `seconds`."""
    length = _window(seconds)
    return len(rows) >= length and bool(rows[-1] - rows[0] < length + length // 4)


def _window(seconds: npt.NDArray[Any]) -> int:
    """Return the number of frames in `SECONDS`."""
    steps = np.diff(seconds)
    steps = steps[np.isfinite(steps) & (steps > 0)]
    if not len(steps):
        return FRAMES_WITHOUT_TIME
    return max(1, round(SECONDS / float(np.median(steps))))
