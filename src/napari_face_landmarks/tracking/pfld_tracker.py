"""Faces followed from frame to frame: PFLD on frames ahead, the detector now and then, CLNF behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from types import ModuleType

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf import numba_engine
from napari_face_landmarks.data.frame import FrameResult, empty_frame
from napari_face_landmarks.detection.boxes import SAME_FACE, boxes_of, iou
from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.models import Models
from napari_face_landmarks.pfld import PfldOutput, crops_of_landmarks
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.association import assign_slots
from napari_face_landmarks.tracking.clnf_tracker import AloneFace
from napari_face_landmarks.tracking.face_finder import (
    STAY_SHARE,
    face_scores,
    find_faces,
    join_faces,
    take_faces,
    usable_faces,
)
from napari_face_landmarks.tracking.prediction import (
    LOOK_AHEAD,
    Ahead,
    Face,
    Frame,
    look_again,
    look_ahead,
    timed_look,
)
from napari_face_landmarks.tracking.refinement import Picture, Refined, refine_face, set_refined
from napari_face_landmarks.tracking.run import Run, ends_run
from napari_face_landmarks.tracking.state import AheadState, FaceState, Standing
from napari_face_landmarks.tracking.threads import Workers

Floats = npt.NDArray[np.float32]
Seen = dict[int, tuple[PfldOutput, int]]
"""Of the faces on a frame, slot by slot, what PFLD says and which row of it is the face's."""

MOST_WAITING = 4
"""Frames whose refinement may be behind; each holds its picture."""
LOOK_FOR_MORE_EVERY = 5
"""While fewer faces than wanted are followed, the detector runs on every n-th frame; with none, on each."""


@dataclass(frozen=True, slots=True)
class _Means:
    """What a run works with."""

    models: Models
    settings: TrackerSettings
    engine: ModuleType
    workers: Workers
    run: Run


@dataclass(frozen=True, slots=True)
class _Slots:
    """The faces that are followed, slot by slot, and box and frame of the face that each slot held last."""

    faces: list[Face | None]
    last_boxes: dict[int, Floats]
    last_seen: dict[int, int]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A frame whose faces are known, but for their refinement, which is under way.

    `after` is how the tracker stands then, but for that refinement.
    """

    result: FrameResult
    refinements: dict[int, Future[Refined]]
    after: Standing


def follow(
    frames: Iterator[tuple[int, Frame]],
    models: Models,
    settings: TrackerSettings,
    run: Run,
    threads: int = 1,
    before: Standing | None = None,
    engine: ModuleType = numba_engine,
) -> Generator[FrameResult, None, None]:
    """Follow faces through frames by PFLD, refined by CLNF as the settings say.

    Parameters
    ----------
    frames : iterator of (int, ndarray or FaceLandmarksError)
        As `rgb_frames` gives them.
    models : Models
    settings : TrackerSettings
    run : Run
        Its counts and warnings are kept.
    threads : int
        How many compute at a time; with 1 all is done in the caller's. The results do not depend on it.
    before : Standing, optional
        Where to go on from; `frames` begin with its `next_index`.
    engine : module
        `clnf.fast` or `clnf.reference`.

    Yields
    ------
    FrameResult
        In the order of the frames, not smoothed.
    """
    waiting: deque[_Begun] = deque()
    with Workers(threads) as workers:
        for begun in _begun(_Means(models, settings, engine, workers, run), frames, before):
            waiting.append(begun)
            while waiting and (len(waiting) > MOST_WAITING or _is_done(waiting[0])):
                yield _ended(run, waiting.popleft())
        while waiting:
            yield _ended(run, waiting.popleft())


def _begun(
    means: _Means, frames: Iterator[tuple[int, Frame]], before: Standing | None
) -> Generator[_Begun, None, None]:
    """Yield each frame with its faces as soon as these are known.

    PFLD looks at `LOOK_AHEAD` frames at a time: where a face is searched for on a frame follows from the
    frames up to `LOOK_AHEAD` before it. So it is, whatever the number of threads, so that the results do
    not depend on it.
    """
    models, workers, run = means.models, means.workers, means.run
    slots = _Slots([None] * means.settings.max_faces, {}, {})
    ahead: deque[Ahead] = deque()
    if before is not None:
        slots = _slots_of(before)
        for begun, (index, frame) in zip(before.ahead, frames, strict=False):
            ahead.append(look_again(models, workers, index, frame, slots.faces, begun))

    def fill() -> None:
        while len(ahead) < LOOK_AHEAD and (item := next(frames, None)) is not None:
            ahead.append(look_ahead(models, workers, *item, slots.faces))

    fill()
    for done in count(0 if before is None else 1):
        if not ahead:
            return
        look = ahead.popleft()
        outputs: Seen = {}
        if isinstance(look.frame, FaceLandmarksError):
            if ends_run(run, look.frame, first=not done):
                return
            slots.faces[:] = [None] * len(slots.faces)
        else:
            outputs = _step(means, look, look.frame, slots)
        fill()  # before all else: the next frames but one wait for nothing but this
        result = _result(look.index, slots, outputs)
        refinements = _refine(means, look, slots, outputs)
        yield _Begun(result, refinements, _standing(look.index + 1, slots, ahead, len(run.warnings)))


def _step(means: _Means, look: Ahead, rgb: npt.NDArray[np.uint8], slots: _Slots) -> Seen:
    """Follow the known faces into a frame, look for others where there is room; what PFLD sees of each."""
    index, faces, regions = look.index, slots.faces, means.run.regions
    known = [slot for slot, face in enumerate(faces) if face is not None]
    outputs = _followed(means, look, rgb, faces)
    if regions.ignore:
        for slot, (output, row) in list(outputs.items()):
            if regions.ignores(boxes_of(output.landmarks[row : row + 1]), index)[0]:
                del outputs[slot]
    for slot in known:
        if slot not in outputs:
            faces[slot] = None
    if len(outputs) < len(faces) and (
        not outputs or len(known) > len(outputs) or index % LOOK_FOR_MORE_EVERY == 0 or regions.begins(index)
    ):
        _find(means, rgb, index, slots, outputs)
    for slot, (output, row) in outputs.items():
        landmarks = output.landmarks[row]
        face = faces[slot] or Face(landmarks)
        face.move(landmarks)
        faces[slot] = face
    return outputs


def _result(index: int, slots: _Slots, outputs: Seen) -> FrameResult:
    """Return a frame's result but for the refinement, and take note of where its faces are."""
    result = empty_frame(index, len(slots.faces))
    for slot, (output, row) in outputs.items():
        result.confidence[slot] = output.confidence[row]
        result.boxes[slot, :4] = boxes_of(output.landmarks[row : row + 1])[0]
        result.boxes[slot, 4] = face_scores(output)[row]
        slots.last_boxes[slot] = result.boxes[slot]
        slots.last_seen[slot] = index
    return result


def _refine(means: _Means, look: Ahead, slots: _Slots, outputs: Seen) -> dict[int, Future[Refined]]:
    """Start refining the faces of a frame."""
    refinements: dict[int, Future[Refined]] = {}
    if outputs:
        assert not isinstance(look.frame, FaceLandmarksError)
        picture = Picture(look.frame)
        for slot, (output, row) in outputs.items():
            face = slots.faces[slot]
            assert face is not None  # put there by _step
            work = partial(_refined, means, picture, output, row, look.index, face)
            face.refinement = means.workers.submit(work, after=face.refinement)
            refinements[slot] = face.refinement
    return refinements


def _refined(
    means: _Means, picture: Picture, output: PfldOutput, row: int, index: int, face: Face
) -> Refined:
    """Refine a face from where its refinement stands, and take note of where it stands then."""
    refined = refine_face(
        means.models, means.settings, picture, output, row, index, face.stands, means.engine
    )
    face.stands = refined.stands
    return refined


def _followed(means: _Means, look: Ahead, rgb: npt.NDArray[np.uint8], faces: Sequence[Face | None]) -> Seen:
    """Return what PFLD sees of the faces known from the frame before, where it still sees them.

    A face that was not there when PFLD looked ahead, or was not where it looked, is looked for where it
    was on the frame before.
    """
    least, stats = STAY_SHARE * means.settings.min_confidence, means.run.stats
    slots = {id(face): slot for slot, face in enumerate(faces) if face is not None}
    outputs: Seen = {}
    if look.outputs:
        looks = [output.result() for output in look.outputs]
        stats.add_time("pfld", sum(seconds for _, seconds in looks))
        output = join_faces([output for output, _ in looks])
        score = face_scores(output)
        usable = usable_faces(output, rgb.shape, score >= least, score)
        for row, face in enumerate(look.faces):
            if usable[row] and id(face) in slots:
                outputs[slots[id(face)]] = output, row
    missed = [
        (slot, face.landmarks) for slot, face in enumerate(faces) if face is not None and slot not in outputs
    ]
    if missed:
        near = crops_of_landmarks(np.stack([landmarks for _, landmarks in missed]))
        output, seconds = timed_look(means.models, rgb, near)
        stats.add_time("pfld", seconds)
        score = face_scores(output)
        usable = usable_faces(output, rgb.shape, score >= least, score)
        boxes = boxes_of(output.landmarks)
        for row, (slot, _) in enumerate(missed):
            known = [boxes_of(out.landmarks[i : i + 1]) for out, i in outputs.values()]
            double = any(iou(boxes[row : row + 1], box)[0, 0] > SAME_FACE for box in known)
            if usable[row] and not double:
                outputs[slot] = output, row
    return dict(sorted(outputs.items()))


def _find(
    means: _Means,
    rgb: npt.NDArray[np.uint8],
    index: int,
    slots: _Slots,
    outputs: Seen,
) -> None:
    """Add the faces that the detector finds beside the known ones to `outputs`, a slot each."""
    regions = means.run.regions
    output = find_faces(means.models, means.settings, rgb, means.run.stats, regions.boxes(index))[1]
    if regions.ignore:
        passed = regions.ignores(boxes_of(output.landmarks), index)
        output = take_faces(output, np.flatnonzero(~passed))
    boxes = boxes_of(output.landmarks)
    if outputs and len(boxes):
        known = boxes_of(np.stack([out.landmarks[row] for out, row in outputs.values()]))
        fresh = np.flatnonzero(iou(boxes, known).max(axis=1) < SAME_FACE)
    else:
        fresh = np.arange(len(boxes))
    free = [slot for slot in range(len(slots.faces)) if slot not in outputs]
    for face, slot in assign_slots(boxes[fresh], free, slots.last_boxes, slots.last_seen):
        outputs[slot] = (output, int(fresh[face]))
        slots.faces[slot] = None


def _is_done(begun: _Begun) -> bool:
    return all(refinement.done() for refinement in begun.refinements.values())


def _ended(run: Run, begun: _Begun) -> FrameResult:
    """Return a frame's result once its refinement is done."""
    result = begun.result
    for slot, refinement in begun.refinements.items():
        found = refinement.result()
        set_refined(result, slot, found)
        run.stats.add_time("clnf", found.seconds)
    run.standing = partial(_with_refinements, begun.after, begun.refinements)
    return result


def _slots_of(standing: Standing) -> _Slots:
    """Return the faces as the tracker remembers them."""
    return _Slots(
        [None if face is None else _face_of(face) for face in standing.faces],
        dict(standing.last_boxes),
        dict(standing.last_seen),
    )


def _face_of(state: FaceState | AloneFace) -> Face:
    assert isinstance(state, FaceState)  # checked by check_state
    return Face(state.landmarks, state.places, state.refinement)


def _standing(next_index: int, slots: _Slots, ahead: Sequence[Ahead], n_warnings: int) -> Standing:
    """Return how the tracker stands before a frame, but for the refinements, which may still go on."""
    slot_of = {id(face): slot for slot, face in enumerate(slots.faces) if face is not None}
    return Standing(
        next_index,
        tuple(None if face is None else FaceState(face.landmarks, face.places) for face in slots.faces),
        tuple(
            AheadState(look.crops, tuple(slot_of.get(id(face), -1) for face in look.faces)) for look in ahead
        ),
        dict(slots.last_boxes),
        dict(slots.last_seen),
        n_warnings,
    )


def _with_refinements(standing: Standing, refinements: dict[int, Future[Refined]]) -> Standing:
    """Return how the tracker stands once the refinements of its faces are done."""
    faces = list(standing.faces)
    for slot, refinement in refinements.items():
        face = faces[slot]
        assert isinstance(face, FaceState)
        faces[slot] = replace(face, refinement=refinement.result().stands)
    return replace(standing, faces=tuple(faces))
