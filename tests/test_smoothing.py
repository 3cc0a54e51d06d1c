"""Smoothing takes jitter away and leaves movement alone."""

from __future__ import annotations

import numpy as np
import pytest

from napari_face_landmarks.tracking.smoothing import smooth_centre, window_at_rate
from numpy_reference import smooth_centre_reference


def face(rng: np.random.Generator) -> np.ndarray:
    points = rng.uniform(100, 200, (68, 2))
    points[36], points[45] = (110, 140), (190, 140)
    return points


def windows(track: np.ndarray, length: int) -> list[np.ndarray]:
    reach = length // 2
    blank = np.full_like(track[:1], np.nan)
    padded = np.concatenate([blank] * reach + [track] + [blank] * reach)
    return [padded[t : t + length] for t in range(len(track))]


def smooth(track: np.ndarray, length: int = 5) -> np.ndarray:
    return np.stack([smooth_centre(w.astype(np.float32)) for w in windows(track, length)])


def test_steady_motion_is_untouched() -> None:
    start = face(np.random.default_rng(0))
    track = np.stack([start + (3.0 * t, -1.5 * t) for t in range(12)])[:, None]
    np.testing.assert_allclose(smooth(track), track, atol=1e-4)


def test_jitter_of_a_still_face_at_least_halves() -> None:
    rng = np.random.default_rng(1)
    track = face(rng) + rng.normal(0, 0.4, (200, 1, 68, 2))

    def jitter(x: np.ndarray) -> float:
        return float(np.sqrt((np.diff(x[5:-5], n=2, axis=0) ** 2).mean()))

    assert jitter(smooth(track)) < 0.5 * jitter(track)
    assert jitter(smooth(track, 1)) == pytest.approx(jitter(track))


def test_a_blink_and_a_cut_stay_sharp() -> None:
    start = face(np.random.default_rng(2))
    track = np.repeat(start[None, None], 11, axis=0)
    track[5, 0, 37:39, 1] += 8  # the lid closes for one frame: a tenth of the inter-ocular distance
    smoothed = smooth(track)
    np.testing.assert_allclose(smoothed[5, 0, 37:39, 1], track[5, 0, 37:39, 1], atol=0.1)
    np.testing.assert_allclose(smoothed[4], track[4], atol=0.2)  # a fortieth of the lid's way
    cut = np.concatenate([track[:5], track[:5] + 300])
    np.testing.assert_allclose(smooth(cut), cut, atol=0.1)


def test_missing_frames_are_left_out_and_stay_missing() -> None:
    rng = np.random.default_rng(3)
    track = face(rng) + rng.normal(0, 0.3, (9, 2, 68, 2))
    track[4, 0] = np.nan
    smoothed = smooth(track)
    assert np.isnan(smoothed[4, 0]).all()
    assert np.isfinite(smoothed[:, 1]).all()
    assert np.isfinite(np.delete(smoothed[:, 0], 4, axis=0)).all()


@pytest.mark.parametrize("length", [1, 3, 5, 9])
def test_the_compiled_smoothing_is_that_of_the_reference(length: int) -> None:
    rng = np.random.default_rng(5)
    track = np.stack([face(rng) for _ in range(2)])[None] + rng.normal(0, 2, (14, 2, 68, 2))
    track[6, 1] = np.nan
    for window in windows(track, length):
        window = window.astype(np.float32)
        np.testing.assert_allclose(smooth_centre(window), smooth_centre_reference(window), rtol=1e-6)


@pytest.mark.parametrize("length", [3, 5, 7])
def test_what_alternates_from_frame_to_frame_goes(length: int) -> None:
    start = face(np.random.default_rng(6))
    track = np.stack([start + (0.3 * (-1) ** t, 0.0) for t in range(20)])[:, None]
    apart = np.abs(smooth(track, length) - start)[length:-length]
    assert apart.max() < 0.02


def aperture(track: np.ndarray) -> np.ndarray:
    """Return the distance of the right eye's lids, px, of each frame of one face."""
    upper, lower = track[:, 0, [37, 38], 1], track[:, 0, [41, 40], 1]
    return np.asarray((lower - upper).mean(axis=1))


def blinking(start: np.ndarray, frames: int, depth: float = 6.5) -> np.ndarray:
    """Return 31 frames of a face, 80 px wide, whose right eye opens 7 px and blinks over some frames."""
    track = np.repeat(start[None, None], 31, axis=0)
    track[:, 0, [37, 38]], track[:, 0, [41, 40]] = [(120, 137), (130, 137)], [(120, 144), (130, 144)]
    closing = depth * np.sin(np.pi * (np.arange(frames) + 0.5) / frames)
    for lid in (37, 38):
        track[13 : 13 + frames, 0, lid, 1] += closing
    return track


@pytest.mark.parametrize("length", [5, 7])
@pytest.mark.parametrize("frames", [2, 3, 4, 5])
def test_a_blink_keeps_its_depth(frames: int, length: int) -> None:
    rng = np.random.default_rng(8)
    track = blinking(face(rng), frames)
    assert abs(aperture(smooth(track, length)).min() - aperture(track).min()) < 0.05 * 7
    noisy = track + rng.normal(0, 0.1, track.shape)
    assert abs(aperture(smooth(noisy, length)).min() - aperture(noisy).min()) < 0.07 * 7


def test_lids_of_a_still_face_are_smoothed_as_the_rest() -> None:
    rng = np.random.default_rng(9)
    track = face(rng) + rng.normal(0, 0.3, (200, 1, 68, 2))
    bends = np.diff(smooth(track)[5:-5], n=2, axis=0)
    lids = np.sqrt((bends[:, :, [37, 38, 40, 41]] ** 2).mean())
    assert lids < 1.25 * np.sqrt((bends[:, :, :17] ** 2).mean())


def test_the_window_is_as_long_in_seconds_at_high_frame_rates() -> None:
    for fps in (None, 15.0, 25.0, 60.0):
        assert [window_at_rate(window, fps) for window in (1, 3, 5, 31)] == [1, 3, 5, 31]
    assert window_at_rate(5, 240.0) == 21
    assert window_at_rate(1, 240.0) == 1
    for window in (3, 5, 7):
        for fps in (90.0, 120.0, 500.0):
            frames = window_at_rate(window, fps)
            assert frames % 2 == 1
            assert frames / fps == pytest.approx(window / 60, abs=1.01 / fps)
    assert window_at_rate(5, float("inf")) == window_at_rate(5, 1000.0)
