"""The Export button: choice of file and format, and the writing, which does not use Qt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import FaceLandmarksError, ImageError, ResultError, in_one_line
from napari_face_landmarks.io.formats import (
    FORMATS,
    format_named,
    format_to_write,
    named_by_suffix,
    write_tracks,
)
from napari_face_landmarks.napari_plugin.layers import count_frames, frames_of_layer
from napari_face_landmarks.napari_plugin.points_layer import copy_of_points, tracks_of_points
from napari_face_landmarks.visualization import OverlayStyle, contact_sheet, write_overlay
from napari_face_landmarks.visualization.colours import mode_of

LOG = logging.getLogger(__name__)

MAX_NUMBERED_NAMES = 100  # tried to find a file name that does not exist
OVERLAY, PICTURE, SHEET = "overlay", "picture", "sheet"
DRAWN = {
    OVERLAY: ("Overlay video", ".mp4"),
    PICTURE: ("Picture of this frame", ".png"),
    SHEET: ("Contact sheet", ".png"),
}
"""Exports drawn on the video, with titles and suffixes."""


@dataclass
class ExportProgress:
    """Progress of an export; written by its thread, read by the GUI, which may set `cancelled`."""

    name: str = ""  # file name
    done: int = 0  # frames drawn
    total: int = 0  # 0 if unknown
    cancelled: bool = False


class ExportCancelled(Exception):
    """The user has cancelled the export."""


@dataclass(frozen=True)
class Export:
    """Description of an export, with the landmarks at the time of the click."""

    path: Path
    format: str  # name in `io.FORMATS` or `DRAWN`
    read: Callable[[], Tracks]  # returns the landmarks, in any thread
    video: Any  # image layer to draw on
    style: OverlayStyle = field(default_factory=OverlayStyle)
    frame: int | None = None  # current frame


def file_filters(with_video: bool) -> dict[str, str]:
    """Return the name filters of the file dialog with their formats."""
    lines = {
        f"{item.title} ({' '.join('*' + suffix for suffix in item.suffixes)})": item.name for item in FORMATS
    }
    drawn = {f"{title} (*{suffix})": name for name, (title, suffix) in DRAWN.items()}
    return lines | (drawn if with_video else {})


def is_video(layer: Any) -> bool:
    """Return whether a layer is a video, on which an overlay can be drawn."""
    try:
        return layer is not None and int(layer.ndim) == 3 and count_frames(layer) > 0
    except ImageError:
        return False


def ask_for_file(parent: Any, suggested: str, with_video: bool) -> tuple[Path, str] | None:
    """Show the file dialog; return the file and the format, or None if the user cancelled it."""
    from qtpy.QtWidgets import QFileDialog

    lines = file_filters(with_video)
    name, line = QFileDialog.getSaveFileName(parent, "Export landmarks", suggested, ";;".join(lines))
    return (Path(name), lines.get(line, FORMATS[0].name)) if name else None


def file_and_format(path: Path, chosen: str) -> tuple[Path, str]:
    """Return the file with a suffix, and the format; a typed suffix overrides the chosen format.

    Raises
    ------
    ResultError
        If a library that the format needs is missing.
    """
    chosen = named_by_suffix(path, chosen)
    suffixes = DRAWN[chosen][1:] if chosen in DRAWN else format_named(chosen).suffixes
    name = path.name.lower()
    if not name.endswith(suffixes):
        for drawn, (_, suffix) in DRAWN.items():
            if name.endswith(suffix):
                return path, drawn
        if name.endswith(tuple(suffix for item in FORMATS for suffix in item.suffixes)):
            return path, format_to_write(path).name
        path = path.with_name(path.name + suffixes[0])
    if chosen not in DRAWN:
        format_to_write(path, chosen)
    return path, chosen


def snapshot(
    layer: Any, path: Path, name: str, video: Any, outlines: bool = True, frame: int | None = None
) -> Export:
    """Return an export of a copy of a layer's landmarks; pictures use the layer's colours."""
    data, attributes = copy_of_points(layer)
    tracks = layer.metadata.get("tracks")
    if isinstance(tracks, Tracks):  # edits during the export change the arrays of the layer's tracks in place
        attributes["metadata"]["tracks"] = tracks.copy()
    style = OverlayStyle(mode_of(layer), outlines, legend=True)
    read = partial(tracks_of_points, data, attributes)
    return Export(path, name, read, video if name in DRAWN else None, style, frame)


def suggested_file(layer: Any, video: Any) -> str:
    """Return the file suggested by the dialog: next to the video, with a name that does not exist yet."""
    name = layer.name.replace("/", " ")
    path = None if video is None else video.metadata.get("path")
    folder = Path(path).parent if isinstance(path, str) and Path(path).is_file() else Path()
    numbers = ["", *(f" {number}" for number in range(2, MAX_NUMBERED_NAMES))]
    candidates = (folder / f"{name}{number}.csv" for number in numbers)
    return str(next((file for file in candidates if not file.exists()), folder / f"{name}.csv"))


def write_export(export: Export, progress: ExportProgress | None = None) -> tuple[bool, str]:
    """Write a file; return whether it was written, and a message for the user. Never raises."""
    try:
        tracks = export.read()
        if export.format in DRAWN:
            _draw(export, tracks, progress or ExportProgress())
            return True, f"Exported to {export.path.name}: {DRAWN[export.format][0].lower()}."
        chosen = format_to_write(export.path, export.format)
        write_tracks(export.path, tracks, chosen.name)
        return True, f"Exported to {export.path.name}: {chosen.title}. Not kept: {chosen.loses}."
    except ExportCancelled:
        return False, "The export was cancelled; no file was written."
    except FaceLandmarksError as error:
        return False, str(error)
    except Exception as error:
        LOG.exception("The export failed")
        reason = f"{type(error).__name__}: {in_one_line(error)}"
        return False, f"The export failed with an unexpected error ({reason})."


def _draw(export: Export, tracks: Tracks, progress: ExportProgress) -> None:
    """Write a video or picture of frames with their landmarks."""

    def report(done: int, total: int | None) -> None:
        progress.done, progress.total = done, total or 0
        if progress.cancelled:
            raise ExportCancelled

    frames, style = frames_of_layer(export.video), export.style
    if export.format == OVERLAY:
        write_overlay(export.path, frames, tracks, report, style)
    elif export.format == SHEET:
        contact_sheet(export.path, frames, tracks, style=style, progress=report)
    else:
        row = np.flatnonzero(tracks.frame_indices == (export.frame or 0))
        if not len(row):
            raise ResultError(f"Frame {export.frame} was not tracked: go to a frame with landmarks first.")
        width = int(frames.shape[2])
        contact_sheet(export.path, frames, tracks.take_frames(row), 1, 1, width, style, report)
