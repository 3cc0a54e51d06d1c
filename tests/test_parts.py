"""Part models: where their crops lie, what becomes of their landmarks, and bundles without them."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_face_landmarks import load_models
from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.ibug import MIRROR_68
from napari_face_landmarks.models.bundle import CARD, PART_FILES, bundle_folder
from napari_face_landmarks.parts import (
    PartModels,
    follow_parts,
    predict_parts,
    refine_parts,
)
from napari_face_landmarks.parts.crop import (
    EYE_SIZE,
    MOUTH_SIZE,
    eye_crops,
    face_units,
    mouth_crops,
    part_crops,
)
from napari_face_landmarks.parts.network import EYE_OUTPUTS, part_weights
from napari_face_landmarks.pfld import PfldOutput
from napari_face_landmarks.pfld.crop import sample_crops
from napari_face_landmarks.tracking.refinement import blend_with_parts
from numpy_reference import part_crops_reference, part_weights_reference, parts_in_image_reference

FRAME = np.zeros((200, 220, 3), np.uint8)


class Network:
    """Stands for an ONNX session: gives the same fractions of every crop, and keeps what it was given."""

    def __init__(self, points: np.ndarray, sigma: float = 0.01) -> None:
        self.points, self.sigma, self.inputs = points, sigma, np.zeros(0)

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.inputs = feeds["crops"]
        count = len(self.inputs)
        values: dict[str, Any] = {
            "landmarks": np.repeat(self.points[None], count, axis=0),
            "sigma": np.full(self.points.shape[:1], self.sigma)[None].repeat(count, axis=0),
            "iris": np.repeat(np.array([[0.4, 0.5, 0.25]]), count, axis=0),
            "iris_sigma": np.full(count, 0.02),
            "iris_confidence": np.linspace(0.9, 0.8, count),
            "shut": np.linspace(0.1, 0.2, count),
        }
        return [np.asarray(values[name], np.float32) for name in names]


LIDS = np.array([[0.2, 0.5], [0.4, 0.4], [0.6, 0.4], [0.8, 0.52], [0.6, 0.6], [0.4, 0.6]], np.float32)
LIPS = np.stack([np.linspace(0.2, 0.8, 20), np.full(20, 0.5)], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """Return an upright, symmetric face, (1, 68, 2) float32, about (100, 100)."""
    pdm = load_models().pdm
    points = pdm.mean[:2].T.astype(np.float64)
    points = (points + points[MIRROR_68] * [-1, 1]) / 2
    points -= points.mean(axis=0)
    if points[8, 1] < points[27, 1]:
        points[:, 1] *= -1
    return (points * (90 / np.ptp(points[:, 0])) + 100)[None].astype(np.float32)


def rotated(points: np.ndarray, angle: float, scale: float) -> np.ndarray:
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return ((points - 100) @ turn.T * scale + 100).astype(np.float32)


def test_crops_turn_and_grow_with_the_face(face: np.ndarray) -> None:
    turned = rotated(face, 0.3, 1.5)
    for crops in (eye_crops, mouth_crops):
        before, after = crops(face).reshape(-1, 4), crops(turned).reshape(-1, 4)
        np.testing.assert_allclose(after[:, :2], rotated(before[:, :2], 0.3, 1.5), atol=1e-3)
        np.testing.assert_allclose(after[:, 2], 1.5 * before[:, 2], rtol=1e-4)
        np.testing.assert_allclose(after[:, 3] - before[:, 3], 0.3, atol=1e-4)


def test_crops_do_not_grow_with_the_jaw_or_the_lids(face: np.ndarray) -> None:
    moved = face.copy()
    moved[0, [8, 37, 38, 57, 66], 1] += 30
    np.testing.assert_allclose(face_units(moved), face_units(face))


def test_landmarks_of_both_eyes_come_out_in_their_own_order(face: np.ndarray) -> None:
    eye = Network(LIDS)
    parts = predict_parts(PartModels(eye, Network(LIPS)), FRAME, face)  # type: ignore[arg-type]
    crops = eye_crops(face)[0]
    right, left = parts.landmarks[0, 36:42], parts.landmarks[0, 42:48]
    np.testing.assert_allclose(right, crops[0, :2] + (LIDS - 0.5) * crops[0, 2], atol=1e-3)
    # the left eye is the mirror image: outer canthus 45, upper lid 43 and 44, inner canthus 42
    mirrored = np.array([[200, 0]]) + right * [-1, 1]
    np.testing.assert_allclose(left[[3, 2, 1, 0, 5, 4]], mirrored, atol=0.01)
    assert left[0, 0] < left[3, 0]
    iris = parts.iris[0]
    np.testing.assert_allclose(iris[0, :2], crops[0, :2] + [-0.1 * crops[0, 2], 0], atol=1e-3)
    np.testing.assert_allclose(iris[1, :2], [200 - iris[0, 0], iris[0, 1]], atol=0.01)
    np.testing.assert_allclose(iris[:, 2], 0.25 * crops[:, 2], rtol=1e-5)
    assert np.isnan(parts.landmarks[0, :36]).all()
    assert np.isfinite(parts.landmarks[0, 36:]).all()


def test_the_left_eye_is_shown_mirrored(face: np.ndarray) -> None:
    frame = FRAME.copy()
    frame[:, :100, 0] = 200
    frame[:, 100:, 0] = np.linspace(200, 0, 120).astype(np.uint8)
    frame[:, :100, 0] = frame[:, 199:99:-1, 0]  # a frame that is its own mirror image about x = 99.5
    shifted = face - [0.5, 0.0]
    eye = Network(LIDS)
    predict_parts(PartModels(eye, Network(LIPS)), frame, shifted)  # type: ignore[arg-type]
    np.testing.assert_allclose(eye.inputs[0], eye.inputs[1], atol=2e-3)


class Noise(Network):
    """Stands for an ONNX session: gives other random fractions of each crop, and keeps them."""

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        rng, count = np.random.default_rng(len(self.points)), len(feeds["crops"])
        values = {name: rng.uniform(0.01, 0.09, count) for name in EYE_OUTPUTS}
        values["landmarks"] = rng.uniform(0, 1, (count, *self.points.shape))
        values["sigma"] = rng.uniform(0.01, 0.09, (count, len(self.points)))
        values["iris"] = rng.uniform(0, 1, (count, 3))
        self.inputs = feeds["crops"]
        self.given = [values[name].astype(np.float32) for name in names]
        return self.given


def test_the_kernels_do_what_their_references_do(face: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    faces = np.concatenate([rotated(face, angle, 1.2) for angle in (-0.4, 0.1, 0.8)])
    faces += rng.normal(0, 3, faces.shape).astype(np.float32)
    crops = part_crops_reference(faces)
    np.testing.assert_allclose(part_crops(faces), crops, rtol=1e-6, atol=1e-6)
    eye, mouth = Noise(LIDS), Noise(LIPS)
    frame = rng.integers(0, 256, FRAME.shape, np.uint8)
    parts = predict_parts(PartModels(eye, mouth), frame, faces)  # type: ignore[arg-type]
    shown = sample_crops(frame, crops[:, :2].reshape(-1, 4), EYE_SIZE, (False, True))
    np.testing.assert_allclose(eye.inputs, shown, atol=1e-3)
    np.testing.assert_allclose(mouth.inputs, sample_crops(frame, crops[:, 2], MOUTH_SIZE), atol=1e-3)
    wanted = parts_in_image_reference(eye.given, mouth.given, crops)
    for name in ("landmarks", "sigma", "iris", "iris_sigma", "iris_confidence", "shut"):
        np.testing.assert_allclose(getattr(parts, name), getattr(wanted, name), rtol=1e-5, atol=1e-4)
    weight = part_weights_reference(wanted, faces)
    assert ((weight > 0.1) & (weight < 0.9)).sum() > 20
    np.testing.assert_allclose(part_weights(parts, faces), weight, atol=1e-5)
    parts.landmarks[1, 50] = np.nan
    assert (part_weights(parts, faces)[1] == 0).all()


def test_a_mirrored_crop_is_turned_left_to_right() -> None:
    rng = np.random.default_rng(0)
    frame, crops = rng.integers(0, 256, FRAME.shape, np.uint8), rng.uniform(50, 90, (3, 4))
    plain = sample_crops(frame, crops, 31)
    mirrored = sample_crops(frame, crops, 31, (False, True))
    np.testing.assert_array_equal(mirrored[[0, 2]], plain[[0, 2]])
    np.testing.assert_array_equal(mirrored[1], plain[1, :, :, ::-1])
    assert (mirrored[1] != plain[1]).mean() > 0.5


def test_uncertain_parts_and_eyes_turned_away_are_left_to_pfld(face: np.ndarray) -> None:
    output = PfldOutput(
        face.copy(), np.ones((1, 68), np.float32), np.full((1, 68), 0.9, np.float32), np.ones(1, np.float32)
    )
    certain = PartModels(Network(LIDS), Network(LIPS))  # type: ignore[arg-type]
    landmarks, sigma, iris = refine_parts(certain, FRAME, output.landmarks, output.sigma)
    parts = predict_parts(certain, FRAME, face)
    weight = part_weights(parts, face)
    assert (weight[0, 36:] == 1).all()
    assert (weight[0, :36] == 0).all()
    np.testing.assert_array_equal(landmarks[0, :36], face[0, :36])
    np.testing.assert_allclose(landmarks[0, 36:], parts.landmarks[0, 36:], atol=1e-4)
    assert np.isfinite(landmarks).all()
    assert np.isfinite(sigma).all()
    np.testing.assert_array_equal(landmarks, follow_parts(face, parts.landmarks, weight))
    moved = output.sigma + weight * (parts.sigma - output.sigma)
    np.testing.assert_array_equal(sigma, np.where(weight > 0, moved, output.sigma))
    np.testing.assert_array_equal(iris.reshape(2, 4)[:, :3], parts.iris[0])
    np.testing.assert_array_equal(iris.reshape(2, 4)[:, 3], parts.iris_confidence[0])
    np.testing.assert_array_equal(output.landmarks, face)  # not changed

    uncertain = PartModels(Network(LIDS, 0.5), Network(LIPS, 0.5))  # type: ignore[arg-type]
    landmarks, _, _ = refine_parts(uncertain, FRAME, output.landmarks, output.sigma)
    assert (part_weights(predict_parts(uncertain, FRAME, face), face) == 0).all()
    np.testing.assert_array_equal(landmarks, face)

    away = face.copy()
    away[0, 42:48, 0] = away[0, 42:48, 0].mean() + 0.3 * (away[0, 42:48, 0] - away[0, 42:48, 0].mean())
    weight = part_weights(predict_parts(certain, FRAME, away), away)
    assert (weight[0, 42:48] == 0).all()
    assert (weight[0, 36:42] == 1).all()


def test_following_moves_by_the_weight(face: np.ndarray) -> None:
    parts = np.full_like(face[0], np.nan)
    parts[40] = face[0, 40] + [4.0, 0.0]
    weight = np.zeros(68, np.float32)
    weight[40] = 0.25
    moved = follow_parts(face[0], parts, weight)
    np.testing.assert_allclose(moved[40] - face[0, 40], [1.0, 0.0], atol=1e-5)
    np.testing.assert_array_equal(np.delete(moved, 40, axis=0), np.delete(face[0], 40, axis=0))


def test_another_network_is_refused(face: np.ndarray) -> None:
    with pytest.raises(ModelError, match="gives the shapes"):
        predict_parts(PartModels(Network(LIPS), Network(LIPS)), FRAME, face)  # type: ignore[arg-type]


def test_no_faces_give_no_parts() -> None:
    nothing = np.zeros((0, 68, 2), np.float32)
    parts = predict_parts(PartModels(Network(LIDS), Network(LIPS)), FRAME, nothing)  # type: ignore[arg-type]
    assert parts.landmarks.shape == (0, 68, 2)
    assert parts.iris.shape == (0, 2, 3)
    assert len(EYE_OUTPUTS) == 6


def test_bundles_without_part_models_load(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle_folder("open"), folder)
    card = json.loads((folder / CARD).read_text())
    for name in PART_FILES:
        card["files"].pop(name, None)
        (folder / name).unlink(missing_ok=True)
    (folder / CARD).write_text(json.dumps(card))
    assert load_models(folder).parts is None


def test_tracks_keep_the_irises_that_part_models_find() -> None:
    from napari_face_landmarks import FaceTracker, TrackerSettings
    from test_tracking import portrait

    models = load_models()
    assert models.parts is not None
    tracks = FaceTracker(models, TrackerSettings(refine="off"), threads=1).track(np.stack([portrait()] * 3))
    iris = tracks.iris[1, 0].reshape(2, 4)
    eyes = tracks.landmarks[1, 0, 36:48].reshape(2, 6, 2)
    width = np.linalg.norm(eyes[:, 3] - eyes[:, 0], axis=1)
    assert (np.linalg.norm(iris[:, :2] - eyes.mean(axis=1), axis=1) < 0.3 * width).all()
    assert (np.abs(iris[:, 2] / width - 0.43) < 0.15).all()
    assert np.abs(iris[0, 2] / iris[1, 2] - 1) < 0.15


def test_clnf_leaves_eyes_and_mouth_to_the_part_models() -> None:
    from napari_face_landmarks import FaceTracker, TrackerSettings
    from test_tracking import portrait

    models = load_models()
    given, refined = (
        FaceTracker(models, TrackerSettings(refine=refine), threads=1).fit(portrait()).landmarks[0]
        for refine in ("off", "always")
    )
    np.testing.assert_array_equal(given[36:], refined[36:])
    assert np.linalg.norm(refined[:36] - given[:36], axis=1).mean() > 0.1


def test_clnf_is_followed_less_the_further_a_head_is_turned() -> None:
    given, refined = np.zeros((68, 2), np.float32), np.ones((68, 2), np.float32)
    frontal, turned, profile = (
        blend_with_parts(given, refined, math.radians(yaw))[:, 0] for yaw in (-20.0, 32.5, -41.0)
    )
    assert (frontal[:17] == 1).all()
    assert (frontal[27:36] == 1).all()
    assert (frontal[36:] == 0).all()
    np.testing.assert_allclose(turned, frontal / 2, rtol=1e-6)
    assert (profile == 0).all()
