"""Correction by hand: a spoiled face fitted anew, tracks carried on and blended, faces edited."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_face_landmarks import FaceTracker, TrackerSettings, Tracks, correction, load_models
from napari_face_landmarks.clnf import numba_engine, reference
from napari_face_landmarks.clnf.fit import fit_landmarks, refine
from napari_face_landmarks.clnf.pdm import project
from napari_face_landmarks.correction import (
    CorrectionWarning,
    choose_faces,
    delete_face,
    merge_faces,
    names_of_faces,
    propagate,
    propagate_steps,
    propagation,
    refit,
    refit_in_tracks,
    rename_face,
    set_manual_landmarks,
    split_face,
)
from napari_face_landmarks.data.fields import CARRIED, MANUAL, NONE, OFF_MODEL, PFLD, SOURCES
from napari_face_landmarks.data.names import people_in_words
from napari_face_landmarks.demo import make_demo_clip
from napari_face_landmarks.errors import ImageError, ResultError
from napari_face_landmarks.ibug import inter_ocular, nme
from napari_face_landmarks.measures.table import measure
from napari_face_landmarks.models import Models
from napari_face_landmarks.video.pixels import to_grey
from test_export import assert_same, make_tracks

PLACED = (36, 45, 48, 54)
N_FRAMES = 24


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models("open")


@pytest.fixture(scope="module")
def clip() -> Any:
    return make_demo_clip(6 * N_FRAMES, 320)[0][:N_FRAMES]


@pytest.fixture(scope="module")
def truth(models: Models, clip: Any) -> Tracks:
    return FaceTracker(models, threads=1).track(clip)


def spoiled(face: Any, kind: str) -> Any:
    across = float(inter_ocular(face))
    if kind == "moved":
        return face + across * np.array([0.6, 0.4])
    middle = face.mean(axis=0)
    cosine, sine = np.cos(0.5), np.sin(0.5)
    turned = (face - middle) @ np.array([[cosine, -sine], [sine, cosine]]).T
    return 1.4 * turned + middle


def spoiled_on(truth: Tracks, rows: slice) -> Tracks:
    tracks = dataclasses.replace(truth, landmarks=truth.landmarks.copy(), source=truth.source.copy())
    tracks.landmarks[rows, 0] += 0.6 * inter_ocular(truth.landmarks[rows, 0])[:, None, None].astype("f4")
    return tracks


@pytest.mark.parametrize("kind", ["moved", "turned and larger"])
@pytest.mark.parametrize("count", [3, 4])
def test_a_few_placed_landmarks_repair_a_spoiled_face(
    models: Models, clip: Any, truth: Tracks, kind: str, count: int
) -> None:
    right = truth.landmarks[0, 0].astype(np.float64)
    wrong = spoiled(right, kind)
    held = np.zeros(68, bool)
    held[list(PLACED[:count])] = True
    wrong[held] = right[held]
    found = refit(models, clip[0], wrong, held)
    before, after = nme(wrong, right), nme(found.landmarks, right)
    assert before > 0.3
    assert after < 0.06
    np.testing.assert_array_equal(found.landmarks[held], right[held].astype(np.float32))
    assert found.refined
    assert (found.confidence[held] == 1).all()


@pytest.mark.parametrize("bad", [48, 36])
@pytest.mark.parametrize("kind", ["moved", "right"])
def test_one_landmark_placed_wrongly_spoils_no_face(
    models: Models, clip: Any, truth: Tracks, bad: int, kind: str
) -> None:
    right = truth.landmarks[0, 0].astype(np.float64)
    wrong = spoiled(right, "moved") if kind == "moved" else right.copy()
    across = float(inter_ocular(right))
    for landmark in PLACED:
        wrong[landmark] = right[landmark] + (0.9 * across * np.array([0.6, 0.8]) if landmark == bad else 0)
    tracks = dataclasses.replace(truth, landmarks=truth.landmarks.copy())
    tracks = set_manual_landmarks(tracks, 0, 0, PLACED, wrong[list(PLACED)])
    tracks.landmarks[0, 0] = wrong
    with pytest.warns(CorrectionWarning, match=f"disagree: {bad} is far") as caught:
        again = refit_in_tracks(models, clip[0], tracks, int(tracks.frame_indices[0]), 0)
    assert len(caught) == 1
    others = np.arange(68) != bad
    found = again.landmarks[0, 0]
    assert np.linalg.norm(found[others] - right[others], axis=1).mean() < 0.06 * across
    np.testing.assert_array_equal(found[list(PLACED)], wrong[list(PLACED)].astype(np.float32))
    assert again.by_hand[0, 0].sum() == len(PLACED)


def test_landmarks_that_lie_unusually_together_are_not_doubted(
    models: Models, clip: Any, truth: Tracks
) -> None:
    given = truth.landmarks[0, 0].astype(np.float64)
    held = np.zeros(68, bool)
    held[[36, 45, 30, 48, 54]] = True
    given[48] += 0.3 * float(inter_ocular(given)) * np.array([0.2, 1.0])  # the corner of a mouth that droops
    found = refit(models, clip[0], given, held)
    assert not found.doubtful.any()
    np.testing.assert_array_equal(found.landmarks[48], given[48].astype(np.float32))


@pytest.mark.parametrize("marks", [0, 1])
def test_without_or_with_one_landmark_a_good_face_stays_good(
    models: Models, clip: Any, truth: Tracks, marks: int
) -> None:
    right = truth.landmarks[0, 0]
    held = np.arange(68) < marks
    assert nme(refit(models, clip[0], right, held).landmarks, right) < 0.03


@pytest.mark.parametrize("with_pfld", [True, False])
def test_a_landmark_placed_by_hand_makes_no_other_less_certain(
    models: Models, clip: Any, truth: Tracks, with_pfld: bool
) -> None:
    across = float(inter_ocular(truth.landmarks[0, 0]))
    far = truth.landmarks[0, 0, 54] + across * np.array([0.12, -0.06])
    placed = set_manual_landmarks(truth, 0, 0, [54], [far])
    used = models if with_pfld else dataclasses.replace(models, pfld=None)
    frame = int(truth.frame_indices[0])
    again = refit_in_tracks(used, clip[0], placed, frame, 0)
    others = np.arange(68) != 54
    for tracks in (placed, again):
        assert tracks.confidence[0, 0, 54] == 1
        assert tracks.sigma[0, 0, 54] == pytest.approx(0.01 * across, rel=0.05)
        assert tracks.confidence[0, 0, others].mean() > truth.confidence[0, 0, others].mean() - 0.02
        assert (tracks.sigma[0, 0] < 2 * truth.sigma[0, 0] + 0.02 * across).all()
        names = [column.name for column in measure(tracks).columns]
        error, before = (
            measure(each).errors[0, 0, names.index("commissure_excursion_left")] for each in (tracks, truth)
        )
        assert error < 1.1 * before
    near = propagate(models, clip, again, frame, 0, until=frame + 3).confidence[1:4, 0]
    assert near.mean() > truth.confidence[1:4, 0].mean() - 0.02


def test_correcting_with_other_models_warns(models: Models, clip: Any, truth: Tracks) -> None:
    other = dataclasses.replace(truth, meta={**truth.meta, "models": "research"})
    frame = int(truth.frame_indices[0])
    for call in (
        lambda: refit_in_tracks(models, clip[0], other, frame, 0),
        lambda: propagate(models, clip, other, frame, 0, until=frame + 1),
    ):
        with pytest.warns(CorrectionWarning, match="models 'research' .* with 'open'") as caught:
            call()
        assert [Path(warning.filename) for warning in caught] == [Path(__file__)]


def test_landmarks_that_the_image_contradicts_are_uncertain_after_a_refit(
    models: Models, clip: Any, truth: Tracks
) -> None:
    wrong = truth.landmarks[0, 0] + 0.3 * np.asarray(inter_ocular(truth.landmarks[0, 0]))
    found = refit(models, np.zeros_like(clip[0]), wrong, np.arange(68) < 17)
    assert (found.confidence[17:] <= 0.5).any()
    assert (found.confidence[:17] == 1).all()


def test_held_landmarks_draw_the_model_in_both_engines_alike(
    models: Models, clip: Any, truth: Tracks
) -> None:
    points = truth.landmarks[0, 0].astype(np.float64)
    held = np.zeros(68, bool)
    held[[48, 54, 57]] = True
    points[held] += 0.15 * float(inter_ocular(points)) * np.array([0.0, 1.0])
    params = fit_landmarks(models.pdm, truth.landmarks[0, 0])
    settings = TrackerSettings(max_iterations=3, convergence_px=0)
    fits = {}
    for name, engine in (("fast", numba_engine), ("reference", reference)):
        fits[name] = refine(
            to_grey(clip[0]),
            points,
            params,
            models.clnf(engine),
            settings,
            fixed=held,
        )
    free = refine(to_grey(clip[0]), points, params, models.clnf(), settings)
    np.testing.assert_allclose(fits["fast"].landmarks, fits["reference"].landmarks, atol=0.02)

    def off(fit: Any) -> float:
        return float(np.linalg.norm(project(models.pdm, fit.params)[held] - points[held], axis=1).mean())

    assert off(fits["fast"]) < 0.4 * off(free)


def test_what_is_no_face_is_refused_in_a_sentence(models: Models, clip: Any) -> None:
    with pytest.raises(ImageError, match="give \\(68, 2\\)"):
        refit(models, clip[0], np.zeros((5, 2)), np.zeros(68, bool))
    tracks = make_tracks()
    with pytest.raises(ResultError, match="There is no face 4 on frame 0"):
        refit_in_tracks(models, clip[0], tracks, 0, 4)
    alone = dataclasses.replace(tracks, landmarks=np.full_like(tracks.landmarks, np.nan), meta={})
    with pytest.raises(ResultError, match="correct more landmarks by hand"):
        refit_in_tracks(models, clip[0], set_manual_landmarks(alone, 0, 0, [3], [[5, 5]]), 0, 0)


@pytest.mark.parametrize("direction", ["forwards", "backwards"])
def test_a_correction_is_carried_on(models: Models, clip: Any, truth: Tracks, direction: str) -> None:
    start, rows = (2, slice(2, None)) if direction == "forwards" else (20, slice(0, 21))
    wrong = spoiled_on(truth, rows)
    placed = set_manual_landmarks(wrong, start, 0, PLACED, truth.landmarks[start, 0, list(PLACED)])
    mended = refit_in_tracks(models, clip[start], placed, start, 0)
    calls: list[tuple[int, int]] = []
    again = propagate(
        models,
        clip,
        mended,
        start,
        0,
        direction,
        progress=lambda *done: calls.append(done),  # type: ignore[arg-type]
    )
    before, after = (nme(tracks.landmarks[rows, 0], truth.landmarks[rows, 0]) for tracks in (wrong, again))
    assert (after < 0.2 * before).all()
    assert calls[-1] == (len(before) - 1, len(before) - 1)
    np.testing.assert_array_equal(again.landmarks[start], mended.landmarks[start])
    np.testing.assert_array_equal(wrong.landmarks[rows, 0], spoiled_on(truth, rows).landmarks[rows, 0])


def test_between_two_corrected_frames_both_ways_are_blended(models: Models, clip: Any, truth: Tracks) -> None:
    tracks, lip = truth, list(range(48, 68))
    for row, step in ((3, 0.1), (17, 0.2)):  # say the lips are lower there than anyone sees
        lower = truth.landmarks[row, 0, lip] + [0, step * float(inter_ocular(truth.landmarks[row, 0]))]
        tracks = set_manual_landmarks(tracks, row, 0, lip, lower)
    again = propagate(models, clip, tracks, 3, 0)
    for row in (3, 17):
        np.testing.assert_array_equal(again.landmarks[row], tracks.landmarks[row])
    np.testing.assert_array_equal(again.landmarks[18:], tracks.landmarks[18:])
    np.testing.assert_array_equal(again.landmarks[:3], tracks.landmarks[:3])
    lower = (again.landmarks[:, 0, lip, 1] - truth.landmarks[:, 0, lip, 1]).mean(axis=1)
    lower /= inter_ocular(truth.landmarks[:, 0])
    assert lower[4] == pytest.approx(0.1, abs=0.04)
    assert lower[16] == pytest.approx(0.2, abs=0.04)
    assert np.abs(np.diff(lower[3:18])).max() < 0.05
    assert (again.by_hand == tracks.by_hand).all()


def test_a_stretch_goes_over_into_the_old_track(models: Models, clip: Any, truth: Tracks) -> None:
    tracks = spoiled_on(truth, slice(3, None))
    tracks.landmarks[2:3] = truth.landmarks[2:3]
    again = propagate(models, clip, tracks, 2, 0, until=14)
    error = nme(again.landmarks[:, 0], truth.landmarks[:, 0])
    assert (error[3:8] < 0.05).all()
    assert (np.diff(error[8:16]) > 0).all()
    np.testing.assert_array_equal(again.landmarks[15:], tracks.landmarks[15:])


def test_a_stretch_that_is_broken_off_changes_nothing(models: Models, clip: Any, truth: Tracks) -> None:
    tracks = spoiled_on(truth, slice(3, None))
    before = tracks.landmarks.copy()
    steps = propagate_steps(models, clip, tracks, 2, 0)
    assert next(steps) == (1, N_FRAMES - 3)
    steps.close()
    np.testing.assert_array_equal(tracks.landmarks, before)
    with pytest.raises(ResultError, match="no frame to propagate to"):
        propagate(models, clip, tracks, N_FRAMES - 1, 0)
    with pytest.raises(ResultError, match="no face 2 on frame 0"):
        propagate(models, clip, tracks, 0, 2)


@pytest.mark.parametrize(
    ("frame", "direction", "last"),
    [(20, "backwards", 20), (20, "forwards", 23), (5, "forwards", 23)],
)
def test_a_video_that_ends_before_the_frames_needed_is_refused(
    models: Models, clip: Any, truth: Tracks, frame: int, direction: Any, last: int
) -> None:
    with pytest.raises(ImageError, match=f"^The video has 17 frames and ends before frame {last} [^\n]*\\.$"):
        propagate(models, clip[:17], truth, frame, 0, direction)
    again = propagate(models, clip[:17], truth, 14, 0, until=16)
    assert nme(again.landmarks[15:17, 0], truth.landmarks[15:17, 0]).max() < 0.05


def test_frames_of_another_size_than_those_of_the_tracks_are_refused(
    models: Models, clip: Any, truth: Tracks
) -> None:
    height, width = clip.shape[1:3]
    words = f"^The frames are {width} x {height - 8} px, .* {width} x {height} px: [^\n]*\\.$"
    with pytest.raises(ImageError, match=words):
        propagate(models, clip[:, 8:], truth, 3, 0)
    with pytest.raises(ImageError, match=words):
        refit_in_tracks(models, clip[3, 8:], truth, 3, 0)
    unknown = dataclasses.replace(truth, meta={})  # as of a file of another program
    assert refit_in_tracks(models, clip[3, 8:], unknown, 3, 0).source[3, 0] == MANUAL


def test_corrections_survive_saving(tmp_path: Path) -> None:
    tracks = make_tracks()
    placed = set_manual_landmarks(tracks, 1, 0, [30, 31], [[1.5, 2.5], [3.5, 4.5]])
    assert not np.isfinite(tracks.landmarks[1]).any()
    assert placed.source[1, 0] == MANUAL
    assert np.flatnonzero(placed.by_hand[1, 0]).tolist() == [30, 31]
    np.testing.assert_array_equal(placed.landmarks[1, 0, 30], [1.5, 2.5])
    placed.save(tmp_path / "t.npz")
    assert_same(Tracks.load(tmp_path / "t.npz"), placed)
    with pytest.raises(ResultError, match="0 to 67"):
        set_manual_landmarks(tracks, 0, 0, [68], [[1, 1]])


def test_placing_no_landmarks_changes_nothing() -> None:
    tracks = make_tracks()
    for row in (0, 1):  # with and without a face
        same = set_manual_landmarks(tracks, row, 0, [], np.zeros((0, 2)))
        assert_same(same, tracks)
        assert same.landmarks is not tracks.landmarks


def test_faces_are_named_deleted_and_chosen(tmp_path: Path) -> None:
    tracks = rename_face(make_tracks(6, 3), 1, "  Anna  B ")
    assert names_of_faces(tracks) == ["face 0", "Anna B", "face 2"]
    with pytest.raises(ResultError, match="Another face is named"):
        rename_face(tracks, 2, "Anna B")
    with pytest.raises(ResultError, match="1 to 100"):
        rename_face(tracks, 2, " ")
    tracks.save(tmp_path / "t.npz")
    assert names_of_faces(Tracks.load(tmp_path / "t.npz")) == names_of_faces(tracks)
    fewer = delete_face(tracks, 0)
    assert names_of_faces(fewer) == ["Anna B", "face 2"]
    np.testing.assert_array_equal(fewer.landmarks, tracks.landmarks[:, 1:])
    swapped = choose_faces(tracks, [2, 0])
    np.testing.assert_array_equal(swapped.by_hand, tracks.by_hand[:, [2, 0]])
    part = delete_face(tracks, 2, (3, 4))
    assert part.source[:, 2].tolist() == [*tracks.source[:3, 2], NONE, NONE, tracks.source[5, 2]]
    assert np.isnan(part.landmarks[3:5, 2]).all()
    assert tracks.present[3:5, 2].all()
    with pytest.raises(ResultError, match="no face 3"):
        delete_face(tracks, 3)


def test_splitting_and_merging_undo_each_other() -> None:
    tracks = make_tracks(6, 2)
    split = split_face(tracks, 0, 3)
    assert split.n_faces == 3
    assert split.present[:, 0].tolist() == [True, False, True, False, False, False]
    assert split.present[:, 2].tolist() == [False, False, False, True, True, True]
    assert names_of_faces(split) == ["face 0", "face 1", "face 2"]
    assert_same(merge_faces(split, 0, 2), tracks)
    with pytest.raises(ResultError, match="not present both before"):
        split_face(tracks, 0, 0)
    with pytest.raises(ResultError, match="itself"):
        merge_faces(tracks, 1, 1)


def test_edits_keep_count_of_the_faces_that_are_several_people() -> None:
    tracks = make_tracks(9, 2)
    tracks.source[...] = PFLD
    given = [[3, 0], [6, 0], [5, 1]]
    tracks = dataclasses.replace(
        tracks, meta={"new_tracks": given}, warnings=("Dark.", *people_in_words(given))
    )
    once = split_face(tracks, 0, 3)
    assert once.meta["new_tracks"] == [[6, 2], [5, 1]]
    assert once.warnings == ("Dark.", *people_in_words([[6, 2], [5, 1]]))
    assert delete_face(once, 1).meta["new_tracks"] == [[6, 1]]
    assert merge_faces(split_face(tracks, 1, 4), 2, 0).meta["new_tracks"] == [[3, 1], [6, 1], [5, 1]]
    done = split_face(split_face(once, 2, 6), 1, 5)
    assert "new_tracks" not in done.meta
    assert done.warnings == ("Dark.",)


def test_of_two_merged_faces_what_was_placed_by_hand_stays() -> None:
    tracks = make_tracks(4, 2)
    tracks.by_hand[...] = False
    tracks.confidence[:, 0] *= 0.1
    tracks = set_manual_landmarks(tracks, 2, 0, [5], [[7, 7]])
    merged = merge_faces(tracks, 0, 1)
    assert merged.n_faces == 1
    np.testing.assert_array_equal(merged.landmarks[0, 0], tracks.landmarks[0, 1])
    np.testing.assert_array_equal(merged.landmarks[2, 0], tracks.landmarks[2, 0])


LOWER_LIP = [55, 56, 57, 58, 59, 65, 66, 67]
BY_HAND = [57, 66, 55, 59]


def raised(landmarks: Any) -> Any:
    """Return landmarks, (..., 68, 2), with the lower lip raised by 10 % of the inter-ocular distance."""
    points = np.array(landmarks, np.float32)
    points[..., LOWER_LIP, 1] -= 0.1 * np.asarray(inter_ocular(points))[..., None]
    return points


def error_of(tracks: Tracks, truth: Tracks, rows: slice = slice(None)) -> float:
    return float(nme(tracks.landmarks[rows, 0], truth.landmarks[rows, 0]).mean())


@pytest.mark.parametrize("until", [N_FRAMES, 12])
def test_a_correction_of_a_biased_tracker_stays_while_the_image_supports_it(
    models: Models, clip: Any, truth: Tracks, monkeypatch: pytest.MonkeyPatch, until: int
) -> None:
    refine_face = propagation.refine_face

    def biased(*arguments: Any) -> Any:
        refined = refine_face(*arguments)
        return dataclasses.replace(
            refined, landmarks=raised(refined.landmarks) if arguments[4] < until else refined.landmarks
        )

    monkeypatch.setattr(propagation, "refine_face", biased)
    wrong = dataclasses.replace(truth, landmarks=truth.landmarks.copy())
    wrong.landmarks[:until] = raised(truth.landmarks[:until])
    placed = set_manual_landmarks(wrong, 4, 0, BY_HAND, truth.landmarks[4, 0, BY_HAND])
    again = propagate(models, clip, placed, 4, 0, "everywhere")
    biased_rows, after = slice(0, until), slice(until + 6, None)
    assert error_of(again, truth, biased_rows) < 0.5 * error_of(wrong, truth, biased_rows)
    lowered = again.landmarks[after, 0][:, LOWER_LIP, 1] - truth.landmarks[after, 0][:, LOWER_LIP, 1]
    if until < N_FRAMES:  # from where the tracker is right, what was corrected looks worse than what it finds
        assert abs(lowered.mean()) < 0.02 * inter_ocular(truth.landmarks[0, 0])
    others = np.ones(N_FRAMES, bool)
    others[4] = False
    assert np.isfinite(again.misfit[others, 0, OFF_MODEL]).all()
    assert np.isfinite(again.sigma[others, 0]).all()
    assert (again.source[[3, 5], 0] == CARRIED).all()


def test_corrections_are_propagated_everywhere_in_one_go(models: Models, clip: Any, truth: Tracks) -> None:
    wrong = dataclasses.replace(truth, landmarks=raised(truth.landmarks))
    for row in (4, 16):
        wrong = set_manual_landmarks(wrong, row, 0, BY_HAND, truth.landmarks[row, 0, BY_HAND])
    calls: list[tuple[int, int]] = []
    again = propagate(
        models,
        clip,
        wrong,
        9,
        0,
        "everywhere",
        progress=lambda *done: calls.append(done),  # type: ignore[arg-type]
    )
    assert error_of(again, truth) < 0.5 * error_of(wrong, truth)
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]
    with pytest.raises(ResultError, match="correct it on a frame first"):
        propagate(models, clip, truth, 9, 0, "everywhere")


def test_propagation_runs_clnf_as_often_as_tracking_does(models: Models, clip: Any, truth: Tracks) -> None:
    settings = TrackerSettings(refine="always", clnf_every=3)
    tracks = dataclasses.replace(truth, settings=settings)
    again = propagate(models, clip, tracks, 2, 0, "forwards", 11)
    assert [SOURCES[code] for code in again.source[3:12, 0]] == ["clnf", "carried", "carried"] * 3
    assert (nme(again.landmarks[3:12, 0], truth.landmarks[3:12, 0]) < 0.03).all()
    back = propagate(models, clip, tracks, 11, 0, "backwards", 2)
    assert [SOURCES[code] for code in back.source[10:1:-1, 0]] == ["clnf", "carried", "carried"] * 3


def test_names_of_earlier_versions_can_be_imported() -> None:
    names = {"carry_on": propagate, "carry_on_steps": propagate_steps, "place_by_hand": set_manual_landmarks}
    assert all(getattr(correction, name) is function for name, function in names.items())
