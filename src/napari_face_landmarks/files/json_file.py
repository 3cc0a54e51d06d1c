"""JSON files: untrusted files are read up to a maximum size; files are written atomically, without NaN."""

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
    path: str | os.PathLike[str], content: str, max_bytes: int, error: type[FaceLandmarksError], hint: str
) -> Any:
    """Read an untrusted JSON file of at most `max_bytes`; `content` (such as "settings") is for errors."""
    try:
        if os.path.getsize(path) > max_bytes:
            raise error(f"{os.fspath(path)} is too large for {content}: {hint}.")
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FaceLandmarksError:
        raise
    except (OSError, ValueError, RecursionError) as reason:
        text = in_one_line(reason)
        raise error(f"{os.fspath(path)} cannot be read as {content} ({text}): {hint}.") from None


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a value, converted by `plain`, to a JSON file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plain(value), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """Convert dataclasses and containers to dicts and lists for JSON, and non-finite numbers to None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
