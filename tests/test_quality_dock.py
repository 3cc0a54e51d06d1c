"""The quality dock in a real napari window: plot and slider, frames to check, runs that go on."""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np
import pytest

from fake_tracker import FakeTracker
from gui_support import let_work, panel_of, wait_until
from napari_face_landmarks import tracking
from planted import PLANTED, bad_tracks, good_tracks
from test_widget import take_picture

pytestmark = pytest.mark.gui

PLUGIN = "napari-face-landmarks"


def open_dock(viewer: Any) -> Any:
    return panel_of(viewer, "Check")


def add_landmarks(viewer: Any, tracks: Any, **transforms: Any) -> tuple[Any, Any]:
    """Add a clip and its landmarks; return both layers."""
    from napari.layers import Layer

    frames = np.zeros((tracks.n_frames, 40, 40), np.uint8)
    video = viewer.add_image(frames, name="clip", **transforms)
    ((data, attributes, kind),) = tracks.to_layer_data(video)
    return video, viewer.add_layer(Layer.create(data, attributes, kind))


def wait_for_check(dock: Any) -> None:
    wait_until(lambda: dock.found is not None, 30)


def click(plot: Any, x: float, button: str = "LeftButton") -> None:
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest

    place = QPoint(round(x), plot.height() // 2)
    QTest.mouseClick(plot.viewport(), getattr(Qt.MouseButton, button), Qt.KeyboardModifier.NoModifier, place)


def wheel(plot: Any, x: float, steps: int, shift: bool = False) -> None:
    from qtpy.QtCore import QPoint, QPointF, Qt
    from qtpy.QtGui import QWheelEvent
    from qtpy.QtWidgets import QApplication

    place = QPointF(x, plot.height() / 2)
    modifier = Qt.KeyboardModifier.ShiftModifier if shift else Qt.KeyboardModifier.NoModifier
    phase, buttons = Qt.ScrollPhase.NoScrollPhase, Qt.MouseButton.NoButton
    event = QWheelEvent(place, place, QPoint(0, 0), QPoint(0, 120 * steps), buttons, modifier, phase, False)
    QApplication.sendEvent(plot.viewport(), event)


TRANSFORMS = {
    "moved and scaled in time": {"scale": (0.04, 2, 2), "translate": (3.2, 5, 5)},
    "reversed": {"scale": (-1, 1, 1)},
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_plot_and_slider_are_linked_both_ways(viewer: Any, name: str) -> None:
    video, points = add_landmarks(viewer, bad_tracks(), **TRANSFORMS[name])
    dock = open_dock(viewer)
    wait_for_check(dock)
    let_work(0.2)
    for frame in (200, 7, 131):  # a click in the plot goes to the frame
        click(dock.plot, place_of(dock.plot, frame))
        shown = round(float(video.world_to_data(viewer.dims.point)[0]))
        assert abs(shown - frame) <= 1, "a pixel is less than a frame"
        assert dock.plot.cursor_frame == shown
    for frame in (3, 220, 64):  # the slider moves the cursor
        viewer.dims.set_point(0, points.data_to_world((frame, 0, 0))[0])
        assert dock.plot.cursor_frame == frame
        assert abs(cursor_column(dock.plot) - place_of(dock.plot, frame)) <= 1


def place_of(plot: Any, frame: float) -> float:
    """Return where a frame is, px from the left."""
    from napari_face_landmarks.napari_plugin.curves import AXIS_WIDTH

    low, high = plot.view
    return AXIS_WIDTH + (frame - low) / (high - low) * plot.inner_width


def cursor_column(plot: Any) -> float:
    """Return the column of pixels that the cursor's line is painted on: it differs without it."""
    with_it, frame = plot.grab().toImage(), plot.cursor_frame
    plot.set_cursor(None)
    without = plot.grab().toImage()
    plot.set_cursor(frame)
    columns = {
        x
        for row in range(20, plot.height() - 20, 10)
        for x in range(with_it.width())
        if with_it.pixel(x, row) != without.pixel(x, row)
    }
    assert 1 <= len(columns) <= 2
    return float(np.mean(list(columns)))


def test_next_frame_to_check_visits_the_planted_frames_first(viewer: Any) -> None:
    add_landmarks(viewer, bad_tracks(), scale=(0.5, 1, 1), translate=(10, 0, 0))
    dock = open_dock(viewer)
    wait_for_check(dock)
    visited = []
    for reason in PLANTED:
        dock.next_button.click()
        visited.append(dock.plot.cursor_frame)
        assert viewer.dims.point[0] == pytest.approx(10 + 0.5 * visited[-1])
        assert reason in dock.list.currentIndex().data()
    assert visited == list(PLANTED.values())
    dock.next_button.click()
    assert dock.plot.cursor_frame == visited[0], "after the last it begins anew"
    dock.previous_button.click()
    dock.previous_button.click()
    assert dock.plot.cursor_frame == visited[-2]

    dock.order.setCurrentIndex(1)  # in order of time, from where the slider is
    viewer.dims.set_point(0, 10 + 0.5 * 100)
    dock.next_button.click()
    assert dock.plot.cursor_frame == 120
    dock.next_button.click()
    assert dock.plot.cursor_frame == 160
    viewer.dims.set_point(0, 10 + 0.5 * 100)
    dock.previous_button.click()
    assert dock.plot.cursor_frame == 70


def test_a_click_in_the_list_goes_to_the_frame_and_its_face(viewer: Any) -> None:
    tracks = bad_tracks(n_faces=2)
    tracks.confidence[33, 1] = 0.2
    add_landmarks(viewer, tracks)
    dock = open_dock(viewer)
    wait_for_check(dock)
    model = dock.list.model()
    (row,) = [r for r in range(model.rowCount()) if model.index(r).data().startswith("33, face 1: low")]
    assert dock.faces.isVisible()
    assert dock.faces.currentText() == "face 0"
    dock.list.scrollTo(model.index(row))
    let_work(0.1)
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    middle = dock.list.visualRect(model.index(row)).center()
    QTest.mouseClick(dock.list.viewport(), Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, middle)
    assert viewer.dims.current_step[0] == 33
    assert dock.faces.currentText() == "face 1"
    assert "confidence 0.20" in dock.plot.values_at(33)
    assert "low confidence" in model.index(row).data(Qt.ItemDataRole.ToolTipRole)
    jump = next(model.index(r) for r in range(model.rowCount()) if "jump" in model.index(r).data())
    assert "% in one frame" in jump.data(), "short enough for the list"
    assert "% of the inter-ocular distance in one" in jump.data(Qt.ItemDataRole.ToolTipRole)
    QTest.keyClick(dock.list, Qt.Key.Key_Up)
    assert viewer.dims.current_step[0] == int(model.index(row - 1).data().split(",")[0])


def test_statistics_are_in_words(viewer: Any) -> None:
    add_landmarks(viewer, bad_tracks())
    dock = open_dock(viewer)
    wait_for_check(dock)
    for words in ("240 frames (9.6 s)", "Lost once, for a total of 5 frames", "To check: 5 sequences"):
        assert words in dock.statistics.text()


def test_a_list_without_frames_says_so_also_where_movements_are_fast(viewer: Any) -> None:
    from gui_measure import long_tracks

    tracks = long_tracks(40)
    tracks.landmarks[:, 0, :, 0] += 60 * np.arange(40)[:, None]
    add_landmarks(viewer, tracks)
    dock = open_dock(viewer)
    wait_for_check(dock)
    assert not dock.found.suspects
    told = dock.statistics.text()
    assert told.startswith("No frame needs a check.\nLook at one nevertheless")
    assert "\nMovements beyond the limit" in told
    assert not dock.next_button.isEnabled()
    assert dock.next_button.toolTip() == dock.previous_button.toolTip() == "The list is empty."


def test_correct_says_that_there_is_no_frame_to_check(viewer: Any) -> None:
    from napari.utils.notifications import notification_manager

    from gui_measure import long_tracks
    from napari_face_landmarks.napari_plugin import commands

    add_landmarks(viewer, long_tracks(40))
    dock = commands.landmarks_dock(viewer, "Check")
    wait_for_check(dock.check)
    dock.show_tab("Correct")
    dock.correct.next_button.native.click()
    assert notification_manager.records[-1].message == "No frame needs a check."
    add_landmarks(viewer, bad_tracks())
    wait_until(lambda: dock.check.found is not None and dock.check.found.suspects)
    dock.correct.next_button.native.click()
    worst = dock.check.found.suspects[0]
    assert dock.correct.status.value.startswith(f"Frame {worst.frame}: {worst.text}. Press Move landmarks")


def test_commands_and_keys(viewer: Any) -> None:
    from npe2 import PluginManager

    from napari_face_landmarks.napari_plugin import commands

    add_landmarks(viewer, bad_tracks())
    run = PluginManager.instance().commands.execute
    assert viewer not in commands._docks
    run(f"{PLUGIN}.next_to_check", (viewer,))  # opens the dock where it is not open
    dock = commands._docks[viewer]().check
    assert dock.is_open
    wait_for_check(dock)
    worst = list(PLANTED.values())
    run(f"{PLUGIN}.next_to_check", (viewer,))
    assert viewer.dims.current_step[0] == worst[0]
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    canvas = find_canvas(viewer)
    canvas.setFocus()
    QTest.keyClick(canvas, Qt.Key.Key_N)
    assert viewer.dims.current_step[0] == worst[1]
    QTest.keyClick(canvas, Qt.Key.Key_N, Qt.KeyboardModifier.ShiftModifier)
    assert viewer.dims.current_step[0] == worst[0]
    run(f"{PLUGIN}.previous_to_check", (viewer,))
    assert viewer.dims.current_step[0] == worst[-1]
    assert commands._docks[viewer]().check is dock
    main = commands.landmarks_dock(viewer, "Correct")
    before = viewer.dims.current_step[0]
    main.correct.next_button.native.click()
    assert viewer.dims.current_step[0] != before, "frames to check are reached while correcting"
    assert main.tabs.tabText(main.tabs.currentIndex()) == "Correct"


def find_canvas(viewer: Any) -> Any:
    """Return the widget that the picture is drawn on."""
    from qtpy.QtWidgets import QApplication

    found = [w for w in QApplication.allWidgets() if "CanvasBackend" in type(w).__name__ and w.isVisible()]
    assert found
    return found[-1]


def test_zoom_and_pan(viewer: Any) -> None:
    add_landmarks(viewer, bad_tracks())
    dock = open_dock(viewer)
    wait_for_check(dock)
    let_work(0.1)
    plot = dock.plot
    assert plot.view == (0, 239)
    x = place_of(plot, 120)
    wheel(plot, x, 5)
    low, high = plot.view
    assert high - low == pytest.approx(239 / 1.2**5)
    assert place_of(plot, 120) == pytest.approx(x, abs=0.5), "what is under the mouse stays there"
    wheel(plot, x, 1, shift=True)
    assert plot.view[0] == pytest.approx(low - 0.1 * (high - low))
    wheel(plot, x, 100)
    assert plot.view[1] - plot.view[0] == pytest.approx(10)
    viewer.dims.set_current_step(0, 20)
    assert plot.view[0] <= 20 <= plot.view[1], "the cursor is brought into view"
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest

    before = plot.view
    none = Qt.KeyboardModifier.NoModifier
    QTest.mousePress(plot.viewport(), Qt.MouseButton.MiddleButton, none, QPoint(100, 50))
    drag(plot, 50)
    QTest.mouseRelease(plot.viewport(), Qt.MouseButton.MiddleButton, none, QPoint(50, 50))
    assert plot.view[0] == pytest.approx(before[0] + 10 * 50 / plot.inner_width, rel=1e-3)
    QTest.mouseDClick(plot.viewport(), Qt.MouseButton.LeftButton, none, QPoint(50, 50))
    assert plot.view == (0, 239)
    for key, frame in (("Key_Home", 0), ("Key_Right", 1), ("Key_End", 239), ("Key_Left", 238)):
        QTest.keyClick(plot, getattr(Qt.Key, key))
        assert viewer.dims.current_step[0] == frame


def drag(plot: Any, x: int) -> None:
    from qtpy.QtCore import QEvent, QPointF, Qt
    from qtpy.QtGui import QMouseEvent
    from qtpy.QtWidgets import QApplication

    place, middle = QPointF(x, 50), Qt.MouseButton.MiddleButton
    none = Qt.KeyboardModifier.NoModifier
    QApplication.sendEvent(
        plot.viewport(),
        QMouseEvent(QEvent.Type.MouseMove, place, plot.mapToGlobal(place), middle, middle, none),
    )


def test_what_was_moved_by_hand_counts_as_checked(viewer: Any) -> None:
    _, points = add_landmarks(viewer, bad_tracks())
    dock = open_dock(viewer)
    wait_for_check(dock)
    assert len(dock.found.suspects) == len(PLANTED)
    data = points.data.copy()
    row = int(np.flatnonzero(data[:, 0] == 30)[5])
    data[row, 1:] += 4
    points.data = data
    wait_until(lambda: len(dock.found.suspects) == len(PLANTED) - 1, 30)
    assert 30 not in [place.frame for place in dock.found.suspects]


def test_it_follows_a_run_and_then_shows_the_result(viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Loses(FakeTracker):
        seconds_per_frame = 0.01

        @staticmethod
        def faces_at(frame: int) -> int:
            return 0 if 20 <= frame < 25 else 1

    monkeypatch.setattr(tracking, "FaceTracker", Loses)
    monkeypatch.setattr("napari_face_landmarks.napari_plugin.track_dock.load_models", lambda _: None)
    viewer.add_image(np.zeros((300, 60, 80, 3), np.uint8), rgb=True, name="clip")
    dock = open_dock(viewer)
    assert "no landmarks" in dock.statistics.text()
    assert not dock.next_button.isEnabled()
    widget = panel_of(viewer, "Track")
    panel_of(viewer, "Check")
    widget.run_button.changed.emit(True)
    wait_until(lambda: dock.found is not None, 60)
    assert widget.running, "it is shown while the run goes on"
    lengths = set()
    while widget.running:
        let_work(0.05)
        lengths.add(dock.plot._series.n_frames)
        lost = [place for place in dock.found.suspects if "lost face" in place.reasons]
        if lost and widget.running:
            assert lost[0].frame == 20
    assert len(lengths) > 3, "it grows"
    wait_until(lambda: dock.found.series.n_frames == 300, 30)
    lost = [place for place in dock.found.suspects if "lost face" in place.reasons]
    assert [(place.first, place.last) for place in lost] == [(20, 24)]
    assert "300 frames" in dock.statistics.text()


def test_layers_may_come_and_go_and_so_may_the_dock(viewer: Any) -> None:
    dock = open_dock(viewer)
    _, points = add_landmarks(viewer, bad_tracks())
    wait_for_check(dock)
    ((data, attributes, _),) = good_tracks(50).to_layer_data()
    other = viewer.add_points(data, **{**attributes, "name": "other"})
    assert dock.layers.currentText() == "other", "the newest one"
    wait_for_check(dock)
    assert dock.found.series.n_frames == 50
    other.name = "renamed"
    wait_until(lambda box=dock.layers: box.currentText() == "renamed")
    viewer.layers.remove(other)
    assert dock.layers.currentData() is points
    wait_for_check(dock)
    assert dock.found.series.n_frames == 240
    viewer.layers.clear()
    assert dock.found is None
    assert "no landmarks" in dock.statistics.text()
    dock.next_button.click()
    dock.next_to_check()
    from napari_face_landmarks.napari_plugin.commands import landmarks_dock

    main = landmarks_dock(viewer)
    viewer.window.remove_dock_widget(main)
    main.deleteLater()
    del main
    del dock
    gc.collect()
    let_work(0.6)
    _, points = add_landmarks(viewer, bad_tracks())
    viewer.dims.set_current_step(0, 5)
    again = panel_of(viewer, "Check")
    wait_for_check(again)
    assert panel_of(viewer, "Check") is again
    add_landmarks(viewer, bad_tracks())
    viewer.close()  # while it still looks through the new one
    let_work(0.5)


def test_points_of_no_known_run_are_checked_too(viewer: Any) -> None:
    ((data, attributes, _),) = bad_tracks().to_layer_data()
    dock = open_dock(viewer)
    viewer.add_points(data, features=attributes["features"], name="from elsewhere")
    wait_for_check(dock)
    frames = [place.frame for place in dock.found.suspects]
    assert 120 in frames  # the jump
    assert 30 in frames  # the low confidence


def test_a_single_image_has_no_slider_but_is_shown(viewer: Any) -> None:
    video = viewer.add_image(np.zeros((40, 40), np.uint8))
    ((data, attributes, _),) = good_tracks(1).to_layer_data(video)
    viewer.add_points(data, **attributes)
    dock = open_dock(viewer)
    wait_for_check(dock)
    assert dock.found.series.n_frames == 1
    click(dock.plot, 50)
    dock.next_to_check()
    dock.plot.grab()


@pytest.mark.nightly
def test_fifty_thousand_frames_stay_quick(viewer: Any) -> None:
    dock = open_dock(viewer)
    from napari_face_landmarks.quality import check

    tracks = bad_tracks(50_000)
    random = np.random.default_rng(1)
    tracks.confidence[:] = random.uniform(0.5, 0.95, tracks.confidence.shape[:2] + (1,)).astype(np.float32)
    tracks.confidence[31_234] = 0.01
    found = check(tracks)
    plot = dock.plot
    let_work(0.2)
    plot.set_run(found.series, found.suspects)
    plot.grab()

    def cost(change: Any, times: int = 7) -> float:
        """Return the least processor time that a change and the painting after it take, s."""
        spent = []
        for k in range(times):
            began = time.thread_time()
            change(k)
            plot.grab()
            spent.append(time.thread_time() - began)
        return min(spent)

    whole = cost(lambda k: plot.set_run(found.series, found.suspects))
    zoomed = cost(lambda k: plot.zoom(1.2, 20_000))
    plot.show_all()
    plot.grab()
    moved = cost(lambda k: plot.set_cursor(1000 * k))
    print(f"whole {1e3 * whole:.1f} ms, zoom {1e3 * zoomed:.1f} ms, cursor {1e3 * moved:.1f} ms")
    assert len(found.suspects) > 1000
    assert whole < 0.1
    assert zoomed < 0.1
    assert moved < 0.01, "the slider moves only the cursor"


def test_it_is_usable_at_320_px_in_both_themes(viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from qtpy.QtWidgets import QLabel, QPushButton

    from napari_face_landmarks.napari_plugin.commands import landmarks_dock

    add_landmarks(viewer, bad_tracks(n_faces=2))
    dock = panel_of(viewer, "Check")
    dock_widget = landmarks_dock(viewer).parent()
    wait_for_check(dock)
    assert dock.minimumSizeHint().width() <= 320
    dock_widget.setFixedWidth(320)
    pictures = {}
    drawn: list[int] = []
    clear = dock.plot.clear
    monkeypatch.setattr(dock.plot, "clear", lambda: (drawn.append(1), clear()))
    for theme in ("light", "dark"):
        drawn.clear()
        viewer.theme = theme
        let_work(0.4)
        assert len(drawn) == 1, "in the new colours, once"
        for part in (*dock.findChildren(QPushButton), *dock.findChildren(QLabel)):
            if part.isVisible():
                assert part.width() >= part.minimumSizeHint().width()
                right = part.mapTo(dock, part.rect().topRight()).x()
                assert right <= dock.width(), part
        text = dock.plot.palette().windowText().color()
        back = dock.plot.palette().window().color()
        assert abs(text.lightnessF() - back.lightnessF()) > 0.5
        pictures[theme] = dock.grab().toImage()
    colours = {
        theme: {image.pixelColor(x, y).name() for x in range(0, 300) for y in range(40, 300, 2)}
        for theme, image in pictures.items()
    }
    assert "#56b4e9" in colours["dark"]
    assert "#0072b2" in colours["light"]
    assert "#56b4e9" not in colours["light"]


def test_what_happens_in_a_video_is_found(viewer: Any) -> None:
    """From the video to the list: a hand before the face, a cut, and a face that is gone for a while."""
    from napari.layers import Layer

    from napari_face_landmarks import FaceTracker, TrackerSettings
    from napari_face_landmarks.demo import make_demo_clip

    frames = make_demo_clip(100, 320)[0].copy()
    for at in range(17, 30):  # a hand comes and goes: over the mouth, an eye and most of the other
        frames[at, 40:190, 60 : min(75 + 18 * min(at - 17, 29 - at), 185)] = (120, 90, 80)
    frames[48:] = np.roll(frames[48:], 60, axis=2)
    frames[75:81] = 127
    video = viewer.add_image(frames, rgb=True, name="clip", axis_labels=("frame", "y", "x"))
    tracks = FaceTracker(settings=TrackerSettings(smoothing_window=1)).track(frames)
    ((data, attributes, kind),) = tracks.to_layer_data(video)
    viewer.add_layer(Layer.create(data, attributes, kind))
    dock = open_dock(viewer)
    wait_for_check(dock)
    found = {reason: [p.frame for p in dock.found.suspects if reason in p.reasons] for reason in PLANTED}
    assert 75 in found["lost face"]
    assert found["jump"] == [48]
    assert found["low confidence"]
    assert set(found["low confidence"]) <= set(range(17, 30))
    visited = [dock.next_to_check().frame for _ in dock.found.suspects]
    assert visited.index(75) < visited.index(48), "what is lost comes first"
    while dock.plot.cursor_frame not in found["low confidence"]:
        dock.next_to_check()
    let_work(0.3)
    take_picture(viewer, "quality")
