"""What the dock's buttons do, as commands: for the command palette, shortcuts and scripts with a viewer."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

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

_docks: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def register(viewer: Any, dock: Any) -> None:
    """Note the dock of a viewer, and give the viewer the shortcuts; keys that are taken are left alone."""
    _docks[viewer] = dock
    calls = {"run": run, "pause": pause, "cancel": cancel, "export": export, "next_preset": next_preset}
    for name, key in SHORTCUTS.items():
        with suppress(ValueError):
            viewer.bind_key(key, calls[name])


def landmarks_dock(viewer: Any = None) -> Any:
    """Return the dock "Face landmarks" of a viewer, opened if need be.

    Parameters
    ----------
    viewer : napari.Viewer, optional
        napari's current one where not given.
    """
    viewer = napari.current_viewer() if viewer is None else viewer
    if not _is_open(_docks.get(viewer)):
        viewer.window.add_plugin_dock_widget(PLUGIN, DOCK)
    return _docks[viewer]


def _is_open(dock: Any) -> bool:
    try:
        return dock is not None and dock.native.parent() is not None
    except RuntimeError:  # Qt has deleted it
        return False


def run(viewer: Any = None) -> None:
    """Start tracking the video that is chosen in the dock."""
    landmarks_dock(viewer).run()


def pause(viewer: Any = None) -> None:
    """Have the run wait, or go on."""
    landmarks_dock(viewer).pause_or_go_on()


def cancel(viewer: Any = None) -> None:
    """Stop the run; the frames that are finished stay."""
    landmarks_dock(viewer).cancel()


def export(viewer: Any = None) -> None:
    """Ask for a file and write the landmarks to it."""
    landmarks_dock(viewer).export()


def next_preset(viewer: Any = None) -> None:
    """Choose the next preset, the first after the last."""
    from napari_face_landmarks.settings import PRESETS

    dock = landmarks_dock(viewer)
    if dock.running:
        return
    names = [item.name for item in PRESETS]
    now = dock.preset.value
    dock.preset.value = names[(names.index(now) + 1) % len(names) if now in names else 0]
    show_info(f"Preset: {dict(zip(names, (item.title for item in PRESETS), strict=True))[dock.preset.value]}")


def about(viewer: Any = None) -> None:
    """Show the versions of everything, to be copied into a report of a bug."""
    from napari_face_landmarks.napari_plugin.about import show_about

    show_about(landmarks_dock(viewer).native)
