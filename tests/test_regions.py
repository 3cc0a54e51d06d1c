"""Boxes that a user draws: a face is found where the detector sees none, and ignored where it is told to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_face_landmarks import FaceTracker, TrackerSettings, load_models
from napari_face_landmarks.demo import make_demo_clip
from napari_face_landmarks.detection import detect_faces
from napari_face_landmarks.errors import ImageError
from napari_face_landmarks.models import Models
from napari_face_landmarks.tracking import looking
from napari_face_landmarks.tracking.regions import Region, Regions

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

    monkeypatch.setattr(looking, "detect_faces", nothing)


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
