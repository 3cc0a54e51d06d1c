"""Landmarks as pictures: overlays on frames and videos, contact sheets, figures."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_face_landmarks.visualization.contact_sheet import contact_sheet, write_overlay
    from napari_face_landmarks.visualization.figure import plot_tracks
    from napari_face_landmarks.visualization.overlay import draw_landmarks

_HOMES = {
    "contact_sheet": "contact_sheet",
    "draw_landmarks": "overlay",
    "plot_tracks": "figure",
    "write_overlay": "contact_sheet",
}
__all__ = ["contact_sheet", "draw_landmarks", "plot_tracks", "write_overlay"]


def __getattr__(name: str) -> Any:
    """Import a module when one of its names is first used: matplotlib is needed for figures only."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
