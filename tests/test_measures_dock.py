"""The measures dock, in a real window: curves, rest, lines in the picture, exports."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gui_support import let_work, panel_of, wait_until
from measure_support import faces, shut, tracks_of
from napari_face_landmarks.napari_plugin.points_layer import tracks_to_layer_data

pytest.importorskip("pyqtgraph")
pytestmark = pytest.mark.gui


@pytest.fixture
def dock(viewer: Any) -> Any:
    from napari_face_landmarks.napari_plugin.measure_dock import MeasuresDock

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
    assert [round(frame) for *_, frame in dock.plot.marks] == [103]
    assert dock.plot.seconds.tickStrings([0, 50], 1, 50) == ["0.0 s", "2.0 s"]
    assert not dock.names.itemIcon(dock.names.findData("smile_angle")).isNull()
    viewer.dims.set_point(0, 104)
    let_work(0.05)
    assert dock.plot.cursor.value() == 104
    assert float(dock.values.item(0, 0).text().split("±")[0]) == pytest.approx(1, abs=0.02)
    dock.plot.cursor.setValue(20)
    dock._on_cursor()
    assert viewer.dims.current_step[0] == 20
    dock.names.setCurrentIndex(dock.names.findData("mouth_width"))
    row = dock.names.currentIndex()
    assert dock.values.verticalHeaderItem(row).toolTip() == "mouth width (percent)"
    assert float(dock.values.item(row, 0).text().split("±")[0]) == pytest.approx(50, abs=0.5)
    assert dock.values.rowCount() == dock.names.count()
    dock.values.cellClicked.emit(dock.names.findData("smile_angle"), 1)
    assert dock.names.currentData() == "smile_angle"


def test_rest_lines_and_removal(dock: Any, viewer: Any) -> None:
    viewer.dims.set_point(0, 150)
    before = dock.table
    dock.rest_button.click()
    wait_until(lambda: dock.table is not before)
    assert dock.table.rest[0].tolist() == [150]
    assert dock.rest_button.text() == "Rest: frame 150", "what is at rest, not what a click would do"
    assert dock.of_frame.text().strip() == "frame 150", "whose values the table has"
    places = []
    for words in (
        "One line.",
        "Two lines of many words, wherever in them the label may happen to begin another.",
    ):
        dock.status.setText(words)
        let_work(0.1)
        places.append(dock.rest_button.y())
    assert places[0] == places[1], "buttons stay where they are"
    dock.lines_box.setChecked(True)
    assert "Measured" in viewer.layers
    assert len(viewer.layers["Measured"].data) == 4  # two gaps of each eye
    viewer.layers.remove("Measured")
    assert not dock.lines_box.isChecked()
    viewer.layers.clear()
    let_work(0.1)
    assert dock.table is None
    assert "Track a video" in dock.status.text()
    assert dock.values.horizontalHeaderItem(2).text() == "L \N{MINUS SIGN} R"


def test_a_click_on_a_mark_goes_to_its_peak(dock: Any, viewer: Any) -> None:
    from qtpy.QtCore import QPointF, Qt

    first, _, peak = dock.plot.marks[0]
    box = dock.plot.getPlotItem().vb

    class Click:
        def button(self) -> Any:
            return Qt.MouseButton.LeftButton

        def scenePos(self) -> Any:
            return box.mapViewToScene(QPointF(first + 0.2, 0.5))

    dock._on_click(Click())
    assert viewer.dims.current_step[0] == peak


def test_an_earlier_recording_is_compared(dock: Any, viewer: Any, tmp_path: Path) -> None:
    assert not dock.befores.isVisible()
    after = faces(60)
    after[:, 0, 54, 1] += 12
    ((data, attributes, _),) = tracks_to_layer_data(tracks_of(after))
    attributes["name"] = "after"
    viewer.add_points(data, **attributes)
    wait_until(lambda: dock.table is not None and len(dock.table.values) == 60)
    assert dock.befores.count() == 2
    changes = dock.export_button.model().item(dock.export_button.findText("Changes since before"))
    assert not changes.isEnabled(), "there is nothing to compare with"
    dock.befores.setCurrentIndex(1)
    wait_until(lambda: dock._before is not None)
    dock.names.setCurrentIndex(dock.names.findData("commissure_height"))
    heads = [dock.values.horizontalHeaderItem(k).text() for k in range(3)]
    assert heads[:2] == ["Before", "After"]
    assert changes.isEnabled()
    assert dock.of_frame.text().strip() == "at rest"
    titles = [dock.values.verticalHeaderItem(k).text() for k in range(dock.values.rowCount())]
    changed = dock.values.item(titles.index("comm. height L %"), 2).text()
    assert float(changed.split("±")[0]) == pytest.approx(6, abs=0.1)
    for plot, length in ((dock.before_plot, 200), (dock.plot, 60)):
        assert plot.isVisible()
        assert [item.opts["name"] for item in plot.listDataItems()] == ["Right", "Left"]
        assert len(plot.listDataItems()[0].xData) == length
    for what, inside in (("Changes since before", "commissure_height_left"), ("Report", "Change (95 %")):
        dock.export(what, tmp_path / what.split()[0])
        wait_until(lambda: "Exported" in dock.status.text())
        dock.status.setText("")
        (path,) = tmp_path.glob(f"{what.split()[0]}.*")
        assert inside in path.read_text(encoding="utf-8")
    viewer.layers.remove(dock.befores.currentData())
    let_work(0.1)
    assert dock._before is None
    assert not dock.before_plot.isVisible()
    assert dock.values.horizontalHeaderItem(0).text() == "Right"


def test_the_table_has_units_and_fits_a_narrow_dock(dock: Any, viewer: Any) -> None:
    rng, n = np.random.default_rng(0), 40
    for name, moved in (("before", 0), ("after", -60)):
        landmarks = faces(n) + rng.normal(0, 2, (n, 1, 68, 2)).astype(np.float32)
        landmarks[:, 0, 54, 1] += moved
        tracks = tracks_of(landmarks)
        tracks.sigma[:] = 3.0
        ((data, attributes, _),) = tracks_to_layer_data(tracks)
        viewer.add_points(data, **{**attributes, "name": name})
    wait_until(lambda: dock.table is not None and len(dock.table.values) == n)
    table = dock.values
    viewer.dims.set_point(0, 5)
    table.setFixedWidth(300)  # in a dock of 330
    let_work(0.1)

    def fits() -> None:
        for row in range(table.rowCount()):
            head = table.verticalHeaderItem(row).text()
            assert table.fontMetrics().horizontalAdvance(head) <= table.verticalHeader().width(), head
            for column in range(3):
                text = table.item(row, column).text()
                assert table.fontMetrics().horizontalAdvance(text) <= table.columnWidth(column) + 2, text

    fits()
    heads = [table.verticalHeaderItem(row).text() for row in range(table.rowCount())]
    assert {"eye closure", "eye height %", "eye area %²", "smile angle °", "mouth opening %"} <= set(heads)
    cell = table.item(dock.names.findData("eye_aperture"), 0)
    assert re.fullmatch(r"-?0\.\d\d±\.\d\d", cell.text())
    assert re.fullmatch(r"eye aperture, right: -?0\.\d{3} ± 0\.\d{3} ratio", cell.toolTip())
    dock.befores.setCurrentIndex(dock.befores.findText("Before: before"))
    wait_until(lambda: dock._before is not None)
    let_work(0.1)
    fits()
    row = [table.verticalHeaderItem(k).text() for k in range(table.rowCount())].index("comm. height L %")
    assert table.item(row, 2).text().endswith(" *")
    assert "commissure height, left: -" in table.item(row, 2).toolTip()


def test_there_is_room_for_the_seconds_above_the_curves(dock: Any) -> None:
    assert dock.plot.seconds.height() >= dock.plot.fontMetrics().height() + 8


def test_the_legend_follows_the_theme(dock: Any) -> None:
    from qtpy.QtGui import QColor, QPalette

    palette = dock.plot.palette()
    palette.setColor(QPalette.ColorRole.WindowText, QColor("#123456"))
    dock.plot.setPalette(palette)
    let_work(0.05)
    assert "#123456" in dock.plot.legend.items[0][1].item.toHtml()


def test_what_is_underestimated_is_said(dock: Any) -> None:
    assert "underestimated" not in dock.status.text()
    dock.table = dataclasses.replace(dock.table, meta={"models": "open"})
    dock.names.setCurrentIndex(dock.names.findData("commissure_height"))
    assert "left minus right by about 25 %" in dock.status.text()


def test_exports_are_written(dock: Any, tmp_path: Path) -> None:
    for what in ("Table of every frame", "Blinks", "Summary", "Plot", "Report"):
        dock.status.setText("")
        dock.export(what, tmp_path / what)
        wait_until(lambda: "Exported" in dock.status.text())
        (path,) = tmp_path.glob(f"{what}.*")
        assert path.stat().st_size > 50


@pytest.mark.parametrize(
    ("typed", "line", "name"),
    [
        ("S01.rest plot", "", "S01.rest plot.png"),
        ("S01.rest plot", "SVG (*.svg)", "S01.rest plot.svg"),
        ("S01.PDF", "SVG (*.svg)", "S01.PDF"),
    ],
)
def test_the_format_of_an_export_is_the_typed_or_chosen_one(typed: str, line: str, name: str) -> None:
    from napari_face_landmarks.napari_plugin.measure_dock import _with_suffix

    assert _with_suffix(Path(typed), "Plot", line).name == name


def test_an_export_without_time_stamps_asks_for_the_frame_rate(
    dock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qtpy.QtWidgets import QFileDialog, QInputDialog

    from napari_face_landmarks.napari_plugin.measure_dock import EXPORTS

    unknown = np.full(len(dock.table.timestamps), np.nan)
    dock.table = dataclasses.replace(dock.table, timestamps=unknown)
    dock._draw()
    assert "No time stamps" in dock.status.text()
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *given: (str(tmp_path / "S01.rest"), ""))
    blinks = 1 + list(EXPORTS).index("Blinks")
    monkeypatch.setattr(QInputDialog, "getDouble", lambda *given: (50.0, False))
    dock._on_export(blinks)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(QInputDialog, "getDouble", lambda *given: (50.0, True))
    dock._on_export(blinks)
    wait_until(lambda: "Exported" in dock.status.text())
    assert (tmp_path / "S01.rest.csv").is_file()
    assert dock.table.timestamps[50] == 1


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(-0.2, 1.4, "-0.2 ± 1.4"), (-0.001, 0.14, "0.00 ± 0.14"), (31.2, 12.0, "31 ± 12"), (0.5, np.nan, "0.5")],
)
def test_values_have_the_digits_that_their_errors_allow(value: float, error: float, text: str) -> None:
    from napari_face_landmarks.napari_plugin.measure_dock import with_error

    assert with_error(value, error) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (23.11, 0.86, "23.1±.9"),
        (23.16, 0.996, "23.2±1.0"),
        (-27.46, 0.21, "-27.5±.2"),
        (0.614, 0.31, "0.61±.31"),
        (-18.74, 1.24, "-18.7±1.2"),
        (178.3, 15.2, "178±15"),
    ],
)
def test_values_in_cells_fit_them(value: float, error: float, text: str) -> None:
    from napari_face_landmarks.napari_plugin.measure_dock import briefly_with_error

    assert briefly_with_error(value, error) == text


def test_a_newcomer_has_a_spreadsheet_after_eight_clicks(
    viewer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a running napari, as the plugin's README counts: a dialog to open is two, one to save is one."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QFileDialog

    from napari_face_landmarks.demo import make_demo_clip
    from napari_face_landmarks.video import write_video

    video, asked = tmp_path / "S01.mp4", []
    write_video(video, make_demo_clip(30)[0], 25.0)
    clicks = 0

    def click(button: Any) -> None:
        nonlocal clicks
        assert button.isEnabled()
        assert button.visibleRegion().contains(button.rect().center())
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)
        clicks += 1

    def open_file(*_: Any) -> tuple[str, str]:
        nonlocal clicks
        clicks += 2
        return str(video), ""

    def save_file(_: Any, __: str, suggested: str, formats: str) -> tuple[str, str]:
        nonlocal clicks
        clicks += 1
        asked.append(Path(suggested))
        return suggested, formats.split(";;")[0]

    monkeypatch.setattr(QFileDialog, "getOpenFileName", open_file)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", save_file)
    entries = list(viewer.window._qt_window.menuBar().actions())
    path = _path_to(entries, "Face landmarks")
    path[-1].trigger()
    clicks += len(path)
    let_work(0.3)
    track = panel_of(viewer, "Track")
    click(track.welcome.open_button)
    wait_until(lambda: track.run_button.enabled)
    click(track.run_button.native)
    wait_until(lambda: track.table_button.enabled, 60)
    click(track.table_button.native)
    panel = panel_of(viewer, "Measure")
    wait_until(lambda: "Exported" in panel.status.text())
    assert asked == [tmp_path / "S01 measures.csv"]
    table = pd.read_csv(asked[0])
    assert len(table) == 30
    wanted = ["mouth_opening_percent", "closure_right", "closure_left"]
    assert np.isfinite(table[wanted].to_numpy()).all()
    assert clicks <= 8


def _path_to(entries: Any, title: str) -> list[Any]:
    """Return the entries of menus that lead to the one that begins with a title; menus fill when opened."""
    for entry in entries:
        if entry.menu() is None:
            if entry.text().replace("&", "").startswith(title):
                return [entry]
        elif entry.text().replace("&", "") == "Plugins" or len(entries) < 9:
            entry.menu().aboutToShow.emit()
            if found := _path_to(entry.menu().actions(), title):
                return [entry, *found]
    return []
