"""Options of training steps; their records: learning curves (CSV) and metrics (JSON)."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def add_options(parser: argparse.ArgumentParser, plan: object, **helps: str) -> None:
    """Add options named after fields of a plan, with the plan's values as defaults."""
    for name, text in helps.items():
        value = getattr(plan, name)
        text = f"{text} (default %(default)s)"
        parser.add_argument(f"--{name}", type=type(value), default=value, help=text)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row to a CSV file, after a header if the file is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write metrics, such as ``pfld.metrics.json``."""
    path.write_text(json.dumps(content, indent=2) + "\n")
