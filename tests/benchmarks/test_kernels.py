"""How long each part of a frame takes: `pytest tests/benchmarks` measures, plain `pytest` runs each once.

The whole benchmark, with the ablation and whole runs, is `napari-face-landmarks benchmark VIDEO`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from skimage import data

from napari_face_landmarks import FaceTracker, Models, TrackerSettings, load_models
from napari_face_landmarks.benchmark.ablation_engine import (
    normalise_supports,
    strided_im2col,
    vectorised_im2col,
)
from napari_face_landmarks.clnf import normalized_frame, numba_engine, reference
from napari_face_landmarks.clnf.fit import (
    apply_correction,
    fit_landmarks,
    measure_correction,
    refine,
)
from napari_face_landmarks.clnf.parameters import Steps
from napari_face_landmarks.clnf.pdm import project
from napari_face_landmarks.detection import detect_faces
from napari_face_landmarks.pfld import crops_of_landmarks, predict, predict_twice
from napari_face_landmarks.pfld.crop import sample_crops
from napari_face_landmarks.tracking.smoothing import smooth_centre
from napari_face_landmarks.video.pixels import to_grey

Run = Callable[..., Any]
SETTINGS = TrackerSettings(refine="always")


class Face(NamedTuple):
    """A picture with a face and what the stages before know of it."""

    models: Models
    rgb: np.ndarray
    grey: np.ndarray
    landmarks: np.ndarray
    sigma: np.ndarray
    params: np.ndarray
    crops: np.ndarray


@pytest.fixture(scope="module")
def face() -> Face:
    models = load_models()
    rgb = np.zeros((480, 640, 3), np.uint8)
    rgb[100:340, 200:440] = data.astronaut()[10:250, 105:345]
    boxes = FaceTracker(models, TrackerSettings(refine="off"), 1).fit(rgb)
    crops = crops_of_landmarks(boxes.landmarks)
    output = predict(models.pfld, rgb, crops)
    landmarks, sigma = output.landmarks[0], output.sigma[0]
    params = fit_landmarks(models.pdm, landmarks, sigma)
    return Face(models, rgb, to_grey(rgb), landmarks, sigma, params, crops)


def maps_at(face: Face, index: int) -> tuple[Any, ...]:
    """Return the arguments of `response_maps` at a scale, and the parameters in its frame."""
    experts, constants = face.models.experts, face.models.constants
    to_frame = normalized_frame.image_to_frame(face.params, float(experts.scales[index]))
    local = normalized_frame.move_pose(face.params, to_frame)
    centres = np.rint(project(face.models.pdm, local)).astype(np.int64)
    window = constants.window_at(index, SETTINGS.search_radius)
    return (face.grey, to_frame, centres, window, experts, index, 0, constants.checkerboard), local


def test_contrast_normalisation(benchmark: Run) -> None:
    support = np.random.default_rng(0).uniform(0, 255, (1, 121))
    benchmark(normalise_supports, support)
    assert np.linalg.norm(support) == pytest.approx(1)


@pytest.mark.parametrize("window", [11, 9, 7])
def test_im2col(benchmark: Run, window: int) -> None:
    area = np.random.default_rng(0).uniform(0, 255, (window + 10, window + 10))
    rows = np.ones((window * window, 122))
    benchmark(strided_im2col, area, rows)
    assert (rows[:, 0] == 1).all()
    assert rows[-1, -1] == area[-1, -1]


def test_im2col_with_contrast_normalisation(benchmark: Run) -> None:
    area = np.random.default_rng(0).uniform(0, 255, (21, 21))
    np.testing.assert_allclose(benchmark(vectorised_im2col, area), reference.im2col(area), atol=1e-12)


def test_one_response_map(benchmark: Run, face: Face) -> None:
    (grey, to_frame, centres, *rest), _ = maps_at(face, 0)
    maps = benchmark(numba_engine.response_maps, grey, to_frame, centres[:1], *rest)
    assert maps.shape == (1, 11, 11)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_response_pass_of_a_scale(benchmark: Run, face: Face, index: int) -> None:
    maps = benchmark(numba_engine.response_maps, *maps_at(face, index)[0])
    assert len(maps) == 68
    assert maps.max() <= 1


def test_nu_rlms_iteration(benchmark: Run, face: Face) -> None:
    arguments, local = maps_at(face, 2)
    maps = numba_engine.response_maps(*arguments)
    found, iterations = benchmark(
        numba_engine.search, face.models.pdm, local, maps, arguments[2], np.ones(68), Steps(1.6, 10.0, 1, 0.0)
    )
    assert iterations == 2  # the pose, then pose and shape
    assert np.isfinite(found).all()


def test_clnf_of_a_face(benchmark: Run, face: Face) -> None:
    fit = benchmark(
        refine,
        face.grey,
        face.landmarks,
        face.params,
        face.models.clnf(),
        SETTINGS,
        face.sigma,
    )
    assert fit.converged


def test_correction_measured_and_carried(benchmark: Run, face: Face) -> None:
    pdm = face.models.pdm

    def both() -> Any:
        correction = measure_correction(pdm, face.params, face.params, np.ones(68))
        return apply_correction(pdm, correction, face.params, face.landmarks)

    landmarks, _ = benchmark(both)
    np.testing.assert_allclose(landmarks, face.landmarks, atol=1e-3)


def test_fit_of_the_pdm(benchmark: Run, face: Face) -> None:
    params = benchmark(fit_landmarks, face.models.pdm, face.landmarks, face.sigma, face.params)
    assert params[0] == pytest.approx(face.params[0], rel=0.02)


def test_grey(benchmark: Run, face: Face) -> None:
    assert benchmark(to_grey, face.rgb).shape == (480, 640)


def test_pfld_crop(benchmark: Run, face: Face) -> None:
    assert benchmark(sample_crops, face.rgb, face.crops).shape == (1, 3, 112, 112)


def test_pfld_network(benchmark: Run, face: Face) -> None:
    inputs = {"crops": sample_crops(face.rgb, face.crops)}
    assert len(benchmark(face.models.pfld.run, ["landmarks", "sigma", "score"], inputs)) == 3


def test_pfld(benchmark: Run, face: Face) -> None:
    assert benchmark(predict_twice, face.models.pfld, face.rgb, face.crops).score[0] > 0.5


def test_detector(benchmark: Run, face: Face) -> None:
    assert len(benchmark(detect_faces, face.models.detector, face.rgb)) == 1


def test_smoothing(benchmark: Run, face: Face) -> None:
    window = np.repeat(face.landmarks[None, None], 5, axis=0)
    np.testing.assert_allclose(benchmark(smooth_centre, window), window[0], atol=1e-4)


@pytest.mark.parametrize("mode", ["off", "always"])
def test_a_run_per_ten_frames(benchmark: Run, face: Face, mode: Any) -> None:
    tracker = FaceTracker(face.models, TrackerSettings(refine=mode, clnf_every=1))
    frames = np.broadcast_to(face.rgb, (10, *face.rgb.shape))
    assert benchmark(tracker.track, frames).present.all()
