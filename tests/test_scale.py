"""Layers of 68 points on 50,000 frames, and what the GUI's thread does while a run goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_tracker import FakeTracker
from gui_measure import make_clip, measure_playing, measure_run
from gui_support import TRIES, let_work, panel_of, wait_until
from napari_face_landmarks import tracking
from napari_face_landmarks.priority import NICE, behind_a_window
from napari_face_landmarks.tracking.threads import Workers
from napari_face_landmarks.video import open_video, prefetch

PLUGIN = "napari-face-landmarks"
N_FRAMES = 160
PLAYED = 10.0  # frames a second, by default of napari
FAST = 25.0


LIMITS = {
    "add_s": 1.5,
    "add_most_mb": 600,
    "filled_most_mb": 700,
    "write_50_frames_s": 0.02,
    "finish_s": 0.1,
    "recolour_s": 1.5,
    "slider_step_s": 0.035,
    "select_s": 0.02,
}


@pytest.fixture(scope="module")
def scale() -> dict[str, float]:
    if not sys.platform.startswith("linux"):
        pytest.skip("memory is read from Linux's /proc")
    script = Path(__file__).parent / "gui_measure.py"
    least = dict.fromkeys(LIMITS, float("inf"))
    for _ in range(TRIES):
        done = subprocess.run(
            [sys.executable, str(script), "--scale"], capture_output=True, text=True, timeout=120, check=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        least = {name: min(value, found[name]) for name, value in least.items()}
        if all(least[name] < limit for name, limit in LIMITS.items()):
            break
    return least


@pytest.mark.nightly
@pytest.mark.parametrize("what", LIMITS)
def test_a_layer_of_68_x_50_000_is_quick_and_small(scale: dict[str, float], what: str) -> None:
    assert scale[what] < LIMITS[what]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("scale") / "clip.mp4", N_FRAMES)


@pytest.fixture
def widget(viewer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    tracker = type("ThisFakeTracker", (FakeTracker,), {"seconds_per_frame": 0.01})
    monkeypatch.setattr(tracking, "FaceTracker", tracker)
    monkeypatch.setattr("napari_face_landmarks.napari_plugin.track_dock.load_models", lambda _: None)
    return panel_of(viewer, "Track")


@pytest.mark.nightly
@pytest.mark.gui
@pytest.mark.parametrize(("how", "share"), [("idle", 0.6), ("following", 0.6), ("playing", 0.6)])
def test_the_gui_does_little_at_a_time_while_a_run_goes_on(
    viewer: Any, widget: Any, clip: Path, how: str, share: float
) -> None:
    """Between two events the GUI's thread works less than 100 ms, and much of the time not at all."""
    viewer.open(clip, plugin=PLUGIN)
    fps = PLAYED if how == "playing" else None
    for _ in range(TRIES):
        found = measure_run(viewer, widget, N_FRAMES, fps=fps, follow=how == "following")
        if found["largest_work_s"] < 0.1 and found["gui_share"] < share:
            break
        viewer.layers.remove(widget.landmarks)
    assert found["largest_work_s"] < 0.1
    assert found["gui_share"] < share
    assert widget.status.value.startswith(f"Done: {N_FRAMES} frames")


@pytest.mark.nightly
@pytest.mark.gui
def test_a_run_adds_little_to_what_a_fast_video_takes(viewer: Any, widget: Any, clip: Path) -> None:
    """Played faster than napari draws, frames queue up with napari alone, and not much more in a run."""
    viewer.open(clip, plugin=PLUGIN)
    added = []
    for _ in range(TRIES):
        widget.run()  # its layer is there in both
        wait_until(lambda: not widget.running)
        alone = measure_playing(viewer, FAST)
        viewer.layers.remove(widget.landmarks)
        along = measure_run(viewer, widget, N_FRAMES, fps=FAST)
        added.append(along["largest_work_s"] / alone["largest_work_s"])
        viewer.layers.remove(widget.landmarks)
        if added[-1] < 1.5:
            break
    assert min(added) < 1.5


@pytest.mark.gui
def test_a_frame_that_did_not_change_is_not_drawn_again(viewer: Any, widget: Any) -> None:
    viewer.add_image(np.zeros((300, 60, 80), np.uint8), name="clip")
    viewer.dims.set_current_step(0, 250)
    widget.follow.value = False
    widget.run()
    drawn: list[int] = []
    let_work(0.1)
    assert widget.running
    points = widget.landmarks
    points.events.set_data.connect(lambda _: drawn.append(int(points.shown[68 * 250])))
    wait_until(lambda: not widget.running)
    assert sum(drawn) >= 1, "the frame on show is drawn when it comes"
    assert len(drawn) <= 4, "and not with every other one"


@pytest.mark.gui
def test_bar_and_words_change_twice_a_second_at_most(viewer: Any, widget: Any) -> None:
    """Each change has Qt lay out and draw the whole window, which takes processors from the run."""
    from napari_face_landmarks.napari_plugin.track_dock import REPORT_SECONDS

    viewer.add_image(np.zeros((200, 60, 80), np.uint8), name="clip")
    changes: list[int] = []
    widget.progress.changed.connect(changes.append)
    began = time.monotonic()
    widget.run()
    wait_until(lambda: not widget.running)
    seconds = time.monotonic() - began
    assert changes[-1] == 200
    assert 2 <= len(changes) <= seconds / REPORT_SECONDS + 3, "and at the beginning and the end"


@pytest.mark.slow
def test_frames_that_a_run_read_are_not_decoded_again(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_video(clip) as video:
        expected = video[12]
        video.keeps_frames = True
        for _ in video.frames():
            pass
        monkeypatch.setattr(type(video), "_decode", lambda *_: pytest.fail("decoded again"))
        np.testing.assert_array_equal(video[12], expected)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own elsewhere")
def test_threads_behind_a_window_give_way_to_it_and_others_do_not() -> None:
    def niceness(*_: object) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def of_threads() -> set[int]:
        with Workers(2) as workers:
            return {workers.result(workers.submit(niceness)), *prefetch(map(niceness, range(2)))}

    before = niceness()
    with behind_a_window():
        assert of_threads() == {max(before, NICE)}
    assert of_threads() == {before}
    assert niceness() == before, "the thread that began them goes on as it was"
