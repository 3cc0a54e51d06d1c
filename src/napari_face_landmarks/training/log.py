"""Records of a training run: a CSV file with a row per evaluation, and a JSON file of metrics."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row to a CSV file, with a header if the file is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a record such as ``pfld.metrics.json``."""
    path.write_text(json.dumps(content, indent=2) + "\n")
