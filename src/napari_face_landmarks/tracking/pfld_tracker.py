"""Faces tracked by PFLD, pipelined with decoding and CLNF refinement; the detector runs at intervals."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.frame import FrameResult, empty_frame
from napari_face_landmarks.detection.boxes import SAME_FACE, boxes_kernel, boxes_of, iou
from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.jit import exact_kernel
from napari_face_landmarks.models import Models
from napari_face_landmarks.pfld import PfldOutput, crops_of_landmarks, predict_twice
from napari_face_landmarks.pfld.crop import CROP_MARGIN, Pictures, crops_kernel
from napari_face_landmarks.tracking import face_finder
from napari_face_landmarks.tracking.context import RunContext, Tracked
from napari_face_landmarks.tracking.cuts import assign_faces, changed_at_cut
from napari_face_landmarks.tracking.frame_source import Frame
from napari_face_landmarks.tracking.refinement import (
    GreyFrame,
    Refined,
    place_faces,
    refine_placed,
    set_refined,
)
from napari_face_landmarks.tracking.state import AheadState, FacesState, FaceState, Refinement
from napari_face_landmarks.tracking.threads import Promise, Workers

Floats = npt.NDArray[np.float32]
Seen = dict[int, tuple[PfldOutput, int]]
"""Of the faces on a frame, by slot, PFLD's output and the face's row in it."""
Unrefined = tuple[GreyFrame, PfldOutput, int]
"""A face's frame, and PFLD's output and the face's row in it."""

MOST_WAITING = 4
"""Maximum number of frames whose refinement is pending; each keeps its image."""
LOOK_FOR_MORE_EVERY = 5
"""While fewer faces than wanted are tracked, the detector runs on every n-th frame; with none, on each."""
LOOK_AHEAD = 2
"""Frames that PFLD processes at a time."""
MOST_PAIRED = 2
"""Number of threads up to which two frames of a face are one batch of the networks: a fifth less work."""
FACES_AT_ONCE = 2
"""Faces of a frame in one batch of PFLD, for any number of threads: a tenth less work each."""
SMALL_MOTION = 0.03
"""Half of a motion of this share of the crop's side is extrapolated; less of smaller, more of larger ones."""
CROP_STEPS = 2048
"""Predicted crops are rounded to steps of their side and of roll, radians, so that runs converge.

Landmarks depend on crops and crops on landmarks: two runs that began at different frames approach each other
but, by the rounding of float32, never become equal; with rounded crops they do.
"""


@dataclass(eq=False)
class Face:
    """What the tracker keeps of a face from frame to frame."""

    landmarks: Floats  # (68, 2); PFLD's, on the last frame
    # tuple of ndarray, (2,); mean of the landmarks on the last three frames, the latest first
    places: tuple[Floats, ...] = ()
    # state of the refinement; only touched by the refinements, which run in the order of the frames
    state: Refinement = field(default_factory=Refinement)
    refinement: Promise[list[Refined]] | None = None  # the latest one, perhaps of a batch of faces

    def move(self, landmarks: Floats) -> None:
        """Record the landmarks on the next frame."""
        self.landmarks = landmarks
        self.places = (np.add.reduce(landmarks) / np.float32(N_LANDMARKS), *self.places[:LOOK_AHEAD])


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A frame on which PFLD was started before the previous frame was finished, or will be.

    `crops`, (N, 4) float32, are the inputs, `outputs` each face's batch, with its seconds a face, and row.
    """

    index: int
    frame: Frame
    faces: list[Face]
    crops: Floats
    outputs: list[tuple[Promise[tuple[PfldOutput, float]], int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Slots:
    """The tracked faces, slot by slot, and box and frame of the face that each slot had last."""

    faces: list[Face | None]
    last_boxes: dict[int, Floats]
    last_seen: dict[int, int]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A frame with pending refinements: its result and the state after it, both without them."""

    result: FrameResult
    after: Callable[[], FacesState]
    left: list[tuple[int, Face, Unrefined]]  # faces, with their slots, whose refinement has not started
    # by slot, the refinement of the face, perhaps with others, and its place in that
    refinements: dict[int, tuple[Promise[list[Refined]], int]] = field(default_factory=dict)


def follow_pfld(
    context: RunContext, frames: Iterator[tuple[int, Frame]], before: FacesState | None = None
) -> Generator[Tracked, None, None]:
    """Track faces through the frames of `rgb_frames` by PFLD, refined by CLNF according to the settings.

    PFLD processes `LOOK_AHEAD` frames at a time: the crop of a face is predicted from frames at least
    `LOOK_AHEAD` before, for any number of threads, so that the results do not depend on it. The statistics
    and warnings of `context` are updated. With a state `before`, the frames begin with its `next_index`.
    """
    waiting: deque[_Begun] = deque()
    ahead: deque[_Ahead] = deque()
    with Workers(context.threads) as workers:
        slots = _Slots([None] * context.settings.max_faces, {}, {})
        if before is not None:
            slots = _slots_of(before)
            for begun, (index, frame) in zip(before.ahead, frames, strict=False):
                ahead.append(_look_again(index, frame, slots.faces, begun))
        paired = context.threads <= MOST_PAIRED and not context.live
        most = MOST_WAITING if context.threads > 1 else 0

        def fill() -> None:
            while len(ahead) < LOOK_AHEAD and (item := next(frames, None)) is not None:
                ahead.append(_look_ahead(*item, slots.faces))
            _start_looking(context.models, workers, ahead, paired)

        fill()
        for done in count(0 if before is None else 1):
            if not ahead:
                break
            look = ahead.popleft()
            outputs: Seen = {}
            if isinstance(look.frame, FaceLandmarksError):
                if context.ends_at(look.frame, first=not done):
                    break
                slots.faces[:] = [None] * len(slots.faces)
            else:
                outputs = _step(context, workers, look, look.frame, slots)
            fill()  # first: PFLD of the frame after the next one depends on nothing else
            waiting.append(_record(context, look, slots, outputs, ahead))
            if not (ahead and _look_together(look, ahead[0])):
                _start_refining(context, workers, waiting)
            while waiting and not waiting[0].left and (len(waiting) > most or _is_done(waiting[0])):
                yield _ended(context, workers, waiting.popleft())
        while waiting:
            yield _ended(context, workers, waiting.popleft())


def _step(
    context: RunContext, workers: Workers, look: _Ahead, rgb: npt.NDArray[np.uint8], slots: _Slots
) -> Seen:
    """Track the known faces into a frame and detect others for free slots; return PFLD's output of each."""
    index, faces, regions = look.index, slots.faces, context.regions
    known = [slot for slot, face in enumerate(faces) if face is not None]
    before = {slot: face.landmarks for slot, face in enumerate(faces) if face is not None}
    outputs = _followed(context, workers, look, rgb, faces)
    after = {slot: output.landmarks[row] for slot, (output, row) in outputs.items()}
    for slot in changed_at_cut(context, index, rgb, before, after, slots.last_boxes):
        del outputs[slot]
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
        _find(context, rgb, index, slots, outputs)
    for slot, (output, row) in outputs.items():
        landmarks = output.landmarks[row]
        face = faces[slot] or Face(landmarks)
        face.move(landmarks)
        faces[slot] = face
    return outputs


def _record(
    context: RunContext, look: _Ahead, slots: _Slots, outputs: Seen, ahead: Sequence[_Ahead]
) -> _Begun:
    """Record where the faces of a frame are."""
    result = empty_frame(look.index, len(slots.faces))
    picture = None if isinstance(look.frame, FaceLandmarksError) else GreyFrame(look.frame)
    left = []
    for slot, (output, row) in outputs.items():
        set_output(result, slot, output, row)
        slots.last_boxes[slot] = result.boxes[slot]
        slots.last_seen[slot] = look.index
        face = slots.faces[slot]
        assert face is not None  # put there by _step
        assert picture is not None
        left.append((slot, face, (picture, output, row)))
    return _Begun(result, _state(look.index + 1, slots, ahead, context), left)


def _start_refining(context: RunContext, workers: Workers, waiting: Iterable[_Begun]) -> None:
    """Start the outstanding refinements of faces, `FACES_AT_ONCE` at a time."""
    faces = [(begun, *face) for begun in waiting for face in begun.left]
    for first in range(0, len(faces), FACES_AT_ONCE):
        batch = faces[first : first + FACES_AT_ONCE]
        work = [(begun.result.index, face, given) for begun, _, face, given in batch]
        before = {face.refinement for _, face, _ in work if face.refinement is not None}
        refined = workers.submit(partial(_refined, context, work), after=before)
        for place, (begun, slot, face, _) in enumerate(batch):
            face.refinement = refined
            begun.refinements[slot] = refined, place
            begun.left.clear()


def set_output(result: FrameResult, slot: int, output: PfldOutput, row: int) -> None:
    """Write confidence and box of a face that PFLD found into a frame's result."""
    confidence, boxes = result.confidence[slot], result.boxes[slot : slot + 1]
    face_finder.record_kernel(output.landmarks, output.confidence, output.score, row, confidence, boxes)


def _refined(context: RunContext, faces: Sequence[tuple[int, Face, Unrefined]]) -> list[Refined]:
    """Refine faces of some frames from their states, in order, and update these."""
    placed, found = place_faces(context.models, [given for *_, given in faces]), []
    for (index, face, _), given in zip(faces, placed, strict=True):
        found.append(refine_placed(context, given, index, face.state))
        face.state = found[-1].after
    return found


def _followed(
    context: RunContext,
    workers: Workers,
    look: _Ahead,
    rgb: npt.NDArray[np.uint8],
    faces: Sequence[Face | None],
) -> Seen:
    """Return PFLD's output of the faces known from the previous frame, where it still finds them.

    A face that is new, or not at its predicted crop, is searched at its position on the previous frame.
    """
    least, stats = face_finder.STAY_SHARE * context.settings.min_confidence, context.stats
    slots = {id(face): slot for slot, face in enumerate(faces) if face is not None}
    outputs: Seen = {}
    if look.outputs:
        looks = [(*workers.result(batch), row) for batch, row in look.outputs]
        stats.add_time("pfld", sum(seconds for _, seconds, _ in looks))
        output = face_finder.join_faces([output.rows(slice(row, row + 1)) for output, _, row in looks])
        usable = face_finder.still_faces(output, rgb.shape, least)
        for row, face in enumerate(look.faces):
            if usable[row] and id(face) in slots:
                outputs[slots[id(face)]] = output, row
    missed = [
        (slot, face.landmarks) for slot, face in enumerate(faces) if face is not None and slot not in outputs
    ]
    if missed:
        near = crops_of_landmarks(np.stack([landmarks for _, landmarks in missed]))
        output, seconds = _timed_look(context.models, rgb, near)
        stats.add_time("pfld", seconds * len(near))
        usable = face_finder.still_faces(output, rgb.shape, least)
        boxes = boxes_of(output.landmarks)
        for row, (slot, _) in enumerate(missed):
            known = [boxes_of(out.landmarks[i : i + 1]) for out, i in outputs.values()]
            double = any(iou(boxes[row : row + 1], box)[0, 0] > SAME_FACE for box in known)
            if usable[row] and not double:
                outputs[slot] = output, row
    return dict(sorted(outputs.items()))


def _find(context: RunContext, rgb: npt.NDArray[np.uint8], index: int, slots: _Slots, outputs: Seen) -> None:
    """Add the faces that the detector finds in addition to the known ones to `outputs`, a slot each."""
    regions = context.regions
    output = face_finder.find_faces(
        context.models, context.settings, rgb, context.stats, regions.boxes(index)
    )[1]
    if regions.ignore:
        passed = regions.ignores(boxes_of(output.landmarks), index)
        output = face_finder.take_faces(output, np.flatnonzero(~passed))
    boxes = boxes_of(output.landmarks)
    if outputs and len(boxes):
        known = boxes_of(np.stack([out.landmarks[row] for out, row in outputs.values()]))
        fresh = np.flatnonzero(iou(boxes, known).max(axis=1) < SAME_FACE)
    else:
        fresh = np.arange(len(boxes))
    free = [slot for slot in range(len(slots.faces)) if slot not in outputs]
    last = slots.last_boxes, slots.last_seen
    found = output.landmarks[fresh]
    for face, slot in assign_faces(context, index, rgb, found, boxes[fresh], free, last):
        outputs[slot] = (output, int(fresh[face]))
        slots.faces[slot] = None


def prepare_following(output: PfldOutput, shape: tuple[int, ...]) -> None:
    """Compile the kernels between the networks, or load them, on an output of one face."""
    face_finder.usable_faces(
        output, shape, face_finder.still_faces(output, shape, 0.0), face_finder.face_scores(output)
    )
    set_output(empty_frame(0, 1), 0, output, 0)
    boxes_kernel(output.landmarks, np.empty((1, 5), np.float32))
    _predicted_crops([Face(output.landmarks[0])])


def _is_done(begun: _Begun) -> bool:
    return all(refinement.done for refinement, _ in begun.refinements.values())


def _ended(context: RunContext, workers: Workers, begun: _Begun) -> Tracked:
    """Return a frame's result once its refinements are done."""
    states = {}
    for slot, (refinement, place) in begun.refinements.items():
        refined = workers.result(refinement)[place]
        set_refined(begun.result, slot, refined)
        context.stats.add_time("clnf", refined.seconds)
        states[slot] = refined.after
    return begun.result, partial(_with_refinements, begun.after, states)


def _slots_of(state: FacesState) -> _Slots:
    """Return the faces of a state."""
    faces: list[Face | None] = []
    for face in state.faces:
        assert face is None or isinstance(face, FaceState)  # checked by check_state
        faces.append(None if face is None else Face(face.landmarks, face.places, face.refinement))
    return _Slots(faces, dict(state.last_boxes), dict(state.last_seen))


def _state(
    next_index: int, slots: _Slots, ahead: Sequence[_Ahead], context: RunContext
) -> Callable[[], FacesState]:
    """Return a function that builds the state before a frame, without refinements; few states are needed."""
    faces = [None if face is None else (face, face.landmarks, face.places) for face in slots.faces]
    looks = [(look.crops, look.faces) for look in ahead]
    last = slots.last_boxes.copy(), slots.last_seen.copy(), len(context.warnings)
    return partial(_built_state, next_index, faces, looks, last, context.at_cuts())


def _built_state(
    next_index: int,
    faces: list[tuple[Face, Floats, tuple[Floats, ...]] | None],
    looks: list[tuple[Floats, list[Face]]],
    last: tuple[dict[int, Floats], dict[int, int], int],
    at_cuts: dict[str, Any],
) -> FacesState:
    slot_of = {id(face[0]): slot for slot, face in enumerate(faces) if face is not None}
    return FacesState(
        next_index,
        tuple(None if face is None else FaceState(*face[1:]) for face in faces),
        tuple(
            AheadState(crops, tuple(slot_of.get(id(face), -1) for face in known)) for crops, known in looks
        ),
        *last,
        **at_cuts,
    )


def _with_refinements(before: Callable[[], FacesState], refinements: dict[int, Refinement]) -> FacesState:
    """Return the state of the faces with that of their refinements."""
    state = before()
    faces = list(state.faces)
    for slot, refinement in refinements.items():
        face = faces[slot]
        assert isinstance(face, FaceState)
        faces[slot] = replace(face, refinement=refinement)
    return replace(state, faces=tuple(faces))


def _look_ahead(index: int, frame: Frame, faces: Sequence[Face | None]) -> _Ahead:
    """Predict where the known faces are on a frame that comes `LOOK_AHEAD` later."""
    known = [face for face in faces if face is not None]
    if not known or isinstance(frame, FaceLandmarksError):
        return _Ahead(index, frame, [], np.zeros((0, 4), np.float32))
    return _Ahead(index, frame, known, _predicted_crops(known))


def _look_again(index: int, frame: Frame, faces: Sequence[Face | None], begun: AheadState) -> _Ahead:
    """Run PFLD on a frame at the crops that a stored state predicts."""
    if not begun.slots or isinstance(frame, FaceLandmarksError):
        return _look_ahead(index, frame, [])
    lost = Face(np.zeros((N_LANDMARKS, 2), np.float32))
    known = [(faces[slot] if slot >= 0 else None) or lost for slot in begun.slots]
    return _Ahead(index, frame, known, begun.crops)


def _start_looking(models: Models, workers: Workers, ahead: Sequence[_Ahead], paired: bool) -> None:
    """Start PFLD on the frames ahead where it is not.

    If `paired`, an odd face waits for those of the next frame, unless its own frame is next.
    """
    looks = [look for look in ahead if not look.outputs]
    faces = [(look, row) for look in looks for row in range(len(look.crops))]
    if paired and len(faces) % 2 and looks[0] is not ahead[0]:
        return
    for first in range(0, len(faces), FACES_AT_ONCE):
        batch = faces[first : first + FACES_AT_ONCE]
        crops = np.array([look.crops[row] for look, row in batch])
        pictures = [look.frame for look, _ in batch if not isinstance(look.frame, FaceLandmarksError)]
        output = workers.submit(partial(_timed_look, models, pictures, crops))
        for place, (look, _) in enumerate(batch):
            look.outputs.append((output, place))


def _look_together(look: _Ahead, other: _Ahead) -> bool:
    """Return whether PFLD processes faces of two frames in one batch."""
    return bool(look.outputs and other.outputs) and look.outputs[-1][0] is other.outputs[0][0]


def _timed_look(models: Models, pictures: Pictures, crops: Floats) -> tuple[PfldOutput, float]:
    """Return PFLD's output for crops, and the seconds per crop."""
    began = time.perf_counter()
    output = predict_twice(models.pfld, pictures, crops)
    return output, (time.perf_counter() - began) / len(crops)


def _predicted_crops(faces: Sequence[Face]) -> Floats:
    """Return the expected crops, (F, 4), in `LOOK_AHEAD` frames, rounded to `CROP_STEPS`.

    The motion of as many previous frames is extrapolated. Small motions are mostly jitter, and are damped.
    """
    motions = np.zeros((len(faces), 2), np.float32)
    for row, face in enumerate(faces):
        if len(face.places) > LOOK_AHEAD:
            motions[row] = face.places[0] - face.places[LOOK_AHEAD]
    crops = np.empty((len(faces), 4), np.float32)
    _predict_crops(np.array([face.landmarks for face in faces]), motions, crops)
    return crops


@exact_kernel
def _predict_crops(landmarks: Floats, motions: Floats, crops: Floats) -> None:
    crops_kernel(landmarks.astype(np.float64), CROP_MARGIN, crops)
    for row in range(len(crops)):
        side = float(crops[row, 2])
        length = np.sqrt(motions[row, 0] * motions[row, 0] + motions[row, 1] * motions[row, 1])
        share = length / (length + np.float32(SMALL_MOTION) * crops[row, 2])
        step = 2.0 ** math.floor(math.log2(max(side, 1.0))) / CROP_STEPS
        for axis in range(2):
            moved = crops[row, axis] + motions[row, axis] * share
            crops[row, axis] = np.rint(moved / step) * step
        crops[row, 2] = np.rint(side / step) * step
        crops[row, 3] = np.rint(crops[row, 3] * CROP_STEPS) / CROP_STEPS
