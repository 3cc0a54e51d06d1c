"""Measures of a batch: tables next to each result, and one table of all videos."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import MeasureError, ResultError, reason_of
from napari_face_landmarks.files.atomic import companion_name
from napari_face_landmarks.measures import blinks, measure, summary
from napari_face_landmarks.measures.files import events_to_dataframe, to_dataframe, write_table

MEASURES_TABLE = "batch-measures.csv"
"""One row for each video and face."""
_SUFFIXES = {"table": ".measures.csv", "events": ".blinks.csv", "summary": ".summary.csv"}


def measure_files(output: str | os.PathLike[str]) -> dict[str, Path]:
    """Return the paths of the tables of a result: "table", "events" and "summary"."""
    path = Path(output)
    return {kind: path.with_name(companion_name(path.name, suffix)) for kind, suffix in _SUFFIXES.items()}


def remove_measures(output: str | os.PathLike[str]) -> None:
    """Remove the tables of an earlier result in the same file."""
    for path in measure_files(output).values():
        path.unlink(missing_ok=True)


def write_measures(
    output: str | os.PathLike[str], tracks: Tracks, options: Mapping[str, Any]
) -> tuple[str, ...]:
    """Measure tracks with `options` of `measure`, write the tables of `output`, and return warnings."""
    try:
        table = measure(tracks, **options)
        frames = {"table": to_dataframe(table), "summary": summary(table)}
        if not table.still:
            frames["events"] = events_to_dataframe(blinks(table))
    except MeasureError as error:
        remove_measures(output)
        return (f"Nothing was measured: {error}",)
    for kind, path in measure_files(output).items():
        if kind in frames:
            write_table(path, frames[kind])
        else:
            path.unlink(missing_ok=True)
    return table.warnings


def join_summaries(folder: Path, results: Sequence[tuple[str, str]]) -> None:
    """Write `MEASURES_TABLE` from the summary tables of the results, (video, output), of a batch."""
    import pandas as pd

    summaries = []
    for video, output in results:
        path = measure_files(output)["summary"]
        if not path.is_file():
            continue
        try:
            rows = pd.read_csv(path)
        except OSError as error:
            raise ResultError(
                f"{path} cannot be read ({reason_of(error)}): measure {video} again."
            ) from error
        except ValueError:
            raise ResultError(
                f"{path} is not a table of measures: remove it and start the batch again."
            ) from None
        summaries.append(pd.concat([pd.DataFrame({"video": [video] * len(rows)}), rows], axis=1))
    table = pd.concat(summaries, ignore_index=True) if summaries else pd.DataFrame({"video": []})
    write_table(folder / MEASURES_TABLE, table)
