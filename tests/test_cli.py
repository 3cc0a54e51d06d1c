"""The command line: what it writes, what it refuses, and that nothing computed is lost."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_face_landmarks import FaceTracker, TrackerSettings, Tracks, cli, load_models
from napari_face_landmarks.cli.main import make_parser
from napari_face_landmarks.cli.options import chosen_settings
from napari_face_landmarks.demo import make_demo_clip
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.settings import setting_range
from napari_face_landmarks.video import open_video, write_video

N_FRAMES = 20


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a short video of a face; .mkv, so that a part of it is a video too."""
    path = tmp_path_factory.mktemp("clip") / "face.mkv"
    write_video(path, make_demo_clip(N_FRAMES, 240)[0], fps=25)
    return path


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the last line on stderr, having checked that nothing there is a traceback."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text.strip().splitlines()[-1]


def test_track_writes_what_a_script_gets(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, stats, overlay = tmp_path / "new" / "t.csv", tmp_path / "t.json", tmp_path / "t.mp4"
    words = ["track", str(clip), "-o", str(out), "--stats", str(stats), "--overlay", str(overlay)]
    assert cli.main([*words, "--refine", "always", "--clnf-every", "3"]) == 0
    text = capsys.readouterr().err
    assert f"{N_FRAMES}/{N_FRAMES}" in text
    assert "frames/s" in text
    assert f"{N_FRAMES} frames, {N_FRAMES} with a face; {N_FRAMES} faces found" in text

    tracks = FaceTracker(load_models(), TrackerSettings(refine="always", clnf_every=3)).track(clip)
    read = Tracks.load(out)
    np.testing.assert_allclose(read.landmarks, tracks.landmarks, atol=1e-4)
    np.testing.assert_array_equal(read.source, tracks.source)
    np.testing.assert_array_equal(read.timestamps, tracks.timestamps)
    with open_video(overlay) as video:
        assert video.shape == (N_FRAMES, 240, 240, 3)

    record = json.loads(stats.read_text())
    assert record["frames"] == record["faces"] == N_FRAMES
    assert record["refined"] == int((tracks.source == 2).sum()) > 0
    assert record["carried"] == int((tracks.source == 3).sum()) > 0
    assert record["fps"] == pytest.approx(N_FRAMES / record["seconds"])
    assert set(record["stage_seconds"]) == {"decode", "detect", "pfld", "clnf", "smoothing"}
    assert all(seconds > 0 for seconds in record["stage_seconds"].values())
    assert record["settings"]["clnf_every"] == 3
    assert record["meta"]["models"] == "open"


def test_refinement_that_switches_on_is_told_once(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["track", str(clip), "-o", str(tmp_path / "t.csv"), "--refine"]
    sentence = "Hard landmarks were detected (pen marks, occlusion, paralysis or pose)"
    monkeypatch.setattr("napari_face_landmarks.tracking.refinement.is_unsure", lambda confidence: True)
    assert cli.main([*words, "auto"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if sentence in line]
    assert len(told) == 1
    rate = re.search(r"Expect about (\d+) frames per second on this machine", told[0])
    assert rate is not None
    assert int(rate.group(1)) > 0
    assert cli.main([*words, "always"]) == 0
    assert sentence not in capsys.readouterr().err


@pytest.mark.parametrize("compiles", [False, True])
def test_a_beginning_is_explained_while_kernels_compile(
    compiles: bool,
    tmp_path: Path,
    clip: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["track", str(clip), "-o", str(tmp_path / "t.csv"), "--refine", "off", "--threads", "2"]
    slow, compiled = FaceTracker.prepare, ["of an earlier run"]

    def prepare(tracker: FaceTracker) -> None:
        compiled.extend(["warp"] * compiles)
        time.sleep(0.1)
        slow(tracker)

    monkeypatch.setattr(FaceTracker, "prepare", prepare)
    monkeypatch.setattr("napari_face_landmarks.cli.track.COMPILED", compiled)
    monkeypatch.setattr("napari_face_landmarks.cli.track.NOTICE_SECONDS", 0.01)
    assert cli.main(words) == 0
    said = "Preparing: the first run after an installation compiles"
    assert capsys.readouterr().err.count(said) == compiles


@pytest.mark.parametrize("threads", ["0", "many", "1.5"])
def test_a_bad_number_of_threads_is_refused(
    threads: str, tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["track", str(clip), "-o", str(tmp_path / "t.csv"), "--threads", threads])
    assert stopped.value.code == 2
    assert "is not a positive integer" in capsys.readouterr().err


def test_npz_keeps_settings_and_counts(tmp_path: Path, clip: Path) -> None:
    assert cli.main(["track", str(clip), "-o", str(tmp_path / "t.npz"), "--refine", "off"]) == 0
    tracks = Tracks.load(tmp_path / "t.npz")
    assert tracks.settings == TrackerSettings(refine="off")
    assert tracks.stats.frames == N_FRAMES


def parsed(*words: str) -> TrackerSettings:
    return chosen_settings(make_parser().parse_args(["track", "v.mp4", "-o", "t.csv", *words]))


def test_without_options_the_settings_are_the_defaults() -> None:
    assert parsed() == TrackerSettings()


def test_a_preset_and_what_differs_from_it() -> None:
    assert parsed("--preset", "fast") == TrackerSettings.preset("fast")
    given = parsed("--max-faces", "2", "--preset", "surgical-markings")
    assert given == TrackerSettings.preset("surgical-markings", max_faces=2)


def test_an_unknown_preset_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parsed("--preset", "best")
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "balanced" in line


def test_about_prints_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["about"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("napari-face-landmarks", "Python", "models open", "numpy", "onnxruntime", "napari", "av"):
        assert any(line.startswith(f"{name}: ") for line in lines), name


@pytest.mark.parametrize("item", dataclasses.fields(TrackerSettings), ids=lambda item: item.name)
def test_each_setting_has_an_option(item: dataclasses.Field[Any], capsys: pytest.CaptureFixture[str]) -> None:
    option = "--" + item.name.replace("_", "-")
    value: Any = "always"
    if item.name != "refine":
        low, high = setting_range(item.name)
        value = type(item.default)(low if item.default != low else high)
    assert parsed(option, str(value)) == TrackerSettings(**{item.name: value})
    with pytest.raises(SystemExit):
        parsed("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert option in shown
    assert f"efault: {item.default}." in shown


def bad_words(case: str, folder: Path, clip: Path) -> list[str]:
    out = str(folder / "t.csv")
    (folder / "text.mp4").write_text("not a video")
    (folder / "file").write_text("")
    (folder / "empty").mkdir()
    return {
        "no such video": ["track", str(folder / "none.mp4"), "-o", out],
        "no video": ["track", str(folder / "text.mp4"), "-o", out],
        "a folder for a video": ["track", str(folder / "empty"), "-o", out],
        "no output": ["track", str(clip)],
        "no command": [],
        "unknown command": ["tracks"],
        "unknown option": ["track", str(clip), "-o", out, "--fast"],
        "range": ["track", str(clip), "-o", out, "--clnf-every", "0"],
        "not a number": ["track", str(clip), "-o", out, "--search-radius", "wide"],
        "even window": ["track", str(clip), "-o", out, "--smoothing-window", "4"],
        "refine": ["track", str(clip), "-o", out, "--refine", "maybe"],
        "no such models": ["track", str(clip), "-o", out, "--models", "none"],
        "empty models": ["track", str(clip), "-o", out, "--models", str(folder / "empty")],
        "suffix": ["track", str(clip), "-o", str(folder / "t.txt")],
        "suffix of overlay": ["track", str(clip), "-o", out, "--overlay", str(folder / "o.gif")],
        "output is a folder": ["track", str(clip), "-o", str(folder / "empty.csv")],
        "output below a file": ["track", str(clip), "-o", str(folder / "file" / "t.csv")],
        "stats below a file": ["track", str(clip), "-o", out, "--stats", str(folder / "file" / "t.json")],
        "output is the video": ["track", str(clip), "-o", out, "--overlay", str(clip)],
        "twice the same": ["track", str(clip), "-o", str(folder / "t.npz"), "--stats", str(folder / "t.npz")],
        "demo below a file": ["demo", "--output", str(folder / "file" / "demo")],
    }[case]


BAD_CASES = [
    "no such video",
    "no video",
    "a folder for a video",
    "no output",
    "no command",
    "unknown command",
    "unknown option",
    "range",
    "not a number",
    "even window",
    "refine",
    "no such models",
    "empty models",
    "suffix",
    "suffix of overlay",
    "output is a folder",
    "output below a file",
    "stats below a file",
    "output is the video",
    "twice the same",
    "demo below a file",
]


@pytest.mark.parametrize("case", BAD_CASES)
def test_bad_input_is_one_sentence_and_status_2(
    case: str, tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.csv").mkdir()
    before = clip.read_bytes()
    try:
        status = cli.main(bad_words(case, tmp_path, clip))
    except SystemExit as stop:  # argparse's own
        status = stop.code
    assert status == 2
    text = capsys.readouterr().err.strip()
    assert len(text.splitlines()) == 1
    assert text.startswith("napari-face-landmarks: ")
    assert text.endswith(".")
    assert not (tmp_path / "t.csv").exists()
    assert clip.read_bytes() == before


def test_no_face_is_said_and_the_empty_result_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "grey.mp4", np.full((5, 120, 160, 3), 90, dtype=np.uint8), fps=25)
    assert cli.main(["track", str(tmp_path / "grey.mp4"), "-o", str(tmp_path / "t.csv")]) == 2
    assert "No face was detected" in said(capsys)
    tracks = Tracks.load(tmp_path / "t.csv")
    assert tracks.n_frames == 5
    assert not tracks.present.any()


def test_what_can_be_read_of_a_broken_video_is_kept(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = clip.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: int(0.6 * len(whole))])
    assert cli.main(["track", str(tmp_path / "cut.mkv"), "-o", str(tmp_path / "t.csv")]) == 2
    assert "is truncated or damaged" in said(capsys)
    tracks = Tracks.load(tmp_path / "t.csv")
    assert 0 < tracks.n_frames < N_FRAMES
    assert tracks.present.all()


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_ctrl_c_keeps_the_frames_that_are_done(
    times: int,
    tmp_path: Path,
    clip: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextmanager
    def bar(what: str, total: int) -> Iterator[Callable[[], None]]:
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            if done == 7:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)

        yield advance

    monkeypatch.setattr("napari_face_landmarks.cli.console.progress_bar", bar)
    before = signal.getsignal(signal.SIGINT)
    out, stats = tmp_path / "t.csv", tmp_path / "t.json"
    assert cli.main(["track", str(clip), "-o", str(out), "--stats", str(stats)]) == 130
    assert f"Stopped after 7 of {N_FRAMES} frames" in said(capsys)
    assert signal.getsignal(signal.SIGINT) is before
    assert Tracks.load(out).n_frames == 7
    record = json.loads(stats.read_text())
    assert not record["completed"]


def test_ctrl_c_before_anything_is_computed(
    clip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("napari_face_landmarks.cli.track._open", stop)
    assert cli.main(["track", str(clip), "-o", "t.csv"]) == 130
    assert said(capsys) == "Stopped."


def test_models_are_listed_with_their_licences(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("open ")
    assert "CC BY 4.0" in text
    assert "research use only" in text
    assert "helen_train" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("napari-face-landmarks ")


@pytest.mark.slow
def test_track_runs_the_experts_on_onnx_runtime(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    words = ["track", str(clip), "--refine", "always"]
    assert cli.main([*words, "-o", str(tmp_path / "numba.npz")]) == 0
    onnx = ["--experts", "onnx", "--provider", "CPUExecutionProvider"]
    assert cli.main([*words, "-o", str(tmp_path / "onnx.npz"), *onnx]) == 0
    numba, tracks = Tracks.load(tmp_path / "numba.npz"), Tracks.load(tmp_path / "onnx.npz")
    assert tracks.meta["experts"] == "ONNX Runtime: CPUExecutionProvider"
    assert "experts" not in numba.meta
    np.testing.assert_allclose(tracks.landmarks, numba.landmarks, atol=0.02)
    assert cli.main([*words, "-o", str(tmp_path / "t.npz"), "--experts", "onnx", "--provider", "Moon"]) == 2
    assert "ONNX Runtime has no provider 'Moon': choose from " in said(capsys)


@pytest.mark.slow
def test_tracking_imports_neither_napari_nor_qt(tmp_path: Path, clip: Path) -> None:
    program = (
        "import sys\n"
        "from napari_face_landmarks import cli\n"
        "heavy = {'napari', 'qtpy', 'numpy', 'cv2', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"assert cli.main(['track', {str(clip)!r}, '-o', {str(tmp_path / 't.csv')!r}]) == 0\n"
        "heavy = {'napari', 'qtpy', 'PyQt6', 'magicgui', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_runs_as_a_module() -> None:
    words = [sys.executable, "-m", "napari_face_landmarks", "track"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "required" in done.stderr


def run_outside(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "napari_face_landmarks", *words],
        text=True,
        timeout=120,
        check=False,
        **options,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_under_what_is_printed_is_one_sentence() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = run_outside(["formats"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no space left" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the shell closes it")
def test_with_stderr_closed_a_run_is_done_all_the_same(tmp_path: Path, clip: Path) -> None:
    output = tmp_path / "talk.csv"
    command = shlex.join(
        [sys.executable, "-m", "napari_face_landmarks", "track", str(clip), "-o", str(output)]
    )
    done = subprocess.run(f"{command} 2>&-", shell=True, timeout=120, check=False)
    assert done.returncode == 0
    assert Tracks.load(output).n_frames > 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems always have a screen")
def test_a_demo_is_not_opened_where_there_is_no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("qtpy")
    from napari_face_landmarks.cli import demo

    for name in demo.SCREENS:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ResultError, match="no display"):
        demo.show(None)  # type: ignore[arg-type]
