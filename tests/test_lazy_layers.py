"""Layers whose data are read while napari reads them: dask arrays, and readers that are not thread-safe."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import dask
import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from fake_tracker import FakeTracker
from napari_face_landmarks import FaceTracker, track_layer
from napari_face_landmarks.demo import make_demo_clip
from napari_face_landmarks.napari_plugin.layers import frames_of_layer
from napari_face_landmarks.napari_plugin.run_controller import BackgroundRun, describe_end
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.video import open_video, write_video

N_FRAMES = 120


class Reader:
    """A capture with a position, as of OpenCV: two readers at a time give each other's frames."""

    shape, dtype, ndim = (N_FRAMES, 24, 32), np.dtype(np.uint8), 3

    def __init__(self) -> None:
        self.position = 0
        self.clashes = 0
        self._busy = threading.Lock()

    def __getitem__(self, key: Any) -> np.ndarray[Any, Any]:
        number, *rest = key if isinstance(key, tuple) else (key,)
        number = number if isinstance(number, slice) else int(number)
        if not self._busy.acquire(blocking=False):
            self.clashes += 1
            raise RuntimeError("read twice at a time")
        numbers = range(self.shape[0])[number]
        frames = [self._frame(k) for k in (numbers if isinstance(numbers, range) else [numbers])]
        self._busy.release()
        found = np.stack(frames) if isinstance(numbers, range) else frames[0]
        return found[(slice(None), *rest) if isinstance(numbers, range) else tuple(rest)]

    def _frame(self, number: int) -> np.ndarray[Any, Any]:
        self.position = number
        time.sleep(0.001)
        return np.full(self.shape[1:], self.position, np.uint8)


def as_dask(reader: Reader) -> da.Array:
    """Return a reader as plugins hand it to napari: a delayed call for each frame."""
    parts = [
        da.from_delayed(dask.delayed(reader.__getitem__)(k), reader.shape[1:], reader.dtype)
        for k in range(N_FRAMES)
    ]
    return da.stack(parts)


@contextmanager
def moving_slider(viewer: ViewerModel) -> Iterator[list[Exception]]:
    going, errors = threading.Event(), []
    moved = threading.Event()

    def slide() -> None:
        frame = 0
        while not going.is_set():
            try:
                viewer.dims.set_point(0, frame % (int(viewer.dims.range[0].stop) + 1))
            except Exception as error:
                errors.append(error)
            frame += 1
            if frame == 5:
                moved.set()

    thread = threading.Thread(target=slide)
    thread.start()
    moved.wait(10)
    try:
        yield errors
    finally:
        going.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reader", "dask", "dask over a reader"])
def test_frames_are_right_while_the_slider_moves(kind: str) -> None:
    reader = Reader()
    numbers = np.arange(N_FRAMES, dtype=np.uint8)
    data = {
        "reader": lambda: reader,
        "dask": lambda: da.from_array(
            np.broadcast_to(numbers[:, None, None], reader.shape), chunks=(1, 24, 32)
        ),
        "dask over a reader": lambda: as_dask(reader),
    }[kind]()
    viewer = ViewerModel()
    layer = viewer.add_image(data, contrast_limits=(0, 255))
    frames = frames_of_layer(layer)
    with moving_slider(viewer) as errors:
        found = [frames[k] for k in range(N_FRAMES)]
    assert [int(frame.min()) for frame in found] == list(range(N_FRAMES))
    assert [int(frame.max()) for frame in found] == list(range(N_FRAMES))
    assert not errors
    assert not reader.clashes


class Container(Reader):
    """One container of PyAV that seeks and decodes when it is indexed, as readers based on it do."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._container = av.open(str(path))
        self._times = sorted(p.pts for p in self._container.demux(video=0) if p.pts is not None)
        stream = self._container.streams.video[0]
        self.shape, self.ndim = (len(self._times), stream.height, stream.width, 3), 4

    def _frame(self, number: int) -> np.ndarray[Any, Any]:
        stream = self._container.streams.video[0]
        self._container.seek(self._times[number], stream=stream)
        decoded = self._container.decode(stream)
        return next(f for f in decoded if f.pts >= self._times[number]).to_ndarray(format="rgb24")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PyAV", "dask"])
def test_landmarks_are_those_of_the_file_while_the_slider_moves(kind: str, tmp_path: Path) -> None:
    path, settings = tmp_path / "v.mkv", {"refine": "off"}
    write_video(path, make_demo_clip(30, 160)[0], fps=25)
    right = FaceTracker(settings=settings).track(path)
    assert right.present.all()
    reader = Container(path)
    with open_video(path) as video:
        data = reader if kind == "PyAV" else da.from_array(video[:], chunks=(1, *video.shape[1:]))
    viewer = ViewerModel()
    layer = viewer.add_image(data, rgb=True)
    with moving_slider(viewer) as errors:
        ((_, attributes, _),) = track_layer(layer, settings)
    found = attributes["metadata"]["tracks"]
    assert found.n_frames == 30
    np.testing.assert_allclose(found.landmarks, right.landmarks, atol=0.05)
    assert not errors
    assert not reader.clashes


def test_an_array_in_memory_is_read_as_it_is() -> None:
    data = np.zeros((3, 8, 8), np.uint8)
    assert frames_of_layer(Image(data)) is data


class Breaking(Reader):
    """Ends before its time."""

    def __getitem__(self, key: Any) -> np.ndarray[Any, Any]:
        if isinstance(key, int) and key > 40:
            raise OSError("the network is gone")
        return super().__getitem__(key)


def test_a_run_that_broke_off_is_not_done() -> None:
    class Tracker(FakeTracker):
        def _follow(self, context: Any, frames: Any, before: Any = None) -> Iterator[Any]:
            whole = (
                (k, frame)
                for k, frame in frames
                if not isinstance(frame, Exception) or context.ends_at(frame, False)
            )
            for index, frame in whole:
                if isinstance(frame, Exception):
                    return
                yield from super()._follow(context, iter([(index, frame)]), before)

    layer = Image(Breaking(), contrast_limits=(0, 255))
    run = BackgroundRun(lambda: None, TrackerSettings(), frames_of_layer(layer), 0, N_FRAMES)  # type: ignore[arg-type]
    for _ in run.consume(Tracker().track_frames(run.frames)):
        pass
    assert len(run.results) == 41
    assert describe_end(run).startswith("Stopped early: 41 of 120 frames are finished and kept.")
    assert "the network is gone" in describe_end(run)


def test_texts_that_a_beginning_run_hides_are_shown_if_it_ends_before_a_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from types import SimpleNamespace

    from napari_face_landmarks.napari_plugin import run_controller

    text = SimpleNamespace(text=[""], visible=True)
    monkeypatch.setattr(run_controller, "_text_visuals", lambda: [text])
    viewer = ViewerModel()
    video = viewer.add_image(np.zeros((3, 40, 40), np.uint8))
    run = run_controller.BackgroundRun(lambda: None, TrackerSettings(), video.data, 0, 3)  # type: ignore[arg-type]
    shown = run_controller.ShownRun(viewer, video, run, SimpleNamespace(value=False))
    while text.visible:
        assert shown.add_step()
    shown.finish()
    assert text.visible
    assert list(viewer.layers) == [video]


def test_the_time_left_is_not_computed_from_the_time_before_the_first_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from types import SimpleNamespace

    from napari_face_landmarks.data.frame import empty_frame
    from napari_face_landmarks.napari_plugin import run_controller

    clock = [0.0]
    monkeypatch.setattr(run_controller.time, "monotonic", lambda: clock[0])
    viewer = ViewerModel()
    video = viewer.add_image(np.zeros((100, 40, 40), np.uint8))
    run = run_controller.BackgroundRun(lambda: None, TrackerSettings(), video.data, 0, 100)  # type: ignore[arg-type]
    shown = run_controller.ShownRun(viewer, video, run, SimpleNamespace(value=False))
    texts = []
    for seconds, frames in ((0.0, 0), (4.0, 0), (4.1, 40), (4.6, 60)):  # compiles, then 40 frames a second
        clock[0] = seconds
        run.results.extend(empty_frame(index, 1) for index in range(len(run.results), frames))
        shown.update()
        texts.append(run_controller.describe_progress(run, shown.times))
    assert texts[2:] == ["40 of 100 frames", "60 of 100 frames, 40 fps, 1 s left"]
