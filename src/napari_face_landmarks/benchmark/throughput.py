"""Throughput of whole runs; cost of a frame by image size and number of faces."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.models import Models
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.settings import RefineMode, TrackerSettings
from napari_face_landmarks.tracking import FaceTracker
from napari_face_landmarks.video import open_video
from napari_face_landmarks.video.container import thread_count

Frame = npt.NDArray[np.uint8]

MODES: tuple[tuple[RefineMode, int], ...] = (
    ("off", 1),
    ("auto", 2),
    ("auto", 1),
    ("always", 2),
    ("always", 1),
)
"""Refine mode and skip of each run."""
WIDTHS = (320, 640, 1280, 1920, 3840)
FACES = (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Rate:
    """Throughput with one refine mode and number of threads: the run with the median frame rate."""

    refine: str
    every: int  # CLNF on every n-th frame
    threads: int
    fps: float  # frames per second, from file to landmarks
    stage_ms: dict[str, float]  # milliseconds per frame of each stage
    bound: str  # bottleneck, see `bound`


@dataclass(frozen=True)
class VideoRates:
    """Throughput on one video."""

    name: str  # of the file
    width: int
    height: int
    frames: int
    decoding_fps: float  # frames per second, decoding alone
    rates: list[Rate]


@dataclass(frozen=True)
class Cost:
    """Cost of a frame at one image size or number of faces."""

    value: int  # width in pixels, or number of faces
    ms: float  # milliseconds per frame, without decoding
    stage_ms: dict[str, float]  # milliseconds of each stage; stages overlap if there are several threads


class Repeated:
    """Array-like video of `count` frames: `frames`, (H, W, 3) uint8, forwards and backwards repeatedly."""

    def __init__(self, frames: Sequence[Frame], count: int) -> None:
        self._frames = frames
        self.shape: tuple[int, ...] = (count, *frames[0].shape)
        self.dtype = frames[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> Frame:
        cycle = period(len(self._frames))
        phase = index % cycle
        return self._frames[phase if phase < len(self._frames) else cycle - phase]


def period(count: int) -> int:
    """Return the number of frames after which `Repeated` starts again, for `count` different frames."""
    return max(1, 2 * count - 2)


def video_rates(
    models: Models,
    path: Path,
    *,
    runs: int,
    threads: Sequence[int],
    stop: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> VideoRates:
    """Track a video `runs` times, up to frame `stop`, in each of `MODES` with each number of threads.

    Modes alternate; medians are reported. `say` receives a sentence about each result.
    """
    with open_video(path) as video:
        height, width = video.shape[1:3]
        count = len(video) if stop is None else min(stop, len(video))
        decoding = []
        for _ in range(runs):
            began = time.perf_counter()
            read = sum(1 for _ in video.frames(0, count))
            decoding.append(read / (time.perf_counter() - began))
    say(
        f"{path.name}: {width} x {height}, {count} frames, decoding alone {np.median(decoding):.0f} per "
        "second"
    )
    modes = [(*mode, n) for n in threads for mode in MODES]
    stats_of_modes: dict[tuple[RefineMode, int, int], list[RunStats]] = {mode: [] for mode in modes}
    for _ in range(runs):
        for refine, skip, n in modes:
            settings = TrackerSettings(refine=refine, clnf_every=skip)
            tracks = FaceTracker(models, settings, n).track(path, stop=count)
            stats_of_modes[refine, skip, n].append(tracks.stats)
    rates = []
    for (refine, skip, n), stats in stats_of_modes.items():
        median_run = sorted(stats, key=lambda run: run.fps)[len(stats) // 2]
        stage_ms = _stage_ms(median_run)
        rates.append(Rate(refine, skip, n, median_run.fps, stage_ms, bound(stage_ms, median_run.fps, n)))
        say(
            f"refine {refine}, skip {skip}, threads {n}: {median_run.fps:.0f} frames per second, "
            f"{rates[-1].bound}"
        )
    return VideoRates(path.name, width, height, count, float(np.median(decoding)), rates)


def bound(stage_ms: dict[str, float], fps: float, threads: int) -> str:
    """Describe the bottleneck of a run from the milliseconds per frame of each stage."""
    busy = {name: ms for name, ms in stage_ms.items() if ms > 0.005}
    parts = ", ".join(f"{name} {ms:.2f}" for name, ms in sorted(busy.items(), key=lambda item: -item[1]))
    if threads == 1:
        return f"one core; ms per frame: {parts}"
    stages = {"PFLD (two frames at a time)": busy.get("pfld", 0.0) / 2}
    stages["CLNF"] = busy.get("clnf", 0.0)
    stages["decoding"] = busy.get("decode", 0.0)
    stage, longest = max(stages.items(), key=lambda item: item[1])
    used = sum(busy.values()) * fps / 1e3
    limit = stage if longest * fps / 1e3 > 0.85 else "the cores"
    return f"{limit}; {used:.1f} cores busy; ms per frame: {parts}"


def size_costs(models: Models, frame: Frame, widths: Sequence[int], count: int, repeats: int) -> list[Cost]:
    """Return the cost of a frame resized to each of `widths`, on one thread."""
    frames = []
    for width in widths:
        height = round(frame.shape[0] * width / frame.shape[1])
        interpolation = cv2.INTER_AREA if width < frame.shape[1] else cv2.INTER_CUBIC
        resized = cv2.resize(frame, (width, height), interpolation=interpolation)
        frames.append(np.asarray(resized, dtype=np.uint8))
    return _costs(models, widths, frames, [1] * len(frames), count, repeats, threads=1)


def face_costs(models: Models, frame: Frame, faces: Sequence[int], count: int, repeats: int) -> list[Cost]:
    """Return the cost of a frame with each number of faces in `faces`.

    The frame, (H, W, 3) uint8 with one face, is copied to as many tiles of a larger image of constant size;
    the other tiles are black. Uses the default number of threads, since faces are processed in parallel.
    """
    height, width = frame.shape[:2]
    limit = max(faces)
    across = int(np.ceil(np.sqrt(limit)))
    down = -(-limit // across)
    frames = []
    for number in faces:
        tiled = np.zeros((down * height, across * width, 3), np.uint8)
        for tile in range(number):
            row, column = divmod(tile, across)
            tiled[row * height : (row + 1) * height, column * width : (column + 1) * width] = frame
        frames.append(tiled)
    return _costs(models, faces, frames, faces, count, repeats, thread_count())


def _costs(
    models: Models,
    values: Sequence[int],
    frames: Sequence[Frame],
    faces: Sequence[int],
    count: int,
    repeats: int,
    threads: int,
) -> list[Cost]:
    """Return the cost of each frame, tracked `count` times in a run; median of `repeats` alternating runs."""
    settings = [TrackerSettings(refine="always", max_faces=number) for number in faces]
    trackers = [FaceTracker(models, setting, threads) for setting in settings]
    for tracker, frame in zip(trackers, frames, strict=True):
        tracker.track(Repeated([frame], 3))
    runs: list[list[RunStats]] = [[] for _ in frames]
    for _ in range(repeats):
        for tracker, frame, stats in zip(trackers, frames, runs, strict=True):
            stats.append(tracker.track(Repeated([frame], count)).stats)
    costs = []
    for value, number, stats in zip(values, faces, runs, strict=True):
        median_run = sorted(stats, key=lambda run: run.fps)[repeats // 2]
        if median_run.faces < 0.9 * number * count:
            costs.append(Cost(value, float("nan"), {}))
        else:
            costs.append(Cost(value, 1e3 / median_run.fps, _stage_ms(median_run)))
    return costs


def _stage_ms(stats: RunStats) -> dict[str, float]:
    return {name: 1e3 * seconds / max(1, stats.frames) for name, seconds in stats.stage_seconds.items()}
