"""Markdown tables, and sections of Markdown files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.files.atomic import replacing


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text as a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def has_section(path: Path, name: str) -> bool:
    """Return whether a Markdown file exists and has the marker ``<!-- NAME -->``."""
    return path.exists() and f"<!-- {name} -->" in path.read_text(encoding="utf-8")


def write_section(path: Path, text: str, name: str) -> None:
    """Write a Markdown file, or if it has ``<!-- NAME -->`` and ``<!-- end of NAME -->``, only this part."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if path.exists():
        before = path.read_text(encoding="utf-8")
        head, opened, rest = before.partition(begin)
        _, closed, tail = rest.partition(end)
        if bool(opened) != bool(closed) or before.count(begin) + before.count(end) > 2 * bool(opened):
            raise ResultError(f"{path} needs each of the markers {begin} and {end} once, in this order.")
        if opened:
            text = f"{head}{begin}\n\n{text}\n{end}{tail}"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
