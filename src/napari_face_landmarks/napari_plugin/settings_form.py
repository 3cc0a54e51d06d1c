"""What the user chooses for a run: video, preset, models, settings and frames, each a control."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from magicgui.widgets import CheckBox, ComboBox, Label, SpinBox

from napari_face_landmarks.errors import FaceLandmarksError, SettingsError
from napari_face_landmarks.models import DEFAULT_BUNDLE
from napari_face_landmarks.models.catalog import ModelsInfo, describe_models, known_models
from napari_face_landmarks.napari_plugin.layers import count_frames, frame_shown, image_layers
from napari_face_landmarks.napari_plugin.preferences import Preferences, read_preferences, write_preferences
from napari_face_landmarks.napari_plugin.qt_forms import setting_control
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
    """Return the list of presets, tied both ways to the control of each setting."""
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

    The value of `control` is what `load_models` takes, `licence` shows the licence of the models that are
    chosen, and `info` is what is known of them, with which `on_models` is called when others are chosen.
    `tell` is called with sentences for the user.
    """

    def __init__(self, tell: Callable[[str], None], on_models: Callable[[ModelsInfo], object]) -> None:
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


FRAME_CHOICES = [("All frames", "all"), ("From … to …", "range"), ("This frame", "this")]


class SettingsControls:
    """Preset, models and settings, tied to each other; `tell` is called with sentences for the user.

    `settings_controls` has the control of each field of `TrackerSettings`.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._refine_before: str | None = None
        self.settings_controls = {
            item.name: setting_control(item) for item in dataclasses.fields(TrackerSettings)
        }
        self.preset = preset_control(self.settings_controls)
        self._chooser = ModelChooser(tell, self._on_models)
        self.model, self.licence = self._chooser.control, self._chooser.licence
        self.preset.changed.connect(lambda: self._on_models(self._chooser.info))

    def begin_as(self, preferences: Preferences) -> None:
        """Choose what the user prefers."""
        if preferences.models != self.model.value:
            self._chooser.offer(preferences.models)
        self.preset.value = preferences.preset

    def settings(self) -> TrackerSettings:
        """Return the settings as they stand; a `SettingsError` says which is out of its range."""
        return TrackerSettings(**{name: control.value for name, control in self.settings_controls.items()})

    def _on_models(self, info: ModelsInfo) -> None:
        """Have a way of refining that the models serve, and the user's own again with others."""
        refine = self.settings_controls["refine"]
        if self._refine_before in info.refine:
            refine.value, self._refine_before = self._refine_before, None
        before = refine.value
        if before not in info.refine:
            refine.value = "always" if "always" in info.refine else info.refine[0]
            self._tell(f"{info.title} cannot refine as {before!r}: {refine.value!r} is chosen.")
            self._refine_before = before


class RunChoices(SettingsControls):
    """The controls of a run: its video, preset, models, settings and frames, in order in `controls`."""

    def __init__(self, viewer: Any, tell: Callable[[str], None]) -> None:
        super().__init__(tell)
        self._viewer = viewer
        self._chosen: Any = None  # the video that the user has chosen
        self._following = False
        self.video = ComboBox(
            label="Video", choices=lambda _: image_layers(viewer), tooltip="The image layer to track."
        )
        self.frames = ComboBox(label="Frames", choices=FRAME_CHOICES, tooltip="Which frames to track.")
        self.first = SpinBox(label="First frame", min=0, max=0, tooltip="Counted from 0.")
        self.last = SpinBox(label="Last frame", min=0, max=0, tooltip="Tracked too; counted from 0.")
        self.follow = CheckBox(
            value=True,
            text="Follow the newest frame",
            tooltip="Show the newest frame while the run goes on, until the time slider is moved.",
        )
        self.go_on = CheckBox(
            value=True,
            text="Resume an interrupted run",
            tooltip="If a run over the same frames of a video file, with the same settings, was cancelled "
            "or ended with napari, resume it from its checkpoint.",
        )
        self.controls = [
            self.video,
            self.preset,
            self.model,
            self.licence,
            *self.settings_controls.values(),
            self.frames,
            self.first,
            self.last,
            self.follow,
            self.go_on,
        ]
        self.video.changed.connect(self._on_video_changed)
        self.frames.changed.connect(self._on_frames_changed)
        self.video.changed.connect(self._on_video_chosen)
        self.follow_active_video()
        self._on_video_changed()
        self._on_frames_changed()

    def begin_as(self, preferences: Preferences) -> None:
        """Choose what the user prefers."""
        super().begin_as(preferences)
        self.follow.value = preferences.follow

    def as_preferences(self, kept: Preferences) -> Preferences:
        """Return preferences with what is chosen now; a preset that is none is as in `kept`."""
        preset = self.preset.value
        preset = preset if preset in [item.name for item in PRESETS] else kept.preset
        return dataclasses.replace(kept, preset=preset, models=self.model.value, follow=self.follow.value)

    def frame_range(self, n_frames: int) -> tuple[int, int]:
        """Return the first frame to track and the one after the last, of a video of so many."""
        if self.frames.value == "this":
            frame = self._current_frame(n_frames)
            return frame, frame + 1
        if self.frames.value == "range":
            first, last = sorted((int(self.first.value), int(self.last.value)))
            return min(first, n_frames - 1), min(last + 1, n_frames)
        return 0, n_frames

    def enable(self, yes: bool) -> None:
        """Have the controls be used, or not while a run goes on."""
        for control in self.controls:
            if control not in (self.licence, self.follow):
                control.enabled = yes
        if yes:
            self._on_frames_changed()

    def follow_active_video(self, _: Any = None) -> None:
        """Choose the active image layer, until the user has chosen one; what is removed is no choice."""
        layers = image_layers(self._viewer)
        self._following = True
        self.video.reset_choices()
        active = self._viewer.layers.selection.active
        if self._chosen not in layers:
            self._chosen = None
        if self._chosen is None and layers:
            shown = self.video.value
            self.video.value = active if active in layers else shown if shown in layers else layers[-1]
        self._following = False

    def _on_video_chosen(self) -> None:
        if not self._following:
            self._chosen = self.video.value

    def _current_frame(self, n_frames: int) -> int:
        return min(max(frame_shown(self._viewer, self.video.value) or 0, 0), n_frames - 1)

    def _on_video_changed(self) -> None:
        try:
            n_frames = count_frames(self.video.value)
        except FaceLandmarksError:
            n_frames = 1
        self.first.max = self.last.max = n_frames - 1
        self.first.value, self.last.value = 0, n_frames - 1

    def _on_frames_changed(self) -> None:
        self.first.enabled = self.last.enabled = self.frames.value == "range"
