"""Correcting in napari: dragged landmarks are marked, refitted, carried on and undone; in a real window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gui_measure import drag, long_tracks, measure_editing
from gui_support import TRIES, let_work, wait_until
from napari_face_landmarks import FaceTracker, Tracks, load_models, tracks_of_layer
from napari_face_landmarks.correction import set_manual_landmarks
from napari_face_landmarks.data.fields import MANUAL
from napari_face_landmarks.demo import make_demo_clip
from napari_face_landmarks.ibug import inter_ocular, nme
from napari_face_landmarks.napari_plugin.layers import camera_of
from napari_face_landmarks.napari_plugin.points_layer import tracks_to_layer_data

pytestmark = pytest.mark.gui
N_FRAMES, FRAME = 10, 4
PLACED = (36, 45, 51, 57)


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
    return truth.with_arrays({**truth.arrays(), "landmarks": landmarks})


@pytest.fixture
def dock(viewer: Any, clip: Any, spoiled: Tracks) -> Any:
    from napari.layers import Layer

    from napari_face_landmarks.napari_plugin.correct_dock import CorrectDock

    video = viewer.add_image(clip, rgb=True, name="face")
    viewer.add_layer(Layer.create(*tracks_to_layer_data(spoiled, video)[0]))
    dock = CorrectDock(viewer)
    viewer.window.add_dock_widget(dock, name="Correct")
    viewer.dims.set_point(0, FRAME)
    let_work(0.1)
    return dock


def test_dragging_refitting_carrying_on_and_undoing(
    viewer: Any, dock: Any, truth: Tracks, spoiled: Tracks, tmp_path: Path
) -> None:
    from napari_face_landmarks.napari_plugin.edit_history import MANUAL_COLOUR

    layer = dock.layer
    dock.move_button.native.click()
    assert str(layer.mode) == "select"
    assert dock.status.value.startswith("Drag three or four")
    right = truth.landmarks[FRAME, 0]
    for k in PLACED:
        drag(layer, 68 * FRAME + k, right[k, 1], right[k, 0])
    let_work(0.05)
    placed = dock.editor.tracks
    assert np.argwhere(placed.by_hand).tolist() == [[FRAME, 0, k] for k in PLACED]
    np.testing.assert_allclose(placed.landmarks[FRAME, 0, PLACED], right[list(PLACED)], atol=1e-3)
    marked = [68 * FRAME + k for k in PLACED]
    assert set(np.flatnonzero(layer.features["source"] == "manual")) == set(marked)
    symbols = np.asarray(layer.symbol)
    assert {str(symbol) for symbol in symbols[marked]} != {str(symbols[0])}
    np.testing.assert_allclose(layer.border_color[marked], [MANUAL_COLOUR] * len(marked))
    told = "Manual landmarks: 4; frames with manual landmarks: 1."
    assert dock.status.value == f"{told} Now refit this frame, then propagate."

    before = nme(spoiled.landmarks[:, 0], truth.landmarks[:, 0])
    dock.refit_button.native.click()
    wait_until(lambda: dock.editor.can_undo == "refitting a face")
    wait_until(lambda: dock.refit_button.enabled)
    assert dock.status.value.endswith(told)
    after = nme(tracks_of_layer(layer).landmarks[:, 0], truth.landmarks[:, 0])
    assert after[FRAME] < 0.2 * before[FRAME]
    np.testing.assert_allclose(np.delete(after, FRAME), np.delete(before, FRAME))

    for button, count in ((dock.forwards_button, N_FRAMES - FRAME - 1), (dock.backwards_button, FRAME)):
        button.native.click()
        wait_until(lambda: not dock.refit_button.enabled)
        wait_until(lambda: dock.refit_button.enabled)
        assert f"wards: {count} frames changed. Manual" in dock.status.value
    after = nme(tracks_of_layer(layer).landmarks[:, 0], truth.landmarks[:, 0])
    assert (after < 0.2 * before).all()

    dock.everywhere_button.native.click()
    wait_until(lambda: dock.editor.can_undo == "propagating everywhere")
    wait_until(lambda: dock.refit_button.enabled)
    assert dock.progress.value == dock.progress.max
    dock.undo_button.native.click()
    let_work(0.1)
    assert dock.status.value.startswith("Undone: propagating everywhere. Manual landmarks: 4;")

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
    assert dock.status.value.startswith("Redone: propagating backwards.")
    np.testing.assert_array_equal(tracks_of_layer(layer).landmarks, again.landmarks)
    found = layer.metadata["tracks_found"]
    np.testing.assert_array_equal(found.landmarks, spoiled.landmarks)


def test_moving_zooms_in_on_a_small_face(viewer: Any, dock: Any) -> None:
    camera, place = camera_of(viewer), dock.editor.tracks.landmarks[FRAME, 0]
    middle = (place.min(axis=0) + place.max(axis=0))[::-1] / 2
    viewer.reset_view()
    camera.zoom /= 4
    small = camera.zoom
    dock.move_button.native.click()
    assert camera.zoom > 6 * small
    np.testing.assert_allclose(camera.center[-2:], middle, atol=1)
    camera.zoom *= 1.5
    camera.center = (*camera.center[:-2], *(middle + 9))
    chosen = camera.zoom, tuple(camera.center)
    dock.move_button.native.click()
    assert (camera.zoom, tuple(camera.center)) == chosen, "the user has zoomed in"
    camera.center = (*camera.center[:-2], *(middle + 900))
    dock.move_button.native.click()
    np.testing.assert_allclose(camera.center[-2:], middle, atol=1)


def test_what_cannot_be_done_is_said(viewer: Any, dock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_face_landmarks.napari_plugin import panels

    told: list[str] = []
    monkeypatch.setattr(panels, "show_error", told.append)
    viewer.dims.set_point(0, N_FRAMES - 1)
    dock.forwards_button.native.click()
    wait_until(lambda: told)
    assert "no frame to propagate to" in told[0]
    wait_until(lambda: dock.refit_button.enabled)
    assert dock.status.value == told[0]
    viewer.layers.remove(dock.layer)
    let_work(0.05)
    assert "no landmarks" in dock.status.value
    assert not dock.refit_button.enabled


def test_a_video_that_is_not_that_of_the_tracks_is_told(
    viewer: Any, dock: Any, clip: Any, spoiled: Tracks, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_face_landmarks.napari_plugin import panels

    told: list[str] = []
    monkeypatch.setattr(panels, "show_error", told.append)
    for other, words in (
        (clip[:FRAME], f"The video has {FRAME} frames"),
        (clip[:, 8:], "The frames are 320 x "),
    ):
        dock.video.value = viewer.add_image(other, rgb=True, name=words)
        viewer.dims.set_point(0, FRAME)
        for button in (dock.refit_button, dock.forwards_button, dock.backwards_button):
            told.clear()
            dock.status.value = ""
            button.native.click()
            wait_until(lambda: told)
            assert told[0].startswith(words)
            wait_until(lambda: dock.refit_button.enabled)
            assert dock.status.value == told[0]
            np.testing.assert_array_equal(tracks_of_layer(dock.layer).landmarks, spoiled.landmarks)


def test_a_cancelled_stretch_changes_nothing(viewer: Any, dock: Any, spoiled: Tracks) -> None:
    dock.editor.apply(set_manual_landmarks(spoiled, 0, 0, [30], spoiled.landmarks[0, 0, [30]]), "test")
    viewer.dims.set_point(0, 0)
    dock.forwards_button.native.click()
    dock.cancel_button.native.click()
    wait_until(lambda: dock.refit_button.enabled)
    np.testing.assert_array_equal(tracks_of_layer(dock.layer).landmarks, spoiled.landmarks)
    assert dock.editor.can_undo == "test"


def test_what_is_corrected_is_exported_from_here(
    dock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qtpy.QtWidgets import QFileDialog

    path = tmp_path / "corrected.npz"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), "NumPy, everything (*.npz)"))
    dock.editor.apply(set_manual_landmarks(dock.editor.tracks, FRAME, 0, [30], [(9, 8)]), "moving")
    dock.export_button.native.click()
    wait_until(path.is_file)
    assert Tracks.load(path).by_hand[FRAME, 0].sum() == 1


def test_the_dock_fits_into_320_px(viewer: Any, dock: Any) -> None:
    assert dock.native.minimumSizeHint().width() <= 320
    viewer.window.add_dock_widget(dock, name="Correct")
    let_work(0.1)
    left = [box.native.mapToGlobal(box.native.rect().topLeft()).x() for box in (dock.video, dock.face)]
    assert left[0] == left[1], "controls below each other begin below each other"


@pytest.mark.nightly
def test_a_long_video_is_corrected_without_waiting(display: None) -> None:
    for _ in range(TRIES):
        found = measure_editing()
        own = found["drag_s"] - found["napari_drag_s"]
        if found["open_docks_s"] < 1 and own < 0.05:
            break
    assert found["open_docks_s"] < 1
    assert own < 0.05


def test_a_face_that_was_not_found_on_a_frame_is_put_there_to_be_moved(
    viewer: Any, clip: Any, truth: Tracks
) -> None:
    from napari.layers import Layer

    from napari_face_landmarks.correction import delete_face
    from napari_face_landmarks.napari_plugin.correct_dock import CorrectDock

    dark = np.where((np.arange(N_FRAMES) > FRAME)[:, None, None, None], 0, clip)
    video = viewer.add_image(dark, rgb=True, name="face")
    lost = delete_face(truth, 0, (FRAME, N_FRAMES - 1))
    viewer.add_layer(Layer.create(*tracks_to_layer_data(lost, video)[0]))
    dock = CorrectDock(viewer)
    viewer.window.add_dock_widget(dock, name="Correct")
    viewer.dims.set_point(0, FRAME)
    let_work(0.1)
    dock.move_button.native.click()
    assert f"those of frame {FRAME - 1}." in dock.status.value
    put = dock.editor.tracks
    np.testing.assert_array_equal(put.landmarks[FRAME, 0], truth.landmarks[FRAME - 1, 0])
    assert not put.by_hand.any()
    assert not put.present[FRAME + 1, 0]
    right = truth.landmarks[FRAME, 0]
    for k in PLACED:
        drag(dock.layer, 68 * FRAME + k, right[k, 1], right[k, 0])
    dock.refit_button.native.click()
    wait_until(lambda: dock.editor.can_undo == "refitting a face")
    assert nme(dock.editor.tracks.landmarks[FRAME, 0], right) < 0.03
    wait_until(lambda: dock.refit_button.enabled)
    assert dock.status.value.startswith("Refitting a face: 1 frame changed.")
    dock.forwards_button.native.click()
    wait_until(lambda: dock.refit_button.enabled)
    assert "forwards: no frame changed, because the face is not visible" in dock.status.value
    while dock.editor.can_undo:
        dock.editor.undo()
    np.testing.assert_array_equal(dock.editor.tracks.landmarks, lost.landmarks)


def test_points_moved_before_the_editor_existed_are_corrections() -> None:
    from napari.components import ViewerModel
    from napari.layers import Layer

    from napari_face_landmarks.napari_plugin.edit_history import editor_of

    tracks = long_tracks(20)
    viewer = ViewerModel()
    layer = viewer.add_layer(Layer.create(*tracks_to_layer_data(tracks)[0]))
    layer.mode = "select"
    before = tracks.landmarks.copy()
    layer.data[68 * 7 + 30, 1:] += 5
    editor = editor_of(layer)
    assert np.argwhere(editor.tracks.by_hand).tolist() == [[7, 0, 30]]
    assert editor.manual.tolist() == [int(frame == 7) for frame in range(20)]
    np.testing.assert_array_equal(tracks.landmarks, before)
    for frame in (7, 9):
        viewer.dims.set_point(0, frame)
        drag(layer, 68 * frame + 31, 50, 60)
    np.testing.assert_array_equal(editor.tracks.landmarks[9, 0, 31], (60, 50))
    np.testing.assert_array_equal(tracks.landmarks, before)
    again = tracks_of_layer(layer)
    np.testing.assert_array_equal(again.by_hand, editor.tracks.by_hand)
    np.testing.assert_array_equal(again.source, editor.tracks.source)
    for _ in range(3):
        editor.undo()
    np.testing.assert_array_equal(layer.data[:, :0:-1].reshape(before.shape), before)
    np.testing.assert_array_equal(editor.tracks.by_hand, tracks.by_hand)
    np.testing.assert_array_equal(editor.tracks.source, tracks.source)


@pytest.mark.gui(quick=True)
def test_after_a_drag_napari_draws_the_mark_without_another_search_for_the_points_of_the_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from napari.components import ViewerModel
    from napari.layers import Layer

    from napari_face_landmarks.napari_plugin.edit_history import MANUAL_COLOUR, editor_of

    viewer = ViewerModel()
    layer = viewer.add_layer(Layer.create(*tracks_to_layer_data(long_tracks(20))[0]))
    viewer.dims.set_point(0, 0)
    layer.mode = "select"
    searches, drawn = [], []
    search = layer.set_view_slice
    layer.set_view_slice = lambda: (searches.append(1), search())
    layer.events.set_data.connect(
        lambda: drawn.append((tuple(layer.data[30]), float(layer.border_color[30, 0])))
    )
    drag(layer, 30, 50, 60)
    alone = len(searches)
    editor_of(layer)
    monkeypatch.setattr("napari.layers.Points", None)  # to make another layer takes long, too
    drag(layer, 30, 70, 80)
    assert len(searches) == 2 * alone > 0
    assert drawn[-1] == ((0, 70, 80), pytest.approx(MANUAL_COLOUR[0]))


def test_landmarks_are_refitted_with_the_models_that_they_were_tracked_with(
    viewer: Any, dock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_face_landmarks.napari_plugin import panels, run_controller

    loaded: list[str] = []

    def load(name: str) -> Any:
        loaded.append(name)
        return load_models("open")

    run_controller.load_cached.cache_clear()
    monkeypatch.setattr(run_controller, "load_models", load)
    told: list[str] = []
    monkeypatch.setattr(panels, "show_error", told.append)

    def refit(name: str) -> None:
        dock.editor.tracks.meta["models"] = name
        dock.refit_button.native.click()
        wait_until(lambda: not dock.busy)
        let_work(0.05)

    for name in ("open", "research", "research", "open"):
        refit(name)
    assert loaded == ["open", "research"], "each is loaded once"
    assert not told
    refit("mine")
    assert "'mine', which are not installed here" in told[0]
    run_controller.load_cached.cache_clear()
