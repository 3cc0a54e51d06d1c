"""Kinds of input that users of other tools reported: read right, or refused for the true reason."""

from __future__ import annotations

import dataclasses
import os
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from napari_face_landmarks import FaceTracker, Tracks, cli
from napari_face_landmarks.errors import ImageError, ResultError, VideoError
from napari_face_landmarks.measures import measure
from napari_face_landmarks.tracking.frame_source import open_source
from napari_face_landmarks.video import VideoWarning, open_video, write_video
from napari_face_landmarks.visualization import write_overlay
from test_inputs import apart
from test_tracking import moving

N = 4


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return moving(N)[0]


@pytest.fixture(scope="module")
def tracker() -> FaceTracker:
    return FaceTracker(settings={"refine": "off"}, threads=1)


@pytest.fixture(scope="module")
def tracks(frames: np.ndarray, tracker: FaceTracker) -> Tracks:
    return tracker.track(frames, fps=25)


def write(path: Path, pictures: np.ndarray, kind: str, codec: str, pix: str, **options: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = pix
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format=kind)))
        container.mux(stream.encode())
    return path


@pytest.mark.filterwarnings("ignore::napari_face_landmarks.video.VideoWarning")
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_the_range_of_grey_videos_of_16_bits_is_found(
    bits: int, frames: np.ndarray, tracker: FaceTracker, tmp_path: Path
) -> None:
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    wide = grey.astype(np.uint16) << (bits - 8)
    path = write(tmp_path / "v.mkv", wide, "gray16le", "ffv1", "gray16le")
    found = tracker.track(path)
    assert apart(found.landmarks[:, 0], tracker.track(grey).landmarks[:, 0]) < 0.2
    assert ("pixel_range" in found.meta) == (bits < 16)
    if bits < 16:
        assert found.meta["pixel_range"] == [0, 2**bits - 1]
        assert f"of which {2**bits - 1} is used as white" in found.warnings[0]
        with open_video(path) as video:
            np.testing.assert_array_equal(video[1], list(video.frames())[1])
        assert cli.main(["track", str(path), "-o", str(tmp_path / "t.npz"), "--refine", "off"]) == 0


@pytest.mark.filterwarnings("ignore::napari_face_landmarks.video.VideoWarning")
def test_a_picture_of_16_bits_among_those_of_8_is_read_by_its_own_range(
    frames: np.ndarray, tracker: FaceTracker, tmp_path: Path
) -> None:
    for number, wide in enumerate((False, True, False)):
        picture = frames[number].astype(np.uint16) << 8 if wide else frames[number]
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture[..., ::-1])
    found = tracker.track(tmp_path).landmarks[1, 0]
    np.testing.assert_allclose(found, tracker.track(frames[:3]).landmarks[1, 0], atol=0.5)


def test_interlaced_videos_are_named(frames: np.ndarray, tracker: FaceTracker, tmp_path: Path) -> None:
    fields = {"flags": "+ildct+ilme"}
    path = write(tmp_path / "v.mpg", frames, "rgb24", "mpeg2video", "yuv420p", **fields)
    assert "is interlaced" in tracker.track(path).warnings[0]
    assert not tracker.track(write(tmp_path / "p.mpg", frames, "rgb24", "mpeg2video", "yuv420p")).warnings


def test_animated_pictures_are_videos(
    frames: np.ndarray, tracker: FaceTracker, tracks: Tracks, tmp_path: Path
) -> None:
    pictures = [Image.fromarray(frame) for frame in frames]
    for name in ("a.png", "a.webp"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=100)
    found = tracker.track(tmp_path / "a.png")
    # ten frames per second, of which each is an anchor frame, and an array at an unknown rate
    np.testing.assert_allclose(found.landmarks, tracks.landmarks, atol=1)
    np.testing.assert_allclose(found.timestamps, 0.1 * np.arange(N))
    with pytest.raises(VideoError, match="animated WebP image, which cannot be read: convert it to mp4"):
        tracker.track(tmp_path / "a.webp")


def test_what_is_no_video_is_refused_for_the_true_reason(tracker: FaceTracker, tmp_path: Path) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(300))
    with pytest.raises(VideoError, match="HEIC or AVIF image, which cannot be read: convert it to JPEG"):
        tracker.track(tmp_path / "IMG_1.HEIC")
    with pytest.raises(ImageError, match="move the channels to the end"):
        tracker.track(np.zeros((5, 3, 32, 40), np.uint8))


def test_tensors_of_other_libraries_are_frames(
    frames: np.ndarray, tracker: FaceTracker, tracks: Tracks
) -> None:
    torch = pytest.importorskip("torch")
    found = tracker.track(torch.from_numpy(frames))
    np.testing.assert_array_equal(found.landmarks, tracks.landmarks)


def test_overlays_of_pictures_have_no_sound(frames: np.ndarray, tracker: FaceTracker, tmp_path: Path) -> None:
    for number, frame in enumerate(frames):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), frame[:, :, ::-1])
    write_overlay(tmp_path / "o.mp4", tmp_path, tracker.track(tmp_path))
    with open_video(tmp_path / "o.mp4") as overlay:
        assert len(overlay) == N


def with_a_tone(path: Path, frames: np.ndarray, codec: str, sound: str, first: int = 0) -> Path:
    """Write frames from number `first` on, at 25 a second, with a second of silence from there on."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        audio = container.add_stream(sound, rate=48000, layout="mono")
        for number, picture in enumerate(frames, first):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.int16), format="s16", layout="mono")
        tone.sample_rate, tone.pts, tone.time_base = 48000, 1920 * first, Fraction(1, 48000)
        size = audio.codec_context.frame_size or 1024
        resampler = av.AudioResampler(audio.codec_context.format, "mono", 48000, size)
        for part in [*resampler.resample(tone), *resampler.resample(None)]:
            container.mux(audio.encode(part))
        container.mux(audio.encode())
    return path


SOUNDS = {
    "Opus in mov": ("v.webm", "libvpx", "libopus", "o.mov", False),
    "Opus in avi": ("v.webm", "libvpx", "libopus", "o.avi", False),
    "Opus in mp4": ("v.webm", "libvpx", "libopus", "o.mp4", True),
    "FLAC in mov": ("v.mkv", "ffv1", "flac", "o.mov", False),
    "PCM in mp4": ("v.avi", "mjpeg", "pcm_s16le", "o.mp4", True),
}


@pytest.mark.parametrize("kind", SOUNDS)
def test_sound_that_a_file_cannot_hold_is_left_out_with_a_warning(
    kind: str, frames: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, codec, sound, overlay, held = SOUNDS[kind]
    path = with_a_tone(tmp_path / video, frames, codec, sound)
    words = ["track", str(path), "-o", str(tmp_path / "t.csv"), "--refine", "off"]
    assert cli.main([*words, "--overlay", str(tmp_path / overlay)]) == 0
    assert ("cannot be copied to" in capsys.readouterr().err) != held
    with av.open(str(tmp_path / overlay)) as container:
        assert bool(container.streams.audio) == held
        assert sum(1 for _ in container.decode(video=0)) == N


def test_a_recording_that_begins_late_keeps_sound_and_times(frames: np.ndarray, tmp_path: Path) -> None:
    path = with_a_tone(tmp_path / "v.ts", np.repeat(frames, 6, axis=0), "mpeg2video", "aac", first=250)
    words = ["track", str(path), "-o", str(tmp_path / "t.npz"), "--refine", "off", "--from", "0.2"]
    assert cli.main([*words, "--to", "0.4", "--overlay", str(tmp_path / "o.mp4")]) == 0
    assert Tracks.load(tmp_path / "t.npz").frame_indices.tolist() == [5, 6, 7, 8, 9]
    with av.open(str(tmp_path / "o.mp4")) as container:
        heard = [packet for packet in container.demux(audio=0) if packet.pts is not None]
        end = float((heard[-1].pts + heard[-1].duration) * heard[-1].time_base)
    assert end == pytest.approx(0.2, abs=0.03)


def test_pictures_of_phones_are_upright(frames: np.ndarray, tracker: FaceTracker, tmp_path: Path) -> None:
    paths = [tmp_path / f"IMG_{number}.jpg" for number in range(N)]
    for path, frame in zip(paths, frames, strict=True):
        picture = Image.fromarray(np.rot90(frame))
        note = picture.getexif()
        note[0x112] = 6  # to be turned by 90 degrees
        picture.save(path, quality=98, exif=note)
    plain = FaceTracker(settings={"refine": "off", "pfld_every": 1}, threads=1)  # as pictures are tracked
    right = plain.track(frames).landmarks[:, 0]
    for source in (tmp_path, paths, [str(path) for path in paths]):
        assert apart(tracker.track(source).landmarks[:, 0], right) < 0.1
    assert apart(tracker.fit(paths[0]).landmarks, right[:1]) < 0.2


@pytest.mark.parametrize("other", ["smaller", "broken"])
def test_pictures_and_frames_that_do_not_fit_are_left_out(
    other: str, frames: np.ndarray, tracker: FaceTracker, tracks: Tracks, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(N)]
    for path, frame in zip(paths, frames, strict=True):
        assert cv2.imwrite(str(path), frame[:, :, ::-1])
    if other == "smaller":
        assert cv2.imwrite(str(paths[1]), frames[1, ::2, ::2, ::-1])
    else:
        paths[1].write_text("no picture")
    arrays = [frames[0], frames[1, ::2, ::2], *frames[2:]]
    for source in (paths, arrays, iter(arrays)) if other == "smaller" else (paths,):
        found = tracker.track(source)
        assert found.present[:, 0].tolist() == [True, False, True, True]
        (said,) = found.warnings
        assert ("Frame 1 has 120 x 120 px, the first 240 x 240" if other == "smaller" else "1.png") in said
        assert apart(found.landmarks[2:, 0], tracks.landmarks[2:, 0]) < 1  # of smoothing
    assert tracker.track(iter(paths[2:])).present.all()


def test_times_in_milliseconds_are_doubted(tracks: Tracks) -> None:
    assert not any("milliseconds" in said for said in measure(tracks).warnings)
    late = dataclasses.replace(tracks, timestamps=1000 * tracks.timestamps)
    assert "The frames are 40 s apart" in measure(late).warnings[-1]


PICTURES = {
    "cmyk.jpg": lambda picture: picture.convert("CMYK"),
    "cmyk.tif": lambda picture: picture.convert("CMYK"),
    "palette.png": lambda picture: picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=256),
    "grey with alpha.png": lambda picture: picture.convert("LA"),
    "alpha.tif": lambda picture: picture.convert("RGBA"),
    "float.tif": lambda picture: picture.convert("F"),
    "32 bits.tif": lambda picture: picture.convert("I"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_every_kind_are_read(
    name: str, frames: np.ndarray, tracker: FaceTracker, tmp_path: Path
) -> None:
    PICTURES[name](Image.fromarray(frames[0])).save(tmp_path / name)
    right = tracker.track(frames[:1]).landmarks[0]
    assert apart(tracker.track(tmp_path / name).landmarks[0], right) < 0.7  # of grey ones 0.5


class OfDecord:
    """A reader without a shape, whose frames are arrays of its own."""

    def __init__(self, frames: np.ndarray) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, number: int) -> Any:
        return SimpleNamespace(asnumpy=lambda: self._frames[number])


OBJECTS = {
    "decord": OfDecord,
    "PIL": lambda frames: [Image.fromarray(frame) for frame in frames],
    "xarray": lambda frames: pytest.importorskip("xarray").DataArray(frames, dims=("t", "y", "x", "c")),
    "masked": np.ma.masked_array,
    "64 bits": lambda frames: frames.astype(np.int64),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_frames_of_other_libraries(
    kind: str, frames: np.ndarray, tracker: FaceTracker, tracks: Tracks
) -> None:
    found = tracker.track(OBJECTS[kind](frames), fps=25)
    np.testing.assert_array_equal(found.landmarks, tracks.landmarks)


def test_datasets_of_hdf5_are_frames(
    frames: np.ndarray, tracker: FaceTracker, tracks: Tracks, tmp_path: Path
) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        found = tracker.track(file.create_dataset("frames", data=frames), fps=25)
    np.testing.assert_array_equal(found.landmarks, tracks.landmarks)


@pytest.mark.parametrize(
    ("codec", "pix", "kind"), [("qtrle", "argb", "argb"), ("rawvideo", "bgr24", "rgb24")]
)
def test_transparent_and_uncompressed_videos(
    codec: str, pix: str, kind: str, frames: np.ndarray, tracker: FaceTracker, tracks: Tracks, tmp_path: Path
) -> None:
    opaque = np.full((*frames.shape[:3], 1), 255, np.uint8)
    pictures = np.concatenate([opaque, frames], axis=3) if kind == "argb" else frames
    path = write(tmp_path / ("v.mov" if codec == "qtrle" else "v.avi"), pictures, kind, codec, pix)
    np.testing.assert_allclose(tracker.track(path).landmarks, tracks.landmarks, atol=0.01)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("https://example.org/v.mp4", r"https:/example\.org/v\.mp4 is an address, and only files are read"),
        ("rtsp://camera/1", "is an address, and only files are read: download it, or pipe the"),
        ("file:///home/me/v.mp4", "give the path without file://"),
        ("v.npy", "is a NumPy array: track it in a script"),
    ],
)
def test_addresses_and_arrays_are_refused_for_the_true_reason(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("v.npy", np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(VideoError, match=reason):
        open_video(name)


@pytest.mark.usefixtures("jobs_here")
@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_what_macs_and_links_add_to_a_folder_is_no_video(frames: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    write_video(folder / "v.mkv", frames, fps=25)
    (folder / "._v.mkv").write_bytes(b"\0\5\x16\7" + bytes(4000))
    (folder / ".DS_Store").touch()
    (folder / "broken.mp4").symlink_to(tmp_path / "gone.mp4")
    (folder / "sub" / "loop").symlink_to(folder)
    assert cli.main(["batch", str(folder), "-o", str(tmp_path / "out"), "--refine", "off"]) == 0
    assert [path.name for path in (tmp_path / "out").rglob("*.csv")].count("v.csv") == 1


TABLES = {
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 with tabs": lambda text: text.replace(",", "\t").encode("utf-16"),
    "empty lines at the end": lambda text: f"{text}\r\n\n".encode(),
    "a note for Excel": lambda text: f"sep=,\n{text}".encode(),
    "quotes": lambda text: "\r\n".join(
        ",".join(f'"{cell}"' for cell in line.split(",")) for line in text.splitlines()
    ).encode(),
}


@pytest.mark.parametrize(
    ("kind", "format_"),
    [*((kind, "openface") for kind in TABLES), ("UTF-16", "tidy-csv"), ("UTF-16", "deeplabcut-csv")],
)
def test_tables_saved_by_other_programs_are_read(
    kind: str, format_: str, tracks: Tracks, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    tracks.save(path, format_)
    path.write_bytes(TABLES[kind](path.read_text(encoding="utf-8")))
    np.testing.assert_array_equal(Tracks.load(path).landmarks, tracks.landmarks)


def test_what_is_no_number_in_openfaces_tables_is_a_missing_landmark(tracks: Tracks, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    tracks.save(path)
    lines = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    lines[2][lines[0].index("x_5")] = "-nan(ind)"
    path.write_text("\n".join(map(",".join, lines)), encoding="utf-8")
    found = Tracks.load(path)
    assert np.argwhere(np.isnan(found.landmarks[..., 0])).tolist() == [[1, 0, 5]]
    lines[3][lines[0].index("x_5")] = "wide"
    path.write_text("\n".join([*map(",".join, lines[:3]), "", ",".join(lines[3])]), encoding="utf-8")
    with pytest.raises(ResultError, match="too few values in line 4"):
        Tracks.load(path)


def test_unique_bodyparts_of_deeplabcut_are_of_no_face(tracks: Tracks, tmp_path: Path) -> None:
    names = [("me", f"p{i}", c) for i in range(68) for c in ("x", "y", "likelihood")]
    columns = pd.MultiIndex.from_tuples(
        [("scorer", *name) for name in (*names, *(("single", "badge", c) for c in ("x", "y", "likelihood")))],
        names=["scorer", "individuals", "bodyparts", "coords"],
    )
    points = np.concatenate([tracks.landmarks[:, 0], np.ones((N, 68, 1))], axis=2).reshape(N, -1)
    table = pd.DataFrame(np.hstack([points, np.ones((N, 3))]), columns=columns)
    table.to_csv(tmp_path / "t.csv")
    found = Tracks.load(tmp_path / "t.csv")
    assert found.n_faces == 1
    np.testing.assert_allclose(found.landmarks, tracks.landmarks, atol=1e-3)
    table.drop(columns=[("scorer", "me", "p3", "x")]).to_csv(tmp_path / "t.csv")
    with pytest.raises(ResultError, match=r"lacks x, y or likelihood of me, p3|under"):
        Tracks.load(tmp_path / "t.csv")


def test_a_matroska_file_that_ends_before_its_declared_end_is_named(tmp_path: Path) -> None:
    path = tmp_path / "v.mkv"
    write_video(path, np.random.default_rng(0).integers(0, 255, (50, 64, 64, 3), dtype=np.uint8), fps=25)
    with open_video(path) as whole:
        assert whole.info.warnings == ()
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    path.write_bytes(content)
    with pytest.warns(VideoWarning, match=r"declares 2\.0 s, of which 0\.\d s can be read"):
        open_video(path).close()


@pytest.mark.parametrize("every", [0, -1, 2.5, None, float("inf"), "3"])
def test_every_is_a_whole_number(every: object) -> None:
    with pytest.raises(ImageError, match="give a whole number of frames"):
        open_source(np.zeros((4, 8, 8), np.uint8), every=every)  # type: ignore[arg-type]
