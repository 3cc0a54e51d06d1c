"""Reports of measures: self-contained HTML pages with pictures, curves and tables."""

from __future__ import annotations

import base64
import html
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.names import MODELS
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.measures.definitions import MEASURES, PAIRS, measure_named
from napari_face_landmarks.measures.events import Blink, blinks
from napari_face_landmarks.measures.plot import SIDE_COLOURS, plot_measures, unit_symbol
from napari_face_landmarks.measures.summary import blinks_known, changes, find_differences, summary
from napari_face_landmarks.measures.table import LARGE_YAW, MeasureTable
from napari_face_landmarks.measures.validation import underestimated
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.settings import preset_of
from napari_face_landmarks.tracking.frame_source import recorded_stream
from napari_face_landmarks.video import open_video, read_frames

if TYPE_CHECKING:
    import pandas

PEAKS = (
    ("mouth_opening", "Mouth open widest"),
    ("commissure_excursion", "Corners of the mouth out furthest"),
    ("brow_height", "Brows raised highest"),
    ("closure", "Eyes closed furthest"),
)
ROWS = (
    "eye_height", "eye_aperture", "brow_height", "commissure_excursion", "smile_angle", "commissure_height",
    "upper_lip_height", "lower_lip_height", "dental_show",
)  # fmt: skip
UNPAIRED = tuple(item.name for item in MEASURES if item.side == "both")
PICTURE_HEIGHT = 260
DISCLAIMER = (
    "This report was made by a research tool, which is not a medical device. Nothing in it is a diagnosis or "
    "a recommendation for treatment."
)
UNITS = (
    "Lengths in % are relative to the distance between the outer corners of the eyes at rest, areas in %² to "
    "its square; lengths in mm and areas in mm² follow from the given scale."
)
CURVES = (
    "Right (orange) and left (blue), or the whole face (black). The pale bands are ± one standard error, "
    "grey bars are blinks."
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
td { padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th { padding: .25rem .6rem; text-align: right; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
thead { border-bottom: 2px solid #888; }
tbody tr:nth-child(even) { background: #f4f4f4; }
.note { color: #555; font-size: .9em; }
figure { display: inline-block; margin: 0 1rem 1rem 0; }
figcaption { font-size: .85rem; color: #555; }
figure.face { width: 30%; vertical-align: top; }
.right { color: #d95f02; }
.left { color: #1f78b4; }
img { max-width: 100%; }
dt { font-weight: 600; break-after: avoid; }
dd { margin: 0 0 .4rem 0; }
@media print {
  body { margin: 0; max-width: none; font-size: 12px; }
  h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; }
}
"""


def write_report(
    path: str | os.PathLike[str],
    tracks: Tracks,
    table: MeasureTable,
    video: str | os.PathLike[str] | None = None,
    fps: float | None = None,
) -> None:
    """Write a report of a recording as one self-contained HTML page.

    Without the recorded `video`, the report has no pictures of the face. `fps`, if given, is the frame rate
    that replaces the table's time stamps.

    Raises
    ------
    ResultError
        If matplotlib is not installed, or the file cannot be written.
    MeasureError
        If there are several frames, and no time stamps and no frame rate.
    """
    page = report_page(tracks, table, video, fps)
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")


def report_page(
    tracks: Tracks, table: MeasureTable, video: str | os.PathLike[str] | None, fps: float | None = None
) -> str:
    """Return the page that `write_report` writes."""
    rows = summary(table, fps)
    all_blinks = blinks(table, fps) if "closure_right" in table.names and not table.still else []
    parts = []
    for face, name in enumerate(table.face_names):
        if not np.isfinite(table.values[:, face, 0]).any():
            continue
        row = rows.iloc[face]
        parts.append(f"<h2>{html.escape(name)}</h2>" if len(table.face_names) > 1 else "")
        if video is not None:
            parts.append(_pictures(tracks, table, video, face))
        parts.append("<h2>Left against right</h2>" + _symmetry_table(table, row))
        parts.append("<h2>Mouth</h2>" + _single_table(table, row))
        if table.still:
            continue
        of_face = [blink for blink in all_blinks if blink.face == face]
        blink_table = _blink_table(row, of_face) if blinks_known(table, face) else _NO_CLOSURE
        parts.append("<h2>Blinks</h2>" + blink_table)
        parts.append("<h2>Over time</h2>" + _curves(table, face, fps))
    parts.append("<h2>Quality of the recording</h2>" + _quality(table, rows))
    parts.append(_definitions(table))
    parts.append("<h2>How this was made</h2>" + _provenance(tracks, table))
    return _page(Path(video).name if video is not None else "Recording", parts)


Recording = tuple[Tracks, MeasureTable, str | os.PathLike[str] | None]
"""Tracks, their measures, and the video or None."""


def write_comparison(
    path: str | os.PathLike[str], before: Recording, after: Recording, fps: float | None = None
) -> None:
    """Write a report that compares two recordings of a person, using the first face of each.

    Raises
    ------
    ResultError, MeasureError
        As `write_report` and `compare` do.
    """
    cautions = find_differences(before[1], after[1])
    rows = changes(before[1], after[1], fps=fps)
    names = ("Before", "After")
    titles = [
        Path(video).name if video is not None else name
        for name, (*_, video) in zip(names, (before, after), strict=True)
    ]
    parts = []
    for name, title, (tracks, table, video) in zip(names, titles, (before, after), strict=True):
        if video is not None:
            pictures = _pictures(tracks, table, video, 0)
            parts.append(f"<h2>{name}: {html.escape(title)}</h2>{pictures}")
    parts.append("<h2>Changes</h2>" + _paragraphs(cautions) + _change_table(rows))
    blinking = [_blink_row(table, fps) for _, table, _ in (before, after)]
    parts.append("<h2>Blinks</h2>" + _table(("", *names), list(zip(_BLINKS, *blinking, strict=True))))
    for name, (_, table, _) in zip(names, (before, after), strict=True):
        parts.append(f"<h2>{name}, over time</h2>{_curves(table, 0, fps)}")
    parts.append(_definitions(before[1]))
    for name, (tracks, table, _) in zip(names, (before, after), strict=True):
        parts.append(f"<h2>{name}: how this was made</h2>{_quality(table, summary(table, fps))}")
        parts.append(_provenance(tracks, table))
    page = _page(f"{titles[0]} and {titles[1]}", parts)
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")


def _definitions(table: MeasureTable) -> str:
    """Return the definitions of the reported measures, and cautions."""
    texts: dict[str, str] = {}
    for item in MEASURES:
        if item.name in table.names and (
            item.side == "both" or item.name.removesuffix(f"_{item.side}") in ROWS
        ):
            texts.setdefault(item.title.removesuffix(f", {item.side}"), item.help)
    rows = [f"<dt>{html.escape(k.capitalize())}</dt><dd>{html.escape(v)}</dd>" for k, v in texts.items()]
    axes = (
        "Directions are those of the face: the horizontal is the line through the corners of the eyes (the "
        "canthal line); the midline is at right angles to it, half-way between the inner corners."
    )
    unit = table.scale.in_words()
    return f"<h2>What was measured</h2><p>{unit} {axes}</p><dl>{''.join(rows)}</dl>{_cautions(table)}"


def _cautions(table: MeasureTable) -> str:
    """Return a table of the reported measures that are known to be underestimated."""
    models, rows = str(table.meta.get(MODELS, "")), []
    for name in (*ROWS, *UNPAIRED):
        column = next((c for c in table.columns if c.name in (name, f"{name}_right")), None)
        shares = [underestimated(part, models) for part in (name, f"{name}_difference")]
        if column is not None and any(shares):
            title = html.escape(column.title.removesuffix(", right").capitalize())
            rows.append([title, *(f"{share} %" if share else "-" for share in shares)])
    if not rows:
        return ""
    text = (
        "Compared with manual landmarks, deviations from the average face are underestimated by about these "
        "percentages, in part because manual landmarks vary too."
    )
    shares_table = _table(("Measure", "Each value", "Left minus right"), rows)
    return f"<h2>What tends to be underestimated</h2><p>{text}</p>{shares_table}"


def _page(title: str, parts: Sequence[str]) -> str:
    name, body = f"{html.escape(title)}: face measures", "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{name}</title><style>{_STYLE}</style></head>"
        f'<body>\n<h1>{name}</h1>\n<p class="note">{DISCLAIMER} {UNITS}</p>\n{body}\n</body></html>\n'
    )


_BLINKS = (
    "Blinks", "Complete (closure 0.9 or more)", "Blinks per minute (95 % interval)",
    "Mean closure, right (1 is shut)", "Mean closure, left (1 is shut)",
)  # fmt: skip


_NO_CLOSURE = "<p>The closure of the eyes is unknown: blinks were not counted.</p>"


def _blink_row(table: MeasureTable, fps: float | None) -> list[str]:
    row = summary(table, fps).iloc[0]
    rate = f"{_number(row['blinks_per_minute'])} ({_interval(row, 'blinks_per_minute')})"
    closed = [_number(row[f"blink_closure_{side}"], "ratio") for side in ("right", "left")]
    counts = [_number(row[name]).removesuffix(".0") for name in ("blinks", "complete_blinks")]
    return [*counts, rate, *closed]


def _interval(row: Any, name: str, unit: str = "") -> str:
    return f"{_number(row[f'{name}_low'], unit)} to {_number(row[f'{name}_high'], unit)}"


def _change_table(rows: pandas.DataFrame) -> str:
    cells = []
    for _, row in rows.iterrows():
        base = row["measure"].removesuffix("_symmetry").removesuffix(f"_{row['side']}")
        if row["side"] == "difference" or (base not in ROWS and row["side"] != "both"):
            continue
        if row["measure"] == "inter_canthal_distance" or not math.isfinite(row["before"] + row["after"]):
            continue
        bold = row["change_low"] > 0 or row["change_high"] < 0
        unit = row["unit"]
        change = f"{_number(row['change'], unit)} ({_interval(row, 'change', unit)})"
        excursions = [_number(row[f"excursion_{when}"], unit) for when in ("before", "after")]
        change = f"<b>{change}</b>" if bold else change
        title = _titled(row["title"], unit)
        cells.append([title, _number(row["before"], unit), _number(row["after"], unit), change, *excursions])
    head = (
        "Measure", "At rest, before", "At rest, after", "Change (95 % interval)",
        "Greatest movement, before", "Greatest movement, after",
    )  # fmt: skip
    note = (
        "Right and left are the subject's. Bold: the interval does not include 0, so the change is larger "
        "than the uncertainty of the landmarks explains; variation from day to day is not included. Smaller "
        "of larger: the smaller side in percent of the larger, 100 is symmetric."
    )
    return _table(head, cells) + f'<p class="note">{note}</p>'


def _curves(table: MeasureTable, face: int, fps: float | None) -> str:
    stream = io.BytesIO()
    plot_measures(table, face=face, fps=fps).savefig(stream, format="png", dpi=110)
    return _image(stream.getvalue(), CURVES, "curves")


def _image(png: bytes, caption: str, css_class: str) -> str:
    data = base64.b64encode(png).decode()
    picture = f'<img alt="" src="data:image/png;base64,{data}">'  # screen readers read the caption
    return f'<figure class="{css_class}">{picture}<figcaption>{html.escape(caption)}</figcaption></figure>'


def _pictures(tracks: Tracks, table: MeasureTable, video: str | os.PathLike[str], face: int) -> str:
    """Return pictures of the face at rest and at the peaks of movements, with measures drawn on it."""
    moments: list[tuple[int, str, str]] = []
    rest = table.rest[face]
    if len(rest):
        moments.append((int(rest[len(rest) // 2]), "At rest", "mouth_opening"))
    usable = table.usable[:, face]
    for name, caption in PEAKS:
        columns = [
            column
            for column in (name, f"{name}_right", f"{name}_left")
            if column in table.names and np.isfinite(table.series(column, face)[usable]).any()
        ]
        if not columns:
            continue
        values = np.stack([table.series(column, face) for column in columns]).mean(axis=0)
        moments.append((int(np.nanargmax(np.where(usable, values, np.nan))), caption, name))
    parts = []
    with open_video(os.fspath(video), recorded_stream(tracks)) as opened:
        for row, caption, name in moments:
            frame = int(tracks.frame_indices[row])
            (rgb,) = read_frames(opened, frame, frame + 1)
            picture = draw_measure(rgb, tracks.landmarks[row, face], name)
            seconds = table.timestamps[row]
            when = f"{seconds:.2f} s, frame {frame}" if math.isfinite(seconds) else f"frame {frame}"
            encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
            parts.append(_image(encoded, f"{caption} ({when})", "face"))
    return "".join(parts)


def draw_measure(rgb: npt.NDArray[np.uint8], landmarks: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """Crop a face from a frame, scaled to `PICTURE_HEIGHT`, and draw the lines of a measure on it.

    Landmarks (68, 2) are in pixels of the frame (H, W, 3). Names without a side draw both sides.
    """
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    margin = 0.25 * float((high - low).max())
    x0, y0 = np.maximum(np.floor(low - margin), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(high + margin), (rgb.shape[1] - 1, rgb.shape[0] - 1)).astype(int)
    crop = rgb[y0 : y1 + 1, x0 : x1 + 1]
    factor = PICTURE_HEIGHT / max(crop.shape[0], 1)
    size = max(1, round(crop.shape[1] * factor)), PICTURE_HEIGHT
    picture = cv2.resize(crop, size, interpolation=cv2.INTER_CUBIC)
    points = (landmarks - (x0, y0)) * factor
    base = "eye_height" if name == "closure" else name
    for side_name in [f"{base}_right", f"{base}_left"] if base in PAIRS else [base]:
        item = measure_named(side_name)
        colour = tuple(int(SIDE_COLOURS[item.side][k : k + 2], 16) for k in (1, 3, 5))
        for line in item.lines:
            corners = np.rint(points[list(line)] * 16).astype(np.int32).reshape(-1, 1, 2)
            cv2.polylines(picture, [corners], False, colour, 2, cv2.LINE_AA, 4)
            for x, y in corners[:, 0].tolist():
                cv2.circle(picture, (x, y), 3 * 16, colour, -1, cv2.LINE_AA, 4)
    return np.asarray(picture, dtype=np.uint8)


def _titled(title: str, unit: str) -> str:
    return f"{html.escape(title.capitalize())} ({unit_symbol(unit)})"


def _number(value: Any, unit: str = "") -> str:
    value = float(value)
    if not math.isfinite(value):
        return "n/a"
    return f"{value:.2f}" if unit == "ratio" else f"{value:.1f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _with_interval(row: Any, name: str, unit: str) -> str:
    value, margin = _number(row[f"{name}_rest"], unit), _rest_margin(row, name)
    return f"{value} ± {_number(margin, unit)}" if math.isfinite(margin) else value


def _rest_margin(row: Any, name: str) -> float:
    """Return half the width of the 95 % interval of a value at rest."""
    return float(row[f"{name}_rest_high"] - row[f"{name}_rest_low"]) / 2


def _symmetry_table(table: MeasureTable, row: Any) -> str:
    rows = []
    for name in ROWS:
        if f"{name}_right" not in table.names:
            continue
        column = table.columns[table.column(f"{name}_right")]
        rows.append(
            [
                _titled(column.title.removesuffix(", right"), column.unit),
                f'<span class="right">{_with_interval(row, f"{name}_right", column.unit)}</span>',
                f'<span class="left">{_with_interval(row, f"{name}_left", column.unit)}</span>',
                _number(row[f"{name}_symmetry_rest"]),
                f'<span class="right">{_number(row[f"{name}_right_excursion"], column.unit)}</span>',
                f'<span class="left">{_number(row[f"{name}_left_excursion"], column.unit)}</span>',
                _number(row[f"{name}_excursion_symmetry"]) if _moved(row, name) else "-",
            ]
        )
    head = (
        "Measure", "Right at rest", "Left at rest", "Symmetry at rest", "Right, greatest change",
        "Left, greatest change", "Symmetry of change",
    )  # fmt: skip
    note = (
        "Right and left are the subject's. Symmetry is the smaller side in percent of the larger: 100 is "
        "symmetric, 0 means that the sides moved in opposite directions. ± is half the width of the 95 % "
        "interval that follows from the landmarks' uncertainty. The greatest change is the change from rest "
        "that is exceeded on 1 % of the frames, so that single blinks do not count. If it is within ± on "
        "both sides, its symmetry would be due to chance and is left out (-)."
    )
    return _table(head, rows) + f'<p class="note">{note}</p>'


def _moved(row: Any, name: str) -> bool:
    """Return whether either side moved from rest by more than the landmarks' uncertainty explains."""
    return f"{name}_excursion_symmetry" in row and any(
        not abs(row[f"{side_name}_excursion"]) <= _rest_margin(row, side_name)
        for side_name in (f"{name}_right", f"{name}_left")
    )


def _single_table(table: MeasureTable, row: Any) -> str:
    rows = []
    for column in table.columns:
        if column.side == "both" and column.name != "inter_canthal_distance":
            title = _titled(column.title, column.unit)
            cells = [_with_interval(row, column.name, column.unit)]
            cells += [_number(row[f"{column.name}_{what}"]) for what in ("peak", "excursion", "range")]
            rows.append([title, *cells])
    return _table(("Measure", "At rest", "At peak", "Change", "Range (5 to 95 %)"), rows)


def _blink_table(row: Any, blinks: Sequence[Blink]) -> str:
    if not blinks:
        return "<p>No blinks were detected.</p>"
    rate = f"{_number(row['blinks_per_minute'])} (95 % interval {_interval(row, 'blinks_per_minute')})"
    rows = [
        ["Blinks", str(int(row["blinks"]))],
        ["Complete (closure 0.9 or more)", str(int(row["complete_blinks"]))],
        ["Blinks per minute", rate],
        ["Mean duration (s)", _number(row["blink_duration"], "ratio")],
        ["Mean closure, right (1 is shut)", _number(row["blink_closure_right"], "ratio")],
        ["Mean closure, left (1 is shut)", _number(row["blink_closure_left"], "ratio")],
        ["Only one eye", str(sum(blink.side != "both" for blink in blinks))],
    ]
    return _table(("", "Value"), rows)


def _quality(table: MeasureTable, rows: pandas.DataFrame) -> str:
    cells = [
        [html.escape(str(row["face"])), str(int(row["frames"])), _number(row["seconds"]),
        _number(row["usable_percent"])] for _, row in rows.iterrows()
    ]  # fmt: skip
    note = (
        "Frames are usable if the landmarks are confident and, without pose correction, the head is turned "
        f"by at most {LARGE_YAW:g} degrees. Other frames are left out."
    )
    head = ("Face", "Frames", "Seconds", "Usable (%)")
    return _table(head, cells) + f'<p class="note">{note}</p>' + _paragraphs(table.warnings)


def _paragraphs(sentences: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)


def _provenance(tracks: Tracks, table: MeasureTable) -> str:
    """Return how landmarks and measures were computed, in plain language, with names of settings."""
    meta, settings = tracks.meta, tracks.settings
    skip = settings.clnf_every
    every = "every frame" if skip == 1 else f"one frame in {skip}"
    refined = {
        "off": "They were not refined further (refine off).",
        "auto": f"Uncertain landmarks were refined by a second method on {every} (refine auto).",
        "always": f"They were refined by a second method on {every} (refine always).",
        "clnf-only": f"They were located by fitting a face shape model on {every} (refine clnf-only).",
    }
    preset = preset_of(settings)
    values = [f"{name} {value}" for name, value in settings.to_dict().items()]
    origin = [
        f"The program napari-face-landmarks {meta.get('version', '')} located 68 points (landmarks) on each "
        f"face on each frame, with the models “{meta.get('models')}” {meta.get('models_version', '')}.",
        "While a face hardly moved, jaw, brows and nose were located on at least one frame in "
        f"{settings.pfld_every} and interpolated in between (pfld_every)."
        if settings.pfld_every > 1 and settings.refine != "clnf-only"
        else "",
        refined[settings.refine],
        f"Jitter was smoothed over {settings.smoothing_window} frames (smoothing_window)."
        if settings.smoothing_window > 1
        else "They were not smoothed over time.",
        f"All settings are those of the preset {preset.title}."
        if preset
        else f"Settings: {', '.join(values)}.",
    ]
    if "version" not in meta:
        source = f", which names the models “{meta[MODELS]}”" if MODELS in meta else " of another program"
        origin = [f"The landmarks were read from a file{source}."]
    if by_hand := int(tracks.by_hand.sum()):
        origin.append(f"{by_hand} points were placed by hand.")
    rest = [
        f"{name}: frames {frames[0]} to {frames[-1]}" if len(frames) > 1 else f"{name}: frame {frames[0]}"
        for name, rows in zip(table.face_names, table.rest, strict=True)
        if len(frames := table.frame_indices[rows])
    ]
    measured = [
        f"Rest was the calmest interval, or the chosen frame ({'; '.join(rest)})." if rest else "",
        "Faces were first rotated to a frontal view, with depth from a shape model fitted to them."
        if table.pose_corrected
        else "Lengths are those in the image: they change when the head turns or nods, but not when it tilts "
        "sideways or comes closer.",
    ]
    return "".join(f"<p>{html.escape(' '.join(' '.join(part).split()))}</p>" for part in (origin, measured))
