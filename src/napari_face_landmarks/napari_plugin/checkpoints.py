"""Where the dock keeps the checkpoint files of its runs, so that an interrupted one can be resumed."""

from __future__ import annotations

from pathlib import Path

FOLDER = "napari-face-landmarks-runs"


def folder_of_journals() -> Path | None:
    """Return the folder of checkpoint files, next to napari's own settings; None where napari keeps none."""
    from napari.settings import get_settings

    path = get_settings().config_path
    return None if path is None else Path(path).parent / FOLDER
