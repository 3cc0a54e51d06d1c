"""CLNF with the real models on faces that no training saw: it must lower the error of where it starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from napari_face_landmarks.clnf.parameters import PUBLISHED, TUNED, EngineConstants
from napari_face_landmarks.ibug import nme
from napari_face_landmarks.models import bundle_folder, load_models
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.training import evaluate_clnf

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="module", params=["open", pytest.param("research", marks=pytest.mark.slow)])
def bundle(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def starts(shared_data: Path, bundle: str) -> evaluate_clnf.Starts:
    return evaluate_clnf.find_starts(shared_data, bundle_folder(bundle))


def first_faces(starts: evaluate_clnf.Starts, count: int) -> evaluate_clnf.Starts:
    return dataclasses.replace(
        starts,
        images=starts.images[:count],
        landmarks=starts.landmarks[:count],
        sigma=starts.sigma[:count],
        truth=starts.truth[:count],
    )


@pytest.mark.slow
@pytest.mark.parametrize("settings", [TrackerSettings(), TrackerSettings(max_iterations=5, convergence_px=0)])
def test_clnf_lowers_the_error_of_pfld_on_held_out_faces(
    starts: evaluate_clnf.Starts, bundle: str, settings: TrackerSettings
) -> None:
    models = load_models(bundle)
    landmarks, failures = evaluate_clnf.refined(starts, models.pdm, models.experts, TUNED, settings)
    assert failures == 0
    before, after = nme(starts.landmarks, starts.truth), nme(landmarks, starts.truth)
    assert after.mean() < 0.97 * before.mean()
    assert (after < before).mean() > 0.6


@pytest.mark.parametrize("constants", [TUNED, PUBLISHED])
def test_clnf_finds_its_way_back_from_a_poor_start(
    starts: evaluate_clnf.Starts, bundle: str, constants: EngineConstants
) -> None:
    models = load_models(bundle)
    poor = evaluate_clnf.perturbed_starts(first_faces(starts, 40), models.pdm, 0.08)
    landmarks, _ = evaluate_clnf.refined(poor, models.pdm, models.experts, constants, TrackerSettings())
    before, after = nme(poor.landmarks, poor.truth).mean(), nme(landmarks, poor.truth).mean()
    assert after < 0.75 * before
    assert np.isfinite(landmarks).all()
