"""Whatever is given to the command line: one sentence, no traceback, and nothing that was there is lost."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from fuzzing import DESCRIPTION, cen_file, faces_file, small_network, small_tracks
from napari_face_landmarks import Tracks, cli
from napari_face_landmarks.io import FORMATS
from napari_face_landmarks.models import bundle_folder
from napari_face_landmarks.models.bundle import file_entry
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.video import write_video
from test_tracking import moving
from test_video import clip as make_test_clip
from test_video import make_clip

Words = list[str]
OLD = b"what was there before\n"
N_FRAMES = 8


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a good clip and good results."""
    folder = tmp_path_factory.mktemp("shelf")
    write_video(folder / "good.mp4", moving(N_FRAMES)[0], fps=25)
    small_tracks().save(folder / "good.npz")
    small_tracks().save(folder / "good.csv")
    faces_file(folder / "faces.npz")
    return folder


@pytest.fixture
def here(shelf: Path, tmp_path: Path) -> Path:
    """Return a folder to work in with the shelf's files, and an output that must survive what goes wrong."""
    for path in shelf.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / "out.csv").write_bytes(OLD)
    return tmp_path


def track(video: Path | str, out: str = "out.csv", *more: str) -> Words:
    return ["track", str(video), "-o", out, *more]


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("mp2", rate=44100)
        piece = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
        piece.sample_rate, piece.pts = 44100, 0
        out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return path


def without_frames(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        out.start_encoding()
    return path


def huge_frames(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16384, 8192, "gray"
        out.start_encoding()
    return path


def picture(path: Path) -> Path:
    cv2.imwrite(str(path.with_suffix(".png")), np.zeros((20, 20, 3), np.uint8))
    return path.with_suffix(".png").rename(path)


def linked(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def bundle_with(folder: Path, name: str, content: bytes) -> Path:
    """Return a bundle one of whose files is another, for which its card vouches."""
    shutil.copytree(bundle_folder("open"), folder)
    (folder / name).write_bytes(content)
    if name != "model_card.json":
        card = json.loads((folder / "model_card.json").read_text())
        card["files"][name] = file_entry(folder / name)
        (folder / "model_card.json").write_text(json.dumps(card))
    return folder


def own_network(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "net.onnx").write_bytes(small_network())
    (folder / "pfld.json").write_text(json.dumps({**DESCRIPTION, **changes}))
    return folder


def cen_of(folder: Path) -> bytes:
    cen_file(folder / "cen.npz")
    content = (folder / "cen.npz").read_bytes()
    return content[: len(content) // 2]


VIDEOS: dict[str, Callable[[Path], Words]] = {
    "an empty file": lambda d: track(write(d / "v.mp4", b"")),
    "text": lambda d: track(write(d / "v.mp4", "Dear Sir or Madam,\n" * 50)),
    "noise": lambda d: track(write(d / "v.avi", np.random.default_rng(0).bytes(9000))),
    "an mp4 cut before its table": lambda d: track(write(d / "v.mp4", (d / "good.mp4").read_bytes()[:3000])),
    "an archive": lambda d: track(shutil.copy(d / "good.npz", d / "v.mp4")),
    "a picture": lambda d: track(picture(d / "v.mp4")),
    "sound only": lambda d: track(sound_only(d / "v.mkv")),
    "no frames": lambda d: track(without_frames(d / "v.mkv")),
    "a folder": lambda d: track(d),
    "no such file": lambda d: track(d / "none.mp4"),
    "a name with a zero": lambda d: track(f"{d}/v\0.mp4"),
    "a name that is too long": lambda d: track(f"{d}/{'v' * 300}.mp4"),
    "a link to nothing": lambda d: track(linked(d / "v.mp4", d / "nothing")),
    "a link to itself": lambda d: track(linked(d / "v.mp4", d / "v.mp4")),
    "a playlist": lambda d: track(write(d / "v.mp4", "#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n")),
    "an address": lambda d: track("http://127.0.0.1:9/v.mp4"),
    "frames larger than any": lambda d: track(huge_frames(d / "v.mkv")),
    "results for a video": lambda d: track(d / "good.csv"),
    "a pipe": lambda d: track(pipe(d / "v.mp4")),
}
RESULTS: dict[str, Callable[[Path], Words]] = {
    "no such results": lambda d: ["convert", str(d / "none.npz"), "out.csv"],
    "results that are a folder": lambda d: ["convert", str(d), "out.csv"],
    "results that are a pipe": lambda d: ["convert", str(pipe(d / "r.csv")), "out.csv"],
    "empty results": lambda d: ["convert", str(write(d / "r.npz", b"")), "out.csv"],
    "half of an archive": lambda d: [
        "convert", str(write(d / "r.npz", (d / "good.npz").read_bytes()[:900])), "out.csv"
    ],
    "a table cut in a row": lambda d: [
        "convert", str(write(d / "r.csv", (d / "good.csv").read_bytes()[:-300])), "out.csv"
    ],
    "a table of others": lambda d: ["convert", str(write(d / "r.csv", "a,b\n1,2\n")), "out.csv"],
    "a table that is no text": lambda d: [
        "convert", str(write(d / "r.csv", bytes(range(256)) * 9)), "out.csv"
    ],
    "results of no format": lambda d: ["convert", str(write(d / "r.xyz", "1")), "out.csv"],
    "a format that is none": lambda d: ["convert", str(d / "good.npz"), "out.csv", "--format", "excel"],
    "an HDF5 file of nothing": lambda d: ["convert", str(write(d / "r.h5", b"\x89HDF\r\n\x1a\n")), "out.csv"],
    "points of another number": lambda d: [
        "convert", str(write(d / "r.pts", "version: 1\nn_points: 2\n{\n1 1\n2 2\n}\n")), "out.csv"
    ],
    "an archive of nothing": lambda d: ["convert", str(archive(d / "r.zip")), "out.csv"],
    "the file itself": lambda d: ["convert", str(d / "good.npz"), str(d / "good.npz")],
    "faces that are none": lambda d: ["evaluate", str(write(d / "f.npz", "x"))],
    "faces of another form": lambda d: ["evaluate", str(d / "good.npz")],
    "no such faces": lambda d: ["evaluate", str(d / "none.npz")],
}  # fmt: skip
MODELS: dict[str, Callable[[Path], Words]] = {
    "no such models": lambda d: track(d / "good.mp4", "out.csv", "--models", str(d / "none")),
    "models that are a file": lambda d: track(d / "good.mp4", "out.csv", "--models", str(d / "good.csv")),
    "an empty folder of models": lambda d: track(d / "good.mp4", "out.csv", "--models", str(made(d / "m"))),
    "a card that is no JSON": lambda d: track(
        d / "good.mp4", "out.csv", "--models", str(bundle_with(d / "m", "model_card.json", b"{"))
    ),
    "a detector that is no network": lambda d: track(
        d / "good.mp4", "out.csv", "--models", str(bundle_with(d / "m", "detector.onnx", b"\x08\x08" * 99))
    ),
    "a detector that is another network": lambda d: track(
        d / "good.mp4", "out.csv", "--models", str(bundle_with(d / "m", "detector.onnx", small_network()))
    ),
    "a PFLD that is another network": lambda d: track(
        d / "good.mp4", "out.csv", "--models", str(bundle_with(d / "m", "pfld.onnx", small_network()))
    ),
    "half of the patch experts": lambda d: track(
        d / "good.mp4", "out.csv", "--models", str(bundle_with(d / "m", "cen.npz", cen_of(d)))
    ),
    "a shape model that is text": lambda d: track(
        d / "good.mp4", "out.csv", "--models", str(bundle_with(d / "m", "pdm.npz", b"0 0 0"))
    ),
    "a description with a path": lambda d: track(
        d / "good.mp4", "out.csv", "--models", str(own_network(d / "m", file="../net.onnx"))
    ),
    "a description of other points": lambda d: track(
        d / "good.mp4", "out.csv", "--models", str(own_network(d / "m", points=98)), "--refine", "off"
    ),
}
OUTPUTS: dict[str, Callable[[Path], Words]] = {
    "an output that is a folder": lambda d: track(d / "good.mp4", str(made(d / "o.csv"))),
    "an output below a file": lambda d: track(d / "good.mp4", str(d / "good.csv" / "o.csv")),
    "an output where nothing can be written": lambda d: track(d / "good.mp4", "/proc/o.csv"),
    "an output whose name is too long": lambda d: track(d / "good.mp4", str(d / ("o" * 300 + ".csv"))),
    "an output that is the video": lambda d: track(
        d / "good.mp4", "out.csv", "--overlay", str(d / "good.mp4")
    ),
    "an output of no format": lambda d: track(d / "good.mp4", str(d / "o.doc")),
    "a setting out of its range": lambda d: track(d / "good.mp4", "out.csv", "--search-radius", "99"),
    "a setting that is no number": lambda d: track(d / "good.mp4", "out.csv", "--search-radius", "nan"),
}
BAD = {**VIDEOS, **RESULTS, **MODELS, **OUTPUTS}


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def archive(path: Path) -> Path:
    with zipfile.ZipFile(path, "w"):
        pass
    return path


def assert_sentence(text: str) -> None:
    """Check that stderr ends in one sentence of the program, with notices before it at most."""
    assert "Traceback" not in text
    lines = [line for line in text.strip().splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("napari-face-landmarks: ")]
    assert len(told) == 1, text
    assert told == lines[-1:]
    assert told[0].endswith(".")
    assert len(told[0]) < 1200


def kept(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def test_forty_bad_inputs_at_least() -> None:
    assert len(BAD) >= 40


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_loses_nothing(
    case: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with inside(here):
        words = BAD[case](here)
        before = kept(here)
        assert cli.main(words) == 2
        after = kept(here)
    assert_sentence(capsys.readouterr().err)
    assert after == before


@pytest.mark.parametrize("case", ["text", "a PFLD that is another network"])
def test_bad_input_is_one_sentence_in_a_process_of_its_own(case: str, here: Path) -> None:
    words = BAD[case](here)
    before = kept(here)
    program = [sys.executable, "-m", "napari_face_landmarks", *words]
    done = subprocess.run(program, cwd=here, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 2
    assert_sentence(done.stderr)
    assert kept(here) == before


def same(path: Path) -> Path:
    return path


STRANGE = {
    "constant.mp4": "plain",
    "jittered.mkv": "variable frame rate",
    "ten_bit.mp4": "10 bit",
    "grey.mkv": "grey",
    "alpha.mov": "alpha",
    "odd.mkv": "odd size",
    "open_gop.mkv": "open groups of pictures",
}


@pytest.mark.parametrize("name", STRANGE, ids=STRANGE.get)
def test_strange_but_whole_videos_are_tracked(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = make_test_clip(here, name)
    status = cli.main(track(video, str(here / "t.npz")))
    text = capsys.readouterr().err
    assert status == 2
    assert "No face was detected" in text  # they show blocks
    assert Tracks.load(here / "t.npz").n_frames == 60


def test_one_frame_one_pixel_and_names_of_any_letters(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = moving(1)[0]
    video = here / "Gesicht 顔 лицо 😀 'quoted' %d.mp4"
    write_video(video, frames, fps=25)
    out = here / "Ergebnis 顔 %s.csv"
    assert cli.main(track(video, str(out))) == 0
    assert Tracks.load(out).n_frames == 1
    make_pixel(here / "pixel.mkv")
    assert cli.main(track(here / "pixel.mkv", str(here / "pixel.csv"))) == 2
    assert "No face was detected" in capsys.readouterr().err
    assert Tracks.load(here / "pixel.csv").n_frames == 2


def make_pixel(path: Path) -> None:
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 1, 1, "bgr0"
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(np.full((1, 1, 3), 90 * number, np.uint8), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def test_interlaced_video_is_read_whole(here: Path) -> None:
    from napari_face_landmarks.video import open_video

    make_clip(here / "v.mpg", "mpeg2video", 20, options={"flags": "+ildct+ilme"})
    with open_video(here / "v.mpg") as video:
        assert len(list(video.frames())) == len(video) == 20


def spoil(path: Path, bad: tuple[int, ...], part: Callable[[int], tuple[int, bytes]]) -> None:
    """Write over a part of some frames' packets: from where in one of so many bytes, and what."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number in bad:
        place, size = places[number]
        assert place is not None
        first, scribble = part(size)
        data[place + first : place + first + len(scribble)] = scribble
    path.write_bytes(data)


def damaged_clip(path: Path, bad: tuple[int, ...]) -> None:
    """Write a face's clip some of whose frames are nothing but zeros."""
    frames = moving(N_FRAMES)[0]
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 240, 240, "yuvj420p"
        stream.codec_context.qmin = stream.codec_context.qmax = 2
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    spoil(path, bad, lambda size: (0, bytes(size)))


def test_damaged_frames_are_marked_and_tracking_goes_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged_clip(here / "v.mov", (3, 4))
    assert cli.main(track(here / "v.mov", str(here / "t.npz"))) == 0
    tracks = Tracks.load(here / "t.npz")
    assert tracks.present[:, 0].tolist() == [True] * 3 + [False] * 2 + [True] * 3
    assert tracks.stats.completed
    assert [text for text in tracks.warnings if "damaged" in text] == [
        f"Frame {k} is damaged: it has no landmarks, and the run continues." for k in (3, 4)
    ]
    assert "Warning: Frame 3 is damaged" in capsys.readouterr().err


def mended_clip(path: Path, bad: tuple[int, ...], n_frames: int = N_FRAMES) -> None:
    """Write a face's clip in some of whose frames the middle is scribbled on; the decoder makes do."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 240, 240, "yuv420p"
        stream.bit_rate, stream.codec_context.gop_size = 4_000_000, 4
        for frame in moving(n_frames)[0]:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    spoil(path, bad, lambda size: (size // 2, bytes(range(1, 21))))


def test_frames_that_the_decoder_mended_are_told_in_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from napari_face_landmarks import FaceTracker, TrackerSettings
    from napari_face_landmarks.tracking.state import state_from_bytes, state_to_bytes

    mended_clip(here / "whole.mov", ())
    mended_clip(here / "one.mov", (7,))
    mended_clip(here / "many.mov", (1, 2, 3, 5, 6, 7))
    tracker = FaceTracker("open", TrackerSettings(refine="off"), threads=1)
    assert tracker.track(here / "whole.mov").warnings == ()
    assert tracker.track(here / "one.mov", stop=7).warnings == ()
    assert tracker.track(here / "one.mov").warnings == (
        "Frame 7 is partly damaged: the decoder concealed errors, and its landmarks may be wrong.",
    )
    assert cli.main(track(here / "many.mov", str(here / "t.npz"))) == 0
    tracks = Tracks.load(here / "t.npz")
    assert tracks.present.all()
    assert tracks.warnings == (
        "6 frames are partly damaged (1, 2, 3, 5, 6 and 1 more): the decoder concealed errors, and "
        "their landmarks may be wrong.",
    )
    assert f"Warning: {tracks.warnings[0]}" in capsys.readouterr().err
    run = tracker.track_frames(here / "many.mov")
    results = [next(run) for _ in range(3)]
    assert tracker.last_run is not None
    state = tracker.last_run.state()
    run.close()
    assert "2 frames are partly damaged (1, 2):" in tracker.collect(results).warnings[0]
    assert state is not None
    again = FaceTracker("open", TrackerSettings(refine="off"), threads=2)
    results += again.track_frames(here / "many.mov", state=state_from_bytes(state_to_bytes(state)))
    assert again.collect(results).warnings == tracks.warnings


FULL_DISK = """
import contextlib, io, json, resource, sys
from napari_face_landmarks import Tracks, cli
from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.visualization import write_overlay

tracks = Tracks.load("good.npz")
resource.setrlimit(resource.RLIMIT_FSIZE, (700, resource.RLIM_INFINITY))
answers = {}
for name in sys.argv[1:]:
    with contextlib.redirect_stderr(io.StringIO()) as told:
        try:
            if name == "old.mp4":
                status = write_overlay(name, "good.mp4", tracks)
            else:
                status = cli.main(["convert", "good.npz", name])
        except FaceLandmarksError as error:
            status = 2
            print(f"napari-face-landmarks: {error}", file=sys.stderr)
    answers[name] = status, told.getvalue()
print(json.dumps(answers))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such limits there")
def test_a_full_disk_leaves_the_old_file_and_no_half_of_a_new_one(here: Path) -> None:
    names = ["old.mp4"]
    for item in FORMATS:
        if item.name != "pts" and all(importlib.util.find_spec(library) for library in item.needs):
            names.append(f"old{item.suffixes[0]}")
    assert len(names) >= 5
    for name in names:
        (here / name).write_bytes(OLD)
    program = [sys.executable, "-c", FULL_DISK, *names]
    done = subprocess.run(program, cwd=here, capture_output=True, text=True, check=False, timeout=250)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-1000:]
    for name, (status, told) in json.loads(done.stdout).items():
        assert status == 2, name
        assert_sentence(told)
        assert (here / name).read_bytes() == OLD, name
    assert [path.name for path in here.iterdir() if path.name.startswith(".")] == []


def test_pixels_that_do_not_use_their_range_are_reported_once() -> None:
    from napari_face_landmarks import FaceTracker, TrackerSettings

    frames = moving(4)[0]
    tracker = FaceTracker("open", TrackerSettings(refine="off"), threads=1)
    expected = tracker.track(frames)
    assert expected.warnings == ()
    tracks = tracker.track(frames.astype(np.uint16))
    np.testing.assert_allclose(tracks.landmarks, expected.landmarks)
    (sentence,) = tracks.warnings
    assert "uint16" in sentence
    assert "255 as white" in sentence
    run = tracker.track_frames(frames.astype(np.uint16))
    next(run)
    state = tracker.last_run and tracker.last_run.state()
    run.close()
    list(tracker.track_frames(frames.astype(np.uint16), state=state))
    assert tracker.last_run is not None
    assert tuple(tracker.last_run.warnings) == tracks.warnings


def test_pixels_that_are_no_numbers_and_odd_types() -> None:
    from napari_face_landmarks import FaceTracker, TrackerSettings

    frames = moving(4)[0]
    tracker = FaceTracker("open", TrackerSettings(refine="off"), threads=1)
    expected = tracker.track(frames).landmarks
    for value in (np.nan, np.inf, -np.inf):
        spoilt = frames / 255.0
        spoilt[1, 3, 4, 2] = value
        tracks = tracker.track(spoilt)
        assert tracks.present[:, 0].tolist() == [True, False, True, True]
        assert "not finite" in tracks.warnings[0]
    for kind, factor in ((np.int16, 128), (np.uint32, (1 << 32) // 255), (np.int64, (1 << 63) // 256)):
        other = (
            (frames.astype(object) * factor).astype(kind)
            if kind is np.int64
            else frames.astype(kind) * kind(factor)
        )
        found = tracker.track(other).landmarks
        np.testing.assert_allclose(found, expected, atol=0.5)
    for bad in (frames.astype(np.complex64), frames.astype("datetime64[s]"), frames.astype(object)):
        tracks = tracker.track(bad)
        assert not tracks.present.any()
        assert "give bool, integer or float pixels" in tracks.warnings[0]
