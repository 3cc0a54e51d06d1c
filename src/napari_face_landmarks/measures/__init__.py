"""Measures of a face from its landmarks: lengths, angles, areas, blinks, movements, asymmetry.

>>> from napari_face_landmarks.measures import blinks, measure, summary
>>> table = measure(tracks, scale="36-45=90mm")  # doctest: +SKIP
>>> table.series("mouth_opening")  # doctest: +SKIP
"""

from napari_face_landmarks.measures.definitions import MEASURES, PAIRS, Measure, measure_named, values_of
from napari_face_landmarks.measures.events import Blink, Event, blinks, closures, movements
from napari_face_landmarks.measures.reference_frame import FaceAxes, face_axes
from napari_face_landmarks.measures.scale import Scale, parse_scale
from napari_face_landmarks.measures.summary import compare, summary
from napari_face_landmarks.measures.table import Column, MeasureTable, measure

__all__ = [
    "MEASURES",
    "PAIRS",
    "Blink",
    "Column",
    "Event",
    "FaceAxes",
    "Measure",
    "MeasureTable",
    "Scale",
    "blinks",
    "closures",
    "compare",
    "face_axes",
    "measure",
    "measure_named",
    "movements",
    "parse_scale",
    "summary",
    "values_of",
]
