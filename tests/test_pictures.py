"""Pictures of docks in their states; DOCK_PICTURES names a folder, UPDATE_PICTURES writes the README's."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_tracker import FakeTracker
from gui_support import let_work, panel_of, wait_until
from napari_face_landmarks import TrackerSettings, track_layer, tracking
from napari_face_landmarks.demo import make_demo_clip
from test_docks import open_dock, take_picture

pytestmark = pytest.mark.gui

PICTURES = Path(__file__).parent / "pictures"
PLUGIN = "napari-face-landmarks"


def keep(picture: np.ndarray[Any, Any], name: str) -> None:
    """Write a picture for the README where the environment asks for it."""
    if os.environ.get("UPDATE_PICTURES"):
        from PIL import Image

        coarser = picture // 4 * 4 + 1  # 64 shades a channel: half the size, no visible change
        Image.fromarray(np.ascontiguousarray(coarser)).save(PICTURES / f"{name}.png", optimize=True)


def differs(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    return left.shape != right.shape or bool((left != right).any())


def test_the_main_dock_in_every_state(viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_face_landmarks.napari_plugin.commands import landmarks_dock

    slow = type("SlowTracker", (FakeTracker,), {"seconds_per_frame": 0.02})
    monkeypatch.setattr(tracking, "FaceTracker", slow)
    monkeypatch.setattr("napari_face_landmarks.napari_plugin.track_dock.load_models", lambda _: None)
    dock, _ = open_dock(viewer, "Track")
    widget = landmarks_dock(viewer).track
    dock.setFixedWidth(320)
    frames = np.random.default_rng(0).integers(0, 255, (120, 60, 80, 3), dtype=np.uint8)
    viewer.add_image(frames, rgb=True, name="clip")
    pictures = []

    def picture(state: str) -> None:
        for theme in ("dark", "light"):
            viewer.theme = theme
            pictures.append(take_picture(viewer, f"main {state} {theme}", dock))

    picture("idle")
    widget.run()
    wait_until(lambda: "left" in widget.status.value)
    widget.pause_or_resume()
    wait_until(lambda: "Paused" in widget.status.value)
    picture("paused")
    widget.pause_or_resume()
    wait_until(lambda: "Paused" not in widget.status.value)
    picture("running")
    wait_until(lambda: not widget.running)
    assert widget.status.value.startswith("Done")
    picture("done")
    widget.settings_controls["smoothing_window"].value = 4
    widget.run()
    assert "smoothing_window is 4" in widget.status.value
    picture("error")
    for before, after in pairwise(pictures):
        assert differs(before, after)


def test_outlines_and_trails_on_a_tracked_clip(viewer: Any) -> None:
    """What the README shows of the view dock: outlines, trails and colours by region on the sample's face."""
    from napari.layers import Layer
    from qtpy.QtWidgets import QCheckBox

    viewer.window.resize(1240, 760)
    frames = make_demo_clip(24, 320)[0]
    video = viewer.add_image(frames, rgb=True, name="Moving face", axis_labels=("frame", "y", "x"))
    (data,) = track_layer(video, TrackerSettings.preset("accurate"))
    points = viewer.add_layer(Layer.create(*data))
    dock, widget = open_dock(viewer, "View")
    dock.setFixedWidth(320)
    viewer.dims.set_current_step(0, 12)
    before = take_picture(viewer, "view before")
    boxes = {box.text(): box for box in widget.findChildren(QCheckBox)}
    for name in ("Outlines", "Trails"):
        boxes[name].setChecked(True)
    viewer.layers.selection.active = points
    let_work(0.5)
    viewer.dims.set_current_step(0, 16)
    let_work(0.5)
    after = take_picture(viewer, "view after")
    assert differs(before, after)
    keep(after, "view")


def test_the_correction_dock_while_a_face_is_corrected(viewer: Any) -> None:
    from napari.layers import Layer

    from napari_face_landmarks import tracks_of_layer
    from napari_face_landmarks.correction import set_manual_landmarks

    video = viewer.add_image(make_demo_clip(3, 320)[0], rgb=True, name="face")
    (data,) = track_layer(video)
    points = viewer.add_layer(Layer.create(*data))
    correction = panel_of(viewer, "Correct")
    viewer.dims.set_point(0, 1)
    let_work(0.3)
    before = take_picture(viewer, "correction before")
    tracks = tracks_of_layer(points)
    places = tracks.landmarks[1, 0, [8, 30, 48, 54]] + (12, 4)
    correction.editor.apply(set_manual_landmarks(tracks, 1, 0, [8, 30, 48, 54], places), "placed")
    let_work(0.3)
    placed = take_picture(viewer, "correction placed")
    assert "Manual landmarks: 4" in correction.status.value
    correction.refit_button.native.click()
    wait_until(lambda: correction.refit_button.enabled)
    viewer.theme = "light"
    refitted = take_picture(viewer, "correction refitted light")
    assert differs(before, placed)
    assert differs(placed, refitted)
