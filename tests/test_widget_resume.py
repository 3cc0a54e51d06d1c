"""The dock: a run that was cancelled, or that died with napari, goes on with the same result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gui_support import panel_of, wait_until
from napari_face_landmarks import FaceTracker, TrackerSettings, load_models, tracks_of_layer
from napari_face_landmarks.demo import make_demo_clip
from napari_face_landmarks.napari_plugin.faces_dock import add_boxes_layer
from napari_face_landmarks.video import write_video

pytestmark = pytest.mark.gui
PLUGIN = "napari-face-landmarks"
N_FRAMES = 240  # not done before it is cancelled


def test_a_cancelled_run_goes_on_and_gives_what_an_uninterrupted_one_gives(
    viewer: Any, tmp_path: Path
) -> None:
    path = tmp_path / "face.mkv"
    frames = make_demo_clip(40, 200)[0]
    write_video(path, (frames[t % 40] for t in range(N_FRAMES)), fps=25)
    viewer.open(path, plugin=PLUGIN)
    widget = panel_of(viewer, "Track")
    boxes = add_boxes_layer(viewer, viewer.layers[0], "ignore")  # a run with boxes is written down too
    boxes.add_rectangles([[0, 0, 0], [0, 0, 9], [0, 9, 9], [0, 9, 0]])
    settings = TrackerSettings(refine="always")
    widget.settings_controls["refine"].value = "always"

    widget.run()
    wait_until(lambda: len(widget._current.results) > 20)
    widget.cancel()
    wait_until(lambda: not widget.running)
    folder = tmp_path / "runs"
    assert len(list(folder.glob("*.journal"))) == 1
    done = len(tracks_of_layer(widget.landmarks).frame_indices)
    assert 20 < done < N_FRAMES

    widget.run()
    run = widget._current
    wait_until(lambda: not widget.running)
    assert run.tracks.stats.completed
    assert run.tracks.stats.frames == N_FRAMES
    assert run.tracks.meta["regions"]["ignore"] == [{"box": [0, 0, 9, 9]}]
    tracks = tracks_of_layer(widget.landmarks)
    whole = FaceTracker(load_models(), settings, threads=1).track(path)
    np.testing.assert_array_equal(tracks.landmarks, whole.landmarks)
    np.testing.assert_array_equal(tracks.source, whole.source)
    assert not list(folder.glob("*.journal"))
