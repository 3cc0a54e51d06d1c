"""CLNF with the real models on faces that no training saw: it must lower the error of where it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from napari_face_landmarks.clnf.fit import ClnfModel, fit_landmarks, refine
from napari_face_landmarks.clnf.parameters import PUBLISHED, TUNED, EngineConstants
from napari_face_landmarks.clnf.patch_experts import PatchExperts
from napari_face_landmarks.clnf.pdm import PDM, project
from napari_face_landmarks.detection.boxes import centres
from napari_face_landmarks.detection.detector import detect_faces
from napari_face_landmarks.ibug import inter_ocular, nme
from napari_face_landmarks.models import bundle_folder, load_models
from napari_face_landmarks.pfld.network import crops_of_boxes, predict_twice
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.training.faces import load_faces
from napari_face_landmarks.training.onnx_float16 import open_session
from napari_face_landmarks.video.pixels import to_grey

pytestmark = pytest.mark.shared_data

Floats = npt.NDArray[np.float64]
LARGEST_ERROR = {"open": 0.052, "research": 0.040}
"""Median error of PFLD in inter-ocular distances."""


@dataclass(frozen=True)
class Starts:
    """Faces with initial landmarks."""

    images: list[npt.NDArray[np.uint8]]  # list of ndarray, (H, W)
    # landmarks, truth: (N, 68, 2)
    landmarks: Floats
    sigma: Floats  # (N, 68)
    truth: Floats


def find_starts(data: Path, models: Path, most: int | None = None) -> Starts:
    """Run detector and PFLD of a bundle on the held-out faces of 300-W; faces not found are omitted."""
    detector, pfld = open_session(models / "detector.onnx"), open_session(models / "pfld.onnx")
    faces = load_faces(data, bundle="research", held_out=True)
    images, landmarks, sigma, truth = [], [], [], []
    for image, points in zip(faces.images[:most], faces.landmarks[:most], strict=True):
        boxes = detect_faces(detector, image).boxes
        if len(boxes) == 0:
            continue
        nearest = np.argmin(np.linalg.norm(centres(boxes) - points.mean(axis=0), axis=1))
        output = predict_twice(pfld, image, crops_of_boxes(boxes[nearest : nearest + 1]))
        images.append(to_grey(image))
        landmarks.append(output.landmarks[0])
        sigma.append(output.sigma[0])
        truth.append(points)
    return Starts(images, *(np.asarray(values, dtype=np.float64) for values in (landmarks, sigma, truth)))


def perturbed_starts(starts: Starts, pdm: PDM, error: float, seed: int = 2026) -> Starts:
    """Return starts at the labels with a correlated error of about the given NME.

    Half of its variance is an error of pose, a third an error of shape within the PDM, the rest independent.
    """
    rng = np.random.default_rng(seed)
    landmarks = np.empty_like(starts.truth)
    for i, points in enumerate(starts.truth):
        unit = float(inter_ocular(points))
        params = fit_landmarks(pdm, points)
        deformed = params.copy()
        deformed[6:] += rng.normal(size=pdm.n_modes) * np.sqrt(pdm.eigenvalues)
        centred = (points - points.mean(axis=0)) / unit
        rotation = np.stack([-centred[:, 1], centred[:, 0]], axis=1)
        pose = rng.normal(size=2) + rng.normal() * centred + rng.normal() * rotation
        parts = [pose, project(pdm, deformed) - project(pdm, params)]
        parts.append(rng.normal(size=points.shape))
        offset = np.zeros_like(points)
        for share, part in zip((0.5, 0.33, 0.17), parts, strict=True):
            offset += np.sqrt(share) * part / np.sqrt(np.mean(part**2))
        size = error * unit * rng.lognormal(0, 0.3) / np.linalg.norm(offset, axis=1).mean()
        landmarks[i] = points + size * offset
    sigma = np.full(landmarks.shape[:2], 0.8 * error) * inter_ocular(starts.truth)[:, None]
    return Starts(starts.images, landmarks, sigma, starts.truth)


def refined(
    starts: Starts, pdm: PDM, experts: PatchExperts, constants: EngineConstants, settings: TrackerSettings
) -> tuple[Floats, int]:
    """Return the refined landmarks, (N, 68, 2), and the number of faces on which CLNF failed."""
    landmarks = np.empty_like(starts.landmarks)
    failures = 0
    for i, image in enumerate(starts.images):
        found = refine(
            image, starts.landmarks[i], None, ClnfModel(pdm, experts, constants), settings, starts.sigma[i]
        )
        landmarks[i] = found.landmarks
        failures += not found.converged
    return landmarks, failures


@pytest.fixture(scope="module", params=["open", pytest.param("research", marks=pytest.mark.slow)])
def bundle(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def starts(shared_data: Path, bundle: str) -> Starts:
    return find_starts(shared_data, bundle_folder(bundle))


@pytest.fixture(scope="module")
def few_starts(shared_data: Path, bundle: str) -> Starts:
    return find_starts(shared_data, bundle_folder(bundle), 40)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [TrackerSettings(), TrackerSettings(max_iterations=5, convergence_px=0)])
def test_clnf_lowers_the_error_of_pfld_on_held_out_faces(
    starts: Starts, bundle: str, settings: TrackerSettings
) -> None:
    models = load_models(bundle)
    landmarks, failures = refined(starts, models.pdm, models.experts, TUNED, settings)
    assert failures == 0
    before, after = nme(starts.landmarks, starts.truth), nme(landmarks, starts.truth)
    assert np.median(before) < LARGEST_ERROR[bundle]
    assert after.mean() < 0.97 * before.mean()
    assert (after < before).mean() > 0.6


@pytest.mark.parametrize("constants", [TUNED, PUBLISHED])
def test_clnf_finds_its_way_back_from_a_poor_start(
    few_starts: Starts, bundle: str, constants: EngineConstants
) -> None:
    models = load_models(bundle)
    poor = perturbed_starts(few_starts, models.pdm, 0.08)
    landmarks, _ = refined(poor, models.pdm, models.experts, constants, TrackerSettings())
    before, after = nme(poor.landmarks, poor.truth).mean(), nme(landmarks, poor.truth).mean()
    assert after < 0.75 * before
    assert np.isfinite(landmarks).all()
