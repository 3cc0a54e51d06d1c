"""Provenance of a result: code, models and library versions."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from napari_face_landmarks.clnf.onnx_experts import OnnxExperts
from napari_face_landmarks.data.names import MODELS
from napari_face_landmarks.models import Models
from napari_face_landmarks.versions import __version__, library_versions

COMPUTING = ("video", "detection", "pfld", "parts", "clnf", "tracking", "ibug.py", "jit.py")
"""Packages and modules whose code determines the landmarks."""
_installed = lru_cache(library_versions)


def provenance(models: Models) -> dict[str, Any]:
    """Return the entries of `Tracks.meta` about code, models and libraries, with SHA-256 hashes."""
    experts = {}
    if isinstance(models.experts, OnnxExperts):
        experts["experts"] = f"ONNX Runtime: {', '.join(models.experts.session.get_providers())}"
    machine = f"{platform.system()} {platform.machine()}"
    return {
        "version": __version__,
        "code_sha256": _installed_fingerprint(),
        MODELS: models.name,
        "models_version": models.version,
        "models_sha256": models_sha256(models.card),
        **experts,
        "libraries": {"python": platform.python_version(), "machine": machine, **_installed()},
    }


def code_fingerprint(folder: Path = Path(__file__).parents[1]) -> str:
    """Return the SHA-256 of the source code that computes landmarks: file names and text of `COMPUTING`."""
    digest = hashlib.sha256()
    for name in COMPUTING:
        path = folder / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            text = b"\n".join(file.read_bytes().splitlines())
            digest.update(f"{file.relative_to(folder).as_posix()} {len(text)}\n".encode() + text)
    return digest.hexdigest()


_installed_fingerprint = lru_cache(code_fingerprint)


def models_sha256(card: Mapping[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each file of a bundle from its card, verified when the bundle was loaded."""
    files = card.get("files", {})
    return {str(name): str(entry["sha256"]) for name, entry in sorted(files.items())}
