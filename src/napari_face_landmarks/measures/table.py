"""`measure`: landmarks of a recording to time series of measures, each with its standard error."""

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
"""From frames (a slice or rows) to their landmarks and irises, (T', F, 70, 2) px, as large as at rest."""

LOW_CONFIDENCE = 0.5
"""Frames whose mean confidence is lower are flagged, and left out of summaries and events."""
FARTHEST = 2.0  # seconds between frames from which a warning is given
SLOWEST = 15.0  # frames per second below which a warning is given
MANY_UNCERTAIN = 0.1  # share of the frames of a face that are uncertain from which a warning is given
MOST_ALIKE = 4  # warnings of one kind
SEEN = 0.9
"""Mean confidence of the landmarks of a part that is well seen: at least 0.95 on clips without cover, at most
0.92 where it was covered by a patch of one colour."""
VISIBLE_PARTS = {
    **{name: [*REGIONS[name]] for name in ("right brow", "left brow", "right eye", "left eye")},
    "mouth": [*REGIONS["outer lip"], *REGIONS["inner lip"]],
}
LARGE_YAW = 20.0
"""Degrees of yaw beyond which measures in the image plane are biased by more than a tenth, and flagged."""
VISIBLE_IRIS = 0.5
"""Confidence from which an iris counts as visible."""
OPEN_PERCENTILE = 95.0
"""Percentile of an eye's height over the recording that counts as open."""
THREADS = 2
"""Chunks of frames that are measured at a time; more would wait for each other in Python."""
CLOSURES = {f"closure{end}": f"eye_height{end}" for end in ("", "_right", "_left")}
"""The measures of which the eyes' closures are made."""
NEVER_OPEN = 0.2
"""Height over that of the other eye up to which an eye counts as shut on all frames."""
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
        of the outer canthi at rest, or of its square.
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
        M of them.
    values, errors : ndarray, (T, F, M), float32
        Each measure and its standard error; NaN where there is no face, errors also where the landmarks have
        no confidence of their own.
    frame_indices : ndarray, (T,), int64
    timestamps : ndarray, (T,), float64
        Seconds; NaN where not known.
    low_confidence, turned : ndarray, (T, F), bool
        Frames that are flagged: an uncertain face, and more than `LARGE_YAW` of yaw without pose correction.
    rest : tuple of ndarray of int64
        For each face the rows (places in T) that were taken as its rest; empty where there is none.
    scale : Scale
    pose_corrected : bool
    face_names : tuple of str
    warnings : tuple of str
    meta : dict
        Of the tracks.
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
        """The columns' names."""
        return tuple(column.name for column in self.columns)

    @property
    def n_faces(self) -> int:
        """The number of faces, F."""
        return int(self.values.shape[1])

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """Where there is a face that is not flagged, (T, F) bool."""
        return np.asarray(np.isfinite(self.values[..., 0]) & ~self.low_confidence & ~self.turned)

    @property
    def still(self) -> bool:
        """Whether there is one frame only, as of a photograph."""
        return len(self.frame_indices) == 1

    def column(self, name: str) -> int:
        """Return the place of a column.

        Raises
        ------
        MeasureError
            If there is none of that name; the sentence names some.
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
        """Return a row for each frame and face that is there, or with `long` one for each measure of it."""
        from napari_face_landmarks.measures.files import to_dataframe

        return to_dataframe(self, long)

    def to_xarray(self) -> xarray.Dataset:
        """Return the table as a dataset with the dimensions time, individuals and measure; needs xarray."""
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

    Lengths are those of the face at the distance from the camera that it has at rest: its size on each frame,
    by the shape model's scale, is divided out.

    Parameters
    ----------
    tracks : Tracks
        Landmarks of any origin; without confidence of their own (all 1) they get no standard errors.
    rest : int or "auto"
        The frame at rest, by its number in the video; with ``"auto"`` the calmest second of each face.
    scale : Scale, str or float, optional
        As `parse_scale` takes it; percent of the outer inter-canthal distance at rest where not given.
    pose_corrected : bool
        Turn the landmarks to a frontal view first, with the depth of `pdm`.
    pdm : PDM, optional
        A shape model, for `pose_corrected`; that of the tracks' models where not given, or of the default
        ones where these are no bundle.
    names : str or sequence of str, optional
        The measures wanted, as in `MEASURES` or without the side; all where not given.

    Returns
    -------
    MeasureTable

    Raises
    ------
    MeasureError
        If no frame has a face, the rest frame is none of the tracks' or has no face, a name is unknown, or
        the scale cannot be used.
    """
    scale = scale if isinstance(scale, Scale) else parse_scale(scale)
    wanted = _wanted(names)
    tracks = _with_square_pixels(tracks)
    present: npt.NDArray[np.bool_] = np.asarray(np.isfinite(tracks.landmarks).all(axis=(2, 3)))
    if not present.any():
        raise MeasureError("No frame has a face with all landmarks: there is nothing to measure.")
    uncertain = present & (tracks.confidence.mean(axis=-1) < LOW_CONFIDENCE)
    usable = present & ~uncertain
    rows = rest_rows(tracks, usable, rest)
    size = np.ones(present.shape, np.float32) if pose_corrected else _size_at_rest(tracks, rows)
    source = _frontal(tracks, rows, pdm) if pose_corrected else tracks.landmarks
    iris_px, irises = _irises(tracks, rows, None if pose_corrected else size)

    def points_at(frames: Any) -> npt.NDArray[np.float64]:
        found = source[frames] * size[frames][..., None, None]
        return np.concatenate([found, irises[frames]], axis=2, dtype=np.float64)

    factor = unit_per_pixel(scale, _at_rest(points_at, present, rows), iris_px)
    columns = _columns(wanted, scale.unit)
    values, errors = _measured(tracks, points_at, wanted, columns, factor, scale)
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
    """Return each face at rest, (F, 68, 2); the median of all frames where no rest was found."""
    found = np.full((len(rows), 68, 2), np.nan)
    for face, at in enumerate(rows):
        seen = at if len(at) else np.flatnonzero(present[:, face])
        if len(seen):
            some = seen[:: 1 + len(seen) // FACES_PER_CHUNK]
            found[face] = np.median(points_at(some)[:, face, :68], axis=0)
    return found


def _warnings(
    table: MeasureTable, tracks: Tracks, present: npt.NDArray[np.bool_], automatic: bool
) -> tuple[str, ...]:
    """Return what is to be said of a table of tracks, whose faces are where `present`, (T, F), says.

    `automatic` is whether the rest was found, not given.
    """
    names, turned, seconds = table.face_names, int(table.turned.sum()), table.timestamps
    unrested = [names[k] for k, found in enumerate(table.rest) if not len(found) and present[:, k].any()]
    measured = np.isfinite(table.values[..., 0])
    short = [
        (names[k], len(found))
        for k, found in enumerate(table.rest)
        if automatic and not table.still and len(found) and not is_a_second(found, seconds)
    ]
    shut = [
        f"{column.side} eye of {names[k]}"
        for k in np.flatnonzero((measured & ~table.low_confidence).any(axis=0) & (not table.still))
        for place, column in enumerate(table.columns)
        if column.name.startswith("closure") and not np.isfinite(table.values[:, k, place]).any()
    ]
    missing = "is never seen with confidence" if automatic else "is not on the rest frame"
    sentences = _few(
        f"{name} {missing}: it is scaled by its median, and changes from rest are not known; choose "
        f"{'a' if automatic else 'another'} rest frame."
        for name in unrested
    )
    sentences += _few(
        f"{name} is not seen for a second without interruption: its rest is the median of its {count} "
        "calmest frames; choose a rest frame if it moves on them."
        for name, count in short
    )
    sentences += _few(
        f"{name} is {what} on the rest frame, from which all changes are counted: choose another."
        for name, found, *states in zip(names, table.rest, *_at_rest_states(table), strict=True)
        for what, state in zip(("uncertain", "turned away", "shutting an eye"), states, strict=True)
        if not automatic and state[found].any()
    )
    sentences += _few(f"The {eye} is never seen open: its closure and blinks are not known." for eye in shut)
    sentences += _few(
        f"{name} is uncertain on {share:.0%} of its frames, which are left out of summaries: look at its "
        "landmarks; a face that is upside down has to be turned first."
        for name, found, uncertain in zip(names, present.T, table.low_confidence.T, strict=True)
        if (share := uncertain.sum() / max(found.sum(), 1)) >= MANY_UNCERTAIN
    )
    models = str(tracks.meta.get(MODELS, ""))
    sentences += _few(_uncertain_parts(table, tracks) if has_errors(models) else ())
    if partial := int((tracks.present & ~present).sum()):
        sentences.append(f"On {partial} frames a face lacks some of its landmarks: it is not measured there.")
    if table.scale.kind == "iris":
        sentences += _few(
            f"No iris of {name} is visible: it has no lengths in mm, and is left out of tables."
            for name, found, values in zip(names, present.T, measured.T, strict=True)
            if found.any() and not values.any()
        )
    if turned:
        sentences.append(
            f"{turned} faces on frames are turned by more than {LARGE_YAW:g} degrees: lengths in the image "
            "plane are biased there and left out of summaries; measure with pose correction."
        )
    if not table.pose_corrected and not np.isfinite(tracks.pose[present][:, 2]).all():
        sentences.append(
            "The landmarks have no head pose: frames on which a face is turned away are not found, and count "
            "in summaries; measure with pose correction."
        )
    if not np.isfinite(table.errors).any():
        sentences.append("The landmarks have no confidence: measures have no standard errors.")
    elif not has_errors(models):
        unknown = f"errors of the models {models!r:.60}" if models else "models of the landmarks"
        sentences.append(f"The {unknown} are not known: standard errors are those of {OTHER_MODELS!r}.")
    if table.still:
        sentences.append(STILL)
    return (*sentences, *_of_times(seconds))


def _of_times(seconds: npt.NDArray[np.float64]) -> list[str]:
    """Return what is to be said of time stamps, (T,): frames far apart, a low rate, or times that go back."""
    sentences: list[str] = []
    steps = np.diff(seconds[np.isfinite(seconds)])
    step = float(np.median(steps)) if len(steps) else 0.0
    if step > FARTHEST:
        sentences.append(
            f"The frames are {step:.3g} s apart, in which blinks and movements are over: if the time stamps "
            "are in milliseconds, divide them by 1000."
        )
    elif step > 1.01 / SLOWEST:  # not at 15000 / 1001
        sentences.append(
            f"At {1 / step:.3g} frames per second the closure and velocity of blinks are found too small, "
            "and below 5 some blinks are missed."
        )
    if (steps <= 0).any():
        sentences.append("Time stamps go back or repeat: correct them, or give the frame rate.")
    return sentences


def _at_rest_states(table: MeasureTable) -> tuple[npt.NDArray[np.bool_], ...]:
    """Return where a face is uncertain, turned away, or shuts an eye by half, (F, T) bool each."""
    closures = [place for place, name in enumerate(table.names) if name.startswith("closure")]
    shut = np.asarray((table.values[..., closures] > 0.5).any(axis=-1))
    return table.low_confidence.T, table.turned.T, shut.T


def _few(sentences: Iterable[str]) -> list[str]:
    """Return the first of sentences about one face each, and how many more there are."""
    found = list(sentences)
    more = len(found) - MOST_ALIKE
    return found if more <= 0 else [*found[:MOST_ALIKE], f"The same holds for {more} more."]


def _uncertain_parts(table: MeasureTable, tracks: Tracks) -> list[str]:
    """Return a sentence for each face with parts that are uncertain on many of its usable frames."""
    sentences = []
    for name, usable, confidence in zip(
        table.face_names, table.usable.T, tracks.confidence.swapaxes(0, 1), strict=True
    ):
        parts = []
        for part, landmarks in VISIBLE_PARTS.items():
            share = (confidence[usable][:, landmarks].mean(axis=1) < SEEN).mean() if usable.any() else 0
            parts += [f"{part} on {share:.0%} of the frames"] if share >= MANY_UNCERTAIN else []
        if parts:
            sentences.append(
                f"Parts of {name} are uncertain, perhaps covered ({', '.join(parts)}): do not trust what is "
                "measured of them there."
            )
    return sentences


def _wanted(names: str | Sequence[str] | None) -> tuple[Measure, ...]:
    if names is None:
        return MEASURES
    names = [CLOSURES.get(name, name) for name in ([names] if isinstance(names, str) else names)]
    if not names:
        raise MeasureError("No measures are named: leave out the names for all.")
    found = tuple(
        item for item in MEASURES if item.name in names or item.name.removesuffix(f"_{item.side}") in names
    )
    known = {item.name for item in found} | {item.name.removesuffix(f"_{item.side}") for item in found}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise unknown_measure(
            unknown[0], ["closure", *PAIRS, *(item.name for item in MEASURES if item.side == "both")]
        )
    return found


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
    for face, found in enumerate(rows):
        turned, scale = frontal_landmarks(tracks.landmarks[:, face], pdm)
        size = np.nanmedian(scale[found] if len(found) else scale) if np.isfinite(scale).any() else 1.0
        points[:, face] = turned * size  # pixels of the rest
    return points


def _with_square_pixels(tracks: Tracks) -> Tracks:
    if not isinstance(tracks, Tracks):
        raise MeasureError(f"Tracks are measured, not {type(tracks).__name__}: read files with Tracks.load.")
    aspect = tracks.meta.get(PIXEL_ASPECT, 1.0)
    if not isinstance(aspect, (int, float)) or not np.isfinite(aspect) or aspect in (0, 1):
        return tracks
    landmarks = tracks.landmarks.copy()
    landmarks[..., 0] *= aspect
    iris = tracks.iris.copy()
    iris[..., [0, 2, 4, 6]] *= aspect
    return dataclasses.replace(tracks, landmarks=landmarks, iris=iris)


def _size_at_rest(tracks: Tracks, rows: tuple[npt.NDArray[np.int64], ...]) -> npt.NDArray[np.float32]:
    """Return the factors (T, F) that make faces as large as at rest: one that comes closer does not grow.

    The size is the shape model's scale, or the distance of the outer canthi where tracks have no pose.
    """
    canthi = np.linalg.norm(tracks.landmarks[:, :, 36] - tracks.landmarks[:, :, 45], axis=-1)
    factors = np.ones(canthi.shape, np.float32)
    for face, found in enumerate(rows):
        size = tracks.pose[:, face, 0]
        if not np.isfinite(size[np.isfinite(canthi[:, face])]).all():
            size = canthi[:, face]
        known = np.isfinite(size) & (size > 0)
        if not known.any():
            continue
        at_rest = np.median(size[found]) if len(found) else np.median(size[known])
        factors[known, face] = at_rest / size[known]
    return factors


def _irises(
    tracks: Tracks, rows: tuple[npt.NDArray[np.int64], ...], size: npt.NDArray[np.float32] | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the diameter of each face's irises at rest, (F,) px, and their centres, (T, F, 2, 2).

    The diameter is the median over the frames of the rest, or over all of them where none of these shows an
    iris. Centres are NaN where no iris is visible, and in frontal views, whose depth is the shape model's.
    """
    iris = tracks.iris.reshape(*tracks.iris.shape[:2], 2, 4)
    seen = np.nan_to_num(iris[..., 3]) > VISIBLE_IRIS
    scale = np.ones(seen.shape[:2]) if size is None else size
    diameters = np.where(seen, iris[..., 2] * scale[..., None], np.nan)
    found = np.full(seen.shape[1], np.nan)
    for face, at in enumerate(rows):
        for part in (diameters[at, face], diameters[:, face]):
            if np.isfinite(part).any():
                found[face] = np.nanmedian(part)
                break
    centres = np.where(seen[..., None], iris[..., :2] * scale[..., None, None], np.nan)
    return found, centres if size is not None else np.full_like(centres, np.nan)


def _pairs(measures: Sequence[Measure]) -> list[tuple[str, int, int]]:
    places = {item.name: place for place, item in enumerate(measures)}
    return [
        (name, places[f"{name}_right"], places[f"{name}_left"])
        for name in PAIRS
        if f"{name}_right" in places and f"{name}_left" in places
    ]


def _columns(measures: Sequence[Measure], unit: str) -> tuple[Column, ...]:
    units = {**UNITS, "length": unit, "area": f"{unit}2"}
    columns = [Column(item.name, item.title, units[item.kind], item.side) for item in measures]
    for name, right, _ in _pairs(measures):
        title = measures[right].title.removesuffix(", right")
        unit_of = columns[right].unit
        columns.append(Column(f"{name}_difference", f"{title}, left minus right", unit_of, "difference"))
        columns.append(Column(f"{name}_symmetry", f"{title}, smaller of larger", "percent", "symmetry"))
    return tuple(columns)


def symmetry(right: npt.NDArray[Any], left: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], ...]:
    """Return the smaller of two values in percent of the larger, NaN unless both are above 0; and its slopes.

    The slopes are its derivatives with respect to the right and the left one.
    """
    larger = left >= right
    small, large = np.where(larger, (right, left), (left, right))
    small = np.where(small > 0, small, np.nan)
    ratio = 100 * small / large
    of_small, of_large = 100 / large, -ratio / large
    return ratio, *np.where(larger, (of_small, of_large), (of_large, of_small))


def _measured(
    tracks: Tracks,
    points_at: PointsAt,
    measures: Sequence[Measure],
    columns: Sequence[Column],
    factor: npt.NDArray[np.float64],
    scale: Scale,
) -> tuple[Floats, Floats]:
    """Return values and standard errors, (T, F, M), with room for each eye's closure."""
    pairs = _pairs(measures)
    count = len(columns)
    room = sum(item.name.startswith("eye_height") for item in measures)
    shape = (*tracks.landmarks.shape[:2], count + room)
    values, errors = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    known = bool(((tracks.confidence > 0) & (tracks.confidence < 1)).any() or np.isfinite(tracks.sigma).any())
    bundle = str(tracks.meta.get(MODELS, OTHER_MODELS))
    covariance = error_covariance(bundle)
    widened = factors_of_columns([column.name for column in columns], error_factors(bundle))
    powers = {"length": 1, "area": 2, "ratio": 0, "angle": 0}
    power = np.array([powers[item.kind] for item in measures], dtype=np.float64)
    power = np.concatenate([power, *((power[right], 0.0) for _, right, _ in pairs)])
    step = max(1, FACES_PER_CHUNK // max(1, shape[1]))

    def fill(first: int) -> None:
        at = slice(first, first + step)
        points = points_at(at)
        there = np.isfinite(points[:, :, :68]).all(axis=(2, 3))
        if not there.any():
            return
        points, sigma = points[there], None
        if known:
            arrays = (array[at][there] for array in (tracks.landmarks, tracks.confidence, tracks.sigma))
            sigma = error_shares(*arrays).T * inter_ocular(points)
        found, spread = _of_rows(face_axes(points), sigma, covariance, measures, pairs)
        scaled = factor[np.nonzero(there)[1], None] ** power
        common = scale.share_error * np.abs(found * scaled) * (scaled != 1)
        values[at][there, :count] = found * scaled
        errors[at][there, :count] = np.hypot(spread * widened * scaled, common)

    with ThreadPoolExecutor(min(THREADS, cores())) as pool:
        list(pool.map(fill, range(0, shape[0], step)))
    return values, errors


def measured_faces(
    landmarks: npt.NDArray[Any],
    sigma: npt.NDArray[Any],
    covariance: npt.NDArray[np.float64],
    factors: Mapping[str, float],
) -> tuple[tuple[Column, ...], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return every measure of single faces in pixels, and its standard error: columns, (N, M) and (N, M).

    Arrays: `landmarks` (N, 68, 2); `sigma` (N, 68), the claimed standard deviation of their errors along
    either axis, pixels, NaN gives no standard errors; `covariance` (140, 140) and `factors` as
    `error_covariance` and `error_factors` return them. Columns are as those of `MeasureTable` but for the
    eyes' closure, in units of ``"px"`` and ``"px2"``; the rest is float64.
    """
    pairs = _pairs(MEASURES)
    spread = error_shares(landmarks, sigma, sigma).T * inter_ocular(landmarks)
    values, errors = _of_rows(face_axes(landmarks), spread, covariance, MEASURES, pairs)
    columns = _columns(MEASURES, "px")
    return columns, values, errors * factors_of_columns([column.name for column in columns], factors)


def _of_rows(
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
        variances = [error_product(own, own, covariance) for own in slopes]
        for _, right, left in pairs:
            ratio, *weights = symmetry(values[right], values[left])
            values += [values[left] - values[right], ratio]
            if sigma is None:
                continue
            shared = error_product(slopes[right], slopes[left], covariance)
            for a, b in ((-1.0, 1.0), weights):
                variances.append(a * a * variances[right] + b * b * variances[left] + 2 * a * b * shared)
    found = np.stack(values, axis=1)
    if sigma is None:
        return found, np.full(found.shape, np.nan)
    return found, np.sqrt(np.maximum(np.stack(variances, axis=1), 0))


def _fill_closure(
    values: Floats, errors: Floats, columns: tuple[Column, ...], usable: npt.NDArray[np.bool_]
) -> tuple[Column, ...]:
    """Fill in each eye's closure, 1 - height / height of the open eye: 1 is shut; return its columns.

    It is not known for an eye that is never seen open: whose height is no more than its uncertainty explains,
    or `NEVER_OPEN` of the other eye's; nor in a still.
    """
    names = [column.name for column in columns]
    sides = [side for side in SIDES if f"eye_height_{side}" in names]
    places = [names.index(f"eye_height_{side}") for side in sides]
    own = slice(len(columns), len(columns) + len(sides))
    for face in range(values.shape[1]):
        rows = usable[:, face]
        if not rows.any() or not sides or len(rows) == 1:
            continue
        tall = np.percentile(values[rows, face][:, places], OPEN_PERCENTILE, axis=0)
        explained = 2 * np.nan_to_num(np.median(errors[rows, face][:, places], axis=0))
        least = np.maximum(explained, max(0.0, NEVER_OPEN * tall.max()))
        tall = np.where(tall > least, tall, np.nan)
        values[:, face, own] = 1 - values[:, face, places] / tall
        errors[:, face, own] = errors[:, face, places] / tall
    return tuple(Column(f"closure_{side}", f"eye closure, {side}", "ratio", side) for side in sides)
