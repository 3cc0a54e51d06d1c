"""Models for the panels: loaded once, and for landmarks the models that they were tracked with; no Qt."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.models import DEFAULT_BUNDLE, Models, load_models
from napari_face_landmarks.models.catalog import known_models
from napari_face_landmarks.napari_plugin.preferences import read_preferences

MODELS_KEPT = 4


@lru_cache(maxsize=MODELS_KEPT)
def load_cached(name_or_folder: str) -> Models:
    """Return models as `load_models` does; those that were loaded last stay loaded."""
    return load_models(name_or_folder)


def models_of_tracks(tracks: Tracks) -> Models:
    """Return the models that landmarks were tracked with, the default ones where that is not known.

    Parameters
    ----------
    tracks : Tracks
        Their ``meta["models"]`` is the name of a bundle, of OpenFace's models or of a folder.

    Raises
    ------
    ModelError
        If the models are not installed, and in none of the folders that the user has chosen.
    """
    name = str(tracks.meta.get("models", DEFAULT_BUNDLE))
    known = [info.key for info in known_models()]
    if name in known:
        return load_cached(name)
    for folder in read_preferences().folders():
        if Path(folder).name == name and Path(folder).is_dir():
            return load_cached(folder)
    raise ModelError(
        f"The landmarks were tracked with the models {name!r}, which are not installed here: choose their "
        "folder as models in the panel Track, then refit."
    )
