"""Faces tracked by PFLD, pipelined with decoding and CLNF refinement; the detector runs at intervals."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, groupby
from typing import Any, NamedTuple

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
from napari_face_landmarks.tracking.anchor_frames import interpolate, is_confirmed
from napari_face_landmarks.tracking.context import RunContext, Tracked
from napari_face_landmarks.tracking.cuts import assign_faces, changed_at_cut
from napari_face_landmarks.tracking.frame_source import Frame
from napari_face_landmarks.tracking.refinement import (
    GreyFrame,
    Placed,
    Refined,
    is_unsure,
    place_faces,
    refine_placed,
    set_refined,
)
from napari_face_landmarks.tracking.state import AheadState, FacesState, FaceState, Refinement
from napari_face_landmarks.tracking.threads import Promise, Workers

Floats = npt.NDArray[np.float32]

MOST_WAITING = 4
"""Maximum number of frames whose refinement is pending; each keeps its image."""
LOOK_FOR_MORE_EVERY = 5
"""While fewer faces than wanted are tracked, the detector runs on every n-th frame; with none, on each."""
LOOK_AHEAD = 2
"""Frames that PFLD processes at a time, where each is an anchor frame."""
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


class Look(NamedTuple):
    """Where a face is on a frame before it is refined: a row of PFLD's output."""

    output: PfldOutput
    row: int
    interpolated: bool = False  # between the outputs of other frames


Seen = dict[int, Look]
"""The faces on a frame, by slot."""
Unrefined = tuple[GreyFrame, Look]


@dataclass(eq=False)
class Face:
    """What the tracker keeps of a face from frame to frame."""

    # PFLD's on the last frame, or interpolated: (68, 2), (68,) and (68,)
    landmarks: Floats
    sigma: Floats
    confidence: Floats
    # tuple of ndarray, (2,); mean of the landmarks on the last frames, the latest first
    places: tuple[Floats, ...] = ()
    # state of the refinement; only touched by the refinements, which run in the order of the frames
    state: Refinement = field(default_factory=Refinement)
    refinement: Promise[list[Refined]] | None = None  # the latest one, perhaps of a batch of faces

    def move(self, output: PfldOutput, row: int, kept: int) -> None:
        """Record the landmarks on the next frame, and the place on as many before it as are `kept`."""
        self.landmarks, self.sigma = output.landmarks[row], output.sigma[row]
        self.confidence = output.confidence[row]
        self.places = (np.add.reduce(self.landmarks) / np.float32(N_LANDMARKS), *self.places[:kept])


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A frame on which PFLD was started before the previous frame was finished, or will be.

    `crops`, (N, 4) float32, are the inputs, `outputs` each face's batch, with its seconds a face, and row.
    There are none between anchor frames. `found` is for `_looked`.
    """

    index: int
    frame: Frame
    faces: list[Face]
    crops: Floats
    outputs: list[tuple[Promise[tuple[PfldOutput, float]], int]] = field(default_factory=list)
    found: list[tuple[PfldOutput, npt.NDArray[np.bool_]]] = field(default_factory=list)


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

    PFLD works `frames_ahead` ahead: the crop of a face is predicted from frames at least so many before,
    for any number of threads, so that the results do not depend on it. Between anchor frames it runs only
    where a face cannot be interpolated (`anchor_frames`). The statistics and warnings of `context` are
    updated. With a state `before`, the frames begin with its `next_index`.
    """
    every = context.pfld_every
    waiting: deque[_Begun] = deque()
    ahead: deque[_Ahead] = deque()
    with Workers(context.threads) as workers:
        slots = _Slots([None] * context.settings.max_faces, {}, {})
        if before is not None:
            slots = _slots_of(before)
            for begun, (index, frame) in zip(before.ahead, frames, strict=False):
                ahead.append(_look_again(index, frame, slots.faces, begun))
        paired = context.threads <= MOST_PAIRED and not context.live and every == 1
        most = max(MOST_WAITING, 2 * every) if context.threads > 1 else 0

        def fill() -> None:
            while len(ahead) < frames_ahead(every) and (item := next(frames, None)) is not None:
                known = [] if item[0] % every else slots.faces
                ahead.append(_look_ahead(*item, known, frames_ahead(every)))
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
                outputs = _step(context, workers, look, look.frame, slots, ahead)
            fill()
            waiting.append(_record(context, look, slots, outputs, ahead))
            if not (look.index % every or (ahead and _look_together(look, ahead[0]))):
                _start_refining(context, workers, waiting)
            # last: this thread needs it next, and does it where no other thread has taken it
            _start_looking(context.models, workers, ahead, paired)
            while waiting and not waiting[0].left and (len(waiting) > most or _is_done(waiting[0])):
                yield _ended(context, workers, waiting.popleft())
        _start_refining(context, workers, waiting)
        while waiting:
            yield _ended(context, workers, waiting.popleft())


def frames_ahead(pfld_every: int) -> int:
    """Return the number of frames that are looked at ahead: up to the next anchor frame."""
    return max(LOOK_AHEAD, pfld_every)


def _step(
    context: RunContext,
    workers: Workers,
    look: _Ahead,
    rgb: npt.NDArray[np.uint8],
    slots: _Slots,
    ahead: Sequence[_Ahead],
) -> Seen:
    """Track the known faces into a frame and detect others for free slots."""
    index, faces, regions = look.index, slots.faces, context.regions
    known = [slot for slot, face in enumerate(faces) if face is not None]
    before = {slot: face.landmarks for slot, face in enumerate(faces) if face is not None}
    outputs = _followed(context, workers, look, rgb, faces, ahead)
    after = {slot: output.landmarks[row] for slot, (output, row, _) in outputs.items()}
    for slot in changed_at_cut(context, index, rgb, before, after, slots.last_boxes):
        del outputs[slot]
    if regions.ignore:
        for slot, (output, row, _) in list(outputs.items()):
            if regions.ignores(boxes_of(output.landmarks[row : row + 1]), index)[0]:
                del outputs[slot]
    for slot in known:
        if slot not in outputs:
            faces[slot] = None
    if len(outputs) < len(faces) and (
        not outputs or len(known) > len(outputs) or index % LOOK_FOR_MORE_EVERY == 0 or regions.begins(index)
    ):
        _find(context, rgb, index, slots, outputs)
    for slot, (output, row, _) in outputs.items():
        face = faces[slot] or Face(output.landmarks[row], output.sigma[row], output.confidence[row])
        face.move(output, row, frames_ahead(context.pfld_every))
        faces[slot] = face
    return outputs


def _record(
    context: RunContext, look: _Ahead, slots: _Slots, outputs: Seen, ahead: Sequence[_Ahead]
) -> _Begun:
    """Record where the faces of a frame are."""
    result = empty_frame(look.index, len(slots.faces))
    picture = None if isinstance(look.frame, FaceLandmarksError) else GreyFrame(look.frame)
    left = []
    for slot, seen in outputs.items():
        set_output(result, slot, seen.output, seen.row)
        slots.last_boxes[slot] = result.boxes[slot]
        slots.last_seen[slot] = look.index
        face = slots.faces[slot]
        assert face is not None  # put there by _step
        assert picture is not None
        left.append((slot, face, (picture, seen)))
    return _Begun(result, _state(look.index + 1, slots, ahead, context), left)


def _start_refining(context: RunContext, workers: Workers, waiting: Iterable[_Begun]) -> None:
    """Start the outstanding refinements: of a face up to its anchor frame, or of `FACES_AT_ONCE` faces."""
    faces = [(begun, *face) for begun in waiting for face in begun.left]
    if context.pfld_every > 1:
        faces.sort(key=lambda face: face[1])
        batches = [list(batch) for _, batch in groupby(faces, key=lambda face: id(face[2]))]
    else:
        batches = [faces[first : first + FACES_AT_ONCE] for first in range(0, len(faces), FACES_AT_ONCE)]
    for batch in batches:
        work = [(begun.result.index, face) for begun, _, face, _ in batch]
        before = {face.refinement for _, face in work if face.refinement is not None}
        placed = workers.submit(partial(_placed, context, [given for *_, given in batch]))
        refine = partial(_refined, context, work, partial(workers.result, placed))
        refined = workers.submit(refine, after={placed, *before})
        for place, (begun, slot, face, *_) in enumerate(batch):
            face.refinement = refined
            begun.refinements[slot] = refined, place
            begun.left.clear()


def set_output(result: FrameResult, slot: int, output: PfldOutput, row: int) -> None:
    """Write confidence and box of a face that PFLD found into a frame's result."""
    confidence, boxes = result.confidence[slot], result.boxes[slot : slot + 1]
    face_finder.record_kernel(output.landmarks, output.confidence, output.score, row, confidence, boxes)


def _placed(context: RunContext, faces: Sequence[Unrefined]) -> list[Placed]:
    """Place lids and lips of faces; run PFLD on those interpolated that the part models do not confirm."""
    placed = place_faces(context.models, [(picture, look.output, look.row) for picture, look in faces])
    anchor, at_anchor = faces[-1][1], placed[-1]
    return [
        _placed_by_pfld(context, picture, look, here)
        if look.interpolated and (anchor.interpolated or not _confirmed(look, here, anchor, at_anchor))
        else here
        for (picture, look), here in zip(faces, placed, strict=True)
    ]


def _refined(
    context: RunContext, faces: Sequence[tuple[int, Face]], placed: Callable[[], list[Placed]]
) -> list[Refined]:
    """Refine faces of some frames from their states, in order, and update these."""
    found = []
    for (index, face), here in zip(faces, placed(), strict=True):
        found.append(refine_placed(context, here, index, face.state))
        face.state = found[-1].after
    return found


def _confirmed(look: Look, here: Placed, anchor: Look, at_anchor: Placed) -> bool:
    expected, anchor_expected = look.output.landmarks[look.row], anchor.output.landmarks[anchor.row]
    return bool(is_confirmed(expected, here.landmarks, anchor_expected, at_anchor.landmarks))


def _placed_by_pfld(context: RunContext, picture: GreyFrame, look: Look, here: Placed) -> Placed:
    """Run PFLD on an interpolated face that the part models do not confirm; keep it where PFLD does not."""
    crop = _rounded_crops(look.output.landmarks[look.row : look.row + 1])
    found = predict_twice(context.models.pfld, picture.rgb, crop)
    least = face_finder.STAY_SHARE * context.settings.min_confidence
    if not face_finder.still_faces(found, picture.rgb.shape, least)[0]:
        return here
    (again,) = place_faces(context.models, [(picture, found, 0)])
    return replace(again, seconds=again.seconds + here.seconds)


def _followed(
    context: RunContext,
    workers: Workers,
    look: _Ahead,
    rgb: npt.NDArray[np.uint8],
    faces: Sequence[Face | None],
    ahead: Sequence[_Ahead],
) -> Seen:
    """Return where the faces known from the previous frame are, those that PFLD still finds.

    Between anchor frames, faces that move little are interpolated. A face that is new, or not at its
    predicted crop, is searched at its position on the previous frame or at that which is interpolated.
    """
    least = face_finder.STAY_SHARE * context.settings.min_confidence
    slots = {id(face): slot for slot, face in enumerate(faces) if face is not None}
    outputs: Seen = {}
    if look.outputs:
        output, usable = _looked(context, workers, look, rgb)
        for row, face in enumerate(look.faces):
            if usable[row] and id(face) in slots:
                outputs[slots[id(face)]] = Look(output, row)
    expected = _interpolated(context, workers, look, faces, ahead)
    outputs.update((slot, seen) for slot, seen in expected.items() if seen.interpolated)
    missed = [(slot, face) for slot, face in enumerate(faces) if face is not None and slot not in outputs]
    if missed:
        is_anchor = look.index % context.pfld_every == 0
        near = np.concatenate([_crop_near(face, expected.get(slot), is_anchor) for slot, face in missed])
        output, seconds = _timed_look(context.models, rgb, near)
        context.stats.add_time("pfld", seconds * len(near))
        usable = face_finder.still_faces(output, rgb.shape, least)
        boxes = boxes_of(output.landmarks)
        for row, (slot, _) in enumerate(missed):
            known = [boxes_of(out.landmarks[i : i + 1]) for out, i, _ in outputs.values()]
            double = any(iou(boxes[row : row + 1], box)[0, 0] > SAME_FACE for box in known)
            if usable[row] and not double:
                outputs[slot] = Look(output, row)
    return dict(sorted(outputs.items()))


def _looked(
    context: RunContext, workers: Workers, look: _Ahead, rgb: npt.NDArray[np.uint8]
) -> tuple[PfldOutput, npt.NDArray[np.bool_]]:
    """Return PFLD's output for the faces of a frame ahead, `rgb`, and where there still is one."""
    if not look.found:
        looks = [(*workers.result(batch), row) for batch, row in look.outputs]
        context.stats.add_time("pfld", sum(seconds for _, seconds, _ in looks))
        output = face_finder.join_faces([output.rows(slice(row, row + 1)) for output, _, row in looks])
        least = face_finder.STAY_SHARE * context.settings.min_confidence
        look.found.append((output, face_finder.still_faces(output, rgb.shape, least)))
    return look.found[0]


def _crop_near(face: Face, expected: Look | None, is_anchor: bool) -> Floats:
    """Return the crop, (1, 4), of a face that has no other: where it is expected, or was.

    On an anchor frame the one that its motion predicts was tried before.
    """
    if expected is not None:
        return _rounded_crops(expected.output.landmarks)
    return crops_of_landmarks(face.landmarks[None]) if is_anchor else _predicted_crops([face], 1)


def _interpolated(
    context: RunContext, workers: Workers, look: _Ahead, faces: Sequence[Face | None], ahead: Sequence[_Ahead]
) -> Seen:
    """Return where faces are expected between anchor frames; they are interpolated where that will do."""
    found: Seen = {}
    anchor = next((other for other in ahead if other.index % context.pfld_every == 0), None)
    if anchor is None or not (anchor.outputs and look.index % context.pfld_every):
        return found
    frames = range(look.index, anchor.index + 1)
    broken = any(isinstance(other.frame, FaceLandmarksError) for other in ahead if other.index in frames)
    if (
        isinstance(anchor.frame, FaceLandmarksError)
        or broken
        or any(place in context.jumps for place in frames)
    ):
        return found
    slots = {id(face): slot for slot, face in enumerate(faces) if face is not None}
    output, usable = _looked(context, workers, anchor, anchor.frame)
    for row, face in enumerate(anchor.faces):
        if not usable[row] or id(face) not in slots:
            continue
        here = PfldOutput(
            np.empty((1, N_LANDMARKS, 2), np.float32),
            np.empty((1, N_LANDMARKS), np.float32),
            np.empty((1, N_LANDMARKS), np.float32),
            output.score[row : row + 1],
        )
        calm = interpolate(
            *(face.landmarks, output.landmarks[row], face.sigma, output.sigma[row]),
            *(face.confidence, output.confidence[row], anchor.index - look.index + 1),
            *(here.landmarks[0], here.sigma[0], here.confidence[0]),
        )
        sure = not (is_unsure(face.confidence) or is_unsure(output.confidence[row]))
        found[slots[id(face)]] = Look(here, 0, interpolated=calm and sure)
    return found


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
        known = boxes_of(np.stack([out.landmarks[row] for out, row, _ in outputs.values()]))
        fresh = np.flatnonzero(iou(boxes, known).max(axis=1) < SAME_FACE)
    else:
        fresh = np.arange(len(boxes))
    free = [slot for slot in range(len(slots.faces)) if slot not in outputs]
    last = slots.last_boxes, slots.last_seen
    found = output.landmarks[fresh]
    for face, slot in assign_faces(context, index, rgb, found, boxes[fresh], free, last):
        outputs[slot] = Look(output, int(fresh[face]))
        slots.faces[slot] = None


def prepare_following(output: PfldOutput, shape: tuple[int, ...]) -> None:
    """Compile the kernels between the networks, or load them, on an output of one face."""
    face_finder.usable_faces(
        output, shape, face_finder.still_faces(output, shape, 0.0), face_finder.face_scores(output)
    )
    set_output(empty_frame(0, 1), 0, output, 0)
    boxes_kernel(output.landmarks, np.empty((1, 5), np.float32))
    face = output.landmarks[0], output.sigma[0], output.confidence[0]
    _predicted_crops([Face(*face)], LOOK_AHEAD)
    (points, spread, sure), other = face, tuple(np.empty_like(array) for array in face)
    interpolate(points, points, spread, spread, sure, sure, 1, *other)
    is_confirmed(points, points, points, points)


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
        faces.append(
            None
            if face is None
            else Face(face.landmarks, face.sigma, face.confidence, face.places, face.refinement)
        )
    return _Slots(faces, dict(state.last_boxes), dict(state.last_seen))


def _state(
    next_index: int, slots: _Slots, ahead: Sequence[_Ahead], context: RunContext
) -> Callable[[], FacesState]:
    """Return a function that builds the state before a frame, without refinements; few states are needed."""
    faces = [
        None if face is None else (face, (face.landmarks, face.sigma, face.confidence, face.places))
        for face in slots.faces
    ]
    looks = [(look.crops, look.faces) for look in ahead]
    last = slots.last_boxes.copy(), slots.last_seen.copy(), len(context.warnings)
    return partial(_built_state, next_index, faces, looks, last, context.cuts_state())


def _built_state(
    next_index: int,
    faces: list[tuple[Face, tuple[Floats, Floats, Floats, tuple[Floats, ...]]] | None],
    looks: list[tuple[Floats, list[Face]]],
    last: tuple[dict[int, Floats], dict[int, int], int],
    cuts_state: dict[str, Any],
) -> FacesState:
    slot_of = {id(face[0]): slot for slot, face in enumerate(faces) if face is not None}
    return FacesState(
        next_index,
        tuple(None if face is None else FaceState(*face[1]) for face in faces),
        tuple(
            AheadState(crops, tuple(slot_of.get(id(face), -1) for face in known)) for crops, known in looks
        ),
        *last,
        **cuts_state,
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


def _look_ahead(index: int, frame: Frame, faces: Sequence[Face | None], frames: int) -> _Ahead:
    """Predict where the known faces are on a frame that comes so many `frames` later."""
    known = [face for face in faces if face is not None]
    if not known or isinstance(frame, FaceLandmarksError):
        return _Ahead(index, frame, [], np.zeros((0, 4), np.float32))
    return _Ahead(index, frame, known, _predicted_crops(known, frames))


def _look_again(index: int, frame: Frame, faces: Sequence[Face | None], begun: AheadState) -> _Ahead:
    """Run PFLD on a frame at the crops that a stored state predicts."""
    if not begun.slots or isinstance(frame, FaceLandmarksError):
        return _look_ahead(index, frame, [], 0)
    nothing = np.zeros(N_LANDMARKS, np.float32)
    lost = Face(np.zeros((N_LANDMARKS, 2), np.float32), nothing, nothing)
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


def _rounded_crops(landmarks: Floats) -> Floats:
    """Return the crops of faces, (F, 4), at landmarks (F, 68, 2), rounded to `CROP_STEPS`."""
    crops = np.empty((len(landmarks), 4), np.float32)
    _predict_crops(landmarks, np.zeros((len(landmarks), 2), np.float32), crops)
    return crops


def _predicted_crops(faces: Sequence[Face], frames: int) -> Floats:
    """Return the expected crops, (F, 4), in so many `frames`, rounded to `CROP_STEPS`.

    The motion of as many previous frames is extrapolated. Small motions are mostly jitter, and are damped.
    """
    motions = np.zeros((len(faces), 2), np.float32)
    for row, face in enumerate(faces):
        if len(face.places) > frames:
            motions[row] = face.places[0] - face.places[frames]
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
