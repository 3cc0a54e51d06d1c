"""What holds for every dock: tooltips, narrow, either theme; and nothing private or outdated of napari."""

from __future__ import annotations

import ast
import gc
import os
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest

import napari_face_landmarks
from fake_tracker import FakeTracker
from gui_support import let_work, panel_of, wait_until
from napari_face_landmarks import tracking
from napari_face_landmarks.napari_plugin.commands import landmarks_dock, study

PLUGIN = "napari-face-landmarks"
PACKAGE = Path(napari_face_landmarks.__file__).parent
TABS = ["Track", "Check", "Correct", "Measure", "Faces", "View"]
NARROW = 320


def take_picture(viewer: Any, name: str, dock: Any = None) -> np.ndarray[Any, Any]:
    """Return a picture of the window or of a dock; keep it in the folder that the environment names."""
    from qtpy.QtGui import QImage

    let_work(0.15)
    target = viewer.window if dock is None else dock
    if dock is None:
        picture = np.asarray(target.screenshot(canvas_only=False, flash=False))[..., :3]
    else:
        image = target.grab().toImage().convertToFormat(QImage.Format.Format_RGBA8888)
        rows = np.frombuffer(image.constBits().asstring(image.sizeInBytes()), np.uint8)
        picture = rows.reshape(image.height(), image.bytesPerLine() // 4, 4)[:, : image.width(), :3]
    if folder := os.environ.get("DOCK_PICTURES"):
        from PIL import Image

        Path(folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(picture)).save(Path(folder) / f"{name}.png")
    return picture


@pytest.mark.gui
def test_the_font_is_loaded_unseen_when_the_dock_opens(viewer: Any) -> None:
    """So that the first landmarks of a run need not wait for it; a text of the user's stays as it is."""
    from napari_face_landmarks.napari_plugin.layers import text_overlay_of

    viewer.add_image(np.zeros((9, 9)), contrast_limits=(0, 1))
    text = text_overlay_of(viewer)
    dock = landmarks_dock(viewer)
    assert (text.visible, text.text) == (True, " "), "while the dock opens, not in a turn of its own"
    drawn = viewer.window.screenshot(canvas_only=True, flash=False)
    assert len(np.unique(drawn.reshape(-1, 4), axis=0)) == 1
    wait_until(lambda: not text.visible)
    assert text.text == ""

    viewer.window.remove_dock_widget(dock.parent())
    text.text, text.visible = "mine", True
    landmarks_dock(viewer)
    let_work(1)
    assert (text.text, text.visible) == ("mine", True)


def open_dock(viewer: Any, name: str) -> tuple[Any, Any]:
    """Return the dock with a tab in front, and the Qt widget of that."""
    main = landmarks_dock(viewer, name)
    let_work(0.2)
    panel = getattr(main, name.lower())
    return main.parent(), getattr(panel, "native", panel)


def advanced(widget: Any) -> None:
    """Show the settings under Advanced."""
    from qtpy.QtWidgets import QToolButton

    (heading,) = [each for each in widget.findChildren(QToolButton) if each.text() == "Advanced"]
    heading.setChecked(True)
    let_work(0.1)


def controls_of(widget: Any) -> Iterator[Any]:
    """Yield the controls of a dock, but for the parts of which Qt puts some together."""
    from qtpy.QtWidgets import (
        QAbstractButton,
        QAbstractItemView,
        QAbstractSlider,
        QAbstractSpinBox,
        QComboBox,
        QLineEdit,
        QScrollBar,
        QWidget,
    )

    kinds = (QAbstractButton, QAbstractItemView, QAbstractSlider, QAbstractSpinBox, QComboBox, QLineEdit)
    for child in widget.findChildren(QWidget):
        parent, inside = child.parent(), False
        while parent is not None and parent is not widget:
            inside |= isinstance(parent, kinds)
            parent = parent.parent()
        if isinstance(child, kinds) and not inside and not isinstance(child, QScrollBar):
            yield child


@pytest.mark.gui
def test_nothing_after_the_last_tab_looks_like_another(viewer: Any) -> None:
    tabs = landmarks_dock(viewer).tabs
    viewer.window.resize(1400, 880)
    let_work(0.3)
    bar, last = tabs.tabBar(), tabs.tabBar().tabRect(len(TABS) - 1)
    picture = tabs.grab().toImage()
    places = (last.right() + 4, last.center().y()), (last.right() + 4, bar.height() + 4)
    after, below = (picture.pixelColor(x, y).getRgb() for x, y in places)
    assert last.right() + 4 < tabs.width()
    assert after == below


@pytest.mark.gui
def test_every_control_says_what_it_does_and_none_is_cut(viewer: Any) -> None:
    from qtpy.QtWidgets import QComboBox

    viewer.window.resize(1400, 880)
    for name in TABS:
        dock, widget = open_dock(viewer, name)
        if name == "Track":
            advanced(widget)
        controls = list(controls_of(widget))
        assert controls
        silent = [
            f"{type(each).__name__} {each.objectName()}" for each in controls if not each.toolTip().strip()
        ]
        assert not silent
        assert dock.minimumSizeHint().width() <= NARROW
        dock.setFixedWidth(NARROW)
        let_work(0.1)
        for each in controls:
            if each.isVisible():
                left = each.mapTo(widget, each.rect().topLeft()).x()
                assert left >= 0, each.toolTip()
                assert left + each.width() <= widget.width() + 1, each.toolTip()
                # a closed list may cut its line at the end, which it shows whole when it is opened
                needed = NARROW // 3 if isinstance(each, QComboBox) else each.minimumSizeHint().width()
                assert each.width() >= min(each.minimumSizeHint().width(), needed), each.toolTip()
    for theme, least, most in (("dark", 0, 90), ("light", 170, 255)):
        viewer.theme = theme
        for name in TABS:
            dock, _ = open_dock(viewer, name)
            picture = take_picture(viewer, f"{name} 320 {theme}", dock)
            assert least < np.median(picture) < most, f"{name} follows napari's theme"
            span = np.percentile(picture, 99.5) - np.percentile(picture, 0.5)
            assert span > 100, f"there is something to read in {name}"


@pytest.mark.gui
def test_curves_are_enlarged_and_come_back(viewer: Any) -> None:
    from qtpy.QtWidgets import QDockWidget

    def docks() -> list[str]:
        shown = viewer.window._qt_window.findChildren(QDockWidget)
        return [each.windowTitle() for each in shown if each.isVisible()]

    measure = panel_of(viewer, "Measure")
    let_work(0.1)
    main, narrow, height = landmarks_dock(viewer), measure.plot.width(), viewer.window._qt_window.height()
    assert main.parent().windowTitle() == "Face landmarks"
    assert main.parent().titleBarWidget().title.text() == "Face landmarks", "without the plugin's name"
    measure.wide.button.click()
    let_work(0.2)
    assert "Face landmarks: measures" in docks()
    assert measure.plot.width() > narrow
    below = measure.plot.window()
    assert below.isFloating(), "in a low window"
    assert viewer.window._qt_window.height() == height
    bar = below.titleBarWidget()  # before napari 0.7, one that floats has the bar of the desktop
    below.close() if bar is None else bar.close_button.click()
    wait_until(lambda: not measure.wide.button.isChecked())
    let_work(0.1)
    assert measure.isAncestorOf(measure.plot)
    assert measure.plot.isVisible()
    assert "Face landmarks: measures" not in docks()
    viewer.window.resize(1240, 900)
    let_work(0.1)
    measure.wide.button.click()
    let_work(0.2)
    assert measure.plot.window() is viewer.window._qt_window, "under the picture"
    viewer.window.resize(1024, 640)
    wait_until(lambda: measure.plot.window() is not viewer.window._qt_window)  # it floats
    measure.wide.button.click()
    check = panel_of(viewer, "Check")
    check.wide.button.click()
    viewer.window.remove_dock_widget(main)
    wait_until(lambda: "Face landmarks: check" not in docks())
    assert not check.wide.enlarged


@pytest.mark.gui
def test_a_closed_dock_is_deleted(viewer: Any) -> None:
    """What lives on follows the viewer for nothing, and may crash Python where that ends."""
    for open_one in (landmarks_dock, study):
        dock = open_one(viewer)
        gone: list[Any] = []
        dock.destroyed.connect(gone.append)
        viewer.window.remove_dock_widget(dock)
        wait_until(partial(len, gone))
    kept = ref(landmarks_dock(viewer))
    viewer.window.remove_dock_widget(kept())
    wait_until(lambda: gc.collect() >= 0 and kept() is None)


@pytest.mark.gui
def test_a_closed_viewer_is_forgotten(viewer: Any) -> None:
    from napari import Viewer

    other = Viewer(show=True)
    landmarks_dock(other)
    kept = ref(other)
    other.close()
    del other
    wait_until(lambda: gc.collect() >= 0 and kept() is None)


@pytest.mark.gui
def test_our_code_calls_nothing_that_is_outdated(
    viewer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Open all docks and run, with every warning of that kind that our code causes turned into an error."""
    monkeypatch.setattr(tracking, "FaceTracker", FakeTracker)
    monkeypatch.setattr("napari_face_landmarks.napari_plugin.track_dock.load_models", lambda _: None)
    frames = np.random.default_rng(0).integers(0, 255, (20, 60, 80, 3), dtype=np.uint8)
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            warnings.filterwarnings("error", category=kind, module=r"napari_face_landmarks(\.|$)")
        viewer.add_image(frames, rgb=True, name="clip")
        main, *_ = [panel_of(viewer, name) for name in TABS]
        main.run()
        wait_until(lambda: not main.running)
        assert main.status.value.startswith("Done: 20 frames")
        path = str(tmp_path / "t.csv")
        assert main.landmarks.save(path, plugin=PLUGIN) == [path]
        (again,) = viewer.open(path, plugin=PLUGIN)
        assert len(again.data) == len(main.landmarks.data)
        for step in (3, 7, 0):
            viewer.dims.set_current_step(0, step)
            let_work(0.05)
        let_work(0.5)


def own_names(trees: list[ast.Module]) -> set[str]:
    """Return the private names that the package itself defines."""
    names: set[str] = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store):
                names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    return names


def private_uses(source: str, own: set[str]) -> list[str]:
    """Return the private names of others that a source uses: attributes, getattr with a text, imports."""
    found: list[str] = []

    def private(name: str) -> bool:
        return name.startswith("_") and not name.startswith("__") and name not in own

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and private(node.attr):
            found.append(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
            second = node.args[1]
            if isinstance(second, ast.Constant) and private(str(second.value)):
                found.append(str(second.value))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("napari.", "vispy.")):
            found += [part for part in str(node.module).split(".") if part.startswith("_")]
            found += [item.name for item in node.names if item.name.startswith("_")]
    return found


@pytest.mark.slow
def test_nothing_private_of_napari_is_used() -> None:
    paths = [path for path in PACKAGE.rglob("*.py") if "training" not in path.parts]
    sources = {path: path.read_text(encoding="utf-8") for path in paths}
    own = own_names([ast.parse(source) for source in sources.values()])
    plugin = [path for path in paths if path.parent.name == "napari_plugin"]
    assert len(plugin) > 5
    used = {path.name: found for path in plugin if (found := private_uses(sources[path], own))}
    # napari has no public way to know when it reads a layer's data; without it, layers are read as they are
    assert used == {"layers.py": ["_slicing_state"]}
    for bad in (
        "layer._slice",
        "getattr(viewer, '_qt')",
        "from napari._app_model import x",
        "viewer.window._qt_viewer.y",
    ):
        assert private_uses(bad, own), "the search finds what it is to find"


def test_garbage_is_collected_once_while_the_first_dock_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_face_landmarks.napari_plugin import main_dock

    main_dock.gc.enable()  # Dask, in an earlier test, may have left it disabled
    calls: list[bool] = []
    monkeypatch.setattr(main_dock, "_collected", [])
    monkeypatch.setattr(main_dock.gc, "collect", lambda: calls.append(main_dock.gc.isenabled()) or 0)
    for _dock in range(2):
        with main_dock._one_collection():
            pass
    assert calls == [False]
    assert main_dock.gc.isenabled()
    monkeypatch.setattr(main_dock, "_collected", [])
    with pytest.raises(ValueError, match="no dock"), main_dock._one_collection():
        raise ValueError("no dock")
    assert main_dock.gc.isenabled()
    assert calls == [False]
