"""Training log: a CSV file with a row per evaluation."""

from __future__ import annotations

import csv
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
