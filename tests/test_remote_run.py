"""A run in a worker process: the same results, commands obeyed, and what happens where a process fails."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gui_measure import make_clip
from gui_support import let_work, panel_of, wait_until
from napari_face_landmarks import FaceTracker, TrackerSettings, load_models
from napari_face_landmarks.errors import ImageError
from napari_face_landmarks.jit import NotCompiledError
from napari_face_landmarks.napari_plugin import run_controller
from napari_face_landmarks.napari_plugin.run_controller import (
    BackgroundRun,
    track_here,
    track_in_background,
)
from napari_face_landmarks.runs import worker
from napari_face_landmarks.tracking.control import RunControl
from napari_face_landmarks.video import Video, open_video

N_FRAMES, N_LONG = 100, 130


@pytest.fixture(autouse=True)
def short_runs_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a worker process do the runs over both clips."""
    monkeypatch.setattr(run_controller, "MIN_WORKER_FRAMES", N_FRAMES)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def short_clip(clips: Path) -> Path:
    return make_clip(clips / "short.mp4", N_FRAMES)


@pytest.fixture(scope="module")
def clip(clips: Path) -> Path:
    return make_clip(clips / "clip.mp4", N_LONG)


@pytest.fixture
def video(short_clip: Path) -> Iterator[Video]:
    with open_video(short_clip) as opened:
        yield opened


WAITS_TO_BE_PAUSED = """
from time import sleep
from napari_face_landmarks.tracking.control import RunControl
pause, wait, paused, waited = RunControl.pause, RunControl.wait, [], []
def pause_and_note(control):
    paused.append(True)
    pause(control)
def wait_to_be_paused(control):
    waited.append(True)
    while len(waited) == 60 and not (paused or control.cancelled):
        sleep(0.01)
    return wait(control)
RunControl.pause, RunControl.wait = pause_and_note, wait_to_be_paused
"""
"""Has a worker process not go beyond its 60th frame before it is paused, however slow the GUI is."""


@pytest.fixture
def waits_to_be_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "BEGIN", f"{WAITS_TO_BE_PAUSED}\n{worker.BEGIN}")


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Note the processes that are started."""
    started: list[Any] = []

    class Noted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    return started


def run_over(frames: Any, **changed: Any) -> BackgroundRun:
    given = {"stop": N_FRAMES, "resume_checkpoint": True, "models": "open", **changed}
    return BackgroundRun(partial(load_models, "open"), TrackerSettings(), frames, 0, **given)


def finish(run: BackgroundRun) -> None:
    for _ in track_in_background(run):
        pass


@pytest.mark.slow
def test_results_are_those_of_a_run_here(video: Video, processes: list[Any], tmp_path: Path) -> None:
    there, here = run_over(video, checkpoints=tmp_path), run_over(video)
    finish(there)
    assert [process.returncode for process in processes] == [0]
    for _ in track_here(here):
        pass
    assert there.error is None
    assert there.tracks is not None
    assert here.tracks is not None
    for name in ("landmarks", "confidence", "pose", "source", "boxes", "timestamps"):
        np.testing.assert_array_equal(getattr(there.tracks, name), getattr(here.tracks, name))
    assert there.tracks.stats.completed
    assert there.tracks.meta == here.tracks.meta
    assert [result.index for result in there.results] == list(range(N_FRAMES))
    assert not list(tmp_path.iterdir()), "a finished run leaves no journal"


@pytest.mark.slow
def test_kernels_that_are_not_cached_are_compiled_in_another_process(
    processes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing, prepare = [NotCompiledError()], FaceTracker.prepare

    def prepare_later(tracker: FaceTracker) -> None:
        if missing:
            raise missing.pop()
        prepare(tracker)

    monkeypatch.setattr(FaceTracker, "prepare", prepare_later)
    run = run_over(np.zeros((3, 60, 80, 3), np.uint8), stop=3)
    finish(run)
    assert [process.returncode for process in processes] == [0]
    assert run.error is None
    assert len(run.results) == 3


@pytest.mark.slow
def test_what_is_shown_need_not_be_decoded_again(video: Video, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[int, Any] = {}
    monkeypatch.setattr(Video, "keep", lambda _, number, picture: kept.update({number: picture}))
    run = run_over(video)
    run.show(True)
    finish(run)
    assert len(kept) > 2
    monkeypatch.undo()
    for number in list(kept)[::5]:
        np.testing.assert_array_equal(kept[number], video[number])


@pytest.mark.slow
def test_a_frame_kept_is_given_and_another_size_is_refused(
    video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = video[7] // 2
    video.keep(7, picture)
    monkeypatch.setattr(Video, "_decode", lambda *_: pytest.fail("decoded again"))
    given = video[7]
    np.testing.assert_array_equal(given, picture)
    given[:] = 0
    np.testing.assert_array_equal(video[7], picture, "each caller has a frame of its own")
    with pytest.raises(ImageError, match="give a frame of this video"):
        video.keep(7, picture[1:])
    with pytest.raises(IndexError):
        video.keep(N_FRAMES, picture)


@pytest.mark.slow
def test_cancelled_it_keeps_what_is_done_and_its_journal(video: Video, tmp_path: Path) -> None:
    run = run_over(video, checkpoints=tmp_path)
    for _ in track_in_background(run):
        if run.results:
            run.cancel()
    assert run.error is None
    assert run.tracks is not None
    assert 0 < len(run.tracks.landmarks) < N_FRAMES
    assert len(list(tmp_path.glob("*.journal"))) == 1
    again = run_over(video, checkpoints=tmp_path)
    finish(again)
    assert again.tracks is not None
    assert again.tracks.stats.completed
    assert len(again.results) == N_FRAMES


@pytest.mark.slow
def test_paused_it_waits_and_tells_all_that_is_done(video: Video, waits_to_be_paused: None) -> None:
    run = run_over(video)
    steps = track_in_background(run)
    while not run.results:
        next(steps)
    run.pause()
    for _ in range(5):  # it ends the frame at hand
        next(steps)
    done = len(run.results)
    for _ in range(5):
        next(steps)
    assert len(run.results) == done < N_FRAMES
    run.resume()
    for _ in steps:
        pass
    assert len(run.results) == N_FRAMES


def test_a_remote_run_is_iterated_like_a_run(video: Video) -> None:
    request = run_over(video).request()
    assert request is not None
    run = worker.RemoteRun(request, video, RunControl())
    try:
        results = list(itertools.islice(run, 20))
        run.control.cancel()
        results += run
        tracks = run.tracks(results)
    finally:
        run.close()
    here = FaceTracker(load_models("open")).track_frames(video)
    for mine, other in zip(results, here, strict=False):
        np.testing.assert_array_equal(mine.landmarks, other.landmarks)
    assert 20 <= len(results) == tracks.n_frames < N_FRAMES
    assert tracks.meta == here.meta()
    assert not tracks.stats.completed
    here.close()


def test_the_switch_interval_of_the_window_is_left_alone(video: Video) -> None:
    before, run = sys.getswitchinterval(), run_over(np.zeros((3, 64, 64, 3), np.uint8), stop=3)
    for _ in track_in_background(run):
        assert sys.getswitchinterval() == before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_killed_it_leaves_the_finished_frames_and_says_so(video: Video, processes: list[Any]) -> None:
    run = run_over(video)
    for _ in track_in_background(run):
        if run.results:
            os.kill(processes[0].pid, signal.SIGKILL)
    assert run.error is not None
    assert "by SIGKILL" in run.error
    assert run.tracks is not None
    assert len(run.tracks.landmarks) == len(run.results) > 0
    assert not run.tracks.stats.completed


@pytest.mark.slow
def test_it_ends_with_the_window(video: Video, processes: list[Any]) -> None:
    run = run_over(video)
    steps = track_in_background(run)
    while not run.results:
        next(steps)
    steps.close()
    assert processes[0].returncode is not None


@pytest.mark.slow
@pytest.mark.parametrize("program", ["/no/such/python", sys.executable])
def test_where_no_process_begins_the_run_is_done_here(
    video: Video, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    monkeypatch.setattr(worker, "BEGIN", "raise SystemExit(1)")
    run = run_over(video)
    finish(run)
    assert run.error is None
    assert run.tracks is not None
    assert run.tracks.stats.completed


@pytest.mark.slow
def test_errors_there_are_told_in_their_sentence(video: Video, tmp_path: Path) -> None:
    run = run_over(video, models=str(tmp_path))
    finish(run)
    assert run.error is not None
    assert str(tmp_path) in run.error
    assert run.tracks is None


def test_only_long_runs_over_a_file_use_a_worker_process(
    video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_over(video).request() is not None
    assert run_over(np.zeros((N_FRAMES, 8, 8, 3), np.uint8)).request() is None
    assert run_over(video, stop=N_FRAMES - 1).request() is None
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert run_over(video).request() is None


@pytest.mark.slow
def test_a_library_that_prints_does_not_disturb_the_news(
    video: Video, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import threading, time, os, sys\n"
        "def chatter():\n"
        "    while 'napari_face_landmarks' not in sys.modules:\n"
        "        time.sleep(0.01)\n"
        "    for printed in range(10**6):\n"
        "        os.write(1, b'hello from a library')\n"
        f"        open({str(tmp_path / 'part')!r}, 'w').write(str(printed))\n"
        f"        os.replace({str(tmp_path / 'part')!r}, {str(tmp_path / 'printed')!r})\n"
        "        time.sleep(0.02)\n"
        "threading.Thread(target=chatter, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = run_over(video)
    finish(run)
    assert int((tmp_path / "printed").read_text()) > 10, "the library had time to print"
    assert run._remote is not None, "its process was understood, and the run not done here instead"
    assert run.error is None
    assert len(run.results) == N_FRAMES


@pytest.mark.gui
def test_the_dock_tracks_a_long_run_in_a_worker_process(
    viewer: Any, clip: Path, processes: list[Any], waits_to_be_paused: None
) -> None:
    widget = panel_of(viewer, "Track")
    viewer.open(clip, plugin="napari-face-landmarks")
    processes.clear()
    widget.run()
    wait_until(lambda: widget.landmarks.shown.any(), 120)
    assert widget.running, "points appear before the run ends"
    widget.pause_or_resume()
    let_work(1)
    assert widget.landmarks.shown.sum() < 80 * 68
    assert widget.status.value.startswith("Paused after ")
    widget.pause_or_resume()
    wait_until(lambda: not widget.running, 120)
    assert len(processes) == 1
    assert widget.landmarks.shown.all()
    assert len(widget.landmarks.data) == 68 * N_LONG
    assert viewer.dims.current_step[0] == N_LONG - 1, "the newest frame was followed"
    assert widget.status.value.startswith(f"Done: {N_LONG} frames")


@pytest.mark.gui
def test_the_process_ends_with_the_viewer(viewer: Any, clip: Path, processes: list[Any]) -> None:
    widget = panel_of(viewer, "Track")
    viewer.open(clip, plugin="napari-face-landmarks")
    processes.clear()
    widget.run()
    wait_until(lambda: widget.landmarks.shown.any(), 120)
    viewer.close()
    wait_until(lambda: processes[0].poll() is not None)
