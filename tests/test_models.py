"""Bundles: complete, described, and refused in one sentence when anything about them is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from napari_face_landmarks import describe_models, list_models, load_models
from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.models import DEFAULT_BUNDLE, bundle, bundle_folder, load_card
from napari_face_landmarks.models.bundle import CARD, MODEL_FILES
from napari_face_landmarks.models.card import card_markdown, held_out_error
from napari_face_landmarks.training.bundle import CARD_VERSION, write_bundle


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle_folder(DEFAULT_BUNDLE), folder)
    return folder


def test_the_default_bundle_comes_first_and_loads() -> None:
    names = list_models()
    assert names[0] == DEFAULT_BUNDLE
    models = load_models()
    assert models.name == DEFAULT_BUNDLE
    assert models.pdm.mean.shape == (3, 68)
    assert len(models.experts.scales) >= 3


def test_a_trained_bundle_has_the_card_of_the_installed_one(tmp_path: Path) -> None:
    shutil.copyfile(bundle_folder(DEFAULT_BUNDLE) / MODEL_FILES[0], tmp_path / MODEL_FILES[0])
    (tmp_path / "pdm.metrics.json").write_text('{"faces": 3}')
    shutil.copytree(bundle_folder(DEFAULT_BUNDLE), tmp_path / "new", ignore=shutil.ignore_patterns(CARD))
    made, installed = write_bundle(tmp_path, tmp_path / "new", DEFAULT_BUNDLE), load_card(DEFAULT_BUNDLE)
    assert made == {**installed, "version": CARD_VERSION, "metrics": {"pdm": {"faces": 3}}}


@pytest.mark.parametrize("name", list_models())
def test_every_card_says_what_users_must_know(name: str) -> None:
    card = load_card(name)
    for key in ("licence", "terms", "trained_on", "metrics", "files", "not_for"):
        assert card[key], key
    assert all(entry["licence"] for entry in card["trained_on"])
    assert set(card["metrics"]) >= {"pfld", "detector", "pdm", "cen"}


def test_all_bundles_together_are_under_12_megabytes() -> None:
    total = sum(path.stat().st_size for name in list_models() for path in bundle_folder(name).iterdir())
    assert total < 12e6


def test_a_folder_of_the_same_layout_loads(copy: Path) -> None:
    assert load_models(copy).folder == copy


@pytest.mark.parametrize("wrong", [5, None, {"refine": "off"}])
def test_what_is_no_name_of_models_is_refused(wrong: Any) -> None:
    for ask in (load_models, describe_models):
        with pytest.raises(ModelError, match=r"^Models cannot be identified by [^\n]*\.$"):
            ask(wrong)


@pytest.mark.parametrize("name", MODEL_FILES)
def test_missing_altered_and_shortened_files_are_refused(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 1
    for wrong, words in (
        (bytes(flipped), "was modified"),
        (content[:-7], "in its card"),
        (None, "cannot be read"),
    ):
        if wrong is None:
            (copy / name).unlink()
        else:
            (copy / name).write_bytes(wrong)
        with pytest.raises(ModelError, match=words) as caught:
            load_models(copy)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def set_hash(folder: Path, name: str, content: bytes) -> None:
    import hashlib

    card = json.loads((folder / CARD).read_text())
    card["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / CARD).write_text(json.dumps(card))
    (folder / name).write_bytes(content)


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_file_that_its_card_vouches_for_is_still_checked(copy: Path, name: str) -> None:
    set_hash(copy, name, b"\x00" * 1000)
    with pytest.raises(ModelError, match=name) as caught:
        load_models(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"name": "x"}',
        '{"name": 1, "version": "1", "licence": "x", "files": {}}',
        "[" * 100_000,
    ],
)
def test_malformed_cards_are_refused(copy: Path, text: str) -> None:
    (copy / CARD).write_text(text)
    with pytest.raises(ModelError, match=CARD) as caught:
        load_models(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"bytes": "many"}, {"sha256": 5}, None])
def test_malformed_file_entries_are_refused(copy: Path, change: Any) -> None:
    card = json.loads((copy / CARD).read_text())
    card["files"]["pfld.onnx"] = change if change is None else {**card["files"]["pfld.onnx"], **change}
    (copy / CARD).write_text(json.dumps(card))
    with pytest.raises(ModelError, match="lacks name"):
        load_models(copy)


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=DEFAULT_BUNDLE):
        load_models("no-such-bundle")
    with pytest.raises(ModelError, match=CARD):
        load_models(tmp_path)


def test_a_card_as_markdown_says_what_the_card_says() -> None:
    card = {
        "name": "mine",
        "version": "1",
        "licence": "CC0",
        "terms": "Anything goes.",
        "trained_on": [{"data": "faces", "what": "a|b", "licence": "CC0", "cite": ["A. Body, 2020"]}],
        "metrics": {
            "evaluation": {
                "faces": 7,
                "jitter": {
                    "none": {"always": {"mean": 0.0312, "inner": 0.02, "failures": 0.0}},
                    "dark": {"always": {"mean": 0.04, "inner": 0.03, "failures": 0.125}},
                },
                "measures": {
                    "none": {"always": {"mouth_width": [0.9, 0.75], "shut_aperture": 0.1}},
                    "dark": {"always": {"mouth_width": [0.8, None], "shut_aperture": 0.1}},
                },
            }
        },
    }
    text = card_markdown(card)
    assert text.startswith("### `mine`, version 1: CC0\n")
    assert "**Terms.** Anything goes." in text
    assert "| `faces` | a/b | CC0 |" in text
    assert "- A. Body, 2020" in text
    assert "| dark | 4.00 % | 3.00 % | 12.50 % |" in text
    assert "| mouth_width | 0.75 (0.90) | - (0.80) |" in text
    assert held_out_error(card) == 0.0312
    assert held_out_error(card, "off") is None
    assert held_out_error({"metrics": {"pfld": {"nme": 0.02}}}) is None  # by labels of its own kind


def test_a_bundle_with_restricted_use_says_so_once(
    copy: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_reported", set())
    path = copy / CARD
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, "notice": "For research only."}))
    for _ in range(2):
        load_models(copy)
    assert [record.message for record in caplog.records] == ["For research only."]
