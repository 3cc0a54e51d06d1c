"""External models: OpenFace's models and custom landmark networks, completed from the default bundle."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from napari_face_landmarks.clnf.parameters import OPENFACE_CCNF, OPENFACE_CEN
from napari_face_landmarks.errors import SettingsError
from napari_face_landmarks.models import openface
from napari_face_landmarks.models.bundle import CARD, Models, file_entry, list_models, load_bundle
from napari_face_landmarks.models.custom_pfld import DESCRIPTION, custom_files, load_custom_pfld
from napari_face_landmarks.pfld.custom import CustomPfld
from napari_face_landmarks.settings import TrackerSettings

CUSTOM_LICENCE = "a custom landmark network with its own licence"

_log = logging.getLogger("napari_face_landmarks")


def load_external(name_or_folder: str | Path) -> Models | None:
    """Load external models, named as for `load_models`, and log their licence; return None for a bundle.

    Models that are missing in the folder are from_bundle from the default bundle.
    """
    name = str(name_or_folder)
    folder = Path(name_or_folder)
    if name in list_models() or os.path.exists(folder / CARD):
        return None
    kind = ""
    if name in openface.NAMES and not os.path.isdir(folder):
        folder, kind = openface.find_openface(), openface.NAMES[name]
    root = openface.openface_root(folder)
    custom = os.path.isfile(folder / DESCRIPTION)
    if root is None and not custom:
        return None
    bundle = load_bundle()
    models = replace(bundle, name=name if name in openface.NAMES else folder.name, folder=folder)
    licences: list[str] = []
    from_bundle = set(bundle.card["files"])
    files: dict[str, Any] = {}
    if root is not None:
        pdm, experts = openface.load_openface(root, kind)
        constants = OPENFACE_CEN if experts.kind == "CEN" else OPENFACE_CCNF
        models = replace(
            models, pfld=None, pdm=pdm, experts=experts, constants=constants, clnf_only_constants=constants
        )
        licences.append(openface.LICENCE)
        from_bundle -= {"pdm.npz", "cen.npz"} | (set() if custom else {"pfld.onnx"})
        files |= {
            file.as_posix(): file_entry(root / file) for file in openface.openface_files(experts.kind.lower())
        }
    if custom:
        models = replace(models, pfld=load_custom_pfld(folder, cast(Any, bundle.pfld)))
        licences.append(CUSTOM_LICENCE)
        files |= {file: file_entry(folder / file) for file in custom_files(folder)}
    licences.append(f"the rest from the bundle {bundle.name} ({bundle.licence})")
    files |= {f"{bundle.name}/{name}": bundle.card["files"][name] for name in from_bundle}
    card = {
        "name": models.name,
        "version": openface.VERSION if root is not None else "custom",
        "licence": "; ".join(licences),
        "files": files,
    }
    _log.warning("The models in %s are not part of this package; their licence: %s.", folder, card["licence"])
    return replace(models, card=card)


def check_mode(models: Models, settings: TrackerSettings) -> None:
    """Raise a `SettingsError` if models do not support the selected refine mode."""
    if settings.refine == "clnf-only":
        return
    if models.pfld is None:
        raise SettingsError(
            f"The models {models.name} have no PFLD, so refine cannot be {settings.refine}: choose clnf-only."
        )
    if isinstance(models.pfld, CustomPfld) and settings.refine == "auto":
        raise SettingsError(
            f"The landmark network of the models {models.name} does not estimate its confidence, so refine "
            "cannot be auto: choose off, always or clnf-only."
        )
