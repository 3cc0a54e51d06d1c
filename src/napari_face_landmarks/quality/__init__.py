"""Quality control: statistics of a run over time, and the frames that should be checked."""

from napari_face_landmarks.quality.limits import Limits
from napari_face_landmarks.quality.report import (
    Check,
    check,
    check_series,
    suspects_to_dataframe,
    write_series,
    write_suspects,
)
from napari_face_landmarks.quality.series import Series, join_series, series_of, series_to_dataframe
from napari_face_landmarks.quality.statistics import FaceStatistics, Statistics, in_words, statistics_of
from napari_face_landmarks.quality.suspects import REASONS, Suspect, find_suspects

__all__ = [
    "REASONS",
    "Check",
    "FaceStatistics",
    "Limits",
    "Series",
    "Statistics",
    "Suspect",
    "check",
    "check_series",
    "find_suspects",
    "in_words",
    "join_series",
    "series_of",
    "series_to_dataframe",
    "statistics_of",
    "suspects_to_dataframe",
    "write_series",
    "write_suspects",
]
