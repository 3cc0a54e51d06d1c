"""The point distribution model: its mathematics, its fit and its file."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from napari_face_landmarks.clnf import pdm as module
from napari_face_landmarks.clnf.pdm import (
    PDM,
    clamp,
    euler_angles,
    fit_pdm,
    fit_rigid,
    load_pdm,
    project,
    rotation_matrix,
    save_pdm,
    shape_3d,
)
from napari_face_landmarks.clnf.reference import jacobian, update
from napari_face_landmarks.errors import ModelError
from numpy_reference import fit_pdm_reference

N, M = 68, 12


@pytest.fixture(scope="module")
def model() -> PDM:
    rng = np.random.default_rng(3)
    mean = rng.normal(size=(3, N)) * np.array([[45.0], [50.0], [20.0]])
    mean -= mean.mean(axis=1, keepdims=True)
    basis, _ = np.linalg.qr(rng.normal(size=(3 * N, M)))
    eigenvalues = 400.0 * 0.7 ** np.arange(M)
    return PDM(mean, basis.reshape(3, N, M), eigenvalues)


def random_params(model: PDM, rng: np.random.Generator, spread: float = 1.0) -> np.ndarray:
    q = np.clip(rng.normal(size=model.n_modes), -2.5, 2.5) * np.sqrt(model.eigenvalues) * spread
    rigid = [rng.uniform(0.3, 3.0), *rng.uniform(-0.6, 0.6, size=3), *rng.uniform(0, 500, size=2)]
    return np.concatenate([rigid, q])


def test_rotation_is_the_product_of_the_three_axes() -> None:
    rx, ry, rz = 0.3, -0.7, 1.1
    about_x = np.array([[1, 0, 0], [0, np.cos(rx), -np.sin(rx)], [0, np.sin(rx), np.cos(rx)]])
    about_y = np.array([[np.cos(ry), 0, np.sin(ry)], [0, 1, 0], [-np.sin(ry), 0, np.cos(ry)]])
    about_z = np.array([[np.cos(rz), -np.sin(rz), 0], [np.sin(rz), np.cos(rz), 0], [0, 0, 1]])
    angles = np.array([rx, ry, rz])
    np.testing.assert_allclose(rotation_matrix(angles), about_x @ about_y @ about_z, atol=1e-15)
    np.testing.assert_allclose(module.rotation_kernel(rx, ry, rz), rotation_matrix(angles), atol=1e-15)


@pytest.mark.parametrize(
    "angles",
    [(0.0, 0.0, 0.0), (0.4, -1.2, 2.9), (-3.0, 0.2, -1.0), (0.3, np.pi / 2, 0.2), (0.3, -np.pi / 2, 0.2)],
)
def test_euler_angles_give_the_rotation_back(angles: tuple[float, float, float]) -> None:
    rotation = rotation_matrix(np.array(angles))
    np.testing.assert_allclose(rotation_matrix(euler_angles(rotation)), rotation, atol=1e-6)


def test_projection_is_scale_rotation_translation_of_the_shape(model: PDM) -> None:
    params = random_params(model, np.random.default_rng(0))
    points = project(model, params)
    assert points.shape == (N, 2)
    shape = model.mean + np.einsum("aik,k->ai", model.components, params[6:])
    np.testing.assert_allclose(shape_3d(model, params[6:]), shape)
    for i in (0, 30, 67):
        expected = params[0] * (rotation_matrix(params[1:4]) @ shape[:, i])[:2] + params[4:6]
        np.testing.assert_allclose(points[i], expected, rtol=1e-12)


def test_a_positive_yaw_turns_what_is_near_to_the_left_of_the_picture(model: PDM) -> None:
    nose = PDM(np.array([[0.0] * 8, [0.0] * 8, [-30.0] * 8]), np.zeros((3, 8, 1)), np.ones(1))
    x, y = project(nose, np.array([1.0, 0.0, 0.4, 0.0, 0.0, 0.0, 0.0]))[0]
    assert x < -5
    assert y == pytest.approx(0)
    x, y = project(nose, np.array([1.0, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0]))[0]
    assert y > 5


def test_jacobian_agrees_with_finite_differences(model: PDM) -> None:
    params = random_params(model, np.random.default_rng(1))
    slope = jacobian(model, params)
    assert slope.shape == (2 * N, 6 + M)
    step = 1e-5
    for column in range(6 + M):
        delta = np.zeros(6 + M)
        delta[column] = step
        ahead, behind = (
            project(model, update(model, params, delta)),
            project(model, update(model, params, -delta)),
        )
        numeric = ((ahead - behind) / (2 * step)).T.ravel()
        np.testing.assert_allclose(slope[:, column], numeric, atol=1e-4 * np.abs(numeric).max())
    np.testing.assert_array_equal(jacobian(model, params, rigid=True), slope[:, :6])


def test_update_composes_rotations(model: PDM) -> None:
    params = random_params(model, np.random.default_rng(2))
    delta = np.zeros(6)
    delta[1:4] = 0.002, -0.003, 0.001
    turned = update(model, params, delta)
    wx, wy, wz = delta[1:4]
    generator = np.array([[0, -wz, wy], [wz, 0, -wx], [-wy, wx, 0]])
    expected = rotation_matrix(params[1:4]) @ (np.eye(3) + generator)
    np.testing.assert_allclose(rotation_matrix(turned[1:4]), expected, atol=2e-5)
    np.testing.assert_array_equal(turned[[0, 4, 5]], params[[0, 4, 5]])
    np.testing.assert_array_equal(turned[6:], params[6:])
    for _ in range(200):  # stays a rotation however often it is composed
        turned = update(model, turned, delta)
    rotation = rotation_matrix(turned[1:4])
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)


def test_the_kernels_agree_with_the_plain_functions(model: PDM) -> None:
    rng = np.random.default_rng(4)
    for _ in range(5):
        params = random_params(model, rng)
        shape, points, slope = np.empty((3, N)), np.empty((2, N)), np.empty((2 * N, 6 + M))
        module.project_kernel(model.mean, model.components, params, shape, points)
        np.testing.assert_allclose(points.T, project(model, params), rtol=1e-10)
        module.jacobian_kernel(model.components, params, shape, False, slope)
        np.testing.assert_allclose(slope, jacobian(model, params), rtol=1e-9, atol=1e-9)
        delta, moved = rng.normal(size=6 + M) * 0.3, np.empty(6 + M)
        module.update_kernel(model.eigenvalues, params, delta, 6 + M, moved)
        expected = update(model, params, delta)
        np.testing.assert_allclose(project(model, moved), project(model, expected), rtol=1e-9, atol=1e-7)


def test_solver_agrees_with_numpy_and_refuses_what_is_not_definite() -> None:
    rng = np.random.default_rng(5)
    a = rng.normal(size=(20, 12))
    matrix, right = a.T @ a, rng.normal(size=12)
    solution = right.copy()
    assert module.solve_kernel(np.triu(matrix), solution, 12)
    np.testing.assert_allclose(matrix @ solution, right, rtol=1e-8, atol=1e-8)
    assert not module.solve_kernel(np.array([[1.0, 2.0], [0.0, 1.0]]), np.ones(2), 2)


def test_clamp_keeps_q_within_three_deviations(model: PDM) -> None:
    params = random_params(model, np.random.default_rng(6))
    params[6], params[7] = 1e6, -1e6
    clamped = clamp(model, params)
    deviations = clamped[6:] / np.sqrt(model.eigenvalues)
    assert deviations[:2].tolist() == pytest.approx([3.0, -3.0])
    np.testing.assert_array_equal(clamped[8:], params[8:])
    assert params[6] == 1e6  # the argument is left alone


@pytest.mark.parametrize("roll", [0.0, 1.5, 3.0])
def test_rigid_fit_finds_the_pose_of_the_mean(model: PDM, roll: float) -> None:
    params = np.concatenate([[0.8, 0.2, -0.5, roll, 40.0, 70.0], np.zeros(M)])
    found = fit_rigid(model, project(model, params))
    np.testing.assert_allclose(project(model, found), project(model, params), atol=0.2)


def test_fit_recovers_the_landmarks_and_parameters(model: PDM) -> None:
    rng = np.random.default_rng(7)
    for _ in range(10):
        params = random_params(model, rng, spread=0.7)
        truth = project(model, params)
        found = fit_pdm(model, truth, noise=1e-3)
        np.testing.assert_allclose(project(model, found), truth, atol=0.02 * params[0])
        np.testing.assert_allclose(found[:4], params[:4], atol=0.02)
        np.testing.assert_allclose(
            found[6:] / np.sqrt(model.eigenvalues), params[6:] / np.sqrt(model.eigenvalues), atol=0.1
        )


def test_fit_agrees_with_the_reference(model: PDM) -> None:
    rng = np.random.default_rng(8)
    for start in (None, random_params(model, rng)):
        truth = project(model, random_params(model, rng)) + rng.normal(size=(N, 2))
        weights = rng.uniform(0.2, 2.0, size=N)
        fast = fit_pdm(model, truth, weights, start)
        plain = fit_pdm_reference(model, truth, weights, start)
        np.testing.assert_allclose(project(model, fast), project(model, plain), atol=1e-5)


def test_fit_leaves_out_what_is_not_finite_or_has_no_weight(model: PDM) -> None:
    params = random_params(model, np.random.default_rng(9), spread=0.5)
    truth = project(model, params)
    spoilt, weights = truth.copy(), np.ones(N)
    spoilt[:5] = np.nan
    spoilt[5] = np.inf
    spoilt[6] += 300.0
    weights[6] = 0.0
    found = fit_pdm(model, spoilt, weights, noise=0.01)
    np.testing.assert_allclose(project(model, found)[7:], truth[7:], atol=0.1 * params[0])


def test_regularisation_keeps_the_fit_near_the_mean(model: PDM) -> None:
    rng = np.random.default_rng(10)
    noisy = project(model, random_params(model, rng)) + rng.normal(size=(N, 2)) * 5
    size = [
        np.sum(fit_pdm(model, noisy, noise=noise)[6:] ** 2 / model.eigenvalues) for noise in (0.1, 3.0, 100.0)
    ]
    assert size[0] > size[1] > size[2]
    assert size[2] < 0.1


@pytest.mark.parametrize("start", [np.full(6 + M, np.nan), np.zeros(6 + M), np.full(6 + M, 1e9)])
def test_a_useless_start_does_no_harm(model: PDM, start: np.ndarray) -> None:
    truth = project(model, random_params(model, np.random.default_rng(11)))
    assert np.isfinite(fit_pdm(model, truth, params=start)).all()


def test_degenerate_landmarks_are_refused_in_a_sentence(model: PDM) -> None:
    for landmarks in (np.full((N, 2), np.nan), np.full((N, 2), 7.0), np.zeros((5, 2))):
        with pytest.raises(ModelError, match=r"^[A-Z].*\.$"):
            fit_pdm(model, landmarks)


def test_landmarks_on_a_line_give_finite_parameters(model: PDM) -> None:
    line = np.stack([np.linspace(0, 100, N), np.full(N, 20.0)], axis=1)
    assert np.isfinite(fit_pdm(model, line)).all()


@pytest.mark.nightly
def test_a_warm_fit_is_fast(model: PDM) -> None:
    params = random_params(model, np.random.default_rng(12), spread=0.5)
    truth = project(model, params)
    start = fit_pdm(model, truth + 0.3)
    best = min(_seconds(model, truth, start) for _ in range(50))
    assert best < 2e-3  # about 0.2 ms; the slack is for a busy machine


def _seconds(model: PDM, truth: np.ndarray, start: np.ndarray) -> float:
    begun = time.perf_counter()
    fit_pdm(model, truth, params=start)
    return time.perf_counter() - begun


def test_file_round_trip(model: PDM, tmp_path: Path) -> None:
    path = tmp_path / "pdm.npz"
    save_pdm(path, model)
    with np.load(path) as stored:
        assert stored["mean"].shape == (3 * N,)
        np.testing.assert_array_equal(stored["mean"][:N], model.mean[0])
        assert stored["components"].shape == (3 * N, M)
    loaded = load_pdm(path)
    np.testing.assert_array_equal(loaded.mean, model.mean)
    np.testing.assert_array_equal(loaded.components, model.components)
    np.testing.assert_array_equal(loaded.eigenvalues, model.eigenvalues)


def _arrays(model: PDM) -> dict[str, np.ndarray]:
    return {
        "mean": model.mean.reshape(-1),
        "components": model.components.reshape(3 * N, M),
        "eigenvalues": model.eigenvalues,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", np.zeros(203)),
        ("mean", np.zeros((204, 1))),
        ("mean", np.full(204, np.nan)),
        ("mean", np.array(["x"] * 204)),
        ("mean", np.zeros(0)),
        ("components", np.zeros((204, M + 1))),
        ("components", np.zeros((204, M), dtype=np.int64)),
        ("components", np.zeros((204, 300))),
        ("eigenvalues", np.zeros(M)),
        ("eigenvalues", np.arange(1.0, M + 1)),
        ("eigenvalues", np.array([None] * M)),
    ],
)
def test_a_malformed_model_is_refused(model: PDM, tmp_path: Path, name: str, value: np.ndarray) -> None:
    path = tmp_path / "pdm.npz"
    np.savez(path, **{**_arrays(model), name: value}, allow_pickle=True)
    with pytest.raises(ModelError, match=r"pdm\.npz.*\.$") as caught:
        load_pdm(path)
    assert "\n" not in str(caught.value)


def test_a_broken_file_is_refused(model: PDM, tmp_path: Path) -> None:
    path = tmp_path / "pdm.npz"
    with pytest.raises(ModelError, match="missing"):
        load_pdm(path)
    save_pdm(path, model)
    whole = path.read_bytes()
    for content in (b"", b"nonsense", whole[: len(whole) // 2], whole[:200] + bytes(400) + whole[600:]):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"\.$"):
            load_pdm(path)
    path.write_bytes(whole + bytes(5 << 20))
    with pytest.raises(ModelError, match="larger"):
        load_pdm(path)
    with pytest.raises(ModelError, match=r"\.$"):
        load_pdm(tmp_path)
    np.savez(path, mean=np.zeros(204))
    with pytest.raises(ModelError, match="components"):
        load_pdm(path)


def test_a_header_that_lies_about_its_size_allocates_nothing(model: PDM, tmp_path: Path) -> None:
    import io
    import zipfile

    path = tmp_path / "pdm.npz"
    save_pdm(path, model)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    lie = io.BytesIO()
    np.lib.format.write_array_header_1_0(lie, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)})
    members["mean.npy"] = lie.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ModelError, match="which is invalid"):
        load_pdm(path)
