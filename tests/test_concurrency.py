"""Several trackers, threads and processes at once: the same results as one after the other."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from napari_face_landmarks import FaceTracker, Models, TrackerSettings, Tracks, load_models
from napari_face_landmarks.video import open_video, write_video
from test_tracking import moving

ARRAYS = ("landmarks", "confidence", "source", "pose", "boxes", "frame_indices", "timestamps")


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models()


def assert_same(a: Tracks, b: Tracks) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.warnings == b.warnings
    assert {**a.meta} == {**b.meta}
    assert dataclasses.replace(
        a.stats, seconds=0, prepare_seconds=0, stage_seconds={}
    ) == dataclasses.replace(b.stats, seconds=0, prepare_seconds=0, stage_seconds={})


def sources(folder: Path) -> list[Path]:
    """Return clips of different lengths, sizes and rates."""
    frames, _ = moving(10)
    paths = []
    for k, (count, rate, side) in enumerate(((10, 25, 240), (6, 30, 200), (8, 12, 240), (4, 50, 220))):
        paths.append(folder / f"{k}.mp4")
        write_video(paths[-1], frames[:count, :side, :side][:: 1 if k % 2 else -1], fps=rate)
    return paths


@pytest.mark.slow
def test_one_tracker_may_track_from_several_threads(models: Models, tmp_path: Path) -> None:
    paths = sources(tmp_path)
    tracker = FaceTracker(models, TrackerSettings(refine="always"), threads=2)
    alone = [tracker.track(path) for path in paths]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(tracker.track, paths))
    for a, b in zip(alone, together, strict=True):
        assert_same(a, b)


@pytest.mark.slow
def test_trackers_of_one_process_do_not_disturb_each_other(models: Models, tmp_path: Path) -> None:
    path = sources(tmp_path)[0]
    kinds = [
        TrackerSettings(refine="always"),
        TrackerSettings(refine="off", max_faces=2),
        TrackerSettings(refine="clnf-only"),
    ]
    alone = [FaceTracker(models, each, threads=1).track(path) for each in kinds]
    start = threading.Barrier(len(kinds))

    def run(settings: TrackerSettings) -> Tracks:
        tracker = FaceTracker(models, settings, threads=2)
        start.wait()
        return tracker.track(path)

    with ThreadPoolExecutor(len(kinds)) as pool:
        for a, b in zip(alone, pool.map(run, kinds), strict=True):
            assert_same(a, b)


def test_runs_that_take_turns_do_not_mix(models: Models, tmp_path: Path) -> None:
    path = sources(tmp_path)[0]
    tracker = FaceTracker(models, TrackerSettings(refine="always"), threads=2)
    expected = tracker.track(path).landmarks
    runs = [tracker.track_frames(path) for _ in range(2)]
    found: list[list[np.ndarray]] = [[], []]
    for first, second in zip(*runs, strict=True):
        found[0].append(first.landmarks)
        found[1].append(second.landmarks)
    for landmarks in found:
        np.testing.assert_array_equal(np.stack(landmarks), expected)


def test_two_runs_may_read_one_opened_video(models: Models, tmp_path: Path) -> None:
    with open_video(sources(tmp_path)[0]) as video:
        tracker = FaceTracker(models, TrackerSettings(refine="off"), threads=1)
        alone = tracker.track(video)
        with ThreadPoolExecutor(3) as pool:
            for again in pool.map(tracker.track, [video] * 3):
                assert_same(again, alone)
        assert video[3].shape == (240, 240, 3)  # it is still open


def test_stills_from_several_threads(models: Models) -> None:
    frames, _ = moving(6)
    tracker = FaceTracker(models, TrackerSettings(refine="always"))
    alone = [tracker.fit(frame).landmarks for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        for a, b in zip(alone, pool.map(lambda frame: tracker.fit(frame).landmarks, frames), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_two_processes_on_one_output_leave_a_whole_file(tmp_path: Path) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "t.csv"
    write_video(clip, moving(8)[0], fps=25)
    words = [sys.executable, "-m", "napari_face_landmarks", "track", str(clip), "-o", str(out)]
    both = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=250)[1] for process in both]
    statuses = [process.returncode for process in both]
    assert 0 in statuses
    for status, text in zip(statuses, said, strict=True):
        assert "Traceback" not in text
        assert status == 0 or (status == 2 and text.strip().splitlines()[-1].endswith("."))
    assert Tracks.load(out).n_frames == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "t.csv"]
