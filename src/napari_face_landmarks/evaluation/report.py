"""Results of an evaluation as text, as Markdown tables, and as complete JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_face_landmarks.evaluation.dataset import LabelledFaces
from napari_face_landmarks.evaluation.measures_report import MeasureSummary, tables
from napari_face_landmarks.evaluation.metrics import POOR, EvaluationPlan, PoorFits, Summary
from napari_face_landmarks.evaluation.options import Side
from napari_face_landmarks.files.json_file import plain
from napari_face_landmarks.files.markdown import table
from napari_face_landmarks.models import Models
from napari_face_landmarks.versions import __version__

FORMAT = "napari-face-landmarks evaluation"
FORMAT_VERSION = 1

Row = list[str]
Pooled = Mapping[tuple[str, str], PoorFits]


def to_text(summaries: Sequence[Summary], pooled: Pooled, measures: Sequence[MeasureSummary] = ()) -> str:
    """Return tables for the terminal; errors in percent of the inter-ocular distance."""
    head = ["condition", "refine", "bundle", "mean", "+-", "median", "inner 51", "jaw", "over 8 %"]
    head += ["AUC", "confidence", "refined", "ms/face", "found", "against none"]
    rows = [
        [
            one.condition,
            one.refine,
            one.bundle,
            _percent(one.mean),
            _percent(one.standard_error),
            _percent(one.median),
            _percent(one.inner),
            _percent(one.jaw),
            _percent(one.failures, 1),
            _number(one.auc),
            _number(one.confidence),
            _percent(one.refined, 0),
            _number(one.milliseconds, 1),
            f"{one.found}/{one.faces}",
            _change(one.growth),
        ]
        for one in summaries
    ]
    parts = [_aligned(head, rows)]
    better = [one for one in summaries if one.better_than_off is not None]
    if better:
        rows = [[o.condition, o.refine, o.bundle, _percent(o.better_than_off, 0)] for o in better]
        parts.append(_aligned(["condition", "refine", "bundle", "% of faces better than off"], rows))
    parts.append(_aligned(_POOR_HEAD, _poor_rows(summaries, pooled)))
    covered = _covered_rows(summaries)
    if covered:
        parts.append(_aligned(_COVERED_HEAD, covered))
    parts.append(_aligned(_CURVES_HEAD, _curve_rows(summaries)))
    parts += [f"{title}\n{_aligned(head, rows)}" for title, head, rows in tables(measures) if rows]
    return "\n\n".join(parts) + "\n"


def to_markdown(
    summaries: Sequence[Summary],
    pooled: Pooled,
    faces: LabelledFaces,
    side: Side,
    plan: EvaluationPlan,
    measures: Sequence[MeasureSummary] = (),
) -> str:
    """Return Markdown tables: mean error by condition, failures, and calibration of the confidence."""
    columns = list(dict.fromkeys((one.bundle, one.refine) for one in summaries))
    names = [f"{bundle}, {refine}" for bundle, refine in columns]
    by_key = {(one.condition, one.bundle, one.refine): one for one in summaries}
    errors, failures = [], []
    for condition in dict.fromkeys(one.condition for one in summaries):
        row = [by_key[condition, bundle, refine] for bundle, refine in columns]
        changes = ["" if one.growth is None else f" ({_change(one.growth)})" for one in row]
        means = [f"{_percent(one.mean)} %{change}" for one, change in zip(row, changes, strict=True)]
        errors.append([condition, *means])
        failures.append([condition, *(f"{_percent(one.failures, 1)} %" for one in row)])
    plain = [one for one in summaries if one.condition == summaries[0].condition]
    parts = [
        f"Mean error over the 68 landmarks, percent of the inter-ocular distance, on {_which(faces, side)}; "
        f"boxes: {plan.boxes}; seed {plan.seed}. In brackets: change relative to none.",
        table(["condition", *names], errors),
        "Faces over 8 %, faces not found included:",
        table(["condition", *names], failures),
        f"Details for condition {summaries[0].condition} (ms: processor time per face on one core, without "
        "detection):",
        table(
            _DETAIL_HEAD,
            [
                [
                    f"{one.bundle}, {one.refine}",
                    *(f"{_percent(value)} %" for value in (one.mean, one.median, one.inner, one.jaw)),
                    _number(one.auc),
                    _number(one.confidence),
                    _number(one.milliseconds, 1),
                    "" if one.better_than_off is None else f"{_percent(one.better_than_off, 0)} %",
                    f"{one.found} of {one.faces}",
                ]
                for one in plain
            ],
        ),
        "Separation of poor fits (over 8 %) from good ones by the confidence of a face:",
        table(_POOR_HEAD, _poor_rows(summaries, pooled)),
    ]
    covered = _covered_rows(summaries)
    if covered:
        parts += ["Occluded landmarks compared with visible ones of the same faces:"]
        parts += [table(_COVERED_HEAD, covered)]
    parts += [
        "Deciles of the landmarks by expected error (expected and observed error, percent), and mean error "
        "of the 10, 20, .. 100 % most confident faces:",
        table(_CURVES_HEAD, _curve_rows(summaries)),
    ]
    return "\n\n".join([*parts, *_measure_tables(measures)]) + "\n"


def _measure_tables(measures: Sequence[MeasureSummary]) -> list[str]:
    return [
        part for title, head, rows in tables(measures) if rows for part in (f"{title}:", table(head, rows))
    ]


def measures_to_markdown(measures: Sequence[MeasureSummary], faces: LabelledFaces, side: Side) -> str:
    """Return the Markdown tables of measures alone, as `measures/README.md` has them."""
    return "\n\n".join([f"On {_which(faces, side)}.", *_measure_tables(measures)]) + "\n"


def _which(faces: LabelledFaces, side: Side) -> str:
    files = ", ".join(f"`{Path(file).name}`" for file in faces.files)
    return f"{len(faces)}{'' if side == 'all' else f' {side}'} faces of {files}"


def to_json(
    summaries: Sequence[Summary],
    pooled: Pooled,
    faces: LabelledFaces,
    side: Side,
    plan: EvaluationPlan,
    bundles: Mapping[str, Models],
    measures: Sequence[MeasureSummary] = (),
) -> dict[str, Any]:
    """Return all results as plain values; errors are fractions, None stands for undefined values."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "files": [Path(file).name for file in faces.files],
        "side": side,
        "names": list(faces.names),
        "boxes": plan.boxes,
        "seed": plan.seed,
        "poor": POOR,
        "bundles": [
            {"name": name, "version": models.version, "licence": models.licence}
            for name, models in bundles.items()
        ],
        "results": [plain(one) for one in summaries],
        "poor_fits_of_all_conditions": [
            {"bundle": bundle, "refine": refine, **plain(poor)} for (bundle, refine), poor in pooled.items()
        ],
        "measures": [plain(one) for one in measures],
    }


_DETAIL_HEAD = ["bundle, refine", "mean", "median", "inner 51", "jaw", "AUC to 8 %", "confidence", "ms"]
_DETAIL_HEAD += ["better than off", "found"]
_POOR_HEAD = ["bundle, refine", "conditions", "fits", "poor fits", "ROC AUC by confidence", "by face score"]
_COVERED_HEAD = ["bundle, refine", "condition", "covered landmarks", "confidence covered", "visible"]
_COVERED_HEAD += ["error covered", "visible"]
_CURVES_HEAD = ["bundle, refine", "condition", "curve", *(str(number) for number in range(1, 11))]


def _poor_rows(summaries: Sequence[Summary], pooled: Pooled) -> list[Row]:
    conditions = list(dict.fromkeys(one.condition for one in summaries))
    rows = []
    for key, every in pooled.items():
        first = [one for one in summaries if (one.bundle, one.refine, one.condition) == (*key, conditions[0])]
        fits = [(one.condition, one.poor_fits) for one in first]
        fits += [(f"all {len(conditions)}", every)] if len(conditions) > 1 else []
        for name, poor in fits:
            areas = [_number(poor.by_confidence, 3), _number(poor.by_score, 3)]
            rows.append([", ".join(key), name, str(poor.fits), str(poor.poor), *areas])
    return rows


def _covered_rows(summaries: Sequence[Summary]) -> list[Row]:
    return [
        [
            f"{one.bundle}, {one.refine}",
            one.condition,
            str(one.covered.landmarks),
            _number(one.covered.confidence),
            _number(one.covered.confidence_visible),
            f"{_percent(one.covered.error)} %",
            f"{_percent(one.covered.error_visible)} %",
        ]
        for one in summaries
        if one.covered is not None
    ]


def _curve_rows(summaries: Sequence[Summary]) -> list[Row]:
    """Return the reliability and risk-coverage curves of the first condition."""
    rows = []
    for one in summaries:
        if one.condition == summaries[0].condition:
            for name, values in (
                ("expected", one.reliability.expected),
                ("observed", one.reliability.observed),
                ("confident faces", one.risk),
            ):
                row = [f"{one.bundle}, {one.refine}", one.condition, name, *map(_percent, values)]
                rows.append(row + [""] * (len(_CURVES_HEAD) - len(row)))
    return rows


def _percent(value: float | None, digits: int = 2) -> str:
    return _number(None if value is None else 100 * value, digits)


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _change(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{100 * value:+.1f} %"


def _aligned(head: Row, rows: list[Row]) -> str:
    """Return a table with aligned columns: text to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    words = [not any(cell[:1].isdigit() for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, words, strict=True)
        ).rstrip()
        for row in [head, *rows]
    ]
    return "\n".join(lines)
