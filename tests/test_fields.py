"""The table of arrays: frames, tracks, checkpoints, files and edits keep whatever is in it."""

from __future__ import annotations

import io as streams
import pickle
import time

import numpy as np
import pytest

from napari_face_landmarks import FaceFit, TrackerSettings
from napari_face_landmarks.data.edit import manual_values, set_face, values_of_face
from napari_face_landmarks.data.fields import FIELDS, MANUAL, TRACKED, FaceArrays
from napari_face_landmarks.data.frame import FrameResult, empty_frame, stack_frames, unstack_frames
from napari_face_landmarks.data.tracks import Tracks, collect, empty_tracks
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
        assert f"{item.name} : ndarray, (T, F" in (Tracks.__doc__ or "")
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


def test_checkpoints_store_what_the_tracker_computes_as_before() -> None:
    """The record of 0.1: journals begun by it say so in their first record."""
    assert frame_type(2).descr == [
        ("index", "<i8"),
        ("landmarks", "<f4", (2, 68, 2)),
        ("confidence", "<f4", (2, 68)),
        ("pose", "<f4", (2, 6)),
        ("source", "|u1", (2,)),
        ("boxes", "<f4", (2, 5)),
        ("misfit", "<f4", (2, 2)),
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
