"""Frames as they come: the newest one, whoever is slow; a pipe in, and a pipe out."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from napari_face_landmarks import FaceTracker, Tracks, cli
from napari_face_landmarks.errors import VideoError
from napari_face_landmarks.video import open_video
from napari_face_landmarks.video.live import LiveFrames, open_live, write_y4m
from test_tracking import moving


def camera(frames: np.ndarray, seconds: float) -> Iterator[np.ndarray]:
    for frame in frames:
        time.sleep(seconds)
        yield frame


def y4m(frames: np.ndarray) -> bytes:
    stream = io.BytesIO()
    write_y4m(stream, iter(frames), 25)
    return stream.getvalue()


def numbered(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)


def test_a_slow_consumer_gets_the_newest_frame_and_the_number_of_those_dropped() -> None:
    live = LiveFrames(camera(numbered(40), 0.01))
    seen = []
    for frame in live:
        seen.append(int(frame[0, 0, 0]))
        assert time.monotonic() - live.arrivals[0] - live.times[-1] < 0.1  # never late, however slow
        time.sleep(0.05)
    assert seen == live.numbers == sorted(set(seen))
    assert len(seen) < 25
    assert len(seen) + live.dropped == 40
    assert live.times[0] == 0
    assert (np.diff(live.times) > 0).all()


def test_nothing_is_dropped_where_the_source_waits() -> None:
    live = LiveFrames(iter(numbered(20)), keep_all=True)
    assert [int(frame[0, 0, 0]) for frame in live] == list(range(20))
    assert live.dropped == 0


def test_a_pipe_is_read_and_written_as_y4m() -> None:
    frames = moving(3)[0]
    back = np.stack(list(open_live(io.BytesIO(y4m(frames)), keep_all=True)))
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).mean() < 2


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_what_is_no_video_is_an_error(content: bytes) -> None:
    with pytest.raises(VideoError, match="The pipe is not a readable video"):
        next(open_live(io.BytesIO(content)))
    with pytest.raises(VideoError, match="Camera 63 cannot be opened"):
        open_live(63)


def test_live_frames_are_tracked_with_their_times() -> None:
    frames = moving(6)[0]
    tracker = FaceTracker(settings={"refine": "off"})
    live = LiveFrames(camera(frames, 0.02), keep_all=True)
    tracks = tracker.track(live)
    np.testing.assert_allclose(tracks.timestamps, live.times)
    each = FaceTracker(settings={"refine": "off", "pfld_every": 1})  # no frame waits for a later one
    np.testing.assert_array_equal(tracks.landmarks, each.track(frames).landmarks)


def test_the_command_tracks_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as container:
        made = container.add_stream("mpeg4", rate=25)
        made.width = made.height = 240
        made.bit_rate = 5_000_000
        for frame in moving(6)[0]:
            container.mux(made.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(made.encode())
    stream.seek(0)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
    words = ["live", "-", "--keep-all", "--refine", "off", "-o", str(tmp_path / "t.npz")]
    assert cli.main([*words, "--overlay", str(tmp_path / "o.mp4")]) == 0
    assert "6 frames tracked, 0 dropped" in capsys.readouterr().err
    tracks = Tracks.load(tmp_path / "t.npz")
    assert tracks.present[:, 0].all()
    assert (np.diff(tracks.timestamps) > 0).all()
    with open_video(tmp_path / "o.mp4") as overlay:
        assert len(overlay) == 6
        np.testing.assert_allclose(overlay.info.timestamps, tracks.timestamps, atol=2e-3)
    assert cli.main(["live", "talk.mp4"]) == 2
    assert "use `track` for files" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_ends_after_a_time_and_pipes_to_a_player() -> None:
    words = [sys.executable, "-m", "napari_face_landmarks", "live", "-", "--refine", "off", "--overlay", "-"]
    done = subprocess.run(
        [*words, "--keep-all", "--seconds", "0"], input=y4m(moving(8)[0]), capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"YUV4MPEG2 W240 H240 F25000:1000 ")
    assert done.stdout.count(b"FRAME\n") == 1


def test_a_pipe_that_breaks_off_is_named_and_its_own_times_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = y4m(moving(4)[0])
    begin = stream.index(b"FRAME")
    whole = begin + 2 * (len(stream) - begin) // 4
    head = stream[:begin].replace(b"A1:1", b"A4:3")
    broken = io.BytesIO(head + stream[begin:whole] + bytes(300_000))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=broken))
    words = ["live", "-", "--keep-all", "--refine", "off", "-o", str(tmp_path / "t.npz")]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "The pipe is damaged after frame 1" in said
    assert "1.33 times as wide as high" in said
    np.testing.assert_allclose(Tracks.load(tmp_path / "t.npz").timestamps, [0, 0.04])


@pytest.mark.parametrize("seconds", ["soon", "nan", "-1", "inf"])
def test_seconds_are_a_number(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["live", "-", "--seconds", seconds])
    assert "is not a number of seconds" in capsys.readouterr().err
