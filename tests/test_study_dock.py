"""Many videos in the window: one list and one form, the same engine as `batch`, results a click away."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gui_measure import long_tracks
from gui_support import let_work, panel_of, wait_until
from napari_face_landmarks.napari_plugin import commands, study_dock
from napari_face_landmarks.runs import FileResult
from napari_face_landmarks.runs.measures import MEASURES_TABLE
from napari_face_landmarks.video import write_video

pytestmark = pytest.mark.gui


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of four videos, one of them in a folder of its own."""
    videos = tmp_path / "videos"
    (videos / "day 2").mkdir(parents=True)
    frames = np.zeros((8, 48, 64, 3), np.uint8)
    for name in ("a.mkv", "b.mkv", "c.mkv", "day 2/a.mkv"):
        write_video(videos / name, frames, fps=25)
    return videos


class FakeBatch:
    """Stands for `track_many`: the video "b" fails, and "c" waits for the batch's end if `waits`."""

    def __init__(self) -> None:
        self.waits = False
        self.calls: list[dict[str, Any]] = []

    def __call__(self, inputs: list[str], output: Path, **options: Any) -> None:
        self.calls.append(options)
        output.mkdir(exist_ok=True)
        for number, video in enumerate(inputs):
            options["progress"](video, 4, 8)
            while self.waits and Path(video).stem == "c":
                if options["cancelled"]():
                    return
            path = output / f"{number}.csv"
            if Path(video).stem == "b":
                result = FileResult(video, str(path), "failed", "b.mkv broke: mend it.")
            else:
                long_tracks(8).save(path, options["format"])
                result = FileResult(video, str(path), "done", frames=8, frames_with_faces=6, faces=1)
            options["on_result"](result)
        with open(output / MEASURES_TABLE, "w", newline="", encoding="utf-8") as stream:
            names = ["eye_height_right_rest", "lip_aperture_area_peak", "smile_angle_left_range", "blinks"]
            rows = [["video", "face", *names, "unit"], [inputs[0], "face 0", 9.5, 8, 7, 2, "percent"]]
            csv.writer(stream).writerows(rows)


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> FakeBatch:
    fake = FakeBatch()
    monkeypatch.setattr(study_dock, "track_many", fake)
    return fake


@pytest.fixture
def study(viewer: Any, batch: FakeBatch) -> Any:
    panel_of(viewer, "Track").welcome.many_button.click()
    return commands.study(viewer)


def states(study: Any) -> list[str]:
    return [study.table.item(row, 1).text() for row in range(study.table.rowCount())]


def test_the_time_left_is_that_of_the_rate_so_far(
    study: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done before, and the time that workers need to start, are left out."""
    study.add([str(folder)])
    now = [100.0]
    monkeypatch.setattr(study_dock, "time", SimpleNamespace(monotonic=lambda: now[0]))
    going_on = SimpleNamespace(cancelled=False, results=[], cancel=lambda: None, has_ended=True)
    study._study, study._first_progress = going_on, None
    for seconds, part, text in (
        (30.0, 0.5, "0 of 4 videos done"),
        (40.0, 0.6, "0 of 4 videos done, about 40 s left"),
    ):
        now[0] = 100 + seconds
        for video in study.videos:
            video.part = part
        study._poll()
        assert study.status.text() == text
    study._study = None


def drop(widget: Any, path: Path) -> None:
    """Drop a folder or file on a widget, as from a file manager."""
    from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
    from qtpy.QtGui import QDragEnterEvent, QDropEvent

    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    how = (Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    entered = QDragEnterEvent(QPoint(5, 5), *how)
    widget.dragEnterEvent(entered)
    assert entered.isAccepted()
    widget.dropEvent(QDropEvent(QPointF(5, 5), *how))


def test_a_folder_is_dropped_tracked_and_its_results_are_opened(
    viewer: Any, study: Any, batch: FakeBatch, folder: Path
) -> None:
    from qtpy.QtWidgets import QDialog

    assert not study.run_button.isEnabled()
    assert "no videos yet" in study.run_button.toolTip()
    let_work(0.3)
    place = study.run_button.y()
    drop(study, folder)
    let_work(0.05)
    assert study.run_button.y() == place, "buttons stay where they are"
    assert states(study) == ["waiting"] * 4
    assert study.folder.text() == str(folder / "landmarks"), "the results go next to the videos"
    study.run_button.click()
    wait_until(lambda: not study.running)
    assert states(study) == ["done", "failed", "done", "done"]
    assert study.table.item(0, 2).text().endswith("to check, face on 75 %")
    assert "4 videos: 3 done, 1 failed" in study.status.text()
    (options,) = batch.calls
    assert options["resume"] is True, "another run goes on"
    assert options["measures"] is True

    study.open_result(1)
    assert "b.mkv broke" in study.status.text()
    for row, name in ((0, "a"), (2, "c")):
        study.table.cellClicked.emit(row, 0)
        wait_until(lambda name=name: f"{name} landmarks" in viewer.layers)
    assert [layer.name for layer in viewer.layers if layer.visible] == ["c", "c landmarks"]
    assert panel_of(viewer, "Correct").layer.name == "c landmarks"
    assert panel_of(viewer, "Correct").video.value.name == "c"
    viewer.add_image(np.zeros((90, 60, 80), np.uint8), name="longer", visible=False)
    viewer.dims.set_current_step(0, 80)
    study.open_result(0)
    assert viewer.dims.current_step[0] == 0, "a frame that the video does not have would be black"
    viewer.layers.remove("longer")
    assert [layer.name for layer in viewer.layers if layer.visible] == ["a", "a landmarks"]
    assert len(viewer.layers) == 4, "nothing is opened twice"

    study.measures_button.click()
    from qtpy.QtWidgets import QTableWidget

    (table,) = study.findChild(QDialog).findChildren(QTableWidget)
    titles = [table.verticalHeaderItem(row).text() for row in range(4)]
    assert titles == [
        "eye height right rest %",
        "lip aperture area peak %²",
        "smile angle left range °",
        "blinks",
    ]
    assert table.item(0, 0).text() == "9.5"
    study.findChild(QDialog).close()


def test_a_cancelled_study_keeps_what_is_done(
    viewer: Any, study: Any, batch: FakeBatch, folder: Path
) -> None:
    batch.waits = True
    study.add([str(folder / name) for name in ("a.mkv", "c.mkv")])
    study.run_button.click()
    wait_until(lambda: states(study) == ["done", "50 %"])
    assert not study.run_button.isEnabled()
    assert "1 of 2 videos done" in study.status.text()
    study.cancel_button.click()
    wait_until(lambda: not study.running)
    assert states(study) == ["done", "to be resumed"]
    assert study.status.text().startswith("Cancelled; Track all resumes the remaining videos.")
    batch.waits = False
    study.run_button.click()
    wait_until(lambda: not study.running)
    assert states(study) == ["done", "done"]


def test_a_study_whose_dock_is_closed_ends(viewer: Any, study: Any, batch: FakeBatch, folder: Path) -> None:
    batch.waits = True
    study.add([str(folder / "c.mkv")])
    study.run_button.click()
    wait_until(lambda: states(study) == ["50 %"])
    viewer.window.remove_dock_widget(study)
    wait_until(lambda: not study.running)
    assert commands.study(viewer) is not study


def test_buttons_say_why_they_cannot_be_used(viewer: Any, study: Any, folder: Path) -> None:
    buttons = (study.run_button, study.remove_button, study.measures_button, study.results_button)
    assert [each.isEnabled() for each in buttons] == [False] * 4
    assert all(each.toolTip().startswith("There ") for each in buttons)
    study.add([str(folder)])
    assert [each.isEnabled() for each in buttons] == [True, True, False, False]
    study.run_button.click()
    wait_until(lambda: not study.running)
    assert all(each.isEnabled() and not each.toolTip().startswith("There ") for each in buttons)


def test_a_tab_that_is_asked_for_comes_in_front_of_many_videos(viewer: Any, study: Any) -> None:
    let_work(0.1)
    assert not study.visibleRegion().isEmpty()
    commands.check(viewer)
    wait_until(lambda: study.visibleRegion().isEmpty())
    assert not commands.landmarks_dock(viewer).check.visibleRegion().isEmpty()


def test_what_cannot_be_added_is_told(study: Any, tmp_path: Path) -> None:
    study.add([str(tmp_path)])
    assert "contains no videos" in study.status.text()
    study.add([str(tmp_path / "a.mp4")])
    assert study.status.text() == "1 video."
    study.folder.clear()
    study.run()
    assert study.status.text() == "There is no results folder: choose one."
    study.table.selectRow(0)
    study.remove_button.click()
    assert not study.videos


def test_the_dock_is_narrow_and_low(viewer: Any, study: Any) -> None:
    from test_docks import advanced, controls_of

    let_work(0.2)
    dock = study.parent()
    assert dock.windowTitle() == "Many videos"
    assert dock.minimumSizeHint().width() <= 320
    assert dock.minimumSizeHint().height() < 250
    advanced(study)
    assert not [each for each in controls_of(study) if not each.toolTip().strip()]
