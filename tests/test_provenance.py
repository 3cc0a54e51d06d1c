"""A file of results says how it was made, and what it says is enough to make the same results again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from napari_face_landmarks import FaceTracker, TrackerSettings, Tracks, cli, list_models, load_models
from napari_face_landmarks.models import bundle_folder, load_card
from napari_face_landmarks.models.bundle import MODEL_FILES
from napari_face_landmarks.video import write_video
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
    assert meta["version"] == importlib.metadata.version("napari-face-landmarks")
    assert meta["libraries"]["onnxruntime"] == onnxruntime.__version__
    assert meta["libraries"]["numpy"] == np.__version__
    models = load_models(meta["models"])
    assert models.version == meta["models_version"]
    files = {name: (bundle_folder(models.name) / name).read_bytes() for name in MODEL_FILES}
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
    assert set(record["meta"]["models_sha256"]) == set(MODEL_FILES)
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
    for file in MODEL_FILES:
        content = (bundle_folder(name) / file).read_bytes()
        assert entries[file]["sha256"] == hashlib.sha256(content).hexdigest()
        assert entries[file]["bytes"] == len(content)
