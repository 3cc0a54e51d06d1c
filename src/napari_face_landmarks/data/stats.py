"""Statistics of a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from napari_face_landmarks.data.fields import CARRIED, CLNF, NONE
from napari_face_landmarks.data.frame import FrameResult

STAGES = ("decode", "detect", "pfld", "clnf", "smoothing")
LOW_CONFIDENCE = 0.5
"""Faces with a lower mean confidence of their landmarks are counted in `RunStats.low_confidence`."""


@dataclass(slots=True)
class RunStats:
    """Counts and times of a run, updated while it lasts; other threads may read them.

    Attributes
    ----------
    frames : int
        Frames finished.
    seconds : float
        Wall time of the run so far, without `prepare_seconds`.
    prepare_seconds : float
        Time for compiling or loading kernels before the first frame.
    stage_seconds : dict of str to float
        Time spent in decode, detect, pfld, clnf and smoothing; stages overlap with several threads.
    stage_calls : dict of str to int
        Number of calls of each stage.
    frames_with_faces, faces, refined, carried, low_confidence : int
        Frames with a face; faces summed over all frames, and of these: faces refined by CLNF, faces with the
        correction of an earlier refined frame, faces with a low mean confidence.
    completed : bool
        Whether the run reached its last frame.
    """

    frames: int = 0
    seconds: float = 0.0
    prepare_seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    stage_calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    frames_with_faces: int = 0
    faces: int = 0
    refined: int = 0
    carried: int = 0
    low_confidence: int = 0
    completed: bool = False

    @property
    def fps(self) -> float:
        """Frames per second, end to end."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    def count(self, result: FrameResult) -> None:
        """Add a finished frame."""
        sources = result.source.tolist()
        present = [face for face, source in enumerate(sources) if source > NONE]
        self.frames += 1
        self.frames_with_faces += bool(present)
        self.faces += len(present)
        self.refined += sources.count(CLNF)
        self.carried += sources.count(CARRIED)
        for face in present:
            confidence = result.confidence[face]
            self.low_confidence += bool(np.add.reduce(confidence) < LOW_CONFIDENCE * len(confidence))

    def add_time(self, stage: str, seconds: float) -> None:
        """Add to the time spent in a stage."""
        self.stage_seconds[stage] += seconds
        self.stage_calls[stage] += 1

    def to_dict(self) -> dict[str, Any]:
        """Return counts and times as plain values for JSON."""
        return {**dataclasses.asdict(self), "fps": self.fps}
