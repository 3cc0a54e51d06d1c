"""One row a face: each measure at rest, at its peak and over the recording, asymmetry, blinks a minute."""

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
"""Of the intervals in a summary."""
Z = 1.959964
_MODELS = (MODELS, "models_version")
PEAK_PERCENTILE = 99.0
"""The peak of a measure is this percentile of its distance from rest: one wrong frame is no peak."""


class MeasureWarning(UserWarning):
    """Changes between two recordings may come from how they were measured."""


def summary(table: MeasureTable, fps: float | None = None) -> pandas.DataFrame:
    """Summarise a recording: one row a face.

    Parameters
    ----------
    table : MeasureTable
    fps : float, optional
        Frame rate, where the table has no time stamps.

    Returns
    -------
    DataFrame
        ``face``, ``frames``, ``seconds``, ``usable_percent``, ``unit`` (of lengths), ``pose_corrected``; for
        each measure ``NAME_rest``, ``NAME_peak``,
        ``NAME_excursion`` (peak minus rest), ``NAME_range`` (5th to 95th percentile) and ``NAME_rest_low``,
        ``NAME_rest_high`` (95 % interval); ``NAME_excursion_symmetry``, the smaller excursion of the two
        sides in percent of the larger; and of blinks: number, complete ones, rate a minute with its 95 %
        interval (exact Poisson), mean duration (s) and greatest closure of each eye. Of a single frame, all
        but the values at rest are NaN.

    Raises
    ------
    MeasureError
        If there are several frames, and no time stamps and no frame rate.
    """
    import pandas as pd

    check_table(table)
    seconds = np.full(1, np.nan) if table.still else row_times(table, fps)
    eyes = {"closure_right", "closure_left"} <= set(table.names)
    found = blinks(table, fps) if eyes and not table.still else []
    rows = []
    for face in range(table.n_faces):
        usable = table.usable[:, face]
        present = np.isfinite(table.values[:, face, 0])
        row: dict[str, Any] = {
            "face": table.face_names[face],
            "frames": int(present.sum()),
            "seconds": _observed(table, seconds, present),
            "usable_percent": 100 * float(usable.sum()) / max(int(present.sum()), 1),
            "unit": table.scale.unit,
            "pose_corrected": table.pose_corrected,
        }
        for columns in _together(table):
            row |= _of_columns(table, columns, face, usable)
        row |= _excursion_symmetry(row)
        of_face = [blink for blink in found if blink.face == face]
        blinking = _of_blinks(of_face, _observed(table, seconds, usable))
        row |= blinking if blinks_known(table, face) else dict.fromkeys(blinking, math.nan)
        rows.append(row)
    return pd.DataFrame(rows)


def compare(
    before: MeasureTable, after: MeasureTable, faces: tuple[int, int] = (0, 0), fps: float | None = None
) -> pandas.DataFrame:
    """Compare two recordings of a person, such as before and after a treatment: one row a measure.

    Parameters
    ----------
    before, after : MeasureTable
    faces : (int, int)
        The face in each of them.
    fps : float, optional
        Frame rate, where the tables have no time stamps.

    Returns
    -------
    DataFrame
        ``measure``, ``title``, ``unit``, ``side``; ``before``, ``after`` (at rest), ``change`` (after minus
        before) and its 95 % interval ``change_low``, ``change_high``; ``excursion_before``,
        ``excursion_after``. What landmarks of both recordings have wrong alike does not change, so the
        interval is rather too wide.

    Raises
    ------
    MeasureError
        If the recordings are in different units, only one is pose-corrected, they have no measure in common
        or no such face, or no time stamps and no frame rate.

    Warns
    -----
    MeasureWarning
        As `not_alike` says.
    """
    for sentence in not_alike(before, after, faces):
        warnings.warn(sentence, MeasureWarning, stacklevel=2)
    return changes(before, after, faces, fps)


def not_alike(before: MeasureTable, after: MeasureTable, faces: tuple[int, int] = (0, 0)) -> tuple[str, ...]:
    """Return why changes between two recordings may come from how they were measured, a sentence each.

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
            f"The faces are {faces!r:.40}: give the number of one in each recording, which have {counts}."
        ) from None
    if before.scale.unit != after.scale.unit:
        raise MeasureError("One recording is in percent and the other in mm: measure both with one scale.")
    if before.pose_corrected != after.pose_corrected:
        raise MeasureError("One recording is pose-corrected and the other is not: measure both alike.")
    sentences = []
    models = [[str(table.meta.get(key, "")) for key in _MODELS] for table in tables]
    if any(old != new and old and new for old, new in zip(*models, strict=True)):
        sentences.append(
            f"The landmarks before are of the models {' '.join(models[0])}, those after of "
            f"{' '.join(models[1])}, whose errors differ: track both with the same."
        )
    scales = before.scale, after.scale
    if scales[0].kind != scales[1].kind:
        sentences.append(f"The scales differ. Before: {scales[0].in_words()} After: {scales[1].in_words()}")
    sizes = [[table.meta.get(key) for key in ("width", "height")] for table in tables]
    # not the scales themselves: their unused values are NaN, which differ from Python 3.13 on
    given_alike = scales[0].kind == scales[1].kind and scales[0].mm_per_px == scales[1].mm_per_px
    if given_alike and sizes[0] != sizes[1] and None not in (*sizes[0], *sizes[1]):
        sentences.append(
            f"The frames before have {sizes[0][0]} x {sizes[0][1]} pixels, those after {sizes[1][0]} x "
            f"{sizes[1][1]}: one number of millimetres per pixel is hardly right for both."
        )
    seen = [int(np.isfinite(table.values[..., 0]).any(axis=0).sum()) for table in tables]
    if max(seen) > 1:
        sentences.append(
            f"There are several faces ({seen[0]} before, {seen[1]} after): {names[0]} before is compared "
            f"with {names[1]} after; check that they are the same person."
        )
    return tuple(sentences)


def changes(
    before: MeasureTable, after: MeasureTable, faces: tuple[int, int] = (0, 0), fps: float | None = None
) -> pandas.DataFrame:
    """Return what `compare` does, of tables that `not_alike` has checked."""
    import pandas as pd

    old, new = (summary(table, fps).iloc[face] for table, face in zip((before, after), faces, strict=True))
    rows = []
    for column in before.columns:
        name = column.name
        if name not in after.names:
            continue
        change = new[f"{name}_rest"] - old[f"{name}_rest"]
        half = math.hypot(*(row[f"{name}_rest_high"] - row[f"{name}_rest"] for row in (old, new)))
        rows.append(
            {
                "measure": name,
                "title": column.title,
                "unit": column.unit,
                "side": column.side,
                "before": old[f"{name}_rest"],
                "after": new[f"{name}_rest"],
                "change": change,
                "change_low": change - half,
                "change_high": change + half,
                "excursion_before": old[f"{name}_excursion"],
                "excursion_after": new[f"{name}_excursion"],
            }
        )
    if not rows:
        raise MeasureError("The two recordings have no measure in common: measure the same of both.")
    return pd.DataFrame(rows)


def _observed(table: MeasureTable, seconds: npt.NDArray[np.float64], where: npt.NDArray[np.bool_]) -> float:
    """Return for how many seconds something held, counting each frame by the time to the next one.

    A gap, of frames that somebody has removed, is not observed: the frame before it counts as one.
    """
    if table.still:
        return math.nan
    frames = np.diff(table.frame_indices)
    steps = np.diff(seconds) * np.minimum(1, np.median(frames) / frames)
    each = np.append(steps, np.median(steps))
    return float(each[where].sum())


def _together(table: MeasureTable) -> list[list[str]]:
    """Return the columns, those of the two sides of one measure together."""
    found: dict[str, list[str]] = {}
    for column in table.columns:
        one_side = column.side in ("right", "left")
        found.setdefault(column.name.removesuffix(f"_{column.side}") if one_side else column.name, []).append(
            column.name
        )
    return list(found.values())


def _of_columns(
    table: MeasureTable, names: list[str], face: int, usable: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """Return what a summary has of measures that peak in one direction, the one in which they go furthest."""
    row: dict[str, float] = {}
    ends: dict[str, tuple[float, float]] = {}
    for name in names:
        values, errors = table.series(name, face), table.series_error(name, face)
        at = table.rest[face]
        rest, error = (float(np.median(part[at])) if len(at) else math.nan for part in (values, errors))
        seen = values[usable & np.isfinite(values) & (not table.still)]
        ends[name] = (math.nan, math.nan)
        spread = math.nan
        if len(seen):
            low, middle, high = np.percentile(seen, (100 - PEAK_PERCENTILE, 50, PEAK_PERCENTILE))
            start = rest if math.isfinite(rest) else float(middle)
            ends[name] = float(low - start), float(high - start)
            spread = float(np.subtract(*np.percentile(seen, (95, 5))))
        row |= {
            f"{name}_rest": rest,
            f"{name}_rest_low": rest - Z * error,
            f"{name}_rest_high": rest + Z * error,
            f"{name}_range": spread,
        }
    lowest, highest = np.array(list(ends.values())).sum(axis=0)
    for name, (low, high) in ends.items():
        excursion = high if highest >= -lowest else low
        known = math.isfinite(row[f"{name}_rest"])
        row[f"{name}_peak"] = excursion + row[f"{name}_rest"] if known else math.nan
        row[f"{name}_excursion"] = excursion if known else math.nan
    return row


def _excursion_symmetry(row: dict[str, Any]) -> dict[str, float]:
    found = {}
    for name in PAIRS:
        sides = [row.get(f"{name}_{side}_excursion", math.nan) for side in ("right", "left")]
        small, large = sorted(map(abs, sides))
        if math.isfinite(small + large) and large > 0:
            opposite = sides[0] * sides[1] < 0
            found[f"{name}_excursion_symmetry"] = 0.0 if opposite else 100 * small / large
    return found


def blinks_known(table: MeasureTable, face: int) -> bool:
    """Return whether a face has blinks or none: whether the closure of an eye of it is known over time."""
    closures = [table.series(name, face) for name in table.names if name.startswith("closure_")]
    usable = table.usable[:, face]
    return not table.still and any(np.isfinite(closure[usable]).any() for closure in closures)


def _of_blinks(found: list[Blink], seconds: float) -> dict[str, float]:
    count = len(found)
    minutes = seconds / 60
    low, high = poisson_interval(count)
    row: dict[str, float] = {
        "blinks": count,
        "complete_blinks": sum(blink.complete for blink in found),
        "blinks_per_minute": count / minutes if minutes > 0 else math.nan,
        "blinks_per_minute_low": low / minutes if minutes > 0 else math.nan,
        "blinks_per_minute_high": high / minutes if minutes > 0 else math.nan,
        "blink_duration": float(np.mean([blink.main.duration for blink in found])) if count else math.nan,
    }
    for side in ("right", "left"):
        events = [event for blink in found if (event := getattr(blink, side)) is not None]
        closed = [event.value for event in events]
        row[f"blink_closure_{side}"] = float(np.mean(closed)) if closed else math.nan
    return row


def poisson_interval(count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the exact interval of a Poisson mean of which `count` events were seen (Garwood 1936)."""
    from scipy.special import gammaincinv  # scipy.stats would take half a second

    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(gammaincinv(count, tail))
    return low, float(gammaincinv(count + 1, 1 - tail))
