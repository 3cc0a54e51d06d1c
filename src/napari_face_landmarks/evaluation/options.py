"""Options of an evaluation and their defaults, for the command line's help without heavy imports."""

from __future__ import annotations

from typing import Literal, get_args

from napari_face_landmarks.settings import RefineMode

Side = Literal["all", "held-out", "training"]
SIDES: tuple[Side, ...] = get_args(Side)
BoxSource = Literal["truth", "detector", "jitter"]
BOX_SOURCES: tuple[BoxSource, ...] = get_args(BoxSource)
Condition = Literal["none", "marks", "occlusion", "blur", "dark", "noise", "gray"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)

DEFAULT_SIDE: Side = "all"
DEFAULT_BOXES: BoxSource = "jitter"
DEFAULT_CONDITIONS: tuple[Condition, ...] = ("none",)
DEFAULT_REFINE: tuple[RefineMode, ...] = ("off", "always")
MEASURED_REFINE: tuple[RefineMode, ...] = ("off", "auto", "always")
