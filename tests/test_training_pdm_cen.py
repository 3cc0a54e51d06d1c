"""Training of the PDM and of the patch experts, on small made-up faces."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from napari_face_landmarks.clnf.normalized_frame import contrast_normalise
from napari_face_landmarks.clnf.patch_experts import FRONTAL_STORED, N_STORED, load_patch_experts
from napari_face_landmarks.clnf.pdm import PDM, fit_pdm, load_pdm, project, rotation_matrix
from napari_face_landmarks.clnf.reference import expert_response
from napari_face_landmarks.ibug import MIRROR_68, nme
from napari_face_landmarks.training import pdm as training_pdm
from napari_face_landmarks.training.faces import NO_MESH, Faces
from napari_face_landmarks.training.pose_augmentation import HeadModel

FLIP = np.array([[-1.0], [1.0], [1.0]])


def made_up_mean() -> np.ndarray:
    """A symmetric solid with 68 points, its outer eyes 90 apart, the middle nearer than the sides."""
    rng = np.random.default_rng(0)
    points = np.stack([rng.uniform(5, 70, 68), rng.uniform(-70, 70, 68), np.zeros(68)])
    points[0, np.arange(68) > MIRROR_68] *= -1
    points[0, np.arange(68) == MIRROR_68] = 0.0
    points[:2, 36] = -45, -20
    points[2] = 40 * (points[0] / 70) ** 2 - 30 * np.exp(-((points[0] / 15) ** 2))
    right = np.arange(68) < MIRROR_68
    points[:, MIRROR_68[right]] = points[:, right] * FLIP
    return np.asarray(points - np.array([[0], [points[1].mean()], [points[2].mean()]]))


NO_NOISE = np.zeros((100, 68), np.float32)
NO_TURN = HeadModel(np.zeros((478, 3)), np.zeros(1, np.int64), np.zeros((1, 3), np.int64))


@pytest.fixture(scope="module")
def truth() -> PDM:
    mean = made_up_mean()
    rng = np.random.default_rng(1)
    spread = rng.normal(size=(40, 204)) * np.linspace(6, 1, 40)[:, None]
    return training_pdm.pdm_of_covariance(mean, spread.T @ spread / 40, 6)


def made_up_faces(truth: PDM, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return landmarks (N, 68, 2), and meshes (N, 478, 3) with the true depth at the mapped vertices."""
    rng = np.random.default_rng(seed)
    landmarks, mesh = np.empty((count, 68, 2), np.float32), np.full((count, 478, 3), 50.0, np.float32)
    for i in range(count):
        angles = rng.normal(0, [0.1, 0.25, 0.1])
        params = np.concatenate(
            [[rng.uniform(0.7, 0.9)], angles, [128, 128], rng.normal(size=6) * np.sqrt(truth.eigenvalues)]
        )
        landmarks[i] = project(truth, params)
        solid = truth.mean + truth.components @ params[6:]
        mesh[i, training_pdm.MESH_68, 2] = params[0] * (rotation_matrix(angles) @ solid)[2] + 7.0
    return landmarks, mesh


def test_vertices_are_one_for_each_landmark() -> None:
    assert len(set(training_pdm.MESH_68.tolist())) == 68
    assert training_pdm.MESH_68.max() < 478


def test_observations_hold_every_face_and_its_mirror_image(truth: PDM) -> None:
    landmarks, mesh = made_up_faces(truth, 5, 2)
    mesh[3] = NO_MESH
    seen = training_pdm.observe(landmarks, mesh, training_pdm.PdmPlan(weakness_share=0.0))
    assert seen.points.shape == (10, 3, 68)
    np.testing.assert_allclose(seen.points[2, :2].T, landmarks[2])
    np.testing.assert_allclose(seen.points[7], seen.points[2][:, MIRROR_68] * FLIP)
    assert seen.has_depth.tolist() == [True, True, True, False, True] * 2
    weak = training_pdm.observe(landmarks, mesh, training_pdm.PdmPlan(weakness_share=0.3))
    assert len(weak.points) == 20
    assert set(weak.weight.tolist()) == {0.3, 1.0}


def test_align_finds_scale_and_rotation() -> None:
    rng = np.random.default_rng(3)
    shape = rng.normal(size=(3, 68))
    rotation = rotation_matrix(np.array([0.3, -0.5, 0.2]))
    scale, found = training_pdm.align(shape, 1.7 * rotation @ shape + 4.0)
    assert scale == pytest.approx(1.7)
    np.testing.assert_allclose(found, rotation, atol=1e-12)


def test_standardised_shape_is_symmetric_and_of_the_unit() -> None:
    mean = made_up_mean()
    for angles in ([0.0, 0.2, 0.0], [0.0, 0.0, -0.3], [0.2, 0.1, -0.3]):
        turned = 0.6 * rotation_matrix(np.array(angles)) @ mean + 5.0
        found = training_pdm.standardised(turned)
        np.testing.assert_allclose(found, found[:, MIRROR_68] * FLIP, atol=1e-9)
        assert np.linalg.norm(found[:, 36] - found[:, 45]) == pytest.approx(90.0)
        if np.count_nonzero(angles) == 1:  # symmetry says nothing about the pitch
            np.testing.assert_allclose(found, mean, atol=1e-6)


def test_components_are_orthonormal_free_of_pose_and_symmetric(truth: PDM) -> None:
    flat = truth.components.reshape(204, 6)
    np.testing.assert_allclose(flat.T @ flat, np.eye(6), atol=1e-10)
    x, y, z = truth.mean
    nought = np.zeros(68)
    for motion in (
        [x, y, z],
        [nought, -z, y],
        [z, nought, -x],
        [-y, x, nought],
        [nought + 1, nought, nought],
    ):
        np.testing.assert_allclose(np.concatenate(motion) @ flat, 0, atol=1e-8)
    mirrored = (truth.components[:, MIRROR_68] * FLIP[:, :, None]).reshape(204, 6)
    np.testing.assert_allclose(flat @ (flat.T @ mirrored), mirrored, atol=1e-6)


@pytest.mark.slow
def test_expectation_maximisation_recovers_a_model_from_flat_labels(truth: PDM) -> None:
    plan = training_pdm.PdmPlan(modes=6, rounds=8, weakness_share=0.0)
    landmarks, mesh = made_up_faces(truth, 200, 4)
    rng = np.random.default_rng(5)
    mesh[:, :, 2] = mesh[:, :, 2] * 0.7 + rng.normal(0, 2, mesh.shape[:2])  # a poor depth
    seen = training_pdm.observe(landmarks, mesh, plan)
    model, params = training_pdm.lifted_model(seen, plan.modes)
    lifted_depth_error = depth_error(model, truth)
    unseen, _ = made_up_faces(truth, 30, 6)
    before = training_pdm.residual(model, unseen).mean()
    for _ in range(plan.rounds):
        model, params = training_pdm.expectation_maximisation(model, params, seen, plan)
        params[:, 6:] = 0.0
    after = training_pdm.residual(model, unseen).mean()
    assert after < 0.75 * before
    assert after < 0.008
    assert depth_error(model, truth) < 0.8 * lifted_depth_error


def depth_error(model: PDM, truth: PDM) -> float:
    _, rotation = training_pdm.align(model.mean, truth.mean, np.arange(68))  # the pitch is free
    return float(np.abs((rotation @ model.mean - truth.mean)[2]).mean())


def made_up_crops(truth: PDM, count: int, seed: int) -> Faces:
    """Faces whose landmarks are dark dots of their own kinds on a bright ground."""
    landmarks, mesh = made_up_faces(truth, count, seed)
    rng = np.random.default_rng(seed)
    images = []
    y, x = np.mgrid[:256, :256]
    for points in landmarks:
        image = rng.uniform(150, 190, (256, 256))
        for k, (px, py) in enumerate(points):
            image -= (60 + k) * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * (1.5 + k / 30) ** 2))
        images.append(np.repeat(np.clip(image, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2))
    return Faces(
        [f"{i}.png" for i in range(count)],
        images,
        landmarks,
        mesh,
        np.full(count, 1 / count),
        NO_NOISE[:count],
    )


def test_training_of_the_pdm_writes_its_files(
    truth: PDM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_faces(data: Path, *, bundle: str, held_out: bool, machine_made: bool = True) -> Faces:
        landmarks, mesh = made_up_faces(truth, 20 if held_out else 60, 8 + held_out)
        return Faces(
            [str(i) for i in range(len(landmarks))],
            [],
            landmarks,
            mesh,
            np.ones(len(mesh)),
            NO_NOISE[: len(mesh)],
        )

    monkeypatch.setattr(training_pdm, "load_faces", load_faces)
    parser = argparse.ArgumentParser()
    training_pdm.add_arguments(parser)
    args = parser.parse_args(["--modes", "12", "--rounds", "2"])
    args.data, args.out, args.bundle = tmp_path, tmp_path / "out", "research"
    training_pdm.run(args)
    model = load_pdm(args.out / "pdm.npz")
    assert (model.n_points, model.n_modes) == (68, 12)
    metrics = json.loads((args.out / "pdm.metrics.json").read_text())
    assert json.loads(capsys.readouterr().out) == metrics
    assert (metrics["faces"], metrics["held_out_faces"]) == (60, 20)
    unseen, _ = made_up_faces(truth, 20, 9)
    fitted = np.stack([project(model, fit_pdm(model, points)) for points in unseen])
    assert metrics["held_out_residual_nme"] == pytest.approx(nme(fitted, unseen).mean(), rel=1e-6)
    by_modes = list(metrics["held_out_residual_nme_by_modes"].values())
    assert by_modes == sorted(by_modes, reverse=True)


@pytest.fixture(scope="module")
def cen():
    pytest.importorskip("torch")
    from napari_face_landmarks.training import cen

    return cen


@pytest.fixture(scope="module")
def plan(cen):
    return cen.CenPlan(
        scales=(0.25,),
        hidden=(8, 4),
        frontal_reach=40.0,
        side_from=2.0,
        frontal_copies=1,
        side_copies=1,
        turned_share=0.0,
        acted_share=0.0,
        pictures=12,
        places=8,
        steps=80,
        learning_rate=2e-2,
        ema=0.9,
        evaluate_every=20,
    )


@pytest.fixture(scope="module")
def pools(cen, plan, truth):
    return cen.make_pools(made_up_crops(truth, 16, 10), truth, NO_TURN, plan, varied=True)[0]


@pytest.mark.slow
def test_pools_hold_mirrored_frontal_and_one_sided_turned_faces(cen, plan, pools, truth) -> None:
    faces = made_up_crops(truth, 16, 10)
    yaw = cen.yaw_of(faces.landmarks, truth)
    assert len(pools.frontal.pictures) == 2 * np.count_nonzero(np.abs(yaw) < 40)
    assert len(pools.side.pictures) == np.count_nonzero(np.abs(yaw) > 2)
    height, width = pools.side.pictures.shape[1:]
    turned = [fit_pdm(truth, places)[2] for places in pools.side.places]
    assert min(turned) > 0  # all to the stored side
    inside = (pools.side.places > 5) & (pools.side.places < np.array([width, height]) - 6)
    assert inside.mean() > 0.99


def test_supports_are_column_by_column_and_contrast_normalised(cen, pools) -> None:
    pool = pools.frontal
    which, x, y = np.array([[1, 2]]), np.array([[20, 13]]), np.array([[17, 30]])
    supports = np.empty((1, 2, 121), np.float32)
    cen.take_supports(pool.pictures, which, x, y, supports)
    for k in range(2):
        patch = pool.pictures[which[0, k], y[0, k] - 5 : y[0, k] + 6, x[0, k] - 5 : x[0, k] + 6] / 256
        np.testing.assert_allclose(supports[0, k], contrast_normalise(patch.T.ravel()), atol=1e-5)


def test_targets_fall_off_with_the_distance_and_vanish_where_covered(cen, pools) -> None:
    pool = pools.frontal
    covered = pool.covered.copy()
    covered[0, 31] = True
    covered[0, 30] = False
    pool = cen.Pool(pool.pictures, pool.places, covered, pool.unit)
    landmarks = np.array([30, 31])
    centre = np.round(pool.places[0, landmarks]).astype(int)
    x = centre[:, :1] + np.array([[0, 2]])
    y = np.repeat(centre[:, 1:], 2, axis=1)
    value = cen.targets(pool, landmarks, np.zeros((2, 2), int), x, y, 1.0)
    offset = pool.places[0, 30] - np.array([x[0, 1], y[0, 1]])
    assert value[0, 1] == pytest.approx(np.exp(-0.5 * offset @ offset), rel=1e-5)
    assert value[0, 0] > 0.7
    assert (value[1] == 0).all()


def test_batches_have_near_and_far_places(cen, plan, pools) -> None:
    supports, wanted = cen.draw_batch(pools, plan, np.random.default_rng(0))
    assert supports.shape == (N_STORED, 96, 121)
    assert 0.02 < float((wanted > 0.5).float().mean()) < 0.5
    assert float((wanted < 0.01).float().mean()) > 0.4


def test_stored_weights_give_the_responses_of_the_network(cen, plan, pools) -> None:
    import torch

    torch.manual_seed(0)
    experts = cen.Experts((8, 4))
    supports, _ = cen.draw_batch(pools, plan, np.random.default_rng(1))
    with torch.no_grad():
        wanted = torch.sigmoid(experts(supports)).numpy()
    stored = experts.stored()
    for row in (0, 40, 106):
        inputs = np.column_stack([np.ones(supports.shape[1]), supports[row].numpy()])
        found = expert_response(inputs, stored["w1"][row], stored["w2"][row], stored["w3"][row])
        np.testing.assert_allclose(found, wanted[row], atol=1e-5)


@pytest.mark.slow
def test_training_finds_the_landmarks_and_goes_on_after_a_stop(
    cen, plan, truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, unseen = made_up_crops(truth, 16, 10), made_up_crops(truth, 6, 12)
    monkeypatch.setattr(cen, "load_faces", lambda data, **side: unseen if side["held_out"] else train)
    monkeypatch.setattr(cen, "load_head_model", lambda data: NO_TURN)
    monkeypatch.setattr(cen, "faster_precision", lambda *timed: cen.torch.float32)  # may differ otherwise
    straight = cen.train_cen(tmp_path, tmp_path / "a", truth, plan=plan)
    experts = load_patch_experts(tmp_path / "a" / "cen.npz")
    assert experts.scales.tolist() == [0.25]
    assert experts.w1.shape == (1, 3, 68, 122, 8)
    assert (experts.view_centres[:, 1] == [0, 24, -24]).all()
    found = straight["held_out"]["0.25"]
    assert found["correlation"] > 0.3
    assert found["peak_median_px"] < 3.0  # by chance about 5
    np.testing.assert_allclose(
        experts.confidences[0, 0, FRONTAL_STORED], experts.confidences[0, 0, MIRROR_68[FRONTAL_STORED]]
    )

    draw, seen = cen.draw_batch, []

    def stops(*args):
        seen.append(0)
        if len(seen) > 45:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(cen, "draw_batch", stops)
    with pytest.raises(KeyboardInterrupt):
        cen.train_cen(tmp_path, tmp_path / "b", truth, plan=plan)
    monkeypatch.setattr(cen, "draw_batch", draw)
    cen.train_cen(tmp_path, tmp_path / "b", truth, plan=plan)
    again = load_patch_experts(tmp_path / "b" / "cen.npz")
    np.testing.assert_allclose(again.w1, experts.w1, atol=1e-3)
    rows = (tmp_path / "b" / "cen.log.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["20", "40", "60", "80"]
