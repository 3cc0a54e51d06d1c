"""Face tracking by CLNF alone, initialised by the detector as in OpenFace: ``refine="clnf-only"``."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from types import ModuleType, SimpleNamespace

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf import numba_engine
from napari_face_landmarks.clnf.fit import ClnfOnlyFit, fit_clnf_only, params_of_crop
from napari_face_landmarks.clnf.openface_experts import OpenFaceExperts
from napari_face_landmarks.data.fields import CLNF
from napari_face_landmarks.data.frame import FaceFit, FrameResult, empty_frame
from napari_face_landmarks.detection import detect_faces, roll_from_points
from napari_face_landmarks.detection.boxes import SAME_FACE, iou, suppress
from napari_face_landmarks.detection.detector import DEFAULT_MIN_SCORE
from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.models import Models
from napari_face_landmarks.parts import place_parts
from napari_face_landmarks.pfld import crops_of_boxes
from napari_face_landmarks.pfld.crop import CROP_MARGIN
from napari_face_landmarks.tracking.context import RunContext, Tracked
from napari_face_landmarks.tracking.cuts import assign_faces, changed_at_cut
from napari_face_landmarks.tracking.frame_source import Frame
from napari_face_landmarks.tracking.state import ClnfFace, FacesState
from napari_face_landmarks.tracking.threads import thread_pool
from napari_face_landmarks.video.pixels import to_grey

Floats = npt.NDArray[np.float32]

TRACKED_SCORE = 0.4
"""Detector score that confirms a tracked face; a new face needs a higher one."""
DETECT_EVERY = 5
"""Interval of the detector, which verifies the tracked faces and finds new ones."""
MAX_UNSEEN = 3
"""Number of consecutive misses by the detector after which a face is lost; CLNF cannot detect the loss."""
MIN_OVERLAP = 0.2
"""IoU above which a detection and the box of a face's landmarks are the same face."""


def fit_crops(models: Models, grey: npt.NDArray[np.uint8], crops: Floats, scores: Floats) -> list[ClnfFace]:
    """Fit faces from their crops, (F, 4); a failed fit returns its initial shape."""
    faces = []
    for crop, score in zip(crops, scores, strict=True):
        start = params_of_crop(models.pdm, crop, CROP_MARGIN)
        fit = fit_clnf_only(grey, start, models.clnf(clnf_only=True))
        faces.append(ClnfFace(fit, float(score)))
    return faces


def find_clnf_faces(
    context: RunContext, rgb: npt.NDArray[np.uint8], grey: npt.NDArray[np.uint8], known: list[ClnfFace]
) -> tuple[list[ClnfFace], list[ClnfFace]]:
    """Run the detector; return the known faces with updated scores, and new faces, fitted, best first."""
    models, settings, stats = context.models, context.settings, context.stats
    began = time.perf_counter()
    limit = 2 * settings.max_faces + len(known)
    detected = detect_faces(models.detector, rgb, min_score=TRACKED_SCORE, max_faces=limit)
    stats.add_time("detect", time.perf_counter() - began)
    roll = np.array([roll_from_points(points) for points in detected.points], dtype=np.float64)
    crops = crops_of_boxes(detected.boxes, roll)
    half = crops[:, 2:3] / (2 * CROP_MARGIN)
    boxes = np.concatenate([crops[:, :2] - half, crops[:, :2] + half], axis=1)
    new = np.asarray(detected.boxes[:, 4] >= max(DEFAULT_MIN_SCORE, settings.min_confidence))
    checked = []
    for face in known:
        overlaps = iou(face.box[None], boxes)[0]
        same = np.flatnonzero(overlaps > MIN_OVERLAP)
        new[same] = False
        if len(same):
            score = float(detected.boxes[same[np.argmax(overlaps[same])], 4])
            checked.append(replace(face, score=score, unseen=0, usual=float(face.fit.confidence.mean())))
        else:
            checked.append(replace(face, unseen=MAX_UNSEEN if face.doubtful else face.unseen + 1))
    began = time.perf_counter()
    fitted = fit_crops(models, grey, crops[new], detected.boxes[new, 4])
    if new.any():
        stats.add_time("clnf", time.perf_counter() - began)
    return checked, [face for face in fitted if face.fit.converged]


def follow_clnf(
    context: RunContext, frames: Iterator[tuple[int, Frame]], before: FacesState | None = None
) -> Generator[Tracked, None, None]:
    """Track faces by CLNF, each initialised by its fit on the previous frame; otherwise like `follow_pfld`.

    Only the settings `max_faces`, `min_confidence` (for the detector's scores) and `scene_cuts` have an
    effect. With several threads, OpenFace's patch experts are evaluated in parallel.
    """
    faces: list[ClnfFace | None] = [None] * context.settings.max_faces
    last_boxes: dict[int, Floats] = {}
    last_seen: dict[int, int] = {}
    if before is not None:
        faces = [face if isinstance(face, ClnfFace) else None for face in before.faces]
        last_boxes, last_seen = dict(before.last_boxes), dict(before.last_seen)
    parallel = context.threads > 1 and isinstance(context.models.experts, OpenFaceExperts)
    with thread_pool(context.threads - 1) if parallel else nullcontext() as pool:
        engine = numba_engine if pool is None else numba_engine.with_threads(pool, context.threads)
        for done, (index, frame) in enumerate(frames, start=0 if before is None else 1):
            result = empty_frame(index, len(faces))
            if isinstance(frame, FaceLandmarksError):
                if context.ends_at(frame, first=not done):
                    return
                faces = [None] * len(faces)
            else:
                faces = _step(context, frame, index, faces, last_boxes, last_seen, engine)
            for slot, face in enumerate(faces):
                if face is not None:
                    set_face(result, slot, face)
                    if context.models.parts is not None and not isinstance(frame, FaceLandmarksError):
                        result.landmarks[slot] = place_parts(
                            context.models.parts, frame, result.landmarks[slot : slot + 1]
                        )[0]
                    last_boxes[slot], last_seen[slot] = result.boxes[slot], index
            after = FacesState(
                index + 1,
                tuple(faces),
                (),
                dict(last_boxes),
                dict(last_seen),
                len(context.warnings),
                **context.cuts_state(),
            )
            yield result, partial(replace, after)


def fit_next(
    models: Models,
    grey: npt.NDArray[np.uint8],
    params: npt.NDArray[np.float64],
    engine: ModuleType | SimpleNamespace = numba_engine,
) -> ClnfOnlyFit:
    """Fit a face by CLNF from its PDM parameters, (6 + m,), on the previous frame."""
    return fit_clnf_only(grey, params, models.clnf(engine, clnf_only=True), tracked=True)


def set_face(result: FrameResult, slot: int, face: ClnfFace) -> None:
    """Write a face into a frame's result."""
    result.landmarks[slot], result.source[slot] = face.fit.landmarks, CLNF
    result.confidence[slot] = face.fit.confidence
    result.pose[slot] = face.fit.params[:6]
    result.boxes[slot] = [*face.box, face.score]


def _step(
    context: RunContext,
    rgb: npt.NDArray[np.uint8],
    index: int,
    before: list[ClnfFace | None],
    last_boxes: dict[int, Floats],
    last_seen: dict[int, int],
    engine: ModuleType | SimpleNamespace,
) -> list[ClnfFace | None]:
    """Return the tracked faces of a frame by slot."""
    models, stats = context.models, context.stats
    began = time.perf_counter()
    grey = to_grey(rgb)
    slots: list[ClnfFace | None] = [None] * len(before)
    for slot, face in enumerate(before):
        if face is not None:
            fit = fit_next(models, grey, face.fit.params, engine)
            slots[slot] = replace(face, fit=fit) if fit.converged else None
    for slot in changed_at_cut(context, index, rgb, _landmarks(before), _landmarks(slots), last_boxes):
        slots[slot] = None
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
    if known and not lost and not doubtful and index % DETECT_EVERY:
        return slots
    checked, found = find_clnf_faces(context, rgb, grey, [face for _, face in known])
    for (slot, _), face in zip(known, checked, strict=True):
        slots[slot] = face if face.unseen < MAX_UNSEEN else None
    kept = [face.box for face in slots if face is not None]
    new = [face for face in found if not kept or iou(face.box[None], np.stack(kept)).max() < SAME_FACE]
    if new:
        scores = np.array([face.score for face in new])
        single = suppress(np.stack([face.box for face in new]), scores, SAME_FACE)
        new = [new[row] for row in sorted(single)]
        free = [slot for slot, face in enumerate(slots) if face is None]
        landmarks = np.stack([face.fit.landmarks for face in new])
        boxes, last = np.stack([face.box for face in new]), (last_boxes, last_seen)
        for i, slot in assign_faces(context, index, rgb, landmarks, boxes, free, last):
            slots[slot] = new[i]
    return slots


def _landmarks(faces: list[ClnfFace | None]) -> dict[int, Floats]:
    return {slot: face.fit.landmarks for slot, face in enumerate(faces) if face is not None}


def as_fit(faces: list[ClnfFace]) -> FaceFit:
    """Convert faces to the result of `FaceTracker.fit`."""
    fit = empty_frame(0, len(faces))
    for i, face in enumerate(faces):
        set_face(fit, i, face)
    return fit
