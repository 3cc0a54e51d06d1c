"""Out of napari and in again, in every format and as an overlay: places, faces, confidence and times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from napari.layers import Layer

from napari_face_landmarks.io import FORMATS, Format
from napari_face_landmarks.napari_plugin.export_dialog import (
    OVERLAY,
    PICTURE,
    SHEET,
    ExportProgress,
    snapshot,
    write_export,
)
from napari_face_landmarks.napari_plugin.overlay_layers import recolour
from napari_face_landmarks.napari_plugin.points_layer import tracks_to_layer_data
from napari_face_landmarks.napari_plugin.readers_writers import read_videos
from napari_face_landmarks.opencv import cv2
from test_formats import KEEPS_RATE, KEPT, a_run, need

PLUGIN = "napari-face-landmarks"
KEYS = ["frame", "face", "landmark"]


@pytest.fixture
def viewer() -> ViewerModel:
    from npe2 import PluginManager

    PluginManager.instance().discover()
    return ViewerModel()


def table(points: Any) -> pd.DataFrame:
    """Return a layer's points, one a row, in the order of frame, face and landmark."""
    rows = pd.DataFrame(np.asarray(points.data), columns=["frame", "y", "x"])
    rows = pd.concat([rows, points.features.reset_index(drop=True)], axis=1)
    rows["source"] = rows["source"].astype(str)
    return rows.sort_values(KEYS).reset_index(drop=True)


@pytest.mark.parametrize("item", FORMATS, ids=lambda item: item.name)
def test_a_layer_comes_back_from_every_format(viewer: ViewerModel, tmp_path: Path, item: Format) -> None:
    need(item)
    points = viewer.add_layer(Layer.create(*tracks_to_layer_data(a_run(3, first=4))[0]))
    path = str(tmp_path / f"talk{item.suffixes[0]}")
    assert points.save(path, plugin=PLUGIN) == [path]
    (opened,) = viewer.open(path, plugin=PLUGIN)
    before, after = table(points), table(opened)
    pd.testing.assert_frame_equal(after[KEYS], before[KEYS], check_dtype=False)
    precision = {"atol": 1e-5} if item.name == "pts" else {"atol": 0}  # .pts has six decimals
    np.testing.assert_allclose(after[["y", "x"]], before[["y", "x"]], rtol=0, **precision)
    if "confidence" in KEPT[item.name]:
        np.testing.assert_array_equal(after["confidence"], before["confidence"])
    if "source" in KEPT[item.name]:
        assert after["source"].tolist() == before["source"].tolist()
    if item.name in KEEPS_RATE:
        assert opened.metadata["fps"] == pytest.approx(29.97)
    again = str(tmp_path / f"again{item.suffixes[0]}")
    assert opened.save(again, plugin=PLUGIN) == [again]
    (twice,) = viewer.open(again, plugin=PLUGIN)
    pd.testing.assert_frame_equal(table(twice)[KEYS], after[KEYS])
    np.testing.assert_allclose(table(twice)[["y", "x"]], after[["y", "x"]], rtol=0, **precision)


def test_an_overlay_shows_faces_and_confidence_at_the_times_of_the_video(
    viewer: ViewerModel, tmp_path: Path
) -> None:
    tracks = a_run(2)
    tracks.source[:] = 1
    tracks.by_hand[:] = False
    tracks.confidence[:, 0], tracks.confidence[:, 1] = 1.0, 0.05  # yellow and dark blue
    grid = np.stack(np.meshgrid(np.arange(17), np.arange(4)), axis=-1).reshape(-1, 2).astype(np.float32)
    tracks.landmarks[:, 0], tracks.landmarks[:, 1] = (20, 60) + 14 * grid, (20, 140) + 14 * grid
    tracks.meta.update(height=220, width=280)
    video = viewer.add_image(np.full((6, 220, 280, 3), 128, np.uint8), rgb=True)
    points = viewer.add_layer(Layer.create(*tracks_to_layer_data(tracks, video)[0]))
    path = tmp_path / "overlay.mp4"
    done, sentence = write_export(snapshot(points, path, OVERLAY, video))
    assert done, sentence
    ((frames, attributes, kind),) = read_videos(path)
    assert kind == "image"
    assert frames.shape == (6, 220, 280, 3)
    times = attributes["metadata"]["timestamps"]
    np.testing.assert_allclose(np.diff(times), np.diff(tracks.timestamps), atol=1e-3)
    assert attributes["metadata"]["fps"] == pytest.approx(29.97, rel=1e-3)
    for frame in (0, 5):
        picture = np.asarray(frames[frame]).astype(int)
        colours = [
            np.median([picture[int(y), int(x)] for x, y in tracks.landmarks[frame, face]], axis=0)
            for face in range(2)
        ]
        assert colours[0][0] > 180 > 100 > colours[0][2], "a sure face is yellow"
        assert colours[1][0] < 110 > colours[1][1], "an unsure one is dark"
        assert np.abs(picture[200:, 60:] - 128).max() < 40, "the rest is as it was"
    frames.close()


def test_pictures_of_the_frame_and_of_the_video_in_the_colours_of_the_view(
    viewer: ViewerModel, tmp_path: Path
) -> None:
    tracks = a_run(1)
    grid = np.stack(np.meshgrid(np.arange(17), np.arange(4)), axis=-1).reshape(-1, 2).astype(np.float32)
    tracks.landmarks[:, 0] = (20, 60) + 14 * grid
    tracks.meta.update(height=220, width=280)
    video = viewer.add_image(np.full((6, 220, 280, 3), 128, np.uint8), rgb=True)
    points = viewer.add_layer(Layer.create(*tracks_to_layer_data(tracks, video)[0]))
    recolour(points, "region")
    path = tmp_path / "frame 3.png"
    done, sentence = write_export(snapshot(points, path, PICTURE, video, outlines=False, frame=3))
    assert (done, sentence) == (True, "Exported to frame 3.png: picture of this frame.")
    picture = cv2.imread(str(path))[..., ::-1]
    assert picture.shape == (220, 280, 3), "as large as the frame"
    jaw = [picture[int(y), int(x)] for x, y in tracks.landmarks[3, 0, :17]]
    expected = 255 * points.face_color[68 * 3, :3]
    np.testing.assert_allclose(np.median(jaw, axis=0), expected, atol=8)
    done, sentence = write_export(snapshot(points, path, PICTURE, video, frame=60))
    assert (done, sentence) == (False, "Frame 60 was not tracked: go to a frame with landmarks first.")
    progress = ExportProgress()
    done, sentence = write_export(snapshot(points, tmp_path / "all.png", SHEET, video), progress)
    assert (done, progress.done, progress.total) == (True, 6, 6), sentence
    assert cv2.imread(str(tmp_path / "all.png")).shape[1] == 4 * 360 + 5 * 4
    cancelled = ExportProgress(cancelled=True)
    assert not write_export(snapshot(points, tmp_path / "no.png", SHEET, video), cancelled)[0]
    assert not (tmp_path / "no.png").exists()
