"""Training of the part models: labels of lids, the split, augmented crops and their loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_face_landmarks.evaluation.split import HELD_OUT_PERSONS, split_masks
from napari_face_landmarks.training.part_labels import (
    LID_KNOTS,
    PartFaces,
    apertures,
    close_lids,
    in_thirds,
    mesh_lids,
)

OPEN_EYE = np.array([[0.0, 0.0], [1.0, -0.45], [2.0, -0.45], [3.0, 0.0], [2.0, 0.45], [1.0, 0.45]])


def eye_of(aperture: float) -> np.ndarray:
    return OPEN_EYE * [1.0, aperture / 0.3]


def test_apertures_are_heights_over_widths_in_any_roll() -> None:
    assert apertures(OPEN_EYE) == pytest.approx(0.3)
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    assert apertures(OPEN_EYE @ turn.T * 7 + 3) == pytest.approx(0.3)
    assert apertures(eye_of(-0.1)) == pytest.approx(-0.1)


@pytest.mark.parametrize("bundle", LID_KNOTS)
def test_lids_of_shut_eyes_meet_and_open_ones_keep_their_height(bundle: str) -> None:
    knots = LID_KNOTS[bundle]
    for shut in (0.02, 0.05):
        lids = close_lids(eye_of(shut), knots)
        assert apertures(lids) == pytest.approx(0, abs=1e-6)
        np.testing.assert_allclose(lids[[0, 3]], OPEN_EYE[[0, 3]])
        np.testing.assert_allclose(lids[[1, 2], 0], [1, 2])
    closed = [float(apertures(close_lids(eye_of(a), knots))) for a in np.linspace(0, 0.6, 25)]
    assert (np.diff(closed) >= -1e-9).all()
    assert closed[-1] - closed[-2] == pytest.approx(0.025, abs=1e-6)


def test_lids_are_moved_to_thirds_of_their_curve() -> None:
    along = np.linspace(0, np.pi, 4)
    sliding = np.array([0, 0.5, 1.9, np.pi])  # the same curve, other points of it
    wanted = np.stack([-np.cos(along), -np.sin(along)], axis=1)
    given = np.stack([-np.cos(sliding), -np.sin(sliding)], axis=1)
    lids = np.concatenate([given, given[2:0:-1] * [1, -1]])
    moved = in_thirds(lids)
    before = np.abs(lids[1:3] - wanted[1:3]).max()
    assert np.abs(moved[1:3] - wanted[1:3]).max() < 0.35 * before


def test_mesh_lids_run_from_canthus_to_canthus() -> None:
    mesh = np.zeros((478, 3))
    upper = [33, 246, 161, 160, 159, 158, 157, 173, 133]
    lower = [33, 7, 163, 144, 145, 153, 154, 155, 133]
    mesh[upper, 0] = mesh[lower, 0] = np.arange(9)
    mesh[upper[1:-1], 1], mesh[lower[1:-1], 1] = -1, 1
    right = mesh_lids(mesh)[0]
    np.testing.assert_allclose(right[[0, 3]], [[0, 0], [8, 0]])
    assert (right[[1, 2], 1] == -1).all()
    assert (right[[4, 5], 1] == 1).all()
    assert right[1, 0] < right[2, 0]
    assert right[5, 0] < right[4, 0]


def test_no_person_is_on_both_sides_of_the_split() -> None:
    people = np.array([*sorted(HELD_OUT_PERSONS), "grid_s5", "obama"] * 3)
    arrays = {"names": np.array([f"clip#{k}" for k in range(len(people))]), "person": people}
    train, held_out = split_masks("grid_blinks", arrays)
    assert not (train & held_out).any()
    assert set(people[held_out]) == HELD_OUT_PERSONS
    assert set(people[train]) == {"grid_s5", "obama"}
    heads = np.array(
        [f"{kind}_{n}_{clothes}" for kind in "ABCDEFGH" for n in range(9) for clothes in ("x", "y")]
    )
    train, held_out = split_masks("rendered_heads", {"names": heads})
    assert held_out.any()
    assert not {h[:3] for h in heads[train]} & {h[:3] for h in heads[held_out]}
    faces = np.array([f"image_{k:04d}.jpg" for k in range(1, 451)])
    train, held_out = split_masks("caltech_faces", {"names": faces})
    assert held_out.sum() == 50
    assert 450 - train.sum() - held_out.sum() == 22


@pytest.fixture(scope="module")
def faces() -> PartFaces:
    """Return drawn eyes and mouths, open and shut, with their labels."""
    import cv2

    rng = np.random.default_rng(4)
    eyes, lids, mouths, lips = [], [], [], []
    for _ in range(40):
        eye, mouth = np.full((80, 80), 150, np.uint8), np.full((84, 84, 3), 170, np.uint8)
        height = float(rng.choice([0.0, 0.1, 0.3]) * 27 / 2)
        cv2.ellipse(eye, (40, 40), (13, round(height)), 0, 0, 360, 40, -1, cv2.LINE_AA)
        points = np.array([[-13, 0], [-5, -height], [5, -height], [13, 0], [5, height], [-5, height]])
        lids.append(points / 48 + 0.5)
        opening = float(rng.choice([0, 3, 9]))
        cv2.ellipse(mouth, (42, 42), (15, round(opening) + 3), 0, 0, 360, (190, 60, 60), -1, cv2.LINE_AA)
        angle = np.concatenate([np.linspace(np.pi, -np.pi, 13)[:12], np.linspace(np.pi, -np.pi, 9)[:8]])
        tall = np.r_[np.full(12, opening + 3), np.full(8, opening)]
        lips.append(np.stack([15 * np.cos(angle), -tall * np.sin(angle)], 1) / 56 + 0.5)
        eyes.append(eye)
        mouths.append(mouth)
    iris = np.array([[0.5, 0.5, 0.25]] * 20 + [[np.nan] * 3] * 20, np.float32)
    number = np.arange(40)
    return PartFaces(
        np.array(eyes), np.array(lids, np.float32), iris, np.ones(40, np.float32), number // 2,
        np.array(mouths), np.array(lips, np.float32), np.ones(40, np.float32),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["eye", "mouth"])
def test_augmented_crops_keep_their_labels_in_place(faces: PartFaces, name: str) -> None:
    pytest.importorskip("torch")
    from napari_face_landmarks.training import parts

    part = parts.part_of(faces, name)
    rng = np.random.default_rng(0)
    for row in range(12):
        image, labels = parts._crop(part, row, rng, warped=True, jitter=1.0)
        dark = image if image.ndim == 2 else image[..., 1]
        inside = labels[:6].mean(axis=0) if name == "eye" else labels[:12].mean(axis=0)
        if name == "mouth" or apertures(part.labels[row, :6]) > 0.2:
            x, y = np.round(inside * part.size - 0.5).astype(int)
            assert dark[y, x] < 100
        corners = np.round(labels[[0, 3 if name == "eye" else 6]] * part.size - 0.5).astype(int)
        outside = corners + [[-4, 0], [4, 0]]
        assert (dark[outside[:, 1], outside[:, 0]] > 100).all()
    batch = parts.draw_batch(part, parts.PartsPlan(batch=16), rng)
    assert batch["images"].shape[:3] == (16, part.size, part.size)
    assert batch["images"].min() >= 0
    assert batch["images"].max() <= 1


def test_twins_of_a_mouth_are_one_crop_whose_skin_has_moved(faces: PartFaces) -> None:
    pytest.importorskip("torch")
    from napari_face_landmarks.training.parts import PartsPlan, draw_batch, part_of

    plan = PartsPlan(batch=12, twin_share=0.5)
    batch = draw_batch(part_of(faces, "mouth"), plan, np.random.default_rng(1))
    twin = batch["twin"]
    assert (twin[twin] == np.arange(12)).all()
    assert (twin != np.arange(12)).sum() == 6
    moved = np.linalg.norm(batch["labels"] - batch["labels"][twin], axis=2)
    assert (moved[:6].max(axis=1) > 0.005).sum() >= 4
    assert moved[6:].max() == 0
    apart = np.abs(batch["images"][:3] - batch["images"][3:6]).max(axis=-1)
    assert (np.median(apart, axis=(1, 2)) < 2 / 255).all()  # one light; most of the skin stays


def test_a_share_of_the_network_that_training_began_with_is_kept() -> None:
    torch = pytest.importorskip("torch")
    from napari_face_landmarks.training.parts import mixed, part_network

    trained, began = part_network("eye"), part_network("eye")
    final = mixed(trained, began, 0.3)
    for kept, new, old in zip(*(n.state_dict().values() for n in (final, trained, began)), strict=True):
        if kept.dtype.is_floating_point:
            torch.testing.assert_close(kept, 0.7 * new + 0.3 * old)


@pytest.mark.parametrize("name", ["eye", "mouth"])
@pytest.mark.slow
def test_the_networks_learn_drawn_parts_and_are_exported(
    faces: PartFaces, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    import onnxruntime

    from napari_face_landmarks.training import parts

    monkeypatch.setattr(parts, "load_parts", lambda data, bundle, held_out: faces)
    plan = parts.PartsPlan(steps=60, batch=16, evaluate_every=60)
    threads = torch.get_num_threads()
    metrics = parts.train(tmp_path, tmp_path, "open", name, plan)
    assert metrics["step"] == 60
    assert metrics["held_out"]["error"] < 0.25
    again = parts.train(tmp_path, tmp_path, "open", name, parts.PartsPlan(steps=61, batch=16))
    assert again["step"] == 61
    assert again["seconds"] > metrics["seconds"]
    torch.set_num_threads(threads)
    session = onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"))
    assert (tmp_path / f"{name}.onnx").stat().st_size < 600_000
    part = parts.part_of(faces, name)
    images, _ = parts.held_out_crops(part)
    tensors = parts.to_tensor(images[:3]).numpy()
    rgb = np.repeat(tensors, 3, axis=1) if name == "eye" else tensors
    network = parts.part_network(name)
    network.load_state_dict(torch.load(tmp_path / f"{name}.best.pt", weights_only=True))
    wanted = parts.predict_crops(network, images[:3]).landmarks.numpy()
    found = session.run(["landmarks", "sigma"], {"crops": rgb})
    np.testing.assert_allclose(found[0], wanted, atol=3e-3)
    assert (found[1] > 0).all()
    (tmp_path / f"{name}.best.pt").unlink()  # as a bundle has it
    begun = parts.part_network(name)
    parts._load_start(begun, tmp_path, part, plan)
    np.testing.assert_allclose(parts.predict_crops(begun, images[:3]).landmarks.numpy(), wanted, atol=3e-3)


def test_the_loss_asks_for_the_difference_of_the_lids() -> None:
    torch = pytest.importorskip("torch")
    from napari_face_landmarks.training import parts
    from napari_face_landmarks.training.part_network import PartOutputs

    truth = torch.full((1, 8, 2), 0.5)
    truth[0, :6] = torch.from_numpy(OPEN_EYE / 8 + 0.4)
    known = torch.ones(1, 8, dtype=torch.bool)

    def loss(move: list[float]) -> float:
        found = truth[:, :6].clone()
        found[0, [1, 2], 1] += move[0]
        found[0, [4, 5], 1] += move[1]
        outputs = PartOutputs(found, found, found, torch.full((1, 6), -3.0), torch.zeros(1, parts.EXTRA))
        return float(parts.part_loss("eye", outputs, truth, known, 48))

    assert loss([0.0, 0.0]) < loss([0.02, 0.02]) < loss([-0.02, 0.02])
