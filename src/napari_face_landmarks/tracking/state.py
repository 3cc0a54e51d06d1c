"""What the tracker remembers between two frames: taken after any frame, stored, and gone on from.

A run that goes on from a state gives what it would have given without the break, bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.fit import Correction, OwnFit
from napari_face_landmarks.data.fields import TRACKED
from napari_face_landmarks.data.frame import FrameResult
from napari_face_landmarks.data.stats import STAGES, RunStats
from napari_face_landmarks.errors import ResultError, in_one_line
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.settings import TrackerSettings

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

LARGEST_STATE = 64 << 20
"""Bytes that a stored state may have; 64 faces with a smoothing window of 31 take 3 MB."""
NEVER = -(10**9)
DOUBTFUL = 0.6
"""Below this share of its usual confidence a CLNF face is looked for at once, and lost if it is not found."""
_MOST_PLACES, _MOST_AHEAD, _MOST_RECENT, _MOST_SLOTS, _MOST_WARNINGS = 3, 8, 31, 64, 1_000_000
_MOST_CONCEALED = 8_000_000


@dataclass(frozen=True, slots=True)
class Refinement:
    """State of the refinement of a face after a frame.

    Attributes
    ----------
    params : ndarray, (6 + m,), float64, or None
        Parameters of the PDM from which the next fit starts.
    correction : Correction or None
        What CLNF changed last.
    refined_at, unsure_at : int
        The last frame on which CLNF ran, and the last on which PFLD's confidence was low.
    manual : Correction or None
        The manual correction that is propagated: applied to PFLD's landmarks before CLNF.
    """

    params: Doubles | None = None
    correction: Correction | None = None
    refined_at: int = NEVER
    unsure_at: int = NEVER
    manual: Correction | None = None


@dataclass(frozen=True, slots=True)
class FaceState:
    """A face that is tracked by PFLD.

    Attributes
    ----------
    landmarks : ndarray, (68, 2), float32
        PFLD's, on the last frame.
    places : tuple of ndarray, (2,), float32
        Their mean on the last frames, the latest first.
    refinement : Refinement
    """

    landmarks: Floats
    places: tuple[Floats, ...]
    refinement: Refinement = Refinement()


@dataclass(frozen=True)
class ClnfFace:
    """A face that is tracked by CLNF without PFLD.

    Attributes
    ----------
    fit : OwnFit
    score : float
        The detector's, when it found the face last.
    unseen : int
        How many times in a row the detector has not found it since.
    usual : float
        Mean confidence of its landmarks when it was found last; 0 for a new face.
    """

    fit: OwnFit
    score: float
    unseen: int = 0
    usual: float = 0.0

    @property
    def doubtful(self) -> bool:
        """Whether the patch experts respond much less than before."""
        return bool(self.fit.confidence.mean() < DOUBTFUL * self.usual)

    @property
    def box(self) -> Floats:
        """The landmarks' box, (4,): x0, y0, x1, y1."""
        points = self.fit.landmarks
        return np.concatenate([points.min(axis=0), points.max(axis=0)])


@dataclass(frozen=True, slots=True)
class AheadState:
    """Where PFLD was looking on a frame after the last finished one.

    Attributes
    ----------
    crops : ndarray, (N, 4), float32
    slots : tuple of int
        The slot of the face that each crop is for; -1 where it was lost meanwhile.
    """

    crops: Floats
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FacesState:
    """What following faces needs to go on with frame `next_index`.

    Attributes
    ----------
    next_index : int
        The first frame that is not followed yet.
    faces : tuple of FaceState, ClnfFace or None
        Slot by slot; `ClnfFace` where CLNF works by itself.
    ahead : tuple of AheadState
        Frame `next_index` and those after it that were begun.
    last_boxes, last_seen : dict
        Box (4,) or (5,) and frame of the face that each slot held last.
    n_warnings : int
        How many of the run's warnings are of the frames before `next_index`.
    """

    next_index: int
    faces: tuple[FaceState | ClnfFace | None, ...]
    ahead: tuple[AheadState, ...]
    last_boxes: Mapping[int, Floats]
    last_seen: Mapping[int, int]
    n_warnings: int


@dataclass(frozen=True, slots=True)
class TrackerState:
    """A run between two results.

    Attributes
    ----------
    faces : FacesState
    recent : tuple of FrameResult
        The frames that smoothing still looks at, as they were before it.
    waiting : int
        How many of these are not given out yet.
    stats : RunStats
        Counts and times so far.
    warnings : tuple of str
    concealed : tuple of int
        Frames whose errors the decoder concealed, of those before `FacesState.next_index`.
    """

    faces: FacesState
    recent: tuple[FrameResult, ...]
    waiting: int
    stats: RunStats
    warnings: tuple[str, ...]
    concealed: tuple[int, ...]

    @property
    def next_result(self) -> int:
        """The frame whose result comes next."""
        return self.faces.next_index - self.waiting


def check_state(state: TrackerState, settings: TrackerSettings, n_modes: int, start: int, stop: int) -> None:
    """Refuse a state from which a run cannot go on.

    Parameters
    ----------
    state : TrackerState
    settings : TrackerSettings
    n_modes : int
        Components of the shape model.
    start, stop : int
        The frames of the run.

    Raises
    ------
    ResultError
        If the state does not fit the run.
    """
    alone = settings.refine == "clnf-only"
    faces = [face for face in state.faces.faces if face is not None]
    lengths = {len(params) for face in faces if (params := _params(face)) is not None}
    fits = (
        start <= state.next_result <= state.faces.next_index <= stop
        and len(state.faces.faces) == settings.max_faces
        and 1 <= len(state.recent) <= settings.smoothing_window
        and state.waiting <= settings.smoothing_window // 2
        and all(isinstance(face, FaceState) != alone for face in faces)
        and lengths <= {6 + n_modes}
    )
    if not fits:
        raise ResultError(
            "The stored state of a run does not fit these frames, models and settings: begin anew."
        )


def _params(face: FaceState | ClnfFace) -> Doubles | None:
    return face.refinement.params if isinstance(face, FaceState) else face.fit.params


def state_to_bytes(state: TrackerState) -> bytes:
    """Return a state as bytes: a JSON text, an empty byte, and the arrays that it refers to."""
    arrays: list[bytes] = []
    text = json.dumps(_plain(state, arrays), separators=(",", ":"))
    return b"\0".join([text.encode("ascii"), b"".join(arrays)])


def state_from_bytes(data: bytes) -> TrackerState:
    """Return the state that `state_to_bytes` stored; nothing in `data` is trusted.

    Raises
    ------
    ResultError
        If it is no such state.
    """
    try:
        if len(data) > LARGEST_STATE:
            raise ValueError(f"it has {len(data)} bytes")
        text, _, arrays = data.partition(b"\0")
        return _state(json.loads(text), memoryview(arrays))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ResultError(f"The stored state of a run cannot be read ({in_one_line(error)}).") from None


def _plain(value: Any, arrays: list[bytes]) -> Any:
    """Return `value` as JSON can store it; arrays go to `arrays` and leave their type and shape."""
    if isinstance(value, np.ndarray):
        arrays.append(np.ascontiguousarray(value).tobytes())
        return {"type": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, FrameResult):
        named = {"index": value.index, **{item.name: getattr(value, item.name) for item in TRACKED}}
        return {name: _plain(item, arrays) for name, item in named.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name), arrays) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return [[str(key), _plain(item, arrays)] for key, item in value.items()]
    if isinstance(value, (tuple, list)):
        return [_plain(item, arrays) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


class _Arrays:
    """The stored arrays, taken in the order in which they were stored."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.place = data, 0

    def take(self, plain: Any, kind: str, *shapes: tuple[int | None, ...]) -> npt.NDArray[Any]:
        """Return the next array, which must be of type `kind` and one of `shapes` (None: any length)."""
        found = tuple(int(length) for length in plain["shape"])
        fits = any(
            len(found) == len(shape)
            and all(want is None or want == got for want, got in zip(shape, found, strict=True))
            for shape in shapes
        )
        size = np.dtype(kind).itemsize
        for length in found:
            size *= length
        if not fits or plain["type"] != np.dtype(kind).str or not 0 <= size <= len(self.data) - self.place:
            raise ValueError(f"an array of the type {plain['type']} and shape {found}")
        array = np.frombuffer(self.data[self.place : self.place + size], kind).reshape(found)
        self.place += size
        return array.copy()


def _state(plain: Any, data: memoryview) -> TrackerState:
    arrays = _Arrays(data)
    faces = _faces(plain["faces"], arrays)
    n_slots = len(faces.faces)
    recent = tuple(_frame(item, arrays, n_slots) for item in _list(plain["recent"], _MOST_RECENT))
    waiting = _whole(plain["waiting"], 0, len(recent))
    stats = _stats(plain["stats"])
    warnings = tuple(str(item) for item in _list(plain["warnings"], _MOST_WARNINGS))
    concealed = tuple(_whole(item, 0) for item in _list(plain["concealed"], _MOST_CONCEALED))
    if arrays.place != len(data):
        raise ValueError(f"{len(data) - arrays.place} bytes too many")
    return TrackerState(faces, recent, waiting, stats, warnings, concealed)


def _stats(plain: Any) -> RunStats:
    values: dict[str, Any] = dict(plain)
    for name, kind in (("stage_seconds", float), ("stage_calls", int)):
        values[name] = {stage: kind(number) for stage, number in _list(values[name], len(STAGES))}
        if set(values[name]) != set(STAGES):
            raise ValueError(f"{name} is not of {', '.join(STAGES)}")
    for name, value in values.items():
        if not isinstance(value, (int, float, dict)):
            raise ValueError(f"{name} is {value!r}")
    return RunStats(**values)


def _faces(plain: Any, arrays: _Arrays) -> FacesState:
    faces = tuple(
        _optional(item, lambda one: _face(one, arrays)) for item in _list(plain["faces"], _MOST_SLOTS)
    )
    ahead = []
    for item in _list(plain["ahead"], _MOST_AHEAD):
        slots = tuple(_whole(slot, -1, len(faces) - 1) for slot in _list(item["slots"], _MOST_SLOTS))
        if any(slot >= 0 and not isinstance(faces[slot], FaceState) for slot in slots):
            raise ValueError("a crop for a face that there is not")
        ahead.append(AheadState(arrays.take(item["crops"], "<f4", (len(slots), 4)), slots))
    boxes = {
        _whole(int(key), 0, len(faces) - 1): arrays.take(item, "<f4", (4,), (5,))
        for key, item in _list(plain["last_boxes"], _MOST_SLOTS)
    }
    seen = {
        _whole(int(key), 0, len(faces) - 1): _whole(item)
        for key, item in _list(plain["last_seen"], _MOST_SLOTS)
    }
    n_warnings = _whole(plain["n_warnings"], 0, _MOST_WARNINGS)
    return FacesState(_whole(plain["next_index"], 0), faces, tuple(ahead), boxes, seen, n_warnings)


def _face(plain: Any, arrays: _Arrays) -> FaceState | ClnfFace:
    if "fit" in plain:
        fit = plain["fit"]
        own = OwnFit(
            landmarks=arrays.take(fit["landmarks"], "<f4", (N_LANDMARKS, 2)),
            params=arrays.take(fit["params"], "<f8", (None,)),
            confidence=arrays.take(fit["confidence"], "<f4", (N_LANDMARKS,)),
            likelihood=float(fit["likelihood"]),
            iterations=_whole(fit["iterations"]),
            converged=bool(fit["converged"]),
        )
        return ClnfFace(own, float(plain["score"]), _whole(plain["unseen"]), float(plain["usual"]))
    landmarks = arrays.take(plain["landmarks"], "<f4", (N_LANDMARKS, 2))
    places = tuple(arrays.take(item, "<f4", (2,)) for item in _list(plain["places"], _MOST_PLACES))
    refinement = plain["refinement"]
    params = _optional(refinement["params"], lambda item: arrays.take(item, "<f8", (None,)))
    correction = _optional(
        refinement["correction"],
        lambda item: Correction(
            growth=float(item["growth"]),
            rotation=arrays.take(item["rotation"], "<f8", (3, 3)),
            shift=arrays.take(item["shift"], "<f8", (2,)),
            shape=arrays.take(item["shape"], "<f8", (None,)),
            shares=arrays.take(item["shares"], "<f8", (N_LANDMARKS,)),
            beyond=arrays.take(item["beyond"], "<f8", (N_LANDMARKS, 2)),
        ),
    )
    if correction is not None and (params is None or len(params) != 6 + len(correction.shape)):
        raise ValueError("a correction that does not fit the shape model")
    stands = Refinement(params, correction, _whole(refinement["refined_at"]), _whole(refinement["unsure_at"]))
    return FaceState(landmarks, places, stands)


def _frame(plain: Any, arrays: _Arrays, n_slots: int) -> FrameResult:
    values: dict[str, Any] = {"index": _whole(plain["index"], 0)}
    for item in TRACKED:
        values[item.name] = arrays.take(plain[item.name], item.dtype, (n_slots, *item.shape))
    return FrameResult(**values)


def _optional(plain: Any, read: Callable[[Any], Any]) -> Any:
    return None if plain is None else read(plain)


def _list(plain: Any, most: int) -> Sequence[Any]:
    if not isinstance(plain, list) or len(plain) > most:
        raise ValueError("a list is missing or too long")
    return plain


def _whole(value: Any, least: int = NEVER, most: int = 2**62) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{value!r} where a whole number from {least} to {most} belongs")
    return value
