"""The manifest: what napari is told of the plugin, and that all of it is there."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from npe2 import PluginManager, PluginManifest

from napari_face_landmarks.io.formats import FORMATS, SUFFIXES, Format
from napari_face_landmarks.napari_plugin.preferences import Preferences
from napari_face_landmarks.settings import PRESETS
from napari_face_landmarks.video import VIDEO_SUFFIXES

NAME = "napari-face-landmarks"


def writer_of(item: Format) -> str:
    return f"{NAME}.write_{item.name.replace('-', '_')}"


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_distribution(NAME)


def test_the_installed_plugin_is_valid(manifest: PluginManifest) -> None:
    assert manifest.name == NAME
    functions = {item.id: item.python_name for item in manifest.contributions.commands}
    others = {f"{NAME}.track", f"{NAME}.read_video", f"{NAME}.read_landmarks", f"{NAME}.moving_face"}
    others |= {f"{NAME}.quality", f"{NAME}.next_to_check", f"{NAME}.previous_to_check"}
    others |= {
        f"{NAME}.{name}" for name in ("view", "run", "pause", "cancel", "export", "next_preset", "about")
    }
    others |= {f"{NAME}.{name}" for name in ("correct", "faces", "measure", "study")}
    assert set(functions) == others | {writer_of(item) for item in FORMATS}
    for name in functions.values():
        module, _, attribute = str(name).partition(":")
        needs_qt = ("main_dock", "commands")
        if not module.endswith(needs_qt):
            assert callable(getattr(__import__(module, fromlist=[attribute]), attribute))


@pytest.mark.gui
def test_every_python_name_can_be_imported(display: None, manifest: PluginManifest) -> None:
    manifest.validate_imports()


def test_the_reader_is_offered_for_every_kind_of_video_that_it_reads(manifest: PluginManifest) -> None:
    reader, _ = manifest.contributions.readers
    assert sorted(reader.filename_patterns) == sorted(f"*{suffix}" for suffix in VIDEO_SUFFIXES)
    manager = PluginManager.instance()
    manager.discover()
    for name in ("clip.mp4", "IMG_0001.MOV", "old.mpg"):
        offered = [item.command for item in manager.iter_compatible_readers(name)]
        assert f"{NAME}.read_video" in offered


def test_every_format_has_a_writer_and_the_reader_knows_its_suffixes(manifest: PluginManifest) -> None:
    _, reader = manifest.contributions.readers
    assert reader.command == f"{NAME}.read_landmarks"
    assert sorted(reader.filename_patterns) == sorted(f"*{suffix}" for suffix in SUFFIXES)
    writers = {item.command: item for item in manifest.contributions.writers}
    assert list(writers) == [writer_of(item) for item in FORMATS]
    for item in FORMATS:
        writer = writers[writer_of(item)]
        assert writer.layer_types == ["points"]
        assert writer.filename_extensions == list(item.suffixes)
        assert item.title in writer.display_name


def test_the_widget_is_in_the_tracking_menu_of_napari(manifest: PluginManifest) -> None:
    widget = manifest.contributions.widgets[0]
    assert widget.display_name == "Face landmarks"
    assert [item.command for item in manifest.contributions.menus["napari/layers/track"]] == [widget.command]


def test_the_sample_is_a_clip_of_several_seconds(manifest: PluginManifest) -> None:
    (sample,) = manifest.contributions.sample_data
    assert sample.display_name == "Moving face (synthetic motion)"
    manager = PluginManager.instance()
    manager.discover()
    ((frames, attributes, kind),) = manager.commands.execute(sample.command)
    assert kind == "image"
    assert attributes["rgb"]
    assert frames.dtype == np.uint8
    assert frames.ndim == 4
    assert len(frames) / attributes["metadata"]["fps"] > 3


def test_the_preferences_in_the_manifest_are_those_of_the_code(manifest: PluginManifest) -> None:
    file = Path(__file__).parents[1] / "napari.yaml"
    contributed = yaml.safe_load(file.read_text(encoding="utf-8"))["contributions"]
    properties = contributed["configurations"]["start"]["properties"]
    assert {name: item["default"] for name, item in properties.items()} == asdict(Preferences())
    assert properties["preset"]["enum"] == [item.name for item in PRESETS]
    if hasattr(manifest.contributions, "configurations"):  # older npe2 does not know them
        assert list(manifest.contributions.configurations) == ["start"]
