"""Runs written to a journal: killed at any moment, they go on to the same result, bit for bit."""

from __future__ import annotations

import io
import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from napari_face_landmarks import FaceTracker, Models, TrackerSettings, Tracks, cli, load_models
from napari_face_landmarks.demo import make_demo_clip
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.runs import CheckpointedRun, checkpoint, journal_of
from napari_face_landmarks.runs.job import Job, do_job
from napari_face_landmarks.tracking.state import state_from_bytes, state_to_bytes
from napari_face_landmarks.video import open_video, write_video

ARRAYS = ("landmarks", "confidence", "source", "pose", "boxes", "misfit", "frame_indices", "timestamps")
CHILD = """
import sys
from napari_face_landmarks import cli
from napari_face_landmarks.runs import checkpoint
checkpoint.SYNC_SECONDS = float(sys.argv[1])
sys.exit(cli.main(sys.argv[2:]))
"""


def assert_same(tracks: Tracks, other: Tracks) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(tracks, name), getattr(other, name))


def write_clip(path: Path, n_frames: int) -> Path:
    """Write a face that moves to and fro, and is away for some frames."""
    frames = make_demo_clip(40, 240)[0]
    turns = (frames[(t if (t // 40) % 2 == 0 else -1 - t) % 40] for t in range(n_frames))
    write_video(path, (f * 0 if 50 < t % 97 < 56 else f for t, f in enumerate(turns)), fps=25)
    return path


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "face.mkv", 40)


def child(interval: float, *words: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(interval), *map(str, words)], stderr=subprocess.DEVNULL
    )


def frames_in(path: Path) -> int:
    """Return how many frames a journal that another process may be writing has; -1 where there is none."""
    try:
        with open(path, "rb") as stream:
            content = checkpoint.read_checkpoint(stream, 1)
    except FileNotFoundError:
        return -1
    return 0 if content is None else content.n_frames


def kill_and_resume(tmp_path: Path, clip: Path, whole: Tracks, share: float, seed: int) -> int:
    """Kill a run when a share of its frames is done, resume it and compare; return the frames kept."""
    out = tmp_path / f"killed-{seed}.npz"
    words = ["track", clip, "-o", out, "--refine", "always", "--threads", 1 + seed % 2]
    run = child(0.02, *words)
    while run.poll() is None and frames_in(journal_of(out)) < share * whole.n_frames:
        time.sleep(0.005)
    time.sleep(random.Random(seed).uniform(0, 0.05))
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = whole.n_frames
    if not out.exists():
        kept = frames_in(journal_of(out))
        assert child(1.0, *words, "--resume").wait() == 0
    assert_same(Tracks.load(out), whole)
    assert not journal_of(out).exists()
    out.unlink()
    return kept


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, models: Models) -> None:
    long = write_clip(tmp_path / "long.mkv", 200)
    whole = FaceTracker(models, TrackerSettings(refine="always"), threads=1).track(long)
    assert 0 < kill_and_resume(tmp_path, long, whole, 0.3, 1) < 200


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_fifty_kills_at_random_moments(tmp_path: Path, models: Models) -> None:
    long = write_clip(tmp_path / "long.mkv", 300)
    whole = FaceTracker(models, TrackerSettings(refine="always"), threads=1).track(long)
    chance = random.Random(0)
    kept = []
    for i in range(50):
        kept.append(kill_and_resume(tmp_path, long, whole, chance.uniform(0, 1), i))
        print(i, "frames kept of 300:", kept[-1], flush=True)
    assert sum(0 < n < 300 for n in kept) > 30
    assert sum(n > 150 for n in kept) > 10


def stop_after(tracker: FaceTracker, path: Path, clip: Path, n_frames: int) -> None:
    """Track some frames into a journal, a state after each of them."""
    with open_video(clip) as video:
        recording = CheckpointedRun.begin(tracker, video, path)
        try:
            with closing(recording.run) as results:
                for _ in range(n_frames):
                    next(results)
        finally:
            recording.close()


def go_on(tracker: FaceTracker, path: Path, clip: Path) -> tuple[int, Tracks]:
    with open_video(clip) as video:
        recording = CheckpointedRun.begin(tracker, video, path, resume=True)
        for _ in recording.run:
            pass
        tracks = recording.tracks()
        recording.close()
    return recording.kept, tracks


@pytest.mark.slow
def test_a_journal_that_is_cut_or_damaged_anywhere_is_gone_on_from_bit_for_bit(
    tmp_path: Path, clip: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SYNC_SECONDS", 0.0)
    tracker = FaceTracker(models, TrackerSettings(refine="off"), threads=1)
    whole = tracker.track(clip)
    path = tmp_path / "t.journal"
    stop_after(tracker, path, clip, 36)
    data = path.read_bytes()
    chance = random.Random(1)
    places = [0, 5, 11, 200, len(data) - 1, len(data)]
    places += [chance.randrange(len(data) // 2, len(data)) for _ in range(8)]
    kept = []
    for i, place in enumerate(places):
        damaged = bytearray(data[:place] if i % 2 else data)
        if not i % 2 and place < len(data):
            damaged[place] ^= 0x40
        path.write_bytes(damaged)
        found, tracks = go_on(tracker, path, clip)
        assert_same(tracks, whole)
        kept.append(found)
    assert kept[:3] == [0, 0, 0]
    assert kept[4] == 35
    assert all(abs(n - 36 * place / len(data)) < 3 for n, place in zip(kept[6:], places[6:], strict=True))


@pytest.mark.slow
def test_a_crash_loses_at_most_a_second_of_results(
    tmp_path: Path, clip: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now))
    path = tmp_path / "t.journal"
    with open_video(clip) as video:
        recording = CheckpointedRun.begin(FaceTracker(models, TrackerSettings(refine="off")), video, path)
        written = set()
        for done, _ in enumerate(recording.run, 1):
            assert frames_in(path) >= done - 4
            written.add(frames_in(path))
            now += 0.25
        recording.close()
    assert 5 < len(written) < 15  # nor is the disk kept busy


@pytest.mark.slow
def test_a_run_that_does_not_fit_its_journal_is_refused_in_one_sentence(
    tmp_path: Path, clip: Path, models: Models, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t.npz"
    tracker = FaceTracker(models, TrackerSettings(refine="off"), threads=1)
    stop_after(tracker, journal_of(out), clip, 5)
    before = journal_of(out).read_bytes()
    other = write_clip(tmp_path / "other.mkv", 30)
    for words, reason in (
        ([clip, "--refine", "always"], "with other settings (refine was 'off')"),
        ([other, "--refine", "off"], "of another video"),
        ([clip, "--refine", "off", "--models", "research"], "with other models"),
    ):
        assert cli.main(["track", *map(str, words), "-o", str(out), "--resume"]) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("napari-face")]
        assert len(said) == 1
        assert reason in said[0]
        assert journal_of(out).read_bytes() == before
    moved = tmp_path / "moved.mkv"
    moved.write_bytes(clip.read_bytes())  # the same video in another place
    assert cli.main(["track", str(moved), "-o", str(out), "--resume", "--refine", "off"]) == 0
    assert "5 of 40 frames were done before" in capsys.readouterr().err
    assert_same(Tracks.load(out), tracker.track(clip))


def test_nothing_to_resume_replaces_no_result(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["track", str(clip), "-o", str(tmp_path / "t.csv"), "--refine", "off", "--to", "9", "--resume"]
    assert cli.main(words) == 0
    assert "There is no interrupted run to resume: starting at the first frame." in capsys.readouterr().err
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for _ in range(2):  # the second time next to what the first may have left
        assert cli.main(words) == 2
        assert "Leave out --resume to track again and replace it" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert cli.main(words[:-1]) == 0


def test_two_runs_to_one_output_are_refused(
    tmp_path: Path, clip: Path, models: Models, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t.csv"
    with open_video(clip) as video:
        held = CheckpointedRun.begin(FaceTracker(models, threads=1), video, journal_of(out))
        assert cli.main(["track", str(clip), "-o", str(out)]) == 2
        assert "Another process is using" in capsys.readouterr().err
        held.close()
    with open_video(clip) as video:
        CheckpointedRun.begin(FaceTracker(models, threads=1), video, journal_of(out)).close(remove=True)
    assert not journal_of(out).exists()


@pytest.mark.slow
def test_a_full_disk_loses_nothing_that_was_written(
    tmp_path: Path, clip: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SYNC_SECONDS", 0.0)
    tracker = FaceTracker(models, TrackerSettings(refine="off"), threads=1)
    path = tmp_path / "t.journal"
    settle = checkpoint.CheckpointWriter._flush
    calls = 0

    def full(self: checkpoint.CheckpointWriter) -> None:
        nonlocal calls
        calls += 1
        if calls > 8:
            raise OSError(28, "No space left on device")
        settle(self)

    monkeypatch.setattr(checkpoint.CheckpointWriter, "_flush", full)
    with pytest.raises(ResultError, match=r"cannot be written \(no space left on device\): free some space"):
        stop_after(tracker, path, clip, 30)
    monkeypatch.undo()
    kept, tracks = go_on(tracker, path, clip)
    assert kept >= 7
    assert_same(tracks, tracker.track(clip))


def test_a_disk_that_is_full_from_the_start_is_one_sentence(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.FileIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    # what the buffer could not write it tries again as it is closed
    opened = lambda handle, mode: io.BufferedRandom(Full(handle, "r+"))  # noqa: E731
    monkeypatch.setattr(checkpoint.os, "fdopen", opened)
    assert cli.main(["track", str(clip), "-o", str(tmp_path / "t.csv")]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert said.endswith("t.csv.journal cannot be written (no space left on device): choose another folder.")
    result = do_job(Job(str(clip), str(tmp_path / "t.csv")))
    assert result.reason.endswith("cannot be written (no space left on device): choose another folder.")
    monkeypatch.undo()
    assert do_job(Job(str(clip), str(tmp_path / "t.csv"))).status == "done"


def test_a_checkpoint_of_the_version_before_is_refused_by_its_version(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t.csv"
    journal_of(out).write_bytes(b"NFLJRNL1HEAD" + bytes(40))
    assert cli.main(["track", str(clip), "-o", str(out), "--resume"]) == 2
    said = capsys.readouterr().err
    assert str(journal_of(out)) in said
    assert "was written by version 0.1.0 of napari-face-landmarks" in said
    assert "do not resume it" in said
    assert cli.main(["track", str(clip), "-o", str(out), "--refine", "off"]) == 0


@pytest.mark.slow
def test_a_stored_state_holds_no_pickle_and_no_array_of_another_shape(models: Models) -> None:
    run = FaceTracker(models, threads=1).track_frames(make_demo_clip(8, 120)[0])
    for _ in range(4):
        next(run)
    state = run.state()
    run.close()
    assert state is not None
    arrays = dict(np.load(io.BytesIO(state_to_bytes(state)), allow_pickle=False))
    assert state_from_bytes(as_bytes(arrays)).next_result == 4
    for name in arrays:
        if name != "json":
            for other in (arrays[name][None], arrays[name].astype("c8"), arrays[name].astype(object)):
                with pytest.raises(ResultError):
                    state_from_bytes(as_bytes({**arrays, name: other}))


def as_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()
