"""Responsiveness of napari with landmarks: with 68 x 50,000 points, during runs and corrections.

``python tests/gui_measure.py`` prints all numbers; some tests check a few of them. Times of the GUI are
processor time of its thread unless stated otherwise, so that other load on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CLIP_SIDE = 480  # px
MEGABYTE = 1024  # KiB, the kernel's unit
MOST_SECONDS = 600  # time limit of a run
TICK_MS = 10  # interval of the clock; each tick takes Python's lock from the run


def memory(reset: bool = False) -> dict[str, float]:
    """Return this process's current memory and its peak since the last reset, MB; Linux only."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return {"now": int(fields["VmRSS"]) / MEGABYTE, "most": int(fields["VmHWM"]) / MEGABYTE}


def took(work: Callable[[], Any]) -> float:
    """Return the processor time of this thread for calling `work`, s."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def measure_scale(n_frames: int = 50_000) -> dict[str, float]:
    """Measure a layer of 68 points on `n_frames` frames: s of this thread, MB of this process."""
    from napari.components import ViewerModel

    from napari_face_landmarks.data.fields import PFLD
    from napari_face_landmarks.data.frame import empty_frame
    from napari_face_landmarks.data.tracks import collect
    from napari_face_landmarks.napari_plugin.overlay_layers import recolour
    from napari_face_landmarks.napari_plugin.run_controller import LiveLandmarks

    face = np.random.default_rng(0).uniform(100, 300, (68, 2)).astype(np.float32)

    def found(index: int) -> Any:
        result = empty_frame(index, 1)
        result.landmarks[0], result.confidence[0] = face + index % 50, np.linspace(0, 1, 68)
        result.source[0] = PFLD
        return result

    viewer = ViewerModel()
    nothing = np.broadcast_to(np.zeros((480, 640), np.uint8), (n_frames, 480, 640))
    image = viewer.add_image(nothing, contrast_limits=(0, 255))
    LiveLandmarks(viewer, image, 0, 2, 1)  # what is imported once
    viewer.layers.pop()
    before = memory(reset=True)
    made: list[LiveLandmarks] = []
    add = took(lambda: made.append(LiveLandmarks(viewer, image, 0, n_frames, 1)))
    live, added = made[0], memory()
    writes = []
    for first in range(0, n_frames, 50):
        results = [found(index) for index in range(first, min(first + 50, n_frames))]
        writes.append(took(lambda results=results: live.write(results)))  # type: ignore[misc]
    filled = memory()
    layer = live.layer
    layer.shown[-68:] = False  # a frame without a face: its rows stay, for giving them up takes long
    finish = took(lambda: live.finish(collect([found(0)])))
    steps = [
        took(lambda place=place: viewer.dims.set_current_step(0, place))  # type: ignore[misc]
        for place in np.random.default_rng(1).integers(0, n_frames, 15).tolist()
    ]
    layer.mode = "select"
    row = 68 * int(viewer.dims.current_step[0])
    selections = [
        took(lambda point=point: setattr(layer, "selected_data", {row + point}))  # type: ignore[misc]
        for point in range(15)
    ]
    return {
        "add_s": add,
        "add_most_mb": added["most"] - before["now"],
        "filled_most_mb": filled["most"] - before["now"],
        "process_most_mb": filled["most"],
        "write_50_frames_s": float(np.median(writes)),
        "finish_s": finish,
        "slider_step_s": float(np.median(steps)),
        "select_s": float(np.median(selections)),
        "recolour_s": took(lambda: recolour(layer, "source")),
    }


def drag(layer: Any, index: int, y: float, x: float) -> list[float]:
    """Drag a point of a layer by the mouse events that napari's canvas sends.

    Returns
    -------
    list of float
        Processor time of this thread for each event (press, moves, release), s; the window is blocked
        meanwhile.
    """
    from types import SimpleNamespace

    from napari.utils.interactions import (
        mouse_move_callbacks,
        mouse_press_callbacks,
        mouse_release_callbacks,
    )

    start, end = np.array(layer.data[index], dtype=float), np.array(layer.data[index], dtype=float)
    end[1:] = y, x
    event = SimpleNamespace(
        pos=np.zeros(2),
        handled=False,
        view_direction=None,
        up_direction=None,
        dims_displayed=[1, 2],
        modifiers=[],
    )
    times = []
    for kind, place, call in (
        ("mouse_press", start, mouse_press_callbacks),
        ("mouse_move", end, mouse_move_callbacks),
        ("mouse_release", end, mouse_release_callbacks),
    ):  # napari reuses one event object until the release
        event.type, event.position, event.is_dragging = kind, tuple(place), kind == "mouse_move"
        times.append(took(lambda call=call: call(layer, event)))  # type: ignore[misc]
    return times


def long_tracks(n_frames: int) -> Any:
    """Return tracks of one face that moves to and fro over `n_frames` frames."""
    from napari_face_landmarks.data.fields import PFLD
    from napari_face_landmarks.data.tracks import Tracks

    face = np.random.default_rng(0).uniform(100, 300, (68, 2)).astype(np.float32)
    landmarks = face + (np.arange(n_frames) % 50).astype(np.float32)[:, None, None, None]
    boxes = np.zeros((n_frames, 1, 5), np.float32)
    boxes[:, 0, :2], boxes[:, 0, 2:4] = landmarks[:, 0].min(axis=1), landmarks[:, 0].max(axis=1)
    return Tracks(
        landmarks=landmarks,
        confidence=np.full((n_frames, 1, 68), 0.9, np.float32),
        source=np.full((n_frames, 1), PFLD, np.uint8),
        pose=np.zeros((n_frames, 1, 6), np.float32),
        boxes=boxes,
        frame_indices=np.arange(n_frames),
        timestamps=np.arange(n_frames) / 25,
    )


def measure_editing(n_frames: int = 100_000) -> dict[str, float]:
    """Measure opening the docks for corrections on a long video, and a drag there; s of this thread.

    Requires a display. Of several drags the fastest counts; its slowest event is the time for which the
    window is blocked. ``napari_...`` is the time without the plugin.
    """
    from napari import Viewer
    from napari.layers import Layer

    from napari_face_landmarks.napari_plugin.correct_dock import CorrectDock
    from napari_face_landmarks.napari_plugin.faces_dock import FacesDock
    from napari_face_landmarks.napari_plugin.points_layer import tracks_to_layer_data

    viewer = Viewer(show=True)
    nothing = np.broadcast_to(np.zeros((480, 640), np.uint8), (n_frames, 480, 640))
    image = viewer.add_image(nothing, contrast_limits=(0, 255))
    layer = viewer.add_layer(Layer.create(*tracks_to_layer_data(long_tracks(n_frames), image)[0]))
    viewer.dims.set_current_step(0, 70)
    viewer.layers.selection.active = layer
    layer.mode = "select"

    def drags(row: int, whose: str = "") -> dict[str, float]:
        place = layer.data[row]
        times = min((drag(layer, row, place[1] + by, place[2]) for by in range(1, 8)), key=sum)
        return {f"{whose}drag_s": sum(times), f"{whose}slowest_event_s": max(times)}

    own = drags(68 * 70 + 30, "napari_")
    docks: list[Any] = []

    def open_docks() -> None:
        for kind in (CorrectDock, FacesDock):
            docks.append(kind(viewer))
            viewer.window.add_dock_widget(docks[-1], name=kind.__name__)

    opened = took(open_docks)
    dragged = drags(68 * 70 + 40)
    undone = took(docks[0].editor.undo)
    viewer.close()
    return {"open_docks_s": opened, **dragged, **own, "undo_s": undone}


class Pulse:
    """Measures the gaps between the events that the GUI thread handles.

    Attributes
    ----------
    gaps : list of (float, float, float)
        For each gap, in s: its length, the processor time of this thread, and the time that the thread waited
        for a processor (Linux; otherwise 0).
    """

    def __init__(self) -> None:
        from qtpy.QtCore import QTimer

        path = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._schedule = path.open("rb", buffering=0) if path.exists() else None
        self.gaps: list[tuple[float, float, float]] = []
        self._last = self._now()
        self._timer = QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self._tick)
        self._timer.start()

    def _now(self) -> tuple[float, float, float]:
        waited = 0.0
        if self._schedule is not None:
            self._schedule.seek(0)
            waited = int(self._schedule.read().split()[1]) / 1e9
        return time.perf_counter(), time.thread_time(), waited

    def _tick(self) -> None:
        now = self._now()
        before, self._last = self._last, now
        self.gaps.append((now[0] - before[0], now[1] - before[1], now[2] - before[2]))

    def stop(self) -> None:
        """Stop measuring."""
        self._timer.stop()
        if self._schedule is not None:
            self._schedule.close()


def _be_idle(condition: Callable[[], bool]) -> None:
    """Run Qt's event loop, as napari does, until `condition` holds.

    Unlike `wait_until`, this does not take Python's lock from the run every 2 ms, and lets Qt delete objects,
    which outside its loop stay alive and are drawn.
    """
    from qtpy.QtCore import QEventLoop, QTimer

    end = time.monotonic() + MOST_SECONDS
    loop, timer = QEventLoop(), QTimer()
    timer.timeout.connect(lambda: loop.quit() if condition() or time.monotonic() > end else None)
    timer.start(50)
    loop.exec()
    timer.stop()
    assert condition(), f"waited {MOST_SECONDS} s in vain"


def _be_idle_for(seconds: float) -> None:
    end = time.monotonic() + seconds
    _be_idle(lambda: time.monotonic() >= end)


def _player() -> Any:
    """Return napari's own player of frames: what its play button runs."""
    from qtpy.QtWidgets import QApplication

    return next(part for part in QApplication.allWidgets() if type(part).__name__ == "QtDims")


def _watch(viewer: Any, fps: float | None, until: Callable[[], bool]) -> dict[str, float]:
    """Measure the GUI thread until a condition holds, while napari plays at `fps`, if given."""
    pulse, player, shown = Pulse(), _player(), []
    note = viewer.dims.events.current_step.connect(lambda event: shown.append(event.value))
    began = time.perf_counter()
    if fps is not None:
        player.play(0, fps=fps, loop_mode="loop")
    _be_idle(until)
    seconds = time.perf_counter() - began
    pulse.stop()
    if fps is not None:
        player.stop()
    viewer.dims.events.current_step.disconnect(note)
    clock, own, waited = np.array(pulse.gaps).T
    return {
        "frames_shown_per_s": len(shown) / seconds,
        "largest_gap_s": float(clock.max()),
        "largest_gap_without_waiting_for_a_processor_s": float((clock - waited).max()),
        "largest_work_s": float(own.max()),
        "gui_share": float(own.sum() / clock.sum()),
    }


def measure_playing(viewer: Any, fps: float, seconds: float = 3.0) -> dict[str, float]:
    """Measure the GUI thread while napari plays a video without a run.

    Parameters
    ----------
    viewer
        A viewer with a video.
    fps : float
        Frames per second at which napari plays it, skipping frames that it cannot draw in time.
    seconds : float
        Duration.
    """
    end = time.monotonic() + seconds
    return _watch(viewer, fps, lambda: time.monotonic() >= end)


def measure_run(
    viewer: Any, widget: Any, n_frames: int, fps: float | None = None, follow: bool = True
) -> dict[str, float]:
    """Measure the GUI thread and the run's rate during a run over the widget's video.

    Parameters
    ----------
    viewer, widget
        A viewer with a video of `n_frames` frames and the plugin's dock.
    n_frames : int
        Number of frames of the run.
    fps : float, optional
        See `measure_playing`; by default the video is not played.
    follow : bool
        Whether the newest frame is shown.
    """
    widget.follow.value = follow and fps is None
    _be_idle_for(0.3)
    began = time.perf_counter()
    widget.run()
    _be_idle_for(0.3)  # the layer is added and drawn for the first time
    found = _watch(viewer, fps, lambda: not widget.running)
    return {"frames_per_s": widget.progress.value / (time.perf_counter() - began), **found}


def measure_first(n_frames: int = 300) -> dict[str, Any]:
    """Measure how long the plugin's first actions in this process block the window, each in s.

    Requires a display. The window is painted before the measurement. A run of `n_frames` frames is computed
    by a worker process, one of 100 frames by this process, including imports and loading. At the end, napari
    adds a layer of 68 points, for comparison.
    """
    import tempfile

    from napari import Viewer

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        clips = {
            name: make_clip(Path(folder) / f"{name}.mp4", count)
            for name, count in (("first_run_here", 100), ("first_run_by_a_worker", n_frames))
        }
        viewer = Viewer(show=True)
        viewer.open(clips["first_run_here"], plugin="napari-face-landmarks")
        _be_idle_for(2)
        found["first_dock"], widget = _silence(lambda: _open_track(viewer), lambda: True)
        for name, clip in clips.items():
            if clip.stem not in viewer.layers:
                viewer.open(clip, plugin="napari-face-landmarks")
            _be_idle_for(1)
            found[name], _ = _silence(widget.run, lambda: not widget.running)
        points = np.zeros((68, 3))
        found["napari_adds_points"], _ = _silence(lambda: viewer.add_points(points), lambda: True)
    return found


def _open_track(viewer: Any) -> Any:
    from gui_support import panel_of

    return panel_of(viewer, "Track")


def _silence(begin: Callable[[], Any], until: Callable[[], bool]) -> tuple[dict[str, float], Any]:
    """Measure the GUI thread from a call of `begin` until a condition holds; also return its result."""
    pulse = Pulse()
    _be_idle_for(0.1)
    began, before = len(pulse.gaps), time.perf_counter()
    result = begin()
    _be_idle(until)
    seconds = time.perf_counter() - before
    _be_idle_for(1)
    pulse.stop()
    clock, own, waited = np.array(pulse.gaps[began:]).T
    return {
        "seconds": seconds,
        "largest_gap_s": float(clock.max()),
        "next_largest_gap_s": float(np.sort(clock)[-2]),
        "largest_gap_without_waiting_for_a_processor_s": float((clock - waited).max()),
        "largest_work_s": float(own.max()),
    }, result


def make_clip(path: Path, n_frames: int) -> Path:
    """Write a video of a face that moves to and fro."""
    from napari_face_landmarks.demo import make_demo_clip
    from napari_face_landmarks.video import write_video

    frames = make_demo_clip(100, CLIP_SIDE)[0]
    there_and_back = np.concatenate([np.arange(100), np.arange(100)[::-1]])
    write_video(path, (frames[there_and_back[number % 200]] for number in range(n_frames)), fps=25)
    return path


def _measure_runs(n_frames: int) -> dict[str, Any]:
    import tempfile

    from gui_support import a_display, panel_of, wait_until
    from napari_face_landmarks import FaceTracker

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, a_display() as reason:
        if reason is not None:
            return {"runs": reason}
        clip = make_clip(Path(folder) / "clip.mp4", n_frames)
        tracker = FaceTracker()
        tracker.prepare()

        def headless() -> float:
            began = time.perf_counter()
            tracker.track(clip)
            return n_frames / (time.perf_counter() - began)

        from napari import Viewer

        viewer = Viewer(show=True)
        widget = panel_of(viewer, "Track")
        viewer.open(clip, plugin="napari-face-landmarks")
        widget.frames.value = "this"  # loads the models
        widget.run()
        wait_until(lambda: not widget.running)
        widget.frames.value = "all"
        before = headless()
        speeds = {"playing, as napari does by default": 10.0, "playing as fast as it was recorded": 25.0}
        for name, fps in speeds.items():
            found[f"{name}, without a run"] = measure_playing(viewer, fps)
        for name, options in (
            ("idle", {"follow": False}),
            ("following", {}),
            *((name, {"fps": fps}) for name, fps in speeds.items()),
        ):
            viewer.layers.remove(widget.landmarks)
            found[name] = measure_run(viewer, widget, n_frames, **options)
            after = headless()  # before and after each run, as other load on the machine varies
            found[name]["headless_frames_per_s"] = (before + after) / 2
            found[name]["rate_over_headless"] = found[name]["frames_per_s"] * 2 / (before + after)
            before = after
    return found


def main() -> None:
    """Print all measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", action="store_true", help="only the layer of 68 x 50,000 points, as JSON")
    parser.add_argument("--editing", action="store_true", help="only corrections of 100,000 frames, as JSON")
    parser.add_argument("--first", action="store_true", help="only the first dock and runs, as JSON")
    parser.add_argument("--frames", type=int, default=2000, help="of the run")
    asked = parser.parse_args()
    if asked.scale:
        print(json.dumps(measure_scale()))
        return
    if asked.editing or asked.first:
        print(json.dumps(measure_editing() if asked.editing else measure_first(), indent=1), flush=True)
        os._exit(0)  # without waiting for napari's threads
    print(json.dumps(measure_scale(), indent=1), flush=True)
    for option in ("--first", "--editing"):  # in fresh processes
        subprocess.run([sys.executable, __file__, option], check=True)
    print(json.dumps(_measure_runs(asked.frames), indent=1), flush=True)
    os._exit(0)  # without waiting for napari's threads


if __name__ == "__main__":
    main()
