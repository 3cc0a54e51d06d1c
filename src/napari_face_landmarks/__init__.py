"""68 face landmarks on video: PFLD with CLNF refinement, for napari and for scripts.

>>> from napari_face_landmarks import FaceTracker
>>> tracks = FaceTracker().track("interview.mp4")  # doctest: +SKIP
>>> tracks.landmarks.shape  # frames, faces, landmarks, x and y in pixels  # doctest: +SKIP
(250, 1, 68, 2)
>>> tracks.save("interview.csv")  # doctest: +SKIP

`FaceTracker` tracks a video or an array, `track_many` many videos, `track_layer` a napari layer. The result,
`Tracks`, can be saved, loaded and converted to tables. It is the input of the subpackages `measures`
(lengths, blinks, asymmetry), `quality` (frames to check), `correction` (refit, propagate) and
`visualization`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from napari_face_landmarks.settings import TrackerSettings

if TYPE_CHECKING:
    from napari_face_landmarks.models import Models, list_models, load_models
    from napari_face_landmarks.models.catalog import describe_models
    from napari_face_landmarks.napari_plugin.points_layer import track_layer, tracks_of_layer
    from napari_face_landmarks.runs import track_many
    from napari_face_landmarks.tracking import FaceFit, FaceTracker, Tracks
    from napari_face_landmarks.versions import __version__ as __version__
    from napari_face_landmarks.versions import about

_MODULES = {
    "__version__": "versions",
    "FaceFit": "tracking",
    "FaceTracker": "tracking",
    "Models": "models",
    "Tracks": "data.tracks",
    "about": "versions",
    "describe_models": "models.catalog",
    "list_models": "models",
    "load_models": "models",
    "track_layer": "napari_plugin.points_layer",
    "track_many": "runs",
    "tracks_of_layer": "napari_plugin.points_layer",
}

__all__ = [
    "FaceFit",
    "FaceTracker",
    "Models",
    "TrackerSettings",
    "Tracks",
    "about",
    "describe_models",
    "list_models",
    "load_models",
    "track_layer",
    "track_many",
    "tracks_of_layer",
]


def __dir__() -> list[str]:
    """List all public names, imported or not, for completion and `help`."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import a public name on first access, to keep napari's start fast."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
