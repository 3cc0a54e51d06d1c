"""The Export button: which layer, which file, which format; the writing itself, which knows no Qt."""

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

MOST_NAMES = 100  # that are tried for a file that does not exist
OVERLAY, PICTURE, SHEET = "overlay", "picture", "sheet"
DRAWN = {
    OVERLAY: ("Overlay video", ".mp4"),
    PICTURE: ("Picture of this frame", ".png"),
    SHEET: ("Contact sheet", ".png"),
}
"""What is drawn on the video: title and suffix."""


@dataclass
class ExportProgress:
    """How far an export is; written by its thread, read by the GUI, which may cancel it."""

    name: str = ""  # of the file
    done: int = 0  # frames that are drawn
    total: int = 0  # 0 where that is not known
    cancelled: bool = False


class Stopped(Exception):
    """The export is no longer wanted."""


@dataclass(frozen=True)
class Export:
    """What is to be written, taken from the layer when the button was pressed."""

    path: Path
    format: str  # of `io.FORMATS`, or of `DRAWN`
    read: Callable[[], Tracks]  # the landmarks of the layer, in any thread
    video: Any  # the image layer to draw on
    style: OverlayStyle = field(default_factory=OverlayStyle)
    frame: int | None = None  # the one that is shown


def file_filters(with_video: bool) -> dict[str, str]:
    """Return the lines of the file dialog's list of formats, and the format of each."""
    lines = {
        f"{item.title} ({' '.join('*' + suffix for suffix in item.suffixes)})": item.name for item in FORMATS
    }
    drawn = {f"{title} (*{suffix})": name for name, (title, suffix) in DRAWN.items()}
    return lines | (drawn if with_video else {})


def is_video(layer: Any) -> bool:
    """Return whether a layer has frames that an overlay can be drawn on."""
    try:
        return layer is not None and int(layer.ndim) == 3 and count_frames(layer) > 0
    except ImageError:
        return False


def ask_for_file(parent: Any, suggested: str, with_video: bool) -> tuple[Path, str] | None:
    """Show the dialog; return the file and the format, or None if the user cancelled it."""
    from qtpy.QtWidgets import QFileDialog

    lines = file_filters(with_video)
    name, line = QFileDialog.getSaveFileName(parent, "Export landmarks", suggested, ";;".join(lines))
    return (Path(name), lines.get(line, FORMATS[0].name)) if name else None


def file_and_format(path: Path, chosen: str) -> tuple[Path, str]:
    """Return the file with a suffix, and the format: the suffix that was typed counts more than the list's.

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
    """Return what is to be exported of a layer, as it is now: pictures in the colours of the view."""
    data, attributes = copy_of_points(layer)
    tracks = layer.metadata.get("tracks")
    if isinstance(tracks, Tracks):  # corrections made during the export write into the arrays of the layer's
        attributes["metadata"]["tracks"] = tracks.copy()
    style = OverlayStyle(mode_of(layer), outlines, legend=True)
    read = partial(tracks_of_points, data, attributes)
    return Export(path, name, read, video if name in DRAWN else None, style, frame)


def suggested_file(layer: Any, video: Any) -> str:
    """Return the file that the dialog proposes: next to the video, and none that exists."""
    name = layer.name.replace("/", " ")
    path = None if video is None else video.metadata.get("path")
    folder = Path(path).parent if isinstance(path, str) and Path(path).is_file() else Path()
    numbers = ["", *(f" {number}" for number in range(2, MOST_NAMES))]
    found = (folder / f"{name}{number}.csv" for number in numbers)
    return str(next((each for each in found if not each.exists()), folder / f"{name}.csv"))


def write_export(export: Export, progress: ExportProgress | None = None) -> tuple[bool, str]:
    """Write a file; return whether it is written and what to tell the user in one sentence. Never raises."""
    try:
        tracks = export.read()
        if export.format in DRAWN:
            _draw(export, tracks, progress or ExportProgress())
            return True, f"Exported to {export.path.name}: {DRAWN[export.format][0].lower()}."
        chosen = format_to_write(export.path, export.format)
        write_tracks(export.path, tracks, chosen.name)
        return True, f"Exported to {export.path.name}: {chosen.title}; it loses {chosen.loses}."
    except Stopped:
        return False, "The export was cancelled; no file was written."
    except FaceLandmarksError as error:
        return False, str(error)
    except Exception as error:
        LOG.exception("The export failed")
        reason = f"{type(error).__name__}: {in_one_line(error)}"
        return False, f"The export failed at an unexpected error ({reason})."


def _draw(export: Export, tracks: Tracks, progress: ExportProgress) -> None:
    """Write a video or a picture of frames with their landmarks."""

    def go_on(done: int, total: int | None) -> None:
        progress.done, progress.total = done, total or 0
        if progress.cancelled:
            raise Stopped

    frames, style = frames_of_layer(export.video), export.style
    if export.format == OVERLAY:
        write_overlay(export.path, frames, tracks, go_on, style)
    elif export.format == SHEET:
        contact_sheet(export.path, frames, tracks, style=style, progress=go_on)
    else:
        row = np.flatnonzero(tracks.frame_indices == (export.frame or 0))
        if not len(row):
            raise ResultError(f"Frame {export.frame} was not tracked: go to a frame with landmarks first.")
        width = int(frames.shape[2])
        contact_sheet(export.path, frames, tracks.take_frames(row), 1, 1, width, style, go_on)
