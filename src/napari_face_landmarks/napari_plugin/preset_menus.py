"""The dock's lists of presets and of models: what is chosen there, what follows from it, what is offered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from magicgui.widgets import ComboBox, Label

from napari_face_landmarks.errors import FaceLandmarksError, SettingsError
from napari_face_landmarks.models import DEFAULT_BUNDLE
from napari_face_landmarks.models.catalog import ModelsInfo, describe_models, known_models
from napari_face_landmarks.napari_plugin.preferences import read_preferences, write_preferences
from napari_face_landmarks.settings import PRESETS, TrackerSettings, preset_named, preset_of

CUSTOM = "custom"
CUSTOM_HELP = "Settings of your own; choose a preset to have its settings."
CHOOSE = "choose"
CHOOSE_TITLE = "Choose a folder …"
MODELS_HELP = (
    "The models to track with, and their licence: the plugin's bundles, OpenFace's models where they are "
    "installed, or a folder with a bundle, OpenFace's files or a pfld.json. A PFLD takes about 3 ms a face, "
    "OpenFace's models 4 to 20 ms."
)


def preset_control(settings_controls: Mapping[str, Any]) -> ComboBox:
    """Return the list of presets, tied to the controls of the settings both ways.

    Parameters
    ----------
    settings_controls : mapping of str to magicgui widget
        The control of each setting.
    """
    choices = [*((item.title, item.name) for item in PRESETS), ("Custom", CUSTOM)]
    control = ComboBox(label="Preset", choices=choices)
    applying = [False]

    def show() -> None:
        if applying[0]:
            return
        try:
            values = {name: each.value for name, each in settings_controls.items()}
            preset = preset_of(TrackerSettings(**values))
        except SettingsError:
            preset = None
        applying[0] = True
        control.value = CUSTOM if preset is None else preset.name
        applying[0] = False
        control.tooltip = CUSTOM_HELP if preset is None else preset.help

    def apply() -> None:
        if applying[0] or control.value == CUSTOM:
            show()
            return
        settings = preset_named(control.value).settings
        applying[0] = True
        for name, each in settings_controls.items():
            each.value = getattr(settings, name)
        applying[0] = False
        show()

    control.changed.connect(apply)
    for each in settings_controls.values():
        each.changed.connect(show)
    show()
    return control


class ModelChooser:
    """The list of models with their licences; its last line asks for a folder.

    Parameters
    ----------
    tell : callable
        Called with sentences for the user.
    on_models : callable
        Called with what is known of the models that were chosen.

    Attributes
    ----------
    control : ComboBox
        Its value is what `load_models` takes.
    licence : Label
        The licence of the models that are chosen.
    info : ModelsInfo
        What is known of these.
    """

    def __init__(self, tell: Callable[[str], None], on_models: Callable[[ModelsInfo], None]) -> None:
        self._tell, self._on_models = tell, on_models
        self._folders = [folder for folder in read_preferences().folders() if Path(folder).is_dir()]
        self._before = DEFAULT_BUNDLE
        self.info = describe_models(DEFAULT_BUNDLE)
        self.control = ComboBox(label="Models", choices=self._choices, tooltip=MODELS_HELP)
        self.licence = Label(label="Licence")
        self.control.changed.connect(self._on_changed)
        self._on_changed()

    def offer(self, name_or_folder: str) -> bool:
        """Choose models, having put them into the list; return whether there are such models."""
        if name_or_folder not in self.control.choices:
            try:
                describe_models(name_or_folder)
            except FaceLandmarksError as error:
                self._tell(str(error))
                return False
            self._folders.append(name_or_folder)
            self.control.reset_choices()
        self.control.value = name_or_folder
        return True

    def ask_for_folder(self) -> None:
        """Show a dialog for a folder of models, choose them and keep the folder for the next time."""
        from qtpy.QtWidgets import QFileDialog

        folder = QFileDialog.getExistingDirectory(self.control.native, "Choose a folder of models")
        self.control.value = self._before
        if folder and self.offer(folder):
            write_preferences(read_preferences().with_folder(folder))

    def _choices(self, _: Any = None) -> list[tuple[str, str]]:
        known = [*known_models()]
        for folder in self._folders:
            try:
                known.append(describe_models(folder))
            except FaceLandmarksError:  # it was there once
                continue
        return [*((f"{info.title}: {info.licence}", info.key) for info in known), (CHOOSE_TITLE, CHOOSE)]

    def _on_changed(self) -> None:
        if self.control.value == CHOOSE:
            self.ask_for_folder()
            return
        self._before = str(self.control.value or DEFAULT_BUNDLE)
        try:
            self.info = info = describe_models(self._before)
        except FaceLandmarksError as error:
            self.licence.value = str(error)
            return
        self.licence.value, self.licence.tooltip = info.licence, info.terms or info.licence
        if info.notice:  # not for every use
            self._tell(info.notice)
        self._on_models(info)
