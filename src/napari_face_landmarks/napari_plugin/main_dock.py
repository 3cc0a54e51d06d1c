"""The dock "Face landmarks", with a tab for each task on the viewer's current landmarks layer."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QTabWidget

from napari_face_landmarks.napari_plugin import commands
from napari_face_landmarks.napari_plugin.check_dock import QualityDock
from napari_face_landmarks.napari_plugin.correct_dock import CorrectDock
from napari_face_landmarks.napari_plugin.faces_dock import FacesDock
from napari_face_landmarks.napari_plugin.layers import text_overlay_of
from napari_face_landmarks.napari_plugin.measure_dock import MeasuresDock
from napari_face_landmarks.napari_plugin.qt_forms import Docked, Scrolling, set_contents
from napari_face_landmarks.napari_plugin.track_dock import FaceLandmarksWidget
from napari_face_landmarks.napari_plugin.view_dock import ViewDock

TOOLTIPS = {
    "Track": "Find faces and their landmarks in a video.",
    "Check": "Curves over time, and the frames where landmarks may be wrong.",
    "Correct": "Drag landmarks, refit the face, propagate the correction.",
    "Measure": "Eye closure, mouth, brows, asymmetry and blinks over time.",
    "Faces": "Rename, merge, split and delete faces.",
    "View": "Colours, outlines, numbers and trails.",
}
SPACE, LOAD_MS = " ", 300
_collected: list[int] = []
"""What the only call of `gc.collect` returned."""


def _load_font(viewer: Any) -> None:
    """Make napari load its font while the dock opens, with an invisible text, instead of during a run."""
    text = text_overlay_of(viewer)
    if text.visible or text.text:
        return
    text.visible, text.text = True, SPACE

    def end() -> None:
        if text.text == SPACE:
            text.visible, text.text = False, ""

    QTimer.singleShot(0, lambda: QTimer.singleShot(LOAD_MS, end))  # starts when the dock is open


@contextmanager
def _one_collection() -> Iterator[None]:
    """Run a single full garbage collection, at the end of the block, and only in the first dock.

    napari's objects and the dock's make it due. It stops all threads for more than 0.1 s, and would otherwise
    come at any time in the first run.
    """
    if _collected or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        _collected.append(gc.collect())
    finally:
        gc.enable()


class FaceLandmarksDock(Docked):
    """Contents of the dock: each of the `tabs` has its panel (`track`, `check`, ...)."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(commands.DOCK)
        with _one_collection():
            self._build(napari_viewer)

    def _build(self, napari_viewer: Any) -> None:
        self.track = FaceLandmarksWidget(napari_viewer)
        self.check = QualityDock(napari_viewer)
        self.correct = CorrectDock(napari_viewer)
        self.measure = MeasuresDock(napari_viewer)
        self.faces = FacesDock(napari_viewer)
        self.view = ViewDock(napari_viewer)
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.setUsesScrollButtons(True)
        # napari gives the bar the colour of tabs, so that the rest of it looks like another, cut-off tab
        self.tabs.tabBar().setStyleSheet("QTabBar { background: transparent; border: none; padding: 0px; }")
        panels = (self.track, self.check, self.correct, self.measure, self.faces, self.view)
        for (title, tooltip), panel in zip(TOOLTIPS.items(), panels, strict=True):
            self.tabs.addTab(Scrolling(getattr(panel, "native", panel)), title)
            self.tabs.setTabToolTip(self.tabs.count() - 1, tooltip)
        set_contents(self, self.tabs)
        self.tabs.currentChanged.connect(self._on_tab)
        self._on_tab(0)
        commands.register(napari_viewer, self)
        _load_font(napari_viewer)

    def leave(self) -> None:
        """Return enlarged curves to their panels, and delete the dock's contents."""
        for panel in (self.check, self.measure):
            panel.wide.button.setChecked(False)
        super().leave()

    def show_tab(self, title: str) -> None:
        """Bring a tab to the front."""
        self.tabs.setCurrentIndex(list(TOOLTIPS).index(title))

    def _on_tab(self, index: int) -> None:
        """Let only the panel in front follow the landmarks, which may take a second for a long video."""
        title = list(TOOLTIPS)[index]
        self.check.set_active(title in ("Check", "Correct"))  # Correct uses the frames listed in Check
        self.correct.set_active(title == "Correct")
        self.faces.set_active(title == "Faces")
