"""The dock widget in a real napari window: from the sample to landmarks, and all that may come between."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_tracker import FakeTracker
from gui_support import let_work, panel_of, wait_until
from napari_face_landmarks import FaceTracker, TrackerSettings, Tracks, load_models, track_layer, tracking
from napari_face_landmarks.cli import main
from napari_face_landmarks.data.fields import SOURCES
from napari_face_landmarks.demo import make_demo_clip
from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.io import FORMATS
from napari_face_landmarks.napari_plugin import track_dock as widget_module
from napari_face_landmarks.napari_plugin.commands import landmarks_dock
from napari_face_landmarks.napari_plugin.export_dialog import DRAWN
from napari_face_landmarks.napari_plugin.layers import camera_of
from napari_face_landmarks.settings import setting_range
from napari_face_landmarks.video import open_video, write_video

pytestmark = pytest.mark.gui

PICTURES = Path(__file__).parent / "pictures"
PLUGIN = "napari-face-landmarks"


@pytest.fixture
def widget(viewer: Any) -> Any:
    return panel_of(viewer, "Track")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeTracker]:
    """Have the widget use a tracker that needs no models."""
    tracker = type("ThisFakeTracker", (FakeTracker,), {"seconds_per_frame": 0.004})
    monkeypatch.setattr(tracking, "FaceTracker", tracker)
    monkeypatch.setattr("napari_face_landmarks.napari_plugin.track_dock.load_models", lambda _: None)
    return tracker


@pytest.fixture
def notices(viewer: Any) -> Iterator[list[Any]]:
    """Collect what napari is told to show."""
    from napari.utils.notifications import notification_manager

    told: list[Any] = []
    notification_manager.notification_ready.connect(told.append)
    yield told
    notification_manager.notification_ready.disconnect(told.append)


def add_clip(viewer: Any, n_frames: int = 40, **attributes: Any) -> Any:
    frames = np.random.default_rng(0).integers(0, 255, (n_frames, 60, 80, 3), dtype=np.uint8)
    return viewer.add_image(frames, rgb=True, name="clip", **attributes)


def run_to_the_end(widget: Any) -> Any:
    widget.run_button.changed.emit(True)
    assert widget.running
    wait_until(lambda: not widget.running)
    return widget.landmarks


def frames_shown(points: Any) -> list[int]:
    return sorted({int(frame) for frame in points.data[points.shown, 0]})


class SlowFrames:
    """Frames from a slow disk, so that there is time to watch and to press Cancel."""

    def __init__(self, frames: np.ndarray[Any, Any]) -> None:
        self._frames = frames
        self.shape, self.dtype, self.ndim = frames.shape, frames.dtype, frames.ndim

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, key: Any) -> Any:
        if type(key) is int:  # how the tracker reads
            time.sleep(0.04)
        return self._frames[key]

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the whole video was read")


@pytest.mark.gui(quick=True)
def test_sample_run_cancel(viewer: Any, widget: Any) -> None:
    """What a newcomer does: open the sample, press Run, see points come, press Cancel half way."""
    (video,) = viewer.open_sample(PLUGIN, "moving_face")
    assert widget.video.value is video
    n_frames = len(video.data)
    video.data = SlowFrames(video.data)
    let_work(0.5)

    widget.run_button.native.click()
    points = widget.landmarks
    wait_until(lambda: points in viewer.layers)
    assert widget.running
    assert not widget.run_button.enabled
    assert not widget.settings_controls["refine"].enabled
    wait_until(points.shown.any, 120)
    assert widget.running, "points appear before the run ends"
    assert len(frames_shown(points)) < n_frames
    wait_until(lambda: len(frames_shown(points)) >= n_frames // 2, 240)
    wait_until(lambda: "left" in widget.status.value)
    widget.cancel_button.native.click()
    wait_until(lambda: not widget.running)

    kept = frames_shown(points)
    assert n_frames // 2 <= len(kept) < n_frames
    assert kept == list(range(len(kept)))
    assert len(points.data) == 68 * len(kept)
    assert points.metadata["tracks"].n_frames == len(kept)
    assert "Cancelled" in widget.status.value
    assert str(len(kept)) in widget.status.value
    assert widget.run_button.enabled
    assert widget.settings_controls["refine"].enabled
    assert not widget.cancel_button.enabled


def test_the_sample_is_tracked_to_its_end(viewer: Any, widget: Any) -> None:
    (video,) = viewer.open_sample(PLUGIN, "moving_face")
    let_work(0.5)
    points = run_to_the_end(widget)
    assert frames_shown(points) == list(range(len(video.data)))
    assert widget.status.value.startswith(f"Done: {len(video.data)} frames, a face on {len(video.data)}")
    wait_until(lambda: widget.status.value.endswith("fps. Check found nothing."))
    viewer.dims.set_current_step(0, 75)
    let_work(0.5)
    take_picture(viewer, "widget")
    tabs = landmarks_dock(viewer).tabs
    for button in (widget.check_button, widget.correct_button, widget.measure_button):
        tabs.setCurrentIndex(0)
        button.native.click()
        assert tabs.tabText(tabs.currentIndex()) == button.text
    viewer.layers.remove(points)
    assert not widget.check_button.enabled


def take_picture(viewer: Any, name: str) -> None:
    """Write the window to `tests/pictures` where the environment asks for it."""
    picture = viewer.window.screenshot(canvas_only=False, flash=False)
    assert picture.shape[0] > 500
    assert picture.std() > 10
    if os.environ.get("UPDATE_PICTURES"):
        from PIL import Image

        PICTURES.mkdir(exist_ok=True)
        coarser = picture[:, :, :3] // 4 * 4 + 1  # 64 shades a channel: half the size, no visible change
        Image.fromarray(coarser).save(PICTURES / f"{name}.png", optimize=True)


def test_widget_layer_script_and_command_line_agree(viewer: Any, widget: Any, tmp_path: Path) -> None:
    clip = tmp_path / "face.mp4"
    write_video(clip, make_demo_clip(24, 320)[0], fps=25)
    (video,) = viewer.open(clip, plugin=PLUGIN)
    settings = TrackerSettings(refine="always", max_faces=2)
    widget.settings_controls["refine"].value = settings.refine
    widget.settings_controls["max_faces"].value = settings.max_faces
    points = run_to_the_end(widget)
    ((data, attributes, _),) = track_layer(video, settings)
    np.testing.assert_allclose(points.data, data, atol=1e-4)
    np.testing.assert_allclose(points.size, attributes["size"], rtol=1e-5)
    np.testing.assert_allclose(points.face_color, attributes["face_color"], atol=1e-6)
    assert list(points.features["source"]) == list(attributes["features"]["source"])
    tracks = FaceTracker(load_models(), settings).track(clip)
    found = tracks.landmarks[tracks.present].reshape(-1, 2)
    assert len(found) >= 24 * 68
    np.testing.assert_allclose(points.data[:, :0:-1], found, atol=1e-4)
    table = tmp_path / "face.csv"
    options = ["--refine", settings.refine, "--max-faces", str(settings.max_faces)]
    assert main(["track", str(clip), "-o", str(table), *options]) == 0
    written = Tracks.load(table)
    np.testing.assert_allclose(written.landmarks[written.present].reshape(-1, 2), found, atol=1e-4)


def test_controls_come_from_the_settings(widget: Any) -> None:
    assert widget.settings() == TrackerSettings()
    for item in dataclasses.fields(TrackerSettings):
        control = widget.settings_controls[item.name]
        assert control.value == item.default
        assert control.label == item.metadata["label"]
        assert control.tooltip == item.metadata["help"]
        if "low" in item.metadata:
            assert (control.min, control.max) == setting_range(item.name)
    assert widget.model.value == "open"
    assert "CC BY" in widget.licence.value


def test_a_bundle_that_is_not_for_every_use_says_so_when_it_is_chosen(
    widget: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(widget_module, "show_info", told.append)
    if "research" not in widget.model.choices:
        pytest.skip("this checkout has one bundle")
    widget.model.value = "research"
    assert "research use only" in widget.licence.value
    assert any("research only" in text for text in told)
    told.clear()
    widget.model.value = "open"
    assert not told


def test_compiling_is_named_where_it_takes_place(monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_face_landmarks.runs import worker

    monkeypatch.setattr(worker, "COMPILED", [])
    assert worker.start_message(worker.PREPARING) == worker.PREPARING
    assert "ompil" not in worker.PREPARING
    worker.COMPILED.extend(["warp", "respond"])
    words = "First run after an installation: compiling, up to half a minute (2 kernels so far) …"
    assert worker.start_message(worker.PREPARING) == words
    assert worker.start_message("") == ""


def test_nothing_is_cut_in_a_narrow_dock(viewer: Any, widget: Any) -> None:
    from test_docks import advanced

    let_work(0.2)
    dock = landmarks_dock(viewer).parent()
    assert dock.minimumSizeHint().width() <= 320
    assert dock.minimumSizeHint().height() < 250
    advanced(widget.native)
    assert widget.native.width() <= widget.native.parent().width()
    buttons = [widget.run_button, widget.cancel_button, widget.export_button]
    for control in [*widget.settings_controls.values(), widget.video, widget.model, widget.follow, *buttons]:
        assert control.native.width() >= control.native.minimumSizeHint().width()


def export_to(widget: Any, monkeypatch: pytest.MonkeyPatch, path: Path, line: str) -> list[str]:
    """Press Export with a dialog that answers; return what the dialog offered."""
    from qtpy.QtWidgets import QFileDialog

    offered: list[str] = []

    def answer(parent: Any, title: str, suggested: str, lines: str) -> tuple[str, str]:
        offered.extend([suggested, *lines.split(";;")])
        return str(path), next(item for item in lines.split(";;") if item.startswith(line))

    monkeypatch.setattr(QFileDialog, "getSaveFileName", answer)
    widget.export_button.native.click()
    wait_until(lambda: widget.export_button.enabled)
    return offered


def test_export_writes_the_layer_as_it_stands(
    viewer: Any, widget: Any, fake: type[FakeTracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_clip(viewer, 12)
    points = run_to_the_end(widget)
    points.data[68 * 3 + 30] += (0, 5, 7)
    offered = export_to(widget, monkeypatch, tmp_path / "talk", "OpenFace CSV")
    assert offered[0] == "clip landmarks.csv"
    assert len(offered) == 1 + len(FORMATS) + len(DRAWN)
    assert (tmp_path / "talk.csv").is_file(), "the format's suffix is added"
    assert "Exported to talk.csv: OpenFace CSV" in widget.status.value
    tracks = Tracks.load(tmp_path / "talk.csv")
    np.testing.assert_allclose(tracks.landmarks[3, 0, 30], points.data[68 * 3 + 30, :0:-1], rtol=1e-6)
    assert [SOURCES[code] for code in tracks.source[2:5, 0]] == ["pfld", "manual", "pfld"]

    export_to(widget, monkeypatch, tmp_path / "talk.npz", "OpenFace CSV")
    np.testing.assert_array_equal(Tracks.load(tmp_path / "talk.npz").landmarks, tracks.landmarks)
    export_to(widget, monkeypatch, tmp_path / "tidy.csv", "Tidy CSV")
    np.testing.assert_array_equal(Tracks.load(tmp_path / "tidy.csv", "tidy-csv").landmarks, tracks.landmarks)
    export_to(widget, monkeypatch, tmp_path / "talk", "Overlay video")
    assert widget.progress.value == widget.progress.max
    with open_video(tmp_path / "talk.mp4") as video:
        assert video.shape == (12, 60, 80, 3)
    for kind in ("Picture of this frame", "Contact sheet"):
        export_to(widget, monkeypatch, tmp_path / kind, kind)
        assert (tmp_path / f"{kind}.png").is_file(), widget.status.value


def test_export_tells_what_is_wrong(
    viewer: Any, widget: Any, notices: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widget.export()
    assert "no landmarks to export" in widget.status.value
    viewer.add_points(np.zeros((3, 2)))
    widget.export()
    assert "no landmarks to export" in widget.status.value
    viewer.add_points(np.zeros((1, 3)), features={"landmark": [3], "face": [0]}, name="a/b")
    offered = export_to(widget, monkeypatch, tmp_path / "none" / "t.csv", "OpenFace")
    assert offered[0] == "a b.csv"
    assert "does not exist" in widget.status.value
    assert widget.export_button.enabled
    monkeypatch.setitem(sys.modules, "h5py", None)
    export_to(widget, monkeypatch, tmp_path / "t.h5", "SLEAP")
    assert "pip install h5py" in widget.status.value
    monkeypatch.setattr("napari_face_landmarks.napari_plugin.export_dialog.ask_for_file", lambda *_: None)
    widget.status.value = "as before"
    widget.export_button.native.click()
    assert widget.status.value == "as before"
    assert not list(tmp_path.glob("t*"))


def test_a_layer_is_added_first_and_drawn_a_step_later(
    viewer: Any, widget: Any, fake: type[FakeTracker]
) -> None:
    """All at once takes napari so long that the window seems to hang; longer while a thread works."""
    add_clip(viewer)
    canvas, painted = viewer.window._qt_viewer.canvas, viewer.window._qt_window.updatesEnabled
    steps: dict[str, Any] = {}

    def texts() -> Any:
        return canvas.layer_to_visual[widget.landmarks].node.text

    def selected() -> None:
        steps.setdefault("selected", (painted(), widget.landmarks.visible))
        widget.landmarks.events.visible.connect(lambda: steps.setdefault("drawn", texts().visible))

    viewer.layers.events.inserted.connect(lambda: steps.setdefault("added", painted()))
    viewer.layers.selection.events.active.connect(lambda: selected())
    widget.run()
    assert widget.landmarks not in viewer.layers
    wait_until(lambda: widget.landmarks in viewer.layers)
    assert widget._worker is not None, "the run begins when the layer is drawn"
    wait_until(lambda: widget.landmarks.visible)
    assert painted()
    wait_until(lambda: not widget.running)
    assert steps == {"added": False, "selected": (True, False), "drawn": False}, "each in a turn of its own"
    assert widget.landmarks.visible
    assert texts().visible


def test_a_run_that_is_cancelled_at_once_loads_nothing_and_leaves_no_layer(
    viewer: Any, widget: Any, fake: type[FakeTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    video = add_clip(viewer)
    loaded: list[str] = []
    monkeypatch.setattr("napari_face_landmarks.napari_plugin.track_dock.load_models", loaded.append)
    widget.run_button.native.click()
    widget.pause_button.native.click()
    widget.cancel_button.native.click()
    wait_until(lambda: not widget.running)
    assert widget.status.value == "Cancelled before the first frame was finished."
    assert list(viewer.layers) == [video]
    assert not loaded
    run_to_the_end(widget)
    assert len(loaded) == 1


def test_a_second_run_makes_a_second_layer(viewer: Any, widget: Any, fake: type[FakeTracker]) -> None:
    video = add_clip(viewer, scale=(1, 2, 2), translate=(0, 5, 7))
    first = run_to_the_end(widget)
    before = first.data.copy()
    second = run_to_the_end(widget)
    assert list(viewer.layers) == [video, first, second]
    assert first.name != second.name
    assert (first.visible, second.visible) == (False, True), "one would take them for one face's"
    np.testing.assert_array_equal(first.data, before)
    np.testing.assert_array_equal(second.data, before)
    for points in (first, second):
        np.testing.assert_allclose(points.data_to_world((3, 4, 5)), video.data_to_world((3, 4, 5)))


def test_another_video_is_opened_from_the_menu_and_shown_alone(
    viewer: Any, widget: Any, fake: type[FakeTracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qtpy.QtWidgets import QFileDialog

    small, large = tmp_path / "small.mp4", tmp_path / "large.mp4"
    for path, side, n_frames in ((small, 80, 5), (large, 320, 20)):
        write_video(path, np.zeros((n_frames, side, side, 3), np.uint8), fps=25)
    (entry,) = [each for each in widget.more_button.native.menu().actions() if "Open a" in each.text()]
    zooms = []
    for path in (large, small):
        monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_, path=path: (str(path), ""))
        entry.trigger()
        let_work(0.1)
        zooms.append(camera_of(viewer).zoom)
        assert widget.video.value.name == path.stem
        run_to_the_end(widget)
    assert zooms[1] == pytest.approx(4 * zooms[0], rel=0.1), "the picture fills the canvas"
    assert viewer.dims.current_step[0] < 5
    assert [layer.name for layer in viewer.layers if layer.visible] == ["small", "small landmarks"]


def test_this_frame_and_a_range(viewer: Any, widget: Any, fake: type[FakeTracker]) -> None:
    add_clip(viewer, scale=(0.5, 1, 1), translate=(3, 0, 0))
    widget.frames.value = "this"
    viewer.dims.set_point(0, 3 + 0.5 * 17)
    assert frames_shown(run_to_the_end(widget)) == [17]
    widget.frames.value = "range"
    assert (widget.first.value, widget.last.value) == (0, 39)
    widget.first.value, widget.last.value = 5, 9
    assert frames_shown(run_to_the_end(widget)) == [5, 6, 7, 8, 9]
    widget.frames.value = "all"
    assert frames_shown(run_to_the_end(widget)) == list(range(40))
    assert widget.status.value.startswith("Done: 40 frames, a face on 40")


def test_a_still_picture(viewer: Any, widget: Any, fake: type[FakeTracker]) -> None:
    viewer.add_image(np.zeros((60, 80), np.uint8))
    points = run_to_the_end(widget)
    assert points.data.shape == (68, 2)
    assert widget.status.value.startswith("Done: 1 frame, a face on 1")


def test_the_viewer_follows_until_the_slider_is_moved(
    viewer: Any, widget: Any, fake: type[FakeTracker]
) -> None:
    add_clip(viewer, 400)
    fake.seconds_per_frame = 0.02
    widget.run()
    wait_until(lambda: 0 < viewer.dims.current_step[0] < 40)
    viewer.dims.set_current_step(0, 399)
    done = widget.progress.value
    wait_until(lambda: widget.progress.value > done)
    assert viewer.dims.current_step[0] == 399
    assert not widget.follow.value
    widget.cancel()
    wait_until(lambda: not widget.running)


def test_no_video(viewer: Any, widget: Any, notices: list[Any]) -> None:
    assert not widget.run_button.enabled
    assert "There is no video" in widget.run_button.tooltip
    widget.run()  # by its shortcut
    assert not widget.running
    assert [notice.message for notice in notices] == [
        "There is no video: open one, or choose an image layer."
    ]
    add_clip(viewer)
    assert widget.run_button.enabled
    assert not widget.status.value, "the error goes with its cause"
    assert not widget.export_button.enabled
    assert "There are no landmarks" in widget.export_button.tooltip


def test_what_cannot_be_tracked_is_told_in_a_sentence(viewer: Any, widget: Any, notices: list[Any]) -> None:
    viewer.add_image(np.zeros((2, 3, 20, 30)), name="stack")
    widget.run()
    viewer.add_image(np.zeros((4, 20, 30), np.uint8), name="clip")
    widget.video.value = viewer.layers["clip"]
    widget.settings_controls["smoothing_window"].value = 4
    widget.run()
    sentences = [notice.message for notice in notices]
    assert "'stack' has the shape (2, 3, 20, 30)" in sentences[0]
    assert "smoothing_window is 4" in sentences[1]
    assert len(viewer.layers) == 2
    assert widget.status.value == sentences[1]


def test_models_that_cannot_be_loaded(
    viewer: Any, widget: Any, fake: type[FakeTracker], notices: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: str) -> None:
        raise ModelError("pfld.onnx is missing: install the models again.")

    monkeypatch.setattr("napari_face_landmarks.napari_plugin.track_dock.load_models", load)
    video = add_clip(viewer)
    widget.run()
    wait_until(lambda: not widget.running)
    assert [notice.message for notice in notices] == ["pfld.onnx is missing: install the models again."]
    assert list(viewer.layers) == [video]
    assert widget.run_button.enabled


@pytest.mark.parametrize("error", [ModelError("The model broke: mend it."), ZeroDivisionError("by zero")])
def test_an_error_on_the_way_keeps_what_is_finished(
    viewer: Any, widget: Any, fake: type[FakeTracker], notices: list[Any], error: Exception
) -> None:
    fake.fails_at = (25, error)
    add_clip(viewer)
    points = run_to_the_end(widget)
    kept = frames_shown(points)
    assert kept == list(range(len(kept)))
    assert len(kept) >= 20
    (notice,) = notices
    assert str(error).removesuffix(".") in notice.message
    assert "\n" not in notice.message
    assert f"{len(kept)} of 40 frames are finished and kept." in notice.message


def test_frames_that_cannot_be_used_are_told_once(
    viewer: Any, widget: Any, fake: type[FakeTracker], notices: list[Any]
) -> None:
    frames = np.ones((12, 20, 30), np.float32)
    frames[3:5] = np.nan
    viewer.add_image(frames, contrast_limits=(0, 1))
    run_to_the_end(widget)
    (notice,) = notices
    assert "Frame 3" in notice.message
    assert "1 more warning" in notice.message


def test_refinement_that_switches_itself_on_is_told_once(
    viewer: Any, widget: Any, fake: type[FakeTracker], notices: list[Any]
) -> None:
    fake.refined_from, fake.seconds_per_frame = 5, 0.02
    add_clip(viewer)
    run_to_the_end(widget)
    (notice,) = notices
    assert notice.message.startswith(
        "Hard landmarks were detected (pen marks, occlusion, paralysis or pose): "
        "shape-constrained refinement (CLNF) is on. Expect about "
    )
    rate = int(notice.message.rpartition("about ")[2].split()[0])
    assert 4 <= rate <= 50  # 20 ms a frame and what a busy machine adds
    assert widget.notice.value == notice.message
    notices.clear()
    widget.settings_controls["refine"].value = "always"
    run_to_the_end(widget)
    assert not notices
    assert not widget.notice.value


def test_a_run_can_be_paused_and_goes_on(viewer: Any, widget: Any, fake: type[FakeTracker]) -> None:
    fake.seconds_per_frame = 0.01
    add_clip(viewer, 120)
    assert not widget.pause_button.enabled
    widget.run()
    wait_until(lambda: widget.progress.value > 10)
    widget.pause_button.native.click()
    assert widget.pause_button.text == "Resume"
    let_work(0.5)  # the frame at hand is finished
    waits_at = widget.progress.value
    let_work(0.7)
    assert widget.progress.value == waits_at < 120
    assert widget.running
    assert widget.status.value == f"Paused after {waits_at} of 120 frames."
    assert frames_shown(widget.landmarks) == list(range(waits_at))
    widget.pause_button.native.click()
    assert widget.pause_button.text == "Pause"
    wait_until(lambda: not widget.running)
    assert frames_shown(widget.landmarks) == list(range(120))
    seconds = widget.landmarks.metadata["tracks"].stats.seconds
    assert seconds < 120 * 0.01 * 5, "waiting is no tracking"
    assert not widget.pause_button.enabled


def test_a_paused_run_can_be_cancelled(viewer: Any, widget: Any, fake: type[FakeTracker]) -> None:
    fake.seconds_per_frame = 0.01
    add_clip(viewer, 500)
    widget.run()
    wait_until(lambda: widget.progress.value > 10)
    widget.pause_button.native.click()
    widget.cancel_button.native.click()
    wait_until(lambda: not widget.running, 30)
    assert "Cancelled" in widget.status.value
    assert len(widget.landmarks.data) == 68 * len(frames_shown(widget.landmarks)) > 0


def test_removing_the_video_ends_the_run(viewer: Any, widget: Any, fake: type[FakeTracker]) -> None:
    fake.seconds_per_frame = 0.02
    # without it the window would crash: vispy 0.17 cannot draw points after the only image is removed,
    # with or without this plugin
    viewer.add_image(np.zeros((500, 60, 80), np.uint8))
    video = add_clip(viewer, 500)
    widget.video.value = video
    widget.run()
    points = widget.landmarks
    wait_until(points.shown.any)
    viewer.layers.remove(video)
    wait_until(lambda: not widget.running, 30)
    assert len(points.data) == 68 * points.metadata["tracks"].n_frames > 0
    assert widget.video.value in viewer.layers


def test_removing_the_landmarks_ends_the_run(viewer: Any, widget: Any, fake: type[FakeTracker]) -> None:
    fake.seconds_per_frame = 0.02
    video = add_clip(viewer, 500)
    widget.run()
    wait_until(widget.landmarks.shown.any)
    viewer.layers.remove(widget.landmarks)
    wait_until(lambda: not widget.running, 30)
    assert list(viewer.layers) == [video]


@pytest.mark.parametrize("how", ["viewer", "window", "dock"])
def test_closing_ends_the_run(viewer: Any, widget: Any, fake: type[FakeTracker], how: str) -> None:
    fake.seconds_per_frame = 0.02
    ended = threading.Event()
    original = fake._follow

    def watched(self: Any, *run: Any) -> Iterator[Any]:
        try:
            yield from original(self, *run)
        finally:
            ended.set()

    fake._follow = watched  # type: ignore[method-assign]
    add_clip(viewer, 2000)
    widget.run()
    points = widget.landmarks
    wait_until(points.shown.any)

    if how == "viewer":
        viewer.close()
    elif how == "window":
        viewer.window.close()
    else:
        viewer.window.remove_dock_widget(landmarks_dock(viewer))
    wait_until(ended.is_set, 30)
    let_work(0.3)
    if how == "dock":
        assert len(points.data) == 68 * len(frames_shown(points)) > 0
