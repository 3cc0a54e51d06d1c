"""Anonymised videos: all tracked or detected faces are blurred or covered."""

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
SCORE, FACE_SCORE = 0.3, 0.6
"""Detections with a score of `SCORE` are covered if one of the same face has at least `FACE_SCORE`."""
SAME_SIZE = 1.5
"""Maximum ratio of the sizes of a face on two neighbouring frames."""
LARGE_INPUT = 1024
"""Maximum input size in pixels of a second detection, which finds smaller faces."""
HOLD = 0.5
"""Seconds for which a face stays covered before its first and after its last detection."""
GAP = 2.0
"""Maximum time in seconds between two detections of a face for it to be covered in between."""
FOREHEAD, MARGIN = 0.5, 0.1
"""Margins above the brows and on all sides, relative to the size of the landmarks' box."""
CELLS = 8
"""Cells across a blurred face, too few to recognise its features."""
GREY = 64
Boxes = npt.NDArray[np.float64]


def cover_faces(
    rgb: npt.NDArray[np.uint8], boxes: npt.NDArray[Any], cover: Cover = "blur"
) -> npt.NDArray[np.uint8]:
    """Blur or cover faces.

    Parameters
    ----------
    rgb : ndarray, (H, W, 3), uint8
        Not modified.
    boxes : ndarray, (N, 4)
        x0, y0, x1, y1 in pixels, from the forehead to the chin; the ellipse around each box is covered.
    cover : {"blur", "box"}
        Blur to `CELLS` by `CELLS` averaged cells, or fill with grey.

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
class _Detections:
    """Detections of one face: frames, boxes and scores."""

    frames: list[int] = field(default_factory=list)
    boxes: list[Boxes] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def add(self, frame: int, box: Boxes) -> None:
        """Add a box with its score, (5,)."""
        self.frames.append(frame)
        self.boxes.append(box[:4])
        self.scores.append(float(box[4]))


def boxes_to_cover(detected: Sequence[npt.NDArray[Any]], hold: int, gap: int) -> list[Boxes]:
    """Return the boxes to cover on each frame, (N, 4), from the boxes detected on it, (M, 5), with scores.

    Faces are also covered on frames between detections at most `gap` frames apart, and on `hold` frames
    before and after, there with boxes that grow by the motion of the face.
    """
    covered: list[list[Boxes]] = [[] for _ in detected]
    for face in _faces(detected, gap):
        if max(face.scores) < FACE_SCORE:
            continue
        for frame, box in zip(face.frames, face.boxes, strict=True):
            covered[frame].append(box)
        for (first, before), (last, after) in itertools.pairwise(zip(face.frames, face.boxes, strict=True)):
            for frame in range(first + 1, last):
                share = (frame - first) / (last - first)
                covered[frame].append((1 - share) * before + share * after)
        for end, step in ((0, -1), (-1, 1)):
            motion = _motion(face, end)
            for distance in range(1, hold + 1):
                frame = face.frames[end] + step * distance
                if 0 <= frame < len(covered):
                    margin = min(distance * motion, float(sizes(face.boxes[end]).max()) / 2)
                    covered[frame].append(face.boxes[end] + np.array([-margin, -margin, margin, margin]))
    return [np.array(boxes).reshape(-1, 4) for boxes in covered]


def _faces(detected: Sequence[npt.NDArray[Any]], gap: int) -> list[_Detections]:
    """Group boxes of the same face on neighbouring frames: the closest ones, at most its size apart."""
    faces: list[_Detections] = []
    recent: list[_Detections] = []
    for frame, detections in enumerate(detected):
        boxes = np.asarray(detections, dtype=np.float64)
        recent = [face for face in recent if frame - face.frames[-1] <= gap]
        pairs = []
        for row, box in enumerate(boxes):
            for face in recent:
                distance = float(np.linalg.norm(centres(box) - centres(face.boxes[-1])))
                smallest, largest = sorted((float(sizes(box).max()), float(sizes(face.boxes[-1]).max())))
                if distance < largest and largest < SAME_SIZE * smallest:
                    pairs.append((distance / largest, row, face))
        assigned: set[int] = set()
        for _, row, face in sorted(pairs, key=lambda pair: pair[:2]):
            if row not in assigned and face.frames[-1] != frame:
                assigned.add(row)
                face.add(frame, boxes[row])
        for row in set(range(len(boxes))) - assigned:
            face = _Detections()
            face.add(frame, boxes[row])
            faces.append(face)
            recent.append(face)
    return faces


def _motion(face: _Detections, end: int) -> float:
    """Return the motion of a face in pixels per frame at its first (`end` 0) or last detection."""
    if len(face.frames) < 2:
        return 0.0
    one, other = (0, 1) if end == 0 else (-1, -2)
    distance = np.linalg.norm(centres(face.boxes[one]) - centres(face.boxes[other]))
    return float(distance) / abs(face.frames[one] - face.frames[other])


def write_anonymised(
    path: str | os.PathLike[str],
    source: Any,
    tracks: Tracks,
    models: Models,
    cover: Cover = "blur",
    part: range | None = None,
    progress: video_files.Progress | None = None,
) -> list[int]:
    """Write a video for publication in which all faces are blurred or covered, tracked or not.

    The detector runs with a low threshold on every frame, tracked or not. A face that it or the tracker finds
    is covered on that frame, between detections at most `GAP` seconds apart, and `HOLD` seconds before and
    after. A face that neither finds on any frame is not covered: check the result before you publish it.
    Sound, time stamps and pixel aspect ratio are those of the source; voices identify persons, too.

    Parameters
    ----------
    path : path-like
        The video to write or replace; its suffix selects the container.
    source : path, Video or array-like, (T, Y, X[, C])
        The source of `tracks`.
    tracks : Tracks
    models : Models
        Only the detector is used.
    cover : {"blur", "box"}
        See `cover_faces`.
    part : range, optional
        The frames to write; default all of the source.
    progress : callable, optional
        Called with the number of frames done and the total; each frame counts twice.

    Returns
    -------
    list of int
        The frames on which nothing is covered.

    Raises
    ------
    ResultError
        If there is no frame to write, `path` is `source` itself, or `cover` is unknown.
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
        first_pass = video_files.counted(_rgb_frames(frames, tracks, numbers), 2 * len(numbers), progress)
        detected = [
            np.concatenate([_tracked(tracks, number), _detected(models, rgb, tracks)])
            for number, rgb in zip(numbers, first_pass, strict=True)
        ]
        steps = np.diff(tracks.frame_indices)
        gap = max(round(GAP * fps), int(steps.max()) if len(steps) else 0)
        covered = boxes_to_cover(detected, round(HOLD * fps) + 1, gap)
        second_pass = _rgb_frames(frames, tracks, numbers)
        images = (cover_faces(rgb, boxes, cover) for rgb, boxes in zip(second_pass, covered, strict=True))

        def report(done: int, total: int | None) -> None:
            if progress is not None:
                progress(len(numbers) + done, 2 * len(numbers))

        known = getattr(getattr(frames, "info", None), "timestamps", None)
        times = np.arange(numbers.start, numbers.stop) / fps if known is None else known[numbers.start :]
        written = video_files.counted(images, len(numbers), report)
        aspect = recorded_view(tracks, (1, 1)).pixel_aspect
        file = frames if video_files.path_of(source) is None else source
        video_files.write_from(
            path, written, file, times[: len(numbers)], float(np.clip(fps, 0.1, 1000)), aspect
        )
    return [number for number, boxes in zip(numbers, covered, strict=True) if not len(boxes)]


def _rgb_frames(frames: Any, tracks: Tracks, numbers: range) -> Iterator[npt.NDArray[np.uint8]]:
    pixel_range = recorded_pixel_range(tracks)
    for number, frame in zip(numbers, read_frames(frames, numbers.start, numbers.stop), strict=True):
        yield to_rgb8(frame, f"Frame {number}", pixel_range)


def _tracked(tracks: Tracks, number: int) -> Boxes:
    """Return the boxes of the tracked faces on a frame, from forehead to chin, (N, 5), with score 1."""
    rows = np.flatnonzero(tracks.frame_indices == number)
    landmarks = tracks.landmarks[rows[:1]].reshape(-1, *tracks.landmarks.shape[2:])
    finite = [points[np.isfinite(points).all(axis=1)] for points in landmarks]
    faces = [points for points in finite if len(points)]
    boxes = np.array([boxes_of(points[None])[0] for points in faces], dtype=np.float64).reshape(-1, 4)
    boxes[:, 1] -= FOREHEAD * sizes(boxes)[:, 1]
    return _add_margin(boxes, np.ones(len(boxes)))


def _detected(models: Models, rgb: npt.NDArray[np.uint8], tracks: Tracks) -> Boxes:
    """Return the boxes of the faces detected on a frame, (N, 5), with their scores."""
    size = rgb.shape[:2]
    view: FrameView = recorded_view(tracks, (size[0], size[1]))
    shown = view.frame(rgb)
    inputs = {DEFAULT_INPUT_SIZE, max(DEFAULT_INPUT_SIZE, min(LARGE_INPUT, max(size)))}
    results = [detect_faces(models.detector, shown, min_score=SCORE, input_size=side) for side in inputs]
    detections = np.concatenate([result.boxes for result in results])
    corners = view.in_source(detections[:, :4].reshape(-1, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float64)
    return _add_margin(boxes, detections[:, 4].astype(np.float64))


def _add_margin(boxes: Boxes, scores: Boxes) -> Boxes:
    margin = MARGIN * sizes(boxes)
    return np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin, scores[:, None]], axis=1)
