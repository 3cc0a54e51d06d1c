"""The last step of the training: linear maps from what the networks say to where the landmarks are."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from napari_face_landmarks import FaceTracker, TrackerSettings
from napari_face_landmarks.demo import make_demo_clip
from napari_face_landmarks.ibug import MIRROR_68, inter_ocular, nme
from napari_face_landmarks.models.bundle import bundle_folder
from napari_face_landmarks.training import linear_calibration
from napari_face_landmarks.training.faces import Faces

LOWER_LIP = [55, 56, 57, 58, 59]
NO_MOVES = linear_calibration.Moves(np.zeros((1, 68, 2)), np.zeros((1, 68, 2)), 0.0, 0.0, [0])


def faces_and_what_is_found(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return landmarks (N, 68, 2) as people put them, and as a model that evens them out does."""
    rng = np.random.default_rng(seed)
    shape = np.random.default_rng(1)
    mean, modes = shape.normal(0, 20, (68, 2)), shape.normal(0, 2, (6, 68, 2))
    mean[36], mean[45] = (-45, 0), (45, 0)
    pairs = mean[MIRROR_68] * (-1, 1)
    mean = (mean + pairs) / 2
    levels = rng.normal(0, 1, (count, 6))
    truth = mean + np.einsum("nm,mij->nij", levels, modes)
    shrunk = mean + np.einsum("nm,mij->nij", 0.6 * levels, modes) + np.sign(mean[:, :1])
    return truth, shrunk + rng.normal(0, 0.05, truth.shape)


def moved_by(points: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    """Return landmarks (N, L, 2) with the map of `fit_map` added."""
    row = points.reshape(len(points), -1)
    return (row + beyond[0] + row @ beyond[1:]).reshape(points.shape)


def fit_map(found: np.ndarray, truth: np.ndarray, ridge: float, moves: Any = NO_MOVES) -> np.ndarray:
    size = inter_ocular(truth)
    return linear_calibration.fit_map(found, truth, np.ones(len(found)), ridge, size, MIRROR_68, moves)


def test_the_map_gives_faces_their_differences_back() -> None:
    truth, found = faces_and_what_is_found(300, 2)
    beyond = fit_map(found, truth, 1e-4)
    truth, found = faces_and_what_is_found(50, 3)
    assert nme(moved_by(found, beyond), truth).mean() < 0.15 * nme(found, truth).mean()


def test_the_map_treats_left_and_right_alike() -> None:
    truth, found = faces_and_what_is_found(100, 4)
    beyond = fit_map(found, truth, 1e-2)

    def mirror(points: np.ndarray) -> np.ndarray:
        return points[:, MIRROR_68] * (-1, 1)

    np.testing.assert_allclose(
        moved_by(mirror(found), beyond),
        mirror(moved_by(found, beyond)),
        atol=1e-6,
    )


def test_a_heavy_penalty_leaves_only_what_all_faces_have_in_common() -> None:
    truth, found = faces_and_what_is_found(100, 5)
    beyond = fit_map(found, truth, 1e9)
    assert np.abs(beyond[1:]).max() < 1e-6
    assert np.linalg.norm(beyond[0].reshape(68, 2), axis=1).mean() > 0.5


def test_the_map_follows_movements_of_which_the_labels_say_nothing() -> None:
    truth, found = faces_and_what_is_found(300, 6)
    rng = np.random.default_rng(7)
    wanted = np.zeros((400, 68, 2))
    wanted[:, 17:27] = rng.normal(0, 0.05, (400, 1, 2)) + rng.normal(0, 0.01, (400, 10, 2))
    moves = linear_calibration.Moves(0.7 * wanted, wanted, 0.0, 10.0, range(17, 27))
    beyond = fit_map(found, truth, 1e-3, moves)
    followed = moved_by(0.7 * wanted, beyond) - moved_by(0 * wanted, beyond)
    brows = (slice(None), slice(17, 27))
    heights = np.polyfit(wanted[brows][..., 1].ravel(), followed[brows][..., 1].ravel(), 1)[0]
    assert heights > 0.95
    truth, found = faces_and_what_is_found(50, 8)
    moved = moved_by(found, beyond)
    assert nme(moved, truth).mean() < 0.3 * nme(found, truth).mean()


@pytest.mark.parametrize(("file", "side", "count"), [("pfld.onnx", 112, 68), ("mouth.onnx", 56, 20)])
def test_a_network_with_a_map_gives_moved_landmarks_and_takes_another_map(
    tmp_path: Path, file: str, side: int, count: int
) -> None:
    pytest.importorskip("onnx")
    rng = np.random.default_rng(6)
    crops = rng.random((3, 3, side, side), dtype=np.float32)

    def outputs(path: Path) -> list[np.ndarray]:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return list(session.run(["landmarks", "sigma"], {"crops": crops}))

    values, here = 2 * count, tmp_path / file
    nothing = np.zeros((1 + values, values))
    linear_calibration.add_linear_map(bundle_folder("open") / file, here, nothing)
    plain, sigma = outputs(here)
    sizes = set()
    for path in (bundle_folder("open") / file, here):  # both have another map already
        beyond = np.concatenate([rng.normal(0, 0.02, (1, values)), rng.normal(0, 0.05, (values, values))])
        linear_calibration.add_linear_map(path, here, beyond)
        moved, same = outputs(here)
        expected = moved_by(plain - 0.5, beyond)
        np.testing.assert_allclose(moved - 0.5, expected, atol=4e-4)
        np.testing.assert_array_equal(same, sigma)
        sizes.add(here.stat().st_size)
    assert max(sizes) - min(sizes) < 100


@pytest.mark.slow
def test_the_maps_find_where_people_put_the_lower_lip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    frames, _ = make_demo_clip(8, 256)
    settings = TrackerSettings(refine="always", clnf_every=1, smoothing_window=1)
    landmarks = FaceTracker("open", settings).track(frames).landmarks[:, 0]
    assert np.isfinite(landmarks).all()
    shift = 0.06 * float(inter_ocular(landmarks).mean())
    landmarks[:, LOWER_LIP, 1] += shift
    n = len(frames)
    nothing = np.full((n, 478, 3), -512.0, np.float32)
    faces = Faces(
        [str(i) for i in range(n)],
        list(frames),
        landmarks,
        nothing,
        np.full(n, 1 / n),
        np.zeros((n, 68), np.float32),
    )
    for name in ("load_faces", "load_measured"):
        monkeypatch.setattr(linear_calibration, name, lambda *_, **__: faces)
    models, out = tmp_path / "models", tmp_path / "out"
    shutil.copytree(bundle_folder("open"), models)
    plan = linear_calibration.CalibrationPlan()
    errors = linear_calibration.fit_maps(tmp_path, "research", models, out, plan)["held_out"]
    assert errors["after"] < 0.8 * errors["before"]
    assert json.loads((out / "linear-maps.metrics.json").read_text())["plan"] == dataclasses.asdict(plan)

    for name in ("pfld.onnx", "mouth.onnx"):
        shutil.copyfile(out / name, models / name)
    # begins with the models, not with their maps
    again = linear_calibration.fit_maps(tmp_path, "research", models, out, plan)
    assert again["held_out"] == errors
