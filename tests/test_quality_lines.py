"""What the quality plot draws: no peak is lost however much is thinned, gaps stay gaps, ticks are round."""

from __future__ import annotations

import numpy as np
import pytest

from napari_face_landmarks.napari_plugin.quality_lines import (
    covered,
    envelope,
    runs,
    strips_of,
    thinned,
    ticks,
)
from napari_face_landmarks.quality import Limits, series_of
from planted import bad_tracks


def test_short_curves_are_drawn_as_they_are() -> None:
    frames = np.arange(100, 150)
    values = np.sin(frames / 7)
    ((x, y),) = envelope(frames, values, 100, 149, 300)
    np.testing.assert_array_equal(x, frames)
    np.testing.assert_array_equal(y, values)
    ((x, y),) = envelope(frames, values, 120, 130, 300)
    assert x.min() < 120
    assert x.max() > 130, "lines go on to the edges"
    assert len(x) < 20


@pytest.mark.parametrize("n_frames", [5_000, 50_000])
def test_peaks_of_one_frame_survive(n_frames: int) -> None:
    frames = np.arange(n_frames)
    values = np.full(n_frames, 0.5)
    values[n_frames // 3], values[n_frames // 2] = 9.0, -9.0
    ((x, y),) = envelope(frames, values, 0, n_frames - 1, 300)
    assert len(x) <= 2 * 302
    assert y.max() == 9
    assert y.min() == -9
    step = n_frames / 300
    assert abs(x[np.argmax(y)] - n_frames // 3) <= step
    assert abs(x[np.argmin(y)] - n_frames // 2) <= step
    assert (np.diff(x) >= 0).all()


def test_gaps_stay_gaps_and_numbers_beside_nan_are_kept() -> None:
    frames = np.arange(10_000)
    values = np.ones(10_000)
    values[4_000:6_000] = np.nan
    first, second = envelope(frames, values, 0, 9_999, 200)
    assert first[0].max() < 4_050
    assert second[0].min() > 5_950
    values[::2] = np.nan
    assert len(envelope(frames, values, 0, 9_999, 200)) == 2
    assert envelope(frames, np.full(10_000, np.nan), 0, 9_999, 200) == []
    assert envelope(frames[:0], values[:0], 0, 1, 200) == []
    ((x, _),) = envelope(frames[:1], np.ones(1), 0, 1, 200)
    assert x.tolist() == [0]


def test_runs_of_a_code() -> None:
    frames = np.array([0, 1, 2, 3, 10, 11])
    codes = np.array([1, 1, 2, 2, 2, 0], np.uint8)
    assert runs(frames, codes, 0, 12, 100) == [(0, 2, 1), (2, 4, 2), (10, 11, 2), (11, 12, 0)]
    many = np.ones(50_000, np.uint8)
    many[30_000] = 4
    parts = runs(np.arange(50_000), many, 0, 49_999, 300)
    assert len(parts) == 3
    start, end, code = parts[1]
    assert code == 4
    assert start <= 30_000 < end
    assert end - start < 200
    assert runs(frames[:0], codes[:0], 0, 1, 100) == []


def test_ticks_are_round_and_few() -> None:
    assert ticks(0, 240, 4) == [0, 100, 200]
    assert ticks(0, 50_000, 5) == [0, 10_000, 20_000, 30_000, 40_000, 50_000]
    assert ticks(117, 131, 4) == [120, 125, 130]
    assert ticks(5, 6, 3) == [5, 6]
    assert ticks(3, 3, 0) == [3]


def test_spans_that_overlap_are_painted_once() -> None:
    left, right = np.array([3.0, 4.0, 20.2, -5.0, 99.9]), np.array([6.0, 9.4, 20.3, 1.0, 120.0])
    assert covered(left, right, 100) == [(0, 1), (3, 9), (20, 21), (99, 100)]
    assert covered(left[:0], right[:0], 100) == []


def test_marks_on_one_pixel_are_one() -> None:
    assert thinned(np.array([3.1, 3.2, 7.0])).tolist() == [3, 7]


def test_axes_show_the_limit_but_no_jump_presses_the_rest_to_the_ground() -> None:
    series = series_of(bad_tracks())
    strips = {strip.key: strip for strip in strips_of(series, 0, Limits(), frozenset(("movement", "misfit")))}
    assert set(strips) == {"movement", "misfit"}
    movement = strips["movement"]
    assert movement.limit == pytest.approx(8)
    assert movement.high == pytest.approx(32), "120 % is beyond its end"
    assert strips["misfit"].high == pytest.approx(16)
