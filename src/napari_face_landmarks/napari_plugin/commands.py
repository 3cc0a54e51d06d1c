"""What the dock's buttons do, as commands: for the command palette, shortcuts and scripts with a viewer."""

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
"""The keys of the commands, as napari writes them; they work while the canvas has the focus."""
CHECK_SHORTCUTS = {"next_to_check": "n", "previous_to_check": "Shift-n"}
"""Those of the frames to check."""

# a dock knows its viewer: held by anything but its window, it would keep the viewer and itself for good
_docks: WeakKeyDictionary[Any, ref[Any]] = WeakKeyDictionary()
_studies: WeakKeyDictionary[Any, ref[Any]] = WeakKeyDictionary()


def register(viewer: Any, dock: Any) -> None:
    """Note the dock of a viewer, and give the viewer the shortcuts; keys that are taken are left alone."""
    _docks[viewer] = ref(dock)
    for name, key in (SHORTCUTS | CHECK_SHORTCUTS).items():
        with suppress(ValueError):
            viewer.bind_key(key, globals()[name])


def landmarks_dock(viewer: Any = None, tab: str | None = None) -> Any:
    """Return the dock "Face landmarks" of a viewer, by default napari's current one, opened if need be.

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
    """Return the dock of a viewer, or None where none is open."""
    dock: Any = docks.get(viewer, lambda: None)()
    with suppress(RuntimeError):  # Qt has deleted it
        if dock is not None and dock.parent() is not None:
            return dock
    return None


def run(viewer: Any = None) -> None:
    """Start tracking the video that is chosen in the dock."""
    landmarks_dock(viewer, "Track").track.run()


def pause(viewer: Any = None) -> None:
    """Pause the run, or resume it."""
    landmarks_dock(viewer).track.pause_or_go_on()


def cancel(viewer: Any = None) -> None:
    """Stop the run; the frames that are finished stay."""
    landmarks_dock(viewer).track.cancel()


def export(viewer: Any = None) -> None:
    """Ask for a file and write the landmarks to it."""
    landmarks_dock(viewer).track.export()


def next_preset(viewer: Any = None) -> None:
    """Choose the next preset, the first after the last."""
    from napari_face_landmarks.settings import PRESETS

    panel = landmarks_dock(viewer).track
    if panel.running:
        return
    names = [item.name for item in PRESETS]
    now = panel.preset.value
    panel.preset.value = names[(names.index(now) + 1) % len(names) if now in names else 0]
    titles = {item.name: item.title for item in PRESETS}
    show_info(f"Preset: {titles[panel.preset.value]}")


def check(viewer: Any = None) -> None:
    """Show the tab with the curves and the frames to check."""
    landmarks_dock(viewer, "Check")


def correct(viewer: Any = None) -> None:
    """Show the tab that corrects landmarks."""
    landmarks_dock(viewer, "Correct")


def measure(viewer: Any = None) -> None:
    """Show the tab with measures of the faces."""
    landmarks_dock(viewer, "Measure")


def faces(viewer: Any = None) -> None:
    """Show the tab that edits faces."""
    landmarks_dock(viewer, "Faces")


def view(viewer: Any = None) -> None:
    """Show the tab with colours, outlines, numbers and trails."""
    landmarks_dock(viewer, "View")


def study(viewer: Any = None) -> Any:
    """Return the dock "Many videos" of a viewer, opened if need be and in front."""
    from napari_face_landmarks.napari_plugin.study_dock import TITLE, StudyDock

    viewer = napari.current_viewer() if viewer is None else viewer
    dock = _open_one(_studies, viewer)
    if dock is None:
        dock = StudyDock(viewer)
        _studies[viewer] = ref(dock)
        viewer.window.add_dock_widget(dock, name=TITLE, area="right")
        docked, other = dock.parent(), landmarks_dock(viewer).parent()
        window = docked.parent()
        if other.parent() is window and not other.isFloating():
            window.tabifyDockWidget(other, docked)  # one above the other they would be too low
    dock.parent().show()
    dock.parent().raise_()
    return dock


def next_to_check(viewer: Any = None) -> None:
    """Go to the next frame to check; the tab in front stays there once the landmarks are checked."""
    _step(viewer, "next_to_check")


def previous_to_check(viewer: Any = None) -> None:
    """Go to the previous frame to check, as `next_to_check`."""
    _step(viewer, "previous_to_check")


def _step(viewer: Any, way: str) -> None:
    """Take a step in the panel Check, in front where it does not know yet what there is to check."""
    dock = landmarks_dock(viewer)
    if dock.check.found is None:
        dock.show_tab("Check")
    elif (found := getattr(dock.check, way)()) is None:
        show_info("No frame needs a check.")
    else:
        dock.correct.say_why(found.frame, found.text)


def about(viewer: Any = None) -> None:
    """Show the versions of everything, to be copied into a bug report."""
    from napari_face_landmarks.napari_plugin.qt_forms import show_about

    show_about(landmarks_dock(viewer))
