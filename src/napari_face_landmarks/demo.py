"""The demo: track a photograph that moves along a known path, and compare the landmarks with that motion.

The photograph is scikit-image's "astronaut" (Eileen Collins, NASA, public domain), which is installed with
scikit-image; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.files.atomic import make_folder
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
FACE_POSITION = (0.5, 0.45)  # of the centre in frame 0, as a fraction of width and height
MAGNIFICATION = 1.9  # of the photograph at zoom 1 in a frame of SIZE
MAX_ANGLE = np.deg2rad(15.0)
ZOOM_RANGE = (0.85, 1.2)
GAIN_RANGE = (0.75, 1.15)  # brightness
DRIFT = (0.09, 0.06)  # amplitude of the translation in x and y, as a fraction of the frame's side


@dataclass(frozen=True)
class DemoResult:
    """Files and results of the demo."""

    clip: Path
    csv: Path  # the landmarks
    overlay: Path  # the overlay video
    sheet: Path  # the contact sheet
    tracks: Tracks
    distance: float  # mean of `motion_distance` for face 0


def make_demo_clip(
    n_frames: int = N_FRAMES, size: int = SIZE
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Make a clip of a face that moves, rotates in the image plane, and changes in scale and brightness.

    Parameters
    ----------
    n_frames : int
        Number of frames; they always cover the whole motion.
    size : int
        Height and width of a frame, px.

    Returns
    -------
    frames : ndarray, (T, size, size, 3), uint8
        RGB.
    transforms : ndarray, (T, 2, 3), float64
        Affine transforms from frame 0 to each frame: ``transforms[t] @ (x, y, 1)`` is the position in frame t
        of the point (x, y) of frame 0. The first is the identity.
    """
    from skimage.data import astronaut

    photo = np.ascontiguousarray(astronaut()[:, :, :3])
    from_photo = np.stack([_motion(t / max(n_frames - 1, 1), size) for t in range(n_frames)])
    frames = np.empty((n_frames, size, size, 3), dtype=np.uint8)
    mean_gain, amplitude = np.mean(GAIN_RANGE), (GAIN_RANGE[1] - GAIN_RANGE[0]) / 2
    for t in range(n_frames):
        frame = _warp(photo, from_photo[t], size)
        gain = mean_gain + amplitude * np.sin(6 * np.pi * t / max(n_frames - 1, 1))
        frames[t] = cv2.convertScaleAbs(frame, alpha=float(gain))
    homogeneous = np.zeros((n_frames, 3, 3))
    homogeneous[:, :2] = from_photo
    homogeneous[:, 2, 2] = 1
    return frames, (homogeneous @ np.linalg.inv(homogeneous[0]))[:, :2]


def _motion(phase: float, size: int) -> npt.NDArray[np.float64]:
    """Return the similarity transform, (2, 3), from the photograph to the frame at `phase` (0 to 1)."""
    cycle = 2 * np.pi * phase
    angle = MAX_ANGLE * np.sin(cycle)
    low, high = np.log(ZOOM_RANGE)
    zoom = np.exp((low + high) / 2 + (high - low) / 2 * np.sin(2 * cycle))
    scale = MAGNIFICATION * size / SIZE * zoom
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cosine, -sine], [sine, cosine]])
    drift = np.array(DRIFT) * np.array([np.sin(2 * cycle), np.sin(3 * cycle)])
    position = size * (np.array(FACE_POSITION) + drift)
    return np.column_stack([linear, position - linear @ np.array(FACE_CENTRE)])


def _warp(photo: npt.NDArray[np.uint8], matrix: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.uint8]:
    scale = float(np.sqrt(np.linalg.det(matrix[:, :2])))
    if scale < 1:  # prevent aliasing
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
    """Return the mean distance of tracked landmarks from the landmarks of frame 0 moved by the true motion.

    Arrays: `landmarks` (T, 68, 2), pixels, x then y; `transforms` (T, 2, 3). Returns (T,) float64, in
    inter-ocular distances.
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
    """Make the clip, track it and write the results to `folder`."""
    from napari_face_landmarks.io import write_csv
    from napari_face_landmarks.tracking import FaceTracker
    from napari_face_landmarks.video import write_video
    from napari_face_landmarks.visualization import contact_sheet, write_overlay

    make_folder(folder)
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
