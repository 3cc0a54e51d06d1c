"""Models, settings, statistics and warnings of a run, shared by all stages of tracking."""

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
    """Models and settings of a run, and the statistics, warnings and scene cuts collected during it."""

    models: Models
    settings: TrackerSettings
    engine: ModuleType = numba_engine  # `clnf.numba_engine` or `clnf.reference`
    # computing threads; 1 runs everything in the caller's thread. Results do not depend on it
    threads: int = 1
    regions: Regions = field(default_factory=Regions)
    stats: RunStats = field(default_factory=RunStats)
    warnings: list[str] = field(default_factory=list)  # one sentence each
    broken_off: bool = False  # whether the frames ended early because of an error
    # for frames read but not yet tracked on which much of the image changes: the previous image and the share
    # of changed pixels; see `watch_for_cuts`
    jumps: dict[int, tuple[npt.NDArray[np.uint8], float]] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)  # first frames after cuts
    # (frame, slot) of each track of a different person that begins after a cut
    new_tracks: list[tuple[int, int]] = field(default_factory=list)
    # by slot, thumbnail of the face before a cut; see `cuts.face_thumbnail`
    looks: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)
    live: bool = False  # minimise latency: no frame waits for the next one
    # interval of anchor frames, the multiples of this number; see `anchor_frames.anchor_interval`
    pfld_every: int = 1

    def cuts_state(self) -> dict[str, Any]:
        """Return the fields of `FacesState` about scene cuts."""
        return {
            "cuts": tuple(self.cuts),
            "new_tracks": tuple(self.new_tracks),
            "looks": dict(self.looks),
        }

    def ends_at(self, error: FaceLandmarksError, first: bool) -> bool:
        """Record the error of an unreadable frame as a warning; return whether it ends the run.

        Raises it if it would end the run at its first frame.
        """
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
"""A tracker: yields the results of frames, from an optional initial state."""
