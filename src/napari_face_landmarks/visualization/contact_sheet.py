"""Overlay videos and contact sheets: frames of a video with their landmarks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.tracking.frame_source import check_size, recorded_pixel_range
from napari_face_landmarks.tracking.frame_view import PIXEL_ASPECT
from napari_face_landmarks.video.pixels import to_rgb8
from napari_face_landmarks.visualization import overlay, video_files
from napari_face_landmarks.visualization.colours import ColourMode, landmark_colours, legend_of


@dataclass(frozen=True, slots=True)
class OverlayStyle:
    """Style of an overlay.

    Attributes
    ----------
    colour_by : {"confidence", "source", "region"}
        Property shown by colour.
    outlines : bool
        Whether the landmarks of a facial region are connected by lines.
    legend : bool
        Whether a legend of the colours is drawn.
    """

    colour_by: ColourMode = "confidence"
    outlines: bool = True
    legend: bool = False


def overlay_frames(
    source: Any, tracks: Tracks, style: OverlayStyle | None = None
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the tracked frames of a video, (H, W, 3) uint8, with the landmarks drawn on them."""
    if len(tracks.frame_indices) == 0:
        return
    with video_files.opened(source, tracks) as frames:
        for row, frame in video_files.tracked_frames(frames, tracks):
            yield _draw(frame, tracks, row, style or OverlayStyle())


def write_overlay(
    path: str | os.PathLike[str],
    source: Any,
    tracks: Tracks,
    progress: video_files.Progress | None = None,
    style: OverlayStyle | None = None,
) -> None:
    """Write a video of the tracked frames with the landmarks drawn on them (see `draw_landmarks`).

    Sound, time stamps and pixel aspect ratio are those of the source.

    Parameters
    ----------
    path : path-like
        The video to write or replace; its suffix selects the container.
    source : path, Video or array-like, (T, Y, X[, C])
        The source of `tracks`.
    tracks : Tracks
        Landmarks (T, F, 68, 2).
    progress : callable, optional
        Called with the number of written frames and the total.
    style : OverlayStyle, optional
        Colours, outlines and legend.

    Raises
    ------
    ResultError
        If there is no frame to write, or `path` is `source` itself.
    VideoError
        If `source` cannot be read or the file cannot be written.
    ImageError
        If `source` has fewer frames than the tracks.
    """
    video_files.check_output(path, source, tracks)
    frames = video_files.counted(overlay_frames(source, tracks, style), len(tracks.frame_indices), progress)
    aspect = float(tracks.meta.get(PIXEL_ASPECT, 1.0))
    video_files.write_from(path, frames, source, tracks.timestamps, video_files.frame_rate(tracks), aspect)


def _check_numbers(**numbers: object) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 1:
            raise ResultError(f"{name} is {number!r}: give a positive integer.")


def contact_sheet(
    path: str | os.PathLike[str],
    source: Any,
    tracks: Tracks,
    n_pictures: int = 12,
    columns: int = 4,
    width: int = 360,
    style: OverlayStyle | None = None,
    progress: video_files.Progress | None = None,
) -> None:
    """Write a PNG of evenly spaced frames with their landmarks.

    Parameters
    ----------
    path : path-like
        The image to write or replace.
    source : path, Video or array-like, (T, Y, X[, C])
        The source of `tracks`.
    tracks : Tracks
        Landmarks (T, F, 68, 2).
    n_pictures : int
        Maximum number of frames.
    columns : int
        Frames per row.
    width : int
        Width of each frame, px; its height follows the pixel aspect ratio.
    style : OverlayStyle, optional
        Colours, outlines and legend.
    progress : callable, optional
        Called with the number of drawn frames and the total.

    Raises
    ------
    ResultError
        If there is no frame to show, `path` is `source` itself, the file cannot be written, or a number is
        less than 1.
    VideoError
        If `source` cannot be read.
    ImageError
        If `source` has fewer frames than the tracks.
    """
    _check_numbers(n_pictures=n_pictures, columns=columns, width=width)
    video_files.check_output(path, source, tracks)
    n_frames = len(tracks.frame_indices)
    rows = np.unique(np.linspace(0, n_frames - 1, min(n_pictures, n_frames)).round().astype(int))
    with video_files.opened(source, tracks) as frames:
        style = style or OverlayStyle()
        no_legend = dataclasses.replace(style, legend=False)
        images = (
            _cell(frames, tracks, int(row), width, no_legend if k else style) for k, row in enumerate(rows)
        )
        cells = list(video_files.counted(images, len(rows), progress))
    sheet = _tile(cells, min(columns, len(cells)))
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(sheet[:, :, ::-1]))
    if not done:
        raise ResultError(f"{os.fspath(path)} cannot be encoded as PNG: use fewer or smaller frames.")
    with replacing(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _cell(source: Any, tracks: Tracks, row: int, width: int, style: OverlayStyle) -> npt.NDArray[np.uint8]:
    frame = np.asarray(source[int(tracks.frame_indices[row])])
    check_size(frame.shape[:2], tracks)
    height = width * frame.shape[0] / (frame.shape[1] * float(tracks.meta.get(PIXEL_ASPECT, 1.0)))
    return _draw(frame, tracks, row, style, (width, max(1, round(height))))


def _draw(
    frame: Any, tracks: Tracks, row: int, style: OverlayStyle, size: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """Return a frame with its landmarks, resized to `size` (width, height) if given."""
    rgb = to_rgb8(frame, f"Frame {tracks.frame_indices[row]}", recorded_pixel_range(tracks))
    landmarks = np.asarray(tracks.landmarks[row], dtype=np.float64)
    height, width = rgb.shape[:2]
    if size is not None and size != (width, height):
        method = cv2.INTER_AREA if size[0] < width else cv2.INTER_CUBIC
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=method), dtype=np.uint8)
        landmarks = (landmarks + 0.5) * (size[0] / width, size[1] / height) - 0.5
    confidence, source = tracks.confidence[row], tracks.source[row]
    sources, indices = np.repeat(source, N_LANDMARKS), np.tile(np.arange(N_LANDMARKS), len(source))
    rgba = landmark_colours(style.colour_by, confidence.ravel(), sources, indices)
    colours = np.rint(255 * rgba[:, :3]).astype(np.uint8)
    canvas = overlay.draw_landmarks(rgb, landmarks, confidence, source, colours, style.outlines)
    index, seconds = int(tracks.frame_indices[row]), float(tracks.timestamps[row])
    overlay.draw_caption(canvas, overlay.describe_frame(index, source, confidence, seconds))
    if style.legend:
        entries = [(entry.label, entry.colour) for entry in legend_of(style.colour_by)]
        overlay.draw_legend(canvas, style.colour_by.capitalize(), entries)
    return canvas


def _tile(cells: list[npt.NDArray[np.uint8]], columns: int, gap: int = 4) -> npt.NDArray[np.uint8]:
    if len(cells) == 1:
        return cells[0]
    height = max(cell.shape[0] for cell in cells)
    width = max(cell.shape[1] for cell in cells)
    n_rows = -(-len(cells) // columns)
    sheet = np.full((n_rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, dtype=np.uint8)
    for i, cell in enumerate(cells):
        top = gap + (i // columns) * (height + gap)
        left = gap + (i % columns) * (width + gap)
        sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return sheet
