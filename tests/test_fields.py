"""The table of arrays: frames, tracks, checkpoints, files and edits keep whatever is in it."""

from __future__ import annotations

import io as streams
import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from napari_face_landmarks import FaceFit, TrackerSettings
from napari_face_landmarks.data import fields
from napari_face_landmarks.data.edit import manual_values, set_face, values_of_face
from napari_face_landmarks.data.fields import FIELDS, MANUAL, TRACKED, FaceArrays
from napari_face_landmarks.data.frame import FrameResult, empty_frame, stack_frames, unstack_frames
from napari_face_landmarks.data.tracks import Tracks, collect, empty_tracks
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.runs.checkpoint import frame_to_bytes, frame_type
from test_export import assert_same, make_tracks


def test_frames_and_tracks_have_every_array_and_fill_it() -> None:
    frame, tracks = empty_frame(7, 3), empty_tracks([4, 5], 3)
    assert frame.index == 7
    assert set(FaceArrays.__slots__) == {item.name for item in FIELDS}
    for item in FIELDS:
        for arrays, leading in ((frame, (3,)), (tracks, (2, 3))):
            array = getattr(arrays, item.name)
            assert array.shape == (*leading, *item.shape)
            assert array.dtype == np.dtype(item.dtype)
            np.testing.assert_array_equal(array, np.full_like(array, item.fill))
        assert f"\n{item.name} : ndarray, (T, F" in (Tracks.__doc__ or "")
        assert f"\n{item.name} : ndarray, (F" in (FrameResult.__doc__ or "")
    assert "\nmeta : dict\n" in (Tracks.__doc__ or "")
    assert np.isnan(tracks.timestamps).all()


def test_a_still_has_the_same_frame_type() -> None:
    assert FaceFit is FrameResult


def test_what_a_file_does_not_have_is_filled() -> None:
    tracks = make_tracks()
    given = {item.name: getattr(tracks, item.name) for item in FIELDS if item.required}
    plain = Tracks(**given, frame_indices=tracks.frame_indices, timestamps=tracks.timestamps)
    for item in FIELDS:
        wanted = given[item.name] if item.required else item.empty(*tracks.source.shape)
        np.testing.assert_array_equal(getattr(plain, item.name), wanted)


def test_arrays_that_do_not_fit_together_are_refused() -> None:
    arrays = make_tracks(4, 1).arrays()
    with pytest.raises(ResultError, match=r"sigma has the shape \(3, 1, 68\): tracks need \(4, 1, 68\)"):
        Tracks(
            **{**arrays, "sigma": np.ones((3, 1, 68))}, frame_indices=np.arange(4), timestamps=np.arange(4.0)
        )
    with pytest.raises(ResultError, match=r"timestamps has the shape \(3,\)"):
        Tracks(**arrays, frame_indices=np.arange(4), timestamps=np.arange(3.0))


def test_checkpoints_store_what_the_tracker_computes() -> None:
    """The record of 0.2: a change of it makes checkpoints begun before unusable."""
    assert frame_type(2).descr == [
        ("index", "<i8"),
        ("landmarks", "<f4", (2, 68, 2)),
        ("confidence", "<f4", (2, 68)),
        ("pose", "<f4", (2, 6)),
        ("source", "|u1", (2,)),
        ("boxes", "<f4", (2, 5)),
        ("misfit", "<f4", (2, 2)),
        ("sigma", "<f4", (2, 68)),
        ("iris", "<f4", (2, 8)),
    ]


@pytest.mark.parametrize("n_frames", [0, 5])
def test_tracks_are_the_same_from_frames_and_from_a_checkpoint(n_frames: int) -> None:
    settings = TrackerSettings(max_faces=2)
    source = make_tracks(max(n_frames, 1), 2, first=3)
    frames = [
        FrameResult(index=3 + t, **{item.name: getattr(source, item.name)[t] for item in TRACKED})
        for t in range(n_frames)
    ]
    kind = frame_type(2)
    stored = np.frombuffer(b"".join(frame_to_bytes(frame, kind) for frame in frames), kind)
    arrays = {name: stored[name] for name in kind.names or ()}
    seconds = np.arange(6) / 10  # fewer than there are frames
    both = [collect(given, settings=settings, timestamps=seconds) for given in (frames, arrays)]
    assert_same(both[0], both[1])
    assert both[0].n_frames == n_frames
    assert both[0].n_faces == 2
    if n_frames:
        for item in TRACKED:
            np.testing.assert_array_equal(getattr(both[0], item.name), getattr(source, item.name))
        np.testing.assert_array_equal(both[0].timestamps, [0.3, 0.4, 0.5, np.nan, np.nan])
    for before, after in zip(frames, unstack_frames(stack_frames(frames, 2)), strict=True):
        assert after.index == before.index
        for item in FIELDS:
            np.testing.assert_array_equal(getattr(after, item.name), getattr(before, item.name))


def test_copies_share_nothing_and_parts_have_everything() -> None:
    tracks = make_tracks(6, 3)
    copy = tracks.copy()
    assert_same(copy, tracks)
    for name, array in copy.arrays().items():
        assert not np.shares_memory(array, getattr(tracks, name))
    part = tracks.take_frames(slice(2, 4)).take_faces([2, 0])
    for item in FIELDS:
        np.testing.assert_array_equal(getattr(part, item.name), getattr(tracks, item.name)[2:4][:, [2, 0]])
    assert part.frame_indices.tolist() == [2, 3]
    more = tracks.with_room_for(5)
    assert_same(more.take_faces(slice(3)), tracks)
    assert not more.present[:, 3:].any()
    assert tracks.with_room_for(2) is tracks
    stream = streams.BytesIO(pickle.dumps(tracks))
    assert_same(pickle.load(stream), tracks)


def test_an_edit_of_one_frame_costs_the_same_in_a_long_video() -> None:
    tracks = empty_tracks(np.arange(100_000), 1)
    set_face(tracks, 70_000, 0, values_of_face(make_tracks(), 0, 0))
    before = values_of_face(tracks, 70_000, 0)
    times = []
    for k in range(20):
        began = time.perf_counter()
        values = manual_values(tracks, 70_000, 0, [k], [[1.5 * k, 2.0]])
        set_face(tracks, 70_000, 0, values)
        times.append(time.perf_counter() - began)
    assert np.median(times) < 0.005
    assert tracks.source[70_000, 0] == MANUAL
    assert tracks.by_hand[70_000, 0, :20].all()
    np.testing.assert_array_equal(tracks.landmarks[70_000, 0, 19], [28.5, 2])
    set_face(tracks, 70_000, 0, before)  # undone
    for name, value in values_of_face(tracks, 70_000, 0).items():
        np.testing.assert_array_equal(value, before[name])


ADDED = """
import importlib.util, json, sys
from pathlib import Path
import numpy as np

name = "napari_face_landmarks.data.fields"
spec = importlib.util.find_spec(name)
source = Path(spec.origin).read_text(encoding="utf-8")
added = sys.argv[2] + "    def __post_init__"
assert source.count("    def __post_init__") == 1
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
exec(compile(source.replace("    def __post_init__", added), spec.origin, "exec"), module.__dict__)

sys.path.insert(0, sys.argv[3])
from test_formats import FORMATS, a_run
from napari_face_landmarks import Tracks
from napari_face_landmarks.data.edit import choose_faces, delete_face, set_manual_landmarks, split_face
from napari_face_landmarks.data.frame import unstack_frames
from napari_face_landmarks.runs.checkpoint import frame_type

NAMES = ("gaze", "hidden", "side")
random, tracks, kept = np.random.default_rng(0), a_run(3), {}
tracks.gaze[tracks.present] = random.uniform(size=(int(tracks.present.sum()), 2))
tracks.side[tracks.present] = random.uniform(size=int(tracks.present.sum()))
tracks.hidden[tracks.present] = random.uniform(size=(int(tracks.present.sum()), 68)) < 0.3
for item in FORMATS:
    path = Path(sys.argv[1]) / f"{item.name}{item.suffixes[0]}"
    try:
        tracks.save(path)
    except Exception as error:
        if "pip install" not in str(error):
            raise
        continue
    again = Tracks.load(path)
    kept[item.name] = [
        each for each in NAMES if np.array_equal(getattr(again, each), getattr(tracks, each), equal_nan=True)
    ]
    if item.name == "npz":  # one of an older version
        with np.load(path) as file:
            np.savez(path, **{each: file[each] for each in file if each not in NAMES})
        again = Tracks.load(path)
        assert np.isnan(again.gaze).all() and not again.hidden.any()
chosen = choose_faces(tracks, [2, 0])
np.testing.assert_array_equal(chosen.gaze, tracks.gaze[:, [2, 0]])
np.testing.assert_array_equal(split_face(tracks, 0, 3).side[3:, 3], tracks.side[3:, 0])
assert np.isnan(delete_face(tracks, 1, (2, 3)).gaze[2:4, 1]).all()
placed = set_manual_landmarks(tracks, 2, 0, [5], [[1, 1]])
assert np.isnan(placed.gaze[2, 0]).all() and np.array_equal(placed.hidden, tracks.hidden)
kind = frame_type(3)
assert kind["gaze"].shape == (3, 2) and "side" not in kind.names
arrays = {"index": tracks.frame_indices, **tracks.arrays()}
assert [frame.gaze.tolist() for frame in unstack_frames(arrays)][0] == tracks.gaze[0].tolist()
assert "gaze_left" in tracks.to_dataframe() and "gaze : ndarray, (T, F, 2), float32" in Tracks.__doc__
print(json.dumps(kept))
"""

LINES = """
    gaze: Annotated[
        Floats,
        Field(
            "<f4", (2,), np.nan, "Of each eye.", parts=("left", "right"), required=False, reset_by_edits=True,
        ),
    ] = field(default_factory=_unknown)
    hidden: Annotated[
        npt.NDArray[np.bool_],
        Field("|b1", (N_LANDMARKS,), False, "Occluded.", required=False),
    ] = field(default_factory=_unknown)
    side: Annotated[
        Floats, Field("<f4", (), np.nan, "A number.", required=False, tracked=False)
    ] = field(default_factory=_unknown)

"""


@pytest.mark.slow
def test_an_array_that_is_added_to_the_table_is_kept_by_all(tmp_path: Path) -> None:
    """Frames, checkpoints, edits and every format that keeps everything, without another line of code."""
    command = [sys.executable, "-c", ADDED, str(tmp_path), LINES, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    kept = json.loads(done.stdout.splitlines()[-1])
    complete = ["gaze", "hidden", "side"]
    wanted = dict.fromkeys(kept, complete) | {"deeplabcut-csv": [], "pts": []}
    assert kept == {name: wanted[name] for name in kept}
    assert {"openface", "npz", "tidy-csv"} <= kept.keys()


def test_few_modules_know_an_array_by_its_name() -> None:
    """The rest loops over the table: adding an array does not touch them."""
    source = Path(fields.__file__).parents[1]
    texts = [path.read_text(encoding="utf-8") for path in source.rglob("*.py")]
    assert 1 <= sum("misfit" in text for text in texts) <= 6
    assert sum("data.fields import" in text for text in texts) > 10
