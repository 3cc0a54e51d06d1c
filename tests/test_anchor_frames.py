"""PFLD on anchor frames only, where a face moves little: how often, how exact, and when not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from skimage import data

from fake_tracker import counting
from napari_face_landmarks import FaceTracker, TrackerSettings, load_models
from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.ibug import inter_ocular
from napari_face_landmarks.models import Models
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.tracking.anchor_frames import (
    MAX_DEFORMATION,
    MAX_EYE_DEVIATION,
    MAX_LIP_DEVIATION,
    anchor_interval,
    interpolate,
    is_confirmed,
)
from napari_face_landmarks.tracking.context import RunContext
from napari_face_landmarks.tracking.frame_source import open_source

Floats = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models()


def swaying(n_frames: int = 31, reach: float = 3.0) -> np.ndarray:
    """Return frames of a portrait that moves slowly from side to side."""
    face = np.ascontiguousarray(data.astronaut()[10:250, 105:345])
    shifts = reach * np.sin(np.arange(n_frames) / 6)
    return np.stack([shifted(face, x, 0) for x in shifts])


def shifted(image: np.ndarray, x: float, y: float) -> np.ndarray:
    matrix = np.array([[1.0, 0, x], [0, 1, y]])
    return np.asarray(cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT))


def track(models: Models, frames: np.ndarray, fps: float | None = 25, **settings: Any) -> tuple[Floats, int]:
    """Return the landmarks of one face without smoothing, (T, 68, 2), and on how many crops PFLD ran."""
    counted, batches = counting(models)
    chosen = TrackerSettings(refine="off", smoothing_window=1, **settings)
    tracker = FaceTracker(counted, chosen, threads=1)
    tracker.prepare()
    batches.clear()
    return tracker.track(frames, fps=fps).landmarks[:, 0], sum(batches)


def test_a_face_that_moves_little_needs_pfld_on_anchor_frames_only(models: Models) -> None:
    frames = swaying()
    landmarks, crops = track(models, frames)
    each, every_crop = track(models, frames, pfld_every=1)
    assert every_crop >= len(frames)
    assert crops < 0.5 * every_crop
    off = np.linalg.norm(landmarks - each, axis=-1) / inter_ocular(each)[:, None]
    assert off.mean() < 0.003
    assert off.max() < 0.03


def test_a_jerk_between_anchor_frames_is_followed(models: Models) -> None:
    frames = swaying(reach=0)
    frames[13] = shifted(frames[13], 6, 4)  # frames 12 and 15 are anchor frames, and the same picture
    landmarks, crops = track(models, frames, scene_cuts=0)
    each, _ = track(models, frames, pfld_every=1, scene_cuts=0)
    moved = np.linalg.norm(each[13] - each[12], axis=-1).mean()
    assert moved > 6
    assert np.linalg.norm(landmarks[13] - each[13], axis=-1).mean() < 0.1 * moved
    assert crops == track(models, swaying(reach=0))[1] + 1, "the part models notice"


def test_pfld_runs_where_a_region_deforms(models: Models) -> None:
    frames = swaying(reach=0)
    y, x = np.mgrid[:240, :240].astype(np.float32)
    raised = 10 * np.exp(-(((x - 120) / 60) ** 2) - ((y - 60) / 30) ** 2).astype(np.float32)
    frames[16:] = cv2.remap(frames[0], x, y + raised, cv2.INTER_LINEAR)  # brows and forehead
    landmarks, crops = track(models, frames)
    each, _ = track(models, frames, pfld_every=1)
    brows = np.linalg.norm(each[16, 17:27] - each[15, 17:27], axis=-1).mean()
    assert brows > 2
    assert np.linalg.norm(landmarks[15:19] - each[15:19], axis=-1)[:, 17:27].max() < 0.35 * brows
    assert crops > track(models, swaying(reach=0))[1]


@pytest.mark.parametrize(
    ("fps", "asked", "wanted"),
    [(25, 3, 3), (24, 3, 3), (24, 1, 1), (20, 3, 2), (12, 3, 1), (240, 4, 4), (None, 3, 3)],
)
def test_anchor_frames_are_close_in_time(models: Models, fps: float | None, asked: int, wanted: int) -> None:
    source = open_source(np.zeros((9, 64, 64, 3), np.uint8), fps=fps)
    assert anchor_interval(context_of(models, asked), source) == wanted


def test_every_frame_is_an_anchor_where_frames_are_unrelated_or_nothing_confirms(models: Models) -> None:
    frames = np.zeros((9, 64, 64, 3), np.uint8)
    source = open_source(frames, fps=25)
    without = dataclasses.replace(models, parts=None)
    assert anchor_interval(context_of(without, 3), source) == 1
    assert anchor_interval(dataclasses.replace(context_of(models, 3), live=True), source) == 1
    rare = open_source(frames, fps=25, every=3)
    assert anchor_interval(context_of(models, 3), rare) == 1


def context_of(models: Models, every: int) -> RunContext:
    return RunContext(models, TrackerSettings(pfld_every=every), stats=RunStats())


def a_face(rng: np.random.Generator) -> Floats:
    points = rng.uniform(50, 250, (68, 2)).astype(np.float32)
    points[36], points[45] = (100, 120), (200, 130)
    return points


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_interpolation_against_numpy(steps: int) -> None:
    rng = np.random.default_rng(steps)
    before = a_face(rng)
    turn = 1.05 * np.exp(0.1j)
    moved = (before @ np.array([1, 1j])) * turn + 7 - 4j
    after = np.stack([moved.real, moved.imag], axis=-1).astype(np.float32)
    unit = float(np.linalg.norm(after[45] - after[36]))
    spreads, sures = rng.uniform(1, 3, (2, 68)).astype(np.float32), rng.random((2, 68)).astype(np.float32)
    found = np.empty((68, 2), np.float32), np.empty(68, np.float32), np.empty(68, np.float32)
    given = *spreads, *sures, steps + 1, *found
    assert interpolate(before, after, *given), "a similarity deforms nothing"
    for array, (first, last) in zip(found, ((before, after), spreads, sures), strict=True):
        np.testing.assert_allclose(array, first + (last - first) / (steps + 1), rtol=1e-5)
    for region in (slice(0, 17), slice(17, 22), slice(22, 27), slice(27, 36)):
        for share, calm in ((0.7, True), (1.6, False)):
            bent = after.copy()
            signs = np.where(np.arange(68)[region] % 2, 1, -1)
            bent[region, 1] += share * MAX_DEFORMATION * unit * signs
            assert interpolate(before, bent, *given) == calm
    assert not interpolate(before, after + np.float32(unit), *given), "too far"
    assert not interpolate(before, np.full_like(after, np.nan), *given)


def test_part_models_confirm_or_not() -> None:
    rng = np.random.default_rng(0)
    given, anchor = a_face(rng), a_face(rng)
    unit = float(np.linalg.norm(anchor[45] - anchor[36]))
    placed, anchor_placed = given.copy(), anchor.copy()
    assert not is_confirmed(given, placed, anchor, anchor_placed), "no evidence"
    placed[36:] += 2
    anchor_placed[36:] += 2
    assert is_confirmed(given, placed, anchor, anchor_placed)
    for part, most in ((slice(36, 48), MAX_EYE_DEVIATION), (slice(48, 68), MAX_LIP_DEVIATION)):
        for share, wanted in ((0.9, True), (1.1, False)):
            off = placed.copy()
            off[part, 0] += share * most * unit
            assert is_confirmed(given, off, anchor, anchor_placed) == wanted
