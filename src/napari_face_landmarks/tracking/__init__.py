"""Face tracking in videos: detection, association, refinement and smoothing."""

from napari_face_landmarks.data.fields import SOURCES
from napari_face_landmarks.data.frame import FaceFit, FrameResult
from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.data.tracks import Tracks, collect
from napari_face_landmarks.tracking.regions import Region, Regions, read_regions, regions_from_dict
from napari_face_landmarks.tracking.run import Run
from napari_face_landmarks.tracking.tracker import FaceTracker

__all__ = [
    "SOURCES",
    "FaceFit",
    "FaceTracker",
    "FrameResult",
    "Region",
    "Regions",
    "Run",
    "RunStats",
    "Tracks",
    "collect",
    "read_regions",
    "regions_from_dict",
]
