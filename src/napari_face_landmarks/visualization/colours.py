"""Colours of landmarks by confidence, source or facial region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import SOURCES
from napari_face_landmarks.ibug import N_LANDMARKS, REGIONS
from napari_face_landmarks.visualization.overlay import confidence_colours

Floats = npt.NDArray[np.float32]

ColourMode = Literal["confidence", "source", "region"]
COLOUR_MODES: tuple[ColourMode, ...] = get_args(ColourMode)
DEFAULT_MODE: ColourMode = "confidence"
COLOUR_BY = "colour_by"
"""Key of a layer's metadata for its `ColourMode`."""

# colours of Okabe and Ito (2008), distinguishable with any form of colour blindness
SOURCE_COLOURS = {
    "none": "#404040",
    "pfld": "#56b4e9",
    "clnf": "#f0e442",
    "carried": "#009e73",
    "manual": "#d55e00",
}
SOURCE_WORDS = {"none": "none", "pfld": "PFLD", "clnf": "CLNF", "carried": "carried", "manual": "manual"}
PART_COLOURS = {"jaw": "#56b4e9", "brows": "#d55e00", "nose": "#009e73", "eyes": "#f0e442", "lips": "#cc79a7"}
PARTS: dict[str, tuple[str, ...]] = {
    "jaw": ("jaw",),
    "brows": ("right brow", "left brow"),
    "nose": ("nose bridge", "nose base"),
    "eyes": ("right eye", "left eye"),
    "lips": ("outer lip", "inner lip"),
}
"""Groups of `ibug.REGIONS` with a common colour."""

CONFIDENCE_STEPS = 256


def _rgba(colour: str) -> tuple[float, float, float, float]:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue, 1.0


def _confidence_table() -> Floats:
    table = np.ones((CONFIDENCE_STEPS, 4), np.float32)
    table[:, :3] = confidence_colours(np.linspace(0, 1, CONFIDENCE_STEPS)) / np.float32(255)
    return table


def _part_table() -> Floats:
    table = np.ones((N_LANDMARKS, 4), np.float32)
    for part, regions in PARTS.items():
        for region in regions:
            table[list(REGIONS[region])] = _rgba(PART_COLOURS[part])
    return table


_CONFIDENCE = _confidence_table()
_SOURCE = np.array([_rgba(SOURCE_COLOURS[name]) for name in SOURCES], np.float32)
_PART = _part_table()


def landmark_colours(
    by: ColourMode, confidence: npt.NDArray[Any], source: npt.NDArray[Any], landmark: npt.NDArray[Any]
) -> Floats:
    """Return RGBA colours, (N, 4) float32, 0 to 1, from `confidence`, `source` or `landmark`, (N,)."""
    if by == "source":
        return np.asarray(np.take(_SOURCE, source, axis=0, mode="clip"))
    if by == "region":
        return np.asarray(np.take(_PART, landmark, axis=0, mode="clip"))
    if by != "confidence":
        raise ValueError(f"Landmarks cannot be coloured by {by!r}: choose one of {', '.join(COLOUR_MODES)}.")
    steps = np.nan_to_num(np.asarray(confidence, np.float32)) * np.float32(CONFIDENCE_STEPS - 1)
    index = np.clip(steps + np.float32(0.5), 0, CONFIDENCE_STEPS - 1).astype(np.uint8)
    return np.asarray(np.take(_CONFIDENCE, index, axis=0))


def mode_of(layer: Any) -> ColourMode:
    """Return the colour mode of a layer of landmarks."""
    by = layer.metadata.get(COLOUR_BY, DEFAULT_MODE)
    return by if by in COLOUR_MODES else DEFAULT_MODE


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """Entry of a legend."""

    label: str
    colour: str  # ``#rrggbb``


def legend_of(by: ColourMode, n_steps: int = 5) -> list[LegendEntry]:
    """Return the legend of a colour mode."""
    if by == "source":
        return [LegendEntry(SOURCE_WORDS[name], SOURCE_COLOURS[name]) for name in SOURCES[1:]]
    if by == "region":
        return [LegendEntry(part, colour) for part, colour in PART_COLOURS.items()]
    levels = np.linspace(0, 1, n_steps)
    unused = np.zeros(n_steps, np.uint8)
    shades = np.rint(landmark_colours(by, levels, unused, unused)[:, :3] * 255).astype(np.uint8)
    return [
        LegendEntry(f"{level:.2g}", "#" + bytes(shade).hex())
        for level, shade in zip(levels, shades, strict=True)
    ]
