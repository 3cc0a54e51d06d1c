"""Quality check of a run: time series, frames to check, statistics, and their files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.files.json_file import write_json
from napari_face_landmarks.files.paths import checked_suffix
from napari_face_landmarks.quality.limits import Limits
from napari_face_landmarks.quality.series import Series, series_of, series_to_dataframe
from napari_face_landmarks.quality.statistics import Statistics, in_words, statistics_of
from napari_face_landmarks.quality.suspects import Suspect, find_suspects

if TYPE_CHECKING:
    import pandas

    from napari_face_landmarks.data.tracks import Tracks

SUFFIXES = (".csv", ".json")


@dataclass(frozen=True)
class Check:
    """Result of a quality check.

    Attributes
    ----------
    series : Series
        Time series.
    suspects : tuple of Suspect
        Sequences of frames to check, the worst first.
    statistics : Statistics
    """

    series: Series
    suspects: tuple[Suspect, ...]
    statistics: Statistics

    @property
    def words(self) -> list[str]:
        """The statistics as sentences."""
        return in_words(self.statistics)


def check(tracks: Tracks, limits: Limits | None = None) -> Check:
    """Find the frames of a run that should be checked, and compute its statistics.

    Parameters
    ----------
    tracks : Tracks
        Landmarks (T, F, 68, 2).
    limits : Limits, optional
        Limits beyond which a frame is suspicious. Default: `Limits()`.

    Examples
    --------
    >>> result = check(Tracks.load("talk.npz"))  # doctest: +SKIP
    >>> print(*result.words)  # doctest: +SKIP
    >>> [(item.frame, item.text) for item in result.suspects[:10]]  # doctest: +SKIP
    """
    return check_series(series_of(tracks), limits)


def check_series(series: Series, limits: Limits | None = None) -> Check:
    """Run `check` on existing series, for example of an unfinished run."""
    limits = limits or Limits()
    suspects = find_suspects(series, limits)
    return Check(series, tuple(suspects), statistics_of(series, suspects, limits))


def suspects_to_dataframe(result: Check) -> pandas.DataFrame:
    """Return a table with one row per suspect: rank from 1, and the attributes of `Suspect`."""
    import pandas as pd

    rows = [
        {"rank": rank, **dataclasses.asdict(item), "reasons": "; ".join(item.reasons)}
        for rank, item in enumerate(result.suspects, start=1)
    ]
    names = ["rank", *(item.name for item in dataclasses.fields(Suspect))]
    return pd.DataFrame(rows, columns=names)


def write_suspects(path: str | Path, result: Check) -> None:
    """Write the suspects as a table (``.csv``), or with the statistics (``.json``).

    Raises
    ------
    ResultError
        If the file has another suffix or cannot be written.
    """
    path = checked_suffix(path, SUFFIXES)
    if path.suffix.lower() == ".json":
        statistics, words, suspects = result.statistics, result.words, result.suspects
        write_json(path, {"statistics": statistics, "words": words, "suspects": suspects})
        return
    with replacing(path) as temporary:
        suspects_to_dataframe(result).to_csv(temporary, index=False, lineterminator="\n")


def write_series(path: str | Path, series: Series) -> None:
    """Write `series_to_dataframe` as a table (``.csv``).

    Raises
    ------
    ResultError
        If the file has another suffix or cannot be written.
    """
    path = checked_suffix(path, (".csv",))
    with replacing(path) as temporary:
        series_to_dataframe(series).to_csv(temporary, index=False, lineterminator="\n")
