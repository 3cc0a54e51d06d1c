"""Crops map to the picture and back; the network's input is sampled as its definition says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from napari_face_landmarks.ibug import MIRROR_68
from napari_face_landmarks.models import load_models
from napari_face_landmarks.pfld import (
    crops_of_boxes,
    crops_of_landmarks,
    predict,
    predict_twice,
)
from napari_face_landmarks.pfld.crop import (
    CROP_MARGIN,
    CROP_SIZE,
    WEIGHT_STEPS,
    sample_crops,
    to_crop,
    to_image,
)
from napari_face_landmarks.pfld.network import find_misplaced, output_in_image
from numpy_reference import (
    confidence_of,
    crops_of_landmarks_reference,
    misplaced_reference,
    output_in_image_reference,
    roll_of_landmarks,
)


def a_face(rng: np.random.Generator) -> np.ndarray:
    face = rng.uniform(-40, 40, (68, 2))
    face[36:42] = (-25, -10) + rng.normal(0, 1, (6, 2))
    face[42:48] = (25, -10) + rng.normal(0, 1, (6, 2))
    return face


def test_the_compiled_crop_is_that_of_the_reference() -> None:
    rng = np.random.default_rng(7)
    faces = np.stack([rng.uniform(0.1, 9) * a_face(rng) + rng.uniform(-50, 900, 2) for _ in range(40)])
    np.testing.assert_allclose(
        crops_of_landmarks(faces), crops_of_landmarks_reference(faces), rtol=1e-5, atol=1e-4
    )
    faces[1, 3] = np.nan
    crops = crops_of_landmarks(faces)
    assert np.isnan(crops[1, 2])
    assert np.isfinite(crops[[0, 2]]).all()
    assert crops_of_landmarks(faces[:0]).shape == (0, 4)


def test_the_compiled_placing_is_that_of_the_reference() -> None:
    rng = np.random.default_rng(8)
    fractions = np.stack([a_face(rng) / 120 + 0.5 for _ in range(9)]).astype(np.float32)
    spread = rng.uniform(0.001, 0.2, (9, 68)).astype(np.float32)
    score = rng.uniform(0, 1, 9).astype(np.float32)
    crops = np.column_stack([rng.uniform(0, 600, (9, 2)), rng.uniform(20, 900, 9), rng.uniform(-3, 3, 9)])
    fractions[1, 5, 0], spread[2, 7], spread[3, 8], score[4] = np.nan, 0.0, np.inf, np.nan
    arguments = (fractions, spread, score, crops.astype(np.float32))
    found, expected = output_in_image(*arguments), output_in_image_reference(*arguments)
    assert (found.score == 0).tolist() == [False, True, True, True, True] + [False] * 4
    for name, most in (("landmarks", 1e-3), ("sigma", 1e-3), ("confidence", 1e-5), ("score", 0)):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=most)


def test_the_compiled_look_at_crops_that_are_off_is_that_of_the_reference() -> None:
    rng = np.random.default_rng(9)
    faces = np.stack([a_face(rng) + rng.uniform(100, 400, 2) for _ in range(400)]).astype(np.float32)
    crops = crops_of_landmarks(faces)
    crops[:, :2] += rng.uniform(-0.08, 0.08, (400, 2)) * crops[:, 2:3]
    crops[:, 2] *= np.exp(rng.uniform(-0.14, 0.14, 400))
    crops[:, 3] += rng.uniform(-0.17, 0.17, 400) + 2 * np.pi * rng.integers(-1, 2, 400)
    crops[0, 2], crops[1, 2], faces[1] = 0.0, 0.0, 7.0
    crops = crops.astype(np.float32)

    def misplaced(crops: Any, faces: Any) -> Any:
        found = np.empty(len(crops), np.bool_)
        assert find_misplaced(crops, faces, np.ones(len(crops), np.float32), found) == found.any()
        return found

    found = misplaced(crops, faces)
    np.testing.assert_array_equal(found, misplaced_reference(crops, faces))
    assert found[:2].tolist() == [True, False]
    assert 100 < found.sum() < 300
    assert not misplaced(crops_of_landmarks(faces), faces).any()
    assert misplaced(crops[:0], faces[:0]).shape == (0,)


@pytest.mark.parametrize("degrees", [0, 30, -75, 170])
def test_crop_turns_and_scales_with_the_face(degrees: float) -> None:
    face = a_face(np.random.default_rng(1))
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    upright = crops_of_landmarks(face[None])[0]
    turned = crops_of_landmarks((2.5 * face @ turn.T + (300, 200))[None])[0]
    np.testing.assert_allclose(turned[:2], 2.5 * turn @ upright[:2] + (300, 200), atol=1e-3)
    assert turned[2] == pytest.approx(2.5 * upright[2], rel=1e-5)
    assert math.remainder(turned[3] - upright[3] - angle, 2 * math.pi) == pytest.approx(0, abs=1e-5)
    in_crop = to_crop((2.5 * face @ turn.T + (300, 200))[None], turned[None])
    np.testing.assert_allclose(in_crop, to_crop(face[None], upright[None]), atol=1e-5)


def test_crop_holds_the_face_with_its_margin() -> None:
    face = a_face(np.random.default_rng(2))[None]
    inside = to_crop(face, crops_of_landmarks(face))[0]
    assert np.ptp(inside, axis=0).max() == pytest.approx(1 / CROP_MARGIN, rel=1e-5)
    np.testing.assert_allclose(inside.min(0) + inside.max(0), 1, atol=1e-5)
    assert roll_of_landmarks(face).shape == (1,)


def test_to_image_and_to_crop_are_inverse() -> None:
    rng = np.random.default_rng(3)
    crops = np.stack(
        [rng.uniform(0, 500, 4), rng.uniform(0, 500, 4), rng.uniform(20, 300, 4), rng.normal(0, 1, 4)], 1
    )
    fractions = rng.uniform(-0.2, 1.2, (4, 68, 2))
    np.testing.assert_allclose(to_crop(to_image(fractions, crops), crops), fractions, atol=1e-4)


EVERY = 9  # the plain loops are slow: every ninth row and column will do


def block_means(rgb: np.ndarray, block: int) -> np.ndarray:
    height, width = rgb.shape[:2]
    padded = np.pad(rgb.astype(float), [(0, -height % block), (0, -width % block), (0, 0)], mode="edge")
    return padded.reshape(len(padded) // block, block, -1, block, 3).mean(axis=(1, 3))


def plain_crop(rgb: np.ndarray, crop: np.ndarray, samples: int, block: int) -> np.ndarray:
    """Say in plain float64 loops what a crop is."""
    rgb = block_means(rgb, block)
    crop = crop / (block, block, block, 1)
    crop[:2] += 0.5 / block - 0.5
    cx, cy, side, roll = crop
    height, width = rgb.shape[:2]
    out = np.zeros((3, CROP_SIZE, CROP_SIZE))
    for row in range(0, CROP_SIZE, EVERY):
        for column in range(0, CROP_SIZE, EVERY):
            for j in range(samples):
                for i in range(samples):
                    u = ((column + (i + 0.5) / samples) / CROP_SIZE - 0.5) * side
                    v = ((row + (j + 0.5) / samples) / CROP_SIZE - 0.5) * side
                    x = min(max(cx + u * math.cos(roll) - v * math.sin(roll), 0), width - 1)
                    y = min(max(cy + u * math.sin(roll) + v * math.cos(roll), 0), height - 1)
                    x0, y0 = int(x), int(y)
                    x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
                    top = rgb[y0, x0] * (1 - (x - x0)) + rgb[y0, x1] * (x - x0)
                    below = rgb[y1, x0] * (1 - (x - x0)) + rgb[y1, x1] * (x - x0)
                    out[:, row, column] += top * (1 - (y - y0)) + below * (y - y0)
    return out[:, ::EVERY, ::EVERY] / (255 * samples * samples)


@pytest.mark.parametrize(
    ("side", "samples", "block"),
    [(60.0, 1, 1), (130.0, 1, 1), (250.0, 2, 1), (350.0, 2, 2), (460.0, 2, 2), (700.0, 2, 4), (900.0, 2, 4)],
)
def test_sampling_is_bilinear_averaged_and_continues_the_border(
    side: float, samples: int, block: int
) -> None:
    rgb = np.random.default_rng(4).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    crop = np.array([70.3, 40.6, side, 0.4])
    tolerance = 2 / WEIGHT_STEPS if block == 1 else 1 / 255  # rounded weights, or rounded means
    sampled = sample_crops(rgb, crop[None])[0, :, ::EVERY, ::EVERY]
    np.testing.assert_allclose(sampled, plain_crop(rgb, crop, samples, block), atol=tolerance)


def test_a_large_face_does_not_alias() -> None:
    stripes = np.zeros((1200, 1200, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = sample_crops(stripes, np.array([[600, 600, 1100, 0]], np.float32))
    assert abs(crop.mean() - 0.5) < 0.02
    assert crop.std() < 0.06


def test_confidence_is_the_probability_of_an_error_under_8_percent() -> None:
    face = a_face(np.random.default_rng(5))[None].astype(np.float32)
    face[0, 36], face[0, 45] = (0, 0), (100, 0)
    sigma = np.full((1, 68), 4.0, np.float32)
    errors = np.linalg.norm(np.random.default_rng(6).normal(0, 4, (200_000, 2)), axis=1)
    assert confidence_of(face, sigma)[0, 0] == pytest.approx((errors < 8).mean(), abs=0.005)


def test_no_crops_give_no_faces() -> None:
    output = predict(load_models().pfld, np.zeros((20, 20, 3), np.uint8), np.zeros((0, 4), np.float32))
    assert output.landmarks.shape == (0, 68, 2)
    assert output.score.shape == (0,)


def test_result_does_not_depend_on_the_batch_nor_much_on_the_box() -> None:
    data = pytest.importorskip("skimage.data")
    rgb = np.ascontiguousarray(data.astronaut())
    session = load_models().pfld
    boxes = np.array([[175, 65, 275, 200], [165, 55, 280, 210], [185, 60, 268, 190]], np.float32)
    crops = crops_of_boxes(boxes)
    together = predict_twice(session, rgb, crops)
    for i, crop in enumerate(crops):
        alone = predict_twice(session, rgb, crop[None])
        np.testing.assert_allclose(alone.landmarks[0], together.landmarks[i], atol=1e-3)
    assert (together.score > 0.9).all()
    eyes = np.linalg.norm(together.landmarks[0, 36] - together.landmarks[0, 45])
    apart = np.linalg.norm(together.landmarks[1:] - together.landmarks[0], axis=-1).mean(axis=1)
    assert (apart < 0.03 * eyes).all()


def test_a_mirrored_picture_gets_mirrored_landmarks_where_pfld_looks_at_both() -> None:
    from skimage import data

    picture = np.ascontiguousarray(data.astronaut()[10:250, 105:345])
    crops = np.array([[118.0, 110.0, 130.0, 0.1], [121.0, 100.0, 120.0, -0.2]], np.float32)
    width = picture.shape[1]
    mirrored = np.array([(width - 1 - x, y, side, -roll) for x, y, side, roll in crops], np.float32)
    session = load_models().pfld
    one, other = (
        predict(session, np.ascontiguousarray(image), places, mirrored=True)
        for image, places in ((picture, crops), (picture[:, ::-1], mirrored))
    )
    back = other.landmarks[:, MIRROR_68]
    back[..., 0] = width - 1 - back[..., 0]
    np.testing.assert_allclose(one.landmarks, back, atol=5e-3)
    np.testing.assert_allclose(one.sigma, other.sigma[:, MIRROR_68], atol=2e-3)
    np.testing.assert_allclose(one.score, other.score, atol=1e-4)
    once = predict(session, picture, crops)
    assert np.abs(once.landmarks - one.landmarks).max() > 0.05
    assert len(predict(session, picture, crops[:0], mirrored=True).score) == 0
