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
"""Name and settings of the runs that are compared."""
STILL = 0.005
"""Largest speed of a face at rest, inter-ocular distances per frame."""
STILL_OVER = 9
"""Number of frames over which the speed is averaged."""


@dataclass(frozen=True)
class Steadiness:
    """Jitter of a run."""

    name: str  # of the run
    jitter: float  # px, see `jitter`
    frames: int  # number of frames with the face at rest


def jitter(landmarks: npt.NDArray[np.floating]) -> tuple[float, int]:
    """Return the jitter of a face at rest, px, and the number of frames at rest.

    Jitter is the root mean square length of the second difference in time of landmarks (T, 68, 2), in pixels
    and NaN without a face; it is NaN if the face is never at rest. At rest, the centroid of the landmarks
    moves by less than 0.5 % of the inter-ocular distance per frame, averaged over 9 frames.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if len(points) < STILL_OVER:
        return float("nan"), 0
    half = STILL_OVER // 2
    centroids = np.pad(points.mean(axis=1), ((half, half), (0, 0)), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(centroids, STILL_OVER, axis=0).mean(axis=-1)
    speed = np.linalg.norm(np.gradient(smooth, axis=0), axis=1) / inter_ocular(points)
    second = points[2:] - 2 * points[1:-1] + points[:-2]
    still = np.isfinite(second).all(axis=(1, 2)) & (speed[1:-1] < STILL)
    if not still.any():
        return float("nan"), 0
    return float(np.sqrt((second[still] ** 2).sum(axis=-1).mean())), int(still.sum())


def steadiness(
    models: Models, path: Path, stop: int | None = None, say: Callable[[str], None] = lambda text: None
) -> list[Steadiness]:
    """Track a video up to the frame `stop` with each of `MODES`; return the jitter of its first face.

    `say` receives a sentence about each result.
    """
    results = []
    for name, settings in MODES:
        tracks = FaceTracker(models, settings).track(path, stop=stop)
        results.append(Steadiness(name, *jitter(tracks.landmarks[:, 0])))
        say(f"{name}: {results[-1].jitter:.3f} px over {results[-1].frames} frames")
    return results
