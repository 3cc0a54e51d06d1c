"""PFLD started on frames that come next, where the faces that are known should be by then."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.models import Models
from napari_face_landmarks.pfld import PfldOutput, crops_of_landmarks, predict_twice
from napari_face_landmarks.tracking.refinement import Refined
from napari_face_landmarks.tracking.state import AheadState, Refinement
from napari_face_landmarks.tracking.threads import Workers

Floats = npt.NDArray[np.float32]
Frame = npt.NDArray[np.uint8] | FaceLandmarksError
"""A frame, (H, W, 3), or the error that came in its place."""

LOOK_AHEAD = 2
"""Frames that PFLD looks at at a time."""
FACES_AT_ONCE = 2
"""Faces of a frame that PFLD looks at in one go, whatever the number of threads: a tenth less work each."""
SMALL_MOTION = 0.03
"""A motion of this share of the crop's side is foreseen by half; smaller ones by less, larger by more."""
CROP_STEPS = 2048
"""Crops that are foreseen lie on a grid of about the side by this, and so many steps of roll a radian.

Landmarks follow from crops and crops from landmarks, so that two runs that began apart come ever closer but,
by the rounding of float32, never quite together; on the grid they meet, and from there on are the same.
"""


@dataclass(eq=False)
class Face:
    """What the tracker remembers of a face from frame to frame.

    Attributes
    ----------
    landmarks : ndarray, (68, 2), float32
        As PFLD gave them on the last frame.
    places : tuple of ndarray, (2,)
        Middle of the landmarks on the last three frames, the latest first.
    stands : Refinement
        Where the refinement stands; only its own work, which goes in the order of the frames, touches it.
    refinement : Future or None
        The refinement begun last.
    """

    landmarks: Floats
    places: tuple[Floats, ...] = ()
    stands: Refinement = field(default_factory=Refinement)
    refinement: Future[Refined] | None = None

    def move(self, landmarks: Floats) -> None:
        """Take note of the landmarks on another frame."""
        self.landmarks = landmarks
        self.places = (landmarks.mean(axis=0), *self.places[:LOOK_AHEAD])


@dataclass(frozen=True, slots=True)
class Ahead:
    """A frame that PFLD was started on before the frame before it was done.

    Attributes
    ----------
    index : int
    frame : ndarray, (H, W, 3), uint8, or FaceLandmarksError
    faces : list of Face
        Those that are looked for.
    outputs : list of Future
        Of each, what PFLD sees, and the seconds that took.
    crops : ndarray, (N, 4), float32
        Where each is looked for.
    """

    index: int
    frame: Frame
    faces: list[Face]
    outputs: list[Future[tuple[PfldOutput, float]]]
    crops: Floats


def look_ahead(
    models: Models, workers: Workers, index: int, frame: Frame, faces: Sequence[Face | None]
) -> Ahead:
    """Start PFLD where the faces that are known should be on a frame that comes `LOOK_AHEAD` later."""
    known = [face for face in faces if face is not None]
    if not known or isinstance(frame, FaceLandmarksError):
        return _nothing(index, frame)
    crops = crops_of_landmarks(np.stack([face.landmarks for face in known]))
    crops[:, :2] += _motions(known, crops[:, 2])
    return _begin(models, workers, index, frame, known, _on_grid(crops))


def look_again(
    models: Models,
    workers: Workers,
    index: int,
    frame: Frame,
    faces: Sequence[Face | None],
    begun: AheadState,
) -> Ahead:
    """Start PFLD where it was looking on a frame when a state was taken."""
    if not begun.slots or isinstance(frame, FaceLandmarksError):
        return _nothing(index, frame)
    lost = Face(np.zeros((N_LANDMARKS, 2), np.float32))
    known = [(faces[slot] if slot >= 0 else None) or lost for slot in begun.slots]
    return _begin(models, workers, index, frame, known, begun.crops)


def timed_look(models: Models, rgb: npt.NDArray[np.uint8], crops: Floats) -> tuple[PfldOutput, float]:
    """Return what PFLD sees in crops, and the seconds that took."""
    began = time.perf_counter()
    return predict_twice(models.pfld, rgb, crops), time.perf_counter() - began


def _begin(
    models: Models,
    workers: Workers,
    index: int,
    frame: npt.NDArray[np.uint8],
    known: list[Face],
    crops: Floats,
) -> Ahead:
    outputs = [
        workers.submit(partial(timed_look, models, frame, crops[first : first + FACES_AT_ONCE]))
        for first in range(0, len(crops), FACES_AT_ONCE)
    ]
    return Ahead(index, frame, known, outputs, crops)


def _nothing(index: int, frame: Frame) -> Ahead:
    return Ahead(index, frame, [], [], np.zeros((0, 4), np.float32))


def _on_grid(crops: Floats) -> Floats:
    """Return crops, (N, 4): centre, side and roll rounded to the grid of `CROP_STEPS`."""
    steps = np.full(crops.shape, 1 / CROP_STEPS)
    steps[:, :3] *= 2.0 ** np.floor(np.log2(np.maximum(crops[:, 2:3], 1)))
    return np.asarray(np.round(crops / steps) * steps, dtype=np.float32)


def _motions(faces: Sequence[Face], sides: Floats) -> Floats:
    """Return how far faces should move in `LOOK_AHEAD` frames, (F, 2) px: as far as in as many before.

    Small motions are mostly jitter, which a crop that followed them would make worse: they count for less.
    """
    motions = np.zeros((len(faces), 2), np.float32)
    for row, face in enumerate(faces):
        if len(face.places) > LOOK_AHEAD:
            motions[row] = face.places[0] - face.places[LOOK_AHEAD]
    lengths = np.linalg.norm(motions, axis=1)
    return np.asarray(motions * (lengths / (lengths + SMALL_MOTION * sides))[:, None], dtype=np.float32)
