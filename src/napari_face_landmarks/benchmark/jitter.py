"""How steady the landmarks of a face are that keeps still."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.ibug import inter_ocular
from napari_face_landmarks.models import Models
from napari_face_landmarks.settings import RefineMode, TrackerSettings
from napari_face_landmarks.tracking import FaceTracker

MODES: tuple[tuple[str, RefineMode, int, int], ...] = (
    ("PFLD alone, not smoothed", "off", 1, 1),
    ("PFLD alone", "off", 1, 5),
    ("CLNF on every frame, not smoothed", "always", 1, 1),
    ("CLNF on every frame", "always", 1, 5),
    ("CLNF on every 2nd frame", "always", 2, 5),
    ("auto, skip 1", "auto", 1, 5),
    ("auto, skip 2 (the defaults)", "auto", 2, 5),
)
"""What is compared: its name, refinement, skip and smoothing window."""
STILL = 0.005
"""A face keeps still where it moves by less than this share of the inter-ocular distance a frame..."""
STILL_OVER = 9
"""...on average over so many frames."""


@dataclass(frozen=True)
class Steadiness:
    """How much landmarks tremble.

    Attributes
    ----------
    name : str
        What was run.
    jitter : float
        Root mean square of the landmarks' second difference over frames where the face keeps still, px.
    frames : int
        How many frames these are.
    """

    name: str
    jitter: float
    frames: int


def jitter(landmarks: npt.NDArray[np.floating]) -> tuple[float, int]:
    """Return how much the landmarks of a face tremble while it keeps still.

    Parameters
    ----------
    landmarks : ndarray, (T, 68, 2)
        Pixels, x then y; NaN where there is no face.

    Returns
    -------
    jitter : float
        Root mean square length of the second difference in time, px; NaN where the face never keeps still.
    frames : int
        Frames where it does: where the middle of the landmarks moves by less than 0.5 % of the inter-ocular
        distance a frame, averaged over 9 frames.
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
    """Track a video in several ways, and return how much the landmarks of its first face tremble in each.

    Parameters
    ----------
    models : Models
    path : Path
    stop : int, optional
        Leave off before this frame.
    say : callable
        Told each result as a sentence.
    """
    found = []
    for name, refine, every, window in MODES:
        settings = TrackerSettings(refine=refine, clnf_every=every, smoothing_window=window)
        tracks = FaceTracker(models, settings).track(path, stop=stop)
        found.append(Steadiness(name, *jitter(tracks.landmarks[:, 0])))
        say(f"{name}: {found[-1].jitter:.3f} px over {found[-1].frames} frames")
    return found
