"""Serializable state of a run between two frames, for checkpoints and resuming.

A run that resumes from a state gives the results of an uninterrupted run, bit for bit.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.fit import ClnfOnlyFit, Correction
from napari_face_landmarks.data.fields import TRACKED
from napari_face_landmarks.data.frame import FrameResult, stack_frames, unstack_frames
from napari_face_landmarks.data.stats import STAGES, RunStats
from napari_face_landmarks.errors import ResultError, in_one_line
from napari_face_landmarks.files.npz import read_npz
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.smoothing import window_at_rate

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

LARGEST_STATE = 64 << 20
"""Bytes that a stored state may have; 64 faces with a smoothing window of 31 take 3 MB."""
NEVER = -(10**9)
LARGEST_NUMBER = 1 << 62
DOUBTFUL = 0.6
"""Below this share of its usual confidence a CLNF face is checked by the detector at once."""
_MOST_PLACES, _MOST_AHEAD, _MOST_RECENT, _MOST_SLOTS, _MOST_ROWS = 5, 8, 31, 64, 4096
_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "landmarks": ("<f4", (N_LANDMARKS, 2)),
    "places": ("<f4", (2,)),
    "confidence": ("<f4", (N_LANDMARKS,)),
    "sigma": ("<f4", (N_LANDMARKS,)),
    "crops": ("<f4", (-1, 4)),
    "last_boxes": ("<f4", (5,)),
    "looks": ("<f4", (256,)),
    "params": ("<f8", (-1,)),
    "rotation": ("<f8", (3, 3)),
    "shift": ("<f8", (2,)),
    "shape": ("<f8", (-1,)),
    "shares": ("<f8", (N_LANDMARKS,)),
}
"""Type and shape of the arrays of a state, by the name of their field; -1 is any length."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """State of the refinement of a face after a frame."""

    # (6 + m,), float64, or None; parameters of the PDM from which the next fit starts
    params: Doubles | None = None
    correction: Correction | None = None  # what CLNF changed last
    # refined_at, unsure_at: the last frame on which CLNF ran, and the last on which PFLD's confidence was low
    refined_at: int = NEVER
    unsure_at: int = NEVER


@dataclass(frozen=True, slots=True)
class FaceState:
    """A face that is tracked by PFLD."""

    # PFLD's on the last frame: (68, 2), (68,) and (68,)
    landmarks: Floats
    sigma: Floats
    confidence: Floats
    # tuple of ndarray, (2,), float32; the mean of the landmarks on the last frames, the latest first
    places: tuple[Floats, ...]
    refinement: Refinement = Refinement()


@dataclass(frozen=True)
class ClnfFace:
    """A face that is tracked by CLNF without PFLD."""

    fit: ClnfOnlyFit
    score: float  # the detector's, when it found the face last
    unseen: int = 0  # how many times in a row the detector has not found it since
    usual: float = 0.0  # mean confidence of its landmarks when it was found last; 0 for a new face

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
    """The crops of PFLD on a frame after the last finished one."""

    crops: Floats  # (N, 4)
    slots: tuple[int, ...]  # the slot of the face that each crop is for; -1 where it was lost meanwhile


@dataclass(frozen=True, slots=True)
class FacesState:
    """State of all faces before frame `next_index`."""

    next_index: int  # the first frame that is not tracked yet
    faces: tuple[FaceState | ClnfFace | None, ...]  # slot by slot; `ClnfFace` without PFLD
    ahead: tuple[AheadState, ...]  # frame `next_index` and later ones on which PFLD was started
    # last_boxes, last_seen: box (4,) or (5,) and frame of the face that each slot held last
    last_boxes: Mapping[int, Floats]
    last_seen: Mapping[int, int]
    n_warnings: int  # how many of the run's warnings are of the frames before `next_index`
    # as `RunContext` has them
    cuts: tuple[int, ...] = ()
    new_tracks: tuple[tuple[int, int], ...] = ()
    looks: Mapping[int, Floats] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrackerState:
    """A run between two results."""

    faces: FacesState
    recent: tuple[FrameResult, ...]  # the frames that smoothing still looks at, as they were before it
    waiting: int  # how many of these are not given out yet
    stats: RunStats  # counts and times so far
    warnings: tuple[str, ...]
    # frames whose errors the decoder concealed, of those before `FacesState.next_index`
    concealed: tuple[int, ...]

    @property
    def next_result(self) -> int:
        """The frame whose result comes next."""
        return self.faces.next_index - self.waiting


def check_state(
    state: TrackerState,
    settings: TrackerSettings,
    n_modes: int,
    start: int,
    stop: int,
    fps: float | None = None,
) -> None:
    """Refuse a state from which a run over these frames cannot resume; `n_modes` is that of the PDM."""
    window = window_at_rate(settings.smoothing_window, fps)
    without_pfld = settings.refine == "clnf-only"
    faces = [face for face in state.faces.faces if face is not None]
    lengths = {len(params) for face in faces if (params := _params(face)) is not None}
    fits = (
        start <= state.next_result <= state.faces.next_index <= stop
        and len(state.faces.faces) == settings.max_faces
        and 1 <= len(state.recent) <= window
        and state.waiting <= window // 2
        and all(isinstance(face, FaceState) != without_pfld for face in faces)
        and lengths <= {6 + n_modes}
    )
    if not fits:
        raise ResultError(
            "The stored state of a run does not fit these frames, models and settings: do not resume it."
        )


def _params(face: FaceState | ClnfFace) -> Doubles | None:
    return face.refinement.params if isinstance(face, FaceState) else face.fit.params


def state_to_bytes(state: TrackerState) -> bytes:
    """Return a state as an ``.npz`` file: its arrays, and everything else as JSON in the array ``json``."""
    recent = stack_frames(state.recent, len(state.faces.faces))
    arrays = {f"recent.{name}": array for name, array in recent.items()}
    plain = _pack(dataclasses.replace(state, recent=()), "", arrays)
    text = json.dumps(plain, separators=(",", ":")).encode("ascii")
    stream = io.BytesIO()
    np.savez(stream, json=np.frombuffer(text, np.uint8), **cast(Any, arrays))
    return stream.getvalue()


def state_from_bytes(data: bytes) -> TrackerState:
    """Return the state that `state_to_bytes` stored; nothing in `data` is trusted."""
    stream = io.BytesIO(data)

    def take(name: str, dtype: str, shape: tuple[int, ...], most: int = _MOST_ROWS) -> npt.NDArray[Any]:
        """Return an array of this type and shape, in which -1 is any length up to `most`."""
        largest = tuple(most if length < 0 else length for length in shape)
        array = read_npz(stream, {name: largest}, LARGEST_STATE, error=ResultError, hint="do not resume")[
            name
        ]
        exact = all(want in (-1, got) for want, got in zip(shape, array.shape, strict=True))
        if not exact or array.dtype.str != np.dtype(dtype).str:
            raise ValueError(f"{name} has the type {array.dtype} and shape {array.shape}")
        return array

    try:
        plain = json.loads(take("json", "|u1", (-1,), LARGEST_STATE).tobytes())
        state: TrackerState = _unpack(TrackerState, plain, "", take)
        n_faces = len(state.faces.faces)
        recent = {"index": take("recent.index", "<i8", (-1,), _MOST_RECENT)}
        for item in TRACKED:
            shape = (len(recent["index"]), n_faces, *item.shape)
            recent[item.name] = take(f"recent.{item.name}", item.dtype, shape)
        state = dataclasses.replace(state, recent=tuple(unstack_frames(recent)))
        _check_plausible(state)
        return state
    except ResultError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ResultError(f"The stored state of a run cannot be read ({in_one_line(error)}).") from None


def _pack(value: Any, name: str, arrays: dict[str, npt.NDArray[Any]]) -> Any:
    """Return a value as JSON stores it; arrays are put into `arrays`, named by their path in it."""
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return True
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: _pack(getattr(value, item.name), f"{name}.{item.name}", arrays)
            for item in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): _pack(item, f"{name}.{key}", arrays) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_pack(item, f"{name}.{place}", arrays) for place, item in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


def _unpack(kind: Any, plain: Any, name: str, take: Callable[[str, str, tuple[int, ...]], Any]) -> Any:
    """Return the value of type `kind`, a type hint, that `_pack` stored."""
    if get_origin(kind) is UnionType:
        others = [one for one in get_args(kind) if one is not NoneType]
        if plain is None and len(others) < len(get_args(kind)):
            return None
        named = [one for one in others if len(others) == 1 or set(get_type_hints(one)) == set(plain)]
        kind = named[0] if named else None
    origin, args = get_origin(kind), get_args(kind)
    if origin in (np.ndarray, npt.NDArray):  # which is an alias by itself since NumPy 2.5
        last = next(part for part in reversed(name.split(".")) if not part.isdecimal())
        return take(name, *_ARRAYS[last])
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return cast(Any, kind)(
            **{key: _unpack(hints[key], plain[key], f"{name}.{key}", take) for key in hints}
        )
    if origin is tuple and isinstance(plain, list):
        return tuple(_unpack(args[0], item, f"{name}.{place}", take) for place, item in enumerate(plain))
    if origin in (dict, Mapping) and isinstance(plain, dict):
        return {args[0](key): _unpack(args[1], item, f"{name}.{key}", take) for key, item in plain.items()}
    if type(plain) is kind or (kind is float and type(plain) is int):
        if isinstance(plain, int) and abs(plain) > LARGEST_NUMBER:
            raise ValueError(f"{name} is {plain!r}")
        return plain
    raise ValueError(f"{name} is {plain!r}")


def _check_plausible(state: TrackerState) -> None:
    """Raise a ValueError for an impossible state."""
    faces = state.faces.faces
    slots = [slot for ahead in state.faces.ahead for slot in ahead.slots if slot != -1]
    states = [face for face in faces if isinstance(face, FaceState)]
    plausible = (
        len(faces) <= _MOST_SLOTS
        and len(state.faces.ahead) <= _MOST_AHEAD
        and all(len(ahead.slots) == len(ahead.crops) for ahead in state.faces.ahead)
        and all(0 <= slot < len(faces) and isinstance(faces[slot], FaceState) for slot in slots)
        and all(0 <= slot < len(faces) for slot in (*state.faces.last_boxes, *state.faces.last_seen))
        and all(0 <= slot < len(faces) for slot in state.faces.looks)
        and all(0 <= slot < len(faces) for _, slot in state.faces.new_tracks)
        and all(len(face.places) <= _MOST_PLACES for face in states)
        and all(_correction_fits(face.refinement) for face in states)
        and 0 <= state.waiting <= len(state.recent)
        and state.faces.n_warnings >= 0
        and min((state.faces.next_index, *state.concealed, *(frame.index for frame in state.recent))) >= 0
        and set(state.stats.stage_seconds) == set(state.stats.stage_calls) == set(STAGES)
    )
    if not plausible:
        raise ValueError("its parts do not fit together")


def _correction_fits(refinement: Refinement) -> bool:
    correction, params = refinement.correction, refinement.params
    return correction is None or (params is not None and len(params) == 6 + len(correction.shape))
