"""JSON files: read within a limit of size, as they are untrusted, and written atomically, without NaN."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

from napari_face_landmarks.errors import FaceLandmarksError, in_one_line
from napari_face_landmarks.files.atomic import replacing


def read_json(
    path: str | os.PathLike[str], what: str, largest: int, error: type[FaceLandmarksError], hint: str
) -> Any:
    """Read an untrusted JSON file of `what` (such as "settings") of at most `largest` bytes."""
    try:
        if os.path.getsize(path) > largest:
            raise error(f"{os.fspath(path)} is too large for {what}: {hint}.")
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FaceLandmarksError:
        raise
    except (OSError, ValueError, RecursionError) as reason:
        raise error(f"{os.fspath(path)} cannot be read as {what} ({in_one_line(reason)}): {hint}.") from None


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `plain` of a value to a JSON file, which is replaced atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plain(value), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """Return dataclasses and containers as dicts and lists for JSON; a number that is not finite as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
