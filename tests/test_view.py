"""Colours, legends, outlines, numbers and trails: as functions, as layers, and in their dock."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Layer, Points

from fake_tracker import FakeTracker
from gui_support import TRIES, let_work, panel_of, wait_until
from napari_face_landmarks.data.fields import SOURCES
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.ibug import REGIONS
from napari_face_landmarks.napari_plugin.layers import camera_of
from napari_face_landmarks.napari_plugin.overlay_layers import (
    NUMBER_SPACING,
    SEGMENTS,
    FrameLayers,
    chosen_landmarks,
    faces_at,
    in_plane,
    outline_segments,
    paths_of_landmarks,
    recolour,
    trail_segments,
)
from napari_face_landmarks.napari_plugin.points_layer import tracks_of_layer, tracks_to_layer_data
from napari_face_landmarks.napari_plugin.run_controller import LiveLandmarks
from napari_face_landmarks.visualization.colours import (
    COLOUR_MODES,
    PART_COLOURS,
    SOURCE_COLOURS,
    landmark_colours,
    legend_of,
    mode_of,
)
from test_formats import a_run

# Machado, Oliveira and Fernandes 2009, full severity, on linear RGB
BLINDNESS = {
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def lab(rgb: Any, blindness: str | None) -> np.ndarray[Any, Any]:
    """Return sRGB colours (N, 3), 0 to 1, as somebody sees them, in CIE Lab."""
    rgb = np.asarray(rgb, np.float64)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    if blindness is not None:
        linear = np.clip(linear @ np.array(BLINDNESS[blindness]).T, 0, 1)
    xyz = linear @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    f = np.cbrt(np.maximum(xyz / [0.9505, 1, 1.089], 1e-6))
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def as_rgb(colours: Any) -> np.ndarray[Any, Any]:
    return np.array([[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in colours])


@pytest.mark.parametrize("blindness", [None, *BLINDNESS])
def test_colours_stay_apart_without_some_colour_vision(blindness: str | None) -> None:
    none = np.zeros(256, np.uint8)
    scale = lab(landmark_colours("confidence", np.linspace(0, 1, 256), none, none)[:, :3], blindness)
    assert (np.diff(scale[::16, 0]) > 1).all(), "confidence is ever lighter"
    for colours in (SOURCE_COLOURS, PART_COLOURS):
        seen = lab(as_rgb(colours.values()), blindness)
        apart = np.linalg.norm(seen[:, None] - seen, axis=-1)[np.triu_indices(len(seen), 1)]
        assert apart.min() > 15


def test_a_legend_tells_what_the_points_have() -> None:
    for mode in COLOUR_MODES:
        levels, codes, landmarks = np.linspace(0, 1, 68), np.arange(68) % 4 + 1, np.arange(68)
        used = landmark_colours(mode, levels, codes, landmarks)
        legend = as_rgb([entry.colour for entry in legend_of(mode)])
        ends = used[[0, -1]] if mode == "confidence" else used
        for colour in ends[:, :3]:
            assert np.abs(legend - colour).max(axis=1).min() < 0.003
    assert [entry.label for entry in legend_of("source")] == ["PFLD", "CLNF", "carried", "manual"]
    with pytest.raises(ValueError, match="'mood'"):
        landmark_colours("mood", np.zeros(1), np.zeros(1), np.zeros(1))  # type: ignore[arg-type]


def a_layer(n_faces: int = 2, **attributes: Any) -> tuple[Any, Points]:
    tracks = a_run(n_faces)
    data, more, kind = tracks_to_layer_data(tracks)[0]
    points = Layer.create(data, {**more, **attributes}, kind)
    assert isinstance(points, Points)
    return tracks, points


def test_colours_change_without_a_run_and_what_is_known_stays() -> None:
    tracks, points = a_layer()
    first = points.face_color.copy()
    for mode in ("source", "region"):
        recolour(points, mode)  # type: ignore[arg-type]
        assert mode_of(points) == mode
        assert np.abs(points.face_color - first).max() > 0.1
    by_region = points.face_color[points.features["landmark"] == 40]
    assert (by_region == by_region[0]).all()
    recolour(points, "source")
    for name in set(points.features["source"]):
        rows = (points.features["source"] == name).to_numpy()
        np.testing.assert_allclose(
            points.face_color[rows][:, :3], as_rgb([SOURCE_COLOURS[name]] * rows.sum()), atol=1e-6
        )
    recolour(points, "confidence")
    np.testing.assert_array_equal(points.face_color, first)
    np.testing.assert_array_equal(tracks_of_layer(points).landmarks, tracks.landmarks)


def test_points_by_hand_have_their_colour() -> None:
    _, points = a_layer(1)
    row = int(np.flatnonzero(points.features["source"] == "pfld")[5])
    points.features.loc[row, "source"] = "manual"
    recolour(points, "source")
    np.testing.assert_allclose(points.face_color[row, :3], as_rgb([SOURCE_COLOURS["manual"]])[0], atol=1e-6)
    np.testing.assert_allclose(points.face_color[row + 1, :3], as_rgb([SOURCE_COLOURS["pfld"]])[0], atol=1e-6)


def test_only_landmarks_are_coloured() -> None:
    with pytest.raises(ResultError, match="'mine' has no landmarks"):
        recolour(Points(np.zeros((3, 3)), name="mine"), "source")


def test_a_run_goes_on_in_the_colours_that_were_chosen() -> None:
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((6, 60, 80), np.uint8))
    live = LiveLandmarks(viewer, image, 0, 6, 1)
    tracker = FakeTracker()
    results = list(tracker.track_frames(image.data))
    live.write(results[:3])
    recolour(live.layer, "region")
    live.write(results[3:])
    live.finish(tracker.collect(results))
    assert mode_of(live.layer) == "region"
    grid = live.layer.face_color.reshape(6, 68, 4)
    np.testing.assert_array_equal(grid, np.broadcast_to(grid[0], grid.shape))


def test_outlines_join_what_belongs_together() -> None:
    landmarks = np.random.default_rng(0).uniform(0, 99, (1, 68, 2)).astype(np.float32)
    lines, colours = outline_segments(landmarks)
    # open: jaw 16, brows 4 + 4, nose 3 + 4; closed: eyes 6 + 6, lips 12 + 8
    assert len(lines) == len(colours) == len(SEGMENTS) == 63
    ends = np.stack([lines[:, 0], lines[:, 0] + lines[:, 1]], axis=1)[..., ::-1]
    np.testing.assert_allclose(ends, landmarks[0][SEGMENTS], atol=1e-4)
    for start, end in SEGMENTS:
        assert any(start in region and end in region for region in REGIONS.values())
    landmarks[0, 36] = np.nan
    assert len(outline_segments(landmarks)[0]) == 61
    assert outline_segments(np.zeros((0, 68, 2)))[0].shape == (0, 2, 2)


def test_a_lines_colour_is_the_mean_of_its_ends() -> None:
    shades = np.zeros((1, 68, 4), np.float32)
    shades[0, 0] = 1
    _, colours = outline_segments(np.zeros((1, 68, 2)), shades)
    np.testing.assert_array_equal(colours[0], 0.5)
    assert not colours[1:].any()


def test_faces_of_a_frame_are_those_of_the_tracks() -> None:
    tracks, points = a_layer()
    for t, frame in enumerate(tracks.frame_indices):
        faces = faces_at(points, int(frame))
        expected = tracks.landmarks[t, : len(faces.landmarks)]
        np.testing.assert_array_equal(faces.landmarks, expected)
        assert not tracks.present[t, len(faces.landmarks) :].any()
    assert faces_at(points, 10**6).landmarks.shape == (0, 68, 2)


def test_trails_end_where_the_landmark_is_and_fade() -> None:
    tracks, points = a_layer(1)
    frames = range(int(tracks.frame_indices[0]), int(tracks.frame_indices[-1]) + 1)
    places = paths_of_landmarks(points, frames, [30, 8])
    np.testing.assert_array_equal(
        places[tracks.frame_indices - frames.start], tracks.landmarks[:, 0, [30, 8]]
    )
    walk = np.cumsum(np.ones((5, 1, 2)), axis=0)
    walk[1] = np.nan
    lines, colours = trail_segments(walk, np.ones((1, 4)))
    assert len(lines) == 2, "no line to or from where it was not found"
    np.testing.assert_array_equal(lines[-1].sum(axis=0), walk[-1, 0])
    assert (np.diff(colours[:, 3]) > 0).all()
    assert colours[-1, 3] == 1
    assert trail_segments(walk[:1], np.ones((1, 4)))[0].shape == (0, 2, 2)


def test_landmarks_are_named_by_numbers_and_ranges() -> None:
    assert chosen_landmarks(" 30, 36-38,30 ") == [30, 36, 37, 38]
    assert chosen_landmarks("") == []
    for text in ("68", "nose", "5-3", "1-99", "-3"):
        with pytest.raises(ResultError, match="is not a landmark"):
            chosen_landmarks(text)


def test_what_is_drawn_lies_on_the_landmarks_whatever_the_transforms() -> None:
    _, points = a_layer(
        1,
        scale=(2, 0.5, 0.25),
        translate=(3, 4, 5),
        affine=np.array([[1, 0, 0, 0], [0, 1, 0.5, 2], [0, -0.5, 1, 3], [0, 0, 0, 1.0]]),
    )
    flat = Points(np.zeros((1, 2)), **in_plane(points))
    for place in ((0, 0), (10, 0), (7, 20)):
        expected = points.data_to_world((4, *place))[1:]
        np.testing.assert_allclose(flat.data_to_world(place), expected, rtol=1e-6)


def test_small_layers_follow_the_frame_and_go_when_not_wanted() -> None:
    viewer = ViewerModel()
    tracks, points = a_layer(1)
    viewer.add_image(np.zeros((int(tracks.frame_indices[-1]) + 1, 60, 80), np.uint8))
    viewer.add_layer(points)
    shown = FrameLayers(viewer, points)
    shown.outlines = shown.numbers = True
    shown.trails = [30]
    t = int(np.flatnonzero(tracks.present[:, 0])[-1])
    camera_of(viewer).zoom = 1000
    for at in (t, t - 1, t):
        viewer.dims.set_current_step(0, int(tracks.frame_indices[at]))
        shown.update()
        if tracks.present[at, 0]:
            lines, _ = outline_segments(tracks.landmarks[at])
            np.testing.assert_array_equal(shown.layers["outlines"].data[: len(lines)], lines)
            np.testing.assert_array_equal(shown.layers["numbers"].data, tracks.landmarks[at, 0][:, ::-1])
            words = shown.layers["numbers"].text
            assert list(words.values[[0, 67]]) == ["0", "67"]
            np.testing.assert_array_equal(
                words.color.constant[:3], (1, 0, 1), "seen on skin, hair and canvas"
            )
    for kind, layer in shown.layers.items():  # as the boxes of the tab View are called
        assert kind.capitalize() in ("Outlines", "Numbers", "Trails")
        assert layer.name == f"{points.name} {kind}"
    camera_of(viewer).zoom = 1
    shown.update()
    numbers = np.flatnonzero([word != "" for word in shown.layers["numbers"].text.values])
    assert 0 < len(numbers) < 68
    assert numbers[0] == 0
    apart = np.abs(np.diff(tracks.landmarks[t, 0][numbers[[0, 1]]][:, ::-1], axis=0))
    assert (apart >= NUMBER_SPACING).any(), "no number is written over another"
    assert viewer.layers.selection.active is points, "the landmarks stay the layer that is worked on"
    assert len(viewer.layers) == 5
    viewer.layers.remove(shown.layers["outlines"])
    shown.update()
    assert not shown.outlines
    shown.outlines, shown.numbers, shown.trails = False, False, ()
    shown.update()
    assert len(viewer.layers) == 2


def test_a_single_image_has_outlines_too() -> None:
    viewer = ViewerModel()
    tracks, _ = a_layer(1)
    image = viewer.add_image(np.zeros((60, 80), np.uint8))
    points = viewer.add_layer(Layer.create(*tracks_to_layer_data(tracks, image)[0]))
    points.data = points.data[:68]
    shown = FrameLayers(viewer, points)
    shown.outlines = True
    shown.trails = [30]  # there is no time to draw them over
    shown.update()
    assert list(shown.layers) == ["outlines"]


@pytest.mark.nightly
def test_two_hundred_frames_of_outlines_cost_little() -> None:
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((200, 60, 80), np.uint8))
    live = LiveLandmarks(viewer, image, 0, 200, 1)
    live.write(list(FakeTracker().track_frames(image.data)))
    shown = FrameLayers(viewer, live.layer)
    shown.outlines, shown.trails = True, [30, 8]
    viewer.dims.set_current_step(0, 100)
    shown.update()
    least = float("inf")
    for again in range(TRIES):
        time.sleep(2 * again)
        for _ in range(20):
            began = time.thread_time()
            shown.update()
            least = min(least, time.thread_time() - began)
        if least < 0.015:
            break
    assert least < 0.015


# in the dock


@pytest.fixture
def dock(viewer: Any) -> Any:
    return panel_of(viewer, "View")


def with_landmarks(viewer: Any) -> Any:
    tracks, points = a_layer(1)
    viewer.add_image(np.zeros((int(tracks.frame_indices[-1]) + 1, 120, 160), np.uint8), name="clip")
    viewer.add_layer(points)
    viewer.dims.set_current_step(0, int(tracks.frame_indices[np.flatnonzero(tracks.present[:, 0])[0]]))
    return points


def legend_words(dock: Any) -> list[str]:
    from qtpy.QtWidgets import QLabel

    return [label.text() for label in dock.legend.findChildren(QLabel)]


@pytest.mark.gui
def test_the_dock_colours_and_tells_what_colours_mean(viewer: Any, dock: Any) -> None:
    assert dock.layer is None
    assert not dock.colour.isEnabled()
    assert "no landmarks" in dock.status.text()
    points = with_landmarks(viewer)
    assert dock.layer is points
    assert dock.colour.isEnabled()
    assert legend_words(dock) == ["0", "0.25", "0.5", "0.75", "1"]
    before = points.face_color.copy()
    dock.colour.setCurrentIndex(COLOUR_MODES.index("region"))
    assert legend_words(dock) == list(PART_COLOURS)
    assert np.abs(points.face_color - before).max() > 0.1
    second = a_layer(1)[1]
    viewer.add_layer(second)
    assert dock.layer is second
    assert dock.mode == "confidence"
    dock.layers.setCurrentIndex(0)
    assert dock.mode == "region", "each layer has its own"


@pytest.mark.gui
def test_the_docks_choices_draw_on_the_frame(viewer: Any, dock: Any) -> None:
    points = with_landmarks(viewer)
    dock.outlines.setChecked(True)
    wait_until(lambda: "outlines" in dock.shown.layers)
    lines = dock.shown.layers["outlines"]
    before = lines.data.copy()
    row = int(np.flatnonzero(points.data[:, 0] == viewer.dims.current_step[0])[30])
    points.data[row, 1:] += 7
    points.refresh()
    wait_until(lambda: not np.array_equal(lines.data, before))
    dock.numbers.setChecked(True)
    points.selected_data = {row}
    dock.use_selected.click()
    wait_until(lambda: {"numbers"} <= set(dock.shown.layers))
    assert dock.landmarks.text() == "30"
    assert dock.trails.isChecked()
    dock.landmarks.setText("eyes")
    dock.landmarks.editingFinished.emit()
    assert "is not a landmark" in dock.status.text()
    viewer.layers.remove(lines)
    wait_until(lambda: not dock.outlines.isChecked())
    viewer.layers.remove(points)
    let_work(0.1)
    assert [layer.name for layer in viewer.layers] == ["clip"]


@pytest.mark.gui
def test_the_dock_is_narrow_and_closes(viewer: Any, dock: Any) -> None:
    from napari_face_landmarks.napari_plugin.commands import landmarks_dock

    with_landmarks(viewer)
    dock.outlines.setChecked(True)
    let_work(0.2)
    assert dock.minimumSizeHint().width() <= 320
    viewer.window.remove_dock_widget(landmarks_dock(viewer))
    viewer.dims.set_current_step(0, 1)
    let_work(0.1)


def test_every_source_has_a_colour() -> None:
    assert list(SOURCE_COLOURS) == list(SOURCES)
