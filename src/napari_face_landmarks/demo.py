"""A moving face whose motion is known: made from a bundled photograph, tracked, and measured.

The photograph is scikit-image's "astronaut" (Eileen Collins, NASA, public domain), which comes with every
installation of scikit-image; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import ResultError, reason_of
from napari_face_landmarks.ibug import inter_ocular
from napari_face_landmarks.opencv import cv2

if TYPE_CHECKING:
    from napari_face_landmarks.models import Models
    from napari_face_landmarks.settings import TrackerSettings
    from napari_face_landmarks.tracking import Tracks

N_FRAMES = 150
SIZE = 480
FPS = 25.0

FACE_CENTRE = (223.0, 120.0)  # px in the photograph
FACE_PLACE = (0.5, 0.45)  # where that lies in frame 0, as a part of its sides
CLOSE_UP = 1.9  # enlargement of the photograph at zoom 1 in a frame of SIZE
LARGEST_ANGLE = np.deg2rad(15.0)
ZOOM_RANGE = (0.85, 1.2)
GAIN_RANGE = (0.75, 1.15)  # brightness
DRIFT = (0.09, 0.06)  # reach of the translation in x and y, as a part of the frame's side


@dataclass(frozen=True)
class DemoResult:
    """What the demo wrote and measured.

    Parameters
    ----------
    clip, csv, overlay, sheet : Path
        The clip, its landmarks, the clip with its landmarks drawn, and a page of frames.
    tracks : Tracks
        The landmarks of face 0 are those that `distance` measures.
    distance : float
        Mean distance to the known motion over the inter-ocular distance; 0.01 is 1 %.
    """

    clip: Path
    csv: Path
    overlay: Path
    sheet: Path
    tracks: Tracks
    distance: float


def make_demo_clip(
    n_frames: int = N_FRAMES, size: int = SIZE
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Make a clip of a face that moves, turns in the plane, comes closer and changes in brightness.

    Parameters
    ----------
    n_frames : int
        Frames; the motion runs through once whatever their number.
    size : int
        Height and width of a frame, px.

    Returns
    -------
    frames : ndarray, (T, size, size, 3), uint8
        RGB.
    transforms : ndarray, (T, 2, 3), float64
        The affine map of frame 0 to each frame: ``transforms[t] @ (x, y, 1)`` is where the point (x, y) of
        frame 0 lies in frame t. The first is the identity.
    """
    from skimage.data import astronaut

    photo = np.ascontiguousarray(astronaut()[:, :, :3])
    from_photo = np.stack([_motion(t / max(n_frames - 1, 1), size) for t in range(n_frames)])
    frames = np.empty((n_frames, size, size, 3), dtype=np.uint8)
    middle, reach = np.mean(GAIN_RANGE), (GAIN_RANGE[1] - GAIN_RANGE[0]) / 2
    for t in range(n_frames):
        frame = _warp(photo, from_photo[t], size)
        gain = middle + reach * np.sin(6 * np.pi * t / max(n_frames - 1, 1))
        frames[t] = cv2.convertScaleAbs(frame, alpha=float(gain))
    whole = np.zeros((n_frames, 3, 3))
    whole[:, :2] = from_photo
    whole[:, 2, 2] = 1
    return frames, (whole @ np.linalg.inv(whole[0]))[:, :2]


def _motion(phase: float, size: int) -> npt.NDArray[np.float64]:
    """Return the similarity, (2, 3), of the photograph to the frame at `phase` (0 to 1) of the motion."""
    turn = 2 * np.pi * phase
    angle = LARGEST_ANGLE * np.sin(turn)
    low, high = np.log(ZOOM_RANGE)
    zoom = np.exp((low + high) / 2 + (high - low) / 2 * np.sin(2 * turn))
    scale = CLOSE_UP * size / SIZE * zoom
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cosine, -sine], [sine, cosine]])
    place = size * (np.array(FACE_PLACE) + np.array(DRIFT) * np.array([np.sin(2 * turn), np.sin(3 * turn)]))
    return np.column_stack([linear, place - linear @ np.array(FACE_CENTRE)])


def _warp(photo: npt.NDArray[np.uint8], matrix: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.uint8]:
    scale = float(np.sqrt(np.linalg.det(matrix[:, :2])))
    if scale < 1:  # keep detail finer than the new pixels from turning into false patterns
        photo = np.asarray(
            cv2.GaussianBlur(photo, (0, 0), 0.5 * np.sqrt(scale**-2 - 1) + 1e-3), dtype=np.uint8
        )
    return np.asarray(
        cv2.warpAffine(photo, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE),
        dtype=np.uint8,
    )


def motion_distance(
    landmarks: npt.NDArray[Any], transforms: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return how far tracked landmarks are from those of frame 0 carried by the true motion.

    Parameters
    ----------
    landmarks : ndarray, (T, 68, 2)
        Pixels, x then y.
    transforms : ndarray, (T, 2, 3)
        Map of frame 0 to each frame (see `make_demo_clip`).

    Returns
    -------
    ndarray, (T,), float64
        Mean distance over the 68 landmarks, divided by the inter-ocular distance; NaN where there is no face.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    truth = points[0] @ transforms[:, :, :2].transpose(0, 2, 1) + transforms[:, None, :, 2]
    return np.asarray(np.linalg.norm(points - truth, axis=2).mean(axis=1) / inter_ocular(truth))


def run_demo(
    folder: Path,
    models: Models,
    settings: TrackerSettings | None = None,
    n_frames: int | None = None,
    size: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> DemoResult:
    """Make the clip, track its file and write what came out.

    Parameters
    ----------
    folder : Path
        Where ``moving-face.mp4``, ``landmarks.csv``, ``overlay.mp4`` and ``contact-sheet.png`` go; it is made
        if it does not exist.
    models : Models
        From `load_models`.
    settings : TrackerSettings, optional
        The defaults where not given.
    n_frames, size : int, optional
        See `make_demo_clip`.
    progress : callable, optional
        Called with the number of frames tracked and of all frames.

    Returns
    -------
    DemoResult

    Raises
    ------
    ResultError, VideoError
        If a file cannot be written, or no face was found in the first frame.
    """
    from napari_face_landmarks.io import write_csv
    from napari_face_landmarks.tracking import FaceTracker
    from napari_face_landmarks.video import write_video
    from napari_face_landmarks.visualization import contact_sheet, write_overlay

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultError(
            f"The folder {folder} cannot be made ({reason_of(error)}): choose another."
        ) from error
    clip, csv = folder / "moving-face.mp4", folder / "landmarks.csv"
    overlay, sheet = folder / "overlay.mp4", folder / "contact-sheet.png"
    frames, transforms = make_demo_clip(n_frames or N_FRAMES, size or SIZE)
    write_video(clip, frames, fps=FPS)
    tracks = FaceTracker(models, settings).track(clip, progress=progress)
    write_csv(csv, tracks)
    write_overlay(overlay, clip, tracks)
    contact_sheet(sheet, clip, tracks)
    if tracks.landmarks.shape[1] == 0 or not np.isfinite(tracks.landmarks[0, 0]).all():
        raise ResultError(f"No face was found in the first frame of {clip}: the models may be damaged.")
    distance = float(np.nanmean(motion_distance(tracks.landmarks[:, 0], transforms)))
    return DemoResult(clip, csv, overlay, sheet, tracks, distance)
