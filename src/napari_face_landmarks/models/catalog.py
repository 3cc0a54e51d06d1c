"""What models are before they are loaded: their name, their licence, and what they can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from napari_face_landmarks.models.bundle import CARD, bundle_folder, check_name, list_models, load_card
from napari_face_landmarks.models.custom_pfld import DESCRIPTION
from napari_face_landmarks.models.external import OWN_LICENCE
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
    """What is known of models without loading them.

    Attributes
    ----------
    key : str
        What `load_models` takes: a name or a folder.
    title : str
        A short name.
    version : str
        As the card gives it, or OpenFace's; "own" for a network of the user's own.
    licence : str
        In a few words.
    terms : str
        The licence in full sentences; empty where there is none.
    notice : str
        What who uses them must know; empty where they are for every use.
    refine : tuple of str
        The values of the setting `refine` that they serve.
    """

    key: str
    title: str
    version: str
    licence: str
    terms: str
    notice: str
    refine: tuple[RefineMode, ...]


def known_models() -> list[ModelsInfo]:
    """Return what is known of the bundles, the default one first, and of OpenFace's models where it is."""
    names = list_models() + (["openface"] if openface_folder() is not None else [])
    return [describe_models(name) for name in names]


def describe_models(name_or_folder: str | Path) -> ModelsInfo:
    """Return what is known of models without loading them.

    Parameters
    ----------
    name_or_folder : str or Path
        As for `load_models`.

    Raises
    ------
    ModelError
        If there are no such models; that a file is damaged is only found when they are loaded.
    """
    check_name(name_or_folder)
    key, folder = str(name_or_folder), Path(name_or_folder)
    if key in NAMES and not folder.is_dir():
        find_openface()
        return _openface(key, "OpenFace" + key.removeprefix("openface").replace("-", ", ").upper())
    bundled = key in list_models() or (folder / CARD).exists()
    own = not bundled and (folder / DESCRIPTION).is_file()
    if own:
        licence = OWN_LICENCE
        modes: tuple[RefineMode, ...] = ("off", "always", "clnf-only")
        if openface_root(folder) is not None:
            licence = f"{licence}; {LICENCE}"
        return ModelsInfo(key, folder.name, "own", licence, "", licence, modes)
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
