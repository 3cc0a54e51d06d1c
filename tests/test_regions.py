"""Boxes that a user draws: a face is found where the detector sees none, and ignored where it is told to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_face_landmarks import FaceTracker, TrackerSettings, Tracks, cli, load_models
from napari_face_landmarks.demo import make_demo_clip
from napari_face_landmarks.detection import detect_faces
from napari_face_landmarks.errors import ImageError, SettingsError
from napari_face_landmarks.models import Models
from napari_face_landmarks.runs import CheckpointedRun, checkpoint, journal_of
from napari_face_landmarks.tracking import face_finder
from napari_face_landmarks.tracking.regions import Region, Regions, read_regions, regions_from_dict
from napari_face_landmarks.video import open_video, write_video

N_FRAMES = 8


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models("open")


@pytest.fixture(scope="module")
def clip() -> Any:
    return make_demo_clip(60, 320)[0][:N_FRAMES]


@pytest.fixture(scope="module")
def box(models: Models, clip: Any) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = FaceTracker(models, threads=1).detect(clip[0])[0, :4].tolist()
    return x0, y0, x1, y1


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the detector find nothing."""

    def nothing(detector: Any, rgb: Any, **how: Any) -> Any:
        return detect_faces(detector, np.zeros_like(rgb), **how)

    monkeypatch.setattr(face_finder, "detect_faces", nothing)


def test_a_box_finds_what_the_detector_does_not(
    models: Models, clip: Any, box: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = FaceTracker(models, TrackerSettings(max_faces=2), threads=1)
    seen = tracker.track(clip)
    assert seen.present[:, 0].all()
    blind(monkeypatch)
    assert not tracker.track(clip).present.any()
    told = tracker.track(clip, regions=Regions(look=(Region(box, 3, 3),)))  # type: ignore[arg-type]
    assert told.present[:, 0].tolist() == [False] * 3 + [True] * (N_FRAMES - 3)
    across = np.linalg.norm(seen.landmarks[5, 0, 36] - seen.landmarks[5, 0, 45])
    assert np.abs(told.landmarks[5, 0] - seen.landmarks[5, 0]).mean() < 0.05 * across
    nowhere = Regions(look=(Region((0, 250, 60, 310)),))
    assert not tracker.track(clip, regions=nowhere).present.any()


def test_faces_in_an_ignored_box_are_passed_over(models: Models, clip: Any, box: tuple[float, ...]) -> None:
    tracker = FaceTracker(models, threads=1)
    everywhere = Regions(ignore=(Region((0, 0, 320, 320)),))
    assert not tracker.track(clip, regions=everywhere).present.any()
    some = Regions(ignore=(Region((0, 0, 320, 320), 2, 4), Region((0, 0, 5, 5))))
    there = tracker.track(clip, regions=some).present[:, 0]
    assert there.tolist() == [True, True, False, False, False, True, True, True]


def test_what_is_no_box_is_refused(models: Models, clip: Any) -> None:
    for bad in ((0, 0, 0, 9), (0, 0, float("nan"), 9), (1, 2, 3)):
        with pytest.raises(ImageError, match="give x0, y0, x1, y1"):
            Region(bad)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="in order"):
        Region((0, 0, 9, 9), 5, 4)
    alone = FaceTracker(models, TrackerSettings(refine="clnf-only"), threads=1)
    with pytest.raises(ImageError, match="need PFLD"):
        alone.track(clip, regions=Regions(ignore=(Region((0, 0, 9, 9)),)))


TOLD = {
    "look": [{"box": [10, 20.5, 90, 99], "first": 0, "last": 3}, {"box": [0, 0, 5, 5]}],
    "ignore": [{"box": [100, 0, 200, 50], "last": 7}],
}


def test_boxes_are_read_from_plain_values_and_files(tmp_path: Path) -> None:
    regions = regions_from_dict(TOLD)
    assert regions == Regions(
        (Region((10, 20.5, 90, 99), 0, 3), Region((0, 0, 5, 5))), (Region((100, 0, 200, 50), None, 7),)
    )
    assert regions_from_dict(regions.to_dict()) == regions
    (tmp_path / "boxes.json").write_text(json.dumps(TOLD))
    assert read_regions(tmp_path / "boxes.json") == regions
    assert not regions_from_dict({})
    assert regions


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "remove other keys"),
        ({"look": [], "faces": []}, "remove other keys"),
        ({"look": {"box": [0, 0, 9, 9]}}, "in brackets"),
        ({"look": [[0, 0, 9, 9]]}, "A box is given as"),
        ({"look": [{"box": "abcd"}]}, "A box is given as"),
        ({"look": [{"box": [0, 0, 9, 9], "name": 1}]}, "A box is given as"),
        ({"look": [{"box": [0, 0, 9, "9"]}]}, "invalid value"),
        ({"look": [{"box": [0, 0, 9, True]}]}, "invalid value"),
        ({"look": [{"box": [0, 0, 9, 10**400]}]}, "invalid value"),
        ({"look": [{"box": [0, 0, 9, float("nan")]}]}, "invalid value"),
        ({"ignore": [{"box": [0, 0, 9, 9], "first": 1.5}]}, "invalid value"),
        ({"ignore": [{"box": [0, 0, 9, 9], "last": -1}]}, "invalid value"),
        ({"ignore": [{"box": [0, 0, 9]}]}, "give x0, y0, x1, y1"),
        ({"ignore": [{"box": [9, 0, 0, 9]}]}, "give x0, y0, x1, y1"),
        ({"ignore": [{"box": [0, 0, 9, 9], "first": 3, "last": 2}]}, "in order"),
        ({"ignore": [{"box": [0, 0, 9, 9]}] * 1001}, "more than 1000"),
    ],
)
def test_values_that_tell_no_boxes_are_refused(tmp_path: Path, values: Any, words: str) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(values))
    for refused in (lambda: regions_from_dict(values), lambda: read_regions(path)):
        with pytest.raises(SettingsError, match=words) as caught:
            refused()
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith(".")


def test_boxes_from_the_command_line_are_part_of_the_run(
    tmp_path: Path,
    models: Models,
    clip: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(checkpoint, "SYNC_SECONDS", 0.0)
    video, boxes, out = tmp_path / "v.mkv", tmp_path / "boxes.json", tmp_path / "t.npz"
    write_video(video, clip, fps=25)
    ignored = {"ignore": [{"box": [0, 0, 320, 320], "first": 2, "last": 4}]}
    boxes.write_text(json.dumps(ignored))
    words = ["track", str(video), "-o", str(out), "--regions", str(boxes)]
    assert cli.main(words) == 0
    whole = Tracks.load(out)
    assert whole.present[:, 0].tolist() == [True, True, False, False, False, True, True, True]
    assert regions_from_dict(whole.meta["regions"]) == regions_from_dict(ignored)

    with open_video(video) as opened:  # interrupted, gone on with, and with other boxes
        tracker = FaceTracker(models, threads=1)
        recording = CheckpointedRun.begin(
            tracker, opened, journal_of(out), regions=regions_from_dict(ignored)
        )
        results = recording.run
        for _ in range(3):
            next(results)
        results.close()
        recording.close()
    capsys.readouterr()
    for other in ([], ["--regions", str(tmp_path / "other.json")]):
        (tmp_path / "other.json").write_text(json.dumps({"look": [{"box": [0, 0, 9, 9]}]}))
        assert cli.main([*words[:4], *other, "--resume"]) == 2
        assert "to a run with other boxes" in capsys.readouterr().err
    assert cli.main([*words, "--resume"]) == 0
    assert "3 of 8 frames were done before" in capsys.readouterr().err
    again = Tracks.load(out)
    for name in ("landmarks", "confidence", "source", "pose", "boxes"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))

    assert cli.main([*words[:3], str(boxes) + ".npz", "--regions", str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert cli.main([*words[:4], "--regions", str(boxes), "--stats", str(boxes)]) == 2
    assert "is the file of regions" in capsys.readouterr().err
    assert json.loads(boxes.read_text()) == ignored
