"""Model cards as Markdown, and the error that they report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from napari_face_landmarks.files.markdown import table

EVALUATED_BOXES = "jitter"
"""Source of the boxes in the evaluation under all conditions: like those of a tracker."""


def held_out_error(card: Mapping[str, Any], refine: str = "always") -> float | None:
    """Return the mean error on the held-out faces of 300-W, in inter-ocular distances, or None."""
    entry: Any = card
    for key in ("metrics", "evaluation", EVALUATED_BOXES, "none", refine, "mean"):
        entry = entry.get(key) if isinstance(entry, Mapping) else None
    return float(entry) if isinstance(entry, (int, float)) else None


def card_markdown(card: Mapping[str, Any]) -> str:
    """Return a card as a section of Markdown; missing entries are left out."""
    parts = [f"### `{card['name']}`, version {card['version']}: {card['licence']}"]
    for key, title in (
        ("terms", "Terms"),
        ("not_for", "Not for"),
        ("coverage", "People in the training data"),
        ("augmentation", "Augmentation"),
        ("held_out", "Held out"),
    ):
        if isinstance(card.get(key), str):
            parts.append(f"**{title}.** {card[key]}")
    data = [item for item in card.get("trained_on", ()) if isinstance(item, Mapping)]
    if data:
        rows = [[f"`{item['data']}`", str(item["what"]), str(item["licence"])] for item in data]
        parts.append(table(["trained on", "content", "licence"], rows))
        cited = dict.fromkeys(text for item in data for text in item.get("cite", ()))
        parts.append("\n".join(["To cite:", "", *(f"- {text}" for text in cited)]))
    parts += _metrics(card.get("metrics", {}))
    return "\n\n".join(parts) + "\n"


def _metrics(metrics: Mapping[str, Any]) -> list[str]:
    parts = []
    evaluation = metrics.get("evaluation", {})
    conditions = evaluation.get(EVALUATED_BOXES, {})
    if conditions:
        modes = list(next(iter(conditions.values())))
        head = [
            "condition",
            *(f"{mode}: {metric}" for mode in modes for metric in ("mean", "inner 51", "over 8 %")),
        ]
        rows = [
            [
                condition,
                *(_percent(by_mode[mode][key]) for mode in modes for key in ("mean", "inner", "failures")),
            ]
            for condition, by_mode in conditions.items()
        ]
        parts.append(
            f"Error on {evaluation['faces']} held-out faces of 300-W with manual labels, by `refine` mode; "
            "boxes like those of a tracker:\n\n" + table(head, rows)
        )
    measures = evaluation.get("measures", {})
    if measures:
        modes = list(next(iter(measures.values())))
        conditions = list(measures)
        names = [key for key, value in measures[conditions[0]][modes[0]].items() if isinstance(value, list)]
        rows = [
            [name, *(_slope(measures[condition][mode][name]) for condition in conditions for mode in modes)]
            for name in names
        ]
        head = ["measure", *(f"{condition}, {mode}" for condition in conditions for mode in modes)]
        parts.append(
            "Slope (correlation) of measures of the landmarks on those of the labels, by condition and "
            "`refine`:\n\n" + table(head, rows)
        )
    detector = metrics.get("detector", {}).get("held_out", {}).get("photographs")
    if detector:
        parts.append(
            f"Detector, {detector['pictures']} held-out images with {detector['faces']} faces: average "
            f"precision {detector['average_precision']:.3f}; {_percent(detector['recall'])} found at "
            f"{detector['false_alarms_per_picture']:.3f} false alarms per image."
        )
    return parts


def _slope(values: Sequence[float | None]) -> str:
    """Format a (correlation, slope) pair as "slope (correlation)"."""
    correlation, slope = ("-" if value is None else f"{value:.2f}" for value in values)
    return f"{slope} ({correlation})"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"
