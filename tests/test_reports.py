"""Kinds of input that users of other tools reported: read right, or refused for the true reason."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from napari_face_landmarks import FaceTracker, Tracks, cli
from napari_face_landmarks.errors import ImageError, ResultError, VideoError
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
    np.testing.assert_allclose(found.landmarks, tracks.landmarks, atol=0.01)
    np.testing.assert_allclose(found.timestamps, 0.1 * np.arange(N))
    with pytest.raises(VideoError, match="animated WebP picture, which cannot be read: convert it to mp4"):
        tracker.track(tmp_path / "a.webp")


def test_what_is_no_video_is_refused_for_the_true_reason(tracker: FaceTracker, tmp_path: Path) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(300))
    with pytest.raises(VideoError, match="HEIC or AVIF picture, which cannot be read: convert it to JPEG"):
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
    with pytest.raises(ImageError, match="give the number of frames from one to the next"):
        open_source(np.zeros((4, 8, 8), np.uint8), every=every)  # type: ignore[arg-type]
