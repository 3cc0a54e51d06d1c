"""CLNF: the compiled engine against the plain one, models from files, failures, and carried corrections."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from napari_face_landmarks.clnf import fit, normalized_frame, numba_engine, pdm, reference
from napari_face_landmarks.clnf.onnx_experts import experts_graph, onnx_experts
from napari_face_landmarks.clnf.openface_experts import OpenFaceExperts
from napari_face_landmarks.clnf.parameters import PUBLISHED, TUNED, EngineConstants
from napari_face_landmarks.clnf.patch_experts import (
    N_INPUTS,
    N_STORED,
    SUPPORT,
    PatchExperts,
    load_patch_experts,
    save_patch_experts,
    unmirror,
)
from napari_face_landmarks.errors import ImageError, ModelError
from napari_face_landmarks.ibug import MIRROR_68
from napari_face_landmarks.models import load_models
from napari_face_landmarks.settings import TrackerSettings

SCALES = np.array([0.25, 0.35, 0.5])
VIEWS = np.array([[0.0, 0, 0], [0, -30, 0], [0, 30, 0]])
PATIENT = TrackerSettings(max_iterations=4, convergence_px=0.0)


def face_model(n_modes: int = 8, seed: int = 0) -> pdm.PDM:
    """Return a PDM with points spread like a face's (90 between the outer eye corners) and random modes."""
    rng = np.random.default_rng(seed)
    angle = np.linspace(np.pi, 0, 17)
    jaw = np.stack([75 * np.cos(angle), 75 * np.sin(angle) ** 1.0 + 5, 40 - 50 * np.sin(angle)], axis=1)
    rest = np.stack([rng.uniform(-50, 50, 51), rng.uniform(-30, 60, 51), rng.uniform(-40, 5, 51)], axis=1)
    mean = np.vstack([jaw, rest])
    mean[36], mean[45] = (-45, 0, 0), (45, 0, 0)
    modes, _ = np.linalg.qr(rng.normal(size=(3 * 68, n_modes)))
    eigenvalues = np.sort(rng.uniform(20, 400, n_modes))[::-1].copy()
    return pdm.PDM(np.ascontiguousarray(mean.T), modes.reshape(3, 68, n_modes).copy(), eigenvalues)


def stored_weights(rng: np.random.Generator, h1: int = 6, h2: int = 4, scales: int = 3) -> dict[str, Any]:
    return {
        "w1": 0.5 * rng.normal(size=(scales, N_STORED, N_INPUTS, h1)),
        "w2": rng.normal(size=(scales, N_STORED, 1 + h1, h2)),
        "w3": rng.normal(size=(scales, N_STORED, 1 + h2)),
        "confidences": rng.uniform(0.2, 1.0, size=(scales, N_STORED)),
    }


def random_experts(seed: int = 0) -> PatchExperts:
    visibility = np.ones((2, 68), bool)
    visibility[1, :7] = False
    return unmirror(SCALES, VIEWS, visibility, **stored_weights(np.random.default_rng(seed)))


def random_params(rng: np.random.Generator, model: pdm.PDM, scale: float, middle: tuple[float, float]) -> Any:
    q = rng.normal(size=model.n_modes) * 0.7 * np.sqrt(model.eigenvalues)
    pose = [scale, *rng.uniform(-0.4, 0.4, 2), rng.uniform(-1.5, 1.5), *middle]
    return np.concatenate([pose, q])


def texture(rng: np.random.Generator, height: int, width: int) -> Any:
    """Return noise with detail at several sizes, grey uint8."""
    picture = np.zeros((height, width))
    for step in (2, 5, 16, 40):
        coarse = rng.normal(size=(height // step + 2, width // step + 2))
        picture += np.kron(coarse, np.ones((step, step)))[:height, :width]
    return np.clip(128 + 30 * picture, 0, 255).astype(np.uint8)


# The normalised frame


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 12.0), angle=st.floats(-3.2, 3.2))
def test_sampling_follows_its_definition(seed: int, scale: float, angle: float) -> None:
    rng = np.random.default_rng(seed)
    grey = texture(rng, *rng.integers(1, 90, 2))
    middle = rng.uniform(-20, 110, 2)
    params = np.array([scale, 0.1, -0.2, angle, *middle])
    to_frame = normalized_frame.image_to_frame(params, float(rng.choice(SCALES)))
    box = (int(rng.integers(-20, 5)), int(rng.integers(-20, 5)), *map(int, rng.integers(1, 30, 2)))
    picture = normalized_frame.sample_frame(grey, to_frame, *box)
    assert picture.shape == (box[3], box[2])
    np.testing.assert_allclose(picture, reference.sample_frame(grey, to_frame, *box), atol=0.02)


def test_a_frame_is_upright_at_its_scale_with_the_translation_at_the_origin() -> None:
    model = face_model()
    params = np.concatenate([[1.7, 0, 0, 0.8, 311.0, 205.0], np.zeros(model.n_modes)])
    points = normalized_frame.transform(
        normalized_frame.image_to_frame(params, 0.35), pdm.project(model, params)
    )
    np.testing.assert_allclose(points, 0.35 * model.mean[:2].T, atol=1e-9)


def test_a_large_face_is_not_aliased() -> None:
    stripes = np.zeros((400, 400), np.uint8)
    stripes[:, ::2] = 255
    to_frame = normalized_frame.image_to_frame(np.array([3.0, 0, 0, 0, 200.3, 199.8]), 0.25)
    picture = normalized_frame.sample_frame(stripes, to_frame, -10, -10, 20, 20)
    assert np.ptp(picture) < 1.0
    assert abs(picture.mean() - 127.5) < 1.0


def test_contrast_normalisation_of_textured_and_flat_supports() -> None:
    supports = np.stack([np.arange(121.0), np.full(121, 77.0)])
    normalised = normalized_frame.contrast_normalise(supports)
    assert abs(normalised[0].sum()) < 1e-9
    assert math.isclose(np.linalg.norm(normalised[0]), 1.0)
    assert (normalised[1] == 0).all()


# Response maps and search, compiled against plain


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    window=st.sampled_from([3, 5, 7, 9, 11]),
    index=st.integers(0, 2),
    view=st.integers(0, 2),
    scale=st.floats(0.15, 3.0),
    checkerboard=st.booleans(),
)
@example(seed=27541, window=11, index=1, view=0, scale=1.5, checkerboard=False)  # all but flat beside edges
def test_response_maps_agree(
    seed: int, window: int, index: int, view: int, scale: float, checkerboard: bool
) -> None:
    rng = np.random.default_rng(seed)
    model, experts = face_model(seed=seed % 7), random_experts(seed % 5)
    grey = texture(rng, 240, 320)
    grey[:60] = 90  # flat supports too
    params = random_params(rng, model, scale, (160.0, 120.0))
    to_frame = normalized_frame.image_to_frame(params, SCALES[index])
    centres = np.rint(normalized_frame.transform(to_frame, pdm.project(model, params))).astype(np.int64)
    arguments = (grey, to_frame, centres, window, experts, index, view, checkerboard)
    maps = numba_engine.response_maps(*arguments)
    expected = reference.response_maps(*arguments)
    assert maps.shape == (68, window, window)
    np.testing.assert_allclose(maps, expected, atol=1e-4)
    assert (maps[:, window // 2, window // 2] > 0).all()
    few = numba_engine.response_maps(grey, to_frame, centres[:3], *arguments[3:])
    np.testing.assert_allclose(few, maps[:3], atol=1e-5)
    prior, precision = centres + rng.normal(size=(68, 2)), rng.uniform(0, 2, 68)
    np.testing.assert_allclose(
        numba_engine.multiply_prior(maps, centres, prior, precision),
        reference.multiply_prior(expected, centres, prior, precision),
        atol=1e-4,
    )


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    scale=st.floats(0.3, 2.5),
    with_sigma=st.booleans(),
    radius=st.sampled_from([0.6, 1.2, 1.8]),
    iterations=st.integers(1, 5),
    least=st.sampled_from([0.0, 0.5]),
    searched=st.sampled_from([36, 68]),
)
def test_a_full_fit_agrees_with_the_reference(
    seed: int, scale: float, with_sigma: bool, radius: float, iterations: int, least: float, searched: int
) -> None:
    rng = np.random.default_rng(seed)
    model, experts = face_model(seed=seed % 7), random_experts(seed % 5)
    grey = texture(rng, 400, 500)
    params = random_params(rng, model, scale, (250.0, 190.0))
    first = pdm.project(model, params) + rng.normal(size=(68, 2)) * scale
    chosen = TrackerSettings(search_radius=radius, max_iterations=iterations, convergence_px=least)
    sigma = rng.uniform(0.5, 4, 68) * scale if with_sigma else None
    results = [
        fit.refine(
            grey, first, None, fit.ClnfModel(model, experts, engine=engine), chosen, sigma, None, searched
        )
        for engine in (numba_engine, reference)
    ]
    assert results[0].converged == results[1].converged
    assert results[0].iterations == results[1].iterations
    difference = np.abs(results[0].params - results[1].params)
    assert (difference[6:] / np.sqrt(model.eigenvalues)).max() < 1e-3
    assert difference[0] / scale < 1e-4
    np.testing.assert_allclose(results[0].landmarks, results[1].landmarks, atol=0.01 * scale)
    if results[0].converged:
        assert math.isclose(results[0].likelihood, results[1].likelihood, abs_tol=1e-3)


def test_landmarks_that_are_not_searched_stay_where_they_are_whatever_the_picture() -> None:
    rng = np.random.default_rng(4)
    model, experts = face_model(), random_experts()
    params = random_params(rng, model, 1.0, (250.0, 190.0))
    first = pdm.project(model, params)
    nothing = np.full((400, 500), 128, np.uint8)  # no map has a peak: only targets pull
    moved = first.copy()
    moved[36:] += (6.0, 2.0)
    clnf = fit.ClnfModel(model, experts)
    found = fit.refine(nothing, moved, params, clnf, PATIENT, np.full(68, 2.0), searched=36)
    assert found.converged
    shift = (pdm.project(model, found.params) - first)[36:].mean(axis=0)
    assert shift[0] > 2.0  # the others follow the pose that the given ones show
    assert np.abs(shift[1]) < shift[0]


def test_a_mirrored_face_gets_mirrored_responses() -> None:
    rng = np.random.default_rng(4)
    experts = random_experts(3)
    grey = texture(rng, 101, 121)
    centres = rng.integers(25, 75, (68, 2)).astype(np.int64)
    straight = np.array([[1.0, 0, 0], [0, 1, 0]])
    flipped = centres[MIRROR_68].copy()
    flipped[:, 0] = 120 - flipped[:, 0]
    pairs = np.arange(68) != MIRROR_68  # experts of the midline need not be symmetric
    for view, mirror, which in ((0, 0, pairs), (1, 2, slice(None)), (2, 1, slice(None))):
        maps = numba_engine.response_maps(grey, straight, centres, 7, experts, 1, view)
        mirrored = numba_engine.response_maps(
            np.ascontiguousarray(grey[:, ::-1]), straight, flipped, 7, experts, 1, mirror
        )
        np.testing.assert_allclose(mirrored[which], maps[MIRROR_68][:, :, ::-1][which], atol=1e-5)


def test_mean_shift_finds_the_mode_and_ignores_an_empty_map() -> None:
    maps = np.zeros((2, 9, 9))
    maps[0, 6, 5] = 1.0  # y = +2, x = +1
    centres = np.array([[10, 20], [30, 40]])
    shift = reference.mean_shift(maps, centres, centres + np.array([[0.25, -0.5], [0.0, 0.0]]), 2.0)
    np.testing.assert_allclose(shift, [[0.75, 2.5], [0, 0]])


# What the settings mean


def test_windows_follow_the_search_radius() -> None:
    assert [TUNED.window_at(i, 1.2) for i in range(3)] == [11, 9, 7]
    assert [TUNED.window_at(i, 0.5) for i in range(3)] == [5, 3, 3]
    assert all(TUNED.window_at(i, r) % 2 == 1 for i in range(5) for r in np.linspace(0.5, 3, 30))
    assert TUNED.window_at(0, 3.0) in (27, 29)


def test_published_constants_are_those_of_openface() -> None:
    assert math.isclose(PUBLISHED.regularisation_at(0.5), 7.5)
    assert math.isclose(PUBLISHED.sigma_at(0.5), 2.5)


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_iterations_per_scale_and_phase(iterations: int) -> None:
    model, experts, grey, truth = dotted_face()
    never = TrackerSettings(max_iterations=iterations, convergence_px=0.0)
    at_once = TrackerSettings(max_iterations=iterations, convergence_px=20.0)
    assert fit.refine(grey, truth, None, fit.ClnfModel(model, experts), never).iterations == 6 * iterations
    assert fit.refine(grey, truth, None, fit.ClnfModel(model, experts), at_once).iterations == 6


# A face whose landmarks are bright dots, and experts that look for them


def dotted_face(roll: float = 0.3, scale: float = 1.5) -> tuple[pdm.PDM, PatchExperts, Any, Any]:
    model = face_model()
    rng = np.random.default_rng(1)
    params = random_params(rng, model, scale, (200.0, 180.0))
    params[1:4] = (0.1, -0.1, roll)
    truth = pdm.project(model, params)
    y, x = np.mgrid[:400, :420]
    grey = np.full((400, 420), 40.0)
    for px, py in truth:
        grey = np.maximum(grey, 40 + 200 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 5.0**2)))
    return model, dot_experts(), grey.astype(np.uint8), truth


def dot_experts() -> PatchExperts:
    weights = stored_weights(np.random.default_rng(0), 1, 1)
    offsets = np.arange(SUPPORT) - SUPPORT // 2
    for index, scale in enumerate(SCALES):
        width = 5.0 * scale / 1.5 + 0.4
        dot = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * width**2)).ravel()
        weights["w1"][index, :, 1:, 0] = normalized_frame.contrast_normalise(255 * dot)
    weights["w1"][:, :, 0] = 0.0
    weights["w2"][:] = np.array([0.0, 1.0])[:, None]
    weights["w3"][:] = (-6.0, 10.0)
    weights["confidences"][:] = 1.0
    return unmirror(SCALES, VIEWS, np.ones((2, 68)), **weights)


@pytest.mark.parametrize("roll", [-1.2, 0.0, 0.4, 3.0])
def test_clnf_recovers_a_known_displacement(roll: float) -> None:
    model, experts, grey, truth = dotted_face(roll)
    moved = truth + np.array([7.0, -5.0])
    found = fit.refine(grey, moved, None, fit.ClnfModel(model, experts, PUBLISHED), PATIENT)
    assert found.converged
    start_error = np.linalg.norm(moved - truth, axis=1).mean()
    error = np.linalg.norm(found.landmarks - truth, axis=1).mean()
    assert error < 0.25 * start_error


def test_clnf_recovers_a_known_change_of_shape() -> None:
    model, experts, grey, truth = dotted_face()
    params = pdm.fit_pdm(model, truth)
    params[6:9] += 0.8 * np.sqrt(model.eigenvalues[:3])
    moved = pdm.project(model, params)
    found = fit.refine(grey, moved, None, fit.ClnfModel(model, experts, PUBLISHED), PATIENT)
    before = np.linalg.norm(moved - truth, axis=1).mean()
    assert np.linalg.norm(found.landmarks - truth, axis=1).mean() < 0.4 * before


def test_plain_clnf_stays_in_the_model_and_shares_keep_what_it_cannot_express() -> None:
    model, experts, grey, truth = dotted_face()
    odd = truth + np.random.default_rng(3).normal(size=truth.shape) * 3
    plain = fit.refine(grey, odd, None, fit.ClnfModel(model, experts), PATIENT)
    np.testing.assert_allclose(plain.landmarks, pdm.project(model, plain.params), atol=1e-3)
    assert (plain.shares == 0).all()
    keep = dataclasses.replace(TUNED, residual_share=0.5)
    sure, unsure = np.full(68, 0.01), np.full(68, 1e4)
    kept = fit.refine(grey, odd, None, fit.ClnfModel(model, experts, keep), PATIENT, sure)
    residual = odd - pdm.project(model, kept.start)
    np.testing.assert_allclose(kept.landmarks - pdm.project(model, kept.params), 0.5 * residual, atol=1e-2)
    assert (
        fit.refine(grey, odd, None, fit.ClnfModel(model, experts, keep), PATIENT, unsure).shares.max() < 1e-3
    )


def test_a_sure_prior_holds_the_landmarks_and_an_unsure_one_lets_them_go() -> None:
    model, experts, grey, truth = dotted_face()
    moved = truth + np.array([6.0, 0.0])
    strong = EngineConstants(prior_weight=1.0, prior_floor=0.1)
    distance = {}
    for sigma in (0.2, 1000.0):
        found = fit.refine(
            grey, moved, None, fit.ClnfModel(model, experts, strong), PATIENT, np.full(68, sigma)
        )
        distance[sigma] = np.linalg.norm(found.landmarks - moved, axis=1).mean()
    assert distance[0.2] < 2.0
    assert distance[1000.0] > 4.0


def test_the_coarsest_scale_is_for_landmarks_that_are_unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    model, experts, rng = face_model(), random_experts(), np.random.default_rng(4)
    grey = texture(rng, 260, 260)
    points = pdm.project(model, random_params(rng, model, 1.4, (130.0, 130.0)))
    unit = float(np.linalg.norm(points[45] - points[36]))
    scales: list[int] = []
    fit_scale = fit.fit_scale
    monkeypatch.setattr(fit, "fit_scale", lambda *given: scales.append(given[-1].index) or fit_scale(*given))

    def looked_at(spread: float, constants: EngineConstants = TUNED, held: Any = None) -> list[int]:
        scales.clear()
        sigma = np.full(68, spread * unit)
        fit.refine(grey, points, None, fit.ClnfModel(model, experts, constants), PATIENT, sigma, fixed=held)
        return scales

    assert looked_at(0.9 * TUNED.confident_sigma) == [1, 2]
    assert looked_at(1.1 * TUNED.confident_sigma) == [0, 1, 2]
    assert looked_at(0.001, PUBLISHED) == [0, 1, 2]
    assert looked_at(0.001, held=np.arange(68) == 30) == [0, 1, 2]


def test_refine_is_the_same_from_several_threads() -> None:
    model, experts, grey, truth = dotted_face()
    starts = [truth + shift for shift in np.random.default_rng(0).normal(size=(12, 1, 2)) * 4]

    def run(landmarks: Any) -> Any:
        return fit.refine(
            grey, landmarks, None, fit.ClnfModel(model, experts), PATIENT, np.full(68, 3.0)
        ).landmarks

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(run, starts))
    for landmarks, expected in zip(threaded, map(run, starts), strict=True):
        np.testing.assert_array_equal(landmarks, expected)


# Failures


@pytest.mark.parametrize("case", ["outside", "tiny", "nan", "one place", "huge", "infinite sigma"])
def test_no_usable_face_gives_back_the_landmarks(case: str) -> None:
    model, experts, grey, truth = dotted_face()
    landmarks, sigma = truth.copy(), None
    if case == "outside":
        landmarks += 5000
    elif case == "tiny":
        landmarks = 100 + 0.02 * landmarks
    elif case == "nan":
        landmarks[:] = np.nan
    elif case == "one place":
        landmarks[:] = 100.0
    elif case == "huge":
        landmarks *= 1e9
    else:
        sigma = np.full(68, np.inf)
    found = fit.refine(grey, landmarks, None, fit.ClnfModel(model, experts), PATIENT, sigma)
    assert np.isfinite(found.params).all()
    if case == "infinite sigma":
        assert np.isfinite(found.landmarks).all()
    else:
        assert not found.converged
        np.testing.assert_array_equal(found.landmarks, landmarks.astype(np.float32))


def test_missing_landmarks_are_filled_from_the_model() -> None:
    model, experts, grey, truth = dotted_face()
    partly = truth.copy()
    partly[[3, 40, 50]] = np.nan
    found = fit.refine(grey, partly, None, fit.ClnfModel(model, experts), PATIENT, np.full(68, 1.0))
    assert found.converged
    assert np.isfinite(found.landmarks).all()
    assert np.linalg.norm(found.landmarks - truth, axis=1).max() < 10


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), kind=st.sampled_from(["flat", "noise", "thin"]))
def test_results_are_always_finite(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    model, experts = face_model(seed=seed % 7), random_experts(seed % 5)
    height, width = (int(v) for v in rng.integers(1, 300, 2))
    grey = rng.integers(0, 256, (height, width)).astype(np.uint8)
    if kind == "flat":
        grey[:] = 0
    elif kind == "thin":
        grey = grey[:1]
    landmarks = rng.normal(size=(68, 2)) * 10.0 ** rng.uniform(-2, 3) + rng.uniform(-50, 300, 2)
    sigma = 10.0 ** rng.uniform(-6, 6, 68) if seed % 2 else None
    found = fit.refine(grey, landmarks, None, fit.ClnfModel(model, experts), PATIENT, sigma)
    assert np.isfinite(found.landmarks).all()
    assert np.isfinite(found.params).all()


def test_wrong_shapes_are_refused_in_a_sentence() -> None:
    model, experts, grey, truth = dotted_face()
    with pytest.raises(ImageError, match=r"greyscale image \(H, W\) of type uint8"):
        fit.refine(np.zeros((4, 4, 3), np.uint8), truth, None, fit.ClnfModel(model, experts), PATIENT)
    with pytest.raises(ModelError, match="landmarks must have the shape"):
        fit.refine(grey, truth[:5], None, fit.ClnfModel(model, experts), PATIENT)
    with pytest.raises(ModelError, match="params must have the shape"):
        fit.refine(grey, truth, np.zeros(6), fit.ClnfModel(model, experts), PATIENT)
    with pytest.raises(ModelError, match="sigma must have the shape"):
        fit.refine(grey, truth, None, fit.ClnfModel(model, experts), PATIENT, np.zeros(3))


# Carrying a correction


def test_a_correction_applied_where_it_was_measured_gives_the_refined_landmarks() -> None:
    model, experts, grey, truth = dotted_face()
    rough = truth + np.array([4.0, 3.0]) + np.random.default_rng(5).normal(size=(68, 2))
    found = fit.refine(grey, rough, None, fit.ClnfModel(model, experts), PATIENT, np.full(68, 2.0))
    correction = fit.measure_correction(model, found.start, found.params, found.shares)
    landmarks, params = fit.apply_correction(model, correction, found.start, rough)
    np.testing.assert_allclose(landmarks, found.landmarks, atol=1e-3)
    np.testing.assert_allclose(pdm.project(model, params), pdm.project(model, found.params), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), angle=st.floats(-3, 3), growth=st.floats(0.3, 3))
def test_a_carried_correction_turns_and_grows_with_the_face(seed: int, angle: float, growth: float) -> None:
    rng = np.random.default_rng(seed)
    model = face_model(seed=seed % 7)
    before = random_params(rng, model, 1.2, (100.0, 120.0))
    after = random_params(rng, model, 1.3, (104.0, 118.0))
    after[1:4] = before[1:4] + rng.normal(size=3) * 0.1
    shares = rng.uniform(0, 1, 68)
    correction = fit.measure_correction(model, before, after, shares)
    rough = pdm.project(model, before) + rng.normal(size=(68, 2))
    here, _ = fit.apply_correction(model, correction, before, rough)

    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    rotation = pdm.rotation_matrix(before[1:4])
    moved = before.copy()
    moved[0] *= growth
    moved[1:4] = pdm.euler_angles(np.vstack([turn @ rotation[:2], rotation[2]]))
    moved[4:6] = growth * turn @ before[4:6] + [7, -30]
    there, _ = fit.apply_correction(model, correction, moved, growth * rough @ turn.T + [7, -30])
    np.testing.assert_allclose(there, growth * here @ turn.T + [7, -30], atol=2e-3 * (1 + growth))


# Files


def write_experts(path: Path, **changes: Any) -> None:
    arrays = {
        "scales": SCALES,
        "view_centres": VIEWS,
        "visibility": np.ones((2, 68), np.uint8),
        **{k: v.astype(np.float16) for k, v in stored_weights(np.random.default_rng(0), 3, 2).items()},
    }
    arrays.update(changes)
    np.savez_compressed(path, **{k: v for k, v in arrays.items() if v is not None})


def test_saved_experts_load_unmirrored(tmp_path: Path) -> None:
    stored = stored_weights(np.random.default_rng(2), 5, 3)
    path = tmp_path / "cen.npz"
    arrays = {"scales": SCALES, "view_centres": VIEWS, "visibility": np.ones((2, 68)), **stored}
    save_patch_experts(path, arrays, np.float32)
    loaded = load_patch_experts(path)
    expected = unmirror(SCALES, VIEWS, np.ones((2, 68)), **stored)
    for item in dataclasses.fields(PatchExperts):
        np.testing.assert_allclose(getattr(loaded, item.name), getattr(expected, item.name), atol=1e-6)
    assert loaded.w1.shape == (3, 3, 68, N_INPUTS, 5)
    assert loaded.w1.dtype == np.float32
    assert loaded.w1.flags.c_contiguous


@pytest.mark.parametrize(
    "changes",
    [
        {"w1": None},
        {"scales": np.array([0.5, 0.25, 0.3])},
        {"scales": np.array([0.0, 0.25, 0.3])},
        {"scales": np.zeros(0)},
        {"scales": np.array(["a", "b", "c"])},
        {"w1": np.zeros((3, N_STORED, N_INPUTS, 4), np.float16)},
        {"w2": np.zeros((3, 2, 2), np.float16)},
        {"w3": np.full((3, N_STORED, 3), np.nan, np.float16)},
        {"w3": np.full((3, N_STORED, 3), np.inf, np.float32)},
        {"confidences": -np.ones((3, N_STORED))},
        {"visibility": np.ones((2, 68), np.float32)},
        {"view_centres": np.array([[object()] * 3] * 3)},
        {"w1": np.zeros((3, N_STORED, N_INPUTS, 0), np.float16)},
    ],
)
def test_malformed_experts_are_refused_in_one_sentence(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "cen.npz"
    write_experts(path, **changes)
    with pytest.raises(ModelError) as caught:
        load_patch_experts(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_experts_of_older_bundles_that_would_end_elsewhere_are_refused(tmp_path: Path) -> None:
    write_experts(tmp_path / "cen.npz", beyond=np.zeros((137, 136), np.float16))
    with pytest.raises(ModelError, match=r"final linear map, as bundles of version 0\.4\.1"):
        load_patch_experts(tmp_path / "cen.npz")


def test_damaged_files_are_refused_or_load_whole(tmp_path: Path) -> None:
    path = tmp_path / "cen.npz"
    write_experts(path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        if rng.random() < 0.5:
            damaged = damaged[: int(rng.integers(0, len(content)))]
        else:
            for place in rng.integers(0, len(content), 8):
                damaged[place] = int(rng.integers(0, 256))
        path.write_bytes(bytes(damaged))
        try:
            assert np.isfinite(load_patch_experts(path).w1).all()
        except ModelError:
            refused += 1
    assert refused > 30


def test_a_header_that_promises_terabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cen.npz"
    write_experts(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = b"{'descr': '<f2', 'fortran_order': False, 'shape': (999999999, 107, 122, 3), }"
    header = header.ljust(117) + b"\n"
    members["w1.npy"] = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(ModelError):
        load_patch_experts(path)


def test_missing_experts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing"):
        load_patch_experts(tmp_path / "cen.npz")


def test_weights_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    stored = stored_weights(np.random.default_rng(2), 2, 2)
    stored["w2"][0, 0, 0, 0] = 1e6
    with pytest.raises(ModelError, match="finite"):
        save_patch_experts(
            tmp_path / "cen.npz",
            {"scales": SCALES, "view_centres": VIEWS, "visibility": np.ones((2, 68)), **stored},
        )


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=10, deadline=None)
@given(data=st.binary(max_size=300))
def test_bytes_of_any_kind_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "cen.npz"
    path.write_bytes(data)
    with pytest.raises(ModelError):
        load_patch_experts(path)


# Experts and frames do without OpenCV, whose versions sample differently


def test_the_engine_and_pfld_do_not_use_opencv() -> None:
    """OpenCV 4 rounds places to 1/32 px and OpenCV 5 does not; what is not there cannot matter."""
    program = (
        "import sys; sys.modules['cv2'] = None\n"
        "import napari_face_landmarks.clnf.fit, napari_face_landmarks.pfld.network\n"
        "import napari_face_landmarks.models\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


# Experts as ONNX


def test_experts_run_by_onnx_runtime_respond_alike(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    experts = random_experts(1)
    loaded = onnx_experts(experts, ["CPUExecutionProvider"])
    assert loaded.session.get_providers() == ["CPUExecutionProvider"]
    rng = np.random.default_rng(2)
    model = face_model()
    for index, view, window, checkerboard in ((0, 0, 5, False), (1, 1, 7, True), (2, 2, 3, False)):
        params = random_params(rng, model, 1.0, (100.0, 90.0))
        grey = texture(rng, 180, 200)
        to_frame = normalized_frame.image_to_frame(params, SCALES[index])
        centres = np.rint(normalized_frame.transform(to_frame, pdm.project(model, params))).astype(np.int64)
        arguments = (grey, to_frame, centres, window)
        maps = numba_engine.response_maps(*arguments, loaded, index, view, checkerboard)
        expected = reference.response_maps(*arguments, experts, index, view, checkerboard)
        np.testing.assert_allclose(maps, expected, atol=1e-4)
        few = numba_engine.response_maps(
            grey, to_frame, centres[:36], window, loaded, index, view, checkerboard
        )
        np.testing.assert_allclose(few, expected[:36], atol=1e-4)


def test_experts_are_a_valid_onnx_model() -> None:
    onnx = pytest.importorskip("onnx")
    onnx.checker.check_model(experts_graph(random_experts(1)), full_check=True)


def test_experts_that_cannot_run_as_onnx_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"no provider 'Nowhere': choose from .*CPUExecutionProvider"):
        onnx_experts(random_experts(1), ["Nowhere"])
    with pytest.raises(ModelError, match="OpenFace's patch experts do not run on ONNX"):
        onnx_experts(OpenFaceExperts("CEN", ()))
    with pytest.raises(ModelError, match="experts is 'torch': choose one of numba, onnx"):
        load_models(experts="torch")
    with pytest.raises(ModelError, match="give experts onnx"):
        load_models(providers=["CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelError, match=r'pip install "napari-face-landmarks\[onnx\]"'):
        load_models(experts="onnx")


@pytest.mark.slow
@pytest.mark.parametrize("searched", [68, 36])
@pytest.mark.parametrize("fixed", [(), (8, 30, 40)])
def test_a_scale_in_two_calls_is_that_of_single_steps(searched: int, fixed: tuple[int, ...]) -> None:
    rng = np.random.default_rng(searched)
    model, experts = face_model(seed=2), random_experts(3)
    params = random_params(rng, model, 1.3, (250.0, 190.0))
    first = pdm.project(model, params) + rng.normal(size=(68, 2))
    first[20] = np.nan
    sigma = rng.uniform(0.5, 4, 68)
    sigma[5] = np.nan
    held = np.isin(np.arange(68), fixed)
    in_steps = SimpleNamespace(**vars(numba_engine))
    results = [
        fit.refine(
            texture(np.random.default_rng(7), 400, 500),
            first,
            None,
            fit.ClnfModel(model, experts, engine=engine),
            PATIENT,
            sigma,
            held,
            searched,
        )
        for engine in (numba_engine, in_steps)
    ]
    assert results[0].converged
    assert results[0].iterations == results[1].iterations
    np.testing.assert_allclose(results[0].landmarks, results[1].landmarks, atol=1e-4)
    np.testing.assert_allclose(results[0].likelihood, results[1].likelihood, atol=1e-6)
