"""Landmarks as Points layers and image layers as frames, without a window."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Points

from fake_tracker import FakeTracker
from napari_face_landmarks import tracking
from napari_face_landmarks.data.fields import MANUAL
from napari_face_landmarks.errors import ImageError, ResultError
from napari_face_landmarks.ibug import inter_ocular
from napari_face_landmarks.io import FORMATS
from napari_face_landmarks.napari_plugin import readers_writers as writer
from napari_face_landmarks.napari_plugin.layers import count_frames, frames_of_layer
from napari_face_landmarks.napari_plugin.points_layer import (
    track_layer,
    tracks_of_layer,
    tracks_to_layer_data,
)
from napari_face_landmarks.napari_plugin.run_controller import LiveLandmarks
from napari_face_landmarks.settings import TrackerSettings
from test_formats import a_run, need


@pytest.fixture(autouse=True)
def fake_tracker(monkeypatch: pytest.MonkeyPatch) -> type[FakeTracker]:
    tracker = type("ThisFakeTracker", (FakeTracker,), {})
    monkeypatch.setattr(tracking, "FaceTracker", tracker)
    return tracker


def faces(tracker: type[FakeTracker], at: Callable[[int], int]) -> None:
    """Have the tracker see so many faces on each frame."""
    tracker.faces_at = staticmethod(at)


def clip(n_frames: int = 6, *channels: int) -> np.ndarray[Any, Any]:
    return np.zeros((n_frames, 60, 80, *channels), np.uint8)


def image_like(data: Any, name: str = "face") -> Any:
    """Return what is used of an image layer, for data that napari does not take."""
    return SimpleNamespace(data=data, name=name, rgb=False, multiscale=False, ndim=data.ndim, metadata={})


def points_of(layer: Any, settings: TrackerSettings | None = None) -> Points:
    (data,) = track_layer(layer, settings, models=object())
    points = Layer.create(*data)
    assert isinstance(points, Points)
    return points


def test_points_carry_frame_y_x_and_what_is_known_of_them() -> None:
    layer = Image(clip(6, 3), rgb=True, name="face")
    settings = TrackerSettings(max_faces=2, smoothing_window=1)
    points = points_of(layer, settings)
    expected = FakeTracker(settings=settings).track(clip(6, 3)).landmarks[:, 0]
    grid = points.data.reshape(6, 68, 3)
    np.testing.assert_array_equal(grid[:, :, 0], np.broadcast_to(np.arange(6)[:, None], (6, 68)))
    np.testing.assert_array_equal(grid[:, :, 1], expected[:, :, 1])
    np.testing.assert_array_equal(grid[:, :, 2], expected[:, :, 0])
    assert points.data.dtype == np.float32
    assert points.data.flags.f_contiguous
    assert points.name == "face landmarks"
    features = points.features
    assert list(features.columns) == ["landmark", "face", "confidence", "source"]
    np.testing.assert_array_equal(features["landmark"], np.tile(np.arange(68), 6))
    assert (features["face"] == 0).all()
    assert (features["source"] == "pfld").all()
    np.testing.assert_allclose(features["confidence"][:68], np.linspace(0.2, 1, 68), rtol=1e-6)
    assert points.metadata["settings"] == settings.to_dict()
    assert points.metadata["tracks"].n_frames == 6


def test_colour_tells_confidence_and_size_follows_the_face() -> None:
    small, large = points_of(Image(clip())), points_of(Image(np.zeros((6, 600, 800), np.uint8)))
    sure = small.face_color[:68]
    assert (np.diff(sure[:, :3].sum(axis=1)) >= -0.02).all()  # ever lighter
    assert sure[-1, :3].sum() > sure[0, :3].sum() + 0.5
    assert (sure[:, 3] == 1).all()
    np.testing.assert_allclose(small.size, small.size[0])
    assert large.size[0] > 5 * small.size[0]


def test_frames_without_a_face_have_no_points(fake_tracker: type[FakeTracker]) -> None:
    faces(fake_tracker, lambda frame: frame % 2)
    points = points_of(Image(clip()))
    assert set(points.data[:, 0]) == {1, 3, 5}
    assert len(points.data) == len(points.features) == len(points.face_color) == 3 * 68
    faces(fake_tracker, lambda _: 0)
    empty = points_of(Image(clip()))
    assert empty.data.shape == (0, 3)
    assert empty.metadata["tracks"].n_frames == 6


def test_faces_are_told_apart(fake_tracker: type[FakeTracker]) -> None:
    faces(fake_tracker, lambda _: 2)
    points = points_of(Image(clip()), TrackerSettings(max_faces=3, smoothing_window=1))
    assert points.features["face"].value_counts().to_dict() == {0: 6 * 68, 1: 6 * 68}
    second = points.features["face"] == 1
    np.testing.assert_allclose(points.data[second][:, 1] - points.data[~second][:, 1], 1, atol=1e-5)


def test_every_transform_is_copied() -> None:
    layer = Image(
        clip(),
        scale=(2, 0.5, 0.25),
        translate=(3, 4, 5),
        rotate=(10, 20, 30),
        shear=(0.1, 0.2, 0.3),
        affine=np.array([[1, 0, 0, 0], [0, 1, 0.5, 2], [0, -0.5, 1, 3], [0, 0, 0, 1.0]]),
        units=("s", "mm", "mm"),
        axis_labels=("time", "row", "column"),
    )
    points = points_of(layer)
    for position in ((0, 0, 0), (1, 2, 3), (5, 59, 79)):
        np.testing.assert_allclose(points.data_to_world(position), layer.data_to_world(position), rtol=1e-6)
    assert points.units == layer.units
    assert points.axis_labels == layer.axis_labels


@pytest.mark.parametrize("channels", [(), (3,), (4,)])
def test_a_single_image_gives_points_without_time(channels: tuple[int, ...]) -> None:
    layer = Image(np.zeros((60, 80, *channels), np.uint8), rgb=bool(channels), scale=(3, 2), name="still")
    points = points_of(layer)
    assert points.data.shape == (68, 2)
    np.testing.assert_array_equal(points.scale, (3, 2))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("channels", [(), (3,), (4,)])
@pytest.mark.parametrize("lazy", [False, True])
def test_every_kind_of_layer_is_read(dtype: str, channels: tuple[int, ...], lazy: bool) -> None:
    data = np.ones((3, 20, 30, *channels), dtype)
    layer = Image(da.from_array(data, chunks=(1, *data.shape[1:])) if lazy else data, rgb=bool(channels))
    assert points_of(layer).data.shape == (3 * 68, 3)


def test_frames_are_read_one_by_one() -> None:
    class Lazy:
        """Refuses all but ``[int]``."""

        shape, dtype, ndim = (5, 20, 30), np.dtype(np.uint8), 3

        def __getitem__(self, key: Any) -> Any:
            assert type(key) is int
            return np.zeros(self.shape[1:], np.uint8)

        def __array__(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("the whole was read")

    assert len(FakeTracker().track(frames_of_layer(image_like(Lazy()))).landmarks) == 5


def test_of_a_pyramid_the_finest_level_is_read() -> None:
    data = [clip(4), clip(4)[:, ::2, ::2]]
    layer = Image(data, multiscale=True)
    assert tuple(frames_of_layer(layer).shape) == (4, 60, 80)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (None, "no video"),
        (Labels(np.zeros((3, 20, 30), int), name="cells"), "'cells' is not an image layer"),
        (Points(np.zeros((3, 3)), name="dots"), "'dots' is not an image layer"),
        (Image(np.zeros((2, 3, 20, 30)), name="stack"), "(2, 3, 20, 30)"),
        (Image(np.zeros((2, 3, 20, 30, 3), np.uint8), rgb=True), "(2, 3, 20, 30, 3)"),
        (image_like(np.zeros((0, 20, 30)), name="void"), "contains no pixels"),
        (image_like(np.zeros((2, 20, 30), complex)), "complex"),
    ],
)
def test_what_is_no_video_is_refused_in_one_sentence(layer: Any, words: str) -> None:
    for function in (count_frames, frames_of_layer, track_layer):
        with pytest.raises(ImageError) as caught:
            function(layer)
        sentence = str(caught.value)
        assert words in sentence
        assert "\n" not in sentence
        assert sentence.endswith(".")


def test_progress_is_told() -> None:
    told: list[tuple[int, int | None]] = []
    track_layer(Image(clip()), models=object(), progress=lambda done, total: told.append((done, total)))  # type: ignore[arg-type]
    assert told == [(i + 1, 6) for i in range(6)]


def shown(points: Points) -> np.ndarray[Any, Any]:
    return np.asarray(points.data[points.shown])


@pytest.mark.parametrize("most", [1, 2, 5])
def test_the_live_layer_ends_as_the_finished_one(fake_tracker: type[FakeTracker], most: int) -> None:
    fake_tracker.faces_at = staticmethod(lambda frame: 0 if frame in (3, 4) else 1 + (frame > 6) * (most - 1))  # type: ignore[method-assign]
    viewer = ViewerModel()
    image = viewer.add_image(clip(12, 3), rgb=True, scale=(1, 2, 2))
    tracker = fake_tracker(settings=TrackerSettings(max_faces=most))
    live = LiveLandmarks(viewer, image, 0, 12, most)
    assert not live.layer.shown.any()
    results = list(tracker.track_frames(image.data))
    for first in range(0, 12, 5):
        live.write(results[first : first + 5])
        done = np.concatenate(
            [result.landmarks[result.source > 0].reshape(-1, 2) for result in results[: first + 5]]
        )
        np.testing.assert_array_equal(shown(live.layer)[:, :0:-1], done)
    tracks = tracker.collect(results)
    live.finish(tracks)
    ((data, attributes, _),) = tracks_to_layer_data(tracks, image)
    finished = Layer.create(data, attributes, "points")
    np.testing.assert_array_equal(live.layer.data, finished.data)
    np.testing.assert_allclose(live.layer.face_color, finished.face_color)
    np.testing.assert_allclose(live.layer.size, finished.size)
    assert live.layer.shown.all()
    assert live.layer.features.equals(finished.features)
    assert live.layer.metadata["tracks"] is tracks
    assert str(live.layer.symbol[0]) == str(finished.symbol[0])
    np.testing.assert_array_equal(live.layer.border_color, finished.border_color)
    np.testing.assert_array_equal(live.layer.scale, (1, 2, 2))


def test_the_live_layer_makes_room_for_faces_that_were_not_expected(
    fake_tracker: type[FakeTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_face_landmarks.napari_plugin.run_controller.INITIAL_ROWS", 1)
    test_the_live_layer_ends_as_the_finished_one(fake_tracker, 5)


def test_the_live_layer_survives_what_users_do_to_it() -> None:
    viewer = ViewerModel()
    image = viewer.add_image(clip(12))
    tracker = FakeTracker()
    results = list(tracker.track_frames(image.data))
    live = LiveLandmarks(viewer, image, 0, 12, 1)
    live.write(results[:4])
    live.layer.selected_data = {3, 4, 5}
    live.layer.remove_selected()
    live.write(results[4:8])
    assert len(shown(live.layer)) == 8 * 68
    live.layer.data[0] = (0, 1, 2)  # moved by hand
    live.write(results[8:])
    live.finish(tracker.collect(results))
    assert len(live.layer.data) == 12 * 68
    np.testing.assert_array_equal(live.layer.data[0], (0, 1, 2))


def test_no_face_at_all_leaves_an_empty_layer(fake_tracker: type[FakeTracker]) -> None:
    faces(fake_tracker, lambda _: 0)
    viewer = ViewerModel()
    image = viewer.add_image(clip())
    tracker = fake_tracker()
    results = list(tracker.track_frames(image.data))
    live = LiveLandmarks(viewer, image, 0, 6, 1)
    live.write(results)
    live.finish(tracker.collect(results))
    assert live.layer.data.shape == (0, 3)


def edited(change: Callable[[Points], None], n_faces: int = 2) -> tuple[tracking.Tracks, tracking.Tracks]:
    """Return tracks, and those of their layer after a change by hand."""
    tracks = a_run(n_faces, first=4)
    points = Layer.create(*tracks_to_layer_data(tracks)[0])
    change(points)
    return tracks, tracks_of_layer(points)


def test_a_layer_that_was_left_alone_gives_its_tracks_back() -> None:
    tracks, again = edited(lambda points: None)
    for name in ("landmarks", "confidence", "source", "pose", "boxes", "frame_indices", "timestamps"):
        np.testing.assert_array_equal(getattr(again, name), getattr(tracks, name), err_msg=name)
    assert again.settings == tracks.settings
    assert again.meta == tracks.meta


def test_points_moved_by_hand_are_what_counts() -> None:
    def move(points: Points) -> None:
        row = np.flatnonzero((points.features["face"] == 1) & (points.data[:, 0] == 6))[30]
        points.data[row] += (0, 200, -3)

    tracks, again = edited(move)
    expected = tracks.landmarks.copy()
    expected[2, 1, 30] += (-3, 200)
    np.testing.assert_allclose(again.landmarks, expected, atol=1e-4)
    manual = again.source == MANUAL
    assert manual[2, 1]
    assert again.confidence[2, 1, 30] == 1
    assert again.sigma[2, 1, 30] == pytest.approx(0.01 * inter_ocular(again.landmarks[2, 1]))
    kept = np.arange(68) != 30
    np.testing.assert_array_equal(again.sigma[2, 1, kept], tracks.sigma[2, 1, kept])
    assert (manual & (tracks.source != MANUAL)).sum() <= 1
    assert again.boxes[2, 1, 3] == again.landmarks[2, 1, :, 1].max()
    assert again.boxes[2, 1, 4] == tracks.boxes[2, 1, 4]
    assert tracks.landmarks[2, 1, 30, 1] < 200, "the layer's own tracks stay as they were"


def test_points_deleted_and_added_by_hand() -> None:
    def delete_a_face_and_a_point(points: Points) -> None:
        gone = (points.features["face"] == 0) & (points.data[:, 0] == 4)
        points.selected_data = {*np.flatnonzero(gone), int(np.flatnonzero(points.data[:, 0] == 7)[3])}
        points.remove_selected()
        points.add([7, 1, 1])  # takes the features of another: the landmark's first point counts

    tracks, again = edited(delete_a_face_and_a_point)
    assert not again.present[0, 0]
    assert np.isnan(again.boxes[0, 0]).all()
    assert np.isnan(again.landmarks[3, 0, 3]).all()
    assert again.confidence[3, 0, 3] == 0
    there = np.isfinite(again.landmarks)
    np.testing.assert_array_equal(again.landmarks[there], tracks.landmarks[there])


def test_layers_of_others_with_the_right_features_are_taken() -> None:
    features = {"landmark": [0, 1, 0, 70, 2], "face": [0, 0, 1, 0, 0]}
    data = [[3, 10, 20], [3, 11, 21], [5, 12, 22], [3, 0, 0], [np.nan, 0, 0]]
    again = tracks_of_layer(Points(data, features=features))
    assert again.frame_indices.tolist() == [3, 5]
    assert again.landmarks[0, 0, 1].tolist() == [21, 11]
    assert again.landmarks[1, 1, 0].tolist() == [22, 12]
    assert np.isfinite(again.landmarks).sum() == 6


@pytest.mark.parametrize("ndim", [2, 3, 4])
def test_points_that_are_no_landmarks_are_refused(ndim: int) -> None:
    with pytest.raises(ResultError, match="'mine' has no landmarks"):
        tracks_of_layer(Points(np.zeros((4, ndim)), name="mine"))


def test_an_image_has_no_landmarks() -> None:
    with pytest.raises(ResultError, match="not a Points layer"):
        tracks_of_layer(Image(clip(), name="face"))


def test_a_still_picture_is_taken_with_its_frame() -> None:
    points = points_of(Image(np.zeros((60, 80), np.uint8)))
    again = tracks_of_layer(points)
    np.testing.assert_array_equal(again.landmarks, points.metadata["tracks"].landmarks)


def test_napari_saves_and_opens_landmarks(tmp_path: Path) -> None:
    from npe2 import PluginManager

    PluginManager.instance().discover()
    tracks = a_run(2)
    viewer = ViewerModel()
    points = viewer.add_layer(Layer.create(*tracks_to_layer_data(tracks)[0]))
    for item in FORMATS:
        need(item)
        path = str(tmp_path / f"t{item.suffixes[0]}")
        assert points.save(path, plugin="napari-face-landmarks") == [path]
        (opened,) = viewer.open(path, plugin="napari-face-landmarks")
        np.testing.assert_allclose(opened.data[:, 1:], points.data[:, 1:], atol=1e-5)


def test_the_longer_suffix_chooses_whichever_writer_is_called(tmp_path: Path) -> None:
    points = Layer.create(*tracks_to_layer_data(a_run())[0])
    path = tmp_path / "t.tidy.csv"
    assert writer.write_openface(str(path), *points.as_layer_data_tuple()[:2]) == [str(path)]
    assert path.read_text().startswith("frame,time,face,landmark,")


SCRIPT = """
import sys
from napari.components import ViewerModel
from napari.layers import Layer
from napari_face_landmarks import TrackerSettings, track_layer
from napari_face_landmarks.napari_plugin.readers_writers import moving_face

((frames, attributes, _),) = moving_face()
viewer = ViewerModel()
image = viewer.add_image(frames[:4], **attributes)
points = viewer.add_layer(Layer.create(*track_layer(image, TrackerSettings(refine="always"))[0]))
assert points.data.shape == (4 * 68, 3), points.data.shape
windows = [name for name in sys.modules if name.endswith((".QtWidgets", ".QtGui"))]
assert not windows, windows
print("done")
"""


@pytest.mark.slow
def test_a_script_needs_neither_qt_nor_a_display() -> None:
    environment = {
        key: value for key, value in os.environ.items() if "DISPLAY" not in key and "QT_" not in key
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=200,
        check=False,
    )
    assert done.stdout.strip().endswith("done"), done.stderr
