"""Time series, rest, scale, events and summaries of faces whose movements are known."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from measure_support import closure_table, faces, shut, tracks_of
from napari_face_landmarks import TrackerSettings, Tracks
from napari_face_landmarks.cli import main
from napari_face_landmarks.errors import MeasureError
from napari_face_landmarks.measures import (
    blinks,
    closures,
    compare,
    files,
    measure,
    movements,
    parse_scale,
    summary,
    values_of,
)
from napari_face_landmarks.measures.events import frame_noise
from napari_face_landmarks.measures.files import events_to_dataframe, to_dataframe, write_table
from napari_face_landmarks.measures.report import report_page, write_comparison
from napari_face_landmarks.measures.summary import MeasureWarning, poisson_interval
from napari_face_landmarks.measures.uncertainty import error_covariance, sigma_of_confidence
from napari_face_landmarks.measures.validation import caution, underestimated
from napari_face_landmarks.models import load_models
from napari_face_landmarks.runs import track_many
from napari_face_landmarks.runs.measures import write_measures
from napari_face_landmarks.video import write_video
from test_tracking import moving


def smile(n_frames: int, onset: int, peak: int, end: int, size: float) -> np.ndarray:
    """Return how far a commissure goes out on each frame."""
    return np.interp(np.arange(n_frames), [onset, peak, peak + 20, end], [0, size, size, 0])


def test_lengths_are_percent_of_the_canthi_at_rest_or_millimetres() -> None:
    tracks = tracks_of(faces(30))
    table = measure(tracks)
    np.testing.assert_allclose(table.series("mouth_width"), 50, rtol=1e-5)
    assert table.columns[table.column("mouth_width")].unit == "percent"
    np.testing.assert_allclose(table.series("eye_area_left"), 205, rtol=1e-5)  # percent of the square
    for scale, factor in (("36-45=90mm", 0.9), ("0.45", 0.9)):
        table = measure(tracks, scale=scale)
        np.testing.assert_allclose(table.series("mouth_width"), 50 * factor, rtol=1e-5)
        np.testing.assert_allclose(table.series("eye_aspect_ratio_left"), 1 / 3, rtol=1e-5)
        assert table.columns[table.column("eye_area_left")].unit == "mm2"


def test_a_face_that_comes_closer_does_not_grow() -> None:
    landmarks = faces(40) * np.linspace(1, 1.6, 40)[:, None, None, None]
    np.testing.assert_allclose(measure(tracks_of(landmarks), rest=0).series("mouth_width"), 50, rtol=1e-5)


def test_differences_are_left_minus_right_and_symmetry_is_the_smaller_of_the_larger() -> None:
    landmarks = faces(30)
    shut(landmarks, np.full(30, 0.5), "right")
    table = measure(tracks_of(landmarks))
    np.testing.assert_allclose(table.series("eye_height_difference"), 5, rtol=1e-4)
    np.testing.assert_allclose(table.series("eye_height_symmetry"), 50, rtol=1e-4)


def test_the_rest_is_the_calm_second_with_open_eyes_and_a_closed_mouth() -> None:
    landmarks = faces(120)
    landmarks[:, 0, 54, 0] += smile(120, 0, 20, 70, 20)
    shut(landmarks, np.where(np.arange(120) >= 100, 0.9, 0.0))  # as calm, but with shut eyes
    rest = measure(tracks_of(landmarks)).rest[0]
    assert len(rest) == 25
    assert rest[0] >= 65
    assert rest[-1] < 100
    table = measure(tracks_of(landmarks), rest=80)
    assert table.rest[0].tolist() == [80]


def test_the_rest_is_neither_behind_a_hand_nor_turned_away() -> None:
    landmarks = faces(150) + np.random.default_rng(0).normal(0, 0.05, (150, 1, 68, 2))
    landmarks[:50] = landmarks[0]  # calmest, with a hand before the chin
    landmarks[50:100] = landmarks[50]  # as calm, turned by 20 degrees
    tracks = tracks_of(landmarks)
    tracks.confidence[:50, :, 5:12] = 0.85
    tracks.pose[:] = 0
    tracks.pose[:, :, 0] = 1
    tracks.pose[50:100, :, 2] = np.radians(20)
    assert measure(tracks).rest[0][0] >= 100
    tracks.confidence[:50, :, 5:12] = 0.95
    assert measure(tracks).rest[0][-1] < 50


def test_a_face_that_is_never_calm_is_scaled_by_its_median_and_said() -> None:
    tracks = tracks_of(faces(30))
    tracks.confidence[:] = 0.3  # flagged on every frame
    table = measure(tracks)
    np.testing.assert_allclose(table.series("mouth_width"), 50, rtol=1e-5)
    assert len(table.rest[0]) == 0
    assert any("choose a rest frame" in sentence for sentence in table.warnings)


def test_a_face_that_is_never_seen_for_a_second_rests_where_it_is_calmest() -> None:
    landmarks = faces(120)
    landmarks[:, 0, 54, 0] += np.where(np.arange(120) % 12 > 5, 4.0 * (np.arange(120) % 12 - 5), 0)
    landmarks[np.arange(120) // 12 % 2 == 1] = np.nan  # seen for 12 frames at a time
    table = measure(tracks_of(landmarks))
    assert len(table.rest[0]) == 25
    assert set(table.rest[0] % 12) <= {0, 1, 2, 3, 4, 5}
    assert summary(table)["commissure_excursion_left_excursion"][0] == pytest.approx(11.2, abs=0.1)
    said = "face 0 is not visible for a second without interruption: its rest is the median of its 25 calmest"
    assert table.warnings[0].startswith(said)
    assert said not in measure(tracks_of(landmarks), rest=1).warnings[0]
    short = measure(tracks_of(faces(10)))  # the video itself is shorter
    assert "its 10 calmest frames" in short.warnings[0]
    assert not any("calmest" in sentence for sentence in measure(tracks_of(faces(25))).warnings)


def test_the_rest_has_open_eyes_and_a_closed_mouth_though_most_frames_have_not() -> None:
    landmarks = faces(200) + np.random.default_rng(0).normal(0, 0.1, (200, 1, 68, 2))
    landmarks[60:] = landmarks[60]  # calmest
    shut(landmarks, np.where(np.arange(200) >= 60, 0.95, 0.0))
    assert measure(tracks_of(landmarks)).rest[0][-1] < 60
    landmarks = faces(200) + np.random.default_rng(0).normal(0, 0.1, (200, 1, 68, 2))
    landmarks[60:] = landmarks[60]
    landmarks[60:, 0, [56, 57, 58, 65, 66, 67], 1] += 40
    assert measure(tracks_of(landmarks)).rest[0][-1] < 60


def test_what_landmarks_lack_for_their_measures_is_said(tmp_path: Path) -> None:
    tracks = tracks_of(faces(30))
    tracks.pose[:] = 0
    tracks.pose[..., 0] = 1
    tracks = dataclasses.replace(tracks, meta={"models": "open"})
    assert measure(tracks).warnings == ()
    for meta, words in (({}, "models of the landmarks are"), ({"models": "mine"}, "models 'mine' are")):
        (sentence,) = measure(dataclasses.replace(tracks, meta=meta)).warnings
        assert sentence.endswith(f"{words} not known: standard errors are those of 'open'.")
    tracks.confidence[:] = 1
    assert measure(tracks).warnings == (
        "The landmarks have no confidence: measures have no standard errors.",
    )
    tracks.confidence[:] = 0.95
    tracks.pose[3] = np.nan
    (sentence,) = measure(tracks).warnings
    assert sentence.startswith(
        "The landmarks have no head pose: frames on which a face is turned away are not"
    )
    assert write_measures(tmp_path / "v.csv", tracks, {}) == (sentence,)  # a batch says it


def test_a_face_that_is_not_on_the_rest_frame_is_named() -> None:
    landmarks = np.concatenate([faces(30), faces(30)], axis=1)
    landmarks[4, 1] = np.nan
    table = measure(tracks_of(landmarks), rest=4)
    assert table.warnings[0].startswith("face 1 is not on the rest frame: it is scaled by its median")
    assert np.isnan(summary(table)["mouth_width_rest"][1])


def test_standard_errors_follow_the_landmarks_uncertainty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spread of measures of many faces with errors as claimed is the standard error, but for a factor."""
    factors = {"mouth_opening": 2.0, "commissure_height_difference": 0.5}
    monkeypatch.setattr("napari_face_landmarks.measures.table.error_factors", lambda bundle: factors)
    rng = np.random.default_rng(0)
    places = faces(1)[0, 0]
    sigma, count = 3.0, 4000
    factor = np.linalg.cholesky(error_covariance()[:136, :136])  # this face is upright: u is x, v is y
    landmarks = places + sigma * (rng.normal(size=(count, 136)) @ factor.T).reshape(-1, 68, 2)
    confidence = 1 - np.exp(-(16**2) / (2 * sigma**2))  # 8 % of 200 px
    np.testing.assert_allclose(sigma_of_confidence(places, np.full(68, confidence)), sigma, rtol=1e-6)
    tracks = tracks_of(landmarks[:, None], confidence=confidence)
    table = measure(tracks, rest=0, scale="1")  # per pixel; sizes differ by the canthi's noise alone
    for name in ("eye_height_right", "mouth_opening", "commissure_height_difference", "lip_aperture_area"):
        spread = factors.get(name.removesuffix("_right"), 1.0) * np.std(table.series(name))
        assert np.median(table.series_error(name)) == pytest.approx(spread, rel=0.12)


def test_the_iris_gives_millimetres_and_marginal_reflex_distances() -> None:
    tracks = tracks_of(faces(40))
    tracks.iris[:] = [250, 202, 23.54, 0.9, 390, 200, 23.54, 0.9]  # 2 px per mm
    tracks.iris[5, :, [3, 7]] = 0.1
    table = measure(tracks, scale="iris")
    np.testing.assert_allclose(table.series("mouth_width"), 50, rtol=1e-4)  # 100 px
    np.testing.assert_allclose(table.series("mrd1_right")[6:], 6, rtol=1e-4)
    np.testing.assert_allclose(table.series("mrd2_left")[6:], 5, rtol=1e-4)
    assert np.isnan(table.series("mrd1_right")[5])
    error = table.series_error("mouth_width")
    assert (error > 50 * 0.5 / 11.77).all()  # people differ in their irises


def test_known_spreads_of_landmarks_count_before_their_confidence() -> None:
    tracks = tracks_of(faces(30))
    before = measure(tracks).series_error("eye_height_left")
    tracks.sigma[:] = 1.0
    after = measure(tracks).series_error("eye_height_left")
    assert (after < 0.3 * before).all()


def test_landmarks_without_confidence_have_no_standard_errors() -> None:
    table = measure(tracks_of(faces(5), confidence=1.0))
    assert np.isnan(table.errors).all()
    without_iris = [k for k, name in enumerate(table.names) if not name.startswith("mrd")]
    assert np.isfinite(table.values[..., without_iris]).all()


def test_missing_and_uncertain_faces_are_nan_or_flagged() -> None:
    tracks = tracks_of(faces(40))
    tracks.landmarks[5] = np.nan
    tracks.confidence[5] = 0
    tracks.confidence[7] = 0.2
    table = measure(tracks)
    assert np.isnan(table.values[5]).all()
    assert table.low_confidence[:, 0].nonzero()[0].tolist() == [7]
    assert not table.usable[[5, 7], 0].any()
    assert len(to_dataframe(table)) == 39


@pytest.mark.slow
@pytest.mark.parametrize("fps", [25, 240])
def test_blinks_are_found_and_nothing_else(fps: int) -> None:
    """At least 99 % of complete blinks, at most one false one in ten minutes, with noise as measured."""
    rng = np.random.default_rng(fps)
    count = 600 * fps
    seconds = np.arange(count) / fps
    slow = 0.05 * np.sin(seconds / 7)
    quiet = closure_table(*(slow + rng.normal(0, 0.03, (2, count))), fps, 0.08)
    assert len(blinks(quiet)) <= 1
    starts = np.arange(2, 596, 2.0) + rng.uniform(-0.4, 0.4, 297)
    closure = slow.copy()
    for start in starts:
        down, hold, up = rng.uniform(0.06, 0.1), rng.uniform(0.03, 0.06), rng.uniform(0.12, 0.25)
        times = np.cumsum([0, down, hold, up])
        closure = np.maximum(closure, np.interp(seconds - start, times, [0, 1, 1, 0], left=0, right=0))
    found = blinks(closure_table(*(closure + rng.normal(0, 0.03, (2, count))), fps, 0.08))
    peaks = np.array([blink.main.peak for blink in found])
    hits = [bool(((peaks > start - 0.05) & (peaks < start + 0.45)).any()) for start in starts]
    assert np.mean(hits) >= 0.99
    assert len(found) - sum(hits) <= 1
    assert np.mean([blink.side == "both" for blink in found]) > 0.99


def test_a_blink_has_its_onset_peak_end_and_velocity() -> None:
    seconds = np.arange(500) / 100
    right = np.interp(seconds, [2, 2.1, 2.15, 2.35], [0, 1, 1, 0])
    left = np.interp(seconds, [2.02, 2.12, 2.17, 2.37], [0, 0.6, 0.6, 0])
    (blink,) = blinks(closure_table(right, left, 100, 0.02))
    event = blink.right
    assert event is not None
    assert event.onset == pytest.approx(2.01, abs=0.01)
    assert event.full == pytest.approx(2.09, abs=0.01)
    assert event.release == pytest.approx(2.17, abs=0.01)
    assert event.end == pytest.approx(2.33, abs=0.01)
    assert event.rise_velocity == pytest.approx(10, rel=0.05)
    assert event.fall_velocity == pytest.approx(5, rel=0.05)
    assert event.complete
    assert not blink.complete  # the left eye closes to 0.6
    assert blink.side == "both"
    assert blink.delay == pytest.approx(0.02, abs=0.01)


def test_two_blinks_in_a_row_are_two_though_the_eye_does_not_open_wholly() -> None:
    seconds = np.arange(300) / 25
    closure = np.interp(seconds, [4, 4.1, 4.3, 4.4, 4.6, 4.7], [0, 1, 0.4, 1, 0.3, 0])
    found = blinks(closure_table(closure, closure, 25, 0.02))
    assert [round(blink.main.peak, 1) for blink in found] == [4.1, 4.4]
    assert found[0].main.end <= found[1].main.onset
    shallow = np.interp(seconds, [4, 4.1, 4.2, 4.3, 4.5], [0, 1, 0.85, 1, 0])
    assert len(blinks(closure_table(shallow, shallow, 25, 0.02))) == 1


def test_one_eye_alone_and_long_closures() -> None:
    seconds = np.arange(500) / 50
    wink = np.interp(seconds, [3, 3.1, 3.2, 3.4], [0, 1, 1, 0])
    long = np.interp(seconds, [6, 6.1, 8, 8.2], [0, 1, 1, 0])
    table = closure_table(np.maximum(wink, long), long, 50, 0.02)
    assert [blink.side for blink in blinks(table)] == ["right"]
    assert [blink.side for blink in closures(table)] == ["right", "both"]


def test_a_movement_is_found_where_it_is() -> None:
    landmarks = faces(200)
    landmarks[:, 0, 54, 0] += smile(200, 60, 70, 110, 30)
    table = measure(tracks_of(landmarks))
    (event,) = movements(table, "commissure_excursion_left")
    base = np.hypot(25, 12)
    assert event.baseline == pytest.approx(base, abs=0.1)
    assert event.amplitude == pytest.approx(np.hypot(40, 12) - base, abs=0.1)
    assert event.onset == pytest.approx(61 / 25, abs=1 / 25)
    assert event.full == pytest.approx(69 / 25, abs=1 / 25)
    assert event.end == pytest.approx(108 / 25, abs=1 / 25)
    assert 69 / 25 <= event.peak <= 91 / 25
    assert event.rise_velocity == pytest.approx(
        1.5 * 25 * 40 / np.hypot(40, 12), rel=0.05
    )  # percent a second
    assert event.fall_velocity == pytest.approx(0.75 * 25 * 40 / np.hypot(40, 12), rel=0.05)
    assert not movements(table, "commissure_excursion_right")


def test_a_summary_has_rest_peak_symmetry_of_movement_and_blinks() -> None:
    landmarks = faces(600)
    landmarks[:, 0, 54, 0] += smile(600, 300, 310, 360, 30)
    landmarks[:, 0, 48, 0] -= smile(600, 300, 310, 360, 12)
    shut(landmarks, np.interp(np.arange(600), [100, 103, 104, 108], [0, 1, 1, 0]))
    row = summary(measure(tracks_of(landmarks))).iloc[0]
    assert row["frames"] == 600
    assert row["seconds"] == pytest.approx(24)
    assert row["commissure_excursion_left_rest"] == pytest.approx(np.hypot(25, 12), rel=1e-3)
    left = np.hypot(40, 12) - np.hypot(25, 12)
    right = np.hypot(31, 12) - np.hypot(25, 12)
    assert row["commissure_excursion_left_excursion"] == pytest.approx(left, rel=0.02)
    assert row["commissure_excursion_excursion_symmetry"] == pytest.approx(100 * right / left, rel=0.03)
    assert row["blinks"] == 1
    assert row["blinks_per_minute"] == pytest.approx(2.5)
    assert row["blinks_per_minute_low"] < 2.5 < row["blinks_per_minute_high"]
    assert poisson_interval(10) == pytest.approx((4.795, 18.390), abs=1e-3)  # Garwood's table


def test_both_sides_of_a_measure_peak_in_the_direction_in_which_they_go_furthest() -> None:
    landmarks = faces(200)
    for brow, up, down in ((slice(17, 22), 12, 10), (slice(22, 27), 8, 14)):
        landmarks[:, 0, brow, 1] -= smile(200, 20, 30, 60, up)[:, None]
        landmarks[:, 0, brow, 1] += smile(200, 90, 100, 130, down)[:, None]
    row = summary(measure(tracks_of(landmarks), rest=0)).iloc[0]
    assert row["brow_height_right_excursion"] == pytest.approx(-5, rel=0.02)
    assert row["brow_height_left_excursion"] == pytest.approx(-7, rel=0.02)
    assert row["brow_height_excursion_symmetry"] == pytest.approx(100 * 5 / 7, rel=0.02)
    assert row["brow_height_left_peak"] == pytest.approx(27 - 7, rel=0.02)


@pytest.mark.slow
def test_two_recordings_are_compared_with_an_interval(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    before, after = faces(60), faces(60)
    after[:, 0, 54, 1] += 12  # the left commissure hangs by 6 % of the canthal distance
    before[:, 0, 54, 0] += smile(60, 10, 20, 50, 20)
    tables = [measure(tracks_of(points), rest=0) for points in (before, after)]
    rows = compare(*tables).set_index("measure")
    row = rows.loc["commissure_height_left"]
    assert row["change"] == pytest.approx(6, rel=1e-3)
    half = 1.96 * np.hypot(*(table.series_error("commissure_height_left")[0] for table in tables))
    assert row["change_high"] - row["change"] == pytest.approx(half, rel=1e-3)
    assert rows.loc["commissure_height_right", "change"] == pytest.approx(0, abs=1e-4)
    moved = rows.loc["commissure_excursion_left"]
    assert moved["excursion_before"] > 5
    assert moved["excursion_after"] == pytest.approx(0, abs=0.01)
    with pytest.raises(MeasureError, match="use the same scale"):
        compare(tables[0], measure(tracks_of(after), scale="36-45=90mm"))
    for name, points in (("before", before), ("after", after)):
        tracks_of(points).save(tmp_path / f"{name}.npz")
    inputs = [str(tmp_path / f"{name}.npz") for name in ("before", "after")]
    page = tmp_path / "r.html"
    assert main(["measure", *inputs, "--report", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "Commissure height, left (%)" in text
    assert "not a medical device" in text
    assert "Change (95 % interval)" in text
    assert main(["measure", *inputs, inputs[0], "--report", str(page)]) == 2


def test_pose_correction_keeps_lengths_of_a_turned_head() -> None:
    """From -25 to 25 degrees of yaw corrected lengths change by at most 3 %, uncorrected ones by more."""
    from napari_face_landmarks.clnf.pdm import project

    pdm = load_models().pdm
    turned = []
    for yaw in np.radians(np.linspace(-25, 25, 11)):
        params = np.concatenate([[2.5, 0.0, yaw, 0.0, 320, 240], np.zeros(pdm.n_modes)])
        turned.append(project(pdm, params))
    tracks = tracks_of(np.stack(turned)[:, None])
    corrected = measure(tracks, rest=5, pose_corrected=True, pdm=pdm)
    plain = measure(tracks, rest=5)
    for name in ("mouth_width", "eye_width_left", "eye_width_right", "commissure_excursion_left"):
        series = corrected.series(name)
        assert np.ptp(series) / series[5] < 0.03
    assert (
        np.ptp(plain.series("commissure_excursion_left")) / plain.series("commissure_excursion_left")[5] > 0.1
    )


@pytest.mark.slow
def test_a_long_recording_is_measured_in_little_memory() -> None:
    """Beyond tracks and table, a recording needs the memory of one block of frames and little more."""
    tracks = tracks_of(faces(20_000))
    tracks.sigma[:] = 1.0
    measure(tracks.take_frames(slice(100)))  # what is loaded and compiled once
    tracemalloc.start()
    try:
        table = measure(tracks)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    kept = table.values.nbytes + table.errors.nbytes
    assert peak - kept < 60e6  # of which a third is the work of one block, whatever the length
    assert np.isfinite(table.errors[:, 0, table.column("mouth_width")]).all()


def test_noise_is_estimated_from_frame_to_frame() -> None:
    rng = np.random.default_rng(0)
    series = np.sin(np.arange(5000) / 100) + rng.normal(0, 0.05, 5000)
    assert frame_noise(series) == pytest.approx(0.05, rel=0.05)


def known(landmarks: np.ndarray, fps: float = 25.0, **meta: object) -> Tracks:
    """Return tracks that lack nothing that measures need."""
    tracks = tracks_of(landmarks, fps)
    tracks.pose[:] = 0
    tracks.pose[..., 0] = 1
    return dataclasses.replace(tracks, meta={"models": "open", **meta})


def test_recordings_that_were_measured_differently_are_compared_with_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    frame = {"width": 640, "height": 480}
    before = known(faces(30), **frame)
    other = dataclasses.replace(before, meta={**frame, "models": "research"})
    larger = known(faces(30), width=1280, height=960)
    two = known(np.concatenate([faces(30), faces(30) + 300], axis=1))
    for pair, scales, words in (
        ((before, other), (None, None), r"models differ \(open before, research after"),
        ((before, before), ("iris", "0.5"), "The scales differ"),
        ((before, larger), ("0.5", "0.5"), "640 x 480 pixels before, 1280 x 960 after"),
        ((before, two), (None, None), r"\(1 before, 2 after\): face 0 before is compared with face 0"),
    ):
        for tracks in pair:
            tracks.iris[:] = [250, 202, 23.54, 0.9, 390, 200, 23.54, 0.9]
        tables = [measure(tracks, scale=scale) for tracks, scale in zip(pair, scales, strict=True)]
        with pytest.warns(MeasureWarning, match=words):
            compare(*tables)
    write_comparison(tmp_path / "r.html", (before, tables[0], None), (two, tables[1], None))
    assert "There are several faces" in (tmp_path / "r.html").read_text(encoding="utf-8")
    with pytest.raises(MeasureError, match="pose-corrected and the other is not"):
        compare(tables[0], dataclasses.replace(tables[0], pose_corrected=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(measure(before), measure(before))
        compare(measure(before, scale="0.5"), measure(larger, scale="0.25"))


def test_uncertain_faces_slow_videos_and_times_that_go_back_are_named() -> None:
    tracks = known(faces(60))
    assert measure(tracks).warnings == ()
    tracks.confidence[:6] = 0.4
    assert measure(tracks).warnings[0].startswith("face 0 is uncertain on 10% of its frames, which are left")
    (sentence,) = measure(known(faces(60), fps=8)).warnings
    assert sentence.startswith("At 8 frames per second the closure and velocity of blinks are underestimated")
    assert measure(known(faces(60), fps=15000 / 1001)).warnings == ()
    back = dataclasses.replace(known(faces(60)), timestamps=np.arange(60)[::-1] / 25)
    assert measure(back).warnings[-1].startswith("Time stamps go back or repeat")


def test_parts_that_are_covered_or_missing_are_named() -> None:
    tracks = known(faces(60))
    tracks.confidence[20:26, 0, 48:] = 0.7  # a hand before the mouth
    (sentence,) = measure(tracks).warnings
    assert sentence.startswith("Parts of face 0 are uncertain, perhaps covered (mouth on 10% of the frames)")
    tracks.confidence[25, 0, 48:] = 0.95
    assert measure(tracks).warnings == ()
    tracks.landmarks[3:5, 0, 8] = np.nan
    (sentence,) = measure(tracks).warnings
    assert sentence == "On 2 frames a face lacks some of its landmarks: it is not measured there."


def test_a_rest_frame_that_is_no_rest_is_doubted() -> None:
    landmarks = faces(60)
    shut(landmarks, np.where(np.arange(60) == 7, 0.9, 0))
    tracks = known(landmarks)
    tracks.pose[8, 0, 2] = 0.5
    tracks.confidence[9] = 0.4
    for frame, what in ((7, "shutting an eye"), (8, "turned away"), (9, "uncertain")):
        said = f"face 0 is {what} on the rest frame, from which all changes are measured: choose another."
        assert said in measure(tracks, rest=frame).warnings
    assert not any("rest frame" in sentence for sentence in measure(tracks, rest=10).warnings)
    assert not any("rest frame" in sentence for sentence in measure(tracks).warnings)


def test_warnings_about_many_faces_are_few() -> None:
    sentences = measure(known(np.repeat(faces(5), 10, axis=1))).warnings
    assert len(sentences) == 5
    assert sentences[-1] == "The same applies to 6 more."


def test_pose_correction_of_a_file_takes_the_shape_model_of_its_models(tmp_path: Path) -> None:
    tracks = dataclasses.replace(known(faces(3)), meta={"models": "research"})
    own = measure(tracks, pose_corrected=True, pdm=load_models("research").pdm).series("mouth_width")
    other = measure(tracks, pose_corrected=True, pdm=load_models("open").pdm).series("mouth_width")
    assert np.abs(own - other).max() > 1e-4
    np.testing.assert_array_equal(measure(tracks, pose_corrected=True).series("mouth_width"), own)
    tracks.save(tmp_path / "t.npz")
    out = tmp_path / "o.csv"
    assert main(["measure", str(tmp_path / "t.npz"), "--pose-corrected", "-o", str(out)]) == 0
    np.testing.assert_allclose(pd.read_csv(out)["mouth_width_percent"], own, rtol=1e-5)


def test_a_face_without_an_iris_is_named_where_the_iris_is_the_scale() -> None:
    tracks = known(np.concatenate([faces(30), faces(30) + 300], axis=1))
    tracks.iris[:, 0] = [250, 202, 23.54, 0.9, 390, 200, 23.54, 0.9]
    (sentence,) = measure(tracks, scale="iris").warnings
    assert sentence.startswith("No iris of face 1 is visible: it has no lengths in mm")


def test_blinks_keep_their_depth_where_a_part_of_the_video_is_slow_motion() -> None:
    seconds = np.concatenate([np.arange(0, 10, 1 / 240), np.arange(10, 60, 1 / 30)])
    phase = (seconds - 2) % 4
    landmarks = faces(len(seconds))
    shut(landmarks, 0.95 * np.interp(phase, [0, 0.08, 0.11, 0.27], [0, 1, 1, 0]))
    tracks = dataclasses.replace(tracks_of(landmarks), timestamps=seconds)
    found = blinks(measure(tracks))
    assert len(found) == 15
    assert min(blink.main.value for blink in found) > 0.85


def test_blinks_of_eyes_that_are_not_known_are_not_counted() -> None:
    pytest.importorskip("matplotlib")
    landmarks = faces(60) + np.random.default_rng(0).normal(0, 0.5, (60, 1, 68, 2))
    few = known(landmarks)
    table = measure(few, names=["mouth_opening"])
    assert summary(table)[["blinks", "blinks_per_minute", "blinks_per_minute_high"]].isna().all(axis=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a legend of nothing
        assert "blinks were not counted" in report_page(few, table, None)
    shut(landmarks, np.ones(60))  # both eyes are never seen open
    never = measure(known(landmarks))
    assert np.isnan(summary(never)["blinks"][0])
    assert "No blinks were detected" in report_page(few, measure(known(faces(60))), None)


def test_persons_of_the_same_name_are_told_apart_in_tables() -> None:
    two = known(np.concatenate([faces(30), faces(30) + 300], axis=1), face_names=["Ann", "Ann"])
    assert to_dataframe(measure(two))["face"].nunique() == 2
    assert summary(measure(two))["face"].tolist() == ["Ann_2", "Ann"]


def test_measure_names_the_file_and_refuses_a_decimal_comma(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = known(faces(30))
    known(faces(30)).save(tmp_path / "a.npz")
    missing.landmarks[:] = np.nan
    missing.save(tmp_path / "b.npz")
    out = str(tmp_path / "s.csv")
    assert main(["measure", str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), "--summary", out]) == 2
    assert "b.npz: No frame has a face" in capsys.readouterr().err
    assert main(["measure", str(tmp_path / "a.npz"), "--fps", "25,0", "--summary", out]) == 2
    assert "The frame rate is 25,0: give a number" in capsys.readouterr().err


@pytest.mark.parametrize(
    "call",
    [
        lambda table, tracks: compare(tracks, tracks),
        lambda table, tracks: compare(table, table, faces=(0, 5)),
        lambda table, tracks: compare(table, table, faces=0),
        lambda table, tracks: summary(tracks),
        lambda table, tracks: blinks(tracks),
        lambda table, tracks: blinks(table, fps="25"),
        lambda table, tracks: movements(table, "mouth_opening", smallest=math.nan),
        lambda table, tracks: measure(tracks, rest=1.5),
        lambda table, tracks: measure(tracks, rest=None),
        lambda table, tracks: measure(tracks, scale=True),
        lambda table, tracks: measure(tracks, names=[]),
        lambda table, tracks: measure(tracks, pose_corrected=True, pdm="open"),
        lambda table, tracks: values_of(tracks.landmarks, "eye_height"),
        lambda table, tracks: values_of(tracks.landmarks[..., :66, :], "mouth_width"),
    ],
)
def test_what_a_script_gives_by_mistake_is_refused_in_a_sentence(call: Callable[..., object]) -> None:
    tracks = tracks_of(faces(30))
    with pytest.raises(MeasureError, match=r"\S.*[:?] .*|Give measure\(tracks\)"):
        call(measure(tracks), tracks)
    assert measure(tracks, names="mouth_opening").names == ("mouth_opening",)


@pytest.mark.parametrize(
    ("scale", "sentence"),
    [
        ("0", "0 mm per pixel"),
        ("3e6", "mm per pixel"),
        ("36-45=3000000mm", "known distance is 3000000"),
        ("36-36=10mm", "two landmarks"),
        ("36-99=10mm", "two landmarks"),
        ("large", "give iris, percent"),
        ("nan", "mm per pixel"),
    ],
)
def test_an_impossible_scale_is_refused(scale: str, sentence: str) -> None:
    with pytest.raises(MeasureError, match=sentence):
        parse_scale(scale)


def test_what_cannot_be_measured_is_said() -> None:
    empty = tracks_of(np.full((4, 1, 68, 2), np.nan))
    with pytest.raises(MeasureError, match="nothing to measure"):
        measure(empty)
    tracks = tracks_of(faces(30))
    with pytest.raises(MeasureError, match="no frame 77"):
        measure(tracks, rest=77)
    with pytest.raises(MeasureError, match="no measure 'nose_length'"):
        measure(tracks, names=["nose_length"])
    with pytest.raises(MeasureError, match="have none"):
        measure(tracks, scale="iris")
    with pytest.raises(MeasureError, match="two frames"):
        blinks(measure(tracks_of(faces(1))))
    timeless = dataclasses.replace(tracks, timestamps=np.full(30, np.nan))
    with pytest.raises(MeasureError, match="no time stamps"):
        blinks(measure(timeless))
    assert blinks(measure(timeless), fps=25) == []


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [1.5, np.nan])
def test_an_eye_that_is_never_open_has_no_closure_and_is_named(sigma: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    landmarks = faces(300) + rng.normal(0, 0.5, (300, 1, 68, 2))
    shut(landmarks, np.full(300, 0.95), "right")
    shut(landmarks, np.interp(np.arange(300), [100, 103, 104, 108], [0, 1, 1, 0]), "left")
    tracks = tracks_of(landmarks, confidence=0.95 if np.isfinite(sigma) else 1.0)
    tracks.sigma[:] = sigma
    table = measure(tracks)
    assert table.warnings[0] == (
        "The right eye of face 0 is never seen open: its closure and blinks are unknown."
    )
    assert np.isnan(table.series("closure_right")).all()
    (blink,) = blinks(table)
    assert blink.side == "left"
    (row,) = summary(table).itertuples()
    assert (row.blinks, math.isnan(row.closure_right_rest)) == (1, True)
    assert row.closure_left_rest == pytest.approx(0, abs=0.1)
    pytest.importorskip("matplotlib")
    write_video(tmp_path / "one.mp4", np.zeros((300, 480, 640, 3), np.uint8), 25)
    page = report_page(tracks, table, tmp_path / "one.mp4")
    assert "Eyes closed furthest (4.1" in page
    assert table.warnings[0] in page


def test_closure_can_be_asked_for_by_its_name() -> None:
    table = measure(tracks_of(faces(6)), names=["closure", "mouth_opening"])
    assert {"closure_right", "closure_left", "eye_height_left", "mouth_opening"} <= set(table.names)
    assert "closure_right" in measure(tracks_of(faces(6)), names=["closure_right"]).names
    with pytest.raises(MeasureError, match="do you mean closure"):
        measure(tracks_of(faces(6)), names=["closures"])


def test_every_table_says_its_unit_and_whether_the_pose_was_corrected() -> None:
    table = measure(tracks_of(faces(6)), scale="0.45", pose_corrected=True, pdm=load_models().pdm)
    (row,) = summary(table).itertuples()
    assert (row.unit, row.pose_corrected) == ("mm", True)
    assert all(to_dataframe(table, long)["pose_corrected"].all() for long in (False, True))
    assert not to_dataframe(measure(tracks_of(faces(6))))["pose_corrected"].any()


def test_tables_have_units_in_their_columns_and_a_tidy_form() -> None:
    table = measure(tracks_of(faces(6)), names=["mouth_width", "eye_aperture"], scale="36-45=90mm")
    wide = to_dataframe(table)
    assert {"frame", "time", "face", "mouth_width_mm", "mouth_width_mm_se"} <= set(wide.columns)
    tidy = to_dataframe(table, long=True)
    assert len(tidy) == 6 * len(table.columns)
    one = tidy[tidy["measure"] == "mouth_width"]
    assert one["value"].tolist() == pytest.approx([45] * 6)
    assert set(one["unit"]) == {"mm"}
    events = events_to_dataframe([])
    assert list(events.columns)[:3] == ["event", "number", "measure"]


@pytest.mark.parametrize("compiled", [False, True])
def test_csv_files_are_those_of_pandas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    monkeypatch.setattr(files, "CHUNK", 7)
    monkeypatch.setattr(files, "COMPILED_CELLS", 0 if compiled else math.inf)
    rng = np.random.default_rng(0)
    numbers = np.append(rng.normal(size=9) * 10.0 ** rng.integers(-9, 9, 9), [np.nan, np.inf, 0.0, -1e-12])
    frame = pd.DataFrame(
        {
            "frame": np.arange(13) * 10**6,
            "score": numbers * 1.5,
            "face": ["nan", 'a "b", c', "", "Ferdinand", "two\nlines"] * 2 + ["x", None, "ü"],
            "turned": numbers > 0,
            "value": numbers.astype(np.float32),
            "error": numbers,
        }
    )
    for names in (list(frame), ["face", "frame"], ["value", "error"], ["error", "face", "value"]):
        capitals = frame.assign(turned=frame["turned"].map({True: "TRUE", False: "FALSE"}))
        expected = capitals[names].to_csv(index=False, float_format="%.6g", lineterminator="\n")
        write_table(tmp_path / "a.csv", frame[names])
        assert (tmp_path / "a.csv").read_bytes().decode() == expected
    times = pd.DataFrame({"time": [0.0, 1 / 30, 36000.0041667, np.nan], "value": [36000.0041667] * 4})
    write_table(tmp_path / "a.csv", times)  # frames at 240 a second stay apart after hours
    rows = (tmp_path / "a.csv").read_text().splitlines()
    assert rows == ["time,value", "0,36000", "0.033333,36000", "36000.004167,36000", ",36000"]


def test_compiled_rows_are_those_of_python() -> None:
    rng = np.random.default_rng(0)
    size = 10.0 ** rng.uniform(-6, 7, 50_000)
    near = np.array([1.0, 9.9999995, 99999.95, 999998.5, 999999.5, 1e-4, 0.5, 1234565.0, 0.0, np.nan, np.inf])
    awkward = [near * scale + step for scale in (1e-5, 0.01, 1, 100) for step in (0, 1e-12, -1e-12, 5e-7)]
    ties = np.arange(100_000, 100_400) / 2.0 ** np.arange(20)[:, None]
    numbers = np.concatenate([size, np.float32(size), *awkward, ties.ravel(), np.rint(size * 100) / 1000])
    numbers = np.concatenate([numbers, -numbers, np.zeros(-2 * len(numbers) % 8)]).reshape(-1, 8)
    heads = [f"{k},".encode() for k in range(len(numbers))]
    assert b"".join(files._compiled_rows(heads, numbers)) == b"".join(files._rows(heads, numbers))


def test_one_table_is_written_without_loading_pandas(tmp_path: Path) -> None:
    tracks_of(faces(3)).save(tmp_path / "one.npz")
    words = ["measure", str(tmp_path / "one.npz"), "-o", str(tmp_path / "one.csv")]
    code = f"import sys; from napari_face_landmarks.cli import main; main({words}); print([*sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'numpy'" in done.stdout
    assert "'pandas'" not in done.stdout
    assert len(pd.read_csv(tmp_path / "one.csv")) == 3


def test_a_report_says_in_plain_words_how_it_was_made() -> None:
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    moved = faces(100) + rng.normal(0, 0.5, (100, 1, 68, 2))
    moved[60:, 0, [18, 19, 20, 23, 24, 25], 1] -= 20  # both brows by 10 %
    tracks = tracks_of(moved)
    tracks.sigma[:] = 2.0
    page = report_page(tracks, measure(tracks), None)
    assert "read from a file of another program" in page
    assert "refine" not in page.split("How this was made")[1]
    named = dataclasses.replace(tracks, meta={"models": "research"})  # as in a CSV file
    made = report_page(named, measure(named), None).split("How this was made")[1]
    assert "names the models “research”" in made
    assert "refine" not in made
    assert page.count("grey bars are blinks") == 1
    rows = {row.split(" (")[0]: row.split("</td>")[-2] for row in page.split("<tr><td>")[1:]}
    assert float(rows["Brow height"].removeprefix("<td>")) > 80
    assert rows["Commissure excursion"] == "<td>-"  # it has not moved
    tracks = dataclasses.replace(
        tracks,
        meta={"models": "open", "version": "0.2.0"},
        settings=TrackerSettings(smoothing_window=7, refine="always"),
    )
    tracks.by_hand[3, 0, :4] = True
    made = report_page(tracks, measure(tracks), None).split("How this was made")[1]
    for words in ("on one frame in 2 (refine always)", "over 7 frames", "4 points were placed by hand"):
        assert words in made


def test_the_command_writes_tables_plot_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    landmarks = faces(100)
    shut(landmarks, np.interp(np.arange(100), [40, 43, 44, 48], [0, 1, 1, 0]))
    result = tmp_path / "one.npz"
    tracks_of(landmarks).save(result)
    out = {name: tmp_path / name for name in ("m.csv", "e.csv", "s.csv", "p.png", "r.html")}
    status = main(
        ["measure", str(result), "-o", str(out["m.csv"]), "--events", str(out["e.csv"])]
        + ["--summary", str(out["s.csv"]), "--plot", str(out["p.png"]), "--report", str(out["r.html"])]
    )
    assert status == 0
    assert len(pd.read_csv(out["m.csv"])) == 100
    assert pd.read_csv(out["e.csv"])["side"].tolist() == ["right", "left"]
    assert pd.read_csv(out["s.csv"])["blinks"].tolist() == [1]
    assert out["p.png"].read_bytes()[:4] == b"\x89PNG"
    page = out["r.html"].read_text(encoding="utf-8")
    assert "not a medical device" in page
    assert 'src="http' not in page
    both = tmp_path / "both.csv"
    second = tmp_path / "two.npz"
    second.write_bytes(result.read_bytes())
    assert main(["measure", str(result), str(second), "-o", str(both)]) == 0
    assert set(pd.read_csv(both)["recording"]) == {"one.npz", "two.npz"}
    (tmp_path / "visit 2").mkdir()
    again = second.rename(tmp_path / "visit 2" / "one.npz")
    assert main(["measure", str(result), str(again), "-o", str(both)]) == 0
    assert set(pd.read_csv(both)["recording"]) == {str(result), str(again)}
    assert main(["measure", str(result)]) == 2
    assert "nothing to write" in capsys.readouterr().err
    assert main(["measure", str(result), "-o", str(tmp_path / "t.csv"), "--rest", "500"]) == 2
    assert "no frame 500" in capsys.readouterr().err
    assert not (tmp_path / "t.csv").exists()


def test_a_photograph_has_its_values_at_rest_and_no_events(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    paths = [tmp_path / "before.npz", tmp_path / "after.npz"]
    for path, larger in zip(paths, (1, 1.1), strict=True):
        photograph = faces(1)
        photograph[0, 0, 48:, 0] *= larger
        tracks_of(photograph).save(path)
    one, page = tmp_path / "s.csv", tmp_path / "r.html"
    assert main(["measure", str(paths[0]), "--summary", str(one)]) == 0
    said = "A single frame shows no events or movements: they are left out."
    assert capsys.readouterr().err.splitlines()[-1] == f"before.npz: {said}"
    row = pd.read_csv(one).iloc[0]
    table = measure(tracks_of(faces(1)))
    assert row["mouth_width_rest"] == pytest.approx(table.series("mouth_width")[0], rel=1e-5)
    assert row["mouth_width_rest_low"] < row["mouth_width_rest"] < row["mouth_width_rest_high"]
    absent = ["seconds", "mouth_width_peak", "mouth_width_range", "closure_right_rest", "blinks"]
    assert row[absent].isna().all()
    assert main(["measure", *map(str, paths), "--report", str(page)]) == 0
    assert "At rest, after" in page.read_text(encoding="utf-8")
    assert main(["measure", str(paths[0]), "--report", str(page)]) == 0
    assert "Over time" not in page.read_text(encoding="utf-8")
    assert said not in write_measures(tmp_path / "v.csv", tracks_of(faces(2)), {})
    assert write_measures(tmp_path / "v.csv", tracks_of(faces(1)), {})[-1] == said
    assert sorted(path.name for path in tmp_path.glob("v.*")) == ["v.csv.measures.csv", "v.csv.summary.csv"]


def test_seconds_do_not_count_frames_that_were_removed() -> None:
    tracks = tracks_of(faces(200))
    kept = np.r_[0:50, 150:200]
    assert summary(measure(tracks.take_frames(kept)))["seconds"].item() == pytest.approx(4, abs=0.05)
    assert summary(measure(tracks.take_frames(kept[::2])))["seconds"].item() == pytest.approx(4, abs=0.1)


def test_time_stamps_that_go_back_are_named() -> None:
    tracks = tracks_of(faces(60))
    tracks.timestamps[31] = 0.5
    with pytest.raises(MeasureError, match="time stamp of frame 31 is not after"):
        blinks(measure(tracks))


def test_a_frame_rate_that_is_given_counts_in_every_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    landmarks = faces(400)
    shut(landmarks, np.interp(np.arange(400), [150, 160, 165, 180], [0, 1, 1, 0]))
    slow_motion = tmp_path / "slow.npz"
    tracks_of(landmarks, fps=25).save(slow_motion)
    frames, events = tmp_path / "m.csv", tmp_path / "e.csv"
    given = ["measure", str(slow_motion), "-o", str(frames), "--fps"]
    assert main([*given, "200", "--events", str(events)]) == 0
    assert pd.read_csv(frames)["time"].tolist() == pytest.approx((np.arange(400) / 200).tolist())
    assert pd.read_csv(events)["peak"].between(160 / 200, 165 / 200).all()
    frames.unlink()
    assert main([*given, "0"]) == 2
    assert "above 0" in capsys.readouterr().err
    assert main([*given, "25", "--summary", str(frames)]) == 2
    assert "named twice" in capsys.readouterr().err
    assert not frames.exists()


@pytest.mark.slow
def test_a_batch_measures_every_video_into_one_table(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    frames = moving(8)[0]
    grey = np.full((8, 120, 160, 3), 128, np.uint8)
    for name in ("one", "two", "empty"):
        (tmp_path / "in" / name).mkdir(parents=True)
    for name, pictures in (("one", frames), ("two", frames[::-1]), ("empty", grey)):
        write_video(tmp_path / "in" / name / "clip.mp4", pictures, fps=25)
    folder = tmp_path / "out"
    options = {"settings": {"refine": "off"}, "jobs": 1, "measures": {"scale": "36-45=90mm"}}
    results = track_many(tmp_path / "in", folder, **options)
    table = pd.read_csv(folder / "batch-measures.csv")
    assert [Path(video).parent.name for video in table["video"]] == ["one", "two"]
    assert (table["frames"] == 8).all()
    assert table["inter_canthal_distance_rest"].tolist() == pytest.approx([90, 90], rel=0.01)
    (silent,) = (result for result in results if "empty" in result.video)
    assert any("Nothing was measured" in warning for warning in silent.warnings)
    wide = pd.read_csv(folder / "one" / "clip.csv.measures.csv")
    assert len(wide) == 8
    again = track_many(tmp_path / "in", folder, **{**options, "measures": True})
    assert [result.earlier for result in again] == [True] * 3  # measured again, not tracked again
    table = pd.read_csv(folder / "batch-measures.csv")
    assert table["inter_canthal_distance_rest"].tolist() == pytest.approx([100, 100], rel=0.01)
    # warnings of measures are those of the last ones, each with its video's name in the text
    assert [result.warnings for result in again] == [result.warnings for result in results]
    text = (folder / "batch-summary.txt").read_text(encoding="utf-8")
    assert "clip.mp4: face 0 is not visible for a second without interruption" in text
    (folder / "one" / "clip.csv.summary.csv").unlink()
    track_many(tmp_path / "in", folder, **{**options, "measures": True})
    assert len(pd.read_csv(folder / "batch-measures.csv")) == 2
    other = {"settings": {"refine": "off", "smoothing_window": 1}, "jobs": 1}
    track_many(tmp_path / "in", folder, **other)  # other landmarks, of which there are no measures
    assert not list(folder.rglob("*.measures.csv"))
    assert len(pd.read_csv(folder / "batch-measures.csv")) == 0


def test_what_is_underestimated_is_said_of_the_bundle_that_was_validated() -> None:
    assert underestimated("commissure_height_difference", "open") == 25
    assert underestimated("lower_lip_height_symmetry", "open") == 55
    assert underestimated("smile_angle_difference", "open") == 0  # a slope of 0.99
    assert underestimated("commissure_height_difference", "other models") == 0
    sentence = caution([("eye_width_left", "fissure width"), ("mouth_width", "mouth width")], "open")
    assert "fissure width by about 40 %" in sentence
    assert caution([("closure_right", "eye closure")], "open") == ""


@pytest.mark.parametrize(
    ("name", "proposed"),
    [
        ("mouth_openning", "do you mean mouth_opening "),
        ("smile", "smile_angle_right"),
        ("xyz", "choose"),
    ],
)
def test_an_unknown_measure_is_answered_with_similar_ones(name: str, proposed: str) -> None:
    table = measure(tracks_of(faces(30)))
    assert "30 frames" in repr(table)
    assert len(repr(table)) < 500
    with pytest.raises(MeasureError, match=proposed):
        table.series(name)


def test_a_path_is_not_measured() -> None:
    with pytest.raises(MeasureError, match=r"Tracks\.load"):
        measure("talk.csv")  # type: ignore[arg-type]
