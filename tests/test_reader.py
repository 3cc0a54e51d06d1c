"""The readers that napari calls for videos and for files of landmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_face_landmarks.errors import VideoError
from napari_face_landmarks.io import FORMATS
from napari_face_landmarks.napari_plugin.readers_writers import napari_get_landmarks_reader, napari_get_reader
from napari_face_landmarks.video import Video, write_video
from test_formats import a_run, need


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "face one.mp4"
    frames = [np.full((48, 64, 3), 10 * number, np.uint8) for number in range(8)]
    write_video(path, frames, 25)
    return path


def test_a_video_becomes_one_lazy_image_layer(clip: Path) -> None:
    for path in (str(clip), clip, [str(clip)]):
        reader = napari_get_reader(path)
        assert reader is not None
        ((data, options, kind),) = reader(path)
        assert isinstance(data, Video)
        assert kind == "image"
        assert data.shape == (8, 48, 64, 3)
        assert options["name"] == "face one"
        assert options["rgb"] is True
        assert options["metadata"]["fps"] == pytest.approx(25)
        assert options["metadata"]["path"] == str(clip)
        np.testing.assert_allclose(options["metadata"]["timestamps"], np.arange(8) / 25)


def test_several_videos_become_a_layer_each(clip: Path, tmp_path: Path) -> None:
    other = tmp_path / "OTHER.MP4"
    other.write_bytes(clip.read_bytes())
    paths = [str(clip), str(other)]
    reader = napari_get_reader(paths)
    assert reader is not None
    assert [options["name"] for _, options, _ in reader(paths)] == ["face one", "OTHER"]


def test_what_is_no_video_is_left_to_others(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    for path in (
        "picture.png",
        "points.csv",
        str(tmp_path),
        str(tmp_path / "folder.mp4"),
        [],
        [str(clip), "points.csv"],
    ):
        assert napari_get_reader(path) is None


def test_a_bad_video_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "letter.mp4"
    path.write_text("Dear reader")
    reader = napari_get_reader(str(path))
    assert reader is not None
    with pytest.raises(VideoError, match=r"letter\.mp4 is not a video"):
        reader(str(path))


def test_a_viewer_reads_only_the_frames_it_shows(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    components = pytest.importorskip("napari.components")
    read: list[int] = []
    frame = Video._frame
    monkeypatch.setattr(Video, "_frame", lambda video, number: read.append(number) or frame(video, number))
    viewer = components.ViewerModel()
    reader = napari_get_reader(str(clip))
    assert reader is not None
    ((data, options, _),) = reader(str(clip))
    layer = viewer.add_image(data, **options)
    assert layer.data is data
    assert len(set(read)) <= 2
    read.clear()
    viewer.dims.set_current_step(0, 5)
    assert set(read) == {5}
    assert abs(int(layer._slice.image.view[20, 20, 0]) - 50) <= 3


def test_files_of_landmarks_become_points_layers(tmp_path: Path) -> None:
    tracks = a_run(2, first=5)
    for item in FORMATS:
        need(item)
        path = tmp_path / f"talk{item.suffixes[0]}"
        tracks.save(path)
        reader = napari_get_landmarks_reader(str(path))
        assert reader is not None
        ((data, options, kind),) = reader(str(path))
        assert kind == "points"
        assert options["name"] == "talk"
        assert options["metadata"]["path"] == str(path)
        found = tracks.present.sum()
        assert data.shape == (found * 68, 3)
        features = options["features"]
        assert list(features.columns) == ["landmark", "face", "confidence", "source"]
        second = (features["face"] == 1) & (features["landmark"] == 30) & (data[:, 0] == 7)
        np.testing.assert_allclose(data[second][0], [7, *tracks.landmarks[2, 1, 30, ::-1]], atol=1e-5)
        if item.name in ("openface", "movement"):
            sure = tracks.confidence[tracks.present].ravel()
            np.testing.assert_allclose(features["confidence"], sure, rtol=1e-6)
            assert options["metadata"]["fps"] == pytest.approx(29.97)
    several = [str(tmp_path / "talk.csv"), str(tmp_path / "talk.npz")]
    reader = napari_get_landmarks_reader(several)
    assert reader is not None
    assert len(reader(several)) == 2


def test_files_without_landmarks_are_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("index,axis-0,axis-1\n0,1,2\n")
    np.savez(tmp_path / "arrays.npz", x=np.zeros(3))
    a_run().save(tmp_path / "good.csv")
    for path in ("missing.csv", "points.csv", "arrays.npz"):
        assert napari_get_landmarks_reader(str(tmp_path / path)) is None
        assert napari_get_landmarks_reader([str(tmp_path / "good.csv"), str(tmp_path / path)]) is None
    assert napari_get_landmarks_reader([]) is None
