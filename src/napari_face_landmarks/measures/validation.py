"""What comparing with labels by hand has shown of each measure, for people who read its values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from napari_face_landmarks.measures.definitions import name_without_side

SLOPES_FILE = Path(__file__).with_name("slopes.json")
"""Slopes of found values over labelled ones, by bundle and measure: those of the table in the README, from
which ``python tests/readme_tables.py`` writes them."""
SLOPE = 0.9
"""Below this a measure is said to be underestimated."""
STEP = 5
"""Percent to which the share is rounded."""


@lru_cache
def _slopes() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads(SLOPES_FILE.read_text(encoding="utf-8"))
    return found


def underestimated(name: str, models: str) -> int:
    """Return by how many percent deviations of a measure from the average face are found too small.

    `name` is a column of a `MeasureTable`, or a measure without its side; `models` the bundle that found the
    landmarks. Rounded to `STEP`; 0 where the slope is at least `SLOPE`, or where nothing is known.
    """
    slope = _slopes().get(models, {}).get(name_without_side(name), 1.0)
    return STEP * round(100 * (1 - slope) / STEP) if slope < SLOPE else 0


def caution(names: Sequence[tuple[str, str]], models: str) -> str:
    """Return a sentence on those of some measures that tend to be underestimated; "" if none is.

    `names` are column and title of each, as people read it; `models` the bundle that found the landmarks.
    """
    found: dict[int, list[str]] = {}
    for name, title in names:
        if share := underestimated(name, models):
            found.setdefault(share, []).append(title)
    if not found:
        return ""
    parts = [f"{', '.join(titles)} by about {share} %" for share, titles in sorted(found.items())]
    return (
        "Against labels by hand, deviations from the average face tend to be underestimated: "
        f"{'; '.join(parts)}."
    )
