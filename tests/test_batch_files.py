"""Names of batch results: the same however a batch is called, and those of earlier versions recognised."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from napari_face_landmarks.runs.batch_files import find_videos, place_outputs, recorded_outputs, skipped_files
from napari_face_landmarks.runs.job import record_of

WAYS: dict[str, Callable[[Path], list[str]]] = {
    "the root": lambda root: [str(root)],
    "each folder": lambda root: [str(path) for path in sorted(root.iterdir())],
    "each folder, from the last": lambda root: [str(path) for path in sorted(root.iterdir(), reverse=True)],
    "a pattern": lambda root: [str(root / "*" / "*.mp4")],
    "a way around": lambda root: [str(root), str(root / "P00" / ".." / "P01"), str(root / ".." / "data")],
    "each video": lambda root: [str(path) for path in root.rglob("*.mp4")],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return 8 folders of 5 videos, whose names recur in each folder."""
    root = tmp_path / "data"
    for folder in range(8):
        for video in range(5):
            path = root / f"P{folder:02d}" / f"v{video}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


def placed(inputs: list[str], out: Path) -> dict[Path, Path]:
    return dict(place_outputs(find_videos(inputs), out, ".csv", recorded_outputs(out, ".csv")))


def track(outputs: dict[Path, Path]) -> list[Path]:
    """Write what a batch writes where there is no result yet; return what was written."""
    new = [(video, path) for video, path in outputs.items() if not path.exists()]
    for video, path in new:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("landmarks")
        record_of(path).write_text(json.dumps({"video": str(video)}))
    return [path for _, path in new]


def test_forty_videos_have_the_same_names_in_six_ways(root: Path, tmp_path: Path) -> None:
    expected = {
        video: tmp_path / "out" / video.parent.name / f"{video.stem}.csv" for video in root.rglob("*.mp4")
    }
    assert len(set(expected.values())) == 40
    for way in WAYS.values():
        assert placed(way(root), tmp_path / "out") == expected


@pytest.mark.parametrize("first", WAYS)
def test_nothing_is_tracked_twice(first: str, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    some = WAYS["each folder"](root)[2:4]
    track(placed(some, out))
    track(placed(WAYS[first](root), out))
    names = sorted(out.rglob("*.csv"))
    assert len(names) == 40
    for way in WAYS.values():
        assert track(placed(way(root), out)) == []
    new = root / "P99" / "v0.mp4"
    new.parent.mkdir()
    new.touch()
    assert track(placed([str(root / "P*" / "v0.mp4")], out)) == [out / "P99" / "v0.csv"]
    for folder in (root / "P00", root / "P01"):
        for video in folder.iterdir():
            video.unlink()
        folder.rmdir()
    assert track(placed([str(root)], out)) == []
    assert sorted(out.rglob("*.csv")) == sorted([*names, out / "P99" / "v0.csv"])


def test_names_of_earlier_versions_are_kept(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    videos = sorted(root.rglob("v0.mp4"))
    numbers = ["", *(f"-{number}" for number in range(2, 9))]
    former = {video: out / f"v0.mp4{end}.csv" for video, end in zip(videos, numbers, strict=True)}
    track(former)
    (root / "A").mkdir()
    (root / "A" / "v0.mp4").touch()
    again = placed([str(root / "*" / "v0.mp4")], out)
    assert {video: again[video] for video in former} == former
    assert again[root / "A" / "v0.mp4"] == out / "A" / "v0.csv"


def test_results_of_other_formats_are_not_taken_for_these(root: Path, tmp_path: Path) -> None:
    out, video = tmp_path / "out", root / "P00" / "v0.mp4"
    out.mkdir()
    track({video: out / "v0.dlc.csv"})
    assert placed([str(video)], out) == {video: out / "v0.csv"}


def test_a_video_next_to_one_of_its_name_keeps_its_suffix(root: Path, tmp_path: Path) -> None:
    (root / "P00" / "v0.avi").touch()
    video = root / "P00" / "v0.mp4"
    assert placed([str(video)], tmp_path)[video] == tmp_path / "v0.mp4.csv"


def said_of(inputs: Any, output: Path) -> str:
    return skipped_files(inputs, output, {video for video, _ in find_videos(inputs)})


def test_files_that_are_left_out_are_named_by_their_ending(root: Path, tmp_path: Path) -> None:
    (root / "P02" / "v0.csv").touch()
    assert said_of(root, root / "P02") == ""
    for name in ("P00/a.txt", "P01/b.TXT", "P01/scan.jpg", "README", ".hidden"):
        (root / name).touch()
    said = said_of([str(root), str(root / "P00" / "v0.mp4")], root / "P02")
    assert said == "Skipped, because they are not videos: 2 of .txt, 1 of .jpg, 1 of no suffix."
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.png").touch()
    (series / "times.csv").touch()
    assert [video for video, _ in find_videos(series)] == [series]
    assert said_of(series, tmp_path / "out") == ""
