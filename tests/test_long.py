"""Hours of video: memory that does not grow, and how much faster two processes are than one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from napari_face_landmarks import FaceTracker, TrackerSettings, load_models, track_many
from napari_face_landmarks.demo import make_demo_clip
from napari_face_landmarks.video import container, write_video

LONGEST_GROWTH_MB = 20
MEASURE = """
import json, os, sys, threading, time
from napari_face_landmarks import cli
from napari_face_landmarks.runs.checkpoint import CheckpointedRun

page = os.sysconf("SC_PAGE_SIZE")
run, samples, begin, tracks = [], [], CheckpointedRun.begin, CheckpointedRun.tracks

def watched(*args, **options):
    run.append(begin(*args, **options))
    return run[0]

def finished(self):
    run.clear()
    return tracks(self)

def sample():
    while True:
        time.sleep(0.1)
        if run:
            with open("/proc/self/statm") as stream:
                samples.append((run[0].done, int(stream.read().split()[1]) * page / 1e6))

CheckpointedRun.begin, CheckpointedRun.tracks = staticmethod(watched), finished
threading.Thread(target=sample, daemon=True).start()
status = cli.main(sys.argv[1:])
print(json.dumps({"status": status, "samples": samples}))
"""


def write_long(path: Path, n_frames: int) -> Path:
    frames = make_demo_clip(60, 160)[0]
    write_video(path, (frames[(t if (t // 60) % 2 == 0 else -1 - t) % 60] for t in range(n_frames)), fps=25)
    return path


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
@pytest.mark.parametrize(
    "n_frames",
    [800, pytest.param(100_000, marks=[pytest.mark.nightly, pytest.mark.timeout(7200)])],
)
def test_memory_of_a_long_run_is_flat(tmp_path: Path, n_frames: int) -> None:
    path = write_long(tmp_path / "long.mkv", n_frames)
    words = ["track", str(path), "-o", str(tmp_path / "t.csv"), "--refine", "off", "--threads", "2"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["status"] == 0
    warm = [megabytes for frames, megabytes in found["samples"] if n_frames > frames >= 300]
    print(
        f"{n_frames} frames: {min(warm):.1f} to {max(warm):.1f} MB, {warm[-1] - warm[0]:+.1f} MB from 300 on"
    )
    assert len(warm) > 3
    assert max(warm) - warm[0] < LONGEST_GROWTH_MB


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_two_processes_are_faster_than_one_with_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if container.thread_count() < 2:
        pytest.skip("needs two cores")
    for i in range(6):
        write_long(tmp_path / f"v{i}.mkv", 1500)
    monkeypatch.setattr(container, "_max_threads", 1)  # decoding is a part of the one thread's work
    ratios = []
    for _ in range(3):
        began = time.perf_counter()
        tracker = FaceTracker(load_models(), TrackerSettings(), threads=1)
        for path in sorted(tmp_path.glob("*.mkv")):
            tracker.track(path).save(path.with_suffix(".csv"))
        alone = time.perf_counter() - began
        began = time.perf_counter()
        for old in tmp_path.glob("out/*"):
            old.unlink()
        results = track_many(tmp_path / "*.mkv", tmp_path / "out", jobs=2)
        ratios.append(alone / (time.perf_counter() - began))
        assert all(result.status == "done" and not result.earlier for result in results)
    print("times as fast:", [round(ratio, 2) for ratio in ratios])
    assert max(ratios) >= 1.6
