"""The measures dock, in a real window: curves, rest, lines in the picture, exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gui_support import let_work, wait_until
from measure_support import faces, shut, tracks_of
from napari_face_landmarks.napari_plugin.points_layer import tracks_to_layer_data

pytest.importorskip("pyqtgraph")
pytestmark = pytest.mark.gui


@pytest.fixture
def dock(viewer: Any) -> Any:
    from napari_face_landmarks.napari_plugin.measures_dock import MeasuresDock

    landmarks = faces(200)
    shut(landmarks, np.interp(np.arange(200), [100, 103, 104, 108], [0, 1, 1, 0]))
    viewer.add_image(np.zeros((200, 480, 640), np.uint8), name="video")
    ((data, attributes, _),) = tracks_to_layer_data(tracks_of(landmarks))
    made = MeasuresDock(viewer)
    viewer.window.add_dock_widget(made)
    viewer.add_points(data, **attributes)
    wait_until(lambda: made.table is not None)
    return made


def test_curves_follow_the_layer_and_the_slider(dock: Any, viewer: Any) -> None:
    assert dock.names.currentData() == "closure"
    assert dock._n_blinks == 1
    viewer.dims.set_point(0, 104)
    let_work(0.05)
    assert dock.cursor.value() == 104
    assert float(dock.values.item(0, 0).text().split()[0]) == pytest.approx(1, abs=0.02)
    dock.cursor.setValue(20)
    dock._on_cursor()
    assert viewer.dims.current_step[0] == 20
    dock.names.setCurrentIndex(dock.names.findData("mouth_width"))
    assert float(dock.values.item(0, 0).text().split()[0]) == pytest.approx(50, abs=0.5)


def test_rest_lines_and_removal(dock: Any, viewer: Any) -> None:
    viewer.dims.set_point(0, 150)
    before = dock.table
    dock.rest_button.click()
    wait_until(lambda: dock.table is not before)
    assert dock.table.rest[0].tolist() == [150]
    dock.lines_box.setChecked(True)
    assert "Measured" in viewer.layers
    assert len(viewer.layers["Measured"].data) == 4  # two gaps of each eye
    viewer.layers.remove("Measured")
    assert not dock.lines_box.isChecked()
    viewer.layers.clear()
    let_work(0.1)
    assert dock.table is None
    assert "Track a video" in dock.status.text()


@pytest.mark.parametrize("what", ["Table of every frame", "Blinks", "Summary", "Plot", "Report"])
def test_exports_are_written(dock: Any, what: str, tmp_path: Path) -> None:
    dock.export(what, tmp_path / "out")
    wait_until(lambda: "Exported" in dock.status.text())
    (path,) = tmp_path.glob("out.*")
    assert path.stat().st_size > 50
