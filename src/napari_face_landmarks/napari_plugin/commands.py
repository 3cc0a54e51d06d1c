"""The dock's actions as commands: for the command palette, shortcuts and scripts with a viewer."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary, ref

import napari
from napari.utils.notifications import show_info

PLUGIN = "napari-face-landmarks"
DOCK = "Face landmarks"
SHORTCUTS = {
    "run": "Shift-Alt-R",
    "pause": "Shift-Alt-P",
    "cancel": "Shift-Alt-C",
    "export": "Shift-Alt-E",
    "next_preset": "Shift-Alt-S",
}
"""Keys of the commands in napari's notation; they work while the canvas has the focus."""
CHECK_SHORTCUTS = {"next_to_check": "n", "previous_to_check": "Shift-n"}
"""Keys for stepping through the frames to check."""

# weak references: docks refer to their viewer, so strong ones would keep both alive forever
_docks: WeakKeyDictionary[Any, ref[Any]] = WeakKeyDictionary()
_studies: WeakKeyDictionary[Any, ref[Any]] = WeakKeyDictionary()


def register(viewer: Any, dock: Any) -> None:
    """Register the dock of a viewer, and bind the shortcuts to keys that are still free."""
    _docks[viewer] = ref(dock)
    for name, key in (SHORTCUTS | CHECK_SHORTCUTS).items():
        with suppress(ValueError):
            viewer.bind_key(key, globals()[name])


def landmarks_dock(viewer: Any = None, tab: str | None = None) -> Any:
    """Return the dock "Face landmarks" of a viewer (by default the current one), opening it if necessary.

    `tab` is the title of the tab to bring to the front.
    """
    viewer = napari.current_viewer() if viewer is None else viewer
    dock = _open_one(_docks, viewer)
    if dock is None:
        dock = viewer.window.add_plugin_dock_widget(PLUGIN, DOCK)[1]
    if tab is not None:
        dock.show_tab(tab)
        dock.parent().show()
        dock.parent().raise_()  # it may be behind Many videos
    return dock


def _open_one(docks: WeakKeyDictionary[Any, ref[Any]], viewer: Any) -> Any:
    """Return the open dock of a viewer, or None."""
    dock: Any = docks.get(viewer, lambda: None)()
    with suppress(RuntimeError):  # Qt has deleted it
        if dock is not None and dock.parent() is not None:
            return dock
    return None


def run(viewer: Any = None) -> None:
    """Start tracking the video chosen in the dock."""
    landmarks_dock(viewer, "Track").track.run()


def pause(viewer: Any = None) -> None:
    """Pause or resume the run."""
    landmarks_dock(viewer).track.pause_or_resume()


def cancel(viewer: Any = None) -> None:
    """Cancel the run, keeping the finished frames."""
    landmarks_dock(viewer).track.cancel()


def export(viewer: Any = None) -> None:
    """Ask for a file and write the landmarks to it."""
    landmarks_dock(viewer).track.export()


def next_preset(viewer: Any = None) -> None:
    """Choose the next preset, with wrap-around."""
    from napari_face_landmarks.settings import PRESETS

    panel = landmarks_dock(viewer).track
    if panel.running:
        return
    names = [item.name for item in PRESETS]
    preset = panel.preset.value
    panel.preset.value = names[(names.index(preset) + 1) % len(names) if preset in names else 0]
    titles = {item.name: item.title for item in PRESETS}
    show_info(f"Preset: {titles[panel.preset.value]}")


def check(viewer: Any = None) -> None:
    """Show the tab with the curves and the frames to check."""
    landmarks_dock(viewer, "Check")


def correct(viewer: Any = None) -> None:
    """Show the tab that corrects landmarks."""
    landmarks_dock(viewer, "Correct")


def measure(viewer: Any = None) -> None:
    """Show the tab with facial measures."""
    landmarks_dock(viewer, "Measure")


def faces(viewer: Any = None) -> None:
    """Show the tab that edits faces."""
    landmarks_dock(viewer, "Faces")


def view(viewer: Any = None) -> None:
    """Show the tab with colours, outlines, numbers and trails."""
    landmarks_dock(viewer, "View")


def study(viewer: Any = None) -> Any:
    """Return the dock "Many videos" of a viewer, opening it if necessary, and bring it to the front."""
    from napari_face_landmarks.napari_plugin.study_dock import TITLE, StudyDock

    viewer = napari.current_viewer() if viewer is None else viewer
    dock = _open_one(_studies, viewer)
    if dock is None:
        dock = StudyDock(viewer)
        _studies[viewer] = ref(dock)
        viewer.window.add_dock_widget(dock, name=TITLE, area="right")
        study_widget, main_widget = dock.parent(), landmarks_dock(viewer).parent()
        window = study_widget.parent()
        if main_widget.parent() is window and not main_widget.isFloating():
            window.tabifyDockWidget(main_widget, study_widget)  # stacked, both would be too low
    dock.parent().show()
    dock.parent().raise_()
    return dock


def next_to_check(viewer: Any = None) -> None:
    """Go to the next frame to check; opens the tab Check if the landmarks are not checked yet."""
    _step(viewer, "next_to_check")


def previous_to_check(viewer: Any = None) -> None:
    """Go to the previous frame to check; otherwise like `next_to_check`."""
    _step(viewer, "previous_to_check")


def _step(viewer: Any, method: str) -> None:
    dock = landmarks_dock(viewer)
    if dock.check.found is None:
        dock.show_tab("Check")
    elif (suspect := getattr(dock.check, method)()) is None:
        show_info("No frame needs a check.")
    else:
        dock.correct.show_reason(suspect.frame, suspect.text)


def about(viewer: Any = None) -> None:
    """Show the versions to paste into bug reports."""
    from napari_face_landmarks.napari_plugin.qt_forms import show_about

    show_about(landmarks_dock(viewer))
