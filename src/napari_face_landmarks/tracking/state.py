"""Serializable tracker state, for checkpointing and resuming.

A resumed run gives bit for bit the results of an uninterrupted run.
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
"""Maximum size of a stored state, bytes; 64 faces with a smoothing window of 31 frames take 3 MB."""
NEVER = -(10**9)
LARGEST_NUMBER = 1 << 62
DOUBTFUL = 0.6
"""Share of its usual confidence below which a CLNF face is verified by the detector immediately."""
_MAX_PLACES, _MAX_AHEAD, _MAX_RECENT, _MAX_SLOTS, _MAX_ROWS = 5, 8, 31, 64, 4096
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
"""Data type and shape of the arrays of a state by field name; -1 is any length."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """Refinement state of a face after a frame."""

    params: Doubles | None = None  # (6 + m,); PDM parameters from which the next fit starts
    correction: Correction | None = None  # the last one by CLNF
    refined_at: int = NEVER  # last frame on which CLNF ran
    unsure_at: int = NEVER  # last frame on which PFLD's confidence was low


@dataclass(frozen=True, slots=True)
class FaceState:
    """State of a face tracked by PFLD."""

    # on the last frame, before refinement
    landmarks: Floats  # (68, 2)
    sigma: Floats  # (68,)
    confidence: Floats  # (68,)
    places: tuple[Floats, ...]  # (2,) each; mean of the landmarks on the last frames, latest first
    refinement: Refinement = Refinement()


@dataclass(frozen=True)
class ClnfFace:
    """State of a face tracked by CLNF without PFLD."""

    fit: ClnfOnlyFit
    score: float  # of the last detection
    unseen: int = 0  # consecutive misses by the detector since then
    usual: float = 0.0  # mean confidence of the landmarks at the last detection; 0 for a new face

    @property
    def doubtful(self) -> bool:
        """Whether the patch experts respond much less than at the last detection."""
        return bool(self.fit.confidence.mean() < DOUBTFUL * self.usual)

    @property
    def box(self) -> Floats:
        """Bounding box of the landmarks, (4,): x0, y0, x1, y1."""
        points = self.fit.landmarks
        return np.concatenate([points.min(axis=0), points.max(axis=0)])


@dataclass(frozen=True, slots=True)
class AheadState:
    """Crops of PFLD on a frame that is not tracked yet."""

    crops: Floats  # (N, 4)
    slots: tuple[int, ...]  # slot of each crop's face; -1 if it has been lost since


@dataclass(frozen=True, slots=True)
class FacesState:
    """State of all faces before frame `next_index`."""

    next_index: int  # first frame that is not tracked yet
    faces: tuple[FaceState | ClnfFace | None, ...]  # by slot; `ClnfFace` without PFLD
    ahead: tuple[AheadState, ...]  # of `next_index` and later frames whose crops are predicted
    last_boxes: Mapping[int, Floats]  # (5,) each; box of the last face of each slot
    last_seen: Mapping[int, int]  # frame of the last face of each slot
    n_warnings: int  # number of the run's warnings about frames before `next_index`
    # see `RunContext`
    cuts: tuple[int, ...] = ()
    new_tracks: tuple[tuple[int, int], ...] = ()
    looks: Mapping[int, Floats] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrackerState:
    """State of a run between two results."""

    faces: FacesState
    recent: tuple[FrameResult, ...]  # the frames in the smoothing window, not smoothed
    waiting: int  # number of recent frames whose result is pending
    stats: RunStats  # counts and times so far
    warnings: tuple[str, ...]
    concealed: tuple[int, ...]  # frames before `FacesState.next_index` with concealed errors

    @property
    def next_result(self) -> int:
        """Frame of the next result."""
        return self.faces.next_index - self.waiting


def check_state(
    state: TrackerState,
    settings: TrackerSettings,
    n_modes: int,
    start: int,
    stop: int,
    fps: float | None = None,
) -> None:
    """Raise a `ResultError` if a run cannot resume from a state; `n_modes` is that of the PDM."""
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
            "The stored state does not match these frames, models and settings: do not resume it."
        )


def _params(face: FaceState | ClnfFace) -> Doubles | None:
    return face.refinement.params if isinstance(face, FaceState) else face.fit.params


def state_to_bytes(state: TrackerState) -> bytes:
    """Serialize a state as an ``.npz`` file: its arrays, and other values as JSON in the array ``json``."""
    recent = stack_frames(state.recent, len(state.faces.faces))
    arrays = {f"recent.{name}": array for name, array in recent.items()}
    plain = _pack(dataclasses.replace(state, recent=()), "", arrays)
    text = json.dumps(plain, separators=(",", ":")).encode("ascii")
    stream = io.BytesIO()
    np.savez(stream, json=np.frombuffer(text, np.uint8), **cast(Any, arrays))
    return stream.getvalue()


def state_from_bytes(data: bytes) -> TrackerState:
    """Load a state written by `state_to_bytes`; `data` is not trusted, and is validated."""
    stream = io.BytesIO(data)

    def take(name: str, dtype: str, shape: tuple[int, ...], limit: int = _MAX_ROWS) -> npt.NDArray[Any]:
        """Return an array of this type and shape, in which -1 is any length up to `limit`."""
        limits = {name: tuple(limit if length < 0 else length for length in shape)}
        array = read_npz(stream, limits, LARGEST_STATE, error=ResultError, hint="do not resume")[name]
        exact = all(want in (-1, got) for want, got in zip(shape, array.shape, strict=True))
        if not exact or array.dtype.str != np.dtype(dtype).str:
            raise ValueError(f"{name} has the type {array.dtype} and shape {array.shape}")
        return array

    try:
        plain = json.loads(take("json", "|u1", (-1,), LARGEST_STATE).tobytes())
        state: TrackerState = _unpack(TrackerState, plain, "", take)
        n_faces = len(state.faces.faces)
        recent = {"index": take("recent.index", "<i8", (-1,), _MAX_RECENT)}
        for item in TRACKED:
            shape = (len(recent["index"]), n_faces, *item.shape)
            recent[item.name] = take(f"recent.{item.name}", item.dtype, shape)
        state = dataclasses.replace(state, recent=tuple(unstack_frames(recent)))
        _check_plausible(state)
        return state
    except ResultError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ResultError(f"The stored state cannot be read ({in_one_line(error)}).") from None


def _pack(value: Any, name: str, arrays: dict[str, npt.NDArray[Any]]) -> Any:
    """Convert a value for JSON; arrays are moved to `arrays`, with their path as the key."""
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
        return [_pack(item, f"{name}.{index}", arrays) for index, item in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


def _unpack(kind: Any, plain: Any, name: str, take: Callable[[str, str, tuple[int, ...]], Any]) -> Any:
    """Restore a value of the type hint `kind` from the output of `_pack`."""
    if get_origin(kind) is UnionType:
        options = [option for option in get_args(kind) if option is not NoneType]
        if plain is None and len(options) < len(get_args(kind)):
            return None
        if len(options) > 1:
            options = [option for option in options if set(get_type_hints(option)) == set(plain)]
        kind = options[0] if options else None
    origin, args = get_origin(kind), get_args(kind)
    if origin in (np.ndarray, npt.NDArray):  # a type alias since NumPy 2.5
        field_name = next(part for part in reversed(name.split(".")) if not part.isdecimal())
        return take(name, *_ARRAYS[field_name])
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return cast(Any, kind)(
            **{key: _unpack(hints[key], plain[key], f"{name}.{key}", take) for key in hints}
        )
    if origin is tuple and isinstance(plain, list):
        return tuple(_unpack(args[0], item, f"{name}.{index}", take) for index, item in enumerate(plain))
    if origin in (dict, Mapping) and isinstance(plain, dict):
        return {args[0](key): _unpack(args[1], item, f"{name}.{key}", take) for key, item in plain.items()}
    if type(plain) is kind or (kind is float and type(plain) is int):
        if isinstance(plain, int) and abs(plain) > LARGEST_NUMBER:
            raise ValueError(f"{name} is {plain!r}")
        return plain
    raise ValueError(f"{name} is {plain!r}")


def _check_plausible(state: TrackerState) -> None:
    """Raise a ValueError if the parts of a state are inconsistent."""
    faces = state.faces.faces
    slots = [slot for ahead in state.faces.ahead for slot in ahead.slots if slot != -1]
    states = [face for face in faces if isinstance(face, FaceState)]
    plausible = (
        len(faces) <= _MAX_SLOTS
        and len(state.faces.ahead) <= _MAX_AHEAD
        and all(len(ahead.slots) == len(ahead.crops) for ahead in state.faces.ahead)
        and all(0 <= slot < len(faces) and isinstance(faces[slot], FaceState) for slot in slots)
        and all(0 <= slot < len(faces) for slot in (*state.faces.last_boxes, *state.faces.last_seen))
        and all(0 <= slot < len(faces) for slot in state.faces.looks)
        and all(0 <= slot < len(faces) for _, slot in state.faces.new_tracks)
        and all(len(face.places) <= _MAX_PLACES for face in states)
        and all(_correction_fits(face.refinement) for face in states)
        and 0 <= state.waiting <= len(state.recent)
        and state.faces.n_warnings >= 0
        and min((state.faces.next_index, *state.concealed, *(frame.index for frame in state.recent))) >= 0
        and set(state.stats.stage_seconds) == set(state.stats.stage_calls) == set(STAGES)
    )
    if not plausible:
        raise ValueError("its parts are inconsistent")


def _correction_fits(refinement: Refinement) -> bool:
    correction, params = refinement.correction, refinement.params
    return correction is None or (params is not None and len(params) == 6 + len(correction.shape))
