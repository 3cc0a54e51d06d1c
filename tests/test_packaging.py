"""What is shipped: wheel, sdist and manifest."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from napari_face_landmarks import list_models

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "napari_face_landmarks"
MANIFEST = (PACKAGE / "napari.yaml").read_text(encoding="utf-8")
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
    everywhere = shutil.ignore_patterns(".git", ".*cache", "__pycache__", ".venv", "venv", "dist", "build")
    at_the_top = {"runs", "demo-output"}  # a package is named runs, too

    def left_out(where: str, names: list[str]) -> set[str]:
        return everywhere(where, names) | (at_the_top if Path(where) == ROOT else set())

    shutil.copytree(ROOT, source, symlinks=True, ignore=left_out)
    run("-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder / "a"), str(source), folder=folder)
    run("-m", "build", "--no-isolation", "--outdir", str(folder / "b"), str(source), folder=folder)
    return {
        "wheel": next((folder / "a").glob("*.whl")),
        "wheel of the sdist": next((folder / "b").glob("*.whl")),
        "sdist": next((folder / "b").glob("*.tar.gz")),
    }


@pytest.mark.slow
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
    assert not [name for name in names if name.endswith((".md", ".pyc", ".nbi", ".nbc"))], (
        "documentation is in the sdist"
    )
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"napari_face_landmarks"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_sdist_has_documentation_and_tests(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", ".github/CONTRIBUTING.md"}
    assert wanted | {"src/napari_face_landmarks/io/README.md", "tests/test_docs.py"} <= names


@pytest.mark.slow
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
    assert docks == ["Face landmarks"]
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


def test_base_dependencies_bring_no_qt_and_no_torch() -> None:
    """pyqtgraph and superqt run on the Qt that is installed, and bring none."""
    required = importlib.metadata.requires("napari-face-landmarks") or []
    base = [text for text in required if "extra ==" not in text]
    assert base
    assert not [text for text in base if re.search(r"pyqt\d|pyside|torch|\[", text, re.IGNORECASE)]
