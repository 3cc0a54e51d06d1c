"""How landmarks' errors go together: measured on made-up errors, it makes standard errors true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drawn_face import drawn_face
from napari_face_landmarks.ibug import REGIONS
from napari_face_landmarks.measures import uncertainty
from napari_face_landmarks.training.landmark_errors import (
    Found,
    as_wanted,
    coverage,
    factors_of,
    moments,
    normalised_errors,
    on_other_persons,
    write_moments,
)


def found_faces(count: int, seed: int, heavy: bool = False) -> Found:
    """Return faces whose landmarks move together by region, each rolled by an angle of its own."""
    rng = np.random.default_rng(seed)
    region = np.concatenate([np.full(len(of), k) for k, of in enumerate(REGIONS.values())])
    shared = rng.normal(size=(count, len(REGIONS), 2))[:, region]
    errors = 0.9 * shared + 0.3 * rng.normal(size=(count, 68, 2)) * (1.0, 2.0)
    if heavy:
        errors *= np.sqrt(5 / rng.chisquare(5, (count, 1, 1)))
    sigma = rng.uniform(0.1, 0.4, (count, 1)) * np.ones(68)  # the same for all landmarks of a face
    angle = rng.uniform(-1, 1, count)
    turn = np.moveaxis(np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]), -1, 0)
    labels = np.repeat(drawn_face()[None], count, axis=0)
    landmarks = labels + sigma[..., None] * errors
    return Found(landmarks @ turn.swapaxes(1, 2), sigma, labels @ turn.swapaxes(1, 2))


def test_errors_are_taken_in_the_face_s_own_axes_and_mirrored() -> None:
    errors = normalised_errors(found_faces(3000, 0)).reshape(2, 3000, 68, 2)
    spread = errors[0].std(axis=0)
    assert spread[:, 0] == pytest.approx(np.hypot(0.9, 0.3), rel=0.08)
    assert spread[:, 1] == pytest.approx(np.hypot(0.9, 0.6), rel=0.08)
    assert np.corrcoef(errors[0, :, 50, 0], errors[0, :, 51, 0])[0, 1] == pytest.approx(0.9, abs=0.03)
    np.testing.assert_allclose(errors[1, :, 48], errors[0, :, 54] * (-1, 1))


def test_measured_correlations_make_standard_errors_true() -> None:
    fitted, other = found_faces(2000, 1), found_faces(2000, 2)
    measured = coverage(other, moments(normalised_errors(fitted)))
    assert all(0.64 < one < 0.73 and 0.93 < two < 0.97 for one, two in measured.values())
    independent = coverage(other, np.diag(np.diag(moments(normalised_errors(fitted)))))
    assert sum(map(as_wanted, independent.values())) < len(independent) / 2
    assert independent["mouth_opening"][0] > 0.9  # neighbours move together: too wide without it


def test_factors_make_the_standard_errors_of_heavy_tails_true_for_other_persons() -> None:
    half = np.arange(4000) % 2 == 0
    found = found_faces(4000, 3, heavy=True)
    shares = on_other_persons(found, half)
    assert all(map(as_wanted, shares.values()))
    first = found.rows(half)
    covariance = moments(normalised_errors(first))
    factors = factors_of(first, covariance)
    assert all(0.72 < one < 0.76 and two > 0.91 for one, two in coverage(first, covariance, factors).values())
    assert coverage(first, covariance)["mouth_width"] != coverage(first, covariance, factors)["mouth_width"]


def test_what_is_written_is_read_and_other_bundles_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "errors.npz"
    covariance = moments(normalised_errors(found_faces(300, 5)))
    write_moments(path, "open", np.eye(136), {}, "nothing")
    write_moments(path, "mine", covariance, {"mouth_width": 1.5}, "300 made-up faces")
    monkeypatch.setattr(uncertainty, "ERRORS_FILE", path)
    read = uncertainty.error_covariance.__wrapped__
    np.testing.assert_allclose(read("mine")[:136, :136], covariance, rtol=1e-6)
    np.testing.assert_array_equal(read("unknown"), np.eye(140))
    factors = uncertainty.error_factors.__wrapped__
    assert (factors("mine"), factors("unknown")) == ({"mouth_width": 1.5}, {})


@pytest.mark.parametrize("bundle", ["open", "research"])
def test_the_shipped_errors_are_of_the_bundles(bundle: str) -> None:
    covariance = uncertainty.error_covariance(bundle)
    assert np.linalg.eigvalsh(covariance).min() > -1e-6
    spread = np.sqrt(np.diag(covariance))[:136]
    assert (spread > 0.3).all()
    assert (spread < 3).all()
    correlation = covariance[:136, :136] / np.outer(spread, spread)
    assert correlation[2 * 62, 2 * 61] > 0.5  # neighbours on a lip
    with np.load(uncertainty.ERRORS_FILE, allow_pickle=False) as measured:
        assert "held-out faces; 31 of 31 measures" in str(measured[f"{bundle} origin"])
    assert all(0.4 < factor < 2 for factor in uncertainty.error_factors(bundle).values())
