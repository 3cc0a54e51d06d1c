"""A file of results says how it was made, and what it says is enough to make the same results again."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import napari_face_landmarks
from napari_face_landmarks import FaceTracker, TrackerSettings, Tracks, cli, list_models, load_models
from napari_face_landmarks.models import bundle_folder, load_card
from napari_face_landmarks.models.bundle import MODEL_FILES, PART_FILES
from napari_face_landmarks.runs import CheckpointedRun, journal_of
from napari_face_landmarks.tracking import provenance as provenance_module
from napari_face_landmarks.tracking.provenance import COMPUTING, code_fingerprint
from napari_face_landmarks.versions import __version__
from napari_face_landmarks.video import open_video, write_video
from openface_files import write_folder
from test_formats import need
from test_openface import face_model
from test_tracking import moving

COMPLETE = {"npz": ".npz", "movement": ".nc", "parquet": ".parquet", "sleap": ".analysis.h5"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, moving(9)[0], fps=25)
    return path


@pytest.mark.parametrize("format_name", COMPLETE)
def test_a_result_is_made_again_from_what_its_file_says(tmp_path: Path, clip: Path, format_name: str) -> None:
    from napari_face_landmarks.io.formats import format_named

    need(format_named(format_name))
    path = tmp_path / f"t{COMPLETE[format_name]}"
    words = ["--refine", "always", "--clnf-every", "3", "--smoothing-window", "3", "--models", "research"]
    assert cli.main(["track", str(clip), "-o", str(path), *words]) == 0
    first = Tracks.load(path)
    meta = first.meta
    assert meta["version"] == __version__
    assert meta["libraries"]["onnxruntime"] == onnxruntime.__version__
    assert meta["libraries"]["numpy"] == np.__version__
    models = load_models(meta["models"])
    assert models.version == meta["models_version"]
    files = {name: (bundle_folder(models.name) / name).read_bytes() for name in models.card["files"]}
    assert set(files) >= set(MODEL_FILES)
    assert meta["models_sha256"] == {
        name: hashlib.sha256(content).hexdigest() for name, content in files.items()
    }
    again = FaceTracker(models, first.settings, threads=1).track(clip)
    assert again.settings == first.settings
    np.testing.assert_allclose(again.landmarks, first.landmarks, atol=1e-4)
    np.testing.assert_array_equal(again.source, first.source)


def test_stats_say_it_too(tmp_path: Path, clip: Path) -> None:
    words = ["-o", str(tmp_path / "t.csv"), "--stats", str(tmp_path / "t.json")]
    assert cli.main(["track", str(clip), *words]) == 0
    record = json.loads((tmp_path / "t.json").read_text())
    assert set(record["meta"]["models_sha256"]) == set(load_card("open")["files"])
    assert record["settings"] == TrackerSettings().to_dict()


def test_models_of_other_origin_are_named_by_their_files(tmp_path: Path) -> None:
    from napari_face_landmarks.tracking.provenance import provenance

    folder = write_folder(tmp_path / "openface", face_model(2), ("ccnf",), yaws=(0.0,), neurons=1, windows=())
    named: dict[str, Any] = provenance(load_models(folder))["models_sha256"]
    pdm = folder / "pdms" / "In-the-wild_aligned_PDM_68.txt"
    assert named["pdms/In-the-wild_aligned_PDM_68.txt"] == hashlib.sha256(pdm.read_bytes()).hexdigest()
    assert sum(name.startswith("patch_experts/ccnf") for name in named) == 3
    assert named["open/detector.onnx"] == load_card("open")["files"]["detector.onnx"]["sha256"]
    assert "open/pdm.npz" not in named


@pytest.mark.parametrize("name", list_models())
def test_the_files_of_the_plugins_bundles_are_those_of_their_cards(name: str) -> None:
    entries = load_card(name)["files"]
    assert set(entries) - set(PART_FILES) == set(MODEL_FILES)
    for file in entries:
        content = (bundle_folder(name) / file).read_bytes()
        assert entries[file]["sha256"] == hashlib.sha256(content).hexdigest()
        assert entries[file]["bytes"] == len(content)


def test_the_fingerprint_follows_the_code_that_computes(tmp_path: Path) -> None:
    package = Path(napari_face_landmarks.__file__).parent
    copy = tmp_path / "elsewhere" / "p"
    shutil.copytree(package, copy, ignore=lambda _, names: [n for n in names if not is_source(n)])
    before = code_fingerprint()
    assert code_fingerprint(copy) == before, "the place does not matter"
    for name in ("cli/main.py", "io/formats.py", "settings.py", "napari_plugin/run_dock.py"):
        (copy / name).write_text('"""Another docstring."""\n')
    assert code_fingerprint(copy) == before, "these do not compute landmarks"
    smoothing = copy / "tracking" / "smoothing.py"
    text = smoothing.read_bytes()
    smoothing.write_bytes(text.replace(b"\n", b"\r\n"))
    assert code_fingerprint(copy) == before, "line endings do not matter"
    for name in COMPUTING:
        file = copy / name if name.endswith(".py") else next((copy / name).glob("[a-z]*.py"))
        content = file.read_bytes()
        file.write_bytes(content + b"\nX = 1\n")
        assert code_fingerprint(copy) != before
        file.write_bytes(content)
    (copy / "clnf" / "extra.py").write_text("")
    assert code_fingerprint(copy) != before


def test_a_checkpoint_of_other_code_is_not_resumed_but_one_of_another_version_is(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker, out = FaceTracker(threads=1), tmp_path / "t.csv"

    def interrupt() -> None:
        with open_video(clip) as video:
            run = CheckpointedRun.begin(tracker, video, journal_of(out))
            for _ in range(4):
                next(run.run)
            run.close()

    words = ["track", str(clip), "-o", str(out), "--resume"]
    interrupt()
    with monkeypatch.context() as patch:
        patch.setattr(provenance_module, "_installed_fingerprint", lambda: "0" * 64)
        states = "napari_face_landmarks.runs.checkpoint.state_from_bytes"
        patch.setattr(states, lambda data: pytest.fail("a state that other code wrote is read"))
        assert cli.main(words) == 2
        assert "belongs to a run with another version of the plugin" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(provenance_module, "__version__", "9.9")
        assert cli.main(words) == 0
        assert "4 of 9 frames were done before" in capsys.readouterr().err


def is_source(name: str) -> bool:
    return "." not in name or name.endswith(".py")
