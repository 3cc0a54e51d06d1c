"""Presets, the chooser of models, preferences, commands and shortcuts, About: in a real napari window."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gui_support import let_work, panel_of
from napari_face_landmarks.models.openface import PDM_FILE
from napari_face_landmarks.settings import PRESETS, TrackerSettings, setting_range

pytestmark = pytest.mark.gui
PLUGIN = "napari-face-landmarks"


@pytest.fixture
def preferences(display: None) -> Iterator[Any]:
    """Return the module, with everything as after an installation."""
    from napari_face_landmarks.napari_plugin import preferences

    before = preferences.read_preferences()  # of who runs the tests
    preferences.write_preferences(preferences.Preferences())
    yield preferences
    preferences.write_preferences(before)


@pytest.fixture
def widget(viewer: Any, preferences: Any) -> Any:
    return open_dock(viewer)


def open_dock(viewer: Any) -> Any:
    return panel_of(viewer, "Track")


def test_a_preset_sets_every_control(widget: Any) -> None:
    for preset in PRESETS:
        widget.settings_controls["smoothing_window"].value = setting_range("smoothing_window")[1]
        assert widget.preset.value == "custom"
        widget.preset.value = preset.name
        assert widget.settings() == preset.settings
        assert widget.preset.tooltip == preset.help
        assert widget.preset.native.currentText() == preset.title
        widget.settings_controls["max_faces"].value = 9
        assert widget.preset.value == "custom"
        assert widget.settings() == preset.settings.replace(max_faces=9)
        widget.settings_controls["max_faces"].value = preset.settings.max_faces
        assert widget.preset.value == preset.name


def test_the_dock_begins_as_preferred(viewer: Any, preferences: Any, tmp_path: Path) -> None:
    folder = an_openface(tmp_path / "mine")
    wanted = preferences.Preferences("accurate", str(folder), str(folder), follow=False)
    preferences.write_preferences(wanted)
    assert preferences.read_preferences() == wanted
    widget = open_dock(viewer)
    assert not widget.follow.value
    assert widget.model.value == str(folder)
    assert widget.settings() == TrackerSettings.preset("accurate", refine="clnf-only")
    widget.restore_defaults()
    assert widget.settings() == TrackerSettings()
    assert widget.model.value == "open"
    assert preferences.read_preferences() == preferences.Preferences()
    widget.preset.value, widget.model.value = "fast", "research"
    widget.save_defaults()
    kept = preferences.read_preferences()
    assert (kept.preset, kept.models, kept.follow) == ("fast", "research", True)


def test_preferences_are_those_of_napari_or_a_file(
    viewer: Any, preferences: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preferences, "_napari_section", lambda: None)  # as in napari before 0.9
    path = tmp_path / "settings" / preferences.FILE
    monkeypatch.setattr(preferences, "preferences_file", lambda: path)
    assert preferences.read_preferences() == preferences.Preferences()
    wanted = preferences.Preferences("fast", "research", "/a;/b", False)
    preferences.write_preferences(wanted)
    assert json.loads(path.read_text())["preset"] == "fast"
    assert preferences.read_preferences() == wanted
    assert wanted.folders() == ["/a", "/b"]
    assert wanted.with_folder("/c").with_folder("/a").folders() == ["/a", "/b", "/c"]
    odd = {"preset": "best", "models": 7, "follow": "no", "model_folders": "/a\n"}
    for text in (json.dumps(odd), "[]", "{", "[" * 100_000, '{"models": "' + "x" * 100_000 + '"}'):
        path.write_text(text)
        assert preferences.read_preferences() == preferences.Preferences()
        assert path.read_text() == text, "what cannot be read is left alone"
    path.unlink()
    path.mkdir()
    preferences.write_preferences(wanted)  # told in the log, and nothing more


def an_openface(folder: Path) -> Path:
    (folder / PDM_FILE).parent.mkdir(parents=True)
    (folder / PDM_FILE).write_text("")
    return folder


def choose_folder(widget: Any, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    from qtpy.QtWidgets import QFileDialog

    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: folder)
    widget.model.value = "choose"


def test_every_line_of_the_chooser_names_a_licence(widget: Any) -> None:
    box = widget.model.native
    lines = [box.itemText(row) for row in range(box.count())]
    assert lines[0] == "open: CC BY 4.0"
    assert all(": " in line for line in lines[:-1])
    assert lines[-1] == "Choose a folder …"


def test_a_folder_is_chosen_and_offered_again(
    viewer: Any, widget: Any, preferences: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_face_landmarks.napari_plugin.commands import landmarks_dock

    folder = an_openface(tmp_path / "models of OpenFace")
    choose_folder(widget, monkeypatch, str(folder))
    assert widget.model.value == str(folder)
    assert "no commercial use" in widget.licence.value
    assert widget.settings().refine == "clnf-only"
    assert preferences.read_preferences().folders() == [str(folder)]
    widget.model.value = "open"
    assert widget.settings().refine == "auto", "the user's own way comes back"
    viewer.window.remove_dock_widget(landmarks_dock(viewer))
    assert str(folder) in open_dock(viewer).model.choices


def test_a_folder_without_models_and_no_folder_leave_the_choice(
    widget: Any, preferences: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("napari_face_landmarks.napari_plugin.track_dock.show_info", told.append)
    choose_folder(widget, monkeypatch, "")
    assert widget.model.value == "open"
    choose_folder(widget, monkeypatch, str(tmp_path))
    assert widget.model.value == "open"
    assert any("give the folder of a complete bundle" in text for text in told)
    assert preferences.read_preferences().folders() == []


def test_commands_do_what_the_buttons_do(viewer: Any, preferences: Any) -> None:
    from napari_face_landmarks.napari_plugin import commands

    commands.next_preset(viewer)  # opens the dock
    dock = commands.landmarks_dock(viewer)
    widget = dock.track
    assert widget.preset.value == "accurate"
    commands.run(viewer)
    assert widget.status.value == "There is no video: open one, or choose an image layer."
    commands.export(viewer)
    assert "no landmarks to export" in widget.status.value
    commands.pause(viewer)
    commands.cancel(viewer)
    assert not widget.running
    viewer.window.remove_dock_widget(dock)
    assert commands.landmarks_dock(viewer) is not dock


def test_shortcuts_are_bound_and_take_nothing_from_napari(viewer: Any, widget: Any) -> None:
    from napari.settings import get_settings
    from npe2 import PluginManifest

    from napari_face_landmarks.napari_plugin.commands import SHORTCUTS

    taken = {str(key) for keys in get_settings().shortcuts.shortcuts.values() for key in keys}
    bound = {str(key) for key in viewer.keymap}
    contributed = PluginManifest.from_distribution(PLUGIN).contributions
    for name, key in SHORTCUTS.items():
        plain = key.replace("-", "+")
        assert plain in bound
        assert plain not in taken
        (item,) = [each for each in contributed.keybindings if each.command == f"{PLUGIN}.{name}"]
        assert {item.key, item.mac, item.linux, item.win} == {plain}
    viewer.keymap[next(key for key in viewer.keymap if str(key) == "Shift+Alt+S")](viewer)
    assert widget.preset.value == "accurate"


def test_napari_offers_the_commands(viewer: Any, preferences: Any) -> None:
    """Run two of them as the command palette does."""
    from npe2 import PluginManager

    from napari_face_landmarks.napari_plugin import commands

    manager = PluginManager.instance()
    manager.commands.execute(f"{PLUGIN}.next_preset")
    assert commands.landmarks_dock(viewer).track.preset.value == "accurate"
    manager.commands.execute(f"{PLUGIN}.about")


def test_about_is_copied_whole(widget: Any) -> None:
    from qtpy.QtGui import QGuiApplication
    from qtpy.QtWidgets import QPlainTextEdit, QPushButton

    from napari_face_landmarks.napari_plugin.qt_forms import show_about
    from napari_face_landmarks.versions import about

    dialog = show_about(widget.native)
    let_work(0.1)
    assert dialog.findChild(QPlainTextEdit).isReadOnly()
    next(button for button in dialog.findChildren(QPushButton) if button.text() == "Copy").click()
    assert QGuiApplication.clipboard().text() == about()
    dialog.close()
