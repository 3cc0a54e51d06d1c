"""Measures against labels: agreement, shut eyes and known deformations, on made-up landmarks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from napari_face_landmarks import cli, load_models
from napari_face_landmarks.demo import make_demo_clip
from napari_face_landmarks.evaluation import measures_report
from napari_face_landmarks.evaluation.dataset import read_faces
from napari_face_landmarks.evaluation.measures_report import (
    DEFORMATIONS,
    Measured,
    agreement,
    deform,
    measured_values,
    share_followed,
    shut_eyes,
)
from napari_face_landmarks.evaluation.metrics import EvaluationPlan
from napari_face_landmarks.measures import PAIRS
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.tracking import FaceTracker


def face(right: float = 0.3, left: float = 0.3, droop: float = 0.0, opening: float = 0.1) -> np.ndarray:
    """Return 68 landmarks, 100 px between the outer canthi, with known measures."""
    points = np.zeros((68, 2))
    points[:17] = np.stack([np.linspace(-70, 70, 17), 120 - np.linspace(-8, 8, 17) ** 2], axis=1)
    for first, x, aperture in ((36, -50, right), (42, 20, left)):
        half = 15 * aperture
        points[first : first + 6] = [
            (x, 0), (x + 10, -half), (x + 20, -half), (x + 30, 0), (x + 20, half), (x + 10, half),
        ]  # fmt: skip
    points[17:22] = [(x, -25) for x in (-55, -45, -35, -25, -15)]
    points[22:27] = [(x, -25) for x in (15, 25, 35, 45, 55)]
    points[27:36] = [(0, 5), (0, 15), (0, 25), (0, 35), (-10, 42), (-5, 42), (0, 42), (5, 42), (10, 42)]
    x = np.array([-25, -15, -6, 0, 6, 15, 25, 15, 6, 0, -6, -15])
    y = np.array([70, 64, 62, 63, 62, 64, 70, 78, 80, 81, 80, 78])
    points[48:60] = np.stack([x, y], axis=1)
    points[60:68] = [(-20, 70), (-7, 68), (0, 68), (7, 68), (20, 70), (7, 70), (0, 70), (-7, 70)]
    points[62, 1], points[66, 1] = 70 - 50 * opening, 70 + 50 * opening
    points[54, 1] += 100 * droop
    return points + 200


def test_measures_have_the_values_that_the_face_was_made_with() -> None:
    values = measured_values(np.stack([face(0.1, 0.3, droop=0.05, opening=0.2)]))
    assert values["eye_aperture"].values == pytest.approx([0.1, 0.3])
    found = {name: (one.values / one.unit)[0] for name, one in values.items()}
    assert found["eye_aperture_difference"] == pytest.approx(0.2)
    assert found["mouth_opening"] == pytest.approx(0.2)
    assert found["mouth_width"] == pytest.approx(np.hypot(50, 5) / 100)
    assert found["commissure_height_difference"] == pytest.approx(0.05)
    assert found["brow_height_difference"] == pytest.approx(0)
    assert set(PAIRS) - set(values) == {"mrd1", "mrd2"}
    assert np.isnan(values["mouth_width"].errors).all()


def test_agreement_of_a_measure_that_is_compressed_and_shifted() -> None:
    def of(values: np.ndarray, errors: float = np.nan) -> Measured:
        return Measured(values, np.full(len(values), errors), np.ones(len(values)))

    labels = np.linspace(0, 0.4, 41)
    one = agreement("m", of(0.5 * labels + 0.1), of(labels))
    assert (one.faces, one.measure) == (41, "m")
    assert one.correlation == pytest.approx(1)
    assert one.slope == pytest.approx(0.5)
    assert one.bias == pytest.approx(0)
    assert one.highest == pytest.approx(1.96 * np.std(0.5 * labels, ddof=1))
    noisy = agreement("m", of(labels + np.random.default_rng(0).normal(0.02, 0.1, 41)), of(labels))
    assert 0.5 < noisy.correlation < 0.95
    assert noisy.lowest < noisy.bias < noisy.highest
    assert np.isnan(agreement("m", of(labels), of(np.full(41, 0.3))).slope)
    some = np.where(np.arange(41) < 5, np.nan, labels)
    assert agreement("m", of(some), of(labels)).faces == 36
    shares = agreement("m", of(labels + np.repeat([0.0, 1.5], [20, 21]), 1.0), of(labels))
    assert (shares.within_one, shares.within_two) == (20 / 41, 1)
    sides = np.concatenate([labels, np.full(41, 0.4) - labels])  # right and left sides of 41 faces
    astray = sides + np.tile(np.where(np.arange(41) < 4, 5.0, 0.0), 2)
    known = agreement("m", of(astray, 1.0), of(sides), np.arange(41) >= 4)
    assert (known.faces, known.within_one) == (74, 1)
    assert known.slope == pytest.approx(1)
    assert agreement("m", of(astray, 1.0), of(sides)).within_two < 1


def test_shut_eyes_are_compared_with_open_ones() -> None:
    labels = np.stack([face(), face(0.02, 0.02), face(0.02, 0.3), face(0.12, 0.12)])
    found = np.stack([face(), face(0.1, 0.1), face(0.1, 0.3), face(0.9, 0.9)])
    eyes = shut_eyes(found, labels)
    assert (eyes.shut, eyes.open, eyes.winks) == (3, 3, 1)  # half shut ones count as neither
    assert eyes.shut_aperture == pytest.approx(0.1)
    assert eyes.open_aperture == pytest.approx(0.3)
    assert (eyes.share, eyes.wink_share) == pytest.approx((1 / 3, 1 / 3))
    assert eyes.roc_area == 1.0
    same = shut_eyes(np.stack([face()] * 4), labels)
    assert same.roc_area == pytest.approx(0.5)
    assert shut_eyes(np.full((4, 68, 2), np.nan), labels).shut == 0


@pytest.mark.parametrize("place", DEFORMATIONS)
@pytest.mark.parametrize("left", [False, True])
def test_the_picture_moves_as_the_landmarks_do(place: str, left: bool) -> None:
    points = face() - 60
    deformation = DEFORMATIONS[place]
    members = list(deformation.left if left else deformation.right)
    for member in members:
        image = np.zeros((300, 300, 3), np.uint8)
        cv2.circle(image, tuple(int(v) for v in np.round(points[member])), 3, (255, 255, 255), -1)
        centre = np.argwhere(image[..., 0] > 128).mean(axis=0)[::-1]
        warped, moved = deform(image, points, deformation, left, 1.0)
        seen = np.argwhere(warped[..., 0] > 128).mean(axis=0)[::-1]
        true = moved[member] - points[member]
        assert abs(true[1]) > 0.5 * abs(deformation.down) * 100
        np.testing.assert_allclose(seen - centre, true, atol=0.5)
    away = list(deformation.right if left else deformation.left)
    assert np.abs(moved[away] - points[away]).max() < 0.3 * abs(deformation.down) * 100


def test_share_followed_is_the_slope_of_the_movement() -> None:
    rng = np.random.default_rng(0)
    before, truth = rng.normal(0, 1, (20, 3, 2)), rng.normal(0, 0.1, (20, 3, 2))
    assert share_followed(before, before + 0.7 * truth, truth) == pytest.approx(0.7)
    lost = before + 0.7 * truth
    lost[3] = np.nan
    assert share_followed(before, lost, truth) == pytest.approx(0.7)
    assert np.isnan(share_followed(before, np.full_like(lost, np.nan), truth))


@pytest.mark.slow
def test_the_command_reports_measures_of_every_mode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures_report, "DEFORMED_FACES", 2)
    models = load_models()
    frames, _ = make_demo_clip(3, 200)
    landmarks = np.concatenate([FaceTracker(models).fit(frame).landmarks for frame in frames])
    blobs = [cv2.imencode(".webp", frame[..., ::-1])[1].ravel() for frame in frames]
    np.savez(
        tmp_path / "f.npz",
        webp=np.concatenate(blobs),
        offsets=np.cumsum([0, *map(len, blobs)]),
        names=np.array(["a", "b", "c"]),
        landmarks=landmarks,
    )
    out, table = tmp_path / "e.json", tmp_path / "e.md"
    words = ["evaluate", str(tmp_path / "f.npz"), "--models", models.name, "--measures", "--threads", "1"]
    assert cli.main([*words, "--json", str(out), "--table", str(table)]) == 0
    record = json.loads(out.read_text())
    assert [one["refine"] for one in record["measures"]] == ["off", "auto", "always"]
    for one in record["measures"]:
        assert {item["measure"] for item in one["agreement"]} == set(measured_values(landmarks))
        assert {item["faces"] for item in one["confident"]} <= {3, 6}
        lengths = (item for item in one["agreement"] if "height" in item["measure"])
        assert all(abs(item["bias"]) < 0.1 for item in lengths)
        assert np.mean([item["within_two"] for item in one["agreement"]]) > 0.6
        assert one["eyes"]["open"] + one["eyes"]["shut"] <= 6
        assert set(one["followed"]) == set(DEFORMATIONS)
        assert all(-0.5 < share < 1.6 for share in one["followed"].values())
    shown = capsys.readouterr().out
    for text in (shown, table.read_text()):
        assert "commissure_height_difference" in text
        assert "known deformations" in text
    table.write_text("before\n<!-- measures table -->\n<!-- end of measures table -->\nafter\n")
    assert cli.main([*words, "--refine", "off", "--table", str(table)]) == 0
    text = table.read_text()
    assert text.startswith("before\n<!-- measures table -->\n\nOn 3 faces of `f.npz`.")
    assert "within 1 SE" in text
    assert "AUC" not in text
    followed = measures_report.deformations_followed(
        read_faces([tmp_path / "f.npz"]), {models.name: models}, EvaluationPlan(refine=("off",), seed=0)
    )
    assert followed[models.name, "off"] == pytest.approx(record["measures"][0]["followed"], abs=1e-6)
