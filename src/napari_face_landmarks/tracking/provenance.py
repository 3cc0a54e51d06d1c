"""What a result was made with, so that it can be reproduced."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from napari_face_landmarks.clnf.onnx_experts import OnnxExperts
from napari_face_landmarks.models import Models
from napari_face_landmarks.versions import PACKAGE, library_versions

_installed = lru_cache(library_versions)


def provenance(models: Models) -> dict[str, Any]:
    """Return what `Tracks.meta` records of a run besides its settings and its video.

    Parameters
    ----------
    models : Models

    Returns
    -------
    dict
        ``version`` of this package; ``models`` and ``models_version``, the bundle; ``models_sha256`` of each
        of its files; ``experts``, where ONNX Runtime evaluates them; ``libraries``, their versions, Python's
        and the kind of machine.
    """
    experts = {}
    if isinstance(models.experts, OnnxExperts):
        experts["experts"] = f"ONNX Runtime: {', '.join(models.experts.session.get_providers())}"
    machine = f"{platform.system()} {platform.machine()}"
    return {
        "version": _installed((PACKAGE,))[PACKAGE],
        "models": models.name,
        "models_version": models.version,
        "models_sha256": models_sha256(models.card),
        **experts,
        "libraries": {"python": platform.python_version(), "machine": machine, **_installed()},
    }


def models_sha256(card: Mapping[str, Any]) -> dict[str, str]:
    """Return the sha256 of each file of a bundle, which were checked when it was loaded."""
    files = card.get("files", {})
    return {str(name): str(entry["sha256"]) for name, entry in sorted(files.items())}
