"""Tracks of a slowly moving face, with faults on known frames."""

from __future__ import annotations

import numpy as np

from napari_face_landmarks.data.fields import BY_CLNF, CLNF, NONE, OFF_MODEL, PFLD
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.ibug import inter_ocular

PLANTED = {
    "lost face": 70,
    "jump": 120,
    "low confidence": 30,
    "PFLD and CLNF disagree": 160,
    "unlike a face": 190,
}
"""Frame with a fault for each reason; `bad_tracks` must have at least 200 frames."""


def good_tracks(n_frames: int = 240, n_faces: int = 1, first: int = 0, fps: float = 25.0) -> Tracks:
    """Return faces that drift and nod, with high confidence, refined on every other frame."""
    random = np.random.default_rng(0)
    shape = random.uniform(-40, 40, (68, 2))
    shape[36], shape[45] = (-25, -10), (25, -10)
    t = np.arange(n_frames, dtype=np.float64)
    path = np.stack([100 + 10 * np.sin(t / 40), 100 + 6 * np.cos(t / 25)], axis=-1)
    faces = np.arange(n_faces)[None, :, None, None] * 150.0
    landmarks = (path[:, None, None] + shape + faces).astype(np.float32)
    source = np.full((n_frames, n_faces), PFLD, np.uint8)
    source[::2] = CLNF
    misfit = np.full((n_frames, n_faces, 2), np.nan, np.float32)
    misfit[..., OFF_MODEL] = 0.006
    misfit[::2, :, BY_CLNF] = 0.018
    pose = np.zeros((n_frames, n_faces, 6), np.float32)
    pose[..., 1] = 0.1 * np.sin(t / 25)[:, None]
    pose[..., 2] = 0.3 * np.sin(t / 40)[:, None]
    frames = np.arange(first, first + n_frames)
    return Tracks(
        landmarks=landmarks,
        confidence=np.full((n_frames, n_faces, 68), 0.93, np.float32),
        source=source,
        pose=pose,
        boxes=np.zeros((n_frames, n_faces, 5), np.float32),
        frame_indices=frames,
        timestamps=frames / fps,
        meta={"fps": fps},
        misfit=misfit,
    )


def lose(tracks: Tracks, rows: slice, face: int = 0) -> None:
    tracks.landmarks[rows, face] = np.nan
    tracks.misfit[rows, face] = np.nan
    tracks.pose[rows, face] = np.nan
    tracks.confidence[rows, face] = 0
    tracks.source[rows, face] = NONE


def bad_tracks(n_frames: int = 240, n_faces: int = 1) -> Tracks:
    """Return `good_tracks` with the faults of `PLANTED` in one face, the worst first."""
    tracks = good_tracks(n_frames, n_faces)
    lose(tracks, slice(70, 75))
    tracks.landmarks[120, 0, :, 0] += 1.2 * inter_ocular(tracks.landmarks[120, 0])  # on this frame only
    tracks.confidence[30, 0] = 0.1
    tracks.source[160, 0], tracks.misfit[160, 0, BY_CLNF] = CLNF, 0.16
    tracks.misfit[190, 0, OFF_MODEL] = 0.05
    return tracks
