"""Description of models without loading them: name, licence, refine modes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from napari_face_landmarks.models.bundle import CARD, bundle_folder, check_name, list_models, load_card
from napari_face_landmarks.models.custom_pfld import DESCRIPTION
from napari_face_landmarks.models.external import CUSTOM_LICENCE
from napari_face_landmarks.models.openface import (
    LICENCE,
    NAMES,
    VERSION,
    find_openface,
    openface_folder,
    openface_root,
)
from napari_face_landmarks.settings import REFINE_MODES, RefineMode


@dataclass(frozen=True, slots=True)
class ModelsInfo:
    """Properties of models that are known without loading them."""

    key: str  # name or folder for `load_models`
    title: str  # a short name
    version: str  # from the card; OpenFace's version; or "custom" for a custom landmark network
    licence: str  # a short name of the licence
    terms: str  # the terms of the licence in full sentences, if known
    notice: str  # restrictions of use; empty if there are none
    refine: tuple[RefineMode, ...]  # the supported values of the setting `refine`


def known_models() -> list[ModelsInfo]:
    """Describe all bundles, the default first, and OpenFace's models if they are installed."""
    names = list_models() + (["openface"] if openface_folder() is not None else [])
    return [describe_models(name) for name in names]


def describe_models(name_or_folder: str | Path) -> ModelsInfo:
    """Describe models without loading them.

    Parameters
    ----------
    name_or_folder : str or Path
        See `load_models`.

    Raises
    ------
    ModelError
        If there are no such models. Damaged files are detected only when the models are loaded.
    """
    check_name(name_or_folder)
    key, folder = str(name_or_folder), Path(name_or_folder)
    if key in NAMES and not folder.is_dir():
        find_openface()
        return _openface(key, "OpenFace" + key.removeprefix("openface").replace("-", ", ").upper())
    bundled = key in list_models() or (folder / CARD).exists()
    custom = not bundled and (folder / DESCRIPTION).is_file()
    if custom:
        licence = CUSTOM_LICENCE
        modes: tuple[RefineMode, ...] = ("off", "always", "clnf-only")
        if openface_root(folder) is not None:
            licence = f"{licence}; {LICENCE}"
        return ModelsInfo(key, folder.name, "custom", licence, "", licence, modes)
    if not bundled and openface_root(folder) is not None:
        return _openface(key, folder.name)
    card = load_card(bundle_folder(name_or_folder))
    return ModelsInfo(
        key,
        str(card["name"]),
        str(card["version"]),
        str(card["licence"]),
        str(card.get("terms", "")),
        str(card.get("notice", "")),
        REFINE_MODES,
    )


def _openface(key: str, title: str) -> ModelsInfo:
    return ModelsInfo(key, title, VERSION, LICENCE, "", f"OpenFace's models: {LICENCE}.", ("clnf-only",))
