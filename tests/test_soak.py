"""Hours of video: memory, open files and threads do not grow, however long the run."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from napari_face_landmarks import FaceTracker, TrackerSettings
from napari_face_landmarks.data.frame import FrameResult
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.video import write_video
from test_tracking import moving, portrait

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")

SIDE = 120
CYCLE = 48
TWO_HOURS = 2 * 3600 * 25
"""Frames at 25 a second; the stream has no clock, so they go as fast as they can."""
MOST_GROWTH = 20 << 20


@dataclass(frozen=True)
class State:
    """What a process holds: bytes of memory, open files and threads."""

    memory: int
    files: int
    threads: int


def state() -> State:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return State(
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
    )


class Stream:
    """Frames that are made when they are asked for: a face that moves, goes and comes back, and noise."""

    def __init__(self, n_frames: int) -> None:
        self.shape, self.dtype = (n_frames, SIDE, SIDE, 3), np.dtype(np.uint8)
        face = cv2.resize(portrait(), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        angles = np.arange(CYCLE) * 2 * np.pi / CYCLE
        self._frames = [
            np.roll(face, (round(5 * np.sin(a)), round(9 * np.cos(a))), axis=(0, 1)) for a in angles
        ]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, t: int) -> np.ndarray:
        if t % 500 >= 490:  # nobody there
            return np.full((SIDE, SIDE, 3), t % 251, np.uint8)
        frame = self._frames[t % CYCLE].copy()
        frame[t % SIDE] = t % 256
        return frame


def watch(
    results: Iterator[FrameResult], every: int, say: Callable[[str], None] | None = None
) -> tuple[list[State], int]:
    """Take all results, keep none; return the state at every n-th frame and how many had a face."""
    states, faces = [], 0
    for number, result in enumerate(results):
        faces += bool(result.source.any())
        if number % every == every - 1:
            gc.collect()
            states.append(state())
            if say is not None:
                now = states[-1]
                say(f"{number + 1}: {now.memory / 1e6:.1f} MB, {now.files} files, {now.threads} threads")
    return states, faces


def assert_flat(states: list[State], most_growth: int) -> None:
    """Check the states after the first quarter, in which caches fill."""
    settled = states[len(states) // 4 :]
    memory = np.array([each.memory for each in settled], np.float64)
    half = len(memory) // 2
    assert np.median(memory[half:]) - np.median(memory[:half]) < most_growth / 2
    assert memory.max() - memory[0] < most_growth
    for what in ("threads", "files"):  # threads of a pool begin when they are needed first
        counts = [getattr(each, what) for each in settled]
        assert max(counts[half:]) <= max(counts[:half]), what


@pytest.mark.slow
def test_half_a_minute_of_video_leaves_memory_files_and_threads_as_they_were() -> None:
    before, threads = state(), threading.active_count()
    n_frames = 800
    tracker = FaceTracker("open", TrackerSettings(refine="auto"), threads=2)
    states, faces = watch(tracker.track_frames(Stream(n_frames)), 50)
    assert faces > 0.9 * n_frames
    assert_flat(states, MOST_GROWTH)
    gc.collect()
    after = state()
    assert after.files <= before.files + 1  # a cache of compiled kernels may stay open
    assert threading.active_count() <= threads


@pytest.mark.slow
def test_many_runs_leave_nothing_behind(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    write_video(clip, moving(4)[0], fps=25)
    tracker = FaceTracker("open", threads=2)

    def once() -> None:
        tracker.track(clip)
        run = tracker.track_frames(clip)
        next(run)
        run.close()

    states = []
    for _ in range(8):
        once()
        gc.collect()
        states.append(state())
    assert_flat(states, MOST_GROWTH)


def two_hours(say: Callable[[str], None], n_frames: int = TWO_HOURS) -> None:
    """Run the whole stream and check it; say how it goes."""
    tracker = FaceTracker("open", TrackerSettings(refine="auto"), threads=1)
    states, faces = watch(tracker.track_frames(Stream(n_frames)), n_frames // 200, say)
    memory = np.array([each.memory for each in states]) / 1e6
    frames = (np.arange(len(states)) + 1) * (n_frames // 200)
    settled = len(states) // 4
    slope = np.polyfit(frames[settled:], memory[settled:], 1)[0]
    assert tracker.last_run is not None
    say(
        f"{n_frames} frames, {faces} with a face, {tracker.last_run.stats.fps:.0f} a second; memory "
        f"{memory[settled]:.1f} MB after a quarter, {memory[-1]:.1f} MB at the end, largest "
        f"{memory.max():.1f} MB, slope {1e6 * slope:.1f} bytes a frame; {states[-1].files} files, "
        f"{states[-1].threads} threads"
    )
    assert_flat(states, MOST_GROWTH)


@pytest.mark.nightly
@pytest.mark.timeout(4 * 3600)
def test_two_hours_of_video(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        two_hours(print)


if __name__ == "__main__":
    two_hours(print, int(sys.argv[1]) if len(sys.argv) > 1 else TWO_HOURS)
