"""Face tracking by PFLD, pipelined with decoding and CLNF refinement; the detector runs at intervals."""

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
    Located,
    Refined,
    is_unsure,
    locate_parts,
    refine_located,
    set_refined,
)
from napari_face_landmarks.tracking.state import AheadState, FacesState, FaceState, Refinement
from napari_face_landmarks.tracking.threads import Promise, Workers

Floats = npt.NDArray[np.float32]

MAX_PENDING = 4
"""Maximum number of frames whose refinement is pending; each keeps its image."""
DETECT_EVERY = 5
"""Interval of the detector while fewer than `max_faces` faces are tracked; without faces, it is 1."""
MIN_LOOKAHEAD = 2
"""Number of frames that PFLD processes ahead if all are anchor frames."""
MAX_PAIRING_THREADS = 2
"""Number of threads up to which a face on two frames is one batch of PFLD, for a fifth less work."""
BATCH_SIZE = 2
"""Faces in one batch of the networks, for any number of threads, for a tenth less work per face."""
SMALL_MOTION = 0.03
"""Motion, relative to the crop's side, of which half is extrapolated: more of larger, less of smaller."""
CROP_STEPS = 2048
"""Crops are rounded to 1/2048 of their side (rounded down to a power of 2) and to 1/2048 radian of roll.

Crops depend on landmarks and landmarks on crops: two runs that begin at different frames approach each other
but, owing to float32 rounding, become equal only if crops are rounded.
"""


class PfldFace(NamedTuple):
    """A face on a frame before refinement: a row of PFLD's output."""

    output: PfldOutput
    row: int
    interpolated: bool = False  # between the previous frame and the next anchor frame


Faces = dict[int, PfldFace]
"""The faces on a frame by slot, the index of the face axis of results."""
Unrefined = tuple[GreyFrame, PfldFace]


@dataclass(eq=False)
class Face:
    """A tracked face."""

    # on the last frame, before refinement
    landmarks: Floats  # (68, 2)
    sigma: Floats  # (68,)
    confidence: Floats  # (68,)
    places: tuple[Floats, ...] = ()  # (2,) each; mean of the landmarks on the last frames, latest first
    # accessed only by refinements, which run in the order of the frames
    state: Refinement = field(default_factory=Refinement)
    refinement: Promise[list[Refined]] | None = None  # the latest batch with this face

    def move(self, output: PfldOutput, row: int, kept: int) -> None:
        """Record the landmarks on the next frame; keep their mean on `kept` frames before it."""
        self.landmarks, self.sigma = output.landmarks[row], output.sigma[row]
        self.confidence = output.confidence[row]
        self.places = (np.add.reduce(self.landmarks) / np.float32(N_LANDMARKS), *self.places[:kept])


@dataclass(frozen=True, slots=True)
class _AheadFrame:
    """A frame ahead of the one being tracked, on which PFLD runs in advance if it is an anchor frame."""

    index: int
    frame: Frame
    faces: list[Face]
    crops: Floats  # (N, 4), predicted; none between anchor frames
    # for each face its batch, with the seconds per crop, and its row in the batch
    outputs: list[tuple[Promise[tuple[PfldOutput, float]], int]] = field(default_factory=list)
    cache: list[tuple[PfldOutput, npt.NDArray[np.bool_]]] = field(default_factory=list)  # of `_ahead_output`


@dataclass(frozen=True, slots=True)
class _Slots:
    """The tracked face of each slot, and box and frame of the slot's last face."""

    faces: list[Face | None]
    last_boxes: dict[int, Floats]
    last_seen: dict[int, int]


@dataclass(frozen=True, slots=True)
class _UnrefinedFrame:
    """A tracked frame with pending refinements."""

    result: FrameResult  # without the refinements, as is the state after the frame
    state: Callable[[], FacesState]
    waiting: list[tuple[int, Face, Unrefined]]  # slots and faces whose refinement has not started
    # by slot, the batch of refinements with the face, and its index in the batch
    refinements: dict[int, tuple[Promise[list[Refined]], int]] = field(default_factory=dict)


def follow_pfld(
    context: RunContext, frames: Iterator[tuple[int, Frame]], before: FacesState | None = None
) -> Generator[Tracked, None, None]:
    """Track faces through the frames of `rgb_frames` by PFLD, refined by CLNF according to the settings.

    PFLD runs `frames_ahead` frames ahead. Crops are predicted from frames that many or more before, whatever
    the number of threads, so that results do not depend on it. Between anchor frames, PFLD runs only on faces
    that cannot be interpolated (`anchor_frames`). Statistics and warnings of `context` are updated. If the
    initial state `before` is given, the frames begin at its `next_index`.
    """
    every = context.pfld_every
    pending: deque[_UnrefinedFrame] = deque()
    ahead: deque[_AheadFrame] = deque()
    with Workers(context.threads) as workers:
        slots = _Slots([None] * context.settings.max_faces, {}, {})
        if before is not None:
            slots = _slots_of(before)
            for stored, (index, frame) in zip(before.ahead, frames, strict=False):
                ahead.append(_restored_ahead(index, frame, slots.faces, stored))
        paired = context.threads <= MAX_PAIRING_THREADS and not context.live and every == 1
        limit = max(MAX_PENDING, 2 * every) if context.threads > 1 else 0

        def fill() -> None:
            while len(ahead) < frames_ahead(every) and (item := next(frames, None)) is not None:
                known = [] if item[0] % every else slots.faces
                ahead.append(_predicted_ahead(*item, known, frames_ahead(every)))
            _start_pfld(context.models, workers, ahead, paired)

        fill()
        for done in count(0 if before is None else 1):
            if not ahead:
                break
            current = ahead.popleft()
            outputs: Faces = {}
            if isinstance(current.frame, FaceLandmarksError):
                if context.ends_at(current.frame, first=not done):
                    break
                slots.faces[:] = [None] * len(slots.faces)
            else:
                outputs = _step(context, workers, current, current.frame, slots, ahead)
            fill()
            pending.append(_record(context, current, slots, outputs, ahead))
            if not (current.index % every or (ahead and _share_a_batch(current, ahead[0]))):
                _start_refining(context, workers, pending)
            # last, because this thread needs it next and does it itself if no other thread has started it
            _start_pfld(context.models, workers, ahead, paired)
            while pending and not pending[0].waiting and (len(pending) > limit or _is_done(pending[0])):
                yield _finished(context, workers, pending.popleft())
        _start_refining(context, workers, pending)
        while pending:
            yield _finished(context, workers, pending.popleft())


def frames_ahead(pfld_every: int) -> int:
    """Return how many frames PFLD runs ahead: up to the next anchor frame."""
    return max(MIN_LOOKAHEAD, pfld_every)


def _step(
    context: RunContext,
    workers: Workers,
    current: _AheadFrame,
    rgb: npt.NDArray[np.uint8],
    slots: _Slots,
    ahead: Sequence[_AheadFrame],
) -> Faces:
    """Track the known faces to a frame, and detect new faces for free slots."""
    index, faces, regions = current.index, slots.faces, context.regions
    known = [slot for slot, face in enumerate(faces) if face is not None]
    before = {slot: face.landmarks for slot, face in enumerate(faces) if face is not None}
    outputs = _tracked_known(context, workers, current, rgb, faces, ahead)
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
        not outputs or len(known) > len(outputs) or index % DETECT_EVERY == 0 or regions.begins(index)
    ):
        _detect_new(context, rgb, index, slots, outputs)
    for slot, (output, row, _) in outputs.items():
        face = faces[slot] or Face(output.landmarks[row], output.sigma[row], output.confidence[row])
        face.move(output, row, frames_ahead(context.pfld_every))
        faces[slot] = face
    return outputs


def _record(
    context: RunContext, current: _AheadFrame, slots: _Slots, outputs: Faces, ahead: Sequence[_AheadFrame]
) -> _UnrefinedFrame:
    """Return the unrefined result and state of a frame, and record the last face of each slot."""
    result = empty_frame(current.index, len(slots.faces))
    image = None if isinstance(current.frame, FaceLandmarksError) else GreyFrame(current.frame)
    waiting = []
    for slot, found in outputs.items():
        set_output(result, slot, found.output, found.row)
        slots.last_boxes[slot] = result.boxes[slot]
        slots.last_seen[slot] = current.index
        face = slots.faces[slot]
        assert face is not None  # set by _step
        assert image is not None
        waiting.append((slot, face, (image, found)))
    return _UnrefinedFrame(result, _state(current.index + 1, slots, ahead, context), waiting)


def _start_refining(context: RunContext, workers: Workers, frames: Iterable[_UnrefinedFrame]) -> None:
    """Start the waiting refinements, batched by face up to its anchor frame, or by `BATCH_SIZE`."""
    faces = [(frame, *face) for frame in frames for face in frame.waiting]
    if context.pfld_every > 1:
        faces.sort(key=lambda face: face[1])
        batches = [list(batch) for _, batch in groupby(faces, key=lambda face: id(face[2]))]
    else:
        batches = [faces[first : first + BATCH_SIZE] for first in range(0, len(faces), BATCH_SIZE)]
    for batch in batches:
        work = [(frame.result.index, face) for frame, _, face, _ in batch]
        before = {face.refinement for _, face in work if face.refinement is not None}
        located = workers.submit(partial(_located, context, [unrefined for *_, unrefined in batch]))
        refine = partial(_refined, context, work, partial(workers.result, located))
        refined = workers.submit(refine, after={located, *before})
        for position, (frame, slot, face, *_) in enumerate(batch):
            face.refinement = refined
            frame.refinements[slot] = refined, position
            frame.waiting.clear()


def set_output(result: FrameResult, slot: int, output: PfldOutput, row: int) -> None:
    """Write confidence and box of a face of PFLD's output into a frame's result."""
    confidence, boxes = result.confidence[slot], result.boxes[slot : slot + 1]
    face_finder.record_kernel(output.landmarks, output.confidence, output.score, row, confidence, boxes)


def _located(context: RunContext, faces: Sequence[Unrefined]) -> list[Located]:
    """Run the part models, and PFLD on interpolated faces that these do not confirm.

    With anchor frames, `faces` are one face on consecutive frames, up to an anchor frame if it is not lost.
    """
    located = locate_parts(context.models, [(image, face.output, face.row) for image, face in faces])
    anchor, at_anchor = faces[-1][1], located[-1]
    return [
        _located_by_pfld(context, image, face, parts)
        if face.interpolated and (anchor.interpolated or not _confirmed(face, parts, anchor, at_anchor))
        else parts
        for (image, face), parts in zip(faces, located, strict=True)
    ]


def _refined(
    context: RunContext, faces: Sequence[tuple[int, Face]], located: Callable[[], list[Located]]
) -> list[Refined]:
    """Refine faces on some frames, in order, and update their states."""
    refined = []
    for (index, face), unrefined in zip(faces, located(), strict=True):
        refined.append(refine_located(context, unrefined, index, face.state))
        face.state = refined[-1].after
    return refined


def _confirmed(face: PfldFace, parts: Located, anchor: PfldFace, at_anchor: Located) -> bool:
    expected, anchor_pfld = face.output.landmarks[face.row], anchor.output.landmarks[anchor.row]
    return bool(is_confirmed(expected, parts.landmarks, anchor_pfld, at_anchor.landmarks))


def _located_by_pfld(context: RunContext, image: GreyFrame, face: PfldFace, parts: Located) -> Located:
    """Locate an interpolated face by PFLD and the part models; return `parts` if PFLD finds no face."""
    crop = _rounded_crops(face.output.landmarks[face.row : face.row + 1])
    output = predict_twice(context.models.pfld, image.rgb, crop)
    min_score = face_finder.min_tracked_score(context.settings)
    if not face_finder.still_faces(output, image.rgb.shape, min_score)[0]:
        return parts
    (located,) = locate_parts(context.models, [(image, output, 0)])
    return replace(located, seconds=located.seconds + parts.seconds)


def _tracked_known(
    context: RunContext,
    workers: Workers,
    current: _AheadFrame,
    rgb: npt.NDArray[np.uint8],
    faces: Sequence[Face | None],
    ahead: Sequence[_AheadFrame],
) -> Faces:
    """Return the faces of the previous frame that are still found on this one, `rgb`.

    Between anchor frames, slowly moving faces are interpolated. For a new face, or a face not found at
    its predicted crop, PFLD runs at the interpolated position or the position on the previous frame.
    """
    slots = {id(face): slot for slot, face in enumerate(faces) if face is not None}
    outputs: Faces = {}
    if current.outputs:
        output, usable = _ahead_output(context, workers, current, rgb)
        for row, face in enumerate(current.faces):
            if usable[row] and id(face) in slots:
                outputs[slots[id(face)]] = PfldFace(output, row)
    expected = _interpolated(context, workers, current, faces, ahead)
    outputs.update((slot, face) for slot, face in expected.items() if face.interpolated)
    missed = [(slot, face) for slot, face in enumerate(faces) if face is not None and slot not in outputs]
    if missed:
        is_anchor = current.index % context.pfld_every == 0
        crops = np.concatenate([_fallback_crop(face, expected.get(slot), is_anchor) for slot, face in missed])
        output, seconds = _timed_pfld(context.models, rgb, crops)
        context.stats.add_time("pfld", seconds * len(crops))
        usable = face_finder.still_faces(output, rgb.shape, face_finder.min_tracked_score(context.settings))
        boxes = boxes_of(output.landmarks)
        for row, (slot, _) in enumerate(missed):
            known = [boxes_of(out.landmarks[i : i + 1]) for out, i, _ in outputs.values()]
            duplicate = any(iou(boxes[row : row + 1], box)[0, 0] > SAME_FACE for box in known)
            if usable[row] and not duplicate:
                outputs[slot] = PfldFace(output, row)
    return dict(sorted(outputs.items()))


def _ahead_output(
    context: RunContext, workers: Workers, ahead: _AheadFrame, rgb: npt.NDArray[np.uint8]
) -> tuple[PfldOutput, npt.NDArray[np.bool_]]:
    """Return PFLD's output on a frame, `rgb`, started in advance, and whether each row still is a face."""
    if not ahead.cache:
        batches = [(*workers.result(batch), row) for batch, row in ahead.outputs]
        context.stats.add_time("pfld", sum(seconds for _, seconds, _ in batches))
        output = face_finder.join_faces([output.rows(slice(row, row + 1)) for output, _, row in batches])
        usable = face_finder.still_faces(output, rgb.shape, face_finder.min_tracked_score(context.settings))
        ahead.cache.append((output, usable))
    return ahead.cache[0]


def _fallback_crop(face: Face, expected: PfldFace | None, is_anchor: bool) -> Floats:
    """Return the crop, (1, 4), for a face not found yet: at its interpolated, last or predicted position.

    On an anchor frame, the predicted crop has already been tried.
    """
    if expected is not None:
        return _rounded_crops(expected.output.landmarks)
    return crops_of_landmarks(face.landmarks[None]) if is_anchor else _predicted_crops([face], 1)


def _interpolated(
    context: RunContext,
    workers: Workers,
    current: _AheadFrame,
    faces: Sequence[Face | None],
    ahead: Sequence[_AheadFrame],
) -> Faces:
    """Return interpolated faces between anchor frames, with `interpolated` set where that is reliable."""
    result: Faces = {}
    anchor = next((other for other in ahead if other.index % context.pfld_every == 0), None)
    if anchor is None or not (anchor.outputs and current.index % context.pfld_every):
        return result
    frames = range(current.index, anchor.index + 1)
    broken = any(isinstance(other.frame, FaceLandmarksError) for other in ahead if other.index in frames)
    if broken or isinstance(anchor.frame, FaceLandmarksError) or not context.jumps.keys().isdisjoint(frames):
        return result
    slots = {id(face): slot for slot, face in enumerate(faces) if face is not None}
    output, usable = _ahead_output(context, workers, anchor, anchor.frame)
    for row, face in enumerate(anchor.faces):
        if not usable[row] or id(face) not in slots:
            continue
        interpolated = PfldOutput(
            np.empty((1, N_LANDMARKS, 2), np.float32),
            np.empty((1, N_LANDMARKS), np.float32),
            np.empty((1, N_LANDMARKS), np.float32),
            output.score[row : row + 1],
        )
        slow = interpolate(
            *(face.landmarks, output.landmarks[row], face.sigma, output.sigma[row]),
            *(face.confidence, output.confidence[row], anchor.index - current.index + 1),
            *(interpolated.landmarks[0], interpolated.sigma[0], interpolated.confidence[0]),
        )
        confident = not (is_unsure(face.confidence) or is_unsure(output.confidence[row]))
        result[slots[id(face)]] = PfldFace(interpolated, 0, interpolated=slow and confident)
    return result


def _detect_new(
    context: RunContext, rgb: npt.NDArray[np.uint8], index: int, slots: _Slots, outputs: Faces
) -> None:
    """Run the detector, and add new faces to `outputs` and to free slots."""
    regions = context.regions
    output = face_finder.find_faces(
        context.models, context.settings, rgb, context.stats, regions.boxes(index)
    )[1]
    if regions.ignore:
        ignored = regions.ignores(boxes_of(output.landmarks), index)
        output = output.rows(np.flatnonzero(~ignored))
    boxes = boxes_of(output.landmarks)
    if outputs and len(boxes):
        known = boxes_of(np.stack([out.landmarks[row] for out, row, _ in outputs.values()]))
        new = np.flatnonzero(iou(boxes, known).max(axis=1) < SAME_FACE)
    else:
        new = np.arange(len(boxes))
    free = [slot for slot in range(len(slots.faces)) if slot not in outputs]
    last = slots.last_boxes, slots.last_seen
    for face, slot in assign_faces(context, index, rgb, output.landmarks[new], boxes[new], free, last):
        outputs[slot] = PfldFace(output, int(new[face]))
        slots.faces[slot] = None


def prepare_following(output: PfldOutput, shape: tuple[int, ...]) -> None:
    """Compile the tracker's kernels, or load them from the cache, on an output of one face."""
    face_finder.usable_faces(
        output, shape, face_finder.still_faces(output, shape, 0.0), face_finder.face_scores(output)
    )
    set_output(empty_frame(0, 1), 0, output, 0)
    boxes_kernel(output.landmarks, np.empty((1, 5), np.float32))
    face = output.landmarks[0], output.sigma[0], output.confidence[0]
    _predicted_crops([Face(*face)], MIN_LOOKAHEAD)
    (points, sigma, confidence), filled = face, tuple(np.empty_like(array) for array in face)
    interpolate(points, points, sigma, sigma, confidence, confidence, 1, *filled)
    is_confirmed(points, points, points, points)


def _is_done(frame: _UnrefinedFrame) -> bool:
    return all(batch.done for batch, _ in frame.refinements.values())


def _finished(context: RunContext, workers: Workers, frame: _UnrefinedFrame) -> Tracked:
    """Wait for a frame's refinements and return its result."""
    states = {}
    for slot, (batch, position) in frame.refinements.items():
        refined = workers.result(batch)[position]
        set_refined(frame.result, slot, refined)
        context.stats.add_time("clnf", refined.seconds)
        states[slot] = refined.after
    return frame.result, partial(_with_refinements, frame.state, states)


def _slots_of(state: FacesState) -> _Slots:
    """Restore the slots from a state."""
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
    next_index: int, slots: _Slots, ahead: Sequence[_AheadFrame], context: RunContext
) -> Callable[[], FacesState]:
    """Return a function that builds the state before a frame, without refinements; few are ever built."""
    faces = [
        None if face is None else (face, (face.landmarks, face.sigma, face.confidence, face.places))
        for face in slots.faces
    ]
    crops = [(frame.crops, frame.faces) for frame in ahead]
    last = slots.last_boxes.copy(), slots.last_seen.copy(), len(context.warnings)
    return partial(_built_state, next_index, faces, crops, last, context.cuts_state())


def _built_state(
    next_index: int,
    faces: list[tuple[Face, tuple[Floats, Floats, Floats, tuple[Floats, ...]]] | None],
    ahead: list[tuple[Floats, list[Face]]],
    last: tuple[dict[int, Floats], dict[int, int], int],
    cuts_state: dict[str, Any],
) -> FacesState:
    slot_of = {id(face[0]): slot for slot, face in enumerate(faces) if face is not None}
    return FacesState(
        next_index,
        tuple(None if face is None else FaceState(*face[1]) for face in faces),
        tuple(
            AheadState(crops, tuple(slot_of.get(id(face), -1) for face in known)) for crops, known in ahead
        ),
        *last,
        **cuts_state,
    )


def _with_refinements(before: Callable[[], FacesState], refinements: dict[int, Refinement]) -> FacesState:
    """Return the state of the faces with their refinement states filled in."""
    state = before()
    faces = list(state.faces)
    for slot, refinement in refinements.items():
        face = faces[slot]
        assert isinstance(face, FaceState)
        faces[slot] = replace(face, refinement=refinement)
    return replace(state, faces=tuple(faces))


def _predicted_ahead(index: int, frame: Frame, faces: Sequence[Face | None], frames: int) -> _AheadFrame:
    """Predict the crops of the tracked faces on a frame that is `frames` later."""
    known = [face for face in faces if face is not None]
    if not known or isinstance(frame, FaceLandmarksError):
        return _AheadFrame(index, frame, [], np.zeros((0, 4), np.float32))
    return _AheadFrame(index, frame, known, _predicted_crops(known, frames))


def _restored_ahead(
    index: int, frame: Frame, faces: Sequence[Face | None], stored: AheadState
) -> _AheadFrame:
    """Return a frame ahead with the predicted crops of a stored state."""
    if not stored.slots or isinstance(frame, FaceLandmarksError):
        return _predicted_ahead(index, frame, [], 0)
    zeros = np.zeros(N_LANDMARKS, np.float32)
    lost = Face(np.zeros((N_LANDMARKS, 2), np.float32), zeros, zeros)
    known = [(faces[slot] if slot >= 0 else None) or lost for slot in stored.slots]
    return _AheadFrame(index, frame, known, stored.crops)


def _start_pfld(models: Models, workers: Workers, ahead: Sequence[_AheadFrame], paired: bool) -> None:
    """Start PFLD on the frames ahead on which it has not been started.

    If `paired`, an odd number of faces waits for the next frame, unless the first of them is needed next.
    """
    frames = [frame for frame in ahead if not frame.outputs]
    faces = [(frame, row) for frame in frames for row in range(len(frame.crops))]
    if paired and len(faces) % 2 and frames[0] is not ahead[0]:
        return
    for first in range(0, len(faces), BATCH_SIZE):
        batch = faces[first : first + BATCH_SIZE]
        crops = np.array([frame.crops[row] for frame, row in batch])
        images = [frame.frame for frame, _ in batch if not isinstance(frame.frame, FaceLandmarksError)]
        output = workers.submit(partial(_timed_pfld, models, images, crops))
        for position, (frame, _) in enumerate(batch):
            frame.outputs.append((output, position))


def _share_a_batch(frame: _AheadFrame, following: _AheadFrame) -> bool:
    """Return whether PFLD processes faces of two consecutive frames in one batch."""
    return bool(frame.outputs and following.outputs) and frame.outputs[-1][0] is following.outputs[0][0]


def _timed_pfld(models: Models, images: Pictures, crops: Floats) -> tuple[PfldOutput, float]:
    """Run PFLD on crops; return its output and the seconds per crop."""
    began = time.perf_counter()
    output = predict_twice(models.pfld, images, crops)
    return output, (time.perf_counter() - began) / len(crops)


def _rounded_crops(landmarks: Floats) -> Floats:
    """Return the crops, (F, 4), of faces with landmarks (F, 68, 2), rounded by `CROP_STEPS`."""
    crops = np.empty((len(landmarks), 4), np.float32)
    _predict_crops(landmarks, np.zeros((len(landmarks), 2), np.float32), crops)
    return crops


def _predicted_crops(faces: Sequence[Face], frames: int) -> Floats:
    """Return the crops, (F, 4), predicted `frames` ahead, rounded by `CROP_STEPS`.

    The motion over as many previous frames is extrapolated; small motion, mostly jitter, is damped.
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
