"""A run as the viewer shows it: its layer that fills, and the slider that follows the newest frame; no Qt."""

from __future__ import annotations

import time
from collections import deque
from types import SimpleNamespace
from typing import Any

from napari_face_landmarks.napari_plugin.run_controller import BackgroundRun
from napari_face_landmarks.napari_plugin.streaming_layer import LiveLandmarks
from napari_face_landmarks.napari_plugin.time_axis import show_frame
from napari_face_landmarks.video import Video


class ShownRun:
    """Shows in a viewer what a run has finished.

    Parameters
    ----------
    viewer : napari.Viewer
        The layer of landmarks is added to it.
    video : napari.layers.Image
        What is tracked.
    run : BackgroundRun
        Not begun yet.
    follow : CheckBox
        Whether the viewer is to show the newest frame; switched off where the user looks at another one.

    Attributes
    ----------
    video : napari.layers.Image
    done : int
        Frames that were taken over from the run.
    times : deque of (float, int)
        When, on the clock, how many were.
    """

    def __init__(self, viewer: Any, video: Any, run: BackgroundRun, follow: Any) -> None:
        self.video = video
        self.done = 0
        self.times: deque[tuple[float, int]] = deque()
        self._viewer, self._run, self._follow = viewer, run, follow
        self._live: LiveLandmarks | None = LiveLandmarks(
            viewer, video, run.start, run.stop, run.settings.max_faces
        )
        self._followed: tuple[int, ...] | None = tuple(viewer.dims.current_step)
        run.show(bool(follow.value))
        if isinstance(run.frames, Video):
            run.frames.keeps_frames = True  # for the viewer, so that it need not decode them again to follow

    @property
    def layer(self) -> Any:
        """The Points layer; None where a run ended before its first frame."""
        return None if self._live is None else self._live.layer

    def look(self) -> None:
        """Take over what the working thread has finished since the last look."""
        self._run.show(bool(self._follow.value))
        results = self._run.results[self.done :]
        self.done += len(results)
        self.times.append((time.monotonic(), self.done))
        if results and self._live is not None:
            self._live.write(results)
            if self._live.layer in self._viewer.layers and not self._follow_to(results[-1].index):
                self._live.show(results[0].index, results[-1].index)

    def stop_following(self) -> None:
        """Leave the slider alone from now on, and the check box too: Qt may have deleted it."""
        self._follow = SimpleNamespace(value=False)

    def finish(self) -> None:
        """Show the rest, after the run has ended; without a single finished frame the layer goes."""
        if isinstance(self._run.frames, Video):
            self._run.frames.keeps_frames = False
        self.look()
        if self._live is None:
            return
        if self._run.tracks is not None:
            self._live.finish(self._run.tracks)  # a layer that was removed, too: its removal may be undone
            return
        self._live.release()
        if self._live.layer in self._viewer.layers:
            self._viewer.layers.remove(self._live.layer)
        self._live = None

    def _follow_to(self, frame: int) -> bool:
        """Show a frame, unless the user looks at another one; return whether napari has drawn it."""
        dims = self._viewer.dims
        if self.video.ndim < 3 or self.video not in self._viewer.layers:
            return False
        if self._followed is not None and tuple(dims.current_step) != self._followed:
            self._follow.value = False
        if self._follow.value:
            before = tuple(dims.current_step)
            show_frame(self._viewer, self.video, frame)
            self._followed = tuple(dims.current_step)
            return self._followed != before
        self._followed = None
        return False
