"""Scene cuts: whose track goes on, whose begins, and what is not smoothed across."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from napari_face_landmarks import FaceTracker, TrackerSettings, Tracks, cli, load_models
from napari_face_landmarks.data.tracks import empty_tracks
from napari_face_landmarks.models import Models
from napari_face_landmarks.runs import checkpoint
from napari_face_landmarks.tracking.cuts import split_at_cuts
from napari_face_landmarks.tracking.state import state_from_bytes, state_to_bytes
from napari_face_landmarks.video import write_video
from test_tracking import moving

N = 6


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models()


@pytest.fixture(scope="module")
def one() -> np.ndarray:
    return moving(N)[0]


@pytest.fixture(scope="module")
def other(one: np.ndarray) -> np.ndarray:
    """Return the mirrored portrait in other light, which is another person to anyone: hair, collar, badge."""
    return (one[:, :, ::-1] * np.linspace(1, 0.4, 240)[:, None, None]).astype(np.uint8)


def tracker_of(models: Models, **settings: object) -> FaceTracker:
    return FaceTracker(models, {"refine": "off", **settings}, threads=1)


@pytest.mark.parametrize("settings", [{}, {"refine": "always"}, {"refine": "clnf-only"}, {"max_faces": 2}])
def test_a_cut_to_another_person_starts_a_track(
    settings: dict[str, object], one: np.ndarray, other: np.ndarray, models: Models
) -> None:
    tracker = tracker_of(models, **settings)
    tracks = tracker.track(np.concatenate([one, other]), fps=25)
    assert tracks.meta["cuts"] == [N]
    said = (
        f"After scene cuts a face is another person (face 1 from frame {N} on): each is a separate face, "
        "and a person who returns may get a new one.",
    )
    assert tracks.warnings == (() if settings.get("max_faces") else said)
    faces = np.flatnonzero(tracks.present.any(axis=0))
    assert len(faces) == 2
    first, second = tracks.landmarks[:N, faces[0]], tracks.landmarks[N:, faces[1]]
    assert tracks.present[:, faces].sum(axis=0).tolist() == [N, N]
    # nothing is mixed across the cut
    np.testing.assert_allclose(first, tracker.track(one, fps=25).landmarks[:, 0], atol=1e-3)
    if settings.get("refine") != "clnf-only":
        np.testing.assert_allclose(second, tracker.track(other, fps=25).landmarks[:, 0], atol=0.1)


@pytest.mark.parametrize("kind", ["flash", "black", "light", "place", "there and back"])
def test_a_person_who_is_recognised_keeps_the_track(
    kind: str, one: np.ndarray, other: np.ndarray, models: Models
) -> None:
    later = {
        "light": (0.5 * one).astype(np.uint8),
        "place": np.roll(one, (40, -50), axis=(1, 2)),
    }.get(kind, one)
    between = {
        "flash": np.full((1, 240, 240, 3), 250, np.uint8),
        "black": np.zeros((3, 240, 240, 3), np.uint8),
        "there and back": other,
    }.get(kind, one[:0])
    tracks = tracker_of(models, max_faces=2 if kind == "there and back" else 1).track(
        np.concatenate([one, between, later]), fps=25
    )
    assert tracks.present[:N, 0].all()
    assert tracks.present[-N:, 0].all()
    assert tracks.n_faces == (2 if kind == "there and back" else 1)
    assert not tracks.warnings


@pytest.mark.parametrize(
    "where", [np.s_[:, 120:, 120:], np.s_[:, 120:, :120], np.s_[:, :, 135:], np.s_[:, 128:]]
)
@pytest.mark.parametrize("refine", ["off", "clnf-only"])
def test_what_comes_before_a_face_within_a_frame_is_no_cut(
    where: tuple[slice, ...], refine: str, models: Models
) -> None:
    """A hand or a sheet of paper that covers a quarter of the picture or more for a while."""
    frames = moving(3 * N)[0]
    frames[N : 2 * N][where] = (150, 110, 90)
    tracks = tracker_of(models, refine=refine).track(frames, fps=25)
    assert "cuts" not in tracks.meta
    assert tracks.n_faces == 1
    assert tracks.present[:, 0].all()


@pytest.mark.slow
def test_a_run_resumes_across_a_cut(one: np.ndarray, other: np.ndarray, models: Models) -> None:
    video = np.concatenate([one, other, one])
    tracker = tracker_of(models)
    whole = tracker.track(video, fps=25)
    assert whole.meta["cuts"] == [N, 2 * N]
    assert whole.n_faces == 3
    run = tracker.track_frames(video, fps=25)
    assert "(face 0 from frame 6 on, face 0 from frame 12 on)" in run.tracks(list(run)).warnings[0]
    for stop in (N - 3, N - 1, N, N + 2, 2 * N + 1):
        run = tracker.track_frames(video, fps=25)
        results = [next(run) for _ in range(stop)]
        state = state_from_bytes(state_to_bytes(run.state()))
        run.close()
        again = tracker.track_frames(video, state=state, fps=25)
        tracks = split_at_cuts(again.tracks([*results, *again]))
        assert tracks.meta["cuts"] == whole.meta["cuts"]
        np.testing.assert_array_equal(tracks.landmarks, whole.landmarks)


@pytest.mark.slow
def test_the_command_line_gives_people_their_own_tracks(
    one: np.ndarray,
    other: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(checkpoint, "SYNC_SECONDS", 0.0)
    video = tmp_path / "in" / "v.mkv"
    video.parent.mkdir()
    write_video(video, np.concatenate([one, other]), fps=25)
    words = ["track", str(video), "-o", str(tmp_path / "t.csv"), "--refine", "off"]
    assert cli.main(words) == 0
    batch = ["batch", str(video.parent), "-o", str(tmp_path / "out"), "--refine", "off", "--jobs", "1"]
    assert cli.main(batch) == 0
    measured = ["measure", str(video), "--summary", str(tmp_path / "s.csv"), "--refine", "off"]
    assert cli.main(measured) == 0
    shown = capsys.readouterr()
    sentence = f"After scene cuts a face is another person (face 1 from frame {N} on): each is a"
    assert shown.err.count(f"Warning: {sentence}") == shown.out.count(sentence) == 1
    assert shown.err.count(f"{video.name}: {sentence}") == 1
    for path in (tmp_path / "t.csv", tmp_path / "out" / "v.csv"):
        present = Tracks.load(path).present
        assert present[:, 0].tolist() == [True] * N + [False] * N
        assert present[:, 1].tolist() == [False] * N + [True] * N
    assert cli.main([*words[:3], str(tmp_path / "e.npz"), *words[4:], "--from", "2", "--every", "2"]) == 0
    assert Tracks.load(tmp_path / "e.npz").meta["cuts"] == [N]


def test_a_video_can_be_taken_for_one_scene(one: np.ndarray, other: np.ndarray, models: Models) -> None:
    tracks = tracker_of(models, scene_cuts=0).track(np.concatenate([one, other]), fps=25)
    assert tracks.n_faces == 1
    assert tracks.present.all()
    assert "cuts" not in tracks.meta


def test_many_tracks_are_left_together_with_a_warning() -> None:
    tracks = empty_tracks(np.arange(100), 1, meta={"new_tracks": [[10, 0], [20, 0]]})
    tracks.source[:, 0] = 1
    apart = split_at_cuts(tracks)
    assert [np.flatnonzero(face).tolist() for face in apart.present.T] == [
        [*range(10)],
        [*range(10, 20)],
        [*range(20, 100)],
    ]
    assert "new_tracks" not in apart.meta
    many = replace(tracks, meta={"new_tracks": [[frame, 0] for frame in range(1, 80)]})
    assert split_at_cuts(many).n_faces == 1
    said = split_at_cuts(many).warnings
    assert said[0].startswith(
        "After scene cuts a face is another person (face 0 from frame 1 on, face 0 from"
    )
    assert "and 74 more" in said[0]


def test_pictures_and_frames_far_apart_have_no_scenes(
    one: np.ndarray, other: np.ndarray, models: Models, tmp_path: Path
) -> None:
    tracker = tracker_of(models)
    for number, frame in enumerate([one[0], other[0], one[1]]):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), frame[:, :, ::-1])
    video = np.concatenate([one, other])
    for tracks in (
        tracker.track(tmp_path),
        tracker.track(video, fps=25, every=7),
        tracker.track(video, fps=3),
    ):
        assert "cuts" not in tracks.meta
        assert tracks.n_faces == 1
        assert tracks.present.all()


def test_steady_video_has_no_cut(one: np.ndarray, models: Models) -> None:
    assert "cuts" not in tracker_of(models).track(one, fps=25).meta
    assert TrackerSettings().max_faces == 1
