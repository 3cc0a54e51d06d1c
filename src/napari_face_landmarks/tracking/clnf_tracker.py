"""Faces followed by CLNF alone, from the detector's box on, as OpenFace does: ``refine="clnf-only"``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf import numba_engine
from napari_face_landmarks.clnf.fit import OwnFit, fit_alone, params_of_crop
from napari_face_landmarks.clnf.openface_experts import OpenFaceExperts
from napari_face_landmarks.data.fields import CLNF
from napari_face_landmarks.data.frame import FaceFit, FrameResult, empty_frame
from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.detection import detect_faces, roll_from_points
from napari_face_landmarks.detection.boxes import SAME_FACE, boxes_of, iou, suppress
from napari_face_landmarks.detection.detector import DEFAULT_MIN_SCORE
from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.models import Models
from napari_face_landmarks.pfld import crops_of_boxes
from napari_face_landmarks.pfld.crop import CROP_MARGIN
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.association import assign_slots
from napari_face_landmarks.tracking.run import Run, ends_run
from napari_face_landmarks.tracking.state import Standing
from napari_face_landmarks.tracking.threads import thread_pool
from napari_face_landmarks.video.pixels import to_grey

Floats = npt.NDArray[np.float32]

SEEN_SCORE = 0.4
"""Score from which the detector sees a face that is followed; a new one needs its usual score."""
LOOK_EVERY = 5
"""The detector runs on every n-th frame, to see whether the faces are still there and for others."""
MOST_UNSEEN = 3
"""A face that the detector has not seen so many times in a row is lost: CLNF alone cannot tell."""
DOUBTFUL = 0.6
"""Below this share of its usual confidence a face is looked for at once, and lost if it is not seen."""
STILL_SEEN = 0.2
"""Boxes of a face's landmarks and of a detection that overlap by more mean the same face."""


@dataclass(frozen=True)
class AloneFace:
    """A face as CLNF alone fitted it.

    Attributes
    ----------
    fit : OwnFit
    score : float
        The detector's, when it saw the face last.
    unseen : int
        How many times in a row the detector has not seen it since.
    usual : float
        The mean confidence that its landmarks had of late; 0 where it is new.
    """

    fit: OwnFit
    score: float
    unseen: int = 0
    usual: float = 0.0

    @property
    def doubtful(self) -> bool:
        """Whether the experts respond much less than before."""
        return bool(self.fit.confidence.mean() < DOUBTFUL * self.usual)

    @property
    def box(self) -> Floats:
        """The landmarks' box, (4,): x0, y0, x1, y1."""
        return np.asarray(boxes_of(self.fit.landmarks[None])[0])


def fit_crops(models: Models, grey: npt.NDArray[np.uint8], crops: Floats, scores: Floats) -> list[AloneFace]:
    """Fit faces from their crops, (F, 4); one that fails is left where it started."""
    faces = []
    for crop, score in zip(crops, scores, strict=True):
        start = params_of_crop(models.pdm, crop, CROP_MARGIN)
        fit = fit_alone(grey, start, models.pdm, models.experts, models.constants_alone)
        faces.append(AloneFace(fit, float(score)))
    return faces


def find_alone(
    models: Models,
    settings: TrackerSettings,
    rgb: npt.NDArray[np.uint8],
    grey: npt.NDArray[np.uint8],
    stats: RunStats,
    known: list[AloneFace],
) -> tuple[list[AloneFace], list[AloneFace]]:
    """Look for faces with the detector.

    Returns
    -------
    known : list of AloneFace
        As given, with what the detector says of each.
    found : list of AloneFace
        Others, best first, fitted.
    """
    began = time.perf_counter()
    most = 2 * settings.max_faces + len(known)
    seen = detect_faces(models.detector, rgb, min_score=SEEN_SCORE, max_faces=most)
    stats.add_time("detect", time.perf_counter() - began)
    roll = np.array([roll_from_points(points) for points in seen.points], dtype=np.float64)
    crops = crops_of_boxes(seen.boxes, roll)
    half = crops[:, 2:3] / (2 * CROP_MARGIN)
    boxes = np.concatenate([crops[:, :2] - half, crops[:, :2] + half], axis=1)
    free = np.asarray(seen.boxes[:, 4] >= max(DEFAULT_MIN_SCORE, settings.min_confidence))
    checked = []
    for face in known:
        shared = iou(face.box[None], boxes)[0]
        same = np.flatnonzero(shared > STILL_SEEN)
        free[same] = False
        if len(same):
            score = float(seen.boxes[same[np.argmax(shared[same])], 4])
            checked.append(replace(face, score=score, unseen=0, usual=float(face.fit.confidence.mean())))
        else:
            checked.append(replace(face, unseen=MOST_UNSEEN if face.doubtful else face.unseen + 1))
    began = time.perf_counter()
    found = [face for face in fit_crops(models, grey, crops[free], seen.boxes[free, 4]) if face.fit.converged]
    if free.any():
        stats.add_time("clnf", time.perf_counter() - began)
    return checked, found


def follow_alone(
    frames: Iterator[tuple[int, npt.NDArray[np.uint8] | FaceLandmarksError]],
    models: Models,
    settings: TrackerSettings,
    run: Run,
    threads: int = 1,
    before: Standing | None = None,
) -> Iterator[FrameResult]:
    """Follow faces through frames: each is fitted from where it was on the frame before.

    Parameters
    ----------
    frames : iterator of (int, ndarray or FaceLandmarksError)
        As `rgb_frames` gives them.
    models : Models
    settings : TrackerSettings
        `max_faces` and `min_confidence` are used, this one for what the detector sees.
    run : Run
        Its counts and warnings are kept.
    threads : int
        How many evaluate OpenFace's experts at a time; with 1 all is done in the caller's.
    before : Standing, optional
        Where to go on from; `frames` begin with its `next_index`.
    """
    if threads > 1 and isinstance(models.experts, OpenFaceExperts):
        with thread_pool(threads - 1) as pool:
            yield from _follow(
                frames, models, settings, run, numba_engine.with_threads(pool, threads), before
            )
    else:
        yield from _follow(frames, models, settings, run, numba_engine, before)


def _follow(
    frames: Iterator[tuple[int, npt.NDArray[np.uint8] | FaceLandmarksError]],
    models: Models,
    settings: TrackerSettings,
    run: Run,
    engine: ModuleType | SimpleNamespace,
    before: Standing | None,
) -> Iterator[FrameResult]:
    slots: list[AloneFace | None] = [None] * settings.max_faces
    last_boxes: dict[int, Floats] = {}
    last_seen: dict[int, int] = {}
    if before is not None:
        slots = [face if isinstance(face, AloneFace) else None for face in before.faces]
        last_boxes, last_seen = dict(before.last_boxes), dict(before.last_seen)
    for done, (index, frame) in enumerate(frames, start=0 if before is None else 1):
        if isinstance(frame, FaceLandmarksError):
            if ends_run(run, frame, first=not done):
                return
            slots = [None] * len(slots)
            run.standing = _standing(index, slots, last_boxes, last_seen, run)
            yield empty_frame(index, len(slots))
            continue
        slots = _step(frame, index, models, settings, run.stats, slots, last_boxes, last_seen, engine)
        result = empty_frame(index, len(slots))
        for slot, face in enumerate(slots):
            if face is not None:
                last_boxes[slot], last_seen[slot] = face.box, index
                _set_face(result, slot, face)
        run.standing = _standing(index, slots, last_boxes, last_seen, run)
        yield result


def _standing(
    index: int,
    slots: list[AloneFace | None],
    last_boxes: dict[int, Floats],
    last_seen: dict[int, int],
    run: Run,
) -> Callable[[], Standing]:
    standing = Standing(
        index + 1, tuple(slots), (), dict(last_boxes), dict(last_seen), n_warnings=len(run.warnings)
    )
    return lambda: standing


def _step(
    rgb: npt.NDArray[np.uint8],
    index: int,
    models: Models,
    settings: TrackerSettings,
    stats: RunStats,
    before: list[AloneFace | None],
    last_boxes: dict[int, Floats],
    last_seen: dict[int, int],
    engine: ModuleType | SimpleNamespace,
) -> list[AloneFace | None]:
    """Return the faces of a frame, slot by slot."""
    began = time.perf_counter()
    grey = to_grey(rgb)
    slots: list[AloneFace | None] = [None] * len(before)
    for slot, face in enumerate(before):
        if face is not None:
            fit = fit_alone(
                grey, face.fit.params, models.pdm, models.experts, models.constants_alone, True, engine
            )
            slots[slot] = replace(face, fit=fit) if fit.converged else None
    known = [(slot, face) for slot, face in enumerate(slots) if face is not None]
    if len(known) > 1:
        boxes = np.stack([face.box for _, face in known])
        single = suppress(boxes, np.array([face.fit.likelihood for _, face in known]), SAME_FACE)
        for row in set(range(len(known))) - set(single.tolist()):
            slots[known[row][0]] = None
    known = [(slot, face) for slot, face in enumerate(slots) if face is not None]
    if known:
        stats.add_time("clnf", time.perf_counter() - began)
    lost = sum(face is not None for face in before) > len(known)
    doubtful = any(face.doubtful for _, face in known)
    if known and not lost and not doubtful and index % LOOK_EVERY:
        return slots
    checked, found = find_alone(models, settings, rgb, grey, stats, [face for _, face in known])
    for (slot, _), face in zip(known, checked, strict=True):
        slots[slot] = face if face.unseen < MOST_UNSEEN else None
    kept = [face.box for face in slots if face is not None]
    fresh = [face for face in found if not kept or iou(face.box[None], np.stack(kept)).max() < SAME_FACE]
    if fresh:
        scores = np.array([face.score for face in fresh])
        single = suppress(np.stack([face.box for face in fresh]), scores, SAME_FACE)
        fresh = [fresh[row] for row in sorted(single)]
        free = [slot for slot, face in enumerate(slots) if face is None]
        for i, slot in assign_slots(np.stack([face.box for face in fresh]), free, last_boxes, last_seen):
            slots[slot] = fresh[i]
    return slots


def as_fit(faces: list[AloneFace]) -> FaceFit:
    """Return faces as `FaceTracker.fit` gives them."""
    fit = empty_frame(0, len(faces))
    for i, face in enumerate(faces):
        _set_face(fit, i, face)
    return fit


def _set_face(frame: FrameResult, row: int, face: AloneFace) -> None:
    """Write a face into a frame, in place."""
    frame.landmarks[row], frame.source[row] = face.fit.landmarks, CLNF
    frame.confidence[row], frame.pose[row] = face.fit.confidence, face.fit.params[:6]
    frame.boxes[row] = [*face.box, face.score]
