"""Evaluation: what is done to the pictures, what comes out as error, and files that are refused."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_face_landmarks import FaceTracker, Models, TrackerSettings, cli, load_models
from napari_face_landmarks.demo import make_demo_clip
from napari_face_landmarks.errors import ImageError
from napari_face_landmarks.evaluation import boxes, metrics
from napari_face_landmarks.evaluation.corruptions import COVERED, face_region, perturb
from napari_face_landmarks.evaluation.dataset import LabelledFaces, picture, read_faces, webp_size
from napari_face_landmarks.evaluation.metrics import EvaluationPlan, Fits, fit_faces, summarise
from napari_face_landmarks.evaluation.options import CONDITIONS
from napari_face_landmarks.evaluation.split import is_held_out
from napari_face_landmarks.files.json_file import plain as plain_values
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.training import evaluate as training_step
from numpy_reference import confidence_of

NAMES = ("3_1.jpg", "c.png", "m.png", "d.png")  # by its name, the third is held out
SIZE = 200


def webp(rgb: np.ndarray, quality: int = 90) -> bytes:
    return bytes(cv2.imencode(".webp", rgb[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes())


def arrays_of(images: Sequence[np.ndarray], landmarks: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    blobs = [webp(image) for image in images]
    return {
        "webp": np.frombuffer(b"".join(blobs), np.uint8),
        "offsets": np.cumsum([0, *map(len, blobs)]),
        "names": np.array(names),
        "landmarks": np.asarray(landmarks, dtype=np.float32),
    }


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models()


@pytest.fixture(scope="module")
def arrays(models: Models) -> dict[str, Any]:
    """Return four faces whose labels are what the tracker sees, moved by known errors."""
    frames, _ = make_demo_clip(len(NAMES), SIZE)
    tracker = FaceTracker(models, TrackerSettings(refine="off"))
    landmarks = np.concatenate([tracker.fit(frame).landmarks for frame in frames])
    landmarks += np.random.default_rng(0).normal(0, 1.5, landmarks.shape)
    return arrays_of(list(frames), landmarks, NAMES)


@pytest.fixture(scope="module")
def file(arrays: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faces") / "faces.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def faces(file: Path) -> LabelledFaces:
    return read_faces([file])


def refused(reason: str, work: Callable[[], Any]) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        work()
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")


# files


def test_files_are_read_in_order_and_by_side(
    file: Path, arrays: dict[str, Any], faces: LabelledFaces
) -> None:
    assert faces.names == NAMES
    np.testing.assert_array_equal(faces.landmarks, arrays["landmarks"])
    assert picture(faces, 1).shape == (SIZE, SIZE, 3)
    assert read_faces([file, file]).names == NAMES * 2
    held_out = tuple(name for name in NAMES if is_held_out(name))
    training = tuple(name for name in NAMES if not is_held_out(name))
    assert held_out
    assert training
    assert read_faces([file], "held-out").names == held_out
    assert read_faces([file], "training").names == training


def test_a_limit_draws_by_the_seed_and_keeps_the_order(file: Path) -> None:
    drawn = [read_faces([file], limit=2, seed=seed).names for seed in range(8)]
    assert all(len(names) == 2 and NAMES.index(names[0]) < NAMES.index(names[1]) for names in drawn)
    assert len(set(drawn)) > 1
    assert drawn[3] == read_faces([file], limit=2, seed=3).names
    assert read_faces([file], limit=9).names == NAMES


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda a: a.pop(name)


def put(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda a: a.update({name: value})


def change(name: str, at: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def work(a: dict[str, Any]) -> None:
        a[name] = a[name].copy()
        a[name][at] = value

    return work


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (without("landmarks"), "no array named 'landmarks'"),
        (without("offsets"), "no array named 'offsets'"),
        (change("landmarks", (1, 5, 0), np.nan), "'c.png' are not finite"),
        (change("landmarks", (1, 5, 0), np.inf), "'c.png' are not finite"),
        (change("landmarks", (2, 5, 0), 1e9), "'m.png' are not finite"),
        (change("landmarks", 3, 7.0), "'d.png' are not finite, or its outer eye corners"),
        (change("offsets", 2, 0), "offsets do not increase"),
        (change("offsets", 0, -5), "offsets do not increase"),
        (change("offsets", -1, 10**12), "exceed the length of webp"),
        (put("offsets", np.arange(4)), "4 names need 5 integer offsets"),
        (put("offsets", np.linspace(0, 9, 5)), "4 names need 5 integer offsets"),
        (put("landmarks", np.zeros((3, 68, 2))), "4 names but landmarks of 3"),
        (put("landmarks", np.zeros((4, 66, 2))), "4 x 68 landmarks"),
        (put("landmarks", np.zeros((4, 478, 3))), "landmarks has the shape"),
        (put("landmarks", np.zeros((4, 68, 2), complex)), "type complex128"),
        (put("names", np.array(["x" * 300] * 4)), "names has the shape"),
        (put("names", np.arange(4)), "names text"),
        (put("names", np.array(list("abcd"), dtype=object)), "type object"),
        (put("webp", np.zeros((4, 4), np.uint8)), "webp has the shape"),
        (put("webp", np.zeros(10**5, np.float32)), "webp must be bytes"),
    ],
)
def test_files_of_another_form_are_refused_in_a_sentence(
    tmp_path: Path, arrays: dict[str, Any], spoil: Callable[[dict[str, Any]], None], reason: str
) -> None:
    spoilt = dict(arrays)
    spoil(spoilt)
    np.savez(tmp_path / "f.npz", **spoilt)
    refused(reason, lambda: read_faces([tmp_path / "f.npz"]))


def test_missing_broken_and_empty_files_are_refused(
    tmp_path: Path, file: Path, arrays: dict[str, Any]
) -> None:
    refused("is missing", lambda: read_faces([tmp_path / "none.npz"]))
    (tmp_path / "half.npz").write_bytes(file.read_bytes()[:-900])
    refused("cannot be read", lambda: read_faces([tmp_path / "half.npz"]))
    (tmp_path / "text.npz").write_text("landmarks")
    refused("cannot be read", lambda: read_faces([tmp_path / "text.npz"]))
    empty = arrays_of([], np.zeros((0, 68, 2)), np.zeros(0, "U1"))
    np.savez(tmp_path / "empty.npz", **empty)
    refused("no faces in", lambda: read_faces([tmp_path / "empty.npz"]))
    outside = [name for name in ("a", "c", "e") if not is_held_out(name)]
    few = {**arrays_of([np.zeros((9, 9, 3), np.uint8)], arrays["landmarks"][:1], outside[:1])}
    np.savez(tmp_path / "few.npz", **few)
    refused("no held-out faces in", lambda: read_faces([tmp_path / "few.npz"], "held-out"))


def huge_webp() -> bytes:
    side = (16383).to_bytes(3, "little")
    return b"RIFF" + bytes(4) + b"WEBPVP8X" + (10).to_bytes(4, "little") + bytes(4) + side + side + bytes(40)


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (b"no picture at all, but as long as one", "not a WebP"),
        (b"", "not a WebP"),
        (cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes(), "not a WebP"),
        (huge_webp(), "16384 x 16384 px"),
        (webp(np.zeros((40, 30, 3), np.uint8))[:40], "cannot be decoded"),
    ],
)
def test_pictures_are_refused_before_they_take_memory(faces: LabelledFaces, blob: bytes, reason: str) -> None:
    spoilt = dataclasses.replace(faces, blobs=(blob, *faces.blobs[1:]))
    refused(reason, lambda: picture(spoilt, 0))


@pytest.mark.parametrize("quality", [50, 101])  # lossy, lossless
def test_the_size_of_a_webp_file_is_read_without_decoding(quality: int) -> None:
    image = np.random.default_rng(0).integers(0, 255, (37, 513, 3), dtype=np.uint8)
    assert webp_size(webp(image, quality)) == (513, 37)


# perturbations


@pytest.mark.parametrize("condition", CONDITIONS)
def test_perturbations_depend_on_seed_and_name_alone(faces: LabelledFaces, condition: Any) -> None:
    image, points = picture(faces, 0), faces.landmarks[0]
    kept = image.copy()
    first = perturb(image, points, condition, "a", 5)
    np.testing.assert_array_equal(image, kept)
    perturb(image, points, condition, "b", 5)
    again = perturb(image, points, condition, "a", 5)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.covered, again.covered)
    assert first.image.shape == image.shape
    assert first.image.dtype == np.uint8
    by_chance = condition in ("marks", "occlusion", "dark", "noise")
    for name, seed in (("b", 5), ("a", 6)):
        other = perturb(image, points, condition, name, seed)
        assert np.array_equal(other.image, first.image) != by_chance
    assert np.array_equal(first.image, image) == (condition == "none")
    assert first.covered.any() == (condition == "occlusion")


def test_dark_noise_and_gray_are_as_strong_as_they_say() -> None:
    points = np.stack([np.linspace(10, 90, 68), np.linspace(20, 80, 68)], axis=1)
    image = np.full((100, 100, 3), 120, np.uint8)
    dark = perturb(image, points, "dark", "a").image
    assert dark.mean() == pytest.approx(30, abs=0.2)
    assert dark.std() == pytest.approx(4, rel=0.05)
    noise = perturb(image, points, "noise", "a").image
    assert noise.mean() == pytest.approx(120, abs=0.5)
    assert noise.std() == pytest.approx(20, rel=0.05)
    image[..., 0], image[..., 2] = 200, 20
    gray = perturb(image, points, "gray", "a").image
    assert np.ptp(gray.astype(int), axis=2).max() == 0
    assert gray[0, 0, 0] == round(0.299 * 200 + 0.587 * 120 + 0.114 * 20)


def test_blur_is_two_pixels_of_a_crop_of_112() -> None:
    image = np.zeros((301, 301, 3), np.uint8)
    image[:, 150:] = 255
    x = np.linspace(0, 200, 68)  # upright, no roll: the crop's side is 1.3 x 200 px
    points = np.stack([x, np.full(68, 150.0)], axis=1)
    points[36:48, 1] = 150.0
    points[42:48, 0], points[36:42, 0] = 150, 50
    edge = perturb(image, points, "blur", "a").image[150, :, 0].astype(float) / 255
    step = np.diff(edge)
    at = np.arange(len(step))
    spread = math.sqrt((step * at**2).sum() / step.sum() - ((step * at).sum() / step.sum()) ** 2)
    assert spread == pytest.approx(2 * 1.3 * 200 / 112, rel=0.03)


def test_occlusion_covers_a_part_of_the_face_and_says_what(faces: LabelledFaces) -> None:
    image, points = picture(faces, 0), faces.landmarks[0]
    face = face_region(image.shape[:2], points)
    kinds = 0
    for name in map(str, range(60)):
        seen = perturb(image, points, "occlusion", name)
        changed = np.abs(seen.image.astype(int) - image).max(axis=2) > 6
        share = changed[face].mean()
        # a little skin of the hand has the colour of what it covers, and the edge is soft
        assert COVERED[0] - 0.08 < share < COVERED[1] + 0.06
        at = np.rint(points).astype(int)
        assert (changed[at[:, 1], at[:, 0]] == seen.covered).mean() > 0.8
        kinds += seen.covered[48:68].any()
    assert 6 < kinds < 54  # now the mouth is covered, now it is not


def test_marks_keep_their_width_in_proportion_to_the_face(faces: LabelledFaces) -> None:
    image, points = picture(faces, 0), faces.landmarks[0]
    large = cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_LINEAR)
    shares = []
    for picture_, landmarks in ((image, points), (large, 3 * points + 1)):
        marked = perturb(picture_, landmarks, "marks", "a").image
        shares.append((np.abs(marked.astype(int) - picture_).max(axis=2) > 25).mean())
    assert 0.004 < shares[0] < 0.1
    assert shares[1] == pytest.approx(shares[0], rel=0.15)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_faces_partly_outside_their_picture_do_no_harm(faces: LabelledFaces, condition: Any) -> None:
    image, points = picture(faces, 0), faces.landmarks[0]
    seen = perturb(image[:90, :110], points - 40, condition, "a")
    assert seen.image.shape == (90, 110, 3)
    away = perturb(image[:90, :110], points + 4000, condition, "a")
    assert not away.covered.any()


# boxes


def test_the_true_box_is_where_the_detector_puts_its_own(models: Models, faces: LabelledFaces) -> None:
    finder = FaceTracker(models, TrackerSettings(max_faces=8))
    for index in range(len(faces)):
        points = faces.landmarks[index]
        truth = boxes.true_box(points)
        found = boxes.detected_box(finder, picture(faces, index), points)
        assert found is not None
        size = truth[2:] - truth[:2]
        assert np.abs(found - truth).max() < 0.15 * size.max()
    assert boxes.detected_box(finder, np.zeros((90, 90, 3), np.uint8), points) is None
    assert boxes.detected_box(finder, picture(faces, index), points + 150) is None


def test_jitter_is_as_large_as_it_says_and_seeded(faces: LabelledFaces) -> None:
    points = faces.landmarks[0]
    truth = boxes.true_box(points)
    many = np.stack([boxes.jittered_box(points, str(i), 1) for i in range(800)])
    np.testing.assert_array_equal(many[7], boxes.jittered_box(points, "7", 1))
    assert not np.array_equal(many[7], boxes.jittered_box(points, "7", 2))
    centre = (many[:, :2] + many[:, 2:]) / 2 - (truth[:2] + truth[2:]) / 2
    size = (many[:, 2:] - many[:, :2]) / (truth[2:] - truth[:2])
    np.testing.assert_allclose(centre.std(axis=0), 0.04 * (truth[2:] - truth[:2]).max(), rtol=0.1)
    np.testing.assert_allclose(size[:, 0], size[:, 1])
    assert np.log(size[:, 0]).std() == pytest.approx(0.045, rel=0.1)


# figures


def made_up(distances: np.ndarray, confidence: np.ndarray | None = None, **changes: Any) -> Fits:
    """Return fits whose landmarks all have their face's error, unless `distances` is (N, 68)."""
    distances = np.asarray(distances, dtype=np.float64)
    if distances.ndim == 1:
        distances = np.repeat(distances[:, None], 68, axis=1)
    count = len(distances)
    sure = np.full((count, 68), 0.9) if confidence is None else confidence
    if sure.ndim == 1:
        sure = np.repeat(sure[:, None], 68, axis=1)
    found = np.isfinite(distances[:, 0])
    whole: dict[str, Any] = {
        "bundle": "b",
        "refine": "off",
        "condition": "none",
        "found": found,
        "landmarks": np.full((count, 68, 2), np.nan),
        "distances": distances,
        "confidence": sure,
        "sigma": np.full((count, 68), np.nan),
        "score": sure.mean(axis=1),
        "refined": np.zeros(count, bool),
        "covered": np.zeros((count, 68), bool),
        "seconds": np.full(count, 0.002),
    }
    return Fits(**{**whole, **changes})


def test_summary_of_known_errors() -> None:
    distances = np.repeat([[0.02], [0.04], [0.06], [0.12], [np.nan]], 68, axis=1)
    distances[0, :17] = 0.054  # the jaw of one face: its mean is (17 x 0.054 + 51 x 0.02) / 68 = 0.0285
    off = made_up(distances)
    always = made_up(distances / 2, refine="always", refined=np.array([1, 1, 0, 1, 0], bool))
    dark = made_up(distances * 1.5, condition="dark")
    plain, refined, darker = summarise([off, always, dark])
    assert plain.faces == 5
    assert plain.found == 4
    assert plain.mean == pytest.approx((0.0285 + 0.04 + 0.06 + 0.12) / 4)
    assert plain.median == pytest.approx(0.05)
    assert plain.inner == pytest.approx(0.06)
    assert plain.jaw == pytest.approx((0.054 + 0.04 + 0.06 + 0.12) / 4)
    assert plain.failures == pytest.approx(2 / 5)  # one poor, one not found
    assert plain.auc == pytest.approx(((0.08 - 0.0285) + 0.04 + 0.02) / 0.08 / 5)
    assert plain.confidence == pytest.approx(0.9)
    assert plain.milliseconds == pytest.approx(2.0)
    assert plain.standard_error == pytest.approx(np.std([0.0285, 0.04, 0.06, 0.12], ddof=1) / 2)
    assert plain.growth is None
    assert plain.better_than_off is None
    assert plain.covered is None
    assert plain.errors[4] is None
    assert refined.better_than_off == 1.0
    assert refined.refined == pytest.approx(3 / 4)
    assert darker.growth == pytest.approx(0.5)


def test_growth_compares_faces_that_are_found_under_both() -> None:
    plain = made_up(np.array([0.02, 0.04, np.nan]))
    dark = made_up(np.array([0.03, np.nan, 0.5]), condition="dark")
    assert summarise([plain, dark])[1].growth == pytest.approx(0.5)


def test_nothing_found_is_reported_and_harmless() -> None:
    none = made_up(np.full((3, 68), np.nan), np.full((3, 68), np.nan))
    (summary,) = summarise([none])
    assert (summary.found, summary.failures, summary.auc) == (0, 1.0, 0.0)
    plain = plain_values(summary)
    assert plain["mean"] is None
    assert plain["errors"] == [None, None, None]
    json.dumps(plain, allow_nan=False)


def test_area_under_the_error_curve_is_that_of_fine_steps() -> None:
    errors = np.random.default_rng(0).gamma(4, 0.012, 200)
    steps = np.linspace(0, metrics.POOR, 40001)
    curve = (errors[None] <= steps[:, None]).mean(axis=1)
    assert metrics.curve_area(errors, 200) == pytest.approx(curve.mean(), abs=1e-4)


@pytest.mark.parametrize("levels", [3, 1000])
def test_roc_area_is_that_of_all_pairs(levels: int) -> None:
    rng = np.random.default_rng(levels)
    for _ in range(20):
        score = rng.integers(0, levels, 40) / levels
        good = rng.random(40) < 0.7
        pairs = score[good][:, None] - score[~good][None]
        assert metrics.roc_area(score, good) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert metrics.roc_area(score, np.ones(40, bool)) is None
    assert metrics.roc_area(score, np.zeros(40, bool)) is None


def test_poor_fits_are_pooled_over_conditions() -> None:
    plain = made_up(np.array([0.02, 0.03]), np.array([0.9, 0.8]))
    dark = made_up(np.array([0.2, 0.05]), np.array([0.1, 0.7]), condition="dark")
    assert metrics.poor_fits([plain]).by_confidence is None
    (pooled,) = metrics.pooled_poor_fits([plain, dark]).values()
    assert (pooled.fits, pooled.poor, pooled.by_confidence) == (4, 1, 1.0)


def test_expected_error_is_what_the_networks_sigma_means() -> None:
    landmarks = np.zeros((1, 68, 2), np.float32)
    landmarks[0, 45, 0] = 100.0
    sigma = np.linspace(2, 12, 68, dtype=np.float32)[None]
    expected = metrics.expected_error(confidence_of(landmarks, sigma))
    np.testing.assert_allclose(expected, sigma / 100 * math.sqrt(math.pi / 2), rtol=2e-3)
    assert np.isfinite(metrics.expected_error(np.array([0.0, 1.0]))).all()


def test_reliability_of_a_confidence_that_is_right() -> None:
    rng = np.random.default_rng(1)
    sigma = rng.uniform(0.015, 0.08, (400, 68))
    distances = np.linalg.norm(rng.normal(0, 1, (400, 68, 2)) * sigma[..., None], axis=2)
    bins = metrics.reliability(1 - np.exp(-(0.08**2) / (2 * sigma**2)), distances)
    assert len(bins.expected) == 10
    assert list(bins.expected) == sorted(bins.expected)
    np.testing.assert_allclose(bins.observed, bins.expected, rtol=0.05)
    np.testing.assert_allclose(bins.within, bins.confidence, atol=0.02)
    overconfident = metrics.reliability(1 - np.exp(-(0.08**2) / (2 * sigma**2)), 2 * distances)
    np.testing.assert_allclose(overconfident.observed, 2 * np.array(bins.observed))


def test_risk_curve_takes_the_surest_first() -> None:
    score = np.array([0.1, 0.9, 0.5, 0.7])
    errors = np.array([0.4, 0.1, 0.3, 0.2])
    curve = metrics.risk_curve(score, errors)
    np.testing.assert_allclose(curve, [0.1, 0.1, 0.15, 0.15, 0.15, 0.2, 0.2, 0.25, 0.25, 0.25])


def test_covered_landmarks_are_compared_with_the_visible_ones_of_the_same_faces() -> None:
    covered = np.zeros((3, 68), bool)
    covered[0, :10] = True
    confidence = np.where(covered, 0.4, 0.9)
    confidence[1:] = 0.1  # faces on which nothing is covered do not count
    distances = np.where(covered, 0.1, 0.02)
    (summary,) = summarise([made_up(distances, confidence, covered=covered)])
    assert summary.covered is not None
    assert summary.covered.landmarks == 10
    assert summary.covered.confidence == pytest.approx(0.4)
    assert summary.covered.confidence_visible == pytest.approx(0.9)
    assert summary.covered.error == pytest.approx(0.1)
    assert summary.covered.error_visible == pytest.approx(0.02)


# the whole


def reordered(faces: LabelledFaces, order: Sequence[int]) -> LabelledFaces:
    return LabelledFaces(
        tuple(faces.names[i] for i in order),
        tuple(faces.blobs[i] for i in order),
        faces.landmarks[list(order)],
        faces.files,
    )


@pytest.mark.slow
def test_fits_do_not_depend_on_threads_order_or_subset(models: Models, faces: LabelledFaces) -> None:
    plan = EvaluationPlan(conditions=("none", "marks", "occlusion", "noise"))
    seen = []
    whole = fit_faces(faces, {"b": models}, plan, lambda: seen.append(1))
    assert len(seen) == len(faces)
    assert [(one.condition, one.refine) for one in whole[:3]] == [
        ("none", "off"),
        ("none", "always"),
        ("marks", "off"),
    ]
    order = [3, 1]
    part = fit_faces(reordered(faces, order), {"b": models}, dataclasses.replace(plan, threads=3))
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_array_equal(one.distances[order], other.distances)
        np.testing.assert_array_equal(one.confidence[order], other.confidence)
        np.testing.assert_array_equal(one.covered[order], other.covered)
        assert one.refined.all() == (one.refine == "always")


@pytest.mark.parametrize("source", ["truth", "jitter", "detector"])
def test_errors_are_those_of_what_users_call(models: Models, faces: LabelledFaces, source: Any) -> None:
    (fits,) = fit_faces(faces, {"b": models}, EvaluationPlan(refine=("off",), boxes=source, seed=4))
    tracker = FaceTracker(models, TrackerSettings(refine="off"))
    image, points = picture(faces, 2), faces.landmarks[2]
    if source == "truth":
        box = boxes.true_box(points)
    elif source == "jitter":
        box = boxes.jittered_box(points, NAMES[2], 4)
    else:
        box = tracker.detect(image)[0, :4]
    fit = tracker.fit(image, box[None])
    unit = np.linalg.norm(points[45] - points[36])
    for landmark in (0, 30, 67):
        apart = math.dist(fit.landmarks[0, landmark], points[landmark]) / unit
        assert fits.distances[2, landmark] == pytest.approx(apart, rel=1e-6)
    np.testing.assert_allclose(fits.confidence[2], fit.confidence[0])
    assert fits.score[2] == fit.boxes[0, 4]
    # the labels are what the tracker sees, 1.5 px off along each axis
    assert fits.errors[2] == pytest.approx(1.5 * math.sqrt(math.pi / 2) / unit, rel=0.25)


def test_a_face_that_the_detector_misses_counts_as_a_failure(
    models: Models, arrays: dict[str, Any], tmp_path: Path
) -> None:
    images = [np.full((SIZE, SIZE, 3), 90, np.uint8), picture(read_of(arrays, tmp_path), 0)]
    np.savez(tmp_path / "two.npz", **arrays_of(images, arrays["landmarks"][:1].repeat(2, 0), ["x", "y"]))
    fits = fit_faces(read_faces([tmp_path / "two.npz"]), {"b": models}, EvaluationPlan(boxes="detector"))
    for summary in summarise(fits):
        assert (summary.faces, summary.found) == (2, 1)
        assert summary.errors[0] is None
        assert summary.failures == 0.5


def read_of(arrays: dict[str, Any], folder: Path) -> LabelledFaces:
    np.savez(folder / "faces.npz", **arrays)
    return read_faces([folder / "faces.npz"])


@pytest.mark.slow
def test_the_training_step_writes_a_short_record(models: Models, faces: LabelledFaces) -> None:
    faces = reordered(faces, [0, 2])
    record = training_step.evaluate(models, faces, threads=2)
    text = json.dumps(record, allow_nan=False)
    assert len(text) < 14000
    assert set(record["measures"]) == set(CONDITIONS)
    measures = record["measures"]["none"]["always"]
    assert measures["mouth_width"] == [None, None], "two faces have no slope"
    assert -0.5 < measures["commissure followed"] < 1.6
    assert "commissure followed" not in record["measures"]["dark"]["off"]
    assert set(record["jitter"]) == set(CONDITIONS)
    assert record["detector"]["found"] == len(faces)
    assert record["jitter"]["none"]["always"].keys() >= {"mean", "better_than_off"}
    assert "growth" in record["jitter"]["dark"]["off"]
    assert record["covered"]["off"]["landmarks"] > 0


# the command


def test_evaluate_prints_and_writes_all_bundles_side_by_side(
    file: Path, tmp_path: Path, models: Models, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "new" / "e.json", tmp_path / "e.md"
    table.write_text("before\n<!-- accuracy table -->\nold\n<!-- end of accuracy table -->\nafter\n")
    words = ["evaluate", str(file), "--models", "open", str(models.folder.resolve()) + "/"]
    words += ["--perturb", "none", "occlusion", "--seed", "3", "--limit", "3"]
    assert cli.main([*words, "--json", str(out), "--table", str(table)]) == 0
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert "3/3" in shown.err

    record = json.loads(out.read_text())
    assert record["format"] == "napari-face-landmarks evaluation"
    assert record["files"] == ["faces.npz"]
    assert len(record["names"]) == 3
    assert (record["boxes"], record["seed"], record["side"]) == ("jitter", 3, "all")
    bundles = [entry["name"] for entry in record["bundles"]]
    assert len(bundles) == 2
    keys = [(one["condition"], one["refine"], one["bundle"]) for one in record["results"]]
    assert keys == [(c, r, b) for c in ("none", "occlusion") for r in ("off", "always") for b in bundles]
    for one in record["results"]:
        assert set(one) == {field.name for field in dataclasses.fields(metrics.Summary)}
        assert len(one["errors"]) == one["faces"] == 3
        assert one["mean"] == pytest.approx(np.mean(one["errors"]))
        assert len(one["risk"]) == len(one["reliability"]["expected"]) == 10
        assert (one["covered"] is None) == (one["condition"] == "none")
    first, second = record["results"][:2]
    assert first["errors"] == second["errors"]  # the same bundle by its name and by its folder
    assert [entry["fits"] for entry in record["poor_fits_of_all_conditions"]] == [6] * 4

    assert f"{100 * first['mean']:.2f}" in shown.out
    text = table.read_text()
    assert text.startswith("before\n<!-- accuracy table -->\n\nMean error")
    assert text.endswith("\n<!-- end of accuracy table -->\nafter\n")
    assert "old" not in text
    assert "| none |" in text
    assert f"{100 * first['mean']:.2f} %" in text
    for block in text.split("\n\n"):
        assert len({line.count("|") for line in block.splitlines()}) == 1


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--models", "nobody"], "no models named 'nobody'"),
        (["--perturb", "rain"], "invalid choice: 'rain'"),
        (["--refine", "never"], "invalid choice: 'never'"),
        (["--limit", "0"], "not a positive integer"),
        (["--threads", "x"], "not a positive integer"),
        (["--json", "{file}"], "one of the input files"),
        (["--json", "{folder}/x", "--table", "{folder}/x"], "named twice"),
        (["--json", "{file}/x.json"], "cannot be created"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    file: Path, more: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(file=file, folder=file.parent) for word in more]
    try:
        status = cli.main(["evaluate", str(file), *words])
    except SystemExit as stop:
        status = int(str(stop.code))
    assert status == 2
    line = capsys.readouterr().err.strip()
    assert reason in line
    assert len(line.splitlines()) == 1


def test_a_file_without_labels_is_refused_with_status_2(
    tmp_path: Path, arrays: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "open.npz", **{k: v for k, v in arrays.items() if k != "landmarks"})
    assert cli.main(["evaluate", str(tmp_path / "open.npz")]) == 2
    assert capsys.readouterr().err.strip().endswith("webp, offsets, names and landmarks.")


def test_faces_that_a_bundle_was_trained_on_are_told(
    tmp_path: Path, arrays: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "helen_train.npz"
    np.savez(path, **arrays)
    words = ["evaluate", str(path), "--models", "research", "--refine", "off", "--faces"]
    told = "Warning: The bundle research was trained on faces of helen_train.npz"
    assert cli.main([*words, "all"]) == 0
    assert told in capsys.readouterr().err
    assert cli.main([*words, "held-out"]) == 0
    assert told not in capsys.readouterr().err


@pytest.mark.shared_data
def test_held_out_faces_are_fitted_well(shared_data: Path, models: Models) -> None:
    data = shared_data / "landmarks_300w_train"
    files = [data / "helen_train.npz", data / "lfpw_train.npz"]
    faces = read_faces(files, "held-out", limit=10)
    fits = fit_faces(
        faces, {models.name: models}, EvaluationPlan(conditions=("none", "occlusion"), threads=2)
    )
    off, always, hidden, _ = summarise(fits)
    assert off.found == 10
    assert off.mean < 0.06
    assert always.mean < off.mean
    assert hidden.covered is not None
    assert hidden.covered.confidence < hidden.covered.confidence_visible - 0.05
