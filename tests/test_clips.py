"""The tracker on the real clips beside the checkout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_face_landmarks import FaceTracker, TrackerSettings, load_models
from napari_face_landmarks.ibug import inter_ocular, nme
from napari_face_landmarks.training.faces import load_faces
from napari_face_landmarks.video import open_video

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="module")
def tracker() -> FaceTracker:
    return FaceTracker(load_models())


@pytest.mark.parametrize("name", ["bbaf2n.mpg", "lgbm3s.mpg", "pwix2p.mpg", "srabzn.mpg"])
def test_a_speaking_face_is_found_on_every_frame(tracker: FaceTracker, shared_data: Path, name: str) -> None:
    tracks = tracker.track(shared_data / "video" / name)
    assert tracks.n_frames == 75
    assert tracks.present.all()
    eyes = inter_ocular(tracks.landmarks[:, 0])
    assert eyes.std() < 0.05 * eyes.mean()
    assert (np.diff(tracks.timestamps) > 0).all()


@pytest.mark.slow
def test_expressions_turns_and_hands_do_not_lose_the_face(tracker: FaceTracker, shared_data: Path) -> None:
    tracks = tracker.track(shared_data / "video" / "cap12_edit.mp4")
    assert tracks.n_frames == 1337
    assert tracks.present.mean() >= 0.99


def test_no_face_is_found_where_there_is_none(tracker: FaceTracker, shared_data: Path) -> None:
    assert not tracker.track(shared_data / "video" / "no_face.mp4").present.any()


@pytest.mark.slow
def test_the_face_is_lost_when_it_leaves_and_found_when_it_comes_back(
    tracker: FaceTracker, shared_data: Path
) -> None:
    with open_video(shared_data / "video" / "face_noface.mov") as video:
        once = tracker.track(video).present[:, 0]
        again = np.concatenate([video[40:100:3], video[0:10]])
    left = int(np.flatnonzero(once)[-1]) + 1
    assert once[:left].all()
    assert 60 < left < 90  # the clip cuts to another scene, and the face does not come back
    present = tracker.track(again).present[:, 0]
    assert present[:8].all()
    assert not present[12:20].any()
    assert present[-10:].all()


@pytest.mark.slow
@pytest.mark.parametrize(("bundle", "limit"), [("open", 0.052), ("research", 0.040)])
def test_clnf_lowers_the_error_on_held_out_faces(shared_data: Path, bundle: str, limit: float) -> None:
    faces = load_faces(shared_data, bundle="research", held_out=True)
    error = {}
    for mode in ("off", "always"):
        tracker = FaceTracker(load_models(bundle), TrackerSettings(refine=mode))
        found = []
        for image, truth in list(zip(faces.images, faces.landmarks, strict=True))[::4]:
            fit = tracker.fit(image)
            if len(fit.landmarks):
                found.append(float(nme(fit.landmarks[0], truth)))
        assert len(found) >= 0.97 * len(faces.images[::4])
        error[mode] = float(np.median(found))
    assert error["off"] < limit
    assert error["always"] < error["off"]
