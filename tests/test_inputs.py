"""Inputs of other people: pixels that are not square, several streams, other endings, wide pixel types."""

from __future__ import annotations

import argparse
import pickle
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import dask.array as da
import numpy as np
import pytest
from napari.layers import Image, Points

from napari_face_landmarks import FaceTracker, TrackerSettings, Tracks, cli, load_models
from napari_face_landmarks.cli.options import frame_or_time
from napari_face_landmarks.correction.propagation import propagate
from napari_face_landmarks.correction.refit import refit_in_tracks
from napari_face_landmarks.data.tracks import empty_tracks
from napari_face_landmarks.errors import ImageError, ModelError, SettingsError
from napari_face_landmarks.ibug import inter_ocular
from napari_face_landmarks.napari_plugin.points_layer import track_layer
from napari_face_landmarks.runs import track_many
from napari_face_landmarks.tracking.frame_source import open_source
from napari_face_landmarks.tracking.regions import Region, Regions
from napari_face_landmarks.video import VIDEO_SUFFIXES, VideoWarning, open_video
from napari_face_landmarks.visualization import write_overlay
from napari_face_landmarks.visualization.contact_sheet import overlay_frames
from test_tracking import moving

N_FRAMES = 6


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.stack([cv2.resize(frame, (480, 480)) for frame in moving(N_FRAMES)[0]])


@pytest.fixture(scope="module")
def tracker() -> FaceTracker:
    """Return a tracker that treats all frames alike, whatever their rate and their place in the source."""
    return FaceTracker(settings=TrackerSettings(refine="off", pfld_every=1), threads=1)


def write(path: Path, *streams: np.ndarray, aspect: Fraction = Fraction(1), default: int = 0) -> Path:
    """Write streams of frames, (T, H, W, 3) each, at high quality."""
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        made = []
        for place, frames in enumerate(streams):
            codec = {".mkv": "ffv1", ".mp4": "mpeg4"}.get(path.suffix, "mpeg2video")
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv444p" if path.suffix == ".mkv" else "yuv420p"
            stream.codec_context.sample_aspect_ratio = aspect
            if path.suffix == ".mkv":
                stream.disposition = av.stream.Disposition.default if place == default else 0
            else:
                stream.bit_rate = 20_000_000
            made.append(stream)
        for stream, frames in zip(made, streams, strict=True):
            for rgb in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
            container.mux(stream.encode())
    return path


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the mean distance in percent of the inter-ocular distance."""
    distance = np.linalg.norm(found - expected, axis=-1).mean(axis=-1)
    return float(100 * (distance / inter_ocular(expected)).mean())


def test_pixels_that_are_not_square_are_tracked_as_they_are_shown(
    frames: np.ndarray, tracker: FaceTracker, tmp_path: Path
) -> None:
    narrow = np.stack([cv2.resize(frame, (360, 480), interpolation=cv2.INTER_AREA) for frame in frames])
    square = tracker.track(write(tmp_path / "square.mp4", frames))
    path = write(tmp_path / "narrow.mp4", narrow, aspect=Fraction(4, 3))
    with open_video(path) as video:
        assert video.info.pixel_aspect == pytest.approx(4 / 3)
        assert video.shape == (N_FRAMES, 480, 360, 3)
        tracks = tracker.track(video)
    assert tracks.meta["pixel_aspect"] == pytest.approx(4 / 3)
    places = (tracks.landmarks + 0.5) * (4 / 3, 1) - 0.5
    assert apart(places, square.landmarks) < 0.3
    assert np.degrees(np.abs(tracks.pose[..., 2] - square.pose[..., 2])).max() < 1
    np.testing.assert_allclose(tracks.boxes[..., 0], tracks.landmarks[..., 0].min(axis=-1), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("refine", ["off", "always"])
def test_corrections_see_square_pixels(refine: str, frames: np.ndarray, tmp_path: Path) -> None:
    models, settings = load_models(), TrackerSettings(refine=refine)
    narrow = np.stack([cv2.resize(frame, (360, 480), interpolation=cv2.INTER_AREA) for frame in frames])
    found = {}
    for name, video, aspect in (("square", frames, Fraction(1)), ("narrow", narrow, Fraction(4, 3))):
        path = write(tmp_path / f"{name}.mp4", video, aspect=aspect)
        tracks = FaceTracker(models, settings, threads=1).track(path)
        factor = np.array([1 / aspect, 1], np.float32)
        moved = found["square"][0].landmarks[0, 0, 48:60] if found else tracks.landmarks[0, 0, 48:60] + (6, 3)
        tracks.landmarks[0, 0, 48:60] = (moved + 0.5) * factor - 0.5
        tracks.by_hand[0, 0, 48:60] = True
        with open_video(path) as opened:
            refitted = refit_in_tracks(models, opened[0], tracks, 0, 0)
            found[name] = (tracks, refitted, propagate(models, opened, refitted, 0, 0))
        kept = refitted.landmarks[0, 0, 48:60] - tracks.landmarks[0, 0, 48:60]
        np.testing.assert_allclose(kept, 0, atol=1e-3)
    for square, other in zip(found["square"], found["narrow"], strict=True):
        assert apart((other.landmarks + 0.5) * (4 / 3, 1) - 0.5, square.landmarks) < 0.5


TURNS = {
    "upside down": ({"scale": (1, -1, -1)}, lambda frame: frame[::-1, ::-1]),
    "mirrored": ({"scale": (1, 1, -1)}, lambda frame: frame[:, ::-1]),
    "turned left": ({"rotate": [[1, 0, 0], [0, 0, 1], [0, -1, 0]]}, lambda frame: np.rot90(frame)),
    "turned right": ({"rotate": [[1, 0, 0], [0, 0, -1], [0, 1, 0]]}, lambda frame: np.rot90(frame, -1)),
}


@pytest.mark.parametrize("kind", TURNS)
def test_turned_layers_are_tracked_as_they_are_shown(kind: str, frames: np.ndarray) -> None:
    transform, turn = TURNS[kind]
    layer = Image(np.stack([turn(frame) for frame in frames[:3]]), rgb=True, **transform)
    settings = TrackerSettings(refine="off")
    right = FaceTracker(settings=settings, threads=1).track(frames[:3])
    ((points, attributes, _),) = track_layer(layer, settings)
    tracks = attributes["metadata"]["tracks"]
    assert tracks.meta["turn"]
    world = Points(points, **{name: attributes[name] for name in ("scale", "rotate", "affine")})
    found = np.array([world.data_to_world(point) for point in points])[:, :0:-1].reshape(
        right.landmarks.shape
    )
    corner = np.array([layer.data_to_world((0, y, x))[:0:-1] for y in (0, 479) for x in (0, 479)]).min(axis=0)
    np.testing.assert_allclose(found - corner, right.landmarks, atol=0.01)
    assert np.degrees(np.abs(tracks.pose - right.pose)[..., 1:4]).max() < 0.1


def test_of_several_videos_the_default_one_is_read_and_the_others_are_named(
    frames: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    small = frames[:, ::5, ::5]
    with pytest.warns(VideoWarning, match="2 video streams: the one of 96 x 96 is read, not 480 x 480"):
        first = open_video(write(tmp_path / "a.mkv", small, frames, default=0))
    with pytest.warns(VideoWarning, match="the one of 480 x 480 is read"):
        second = open_video(write(tmp_path / "b.mkv", small, frames, default=1))
    assert first.shape[1:3] == (96, 96)
    assert second.shape[1:3] == (480, 480)
    first.close()
    second.close()
    recwarn.clear()
    words = ["measure", str(tmp_path / "b.mkv"), "-o", str(tmp_path / "b.csv"), "--refine", "off"]
    assert cli.main(words) == 0  # it says so in a sentence, not as Python does
    assert "b.mkv has 2 video streams: the one of 480 x 480 is read" in capsys.readouterr().err
    assert not [item for item in recwarn if item.category is VideoWarning]


@pytest.mark.parametrize("suffix", [".mts", ".m2ts", ".ts", ".vob", ".mxf"])
def test_files_of_camcorders_are_videos(suffix: str, frames: np.ndarray, tmp_path: Path) -> None:
    assert suffix in VIDEO_SUFFIXES
    path = write(tmp_path / "clip.mpg", frames)
    kind = {".vob": "mpeg", ".mxf": "mxf"}.get(suffix, "mpegts")
    target = tmp_path / f"CLIP{suffix.upper()}"
    with av.open(str(path)) as source, av.open(str(target), "w", format=kind) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    with open_video(target) as video:
        assert video.shape[1:] == (480, 480, 3)
        assert len(video) >= N_FRAMES - 1


@pytest.mark.parametrize(
    "kind", ["10 bits", "12 bits", "14 bits", "16 bits", "signed float", "float", "wide float"]
)
def test_wide_pixels_give_the_landmarks_of_8_bits(
    kind: str, frames: np.ndarray, tracker: FaceTracker
) -> None:
    made = {
        "10 bits": lambda: frames.astype(np.uint16) * 4 + 2,
        "12 bits": lambda: frames.astype(np.uint16) * 16 + 8,
        "14 bits": lambda: frames.astype(np.uint16) * 64 + 32,
        "16 bits": lambda: frames.astype(np.uint16) * 257,
        "signed float": lambda: frames.astype(np.float32) / 127.5 - 1,
        "float": lambda: frames.astype(np.float32) / 255,
        "wide float": lambda: frames.astype(np.float64) * 16,
    }[kind]()
    tracks = tracker.track(made)
    assert apart(tracks.landmarks, tracker.track(frames).landmarks) < 0.2
    assert bool(tracks.warnings) == (kind not in ("16 bits", "float"))
    assert len(tracks.meta["pixel_range"]) == 2


def with_sound(path: Path, frames: np.ndarray, seconds: float = 1.0) -> Path:
    """Write 25 frames a second with a tone, at 16 kHz."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=16000)
        for k in range(round(seconds * 25)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frames[k % len(frames)], format="rgb24")))
        container.mux(stream.encode())
        tone = np.sin(np.arange(round(seconds * 16000)) * 0.2)[None].astype(np.float32)
        for start in range(0, tone.shape[1], 1024):
            sound = av.AudioFrame.from_ndarray(tone[:, start : start + 1024], format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 16000, start
            container.mux(audio.encode(sound))
        container.mux(audio.encode())
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("first", [0, 10])
def test_overlays_keep_the_sound_and_the_pixel_aspect(
    suffix: str, first: int, frames: np.ndarray, tmp_path: Path
) -> None:
    path = with_sound(tmp_path / "v.mp4", frames)
    tracks = empty_tracks(
        np.arange(first, 25), 1, timestamps=np.arange(first, 25) / 25, meta={"pixel_aspect": 4 / 3}
    )
    write_overlay(tmp_path / f"o{suffix}", path, tracks)
    with av.open(str(tmp_path / f"o{suffix}")) as container:
        heard = [packet for packet in container.demux(audio=0) if packet.pts is not None]
        last = heard[-1]
        assert float((last.pts + last.duration) * last.time_base) == pytest.approx(1 - first / 25, abs=0.1)
        assert abs(float(heard[0].pts * heard[0].time_base)) < 0.1
    with open_video(tmp_path / f"o{suffix}") as video:
        assert len(video) == 25 - first
        assert video.info.pixel_aspect == pytest.approx(4 / 3, rel=0.01)


def test_a_second_stream_is_no_damage(frames: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "v.mkv", frames[:, ::5, ::5], frames, default=1)
    with pytest.warns(VideoWarning), open_video(path) as video:
        assert video.info.complete
    assert cli.main(["track", str(path), "-o", str(tmp_path / "t.csv"), "--refine", "off"]) == 0


def pictures(folder: Path, frames: np.ndarray, suffix: str) -> Path:
    folder.mkdir()
    for number, frame in enumerate(frames, 8):  # so that natural order differs from that of texts
        assert cv2.imwrite(str(folder / f"img{number}{suffix}"), frame[:, :, ::-1])
    return folder


@pytest.mark.parametrize("kind", ["folder", "stack", "16 bits", "photograph"])
def test_pictures_are_tracked(
    kind: str, frames: np.ndarray, tracker: FaceTracker, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind != "folder":  # one kind is enough to see that processes take them, too
        request.getfixturevalue("jobs_here")
    if kind == "folder":
        path = pictures(tmp_path / "series", frames, ".png")
        (path / "notes.txt").touch()
    elif kind == "photograph":
        path = pictures(tmp_path / "series", frames[:1], ".png") / "img8.png"
    else:
        path = tmp_path / "stack.tif"
        pages = frames[..., ::-1] if kind == "stack" else frames[..., ::-1].astype(np.uint16) * 16
        assert cv2.imwritemulti(str(path), list(pages))
    with open_video(path) as video:
        assert len(video) == (1 if kind == "photograph" else N_FRAMES)
        right = tracker.track(frames[: len(video)])
        tracks = tracker.track(video)
    assert apart(tracks.landmarks, right.landmarks) < (0.2 if kind == "16 bits" else 1e-3)
    assert tracker.track(path).n_frames == tracks.n_frames
    if kind != "16 bits":
        end = ["--refine", "off", "-o"]
        assert cli.main(["track", str(path), *end, str(tmp_path / "t.csv")]) == 0
        assert cli.main(["batch", str(path), *end, str(tmp_path / "out"), "--jobs", "1"]) == 0
        np.testing.assert_allclose(
            Tracks.load(tmp_path / "out" / f"{path.stem}.csv").landmarks, tracks.landmarks
        )


def test_a_picture_of_another_size_is_left_out(
    frames: np.ndarray, tracker: FaceTracker, tmp_path: Path
) -> None:
    path = pictures(tmp_path / "series", frames, ".png")
    assert cv2.imwrite(str(path / "img9.png"), frames[0, ::2, ::2])
    tracks = tracker.track(path)
    assert tracks.present[:, 0].tolist() == [True, False, True, True, True, True]
    assert "Frame 1 " in tracks.warnings[-1]
    assert "240 x 240 px, the first 480 x 480" in tracks.warnings[-1]


def test_one_picture_is_one_frame(frames: np.ndarray, tracker: FaceTracker, tmp_path: Path) -> None:
    right = tracker.fit(frames[0]).landmarks[0]
    for picture in (frames[0], frames[0][None, None], np.dstack([frames[0], frames[0][..., :1]])):
        assert apart(tracker.track(picture).landmarks[0, :1], right[None]) < 0.5
    cv2.imwrite(str(tmp_path / "p.png"), frames[0, :, :, ::-1])
    np.testing.assert_array_equal(tracker.fit(tmp_path / "p.png").landmarks[0], right)


AXES = {
    "T1YX": lambda grey: grey[:, None],
    "1T1YX": lambda grey: grey[None, :, None],
    "TYX1": lambda grey: grey[..., None],
    "T11YX": lambda grey: grey[:, None, None],
    "TCZYX": lambda grey: np.stack([grey] * 3, axis=1)[:, :, None],
    "two channels": lambda grey: np.stack([grey] * 2, axis=1)[:, :, None],
    "list": list,
    "tuple": tuple,
    "generator": lambda grey: (frame for frame in grey),
    "map": lambda grey: map(np.array, grey),
    "dask": lambda grey: da.from_array(grey[:, None], chunks=(1, 1, *grey.shape[1:])),
}


@pytest.mark.parametrize("kind", AXES)
def test_other_axes_and_iterators_are_read(kind: str, frames: np.ndarray, tracker: FaceTracker) -> None:
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames[:3]])
    told = []
    tracks = tracker.track(AXES[kind](grey), progress=lambda done, total: told.append(total), fps=50)
    np.testing.assert_array_equal(tracks.landmarks, tracker.track(grey).landmarks)
    known = kind not in ("generator", "map")
    assert told == [3 if known else None] * 3
    assert tracks.stats.completed
    assert tracks.meta["fps"] == 50
    if known:
        np.testing.assert_allclose(tracks.timestamps, [0, 0.02, 0.04])


def test_iterators_are_read_as_far_as_needed(frames: np.ndarray, tracker: FaceTracker) -> None:
    read = []
    source = (read.append(k) or frames[k % N_FRAMES] for k in range(10_000))
    run = tracker.track_frames(source)
    assert next(run).index == 0
    assert len(read) < 50
    run.close()
    with pytest.raises(ImageError, match="the iterator is empty"):
        tracker.track(iter([]))
    with pytest.raises(ImageError, match="fps is 0"):
        tracker.track(frames, fps=0)


def test_what_scripts_hold_can_be_pickled(frames: np.ndarray, tracker: FaceTracker, tmp_path: Path) -> None:
    copy = pickle.loads(pickle.dumps(tracker))
    assert (copy.settings, copy.threads) == (tracker.settings, tracker.threads)
    np.testing.assert_array_equal(copy.track(frames[:2]).landmarks, tracker.track(frames[:2]).landmarks)
    with open_video(write(tmp_path / "v.mkv", frames)) as video, pickle.loads(pickle.dumps(video)) as again:
        np.testing.assert_array_equal(again[3], video[3])
    with pytest.raises(ModelError, match="cannot be pickled"):
        pickle.dumps(replace(tracker.models, name="other"))


def test_tracks_print_as_ten_lines(frames: np.ndarray, tracker: FaceTracker) -> None:
    lines = str(tracker.track(frames[:2], fps=25)).splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("Tracks: 2 frames (0 to 1), ")
    assert lines[1].startswith("frames with a face: 2 (face 0 on 2")
    assert repr(empty_tracks(np.arange(0), 0)).startswith("Tracks: 0 frames (none), 0 faces")


@pytest.mark.parametrize(
    ("range_", "expected"),
    [
        (["--from", "2"], [2, 3, 4, 5]),
        (["--to", "0.12"], [0, 1, 2]),
        (["--from", "0:00.08", "--to", "5"], [2, 3, 4]),
    ],
)
def test_a_part_of_a_video_is_tracked(
    range_: list[str], expected: list[int], frames: np.ndarray, tmp_path: Path
) -> None:
    path = write(tmp_path / "v.mkv", frames)
    out = tmp_path / "t.npz"
    assert cli.main(["track", str(path), "-o", str(out), "--refine", "off", *range_]) == 0
    tracks = Tracks.load(out)
    assert tracks.frame_indices.tolist() == expected
    np.testing.assert_allclose(tracks.timestamps, np.array(expected) / 25, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "when"), [("250", 250), ("12s", 12.0), ("1:30", 90.0), ("0:01:30.5", 90.5), ("2.5", 2.5)]
)
def test_moments_are_frames_or_seconds(text: str, when: float) -> None:
    assert frame_or_time(text) == when
    assert type(frame_or_time(text)) is type(when)
    with pytest.raises(argparse.ArgumentTypeError, match="neither a frame"):
        frame_or_time(f"{text}x")


@pytest.mark.slow
def test_every_nth_frame_is_tracked(frames: np.ndarray, tmp_path: Path) -> None:
    path, out = write(tmp_path / "v.mkv", np.concatenate([frames, frames[::-1]])), tmp_path / "t.npz"
    words = ["track", str(path), "-o", str(out), "--from", "1", "--to", "11", "--every", "3"]
    assert cli.main([*words, "--overlay", str(tmp_path / "o.mp4"), "--smoothing-window", "1"]) == 0
    tracks = Tracks.load(out)
    assert tracks.frame_indices.tolist() == [1, 4, 7, 10]
    np.testing.assert_allclose(tracks.timestamps, np.array([1, 4, 7, 10]) / 25, atol=1e-3)
    assert tracks.meta["every"] == 3
    assert tracks.stats.completed
    settings = TrackerSettings(smoothing_window=1, pfld_every=1)  # at 8.3 frames per second
    alone = FaceTracker(settings=settings, threads=1).track(np.concatenate([frames, frames[::-1]])[1:11:3])
    np.testing.assert_allclose(tracks.landmarks, alone.landmarks, atol=0.3)
    with open_video(tmp_path / "o.mp4") as overlay:
        np.testing.assert_allclose(overlay.info.timestamps, [0, 0.12, 0.24, 0.36], atol=1e-3)


@pytest.mark.parametrize("kind", ["array", "iterator", "pictures"])
def test_every_nth_frame_of_other_sources(
    kind: str, frames: np.ndarray, tracker: FaceTracker, tmp_path: Path
) -> None:
    source = {"array": lambda: frames, "iterator": lambda: iter(frames)}.get(
        kind, lambda: pictures(tmp_path / "p", frames, ".png")
    )()
    tracks = tracker.track(source, start=1, stop=6, every=2, fps=None if kind == "pictures" else 25)
    assert tracks.frame_indices.tolist() == [1, 3, 5]
    expected = tracker.track(frames[1:6:2])
    np.testing.assert_allclose(tracks.landmarks, expected.landmarks, atol=1e-3)
    if kind != "iterator":
        np.testing.assert_allclose(tracks.timestamps, np.array([1, 3, 5]) / 25)


@pytest.mark.parametrize("fps", ["25", 0, -1.0, float("nan"), float("inf"), None])
def test_a_frame_rate_is_a_number_above_zero(fps: object) -> None:
    frames = np.zeros((3, 40, 40, 3), np.uint8)
    if fps is None:
        assert open_source(frames, fps=fps).fps is None
    else:
        with pytest.raises(ImageError, match=re.escape(f"fps is {fps!r}: give the number")):
            open_source(frames, fps=fps)


def test_regions_hold_on_the_same_frames_with_every(frames: np.ndarray, tracker: FaceTracker) -> None:
    ignored = Regions(ignore=(Region((0, 0, 480, 480), 1, 2), Region((0, 0, 480, 480), 3, 3)))
    tracks = tracker.track(frames, every=2, regions=ignored)
    assert tracks.present[:, 0].tolist() == [True, False, True]
    assert tracks.meta["regions"]["ignore"] == [{"box": [0, 0, 480, 480], "first": 2, "last": 2}]
    with pytest.raises(ImageError, match="every is 0"):
        tracker.track(frames, every=0)


@pytest.mark.slow
@pytest.mark.usefixtures("jobs_here")
def test_a_batch_tracks_every_nth_frame_of_a_stream(
    frames: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = write(tmp_path / "in" / "v.mkv", frames[:, ::2, ::2], frames, default=0)
    out = tmp_path / "out"
    words = ["batch", str(path.parent), "-o", str(out), "--format", "npz", "--refine", "off", "--stream", "1"]
    for every, expected in ((2, [0, 2, 4]), (3, [0, 3])):
        assert cli.main([*words, "--every", str(every)]) == 0
        tracks = Tracks.load(out / "v.npz")
        assert tracks.frame_indices.tolist() == expected
        assert (tracks.meta["width"], tracks.meta["stream"], tracks.meta["every"]) == (480, 1, every)
        before = (out / "v.npz").stat().st_mtime_ns
        assert cli.main([*words, "--every", str(every)]) == 0  # it is done already
        assert (out / "v.npz").stat().st_mtime_ns == before
    for other, reason in (
        (["--every", "2", "--cut", "4"], "Chunks consist of consecutive frames: use either"),
        (["--stream", "7"], "has no video stream 7"),
    ):
        assert cli.main([*words, *other]) == 2
        captured = capsys.readouterr()
        assert reason in captured.err + captured.out
    with pytest.raises(SettingsError, match=r"every is 2\.5"):
        track_many(path, out, every=2.5)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="stream is '1'"):
        track_many(path, out, stream="1")  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_video_stream_is_chosen(frames: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, out = write(tmp_path / "v.mkv", frames[:, ::2, ::2], frames, default=0), tmp_path / "t.npz"
    for words, width, other in (([], 240, "480 x 480 (stream 1)"), (["--stream", "1"], 480, "(stream 0)")):
        assert cli.main(["track", str(path), "-o", str(out), "--refine", "off", *words]) == 0
        assert Tracks.load(out).meta["width"] == width
        assert f"the one of {width} x {width} is read, not" in (said := capsys.readouterr().err)
        assert other in said
    assert Tracks.load(out).meta["stream"] == 1
    for stream, shape in ((1, (480, 480)), (0, (240, 240))):  # found again without being named
        assert cli.main(["track", str(path), "-o", str(out), "--stream", str(stream), "--to", "2"]) == 0
        with pytest.warns(VideoWarning):
            assert {rgb.shape[:2] for rgb in overlay_frames(path, Tracks.load(out))} == {shape}
    assert cli.main(["track", str(path), "-o", str(out), "--stream", "2"]) == 2
    assert "has no video stream 2: choose one of 0 (240 x 240), 1 (" in capsys.readouterr().err
    with pytest.warns(VideoWarning, match="480 x 480 is read"):
        video = open_video(path, 1)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(video))[3], video[3])
    np.testing.assert_array_equal(list(video.frames())[3], video[3])
    video.close()
