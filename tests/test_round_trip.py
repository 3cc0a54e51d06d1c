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
from napari_face_landmarks.napari_plugin.export_dialog import OVERLAY, snapshot, write_export
from napari_face_landmarks.napari_plugin.points_layer import tracks_to_layer_data
from napari_face_landmarks.napari_plugin.reader import read_videos
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
