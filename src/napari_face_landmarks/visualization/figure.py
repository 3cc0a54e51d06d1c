"""Overviews of a run: figure of confidence, pose and movement over time, summary in HTML."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import CARRIED, CLNF, MANUAL
from napari_face_landmarks.data.names import MODELS, names_of_faces
from napari_face_landmarks.data.stats import LOW_CONFIDENCE
from napari_face_landmarks.data.tracks import Tracks, frame_rate_of, seconds_of
from napari_face_landmarks.files.optional import optional

if TYPE_CHECKING:
    import matplotlib.figure

ANGLES = ("pitch", "yaw", "roll")
STYLES = ("-", "--", ":")
MARKS = {CLNF: "refined", CARRIED: "carried", MANUAL: "manual"}
SIZE = (9.0, 6.5)  # inches


def mean_confidence(tracks: Tracks) -> npt.NDArray[np.float64]:
    """Return the mean confidence of each face, (T, F) float64, 0 to 1; NaN for absent faces."""
    mean = tracks.confidence.mean(axis=-1, dtype=np.float64)
    return np.where(tracks.present, mean, np.nan)


def movement_of(tracks: Tracks) -> npt.NDArray[np.float64]:
    """Return the mean movement of each face per frame, (T, F) px; NaN unless present on both frames."""
    movement = np.full(tracks.source.shape, np.nan)
    steps = np.linalg.norm(np.diff(tracks.landmarks.astype(np.float64), axis=0), axis=-1)
    known = np.isfinite(steps)
    count = known.sum(axis=-1)
    total = np.where(known, steps, 0).sum(axis=-1)
    gap = np.maximum(np.diff(tracks.frame_indices), 1)[:, np.newaxis]
    movement[1:] = np.where(count > 0, total / np.maximum(count, 1) / gap, np.nan)
    return movement


def plot_tracks(tracks: Tracks) -> matplotlib.figure.Figure:
    """Draw confidence, head pose and movement of each face over time.

    Parameters
    ----------
    tracks : Tracks
        Landmarks (T, F, 68, 2).

    Returns
    -------
    matplotlib.figure.Figure
        Three axes with a common time axis in seconds, or in frames if the time is unknown. Notebooks
        display it; ``figure.savefig("plot.png")`` saves it.

    Raises
    ------
    ResultError
        If matplotlib is not installed.
    """
    optional("matplotlib", "A plot")
    figures = optional("matplotlib.figure", "A plot")
    # without pyplot, no figure stays open and no GUI backend is loaded
    figure: matplotlib.figure.Figure = figures.Figure(figsize=SIZE, layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    seconds = seconds_of(tracks)
    time = tracks.frame_indices if seconds is None else seconds
    confidence, movement = mean_confidence(tracks), movement_of(tracks)
    shown = [face for face in range(tracks.n_faces) if tracks.present[:, face].any()]
    names = names_of_faces(tracks)
    for face in shown:
        colour = f"C{face % 10}"
        label = names[face]
        top.plot(time, confidence[:, face], color=colour, lw=1, label=label)
        for angle, style in enumerate(STYLES):
            rotation = np.degrees(tracks.pose[:, face, 1 + angle].astype(np.float64))
            name = ANGLES[angle] if len(shown) == 1 else f"{ANGLES[angle]}, {label}"
            middle.plot(time, rotation, style, color=colour, lw=1, label=name)
        bottom.plot(time, movement[:, face], color=colour, lw=1)
    for k, (code, name) in enumerate(MARKS.items()):
        mask = (tracks.source == code).any(axis=1)
        if mask.any():
            heights = np.full(int(mask.sum()), -0.04 - 0.05 * k)
            top.plot(time[mask], heights, "|", ms=4, color="0.35" if k == 0 else f"C{6 + k}", label=name)
    top.axhline(LOW_CONFIDENCE, color="0.7", lw=0.8)
    top.set_ylim(-0.2, 1.02)
    top.set_ylabel("confidence")
    middle.set_ylabel("head pose (degrees)")
    bottom.set_ylabel("movement (px per frame)")
    bottom.set_xlabel("frame" if seconds is None else "time (s)")
    for axes in (top, middle):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)
    return figure


def summary_as_html(tracks: Tracks) -> str:
    """Return a summary of a run as an HTML table for notebooks."""
    present = tracks.present
    confidence = mean_confidence(tracks)
    fps = frame_rate_of(tracks)
    rows = [
        ("frames", f"{tracks.n_frames}" + (f" at {fps:.4g} per second" if fps is not None else "")),
        ("with a face", f"{int(present.any(axis=1).sum())}"),
        ("faces", f"{int(present.any(axis=0).sum())} of {tracks.n_faces}"),
    ]
    if present.any():
        low = int((confidence[present] < LOW_CONFIDENCE).sum())
        rows.append(("mean confidence", f"{np.nanmean(confidence):.2f}, low on {low}"))
        counts = ", ".join(f"{int((tracks.source == code).sum())} {name}" for code, name in MARKS.items())
        rows.append(("of these", counts))
    rows += [("models", str(tracks.meta[MODELS]))] if tracks.meta.get(MODELS) else []
    rows += [("warning", text) for text in tracks.warnings]
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table><caption>Face landmarks</caption>{cells}</table>"
