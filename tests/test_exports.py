"""Videos made from tracks: anonymised ones, and crops of faces; the focal length of head poses."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from napari_face_landmarks import FaceTracker, TrackerSettings, Tracks, cli, load_models
from napari_face_landmarks.clnf.pdm import fit_pdm, rotation_matrix, shape_3d
from napari_face_landmarks.data.tracks import empty_tracks
from napari_face_landmarks.detection import detect_faces
from napari_face_landmarks.detection.boxes import boxes_of
from napari_face_landmarks.errors import ResultError, SettingsError
from napari_face_landmarks.models import Models
from napari_face_landmarks.tracking.camera import focal_in_pixels, head_position, head_rotation, with_focal
from napari_face_landmarks.video import open_video, write_video
from napari_face_landmarks.visualization import cover_faces, write_anonymised, write_face_crops
from napari_face_landmarks.visualization.anonymise import boxes_to_cover
from napari_face_landmarks.visualization.face_crops import crop_transforms
from test_inputs import write
from test_tracking import moving

N_FRAMES = 8


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models()


@pytest.fixture(scope="module")
def pair() -> np.ndarray:
    """Return frames of two faces next to each other, (T, 320, 640, 3)."""
    frames = np.stack([cv2.resize(frame, (320, 320)) for frame in moving(N_FRAMES)[0]])
    return np.concatenate([frames, frames[::-1, :, ::-1]], axis=2)


def sharpness(rgb: np.ndarray, box: np.ndarray) -> float:
    x0, y0, x1, y1 = np.clip(box[:4], 0, 10_000).astype(int)
    return float(cv2.Laplacian(cv2.cvtColor(rgb[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def faces_in(models: Models, rgb: np.ndarray) -> np.ndarray:
    return detect_faces(models.detector, rgb, min_score=0.6).boxes


@pytest.mark.slow
@pytest.mark.parametrize("cover", ["blur", "box"])
def test_no_face_stays_sharp_tracked_or_not(
    cover: str, pair: np.ndarray, models: Models, tmp_path: Path
) -> None:
    video, out = tmp_path / "v.mkv", tmp_path / "a.mp4"
    write_video(video, pair, fps=25)
    words = ["track", str(video), "-o", str(tmp_path / "t.npz"), "--refine", "off", "--every", "3"]
    assert cli.main([*words, "--anonymise", str(out), "--anonymise-by", cover]) == 0
    assert Tracks.load(tmp_path / "t.npz").n_faces == 1  # the other one is detected only
    with open_video(out) as shown, open_video(video) as original:
        assert len(shown) == N_FRAMES
        np.testing.assert_allclose(shown.info.timestamps, original.info.timestamps, atol=1e-3)
        for before, after in zip(original, shown, strict=True):
            boxes = faces_in(models, before)  # and a mark on the dress that looks like a face
            assert (boxes[:2, 4] > 0.8).all()
            for box in boxes[:2]:
                assert sharpness(after, box) < 0.1 * sharpness(before, box)
            assert cover == "blur" or (faces_in(models, after)[:, 4] < 0.75).all()
            between = before[:, 318:322].astype(int) - after[:, 318:322]
            assert np.abs(between).mean() < 8


def test_faces_stay_covered_between_and_around_the_frames_on_which_they_are_found(
    pair: np.ndarray, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_face_landmarks.visualization import anonymise

    calls = iter(range(10**6))
    real = anonymise._detected

    def forgetful(*given: object) -> np.ndarray:
        found = real(*given)
        return found if next(calls) in (2, 5) else found[:0]

    monkeypatch.setattr(anonymise, "_detected", forgetful)
    tracks = empty_tracks(np.arange(N_FRAMES), 1, np.arange(N_FRAMES) / 25, meta={"fps": 25.0})
    assert write_anonymised(tmp_path / "a.mp4", pair, tracks, models) == []
    with open_video(tmp_path / "a.mp4") as shown:
        for before, after in zip(pair, shown, strict=True):
            for box in faces_in(models, before):
                assert sharpness(after, box) < 0.1 * sharpness(before, box)


def test_frames_without_a_covered_face_are_named(models: Models, tmp_path: Path) -> None:
    empty = np.zeros((4, 64, 64, 3), np.uint8)
    tracks = empty_tracks(np.arange(4), 1)
    assert write_anonymised(tmp_path / "a.mp4", empty, tracks, models) == [0, 1, 2, 3]
    with pytest.raises(ResultError, match="choose one of blur, box"):
        write_anonymised(tmp_path / "a.mp4", empty, tracks, models, "paint")  # type: ignore[arg-type]


def test_boxes_are_interpolated_and_held() -> None:
    one, two, far = [0.0, 0, 10, 10, 0.9], [8.0, 0, 18, 10, 0.3], [90.0, 90, 99, 99, 1]
    unsure, large = [200.0, 0, 220, 20, 0.5], [0.0, 0, 40, 40, 0.5]
    seen = [
        np.array(boxes).reshape(-1, 5)
        for boxes in ([], [one, unsure], [], [two, far, large], [unsure], [], [])
    ]
    covered = boxes_to_cover(seen, hold=1, gap=3)
    assert [len(boxes) for boxes in covered] == [1, 1, 2, 2, 2, 0, 0]
    np.testing.assert_allclose(covered[2], [[4, 0, 14, 10], far[:4]])
    np.testing.assert_allclose(covered[0], [[-4, -4, 14, 14]])  # grown by the motion
    assert [len(boxes) for boxes in boxes_to_cover(seen, hold=0, gap=1)] == [0, 1, 0, 1, 0, 0, 0]


def test_covers_reach_over_the_edge() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    covered = cover_faces(rgb, np.array([[-10, -10, 12, 12], [100, 100, 120, 120], [-50, 0, -40, 10]]), "box")
    assert (covered[:11, :11] == 64).all()
    np.testing.assert_array_equal(covered[20:], rgb[20:])
    for nothing in ([7.0, 7, 7, 20], [np.nan] * 4, [20.0, 20, 5, 5]):
        np.testing.assert_array_equal(cover_faces(rgb, np.array([nothing]), "blur"), rgb)


@pytest.mark.parametrize("part", ["face", "mouth", "eyes"])
def test_crops_are_aligned_whatever_the_roll_and_size(part: str) -> None:
    rng = np.random.default_rng(1)
    mean = rng.uniform(-1, 1, (68, 2))
    mean[[36, 39, 42, 45, 33]] = [[-0.5, 0], [-0.198, 0.011], [0.198, 0.011], [0.5, 0], [0, 0.485]]
    faces = []
    for roll, size, place in ((0.3, 60, (200, 150)), (-0.5, 110, (320, 240)), (0.0, 30, (90, 60))):
        turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        faces.append(size * mean @ turn.T + place)
    transforms, shape = crop_transforms(np.stack(faces), part, 128)
    assert shape == (128, 256 if part == "eyes" else 128)
    shown = [face @ matrix[:, :2].T + matrix[:, 2] for face, matrix in zip(faces, transforms, strict=True)]
    np.testing.assert_allclose(shown[1:], [shown[0]] * 2, atol=1e-6)
    np.testing.assert_allclose(shown[0][45, 1], shown[0][36, 1], atol=1e-6)
    lost = np.stack([faces[0], np.full((68, 2), np.nan)])
    assert np.isnan(crop_transforms(lost, part)[0][1]).all()


@pytest.mark.slow
def test_crops_of_every_face_are_videos(pair: np.ndarray, models: Models, tmp_path: Path) -> None:
    narrow = np.stack([cv2.resize(frame, (480, 320)) for frame in pair])
    video = write(tmp_path / "v.mkv", narrow, aspect=Fraction(4, 3))
    words = ["track", str(video), "-o", str(tmp_path / "t.npz"), "--refine", "off", "--max-faces", "2"]
    assert cli.main([*words, "--faces", str(tmp_path / "c.mp4")]) == 0
    for face in range(2):
        with open_video(tmp_path / f"c-face_{face}.mp4") as crops:
            assert crops.shape == (N_FRAMES, 256, 256, 3)
            assert crops.info.timestamps[-1] == pytest.approx((N_FRAMES - 1) / 25, abs=1e-3)
            seen = FaceTracker(models, TrackerSettings(refine="off"), threads=1).track(crops)
        eyes = seen.landmarks[:, 0][:, [36, 45]]
        np.testing.assert_allclose(eyes[..., 1], 93, atol=8)  # level, and of one size
        np.testing.assert_allclose(eyes[:, 1, 0] - eyes[:, 0, 0], 256 / 2.4, atol=9)
    tracks = Tracks.load(tmp_path / "t.npz")
    with pytest.raises(ResultError, match="from 16 to 2048"):
        write_face_crops(tmp_path / "c.mp4", video, tracks, size=4)


def test_frames_without_the_face_are_black(pair: np.ndarray, models: Models, tmp_path: Path) -> None:
    tracks = FaceTracker(models, TrackerSettings(refine="off"), threads=1).track(pair, fps=25)
    tracks.source[[0, 3], 0], tracks.landmarks[[0, 3], 0] = 0, np.nan
    paths = write_face_crops(tmp_path / "c.avi", pair, tracks, "mouth", 64)
    assert [path.name for path in paths] == ["c-face_0.avi"]
    with open_video(paths[0]) as crops:
        assert crops.shape == (N_FRAMES - 1, 64, 64, 3)
        assert [bool(frame.max() > 60) for frame in crops] == [True, True, False, True, True, True, True]


def test_a_head_at_the_edge_is_turned_by_the_line_of_sight(models: Models) -> None:
    pdm, size, focal = models.pdm, (720, 1280), 800.0
    shape = shape_3d(pdm, np.zeros(pdm.n_modes))
    for angles, place in (((0.0, 0.0, 0.0), (400, 0, 900)), ((0.1, -0.3, 0.05), (-350, 150, 1000))):
        head = rotation_matrix(np.array(angles)) @ shape + np.array(place)[:, None]
        points = focal * head[:2] / head[2] + np.array([[size[1] / 2], [size[0] / 2]])
        pose = fit_pdm(pdm, points.T.astype(np.float32), None)[None, :6]
        assert np.abs(pose[0, 1:4] - angles).max() > np.radians(12)  # relative to the line of sight
        assert np.degrees(np.abs(head_rotation(pose, size, focal)[0] - angles)).max() < 3
        assert np.linalg.norm(head_position(pose, size, focal)[0] - place) < 0.05 * np.linalg.norm(place)


def test_the_focal_length_is_recorded_and_used(
    pair: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert focal_in_pixels("24mm", (1080, 1920)) == pytest.approx(
        24 * np.hypot(1080, 1920) / 43.267, rel=1e-4
    )
    assert focal_in_pixels(1300, (1080, 1920)) == focal_in_pixels("1300 px", (1080, 1920)) == 1300
    for wrong in ("0", "-3", "3 miles", "1mm", "nan"):
        with pytest.raises(SettingsError, match="give pixels"):
            focal_in_pixels(wrong, (1080, 1920))
    assert focal_in_pixels("50px", (120, 160)) == 50
    for unclear in ("50", 50, 299.9, "85.0"):
        with pytest.raises(SettingsError, match=r"needs a unit: give .*px for pixels, or .*mm for"):
            focal_in_pixels(unclear, (120, 160))
    with pytest.raises(SettingsError, match="frame size is not known"):
        with_focal(empty_tracks([0], 1), 1000)
    video = tmp_path / "v.mkv"
    write_video(video, pair[:3], fps=25)
    tables = {}
    for focal in ("1000", "2000", "20mm"):
        out = tmp_path / f"{focal}.npz"
        assert cli.main(["track", str(video), "-o", str(out), "--refine", "off", "--focal", focal]) == 0
        assert Tracks.load(out).meta["focal"] == pytest.approx(
            float(focal) if focal.isdigit() else 20 * np.hypot(320, 640) / 43.267, rel=1e-4
        )
        tables[focal] = Tracks.load(out).to_dataframe()
    far, near = tables["2000"], tables["1000"]
    np.testing.assert_allclose(far.pose_Tz, 2 * near.pose_Tz, rtol=1e-5)
    np.testing.assert_allclose(far.pose_Tx, near.pose_Tx, rtol=1e-5)
    assert (np.abs(near.pose_Ry - near.p_ry) > np.abs(far.pose_Ry - far.p_ry)).all()
    assert cli.main(["track", str(video), "-o", str(tmp_path / "t.csv"), "--focal", "wide"]) == 2
    assert "give pixels, such as 1300" in capsys.readouterr().err
    assert boxes_of(Tracks.load(tmp_path / "1000.npz").landmarks[0]).shape == (1, 4)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--anonymise-by", "box"], "--anonymise-by is only used with --anonymise"),
        (["--faces-size", "64"], "--faces-size is only used with --faces"),
        (["--overlay", "c-face_0.mp4", "--faces", "c.mp4"], "may be overwritten by the crops of c.mp4"),
    ],
)
def test_options_that_do_nothing_or_overwrite_are_refused(
    words: list[str], reason: str, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["track", "v.mp4", "-o", "t.csv", *words]) == 2
    assert reason in capsys.readouterr().err
