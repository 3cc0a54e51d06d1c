"""A run of the tracker: an iterator of smoothed frame results, with statistics, warnings and state."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.frame import FrameResult
from napari_face_landmarks.data.names import NEW_TRACKS, people_in_words
from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.data.tracks import Tracks, collect
from napari_face_landmarks.detection.boxes import boxes_kernel
from napari_face_landmarks.tracking.anchor_frames import anchor_interval
from napari_face_landmarks.tracking.context import Follow, RunContext, Tracked
from napari_face_landmarks.tracking.control import RunControl
from napari_face_landmarks.tracking.cuts import CUTS, watch_for_cuts
from napari_face_landmarks.tracking.frame_source import FrameSource, rgb_frames
from napari_face_landmarks.tracking.provenance import provenance
from napari_face_landmarks.tracking.smoothing import smooth_at, window_at_rate
from napari_face_landmarks.tracking.state import FacesState, TrackerState
from napari_face_landmarks.video import prefetch

MAX_NAMED = 5
"""Maximum number of frames listed in a warning."""


class Recorder(Protocol):
    """Records the results of a run in progress."""

    def add(self, result: FrameResult) -> None:
        """Record a result, before it is returned to the consumer."""

    def sync(self) -> None:
        """Write all recorded results; called at the end of the run."""


class Run(Iterator[FrameResult]):
    """A run of the tracker over frames, computed lazily during iteration.

    Each result is final, smoothing included, and is returned half a smoothing window after its frame was
    read. The run ends after the last frame, on cancellation, by `close` or by an error.

    Parameters
    ----------
    context : RunContext
        Models, settings, statistics and warnings.
    source : FrameSource
        The frames; closed at the end if it was opened for the run.
    follow : callable
        The tracker: `follow_pfld` or `follow_clnf`.
    prepare : callable, optional
        Called before the first frame; compiles the kernels.
    state : TrackerState, optional
        State from which to resume.
    on_end : callable, optional
        Called once, with the run, after its end.

    Attributes
    ----------
    context, source
        The parameters of these names.
    control : RunControl
        Pauses, resumes and cancels the run from any thread.
    recorder : Recorder or None
        Receives each result before it is returned, and the end of the run.
    """

    def __init__(
        self,
        context: RunContext,
        source: FrameSource,
        follow: Follow,
        prepare: Callable[[], None] | None = None,
        state: TrackerState | None = None,
        on_end: Callable[[Run], None] | None = None,
    ) -> None:
        self.context, self.source = context, source
        self._follow, self._prepare, self._on_end = follow, prepare, on_end
        self._window = window_at_rate(context.settings.smoothing_window, source.rate)
        self._recent: deque[FrameResult] = deque(maxlen=self._window)
        self._waiting = 0  # number of recent frames whose result is pending
        self._before: FacesState | None = None
        self._concealed: tuple[int, ...] = ()  # frames with concealed errors before the resumed run
        if state is not None:
            context.stats, context.warnings = deepcopy(state.stats), list(state.warnings)
            self._recent.extend(state.recent)
            self._waiting, self._before, self._concealed = state.waiting, state.faces, state.concealed
            context.cuts, context.new_tracks = list(state.faces.cuts), list(state.faces.new_tracks)
            context.looks = dict(state.faces.looks)
        self._faces: Callable[[], FacesState] | None = None if state is None else lambda: state.faces
        self.control = RunControl()
        self.recorder: Recorder | None = None
        self._frames: Any = None
        self._tracked: Generator[Tracked, None, None] | None = None
        self._began: float | None = None
        self._ended = False

    @property
    def stats(self) -> RunStats:
        """Counts and times, updated with each result; pauses are excluded."""
        return self.context.stats

    @property
    def warnings(self) -> list[str]:
        """Warnings so far, one sentence each."""
        return self.context.warnings

    def __next__(self) -> FrameResult:
        """Compute and return the next frame's result."""
        paused = self.control.wait()
        if self._began is not None:
            self._began += paused
        if self._ended or self.control.cancelled:
            self.close()
            raise StopIteration
        try:
            if self._tracked is None:
                self._begin()
            assert self._tracked is not None
            while self._waiting <= self._window // 2:
                tracked = next(self._tracked, None)
                if tracked is None:
                    break
                result, self._faces = tracked
                self._recent.append(result)
                self._waiting += 1
            if self._waiting:
                result = self._smoothed()
                if self.recorder is not None:
                    self.recorder.add(result)
                return result
            self.stats.completed = not self.context.broken_off
        except BaseException:
            self.close()
            raise
        self.close()
        raise StopIteration

    def fill(self, results: list[FrameResult] | deque[FrameResult]) -> Iterator[int]:
        """Append each result to a list or deque as it is computed; yield 1 for each."""
        for result in self:
            results.append(result)
            yield 1

    def close(self) -> None:
        """End the run: stop its threads, and close the source if it was opened for the run."""
        if self._ended:
            return
        self._ended = True
        try:
            for step in (self._tracked, self._frames):
                if step is not None:
                    step.close()
        finally:
            if self._began is not None:
                self.stats.seconds = time.perf_counter() - self._began
            self.source.close()
            if self.recorder is not None:
                self.recorder.sync()
            if self._on_end is not None:
                self._on_end(self)

    def __del__(self) -> None:
        """Close a run that is no longer used."""
        if hasattr(self, "_ended"):
            self.close()

    def tracks(self, results: Sequence[FrameResult] | Mapping[str, npt.NDArray[Any]]) -> Tracks:
        """Collect results of this run as `Tracks`, with its statistics and warnings so far.

        Parameters
        ----------
        results : sequence of FrameResult, or mapping of str to ndarray
            In the order of the frames, or their arrays as for `collect`; possibly not of all frames.
        """
        return collect(
            results,
            settings=self.context.settings,
            stats=self.stats,
            timestamps=self.source.timestamps,
            warnings=self.all_warnings(),
            meta=self.meta(),
        )

    def meta(self) -> dict[str, Any]:
        """Return `Tracks.meta` of the run: models, versions, regions, scene cuts, frame size and rate."""
        regions = self.source.regions(self.context.regions, back=True)
        return {
            **provenance(self.context.models),
            "height": self.source.size[0],
            "width": self.source.size[1],
            "fps": self.source.fps,
            **self.source.meta,
            **({"regions": regions.to_dict()} if regions else {}),
            **self._cuts(),
        }

    def _cuts(self) -> dict[str, Any]:
        """Return the entries of `Tracks.meta` about scene cuts."""
        number, entries = self.source.number, dict[str, Any]()
        if self.context.cuts:
            entries[CUTS] = [number(index) for index in self.context.cuts]
        if self.context.new_tracks:
            entries[NEW_TRACKS] = [[number(index), slot] for index, slot in self.context.new_tracks]
        return entries

    def all_warnings(self) -> tuple[str, ...]:
        """Return all warnings, including those about concealed errors and new tracks so far."""
        concealed = self._concealed_before(self.source.start + self.stats.frames)
        return (
            *self.warnings,
            *concealed_in_words(concealed),
            *people_in_words(self._cuts().get(NEW_TRACKS, ())),
        )

    def state(self) -> TrackerState | None:
        """Return the state after the last result, from which another run can resume; None before any result.

        Call this in the iterating thread, between two results.
        """
        if self._faces is None or not self._recent:
            return None
        faces = self._faces()
        return TrackerState(
            faces,
            tuple(self._recent),
            self._waiting,
            deepcopy(self.stats),
            tuple(self.warnings[: faces.n_warnings]),
            self._concealed_before(faces.next_index),
        )

    def _concealed_before(self, stop: int) -> tuple[int, ...]:
        end = self.source.number(stop)
        read = {k for k in self.source.concealed if self.source.start <= k < end}
        return tuple(sorted(read.union(self._concealed)))

    def _begin(self) -> None:
        began = time.perf_counter()
        if self._prepare is not None:
            self._prepare()
        self.stats.prepare_seconds += time.perf_counter() - began
        self._began = time.perf_counter() - self.stats.seconds
        begin = self.source.start if self._before is None else self._before.next_index
        if self.source.has_scenes and self.context.settings.scene_cuts:
            before = rgb_frames(self.source, self.stats, max(self.source.start, begin - 1))
            frames = watch_for_cuts(before, self.context.jumps, begin)
        else:
            frames = rgb_frames(self.source, self.stats, begin)
        self.context.live = isinstance(self.source.timestamps, list)  # a stream
        self.context.pfld_every = anchor_interval(self.context, self.source)
        ahead = 1 if self.context.live else 4
        self._frames = prefetch(frames, ahead) if self.context.threads > 1 else frames
        self._tracked = self._follow(self.context, self._frames, self._before)

    def _is_cut(self, first: int, second: int) -> bool:
        """Return whether there is a scene cut between two frames."""
        cuts = self.context.cuts
        return bool(cuts) and bisect_right(cuts, first) != bisect_right(cuts, second)

    def _smoothed(self) -> FrameResult:
        """Smooth the first pending frame, count it in the statistics, and return its result."""
        start = time.perf_counter()
        middle = len(self._recent) - self._waiting
        raw = self._recent[middle]

        def landmarks_at(position: int) -> np.ndarray[Any, np.dtype[np.float32]] | None:
            frame = self._recent[position] if 0 <= position < len(self._recent) else None
            return None if frame is None or self._is_cut(raw.index, frame.index) else frame.landmarks

        landmarks = self.source.view.in_source(smooth_at(landmarks_at, middle, self._window))
        boxes = raw.boxes.copy()
        boxes_kernel(landmarks, boxes)
        iris = self.source.view.iris_in_source(raw.iris)
        arrays = {**raw.arrays(), "landmarks": landmarks, "boxes": boxes, "iris": iris}
        result = FrameResult(index=self.source.number(raw.index), **arrays)
        self._waiting -= 1
        self.stats.add_time("smoothing", time.perf_counter() - start)
        self.stats.count(result)
        if self._began is not None:
            self.stats.seconds = time.perf_counter() - self._began
        return result


def concealed_in_words(frames: Sequence[int]) -> tuple[str, ...]:
    """Return a warning about frames with concealed errors, in order; no warning if there are none."""
    if not frames:
        return ()
    first = ", ".join(map(str, frames[:MAX_NAMED]))
    if len(frames) == 1:
        sentence = "is partly damaged: the decoder concealed errors, and its landmarks may be wrong."
        return (f"Frame {first} {sentence}",)
    more = f" and {len(frames) - MAX_NAMED} more" if len(frames) > MAX_NAMED else ""
    return (
        f"{len(frames)} frames are partly damaged ({first}{more}): the decoder concealed errors, and their "
        "landmarks may be wrong.",
    )
