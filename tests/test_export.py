"""Export: the CSV says all and is OpenFace's; pictures show the landmarks where they are."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_face_landmarks import io, visualization
from napari_face_landmarks.data.fields import CARRIED, CLNF, MANUAL, NONE, PFLD, SOURCES
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ImageError, ResultError
from napari_face_landmarks.files.atomic import check_writable, replacing
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.video import open_video, write_video
from napari_face_landmarks.visualization import OverlayStyle, draw_landmarks, overlay
from napari_face_landmarks.visualization.colours import PART_COLOURS
from napari_face_landmarks.visualization.contact_sheet import overlay_frames
from napari_face_landmarks.visualization.video_files import frame_rate
from planted import good_tracks

ARRAYS = (
    "landmarks",
    "confidence",
    "source",
    "pose",
    "boxes",
    "misfit",
    "frame_indices",
    "timestamps",
    "by_hand",
)


def make_tracks(n_frames: int = 6, n_faces: int = 1, first: int = 0, seed: int = 0) -> Tracks:
    """Return faces of no particular shape; the second frame is empty."""
    random = np.random.default_rng(seed)
    source = random.integers(PFLD, MANUAL, (n_frames, n_faces), endpoint=True).astype(np.uint8)
    source[1:2] = NONE
    there = source > NONE
    landmarks = random.uniform(20, 100, (n_frames, n_faces, 68, 2)).astype(np.float32)
    landmarks[~there] = np.nan
    pose = random.normal(size=(n_frames, n_faces, 6)).astype(np.float32)
    pose[..., 0] = np.abs(pose[..., 0]) + 0.5
    pose[~there] = np.nan
    boxes = random.uniform(0, 1, (n_frames, n_faces, 5)).astype(np.float32)
    boxes[~there] = np.nan
    confidence = random.uniform(0, 1, (n_frames, n_faces, 68)).astype(np.float32)
    confidence[~there] = 0
    misfit = random.uniform(0, 0.2, (n_frames, n_faces, 2)).astype(np.float32)
    misfit[~there] = np.nan
    by_hand = (random.uniform(size=(n_frames, n_faces, 68)) < 0.05) & there[..., None]
    return Tracks(
        landmarks=landmarks,
        confidence=confidence,
        source=source,
        pose=pose,
        boxes=boxes,
        frame_indices=np.arange(first, first + n_frames),
        timestamps=np.arange(first, first + n_frames) / 29.97,
        meta={"height": 120, "width": 160},
        misfit=misfit,
        by_hand=by_hand,
    )


def assert_same(left: Tracks, right: Tracks) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


@pytest.mark.parametrize(("n_frames", "n_faces", "first"), [(6, 1, 0), (1, 1, 0), (5, 3, 40), (5000, 1, 0)])
def test_csv_round_trip_is_exact(tmp_path: Path, n_frames: int, n_faces: int, first: int) -> None:
    tracks = make_tracks(n_frames, n_faces, first)
    io.write_csv(tmp_path / "t.csv", tracks)
    assert_same(io.read_csv(tmp_path / "t.csv"), tracks)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-20, 20))
def test_csv_round_trip_of_any_magnitude(
    tmp_path_factory: pytest.TempPathFactory, seed: int, exponent: int
) -> None:
    tracks = make_tracks(2, 1, seed=seed)
    tracks.landmarks[...] *= np.float32(2.0**exponent)
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    io.write_csv(path, tracks)
    assert_same(io.read_csv(path), tracks)


def test_csv_header_is_openfaces(tmp_path: Path) -> None:
    io.write_csv(tmp_path / "t.csv", make_tracks())
    header = (tmp_path / "t.csv").read_text().splitlines()[0]
    wanted = ["frame", "face_id", "timestamp", "confidence", "success"]
    wanted += ["pose_Tx", "pose_Ty", "pose_Tz", "pose_Rx", "pose_Ry", "pose_Rz"]
    wanted += [f"x_{i}" for i in range(68)] + [f"y_{i}" for i in range(68)]
    wanted += ["p_scale", "p_rx", "p_ry", "p_rz", "p_tx", "p_ty"]
    assert header.startswith(",".join(wanted) + ",")


def test_csv_as_a_reader_of_openface_reads_it(tmp_path: Path) -> None:
    tracks = make_tracks(4, 1, first=9)
    io.write_csv(tmp_path / "t.csv", tracks)
    with open(tmp_path / "t.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["frame"] for row in rows] == ["10", "11", "12", "13"]
    assert [row["success"] for row in rows] == ["1", "0", "1", "1"]
    empty = {
        name: value
        for name, value in rows[1].items()
        if name not in ("frame", "timestamp", "source", "by_hand")
    }
    assert {float(value) for value in empty.values()} == {0.0}
    for t in (0, 2, 3):
        assert float(rows[t]["x_30"]) == pytest.approx(tracks.landmarks[t, 0, 30, 0])
        assert float(rows[t]["y_30"]) == pytest.approx(tracks.landmarks[t, 0, 30, 1])
        assert float(rows[t]["timestamp"]) == tracks.timestamps[t]
        assert float(rows[t]["confidence"]) == pytest.approx(tracks.confidence[t, 0].mean())
        scale, pitch, _, _, tx, _ = tracks.pose[t, 0]
        focal = (500 * 160 / 640 + 500 * 120 / 480) / 2
        assert float(rows[t]["pose_Tz"]) == pytest.approx(focal / scale, rel=1e-5)
        assert float(rows[t]["pose_Tx"]) == pytest.approx((tx - 80) / scale, rel=1e-4)
        assert float(rows[t]["pose_Rx"]) == pytest.approx(pitch)


def test_csv_leaves_out_the_place_where_the_size_is_unknown(tmp_path: Path) -> None:
    tracks = make_tracks()
    unknown = Tracks(**{name: getattr(tracks, name) for name in ARRAYS})
    io.write_csv(tmp_path / "t.csv", unknown)
    assert "pose_Tx" not in (tmp_path / "t.csv").read_text()
    assert_same(io.read_csv(tmp_path / "t.csv"), tracks)


def openface_file(path: Path, spaces: bool) -> pd.DataFrame:
    """Write what OpenFace writes: gaze before the pose, 3D points after, one or three decimals."""
    names = ["frame", "face_id", "timestamp", "confidence", "success", "gaze_0_x", "gaze_angle_x"]
    names += ["pose_Tx", "pose_Ty", "pose_Tz", "pose_Rx", "pose_Ry", "pose_Rz"]
    names += [f"{axis}_{i}" for axis in "xyXYZ" for i in range(68)]
    names += ["p_scale", "p_rx", "p_ry", "p_rz", "p_tx", "p_ty", "p_0", "AU01_r", "AU01_c"]
    table = pd.DataFrame(np.random.default_rng(1).uniform(1, 99, (3, len(names))).round(1), columns=names)
    table["frame"], table["face_id"] = [1, 2, 3], 0
    table["timestamp"], table["confidence"], table["success"] = (
        [0.0, 0.033, 0.067],
        [0.98, 0.02, 0.88],
        [1, 0, 1],
    )
    lines = [(", " if spaces else ",").join(names)]
    lines += [(", " if spaces else ",").join(f"{value:g}" for value in row) for row in table.to_numpy()]
    path.write_text("\n".join(lines) + "\n")
    return table


@pytest.mark.parametrize("spaces", [False, True], ids=["OpenFace 2", "before 2.1"])
def test_openfaces_own_files_are_read(tmp_path: Path, spaces: bool) -> None:
    table = openface_file(tmp_path / "o.csv", spaces)
    tracks = io.read_csv(tmp_path / "o.csv")
    assert tracks.landmarks.shape == (3, 1, 68, 2)
    assert np.isnan(tracks.landmarks[1]).all()
    assert tracks.source[:, 0].tolist() == [CLNF, NONE, CLNF]
    x = table[[f"x_{i}" for i in range(68)]].to_numpy(np.float32)
    np.testing.assert_array_equal(tracks.landmarks[[0, 2], 0, :, 0], x[[0, 2]])
    np.testing.assert_array_equal(tracks.confidence[:, 0, 5], np.float32([0.98, 0, 0.88]))
    assert tracks.pose[0, 0, 0] == np.float32(table["p_scale"][0])
    assert tracks.timestamps.tolist() == [0.0, 0.033, 0.067]


def test_csv_of_openface_without_optional_columns(tmp_path: Path) -> None:
    table = openface_file(tmp_path / "o.csv", spaces=False)
    dropped = [
        name for name in table if name.startswith("p_") or name in ("face_id", "success", "confidence")
    ]
    table.drop(columns=dropped).to_csv(tmp_path / "o.csv", index=False)
    tracks = io.read_csv(tmp_path / "o.csv")
    assert (tracks.confidence == 1).all()
    np.testing.assert_allclose(tracks.pose[0, 0, 1:4], table.loc[0, ["pose_Rx", "pose_Ry", "pose_Rz"]])
    assert np.isnan(tracks.pose[0, 0, 0])


def edited(path: Path, row: int, column: str, value: str) -> None:
    with open(path, newline="") as stream:
        rows = list(csv.reader(stream))
    rows[row][rows[0].index(column)] = value
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows(rows)


@pytest.mark.parametrize(
    ("column", "value", "part"),
    [
        ("frame", "0", "frame"),
        ("frame", "1.5", "frame"),
        ("frame", "1e300", "frame"),
        ("frame", "", "frame"),
        ("face_id", "-1", "face_id"),
        ("face_id", "1000000000", "face_id"),
        ("success", "7", "success"),
        ("timestamp", "inf", "timestamp"),
        ("timestamp", "soon", "timestamp"),
        ("x_3", "left", "x_3"),
        ("y_67", "inf", "landmarks"),
        ("c_9", "2", "confidence"),
        ("c_67", "", "confidence"),
        ("source", "guess", "source"),
        ("frame", "1", "more than once"),
    ],
)
def test_malformed_csv_is_refused_in_one_sentence(tmp_path: Path, column: str, value: str, part: str) -> None:
    path = tmp_path / "t.csv"
    io.write_csv(path, make_tracks())
    edited(path, 3, column, value)
    with pytest.raises(ResultError, match=part) as caught:
        io.read_csv(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"frame\n",
        b"\x00" * 4096,
        b"\xff\xfe,\n1,2\n",
        b"a,b\n1,2\n",
        b"frame,timestamp," + b"x_0," * 2**20,
    ],
    ids=["empty", "one column", "binary", "not text", "other table", "endless header"],
)
def test_what_is_no_table_of_landmarks_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ResultError, match=r"t\.csv"):
        io.read_csv(tmp_path / "t.csv")


def test_csv_that_breaks_off_is_refused(tmp_path: Path) -> None:
    io.write_csv(tmp_path / "t.csv", make_tracks())
    whole = (tmp_path / "t.csv").read_bytes()
    header = whole.index(b"\n") + 1
    for length in (header, header + 100, len(whole) - 800):
        (tmp_path / "t.csv").write_bytes(whole[:length])
        with pytest.raises(ResultError):
            io.read_csv(tmp_path / "t.csv")


def test_csv_with_too_much_room_is_refused_before_it_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    io.write_csv(tmp_path / "t.csv", make_tracks())
    edited(tmp_path / "t.csv", 3, "face_id", "999")
    monkeypatch.setattr("napari_face_landmarks.io.common.SMALL_GRID", 16)
    with pytest.raises(ResultError, match="1000 faces on 6 frames"):
        io.read_csv(tmp_path / "t.csv")


def test_missing_csv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="no such file"):
        io.read_csv(tmp_path / "none.csv")


def test_dataframe_has_the_columns_of_the_file(tmp_path: Path) -> None:
    tracks = make_tracks(4, 2)
    io.write_csv(tmp_path / "t.csv", tracks)
    table = io.to_dataframe(tracks)
    of_file = pd.read_csv(tmp_path / "t.csv")
    assert list(table.columns) == list(of_file.columns)
    assert len(table) == len(of_file) == 2 * 3 + 1
    assert table.loc[table["success"] == 0, "x_0"].isna().all()
    assert table.loc[0, "y_5"] == tracks.landmarks[0, 0, 5, 1]
    assert table.loc[0, "source"] == SOURCES[tracks.source[0, 0]]


def test_replacing_keeps_the_old_file_where_writing_fails(tmp_path: Path) -> None:
    target = tmp_path / "t.csv"
    target.write_text("old")

    def fail_half_way() -> None:
        with replacing(target) as temporary:
            temporary.write_text("new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(ResultError, match="does not exist"):
        check_writable(tmp_path / "none" / "t.csv")
    (tmp_path / "file").touch()
    with pytest.raises(ResultError, match="does not exist"):
        check_writable(tmp_path / "file" / "t.csv")
    check_writable(tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()


def test_colours_go_from_dark_to_light() -> None:
    colours = overlay.confidence_colours(np.array([0, 0.5, 1, np.nan, 2]))
    lightness = colours @ np.array([0.299, 0.587, 0.114])
    assert lightness[0] < lightness[1] < lightness[2]
    assert (colours[3] == colours[0]).all()
    assert (colours[4] == colours[2]).all()


@pytest.mark.parametrize("source", [PFLD, CLNF, CARRIED, MANUAL])
def test_landmarks_are_drawn_where_they_are(source: int) -> None:
    picture = np.zeros((200, 200, 3), dtype=np.uint8)
    landmarks = np.full((1, 68, 2), np.nan)
    landmarks[0, 30] = (60.25, 140.5)
    drawn = visualization.draw_landmarks(
        picture, landmarks, np.ones((1, 68)), np.array([source], dtype=np.uint8)
    )
    assert not picture.any()
    weight = drawn.sum(axis=2).astype(float)
    y, x = (np.sum(np.indices(weight.shape) * weight, axis=(1, 2)) / weight.sum()).tolist()
    assert (x, y) == pytest.approx((60.25, 140.5), abs=0.6)


def test_shapes_tell_the_source_and_colour_the_confidence() -> None:
    picture = np.full((300, 300, 3), 128, dtype=np.uint8)
    landmarks = np.random.default_rng(0).uniform(60, 240, (68, 2))
    seen = {
        visualization.draw_landmarks(picture, landmarks, np.full(68, sure), np.uint8(source)).tobytes()
        for sure in (0.0, 1.0)
        for source in (PFLD, CLNF, CARRIED, MANUAL)
    }
    assert len(seen) == 8


def test_drawing_survives_what_is_not_on_the_picture() -> None:
    picture = np.zeros((40, 50, 3), dtype=np.uint8)
    for value in (np.nan, np.inf, -1e30, 1e9):
        assert not visualization.draw_landmarks(picture, np.full((2, 68, 2), value)).any()
    assert not visualization.draw_landmarks(picture, np.zeros((0, 68, 2))).any()


def test_an_overlay_has_the_colours_of_the_view_and_their_legend() -> None:
    tracks = good_tracks(2)
    clip = np.full((2, 200, 240, 3), 90, np.uint8)
    seen = {}
    for style in (
        OverlayStyle(),
        OverlayStyle("region"),
        OverlayStyle("region", outlines=False),
        OverlayStyle("region", legend=True),
    ):
        seen[style] = next(overlay_frames(clip, tracks, style)).astype(int)
    plain, region, points, legend = seen.values()
    lips = np.array([int(PART_COLOURS["lips"][k : k + 2], 16) for k in (1, 3, 5)])
    has_lips = [(np.abs(picture - lips).max(axis=-1) < 4).sum() for picture in (plain, region, points)]
    assert has_lips[0] == 0
    assert has_lips[1] > has_lips[2] > 0
    changed = np.argwhere((legend != region).any(axis=-1))
    assert len(changed) > 50
    assert changed[:, 0].min() > 80
    assert changed[:, 1].max() < 100
    again = draw_landmarks(clip[0], tracks.landmarks[0], tracks.confidence[0], tracks.source[0])
    next(overlay_frames(clip[:, :20, :30], tracks, OverlayStyle(legend=True)))  # too low for a legend
    below = slice(40, None)  # of the caption
    np.testing.assert_array_equal(plain[below], again[below])


def test_caption_names_frame_and_state() -> None:
    assert overlay.describe_frame(5, np.array([NONE]), np.zeros((1, 68)), 0.2) == "frame 5, 0.20 s: no face"
    confidence = np.full((2, 68), 0.75)
    assert overlay.describe_frame(0, np.array([CLNF, NONE]), confidence) == "frame 0: clnf 0.75"
    assert overlay.describe_frame(8, np.array([NONE, NONE]), confidence) == "frame 8: no face"


def test_frame_rate_of_timestamps() -> None:
    tracks = make_tracks(5)
    assert frame_rate(tracks) == pytest.approx(29.97)
    tracks.timestamps[:] = np.nan
    assert frame_rate(tracks) == 25.0


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    frames = np.random.default_rng(2).integers(0, 255, (6, 120, 160, 3), dtype=np.uint8)
    frames = np.stack([cv2.GaussianBlur(frame, (0, 0), 6) for frame in frames])
    write_video(tmp_path / "clip.mp4", frames, fps=25)
    return tmp_path / "clip.mp4"


@pytest.mark.parametrize("part", [slice(None), slice(2, 5)], ids=["whole", "range"])
def test_overlay_has_a_frame_for_each_tracked_one(tmp_path: Path, clip: Path, part: slice) -> None:
    tracks = make_tracks(6)
    tracks = Tracks(**{name: getattr(tracks, name)[part] for name in ARRAYS})
    seen: list[tuple[int, int | None]] = []
    visualization.write_overlay(
        tmp_path / "o.mp4", clip, tracks, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(i + 1, tracks.n_frames) for i in range(tracks.n_frames)]
    with open_video(tmp_path / "o.mp4") as overlay, open_video(clip) as video:
        assert overlay.shape == (tracks.n_frames, 120, 160, 3)
        for t in range(tracks.n_frames):
            changed = np.abs(overlay[t].astype(int) - video[int(tracks.frame_indices[t])]).max(axis=2) > 60
            below_caption = changed[40:]
            assert below_caption.any() == bool(tracks.source[t, 0])


@pytest.mark.parametrize("numbers", [{"columns": 0}, {"n_pictures": 0}, {"width": 0}, {"columns": 1.5}])
def test_contact_sheet_refuses_numbers_that_show_nothing(
    tmp_path: Path, clip: Path, numbers: dict[str, float]
) -> None:
    ((name, number),) = numbers.items()
    with pytest.raises(ResultError, match=rf"^{name} is {number}: give a positive integer\.$"):
        visualization.contact_sheet(tmp_path / "s.png", clip, make_tracks(6), **numbers)  # type: ignore[arg-type]
    assert not (tmp_path / "s.png").exists()


def test_contact_sheet_shows_evenly_spaced_frames(tmp_path: Path, clip: Path) -> None:
    tracks = make_tracks(6)
    visualization.contact_sheet(tmp_path / "s.png", clip, tracks, n_pictures=4, columns=2, width=100)
    sheet = cv2.imread(str(tmp_path / "s.png"))
    assert sheet.shape == (2 * 75 + 3 * 4, 2 * 100 + 3 * 4, 3)
    with open_video(clip) as video:
        visualization.contact_sheet(tmp_path / "same.png", np.asarray(video[:]), tracks, 4, 2, 100)
    assert (cv2.imread(str(tmp_path / "same.png")) == sheet).all()


def test_pictures_are_never_written_over_their_video(tmp_path: Path, clip: Path) -> None:
    tracks, before = make_tracks(6), clip.read_bytes()
    (tmp_path / "link.mp4").symlink_to(clip)
    with open_video(clip) as video:
        for write in (visualization.write_overlay, visualization.contact_sheet):
            for path, source in ((clip, clip), (str(clip), video), (tmp_path / "link.mp4", str(clip))):
                with pytest.raises(ResultError, match=r"is the video itself: [^\n]*\.$"):
                    write(path, source, tracks)
    assert clip.read_bytes() == before


def test_pictures_from_a_video_that_ends_too_early_are_refused(tmp_path: Path, clip: Path) -> None:
    tracks = make_tracks(9)
    with open_video(clip) as video:
        for source in (clip, video, np.asarray(video[:]), list(video[:])):
            for write in (visualization.write_overlay, visualization.contact_sheet):
                with pytest.raises(ImageError, match=r"^The video has 6 frames and ends before frame 8 "):
                    write(tmp_path / "new.mp4", source, tracks)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_pictures_from_another_video_are_refused(tmp_path: Path, clip: Path) -> None:
    with open_video(clip) as video:
        height, width = video.shape[1:3]
    tracks = make_tracks(6)
    tracks.meta.update(height=height + 2, width=width)
    for write in (visualization.write_overlay, visualization.contact_sheet):
        with pytest.raises(ImageError, match="give the video that was tracked"):
            write(tmp_path / "new.mp4", clip, tracks)
    assert not (tmp_path / "new.mp4").exists()
    tracks.meta.update(height=height)
    visualization.write_overlay(tmp_path / "new.mp4", clip, tracks)


def test_pictures_of_no_frames_are_refused(tmp_path: Path, clip: Path) -> None:
    tracks = make_tracks(6)
    none = Tracks(**{name: getattr(tracks, name)[:0] for name in ARRAYS})
    for write in (visualization.write_overlay, visualization.contact_sheet):
        with pytest.raises(ResultError, match="no frames"):
            write(tmp_path / "none.mp4", clip, none)
    assert not (tmp_path / "none.mp4").exists()
