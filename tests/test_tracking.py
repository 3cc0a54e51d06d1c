"""The tracker from frames to tracks: found, lost, found again, refined, carried, several faces, bad input."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from skimage import data

from napari_face_landmarks import FaceTracker, Models, TrackerSettings, Tracks, load_models
from napari_face_landmarks.clnf.fit import fit_landmarks, refine
from napari_face_landmarks.detection.boxes import SAME_FACE, iou, suppress
from napari_face_landmarks.errors import (
    FaceLandmarksError,
    ImageError,
    ModelError,
    ResultError,
    SettingsError,
)
from napari_face_landmarks.ibug import inter_ocular
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.tracking import SOURCES
from napari_face_landmarks.tracking.association import assign_slots
from napari_face_landmarks.tracking.refinement import N_SEARCHED, GreyFrame, run_clnf
from napari_face_landmarks.video.pixels import to_grey

NONE, PFLD, CLNF, CARRIED, MANUAL = range(5)


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models()


def portrait(size: int = 240) -> np.ndarray:
    return np.ascontiguousarray(data.astronaut()[10:250, 105:345])[:size, :size]


def moving(n_frames: int = 12, shift: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Return frames of a moving portrait and the transform of each, (T, 2, 3)."""
    image = portrait()
    frames, transforms = [], []
    for t in range(n_frames):
        angle = math.radians(6 * math.sin(t / 4))
        cos, sin = math.cos(angle), math.sin(angle)
        centre = np.array([120.0, 120.0])
        turn = np.array([[cos, -sin], [sin, cos]]) * (1 + 0.04 * math.sin(t / 3))
        offset = centre - turn @ centre + (shift * t * 0.5, shift * math.sin(t / 2))
        matrix = np.column_stack([turn, offset])
        transforms.append(matrix)
        frames.append(
            cv2.warpAffine(image, matrix, (240, 240), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        )
    return np.stack(frames), np.stack(transforms)


def carried_truth(landmarks: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """Return landmarks of frame 0 where the true motion takes them, (T, 68, 2)."""
    first = transforms[0]
    upright = (landmarks - first[:, 2]) @ np.linalg.inv(first[:, :2]).T
    return np.stack([upright @ m[:, :2].T + m[:, 2] for m in transforms])


@pytest.mark.parametrize("refine", ["off", "auto", "always"])
def test_a_moving_face_is_followed_on_every_frame(models: Models, refine: Any) -> None:
    frames, transforms = moving(14)
    tracks = FaceTracker(models, TrackerSettings(refine=refine)).track(frames)
    assert tracks.landmarks.shape == (14, 1, 68, 2)
    assert tracks.landmarks.dtype == tracks.confidence.dtype == np.float32
    assert tracks.present.all()
    truth = carried_truth(tracks.landmarks[0, 0], transforms)
    error = np.linalg.norm(tracks.landmarks[:, 0] - truth, axis=-1).mean() / inter_ocular(truth[0])
    assert error < 0.02
    expected = {"off": {PFLD}, "always": {CLNF, CARRIED}}.get(refine)
    if expected is not None:
        assert set(tracks.source.ravel().tolist()) == expected


@pytest.mark.parametrize("every", [1, 2, 3])
def test_clnf_runs_on_every_nth_frame_and_is_carried_between(models: Models, every: int) -> None:
    frames, _ = moving(8)
    tracks = FaceTracker(models, TrackerSettings(refine="always", clnf_every=every)).track(frames)
    expected = [CLNF if t % every == 0 else CARRIED for t in range(8)]
    assert tracks.source[:, 0].tolist() == expected
    assert tracks.stats.refined == expected.count(CLNF)
    assert tracks.stats.carried == expected.count(CARRIED)


def test_track_frames_gives_what_track_gives_and_may_be_closed(models: Models) -> None:
    frames, _ = moving(9)
    tracker = FaceTracker(models, TrackerSettings(refine="always"))
    tracks = tracker.track(frames)
    results = list(tracker.track_frames(frames))
    assert [r.index for r in results] == list(range(9))
    np.testing.assert_array_equal(np.stack([r.landmarks for r in results]), tracks.landmarks)
    run = tracker.track_frames(frames)
    part = [next(run) for _ in range(4)]
    run.close()
    kept = tracker.collect(part)
    assert kept.n_frames == 4
    assert not kept.stats.completed
    assert tracks.stats.completed


def test_kernels_are_compiled_before_the_clock_starts(models: Models) -> None:
    frames, _ = moving(5)
    tracker = FaceTracker(models, TrackerSettings(refine="always"))
    first = tracker.track(frames).stats
    assert first.prepare_seconds > 0
    again = tracker.track(frames).stats
    assert again.prepare_seconds < first.prepare_seconds / 2
    assert again.fps == pytest.approx(5 / again.seconds)


def test_progress_is_told_and_ranges_are_kept(models: Models) -> None:
    frames, _ = moving(9)
    told: list[tuple[int, int | None]] = []
    tracks = FaceTracker(models, TrackerSettings(refine="off")).track(
        frames, lambda done, total: told.append((done, total)), start=3, stop=7
    )
    assert tracks.frame_indices.tolist() == [3, 4, 5, 6]
    assert told == [(i + 1, 4) for i in range(4)]


def test_lost_and_found_again(models: Models) -> None:
    frames, _ = moving(12)
    frames[4:7] = 0
    tracks = FaceTracker(models, TrackerSettings(refine="off")).track(frames)
    assert tracks.present[:, 0].tolist() == [True] * 4 + [False] * 3 + [True] * 5
    assert np.isnan(tracks.landmarks[4:7]).all()
    assert (tracks.confidence[4:7] == 0).all()
    assert np.isfinite(tracks.landmarks[7:]).all()
    assert tracks.stats.frames_with_faces == 9


def test_a_cut_to_another_place_is_followed_at_once(models: Models) -> None:
    wide = np.zeros((8, 240, 700, 3), np.uint8)
    wide[:4, :, :240] = portrait()
    wide[4:, :, 440:680] = portrait()
    tracks = FaceTracker(models, TrackerSettings(refine="off")).track(wide)
    assert tracks.present.all()
    assert np.allclose(tracks.landmarks[5, 0] - tracks.landmarks[1, 0], (440, 0), atol=2)


def test_several_faces_keep_their_identity(models: Models) -> None:
    frames = np.zeros((12, 240, 700, 3), np.uint8)
    for t in range(12):
        left, right = 10 + 4 * t, 430 - 6 * t
        if not 5 <= t < 8:
            frames[t, :, left : left + 240] = portrait()
        frames[t, :, right : right + 240] = portrait()[:, ::-1]
    tracks = FaceTracker(models, TrackerSettings(refine="off", max_faces=2)).track(frames)
    assert tracks.n_faces == 2
    x = tracks.landmarks[..., 0].mean(axis=-1)
    slot_right = int(np.argmax(x[0]))
    assert np.isfinite(x[:, slot_right]).all()
    assert (np.diff(x[:, slot_right]) < 0).all()
    slot_left = 1 - slot_right
    assert np.isnan(x[5:8, slot_left]).all()
    assert np.isfinite(x[[0, 4, 10, 11], slot_left]).all()
    assert (x[[0, 4, 10, 11], slot_left] < x[[0, 4, 10, 11], slot_right]).all()


def test_still_pictures_with_and_without_boxes(models: Models) -> None:
    image = portrait()
    tracker = FaceTracker(models, TrackerSettings(refine="always"))
    boxes = tracker.detect(image)
    assert boxes.shape == (1, 5)
    assert boxes.dtype == np.float32
    found, given = tracker.fit(image), tracker.fit(image, boxes)
    four = tracker.fit(image, boxes[:, :4].tolist())
    for fit in (found, given, four):
        assert fit.landmarks.shape == (1, 68, 2)
        assert fit.confidence.shape == (1, 68)
        assert fit.pose.shape == (1, 6)
        assert fit.source.tolist() == [CLNF]
    np.testing.assert_array_equal(given.landmarks, four.landmarks)
    apart = np.linalg.norm(found.landmarks - given.landmarks, axis=-1).mean()
    assert apart < 0.02 * inter_ocular(found.landmarks[0])
    blank = tracker.fit(np.zeros((50, 60), np.uint8))
    assert blank.landmarks.shape == (0, 68, 2)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_face_more_than_half_covered_is_found_and_told_apart(models: Models, side: str) -> None:
    """Half of the landmarks are sure enough; those behind the cover are less sure than those beside it."""
    picture = portrait()
    whole = FaceTracker(models).fit(picture)
    x0, x1 = whole.boxes[0, [0, 2]]
    edge = round(float(x0 + (0.57 if side == "left" else 0.47) * (x1 - x0)))
    picture[:, slice(edge) if side == "left" else slice(edge, None)] = 90
    found = FaceTracker(models).fit(picture)
    assert len(found.landmarks) == 1
    open_to_view = np.abs(whole.landmarks[0, :, 0] - edge) > 5
    behind = (whole.landmarks[0, :, 0] < edge) == (side == "left")
    seen, hidden = open_to_view & ~behind, open_to_view & behind
    apart = np.linalg.norm(found.landmarks[0] - whole.landmarks[0], axis=-1)
    assert apart[seen].mean() < 0.08 * inter_ocular(whole.landmarks[0])
    assert found.confidence[0, hidden].mean() < 0.8 * found.confidence[0, seen].mean()


@pytest.mark.parametrize("factor", [0.4, 0.7, 1.0, 2.0])
def test_what_the_detector_takes_for_faces_is_looked_at_by_pfld(models: Models, factor: float) -> None:
    """At low scores the detector finds emblems and buttons too; of them all one is a face."""
    picture = cv2.resize(data.astronaut(), None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    boxes = FaceTracker(models, TrackerSettings(max_faces=8)).detect(picture)
    assert boxes.shape == (1, 5)
    middle = (boxes[0, :2] + boxes[0, 2:4]) / 2 / factor
    assert np.linalg.norm(middle - (224, 125)) < 20


@pytest.mark.parametrize("roll", [0.0, 45.0])
def test_of_a_large_picture_only_what_clnf_looks_at_becomes_grey(models: Models, roll: float) -> None:
    face = np.asarray(data.astronaut()[:260, 90:350])
    rgb = np.full((900, 1400, 3), 120, np.uint8)
    turn = cv2.getRotationMatrix2D((130, 130), roll, 1.0)
    rgb[500:760, 1000:1260] = cv2.warpAffine(face, turn, (260, 260), borderValue=(120, 120, 120))
    settings = TrackerSettings(refine="always", search_radius=3.0, max_iterations=3)
    tracker = FaceTracker(models, settings)
    found = tracker.fit(rgb)
    assert len(found.landmarks) == 1
    start = found.landmarks[0] + np.float32(0.06 * inter_ocular(found.landmarks[0]))
    params, sigma = fit_landmarks(models.pdm, start), np.full(68, 6, np.float32)
    picture = GreyFrame(rgb)
    fit = run_clnf(models, settings, picture, start, params, sigma)
    whole = refine(to_grey(rgb), start, params, models.clnf(), settings, sigma, searched=N_SEARCHED)
    assert fit.converged
    np.testing.assert_array_equal(fit.landmarks, whole.landmarks)
    grey = picture.grey_around(start)
    assert not grey[:200].any()
    assert np.count_nonzero(grey) < 0.25 * grey.size
    everywhere = picture.grey_around(start * np.float32(5) - start.mean(axis=0) * np.float32(4))
    np.testing.assert_array_equal(everywhere, to_grey(rgb))
    np.testing.assert_array_equal(GreyFrame(rgb).grey_around(np.full((68, 2), np.nan)), to_grey(rgb))


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket", "page", "hubble_deep_field"])
def test_pictures_without_a_face_give_none(models: Models, name: str) -> None:
    assert len(FaceTracker(models, TrackerSettings(max_faces=8)).detect(getattr(data, name)())) == 0


@pytest.mark.parametrize("kind", ["grey", "rgba", "uint16", "float"])
def test_the_kind_of_pixels_does_not_matter(models: Models, kind: str) -> None:
    frames, _ = moving(4)
    if kind == "grey":
        grey = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames])
        frames, other = np.stack([grey] * 3, axis=-1), grey
    else:
        alpha = np.concatenate([frames, np.full((*frames.shape[:3], 1), 255, np.uint8)], axis=-1)
        other = {"rgba": alpha, "uint16": frames.astype(np.uint16) * 257, "float": frames / 255.0}[kind]
    tracker = FaceTracker(models, TrackerSettings(refine="off"))
    np.testing.assert_allclose(tracker.track(other).landmarks, tracker.track(frames).landmarks, atol=1e-4)


class Lazy:
    """Frames that may only be read one by one, by a plain int, and may fail."""

    def __init__(self, frames: np.ndarray, fails_at: int = -1) -> None:
        self.frames, self.fails_at = frames, fails_at
        self.shape, self.dtype = frames.shape, frames.dtype

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, t: int) -> np.ndarray:
        assert type(t) is int
        if t == self.fails_at:
            raise RuntimeError("the disk is gone\nfor good")
        return self.frames[t]

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise AssertionError("the whole video was asked for")


def test_lazy_arrays_are_read_frame_by_frame(models: Models) -> None:
    frames, _ = moving(5)
    tracker = FaceTracker(models, TrackerSettings(refine="off"))
    np.testing.assert_array_equal(tracker.track(Lazy(frames)).landmarks, tracker.track(frames).landmarks)


def test_a_source_that_breaks_off_keeps_what_was_tracked(models: Models) -> None:
    frames, _ = moving(9)
    tracker = FaceTracker(models, TrackerSettings(refine="off"))
    tracks = tracker.track(Lazy(frames, fails_at=6))
    assert tracks.n_frames == 6
    assert tracks.present.all()
    assert not tracks.stats.completed
    assert len(tracks.warnings) == 1
    assert tracks.warnings[0].startswith("Frame 6 cannot be read (the disk is gone for good)")
    with pytest.raises(FaceLandmarksError, match="Frame 0 cannot be read"):
        tracker.track(Lazy(frames, fails_at=0))


def test_frames_that_are_not_finite_count_as_faceless(models: Models) -> None:
    frames = moving(6)[0] / 255.0
    frames[2] = np.nan
    tracks = FaceTracker(models, TrackerSettings(refine="off")).track(frames)
    assert tracks.present[:, 0].tolist() == [True, True, False, True, True, True]
    assert len(tracks.warnings) == 1
    assert "Frame 2" in tracks.warnings[0]
    assert tracks.stats.completed


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((0, 20, 20, 3)),
        np.zeros((4, 20, 20, 2)),
        np.zeros((2, 2, 9, 9, 3)),
        5,
        SimpleNamespace(shape=(math.nan, 20, 20)),  # as a Dask array of unknown length
    ],
)
def test_what_is_no_video_is_refused_in_one_sentence(models: Models, frames: Any) -> None:
    with pytest.raises(ImageError, match=r"^[^\n]*\.$"):
        FaceTracker(models).track(frames)


def test_a_tracker_takes_settings_by_name_or_values_and_refuses_others(models: Models) -> None:
    assert FaceTracker(models, "fast").settings == TrackerSettings.preset("fast")
    assert FaceTracker(models, {"max_faces": 2}).settings == TrackerSettings(max_faces=2)
    with pytest.raises(SettingsError, match=r"^Settings of type int [^\n]*\.$"):
        FaceTracker(models, 5)  # type: ignore[arg-type]
    for wrong in (5, {"refine": "off"}):
        with pytest.raises(ModelError, match=r"^Models cannot be identified by [^\n]*\.$"):
            FaceTracker(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("boxes", [[[0, 0, 5]], [1, 2, 3, 4], [[0, 0, math.nan, 9]], [[9, 9, 3, 3]]])
def test_bad_boxes_are_refused_in_one_sentence(models: Models, boxes: Any) -> None:
    with pytest.raises(ImageError, match=r"^[^\n]*\.$"):
        FaceTracker(models).fit(portrait(), boxes)


def test_noise_holds_no_face(models: Models) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (3, 90, 120, 3), dtype=np.uint8)
    tracks = FaceTracker(models, TrackerSettings(max_faces=3)).track(noise)
    assert not tracks.present.any()
    assert tracks.landmarks.shape == (3, 3, 68, 2)


def test_results_survive_saving(models: Models, tmp_path: Path) -> None:
    frames, _ = moving(5)
    frames[3] = 0
    tracks = FaceTracker(models, TrackerSettings(refine="always", max_faces=2)).track(frames)
    path = tmp_path / "tracks.npz"
    tracks.save(path)
    again = Tracks.load(path)
    for name in ("landmarks", "confidence", "source", "pose", "boxes", "frame_indices", "timestamps"):
        np.testing.assert_array_equal(getattr(again, name), getattr(tracks, name))
        assert getattr(again, name).dtype == getattr(tracks, name).dtype
    assert again.settings == tracks.settings
    assert again.stats == tracks.stats
    assert dict(again.meta) == dict(tracks.meta)
    assert [p.name for p in tmp_path.iterdir()] == ["tracks.npz"]


def test_damaged_results_are_refused_in_one_sentence(models: Models, tmp_path: Path) -> None:
    frames, _ = moving(3)
    path = tmp_path / "tracks.npz"
    FaceTracker(models, TrackerSettings(refine="off")).track(frames).save(path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    sentences = []
    for trial in range(60):
        damaged = bytearray(content)
        if trial % 2:
            damaged = damaged[: int(rng.integers(0, len(content)))]
        else:
            for at in rng.integers(0, len(content), 5):
                damaged[at] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(damaged))
        try:
            Tracks.load(path)
        except ResultError as error:
            sentences.append(str(error))
    assert len(sentences) > 30
    assert not any("\n" in text for text in sentences)
    for name in ("missing.npz", "tracks.xlsx", "folder.npz"):
        (tmp_path / "folder.npz").mkdir(exist_ok=True)
        with pytest.raises(ResultError):
            Tracks.load(tmp_path / name)


def test_duplicates_of_a_face_are_dropped() -> None:
    boxes = np.array([[0, 0, 10, 10], [8, 0, 18, 10], [100, 0, 110, 10], [1, 0, 11, 10]], float)
    assert iou(boxes, boxes)[0, 1] == pytest.approx(20 / 180)
    assert suppress(boxes, np.array([0.5, 0.6, 0.9, 0.8]), SAME_FACE).tolist() == [2, 3, 1]


def test_new_faces_go_to_the_slot_that_was_nearest() -> None:
    boxes = np.array([[100, 0, 120, 20], [0, 0, 20, 20], [300, 0, 320, 20]], float)
    last = {0: np.array([2, 0, 22, 20], np.float32), 2: np.array([104, 0, 124, 20], np.float32)}
    pairs = assign_slots(boxes, [0, 1, 2], last, {0: 5, 2: 7})
    assert pairs == [(0, 2), (1, 0), (2, 1)]


def test_source_codes_are_those_that_files_use() -> None:
    assert SOURCES == ("none", "pfld", "clnf", "carried", "manual")


def test_two_runs_from_different_frames_converge_to_the_last_bit(models: Models) -> None:
    frames = moving(110, shift=0.3)[0]
    settings = TrackerSettings(refine="off", smoothing_window=1)
    whole = FaceTracker(models, settings, threads=1).track(frames)
    later = FaceTracker(models, settings, threads=1).track(frames[12:])  # with the same anchor frames
    assert not np.array_equal(whole.landmarks[13], later.landmarks[1])
    np.testing.assert_array_equal(whole.landmarks[-5:], later.landmarks[-5:])
