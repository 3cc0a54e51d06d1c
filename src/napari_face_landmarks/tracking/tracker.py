"""Faces followed through a video: detector, PFLD, CLNF and smoothing, frame by frame."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count
from types import ModuleType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf import fast
from napari_face_landmarks.clnf.fit import (
    Correction,
    apply_correction,
    fit_landmarks,
    measure_correction,
    refine,
)
from napari_face_landmarks.clnf.pdm import project
from napari_face_landmarks.detection import detect_faces, roll_from_points
from napari_face_landmarks.errors import FaceLandmarksError, ImageError, ModelError, ResultError, VideoError
from napari_face_landmarks.ibug import N_LANDMARKS, REGIONS
from napari_face_landmarks.images import to_grey, to_rgb8
from napari_face_landmarks.models import Models, load_models
from napari_face_landmarks.models.foreign import check_mode
from napari_face_landmarks.pfld import PfldOutput, crops_of_boxes, crops_of_landmarks, predict, predict_twice
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.alone import AloneFace, as_fit, find_alone, fit_crops, follow_alone
from napari_face_landmarks.tracking.identity import SAME_FACE, assign_slots, doubles, overlaps
from napari_face_landmarks.tracking.provenance import provenance
from napari_face_landmarks.tracking.regions import Regions
from napari_face_landmarks.tracking.results import (
    CARRIED,
    CLNF,
    PFLD,
    FaceFit,
    FrameResult,
    RunStats,
    Tracks,
    collect,
    empty_frame,
    misfit_of,
)
from napari_face_landmarks.tracking.smoothing import smooth_centre
from napari_face_landmarks.tracking.source import FrameSource, open_source, rgb_frames
from napari_face_landmarks.tracking.state import (
    NEVER,
    AheadState,
    FaceState,
    Refinement,
    Standing,
    TrackerState,
    check_state,
)
from napari_face_landmarks.tracking.workers import Workers, checked_threads
from napari_face_landmarks.video import prefetch
from napari_face_landmarks.video.container import thread_count

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int | None], None]

LOOK_AHEAD = 2
"""Frames that PFLD looks at at a time."""
SMALL_MOTION = 0.03
"""A motion of this share of the crop's side is foreseen by half; smaller ones by less, larger by more."""
MOST_WAITING = 4
"""Frames whose refinement may be behind; each holds its picture."""
LOOK_FOR_MORE_EVERY = 5
"""While fewer faces than wanted are followed, the detector runs on every n-th frame; with none, on each."""
CANDIDATES = 4
"""Detections that PFLD looks at beyond twice the number of faces wanted."""
CANDIDATE_SCORE = 0.4
"""Score from which PFLD looks at a detection; lower than for detections that are taken as they are."""
SMALLEST_FACE = 12.0
"""Side of the smallest crop that is followed, pixels."""
STAY_REFINED = 10
"""In auto mode a face that was unsure stays refined for so many frames, so that it does not flicker."""
STAY_SHARE = 0.6
"""A followed face is kept down to this share of `min_confidence`: a hand before it does not lose it."""
_MEANS = np.array(
    [np.isin(np.arange(N_LANDMARKS), region) / len(region) for region in REGIONS.values()], np.float32
)
UNSURE_FACE = 0.80
UNSURE_REGION = 0.60
"""Auto refines a face whose mean confidence, or that of one region, is lower."""


@dataclass
class _Face:
    """What the tracker remembers of a face from frame to frame.

    Attributes
    ----------
    landmarks : ndarray, (68, 2), float32
        As PFLD gave them on the last frame.
    places : tuple of ndarray, (2,)
        Middle of the landmarks on the last three frames, the latest first.
    params, correction, refined_at, unsure_at
        Where the refinement stands; only its own work, which goes in the order of the frames, touches them.
    refinement : Future or None
        The refinement begun last.
    """

    landmarks: Floats
    places: tuple[Floats, ...] = ()
    params: npt.NDArray[np.float64] | None = None
    correction: Correction | None = None
    refined_at: int = NEVER
    unsure_at: int = NEVER
    refinement: Future[_Refined] | None = None

    def move(self, landmarks: Floats) -> None:
        """Take note of the landmarks on another frame."""
        self.landmarks = landmarks
        self.places = (landmarks.mean(axis=0), *self.places[:LOOK_AHEAD])


@dataclass(frozen=True, slots=True)
class _Refined:
    """A face's landmarks after refinement, where they come from, the model's parameters, misfit, seconds.

    `stands` is where the refinement of the face stands after that.
    """

    landmarks: Floats
    source: int
    params: npt.NDArray[np.float64]
    misfit: Floats
    seconds: float
    stands: Refinement


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A frame that PFLD was started on before the frame before it was done."""

    index: int
    frame: npt.NDArray[np.uint8] | FaceLandmarksError
    faces: list[_Face]
    outputs: list[Future[tuple[PfldOutput, float]]]
    crops: Floats


@dataclass(frozen=True, slots=True)
class _Begun:
    """A frame whose faces are known, but for their refinement, which is under way.

    `after` is how the tracker stands then, but for that refinement.
    """

    result: FrameResult
    refinements: dict[int, Future[_Refined]]
    after: Standing | None = None


class _Picture:
    """A frame and its grey levels, which are only computed where they are asked for."""

    def __init__(self, rgb: npt.NDArray[np.uint8]) -> None:
        self.rgb = rgb

    @cached_property
    def grey(self) -> npt.NDArray[np.uint8]:
        """The luma, (H, W) uint8."""
        return to_grey(self.rgb)


@dataclass
class Run:
    """One run of the tracker: its counts and warnings grow while it goes on.

    Attributes
    ----------
    source : FrameSource
        What is tracked.
    stats : RunStats
        Counts and times.
    warnings : list of str
        What went wrong on the way, a sentence each.
    broken_off : bool
        Whether the source broke off before its end.
    standing : callable or None
        Gives how the tracker stands after the last frame before smoothing; None where it cannot tell.
    recent : tuple of FrameResult
        The frames that smoothing still looks at after the last result.
    waiting : int
        How many of these are not given out yet.
    regions : Regions
        Where to look for faces, and what to pass over.
    """

    source: FrameSource
    stats: RunStats = field(default_factory=RunStats)
    warnings: list[str] = field(default_factory=list)
    broken_off: bool = False
    standing: Callable[[], Standing] | None = None
    recent: tuple[FrameResult, ...] = ()
    waiting: int = 0
    regions: Regions = field(default_factory=Regions)

    def state(self) -> TrackerState | None:
        """Return where the run stands after the result given out last, to go on from there another time.

        To be called by whoever takes the results, between two of them. None where nothing was given out yet.
        """
        if self.standing is None or not self.recent:
            return None
        standing = self.standing()
        warnings = tuple(self.warnings[: standing.n_warnings])
        return TrackerState(standing, self.recent, self.waiting, deepcopy(self.stats), warnings)


class FaceTracker:
    """Find faces and follow their 68 landmarks through a video.

    Several threads may call `track` and `fit` of one tracker at a time; `collect` and `last_run` tell of the
    run that was begun last.

    Parameters
    ----------
    models : Models or str, optional
        What `load_models` gives, or the name or folder of a bundle; the default bundle where not given.
    settings : TrackerSettings, optional
        The defaults where not given.
    threads : int, optional
        How many threads compute at a time, beside the decoding; the processors there are, at most 4, where
        not given. With 1 all is done in the caller's thread. The landmarks do not depend on it.
    engine : module, optional
        What refines PFLD's landmarks: `clnf.fast`, or `clnf.reference`, the plain text of the method.

    Attributes
    ----------
    last_run : Run or None
        Counts, times and warnings of the run in progress or of the last one.

    Examples
    --------
    >>> tracker = FaceTracker(load_models(), TrackerSettings(refine="always"))  # doctest: +SKIP
    >>> tracks = tracker.track("interview.mp4")  # doctest: +SKIP
    """

    def __init__(
        self,
        models: Models | str | None = None,
        settings: TrackerSettings | None = None,
        threads: int | None = None,
        engine: ModuleType = fast,
    ) -> None:
        self.models = (
            models if isinstance(models, Models) else load_models(*([] if models is None else [models]))
        )
        self.settings = settings or TrackerSettings()
        self.threads = thread_count() if threads is None else checked_threads(threads)
        check_mode(self.models, self.settings)
        self.engine = engine
        self.last_run: Run | None = None
        self._prepared = False

    def detect(self, image: Any) -> Floats:
        """Find the faces of a picture.

        Parameters
        ----------
        image : array-like, (H, W), (H, W, 3) or (H, W, 4)
            Grey, RGB or RGBA; uint8, uint16 or float.

        Returns
        -------
        ndarray, (F, 5), float32
            x0, y0, x1, y1 (pixels, from the forehead to the chin) and score of each face, best first; at most
            ``settings.max_faces``. What the detector finds counts where PFLD sees a face in it too.

        Raises
        ------
        ImageError
            If the image is of no such kind.
        """
        rgb = to_rgb8(image)
        if self._alone:
            return self._fit_alone(rgb, None).boxes
        boxes, output = self._look(rgb, RunStats())
        boxes[:, 4] = face_scores(output)
        return boxes[: self.settings.max_faces]

    def fit(self, image: Any, boxes: npt.ArrayLike | None = None) -> FaceFit:
        """Place landmarks on the faces of one picture.

        Parameters
        ----------
        image : array-like, (H, W), (H, W, 3) or (H, W, 4)
            Grey, RGB or RGBA; uint8, uint16 or float.
        boxes : array-like, (F, 4) or (F, 5), optional
            x0, y0, x1, y1 in pixels of each face; found by the detector where not given.

        Returns
        -------
        FaceFit
            One row for each box that was given; of the faces that the detector found, those that are faces.

        Raises
        ------
        ImageError
            If the image or the boxes are of no such kind.
        """
        rgb = to_rgb8(image)
        if self._alone:
            return self._fit_alone(rgb, boxes)
        if boxes is None:
            output = _take(self._look(rgb, RunStats())[1], np.arange(self.settings.max_faces))
        else:
            output = self._predict_still(rgb, crops_of_boxes(_checked_boxes(boxes)))
        picture = _Picture(rgb)
        faces = [
            self._refined(picture, output, i, _Face(output.landmarks[i]), 0) for i in range(len(output.score))
        ]
        return _face_fit(output, faces)

    def track(
        self,
        frames: Any,
        progress: Progress | None = None,
        *,
        start: int = 0,
        stop: int | None = None,
        regions: Regions | None = None,
    ) -> Tracks:
        """Follow the faces of a video.

        Parameters
        ----------
        frames : str, Path, Video or array-like, (T, Y, X) or (T, Y, X, 3 or 4)
            The path of a video, or its frames; lazy arrays are read frame by frame.
        progress : callable, optional
            Called with the number of frames done and the number of all.
        start, stop : int
            First frame, and the one after the last; `stop` None is the end.
        regions : Regions, optional
            Boxes where a face is that the detector does not find, and boxes to ignore; not with clnf-only.

        Returns
        -------
        Tracks
            If the video breaks off, what was tracked until then, with the reason in `Tracks.warnings`.

        Raises
        ------
        VideoError, ImageError
            If there is nothing that can be tracked.
        """
        results: list[FrameResult] = []
        run = self._begin_run(frames, start, stop, None, regions)
        for result in self._run(run):
            results.append(result)
            if progress is not None:
                progress(len(results), run.source.stop - run.source.start)
        return self._collected(run, results)

    def collect(self, results: Sequence[FrameResult]) -> Tracks:
        """Put results of the last run together; they may be fewer than the run was to give.

        Parameters
        ----------
        results : sequence of FrameResult
            What `track_frames` yielded.
        """
        run = self.last_run
        if run is None:
            raise ImageError("Nothing was tracked yet: run track or track_frames first.")
        return self._collected(run, results)

    def _collected(self, run: Run, results: Sequence[FrameResult]) -> Tracks:
        source = run.source
        return collect(
            results,
            settings=self.settings,
            stats=run.stats,
            timestamps=source.timestamps,
            warnings=run.warnings,
            meta={
                **provenance(self.models),
                "height": source.size[0],
                "width": source.size[1],
                "fps": source.fps,
            },
        )

    def track_frames(
        self,
        frames: Any,
        start: int = 0,
        stop: int | None = None,
        state: TrackerState | None = None,
        regions: Regions | None = None,
    ) -> Generator[FrameResult, None, None]:
        """Follow the faces of a video, frame by frame: `track` as a generator.

        Each result is final, smoothing included, and comes half a smoothing window after its frame was read.
        Closing the generator ends the run; `last_run` tells its counts and times at any moment.

        Parameters
        ----------
        frames, start, stop
            As for `track`.
        state : TrackerState, optional
            What `Run.state` gave in a run over the same frames with the same models and settings: the run
            goes on from there, and the results are those that it would have given.
        regions : Regions, optional
            As for `track`.

        Yields
        ------
        FrameResult
            In the order of the frames.

        Raises
        ------
        VideoError, ImageError
            As `track`; before the first frame is read.
        ResultError
            If the state does not fit the settings, the models or the frames.
        """
        return self._run(self._begin_run(frames, start, stop, state, regions), state)

    def _begin_run(
        self,
        frames: Any,
        start: int,
        stop: int | None,
        state: TrackerState | None,
        regions: Regions | None,
    ) -> Run:
        regions = regions or Regions()
        if self._alone and (regions.look or regions.ignore):
            raise ImageError("Boxes to look in and to ignore need PFLD: choose another mode than clnf-only.")
        source = open_source(frames, start, stop)
        run = Run(source, warnings=list(source.warnings), regions=regions)
        if state is not None:
            try:
                check_state(state, self.settings, self.models.pdm.n_modes, source.start, source.stop)
            except ResultError:
                source.close()
                raise
            run.stats, run.warnings = deepcopy(state.stats), list(state.warnings)
        self.last_run = run
        return run

    def prepare(self) -> None:
        """Compile the kernels that a run needs, or load them where an earlier process has compiled them.

        Called by `track` and `track_frames` before the first frame; it takes some seconds once after an
        installation, a fraction of one later, and nothing the second time.
        """
        if self._prepared:
            return
        pdm = self.models.pdm
        rgb = np.zeros((160, 160, 3), np.uint8)
        smooth_centre(np.zeros((3, 1, N_LANDMARKS, 2), np.float32))
        detect_faces(self.models.detector, np.zeros((64, 1000, 3), np.uint8))  # large enough to be halved
        if self._alone:
            fit_crops(
                self.models, to_grey(rgb), np.array([[80, 80, 150, 0]], np.float32), np.ones(1, np.float32)
            )
            self._prepared = True
            return
        start = np.concatenate([[1.0, 0.0, 0.0, 0.0, 80.0, 80.0], np.zeros(pdm.n_modes)])
        landmarks = project(pdm, start).astype(np.float32)
        output = predict(self.models.pfld, rgb, crops_of_landmarks(landmarks[None]))
        unsure = np.zeros_like(output.confidence)
        face = PfldOutput(landmarks[None], np.ones_like(output.sigma), unsure, output.score)
        seen = _Face(landmarks)
        picture = _Picture(rgb)
        for index in range(2):  # refined, then carried
            self._refined(picture, face, 0, seen, index)
        self._prepared = True

    def _run(self, run: Run, state: TrackerState | None = None) -> Generator[FrameResult, None, None]:
        began = time.perf_counter()
        self.prepare()
        run.stats.prepare_seconds += time.perf_counter() - began
        began = time.perf_counter() - run.stats.seconds
        window = self.settings.smoothing_window
        reach = window // 2
        recent: deque[FrameResult] = deque(() if state is None else state.recent, maxlen=window)
        waiting = 0 if state is None else state.waiting
        blank = np.full((self.settings.max_faces, 68, 2), np.nan, np.float32)
        try:
            before = () if state is None else (state.standing,)
            with closing(cast(Any, self._raw_results(run, *before))) as raw_results:  # ends its threads
                for raw in raw_results:
                    recent.append(raw)
                    waiting += 1
                    if waiting > reach:
                        result = self._finished(run, recent, len(recent) - 1 - reach, blank, began)
                        waiting -= 1
                        run.recent, run.waiting = tuple(recent), waiting
                        yield result
            while waiting:
                result = self._finished(run, recent, len(recent) - waiting, blank, began)
                waiting -= 1
                run.recent, run.waiting = tuple(recent), waiting
                yield result
            run.stats.completed = not run.broken_off
        finally:
            run.stats.seconds = time.perf_counter() - began
            run.source.close()

    def _finished(
        self, run: Run, recent: deque[FrameResult], middle: int, blank: Floats, began: float
    ) -> FrameResult:
        """Return entry `middle` of the recent frames, smoothed and counted."""
        start = time.perf_counter()
        reach = self.settings.smoothing_window // 2
        around = range(middle - reach, middle + reach + 1)
        stack = np.stack([recent[k].landmarks if 0 <= k < len(recent) else blank for k in around])
        landmarks = smooth_centre(stack)
        boxes = np.concatenate([_boxes_of(landmarks), recent[middle].boxes[:, 4:]], axis=1)
        result = replace(recent[middle], landmarks=landmarks, boxes=boxes)
        run.stats.add_time("smoothing", time.perf_counter() - start)
        run.stats.count(result)
        run.stats.seconds = time.perf_counter() - began
        return result

    @property
    def _alone(self) -> bool:
        return self.settings.refine == "clnf-only"

    def _fit_alone(self, rgb: npt.NDArray[np.uint8], boxes: npt.ArrayLike | None) -> FaceFit:
        grey = to_grey(rgb)
        if boxes is None:
            found = find_alone(self.models, self.settings, rgb, grey, RunStats(), [])[1]
            return as_fit(found[: self.settings.max_faces])
        crops = crops_of_boxes(_checked_boxes(boxes))
        return as_fit(fit_crops(self.models, grey, crops, np.ones(len(crops), np.float32)))

    def _raw_results(self, run: Run, before: Standing | None = None) -> Iterator[FrameResult]:
        if before is not None:
            run.standing = lambda: before
        source = run.source if before is None else replace(run.source, start=before.next_index)
        decoded = rgb_frames(source, run.stats)
        frames = cast(Any, decoded if self.threads == 1 else prefetch(decoded))
        if self._alone:
            with closing(frames):  # ends the decoding thread
                yield from follow_alone(frames, self.models, self.settings, run, self.threads, before)
            return
        waiting: deque[_Begun] = deque()
        with closing(frames), Workers(self.threads) as workers:
            for begun in self._begun(run, workers, frames, before):
                waiting.append(begun)
                while waiting and (len(waiting) > MOST_WAITING or _is_done(waiting[0])):
                    yield _ended(run, waiting.popleft())
            while waiting:
                yield _ended(run, waiting.popleft())

    def _begun(
        self,
        run: Run,
        workers: Workers,
        frames: Iterator[tuple[int, npt.NDArray[np.uint8] | FaceLandmarksError]],
        before: Standing | None,
    ) -> Generator[_Begun, None, None]:
        """Yield each frame with its faces as soon as these are known.

        PFLD looks at `LOOK_AHEAD` frames at a time: where a face is searched for on a frame follows from the
        frames up to `LOOK_AHEAD` before it. So it is, whatever the number of threads, so that the results do
        not depend on it.
        """
        faces: list[_Face | None] = [None] * self.settings.max_faces
        last_boxes: dict[int, Floats] = {}
        last_seen: dict[int, int] = {}
        ahead: deque[_Ahead] = deque()
        if before is not None:
            faces = [None if face is None else _known_face(face) for face in before.faces]
            last_boxes, last_seen = dict(before.last_boxes), dict(before.last_seen)
            for begun, (index, frame) in zip(before.ahead, frames, strict=False):
                ahead.append(self._look_again(workers, index, frame, faces, begun))
        for done in count(0 if before is None else 1):
            while len(ahead) < LOOK_AHEAD and (item := next(frames, None)) is not None:
                index, frame = item
                ahead.append(self._look_ahead(workers, index, frame, faces))
            if not ahead:
                return
            look = ahead.popleft()
            if isinstance(look.frame, FaceLandmarksError):
                if isinstance(look.frame, VideoError) and not done:
                    raise look.frame
                run.warnings.append(str(look.frame))
                if isinstance(look.frame, VideoError):
                    run.broken_off = True
                    return
                faces[:] = [None] * len(faces)
                begun_frame = _Begun(empty_frame(look.index, len(faces)), {})
            else:
                begun_frame = self._step(run, workers, look, look.frame, faces, last_boxes, last_seen)
                for slot in begun_frame.refinements:
                    last_boxes[slot] = begun_frame.result.boxes[slot]
                    last_seen[slot] = look.index
            after = _standing(look.index + 1, faces, ahead, last_boxes, last_seen, len(run.warnings))
            yield replace(begun_frame, after=after)

    def _look_ahead(
        self,
        workers: Workers,
        index: int,
        frame: npt.NDArray[np.uint8] | FaceLandmarksError,
        faces: list[_Face | None],
    ) -> _Ahead:
        """Start PFLD where the faces that are known should be on a frame that comes `LOOK_AHEAD` later."""
        known = [face for face in faces if face is not None]
        if not known or isinstance(frame, FaceLandmarksError):
            return _Ahead(index, frame, [], [], np.zeros((0, 4), np.float32))
        crops = crops_of_landmarks(np.stack([face.landmarks for face in known]))
        crops[:, :2] += _motions(known, crops[:, 2])
        return self._begin_look(workers, index, frame, known, crops)

    def _look_again(
        self,
        workers: Workers,
        index: int,
        frame: npt.NDArray[np.uint8] | FaceLandmarksError,
        faces: list[_Face | None],
        begun: AheadState,
    ) -> _Ahead:
        """Start PFLD where it was looking on a frame when the state was taken."""
        if not begun.slots or isinstance(frame, FaceLandmarksError):
            return _Ahead(index, frame, [], [], np.zeros((0, 4), np.float32))
        lost = _Face(np.zeros((N_LANDMARKS, 2), np.float32))
        known = [(faces[slot] if slot >= 0 else None) or lost for slot in begun.slots]
        return self._begin_look(workers, index, frame, known, begun.crops)

    def _begin_look(
        self, workers: Workers, index: int, frame: npt.NDArray[np.uint8], known: list[_Face], crops: Floats
    ) -> _Ahead:
        # each face by itself: a batch is no faster, and this way they may run beside each other
        outputs = [workers.submit(partial(self._looked, frame, crop[None])) for crop in crops]
        return _Ahead(index, frame, known, outputs, crops)

    def _looked(self, rgb: npt.NDArray[np.uint8], crops: Floats) -> tuple[PfldOutput, float]:
        began = time.perf_counter()
        return predict_twice(self.models.pfld, rgb, crops), time.perf_counter() - began

    def _step(
        self,
        run: Run,
        workers: Workers,
        look: _Ahead,
        rgb: npt.NDArray[np.uint8],
        faces: list[_Face | None],
        last_boxes: dict[int, Floats],
        last_seen: dict[int, int],
    ) -> _Begun:
        """Follow the known faces into a frame, look for others where there is room, and start refining."""
        index = look.index
        result = empty_frame(index, len(faces))
        known = [slot for slot, face in enumerate(faces) if face is not None]
        outputs = self._followed(run, look, rgb, faces)
        if run.regions.ignore:
            for slot, (output, row) in list(outputs.items()):
                if run.regions.ignores(_boxes_of(output.landmarks[row : row + 1]), index)[0]:
                    del outputs[slot]
        for slot in known:
            if slot not in outputs:
                faces[slot] = None
        if len(outputs) < len(faces) and (
            not outputs
            or len(known) > len(outputs)
            or index % LOOK_FOR_MORE_EVERY == 0
            or run.regions.begins(index)
        ):
            self._find(run, rgb, index, faces, outputs, last_boxes, last_seen)
        refinements: dict[int, Future[_Refined]] = {}
        picture = _Picture(rgb)
        for slot, (output, row) in outputs.items():
            landmarks = output.landmarks[row]
            face = faces[slot] or _Face(landmarks)
            face.move(landmarks)
            faces[slot] = face
            result.confidence[slot] = output.confidence[row]
            result.boxes[slot, :4] = _boxes_of(landmarks[None])[0]
            result.boxes[slot, 4] = face_scores(output)[row]
            work = partial(self._refined, picture, output, row, face, index)
            face.refinement = workers.submit(work, after=face.refinement)
            refinements[slot] = face.refinement
        return _Begun(result, refinements)

    def _followed(
        self, run: Run, look: _Ahead, rgb: npt.NDArray[np.uint8], faces: list[_Face | None]
    ) -> dict[int, tuple[PfldOutput, int]]:
        """Return what PFLD sees of the faces known from the frame before, where it still sees them.

        A face that was not there when PFLD looked ahead, or was not where it looked, is looked for where it
        was on the frame before.
        """
        least = STAY_SHARE * self.settings.min_confidence
        slots = {id(face): slot for slot, face in enumerate(faces) if face is not None}
        outputs: dict[int, tuple[PfldOutput, int]] = {}
        if look.outputs:
            looks = [output.result() for output in look.outputs]
            run.stats.add_time("pfld", sum(seconds for _, seconds in looks))
            output = _joined([output for output, _ in looks])
            usable = self._usable(output, rgb.shape, least)
            for row, face in enumerate(look.faces):
                if usable[row] and id(face) in slots:
                    outputs[slots[id(face)]] = output, row
        missed = [
            (slot, face.landmarks)
            for slot, face in enumerate(faces)
            if face is not None and slot not in outputs
        ]
        if missed:
            near = crops_of_landmarks(np.stack([landmarks for _, landmarks in missed]))
            output, seconds = self._looked(rgb, near)
            run.stats.add_time("pfld", seconds)
            usable = self._usable(output, rgb.shape, least)
            boxes = _boxes_of(output.landmarks)
            for row, (slot, _) in enumerate(missed):
                known = [_boxes_of(out.landmarks[i : i + 1]) for out, i in outputs.values()]
                double = any(overlaps(boxes[row : row + 1], box)[0, 0] > SAME_FACE for box in known)
                if usable[row] and not double:
                    outputs[slot] = output, row
        return dict(sorted(outputs.items()))

    def _find(
        self,
        run: Run,
        rgb: npt.NDArray[np.uint8],
        index: int,
        faces: list[_Face | None],
        outputs: dict[int, tuple[PfldOutput, int]],
        last_boxes: dict[int, Floats],
        last_seen: dict[int, int],
    ) -> None:
        """Add the faces that the detector finds beside the known ones to `outputs`, a slot each."""
        output = self._look(rgb, run.stats, run.regions.boxes(index))[1]
        if run.regions.ignore:
            passed = run.regions.ignores(_boxes_of(output.landmarks), index)
            output = _take(output, np.flatnonzero(~passed))
        boxes = _boxes_of(output.landmarks)
        if outputs and len(boxes):
            known = _boxes_of(np.stack([out.landmarks[row] for out, row in outputs.values()]))
            fresh = np.flatnonzero(overlaps(boxes, known).max(axis=1) < SAME_FACE)
        else:
            fresh = np.arange(len(boxes))
        free = [slot for slot in range(len(faces)) if slot not in outputs]
        for face, slot in assign_slots(boxes[fresh], free, last_boxes, last_seen):
            outputs[slot] = (output, int(fresh[face]))
            faces[slot] = None

    def _look(
        self, rgb: npt.NDArray[np.uint8], stats: RunStats, told: Floats | None = None
    ) -> tuple[Floats, PfldOutput]:
        """Return the detector's boxes (F, 5) that PFLD takes for faces too, surest first, and what it sees.

        A face printed on a shirt is one to the detector, but its landmarks are less sure than a real one's.
        In the boxes that it is told of, PFLD looks too, and is believed as of faces that are followed.
        """
        began = time.perf_counter()
        most = CANDIDATES + 2 * self.settings.max_faces
        found = detect_faces(self.models.detector, rgb, min_score=CANDIDATE_SCORE, max_faces=most)
        stats.add_time("detect", time.perf_counter() - began)
        began = time.perf_counter()
        roll = np.array([roll_from_points(points) for points in found.points], dtype=np.float64)
        boxes, least = found.boxes, np.full(len(found), self.settings.min_confidence, np.float32)
        if told is not None and len(told):
            boxes, roll = np.concatenate([boxes, told]), np.concatenate([roll, np.zeros(len(told))])
            least = np.concatenate([least, np.full(len(told), STAY_SHARE * self.settings.min_confidence)])
        output = self._predict_still(rgb, crops_of_boxes(boxes, roll))
        usable = np.flatnonzero(self._usable(output, rgb.shape, least, boxes[:, 4]))
        order = usable[np.argsort(-face_scores(output)[usable], kind="stable")]
        if len(boxes):
            stats.add_time("pfld", time.perf_counter() - began)
        return boxes[order], _take(output, order)

    def _predict_still(self, rgb: npt.NDArray[np.uint8], crops: Floats) -> PfldOutput:
        """Run PFLD on crops that come from boxes, always with a second look at the first one's landmarks."""
        first = predict_twice(self.models.pfld, rgb, crops)
        better = crops_of_landmarks(first.landmarks)
        sure = (first.score >= 0.05) & (better[:, 2] >= SMALLEST_FACE)
        if not sure.any():
            return first
        second = predict_twice(self.models.pfld, rgb, np.where(sure[:, None], better, crops))
        return second

    def _usable(
        self, output: PfldOutput, shape: tuple[int, ...], least: float | Floats, rank: Floats | None = None
    ) -> npt.NDArray[np.bool_]:
        """Return which faces are to be followed: sure enough, in the frame, large enough, and no doubles.

        Of doubles that of the highest rank stays; by default the surest.
        """
        height, width = shape[:2]
        crops = crops_of_landmarks(output.landmarks)
        score = face_scores(output)
        good = score >= least
        good &= (crops[:, 2] >= SMALLEST_FACE) & (crops[:, 2] <= 4 * max(height, width))
        good &= (crops[:, 0] > 0) & (crops[:, 0] < width) & (crops[:, 1] > 0) & (crops[:, 1] < height)
        first = np.where(good, score if rank is None else rank, -1)
        return np.asarray(good & ~doubles(_boxes_of(output.landmarks), first))

    def _refined(self, picture: _Picture, output: PfldOutput, row: int, face: _Face, index: int) -> _Refined:
        """Refine a face, or carry its last correction, as the settings say."""
        began = time.perf_counter()
        landmarks, source, params = self._refine(picture, output, row, face, index)
        given = None if source == PFLD else output.landmarks[row]
        expressed = project(self.models.pdm, params) if np.isfinite(params).all() else None
        misfit = misfit_of(landmarks, given, expressed)
        stands = Refinement(face.params, face.correction, face.refined_at, face.unsure_at)
        return _Refined(landmarks, source, params, misfit, time.perf_counter() - began, stands)

    def _refine(
        self, picture: _Picture, output: PfldOutput, row: int, face: _Face, index: int
    ) -> tuple[Floats, int, npt.NDArray[np.float64]]:
        settings, pdm = self.settings, self.models.pdm
        landmarks, sigma = output.landmarks[row], output.sigma[row]
        try:
            params = fit_landmarks(pdm, landmarks, sigma, face.params)
        except ModelError:
            face.params = None
            return landmarks, PFLD, np.full(6, np.nan)
        face.params = params
        if is_unsure(output.confidence[row]):
            face.unsure_at = index
        wanted = settings.refine == "always" or (
            settings.refine == "auto" and index - face.unsure_at < STAY_REFINED
        )
        if not wanted:
            face.correction = None
            return landmarks, PFLD, params
        if face.correction is None or index - face.refined_at >= settings.clnf_every:
            fit = refine(
                picture.grey,
                landmarks,
                params,
                pdm,
                self.models.experts,
                settings,
                sigma,
                self.models.constants,
                self.engine,
            )
            if not fit.converged:
                face.correction = None
                return landmarks, PFLD, params
            face.correction = measure_correction(pdm, fit.start, fit.params, fit.shares)
            face.refined_at = index
            return fit.landmarks, CLNF, fit.params
        carried, carried_params = apply_correction(pdm, face.correction, params, landmarks)
        if not np.isfinite(carried).all():
            face.correction = None
            return landmarks, PFLD, params
        return carried, CARRIED, carried_params


def _is_done(begun: _Begun) -> bool:
    return all(refinement.done() for refinement in begun.refinements.values())


def _ended(run: Run, begun: _Begun) -> FrameResult:
    """Return a frame's result once its refinement is done."""
    result = begun.result
    for slot, refinement in begun.refinements.items():
        found = refinement.result()
        result.landmarks[slot], result.source[slot] = found.landmarks, found.source
        result.pose[slot], result.misfit[slot] = found.params[:6], found.misfit
        run.stats.add_time("clnf", found.seconds)
    if begun.after is not None:
        run.standing = partial(_with_refinements, begun.after, begun.refinements)
    return result


def _known_face(state: FaceState | AloneFace) -> _Face:
    """Return a face as the tracker remembers it from its state."""
    assert isinstance(state, FaceState)  # checked by check_state
    stands = state.refinement
    return _Face(
        state.landmarks, state.places, stands.params, stands.correction, stands.refined_at, stands.unsure_at
    )


def _standing(
    next_index: int,
    faces: Sequence[_Face | None],
    ahead: Sequence[_Ahead],
    last_boxes: dict[int, Floats],
    last_seen: dict[int, int],
    n_warnings: int,
) -> Standing:
    """Return how the tracker stands before a frame, but for the refinements, which may still go on."""
    slots = {id(face): slot for slot, face in enumerate(faces) if face is not None}
    return Standing(
        next_index,
        tuple(None if face is None else FaceState(face.landmarks, face.places) for face in faces),
        tuple(
            AheadState(look.crops, tuple(slots.get(id(face), -1) for face in look.faces)) for look in ahead
        ),
        dict(last_boxes),
        dict(last_seen),
        n_warnings,
    )


def _with_refinements(standing: Standing, refinements: dict[int, Future[_Refined]]) -> Standing:
    """Return how the tracker stands once the refinements of its faces are done."""
    faces = list(standing.faces)
    for slot, refinement in refinements.items():
        face = faces[slot]
        assert isinstance(face, FaceState)
        faces[slot] = replace(face, refinement=refinement.result().stands)
    return replace(standing, faces=tuple(faces))


def _motions(faces: Sequence[_Face], sides: Floats) -> Floats:
    """Return how far faces should move in `LOOK_AHEAD` frames, (F, 2) px: as far as in as many before.

    Small motions are mostly jitter, which a crop that followed them would make worse: they count for less.
    """
    motions = np.zeros((len(faces), 2), np.float32)
    for row, face in enumerate(faces):
        if len(face.places) > LOOK_AHEAD:
            motions[row] = face.places[0] - face.places[LOOK_AHEAD]
    lengths = np.linalg.norm(motions, axis=1)
    return np.asarray(motions * (lengths / (lengths + SMALL_MOTION * sides))[:, None], dtype=np.float32)


def face_scores(output: PfldOutput) -> Floats:
    """Return how sure it is that each crop shows a face with its landmarks in place, (F,).

    The smaller of the face score and the mean confidence of the landmarks: what is taken for a face but is
    none (letters, clouds) seldom gets confident landmarks.
    """
    return np.asarray(np.minimum(output.score, output.confidence.mean(axis=1)), dtype=np.float32)


def is_unsure(confidence: Floats) -> bool:
    """Return whether a face is hard enough for CLNF in auto mode: marks, occlusion, paralysis or pose.

    Parameters
    ----------
    confidence : ndarray, (68,)
        Of each landmark.
    """
    return bool(confidence.mean() < UNSURE_FACE or (_MEANS @ confidence).min() < UNSURE_REGION)


def _boxes_of(landmarks: npt.NDArray[np.floating]) -> Floats:
    points = np.asarray(landmarks, dtype=np.float32)
    if not len(points):
        return np.zeros((0, 4), np.float32)
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)


def _joined(outputs: Sequence[PfldOutput]) -> PfldOutput:
    if len(outputs) == 1:
        return outputs[0]
    return PfldOutput(
        np.concatenate([output.landmarks for output in outputs]),
        np.concatenate([output.sigma for output in outputs]),
        np.concatenate([output.confidence for output in outputs]),
        np.concatenate([output.score for output in outputs]),
    )


def _take(output: PfldOutput, rows: npt.NDArray[np.int64]) -> PfldOutput:
    rows = rows[rows < len(output.score)]
    return PfldOutput(output.landmarks[rows], output.sigma[rows], output.confidence[rows], output.score[rows])


def _face_fit(output: PfldOutput, faces: Sequence[_Refined]) -> FaceFit:
    count = len(faces)
    boxes = np.zeros((count, 5), np.float32)
    landmarks = np.zeros((count, 68, 2), np.float32)
    pose = np.zeros((count, 6), np.float32)
    for i, face in enumerate(faces):
        landmarks[i], pose[i] = face.landmarks, face.params[:6]
    boxes[:, :4], boxes[:, 4] = _boxes_of(landmarks), face_scores(output)
    source = np.array([face.source for face in faces], dtype=np.uint8)
    return FaceFit(landmarks, output.confidence, pose, source, boxes)


def _checked_boxes(boxes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(boxes, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] not in (4, 5):
        raise ImageError(f"The boxes have the shape {array.shape}: give x0, y0, x1, y1 as (F, 4) or (F, 5).")
    size = array[:, 2:4] - array[:, :2]
    if not np.isfinite(array[:, :4]).all() or (size < 1).any():
        raise ImageError(
            "A box is smaller than a pixel or not finite: give x0, y0, x1, y1 with x1 > x0, y1 > y0."
        )
    return array[:, :4]
