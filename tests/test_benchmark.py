"""The benchmark: every part runs, its tables and picture are written, and its steps compute the same."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from skimage import data

from napari_face_landmarks.benchmark import peer, race
from napari_face_landmarks.benchmark.ablation import steps
from napari_face_landmarks.benchmark.ablation_engine import looped_im2col, vectorised_im2col
from napari_face_landmarks.benchmark.jitter import jitter
from napari_face_landmarks.benchmark.table import SECTION, benchmark_table, write_table
from napari_face_landmarks.benchmark.throughput import Repeated, bound
from napari_face_landmarks.benchmark.timing import take_time
from napari_face_landmarks.cli import main
from napari_face_landmarks.clnf import numba_engine, reference
from napari_face_landmarks.errors import ResultError, SettingsError
from napari_face_landmarks.models import Models
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.video import write_video

BEGIN, END = f"<!-- {SECTION} -->", f"<!-- end of {SECTION} -->"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "face.mp4"
    face = np.ascontiguousarray(data.astronaut()[10:250, 105:345])
    write_video(path, [np.roll(face, t, axis=1) for t in range(8)], fps=25)
    return path


@pytest.mark.slow
def test_the_command_measures_everything_and_writes_it(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n\n{BEGIN}\nold\n{END}\nafter\n")
    record, plot = tmp_path / "out.json", tmp_path / "out.png"
    arguments = ["benchmark", str(clip), "--quick", "--json", str(record), "--table", str(readme)]
    assert main([*arguments, "--plot", str(plot)]) == 0
    told = capsys.readouterr().out
    for part in ("contrast normalisation", "im2col", "response map,", "response pass", "NU-RLMS", "PFLD,"):
        assert part in told
    found = json.loads(record.read_text())
    assert found["machine"]["numba"] is True
    assert all(t["quartile_1"] <= t["median"] <= t["quartile_3"] for t in found["kernels"])
    ablation = found["ablation"]
    assert len(ablation) == 10
    assert ablation[0]["total"] == 1
    assert ablation[0]["moved"] == 0
    assert ablation[1]["moved"] < 0.01
    assert ablation[2]["moved"] < 0.01
    assert ablation[-1]["total"] == pytest.approx(ablation[-1]["fps"] / ablation[0]["fps"])
    modes = {(rate["refine"], rate["every"]) for rate in found["videos"][0]["rates"]}
    assert modes == {("off", 1), ("auto", 1), ("auto", 2), ("always", 1), ("always", 2)}
    assert found["videos"][0]["decoding_fps"] > 0
    assert len(found["steadiness"]) == 9
    assert 50 < found["peak_mb"] < 2000
    assert 0.1 < found["start_seconds"] < 100
    assert [cost["value"] for cost in found["sizes"]] == [320, 640]
    assert [cost["value"] for cost in found["faces"]] == [1, 2]
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "baseline: loops" in text
    assert f"tracks one frame of it takes {found['start_seconds']:.2f} s" in text
    picture = cv2.imread(str(plot))
    assert picture.shape[1] == 1200
    assert picture.min() < 100


def test_a_plot_without_matplotlib_is_refused_first(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["benchmark", str(clip), "--plot", str(tmp_path / "out.png")]) == 2
    said = capsys.readouterr()
    assert 'pip install "napari-face-landmarks[plot]"' in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("option", "name", "sentence"),
    [
        ("--json", "out.txt", "does not end in .json"),
        ("--table", "out.json", "does not end in .md"),
        ("--plot", "out.pdf", "does not end in .png"),
    ],
)
def test_what_cannot_be_written_is_refused_first(
    option: str, name: str, sentence: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", str(clip), option, str(tmp_path / name)]) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.out == ""


def test_a_video_without_a_face_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "grey.mp4"
    write_video(path, np.full((3, 120, 160, 3), 128, np.uint8), fps=25)
    assert main(["benchmark", str(path), "--quick"]) == 2
    assert "has no face on its first frame" in capsys.readouterr().err


def test_the_steps_of_the_engine_lay_out_what_the_reference_does() -> None:
    area = np.random.default_rng(1).uniform(0, 255, (19, 19))
    expected = reference.im2col(area)
    np.testing.assert_allclose(looped_im2col(area), expected, atol=1e-12)
    np.testing.assert_allclose(vectorised_im2col(area), expected, atol=1e-12)


def test_each_step_changes_one_thing_and_the_last_is_what_users_run() -> None:
    ablation = steps(threads=3)
    for before, after in itertools.pairwise(ablation):
        changed = {
            name
            for name, value in after.settings.to_dict().items()
            if value != before.settings.to_dict()[name]
        }
        others = (after.engine is not before.engine) + (after.threads != before.threads)
        assert len(changed - {"smoothing_window"}) + others == 1
    assert ablation[-1].settings == TrackerSettings(refine="always")
    assert ablation[-1].engine is numba_engine
    assert ablation[-1].threads == 3
    assert ablation[0].engine is reference


def test_times_are_those_of_one_call() -> None:
    calls: list[int] = []
    timing = take_time("nothing", lambda: calls.append(1), 50, parts=4)
    assert timing.calls == 50
    assert len(calls) == 55
    assert 0 <= timing.quartile_1 <= timing.median <= timing.quartile_3 < 0.1


def test_a_repeated_clip_goes_forth_and_back_without_a_jump() -> None:
    frames = [np.full((2, 2, 3), value, np.uint8) for value in range(4)]
    video = Repeated(frames, 11)
    assert [int(video[i][0, 0, 0]) for i in range(len(video))] == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2]


def test_the_bound_is_named() -> None:
    stages = {"decode": 1.0, "pfld": 3.0, "clnf": 4.0, "smoothing": 0.1, "detect": 0.0}
    assert bound(stages, 240, 4).startswith("CLNF;")
    assert bound(stages, 100, 2).startswith("the cores")
    assert bound(stages, 100, 1).startswith("one core; ms per frame: clnf 4.00, pfld 3.00")


def test_a_file_with_half_of_the_markers_is_left_alone(tmp_path: Path) -> None:
    from napari_face_landmarks.benchmark.ablation import StepResult
    from napari_face_landmarks.benchmark.long_run import LengthCost, Slope
    from napari_face_landmarks.benchmark.run import QUICK, Benchmark

    about = {"processor": "p", "cores": 2, "load": 3.0, "python": "3", "versions": {}, "numba": True}
    step = StepResult("baseline", 0.5, 4, 1.0, 1.0, 0.0)
    length = LengthCost(100, 2.0, Slope(0.01, math.nan), None)
    result = Benchmark(
        about, "m 1", QUICK, [], [step], [], [], [], length, [], None, None, ["The machine was busy."]
    )
    assert "**The machine was busy.**" in benchmark_table(result)
    assert "load average 3.0" in benchmark_table(result)
    path = tmp_path / "README.md"
    path.write_text(f"a {BEGIN} b")
    with pytest.raises(ResultError, match=r"^[^\n]*needs each of the markers[^\n]*\.$"):
        write_table(path, result)
    assert path.read_text() == f"a {BEGIN} b"
    dataclasses.replace(result).save(tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["length"]["slope"] == {
        "share": 0.01,
        "error": None,
    }
    assert "a frame costs +1.00 % more than in a new run" in benchmark_table(result)


def test_a_run_that_costs_more_the_longer_it_goes_on_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_face_landmarks.benchmark import long_run

    class Slower:
        """A tracker whose frames take a fiftieth more time after 600 of them."""

        def __init__(self, models: object, settings: object, threads: int) -> None:
            pass

        def track_frames(self, frames: Repeated) -> Generator[int, None, None]:
            for number in range(len(frames)):
                clock[0] += 0.51 if number >= 600 else 0.5
                yield number

    clock = [0.0]
    monkeypatch.setattr(long_run, "FaceTracker", Slower)
    monkeypatch.setattr(long_run.time, "perf_counter", lambda: clock[0])
    frames = [np.zeros((2, 2, 3), np.uint8)] * 26
    found = long_run.length_cost(cast(Models, None), frames, 640)
    assert (found.frames, found.slope.share) == (650, pytest.approx(0.02))
    assert found.slope.error == pytest.approx(0, abs=1e-9)
    assert long_run.slope_text(found.slope) == "+2.00 % (standard error 0.00)"
    young = long_run.length_cost(cast(Models, None), frames, 50)
    assert (young.slope.share, young.frames) == (pytest.approx(0), 50)
    assert math.isnan(young.slope.error)


def test_jitter_is_that_of_the_frames_where_the_face_keeps_still() -> None:
    rng = np.random.default_rng(3)
    face = rng.uniform(0, 60, (68, 2))
    face[36], face[45] = (10, 30), (50, 30)
    still = np.repeat(face[None], 200, axis=0)
    assert jitter(still) == (0.0, 198)
    noisy = still + rng.normal(0, 0.1, still.shape)
    amount, frames = jitter(noisy)
    assert amount == pytest.approx(0.1 * math.sqrt(6 * 2), rel=0.03)  # 1 + 4 + 1, in x and y
    assert frames == 198
    walking = still + np.arange(200)[:, None, None]
    assert jitter(walking)[1] == 0
    moved_later = np.concatenate([noisy[:100], noisy[100:] + np.arange(100)[:, None, None]])
    assert jitter(moved_later)[0] == pytest.approx(amount, rel=0.05)
    assert jitter(moved_later)[1] < 105
    lost = noisy.copy()
    lost[50:60] = np.nan
    assert jitter(lost)[0] == pytest.approx(amount, rel=0.05)
    assert math.isnan(jitter(still[:5])[0])


FAKE = """
import json, sys
system = "fast" if sys.argv[1].endswith(".mp4") else sys.argv[1]
frames, cores = (int(value) for value in (sys.argv[2:4] if system == "fast" else sys.argv[3:5]))
if system == "dlib":
    sys.exit("no shape predictor")
rate = cores * {"fast": 500, "ours": 1000}[system]
print("other output")
print(json.dumps({"name": system + " 1.0", "frames": frames, "faces": frames, "seconds": frames / rate,
                  "cpu_seconds": 0.01 * frames, "peak_mb": None if system == "fast" else 100}))
"""


@pytest.mark.slow
def test_a_race_runs_everybody_each_round_and_names_who_is_absent(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE)
    monkeypatch.setattr(race.script, "__file__", str(fake))
    monkeypatch.setattr(race, "thread_count", lambda: 2)
    arguments = ["benchmark", str(clip), "--race", "--rounds", "2"]
    for system in (f"fast={sys.executable},{fake}", f"dlib={sys.executable}", "mediapipe=/no/python"):
        arguments += ["--peer", system]
    record, table, plot = (tmp_path / f"race{suffix}" for suffix in (".json", ".md", ".png"))
    assert main([*arguments, "--json", str(record), "--table", str(table), "--plot", str(plot)]) == 0
    found = json.loads(record.read_text())
    assert {(entry["system"], entry["cores"]) for entry in found["entries"]} == {
        (system, cores) for system in (*race.OURS, "fast") for cores in (1, 2)
    }
    assert all(len(entry["laps"]) == 2 for entry in found["entries"])
    assert all(lap["end_to_end_fps"] < lap["fps"] for entry in found["entries"] for lap in entry["laps"])
    assert found["left_out"]["dlib"] == "no shape predictor"
    assert "No such file" in found["left_out"]["mediapipe"]
    assert found["left_out"]["pfld"].startswith("not given")
    rows = [line.split(" | ") for line in table.read_text().splitlines() if line.startswith("| ")]
    assert [row[2] for row in rows[2:]] == ["2000"] * 4 + ["1000"] + ["1000"] * 4 + ["500"]
    assert rows[6][0] == "| fast 1.0"
    assert rows[6][5:7] == ["10.00", "unknown"]
    assert "no shape predictor" in capsys.readouterr().out
    assert cv2.imread(str(plot)).min() < 100


def test_a_race_without_this_package_is_none(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise OSError('out of memory')")
    monkeypatch.setattr(race.script, "__file__", str(broken))
    assert main(["benchmark", str(clip), "--race"]) == 2
    assert "cannot be raced" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["mediapipe", "mediapipe=", "=python", "openface=/usr/bin/python", "dlib=a,b,c"]
)
def test_a_peer_that_cannot_be_run_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^The peer [^\n]*SCRIPT\.py\.$"):
        race.parse_peer(text)


def test_a_peer_is_for_a_race(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", str(clip), "--peer", "pfld=a.onnx"]) == 2
    assert "give --race too" in capsys.readouterr().err


def test_each_system_reports_its_frames_and_faces(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mesh:
        def __init__(self, max_num_faces: int) -> None:
            assert max_num_faces == 1

        def __enter__(self) -> Mesh:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def process(self, frame: np.ndarray) -> SimpleNamespace:
            return SimpleNamespace(multi_face_landmarks=[1] if frame.mean() > 1 else None)

    mesh = SimpleNamespace(FaceMesh=Mesh)
    fakes = {
        "mediapipe": SimpleNamespace(solutions=SimpleNamespace(face_mesh=mesh)),
        "dlib": SimpleNamespace(
            __version__="20",
            get_frontal_face_detector=lambda: lambda frame: [],
            shape_predictor=lambda model: lambda frame, box: None,
        ),
    }
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr(peer, "version", lambda name: "0")
    network = Path(peer.__file__).parents[1] / "models" / "open" / "pfld.onnx"
    found = {
        "ours": peer.ours(str(clip), 5, 1, '{"refine": "off"}', "open"),
        "mediapipe": peer.mediapipe(str(clip), 5, 1),
        "dlib": peer.dlib(str(clip), 100, 1, "model.dat"),
        "pfld": peer.pfld(str(clip), 5, 1, str(network), "60", "60", "180", "180"),
    }
    assert {name: (one["frames"], one["faces"]) for name, one in found.items()} == {
        "ours": (5, 5),
        "mediapipe": (5, 5),
        "dlib": (8, 0),
        "pfld": (5, 5),
    }
    assert all(one["seconds"] > 0 and one["cpu_seconds"] > 0 for one in found.values())
