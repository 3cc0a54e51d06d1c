"""One viewer, many docks, in any order: nothing crashes, nothing goes dead, each viewer has its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fake_tracker import FakeTracker
from gui_support import let_work, wait_until
from napari_face_landmarks import tracking

pytestmark = pytest.mark.gui

N_FRAMES = 40


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeTracker]:
    tracker = type("ThisFakeTracker", (FakeTracker,), {"seconds_per_frame": 0.004})
    monkeypatch.setattr(tracking, "FaceTracker", tracker)
    monkeypatch.setattr("napari_face_landmarks.napari_plugin.track_dock.load_models", lambda _: None)
    return tracker


@pytest.fixture
def notices(viewer: Any) -> Iterator[list[str]]:
    """Collect what napari is told to show."""
    from napari.utils.notifications import notification_manager

    told: list[str] = []

    def note(notification: Any) -> None:
        told.append(str(notification.message))

    notification_manager.notification_ready.connect(note)
    yield told
    notification_manager.notification_ready.disconnect(note)


def panels(viewer: Any, *names: str) -> list[Any]:
    """Open panels as docks of a viewer."""
    from napari_face_landmarks.napari_plugin.check_dock import QualityDock
    from napari_face_landmarks.napari_plugin.correct_dock import CorrectDock
    from napari_face_landmarks.napari_plugin.faces_dock import FacesDock
    from napari_face_landmarks.napari_plugin.track_dock import FaceLandmarksWidget
    from napari_face_landmarks.napari_plugin.view_dock import ViewDock

    kinds = {
        "run": FaceLandmarksWidget,
        "check": QualityDock,
        "correct": CorrectDock,
        "faces": FacesDock,
        "view": ViewDock,
    }
    made = [kinds[name](viewer) for name in names]
    for name, panel in zip(names, made, strict=True):
        viewer.window.add_dock_widget(panel, name=name, tabify=True)
    let_work(0.05)
    return made


def add_clip(viewer: Any, name: str = "clip", n_frames: int = N_FRAMES) -> Any:
    return viewer.add_image(np.zeros((n_frames, 60, 80, 3), np.uint8), rgb=True, name=name)


def run(panel: Any) -> Any:
    panel.run()
    wait_until(lambda: not panel.running)
    let_work(0.1)
    return panel.landmarks


@pytest.mark.parametrize("how", ["remove", "clear"])
def test_landmarks_are_removed_with_their_overlays(viewer: Any, how: str) -> None:
    tracker, view = panels(viewer, "run", "view")
    video = add_clip(viewer)
    points = run(tracker)
    view.outlines.setChecked(True)
    view.numbers.setChecked(True)
    view.trails.setChecked(True)
    wait_until(lambda: len(view.shown.layers) == 3)
    assert len(viewer.layers) == 5
    if how == "clear":
        viewer.layers.clear()
        let_work(0.1)
        assert not viewer.layers
    else:
        viewer.layers.remove(points)
        let_work(0.1)
        assert list(viewer.layers) == [video]
        assert not view.outlines.isEnabled()
        viewer.layers.append(points)
        wait_until(lambda: len(view.shown.layers) == 3)
        viewer.dims.set_current_step(0, 3)
        let_work(0.1)
        viewer.layers.remove(points)
        let_work(0.1)
    add_clip(viewer, "another")
    run(tracker)
    wait_until(lambda: len(view.shown.layers) == 3)
    viewer.dims.set_current_step(0, 7)
    let_work(0.1)


def test_overlays_survive_renames_moves_and_removal_by_hand(viewer: Any) -> None:
    tracker, view = panels(viewer, "run", "view")
    add_clip(viewer)
    points = run(tracker)
    view.outlines.setChecked(True)
    view.numbers.setChecked(True)
    wait_until(lambda: len(view.shown.layers) == 2)
    viewer.layers.move(len(viewer.layers) - 1, 0)
    view.shown.layers["outlines"].name = "mine"
    points.name = "left"
    viewer.dims.set_current_step(0, 3)
    let_work(0.1)
    assert view.shown.layers["outlines"].name == "left outlines"
    viewer.layers.remove(view.shown.layers["numbers"])
    wait_until(lambda: not view.numbers.isChecked())
    assert view.outlines.isChecked()
    assert set(view.shown.layers) == {"outlines"}


def test_overlays_outlive_their_dock_and_the_next_dock_shows_them(viewer: Any) -> None:
    tracker, view = panels(viewer, "run", "view")
    add_clip(viewer)
    run(tracker)
    view.outlines.setChecked(True)
    wait_until(lambda: view.shown.layers)
    shown = view.shown
    viewer.window.remove_dock_widget(view)
    view.deleteLater()
    let_work(0.1)
    before = shown.layers["outlines"].data.copy()
    viewer.dims.set_current_step(0, 9)
    wait_until(lambda: not np.array_equal(shown.layers["outlines"].data, before))
    (again,) = panels(viewer, "view")
    assert again.outlines.isChecked()
    again.outlines.setChecked(False)
    wait_until(lambda: not shown.layers)
    assert len(viewer.layers) == 2


def test_a_run_outlives_the_closing_of_another_viewer(viewer: Any, fake: type[FakeTracker]) -> None:
    """Close a second viewer, which napari takes for the current one, during a run in the first."""
    from napari import Viewer

    fake.seconds_per_frame = 0.02
    (tracker,) = panels(viewer, "run")
    add_clip(viewer)
    second = Viewer(show=True)
    let_work(0.2)
    tracker.run()
    points = tracker.landmarks
    wait_until(points.shown.any)
    second.close()
    let_work(0.1)
    assert tracker.running
    wait_until(lambda: not tracker.running)
    assert points in viewer.layers
    assert points.metadata["tracks"].n_frames == N_FRAMES


def test_each_viewer_has_its_own_landmarks_and_overlays(viewer: Any) -> None:
    from napari import Viewer

    second = Viewer(show=True)
    try:
        trackers, views = [], []
        for each in (viewer, second):
            add_clip(each)
            tracker, view = panels(each, "run", "view")
            trackers.append(tracker)
            views.append(view)
        for tracker, view, each in zip(trackers, views, (viewer, second), strict=True):
            assert run(tracker) in each.layers
            assert view.layer is tracker.landmarks
        views[1].outlines.setChecked(True)
        let_work(0.1)
        assert (len(viewer.layers), len(second.layers)) == (2, 3)
    finally:
        second.close()
    let_work(0.1)
    assert run(trackers[0]) in viewer.layers


@pytest.mark.parametrize("order", ["run check correct faces view", "view faces correct check run"])
def test_docks_work_in_any_order(viewer: Any, notices: list[str], order: Any) -> None:
    """Open each dock before the run and before the video; all follow the run, and say nothing red."""
    order = order.split()
    made = dict(zip(order, panels(viewer, *order), strict=True))
    add_clip(viewer)
    points = run(made["run"])
    for name in ("check", "correct", "faces", "view"):
        assert made[name].layers.currentData() is points, name
    wait_until(lambda: made["check"].found is not None)
    assert made["correct"].refit_button.enabled
    assert made["faces"].list.count() == 1
    assert made["view"].colour.isEnabled()
    assert not notices
    again = run(made["run"])
    assert all(made[name].layers.currentData() is again for name in ("check", "correct", "faces", "view"))
    made["view"].layers.setCurrentIndex(0)
    assert all(made[name].layers.currentData() is points for name in ("check", "correct", "faces", "view"))
    viewer.layers.selection.active = viewer.layers["clip"]
    viewer.layers.selection.active = again
    assert made["correct"].layer is again
    again.name = "renamed"
    assert made["faces"].layers.currentText() == "renamed"
    for layer in (again, points):
        viewer.layers.remove(layer)
        let_work(0.05)
    assert not made["correct"].refit_button.enabled
    assert made["faces"].list.count() == 0
    viewer.layers.append(points)
    assert made["correct"].refit_button.enabled
    assert made["faces"].list.count() == 1


def test_a_layer_that_is_filled_is_not_edited(viewer: Any, fake: type[FakeTracker]) -> None:
    fake.seconds_per_frame = 0.02
    tracker, correct, faces = panels(viewer, "run", "correct", "faces")
    add_clip(viewer)
    tracker.run()
    wait_until(tracker.landmarks.shown.any)
    assert not correct.refit_button.enabled
    assert "still being tracked" in correct.status.value
    assert faces.list.count() == 0
    tracker.cancel()
    wait_until(lambda: not tracker.running)
    assert correct.refit_button.enabled
    assert faces.list.count() == 1


def test_landmarks_removed_during_their_run_may_be_put_back(viewer: Any, fake: type[FakeTracker]) -> None:
    fake.seconds_per_frame = 0.02
    tracker, correct = panels(viewer, "run", "correct")
    add_clip(viewer)
    tracker.run()
    points = tracker.landmarks
    wait_until(points.shown.any)
    viewer.layers.remove(points)
    wait_until(lambda: not tracker.running)
    viewer.layers.append(points)
    assert correct.refit_button.enabled
    kept = points.metadata["tracks"].n_frames
    assert 0 < kept < N_FRAMES
    assert len(points.data) == 68 * kept


def test_the_video_box_follows_the_active_image_until_the_user_chooses(viewer: Any) -> None:
    (tracker,) = panels(viewer, "run")
    first = add_clip(viewer, "first")
    assert tracker.video.value is first
    second = add_clip(viewer, "second", 30)
    assert tracker.video.value is second
    assert tracker.last.value == 29
    viewer.layers.selection.active = first
    assert tracker.video.value is first
    points = run(tracker)
    assert points.name == "first landmarks"
    assert tracker.video.value is first, "landmarks are no video"
    tracker.video.native.setCurrentIndex(1)
    assert tracker.video.value is second
    third = add_clip(viewer, "third")
    viewer.layers.selection.active = first
    assert tracker.video.value is second, "what was chosen stays"
    viewer.layers.remove(second)
    assert tracker.video.value in (first, third), "what was removed is no choice"
    viewer.layers.selection.active = third
    assert tracker.video.value is third
