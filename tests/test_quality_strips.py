"""What the quality plot draws: no peak is lost however much is thinned, and gaps stay gaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_face_landmarks.napari_plugin.quality_strips import (
    envelope,
    snap_spans,
    step_function,
    strips_of,
)
from napari_face_landmarks.quality import Limits, series_of
from planted import bad_tracks


def test_short_curves_are_drawn_as_they_are() -> None:
    frames = np.arange(100, 150)
    values = np.sin(frames / 7)
    x, y, _ = envelope(frames, values, 100, 149, 300)
    np.testing.assert_array_equal(x, frames)
    np.testing.assert_array_equal(y, values)
    x, y, _ = envelope(frames, values, 120, 130, 300)
    assert x.min() < 120
    assert x.max() > 130, "lines go on to the edges"
    assert len(x) < 20


@pytest.mark.parametrize("n_frames", [5_000, 50_000])
def test_peaks_of_one_frame_survive(n_frames: int) -> None:
    frames = np.arange(n_frames)
    values = np.full(n_frames, 0.5)
    values[n_frames // 3], values[n_frames // 2] = 9.0, -9.0
    x, y, _ = envelope(frames, values, 0, n_frames - 1, 300)
    assert len(x) <= 2 * 302
    assert y.max() == 9
    assert y.min() == -9
    step = n_frames / 300
    assert abs(x[np.argmax(y)] - n_frames // 3) <= step
    assert abs(x[np.argmin(y)] - n_frames // 2) <= step
    assert (np.diff(x) >= 0).all()


def test_gaps_stay_gaps_and_numbers_next_to_nan_are_kept() -> None:
    frames = np.arange(10_000)
    values = np.ones(10_000)
    values[4_000:6_000] = np.nan

    def gaps(values: np.ndarray[Any, Any]) -> int:
        _, y, _ = envelope(frames, values, 0, 9_999, 200)
        return int((np.diff(np.isfinite(y).astype(int)) == -1).sum())

    x, y, alone = envelope(frames, values, 0, 9_999, 200)
    assert x[np.isnan(y)].min() > 3_950
    assert x[np.isnan(y)].max() < 6_050
    assert not alone.any()
    assert gaps(values) == 1
    values[::2] = np.nan
    assert gaps(values) == 1, "every other frame is enough for a line, when there are many on a pixel"
    assert np.isnan(envelope(frames, np.full(10_000, np.nan), 0, 9_999, 200)[1]).all()
    assert not len(envelope(frames[:0], values[:0], 0, 1, 200)[0])
    x, _, alone = envelope(frames[:1], np.ones(1), 0, 1, 200)
    assert (x.tolist(), alone.tolist()) == ([0], [True])
    x, _, alone = envelope(frames[:9], values[:9], 0, 8, 200)
    assert x[alone].tolist() == [1, 3, 5, 7]


def test_spans_that_overlap_are_one() -> None:
    x, inside = step_function([(20, 20), (3, 6), (4, 9), (10, 12), (30, 31)])
    assert x.reshape(-1, 4)[:, [0, 3]].tolist() == [[2.5, 12.5], [19.5, 20.5], [29.5, 31.5]]
    assert inside.reshape(-1, 4).tolist() == [[False, True, True, False]] * 3
    assert not len(step_function([])[0])
    spans = np.stack([np.arange(0, 50_000, 4)] * 2, axis=1)
    x, _ = step_function(snap_spans(spans, 0, 100))
    assert x[[0, -1]].tolist() == [-0.5, 49_999.5], "a frame of each pixel fills it"
    assert len(x) == 4
    rare = np.array([[30_000, 30_000]])
    x, _ = step_function(snap_spans(rare, 0, 100))
    assert x[0] <= 30_000 <= x[-1] < x[0] + 101, "what is rare is seen"
    np.testing.assert_array_equal(snap_spans(rare, 0, 0.5), rare)


def test_axes_show_the_limit_but_no_jump_presses_the_rest_to_the_ground() -> None:
    series = series_of(bad_tracks())
    strips = {strip.key: strip for strip in strips_of(series, 0, Limits(), frozenset(("movement", "misfit")))}
    assert set(strips) == {"movement", "misfit"}
    movement = strips["movement"]
    assert movement.limit == pytest.approx(8)
    assert movement.high == pytest.approx(32), "120 % is beyond its end"
    assert strips["misfit"].high == pytest.approx(16)
