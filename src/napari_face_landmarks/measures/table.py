"""Time series of measures with standard errors, computed from the landmarks of a recording."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.names import MODELS, names_in_files, names_of_faces
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import MeasureError
from napari_face_landmarks.ibug import REGIONS, inter_ocular
from napari_face_landmarks.measures.definitions import (
    FACES_PER_CHUNK,
    MEASURES,
    PAIRS,
    SIDES,
    Measure,
    unknown_measure,
)
from napari_face_landmarks.measures.reference_frame import FaceAxes, face_axes
from napari_face_landmarks.measures.rest import is_a_second, rest_rows
from napari_face_landmarks.measures.scale import Scale, parse_scale, unit_per_pixel
from napari_face_landmarks.measures.uncertainty import (
    OTHER_MODELS,
    error_covariance,
    error_factors,
    error_product,
    error_shares,
    error_slopes,
    factors_of_columns,
    has_errors,
)
from napari_face_landmarks.priority import cores
from napari_face_landmarks.tracking.frame_view import PIXEL_ASPECT

if TYPE_CHECKING:
    import pandas
    import xarray

    from napari_face_landmarks.clnf.pdm import PDM

Floats = npt.NDArray[np.float32]
PointsAt = Callable[[Any], npt.NDArray[np.float64]]
"""Returns landmarks and irises on some frames (a slice or rows), (T', F, 70, 2) px, scaled to the size at
rest."""

LOW_CONFIDENCE = 0.5
"""Frames with a lower mean confidence are flagged, and excluded from summaries and events."""
FRAME_INTERVAL_WARNING = 2.0  # seconds; longer intervals between frames cause a warning
FRAME_RATE_WARNING = 15.0  # frames per second; lower rates cause a warning
UNCERTAIN_WARNING = 0.1  # share of uncertain frames of a face from which a warning is given
MAX_SIMILAR_WARNINGS = 4
VISIBLE_PART = 0.9
"""Mean confidence of the landmarks of a visible part: at least 0.95 on unoccluded clips, at most 0.92 under a
patch of one colour."""
VISIBLE_PARTS = {
    **{name: [*REGIONS[name]] for name in ("right brow", "left brow", "right eye", "left eye")},
    "mouth": [*REGIONS["outer lip"], *REGIONS["inner lip"]],
}
LARGE_YAW = 20.0
"""Degrees; with more yaw, measures in the image plane are biased by more than a tenth, and flagged."""
VISIBLE_IRIS = 0.5
"""Confidence of a visible iris."""
OPEN_PERCENTILE = 95.0
"""Percentile of an eye's height over the recording that is the height of the open eye."""
THREADS = 2
"""Chunks of frames measured in parallel; more threads would only wait for Python's global lock."""
CLOSURES = {f"closure{end}": f"eye_height{end}" for end in ("", "_right", "_left")}
"""The measure that each closure is computed from."""
NEVER_OPEN = 0.2
"""An eye up to this height, relative to the other eye, is shut on all frames."""
UNITS = {"ratio": "ratio", "angle": "deg"}
STILL = "A single frame shows no events or movements: they are left out."


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a `MeasureTable`.

    Attributes
    ----------
    name : str
        Such as ``"eye_height_right"`` or ``"eye_height_difference"``.
    title : str
    unit : str
        ``"percent"``, ``"mm"``, ``"percent2"``, ``"mm2"``, ``"ratio"``, ``"deg"``; percent of the distance
        between the outer canthi at rest, or of its square.
    side : str
        ``"right"``, ``"left"``, ``"both"``, or ``"difference"`` (left minus right) and ``"symmetry"`` (the
        smaller of the two in percent of the larger, 100 is symmetric).
    """

    name: str
    title: str
    unit: str
    side: str


@dataclass(frozen=True)
class MeasureTable:
    """Measures of every face on every frame.

    Attributes
    ----------
    columns : tuple of Column
        The M columns.
    values, errors : ndarray, (T, F, M), float32
        Each measure and its standard error; NaN where there is no face. Errors are also NaN for landmarks
        without confidence.
    frame_indices : ndarray, (T,), int64
    timestamps : ndarray, (T,), float64
        Seconds; NaN if unknown.
    low_confidence, turned : ndarray, (T, F), bool
        Flagged faces: an uncertain face, or more than `LARGE_YAW` of yaw without pose correction.
    rest : tuple of ndarray of int64
        For each face the rows (indices along T) of its rest frames; empty if it has none.
    scale : Scale
    pose_corrected : bool
    face_names : tuple of str
    warnings : tuple of str
    meta : dict
        Metadata of the tracks.
    """

    columns: tuple[Column, ...]
    values: Floats
    errors: Floats
    frame_indices: npt.NDArray[np.int64]
    timestamps: npt.NDArray[np.float64]
    low_confidence: npt.NDArray[np.bool_]
    turned: npt.NDArray[np.bool_]
    rest: tuple[npt.NDArray[np.int64], ...]
    scale: Scale
    pose_corrected: bool
    face_names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return a summary of at most five lines."""
        lines = [
            f"MeasureTable: {len(self.frame_indices)} frames, faces: {', '.join(self.face_names)[:80]}",
            f"{len(self.columns)} measures: {', '.join(self.names[:3])}, … (all in .names)",
            f"usable: {self.usable.mean() if self.usable.size else 0:.0%} of frames and faces",
            f"rows of rest: {', '.join(f'{r[0]} to {r[-1]}' if len(r) else 'none' for r in self.rest[:5])}",
            *(f"warning: {sentence}" for sentence in self.warnings[:1]),
        ]
        return "\n".join(lines)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def n_faces(self) -> int:
        """The number of faces, F."""
        return int(self.values.shape[1])

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """Mask of faces that are present and not flagged, (T, F) bool."""
        return np.asarray(np.isfinite(self.values[..., 0]) & ~self.low_confidence & ~self.turned)

    @property
    def still(self) -> bool:
        """Whether the recording is a single frame, such as a photograph."""
        return len(self.frame_indices) == 1

    def column(self, name: str) -> int:
        """Return the index of a column.

        Raises
        ------
        MeasureError
            If there is no such column; the message suggests similar names.
        """
        if name not in self.names:
            raise unknown_measure(name, self.names)
        return self.names.index(name)

    def series(self, name: str, face: int = 0) -> npt.NDArray[np.float64]:
        """Return one measure of one face over time, (T,) float64."""
        return np.asarray(self.values[:, face, self.column(name)], np.float64)

    def series_error(self, name: str, face: int = 0) -> npt.NDArray[np.float64]:
        """Return the standard errors of one measure of one face over time, (T,) float64."""
        return np.asarray(self.errors[:, face, self.column(name)], np.float64)

    def to_dataframe(self, long: bool = False) -> pandas.DataFrame:
        """Return one row per frame and face present or, if `long`, one per measure."""
        from napari_face_landmarks.measures.files import to_dataframe

        return to_dataframe(self, long)

    def to_xarray(self) -> xarray.Dataset:
        """Return a Dataset with the dimensions time, individuals and measure; needs xarray."""
        from napari_face_landmarks.measures.files import to_xarray

        return to_xarray(self)


def measure(
    tracks: Tracks,
    *,
    rest: int | str = "auto",
    scale: Scale | str | float | None = None,
    pose_corrected: bool = False,
    pdm: PDM | None = None,
    names: str | Sequence[str] | None = None,
) -> MeasureTable:
    """Measure faces over time.

    Changes of a face's distance from the camera are removed: faces are scaled to their size at rest, by the
    scale of the fitted PDM.

    Parameters
    ----------
    tracks : Tracks
        Landmarks of any origin; without confidence (all 1) there are no standard errors.
    rest : int or "auto"
        Frame number of the rest frame in the video; ``"auto"`` for the calmest second of each face.
    scale : Scale, str or float, optional
        A scale or an argument of `parse_scale`; default percent of the outer inter-canthal distance at rest.
    pose_corrected : bool
        Rotate the landmarks to a frontal view first, with depth from `pdm`.
    pdm : PDM, optional
        Used by `pose_corrected`; default the PDM of the bundle that located the landmarks or, if they are not
        from a bundle, of the default bundle.
    names : str or sequence of str, optional
        Names from `MEASURES`, with or without the side; default all.

    Returns
    -------
    MeasureTable

    Raises
    ------
    MeasureError
        If no frame has a face, the rest frame is not in the tracks or has no face, a name is unknown, or the
        scale cannot be used.
    """
    scale = scale if isinstance(scale, Scale) else parse_scale(scale)
    measures = _select_measures(names)
    tracks = _with_square_pixels(tracks)
    present: npt.NDArray[np.bool_] = np.asarray(np.isfinite(tracks.landmarks).all(axis=(2, 3)))
    if not present.any():
        raise MeasureError("No frame has a face with all landmarks: there is nothing to measure.")
    uncertain = present & (tracks.confidence.mean(axis=-1) < LOW_CONFIDENCE)
    usable = present & ~uncertain
    rows = rest_rows(tracks, usable, rest)
    size = np.ones(present.shape, np.float32) if pose_corrected else _size_at_rest(tracks, rows)
    landmarks = _frontal(tracks, rows, pdm) if pose_corrected else tracks.landmarks
    iris_px, irises = _irises(tracks, rows, None if pose_corrected else size)

    def points_at(frames: Any) -> npt.NDArray[np.float64]:
        scaled = landmarks[frames] * size[frames][..., None, None]
        return np.concatenate([scaled, irises[frames]], axis=2, dtype=np.float64)

    factor = unit_per_pixel(scale, _at_rest(points_at, present, rows), iris_px)
    columns = _columns(measures, scale.unit)
    values, errors = _measure_tracks(tracks, points_at, measures, columns, factor, scale)
    columns += _fill_closure(values, errors, columns, usable)
    turned = np.zeros_like(present)
    if not pose_corrected:
        turned = np.asarray(present & (np.abs(np.degrees(tracks.pose[..., 2])) > LARGE_YAW))
    table = MeasureTable(
        columns=columns,
        values=values,
        errors=errors,
        frame_indices=tracks.frame_indices,
        timestamps=tracks.timestamps,
        low_confidence=uncertain,
        turned=turned,
        rest=rows,
        scale=scale,
        pose_corrected=pose_corrected,
        face_names=tuple(names_in_files(names_of_faces(tracks), tracks.n_faces)),
        meta=dict(tracks.meta),
    )
    return dataclasses.replace(table, warnings=_warnings(table, tracks, present, rest == "auto"))


def _at_rest(
    points_at: PointsAt, present: npt.NDArray[np.bool_], rows: tuple[npt.NDArray[np.int64], ...]
) -> npt.NDArray[np.float64]:
    """Return the median landmarks of each face on its rest frames, or on all if it has none, (F, 68, 2)."""
    medians = np.full((len(rows), 68, 2), np.nan)
    for face, rest in enumerate(rows):
        frames = rest if len(rest) else np.flatnonzero(present[:, face])
        if len(frames):
            sample = frames[:: 1 + len(frames) // FACES_PER_CHUNK]
            medians[face] = np.median(points_at(sample)[:, face, :68], axis=0)
    return medians


def _warnings(
    table: MeasureTable, tracks: Tracks, present: npt.NDArray[np.bool_], automatic: bool
) -> tuple[str, ...]:
    """Return warnings about a table; `present`, (T, F), marks complete faces, `automatic` a detected rest."""
    names, seconds = table.face_names, table.timestamps
    measured = np.isfinite(table.values[..., 0])
    missing = "is never detected with confidence" if automatic else "is not on the rest frame"
    sentences = _abridge(
        f"{name} {missing}: it is scaled by its median size, and changes from rest are not known; choose "
        f"{'a' if automatic else 'another'} rest frame."
        for name, rest, complete in zip(names, table.rest, present.T, strict=True)
        if not len(rest) and complete.any()
    )
    sentences += _abridge(
        f"{name} is not visible for a second without interruption: its rest is the median of its {len(rest)} "
        "calmest frames; choose a rest frame if it moves on them."
        for name, rest in zip(names, table.rest, strict=True)
        if automatic and not table.still and len(rest) and not is_a_second(rest, seconds)
    )
    sentences += _abridge(
        f"{name} is {problem} on the rest frame, from which all changes are measured: choose another."
        for name, rest, *states in zip(names, table.rest, *_rest_problems(table), strict=True)
        for problem, state in zip(("uncertain", "turned away", "shutting an eye"), states, strict=True)
        if not automatic and state[rest].any()
    )
    sentences += _abridge(
        f"The {column.side} eye of {names[k]} is never seen open: its closure and blinks are unknown."
        for k in np.flatnonzero((measured & ~table.low_confidence).any(axis=0) & (not table.still))
        for index, column in enumerate(table.columns)
        if column.name.startswith("closure") and not np.isfinite(table.values[:, k, index]).any()
    )
    sentences += _abridge(
        f"{name} is uncertain on {share:.0%} of its frames, which are left out of summaries: check its "
        "landmarks; rotate the video first if the face is upside down."
        for name, complete, uncertain in zip(names, present.T, table.low_confidence.T, strict=True)
        if (share := uncertain.sum() / max(complete.sum(), 1)) >= UNCERTAIN_WARNING
    )
    models = str(tracks.meta.get(MODELS, ""))
    sentences += _abridge(_uncertain_parts(table, tracks) if has_errors(models) else ())
    if partial := int((tracks.present & ~present).sum()):
        sentences.append(f"On {partial} frames a face lacks some of its landmarks: it is not measured there.")
    if table.scale.kind == "iris":
        sentences += _abridge(
            f"No iris of {name} is visible: it has no lengths in mm, and is left out of tables."
            for name, complete, values in zip(names, present.T, measured.T, strict=True)
            if complete.any() and not values.any()
        )
    if turned := int(table.turned.sum()):
        sentences.append(
            f"On {turned} frames a face is turned by more than {LARGE_YAW:g} degrees: lengths in the image "
            "plane are biased there and left out of summaries; measure with pose correction."
        )
    if not table.pose_corrected and not np.isfinite(tracks.pose[present][:, 2]).all():
        sentences.append(
            "The landmarks have no head pose: frames on which a face is turned away are not detected, and "
            "count in summaries; measure with pose correction."
        )
    if not np.isfinite(table.errors).any():
        sentences.append("The landmarks have no confidence: measures have no standard errors.")
    elif not has_errors(models):
        unknown = f"errors of the models {models!r:.60}" if models else "models of the landmarks"
        sentences.append(f"The {unknown} are not known: standard errors are those of {OTHER_MODELS!r}.")
    if table.still:
        sentences.append(STILL)
    return (*sentences, *_time_warnings(seconds))


def _time_warnings(seconds: npt.NDArray[np.float64]) -> list[str]:
    """Return warnings about time stamps, (T,): distant frames, a low frame rate, or times that go back."""
    sentences: list[str] = []
    steps = np.diff(seconds[np.isfinite(seconds)])
    step = float(np.median(steps)) if len(steps) else 0.0
    if step > FRAME_INTERVAL_WARNING:
        sentences.append(
            f"The frames are {step:.3g} s apart, too far for blinks and movements: if the time stamps are in "
            "milliseconds, divide them by 1000."
        )
    elif step > 1.01 / FRAME_RATE_WARNING:  # not at 15000 / 1001
        sentences.append(
            f"At {1 / step:.3g} frames per second the closure and velocity of blinks are underestimated, "
            "and below 5 some blinks are missed."
        )
    if (steps <= 0).any():
        sentences.append("Time stamps go back or repeat: correct them, or give the frame rate.")
    return sentences


def _rest_problems(table: MeasureTable) -> tuple[npt.NDArray[np.bool_], ...]:
    """Return masks of frames on which a face is uncertain, turned, or shuts an eye by half, (F, T) each."""
    closures = [index for index, name in enumerate(table.names) if name.startswith("closure")]
    shut = np.asarray((table.values[..., closures] > 0.5).any(axis=-1))
    return table.low_confidence.T, table.turned.T, shut.T


def _abridge(sentences: Iterable[str]) -> list[str]:
    """Return the first `MAX_SIMILAR_WARNINGS` sentences, and the number of further ones."""
    listed = list(sentences)
    omitted = len(listed) - MAX_SIMILAR_WARNINGS
    if omitted <= 0:
        return listed
    return [*listed[:MAX_SIMILAR_WARNINGS], f"The same applies to {omitted} more."]


def _uncertain_parts(table: MeasureTable, tracks: Tracks) -> list[str]:
    """Return a sentence for each face with parts that are uncertain on many of its usable frames."""
    sentences = []
    for name, usable, confidence in zip(
        table.face_names, table.usable.T, tracks.confidence.swapaxes(0, 1), strict=True
    ):
        parts = []
        for part, landmarks in VISIBLE_PARTS.items():
            hidden = confidence[usable][:, landmarks].mean(axis=1) < VISIBLE_PART
            share = hidden.mean() if usable.any() else 0
            parts += [f"{part} on {share:.0%} of the frames"] if share >= UNCERTAIN_WARNING else []
        if parts:
            sentences.append(
                f"Parts of {name} are uncertain, perhaps covered ({', '.join(parts)}): measures of these "
                "parts are unreliable there."
            )
    return sentences


def _select_measures(names: str | Sequence[str] | None) -> tuple[Measure, ...]:
    if names is None:
        return MEASURES
    names = [CLOSURES.get(name, name) for name in ([names] if isinstance(names, str) else names)]
    if not names:
        raise MeasureError("No measures are selected: leave out the names to measure all.")
    selected = tuple(item for item in MEASURES if not {item.name, _base_name(item)}.isdisjoint(names))
    known = {item.name for item in selected} | {_base_name(item) for item in selected}
    unknown = [name for name in names if name not in known]
    if unknown:
        singles = (item.name for item in MEASURES if item.side == "both")
        raise unknown_measure(unknown[0], ["closure", *PAIRS, *singles])
    return selected


def _base_name(item: Measure) -> str:
    return item.name.removesuffix(f"_{item.side}")


def _frontal(tracks: Tracks, rows: tuple[npt.NDArray[np.int64], ...], pdm: PDM | None) -> Any:
    from napari_face_landmarks.clnf.pdm import PDM
    from napari_face_landmarks.measures.pose import frontal_landmarks
    from napari_face_landmarks.models import DEFAULT_BUNDLE, list_models, load_models

    if pdm is None:
        name = str(tracks.meta.get(MODELS, DEFAULT_BUNDLE))
        pdm = load_models(name if name in list_models() else DEFAULT_BUNDLE).pdm
    if not isinstance(pdm, PDM):
        raise MeasureError(f"The pdm is of the type {type(pdm).__name__}: give load_models().pdm.")
    points = np.full(tracks.landmarks.shape, np.nan, np.float32)
    for face, rest in enumerate(rows):
        frontal, scale = frontal_landmarks(tracks.landmarks[:, face], pdm)
        size = np.nanmedian(scale[rest] if len(rest) else scale) if np.isfinite(scale).any() else 1.0
        points[:, face] = frontal * size  # pixels at rest
    return points


def _with_square_pixels(tracks: Tracks) -> Tracks:
    if not isinstance(tracks, Tracks):
        raise MeasureError(f"Give Tracks, not {type(tracks).__name__}: read files with Tracks.load.")
    aspect = tracks.meta.get(PIXEL_ASPECT, 1.0)
    if not isinstance(aspect, (int, float)) or not np.isfinite(aspect) or aspect in (0, 1):
        return tracks
    landmarks = tracks.landmarks.copy()
    landmarks[..., 0] *= aspect
    iris = tracks.iris.copy()
    iris[..., [0, 2, 4, 6]] *= aspect
    return dataclasses.replace(tracks, landmarks=landmarks, iris=iris)


def _size_at_rest(tracks: Tracks, rows: tuple[npt.NDArray[np.int64], ...]) -> npt.NDArray[np.float32]:
    """Return the factors (T, F) that scale faces to their size at rest.

    The size is the scale of the PDM or, in tracks without pose, the distance between the outer canthi.
    """
    canthi = np.linalg.norm(tracks.landmarks[:, :, 36] - tracks.landmarks[:, :, 45], axis=-1)
    factors = np.ones(canthi.shape, np.float32)
    for face, rest in enumerate(rows):
        size = tracks.pose[:, face, 0]
        if not np.isfinite(size[np.isfinite(canthi[:, face])]).all():
            size = canthi[:, face]
        known = np.isfinite(size) & (size > 0)
        if not known.any():
            continue
        factors[known, face] = np.median(size[rest] if len(rest) else size[known]) / size[known]
    return factors


def _irises(
    tracks: Tracks, rows: tuple[npt.NDArray[np.int64], ...], size: npt.NDArray[np.float32] | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the iris diameter of each face, (F,) px, and the irises' centres, (T, F, 2, 2), at rest size.

    The diameter is the median over the rest frames, or over all frames if no rest frame shows an iris.
    Centres are NaN if the iris is not visible, and if `size` is None, for frontal views: the PDM has no depth
    of irises.
    """
    iris = tracks.iris.reshape(*tracks.iris.shape[:2], 2, 4)
    visible = np.nan_to_num(iris[..., 3]) > VISIBLE_IRIS
    scale = np.ones(visible.shape[:2]) if size is None else size
    diameters = np.where(visible, iris[..., 2] * scale[..., None], np.nan)
    medians = np.full(visible.shape[1], np.nan)
    for face, rest in enumerate(rows):
        for part in (diameters[rest, face], diameters[:, face]):
            if np.isfinite(part).any():
                medians[face] = np.nanmedian(part)
                break
    centres = np.where(visible[..., None], iris[..., :2] * scale[..., None, None], np.nan)
    return medians, centres if size is not None else np.full_like(centres, np.nan)


def _pairs(measures: Sequence[Measure]) -> list[tuple[str, int, int]]:
    """Return name, index of the right side and index of the left side of each paired measure."""
    index = {item.name: k for k, item in enumerate(measures)}
    return [
        (name, index[f"{name}_right"], index[f"{name}_left"])
        for name in PAIRS
        if f"{name}_right" in index and f"{name}_left" in index
    ]


def _columns(measures: Sequence[Measure], unit: str) -> tuple[Column, ...]:
    units = {**UNITS, "length": unit, "area": f"{unit}2"}
    columns = [Column(item.name, item.title, units[item.kind], item.side) for item in measures]
    for name, right, _ in _pairs(measures):
        title, unit = measures[right].title.removesuffix(", right"), columns[right].unit
        columns.append(Column(f"{name}_difference", f"{title}, left minus right", unit, "difference"))
        columns.append(Column(f"{name}_symmetry", f"{title}, smaller of larger", "percent", "symmetry"))
    return tuple(columns)


def symmetry(right: npt.NDArray[Any], left: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], ...]:
    """Return the smaller of two values in percent of the larger, and its derivatives by right and left.

    NaN unless both values are above 0.
    """
    left_larger = left >= right
    small, large = np.where(left_larger, (right, left), (left, right))
    small = np.where(small > 0, small, np.nan)
    ratio = 100 * small / large
    by_small, by_large = 100 / large, -ratio / large
    return ratio, *np.where(left_larger, (by_small, by_large), (by_large, by_small))


def _measure_tracks(
    tracks: Tracks,
    points_at: PointsAt,
    measures: Sequence[Measure],
    columns: Sequence[Column],
    factor: npt.NDArray[np.float64],
    scale: Scale,
) -> tuple[Floats, Floats]:
    """Return values and standard errors, (T, F, M), with empty columns for the closures."""
    pairs = _pairs(measures)
    count = len(columns)
    n_closures = sum(item.name.startswith("eye_height") for item in measures)
    shape = (*tracks.landmarks.shape[:2], count + n_closures)
    values, errors = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    known = bool(((tracks.confidence > 0) & (tracks.confidence < 1)).any() or np.isfinite(tracks.sigma).any())
    bundle = str(tracks.meta.get(MODELS, OTHER_MODELS))
    covariance = error_covariance(bundle)
    correction = factors_of_columns([column.name for column in columns], error_factors(bundle))
    powers = {"length": 1, "area": 2, "ratio": 0, "angle": 0}
    power = np.array([powers[item.kind] for item in measures], dtype=np.float64)
    power = np.concatenate([power, *((power[right], 0.0) for _, right, _ in pairs)])
    step = max(1, FACES_PER_CHUNK // max(1, shape[1]))

    def fill(first: int) -> None:
        chunk = slice(first, first + step)
        points = points_at(chunk)
        present = np.isfinite(points[:, :, :68]).all(axis=(2, 3))
        if not present.any():
            return
        points, sigma = points[present], None
        if known:
            arrays = (array[chunk][present] for array in (tracks.landmarks, tracks.confidence, tracks.sigma))
            sigma = error_shares(*arrays).T * inter_ocular(points)
        unscaled, spread = _measure_axes(face_axes(points), sigma, covariance, measures, pairs)
        factors = factor[np.nonzero(present)[1], None] ** power
        scale_error = scale.share_error * np.abs(unscaled * factors) * (factors != 1)
        values[chunk][present, :count] = unscaled * factors
        errors[chunk][present, :count] = np.hypot(spread * correction * factors, scale_error)

    with ThreadPoolExecutor(min(THREADS, cores())) as pool:
        list(pool.map(fill, range(0, shape[0], step)))
    return values, errors


def measured_faces(
    landmarks: npt.NDArray[Any],
    sigma: npt.NDArray[Any],
    covariance: npt.NDArray[np.float64],
    factors: Mapping[str, float],
) -> tuple[tuple[Column, ...], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return columns, values and standard errors of all measures of single faces, (N, M) float64, in pixels.

    Arrays: `landmarks` (N, 68, 2); `sigma` (N, 68), the predicted standard deviation of their errors along
    either axis in pixels, NaN for no standard errors; `covariance` (140, 140) and `factors` from
    `error_covariance` and `error_factors`. Columns are those of a `MeasureTable` except closures, in units of
    ``"px"`` and ``"px2"``.
    """
    pairs = _pairs(MEASURES)
    sigmas = error_shares(landmarks, sigma, sigma).T * inter_ocular(landmarks)
    values, errors = _measure_axes(face_axes(landmarks), sigmas, covariance, MEASURES, pairs)
    columns = _columns(MEASURES, "px")
    return columns, values, errors * factors_of_columns([column.name for column in columns], factors)


def _measure_axes(
    axes: FaceAxes,
    sigma: npt.NDArray[np.float64] | None,
    covariance: npt.NDArray[np.float64],
    measures: Sequence[Measure],
    pairs: Sequence[tuple[str, int, int]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return values and standard errors, (N, M), in the unit of the landmarks."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quantities = [item.formula(axes) for item in measures]
        values = [quantity.value for quantity in quantities]
        slopes = [] if sigma is None else [error_slopes(axes, quantity, sigma) for quantity in quantities]
        variances = [error_product(slope, slope, covariance) for slope in slopes]
        for _, right, left in pairs:
            ratio, *weights = symmetry(values[right], values[left])
            values += [values[left] - values[right], ratio]
            if sigma is None:
                continue
            between = error_product(slopes[right], slopes[left], covariance)
            for a, b in ((-1.0, 1.0), weights):
                variances.append(a * a * variances[right] + b * b * variances[left] + 2 * a * b * between)
    stacked = np.stack(values, axis=1)
    if sigma is None:
        return stacked, np.full(stacked.shape, np.nan)
    return stacked, np.sqrt(np.maximum(np.stack(variances, axis=1), 0))


def _fill_closure(
    values: Floats, errors: Floats, columns: tuple[Column, ...], usable: npt.NDArray[np.bool_]
) -> tuple[Column, ...]:
    """Fill in the closure of each eye, 1 - height / height of the open eye, and return its columns.

    The closure is NaN in stills, and for eyes that are never seen open: whose open height is within two
    standard errors of 0, or at most `NEVER_OPEN` times that of the other eye.
    """
    names = [column.name for column in columns]
    sides = [side for side in SIDES if f"eye_height_{side}" in names]
    heights = [names.index(f"eye_height_{side}") for side in sides]
    closures = slice(len(columns), len(columns) + len(sides))
    for face in range(values.shape[1]):
        rows = usable[:, face]
        if not rows.any() or not sides or len(rows) == 1:
            continue
        open_height = np.percentile(values[rows, face][:, heights], OPEN_PERCENTILE, axis=0)
        noise = 2 * np.nan_to_num(np.median(errors[rows, face][:, heights], axis=0))
        minimum = np.maximum(noise, max(0.0, NEVER_OPEN * open_height.max()))
        open_height = np.where(open_height > minimum, open_height, np.nan)
        values[:, face, closures] = 1 - values[:, face, heights] / open_height
        errors[:, face, closures] = errors[:, face, heights] / open_height
    return tuple(Column(f"closure_{side}", f"eye closure, {side}", "ratio", side) for side in sides)
