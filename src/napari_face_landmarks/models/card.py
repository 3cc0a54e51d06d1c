"""Model cards as Markdown, and their main error figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from napari_face_landmarks.files.markdown import table

CONDITIONS_MEASURED = "jitter"
"""Key of the evaluation under all conditions, with boxes like those of a tracker."""


def held_out_error(card: Mapping[str, Any], refine: str = "always") -> float | None:
    """Return the mean error on the held-out faces of 300-W, in inter-ocular distances, or None."""
    entry: Any = card
    for key in ("metrics", "evaluation", CONDITIONS_MEASURED, "none", refine, "mean"):
        entry = entry.get(key) if isinstance(entry, Mapping) else None
    return float(entry) if isinstance(entry, (int, float)) else None


def card_markdown(card: Mapping[str, Any]) -> str:
    """Return a card as a section of Markdown, without missing entries."""
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
    parts += _measured(card.get("metrics", {}))
    return "\n\n".join(parts) + "\n"


def _measured(metrics: Mapping[str, Any]) -> list[str]:
    parts = []
    evaluation = metrics.get("evaluation", {})
    conditions = evaluation.get(CONDITIONS_MEASURED, {})
    if conditions:
        modes = list(next(iter(conditions.values())))
        head = [
            "condition",
            *(f"{mode}: {what}" for mode in modes for what in ("mean", "inner 51", "over 8 %")),
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
    found = metrics.get("detector", {}).get("held_out", {}).get("photographs")
    if found:
        parts.append(
            f"Detector, {found['pictures']} held-out images with {found['faces']} faces: average "
            f"precision {found['average_precision']:.3f}; {_percent(found['recall'])} found at "
            f"{found['false_alarms_per_picture']:.3f} false alarms per image."
        )
    return parts


def _slope(values: Sequence[float | None]) -> str:
    """Return the slope of a pair of correlation and slope, with the correlation in brackets."""
    correlation, slope = ("-" if value is None else f"{value:.2f}" for value in values)
    return f"{slope} ({correlation})"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"
