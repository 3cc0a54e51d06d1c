"""A run on several threads: the same landmarks as on one, nothing left behind however it ends."""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
from typing import Any

import numpy as np
import pytest
from skimage import data

from fake_tracker import counting
from napari_face_landmarks import FaceTracker, Models, TrackerSettings, load_models
from napari_face_landmarks.data.fields import BY_CLNF, CARRIED, CLNF, OFF_MODEL
from napari_face_landmarks.errors import FaceLandmarksError, ModelError
from napari_face_landmarks.ibug import inter_ocular
from napari_face_landmarks.tracking.threads import Promise, Workers


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models()


def two_moving_faces(n_frames: int = 12) -> np.ndarray:
    """Return frames with one face that jumps, and one that comes in late and goes early."""
    face = np.ascontiguousarray(data.astronaut()[10:250, 105:345])
    frames = np.zeros((n_frames, 240, 620, 3), np.uint8)
    for t in range(n_frames):
        left = 4 * t + (40 if t > 8 else 0)
        frames[t, :, left : left + 240] = face
        if 3 <= t < n_frames - 2:
            frames[t, :, 620 - 240 - 3 * t : 620 - 3 * t] = face[:, ::-1]
    return frames


def our_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("face-landmarks", "prefetch"))]


@pytest.mark.parametrize("refine", ["off", "auto", "always"])
def test_the_landmarks_do_not_depend_on_the_number_of_threads(models: Models, refine: Any) -> None:
    frames = two_moving_faces()
    settings = TrackerSettings(refine=refine, max_faces=2)
    alone, *others = (FaceTracker(models, settings, threads=n).track(frames) for n in (1, 2, 4))
    assert alone.present[:, 0].all()
    assert alone.present[5:10, 1].all()
    for other in others:
        for name in ("landmarks", "confidence", "pose", "boxes", "source", "misfit"):
            np.testing.assert_array_equal(getattr(other, name), getattr(alone, name))


def test_misfit_is_how_far_refinement_moved_the_landmarks(models: Models) -> None:
    models = dataclasses.replace(models, parts=None)  # which replace lids and lips after refinement
    frames = two_moving_faces()
    plain, refined = (
        FaceTracker(models, TrackerSettings(refine=mode, max_faces=2, smoothing_window=1)).track(frames)
        for mode in ("off", "always")
    )
    assert set(refined.source[refined.present]) == {CLNF, CARRIED}
    moved = np.linalg.norm(refined.landmarks - plain.landmarks, axis=-1).mean(axis=-1)
    there = refined.present
    expected = moved[there] / inter_ocular(refined.landmarks)[there]
    np.testing.assert_allclose(refined.misfit[there, BY_CLNF], expected, rtol=1e-4)
    assert expected.min() > 0
    assert np.isnan(plain.misfit[..., BY_CLNF]).all()
    for tracks in (plain, refined):
        off_model = tracks.misfit[tracks.present, OFF_MODEL]
        assert (off_model > 0).all()
        assert (off_model < 0.1).all()
        assert np.isnan(tracks.misfit[~tracks.present]).all()
    assert refined.misfit[there, OFF_MODEL].mean() < plain.misfit[there, OFF_MODEL].mean()


def test_one_thread_is_the_callers_own(models: Models) -> None:
    run = FaceTracker(models, threads=1).track_frames(two_moving_faces(6))
    next(run)
    assert our_threads() == []
    run.close()


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_a_run_that_is_closed_leaves_no_thread(models: Models, taken: int) -> None:
    run = FaceTracker(models, TrackerSettings(refine="always"), threads=4).track_frames(two_moving_faces())
    for _ in range(taken):
        next(run)
    run.close()
    assert our_threads() == []


class _Broken:
    """A network that fails on its n-th call."""

    def __init__(self, session: Any, works: int) -> None:
        self.session, self.works = session, works

    def run(self, *args: Any) -> Any:
        self.works -= 1
        if self.works < 0:
            raise RuntimeError("the network is gone")
        return self.session.run(*args)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_fails_on_a_thread_reaches_the_caller(models: Models, threads: int) -> None:
    import dataclasses

    broken = dataclasses.replace(models, pfld=_Broken(models.pfld, 7))
    tracker = FaceTracker(broken, threads=threads)
    with pytest.raises(ModelError, match="the network is gone"):
        tracker.track(two_moving_faces())
    assert our_threads() == []
    assert tracker.last_run is not None
    assert not tracker.last_run.stats.completed


@pytest.mark.parametrize("threads", [0, -2, 1000, 1.5, "many"])
def test_a_number_of_threads_that_cannot_be_is_refused_in_one_sentence(models: Models, threads: Any) -> None:
    with pytest.raises(FaceLandmarksError, match=r"^threads is .*: give a whole number from 1 to 64\.$"):
        FaceTracker(models, threads=threads)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_work_that_waits_for_other_work_comes_after_it(threads: int) -> None:
    done: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.002 * (5 - number))
        done.append(number)

    with Workers(threads) as workers:
        before: list[Promise[None]] = []
        for number in range(5):
            before.append(workers.submit(lambda number=number: work(number), after=before))
        workers.result(before[-1])
    assert done == list(range(5))


def test_who_waits_for_a_result_works_meanwhile() -> None:
    names: list[str] = []
    both = threading.Barrier(2, timeout=10)

    def work() -> None:
        both.wait()
        names.append(threading.current_thread().name)

    with Workers(2) as workers:
        promises = [workers.submit(work) for _ in range(2)]
        workers.result(promises[1])
        workers.result(promises[0])
    assert sorted(names) == sorted([threading.current_thread().name, "face-landmarks_0"])


@pytest.mark.parametrize("threads", [1, 2])
def test_who_waits_for_a_result_does_that_work_first_and_once(threads: int) -> None:
    done: list[int] = []
    go = threading.Event()
    with Workers(threads) as workers:
        if threads == 2:
            busy = workers.submit(lambda: go.wait(10))
            while not busy._started:
                time.sleep(0.001)
        promises = [workers.submit(lambda number=number: done.append(number)) for number in range(3)]
        workers.result(promises[2])
        assert done == [2]
        go.set()
        for promise in promises:
            workers.result(promise)
    assert sorted(done) == [0, 1, 2]


def test_work_not_begun_is_dropped_at_the_end() -> None:
    started = threading.Event()
    done: list[int] = []

    def slow() -> None:
        started.set()
        time.sleep(0.05)

    with Workers(2) as workers:
        first = workers.submit(slow)
        workers.submit(lambda: done.append(1), after=[first])
        started.wait()
    assert done == []
    assert our_threads() == []


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_two_frames_are_looked_at_together_on_few_threads(models: Models, threads: int) -> None:
    counted, batches = counting(models)
    tracker = FaceTracker(counted, {"pfld_every": 1}, threads=threads)
    tracker.prepare()
    frames = two_moving_faces(40)[:, :, :300].copy()
    frames[:] = frames[5]
    batches.clear()
    assert tracker.track(frames).present.all()
    assert batches.count(2) >= (17 if threads < 3 else 0)
    assert len(batches) < (26 if threads < 3 else 50)
    assert threads < 3 or batches.count(1) > 35


@pytest.mark.slow
def test_a_run_that_nobody_iterates_any_more_ends_and_keeps_its_statistics(models: Models) -> None:
    tracker = FaceTracker(models, threads=2)
    for result in tracker.track_frames(two_moving_faces()):
        if result.index == 3:
            break
    gc.collect()
    assert not our_threads()
    assert tracker.last_run is not None
    assert tracker.last_run.stats.frames == 4
    assert list(tracker.last_run) == []


def test_a_run_pauses_and_is_cancelled_from_another_thread(models: Models) -> None:
    run = FaceTracker(models, TrackerSettings(refine="off"), threads=1).track_frames(two_moving_faces())
    results = [next(run)]
    run.control.pause()
    before, began = run.stats.seconds, time.perf_counter()
    threading.Timer(0.5, run.control.resume).start()
    results.append(next(run))
    waited = time.perf_counter() - began
    assert waited >= 0.5
    assert run.stats.seconds - before <= waited - 0.45, "a pause is not time of the run"
    run.control.pause()
    threading.Timer(0.1, run.control.cancel).start()
    assert list(run) == []
    tracks = run.tracks(results)
    assert tracks.n_frames == tracks.stats.frames == 2
    assert not tracks.stats.completed
