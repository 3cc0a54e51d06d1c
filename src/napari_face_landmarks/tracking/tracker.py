"""High-level API: detect and track face landmarks in images and videos."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf import numba_engine
from napari_face_landmarks.data.frame import FaceFit, FrameResult, empty_frame
from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.detection.boxes import boxes_of, sizes
from napari_face_landmarks.errors import ImageError, ResultError
from napari_face_landmarks.models import Models, load_models
from napari_face_landmarks.models.external import check_mode
from napari_face_landmarks.parts import place_parts
from napari_face_landmarks.pfld import PfldOutput, crops_of_boxes
from napari_face_landmarks.settings import TrackerSettings, as_settings
from napari_face_landmarks.tracking.clnf_tracker import as_fit, find_clnf_faces, fit_crops, follow_clnf
from napari_face_landmarks.tracking.context import RunContext, Tracked
from napari_face_landmarks.tracking.cuts import split_at_cuts
from napari_face_landmarks.tracking.face_finder import face_scores, find_faces, predict_in_boxes
from napari_face_landmarks.tracking.frame_source import Frame, open_source
from napari_face_landmarks.tracking.pfld_tracker import follow_pfld
from napari_face_landmarks.tracking.preparation import prepare
from napari_face_landmarks.tracking.refinement import GreyFrame, Refined, is_unsure, refine_face, set_refined
from napari_face_landmarks.tracking.regions import Regions
from napari_face_landmarks.tracking.run import Run
from napari_face_landmarks.tracking.state import FacesState, Refinement, TrackerState, check_state
from napari_face_landmarks.tracking.threads import checked_threads
from napari_face_landmarks.video.arrays import ENDLESS
from napari_face_landmarks.video.container import thread_count
from napari_face_landmarks.video.images import read_image
from napari_face_landmarks.video.pixels import pixel_range_of, to_grey, to_rgb8

__all__ = ["FaceTracker", "Run", "face_scores", "is_unsure"]

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int | None], None]


class FaceTracker:
    """Detect faces and track their 68 landmarks through a video.

    `track` and `fit` are thread-safe.

    Parameters
    ----------
    models : Models, str or Path, optional
        Loaded models, or the name or folder of a bundle; by default the default bundle.
    settings : TrackerSettings, dict or str, optional
        Settings, a dict of setting names and values, or the name of a preset; by default the defaults.
    threads : int, optional
        Number of computing threads, not counting decoding; by default one per processor core, at most 4.
        With 1, everything runs in the caller's thread. Landmarks do not depend on it.
    engine : module, optional
        The CLNF implementation: `clnf.numba_engine`, or `clnf.reference` (plain NumPy, slow).

    Attributes
    ----------
    last_run : Run or None
        The latest run, with its statistics and warnings.

    Raises
    ------
    ModelError, SettingsError
        If the models cannot be loaded, or the settings or the number of threads are not valid.

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
        self.settings = as_settings(settings)
        self.threads = thread_count() if threads is None else checked_threads(threads)
        check_mode(self.models, self.settings)
        self.engine = engine
        self._last_run: Callable[[], Run | None] = lambda: None
        self._prepared = False

    def __repr__(self) -> str:
        """Return models, settings that differ from the defaults, and number of threads."""
        default = TrackerSettings().to_dict()
        changed = [f"{k}={v!r}" for k, v in self.settings.to_dict().items() if v != default[k]]
        settings = ", ".join(changed) or "defaults"
        return f"<FaceTracker with models {self.models.name!r}, {settings}, threads={self.threads}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the constructor's arguments; `last_run` is dropped."""
        return _tracker_with, (self.models, self.settings, self.threads, self.engine.__name__)

    def detect(self, image: Any) -> Floats:
        """Detect the faces of an image.

        Parameters
        ----------
        image : path or array-like, (H, W), (H, W, 3) or (H, W, 4)
            Greyscale, RGB or RGBA; uint8, uint16 or float.

        Returns
        -------
        ndarray, (F, 5), float32
            x0, y0, x1, y1 (pixels, from forehead to chin) and score of each face, best first; at most
            ``settings.max_faces``. Detections that PFLD does not confirm are dropped.

        Raises
        ------
        ImageError
            If the shape or dtype of the image is not supported.
        """
        rgb = _picture(image)
        if self._without_pfld:
            return self._fit_by_clnf(rgb, None).boxes
        boxes, output = find_faces(self.models, self.settings, rgb, RunStats())
        boxes[:, 4] = face_scores(output)
        return boxes[: self.settings.max_faces]

    def fit(self, image: Any, boxes: npt.ArrayLike | None = None) -> FaceFit:
        """Locate the landmarks of all faces in an image.

        Parameters
        ----------
        image : path or array-like, (H, W), (H, W, 3) or (H, W, 4)
            Greyscale, RGB or RGBA; uint8, uint16 or float.
        boxes : array-like, (F, 4) or (F, 5), optional
            x0, y0, x1, y1 in pixels of each face; by default those of the detector.

        Returns
        -------
        FaceFit
            One row for each given box, or for each detection that PFLD confirms.

        Raises
        ------
        ImageError
            If the image or the boxes are not valid.
        """
        rgb = _picture(image)
        if self._without_pfld:
            return self._fit_by_clnf(rgb, boxes)
        if boxes is None:
            output = find_faces(self.models, self.settings, rgb, RunStats())[1]
            output = output.rows(slice(self.settings.max_faces))
        else:
            output = predict_in_boxes(self.models, rgb, crops_of_boxes(_checked_boxes(boxes)))
        frame, context = GreyFrame(rgb), self._context()
        faces = [refine_face(context, frame, output, i, 0, Refinement()) for i in range(len(output.score))]
        return _face_fit(output, faces)

    def track(
        self,
        frames: Any,
        progress: Progress | None = None,
        *,
        start: int = 0,
        stop: int | None = None,
        regions: Regions | None = None,
        fps: float | None = None,
        every: int = 1,
    ) -> Tracks:
        """Track the faces in a video.

        Parameters
        ----------
        frames : str, Path, Video, array-like, (T, Y, X) or (T, Y, X, 3 or 4), list or iterable of frames
            Path of a video, frames, or a list of image paths; lazy arrays and iterators are read frame by
            frame. Axes of length 1 are dropped; (Y, X, 3 or 4) is a single image. Pixels of more than 8 bits
            and floats are scaled by the pixel range of three frames, the same for all frames
            (`video.pixels.pixel_range_of`). `Tracks.meta` records the range; a warning names it if it is not
            the whole range of the dtype.
        progress : callable, optional
            Called with the number of finished frames and the total number, None if that is not known.
        start, stop : int
            First frame, and the frame after the last one; None is the end of the video.
        regions : Regions, optional
            Boxes in which to search for missed faces, and boxes to ignore; not with clnf-only.
        fps : float, optional
            Frame rate of an array, for time stamps and the smoothing window; ignored for videos.
        every : int
            Track only every n-th frame. Settings in frames then refer to tracked frames; frame numbers and
            time stamps of the results are those of the source.

        Returns
        -------
        Tracks
            If the video ends early, the frames up to there, with the reason in `Tracks.warnings`.

        Raises
        ------
        VideoError, ImageError
            If no frame can be tracked.
        """
        results: list[FrameResult] = []
        run = self.track_frames(frames, start, stop, regions=regions, fps=fps, every=every)
        total = None if run.source.stop == ENDLESS else run.source.n_frames
        for result in run:
            results.append(result)
            if progress is not None:
                progress(len(results), total)
        return split_at_cuts(run.tracks(results))

    def collect(self, results: Sequence[FrameResult] | Mapping[str, npt.NDArray[Any]]) -> Tracks:
        """Collect results of the last run as `Tracks`: short for ``last_run.tracks(results)``.

        Parameters
        ----------
        results : sequence of FrameResult, or mapping of str to ndarray
            Results of `track_frames`, or their arrays as for `Run.tracks`; possibly not of all frames.
        """
        run = self.last_run
        if run is None:
            raise ImageError("Nothing was tracked yet: call track or track_frames first.")
        return run.tracks(results)

    def track_frames(
        self,
        frames: Any,
        start: int = 0,
        stop: int | None = None,
        state: TrackerState | None = None,
        regions: Regions | None = None,
        fps: float | None = None,
        every: int = 1,
    ) -> Run:
        """Track the faces in a video frame by frame.

        Parameters
        ----------
        frames, start, stop
            As for `track`.
        state : TrackerState, optional
            `Run.state` of a run over the same frames with the same models and settings, from which to
            resume; the results are those of an uninterrupted run.
        regions, fps, every
            As for `track`.

        Returns
        -------
        Run
            An iterator of `FrameResult` in the order of the frames, with statistics and warnings; `close`
            ends it. Each result is final, smoothing included, and is returned half a smoothing window after
            its frame was read.

        Raises
        ------
        VideoError, ImageError
            As for `track`, before the first frame is read.
        ResultError
            If the state does not match the settings, the models or the frames.
        """
        context = self._context(regions)
        if self._without_pfld and context.regions:
            raise ImageError("Regions need PFLD: choose a refine mode other than clnf-only, or no regions.")
        source = open_source(frames, start, stop, fps, every)
        context.warnings.extend(source.warnings)
        context = replace(context, regions=source.regions(context.regions))
        if state is not None:
            try:
                end = source.start + source.n_frames
                check_state(state, self.settings, self.models.pdm.n_modes, source.start, end, source.rate)
            except ResultError:
                source.close()
                raise
        run = Run(context, source, self._follow, self.prepare, state, self._keep)
        self._last_run = weakref.ref(run)
        return run

    @property
    def last_run(self) -> Run | None:
        """The latest run of `track` or `track_frames`; None before the first."""
        return self._last_run()

    def _keep(self, run: Run) -> None:
        """Keep a run that has ended; a run in progress is referenced weakly."""
        if self._last_run() in (run, None):
            self._last_run = lambda: run

    def _context(self, regions: Regions | None = None) -> RunContext:
        return RunContext(self.models, self.settings, self.engine, self.threads, regions or Regions())

    def prepare(self) -> None:
        """Compile the kernels that a run needs, or load them from the cache of an earlier process.

        Called before the first frame of a run. It takes some seconds after an installation, a fraction of a
        second in later processes, and no time when called again.
        """
        if self._prepared:
            return
        prepare(self._context())
        self._prepared = True

    def _follow(
        self, context: RunContext, frames: Iterator[tuple[int, Frame]], before: FacesState | None
    ) -> Generator[Tracked, None, None]:
        return (follow_clnf if self._without_pfld else follow_pfld)(context, frames, before)

    @property
    def _without_pfld(self) -> bool:
        return self.settings.refine == "clnf-only"

    def _fit_by_clnf(self, rgb: npt.NDArray[np.uint8], boxes: npt.ArrayLike | None) -> FaceFit:
        grey = to_grey(rgb)
        if boxes is None:
            faces = find_clnf_faces(self._context(), rgb, grey, [])[1][: self.settings.max_faces]
        else:
            crops = crops_of_boxes(_checked_boxes(boxes))
            faces = fit_crops(self.models, grey, crops, np.ones(len(crops), np.float32))
        fit = as_fit(faces)
        if self.models.parts is not None and faces:
            fit.landmarks[:] = place_parts(self.models.parts, rgb, fit.landmarks)
        return fit


def _tracker_with(models: Models, settings: TrackerSettings, threads: int, engine: str) -> FaceTracker:
    return FaceTracker(models, settings, threads, import_module(engine))


def _face_fit(output: PfldOutput, faces: Sequence[Refined]) -> FaceFit:
    fit = empty_frame(0, len(faces))
    for i, face in enumerate(faces):
        set_refined(fit, i, face)
    fit.boxes[:, :4], fit.boxes[:, 4] = boxes_of(fit.landmarks), face_scores(output)
    return fit


def _checked_boxes(boxes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(boxes, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] not in (4, 5):
        raise ImageError(f"The boxes have the shape {array.shape}: give x0, y0, x1, y1 as (F, 4) or (F, 5).")
    if not np.isfinite(array[:, :4]).all() or (sizes(array) < 1).any():
        raise ImageError(
            "A box is smaller than a pixel or not finite: give x0, y0, x1, y1 with x1 > x0 and y1 > y0."
        )
    return array[:, :4]


def _picture(image: Any) -> npt.NDArray[np.uint8]:
    """Return an image, given as an array or a path, as RGB uint8, scaled by its own pixel range."""
    if isinstance(image, (str, Path)):
        image = read_image(image)
    return to_rgb8(image, pixel_range=pixel_range_of([image])[0])
