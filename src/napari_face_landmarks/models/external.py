"""Models of other origin: OpenFace's, and landmark networks of the user's own, completed from the bundle."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from napari_face_landmarks.clnf.parameters import OPENFACE_CCNF, OPENFACE_CEN
from napari_face_landmarks.errors import SettingsError
from napari_face_landmarks.models.bundle import CARD, Models, file_entry, list_models, load_bundle
from napari_face_landmarks.models.custom_pfld import DESCRIPTION, load_own_pfld, own_files
from napari_face_landmarks.models.openface import (
    LICENCE,
    NAMES,
    VERSION,
    find_openface,
    load_openface,
    openface_files,
    openface_root,
)
from napari_face_landmarks.pfld.custom import OwnPfld
from napari_face_landmarks.settings import TrackerSettings

OWN_LICENCE = "the user's own landmark network, under the licence that it came with"

_log = logging.getLogger("napari_face_landmarks")


def load_external(name_or_folder: str | Path) -> Models | None:
    """Load models that are no bundle, and name their licence in the log; None where it is a bundle.

    What a folder has not (the detector, always; PDM and patch experts beside a ``pfld.json``) comes from the
    default bundle.

    Parameters
    ----------
    name_or_folder : str or Path
        See `load_models`.

    Raises
    ------
    ModelError
        If OpenFace's models were asked for and are nowhere, or a file cannot be used.
    """
    name = str(name_or_folder)
    folder = Path(name_or_folder)
    if name in list_models() or os.path.exists(folder / CARD):
        return None
    kind = ""
    if name in NAMES and not os.path.isdir(folder):
        folder, kind = find_openface(), NAMES[name]
    root = openface_root(folder)
    own = os.path.isfile(folder / DESCRIPTION)
    if root is None and not own:
        return None
    bundle = load_bundle()
    models = replace(bundle, name=name if name in NAMES else folder.name, folder=folder)
    licences: list[str] = []
    taken = set(bundle.card["files"])
    files: dict[str, Any] = {}
    if root is not None:
        pdm, experts = load_openface(root, kind)
        constants = OPENFACE_CEN if experts.kind == "CEN" else OPENFACE_CCNF
        models = replace(
            models, pfld=None, pdm=pdm, experts=experts, constants=constants, constants_alone=constants
        )
        licences.append(LICENCE)
        taken -= {"pdm.npz", "cen.npz"} | (set() if own else {"pfld.onnx"})
        files |= {file.as_posix(): file_entry(root / file) for file in openface_files(experts.kind.lower())}
    if own:
        models = replace(models, pfld=load_own_pfld(folder, cast(Any, bundle.pfld)))
        licences.append(OWN_LICENCE)
        files |= {file: file_entry(folder / file) for file in own_files(folder)}
    licences.append(f"the rest is of the bundle {bundle.name} ({bundle.licence})")
    files |= {f"{bundle.name}/{name}": bundle.card["files"][name] for name in taken}
    card = {
        "name": models.name,
        "version": VERSION if root is not None else "own",
        "licence": "; ".join(licences),
        "files": files,
    }
    _log.warning("The models in %s are not the plugin's; their licence: %s.", folder, card["licence"])
    return replace(models, card=card)


def check_mode(models: Models, settings: TrackerSettings) -> None:
    """Refuse a way of refining that models cannot serve.

    Raises
    ------
    SettingsError
        If there is no PFLD, or one that says nothing of how sure it is, and the settings need it.
    """
    if settings.refine == "clnf-only":
        return
    if models.pfld is None:
        raise SettingsError(
            f"The models {models.name} have no PFLD, so refine cannot be {settings.refine}: choose clnf-only."
        )
    if isinstance(models.pfld, OwnPfld) and settings.refine == "auto":
        raise SettingsError(
            f"The PFLD of the models {models.name} does not say how sure it is, so refine cannot be auto: "
            "choose off, always or clnf-only."
        )
