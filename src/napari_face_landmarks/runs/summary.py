"""Summary of a batch, one row per video, as CSV and as text."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from napari_face_landmarks.errors import printable
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.runs.job import DONE, FileResult

SUMMARY = "batch-summary"
COLUMNS = (
    "video",
    "status",
    "frames",
    "frames_with_faces",
    "faces",
    "seconds",
    "fps",
    "earlier",
    "tries",
    "output",
    "reason",
    "warnings",
)


def begin_summary(folder: Path) -> None:
    """Write an empty ``batch-summary.csv``, for `append_to_summary`."""
    _write_table(folder, [])


def append_to_summary(folder: Path, result: FileResult) -> None:
    """Append the row of a finished video to ``batch-summary.csv``; earlier rows survive a crash."""
    with open(folder / f"{SUMMARY}.csv", "a", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerow(_row(result))


def write_summary(folder: Path, results: Sequence[FileResult], note: str = "") -> None:
    """Write ``batch-summary.csv`` and ``batch-summary.txt``, which ends with `note`, atomically."""
    _write_table(folder, results)
    with replacing(folder / f"{SUMMARY}.txt") as temporary:
        lines = [summary_text(results), *([printable(note)] if note else [])]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_table(folder: Path, results: Sequence[FileResult]) -> None:
    path = folder / f"{SUMMARY}.csv"
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(COLUMNS)
        table.writerows(_row(result) for result in results)


def _row(result: FileResult) -> list[object]:
    texts = (result.video, result.output, result.reason, " ".join(result.warnings))
    video, output, reason, warnings = map(printable, texts)
    return [
        video,
        result.status,
        result.frames,
        result.frames_with_faces,
        result.faces,
        f"{result.seconds:.3f}",
        f"{result.fps:.1f}",
        "yes" if result.earlier else "no",
        result.tries,
        output,
        reason,
        warnings,
    ]


def summary_text(results: Sequence[FileResult]) -> str:
    """Return an aligned text table, followed by reasons and warnings and the counts."""
    rows = [("video", "status", "frames", "with face", "fps", "warnings")]
    for result in results:
        status = f"{result.status} before" if result.earlier else result.status
        rows.append(
            (
                printable(Path(result.video).name),
                status,
                str(result.frames),
                str(result.frames_with_faces),
                f"{result.fps:.1f}",
                str(len(result.warnings)),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    sentences = [
        sentence
        for result in results
        for sentence in (result.reason, *(f"{Path(result.video).name}: {text}" for text in result.warnings))
        if sentence
    ]
    if sentences:
        lines += ["", *dict.fromkeys(map(printable, sentences))]
    return "\n".join([*lines, "", summary_line(results)])


def summary_line(results: Sequence[FileResult]) -> str:
    """Return the number of videos per status, in one sentence."""
    counts = Counter(result.status for result in results)
    parts = [f"{counts[status]} {status}" for status in sorted(counts, key=lambda s: (s != DONE, s))]
    earlier = sum(result.earlier for result in results)
    return (
        f"{len(results)} videos: {', '.join(parts) or 'none'}"
        + (f" ({earlier} of them in an earlier run)" if earlier else "")
        + "."
    )
