"""Summary of a recording per face (measures at rest and peak, asymmetry, blinks), and its comparison."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.names import MODELS
from napari_face_landmarks.errors import MeasureError
from napari_face_landmarks.measures.definitions import PAIRS
from napari_face_landmarks.measures.events import Blink, blinks, check_table, row_times
from napari_face_landmarks.measures.table import MeasureTable

if TYPE_CHECKING:
    import pandas

CONFIDENCE = 0.95
"""Confidence level of the intervals; `Z` is the corresponding quantile of the normal distribution."""
Z = 1.959964
_MODELS = (MODELS, "models_version")
PEAK_PERCENTILE = 99.0
"""Percentile of the change from rest that is the peak, so that single wrong frames have no effect."""


class MeasureWarning(UserWarning):
    """Two recordings were measured differently, which may explain changes between them."""


def summary(table: MeasureTable, fps: float | None = None) -> pandas.DataFrame:
    """Summarise a recording, one row per face.

    Parameters
    ----------
    table : MeasureTable
    fps : float, optional
        Frame rate; if given, it replaces the table's time stamps.

    Returns
    -------
    DataFrame
        ``face``, ``frames``, ``seconds``, ``usable_percent``, ``unit`` (of lengths), ``pose_corrected``; for
        each measure ``NAME_rest``, ``NAME_peak``, ``NAME_excursion`` (peak minus rest), ``NAME_range`` (5th
        to 95th percentile) and ``NAME_rest_low``, ``NAME_rest_high`` (95 % interval);
        ``NAME_excursion_symmetry``, the smaller excursion of the two sides in percent of the larger; number
        of blinks and of complete blinks, blinks per minute with 95 % interval (exact Poisson), mean duration
        in seconds, and mean of the greatest closures of each eye. For a single frame, all but the values at
        rest are NaN.

    Raises
    ------
    MeasureError
        If there are several frames, and no time stamps and no frame rate.
    """
    import pandas as pd

    check_table(table)
    seconds = np.full(1, np.nan) if table.still else row_times(table, fps)
    eyes = {"closure_right", "closure_left"} <= set(table.names)
    all_blinks = blinks(table, fps) if eyes and not table.still else []
    rows = []
    for face in range(table.n_faces):
        usable = table.usable[:, face]
        present = np.isfinite(table.values[:, face, 0])
        row: dict[str, Any] = {
            "face": table.face_names[face],
            "frames": int(present.sum()),
            "seconds": _observed_seconds(table, seconds, present),
            "usable_percent": 100 * float(usable.sum()) / max(int(present.sum()), 1),
            "unit": table.scale.unit,
            "pose_corrected": table.pose_corrected,
        }
        for columns in _group_sides(table):
            row |= _summarise_columns(table, columns, face, usable)
        row |= _excursion_symmetry(row)
        of_face = [blink for blink in all_blinks if blink.face == face]
        blinking = _summarise_blinks(of_face, _observed_seconds(table, seconds, usable))
        row |= blinking if blinks_known(table, face) else dict.fromkeys(blinking, math.nan)
        rows.append(row)
    return pd.DataFrame(rows)


def compare(
    before: MeasureTable, after: MeasureTable, faces: tuple[int, int] = (0, 0), fps: float | None = None
) -> pandas.DataFrame:
    """Compare two recordings of a person, such as before and after a treatment, one row per measure.

    Parameters
    ----------
    before, after : MeasureTable
    faces : (int, int)
        The person's face number in each recording.
    fps : float, optional
        Frame rate; if given, it replaces the tables' time stamps.

    Returns
    -------
    DataFrame
        ``measure``, ``title``, ``unit``, ``side``; ``before``, ``after`` (at rest), ``change`` (after minus
        before) and its 95 % interval ``change_low``, ``change_high``; ``excursion_before``,
        ``excursion_after``. Landmark errors common to both recordings cancel in the change, so the interval
        tends to be too wide.

    Raises
    ------
    MeasureError
        If the recordings have different units, no common measure, or not these faces, if only one is
        pose-corrected, or if there are neither time stamps nor a frame rate.

    Warns
    -----
    MeasureWarning
        If differences in how they were measured may explain changes: other models, scales or frame sizes,
        several faces.
    """
    for sentence in find_differences(before, after, faces):
        warnings.warn(sentence, MeasureWarning, stacklevel=2)
    return changes(before, after, faces, fps)


def find_differences(
    before: MeasureTable, after: MeasureTable, faces: tuple[int, int] = (0, 0)
) -> tuple[str, ...]:
    """Return sentences on differences in how two recordings were measured that may explain changes.

    Raises
    ------
    MeasureError
        If they cannot be compared.
    """
    tables = before, after
    for table in tables:
        check_table(table)
    try:
        names = [table.face_names[face] for table, face in zip(tables, faces, strict=True)]
    except (IndexError, TypeError, ValueError):
        counts = " and ".join(str(table.n_faces) for table in tables)
        raise MeasureError(
            f"The faces are {faces!r:.40}: give one face number for each recording; they have {counts} faces."
        ) from None
    if before.scale.unit != after.scale.unit:
        raise MeasureError("One recording is in percent and the other in mm: use the same scale for both.")
    if before.pose_corrected != after.pose_corrected:
        raise MeasureError("One recording is pose-corrected and the other is not: measure both the same way.")
    sentences = []
    models = [[str(table.meta.get(key, "")) for key in _MODELS] for table in tables]
    if any(old != new and old and new for old, new in zip(*models, strict=True)):
        sentences.append(
            f"The models differ ({' '.join(models[0]).strip()} before, {' '.join(models[1]).strip()} after), "
            "and so do their errors: track both recordings with the same models."
        )
    scales = before.scale, after.scale
    if scales[0].kind != scales[1].kind:
        sentences.append(f"The scales differ. Before: {scales[0].in_words()} After: {scales[1].in_words()}")
    sizes = [[table.meta.get(key) for key in ("width", "height")] for table in tables]
    # not scales[0] == scales[1]: unused values are NaN, and unequal from Python 3.13 on
    same_mm_per_px = scales[0].kind == scales[1].kind and scales[0].mm_per_px == scales[1].mm_per_px
    if same_mm_per_px and sizes[0] != sizes[1] and None not in (*sizes[0], *sizes[1]):
        sentences.append(
            f"The frame sizes differ ({sizes[0][0]} x {sizes[0][1]} pixels before, {sizes[1][0]} x "
            f"{sizes[1][1]} after): the same millimetres per pixel are unlikely to hold for both."
        )
    old, new = (int(np.isfinite(table.values[..., 0]).any(axis=0).sum()) for table in tables)
    if max(old, new) > 1:
        sentences.append(
            f"There are several faces ({old} before, {new} after): {names[0]} before is compared with "
            f"{names[1]} after; check that they are the same person."
        )
    return tuple(sentences)


def changes(
    before: MeasureTable, after: MeasureTable, faces: tuple[int, int] = (0, 0), fps: float | None = None
) -> pandas.DataFrame:
    """Return the table of `compare`, without the checks of `find_differences`."""
    import pandas as pd

    old, new = (summary(table, fps).iloc[face] for table, face in zip((before, after), faces, strict=True))
    rows = []
    for column in before.columns:
        name = column.name
        if name not in after.names:
            continue
        change = new[f"{name}_rest"] - old[f"{name}_rest"]
        half_width = math.hypot(*(row[f"{name}_rest_high"] - row[f"{name}_rest"] for row in (old, new)))
        rows.append(
            {
                "measure": name,
                "title": column.title,
                "unit": column.unit,
                "side": column.side,
                "before": old[f"{name}_rest"],
                "after": new[f"{name}_rest"],
                "change": change,
                "change_low": change - half_width,
                "change_high": change + half_width,
                "excursion_before": old[f"{name}_excursion"],
                "excursion_after": new[f"{name}_excursion"],
            }
        )
    if not rows:
        raise MeasureError("The two recordings have no measure in common: measure both with the same names.")
    return pd.DataFrame(rows)


def _observed_seconds(
    table: MeasureTable, seconds: npt.NDArray[np.float64], mask: npt.NDArray[np.bool_]
) -> float:
    """Return the total duration of the frames in `mask`, each lasting until the next frame.

    The frame before a gap of removed frames counts only for its own duration.
    """
    if table.still:
        return math.nan
    frames = np.diff(table.frame_indices)
    steps = np.diff(seconds) * np.minimum(1, np.median(frames) / frames)
    return float(np.append(steps, np.median(steps))[mask].sum())


def _group_sides(table: MeasureTable) -> list[list[str]]:
    """Return the names of the columns, grouped by measure: both sides of a pair together."""
    groups: dict[str, list[str]] = {}
    for column in table.columns:
        base = column.name.removesuffix("_right").removesuffix("_left")
        groups.setdefault(base, []).append(column.name)
    return list(groups.values())


def _summarise_columns(
    table: MeasureTable, names: list[str], face: int, usable: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """Summarise the sides of a measure; both peak in the direction in which they change most together."""
    row: dict[str, float] = {}
    extremes: dict[str, tuple[float, float]] = {}
    rest_rows = table.rest[face]
    for name in names:
        values, errors = table.series(name, face), table.series_error(name, face)
        rest, error = (
            float(np.median(part[rest_rows])) if len(rest_rows) else math.nan for part in (values, errors)
        )
        observed = values[usable & np.isfinite(values) & (not table.still)]
        extremes[name] = (math.nan, math.nan)
        spread = math.nan
        if len(observed):
            low, middle, high = np.percentile(observed, (100 - PEAK_PERCENTILE, 50, PEAK_PERCENTILE))
            start = rest if math.isfinite(rest) else float(middle)
            extremes[name] = float(low - start), float(high - start)
            spread = float(np.subtract(*np.percentile(observed, (95, 5))))
        row |= {
            f"{name}_rest": rest,
            f"{name}_rest_low": rest - Z * error,
            f"{name}_rest_high": rest + Z * error,
            f"{name}_range": spread,
        }
    lowest, highest = np.array(list(extremes.values())).sum(axis=0)
    for name, (low, high) in extremes.items():
        excursion = high if highest >= -lowest else low
        known = math.isfinite(row[f"{name}_rest"])
        row[f"{name}_peak"] = excursion + row[f"{name}_rest"] if known else math.nan
        row[f"{name}_excursion"] = excursion if known else math.nan
    return row


def _excursion_symmetry(row: dict[str, Any]) -> dict[str, float]:
    """Return the smaller excursion of each pair in percent of the larger, 0 for opposite directions."""
    symmetries = {}
    for name in PAIRS:
        sides = [row.get(f"{name}_{side}_excursion", math.nan) for side in ("right", "left")]
        small, large = sorted(map(abs, sides))
        if math.isfinite(small + large) and large > 0:
            opposite = sides[0] * sides[1] < 0
            symmetries[f"{name}_excursion_symmetry"] = 0.0 if opposite else 100 * small / large
    return symmetries


def blinks_known(table: MeasureTable, face: int) -> bool:
    """Return whether blinks of a face can be counted: whether the closure of either eye is known."""
    closures = [table.series(name, face) for name in table.names if name.startswith("closure_")]
    usable = table.usable[:, face]
    return not table.still and any(np.isfinite(closure[usable]).any() for closure in closures)


def _summarise_blinks(blinks: list[Blink], seconds: float) -> dict[str, float]:
    count = len(blinks)
    minutes = seconds / 60
    low, high = poisson_interval(count)
    row: dict[str, float] = {
        "blinks": count,
        "complete_blinks": sum(blink.complete for blink in blinks),
        "blinks_per_minute": count / minutes if minutes > 0 else math.nan,
        "blinks_per_minute_low": low / minutes if minutes > 0 else math.nan,
        "blinks_per_minute_high": high / minutes if minutes > 0 else math.nan,
        "blink_duration": float(np.mean([blink.main.duration for blink in blinks])) if count else math.nan,
    }
    for side in ("right", "left"):
        values = [event.value for blink in blinks if (event := getattr(blink, side)) is not None]
        row[f"blink_closure_{side}"] = float(np.mean(values)) if values else math.nan
    return row


def poisson_interval(count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the exact confidence interval of a Poisson mean after `count` events (Garwood 1936)."""
    from scipy.special import gammaincinv  # importing scipy.stats would take half a second

    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(gammaincinv(count, tail))
    return low, float(gammaincinv(count + 1, 1 - tail))
