"""Random sequences of what users do in a window: nothing raises, goes dead or loses a finished frame.

Each walk is determined by its seed; a seed that fails is added to `FAILED_ONCE`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fake_tracker import FakeTracker
from gui_support import let_work, panel_of, wait_until
from napari_face_landmarks import tracking

pytestmark = pytest.mark.gui

N_FRAMES = 30
N_ACTIONS = 30
FAILED_ONCE: tuple[int, ...] = (112, 117, 268, 9013, 5053)
USUAL = (112, 1000)
"""One walk with the first actions, one with all; the others are a night's."""
NIGHTLY = sorted({*FAILED_ONCE, *range(100, 400), *range(1000, 1100)})
MORE_FROM = 1000
"""Seeds from here on have `MORE` actions too; earlier ones stay as they were."""
MORE = ("do_measure", "do_enlarge", "do_many_videos", "do_show_measured")
NOT_OURS = ("propagateSizeHints", "XDG_RUNTIME_DIR", "OpenGL", "libpng", "svg", "theme")
"""Words in messages of Qt about the platform or napari's icons."""


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = type("ThisFakeTracker", (FakeTracker,), {"seconds_per_frame": 0.005})
    monkeypatch.setattr(tracking, "FaceTracker", tracker)
    # napari alone dies in Mesa's software renderer once a layer is removed, where vispy deletes its program
    monkeypatch.setattr("vispy.gloo.glir.GlirProgram.delete", lambda _: None)
    monkeypatch.setattr("napari_face_landmarks.napari_plugin.track_dock.load_models", lambda _: None)


@pytest.fixture
def qt_messages(display: None) -> Iterator[list[str]]:
    """Collect what Qt warns of."""
    from qtpy.QtCore import QtMsgType, qInstallMessageHandler

    told: list[str] = []

    def note(kind: Any, _: Any, text: str) -> None:
        if kind != QtMsgType.QtDebugMsg and not any(word.lower() in text.lower() for word in NOT_OURS):
            told.append(text)

    before = qInstallMessageHandler(note)
    yield told
    qInstallMessageHandler(before)


class Walk:
    """A window, and what may be done in it; each method is an action."""

    def __init__(self, viewer: Any, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.viewer = viewer
        self.second: Any = None
        self.removed: list[Any] = []
        self.studied = False
        self.done: list[str] = []
        names = [name for name in vars(Walk) if name.startswith("do_")]
        self.names = [name for name in names if seed >= MORE_FROM or name not in MORE]

    def step(self) -> None:
        name = str(self.random.choice(self.names))
        self.done.append(name)
        getattr(self, name)()
        let_work(float(self.random.choice([0, 0.01, 0.1])))

    def pick(self, things: Any) -> Any:
        things = list(things)
        return things[self.random.integers(len(things))] if things else None

    @property
    def dock(self) -> Any:
        from napari_face_landmarks.napari_plugin.commands import landmarks_dock

        return landmarks_dock(self.viewer)

    def panel(self, tab: str) -> Any:
        return panel_of(self.viewer, tab)

    def do_open_clip(self) -> None:
        frames = np.zeros((N_FRAMES, 60, 80, 3), np.uint8)
        self.viewer.add_image(frames, rgb=True, name=f"clip {self.random.integers(9)}")

    def do_show_tab(self) -> None:
        self.panel(self.pick(["Track", "Check", "Correct", "Faces", "View"]))

    def do_close_dock(self) -> None:
        self.viewer.window.remove_dock_widget(self.dock)

    def do_run(self) -> None:
        if self.has_images():
            self.panel("Track").run_button.native.click()

    def do_cancel(self) -> None:
        self.panel("Track").cancel_button.native.click()

    def do_pause(self) -> None:
        self.panel("Track").pause_button.native.click()

    def do_wait_for_the_run(self) -> None:
        track = self.dock.track
        if track.running and track.pause_button.text == "Resume":
            track.pause_button.native.click()
        wait_until(lambda: not track.running)

    def do_delete(self) -> None:
        # vispy cannot draw points after the only image is removed, with or without this plugin
        layers = [layer for layer in self.viewer.layers if not (self.is_image(layer) and self.n_images() < 2)]
        layer = self.pick(layers)
        if layer is not None:
            self.removed.append(layer)
            self.viewer.layers.remove(layer)

    def do_put_back(self) -> None:
        if self.removed:
            self.viewer.layers.append(self.removed.pop())

    def do_rename(self) -> None:
        layer = self.pick(self.viewer.layers)
        if layer is not None:
            layer.name = f"named {self.random.integers(99)}"

    def do_reorder(self) -> None:
        count = len(self.viewer.layers)
        if count > 1:
            self.viewer.layers.move(int(self.random.integers(count)), int(self.random.integers(count)))

    def do_select(self) -> None:
        self.viewer.layers.selection.active = self.pick(self.viewer.layers)

    def do_choose_landmarks(self) -> None:
        box = self.panel("Correct").layers
        if box.count():
            box.setCurrentIndex(int(self.random.integers(box.count())))

    def do_move_slider(self) -> None:
        self.viewer.dims.set_current_step(0, int(self.random.integers(N_FRAMES)))

    def do_correct(self) -> None:
        from napari_face_landmarks.correction import set_manual_landmarks

        editor = self.panel("Correct").editor
        if editor is not None and editor.tracks.n_faces and editor.tracks.present[0, 0]:
            places = editor.tracks.landmarks[0, 0, [30]] + 3
            editor.apply(set_manual_landmarks(editor.tracks, 0, 0, [30], places), "a correction")

    def do_undo(self) -> None:
        self.panel("Correct").undo_button.native.click()

    def do_redo(self) -> None:
        self.panel("Faces").redo_button.native.click()

    def do_split_face(self) -> None:
        faces = self.panel("Faces")
        if faces.list.count():
            faces.select([0])
            if faces.split_button.enabled:
                self.viewer.dims.set_current_step(0, 5)
                faces.split_button.native.click()

    def do_overlays(self) -> None:
        view = self.panel("View")
        box = self.pick([view.outlines, view.numbers, view.trails])
        if box.isEnabled():
            box.setChecked(not box.isChecked())

    def do_colour(self) -> None:
        view = self.panel("View")
        if view.colour.isEnabled():
            view.colour.setCurrentIndex(int(self.random.integers(3)))

    def do_theme(self) -> None:
        self.viewer.theme = self.pick(["dark", "light"])

    def do_check(self) -> None:
        self.panel("Check").next_to_check()

    def do_measure(self) -> None:
        names = self.panel("Measure").names
        names.setCurrentIndex(int(self.random.integers(names.count())))

    def do_enlarge(self) -> None:
        self.panel(self.pick(["Check", "Measure"])).wide.button.click()

    def do_show_measured(self) -> None:
        self.panel("Measure").lines_box.click()

    def do_many_videos(self) -> None:
        from napari_face_landmarks.napari_plugin import commands

        if self.studied:
            self.viewer.window.remove_dock_widget(commands.study(self.viewer))
        else:
            commands.study(self.viewer)
        self.studied = not self.studied

    def do_second_viewer(self) -> None:
        from napari import Viewer

        if self.second is None:
            self.second = Viewer(show=True)
            panel_of(self.second, "View")
        else:
            self.second.close()
            self.second = None

    @staticmethod
    def is_image(layer: Any) -> bool:
        return hasattr(layer, "rgb")

    def n_images(self) -> int:
        return sum(map(self.is_image, self.viewer.layers))

    def has_images(self) -> bool:
        return self.n_images() > 0


def nothing_is_dead(walk: Walk) -> None:
    """Track a new clip, and find every panel at work on it."""
    track = walk.panel("Track")
    walk.do_wait_for_the_run()
    walk.viewer.theme = "dark"
    clip = walk.viewer.add_image(np.zeros((N_FRAMES, 60, 80, 3), np.uint8), rgb=True, name="the last")
    track.video.value = clip
    assert track.run_button.enabled
    track.run_button.native.click()
    wait_until(lambda: not track.running)
    points = track.landmarks
    assert points.metadata["tracks"].n_frames == N_FRAMES, "no finished frame is lost"
    assert len(points.data) == 68 * N_FRAMES
    check = walk.panel("Check")
    wait_until(lambda: check.found is not None and check.found.series.n_frames == N_FRAMES)
    correct, faces, view = (walk.panel(name) for name in ("Correct", "Faces", "View"))
    assert correct.layer is faces.layer is view.layer is points
    let_work(0.05)
    walk.panel("Correct")
    assert correct.refit_button.enabled
    walk.panel("Faces")
    assert faces.list.count() == 1
    assert view.colour.isEnabled()
    view.outlines.setChecked(True)
    wait_until(lambda: "outlines" in view.shown.layers)


def walk_with(viewer: Any, seed: int, told: list[str]) -> None:
    walk = Walk(viewer, seed)
    try:
        walk.do_open_clip()
        for _ in range(N_ACTIONS):
            walk.step()
        nothing_is_dead(walk)
        assert not told
    except BaseException:
        print(f"seed {seed}: {', '.join(walk.done)}")
        raise
    finally:
        if walk.second is not None:
            walk.second.close()


@pytest.mark.parametrize("seed", USUAL)
def test_a_few_walks(viewer: Any, qt_messages: list[str], seed: int) -> None:
    walk_with(viewer, seed, qt_messages)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", NIGHTLY)
def test_many_walks(viewer: Any, qt_messages: list[str], seed: int) -> None:
    walk_with(viewer, seed, qt_messages)
