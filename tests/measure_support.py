"""Tracks and measure tables with known movements, for the tests of measures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from drawn_face import drawn_face
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.measures import Column, MeasureTable, Scale


def tracks_of(landmarks: npt.NDArray[Any], fps: float = 25.0, confidence: float = 0.95) -> Tracks:
    """Return tracks with the given landmarks, (T, F, 68, 2)."""
    n_frames, n_faces = landmarks.shape[:2]
    present = np.isfinite(landmarks).all(axis=(2, 3))
    return Tracks(
        landmarks=landmarks.astype(np.float32),
        confidence=np.where(present[..., None], confidence, 0).repeat(68, axis=-1).astype(np.float32),
        source=present.astype(np.uint8),
        pose=np.full((n_frames, n_faces, 6), np.nan, np.float32),
        boxes=np.full((n_frames, n_faces, 5), np.nan, np.float32),
        frame_indices=np.arange(n_frames),
        timestamps=np.arange(n_frames) / fps,
    )


def faces(n_frames: int) -> npt.NDArray[np.float64]:
    """Return `drawn_face` on each frame, with 200 px between the outer canthi, (T, 1, 68, 2)."""
    return np.repeat((drawn_face() * 2 + (320, 200))[None, None], n_frames, axis=0)


def shut(landmarks: npt.NDArray[np.float64], closure: npt.NDArray[np.float64], side: str = "both") -> None:
    """Shut the eyes of faces (T, 1, 68, 2) in place, by `closure` (T,); 1 is shut."""
    lids = {"right": ((37, 41), (38, 40)), "left": ((43, 47), (44, 46))}
    for name in ("right", "left") if side == "both" else (side,):
        for upper, lower in lids[name]:
            gap = landmarks[:, 0, lower, 1] - landmarks[:, 0, upper, 1]
            landmarks[:, 0, upper, 1] += closure * gap


def closure_table(right: npt.NDArray[Any], left: npt.NDArray[Any], fps: float, error: float) -> MeasureTable:
    """Return a table with only the closure of each eye."""
    values = np.stack([right, left], axis=-1)[:, None].astype(np.float32)
    count = len(right)
    return MeasureTable(
        columns=(
            Column("closure_right", "eye closure, right", "ratio", "right"),
            Column("closure_left", "eye closure, left", "ratio", "left"),
        ),
        values=values,
        errors=np.full_like(values, error),
        frame_indices=np.arange(count),
        timestamps=np.arange(count) / fps,
        low_confidence=np.zeros((count, 1), np.bool_),
        turned=np.zeros((count, 1), np.bool_),
        rest=(np.arange(3),),
        scale=Scale(),
        pose_corrected=False,
        face_names=("face 0",),
    )
