"""Labels made from meshes, heads turned by them, and the ``all`` step of the training."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_face_landmarks.ibug import MIRROR_68
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.training import __main__ as training
from napari_face_landmarks.training import expression
from napari_face_landmarks.training.labels import (
    CONTOUR_POINTS,
    EYE_CORNERS,
    MESH_68,
    MESH_OVAL,
    TEMPLATE_CONTOUR,
    calibrate,
    marked_landmarks,
    mesh_landmarks,
    pose_of,
    resampled,
    template_landmarks,
    visible_jaw,
    without_ends,
)
from napari_face_landmarks.training.mesh_regression import (
    HAND_SHARE,
    denoised,
    fit_regression,
    predict_landmarks,
)
from napari_face_landmarks.training.pose_augmentation import (
    draw_triangles,
    make_head_model,
    rotate_head,
    rotation_about,
    yaw_of_mesh,
)


def made_up_mesh() -> np.ndarray:
    """Return a symmetric, bulging "face" of 478 vertices, (478, 3): eyes 1 apart, z away from the camera."""
    rng = np.random.default_rng(3)
    mesh = np.zeros((478, 3))
    angle, radius = rng.uniform(0, 2 * math.pi, 478), np.sqrt(rng.uniform(0, 1, 478))
    mesh[:, 0], mesh[:, 1] = 0.75 * radius * np.cos(angle), 1.0 * radius * np.sin(angle)
    along = np.linspace(math.pi, 0, len(MESH_OVAL))  # ear, chin, ear
    mesh[MESH_OVAL, 0], mesh[MESH_OVAL, 1] = 0.8 * np.cos(along), 1.2 * np.sin(along)
    inner = MESH_68[17:]
    mirror = MIRROR_68[17:] - 17
    left = np.arange(51) < mirror
    mesh[inner[mirror[left]]] = mesh[inner[left]] * [-1, 1, 1]
    mesh[inner[mirror == np.arange(51)], 0] = 0
    mesh[list(EYE_CORNERS)] = [[-0.5, -0.1, 0], [0.5, -0.1, 0]]
    mesh[:, 2] = 0.5 * (mesh[:, 0] ** 2 + 0.5 * mesh[:, 1] ** 2)
    return mesh - mesh.mean(axis=0)


def placed(mesh: np.ndarray, yaw: float = 0.0, pitch: float = 0.0, scale: float = 70.0) -> np.ndarray:
    return scale * mesh @ rotation_about(yaw, pitch).T + np.array([128, 120, 5])


def test_the_pose_of_a_mesh_is_found() -> None:
    mesh = made_up_mesh()
    scale, rotation, place = pose_of(placed(mesh, 0.4, -0.2), mesh)
    assert scale == pytest.approx(70)
    np.testing.assert_allclose(rotation, rotation_about(0.4, -0.2), atol=1e-9)
    np.testing.assert_allclose(place, [128, 120, 5], atol=1e-9)


def test_resampling_keeps_the_ends_and_spaces_evenly() -> None:
    line = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 10.0]])  # 5 + 6 long
    points = resampled(line, 12)
    np.testing.assert_allclose(points[[0, -1]], line[[0, -1]])
    np.testing.assert_allclose(points[5], [3, 4])
    np.testing.assert_allclose(np.linalg.norm(np.diff(points, axis=0), axis=1), 1.0)


def test_a_template_gives_eyelids_in_thirds_and_lips_point_by_point() -> None:
    template = np.random.default_rng(0).uniform(0, 200, (189, 2))
    for k, number in enumerate((23, 24, 25, 26, 27)):  # a straight upper lid with uneven points
        template[number] = 100 + 30 * (k / 4) ** 2, 80
    found = template_landmarks(template)
    np.testing.assert_allclose([found[k][0] for k in (42, 43, 44, 45)], [100, 110, 120, 130])
    np.testing.assert_array_equal(found[48], template[87])
    np.testing.assert_array_equal(found[57], template[106])
    assert not set(range(17)) & set(found)
    template[[18, 27]] = [[50, 80], [130, 80]]
    assert template_landmarks(template)[21] == pytest.approx([template[76, 0], template[75, 1]])


@pytest.fixture(scope="module")
def calibrated():
    """Return a mesh, and a calibration on faces whose templates lie off the mesh by a known amount."""
    mesh = made_up_mesh()
    rng = np.random.default_rng(1)
    off = 0.05
    meshes, templates = [], []
    for _ in range(12):
        scale = rng.uniform(55, 80)
        meshes.append(placed(mesh, 0, 0, scale))
        template = rng.uniform(0, 250, (189, 2))
        oval = resampled(mesh[MESH_OVAL], len(TEMPLATE_CONTOUR))
        template[TEMPLATE_CONTOUR] = placed(oval + [0, off, 0], 0, 0, scale)[:, :2]
        for landmark, number in zip(range(48, 60), (*range(87, 94), *range(108, 103, -1)), strict=True):
            template[number] = placed(mesh[MESH_68[landmark]] + [0, off, 0], 0, 0, scale)[:2]
        templates.append(template)
    return mesh, calibrate(np.array(meshes), np.array(templates)), off


def test_faces_with_a_template_are_labelled_by_it() -> None:
    template = np.random.default_rng(4).uniform(0, 250, (189, 2))
    template[[18, 27]] = [[80, 100], [160, 100]]  # the outer canthi
    turn = np.linspace(np.pi, 0, len(TEMPLATE_CONTOUR))
    template[TEMPLATE_CONTOUR] = np.stack([120 + 70 * np.cos(turn), 100 + 100 * np.sin(turn)], axis=1)
    by_mesh = np.full((68, 2), 95, np.float32)
    landmarks = marked_landmarks(template, by_mesh)
    # nasion to chin: 105; the jaw begins 3.15 below the canthi
    np.testing.assert_allclose(landmarks[[0, 16], 1], 100 + 0.03 * 105, atol=0.3)
    np.testing.assert_allclose(landmarks[8], [120, 200], atol=1)
    np.testing.assert_allclose(landmarks[51], template[90], rtol=1e-6)
    assert (landmarks[27:36] == 95).all()  # the nose is the mesh's


def test_the_jaw_begins_below_the_height_of_the_eyes() -> None:
    turn = np.linspace(np.pi, 0, 33)
    contour = np.stack([70 * np.cos(turn), 100 * np.sin(turn), np.arange(33)], axis=1)
    cut = without_ends(contour, np.array([0.0, -10.0, 0.0]))
    # nasion to chin: 110
    np.testing.assert_allclose(cut[[0, -1], 1], 0.03 * 110, atol=0.3)
    np.testing.assert_allclose(cut[16], contour[16])
    assert (np.abs(np.hypot(cut[:, 0] / 70, cut[:, 1] / 100) - 1) < 0.005).all()
    np.testing.assert_allclose(cut[::-1, :2], cut[:, :2] * [-1, 1], atol=1e-9)


def test_the_calibration_moves_the_landmarks_where_people_put_them(calibrated) -> None:
    mesh, calibration, off = calibrated
    unit = np.linalg.norm(np.subtract(*mesh[list(EYE_CORNERS)]))
    np.testing.assert_allclose(calibration.offsets[48:60, 1], off / unit, atol=1e-6)
    np.testing.assert_allclose(calibration.offsets[60:], 0)
    np.testing.assert_allclose(calibration.noise[48:60], 0, atol=1e-6)  # the same offset on every face
    assert (calibration.noise[36:48] > 0.1).all()  # their templates are at random here
    np.testing.assert_allclose(calibration.offsets[MIRROR_68] * [-1, 1, 1], calibration.offsets, atol=1e-12)
    for yaw, pitch in ((0.0, 0.0), (0.3, 0.1), (-0.5, 0.0)):
        landmarks = mesh_landmarks(placed(mesh, yaw, pitch), calibration)
        wanted = placed(mesh[MESH_68[48:60]] + [0, off, 0], yaw, pitch)[:, :2]
        np.testing.assert_allclose(landmarks[48:60], wanted, atol=1e-3)
        np.testing.assert_allclose(landmarks[60:], placed(mesh[MESH_68[60:]], yaw, pitch)[:, :2], atol=1e-3)
    assert landmarks.dtype == np.float32


def test_the_jaw_is_in_even_steps_on_either_side_of_the_chin_and_on_the_outline(calibrated) -> None:
    mesh, calibration, _ = calibrated
    for yaw in (0.0, 0.5, -0.5):
        face = placed(mesh, yaw)
        jaw = mesh_landmarks(face, calibration)[:17]
        steps = np.linalg.norm(np.diff(jaw, axis=0), axis=1)
        assert steps[:8].std() < 0.06 * steps[:8].mean()  # chords of equal arcs
        assert steps[8:].std() < 0.06 * steps[8:].mean()
    # a cheek that bulges over the contour is what the viewer sees of it
    contour = np.stack([np.linspace(-1, 1, CONTOUR_POINTS), np.zeros(CONTOUR_POINTS)], axis=1)
    contour[:, 1] = np.sqrt(1 - contour[:, 0] ** 2)
    cheek = np.full((478, 3), [0.0, 0.0, 0.0])
    cheek[0] = -1.3, contour[3, 1], 0
    jaw = visible_jaw(contour, cheek, np.eye(3), 1.0)
    assert jaw[:8, 0].min() < -1.1
    other_side = visible_jaw(contour, cheek[1:], np.eye(3), 1.0)[8:]
    np.testing.assert_allclose(jaw[8:], other_side, atol=0.01)
    # a chin that hangs to one side is point 8 there
    contour[:, 1] += 0.3 * contour[:, 0]
    chin = visible_jaw(contour, cheek[1:], np.eye(3), 1.0)[8]
    np.testing.assert_allclose(chin, contour[contour[:, 1].argmax()], atol=0.05)


def test_a_head_turned_by_nothing_stays_and_turned_landmarks_stay_on_their_dots() -> None:
    mesh = made_up_mesh()
    head = make_head_model(mesh)
    face = placed(mesh)
    landmarks = face[MESH_68, :2].astype(np.float32)
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8), (0, 0), 3)
    same, points = rotate_head(image, landmarks, face, head, 0.0)
    assert np.abs(same.astype(int) - image)[8:-8, 8:-8].max() <= 2
    np.testing.assert_allclose(points[17:], landmarks[17:], atol=1e-4)
    dark = np.zeros((256, 256, 3), np.uint8)
    chosen = [30, 33, 51, 57]
    for x, y in landmarks[chosen]:
        cv2.circle(dark, (round(x * 16), round(y * 16)), 40, (255, 255, 255), -1, shift=4)
    for yaw in (0.4, -0.4):
        picture, points = rotate_head(dark, landmarks, face, head, yaw, 0.1)
        assert np.linalg.norm(points[chosen] - landmarks[chosen], axis=1).min() > 2
        for x, y in np.round(points[chosen]).astype(int):
            assert picture[y - 1 : y + 2, x - 1 : x + 2].max() > 200
        assert yaw_of_mesh(placed(mesh, yaw), head) == pytest.approx(yaw, abs=1e-6)


def test_an_opened_mouth_takes_the_lower_face_along_and_is_painted() -> None:
    mesh = make_expressive()
    own = mesh / np.linalg.norm(mesh[EYE_CORNERS[0]] - mesh[EYE_CORNERS[1]])
    moved = expression.displacement(own, expression.Expression(0.3, (1.0, 0.0)))
    lower, upper = moved[expression.LOWER_INNER[5]], moved[expression.UPPER_INNER[5]]
    np.testing.assert_allclose([lower[1], upper[1]], [0.3, 0.0], atol=1e-6)
    right, left = expression.LIDS
    np.testing.assert_allclose((own + moved)[right[0]], own[right[1]], atol=1e-9)  # closed
    assert not moved[left[0]].any()
    chin = np.array([[0.0, 0.9, 0.0], [0.0, 0.1, 0.0], [0.78, 0.9, 0.0]])
    share = expression.jaw_share(chin)
    assert share[0] == 1
    assert share[1] == 0
    assert 0 < share[2] < 0.5

    head = make_head_model(mesh)
    face = placed(mesh)
    image = np.full((256, 256, 3), (190, 150, 130), np.uint8)
    landmarks = face[MESH_68, :2].astype(np.float32)
    acted = expression.Expression(0.3)
    picture, points = rotate_head(image, landmarks, face, head, 0.0, 0.0, acted, np.random.default_rng(0))
    assert points[66, 1] - landmarks[66, 1] > 0.25 * 70
    above = np.flatnonzero(landmarks[17:48, 1] < 120 + 0.3 * 70) + 17
    np.testing.assert_allclose(points[above], landmarks[above], atol=1e-3)
    x, top, bottom = round(points[62, 0]), round(points[62, 1]) + 2, round(points[66, 1]) - 2
    inside = picture[top:bottom, x].astype(int)
    assert (np.abs(inside - image[0, 0]).max(axis=1) > 20).all()  # teeth, tongue or the dark: no skin
    assert np.abs(inside - image[0, 0]).max() > 60
    assert points[8, 1] > landmarks[8, 1]


def make_expressive() -> np.ndarray:
    """Return `made_up_mesh` with lips that meet and open eyes where a face has them."""
    mesh = made_up_mesh()
    for ring, y in ((expression.UPPER_INNER, 0.40), (expression.LOWER_INNER, 0.41)):
        mesh[ring, 0], mesh[ring, 1] = np.linspace(-0.25, 0.25, 11), y
    for side, (upper, lower, fold) in zip((-1, 1), expression.LIDS, strict=True):
        for ring, y in ((upper, -0.4), (lower, -0.32), (fold, -0.46)):
            mesh[ring, 0], mesh[ring, 1] = side * np.linspace(0.48, 0.22, 7), y
    return mesh


def test_expressions_open_closed_mouths_and_close_open_eyes_only() -> None:
    mesh = make_expressive()
    drawn = [expression.random_expression(mesh, np.random.default_rng(seed)) for seed in range(60)]
    assert 0.3 < np.mean([one.opening > 0 for one in drawn]) < 0.9
    assert any(max(one.lids) > 0.8 for one in drawn)
    mesh[expression.LOWER_INNER, 1] += 0.2
    mesh[expression.LIDS[0][1]] = mesh[expression.LIDS[0][0]]
    for seed in range(60):
        one = expression.random_expression(mesh, np.random.default_rng(seed))
        assert one.opening == 0
        assert one.lids[0] == 0


def test_nearer_triangles_hide_farther_ones() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, :20], image[:, 20:] = 50, 200
    before = np.array([[2, 2], [15, 2], [2, 35], [22, 2], [38, 2], [22, 35]], float)
    place = np.array([[5.0, 5.0], [35.0, 5.0], [5.0, 35.0]])
    triangles = np.array([[0, 1, 2], [3, 4, 5]])
    for front in (0, 1):
        after = np.concatenate([np.tile(place, (2, 1)), np.zeros((6, 1))], axis=1)
        after[3 * (1 - front) : 3 * (1 - front) + 3, 2] = 9.0
        drawn = draw_triangles(image, before, after, triangles)
        assert drawn[10, 10, 0] == (50, 200)[front]
        assert drawn[38, 38].tolist() == [0, 0, 0]


@pytest.mark.parametrize("largest", [1.0, 1e6])
def test_half_stored_weights_give_nearly_the_same_numbers(tmp_path: Path, largest: float) -> None:
    """Weights beyond float16, of an input that hardly varies, stay as they are."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    import onnxruntime

    from napari_face_landmarks.training.onnx_float16 import store_half

    torch.manual_seed(0)
    path = tmp_path / "network.onnx"
    network = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 8)).eval()
    example = torch.rand(4, 64)
    example[:, 0] = 1 / largest
    with torch.no_grad():
        network[0].weight[0, 0] = largest
    torch.onnx.export(network, (example,), str(path), input_names=["x"], output_names=["y"], dynamo=False)
    size = path.stat().st_size
    store_half(path)
    assert path.stat().st_size < (0.6 if largest == 1 else 0.95) * size
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": example.numpy()})
    np.testing.assert_allclose(found, network(example).detach().numpy(), atol=2e-3)
    assert found.dtype == np.float32


def test_all_runs_every_stage_and_stops_at_the_first_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    wanted = training._command("pfld", Path("d"), "research", Path("o"), Path("s"), 40)
    assert wanted[1:] == [
        *("-m", "napari_face_landmarks.training", "pfld", "--data", "d"),
        *("--bundle", "research", "--out", "o", "--start", "s", "--steps", "40"),
    ]
    others = training._command("cen", Path("d"), "open", Path("o"), Path("s"), 40)
    assert not {"--start", "--steps"} & set(others)
    assert "--steps" not in training._command("pfld", Path("d"), "open", Path("o"), None, None)

    for bad, status in (("", 0), ("cen", 3)):

        def command(step: str, *_: object, bad: str = bad) -> list[str]:
            code = f"import sys; print('this is {step}'); sys.exit({3 if step == bad else 0})"
            return [sys.executable, "-c", code]

        monkeypatch.setattr(training, "_command", command)
        assert training.train_all(tmp_path, "open", tmp_path / f"out{status}", None, jobs=3) == status
        ran = {path.stem for path in (tmp_path / f"out{status}").glob("*.out")}
        assert ran == {"pdm", "detector", "pfld", "parts", "cen"} | (
            {"linear-maps", "bundle"} if status == 0 else set()
        )
        assert b"this is pfld" in (tmp_path / f"out{status}" / "pfld.out").read_bytes()
    assert b"cen ended with status 3" in capfdbinary.readouterr().out


def test_the_earlier_name_of_a_step_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(training._module("linear-maps"), "run", lambda args: asked.append(args.step))
    assert training.main(["settle", "--data", str(tmp_path)]) == 0
    assert asked == ["linear-maps"]


def test_steps_and_rate_of_pfld_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    plans = []

    def train(data: Path, out: Path, bundle: str, plan: Any, start: Path | None) -> dict[str, Any]:
        plans.append((bundle, plan.steps, plan.started_rate, plan.reshaped_share, start))
        return {}

    monkeypatch.setattr(training._module("pfld"), "train", train)
    given = ["pfld", "--data", str(tmp_path), "--out", str(tmp_path / "o"), "--bundle", "research"]
    assert training.main([*given, "--start", "s", "--steps", "40", "--rate", "6e-4"]) == 0
    assert training.main(given) == 0
    assert plans == [("research", 40, 6e-4, 0.5, Path("s")), ("research", 15000, 1.6e-3, 0.5, None)]


EVERY_STEP = ["bundle", "cen", "detector", "linear-maps", "parts", "pdm", "pfld"]


def test_all_passes_over_what_the_same_command_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*, bad: str = "", word: str = "") -> list[str]:
        def command(step: str, *_: object) -> list[str]:
            return [sys.executable, "-c", f"import sys; print('{step}'); sys.exit({int(step == bad)})", word]

        monkeypatch.setattr(training, "_command", command)
        before = {path: path.stat().st_size for path in tmp_path.glob("*.out")}
        training.train_all(tmp_path, "open", tmp_path, None, jobs=1)
        sizes = {path: path.stat().st_size for path in tmp_path.glob("*.out")}
        return sorted(path.stem for path in sizes if sizes[path] > before.get(path, 0))

    assert run(bad="cen") == ["cen", "detector", "parts", "pdm", "pfld"]
    assert run() == ["bundle", "cen", "linear-maps"]  # goes on where it stopped
    assert run() == ["bundle", "linear-maps"]
    assert run(word="another command") == EVERY_STEP
    assert run() == EVERY_STEP
    run(word="another command", bad="pfld")  # has begun on the files of the step, and not finished
    assert run() == EVERY_STEP


def made_up_faces(count: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return meshes (N, 478, 3) of faces that change and move, their true points and noisy labels."""
    rng = np.random.default_rng(9)
    modes = rng.normal(0, 0.02, (5, 478, 3))
    modes[:, list(EYE_CORNERS)] = 0  # the frame's unit, which a label cannot follow linearly
    own = made_up_mesh() + np.einsum("nm,mvd->nvd", rng.normal(0, 1, (count, 5)), modes)
    read = np.zeros((68, 478))  # each landmark lies between three vertices
    for row in read:
        row[rng.choice(478, 3, replace=False)] = rng.dirichlet([1, 1, 1])
    meshes, points = [], []
    for face in own:
        angle, scale, place = rng.uniform(-0.6, 0.6), rng.uniform(40, 90), rng.uniform(80, 160, 2)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        flat = scale * face[:, :2] @ turn.T + place
        meshes.append(np.concatenate([flat, scale * face[:, 2:]], axis=1))
        points.append(read @ flat)
    true = np.array(points, np.float32)
    labels = true + rng.normal(0, noise, true.shape).astype(np.float32)
    return np.array(meshes, np.float32), true, labels


def test_a_reading_finds_points_that_follow_the_mesh_wherever_the_face_is() -> None:
    meshes, true, _ = made_up_faces(60, 0.0)
    read = predict_landmarks(meshes[40:], fit_regression(meshes[:40], true[:40]))
    assert read.dtype == np.float32
    assert np.linalg.norm(read - true[40:], axis=-1).max() < 0.2  # px; the regularisation pulls a little


@pytest.mark.slow
def test_steadied_labels_are_nearer_to_the_truth_than_the_hand() -> None:
    meshes, true, labels = made_up_faces(120, 2.0)
    known = np.ones(120, bool)
    known[:7] = False
    moved = denoised(labels, meshes, known)
    np.testing.assert_array_equal(moved[~known], labels[~known])
    by_hand = np.linalg.norm(labels - true, axis=-1)[known].mean()
    assert np.linalg.norm(moved - true, axis=-1)[known].mean() < 0.85 * by_hand


def test_no_label_steadies_itself() -> None:
    meshes, _, labels = made_up_faces(40, 1.0)
    known = np.ones(40, bool)
    shifted = labels.copy()
    shifted[11] += 50
    change = denoised(shifted, meshes, known)[11] - denoised(labels, meshes, known)[11]
    np.testing.assert_allclose(change, HAND_SHARE * 50, atol=1e-3)
