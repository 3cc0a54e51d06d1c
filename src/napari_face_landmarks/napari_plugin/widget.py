"""The dock widget: choose a video, press Run, watch the landmarks appear, cancel and keep what is done."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

from magicgui.widgets import (
    CheckBox,
    ComboBox,
    Container,
    FloatSpinBox,
    Label,
    ProgressBar,
    PushButton,
    SpinBox,
)
from napari.layers import Image
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QSize, Qt, QTimer
from qtpy.QtWidgets import QComboBox, QFormLayout, QFrame, QLabel, QMenu, QScrollArea, QSizePolicy, QWidget

from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.models import DEFAULT_BUNDLE, Models, load_models
from napari_face_landmarks.models.describe import ModelsInfo
from napari_face_landmarks.napari_plugin import commands, saving
from napari_face_landmarks.napari_plugin.about import show_about
from napari_face_landmarks.napari_plugin.background import BackgroundRun, track_in_background
from napari_face_landmarks.napari_plugin.boxes import regions_of_layers
from napari_face_landmarks.napari_plugin.choices import ModelChooser, preset_control
from napari_face_landmarks.napari_plugin.layers import count_frames, frames_of_layer
from napari_face_landmarks.napari_plugin.live import LiveLandmarks
from napari_face_landmarks.napari_plugin.preferences import Preferences, read_preferences, write_preferences
from napari_face_landmarks.napari_plugin.saving import has_landmarks, is_video
from napari_face_landmarks.settings import PRESETS, REFINE_MODES, TrackerSettings
from napari_face_landmarks.video import Video

REFRESH_MS = 125  # between two looks at what the working thread has done
SMALLEST_CONTROL, SMALLEST_FORM = 110, 150  # px, width and height
RATE_WINDOW = 3.0  # seconds over which frames per second are counted
FRAME_CHOICES = [("All frames", "all"), ("From … to …", "range"), ("This frame", "this")]


class FaceLandmarksWidget(Container):
    """Track face landmarks in a video of the viewer.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Filled in by napari.

    Attributes
    ----------
    video, preset, model, frames, first, last, follow
        Controls: the image layer, the preset, the models, which frames ("all", "range" or "this"), and the
        ends of the range, both included; whether the viewer shows the newest frame.
    go_on
        Control: whether to go on with an interrupted run.
    settings_controls : dict
        The control of each field of `TrackerSettings`.
    run_button, pause_button, cancel_button, export_button, progress, status, notice
        The rest of the dock.
    landmarks : napari.layers.Points or None
        The layer of the run in progress, or of the last one.
    """

    def __init__(self, napari_viewer: Any) -> None:
        self._viewer = napari_viewer
        self._models: dict[str, Models] = {}
        self._current: BackgroundRun | None = None
        self._steps: Generator[None] | None = None
        self._in_window = False
        self._live: LiveLandmarks | None = None
        self._video_layer: Any = None
        self._shown = 0
        self._followed: tuple[int, ...] | None = None
        self._notice_given = False
        self._times: deque[tuple[float, int]] = deque()
        self._open = True

        self._make_controls()
        self.run_button = PushButton(
            text="Run", tooltip="Track faces; their landmarks appear in a new layer."
        )
        self.pause_button = PushButton(
            text="Pause",
            enabled=False,
            tooltip="Wait where the run is, and go on from there when it is pressed again.",
        )
        self.cancel_button = PushButton(
            text="Cancel", enabled=False, tooltip="Stop and keep the finished frames."
        )
        self.export_button = PushButton(
            text="Export …",
            tooltip="Write the landmarks, as they stand in their layer, to a file for other programs.",
        )
        self.more_button = PushButton(
            text="More",
            tooltip="Have the dock begin with what is chosen now, or tell the versions for reports of bugs.",
        )
        self.more_button.native.setMenu(self._make_menu())
        rows = [
            _row(self.run_button, self.pause_button, self.cancel_button),
            _row(self.export_button, self.more_button),
        ]
        self.progress = ProgressBar(min=0, max=1, value=0, tooltip="Frames that are finished.")
        self.status, self.notice = Label(value=""), Label(value="")
        super().__init__(widgets=[*rows, self.progress, self.status, self.notice], labels=False)
        self.native.layout().insertWidget(0, _Form(self._controls))
        self.native.layout().addStretch(1)
        for text in (self.status, self.notice):
            text.native.setWordWrap(True)
            text.native.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)

        self.run_button.changed.connect(self.run)
        self.pause_button.changed.connect(self.pause_or_go_on)
        self.cancel_button.changed.connect(self.cancel)
        self.export_button.changed.connect(self.export)
        self.video.changed.connect(self._on_video_changed)
        self.frames.changed.connect(self._on_frames_changed)
        events = napari_viewer.layers.events
        for event in (events.inserted, events.reordered):
            event.connect(self.reset_choices)
        events.removed.connect(self._on_layer_removed)
        self.native.destroyed.connect(self._on_destroyed)
        self._timer = QTimer(self.native)
        self._timer.setInterval(REFRESH_MS)
        self._timer.timeout.connect(self._look)
        self._choose_active_video()
        self._on_video_changed()
        self._on_frames_changed()
        self._begin_as(read_preferences())
        commands.register(napari_viewer, self)

    def _make_controls(self) -> None:
        self.video = ComboBox(label="Video", choices=self._image_layers, tooltip="The image layer to track.")
        self.settings_controls = {
            item.name: _setting_control(item) for item in dataclasses.fields(TrackerSettings)
        }
        self.preset = preset_control(self.settings_controls)
        self._refine_before: str | None = None
        self._chooser = ModelChooser(lambda text: show_info(text), self._on_models)
        self.model, self.licence = self._chooser.control, self._chooser.licence
        self.preset.changed.connect(lambda: self._on_models(self._chooser.info))
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
            text="Go on with an interrupted run",
            tooltip="Where a run over the same frames of a video file, with the same settings, was "
            "cancelled or died with napari, go on from there; its frames were written down.",
        )
        self._controls = [
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

    def _make_menu(self) -> QMenu:
        menu = QMenu(self.more_button.native)  # whose theme it has
        menu.setToolTipsVisible(True)
        for text, what, call in (
            ("Begin with these choices", "Keep preset, models and following.", self.keep_choices),
            ("Begin as at first", "Forget what was kept.", self.forget_choices),
            ("About …", "Versions of everything, to copy.", lambda: show_about(self.native)),
        ):
            action = menu.addAction(text)
            action.setToolTip(what)
            action.triggered.connect(lambda _=False, call=call: call())
        return menu

    def _begin_as(self, preferences: Preferences) -> None:
        if preferences.models != self.model.value:
            self._chooser.offer(preferences.models)
        self.preset.value = preferences.preset
        self.follow.value = preferences.follow

    def keep_choices(self) -> None:
        """Have docks that are opened from now on begin with the preset and the models of now."""
        kept, preset = read_preferences(), self.preset.value
        preset = preset if preset in [item.name for item in PRESETS] else kept.preset
        write_preferences(
            dataclasses.replace(kept, preset=preset, models=self.model.value, follow=self.follow.value)
        )
        self.status.value = "Kept for the next time."

    def forget_choices(self) -> None:
        """Have this dock and new ones begin as after the installation."""
        write_preferences(Preferences())
        self._begin_as(Preferences())
        self.status.value = "Everything is as at first."

    def reset_choices(self, *_: Any) -> None:
        """Look again which image layers there are."""
        self.video.reset_choices()

    # what the user chose

    def settings(self) -> TrackerSettings:
        """Return the settings as they stand.

        Raises
        ------
        SettingsError
            If one is out of its range.
        """
        return TrackerSettings(**{name: control.value for name, control in self.settings_controls.items()})

    def _image_layers(self, _: Any = None) -> list[Any]:
        return [layer for layer in self._viewer.layers if isinstance(layer, Image)]

    def _choose_active_video(self) -> None:
        layers = self._image_layers()
        active = self._viewer.layers.selection.active
        if layers:
            self.video.value = active if active in layers else layers[-1]

    def _frame_range(self, n_frames: int) -> tuple[int, int]:
        if self.frames.value == "this":
            frame = self._current_frame(n_frames)
            return frame, frame + 1
        if self.frames.value == "range":
            first, last = sorted((int(self.first.value), int(self.last.value)))
            return min(first, n_frames - 1), min(last + 1, n_frames)
        return 0, n_frames

    def _current_frame(self, n_frames: int) -> int:
        layer = self.video.value
        if layer.ndim < 3:
            return 0
        position = layer.world_to_data(self._viewer.dims.point)
        return min(max(round(float(position[0])), 0), n_frames - 1)

    # a run from its start to its end

    def run(self) -> None:
        """Start tracking; the landmarks appear in a new layer."""
        if self._current is not None:
            return
        try:
            settings = self.settings()
            frames = frames_of_layer(self.video.value)
        except FaceLandmarksError as error:
            self._tell_error(str(error))
            return
        start, stop = self._frame_range(int(frames.shape[0]))
        self._video_layer, self._shown, self._notice_given = self.video.value, 0, False
        self._live = LiveLandmarks(self._viewer, self._video_layer, start, stop, settings.max_faces)
        self._followed = tuple(self._viewer.dims.current_step)
        self._times.clear()
        if isinstance(frames, Video):
            frames.keeps_frames = True  # for the viewer, so that it need not decode them again to follow
        self._current = BackgroundRun(
            self._model_loader(),
            settings,
            frames,
            start,
            stop,
            go_on=bool(self.go_on.value),
            regions=regions_of_layers(self._viewer.layers),
        )
        self._set_running(True)
        self.progress.max = stop - start
        self.progress.value = 0
        self.status.value, self.notice.value = "Starting …", ""
        self._steps = track_in_background(self._current)
        self._in_window = self.native.window().isVisible()
        worker = create_worker(
            _do_steps, self._steps, _start_thread=False, _connect={"finished": self._on_finished}
        )
        worker.start()
        self._timer.start()

    def cancel(self) -> None:
        """Stop the run; the frames that are finished stay in the layer."""
        if self._current is not None:
            self._current.cancel()
            self.cancel_button.enabled = self.pause_button.enabled = False
            self.status.value = "Stopping …"

    def pause_or_go_on(self) -> None:
        """Have the run wait, or go on where it waits; the landmarks so far can be looked at meanwhile."""
        run = self._current
        if run is None or run.cancelled:
            return
        if run.paused:
            run.resume()
            self._times.clear()
        else:
            run.pause()
        self.pause_button.text = "Resume" if run.paused else "Pause"
        self._look()

    def export(self) -> None:
        """Ask for a file, and write the landmarks to it in the format that is chosen there."""
        layer = self._layer_to_export()
        if layer is None:
            self._tell_error("There are no landmarks to export: track a video, or open a file of landmarks.")
            return
        video = next((item for item in (self._video_layer, self.video.value) if is_video(item)), None)
        suggested = f"{layer.name.replace('/', ' ')}.csv"
        asked = saving.ask_for_file(self.native, suggested, video is not None)
        if asked is None:
            return
        try:
            path, name = saving.file_and_format(*asked)
        except FaceLandmarksError as error:
            self._tell_error(str(error))
            return
        self.export_button.enabled = False
        self.status.value = f"Exporting to {path.name} …"
        create_worker(
            saving.write_export,
            saving.snapshot(layer, path, name, video),
            lambda: self._open,
            _connect={"returned": self._on_exported},
        )

    def _layer_to_export(self) -> Any:
        """Return the selected layer of landmarks, else that of the last run, else the uppermost."""
        layers = [layer for layer in self._viewer.layers if has_landmarks(layer)]
        for layer in (self._viewer.layers.selection.active, self.landmarks):
            if layer is not None and layer in layers:
                return layer
        return layers[-1] if layers else None

    def _on_exported(self, result: tuple[bool, str]) -> None:
        if not self._open:
            return
        done, sentence = result
        self.export_button.enabled = not self.running
        if done:
            self.status.value = sentence
        else:
            self._tell_error(sentence)

    @property
    def running(self) -> bool:
        """Whether a run is in progress."""
        return self._current is not None

    @property
    def landmarks(self) -> Any:
        """The Points layer of the run in progress or of the last one."""
        return None if self._live is None else self._live.layer

    def _model_loader(self) -> Any:
        name = self.model.value or DEFAULT_BUNDLE

        def load() -> Models:
            if name not in self._models:
                self._models[name] = load_models(name)
            return self._models[name]

        return load

    def _set_running(self, running: bool) -> None:
        for control in self._controls:
            if control not in (self.licence, self.follow):
                control.enabled = not running
        if not running:
            self._on_frames_changed()
        self.run_button.enabled = not running
        self.pause_button.enabled = self.cancel_button.enabled = running
        self.pause_button.text = "Pause"
        self.export_button.enabled = not running

    def _look(self) -> None:
        """Show what the working thread has finished since the last look."""
        run = self._current
        if run is None:
            return
        if self._in_window and not self.native.window().isVisible():  # the dock or the viewer was closed
            self.cancel()
        self._show_results(run)
        if not run.cancelled:
            self.status.value = run.message or self._describe_progress(run)
        self._give_notice(run)

    def _show_results(self, run: BackgroundRun) -> None:
        results = run.results[self._shown :]
        if not results:
            return
        self._shown += len(results)
        self.progress.value = self._shown
        if self._live is not None and self._live.layer in self._viewer.layers:
            self._live.write(results)
            if not self._follow(results[-1].index):
                self._live.show(results[0].index, results[-1].index)

    def _follow(self, frame: int) -> bool:
        """Show a frame, unless the user looks at another one; return whether napari has drawn it."""
        layer, dims = self._video_layer, self._viewer.dims
        if layer.ndim < 3 or layer not in self._viewer.layers:
            return False
        if self._followed is not None and tuple(dims.current_step) != self._followed:
            self.follow.value = False
        if self.follow.value:
            axis, before = dims.ndim - layer.ndim, tuple(dims.current_step)
            dims.set_point(axis, layer.data_to_world((frame, 0, 0))[0])
            self._followed = tuple(dims.current_step)
            return self._followed != before
        self._followed = None
        return False

    def _describe_progress(self, run: BackgroundRun) -> str:
        now = time.monotonic()
        self._times.append((now, self._shown))
        while now - self._times[0][0] > RATE_WINDOW:
            self._times.popleft()
        done, total = self._shown, run.stop - run.start
        if run.paused:
            return f"Paused after {done} of {total} frames."
        seconds = now - self._times[0][0]
        rate = (done - self._times[0][1]) / seconds if seconds > 0 else 0.0
        text = f"{done} of {total} frames"
        if rate > 0:
            text += f", {rate:.0f} fps, {_duration((total - done) / rate)} left"
        return text

    def _give_notice(self, run: BackgroundRun) -> None:
        if run.notice is not None and not self._notice_given:
            self._notice_given = True
            self.notice.value = run.notice
            show_info(run.notice)

    def _on_finished(self) -> None:
        """Tidy up after the working thread has ended, for whatever reason."""
        run, self._current = self._current, None
        if self._steps is not None:
            self._steps.close()
        if run is None or not self._open:
            return
        self._timer.stop()
        if isinstance(run.frames, Video):
            run.frames.keeps_frames = False
        self._show_results(run)
        self._finish_layer(run)
        self._set_running(False)
        self._give_notice(run)
        self.status.value = _describe_end(run)
        if run.error is not None:
            self._tell_error(_describe_end(run))
        elif run.tracks is not None and run.tracks.warnings:
            show_warning(_warnings_in_words(run.tracks.warnings))

    def _finish_layer(self, run: BackgroundRun) -> None:
        if self._live is None or self._live.layer not in self._viewer.layers:
            return
        if run.tracks is not None:
            self._live.finish(run.tracks)
        else:
            self._viewer.layers.remove(self._live.layer)
            self._live = None

    def _tell_error(self, sentence: str) -> None:
        self.status.value = sentence
        show_error(sentence)

    # what happens around it

    def _on_video_changed(self) -> None:
        try:
            n_frames = count_frames(self.video.value)
        except FaceLandmarksError:
            n_frames = 1
        self.first.max = self.last.max = n_frames - 1
        self.first.value, self.last.value = 0, n_frames - 1

    def _on_frames_changed(self) -> None:
        self.first.enabled = self.last.enabled = self.frames.value == "range"

    def _on_models(self, info: ModelsInfo) -> None:
        """Have a way of refining that the models serve, and the user's own again with others."""
        refine = self.settings_controls["refine"]
        if self._refine_before in info.refine:
            refine.value, self._refine_before = self._refine_before, None
        if refine.value not in info.refine:
            self._refine_before = refine.value
            refine.value = "always" if "always" in info.refine else info.refine[0]
            show_info(f"{info.title} cannot refine as {self._refine_before!r}: {refine.value!r} is chosen.")

    def _on_layer_removed(self, event: Any) -> None:
        if self._current is not None and (event.value in (self._video_layer, self.landmarks)):
            self.cancel()
        self.reset_choices()

    def _on_destroyed(self) -> None:
        self._open = False
        if self._current is not None:
            self._current.cancel()


def _row(*buttons: PushButton) -> Container:
    row = Container(widgets=buttons, layout="horizontal", labels=False)
    row.margins = (0, 0, 0, 0)
    return row


def _do_steps(steps: Generator[None]) -> Generator[None]:
    """Be the generator that napari runs, so that `steps` can still be closed after napari has stopped."""
    yield from steps


class _Form(QScrollArea):
    """Controls under each other, labels in a column of their own; scrolls where the dock is low."""

    def __init__(self, controls: Sequence[Any]) -> None:
        super().__init__()
        body = QWidget()
        form = QFormLayout(body)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for control in controls:
            if isinstance(control, CheckBox):  # has its words in itself
                form.addRow(control.native)
                continue
            label = QLabel(control.label)
            label.setToolTip(control.tooltip)
            if isinstance(control, ComboBox):  # long names are cut in the closed box, not at the dock's edge
                policy = QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
                control.native.setSizeAdjustPolicy(policy)
            if isinstance(control, Label):
                control.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
            control.native.setMinimumWidth(SMALLEST_CONTROL)
            form.addRow(label, control.native)
        self.setWidget(body)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)

    def sizeHint(self) -> QSize:
        """Return the size at which nothing has to scroll."""
        return self.widget().sizeHint() + self._room_for_scroll_bar()

    def minimumSizeHint(self) -> QSize:
        """Return a size that is wide enough for all controls and high enough for some."""
        smallest = self.widget().minimumSizeHint() + self._room_for_scroll_bar()
        return QSize(smallest.width(), min(smallest.height(), SMALLEST_FORM))

    def _room_for_scroll_bar(self) -> QSize:
        return QSize(self.verticalScrollBar().sizeHint().width(), 0)


def _setting_control(item: dataclasses.Field[Any]) -> Any:
    """Return the control of a setting, made from what its field says of it."""
    common = {"name": item.name, "label": item.metadata["label"], "tooltip": item.metadata["help"]}
    if "low" not in item.metadata:
        return ComboBox(choices=REFINE_MODES, value=item.default, **common)
    kind = SpinBox if item.type == "int" else FloatSpinBox
    low, high, step = (item.metadata[key] for key in ("low", "high", "step"))
    return kind(min=low, max=high, step=step, value=item.default, **common)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _describe_end(run: BackgroundRun) -> str:
    done, total = len(run.results), run.stop - run.start
    kept = f" {done} of {total} frames are finished and kept." if done else ""
    if run.error is not None:
        return run.error + kept
    if run.tracks is None:
        return "Cancelled before the first frame was finished."
    stats = run.tracks.stats
    if run.cancelled:
        return "Cancelled." + kept
    if not stats.frames_with_faces:
        return f"Done: no face was found on {_count(done, 'frame')}."
    text = f"Done: {_count(done, 'frame')}, a face on {stats.frames_with_faces}"
    if stats.refined:
        text += f", {_count(stats.refined, 'face')} refined by CLNF"
    return f"{text}; {stats.fps:.0f} fps."


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _warnings_in_words(warnings: tuple[str, ...]) -> str:
    more = len(warnings) - 1
    return warnings[0] + (f" ({_count(more, 'more warning')} in the layer's metadata.)" if more else "")
