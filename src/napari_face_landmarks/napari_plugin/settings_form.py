"""Controls of a run: video, preset, models, settings and frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from magicgui.widgets import CheckBox, ComboBox, FloatSpinBox, Label, SpinBox

from napari_face_landmarks.errors import FaceLandmarksError, SettingsError
from napari_face_landmarks.models import DEFAULT_BUNDLE
from napari_face_landmarks.models.catalog import ModelsInfo, describe_models, known_models
from napari_face_landmarks.napari_plugin.layers import count_frames, frame_shown, image_layers
from napari_face_landmarks.napari_plugin.preferences import Preferences, read_preferences, write_preferences
from napari_face_landmarks.settings import PRESETS, REFINE_MODES, TrackerSettings, preset_named, preset_of

CUSTOM = "custom"
CUSTOM_HELP = "Your own settings; choosing a preset replaces them."
CHOOSE = "choose"
CHOOSE_TITLE = "Choose a folder …"
MODELS_HELP = (
    "Models for tracking, with their licence: the plugin's bundles, OpenFace's models if installed, or "
    "a folder with a bundle, OpenFace's files or a pfld.json. PFLD takes about 3 ms per face, OpenFace "
    "4 to 20 ms."
)


def setting_control(item: dataclasses.Field[Any]) -> Any:
    """Return the control of a setting, built from the metadata of its dataclass field."""
    common = {"name": item.name, "label": item.metadata["label"], "tooltip": item.metadata["help"]}
    if "low" not in item.metadata:
        return ComboBox(choices=REFINE_MODES, value=item.default, **common)
    kind = SpinBox if item.type == "int" else FloatSpinBox
    low, high, step = (item.metadata[key] for key in ("low", "high", "step"))
    return kind(min=low, max=high, step=step, value=item.default, **common)


def preset_control(settings_controls: Mapping[str, Any]) -> ComboBox:
    """Return the list of presets, synchronised with the controls of the settings."""
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
    """List of models with their licences; its last entry opens a dialog for a folder.

    The value of `control` is an argument of `load_models`, `licence` shows the licence of the chosen models,
    and `info` describes them; `on_models` is called with it on each change. `tell` is called with messages
    for the user.
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
        """Choose models, adding them to the list if necessary; return whether they exist."""
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
        """Show a dialog for a folder of models, choose these and add the folder to the preferences."""
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
            except FaceLandmarksError:  # removed since it was chosen
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
        if info.notice:  # about restrictions of use
            self._tell(info.notice)
        self._on_models(info)


FRAME_CHOICES = [("All frames", "all"), ("From … to …", "range"), ("This frame", "this")]


class SettingsControls:
    """Controls of preset, models and settings, kept consistent; `tell` is called with messages for the user.

    `settings_controls` maps the fields of `TrackerSettings` to their controls.
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

    def load_preferences(self, preferences: Preferences) -> None:
        """Set the preferred models and preset."""
        if preferences.models != self.model.value:
            self._chooser.offer(preferences.models)
        self.preset.value = preferences.preset

    def settings(self) -> TrackerSettings:
        """Return the chosen settings; raise a `SettingsError` if one is out of its range."""
        return TrackerSettings(**{name: control.value for name, control in self.settings_controls.items()})

    def _on_models(self, info: ModelsInfo) -> None:
        """Choose a refine mode that the models support; restore the user's when other models support it."""
        refine = self.settings_controls["refine"]
        if self._refine_before in info.refine:
            refine.value, self._refine_before = self._refine_before, None
        before = refine.value
        if before not in info.refine:
            refine.value = "always" if "always" in info.refine else info.refine[0]
            self._tell(f"{info.title} does not support the refine mode {before!r}: {refine.value!r} is used.")
            self._refine_before = before


class RunChoices(SettingsControls):
    """Controls of a run: video, preset, models, settings and frames, listed in `controls`."""

    def __init__(self, viewer: Any, tell: Callable[[str], None]) -> None:
        super().__init__(tell)
        self._viewer = viewer
        self._chosen: Any = None  # video chosen by the user
        self._following = False
        self.video = ComboBox(
            label="Video", choices=lambda _: image_layers(viewer), tooltip="Image layer to track."
        )
        self.frames = ComboBox(label="Frames", choices=FRAME_CHOICES, tooltip="Frames to track.")
        self.first = SpinBox(label="First frame", min=0, max=0, tooltip="Counted from 0.")
        self.last = SpinBox(label="Last frame", min=0, max=0, tooltip="Included; counted from 0.")
        self.follow = CheckBox(
            value=True,
            text="Follow the newest frame",
            tooltip="Show the newest frame during a run, until you move the time slider.",
        )
        self.resume_checkpoint = CheckBox(
            value=True,
            text="Resume an interrupted run",
            tooltip="If a run with the same settings over the same frames of a video file was cancelled, or "
            "napari was closed during it, resume it from its checkpoint.",
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
            self.resume_checkpoint,
        ]
        self.video.changed.connect(self._on_video_changed)
        self.frames.changed.connect(self._on_frames_changed)
        self.video.changed.connect(self._on_video_chosen)
        self.follow_active_video()
        self._on_video_changed()
        self._on_frames_changed()

    def load_preferences(self, preferences: Preferences) -> None:
        """Set the preferred models and preset, and whether to follow the newest frame."""
        super().load_preferences(preferences)
        self.follow.value = preferences.follow

    def to_preferences(self, preferences: Preferences) -> Preferences:
        """Return `preferences` updated with the current choices; custom settings leave their preset."""
        preset = self.preset.value
        preset = preset if preset in [item.name for item in PRESETS] else preferences.preset
        return dataclasses.replace(
            preferences, preset=preset, models=self.model.value, follow=self.follow.value
        )

    def frame_range(self, n_frames: int) -> tuple[int, int]:
        """Return the frames to track of a video of `n_frames`: the first, and the last plus 1."""
        if self.frames.value == "this":
            frame = self._current_frame(n_frames)
            return frame, frame + 1
        if self.frames.value == "range":
            first, last = sorted((int(self.first.value), int(self.last.value)))
            return min(first, n_frames - 1), min(last + 1, n_frames)
        return 0, n_frames

    def enable(self, enabled: bool) -> None:
        """Enable the controls, or disable all but `follow` during a run."""
        for control in self.controls:
            if control not in (self.licence, self.follow):
                control.enabled = enabled
        if enabled:
            self._on_frames_changed()

    def follow_active_video(self, _: Any = None) -> None:
        """Choose the active image layer, unless the user has chosen one that still exists."""
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
