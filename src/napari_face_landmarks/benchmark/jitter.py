"""Jitter of the landmarks of a face at rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.ibug import inter_ocular
from napari_face_landmarks.models import Models
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking import FaceTracker

MODES: tuple[tuple[str, TrackerSettings], ...] = (
    ("PFLD on every frame, not smoothed", TrackerSettings(refine="off", pfld_every=1, smoothing_window=1)),
    ("PFLD on every frame", TrackerSettings(refine="off", pfld_every=1)),
    ("PFLD alone, not smoothed", TrackerSettings(refine="off", smoothing_window=1)),
    ("PFLD alone", TrackerSettings(refine="off")),
    ("CLNF on every frame, not smoothed", TrackerSettings(refine="always", clnf_every=1, smoothing_window=1)),
    ("CLNF on every frame", TrackerSettings(refine="always", clnf_every=1)),
    ("CLNF on every 2nd frame", TrackerSettings(refine="always")),
    ("auto, skip 1", TrackerSettings(clnf_every=1)),
    ("auto, skip 2 (the defaults)", TrackerSettings()),
)
"""Compared runs: name and settings."""
STILL = 0.005
"""A face is at rest if it moves by less than this fraction of the inter-ocular distance per frame, ..."""
STILL_OVER = 9
"""... averaged over this number of frames."""


@dataclass(frozen=True)
class Steadiness:
    """Jitter of a run."""

    name: str  # name of the run
    # root mean square of the landmarks' second difference over frames with the face at rest, px
    jitter: float
    frames: int  # number of these frames


def jitter(landmarks: npt.NDArray[np.floating]) -> tuple[float, int]:
    """Return the jitter of the landmarks of a face at rest, px, and the number of frames at rest.

    Of landmarks (T, 68, 2) in pixels, NaN if there is no face: the root mean square length of the second
    difference in time, NaN if the face is never at rest. It is where the centroid of the landmarks moves by
    less than 0.5 % of the inter-ocular distance per frame, averaged over 9 frames.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if len(points) < STILL_OVER:
        return float("nan"), 0
    ends = STILL_OVER // 2
    middle = np.pad(points.mean(axis=1), ((ends, ends), (0, 0)), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(middle, STILL_OVER, axis=0).mean(axis=-1)
    speed = np.linalg.norm(np.gradient(smooth, axis=0), axis=1) / inter_ocular(points)
    second = points[2:] - 2 * points[1:-1] + points[:-2]
    still = np.isfinite(second).all(axis=(1, 2)) & (speed[1:-1] < STILL)
    if not still.any():
        return float("nan"), 0
    return float(np.sqrt((second[still] ** 2).sum(axis=-1).mean())), int(still.sum())


def steadiness(
    models: Models, path: Path, stop: int | None = None, say: Callable[[str], None] = lambda text: None
) -> list[Steadiness]:
    """Track a video with several settings, and return the jitter of its first face for each.

    Up to the frame `stop`. `say` is called with each result as a sentence.
    """
    found = []
    for name, settings in MODES:
        tracks = FaceTracker(models, settings).track(path, stop=stop)
        found.append(Steadiness(name, *jitter(tracks.landmarks[:, 0])))
        say(f"{name}: {found[-1].jitter:.3f} px over {found[-1].frames} frames")
    return found
