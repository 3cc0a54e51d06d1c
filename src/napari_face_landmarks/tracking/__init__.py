"""Faces followed through a video: found, lost and found again, smoothed, each with its identity."""

from napari_face_landmarks.data.tracks import SOURCES, FaceFit, FrameResult, RunStats, Tracks, collect
from napari_face_landmarks.tracking.regions import Region, Regions, read_regions, regions_from_dict
from napari_face_landmarks.tracking.tracker import FaceTracker

__all__ = [
    "SOURCES",
    "FaceFit",
    "FaceTracker",
    "FrameResult",
    "Region",
    "Regions",
    "RunStats",
    "Tracks",
    "collect",
    "read_regions",
    "regions_from_dict",
]
