"""Videos of aligned crops of faces, mouths or eyes, for lip-reading and review."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.names import NAMES, names_in_files
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.tracking.frame_source import recorded_pixel_range
from napari_face_landmarks.tracking.frame_view import recorded_view
from napari_face_landmarks.video.pixels import to_rgb8
from napari_face_landmarks.visualization import video_files

Part = Literal["face", "mouth", "eyes"]
PARTS: tuple[Part, ...] = get_args(Part)
STABLE = np.array([36, 39, 42, 45, 33])
"""Corners of the eyes and base of the nose, which neither speech nor blinks move."""
TEMPLATE = np.array([[-0.5, 0.0], [-0.198, 0.011], [0.198, 0.011], [0.5, 0.0], [0.0, 0.485]])
"""Their positions in a frontal view, relative to the midpoint and distance of the outer eye corners."""
REGIONS: dict[Part, tuple[slice, tuple[float, float], tuple[float, float]]] = {
    "face": (slice(36, 48), (0.0, 0.33), (1.2, 1.2)),
    "mouth": (slice(48, 68), (0.0, 0.0), (0.6, 0.6)),
    "eyes": (slice(36, 48), (0.0, 0.0), (0.8, 0.4)),
}
"""For each part: landmarks whose mean is its centre, offset from there, half its width and height."""
HEIGHTS: dict[Part, int] = {"face": 256, "mouth": 96, "eyes": 96}
SMOOTHING_SECONDS = 0.2
"""Landmarks are averaged over this time to avoid jitter of the crops."""
SIZES = (16, 2048)
Floats = npt.NDArray[np.float64]


def crop_transforms(
    landmarks: npt.NDArray[Any], part: Part = "face", size: int | None = None, window: int = 1
) -> tuple[Floats, tuple[int, int]]:
    """Return the similarity transforms from frames to crops, (T, 2, 3) float64, and the crop's shape (H, W).

    The transforms map eye corners and base of the nose, of landmarks (T, 68, 2), to their positions in a
    frontal view (least squares), so that roll and scale are constant and movements of lips and lids are kept.
    """
    centre, offset, half = REGIONS[part]
    height = size or HEIGHTS[part]
    per_unit = height / (2 * half[1])
    shape = (height, round(2 * half[0] * per_unit))
    points = _smooth(np.asarray(landmarks, dtype=np.float64), window)
    # x + iy: a complex factor scales and rotates
    stable, template = points[:, STABLE] @ np.array([1, 1j]), TEMPLATE @ np.array([1, 1j])
    stable, template = stable - stable.mean(axis=1, keepdims=True), template - template.mean()
    pose = (stable @ template.conj()) / (np.abs(template) ** 2).sum()  # px per unit, and roll
    middle = points[:, centre].mean(axis=1) @ np.array([1, 1j]) + pose * complex(*offset)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = per_unit / pose
    shift = complex((shape[1] - 1) / 2, (shape[0] - 1) / 2) - factor * middle
    rows = [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]]
    transforms = np.array(rows).transpose(2, 0, 1)
    usable = np.isfinite(transforms).all(axis=(1, 2)) & np.isfinite(landmarks).all(axis=(1, 2))
    transforms[~usable] = np.nan
    return transforms, shape


def _smooth(points: Floats, window: int) -> Floats:
    """Return the running mean of landmarks; frames near one without the face stay unsmoothed."""
    smoothed = points.copy()
    for row in range(len(points)):
        reach = min(window // 2, row, len(points) - 1 - row)  # symmetric, which preserves uniform motion
        mean = points[row - reach : row + reach + 1].mean(axis=0)
        if np.isfinite(mean).all():
            smoothed[row] = mean
    return smoothed


def write_face_crops(
    path: str | os.PathLike[str],
    source: Any,
    tracks: Tracks,
    part: Part = "face",
    size: int | None = None,
    progress: video_files.Progress | None = None,
) -> list[Path]:
    """Write a video of aligned crops, with constant roll and size, for each face.

    The videos contain the tracked frames from the first to the last one with the face, with their time stamps
    and the sound; frames without the face are black.

    Parameters
    ----------
    path : path-like
        ``crops.mp4`` gives ``crops-face_0.mp4``, ``crops-face_1.mp4`` and so on, with the names of the faces.
    source : path, Video or array-like, (T, Y, X[, C])
        The source of `tracks`.
    tracks : Tracks
    part : {"face", "mouth", "eyes"}
    size : int, optional
        Height in pixels, 16 to 2048; default 256 for faces, and 96 for mouths (96 x 96) and eyes (192 x 96).
    progress : callable, optional
        Called with the number of written frames and the total, over all faces.

    Returns
    -------
    list of Path
        The videos; empty if there is no face.

    Raises
    ------
    ResultError
        If there is no frame to write, an output is `source` itself, or there is no such part or size.
    VideoError
        If `source` cannot be read or a file cannot be written.
    ImageError
        If `source` has fewer frames than the tracks.
    """
    if part not in PARTS:
        raise ResultError(f"part is {part!r}: choose one of {', '.join(PARTS)}.")
    if size is not None and not SIZES[0] <= size <= SIZES[1]:
        raise ResultError(f"size is {size}: give a height from {SIZES[0]} to {SIZES[1]} px.")
    template = Path(path)
    faces = np.flatnonzero(tracks.present.any(axis=0)).tolist()
    names = list(map(_file_name, names_in_files(tracks.meta.get(NAMES), tracks.n_faces)))
    names = [name if names.count(name) == 1 else f"{name}-{face}" for face, name in enumerate(names)]
    paths = [template.with_name(f"{template.stem}-{names[face]}{template.suffix}") for face in faces]
    total, done = n_crops(tracks), 0
    for target in [template, *paths]:
        video_files.check_output(target, source, tracks)

    def report(written: int, _: int | None) -> None:
        if progress is not None:
            progress(done + written, total)

    with video_files.opened(source, tracks) as frames:
        for face, target in zip(faces, paths, strict=True):
            span = _span(tracks.present[:, face])
            selected = tracks.take_frames(span)
            crops = _crops(frames, selected, face, part, size)
            crops = video_files.counted(crops, selected.n_frames, report)
            video_files.write_from(target, crops, source, selected.timestamps, video_files.frame_rate(tracks))
            done += selected.n_frames
    return paths


def n_crops(tracks: Tracks) -> int:
    """Return the number of frames that `write_face_crops` writes, over all faces."""
    spans = [_span(present) for present in tracks.present.T if present.any()]
    return sum(span.stop - span.start for span in spans)


def _span(present: npt.NDArray[np.bool_]) -> slice:
    rows = np.flatnonzero(present)
    return slice(int(rows[0]), int(rows[-1]) + 1)


def _file_name(name: str) -> str:
    """Return the name of a face with only characters that are safe in file names."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)[:60]


def _crops(
    frames: Any, tracks: Tracks, face: int, part: Part, size: int | None
) -> Iterator[npt.NDArray[np.uint8]]:
    view = recorded_view(tracks, (int(frames.shape[1]), int(frames.shape[2])))
    window = 2 * round(SMOOTHING_SECONDS * video_files.frame_rate(tracks) / 2) + 1
    landmarks = view.seen(tracks.landmarks[:, face])
    transforms, shape = crop_transforms(landmarks, part, size, window)
    pixel_range = recorded_pixel_range(tracks)
    for row, frame in video_files.tracked_frames(frames, tracks):
        transform = transforms[row]
        if not np.isfinite(transform).all():
            yield np.zeros((*shape, 3), np.uint8)
            continue
        rgb = view.frame(to_rgb8(frame, f"Frame {tracks.frame_indices[row]}", pixel_range))
        yield _warp(rgb, transform, shape)


def _warp(rgb: npt.NDArray[np.uint8], transform: Floats, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return a crop, (H, W, 3); pixels are averaged first if it is much smaller than the face."""
    scale = float(np.hypot(*transform[:, 0]))
    step = max(1, int(1 / max(scale, 1e-3)))
    if step > 1:
        small = (max(1, rgb.shape[1] // step), max(1, rgb.shape[0] // step))
        part = np.ascontiguousarray(rgb[: small[1] * step, : small[0] * step])
        rgb = np.asarray(cv2.resize(part, small, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        first = np.full(2, (step - 1) / 2)  # centre of the first averaged pixel in the frame
        shift = transform[:, :2] @ first + transform[:, 2]
        transform = np.column_stack([transform[:, :2] * step, shift])
    crop = cv2.warpAffine(rgb, transform, shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(crop, dtype=np.uint8)
