"""Faces of stills and videos: detector, PFLD, CLNF and smoothing behind one door."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf import numba_engine
from napari_face_landmarks.clnf.pdm import project
from napari_face_landmarks.data.frame import FaceFit, FrameResult, empty_frame
from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.data.tracks import Tracks, collect
from napari_face_landmarks.detection import detect_faces
from napari_face_landmarks.detection.boxes import boxes_of, sizes
from napari_face_landmarks.errors import ImageError, ResultError
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.models import Models, load_models
from napari_face_landmarks.models.external import check_mode
from napari_face_landmarks.pfld import PfldOutput, crops_of_boxes, crops_of_landmarks, predict_twice
from napari_face_landmarks.settings import TrackerSettings, given_settings
from napari_face_landmarks.tracking.clnf_tracker import as_fit, find_alone, fit_crops, follow_alone
from napari_face_landmarks.tracking.face_finder import (
    face_scores,
    find_faces,
    predict_in_boxes,
    take_faces,
)
from napari_face_landmarks.tracking.frame_source import open_source, rgb_frames
from napari_face_landmarks.tracking.pfld_tracker import follow
from napari_face_landmarks.tracking.provenance import provenance
from napari_face_landmarks.tracking.refinement import Picture, Refined, is_unsure, refine_face, set_refined
from napari_face_landmarks.tracking.regions import Regions
from napari_face_landmarks.tracking.run import Run, smoothed_results
from napari_face_landmarks.tracking.smoothing import smooth_centre
from napari_face_landmarks.tracking.state import Refinement, Standing, TrackerState, check_state
from napari_face_landmarks.tracking.threads import checked_threads
from napari_face_landmarks.video import prefetch
from napari_face_landmarks.video.container import thread_count
from napari_face_landmarks.video.pixels import to_grey, to_rgb8

__all__ = ["FaceTracker", "Run", "face_scores", "is_unsure"]

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int | None], None]


class FaceTracker:
    """Find faces and follow their 68 landmarks through a video.

    Several threads may call `track` and `fit` of one tracker at a time; `collect` and `last_run` tell of the
    run that was begun last.

    Parameters
    ----------
    models : Models, str or Path, optional
        What `load_models` gives, or the name or folder of a bundle; the default bundle where not given.
    settings : TrackerSettings, dict or str, optional
        Settings, names and values of them, or the name of a preset; the defaults where not given.
    threads : int, optional
        How many threads compute at a time, beside the decoding; the processors there are, at most 4, where
        not given. With 1 all is done in the caller's thread. The landmarks do not depend on it.
    engine : module, optional
        What refines PFLD's landmarks: `clnf.fast`, or `clnf.reference`, the plain text of the method.

    Attributes
    ----------
    last_run : Run or None
        Counts, times and warnings of the run in progress or of the last one.

    Raises
    ------
    ModelError, SettingsError
        If there are no such models, or the settings or the number of threads cannot be used.

    Examples
    --------
    >>> tracker = FaceTracker(load_models(), TrackerSettings(refine="always"))  # doctest: +SKIP
    >>> tracks = tracker.track("interview.mp4")  # doctest: +SKIP
    """

    def __init__(
        self,
        models: Models | str | Path | None = None,
        settings: TrackerSettings | Mapping[str, Any] | str | None = None,
        threads: int | None = None,
        engine: ModuleType = numba_engine,
    ) -> None:
        self.models = (
            models if isinstance(models, Models) else load_models(*([] if models is None else [models]))
        )
        self.settings = given_settings(settings)
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
        boxes, output = find_faces(self.models, self.settings, rgb, RunStats())
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
            output = find_faces(self.models, self.settings, rgb, RunStats())[1]
            output = take_faces(output, np.arange(self.settings.max_faces))
        else:
            output = predict_in_boxes(self.models, rgb, crops_of_boxes(_checked_boxes(boxes)))
        picture, new = Picture(rgb), Refinement()
        faces = [
            refine_face(self.models, self.settings, picture, output, i, 0, new, self.engine)
            for i in range(len(output.score))
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
            The path of a video, or its frames; lazy arrays are read frame by frame. Integers are taken to use
            the whole range of their type, floats to go from 0 to 1, or to 255 where one is above 1; where the
            first frame's do not, `Tracks.warnings` says so.
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

    def collect(self, results: Sequence[FrameResult] | Mapping[str, npt.NDArray[Any]]) -> Tracks:
        """Put results of the last run together; they may be fewer than the run was to give.

        Parameters
        ----------
        results : sequence of FrameResult, or mapping of str to ndarray
            What `track_frames` yielded, or the arrays of these frames, as a checkpoint has them.
        """
        run = self.last_run
        if run is None:
            raise ImageError("Nothing was tracked yet: run track or track_frames first.")
        return self._collected(run, results)

    def _collected(self, run: Run, results: Sequence[FrameResult] | Mapping[str, npt.NDArray[Any]]) -> Tracks:
        source = run.source
        return collect(
            results,
            settings=self.settings,
            stats=run.stats,
            timestamps=source.timestamps,
            warnings=run.all_warnings(),
            meta={
                **provenance(self.models),
                "height": source.size[0],
                "width": source.size[1],
                "fps": source.fps,
                **({"regions": run.regions.to_dict()} if run.regions else {}),
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
        if self._alone and regions:
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
            run.mended = state.mended
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
        output = predict_twice(self.models.pfld, rgb, crops_of_landmarks(landmarks[None]))
        unsure = np.zeros_like(output.confidence)
        face = PfldOutput(landmarks[None], np.ones_like(output.sigma), unsure, output.score)
        picture, stands = Picture(rgb), Refinement()
        for index in range(2):  # refined, then carried
            stands = refine_face(
                self.models, self.settings, picture, face, 0, index, stands, self.engine
            ).stands
        self._prepared = True

    def _run(self, run: Run, state: TrackerState | None = None) -> Generator[FrameResult, None, None]:
        began = time.perf_counter()
        self.prepare()
        run.stats.prepare_seconds += time.perf_counter() - began
        began = time.perf_counter() - run.stats.seconds
        try:
            raw_results = self._raw_results(run, None if state is None else state.standing)
            yield from smoothed_results(run, raw_results, self.settings.smoothing_window, began, state)
            run.stats.completed = not run.broken_off
        finally:
            run.stats.seconds = time.perf_counter() - began
            run.source.close()

    def _raw_results(self, run: Run, before: Standing | None) -> Generator[FrameResult, None, None]:
        if before is not None:
            run.standing = lambda: before
        source = run.source if before is None else replace(run.source, start=before.next_index)
        decoded = rgb_frames(source, run.stats, run.warnings if before is None else None)
        frames = cast(Any, decoded if self.threads == 1 else prefetch(decoded))
        with closing(frames):  # ends the decoding thread
            if self._alone:
                yield from follow_alone(frames, self.models, self.settings, run, self.threads, before)
            else:
                yield from follow(frames, self.models, self.settings, run, self.threads, before, self.engine)

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


def _face_fit(output: PfldOutput, faces: Sequence[Refined]) -> FaceFit:
    fit = empty_frame(0, len(faces))
    for i, face in enumerate(faces):
        set_refined(fit, i, face)
    fit.confidence[...] = output.confidence
    fit.boxes[:, :4], fit.boxes[:, 4] = boxes_of(fit.landmarks), face_scores(output)
    return fit


def _checked_boxes(boxes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(boxes, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] not in (4, 5):
        raise ImageError(f"The boxes have the shape {array.shape}: give x0, y0, x1, y1 as (F, 4) or (F, 5).")
    if not np.isfinite(array[:, :4]).all() or (sizes(array) < 1).any():
        raise ImageError(
            "A box is smaller than a pixel or not finite: give x0, y0, x1, y1 with x1 > x0, y1 > y0."
        )
    return array[:, :4]
