"""Many videos: each as a run by itself gives it, whatever fails, here and on a cluster."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_face_landmarks import FaceTracker, Models, TrackerSettings, Tracks, cli, load_models, track_many
from napari_face_landmarks.demo import make_demo_clip
from napari_face_landmarks.errors import (
    FaceLandmarksError,
    ModelError,
    ResultError,
    SettingsError,
    VideoError,
)
from napari_face_landmarks.files.lock import try_to_lock
from napari_face_landmarks.priority import cores
from napari_face_landmarks.runs import FileResult, job, journal_of, worker
from napari_face_landmarks.runs.batch import find_videos, read_settings
from napari_face_landmarks.runs.chunks import Chunk, chunk_journal, remove_chunks
from napari_face_landmarks.video import write_video
from test_faults import mended_clip

ARRAYS = ("landmarks", "confidence", "source", "pose", "boxes", "misfit", "frame_indices", "timestamps")
FAST = TrackerSettings(refine="off")
N_GOOD, N_FRAMES = 8, 20


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of `N_GOOD` videos of faces, and 3 that are none."""
    folder = tmp_path_factory.mktemp("videos")
    frames = make_demo_clip(N_FRAMES + N_GOOD, 240)[0]
    for i in range(N_GOOD):
        write_video(folder / f"face-{i:02d}.mkv", (f for f in frames[i : i + N_FRAMES]), fps=25)
    (folder / "text.mp4").write_text("This is no video.\n" * 100)
    (folder / "empty.mp4").touch()
    whole = (folder / "face-00.mkv").read_bytes()
    (folder / "noise.avi").write_bytes(bytes(b ^ 0x5A for b in whole[:20_000]))
    return folder


def assert_as_single_runs(results: list[FileResult], models: Models, settings: TrackerSettings) -> None:
    tracker = FaceTracker(models, settings, threads=1)
    for result in results:
        tracks, alone = Tracks.load(result.output), tracker.track(result.video)
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(tracks, name), getattr(alone, name))


def assert_good_and_bad(results: list[FileResult], out: Path, models: Models) -> None:
    good = [result for result in results if result.status == "done"]
    bad = [result for result in results if result.status != "done"]
    assert len(good) == N_GOOD
    assert [Path(result.video).name for result in bad] == ["empty.mp4", "noise.avi", "text.mp4"]
    assert_as_single_runs(good, models, FAST)
    for result in bad:
        assert result.status == "failed"
        assert result.video in result.reason
        assert result.reason.endswith(".")
        assert "Traceback" not in result.reason
    with open(out / "batch-summary.csv", newline="", encoding="utf-8") as stream:
        rows = {row["video"]: row for row in csv.DictReader(stream)}
    assert set(rows) == {result.video for result in results}
    for result in results:
        row = rows[result.video]
        assert row["status"] == result.status
        assert int(row["frames"]) == result.frames == (N_FRAMES if result in good else 0)
        assert int(row["faces"]) == result.faces
        assert row["reason"] == result.reason
        assert float(row["fps"]) == pytest.approx(result.fps, abs=0.1)
    text = (out / "batch-summary.txt").read_text(encoding="utf-8")
    assert text.endswith(f"{N_GOOD + 3} videos: {N_GOOD} done, 3 failed.\n")
    assert not list(out.glob("*.journal"))


def rows_of(summary: Path) -> list[str]:
    """Return the videos that a summary names, in its order."""
    with open(summary, newline="", encoding="utf-8") as stream:
        return [row["video"] for row in csv.DictReader(stream)]


@pytest.mark.slow
def test_videos_with_three_bad_ones_and_a_second_time(tmp_path: Path, videos: Path, models: Models) -> None:
    told: list[FileResult] = []
    path, seen = tmp_path / "out" / "batch-summary.csv", [b""]

    def note(result: FileResult) -> None:
        """Check that the summary has grown by this video's row."""
        told.append(result)
        seen.append(path.read_bytes())
        assert seen[-1].startswith(seen[-2])
        assert rows_of(path)[len(told) - 1 :] == [result.video]

    results = track_many(videos, tmp_path / "out", settings=FAST, format="npz", jobs=2, on_result=note)
    assert_good_and_bad(results, tmp_path / "out", models)
    assert rows_of(path) == [result.video for result in results], "in order at the end"
    assert sorted(r.video for r in told) == [r.video for r in results]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.npz")}
    (tmp_path / "out" / "face-03.npz").unlink()
    again = track_many(videos, tmp_path / "out", settings=FAST, format="npz", jobs=2)
    fresh = [Path(result.video).stem for result in again if result.status == "done" and not result.earlier]
    assert fresh == ["face-03"]
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.npz")}
    assert {path.stem for path in after if before[path] != after[path]} == {"face-03"}
    assert [(r.frames, r.faces) for r in again] == [(r.frames, r.faces) for r in results]


def workers_of_this_process() -> list[int]:
    psutil = pytest.importorskip("psutil")
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if any("napari_face_landmarks.runs.worker" in part for part in child.cmdline()):
                found.append(child.pid)
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
def test_a_process_that_is_killed_costs_a_second_try_and_twice_that_video_only(
    tmp_path: Path, models: Models
) -> None:
    frames = make_demo_clip(40, 240)[0]
    for name, count in (("1-once", 400), ("3-last", 40)):
        write_video(tmp_path / f"{name}.mkv", (frames[t % 40] for t in range(count)), fps=25)
    (tmp_path / "2-twice.mkv").write_bytes((tmp_path / "1-once.mkv").read_bytes())
    deaths = {"1-once": 1, "2-twice": 2, "3-last": 0}

    def kill(video: str, done: int, total: int) -> None:
        if deaths[Path(video).stem]:
            deaths[Path(video).stem] -= 1
            for pid in workers_of_this_process():
                os.kill(pid, signal.SIGKILL)

    again = partial(track_many, tmp_path, tmp_path / "out", settings=FAST, format="npz", jobs=1)
    results = again(progress=kill)
    assert not any(deaths.values())
    assert [(r.status, r.tries) for r in results] == [("done", 2), ("failed", 2), ("done", 1)]
    assert "ended by SIGKILL, 2 times: frames tracked until then are kept" in results[1].reason
    assert_as_single_runs([results[0], results[2]], models, FAST)

    results = again(resume=True)
    assert [(r.status, r.earlier) for r in results] == [("done", True), ("done", False), ("done", True)]
    once, twice = (Tracks.load(result.output) for result in results[:2])
    np.testing.assert_array_equal(twice.landmarks, once.landmarks)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="raise_signal wakes no join there")
def test_ctrl_c_ends_every_process_and_the_batch_goes_on_later(tmp_path: Path, models: Models) -> None:
    frames = make_demo_clip(60, 200)[0]
    longer = tmp_path / "longer.mkv"  # not done before the first word of how far it is
    write_video(longer, (frames[t % 60] for t in range(500)), fps=25)
    asked: list[str] = []

    def interrupt(video: str, done: int, total: int) -> None:
        if not asked:
            asked.append(video)
            signal.raise_signal(signal.SIGINT)

    # where the tests run in a shell's background, Ctrl-C is ignored from the start
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            track_many(longer, tmp_path, settings=FAST, format="npz", progress=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert workers_of_this_process() == []
    assert asked
    assert len(list(tmp_path.glob("*.journal"))) == 1
    assert not list(tmp_path.glob("*.npz"))
    results = track_many(longer, tmp_path, settings=FAST, format="npz", resume=True)
    assert [result.status for result in results] == ["done"]
    assert_as_single_runs(results, models, FAST)


@pytest.mark.slow
@pytest.mark.usefixtures("jobs_here")
def test_the_command_sums_up_and_says_whether_all_succeeded(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    chosen = tmp_path / "settings.json"
    chosen.write_text(json.dumps({"refine": "always", "clnf_every": 3}))
    words = [
        "batch",
        str(videos / "face-0[01].mkv"),
        "-o",
        str(out),
        "--settings",
        str(chosen),
        "--jobs",
        "1",
    ]
    assert cli.main([*words, "--refine", "off"]) == 0
    said = capsys.readouterr()
    assert "2 videos: 2 done." in said.out
    record = json.loads((out / "face-00.csv.json").read_text())
    assert record["run"]["settings"]["refine"] == "off"
    assert record["run"]["settings"]["clnf_every"] == 3
    assert record["stats"]["frames"] == N_FRAMES
    assert cli.main([*words[:2], str(videos / "text.mp4"), *words[2:], "--refine", "off"]) == 2
    said = capsys.readouterr()
    assert "3 videos: 2 done, 1 failed (2 of them in an earlier run)." in said.out
    assert "Traceback" not in said.err


def test_videos_are_found_in_folders_and_by_patterns(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MKV", "notes.txt", "deep/down/c.avi", ".hidden.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_videos(tmp_path) == [
        (tmp_path / "a.MKV", Path()),
        (tmp_path / "b.mp4", Path()),
        (tmp_path / "deep" / "down" / "c.avi", Path("deep/down")),
    ]
    pattern = str(tmp_path / "**" / "*.[am][vp][i4]")
    assert [video.name for video, _ in find_videos([pattern, tmp_path / "b.mp4"])] == ["b.mp4", "c.avi"]
    assert find_videos(tmp_path / "gone.mp4") == [(tmp_path / "gone.mp4", Path())]


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"inputs": []}, VideoError, "There are no videos to track"),
        ({"inputs": ["v.mp4", ""]}, VideoError, "The name of a video is empty"),
        ({"inputs": "nothing/*.mp4"}, VideoError, "No file matches nothing/"),
        ({"jobs": 0}, SettingsError, "jobs is 0: give a whole number from 1 to 256."),
        ({"format": "docx"}, ResultError, "There is no format 'docx'"),
        ({"models": 5}, ModelError, "Models cannot be identified by an object of type int: give"),
        ({"settings": {"skip": 2}}, SettingsError, "There is no setting named 'skip'"),
        ({"settings": "best"}, SettingsError, "There is no preset 'best'"),
        ({"models": "none-such"}, FaceLandmarksError, "There are no models named 'none-such'"),
        ({"scheduler": "tcp://127.0.0.1:9"}, ResultError, "No Dask scheduler answers at tcp://127.0.0.1:9"),
    ],
)
def test_what_cannot_be_begun_is_refused_in_one_sentence(
    changes: dict[str, Any],
    error: type[Exception],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "scheduler" in changes:
        pytest.importorskip("distributed")
        monkeypatch.setattr("napari_face_landmarks.runs.dask.CONNECT_SECONDS", 1)
    with pytest.raises(error) as refused:
        track_many(**{"inputs": tmp_path / "v.mp4", "output": tmp_path / "out", **changes})
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


def test_two_batches_in_one_folder_are_refused(tmp_path: Path, videos: Path) -> None:
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".batch.lock", "a+b") as stream:
        assert try_to_lock(stream)
        with pytest.raises(ResultError, match=r"^Another batch is running in .*: wait until it has ended"):
            track_many(videos / "face-00.mkv", tmp_path / "out")


@pytest.mark.parametrize("text", ["[1]", "{", '{"refine": "no"}', '{"clnf": 2}', "NaN"])
def test_settings_that_cannot_be_are_refused_with_the_file_in_the_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(SettingsError, match=r"s\.json"):
        read_settings(tmp_path / "s.json")
    (tmp_path / "s.json").write_text('{"settings": {"refine": "off"}, "other": 1}')
    assert read_settings(tmp_path / "s.json").refine == "off"


def test_without_distributed_a_sentence_says_what_to_install(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ResultError, match=r"pip install \"napari-face-landmarks\[cluster\]\"\.$"):
        track_many(videos / "face-00.mkv", tmp_path, scheduler="tcp://127.0.0.1:9")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs Dask distributed")
def test_a_cluster_of_two_processes_of_which_one_is_killed(
    tmp_path: Path, videos: Path, models: Models
) -> None:
    import distributed

    killed: list[int] = []
    done = 0
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:

        def kill(result: FileResult) -> None:
            nonlocal done
            done += 1
            if done == 6:  # both are at work on one of those left
                killed.append(cluster.workers[0].process.pid)
                os.kill(killed[0], signal.SIGKILL)

        results = track_many(
            videos,
            tmp_path / "out",
            settings=FAST,
            format="npz",
            scheduler=cluster.scheduler_address,
            on_result=kill,
        )
        assert cluster.workers[0].process.pid != killed[0]
    assert_good_and_bad(results, tmp_path / "out", models)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a video of a face that is away for some frames at 240, where a piece begins."""
    path = tmp_path_factory.mktemp("long") / "long.mkv"
    frames = make_demo_clip(60, 200)[0]
    turns = (frames[(t if (t // 60) % 2 == 0 else -1 - t) % 60] for t in range(360))
    write_video(path, (f * 0 if 237 <= t < 243 else f for t, f in enumerate(turns)), fps=25)
    return path


@pytest.fixture(scope="module")
def whole(long_video: Path, models: Models) -> Tracks:
    """Return the long video's landmarks, of a run without pieces."""
    return FaceTracker(models, TrackerSettings(refine="always"), threads=1).track(long_video)


@pytest.mark.slow
def test_a_video_cut_into_pieces_is_joined_without_a_seam(
    tmp_path: Path, long_video: Path, whole: Tracks
) -> None:
    psutil = pytest.importorskip("psutil")
    threads: list[int] = []

    def count(video: str, done: int, total: int) -> None:
        for pid in workers_of_this_process():
            with suppress(psutil.NoSuchProcess):
                threads.append(psutil.Process(pid).num_threads())

    (result,) = track_many(
        long_video,
        tmp_path,
        settings=whole.settings,
        format="npz",
        cut_at=120,
        jobs=cores(),
        progress=count,
    )
    assert threads[0] <= 4  # of a piece: computing, decoding, listening
    assert max(threads) <= 4 + 2 * cores()  # of the one process that joins them
    tracks = Tracks.load(result.output)
    assert result.status == "done"
    for name in ("source", "frame_indices", "timestamps"):
        np.testing.assert_array_equal(getattr(tracks, name), getattr(whole, name))
    for name in ("landmarks", "boxes"):
        np.testing.assert_allclose(getattr(tracks, name), getattr(whole, name), atol=1e-4, rtol=0)
    assert tracks.meta["pieces_joined"]["pieces"] == 3
    assert 120 not in tracks.meta["pieces_joined"]["tracked_again_from"]
    for count in ("frames", "faces", "refined", "carried", "frames_with_faces"):
        assert getattr(tracks.stats, count) == getattr(whole.stats, count)
    assert not list(tmp_path.glob("*.journal"))


@pytest.mark.slow
@pytest.mark.usefixtures("jobs_here")
def test_frames_that_the_decoder_mended_are_told_of_all_pieces(tmp_path: Path, models: Models) -> None:
    video = tmp_path / "mended.mov"
    mended_clip(video, (30, 90, 200), 240)  # the second piece warms up with some of the first's
    (result,) = track_many(video, tmp_path, settings=FAST, format="npz", cut_at=120, jobs=2)
    tracks = Tracks.load(result.output)
    assert tracks.meta["pieces_joined"]["pieces"] == 2
    assert [text for text in tracks.warnings if "concealed" in text] == [
        "3 frames are partly damaged (30, 90, 200): the decoder concealed errors, "
        "and their landmarks may be wrong."
    ]


@pytest.mark.slow
def test_states_that_differ_are_not_joined_and_tracked_again_instead(
    tmp_path: Path, long_video: Path, whole: Tracks, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_face_landmarks.runs import chunks

    settings = whole.settings
    parts = chunks.chunks_of(360, 120, settings)
    output = str(tmp_path / "t.npz")
    plain = [list(dataclasses.astuple(part)) for part in parts]
    for part in plain[:2]:  # the third is not there at all
        done = job.do_job(job.Job(str(long_video), output, settings=settings.to_dict(), chunk=part))
        assert done.status == "done"
    first, second = (chunks.read_chunk(chunks.chunk_journal(output, part), part, 1) for part in parts[:2])
    assert first is not None
    assert second is not None
    assert second.before is not None
    assert chunks.can_join(first.after, second.before, models.pdm)
    face = second.before.faces.faces[0]
    assert face is not None
    for change in (
        {"landmarks": face.landmarks + np.float32(0.01)},
        {"refinement": dataclasses.replace(face.refinement, refined_at=face.refinement.refined_at - 1)},
        {"places": face.places[:1]},
    ):
        other = dataclasses.replace(
            second.before,
            faces=dataclasses.replace(second.before.faces, faces=(dataclasses.replace(face, **change),)),
        )
        assert not chunks.can_join(first.after, other, models.pdm)
    monkeypatch.setattr(chunks, "can_join", lambda *_: False)
    result = job.do_job(job.Job(str(long_video), output, settings=settings.to_dict(), chunks=plain))
    assert result.status == "done"
    tracks = Tracks.load(output)
    for name in ARRAYS:  # from the first piece's state on: bit for bit
        np.testing.assert_array_equal(getattr(tracks, name), getattr(whole, name))
    assert tracks.meta["pieces_joined"]["tracked_again_from"] == [120, 240]


@pytest.mark.slow
@pytest.mark.usefixtures("jobs_here")
def test_journals_of_pieces_of_another_cut_do_not_stay_behind(tmp_path: Path, videos: Path) -> None:
    (result,) = track_many(videos / "face-00.mkv", tmp_path, settings=FAST, jobs=1)
    output = Path(result.output)
    for name in (output.name, "v" * 251 + ".csv"):
        path = tmp_path / name
        pieces = [chunk_journal(path, Chunk(0, first, first + 9, first + 9)) for first in (0, 777)]
        kept = [journal_of(path), path.with_name(f"{name[:240]}.x.journal"), tmp_path / "other.csv.7.journal"]
        for journal in (*pieces, *kept):
            journal.write_bytes(b"NFLJ")
        with open(pieces[1], "r+b") as stream:
            assert try_to_lock(stream)
            remove_chunks(path)
            assert [journal.exists() for journal in pieces] == [False, sys.platform != "win32"]
        remove_chunks(path)
        assert not pieces[1].exists()
        assert all(journal.exists() for journal in kept)
    left = chunk_journal(output, Chunk(0, 300, 400, 400))
    left.write_bytes(b"NFLJ")
    output.unlink()
    track_many(videos / "face-00.mkv", tmp_path, settings=FAST, jobs=1, resume=True)
    assert not left.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("jobs_here")
def test_a_summary_that_cannot_be_written_stops_no_video(tmp_path: Path, videos: Path) -> None:
    (tmp_path / "batch-summary.csv").mkdir()
    some = [videos / "face-00.mkv", videos / "text.mp4", videos / "face-01.mkv"]
    told: list[FileResult] = []
    with pytest.raises(ResultError, match=r"batch-summary\.csv is a folder"):
        track_many(some, tmp_path, settings=FAST, jobs=1, on_result=told.append)
    assert [result.status for result in told] == ["done", "failed", "done"]
    assert Tracks.load(tmp_path / "face-01.csv").n_frames == N_FRAMES


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_names_that_are_no_text_stop_nothing(tmp_path: Path, videos: Path) -> None:
    names = [os.fsdecode(name) for name in (b"caf\xe9", b"two\nlines", b"esc\x1b[31m", "Ωμέγα".encode())]
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / f"{name}.mkv").write_bytes((videos / "face-00.mkv").read_bytes())
    (tmp_path / "in" / os.fsdecode(b"bad\xe9.mp4")).write_text("text")
    words = ["batch", tmp_path / "in", "-o", tmp_path / "out", "--refine", "off", "--jobs", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "napari_face_landmarks", *words],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"5 videos: 4 done, 1 failed." in done.stdout
    assert b"\x1b" not in done.stdout + done.stderr
    for name in names:
        assert Tracks.load(tmp_path / "out" / f"{name}.csv").n_frames == N_FRAMES
    with open(tmp_path / "out" / "batch-summary.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert sorted(row["status"] for row in rows) == ["done"] * 4 + ["failed"]
    assert any(row["video"].endswith("two\\nlines.mkv") for row in rows)


@pytest.mark.slow
def test_what_a_callback_raises_comes_after_all_videos(tmp_path: Path, videos: Path) -> None:
    def break_down(result: FileResult) -> None:
        raise RuntimeError("no screen")

    some = [videos / "face-00.mkv", videos / "face-01.mkv"]
    with pytest.raises(RuntimeError, match="no screen"):
        track_many(some, tmp_path, settings=FAST, jobs=1, on_result=break_down)
    assert all((tmp_path / f"{video.stem}.csv").exists() for video in some)


@pytest.mark.slow
def test_processes_that_cannot_be_started_fail_alone(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    class Seldom(worker.Worker):
        def __init__(self, threads: int) -> None:
            calls.append(threads)
            if len(calls) <= 2:
                raise OSError(12, "Cannot allocate memory")
            super().__init__(threads)

    monkeypatch.setattr(worker, "Worker", Seldom)
    some = [videos / "face-00.mkv", videos / "face-01.mkv"]
    results = track_many(some, tmp_path, settings=FAST, jobs=1)
    assert [result.status for result in results] == ["failed", "done"]
    assert "No process could be started" in results[0].reason


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs Dask distributed")
@pytest.mark.parametrize("address", ["nonsense", "foo://x:1"])
def test_an_address_that_is_none_is_one_sentence_and_no_more(tmp_path: Path, address: str) -> None:
    words = ["batch", tmp_path / "v.mp4", "-o", tmp_path / "out", "--scheduler", address]
    done = subprocess.run(
        [sys.executable, "-m", "napari_face_landmarks", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert f"No Dask scheduler answers at {address} (" in said


@pytest.mark.slow
@pytest.mark.usefixtures("jobs_here")
def test_a_result_of_another_video_is_never_written_over(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    days = [tmp_path / day / "a.mkv" for day in ("day1", "day2")]
    for number, video in enumerate(days):
        video.parent.mkdir()
        video.write_bytes((videos / f"face-{number:02d}.mkv").read_bytes())
    out = tmp_path / "out"
    end = ["-o", str(out), "--refine", "off", "--jobs", "1"]
    assert cli.main(["batch", str(days[0]), *end]) == 0
    before = {path: path.read_bytes() for path in out.glob("a.csv*")}
    for resume in ([], ["--resume"]):
        assert cli.main(["batch", str(days[1]), str(days[0]), *end, *resume]) == 0
        assert "2 videos: 2 done" in capsys.readouterr().out
        assert {path: path.read_bytes() for path in out.glob("a.csv*")} == before
        assert sorted(out.rglob("a.csv")) == [out / "a.csv", out / "day2" / "a.csv"]
    for path in (out / "day2").iterdir():
        path.unlink()

    # nor where a video takes the place of another one that has gone
    moved = days[0].rename(tmp_path / "old.mkv")
    assert cli.main(["batch", str(days[1]), *end]) == 2
    assert "a.csv has the landmarks of another video, " + str(days[0]) + ": give another" in (
        capsys.readouterr().out
    )
    assert {path: path.read_bytes() for path in out.glob("a.csv*")} == before
    moved.rename(days[0])

    # the same video, with other settings and from another place, is done again
    days[1].write_bytes(days[0].read_bytes())
    other = FAST.replace(min_confidence=0.9).to_dict()
    assert job.do_job(job.Job(str(days[1]), str(out / "a.csv"), settings=other)).status == "done"

    (out / "b.csv").write_text("of track")
    journal_of(out / "b.csv").write_text("of track")
    (failed,) = track_many(days[0].rename(tmp_path / "b.mkv"), out, settings=FAST, jobs=1)
    assert f"has no record of a batch that tracked {tmp_path / 'b.mkv'} into it: give" in failed.reason
    assert (out / "b.csv").read_text() == journal_of(out / "b.csv").read_text() == "of track"


def test_a_result_that_was_edited_is_kept_and_an_empty_one_is_made_again(
    tmp_path: Path, videos: Path
) -> None:
    out = tmp_path / "a.csv"
    mine = job.Job(str(videos / "face-00.mkv"), str(out), settings=FAST.to_dict())
    assert job.do_job(mine).status == "done"
    whole, record = out.read_bytes(), json.loads(job.record_of(out).read_text())
    assert record["output_bytes"] == len(whole)
    out.write_bytes(b"")
    again = job.do_job(mine)
    assert (again.status, again.earlier) == ("done", False)
    edited = whole.replace(b"1", b"2")
    for settings in (FAST, FAST.replace(min_confidence=0.9)):
        out.write_bytes(edited)
        failed = job.do_job(dataclasses.replace(mine, settings=settings.to_dict()))
        assert failed.reason == (
            f"{out} was changed after {mine.video} was tracked into it: give another folder, or move the "
            "file away."
        )
        assert out.read_bytes() == edited
    # a record of before it had these says no more than that the file is of this video
    old = {key: value for key, value in record.items() if not key.startswith("output_")}
    job.record_of(out).write_text(json.dumps(old))
    assert job.do_job(mine).earlier


def test_a_job_done_again_for_a_lost_worker_is_of_this_batch(tmp_path: Path, videos: Path) -> None:
    mine = job.Job(
        str(videos / "face-00.mkv"), str(tmp_path / "a.csv"), settings=FAST.to_dict(), batch="this"
    )
    first = job.do_job(mine)
    assert first.status == "done"
    assert job.do_job(mine) == first  # the worker was lost before it could tell
    assert job.do_job(dataclasses.replace(mine, batch="the next")).earlier


def test_a_run_that_was_stopped_before_its_record_goes_on(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str) -> str:
        raise ResultError("No space is left.")

    out = tmp_path / "a.csv"
    mine = job.Job(str(videos / "face-00.mkv"), str(out), settings=FAST.to_dict())
    monkeypatch.setattr(job, "_sha256", full)
    assert job.do_job(mine).reason == "No space is left."
    assert out.stat().st_size
    monkeypatch.undo()
    done = job.do_job(mine)
    assert (done.status, done.earlier) == ("done", False)
    assert job.do_job(mine).earlier


def test_a_video_that_was_still_being_copied_is_tracked_again(tmp_path: Path, videos: Path) -> None:
    video, out = tmp_path / "a.mkv", tmp_path / "a.csv"
    whole = (videos / "face-00.mkv").read_bytes()
    video.write_bytes(whole[: len(whole) * 2 // 3])
    mine = job.Job(str(video), str(out), settings=FAST.to_dict())
    assert job.do_job(mine).status == "breaks off"
    video.write_bytes(whole)
    assert job.do_job(mine).status == "done"
    video.write_bytes((videos / "face-01.mkv").read_bytes())
    assert f"has the landmarks of an earlier version of {video}: give" in job.do_job(mine).reason


@pytest.mark.slow
def test_a_cancelled_batch_keeps_what_is_done_and_resumes_the_rest(videos: Path, tmp_path: Path) -> None:
    inputs = [videos / f"face-{i:02d}.mkv" for i in range(3)]
    done: list[str] = []
    cancelled = track_many(
        inputs,
        tmp_path,
        settings=FAST,
        jobs=1,
        resume=True,
        on_result=lambda result: done.append(result.video),
        cancelled=lambda: bool(done),
    )
    assert cancelled[0].status == "done"
    assert cancelled[2].status == "failed"
    assert "was not tracked: start the batch again" in cancelled[2].reason
    again = track_many(inputs, tmp_path, settings=FAST, jobs=1, resume=True)
    assert [result.status for result in again] == ["done"] * 3
    assert again[0].earlier
    assert not again[2].earlier
