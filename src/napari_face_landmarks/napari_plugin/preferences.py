"""Defaults of new docks, stored in napari's Preferences if it supports plugin settings, else in a file."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from napari_face_landmarks.errors import FaceLandmarksError, SettingsError, in_one_line
from napari_face_landmarks.files.json_file import read_json, write_json
from napari_face_landmarks.models import DEFAULT_BUNDLE
from napari_face_landmarks.settings import DEFAULT_PRESET, PRESETS

PLUGIN = "napari-face-landmarks"
FILE = f"{PLUGIN}.json"
CHECKPOINTS = "napari-face-landmarks-runs"
"""Name of the folder of checkpoints."""
MAX_FILE_SIZE = 1 << 16  # bytes
LEFT_ALONE = "the file is ignored and not changed"
MAX_TEXT_LENGTH = 4096
SEPARATOR = ";"
"""Separates the folders of models: napari's Preferences do not support lists."""
LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Preferences:
    """Defaults of newly opened docks."""

    preset: str = DEFAULT_PRESET  # name in `settings.PRESETS`
    models: str = DEFAULT_BUNDLE  # argument of `load_models`
    model_folders: str = ""  # the user's folders of models, separated by semicolons
    follow: bool = True  # whether the viewer shows the newest frame of a run

    def folders(self) -> list[str]:
        """Return the user's folders of models without duplicates."""
        return list(dict.fromkeys(text for text in self.model_folders.split(SEPARATOR) if text.strip()))

    def with_folder(self, folder: str) -> Preferences:
        """Return a copy with `folder` added to the folders of models."""
        return replace(self, model_folders=SEPARATOR.join(dict.fromkeys([*self.folders(), folder])))


def read_preferences() -> Preferences:
    """Return the user's preferences, with defaults for missing and invalid values. Never raises."""
    section = _napari_section()
    if section is not None:
        return _checked({item.name: getattr(section, item.name, None) for item in fields(Preferences)})
    path = preferences_file()
    try:
        if path is None or not path.is_file():
            return Preferences()
        return _checked(dict(read_json(path, "preferences", MAX_FILE_SIZE, SettingsError, LEFT_ALONE)))
    except (OSError, ValueError, TypeError) as error:
        LOG.warning("The preferences could not be read: %s", error)
        return Preferences()


def write_preferences(preferences: Preferences) -> None:
    """Save the user's preferences; a failure is logged. Never raises."""
    section = _napari_section()
    try:
        if section is not None:
            for name, value in asdict(preferences).items():
                setattr(section, name, value)  # napari writes its file itself
            return
        path = preferences_file()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, preferences)
    except (OSError, ValueError, FaceLandmarksError) as error:
        LOG.warning("The preferences could not be saved: %s.", in_one_line(error))


def preferences_file() -> Path | None:
    """Return the preferences file used with older versions of napari; None if napari has no settings file."""
    return _next_to_settings(FILE)


def folder_of_checkpoints() -> Path | None:
    """Return the folder of the dock's checkpoints; None if napari has no settings file."""
    return _next_to_settings(CHECKPOINTS)


def _next_to_settings(name: str) -> Path | None:
    """Return the path of a file or folder next to napari's settings file; None if there is none."""
    from napari.settings import get_settings

    path = get_settings().config_path
    return None if path is None else Path(path).parent / name


def _napari_section() -> Any:
    """Return the plugin's section of napari's settings; None if napari does not support plugin settings."""
    try:
        from napari.settings import get_plugin_settings
    except ImportError:  # before napari 0.9
        return None
    try:
        return get_plugin_settings(PLUGIN).start
    except (KeyError, AttributeError):  # an npe2 version that ignores `configurations`
        return None


def _checked(values: dict[str, Any]) -> Preferences:
    """Return preferences from untrusted values; values of a wrong type or unknown presets are defaults."""
    valid: dict[str, Any] = {}
    for item in fields(Preferences):
        value = values.get(item.name)
        fits = type(value) is type(item.default) and (
            not isinstance(value, str) or (len(value) <= MAX_TEXT_LENGTH and value.isprintable())
        )
        if fits and (item.name != "preset" or value in [preset.name for preset in PRESETS]):
            valid[item.name] = value
    return Preferences(**valid)
