"""Models, settings and statistics of a run, shared by its frame source, trackers and smoothing."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf import numba_engine
from napari_face_landmarks.data.frame import FrameResult
from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.errors import FaceLandmarksError, VideoError
from napari_face_landmarks.models import Models
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.frame_source import Frame
from napari_face_landmarks.tracking.regions import Regions
from napari_face_landmarks.tracking.state import FacesState


@dataclass
class RunContext:
    """Models and settings of a run, and its statistics and warnings, which grow during the run."""

    models: Models
    settings: TrackerSettings
    engine: ModuleType = numba_engine  # `clnf.numba_engine` or `clnf.reference`
    # how many threads compute at a time; with 1 everything runs in the caller's. The results do not depend on
    # it
    threads: int = 1
    regions: Regions = field(default_factory=Regions)  # where to look for faces, and what to ignore
    stats: RunStats = field(default_factory=RunStats)  # counts and times
    warnings: list[str] = field(default_factory=list)  # what went wrong, one sentence each
    broken_off: bool = False  # whether the frames ended before their announced end
    # frames not yet tracked on which much of the image changes; see `watch_for_cuts`
    jumps: dict[int, tuple[npt.NDArray[np.uint8], float]] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)  # first frames after cuts
    # frame and slot where, after a cut, the track of another person begins
    new_tracks: list[tuple[int, int]] = field(default_factory=list)
    # by slot, the appearance of the face before a cut; see `look_of`
    looks: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)
    live: bool = False  # whether latency matters, so that no frame waits for the next one
    # PFLD runs at least on frames whose number is a multiple of this; see `anchor_frames.anchor_interval`
    pfld_every: int = 1

    def at_cuts(self) -> dict[str, Any]:
        """Return what `FacesState` keeps of cuts."""
        return {
            "cuts": tuple(self.cuts),
            "new_tracks": tuple(self.new_tracks),
            "looks": dict(self.looks),
        }

    def ends_at(self, error: FaceLandmarksError, first: bool) -> bool:
        """Record an error that came in place of a frame, and return whether it ends the run."""
        ends = isinstance(error, VideoError)
        if ends and first:
            raise error
        self.warnings.append(str(error))
        self.broken_off = self.broken_off or ends
        return ends


Tracked = tuple[FrameResult, Callable[[], FacesState] | None]
"""A frame's result before smoothing, and a function that returns the state of the faces after it."""
Frames = Iterator[tuple[int, Frame]]
Follow = Callable[[RunContext, Frames, FacesState | None], Generator[Tracked, None, None]]
"""A tracker: tracks faces through frames, from an optional state."""
