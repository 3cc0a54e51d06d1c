"""PFLD's training: what it does to faces and their landmarks; a killed run goes on where it stopped."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_face_landmarks.evaluation.split import (
    CALTECH_GAP,
    CALTECH_HELD_OUT,
    held_out_mask,
    is_held_out,
)
from napari_face_landmarks.ibug import MIRROR_68
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.pfld.crop import CROP_SIZE, crops_of_landmarks, to_crop
from napari_face_landmarks.training.augment import (
    augmented_face,
    cut,
    displaced,
    face_shape_bumps,
    flipped,
    local_bump,
    occlude,
    photometric,
    random_blur,
    soft_tissue_bumps,
    twin_faces,
)
from napari_face_landmarks.training.marks import draw_marks, draw_on_part
from training_support import CALTECH_NUMBERS, NAMES, dotted_face, make_small, write_data

NO_BUMPS = np.zeros((0, 5), np.float32)


def brightness_at(crop: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    at = np.round(fractions * CROP_SIZE - 0.5).astype(int)
    grown = cv2.dilate(crop.max(axis=2), np.ones((3, 3), np.uint8))
    inside = ((at >= 0) & (at < CROP_SIZE)).all(axis=1)
    return grown[at[inside, 1], at[inside, 0]]


@pytest.mark.parametrize("drawn", [soft_tissue_bumps, face_shape_bumps, local_bump])
@pytest.mark.parametrize("seed", range(4))
def test_landmarks_stay_on_their_dots_when_tissue_is_moved(seed: int, drawn: Callable[..., Any]) -> None:
    image, points = dotted_face(seed)
    bumps = drawn(points, np.random.default_rng(seed))
    crop = crops_of_landmarks(points[None])[0]
    moved = to_crop(displaced(points, bumps)[None], crop[None])[0]
    assert np.median(brightness_at(cut(image, crop, bumps), moved)) > 100
    assert np.percentile(brightness_at(cut(image, crop, bumps), moved), 10) > 40


def test_another_shape_of_the_head_is_another_and_nowhere_folded() -> None:
    _, points = dotted_face()
    side = np.arange(0, 256, 4, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), axis=-1)
    changes = []
    for seed in range(30):
        bumps = face_shape_bumps(points, np.random.default_rng(seed))
        moved = displaced(grid.reshape(-1, 2), bumps).reshape(grid.shape)
        across, down = np.gradient(moved, 4, axis=1), np.gradient(moved, 4, axis=0)
        area = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
        assert area.min() > 0.2, "skin is pushed together, not over itself"
        there = displaced(points, bumps)
        change = there - there.mean(axis=0) - points + points.mean(axis=0)
        changes.append(np.linalg.norm(change, axis=1).mean() / np.linalg.norm(points[45] - points[36]))
    assert 0.02 < np.median(changes) < 0.15, "of the inter-ocular distance"


def test_a_flip_carries_the_dots_and_swaps_the_sides() -> None:
    image, points = dotted_face()
    mirrored, landmarks = flipped(image, points)
    at = np.round(landmarks).astype(int)
    assert (cv2.dilate(mirrored[..., 0], np.ones((3, 3)))[at[:, 1], at[:, 0]] > 200).all()
    twice = flipped(mirrored, landmarks)
    np.testing.assert_array_equal(twice[0], image)
    np.testing.assert_allclose(twice[1], points, atol=1e-4)
    assert landmarks[36, 0] < landmarks[45, 0]
    np.testing.assert_allclose(landmarks[:, 1], points[MIRROR_68, 1])


def test_marks_and_covers_change_the_picture_where_they_say() -> None:
    rng = np.random.default_rng(5)
    _, points = dotted_face()
    crop = crops_of_landmarks(points[None])[0]
    inside = to_crop(points[None], crop[None])[0] * CROP_SIZE
    skin = np.full((CROP_SIZE, CROP_SIZE, 3), (200, 160, 140), np.uint8)
    marked = skin.copy()
    draw_marks(marked, inside, rng)
    changed = np.abs(marked.astype(int) - skin).sum(axis=2) > 30
    assert 0.001 < changed.mean() < 0.4
    for _ in range(20):
        covered = skin.copy()
        mask = occlude(covered, np.zeros_like(skin), rng)
        near = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        np.testing.assert_array_equal(covered[~near], skin[~near])


def test_a_pen_draws_on_a_part_in_grey_and_in_colour() -> None:
    lips = np.random.default_rng(1).uniform(10, 40, (20, 2))
    for skin in (np.full((48, 48), 170, np.uint8), np.full((56, 56, 3), (200, 160, 140), np.uint8)):
        drawn = [draw_on_part(skin, lips, 56.0, np.random.default_rng(seed)) for seed in range(8)]
        assert all(image.shape == skin.shape and image.dtype == np.uint8 for image in drawn)
        changed = [float((np.abs(image.astype(int) - skin) > 10).mean()) for image in drawn]
        assert max(changed) > 0.005
        assert max(changed) < 0.8


def test_unsharp_pictures_are_smooth_and_stay_in_place() -> None:
    dot = np.zeros((112, 112, 3), np.uint8)
    cv2.circle(dot, (60, 50), 4, (255, 255, 255), -1)
    spread = []
    for seed in range(40):
        weight = random_blur(dot, 50.0, np.random.default_rng(seed))[..., 0].astype(float)
        y, x = np.mgrid[:112, :112]
        middle = [(weight * axis).sum() / weight.sum() for axis in (x, y)]
        np.testing.assert_allclose(middle, [60, 50], atol=0.5)
        spread.append(np.sqrt((weight * (x - 60) ** 2).sum() / weight.sum()))
    assert min(spread) < 2.2
    assert max(spread) > 3.2


def test_samples_are_drawn_by_their_seed_alone() -> None:
    image, points = dotted_face()
    other = np.full((CROP_SIZE, CROP_SIZE, 3), 90, np.uint8)
    for seed in range(10):
        first = augmented_face(image, points, other, np.random.default_rng(seed))
        again = augmented_face(image, points, other, np.random.default_rng(seed))
        np.testing.assert_array_equal(first.image, again.image)
        np.testing.assert_array_equal(first.landmarks, again.landmarks)
        assert first.image.shape == (CROP_SIZE, CROP_SIZE, 3)
        assert first.image.dtype == np.uint8
        assert np.isfinite(first.landmarks).all()
    assert photometric(other, np.random.default_rng(0)).shape == other.shape


def test_the_split_holds_out_15_percent_and_keeps_a_photograph_together() -> None:
    names = np.array([f"image_{i:04d}.png" for i in range(4000)])
    assert 0.13 < held_out_mask(names).mean() < 0.17
    for number in range(200):
        assert is_held_out(f"{number}_1.jpg") == is_held_out(f"{number}_2.jpg")


def test_research_takes_the_open_faces_too_but_is_measured_on_labels_by_hand(tmp_path: Path) -> None:
    from napari_face_landmarks.training.faces import OPEN, OPEN_SHARES, RESEARCH_SHARES, load_faces

    write_data(tmp_path, np.random.default_rng(0))
    unseen = sum(map(is_held_out, NAMES))
    seen = rendered = len(NAMES) - unseen
    caltech = sum(number <= CALTECH_HELD_OUT - CALTECH_GAP for number in CALTECH_NUMBERS)
    freely = (len(OPEN_SHARES) - 2) * seen + caltech + rendered
    assert len(load_faces(tmp_path, bundle="open", held_out=False).names) == freely
    portraits = load_faces(tmp_path, bundle="open", held_out=False, machine_made=False)
    assert len(portraits.names) == len(OPEN) * seen
    assert len(load_faces(tmp_path, bundle="open", held_out=True).names) == len(OPEN) * unseen
    both = load_faces(tmp_path, bundle="research", held_out=False)
    assert len(both.names) == freely + (len(RESEARCH_SHARES) + 2) * seen
    assert both.weight.sum() == pytest.approx(1)
    assert len(load_faces(tmp_path, bundle="research", held_out=True).names) == 2 * unseen
    by_hand = load_faces(tmp_path, bundle="research", held_out=False, machine_made=False)
    assert len(by_hand.names) == 2 * seen
    np.testing.assert_array_equal(by_hand.mesh, both.mesh[: 2 * seen])


def test_only_what_research_is_trained_on_gets_labels_of_one_convention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_face_landmarks.training import faces

    write_data(tmp_path, np.random.default_rng(0))
    monkeypatch.setattr(faces, "predict_landmarks", lambda meshes, _: np.full((len(meshes), 68, 2), 7.0))
    monkeypatch.setattr(faces, "denoised", lambda labels, meshes, known: labels + 1)
    data = {
        (bundle, held_out): faces.load_faces(tmp_path, bundle=bundle, held_out=held_out).landmarks
        for bundle in ("open", "research")
        for held_out in (False, True)
    }
    alone = faces.load_faces(tmp_path, bundle="research", held_out=False, machine_made=False).landmarks
    monkeypatch.setattr(faces, "_unify_convention", lambda *given: None)
    for (bundle, held_out), landmarks in data.items():
        plain = faces.load_faces(tmp_path, bundle=bundle, held_out=held_out).landmarks
        if (bundle, held_out) == ("research", False):
            by_hand = len(alone)
            np.testing.assert_array_equal(landmarks[:by_hand], plain[:by_hand] + 1)
            np.testing.assert_array_equal(alone, plain[:by_hand])
            made, before = landmarks[by_hand:], plain[by_hand:]
            mean = np.isclose(made[:, 48:], (before[:, 48:] + 7) / 2, atol=1e-3).all(axis=(1, 2))
            assert np.count_nonzero(~mean) == len(NAMES) - sum(map(is_held_out, NAMES)), "avatars"
            lids = before[mean, 37] - before[mean, 41]
            np.testing.assert_allclose(made[mean, 37] - made[mean, 41], lids, atol=1e-3)
        else:
            np.testing.assert_array_equal(landmarks, plain)


def test_shut_and_uneven_eyes_get_their_share_of_the_batches() -> None:
    from napari_face_landmarks.training import faces

    points = np.repeat(eyes_of(0.3, 0.3)[None], 200, axis=0)
    points[:6], points[6:8] = eyes_of(0.02, 0.02), eyes_of(0.3, 0.02)
    weight = faces.balanced(np.ones(200), points)
    assert weight.sum() == pytest.approx(1)
    assert weight[6:8].sum() == pytest.approx(faces.ONE_SIDED_SHARE)
    assert 0.9 * faces.SHUT_SHARE < weight[:8].sum() < 1.3 * faces.SHUT_SHARE
    np.testing.assert_allclose(faces.balanced(np.ones(5), points[8:13]), 0.2)


def eyes_of(right: float, left: float) -> np.ndarray:
    """Return 68 landmarks of which only the eyes mean something: 30 px wide, with these apertures."""
    points = np.random.default_rng(0).uniform(0, 200, (68, 2)).astype(np.float32)
    for first, x, aperture in ((36, 60, right), (42, 130, left)):
        half = 15 * aperture
        points[first : first + 6] = [
            (x, 90), (x + 10, 90 - half), (x + 20, 90 - half), (x + 30, 90), (x + 20, 90 + half),
            (x + 10, 90 + half),
        ]  # fmt: skip
    return points


def test_lids_of_a_shut_eye_coincide_and_those_of_an_open_one_stay() -> None:
    from napari_face_landmarks.training.labels import NEARLY_SHUT, lid_apertures, with_shut_lids

    np.testing.assert_allclose(lid_apertures(eyes_of(0.05, 0.31)), [0.05, 0.31], atol=1e-5)
    for right, wanted in ((0.03, 0.0), (0.05, 0.015), (0.08, 0.06), (NEARLY_SHUT, NEARLY_SHUT), (0.2, 0.2)):
        points = eyes_of(right, 0.31).astype(float)
        moved = with_shut_lids(points)
        np.testing.assert_allclose(lid_apertures(moved), [wanted, 0.31], atol=1e-5)
        np.testing.assert_allclose(moved[[37, 41]].mean(axis=0), points[[37, 41]].mean(axis=0))
        np.testing.assert_array_equal(moved[48:], points[48:])


def test_labels_of_meshes_get_back_the_asymmetry_that_meshes_leave_out() -> None:
    from napari_face_landmarks.training.labels import with_full_asymmetry

    points = eyes_of(0.3, 0.3).astype(float)
    points[17:27, 1] = 70
    points[22:27, 1] += 3
    points[48:, 0], points[48:, 1] = np.linspace(80, 140, 20), 160
    points[48], points[54] = (80, 160), (140, 166)
    points[2], points[14], points[30] = (50, 140), (170, 140), (110, 130)
    found = with_full_asymmetry(np.stack([points, points]))[0]
    assert found[54, 1] - found[48, 1] == pytest.approx(8, abs=1e-3)
    assert (found[48, 1] + found[54, 1]) / 2 == pytest.approx(163, abs=1e-3)
    assert found[22:27, 1].mean() - found[17:22, 1].mean() == pytest.approx(4, abs=1e-3)
    np.testing.assert_allclose(found[27:48], points[27:48], atol=1e-3)
    points[30, 0] += 60
    np.testing.assert_allclose(with_full_asymmetry(points[None])[0], points, atol=1e-3)


def test_rendered_labels_take_the_convention_but_keep_their_apertures() -> None:
    from napari_face_landmarks.training.labels import aligned_landmarks, lid_apertures

    exact = np.repeat(eyes_of(0.02, 0.3)[None], 6, axis=0)
    made = exact.copy()
    made[:, 17:27, 1] -= 4
    made[:, 37, 0] += 3
    made[:, 44, 0] -= 3
    made[:, [37, 44], 1] -= 5
    yaw = np.array([0, 5, -5, 10, 3, 80.0])
    found = aligned_landmarks(exact, made, yaw)
    # the yaw of the frontal heads foreshortens the unit by at most 2 %
    np.testing.assert_allclose(found[0, 17:27], made[0, 17:27], atol=0.08)
    np.testing.assert_allclose(found[0, 37] - exact[0, 37], [3, 0], atol=0.08)
    np.testing.assert_allclose(found[:, 48:], exact[:, 48:], atol=1e-4)
    np.testing.assert_allclose(
        found[:, 37, 1] - found[:, 41, 1], exact[:, 37, 1] - exact[:, 41, 1], atol=1e-3
    )
    assert lid_apertures(found)[0, 0] < 0.2


def test_differences_cost_nothing_where_landmarks_err_together() -> None:
    torch = pytest.importorskip("torch")
    from napari_face_landmarks.training.pfld import SOFTNESS, difference_error

    error = torch.zeros(3, 68, 2)
    error[0] += torch.tensor([3.0, -2.0])  # the whole face
    error[1, [37, 41], 1] = torch.tensor([2.0, -2.0])  # the right eye opens
    error[2, 54, 1] = 2.0  # one corner of the mouth drops
    trust = torch.ones(3, 68)
    together, lids, corner = difference_error(error, trust).tolist()
    assert together == pytest.approx(SOFTNESS, rel=1e-4)
    assert lids > together + 0.3
    assert corner > together + 0.05
    trust[1, 41] = 0.0
    assert difference_error(error, trust)[1] < 0.5 * lids, "a label that is not trusted does not count"


def test_twins_differ_by_a_local_movement_that_both_their_dots_show() -> None:
    apart = []
    for seed in range(12):
        image, points = dotted_face(seed)
        plain, moved = twin_faces(image, points, np.random.default_rng(seed))
        length = np.linalg.norm(moved.landmarks - plain.landmarks, axis=1) * CROP_SIZE
        assert length.max() > 0.5
        assert np.median(length) < 0.5 * length.max()  # local
        apart.append(np.abs(plain.image.astype(float) - moved.image).mean())
    assert min(apart) > 0


def test_a_movement_costs_what_is_not_followed_and_no_error_that_both_share() -> None:
    torch = pytest.importorskip("torch")
    from napari_face_landmarks.training.pfld import SOFTNESS, movement_error

    truth = torch.zeros(3, 68, 2)
    truth[1, 54] = torch.tensor([0.0, 6.0])
    twin = torch.tensor([1, 0, 2])
    off = truth + torch.tensor([3.0, -2.0])
    assert float(movement_error(off, truth, twin)) == pytest.approx(SOFTNESS, abs=1e-4)
    half = off.clone()
    half[1, 54, 1] -= 3.0
    assert float(movement_error(half, truth, twin)) == pytest.approx(3.0, abs=0.01)
    nobody = torch.tensor([0, 1, 2])
    assert float(movement_error(half, truth, nobody)) == 0.0


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    import onnxruntime

    from napari_face_landmarks.errors import ModelError
    from napari_face_landmarks.training import pfld

    make_small(monkeypatch)
    rng = np.random.default_rng(0)
    write_data(tmp_path, rng)
    small = {"faces_per_batch": 3, "negatives_per_batch": 1, "evaluate_every": 2, "threads": 1}
    out = tmp_path / "out"
    pfld.train(tmp_path, out, "research", pfld.PfldPlan(steps=2, **small))
    pfld.train(tmp_path, out, "research", pfld.PfldPlan(steps=4, **small))
    with (out / "pfld.log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4"]
    session = onnxruntime.InferenceSession(str(out / "pfld.onnx"), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"crops": rng.random((3, 3, CROP_SIZE, CROP_SIZE), dtype=np.float32)})
    assert [output.shape for output in outputs] == [(3, 68, 2), (3, 68), (3,)]
    assert (out / "pfld.metrics.json").exists()

    again = tmp_path / "again"
    pfld.train(tmp_path, again, "open", pfld.PfldPlan(steps=1, **small), start=out)
    metrics = json.loads((again / "pfld.metrics.json").read_text())
    assert (metrics["bundle"], metrics["began_with"]) == ("open", "out")
    # one step at the start of the warming-up moves the weights little: they are those of the first run
    began, went_on = (torch.load(folder / "pfld.best.pt", weights_only=True) for folder in (out, again))
    for name in ("heat.weight", "regress.weight"):
        assert 0 < float((began[name] - went_on[name]).abs().max()) < 1e-3

    (out / "pfld.best.pt").unlink()  # a bundle has only the export
    exported = tmp_path / "exported"
    pfld.train(tmp_path, exported, "open", pfld.PfldPlan(steps=1, **small), start=out)
    from_export = torch.load(exported / "pfld.best.pt", weights_only=True)
    for name in ("heat.weight", "regress.weight"):
        assert 0 < float((began[name] - from_export[name]).abs().max()) < 2e-3
    continued = tmp_path / "continued"  # a run that began with an export goes on in the same way
    pfld.train(tmp_path, continued, "open", pfld.PfldPlan(steps=1, **small), start=exported)
    # its statistics are those of faces: batches with other pictures must not be normalised by their own
    counted = [
        int(
            pfld.load_checkpoint(folder / "pfld", torch.device("cpu"))["network"][
                "stem.1.num_batches_tracked"
            ]
        )
        for folder in (again, exported, continued)
    ]
    assert counted[0] > 0
    assert counted[1:] == [0, 0]
    with pytest.raises(ModelError, match="no weights of PFLD in"):
        pfld.train(tmp_path, tmp_path / "none", "open", pfld.PfldPlan(steps=1, **small), start=tmp_path)


def test_the_loss_of_landmarks_is_their_distance_with_a_smooth_foot() -> None:
    torch = pytest.importorskip("torch")
    from napari_face_landmarks.training.pfld import SOFTNESS, distance

    error = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-4, 0.0]], requires_grad=True)
    lengths = distance(error)
    assert lengths.detach().numpy() == pytest.approx([5.0, SOFTNESS, SOFTNESS], abs=5e-3)
    lengths.sum().backward()
    assert error.grad is not None
    assert error.grad.norm(dim=-1).numpy() == pytest.approx([1.0, 0.0, 0.0], abs=1e-2)


def test_the_network_keeps_to_its_size() -> None:
    pytest.importorskip("torch")
    from napari_face_landmarks.training.network import Pfld

    network = Pfld()
    exported = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("pose"))
    assert exported < 1_500_000


@pytest.mark.slow
def test_training_goes_on_from_an_exported_network(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from napari_face_landmarks.errors import ModelError
    from napari_face_landmarks.training import pfld
    from napari_face_landmarks.training.from_onnx import load_exported
    from napari_face_landmarks.training.linear_calibration import add_linear_map
    from napari_face_landmarks.training.network import NARROW, Pfld

    torch.manual_seed(3)
    first = Pfld()
    examples = [torch.rand(16, 3, CROP_SIZE, CROP_SIZE) for _ in range(3)]
    for batch in examples:  # statistics of its own
        first(batch)
    pfld.export_onnx(first, tmp_path / "pfld.onnx")
    moved = np.concatenate([np.full((1, 136), 0.1), np.zeros((136, 136))])
    add_linear_map(tmp_path / "pfld.onnx", tmp_path / "pfld.onnx", moved)  # is not trained on
    again = Pfld()
    load_exported(again, tmp_path / "pfld.onnx", examples)
    assert again.training
    with torch.no_grad():
        # half-precision weights are all that is lost, and the stored statistics are those of a batch
        for network in (first.eval(), again.train()):
            network.shared[2].eval()  # the dropout
        trained = again(examples[1])
        expected, found = first(examples[1]), again.eval()(examples[1])
    assert float((expected.landmarks - found.landmarks).abs().max()) < 2e-3
    assert float((expected.log_sigma - found.log_sigma).abs().max()) < 2e-2
    assert float((expected.landmarks - trained.landmarks).abs().max()) < 2e-2
    with pytest.raises(ModelError, match="not an export of this network"):
        load_exported(Pfld(NARROW), tmp_path / "pfld.onnx", examples)


def test_a_way_that_takes_far_longer_is_tried_once() -> None:
    pytest.importorskip("torch")
    from napari_face_landmarks.training.mixed_precision import ROUNDS, fastest

    tried: list[str] = []

    def way(name: str, seconds: float) -> Callable[[], None]:
        return lambda: (tried.append(name), time.sleep(seconds))[1]

    ways = {"slow": way("slow", 0.06), "quick": way("quick", 0.002), "quicker": way("quicker", 0.0)}
    assert fastest(ways) == "quicker"
    assert tried.count("slow") == 1
    assert tried.count("quicker") == ROUNDS


def test_numbers_that_the_processor_is_slow_with_are_not_trained_in() -> None:
    torch = pytest.importorskip("torch")
    from napari_face_landmarks.training.mixed_precision import faster_precision, in_precision

    cpu = torch.device("cpu")

    def slow_in(dtype: object) -> Callable[[], None]:
        def work() -> None:
            found = torch.ones(2, 2) @ torch.ones(2, 2)
            if found.dtype == dtype:
                time.sleep(0.05)

        return work

    assert faster_precision(cpu, slow_in(torch.bfloat16)) == torch.float32
    assert faster_precision(cpu, slow_in(torch.float32)) == torch.bfloat16
    for dtype in (torch.float32, torch.bfloat16):
        with in_precision(cpu, dtype):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
