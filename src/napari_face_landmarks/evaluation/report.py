"""Results of an evaluation as text, Markdown tables and JSON."""

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
    """Return tables for the terminal; errors are percentages of the inter-ocular distance."""
    head = ["condition", "refine", "bundle", "mean", "+-", "median", "inner 51", "jaw", "over 8 %"]
    head += ["AUC", "confidence", "refined", "ms/face", "found", "against none"]
    rows = [
        [
            summary.condition,
            summary.refine,
            summary.bundle,
            _percent(summary.mean),
            _percent(summary.standard_error),
            _percent(summary.median),
            _percent(summary.inner),
            _percent(summary.jaw),
            _percent(summary.failures, 1),
            _number(summary.auc),
            _number(summary.confidence),
            _percent(summary.refined, 0),
            _number(summary.milliseconds, 1),
            f"{summary.found}/{summary.faces}",
            _change(summary.growth),
        ]
        for summary in summaries
    ]
    parts = [_aligned(head, rows)]
    better = [summary for summary in summaries if summary.better_than_off is not None]
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
    columns = list(dict.fromkeys((summary.bundle, summary.refine) for summary in summaries))
    names = [f"{bundle}, {refine}" for bundle, refine in columns]
    by_key = {(summary.condition, summary.bundle, summary.refine): summary for summary in summaries}
    errors, failures = [], []
    for condition in dict.fromkeys(summary.condition for summary in summaries):
        row = [by_key[condition, bundle, refine] for bundle, refine in columns]
        changes = ["" if summary.growth is None else f" ({_change(summary.growth)})" for summary in row]
        means = [f"{_percent(summary.mean)} %{change}" for summary, change in zip(row, changes, strict=True)]
        errors.append([condition, *means])
        failures.append([condition, *(f"{_percent(summary.failures, 1)} %" for summary in row)])
    plain = [summary for summary in summaries if summary.condition == summaries[0].condition]
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
                    f"{summary.bundle}, {summary.refine}",
                    *(
                        f"{_percent(value)} %"
                        for value in (summary.mean, summary.median, summary.inner, summary.jaw)
                    ),
                    _number(summary.auc),
                    _number(summary.confidence),
                    _number(summary.milliseconds, 1),
                    "" if summary.better_than_off is None else f"{_percent(summary.better_than_off, 0)} %",
                    f"{summary.found} of {summary.faces}",
                ]
                for summary in plain
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
    """Return the Markdown tables of measures for `measures/README.md`."""
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
    """Return all results for JSON; errors are fractions, undefined values None."""
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
        "results": [plain(summary) for summary in summaries],
        "poor_fits_of_all_conditions": [
            {"bundle": bundle, "refine": refine, **plain(poor)} for (bundle, refine), poor in pooled.items()
        ],
        "measures": [plain(summary) for summary in measures],
    }


_DETAIL_HEAD = ["bundle, refine", "mean", "median", "inner 51", "jaw", "AUC to 8 %", "confidence", "ms"]
_DETAIL_HEAD += ["better than off", "found"]
_POOR_HEAD = ["bundle, refine", "conditions", "fits", "poor fits", "ROC AUC by confidence", "by face score"]
_COVERED_HEAD = ["bundle, refine", "condition", "covered landmarks", "confidence covered", "visible"]
_COVERED_HEAD += ["error covered", "visible"]
_CURVES_HEAD = ["bundle, refine", "condition", "curve", *(str(number) for number in range(1, 11))]


def _poor_rows(summaries: Sequence[Summary], pooled: Pooled) -> list[Row]:
    conditions = list(dict.fromkeys(summary.condition for summary in summaries))
    rows = []
    for key, all_conditions in pooled.items():
        plain = [
            summary
            for summary in summaries
            if (summary.bundle, summary.refine, summary.condition) == (*key, conditions[0])
        ]
        fits = [(summary.condition, summary.poor_fits) for summary in plain]
        fits += [(f"all {len(conditions)}", all_conditions)] if len(conditions) > 1 else []
        for name, poor in fits:
            areas = [_number(poor.by_confidence, 3), _number(poor.by_score, 3)]
            rows.append([", ".join(key), name, str(poor.fits), str(poor.poor), *areas])
    return rows


def _covered_rows(summaries: Sequence[Summary]) -> list[Row]:
    return [
        [
            f"{summary.bundle}, {summary.refine}",
            summary.condition,
            str(summary.covered.landmarks),
            _number(summary.covered.confidence),
            _number(summary.covered.confidence_visible),
            f"{_percent(summary.covered.error)} %",
            f"{_percent(summary.covered.error_visible)} %",
        ]
        for summary in summaries
        if summary.covered is not None
    ]


def _curve_rows(summaries: Sequence[Summary]) -> list[Row]:
    """Return the reliability and risk-coverage curves of the first condition."""
    rows = []
    for summary in summaries:
        if summary.condition == summaries[0].condition:
            for name, values in (
                ("expected", summary.reliability.expected),
                ("observed", summary.reliability.observed),
                ("confident faces", summary.risk),
            ):
                row = [f"{summary.bundle}, {summary.refine}", summary.condition, name, *map(_percent, values)]
                rows.append(row + [""] * (len(_CURVES_HEAD) - len(row)))
    return rows


def _percent(value: float | None, digits: int = 2) -> str:
    return _number(None if value is None else 100 * value, digits)


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _change(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{100 * value:+.1f} %"


def _aligned(head: Row, rows: list[Row]) -> str:
    """Return a table with left-aligned text and right-aligned numbers."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    is_text = [not any(cell[:1].isdigit() for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, is_text, strict=True)
        ).rstrip()
        for row in [head, *rows]
    ]
    return "\n".join(lines)
