"""Aligned crops of faces, mouths or eyes as videos, one for each face: for lip-reading and review."""

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
"""Corners of the eyes and base of the nose: neither speech nor blinks move them."""
TEMPLATE = np.array([[-0.5, 0.0], [-0.198, 0.011], [0.198, 0.011], [0.5, 0.0], [0.0, 0.485]])
"""Where they are in a frontal view, in distances between the outer eye corners, from their middle."""
AROUND: dict[Part, tuple[slice, tuple[float, float], tuple[float, float]]] = {
    "face": (slice(36, 48), (0.0, 0.33), (1.2, 1.2)),
    "mouth": (slice(48, 68), (0.0, 0.0), (0.6, 0.6)),
    "eyes": (slice(36, 48), (0.0, 0.0), (0.8, 0.4)),
}
"""Of each part, the landmarks in whose middle it is, its offset from there, and half its width and height."""
HEIGHTS: dict[Part, int] = {"face": 256, "mouth": 96, "eyes": 96}
STEADY_SECONDS = 0.2
"""Crops are placed by the mean over so many seconds, so that they do not jitter."""
SIZES = (16, 2048)
Floats = npt.NDArray[np.float64]


def crop_transforms(
    landmarks: npt.NDArray[Any], part: Part = "face", size: int | None = None, window: int = 1
) -> tuple[Floats, tuple[int, int]]:
    """Return the similarity transform of each frame to a face's aligned crop, (T, 2, 3) float64.

    Eye corners and base of the nose, of landmarks (T, 68, 2), are moved (least squares) to their positions in
    a frontal view, so that roll and scale are constant, and the movements of lips and lids are kept.
    """
    which, offset, half = AROUND[part]
    height = size or HEIGHTS[part]
    per_unit = height / (2 * half[1])
    shape = (height, round(2 * half[0] * per_unit))
    points = _steady(np.asarray(landmarks, dtype=np.float64), window)
    seen = points[:, STABLE] @ np.array([1, 1j])
    wanted = TEMPLATE @ np.array([1, 1j])
    seen_off, wanted_off = seen - seen.mean(axis=1, keepdims=True), wanted - wanted.mean()
    turn = (seen_off @ wanted_off.conj()) / (np.abs(wanted_off) ** 2).sum()  # px per unit, and roll
    middle = points[:, which].mean(axis=1) @ np.array([1, 1j]) + turn * complex(*offset)
    with np.errstate(divide="ignore", invalid="ignore"):
        back = per_unit / turn
    shift = complex((shape[1] - 1) / 2, (shape[0] - 1) / 2) - back * middle
    rows = [[back.real, -back.imag, shift.real], [back.imag, back.real, shift.imag]]
    transforms = np.array(rows).transpose(2, 0, 1)
    usable = np.isfinite(transforms).all(axis=(1, 2)) & np.isfinite(landmarks).all(axis=(1, 2))
    transforms[~usable] = np.nan
    return transforms, shape


def _steady(points: Floats, window: int) -> Floats:
    """Return the means of landmarks over a window of frames, as far as it has a face on all of them."""
    reach = window // 2
    steady = points.copy()
    for row in range(len(points)):
        ends = min(reach, row, len(points) - 1 - row)  # symmetric, so that steady motion is kept
        around = points[row - ends : row + ends + 1]
        mean = around.mean(axis=0)
        if np.isfinite(mean).all():
            steady[row] = mean
    return steady


def write_face_crops(
    path: str | os.PathLike[str],
    source: Any,
    tracks: Tracks,
    part: Part = "face",
    size: int | None = None,
    progress: video_files.Progress | None = None,
) -> list[Path]:
    """Write a video of aligned crops for each face: its roll is taken out, its size is the same throughout.

    Each has the tracked frames from the first to the last one with the face, with their time stamps and the
    sound; frames without it are black.

    Parameters
    ----------
    path : path-like
        ``crops.mp4`` makes ``crops-face_0.mp4``, ``crops-face_1.mp4`` and so on, by the names of the faces.
    source : path, Video or array-like, (T, Y, X[, C])
        The source of `tracks`.
    tracks : Tracks
    part : {"face", "mouth", "eyes"}
    size : int, optional
        Height in pixels, 16 to 2048; by default 256 of the face, and 96 of mouth (96 x 96) and eyes
        (192 x 96).
    progress : callable, optional
        Called with the number of written frames and the total, over all faces.

    Returns
    -------
    list of Path
        The videos; none where there is no face.

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
    given = Path(path)
    faces = np.flatnonzero(tracks.present.any(axis=0)).tolist()
    names = list(map(_in_file, names_in_files(tracks.meta.get(NAMES), tracks.n_faces)))
    names = [name if names.count(name) == 1 else f"{name}-{face}" for face, name in enumerate(names)]
    paths = [given.with_name(f"{given.stem}-{names[face]}{given.suffix}") for face in faces]
    total, done = n_crops(tracks), 0
    for target in [given, *paths]:
        video_files.check_output(target, source, tracks)

    def report(written: int, _: int | None) -> None:
        if progress is not None:
            progress(done + written, total)

    with video_files.opened(source, tracks) as frames:
        for face, target in zip(faces, paths, strict=True):
            span = _span(tracks.present[:, face])
            shown = tracks.take_frames(span)
            crops = video_files.counted(
                _crops(frames, shown, face, part, size), span.stop - span.start, report
            )
            video_files.write_from(target, crops, source, shown.timestamps, video_files.frame_rate(tracks))
            done += span.stop - span.start
    return paths


def n_crops(tracks: Tracks) -> int:
    """Return how many frames `write_face_crops` writes, over all faces."""
    spans = [_span(present) for present in tracks.present.T if present.any()]
    return sum(span.stop - span.start for span in spans)


def _span(present: npt.NDArray[np.bool_]) -> slice:
    rows = np.flatnonzero(present)
    return slice(int(rows[0]), int(rows[-1]) + 1)


def _in_file(name: str) -> str:
    """Return the name of a face as a part of a file name."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)[:60]


def _crops(
    frames: Any, tracks: Tracks, face: int, part: Part, size: int | None
) -> Iterator[npt.NDArray[np.uint8]]:
    view = recorded_view(tracks, (int(frames.shape[1]), int(frames.shape[2])))
    window = 2 * round(STEADY_SECONDS * video_files.frame_rate(tracks) / 2) + 1
    landmarks = view.seen(tracks.landmarks[:, face])
    transforms, shape = crop_transforms(landmarks, part, size, window)
    pixels = recorded_pixel_range(tracks)
    for row, frame in video_files.tracked_frames(frames, tracks):
        transform = transforms[row]
        if not np.isfinite(transform).all():
            yield np.zeros((*shape, 3), np.uint8)
            continue
        rgb = view.frame(to_rgb8(frame, f"Frame {tracks.frame_indices[row]}", pixels))
        yield _warped(rgb, transform, shape)


def _warped(rgb: npt.NDArray[np.uint8], transform: Floats, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return a crop, (H, W, 3); averaged first where it is much smaller than in the frame."""
    scale = float(np.hypot(*transform[:, 0]))
    step = max(1, int(1 / max(scale, 1e-3)))
    if step > 1:
        small = (max(1, rgb.shape[1] // step), max(1, rgb.shape[0] // step))
        part = np.ascontiguousarray(rgb[: small[1] * step, : small[0] * step])
        rgb = np.asarray(cv2.resize(part, small, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        first = np.full(2, (step - 1) / 2)  # where the first averaged pixel is in the frame
        shift = transform[:, :2] @ first + transform[:, 2]
        transform = np.column_stack([transform[:, :2] * step, shift])
    crop = cv2.warpAffine(rgb, transform, shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(crop, dtype=np.uint8)
