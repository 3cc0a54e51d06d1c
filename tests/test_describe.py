"""What is said of models before they are loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from napari_face_landmarks import describe_models, list_models, load_models
from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.models.catalog import known_models
from napari_face_landmarks.models.openface import PDM_FILE
from napari_face_landmarks.settings import REFINE_MODES


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no models of OpenFace on this machine."""
    monkeypatch.setenv("OPENFACE_MODELS_DIR", str(tmp_path / "nowhere"))


def openface(folder: Path) -> Path:
    (folder / PDM_FILE).parent.mkdir(parents=True)
    (folder / PDM_FILE).write_text("")
    return folder


@pytest.mark.parametrize("name", list_models())
def test_bundles_are_as_they_load(name: str) -> None:
    info, models = describe_models(name), load_models(name)
    assert (info.title, info.version, info.licence) == (models.name, models.version, models.licence)
    assert info.refine == REFINE_MODES
    assert info.terms
    assert describe_models(models.folder).licence == info.licence


def test_a_restricted_bundle_has_a_notice() -> None:
    notices = {info.key: info.notice for info in known_models()}
    assert notices["open"] == ""
    assert "research" in notices.get("research", "research only")


def test_openface_is_known_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [info.key for info in known_models()] == list_models()
    with pytest.raises(ModelError, match="OpenFace's models are not in"):
        describe_models("openface")
    monkeypatch.setenv("OPENFACE_MODELS_DIR", str(tmp_path))
    folder = openface(tmp_path / "2.2.0")
    assert known_models()[-1].key == "openface"
    for key in ("openface", "openface-cen", folder):
        info = describe_models(key)
        assert info.refine == ("clnf-only",)
        assert "no commercial use" in info.licence
        assert "no commercial use" in info.notice
    assert describe_models("openface-cen").title == "OpenFace, CEN"


def test_a_network_of_ones_own_names_its_licence(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "pfld.json").write_text(json.dumps({"file": "pfld.onnx"}))
    info = describe_models(folder)
    assert (info.title, info.version) == ("mine", "custom")
    assert "auto" not in info.refine
    openface(folder)
    assert "OpenFace" in describe_models(folder).licence


def test_what_is_no_models_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no models named 'none'"):
        describe_models("none")
    with pytest.raises(ModelError, match="give the folder of a complete bundle"):
        describe_models(tmp_path)
