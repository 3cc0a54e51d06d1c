"""Correcting in napari: dragged landmarks are marked, refitted, carried on and undone; in a real window."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gui_support import let_work, wait_until
from napari_face_landmarks import FaceTracker, Tracks, load_models, tracks_of_layer
from napari_face_landmarks.correction import place_by_hand
from napari_face_landmarks.data.fields import MANUAL
from napari_face_landmarks.demo import make_demo_clip
from napari_face_landmarks.ibug import inter_ocular, nme
from napari_face_landmarks.napari_plugin.points_layer import tracks_to_layer_data

pytestmark = pytest.mark.gui
N_FRAMES, FRAME = 10, 4
PLACED = (36, 45, 48, 54)


@pytest.fixture(scope="module")
def clip() -> Any:
    return make_demo_clip(6 * N_FRAMES, 320)[0][:N_FRAMES]


@pytest.fixture(scope="module")
def truth(clip: Any) -> Tracks:
    return FaceTracker(load_models("open"), threads=1).track(clip)


@pytest.fixture
def spoiled(truth: Tracks) -> Tracks:
    landmarks = truth.landmarks.copy()
    landmarks[:, 0] += 0.6 * inter_ocular(truth.landmarks[:, 0])[:, None, None].astype(np.float32)
    return Tracks(
        landmarks,
        truth.confidence,
        truth.source,
        truth.pose,
        truth.boxes,
        truth.frame_indices,
        truth.timestamps,
        truth.settings,
        meta=truth.meta,
    )


@pytest.fixture
def dock(viewer: Any, clip: Any, spoiled: Tracks) -> Any:
    from napari.layers import Layer

    from napari_face_landmarks.napari_plugin.correction_dock import CorrectDock

    video = viewer.add_image(clip, rgb=True, name="face")
    viewer.add_layer(Layer.create(*tracks_to_layer_data(spoiled, video)[0]))
    dock = CorrectDock(viewer)
    viewer.window.add_dock_widget(dock, name="Correct")
    viewer.dims.set_point(0, FRAME)
    let_work(0.1)
    return dock


def drag(viewer: Any, layer: Any, index: int, y: float, x: float) -> None:
    """Drag a point with the mouse, as napari's own canvas reports it."""
    from napari.utils.interactions import (
        mouse_move_callbacks,
        mouse_press_callbacks,
        mouse_release_callbacks,
    )

    start, end = np.array(layer.data[index], dtype=float), np.array(layer.data[index], dtype=float)
    end[1:] = y, x
    event = SimpleNamespace(
        pos=np.zeros(2),
        handled=False,
        view_direction=None,
        up_direction=None,
        dims_displayed=[1, 2],
        modifiers=[],
    )
    for kind, place, call in (
        ("mouse_press", start, mouse_press_callbacks),
        ("mouse_move", end, mouse_move_callbacks),
        ("mouse_release", end, mouse_release_callbacks),
    ):  # one event that changes, as napari has it for what goes on until the release
        event.type, event.position, event.is_dragging = kind, tuple(place), kind == "mouse_move"
        call(layer, event)


def test_dragging_refitting_carrying_on_and_undoing(
    viewer: Any, dock: Any, truth: Tracks, spoiled: Tracks, tmp_path: Path
) -> None:
    layer = dock.layers.value
    dock.move_button.native.click()
    assert str(layer.mode) == "select"
    right = truth.landmarks[FRAME, 0]
    for k in PLACED:
        drag(viewer, layer, 68 * FRAME + k, right[k, 1], right[k, 0])
    let_work(0.05)
    placed = dock.editor.tracks
    assert np.argwhere(placed.by_hand).tolist() == [[FRAME, 0, k] for k in PLACED]
    np.testing.assert_allclose(placed.landmarks[FRAME, 0, PLACED], right[list(PLACED)], atol=1e-3)
    marked = [68 * FRAME + k for k in PLACED]
    assert set(np.flatnonzero(layer.features["source"] == "manual")) == set(marked)
    symbols = np.asarray(layer.symbol)
    assert {str(symbol) for symbol in symbols[marked]} != {str(symbols[0])}
    assert (layer.border_color[marked, :3] == 1).all()
    assert "Landmarks placed by hand: 4; frames with them: 1." in dock.status.value

    before = nme(spoiled.landmarks[:, 0], truth.landmarks[:, 0])
    dock.refit_button.native.click()
    wait_until(lambda: dock.editor.can_undo == "refitting a face")
    wait_until(lambda: dock.refit_button.enabled)
    after = nme(tracks_of_layer(layer).landmarks[:, 0], truth.landmarks[:, 0])
    assert after[FRAME] < 0.2 * before[FRAME]
    np.testing.assert_allclose(np.delete(after, FRAME), np.delete(before, FRAME))

    for button in (dock.forwards_button, dock.backwards_button):
        button.native.click()
        wait_until(lambda: not dock.refit_button.enabled)
        wait_until(lambda: dock.refit_button.enabled)
    after = nme(tracks_of_layer(layer).landmarks[:, 0], truth.landmarks[:, 0])
    assert (after < 0.2 * before).all()

    again = tracks_of_layer(layer)
    assert again.source[FRAME, 0] == MANUAL
    assert np.flatnonzero(again.by_hand[FRAME, 0]).tolist() == list(PLACED)
    again.save(tmp_path / "t.csv")
    np.testing.assert_array_equal(Tracks.load(tmp_path / "t.csv").by_hand, again.by_hand)

    for _ in range(3 + len(PLACED)):
        dock.undo_button.native.click()
    assert not dock.undo_button.enabled
    np.testing.assert_array_equal(tracks_of_layer(layer).landmarks, spoiled.landmarks)
    np.testing.assert_array_equal(dock.editor.tracks.by_hand, spoiled.by_hand)
    assert not (layer.features["source"] == "manual").any()
    for _ in range(3 + len(PLACED)):
        dock.redo_button.native.click()
    np.testing.assert_array_equal(tracks_of_layer(layer).landmarks, again.landmarks)
    found = layer.metadata["tracks_found"]
    np.testing.assert_array_equal(found.landmarks, spoiled.landmarks)


def test_what_cannot_be_done_is_said(viewer: Any, dock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_face_landmarks.napari_plugin import edit_controls

    told: list[str] = []
    monkeypatch.setattr(edit_controls, "show_error", told.append)
    viewer.dims.set_point(0, N_FRAMES - 1)
    dock.forwards_button.native.click()
    wait_until(lambda: told)
    assert "nothing to track" in told[0]
    wait_until(lambda: dock.refit_button.enabled)
    assert dock.status.value == told[0]
    viewer.layers.remove(dock.layers.value)
    let_work(0.05)
    assert "no landmarks" in dock.status.value
    assert not dock.refit_button.enabled


@pytest.mark.parametrize("button", ["refit_button", "forwards_button", "backwards_button"])
@pytest.mark.parametrize("fault", ["too short", "of another size"])
def test_a_video_that_is_not_that_of_the_tracks_is_told(
    viewer: Any,
    dock: Any,
    clip: Any,
    spoiled: Tracks,
    monkeypatch: pytest.MonkeyPatch,
    button: str,
    fault: str,
) -> None:
    from napari_face_landmarks.napari_plugin import edit_controls

    told: list[str] = []
    monkeypatch.setattr(edit_controls, "show_error", told.append)
    short = fault == "too short"
    dock.video.value = viewer.add_image(clip[:FRAME] if short else clip[:, 8:], rgb=True, name="other")
    viewer.dims.set_point(0, FRAME)
    getattr(dock, button).native.click()
    wait_until(lambda: told)
    assert told[0].startswith(f"The video has {FRAME} frames" if short else "The frames are 320 x ")
    wait_until(lambda: dock.refit_button.enabled)
    assert dock.status.value == told[0]
    np.testing.assert_array_equal(tracks_of_layer(dock.layers.value).landmarks, spoiled.landmarks)


def test_a_cancelled_stretch_changes_nothing(viewer: Any, dock: Any, spoiled: Tracks) -> None:
    dock.editor.apply(place_by_hand(spoiled, 0, 0, [30], spoiled.landmarks[0, 0, [30]]), "test")
    viewer.dims.set_point(0, 0)
    dock.forwards_button.native.click()
    dock.cancel_button.native.click()
    wait_until(lambda: dock.refit_button.enabled)
    np.testing.assert_array_equal(tracks_of_layer(dock.layers.value).landmarks, spoiled.landmarks)
    assert dock.editor.can_undo == "test"


def test_the_dock_fits_into_320_px(viewer: Any, dock: Any) -> None:
    assert dock.native.minimumSizeHint().width() <= 320
