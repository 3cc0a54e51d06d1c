"""Plots of measures over time, left and right, with standard errors and blinks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.files.optional import optional
from napari_face_landmarks.measures.events import Blink, blinks
from napari_face_landmarks.measures.table import MeasureTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE_COLOURS = {"right": "#d95f02", "left": "#1f78b4", "both": "#333333"}
"""Colours of the subject's sides, distinguishable with any colour vision."""
DEFAULT_MEASURES = ("closure", "brow_height", "commissure_excursion", "mouth_opening", "mouth_width")


def plot_measures(
    table: MeasureTable, names: Sequence[str] = DEFAULT_MEASURES, face: int = 0, fps: float | None = None
) -> Figure:
    """Plot measures over time in one panel each; needs matplotlib.

    A name without a side shows both sides in one panel; unknown names are skipped. `fps`, if given, is the
    frame rate that replaces the table's time stamps.

    Raises
    ------
    ResultError
        If matplotlib is not installed.
    """
    optional("matplotlib", "Plotting measures")
    from matplotlib.figure import Figure

    panels = [(name, columns) for name in names if (columns := _columns_of(table, name))]
    figure = Figure(figsize=(9, 1.0 + 1.7 * max(1, len(panels))), layout="constrained")
    axes = np.atleast_1d(figure.subplots(max(1, len(panels)), 1, sharex=True))
    seconds, label = _time(table, fps)
    blinks_of_face = _blinks_of(table, face, fps)
    for axis, (name, columns) in zip(axes, panels, strict=False):
        for column, side in columns:
            values, errors = table.series(column, face), table.series_error(column, face)
            colour = SIDE_COLOURS[side]
            axis.plot(seconds, values, color=colour, linewidth=1.2, label=side if side != "both" else None)
            if np.isfinite(errors).any():
                band = values - errors, values + errors
                axis.fill_between(seconds, *band, color=colour, alpha=0.15, linewidth=0)
        unit = table.columns[table.column(columns[0][0])].unit
        unit = "1 is shut" if name == "closure" else unit_symbol(unit)
        axis.set_ylabel(f"{name.replace('_', ' ')}\n({unit})", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        if name == "closure":
            for blink in blinks_of_face:
                axis.axvspan(blink.main.onset, blink.main.end, color="#888888", alpha=0.25, linewidth=0)
    if panels and axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(loc="upper right", fontsize=8, frameon=False, ncols=2)
    axes[-1].set_xlabel(label, fontsize=8)
    return figure


def unit_symbol(unit: str) -> str:
    """Return the symbol of a unit, such as ``%`` for ``percent``."""
    return {"percent": "%", "percent2": "%²", "mm2": "mm²", "deg": "°"}.get(unit, unit)


def save_figure(path: str | os.PathLike[str], figure: Any) -> None:
    """Write a figure atomically as PNG, SVG or PDF, chosen by the path's suffix."""
    with replacing(path) as part:
        figure.savefig(part, format=os.fspath(path).rpartition(".")[2].lower(), dpi=150)


def _columns_of(table: MeasureTable, name: str) -> list[tuple[str, str]]:
    if name in table.names:
        return [(name, "both")]
    return [(full, side) for side in ("right", "left") if (full := f"{name}_{side}") in table.names]


def _time(table: MeasureTable, fps: float | None) -> tuple[Any, str]:
    if fps is not None:
        return table.frame_indices / fps, "seconds"
    if np.isfinite(table.timestamps).all():
        return table.timestamps, "seconds"
    return table.frame_indices, "frame"


def _blinks_of(table: MeasureTable, face: int, fps: float | None) -> list[Blink]:
    timed = fps is not None or bool(np.isfinite(table.timestamps).all())
    if not timed or len(table.timestamps) < 2 or "closure_right" not in table.names:
        return []
    return [blink for blink in blinks(table, fps) if blink.face == face]
