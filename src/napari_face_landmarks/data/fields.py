"""The arrays of a face, from which frames, tracks, checkpoints, files and edits are derived.

Each array is an attribute of `FaceArrays`, annotated with its type and a `Field`; `FIELDS` lists the latter.
All code that stores, reads, copies or edits faces loops over `FIELDS`.
"""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass, field
from typing import Annotated, Any, get_type_hints

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.ibug import N_LANDMARKS

Floats = npt.NDArray[np.float32]

SOURCES = ("none", "pfld", "clnf", "carried", "manual")
"""Origin of a face's landmarks: names of the codes 0 to 4 of `source`."""
NONE, PFLD, CLNF, CARRIED, MANUAL = range(len(SOURCES))
BY_CLNF, OFF_MODEL = 0, 1
"""Indices into the last axis of `misfit`."""


@dataclass(frozen=True, slots=True)
class Field:
    """An array that each face has."""

    dtype: str  # in NumPy's notation; little-endian
    # shape for one face; frames have a leading axis of faces, tracks axes of frames and faces
    shape: tuple[int, ...]
    fill: float | bool  # value if there is no face
    description: str  # one sentence for docstrings and files
    parts: tuple[str, ...] = ()  # names of the entries of the last axis, unless these are landmarks
    # False if older files of tracks lack the array, which is then filled with `fill`, as in frames and tracks
    # made without it
    required: bool = True
    tracked: bool = True  # whether the tracker computes it, and checkpoints store it
    reset_by_edits: bool = False  # whether it describes a fit, which edits of landmarks invalidate
    column: str = ""  # name, or prefix of the names, of table columns; default `name`
    name: str = ""  # attribute of frames and tracks, and name in files that keep all arrays

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of table columns: one for each part, or a single one."""
        return tuple(f"{self.column}_{part}" for part in self.parts) or (self.column,)

    @property
    def per_landmark(self) -> bool:
        """Whether there is a value for each landmark."""
        return self.shape[:1] == (N_LANDMARKS,)

    def empty(self, *leading: int) -> npt.NDArray[Any]:
        """Return an array without faces, filled with `fill`; `leading` are the lengths of the first axes."""
        return np.full((*leading, *self.shape), self.fill, self.dtype)


def _unknown() -> Any:
    return np.zeros(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceArrays:
    """Arrays of faces with common leading axes: (F,) in a frame, (T, F) in tracks."""

    landmarks: Annotated[
        Floats, Field("<f4", (N_LANDMARKS, 2), np.nan, "Pixels, x then y, pixel centres at whole numbers.")
    ]
    confidence: Annotated[
        Floats,
        Field(
            "<f4",
            (N_LANDMARKS,),
            0,
            "Probability that the landmark is within 8 % of the inter-ocular distance of the truth.",
        ),
    ]
    pose: Annotated[
        Floats,
        Field(
            "<f4",
            (6,),
            np.nan,
            "Weak-perspective pose of the point distribution model: scale (pixels per unit of the model), "
            "pitch, yaw, roll (radians), tx, ty (pixels).",
            parts=("scale", "pitch", "yaw", "roll", "tx", "ty"),
        ),
    ]
    source: Annotated[
        npt.NDArray[np.uint8],
        Field(
            "|u1",
            (),
            NONE,
            "Origin of the landmarks, an index into `SOURCES`: none, pfld, clnf, carried, manual.",
        ),
    ]
    boxes: Annotated[
        Floats,
        Field(
            "<f4",
            (5,),
            np.nan,
            "Bounding box of the landmarks x0, y0, x1, y1 (pixels) and face score.",
            parts=("x0", "y0", "x1", "y1", "score"),
            column="box",
        ),
    ]
    misfit: Annotated[
        Floats,
        Field(
            "<f4",
            (2,),
            np.nan,
            "Mean distance of the unsmoothed landmarks from PFLD's if CLNF refined them, and from the "
            "closest shape of the point distribution model, in inter-ocular distances; NaN if unknown.",
            parts=("by_clnf", "off_model"),
            required=False,
            reset_by_edits=True,
        ),
    ] = field(default_factory=_unknown)
    sigma: Annotated[
        Floats,
        Field(
            "<f4",
            (N_LANDMARKS,),
            np.nan,
            "Standard deviation of each landmark's error along one axis, pixels; NaN if unknown.",
            required=False,
        ),
    ] = field(default_factory=_unknown)
    iris: Annotated[
        Floats,
        Field(
            "<f4",
            (8,),
            np.nan,
            "For the right and the left iris: centre x, y and horizontal diameter (pixels), and the "
            "probability that it is visible; NaN if the models locate no irises.",
            parts=tuple(
                f"{side}_{what}"
                for side in ("right", "left")
                for what in ("x", "y", "diameter", "confidence")
            ),
            required=False,
        ),
    ] = field(default_factory=_unknown)
    by_hand: Annotated[
        npt.NDArray[np.bool_],
        Field(
            "|b1",
            (N_LANDMARKS,),
            False,
            "Whether a landmark is manual: placed by a person. A face with a manual landmark has the source "
            '"manual" on that frame, and neither tracking nor refitting moves the landmark.',
            required=False,
            tracked=False,
        ),
    ] = field(default_factory=_unknown)

    def __post_init__(self) -> None:
        leading = self.source.shape
        for item in _OPTIONAL:
            shape = getattr(self, item.name).shape
            if shape == (0,) and shape != (*leading, *item.shape):  # not given
                object.__setattr__(self, item.name, item.empty(*leading))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return all arrays by name, without copying."""
        return {item.name: getattr(self, item.name) for item in FIELDS}

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Mask of faces that are present, bool with the leading axes."""
        return np.asarray(self.source > NONE)


def _fields() -> tuple[Field, ...]:
    hints = get_type_hints(FaceArrays, include_extras=True)
    items = ((name, hint.__metadata__[0]) for name, hint in hints.items())
    return tuple(dataclasses.replace(item, name=name, column=item.column or name) for name, item in items)


FIELDS = _fields()
"""All arrays of a face, in the order in which checkpoints store them."""
FIELD = {item.name: item for item in FIELDS}
TRACKED = tuple(item for item in FIELDS if item.tracked)
_OPTIONAL = tuple(item for item in FIELDS if not item.required)


def empty_arrays(*leading: int) -> dict[str, npt.NDArray[Any]]:
    """Return `Field.empty` of all arrays by name."""
    return {item.name: item.empty(*leading) for item in FIELDS}


def document(owner: type, leading: str) -> None:
    """Append the arrays, with leading axes such as "T, F", to the numpydoc attributes of a class."""
    lines = [inspect.cleandoc(owner.__doc__ or "")]  # Python 3.13 and newer remove the indentation themselves
    for item in FIELDS:
        shape = ", ".join([leading, *map(str, item.shape)])
        lines.append(f"{item.name} : ndarray, ({shape}), {np.dtype(item.dtype).name}")
        lines.append(f"    {item.description}")
    owner.__doc__ = "\n".join(lines)
