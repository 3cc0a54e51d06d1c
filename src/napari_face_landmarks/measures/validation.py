"""Known underestimation of measures, from the comparison with manual labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from napari_face_landmarks.measures.definitions import name_without_side

SLOPES_FILE = Path(__file__).with_name("slopes.json")
"""Slopes of measured over labelled values, by bundle and measure; ``python tests/readme_tables.py`` writes
them from the table in the README."""
SLOPE = 0.9
"""Measures with smaller slopes are reported as underestimated."""
STEP = 5
"""Percentages are rounded to multiples of this."""


@lru_cache
def _slopes() -> dict[str, dict[str, float]]:
    slopes: dict[str, dict[str, float]] = json.loads(SLOPES_FILE.read_text(encoding="utf-8"))
    return slopes


def underestimated(name: str, models: str) -> int:
    """Return by how many percent a measure's deviations from the average face are underestimated.

    `name` is a column of a `MeasureTable`, or a measure without its side; `models` is the bundle that located
    the landmarks. Rounded to `STEP`; 0 if the slope is at least `SLOPE` or unknown.
    """
    slope = _slopes().get(models, {}).get(name_without_side(name), 1.0)
    return STEP * round(100 * (1 - slope) / STEP) if slope < SLOPE else 0


def caution(names: Sequence[tuple[str, str]], models: str) -> str:
    """Return a sentence that lists the underestimated measures among `names`; "" if there are none.

    `names` are pairs of column and title; `models` is the bundle that located the landmarks.
    """
    titles_by_share: dict[int, list[str]] = {}
    for name, title in names:
        if share := underestimated(name, models):
            titles_by_share.setdefault(share, []).append(title)
    if not titles_by_share:
        return ""
    parts = [f"{', '.join(titles)} by about {share} %" for share, titles in sorted(titles_by_share.items())]
    return (
        "Compared with manual labels, deviations from the average face tend to be underestimated: "
        f"{'; '.join(parts)}."
    )
