"""Training of the detector: labels that follow the picture, assignment, losses, measures, resuming."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import pytest

from detector_measures import CLIPS, REACH, ClipFaces, measure, measure_clip
from napari_face_landmarks.opencv import cv2

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from napari_face_landmarks.detection.decode import cell_centres, decode  # noqa: E402
from napari_face_landmarks.errors import ModelError  # noqa: E402
from napari_face_landmarks.evaluation.split import is_held_out  # noqa: E402
from napari_face_landmarks.training import detector  # noqa: E402
from napari_face_landmarks.training.detector_data import (  # noqa: E402
    BUNDLES,
    Composer,
    Photo,
    load_crops,
    load_photos,
    mesh_face,
    rotate_head,
)
from napari_face_landmarks.training.detector_match import average_precision, match, recall_at  # noqa: E402
from napari_face_landmarks.training.detector_network import (  # noqa: E402
    ExportedDetector,
    FaceDetector,
    assign,
    box_overlap,
    cell_grid,
    decode_cells,
    detector_loss,
)

POINTS = np.array([[130, 80], [170, 80], [150, 105], [134, 125], [166, 125]], float)
BOX = np.array([110.0, 50.0, 190.0, 150.0])
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn_face() -> np.ndarray:
    image = np.full((200, 300, 3), 90, np.uint8)
    cv2.ellipse(image, (150, 100), (40, 50), 0, 0, 360, (150, 150, 150), -1)
    for (x, y), colour in zip(POINTS.astype(int), COLOURS, strict=True):
        cv2.circle(image, (int(x), int(y)), 6, colour, -1)
    return image


def photo_of(image: np.ndarray) -> Photo:
    levels = [image]
    while min(levels[-1].shape[:2]) >= 64:
        levels.append(cv2.resize(levels[-1], (levels[-1].shape[1] // 2, levels[-1].shape[0] // 2)))
    return Photo("drawn", tuple(levels), BOX[None], POINTS[None], np.ones(1, bool))


def background() -> Photo:
    image = np.random.default_rng(0).integers(0, 60, (120, 160, 3), dtype=np.uint8)
    return Photo("plain", (image,), np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0, bool))


def write_data(folder: Path, per_file: int = 3) -> None:
    """Write the training files of the bundle "open" with drawn faces, some of them held out."""
    numbers = [n for n in range(400) if not is_held_out(f"p{n}.jpg")][:per_file]
    numbers += [n for n in range(400) if is_held_out(f"p{n}.jpg")][:2]
    names = np.array([f"p{n}.jpg" for n in numbers])
    _, blob = cv2.imencode(".webp", drawn_face()[:, :, ::-1], [cv2.IMWRITE_WEBP_QUALITY, 90])
    blob = blob.ravel()
    packed = {
        "names": names,
        "webp": np.tile(blob, len(names)),
        "offsets": np.arange(len(names) + 1, dtype=np.int64) * len(blob),
    }
    row = np.concatenate([BOX[:2], BOX[2:] - BOX[:2], POINTS.ravel(), [0.9]]).astype(np.float32)
    mesh = np.zeros((478, 3))
    mesh[:, :2] = np.random.default_rng(0).uniform(BOX[:2] + 5, BOX[2:] - 5, (478, 2))
    wholes, crops = BUNDLES["open"]
    for name in (*wholes, "background"):
        (folder / "detection").mkdir(parents=True, exist_ok=True)
        rows = np.tile(row, (len(names), 1)) if name != "background" else row[None, :][:0]
        np.savez(folder / "detection" / f"{name}.npz", boxes=rows, box_image=np.arange(len(rows)), **packed)
    for name in crops:
        (folder / "landmarks_open").mkdir(parents=True, exist_ok=True)
        meshes = np.repeat((mesh * 64).astype(np.int16)[None], len(names), axis=0)
        np.savez(folder / "landmarks_open" / f"{name}.npz", mesh478_x64=meshes, **packed)


def test_points_and_boxes_follow_the_picture() -> None:
    """Wherever a drawn face lands, whatever its roll and flip, its labelled points lie on the drawn ones."""
    composer = Composer([photo_of(drawn_face())], [], [background()])
    composer._photometric = lambda rng, image: image  # type: ignore[method-assign]
    rng = np.random.default_rng(5)
    checked = hits = 0
    for _ in range(120):
        image, boxes, points, _ = composer.compose(rng, 256)
        for box, face in zip(boxes, points, strict=True):
            size = np.sqrt(np.prod(box[2:] - box[:2]))
            if size < 60:
                continue
            for (x, y), colour in zip(face, COLOURS, strict=True):
                if not (1 <= x < 254 and 1 <= y < 254):
                    continue
                seen = image[round(float(y)), round(float(x))].astype(int)
                # flipping swaps left and right, so a label may lie on its partner's dot, never on a wrong one
                partner = {0: 1, 1: 0, 2: 2, 3: 4, 4: 3}[COLOURS.index(colour)]
                near = [np.abs(seen - c).max() < 110 for c in (colour, COLOURS[partner])]
                checked += 1
                hits += any(near)
    assert checked > 150
    assert hits > 0.9 * checked  # patches and other photographs hide a few


def test_upright_flip_swaps_the_eyes() -> None:
    composer = Composer([photo_of(drawn_face())], [], [background()])
    rng = np.random.default_rng(8)
    for _ in range(40):
        _, _, points, _ = composer.compose(rng, 256)
        for face in points:
            across, down = face[1] - face[0], (face[3] + face[4] - face[0] - face[1])
            assert across[0] * down[1] - across[1] * down[0] > 0  # never a mirrored face


def test_equal_seeds_compose_equal_pictures() -> None:
    composer = Composer([photo_of(drawn_face())], [photo_of(drawn_face())], [background()])
    first = detector.compose_batch(composer, np.random.default_rng([1, 7]), 3)
    second = detector.compose_batch(composer, np.random.default_rng([1, 7]), 3)
    other = detector.compose_batch(composer, np.random.default_rng([1, 8]), 3)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert first["frames"].shape != other["frames"].shape or (first["frames"] != other["frames"]).any()


def test_low_scores_and_doubles_are_doubted(tmp_path: Path) -> None:
    write_data(tmp_path)
    path = tmp_path / "detection" / "faker.npz"
    with np.load(path) as archive:
        content = dict(archive)
    weak, double = content["boxes"][0].copy(), content["boxes"][0].copy()
    weak[:2] += [-100, 40]
    weak[14] = 0.62
    double[:2] += 10
    double[14] = 0.8
    content["boxes"] = np.stack([content["boxes"][0], weak, double])
    content["box_image"] = np.zeros(3, int)
    np.savez(path, **content)
    photos = load_photos(path, held_out=False)
    assert photos[0].trusted.tolist() == [True, False, False]


def test_split_and_mesh_labels(tmp_path: Path) -> None:
    write_data(tmp_path)
    path = tmp_path / "landmarks_open" / "canada.npz"
    kept, held = load_crops(path, held_out=False), load_crops(path, held_out=True)
    assert (len(kept), len(held)) == (3, 2)
    assert not {photo.name for photo in kept} & {photo.name for photo in held}
    mesh = np.zeros((478, 2))
    mesh[0], mesh[2] = (10, 20), (110, 120)
    mesh[[33, 133, 362, 263]] = [[30, 50], [50, 50], [70, 50], [90, 50]]
    mesh[[1, 61, 291]] = [[60, 70], [45, 90], [75, 90]]
    mesh[mesh.sum(1) == 0] = (60, 60)
    box, points = mesh_face(mesh)
    np.testing.assert_array_equal(points, [[40, 50], [80, 50], [60, 70], [45, 90], [75, 90]])
    assert 90 < box[2] - box[0] < 105
    assert box[1] < 20


def round_head() -> Photo:
    """A crop with a mesh: points on a half ball of radius 40 round (100, 100), the nose nearest."""
    angles, rings = np.meshgrid(np.linspace(0, 2 * np.pi, 40, endpoint=False), np.linspace(0.05, 1, 12)[:11])
    x, y = rings * np.cos(angles) * 40, rings * np.sin(angles) * 40
    ball = np.stack([x, y, -np.sqrt(np.maximum(40**2 - x**2 - y**2, 0))], axis=-1).reshape(-1, 3)
    mesh = np.concatenate([ball, ball[:38] * 0.9])
    mesh[[33, 133, 362, 263], :2] = [[-25, -12], [-13, -12], [13, -12], [25, -12]]
    mesh[[1, 61, 291], :2] = [[0, 4], [-14, 20], [14, 20]]
    mesh[:, 2] = -np.sqrt(40**2 - (mesh[:, :2] ** 2).sum(1))
    mesh += [100, 100, 0]
    image = np.full((200, 200, 3), 60, np.uint8)
    cv2.circle(image, (100, 100), 40, (160, 160, 160), -1)
    box, points = mesh_face(mesh[:, :2])
    for (px, py), colour in zip(points, COLOURS, strict=True):
        cv2.circle(image, (round(px), round(py)), 4, colour, -1)
    return Photo("ball", (image,), box[None], points[None], np.ones(1, bool), mesh)


@pytest.mark.parametrize("degrees", [-35, 0, 35])
def test_a_turned_head_takes_its_points_along(degrees: float) -> None:
    """The labels of a head turned in depth lie on the dots drawn on it, and the nose moves as it turns."""
    head = round_head()
    result = rotate_head(head, np.radians(degrees), np.radians(8))
    image, points = result.levels[0], result.points[0]
    for (x, y), colour in zip(points[[0, 1, 2, 3, 4]], COLOURS, strict=True):
        seen = image[round(y), round(x)].astype(int)
        assert np.abs(seen - colour).max() < 60
    moved = points[2, 0] - head.points[0, 2, 0]
    assert abs(moved) < 1 if degrees == 0 else np.sign(moved) == -np.sign(degrees) and abs(moved) > 8
    np.testing.assert_array_equal(image[0], head.levels[0][0])  # the picture's border stays


def test_only_a_crop_with_a_mesh_turns() -> None:
    with pytest.raises(ValueError, match="no mesh"):
        rotate_head(photo_of(drawn_face()), 0.3, 0.0)


@pytest.mark.slow
def test_a_face_nearer_than_the_frame_is_wide_counts() -> None:
    """Most of the face is outside the picture, but eyes, nose and mouth are in it."""
    composer = Composer([photo_of(drawn_face())], [], [background()])
    rng = np.random.default_rng(3)
    reach = []
    for _ in range(600):
        _, boxes, points, _ = composer.compose(rng, 64)
        for box, face in zip(boxes, points, strict=True):
            inside = np.minimum(box[2:], 64) - np.maximum(box[:2], 0)
            reach.append(np.prod(inside) / np.prod(box[2:] - box[:2]))
            assert ((face > -1) & (face < 64)).all() or reach[-1] > 0.5
    assert min(reach) < 0.5


def test_torch_and_runtime_decode_alike() -> None:
    torch.manual_seed(0)
    cells = torch.randn(1, (12 * 8) + (6 * 4) + (3 * 2), 16)
    grid = cell_grid(64, 96)
    np.testing.assert_array_equal(grid.numpy(), cell_centres(64, 96))
    boxes, points = decode_cells(cells, grid)
    ready = cells[0].numpy().copy()
    ready[:, :2] = 1 / (1 + np.exp(-ready[:, :2]))
    got_boxes, got_points = decode(ready, 64, 96, 0.0)
    order = np.argsort(-np.sqrt(ready[:, 0] * ready[:, 1]), kind="stable")
    np.testing.assert_allclose(got_boxes[:, :4], boxes[0].numpy()[order], atol=1e-3)
    np.testing.assert_allclose(got_points, points[0].numpy()[order], atol=1e-3)


def test_assignment_stays_near_the_face() -> None:
    grid = cell_grid(128, 128)
    cells = torch.zeros(2, len(grid), 16)
    boxes, _ = decode_cells(cells, grid)
    truth = torch.tensor([[[20.0, 20, 60, 70], [80, 80, 100, 104]], [[0, 0, 1, 1], [0, 0, 1, 1]]])
    present = torch.tensor([[True, True], [False, False]])
    positive, face = assign(cells, boxes, truth, present, grid)
    assert not positive[1].any()
    assert set(face[0][positive[0]].tolist()) == {0, 1}
    for cell in positive[0].nonzero()[:, 0]:
        x0, y0, x1, y1 = truth[0, face[0, cell]]
        reach = 2.5 * grid[cell, 2]
        assert x0 - reach < grid[cell, 0] < x1 + reach
        assert y0 - reach < grid[cell, 1] < y1 + reach


def test_box_overlap_is_known() -> None:
    a = torch.tensor([[0.0, 0, 2, 2]])
    b = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]])
    np.testing.assert_allclose(box_overlap(a, b).numpy(), [1, 1 / 7, 0], atol=1e-6)


def test_ignored_regions_cost_nothing() -> None:
    grid = cell_grid(64, 64)
    cells = torch.zeros(1, len(grid), 16)
    truth = {
        "boxes": torch.tensor([[[0.0, 0, 1, 1]]]),
        "points": torch.zeros(1, 1, 5, 2),
        "present": torch.zeros(1, 1, dtype=torch.bool),
        "ignore": torch.zeros(1, 1, 4),
    }
    plain, _ = detector_loss(cells, grid, truth)
    truth["ignore"] = torch.tensor([[[-10.0, -10, 100, 100]]])
    ignored, _ = detector_loss(cells, grid, truth)
    assert float(plain) > 1
    assert float(ignored) == 0


@pytest.mark.slow
def test_loss_falls_and_the_face_is_found() -> None:
    """A few steps on one picture: the loss falls and the overlap of the best box rises."""
    torch.manual_seed(0)
    frame = cv2.resize(drawn_face(), (128, 96))[None]
    frame = np.ascontiguousarray(frame)
    scale = np.array([128 / 300, 96 / 200], np.float32)
    box = torch.as_tensor((BOX.reshape(2, 2) * scale).astype(np.float32).reshape(1, 1, 4))
    truth = {
        "boxes": box,
        "points": torch.as_tensor((POINTS * scale).astype(np.float32)[None, None]),
        "present": torch.ones(1, 1, dtype=torch.bool),
        "ignore": torch.zeros(1, 1, 4),
    }
    network = FaceDetector()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    grid = cell_grid(96, 128)
    losses = []
    for _ in range(60):
        loss, parts = detector_loss(network(torch.as_tensor(frame)), grid, truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        assert all(np.isfinite(value) for value in parts.values())
    assert losses[-1] < 0.25 * losses[0]
    cells = network(torch.as_tensor(frame))[0].detach()
    best = int(cells[:, 0].argmax())
    found, _ = decode_cells(cells[None], grid)
    assert float(box_overlap(found[0, best], box[0, 0])) > 0.6


def test_average_precision_of_known_lists() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    assert average_precision(scores, np.array([True, True, False, False]), 2) == 1.0
    assert average_precision(scores, np.array([False, True, True, False]), 2) == pytest.approx(2 / 3)
    assert average_precision(scores, np.array([True, False, False, True]), 4) == pytest.approx(0.375)
    assert average_precision(scores[:0], np.zeros(0, bool), 3) == 0.0


def test_match_counts_hits_doubles_and_doubts() -> None:
    truth = BOX[None]
    boxes = np.array(
        [[*(BOX + 2), 0.9], [*(BOX - 3), 0.8], [220, 20, 260, 70, 0.7], [5, 160, 25, 190, 0.6]], np.float32
    )
    points = np.repeat(POINTS[None] + 2, 4, axis=0)
    ignore = np.array([[210.0, 10, 270, 80]])
    state, overlap, error = match(boxes, points, truth, POINTS[None], ignore)
    assert state.tolist() == [1, 0, -1, 0]
    assert overlap[0] > 0.9
    assert error[0] == pytest.approx(np.sqrt(8) / np.sqrt(8000), rel=1e-5)


def test_recall_at_few_false_alarms() -> None:
    scores, right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert recall_at(scores, right, 2, 10) == (0.5, 0.8)  # none allowed
    assert recall_at(scores, right, 2, 50) == (1.0, 0.6)  # one allowed
    assert recall_at(scores[:1], right[:1], 2, 10) == (0.5, 0.0)
    assert recall_at(scores[:0], right[:0], 2, 10) == (0.0, 0.0)


def test_measure_counts_misses_and_false_alarms() -> None:
    def find(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wide = [*(BOX + [-60, -60, 60, 60]), 0.8]
        boxes = np.array([[*BOX, 0.9], wide, [0, 0, 9, 9, 0.8]])[find.calls % 2 :]
        find.calls += 1
        return boxes, np.stack([POINTS, POINTS + 3, np.zeros((5, 2))])[-len(boxes) :]

    photos = [photo_of(drawn_face())] * 4
    find.calls = 0
    assert measure(find, photos, 0.7) == {"faces": 4, "found": 0.5, "false_alarms_per_frame": 2.0}
    found_by_points = measure(find, photos, 0.7, REACH)
    assert found_by_points == {"faces": 4, "found": 1.0, "false_alarms_per_frame": 1.5}


def test_clips_count_the_face_only_while_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(10):
        writer.write(np.full((48, 64, 3), 90, np.uint8))
    writer.release()
    truth = ClipFaces((20, 20, 30, 30), (8, 12), first=0, last=6)

    def find(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        boxes = np.array([[20, 19, 28, 29, 0.9], [40, 0, 50, 9, 0.75], [0, 0, 8, 9, 0.2]])
        return boxes, np.zeros((3, 5, 2))

    result = measure_clip(find, path, truth, 2, 0.7)
    assert result == {"frames": 5, "with_face": 3, "found": 3, "false_alarms": 3 + 2 * 2}
    assert all(clip.first <= clip.last for clip in CLIPS.values())


def test_exported_file_gives_what_torch_gives(tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(2)
    network = FaceDetector()
    for module in network.modules():  # statistics that are not the identity
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    path = tmp_path / "detector.onnx"
    detector.export_onnx(network, path)
    assert path.stat().st_size < 500_000
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for shape in ((1, 64, 96, 3), (2, 128, 32, 3)):
        frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        (got,) = session.run(["cells"], {"frames": frames})
        with torch.no_grad():
            expected = ExportedDetector(network).eval()(torch.as_tensor(frames)).numpy()
        np.testing.assert_allclose(got, expected, atol=0.02)


def _arguments(data: Path, out: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--bundle")
    parser.add_argument("--out", type=Path)
    detector.add_arguments(parser)
    words = ["--data", str(data), "--bundle", "open", "--out", str(out), "--batch", "2", "--device", "cpu"]
    return parser.parse_args([*words, *more])


@pytest.mark.slow
def test_an_interrupted_run_ends_as_an_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "COMPOSED_HELD_OUT", 2)
    monkeypatch.setattr(detector, "SIZES", (64,))
    data = tmp_path / "data"
    write_data(data)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert detector.run(_arguments(data, whole, "--steps", "4", "--evaluate-every", "2")) == 0

    true_export = detector.export_onnx
    calls = []

    def stop(network, path):
        calls.append(path)
        true_export(network, path)

    monkeypatch.setattr(detector, "export_onnx", stop)
    true_batches = detector.batches

    def cut(composer, seed, start, steps, batch):
        for step, content in true_batches(composer, seed, start, steps, batch):
            if step == 3:
                raise KeyboardInterrupt
            yield step, content

    monkeypatch.setattr(detector, "batches", cut)
    with pytest.raises(KeyboardInterrupt):
        detector.run(_arguments(data, broken, "--steps", "4", "--evaluate-every", "2"))
    monkeypatch.setattr(detector, "batches", true_batches)
    assert detector.run(_arguments(data, broken, "--steps", "4", "--evaluate-every", "2")) == 0

    alone = detector.load_start(whole, FaceDetector())
    assert (alone["bundle"], alone["steps"]) == ("open", "4")

    a = torch.load(whole / "detector.checkpoint.pt", weights_only=True)
    b = torch.load(broken / "detector.checkpoint.pt", weights_only=True)
    assert a["step"] == b["step"] == 4
    for name, value in a["averaged"].items():
        assert torch.equal(value, b["averaged"][name]), name
    with (broken / "detector.log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4"]
    metrics = json.loads((broken / "detector.metrics.json").read_text())
    assert metrics["bundle"] == "open"
    assert 0 <= metrics["held_out"]["photographs"]["average_precision"] <= 1
    assert (broken / "detector.onnx").exists()


def test_errors_in_the_composing_thread_reach_the_training() -> None:
    class Broken:
        def compose(self, rng, size):
            raise RuntimeError("no picture")

    with pytest.raises(RuntimeError, match="no picture"):
        next(detector.batches(Broken(), 1, 0, 3, 2))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_run_begins_from_another_bundles_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "COMPOSED_HELD_OUT", 1)
    monkeypatch.setattr(detector, "SIZES", (64,))
    data = tmp_path / "data"
    write_data(data)
    first = tmp_path / "first"
    assert detector.run(_arguments(data, first, "--steps", "2", "--seed", "5")) == 0
    second = tmp_path / "second"
    assert (
        detector.run(_arguments(data, second, "--steps", "1", "--rate", "1e-9", "--start", str(first))) == 0
    )
    a, b = (torch.load(folder / "detector.checkpoint.pt", weights_only=True) for folder in (first, second))
    for name, value in a["averaged"].items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(value, b["network"][name], atol=1e-6, rtol=0)
    metrics = json.loads((second / "detector.metrics.json").read_text())
    assert metrics["start"]["bundle"] == "open"
    assert metrics["start"]["steps"] == "2"
    with pytest.raises(ModelError, match="earlier run"):
        detector.run(_arguments(data, tmp_path / "third", "--start", str(tmp_path / "nothing")))


def test_steps_and_rate_depend_on_where_the_run_begins(tmp_path: Path) -> None:
    args = _arguments(tmp_path, tmp_path)
    assert args.steps is args.rate is args.start is None
    assert detector.STARTED_STEPS <= detector.STEPS
    assert detector.STARTED_RATE < detector.RATE
