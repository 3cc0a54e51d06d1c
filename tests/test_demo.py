"""The demo: a motion that is known exactly, and landmarks that follow it."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_face_landmarks import cli, load_models
from napari_face_landmarks.cli.demo import show
from napari_face_landmarks.demo import make_demo_clip, motion_distance, run_demo
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.video import open_video


def test_motion_is_as_described() -> None:
    frames, transforms = make_demo_clip(60, 160)
    assert frames.shape == (60, 160, 160, 3)
    assert frames.dtype == np.uint8
    np.testing.assert_allclose(transforms[0], [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    angle = np.degrees(np.arctan2(transforms[:, 1, 0], transforms[:, 0, 0]))
    zoom = np.sqrt(np.linalg.det(transforms[:, :, :2])) * np.sqrt(0.85 * 1.2)
    assert (angle.min(), angle.max()) == pytest.approx((-15, 15), abs=0.2)
    assert (zoom.min(), zoom.max()) == pytest.approx((0.85, 1.2), abs=0.01)
    brightness = frames.mean(axis=(1, 2, 3))
    assert brightness.max() > 1.2 * brightness.min()


def test_transforms_say_where_the_pixels_go() -> None:
    cv2 = pytest.importorskip("cv2")
    frames, transforms = make_demo_clip(31, 240)
    middle = np.s_[70:150, 80:160]
    for t in (7, 15, 22):
        carried = cv2.warpAffine(
            frames[t], transforms[t], (240, 240), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        )
        left, right = frames[0][middle].astype(float).ravel(), carried[middle].astype(float).ravel()
        assert np.corrcoef(left, right)[0, 1] > 0.98
        shifted = np.roll(carried, 3, axis=1)[middle].astype(float).ravel()
        assert np.corrcoef(left, shifted)[0, 1] < np.corrcoef(left, right)[0, 1] - 0.01


def test_distance_to_the_motion() -> None:
    _, transforms = make_demo_clip(10, 100)
    random = np.random.default_rng(0)
    face = random.uniform(20, 80, (68, 2))
    face[36], face[45] = (30, 50), (70, 50)
    points = face @ transforms[:, :, :2].transpose(0, 2, 1) + transforms[:, None, :, 2]
    np.testing.assert_allclose(motion_distance(points, transforms), 0, atol=1e-12)
    zoom = np.sqrt(np.linalg.det(transforms[:, :, :2]))
    points[1:, :, 0] += 4
    np.testing.assert_allclose(motion_distance(points, transforms)[1:], 0.1 / zoom[1:])
    points[5] = np.nan
    assert np.isnan(motion_distance(points, transforms)[5])


@pytest.mark.slow
def test_demo_command_follows_the_known_motion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_face_landmarks.demo.N_FRAMES", 60)  # `.ci/run` makes all 150, three times
    assert cli.main(["demo", "--output", str(tmp_path / "demo")]) == 0
    said = capsys.readouterr()
    distance = float(said.out.split("known motion: ")[1].split(" %")[0])
    assert distance < 1.5
    assert "60 frames, 60 with a face" in said.err
    with open(tmp_path / "demo" / "landmarks.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["frame"] for row in rows] == [str(n) for n in range(1, 61)]
    assert {row["success"] for row in rows} == {"1"}
    with open_video(tmp_path / "demo" / "overlay.mp4") as overlay:
        assert overlay.shape == (60, 480, 480, 3)
    assert (tmp_path / "demo" / "contact-sheet.png").read_bytes().startswith(b"\x89PNG")


def test_demo_needs_no_download() -> None:
    program = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise OSError('no network')\n"
        "socket.socket.connect = refuse\n"
        "sys.modules['pooch'] = None\n"
        "from napari_face_landmarks.demo import make_demo_clip\n"
        "assert make_demo_clip(2, 64)[0].any()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_demo_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResultError, match="cannot be created"):
        run_demo(tmp_path / "file" / "demo", load_models(), n_frames=2, size=64)


def test_open_without_a_window_toolkit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("napari_face_landmarks.demo.N_FRAMES", 8)
    monkeypatch.setattr("napari_face_landmarks.demo.SIZE", 240)
    monkeypatch.setitem(sys.modules, "qtpy", None)
    assert cli.main(["demo", "--open", "--output", str(tmp_path)]) == 2
    assert 'pip install "napari-face-landmarks[gui]"' in capsys.readouterr().err
    assert (tmp_path / "landmarks.csv").exists()


@pytest.mark.slow
def test_open_shows_clip_and_landmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("qtpy.QtWidgets")
    import napari
    import npe2
    from napari.components import ViewerModel

    npe2.PluginManager.instance().discover()  # what a real viewer does when it opens

    shown: list[ViewerModel] = []

    def viewer() -> ViewerModel:
        shown.append(ViewerModel())
        return shown[-1]

    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")  # no window is opened here
    monkeypatch.setattr(napari, "Viewer", viewer)
    monkeypatch.setattr(napari, "run", lambda: None)
    result = run_demo(tmp_path, load_models(), n_frames=8, size=240)
    show(result)
    clip, points = shown[0].layers
    assert clip.data.shape == (8, 240, 240, 3)
    assert len(points.data) == 8 * 68
    np.testing.assert_allclose(points.data[:68, :0:-1], result.tracks.landmarks[0, 0], atol=1e-3)
