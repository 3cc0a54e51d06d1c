"""Compiled steps of a frame against the same in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from napari_face_landmarks import load_models
from napari_face_landmarks.clnf.pdm import PDM, fit_pdm, fit_pdm_again, project, sigma_weights
from napari_face_landmarks.data.frame import empty_frame
from napari_face_landmarks.detection.boxes import SAME_FACE, boxes_kernel, boxes_of, suppress
from napari_face_landmarks.ibug import inter_ocular
from napari_face_landmarks.pfld import PfldOutput, crops_of_landmarks
from napari_face_landmarks.tracking.face_finder import (
    SMALLEST_FACE,
    face_scores,
    still_faces,
    usable_faces,
)
from napari_face_landmarks.tracking.pfld_tracker import (
    CROP_STEPS,
    MIN_LOOKAHEAD,
    SMALL_MOTION,
    Face,
    _predicted_crops,
    set_output,
)
from napari_face_landmarks.tracking.refinement import misfit_of


@pytest.fixture(scope="module")
def pdm() -> PDM:
    return load_models().pdm


def params_at(pdm: PDM, scale: float, x: float, y: float) -> np.ndarray:
    return np.concatenate([[scale, 0.1, -0.2, 0.3, x, y], 0.5 * np.sqrt(pdm.eigenvalues)])


def output_of(landmarks: np.ndarray, rng: np.random.Generator) -> PfldOutput:
    count = len(landmarks)
    confidence = rng.uniform(0.2, 1, (count, 68)).astype(np.float32)
    return PfldOutput(
        landmarks.astype(np.float32), confidence, confidence, rng.uniform(0.4, 1, count).astype(np.float32)
    )


def test_faces_that_are_doubles_outside_or_of_a_wrong_size_are_not_usable(pdm: PDM) -> None:
    rng = np.random.default_rng(0)
    places = [(200, 200), (205, 204), (420, 200), (900, 200), (300, 400), (430, 190), (206, 199)]
    scales = [1.0, 1.1, 1.0, 1.0, 0.05, 1.2, 30.0]
    faces = [project(pdm, params_at(pdm, scale, *place)) for scale, place in zip(scales, places, strict=True)]
    output = output_of(np.stack(faces), rng)
    scores = np.minimum(output.score, output.confidence.mean(axis=1))
    np.testing.assert_allclose(face_scores(output), scores, rtol=1e-6)
    crops = crops_of_landmarks(output.landmarks)
    for rank in (scores, scores[::-1].copy(), np.ones_like(scores)):
        sure = rng.uniform(size=len(faces)) > 0.2
        good = sure & (crops[:, 2] >= SMALLEST_FACE) & (crops[:, 2] <= 4 * 640)
        good &= ((crops[:, :2] > 0) & (crops[:, :2] < [640, 480])).all(axis=1)
        single = np.zeros_like(good)
        single[suppress(boxes_of(output.landmarks), np.where(good, rank, -1), SAME_FACE)] = True
        found = usable_faces(output, (480, 640, 3), sure, rank)
        np.testing.assert_array_equal(found, good & single)
    still = usable_faces(output, (480, 640), scores >= 0.5, scores)
    assert still.any()
    np.testing.assert_array_equal(still_faces(output, (480, 640), 0.5), still)
    assert not usable_faces(output, (480, 640), np.ones(7, bool), scores)[[3, 4, 6]].any()


def test_a_face_is_written_with_its_box_and_score(pdm: PDM) -> None:
    rng = np.random.default_rng(5)
    output = output_of(np.stack([project(pdm, params_at(pdm, 1.0, x, 90)) for x in (100, 300)]), rng)
    frame = empty_frame(4, 2)
    set_output(frame, 1, output, 0)
    np.testing.assert_array_equal(frame.confidence[1], output.confidence[0])
    np.testing.assert_array_equal(frame.boxes[1, :4], boxes_of(output.landmarks)[0])
    assert frame.boxes[1, 4] == face_scores(output)[0]
    assert np.isnan(frame.boxes[0]).all()


def test_a_fit_from_the_last_one_is_that_of_the_general_way(pdm: PDM) -> None:
    rng = np.random.default_rng(6)
    start, sigma = params_at(pdm, 1.2, 200, 210), rng.uniform(0.5, 4, 68)
    landmarks = project(pdm, start) + rng.normal(0, 2, (68, 2))
    landmarks[5] = np.nan
    fitted = fit_pdm_again(pdm, landmarks, sigma, start)
    np.testing.assert_allclose(fitted, fit_pdm(pdm, landmarks, sigma_weights(sigma), start), rtol=1e-9)
    assert np.abs(fitted - start).max() > 0.1
    landmarks[5:] = np.nan
    assert fit_pdm_again(pdm, landmarks, sigma, start) is None
    assert fit_pdm_again(pdm, project(pdm, start), sigma, np.full_like(start, np.nan)) is None


def test_crops_are_predicted_on_the_grid(pdm: PDM) -> None:
    rng, ones = np.random.default_rng(1), np.ones((1, 68), np.float32)
    faces = []
    for scale in (0.3, 1.0, 4.0):
        face = Face(np.zeros((68, 2), np.float32), ones[0], ones[0])
        for step in range(MIN_LOOKAHEAD + 1):
            at = project(pdm, params_at(pdm, scale, 100 + 2 * step, 90 - step * scale))
            points = (at + rng.normal(0, 0.1, at.shape)).astype(np.float32)[None]
            face.move(PfldOutput(points, ones, ones, ones[:, 0]), 0, MIN_LOOKAHEAD)
        faces.append(face)
    crops = crops_of_landmarks(np.stack([face.landmarks for face in faces])).astype(np.float64)
    motions = np.stack([face.places[0] - face.places[MIN_LOOKAHEAD] for face in faces])
    lengths = np.linalg.norm(motions, axis=1)
    crops[:, :2] += motions * (lengths / (lengths + SMALL_MOTION * crops[:, 2]))[:, None]
    steps = np.full(crops.shape, 1 / CROP_STEPS)
    steps[:, :3] *= 2.0 ** np.floor(np.log2(crops[:, 2:3]))
    np.testing.assert_allclose(
        _predicted_crops(faces, MIN_LOOKAHEAD), np.round(crops / steps) * steps, rtol=1e-7
    )


def test_misfit_is_a_mean_distance_over_the_eyes_distance(pdm: PDM) -> None:
    rng = np.random.default_rng(2)
    params = params_at(pdm, 1.3, 200, 210)
    expressed = project(pdm, params)
    landmarks, given = ((expressed + rng.normal(0, 3, (68, 2))).astype(np.float32) for _ in range(2))
    wanted = [np.linalg.norm(landmarks - other, axis=1).mean() for other in (given, expressed)]
    wanted /= inter_ocular(landmarks)
    np.testing.assert_allclose(misfit_of(landmarks, given, pdm, params), wanted, rtol=1e-5)
    assert np.isnan(misfit_of(landmarks, given, pdm, np.full(6, np.nan))).tolist() == [False, True]


def test_weights_fall_with_the_variance() -> None:
    sigma = np.random.default_rng(3).uniform(0.1, 9, 68)
    typical = np.median(sigma**2)
    np.testing.assert_allclose(sigma_weights(sigma), 2 * typical / (sigma**2 + typical))


def test_boxes_of_landmarks_with_and_without_unknown_ones() -> None:
    points = np.random.default_rng(4).uniform(0, 99, (4, 68, 2)).astype(np.float32)
    points[1], points[2, 0, 0], points[3, 67, 1] = np.nan, np.nan, np.nan
    boxes = np.zeros((4, 5), np.float32)
    boxes_kernel(points, boxes)
    np.testing.assert_array_equal(boxes[:, :4], boxes_of(points))
    assert (boxes[:, 4] == 0).all()
