"""Where the dock's runs are written down as they go, so that one that was interrupted can go on."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.video import Video

if TYPE_CHECKING:
    from napari_face_landmarks.runs.checkpoint import CheckpointedRun
    from napari_face_landmarks.tracking import FaceTracker, Regions

FOLDER = "napari-face-landmarks-runs"
KEEP_DAYS = 30
"""A journal that nobody has gone on with for so long is removed."""
LOG = logging.getLogger(__name__)


def folder_of_journals() -> Path | None:
    """Return the folder of journals, beside napari's own settings; None where napari keeps none."""
    from napari.settings import get_settings

    path = get_settings().config_path
    return None if path is None else Path(path).parent / FOLDER


def begin_recording(
    tracker: FaceTracker,
    frames: Any,
    start: int,
    stop: int,
    resume: bool,
    regions: Regions,
    folder: Path | None,
) -> CheckpointedRun | None:
    """Open the journal of a run, with what an interrupted run over the same has finished if that is wanted.

    Parameters
    ----------
    tracker : FaceTracker
    frames : Video or array-like
        Only the run over a video file can be told again.
    start, stop : int
        The frames to track.
    resume : bool
        Whether to go on with an interrupted run over the same frames with the same settings and models.
    regions : Regions
        The boxes that the user drew; a run with others is another one.
    folder : Path or None
        Where journals are kept.

    Returns
    -------
    CheckpointedRun or None
        None where the run is not written down: not a video file, no folder, no room, or another window is
        at it.
    """
    if folder is None or not isinstance(frames, Video):
        return None
    from napari_face_landmarks.runs.checkpoint import CheckpointedRun, run_identity

    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_old(folder)
        text = json.dumps(run_identity(tracker, frames, start, stop, regions), sort_keys=True)
        path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.journal"
        return CheckpointedRun.begin(
            tracker, frames, path, resume=resume, or_restart=True, start=start, stop=stop, regions=regions
        )
    except (FaceLandmarksError, OSError) as error:
        LOG.warning("The run is not written down: %s", error)
        return None


def _remove_old(folder: Path) -> None:
    for path in folder.glob("*.journal"):
        if time.time() - path.stat().st_mtime > KEEP_DAYS * 86400:
            path.unlink(missing_ok=True)
