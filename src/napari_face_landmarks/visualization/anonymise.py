"""Videos for publication: all faces that are tracked or detected are blurred or covered."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.tracks import Tracks, frame_rate_of
from napari_face_landmarks.detection import detect_faces
from napari_face_landmarks.detection.boxes import boxes_of, centres, sizes
from napari_face_landmarks.detection.detector import DEFAULT_INPUT_SIZE
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.models import Models
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.tracking.frame_source import recorded_pixel_range
from napari_face_landmarks.tracking.frame_view import FrameView, recorded_view
from napari_face_landmarks.video import frame_count, read_frames
from napari_face_landmarks.video.pixels import to_rgb8
from napari_face_landmarks.visualization import video_files

Cover = Literal["blur", "box"]
COVERS: tuple[Cover, ...] = get_args(Cover)
SCORE, SURE = 0.3, 0.6
"""Detector scores from which something is covered: if it is sure, or the same face is on another frame."""
SAME_SIZE = 1.5
"""Ratio of the sizes of a face on two neighbouring frames, at most."""
LARGE_INPUT = 1024
"""The detector looks twice: at its usual size, and for small faces at up to so many pixels."""
HOLD = 0.5
"""Seconds for which a face stays covered before it is first seen and after it is last seen."""
GAP = 2.0
"""Seconds between two sightings of a face, at most, for it to be covered in between as well."""
FOREHEAD, MARGIN = 0.5, 0.1
"""What is added above the brows, by the height of the landmarks' box, and at all sides."""
CELLS = 8
"""Cells across a blurred face: too few for its features."""
GREY = 64
Boxes = npt.NDArray[np.float64]


def cover_faces(
    rgb: npt.NDArray[np.uint8], boxes: npt.NDArray[Any], cover: Cover = "blur"
) -> npt.NDArray[np.uint8]:
    """Blur or cover faces.

    Parameters
    ----------
    rgb : ndarray, (H, W, 3), uint8
        It is not changed.
    boxes : ndarray, (N, 4)
        x0, y0, x1, y1 in pixels, from the forehead to the chin; the ellipse around each box is covered.
    cover : {"blur", "box"}
        Blurred from means of `CELLS` by `CELLS` cells, or filled with one grey.

    Returns
    -------
    ndarray, (H, W, 3), uint8
    """
    canvas = np.ascontiguousarray(rgb).copy()
    corners = np.asarray(boxes, dtype=np.float64)
    for x0, y0, x1, y1 in corners[(corners[:, 2:] > corners[:, :2]).all(axis=1)].tolist():
        middle, half = ((x0 + x1) / 2, (y0 + y1) / 2), ((x1 - x0) / 2**0.5, (y1 - y0) / 2**0.5)
        left, top = (max(0, int(middle[axis] - half[axis])) for axis in (0, 1))
        right, bottom = (max(0, int(middle[axis] + half[axis]) + 2) for axis in (0, 1))
        part = canvas[top:bottom, left:right]
        if not part.size:
            continue
        y, x = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
        inside = ((x - middle[0]) / half[0]) ** 2 + ((y - middle[1]) / half[1]) ** 2 <= 1
        part[inside] = _blurred(part, half)[inside] if cover == "blur" else GREY
    return canvas


def _blurred(part: npt.NDArray[np.uint8], half: tuple[float, float]) -> npt.NDArray[np.uint8]:
    height, width = part.shape[:2]
    cells = [
        max(1, round(side * CELLS / (2 * reach))) for side, reach in zip((width, height), half, strict=True)
    ]
    small = cv2.resize(part, cells, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


@dataclass
class _Sightings:
    """One face over time: the frames on which it was seen, and its box on each."""

    frames: list[int] = field(default_factory=list)
    boxes: list[Boxes] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def add(self, frame: int, box: Boxes) -> None:
        """Add a sighting: a box with its score, (5,)."""
        self.frames.append(frame)
        self.boxes.append(box[:4])
        self.scores.append(float(box[4]))


def boxes_to_cover(seen: Sequence[npt.NDArray[Any]], hold: int, gap: int) -> list[Boxes]:
    """Return the boxes to cover on a frame, (N, 4): its faces, and those that neighbouring frames show."""
    covered: list[list[Boxes]] = [[] for _ in seen]
    for face in _faces(seen, gap):
        if max(face.scores) < SURE:
            continue
        for frame, box in zip(face.frames, face.boxes, strict=True):
            covered[frame].append(box)
        for (first, before), (last, after) in itertools.pairwise(zip(face.frames, face.boxes, strict=True)):
            for frame in range(first + 1, last):
                share = (frame - first) / (last - first)
                covered[frame].append((1 - share) * before + share * after)
        for end, step in ((0, -1), (-1, 1)):
            motion = _motion(face, end)
            for away in range(1, hold + 1):
                frame = face.frames[end] + step * away
                if 0 <= frame < len(covered):
                    grown = min(away * motion, float(sizes(face.boxes[end]).max()) / 2)
                    covered[frame].append(face.boxes[end] + np.array([-grown, -grown, grown, grown]))
    return [np.array(boxes).reshape(-1, 4) for boxes in covered]


def _faces(seen: Sequence[npt.NDArray[Any]], gap: int) -> list[_Sightings]:
    """Join boxes of neighbouring frames that are the same face: the nearest, at most its size away."""
    every: list[_Sightings] = []
    running: list[_Sightings] = []
    for frame, given in enumerate(seen):
        boxes = np.asarray(given, dtype=np.float64)
        running = [face for face in running if frame - face.frames[-1] <= gap]
        pairs = []
        for row, box in enumerate(boxes):
            for face in running:
                apart = float(np.linalg.norm(centres(box) - centres(face.boxes[-1])))
                smallest, largest = sorted((float(sizes(box).max()), float(sizes(face.boxes[-1]).max())))
                if apart < largest and largest < SAME_SIZE * smallest:
                    pairs.append((apart / largest, row, face))
        taken: set[int] = set()
        for _, row, face in sorted(pairs, key=lambda pair: pair[:2]):
            if row not in taken and face.frames[-1] != frame:
                taken.add(row)
                face.add(frame, boxes[row])
        for row in set(range(len(boxes))) - taken:
            face = _Sightings()
            face.add(frame, boxes[row])
            every.append(face)
            running.append(face)
    return every


def _motion(face: _Sightings, end: int) -> float:
    """Return by how many pixels a frame a face moved at its first or last sighting."""
    if len(face.frames) < 2:
        return 0.0
    one, other = (0, 1) if end == 0 else (-1, -2)
    apart = np.linalg.norm(centres(face.boxes[one]) - centres(face.boxes[other]))
    return float(apart) / abs(face.frames[one] - face.frames[other])


def write_anonymised(
    path: str | os.PathLike[str],
    source: Any,
    tracks: Tracks,
    models: Models,
    cover: Cover = "blur",
    part: range | None = None,
    progress: video_files.Progress | None = None,
) -> list[int]:
    """Write a video with all faces blurred or covered, tracked or not, for publication.

    The detector looks at every frame, tracked or not, with a low threshold. A face that it or the tracker
    finds is covered on that frame, on all frames between two sightings of at most `GAP` seconds, and `HOLD`
    seconds before and after. A face that neither finds on any frame is not: look at the result before you
    publish it. Sound, time stamps and pixel aspect ratio are those of the source; a voice identifies, too.

    Parameters
    ----------
    path : path-like
        The video to write or replace; its suffix selects the container.
    source : path, Video or array-like, (T, Y, X[, C])
        The source of `tracks`.
    tracks : Tracks
    models : Models
        Of which the detector is used.
    cover : {"blur", "box"}
        As for `cover_faces`.
    part : range, optional
        The frames to write, by default all of the source.
    progress : callable, optional
        Called with the number of frames done and the total; each frame counts twice.

    Returns
    -------
    list of int
        The frames on which nothing is covered.

    Raises
    ------
    ResultError
        If there is no frame to write, `path` is `source` itself, or there is no such cover.
    VideoError
        If `source` cannot be read or the file cannot be written.
    ImageError
        If `source` has fewer frames than the tracks.
    """
    if cover not in COVERS:
        raise ResultError(f"cover is {cover!r}: choose one of {', '.join(COVERS)}.")
    video_files.check_output(path, source, tracks)
    fps = frame_rate_of(tracks) or 25.0
    with video_files.opened(source, tracks) as frames:
        numbers = range(frame_count(frames)) if part is None else range(part.start, part.stop)
        reading = video_files.counted(_rgb_frames(frames, tracks, numbers), 2 * len(numbers), progress)
        seen = [
            np.concatenate([_tracked(tracks, number), _detected(models, rgb, tracks)])
            for number, rgb in zip(numbers, reading, strict=True)
        ]
        steps = np.diff(tracks.frame_indices)
        gap = max(round(GAP * fps), int(steps.max()) if len(steps) else 0)
        covered = boxes_to_cover(seen, round(HOLD * fps) + 1, gap)
        again = _rgb_frames(frames, tracks, numbers)
        pictures = (cover_faces(rgb, boxes, cover) for rgb, boxes in zip(again, covered, strict=True))

        def second(done: int, total: int | None) -> None:
            if progress is not None:
                progress(len(numbers) + done, 2 * len(numbers))

        known = getattr(getattr(frames, "info", None), "timestamps", None)
        times = np.arange(numbers.start, numbers.stop) / fps if known is None else known[numbers.start :]
        written = video_files.counted(pictures, len(numbers), second)
        aspect = recorded_view(tracks, (1, 1)).pixel_aspect
        file = frames if video_files.path_of(source) is None else source
        video_files.write_from(
            path, written, file, times[: len(numbers)], float(np.clip(fps, 0.1, 1000)), aspect
        )
    return [number for number, boxes in zip(numbers, covered, strict=True) if not len(boxes)]


def _rgb_frames(frames: Any, tracks: Tracks, numbers: range) -> Iterator[npt.NDArray[np.uint8]]:
    pixels = recorded_pixel_range(tracks)
    for number, frame in zip(numbers, read_frames(frames, numbers.start, numbers.stop), strict=True):
        yield to_rgb8(frame, f"Frame {number}", pixels)


def _tracked(tracks: Tracks, number: int) -> Boxes:
    """Return the boxes of the tracked faces of a frame, from the forehead to the chin, (N, 5), scored 1."""
    rows = np.flatnonzero(tracks.frame_indices == number)
    landmarks = tracks.landmarks[rows[:1]].reshape(-1, *tracks.landmarks.shape[2:])
    whole = [points[np.isfinite(points).all(axis=1)] for points in landmarks]
    faces = [points for points in whole if len(points)]
    boxes = np.array([boxes_of(points[None])[0] for points in faces], dtype=np.float64).reshape(-1, 4)
    boxes[:, 1] -= FOREHEAD * sizes(boxes)[:, 1]
    return _grown(boxes, np.ones(len(boxes)))


def _detected(models: Models, rgb: npt.NDArray[np.uint8], tracks: Tracks) -> Boxes:
    """Return the boxes of the faces that the detector sees on a frame, (N, 5)."""
    size = rgb.shape[:2]
    view: FrameView = recorded_view(tracks, (size[0], size[1]))
    shown = view.frame(rgb)
    inputs = {DEFAULT_INPUT_SIZE, max(DEFAULT_INPUT_SIZE, min(LARGE_INPUT, max(size)))}
    looks = [detect_faces(models.detector, shown, min_score=SCORE, input_size=side) for side in inputs]
    found = np.concatenate([look.boxes for look in looks])
    corners = view.in_source(found[:, :4].reshape(-1, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float64)
    return _grown(boxes, found[:, 4].astype(np.float64))


def _grown(boxes: Boxes, scores: Boxes) -> Boxes:
    margin = MARGIN * sizes(boxes)
    return np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin, scores[:, None]], axis=1)
