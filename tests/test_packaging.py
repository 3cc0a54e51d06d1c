"""What is shipped: wheel, sdist, manifest, and a README that says what is true."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import napari_face_landmarks
from napari_face_landmarks import TrackerSettings, Tracks, list_models
from napari_face_landmarks.demo import make_demo_clip
from napari_face_landmarks.models import load_card
from napari_face_landmarks.models.card import card_markdown
from napari_face_landmarks.settings import PRESETS, REFINE_MODES
from napari_face_landmarks.video import write_video

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "napari_face_landmarks"
MANIFEST = (PACKAGE / "napari.yaml").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
LARGEST_MODELS = 12_000_000


def run(*words: str, folder: Path, path: Path | None = None) -> str:
    """Run Python in `folder`, with `path` before everything installed; return what it prints."""
    environment = dict(os.environ)
    if path is not None:
        environment |= {"PYTHONPATH": str(path), "NUMBA_DISABLE_JIT": "1"}  # compiling would take longest
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the wheel from the checkout, the sdist, and the wheel that the sdist gives."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    left_out = (".git", ".*cache", "__pycache__", ".venv", "venv", "dist", "build", "runs", "demo-output")
    shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(*left_out))
    run("-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder / "a"), str(source), folder=folder)
    run("-m", "build", "--no-isolation", "--outdir", str(folder / "b"), str(source), folder=folder)
    return {
        "wheel": next((folder / "a").glob("*.whl")),
        "wheel of the sdist": next((folder / "b").glob("*.whl")),
        "sdist": next((folder / "b").glob("*.tar.gz")),
    }


@pytest.mark.parametrize("which", ["wheel", "wheel of the sdist"])
def test_wheel_has_manifest_models_and_nothing_else(built: dict[str, Path], which: str) -> None:
    with zipfile.ZipFile(built[which]) as wheel:
        names = set(wheel.namelist())
        assert wheel.read("napari_face_landmarks/napari.yaml") == (PACKAGE / "napari.yaml").read_bytes()
        for name in list_models():
            folder = f"napari_face_landmarks/models/{name}"
            card = json.loads(wheel.read(f"{folder}/model_card.json"))
            assert len(card["files"]) >= 4
            for file, entry in card["files"].items():
                assert hashlib.sha256(wheel.read(f"{folder}/{file}")).hexdigest() == entry["sha256"], file
        models = [info for info in wheel.infolist() if "/models/" in info.filename]
        assert sum(info.file_size for info in models) < LARGEST_MODELS
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "napari_face_landmarks:napari.yaml" in wheel.read(entry_points).decode()
    sources = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*.py")}
    assert sources <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"napari_face_landmarks"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_alone_tracks_and_is_found_by_napari(built: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(built["wheel of the sdist"]) as wheel:
        wheel.extractall(tmp_path / "site")
    program = (
        "from pathlib import Path\n"
        "import napari_face_landmarks, npe2\n"
        "from napari_face_landmarks.demo import run_demo\n"
        f"assert napari_face_landmarks.__file__.startswith({str(tmp_path)!r})\n"
        "from napari_face_landmarks import TrackerSettings, load_models\n"
        "plain = TrackerSettings(refine='off')\n"
        "result = run_demo(Path('demo'), load_models(), plain, n_frames=3, size=240)\n"
        "assert result.tracks.present.all()\n"
        "plugins = npe2.PluginManager()\n"
        "plugins.discover()\n"
        "manifest = plugins.get_manifest('napari-face-landmarks')\n"
        "manifest.validate_imports()\n"
        "print(manifest.display_name, [item.display_name for item in manifest.contributions.widgets])\n"
    )
    printed = run("-c", program, folder=tmp_path, path=tmp_path / "site")
    docks = re.findall(r"^    - command: .*\n      display_name: (Face landmarks.*)$", MANIFEST, re.MULTILINE)
    assert len(docks) == 5
    assert f"Face Landmarks {docks}" in printed
    assert (tmp_path / "demo" / "overlay.mp4").exists()


def test_manifest_is_valid_and_found_where_it_is_installed() -> None:
    npe2 = pytest.importorskip("npe2")
    found = [
        point
        for point in importlib.metadata.entry_points(group="napari.manifest")
        if point.name == "napari-face-landmarks"
    ]
    assert {point.value for point in found} == {"napari_face_landmarks:napari.yaml"}
    manifest = npe2.PluginManifest.from_distribution("napari-face-landmarks")
    manifest.validate_imports()
    assert manifest.contributions.readers
    assert manifest.contributions.sample_data
    metadata = importlib.metadata.metadata("napari-face-landmarks")
    assert "Framework :: napari" in metadata.get_all("Classifier")


def test_base_dependencies_have_no_qt() -> None:
    required = importlib.metadata.requires("napari-face-landmarks") or []
    base = [text for text in required if "extra ==" not in text]
    assert base
    assert not [text for text in base if re.search(r"qt|pyside|torch|\[", text, re.IGNORECASE)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_readmes_first_commands_are_the_two() -> None:
    first, second = (block.strip() for block in blocks("bash")[:2])
    assert "\n" not in first + second
    assert first.endswith("napari-face-landmarks demo")
    assert '".[gui]"' in first
    assert second.endswith("-m pytest")
    assert '".[test]"' in second


def settings_table() -> str:
    lines = ["| setting | default | range | what it does |", "|---|---|---|---|"]
    for item in dataclasses.fields(TrackerSettings):
        reach = ", ".join(REFINE_MODES)
        if item.name != "refine":
            reach = f"{item.metadata['low']:g} to {item.metadata['high']:g}"
        lines.append(f"| `{item.name}` | {item.default} | {reach} | {item.metadata['help']} |")
    return "\n".join(lines)


def test_readmes_settings_are_those_of_the_code() -> None:
    table = re.search(r"<!-- settings: .*? -->\n(.*?)<!-- end of settings -->", README, re.DOTALL)
    assert table is not None
    assert table.group(1).strip() == settings_table()


def part(name: str) -> list[str]:
    """Return the rows of a table of the README, without its head."""
    found = re.search(rf"<!-- {name}: .*? -->\n(.*?)<!-- end of {name} -->", README, re.DOTALL)
    assert found is not None
    return found.group(1).strip().splitlines()[2:]


def test_readmes_presets_are_those_of_the_code() -> None:
    rows = []
    for preset in PRESETS:
        default = TrackerSettings().to_dict()
        changed = {name: now for name, now in preset.settings.to_dict().items() if now != default[name]}
        words = ", ".join(f"`{name}={now}`" for name, now in changed.items()) or "the defaults"
        rows.append(f"| {preset.title}, `{preset.name}` | {words} | {preset.help} |")
    assert part("presets") == rows


def test_readmes_functions_are_there_and_documented() -> None:
    names = re.findall(r"`([\w.]+)`", "\n".join(part("functions")))
    assert len(names) > 20
    for name in names:
        parts = name.split(".")
        found: Any = napari_face_landmarks
        if len(parts) > 1 and parts[0].islower():
            found = importlib.import_module(".".join(["napari_face_landmarks", *parts[:-1]]))
            parts = parts[-1:]
        for each in parts:
            found = getattr(found, each)
        assert callable(found), name
        assert found.__doc__, name


@pytest.mark.gui
def test_readmes_shortcuts_are_those_of_the_code(display: None) -> None:
    from napari_face_landmarks.napari_plugin.commands import SHORTCUTS

    keys = [row.split("|")[1].strip() for row in part("shortcuts")]
    assert keys[: len(SHORTCUTS)] == [key.replace("-", "+") for key in SHORTCUTS.values()]


def test_readmes_scripts_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video("face.mp4", make_demo_clip(8, 240)[0], fps=25)
    script, with_viewer = blocks("python")
    names: dict[str, object] = {}
    exec(compile(script, "README.md", "exec"), names)
    tracks, again = names["tracks"], names["again"]
    assert isinstance(tracks, Tracks)
    assert isinstance(again, Tracks)
    assert tracks.present.all()
    np.testing.assert_array_equal(again.landmarks, tracks.landmarks)
    np.testing.assert_array_equal(Tracks.load("face.csv").landmarks, tracks.landmarks)
    exec(compile(with_viewer, "README.md", "exec"), names)
    video, points = names["viewer"].layers  # type: ignore[attr-defined]
    assert video.data.shape == (8, 240, 240, 3)
    assert len(points.data) == 8 * 68


def test_what_the_readme_shows_and_names_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).is_file(), target
    shown = [re.search(rf"^\| `{name}` \|", README, re.MULTILINE) for name in list_models()]
    assert all(shown)
    for folder in ("video", "detection", "pfld", "clnf", "tracking", "export"):
        assert (PACKAGE / folder / "__init__.py").exists()
        assert f"`{folder}`" in README


def test_the_readme_shows_the_model_cards_as_they_are() -> None:
    section = README.split("<!-- model cards", 1)[1].split("-->", 1)[1].split("<!-- end of model cards", 1)[0]
    cards = "\n".join(card_markdown(load_card(name)) for name in list_models())
    assert section.strip() == cards.strip()
