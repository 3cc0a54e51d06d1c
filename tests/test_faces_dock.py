"""The faces dock in a real window: faces are named, merged, split, deleted, and all of it undone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gui_support import let_work
from napari_face_landmarks import Tracks, tracks_of_layer
from napari_face_landmarks.correction import names_of_faces
from napari_face_landmarks.napari_plugin.points_layer import tracks_to_layer_data
from test_export import make_tracks

pytestmark = pytest.mark.gui


@pytest.fixture
def tracks() -> Tracks:
    return make_tracks(6, 2)


@pytest.fixture
def dock(viewer: Any, tracks: Tracks) -> Any:
    from napari.layers import Layer

    from napari_face_landmarks.napari_plugin.faces_dock import FacesDock

    viewer.add_layer(Layer.create(*tracks_to_layer_data(tracks)[0]))
    dock = FacesDock(viewer)
    viewer.window.add_dock_widget(dock, name="Faces")
    let_work(0.05)
    return dock


def test_faces_are_edited_in_the_layer_and_edits_are_undone(
    viewer: Any, dock: Any, tracks: Tracks, tmp_path: Path
) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    layer = dock.layer
    texts = [dock.list.item(k).text() for k in range(2)]
    assert texts == ["face 0 (5 frames)", "face 1 (5 frames)"]
    dock.select([1])
    dock.rename_button.native.click()
    assert dock.status.value == "Enter the new name first."
    QTest.mouseClick(dock.new_name.native, Qt.MouseButton.LeftButton)
    assert dock.new_name.native.placeholderText() == "face 1"
    QTest.keyClicks(dock.new_name.native, "Anna")
    dock.rename_button.native.click()
    assert dock.list.item(1).text() == "Anna (5 frames)"
    viewer.dims.set_point(0, 3)
    dock.split_button.native.click()
    assert [dock.list.item(k).text() for k in range(3)] == [
        "face 0 (5 frames)",
        "Anna (2 frames)",
        "face 2 (3 frames)",
    ]
    assert set(layer.features["face"]) == {0, 1, 2}
    dock.select([0])
    dock.delete_button.native.click()
    assert names_of_faces(tracks_of_layer(layer)) == ["Anna", "face 2"]
    dock.select([0, 1])
    dock.merge_button.native.click()
    merged = tracks_of_layer(layer)
    np.testing.assert_array_equal(merged.landmarks[:, 0], tracks.landmarks[:, 1])
    np.testing.assert_array_equal(merged.by_hand[:, 0], tracks.by_hand[:, 1])
    merged.save(tmp_path / "t.npz")
    assert names_of_faces(Tracks.load(tmp_path / "t.npz")) == ["Anna"]
    for _ in range(4):
        dock.undo_button.native.click()
    assert not dock.undo_button.enabled
    assert dock.status.value.startswith("Undone: ")
    again = tracks_of_layer(layer)
    np.testing.assert_array_equal(again.landmarks, tracks.landmarks)
    np.testing.assert_array_equal(again.by_hand, tracks.by_hand)
    assert names_of_faces(again) == ["face 0", "face 1"]
    dock.redo_button.native.click()
    assert dock.list.item(1).text() == "Anna (5 frames)"


def test_a_face_that_is_selected_is_marked_in_the_picture(viewer: Any, dock: Any) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    layer, click = dock.layer, Qt.MouseButton.LeftButton
    layer.selected_data = {5}
    dock.set_active(True)
    assert layer.selected_data == {5}, "the user's, as long as no face is selected"
    viewer.dims.set_point(0, 3)
    for face in (0, 1):
        at = dock.list.visualItemRect(dock.list.item(face)).center()
        QTest.mouseClick(dock.list.viewport(), click, pos=at)
        marked = sorted(layer.selected_data)
        assert len(marked) == 68
        assert set(layer.features["face"].iloc[marked]) == {face}
        assert set(layer.data[marked, 0]) == {3}
        assert "raise Faces under Advanced" not in dock.status.value
    dock.set_active(False)
    assert not layer.selected_data, "another tab may move what is selected"
    dock.set_active(True)
    dock.keep_button.native.click()
    assert "raise Faces under Advanced" in dock.status.value, "of one face"


def test_what_cannot_be_done_is_said(viewer: Any, dock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_face_landmarks.napari_plugin import panels

    told: list[str] = []
    monkeypatch.setattr(panels, "show_error", told.append)
    dock.select([0])
    dock.new_name.value = "face 1"
    dock.rename_button.native.click()
    assert "Another face is named" in told[0]
    assert not dock.merge_button.enabled
    assert dock.native.minimumSizeHint().width() <= 320
    viewer.layers.remove(dock.layer)
    let_work(0.05)
    assert "no landmarks" in dock.status.value


def test_boxes_that_are_drawn_tell_the_next_run(viewer: Any, dock: Any) -> None:
    from napari_face_landmarks.napari_plugin.faces_dock import regions_of_layers
    from napari_face_landmarks.tracking import Region, Regions

    viewer.add_image(np.zeros((6, 60, 80), np.uint8), scale=(1, 2, 2))
    assert regions_of_layers(viewer.layers) == Regions()
    dock.look_button.native.click()
    look = viewer.layers.selection.active
    assert str(look.mode) == "add_rectangle"
    look.add_rectangles(np.array([[2, 10, 20], [2, 10, 50], [2, 40, 50], [2, 40, 20]], float))
    dock.ignore_button.native.click()
    ignore = viewer.layers.selection.active
    ignore.add_rectangles(np.array([[3, 0, 0], [3, 0, 9], [3, 5, 9], [3, 5, 0]], float))
    wanted = Regions((Region((20, 10, 50, 40), 2, 2),), (Region((0, 0, 9, 5)),))
    assert regions_of_layers(viewer.layers) == wanted
    dock.look_button.native.click()
    assert viewer.layers.selection.active is look
    np.testing.assert_array_equal(look.scale, (1, 2, 2))
