"""Quality control without a window: the planted frames are found, ranked, told and written."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from napari_face_landmarks import Tracks
from napari_face_landmarks.cli import main
from napari_face_landmarks.data.fields import MANUAL, SOURCES
from napari_face_landmarks.errors import ResultError, SettingsError
from napari_face_landmarks.files.optional import installed
from napari_face_landmarks.ibug import inter_ocular
from napari_face_landmarks.io import FORMATS
from napari_face_landmarks.quality import (
    Limits,
    Series,
    check,
    check_series,
    find_suspects,
    join_series,
    series_of,
    series_to_dataframe,
    write_series,
    write_suspects,
)
from napari_face_landmarks.quality.series import PARTS
from planted import PLANTED, bad_tracks, good_tracks, lose


def test_a_good_run_has_nothing_to_check() -> None:
    found = check(good_tracks())
    assert found.suspects == ()
    assert found.words[-1].startswith("No frame needs to be checked")
    assert found.statistics.to_check == found.statistics.frames_to_check == 0


def test_planted_frames_come_first_with_their_reasons() -> None:
    found = check(bad_tracks())
    assert [item.frame for item in found.suspects] == list(PLANTED.values())
    assert [item.reasons for item in found.suspects] == [(reason,) for reason in PLANTED]
    scores = [item.score for item in found.suspects]
    assert scores == sorted(scores, reverse=True)
    assert 0 < scores[-1] < scores[0] <= 1
    texts = {item.reasons[0]: item.text for item in found.suspects}
    assert texts["lost face"] == "lost face: not found for 5 frames"
    assert texts["low confidence"] == "low confidence: 0.10"
    assert "120 % of the inter-ocular distance" in texts["jump"]
    assert "16 % of the inter-ocular distance apart" in texts["PFLD and CLNF disagree"]
    assert "5.0 % of the inter-ocular distance from the shape model" in texts["unlike a face"]


@pytest.mark.parametrize("region", ["lips", "left eye", "right brow", "jaw"])
def test_a_region_that_is_wrong_is_found_where_the_mean_of_the_face_hides_it(region: str) -> None:
    tracks, marks = good_tracks(), PARTS[region]
    tracks.confidence[50:53, 0, marks] = 0.3
    across = inter_ocular(tracks.landmarks[140, 0])
    tracks.landmarks[140, 0, marks, 1] += 0.2 * across
    found = check(tracks)
    assert found.series.confidence[51, 0] > Limits().low_confidence
    assert [(item.first, item.last) for item in sorted(found.suspects, key=lambda item: item.first)] == [
        (50, 52),
        (140, 141),
    ]
    texts = " ".join(item.text for item in found.suspects)
    assert f"low confidence of the {region}: 0.30" in texts
    assert f"jump of the {region}: " in texts
    tracks.by_hand[:, 0, 0] = True
    assert not check(tracks).suspects


@pytest.mark.parametrize(("marks", "what"), [([43, 44], "eyes"), ([17, 18, 19, 20, 21], "brows")])
def test_left_unlike_right_on_one_frame_is_found_and_a_lasting_difference_is_not(
    marks: list[int], what: str
) -> None:
    tracks = good_tracks()
    eyes = np.array([(37, 41), (38, 40), (43, 47), (44, 46)])
    tracks.landmarks[:, 0, eyes[:, 1]] = tracks.landmarks[:, 0, eyes[:, 0]] + np.float32([0, 5])
    away = 0.1 * inter_ocular(tracks.landmarks[50, 0])
    towards = tracks.landmarks[50, 0, marks].mean(axis=0) - tracks.landmarks[50, 0, 36:42].mean(axis=0)
    step = [0, -2 * away] if what == "eyes" else 2 * away * towards / np.linalg.norm(towards)
    tracks.landmarks[100:140, 0, marks] += step  # palsy, a raised brow
    assert "left unlike right" not in {reason for item in check(tracks).suspects for reason in item.reasons}
    tracks.landmarks[50, 0, marks] += step
    (place,) = [item for item in check(tracks).suspects if "left unlike right" in item.reasons]
    assert (place.frame, place.first) == (50, 50)
    assert f"left unlike right: the {what} differ by" in place.text


def test_frames_in_a_row_are_one_place_that_points_at_the_worst() -> None:
    tracks = good_tracks()
    tracks.confidence[50:60, 0] = 0.5
    tracks.confidence[57, 0] = 0.2
    tracks.misfit[52, 0, 0] = 0.05
    (place,) = find_suspects(series_of(tracks))
    assert (place.frame, place.first, place.last) == (57, 50, 59)
    assert place.reasons == ("low confidence", "PFLD and CLNF disagree")
    assert place.text.startswith("low confidence: 0.20; PFLD and CLNF disagree: 5.0 %")
    tracks.confidence[:, 0] = 0.5
    places = find_suspects(series_of(tracks))
    assert max(item.last - item.first for item in places) < 60, (
        "a bad run is cut into places that can be seen"
    )
    assert sum(item.last - item.first + 1 for item in places) == tracks.n_frames


def test_a_fast_turn_is_no_jump_and_a_jump_back_belongs_to_the_jump() -> None:
    tracks = good_tracks()
    across = float(inter_ocular(tracks.landmarks[0, 0]))
    turning = 0.1 * across * np.clip(np.arange(tracks.n_frames) - 40, 0, 120)
    tracks.landmarks[..., 0] += turning[:, None, None].astype(np.float32)
    assert find_suspects(series_of(tracks)) == []
    tracks.landmarks[100, 0] += 2 * across
    (place,) = find_suspects(series_of(tracks))
    assert (place.frame, place.first, place.last) == (100, 100, 101)


def test_frames_before_the_first_and_faces_that_never_come_are_not_lost() -> None:
    tracks = good_tracks(n_faces=3)
    lose(tracks, slice(0, 20), face=0)
    lose(tracks, slice(0, None), face=1)
    lose(tracks, slice(230, None), face=2)
    (place,) = find_suspects(series_of(tracks))
    assert (place.face, place.first, place.last) == (2, 230, 239)
    assert place.text == "lost face: not found to the end"


def test_what_was_corrected_by_hand_counts_as_checked() -> None:
    tracks = bad_tracks()
    tracks.source[30] = MANUAL
    tracks.by_hand[160, 0, 8] = True  # a single landmark
    left = [frame for frame in PLANTED.values() if frame not in (30, 160)]
    assert [item.frame for item in check(tracks).suspects] == left


def test_the_limits_decide() -> None:
    series = series_of(bad_tracks())
    lenient = Limits(low_confidence=0, jump=10, disagreement=1, off_model=1)
    assert [item.reasons for item in find_suspects(series, lenient)] == [("lost face",)]
    strict = find_suspects(series, Limits(low_confidence=0.95))
    assert sum("low confidence" in item.reasons for item in strict) > 4
    for wrong in ({"low_confidence": 2}, {"jump": float("nan")}, {"off_model": "0.1"}, {"jump_ratio": True}):
        with pytest.raises(SettingsError, match=f"{next(iter(wrong))} is .*: give a number from 0 to"):
            Limits(**wrong)  # type: ignore[arg-type]


def test_series_are_what_they_say() -> None:
    tracks = bad_tracks(n_faces=2)
    series = series_of(tracks)
    step = np.linalg.norm(tracks.landmarks[10, 1] - tracks.landmarks[9, 1], axis=-1).mean()
    assert series.movement[10, 1] == pytest.approx(step / inter_ocular(tracks.landmarks[9, 1]), rel=1e-4)
    assert np.isnan(series.movement[0]).all()
    assert np.isnan(series.movement[70:76, 0]).all(), "to a frame without the face, and from one"
    tracks.confidence[3, 0, 7] = 0.25
    series = series_of(tracks)
    assert series.lowest[3, 0] == 0.25
    assert series.confidence[3, 0] == pytest.approx((67 * 0.93 + 0.25) / 68)
    np.testing.assert_allclose(series.pose[4, 0], np.degrees(tracks.pose[4, 0, 1:4]), rtol=1e-6)
    for name in ("confidence", "lowest", "by_clnf", "off_model", "pose"):
        assert np.isnan(getattr(series, name)[72, 0]).all()
    gaps = dataclasses.replace(tracks, frame_indices=3 * tracks.frame_indices)
    np.testing.assert_allclose(series_of(gaps).movement, series.movement / 3, rtol=1e-5)


def test_series_that_grow_are_the_same_as_all_at_once() -> None:
    tracks = bad_tracks(n_faces=2)
    names = [item.name for item in dataclasses.fields(Tracks)]

    def part(rows: slice) -> Series:
        arrays = {name: getattr(tracks, name) for name in names}
        cut = {name: a[rows] for name, a in arrays.items() if isinstance(a, np.ndarray)}
        return series_of(dataclasses.replace(tracks, **cut))

    grown = join_series(join_series(part(slice(0, 1)), part(slice(0, 121))), part(slice(120, None)))
    whole = series_of(tracks)
    for item in dataclasses.fields(Series):
        np.testing.assert_array_equal(getattr(grown, item.name), getattr(whole, item.name))
    assert check_series(grown).suspects == check(tracks).suspects


def test_statistics_and_their_words() -> None:
    found = check(bad_tracks())
    (face,) = found.statistics.faces
    assert (face.frames, face.times_lost, face.frames_lost) == (235, 1, 5)
    assert (face.low_confidence, face.lowest_confidence.frame) == (1, 30)
    assert face.lowest_confidence.value == pytest.approx(0.1)
    assert face.most_by_clnf is not None
    assert face.most_by_clnf.frame == 160
    assert face.fastest is not None
    assert face.fastest.frame in (120, 121)  # there and back
    assert sum(face.sources.values()) == 235
    words = " ".join(found.words)
    for part in (
        "240 frames (9.6 s)",
        "Lost once, for a total of 5 frames",
        "lowest 0.10 on frame 30",
        "To check: 5 sequences",
    ):
        assert part in words
    assert "Face 0" not in words
    assert "Face 1: " in " ".join(check(bad_tracks(n_faces=2)).words)
    empty = good_tracks(5)
    lose(empty, slice(None))
    assert check(empty).words == ["5 frames without a face."]


@pytest.mark.parametrize("n_frames", [0, 1, 2])
def test_the_shortest_runs(n_frames: int) -> None:
    found = check(good_tracks(n_frames))
    assert found.suspects == ()
    assert found.series.n_frames == n_frames
    assert len(series_to_dataframe(found.series)) == n_frames
    assert found.words


@pytest.mark.slow
def test_any_file_can_be_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for item in FORMATS:
        if not all(installed(name) for name in item.needs):
            continue
        path = tmp_path / f"{item.name}{item.suffixes[0]}"
        bad_tracks().save(path)
        assert main(["check", str(path)]) == 0
        out = capsys.readouterr().out
        assert "jump: 120 %" in out, item.name
        if item.name not in ("deeplabcut-csv", "pts"):  # these keep no misfit, .pts no confidence either
            listed = [int(line.split()[1]) for line in out.splitlines() if line.startswith("  frame ")]
            assert listed == list(PLANTED.values()), item.name


def test_check_writes_tables_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad_tracks(n_faces=2).save(tmp_path / "t.npz")
    outputs = {name: tmp_path / name for name in ("suspects.csv", "all.json", "frames.csv")}
    words = ["check", str(tmp_path / "t.npz"), "--output", str(outputs["suspects.csv"])]
    assert main([*words, "--series", str(outputs["frames.csv"]), "--most", "2"]) == 0
    out = capsys.readouterr().out
    assert "3 more" in out
    assert main(["check", str(tmp_path / "t.npz"), "--output", str(outputs["all.json"])]) == 0
    table = pd.read_csv(outputs["suspects.csv"])
    assert table["frame"].tolist() == list(PLANTED.values())
    assert table["reasons"].tolist() == list(PLANTED)
    record = json.loads(outputs["all.json"].read_text())
    assert [item["frame"] for item in record["suspects"]] == list(PLANTED.values())
    assert record["statistics"]["faces"][0]["frames_lost"] == 5
    assert record["statistics"]["limits"]["low_confidence"] == Limits().low_confidence
    frames = pd.read_csv(outputs["frames.csv"])
    assert len(frames) == 2 * 240
    assert set(frames["source"]) <= set(SOURCES)
    assert frames["movement_percent"].max() == pytest.approx(120, abs=2)


def test_options_of_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.npz"
    bad_tracks().save(path)
    assert main(["check", str(path), "--low-confidence", "0.05", "--jump", "5"]) == 0
    out = capsys.readouterr().out
    assert "low confidence" not in out
    assert "jump" not in out
    for wrong, sentence in (
        (["--jump", "-1"], "jump is -1: give a number from 0 to 100."),
        (["--output", str(tmp_path / "x.txt")], "x.txt does not end in .csv or .json"),
        (["--series", str(tmp_path / "x.json")], "x.json does not end in .csv"),
        (
            ["--output", str(path.with_suffix(".csv")), "--series", str(path.with_suffix(".csv"))],
            "named twice",
        ),
    ):
        assert main(["check", str(path), *wrong]) == 2
        assert sentence in capsys.readouterr().err
    assert main(["check", str(tmp_path / "none.csv")]) == 2
    assert "none.csv" in capsys.readouterr().err


def test_files_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    found = check(bad_tracks())
    with pytest.raises(ResultError, match="does not end in"):
        write_suspects(tmp_path / "t.xlsx", found)
    with pytest.raises(ResultError, match="does not exist"):
        write_series(tmp_path / "no" / "t.csv", found.series)


@pytest.mark.nightly
def test_a_long_run_is_checked_in_little_time() -> None:
    tracks = bad_tracks(50_000)
    began = time.process_time()
    series = series_of(tracks)
    seconds: dict[str, Any] = {"series": time.process_time() - began}
    began = time.process_time()
    found = check_series(series)
    seconds["check"] = time.process_time() - began
    assert len(found.suspects) == len(PLANTED)
    assert seconds["series"] < 3
    assert seconds["check"] < 0.5, "it runs on the GUI's thread while a run goes on"
