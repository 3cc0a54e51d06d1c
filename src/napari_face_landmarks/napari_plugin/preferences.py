"""What the user wants at the start: in napari's own Preferences where it has a place for it, else a file."""

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
"""The folder of checkpoint files of runs."""
LARGEST_FILE = 1 << 16
LEFT_ALONE = "it is left alone and not used"
LONGEST_TEXT = 4096
SEPARATOR = ";"
"""Between the folders of models in napari's Preferences, which has no lists."""
LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a newly opened dock begins with."""

    preset: str = DEFAULT_PRESET  # of `settings.PRESETS`
    models: str = DEFAULT_BUNDLE  # as for `load_models`
    model_folders: str = ""  # the user's own, which the dock offers; separated by semicolons
    follow: bool = True  # whether the viewer shows the newest frame of a run

    def folders(self) -> list[str]:
        """Return the user's own folders of models, each once."""
        return list(dict.fromkeys(text for text in self.model_folders.split(SEPARATOR) if text.strip()))

    def with_folder(self, folder: str) -> Preferences:
        """Return the same with one more folder of models."""
        return replace(self, model_folders=SEPARATOR.join(dict.fromkeys([*self.folders(), folder])))


def read_preferences() -> Preferences:
    """Return the user's preferences; what is missing or of no use is as at the beginning. Never raises."""
    section = _napari_section()
    if section is not None:
        return _checked({item.name: getattr(section, item.name, None) for item in fields(Preferences)})
    path = preferences_file()
    try:
        if path is None or not path.is_file():
            return Preferences()
        return _checked(dict(read_json(path, "preferences", LARGEST_FILE, SettingsError, LEFT_ALONE)))
    except (OSError, ValueError, TypeError) as error:
        LOG.warning("The preferences are not read: %s", error)
        return Preferences()


def write_preferences(preferences: Preferences) -> None:
    """Keep the user's preferences for the next time; where that fails it is logged. Never raises."""
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
        LOG.warning("The preferences are not kept: %s.", in_one_line(error))


def preferences_file() -> Path | None:
    """Return the file that older versions of napari need; None without a place for it."""
    return _next_to_settings(FILE)


def folder_of_checkpoints() -> Path | None:
    """Return the folder of the dock's checkpoint files; None without a place for it."""
    return _next_to_settings(CHECKPOINTS)


def _next_to_settings(name: str) -> Path | None:
    """Return the path of a file or folder next to napari's own settings; None where these have no file."""
    from napari.settings import get_settings

    path = get_settings().config_path
    return None if path is None else Path(path).parent / name


def _napari_section() -> Any:
    """Return our part of napari's settings, or None where napari knows no settings of plugins."""
    try:
        from napari.settings import get_plugin_settings
    except ImportError:  # before napari 0.9
        return None
    try:
        return get_plugin_settings(PLUGIN).start
    except (KeyError, AttributeError):  # an npe2 that does not read them
        return None


def _checked(values: dict[str, Any]) -> Preferences:
    """Return preferences of what was read, each value of its type and known, or as at the beginning."""
    good: dict[str, Any] = {}
    for item in fields(Preferences):
        value = values.get(item.name)
        fits = type(value) is type(item.default) and (
            not isinstance(value, str) or (len(value) <= LONGEST_TEXT and value.isprintable())
        )
        if fits and (item.name != "preset" or value in [preset.name for preset in PRESETS]):
            good[item.name] = value
    return Preferences(**good)
