"""The tab Track: choose a video and settings, run the tracker, export the landmarks."""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import partial
from typing import Any

from magicgui.widgets import Container, Label, ProgressBar, PushButton
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QMenu, QSizePolicy
from superqt.utils import create_worker

from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.models import DEFAULT_BUNDLE
from napari_face_landmarks.napari_plugin import commands, export_dialog, preferences
from napari_face_landmarks.napari_plugin.export_dialog import is_video
from napari_face_landmarks.napari_plugin.faces_dock import regions_of_layers
from napari_face_landmarks.napari_plugin.layers import (
    current_landmarks,
    frame_shown,
    frames_of_layer,
    image_layers,
    video_of_layer,
)
from napari_face_landmarks.napari_plugin.preferences import Preferences, read_preferences, write_preferences
from napari_face_landmarks.napari_plugin.qt_forms import (
    Advanced,
    CloseGuard,
    Form,
    Welcome,
    call_while_open,
    horizontal_row,
    open_video,
    paint_later,
    push_button,
    show_about,
)
from napari_face_landmarks.napari_plugin.run_controller import (
    BackgroundRun,
    ShownRun,
    describe_end,
    describe_progress,
    summarize_warnings,
    track_in_background,
)
from napari_face_landmarks.napari_plugin.run_controller import load_cached as load_models
from napari_face_landmarks.napari_plugin.settings_form import RunChoices
from napari_face_landmarks.napari_plugin.view_dock import overlays_of
from napari_face_landmarks.quality import check
from napari_face_landmarks.quality.statistics import count as counted
from napari_face_landmarks.settings import TrackerSettings

START_MS = 20  # between two steps of adding a layer
REFRESH_MS = 125  # between two updates of the layer during a run
REPORT_SECONDS = 0.5
"""Between two updates of the progress bar and status, each of which makes Qt redraw the whole window."""


TRACK = "Track faces; their landmarks appear in a new layer."
BUSY = "Wait until the run or export has ended."
ACTIONS = {
    "Check": "Show the frames where landmarks may be wrong.",
    "Correct": "Drag wrong landmarks and propagate the correction to other frames.",
    "Measure": "Eyes, mouth, brows and blinks over time, as curves and tables.",
    "Save measures …": "Write a table of all measures, such as eye closure, with a row for each frame.",
    "Export …": "Write the current landmarks to a file, or draw them as a picture or video.",
}
"""Buttons that need landmarks, with their tooltips."""


class FaceLandmarksWidget(Container):
    """The panel Track; its controls are public attributes named after their labels."""

    def __init__(self, napari_viewer: Any) -> None:
        self._viewer = napari_viewer
        self._current: BackgroundRun | None = None
        self._steps: Generator[None] | None = None
        self._worker: Any = None  # created but not started: napari has not drawn the run's layer yet
        self._in_window = False
        self._shown: ShownRun | None = None
        self._guard: CloseGuard | None = None
        self._export: export_dialog.ExportProgress | None = None
        self._notice_shown = False
        self._error = ""  # shown in the status
        self._reported_at = 0.0  # clock time of the last progress report
        self._open = True

        self._choices = chosen = RunChoices(napari_viewer, lambda text: show_info(text))
        self.video, self.preset, self.model, self.licence = (
            chosen.video,
            chosen.preset,
            chosen.model,
            chosen.licence,
        )
        self.frames, self.first, self.last = chosen.frames, chosen.first, chosen.last
        self.follow, self.resume_checkpoint = chosen.follow, chosen.resume_checkpoint
        self.settings_controls = chosen.settings_controls
        self._make_buttons()
        self.progress = ProgressBar(min=0, max=1, value=0, tooltip="Frames that are finished.")
        self.status, self.notice = Label(value=""), Label(value="")
        rows = [
            horizontal_row(self.run_button, self.pause_button, self.cancel_button),
            horizontal_row(self.check_button, self.correct_button, self.measure_button),
            horizontal_row(self.table_button, self.export_button, self.more_button),
        ]
        # texts are below all buttons, so that longer texts do not move them
        super().__init__(widgets=[*rows, self.progress, self.status, self.notice], labels=False)
        layout = self.native.layout()
        self.welcome = Welcome(napari_viewer, lambda: commands.study(napari_viewer))
        layout.insertWidget(0, self.welcome)
        layout.insertWidget(1, Form([self.video, self.preset]))
        layout.addWidget(Advanced(chosen.controls[2:]))
        layout.addStretch(1)
        for text in (self.status, self.notice):
            text.native.setWordWrap(True)
            text.native.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)

        events = napari_viewer.layers.events
        for event in (events.inserted, events.reordered, napari_viewer.layers.selection.events.active):
            event.connect(self.reset_choices)
        events.removed.connect(self._on_layer_removed)
        events.inserted.connect(self._clear_error)
        for control in chosen.controls:
            control.changed.connect(self._clear_error)
        self.native.destroyed.connect(self._on_destroyed)
        call_while_open(self.native, current_landmarks(napari_viewer), self._update_buttons)
        self._timer = QTimer(self.native)
        self._timer.timeout.connect(self._poll)
        chosen.load_preferences(read_preferences())
        self.reset_choices()
        self._update_buttons()

    def _make_buttons(self) -> None:
        pause = "Pause after the current frame; click again to resume."
        self.run_button = push_button("Run", TRACK, self.run)
        self.pause_button = push_button("Pause", pause, self.pause_or_resume, enabled=False)
        self.cancel_button = push_button(
            "Cancel", "Stop and keep the finished frames.", self.cancel, enabled=False
        )
        self.more_button = push_button(
            "More", "Another video, many videos, defaults, and the versions of everything."
        )
        self.more_button.native.setMenu(self._make_menu())
        calls = (
            lambda: commands.check(self._viewer),
            lambda: commands.correct(self._viewer),
            lambda: commands.measure(self._viewer),
            lambda: commands.landmarks_dock(self._viewer, "Measure").measure.save(),
            self.export,
        )
        buttons = [
            push_button(text, call=call, enabled=False) for text, call in zip(ACTIONS, calls, strict=True)
        ]
        self.check_button, self.correct_button, self.measure_button = buttons[:3]
        self.table_button, self.export_button = buttons[3:]

    def _make_menu(self) -> QMenu:
        menu = QMenu(self.more_button.native)  # inherits the button's theme
        menu.setToolTipsVisible(True)
        for text, tooltip, call in (
            ("Open a video …", "Show another video instead.", lambda: open_video(self._viewer, self.native)),
            ("Many videos …", "Track several videos or a folder.", lambda: commands.study(self._viewer)),
            (
                "Save as defaults",
                "Start new docks with this preset, these models and this choice of following.",
                self.save_defaults,
            ),
            ("Restore defaults", "Restore the plugin's defaults.", self.restore_defaults),
            ("About …", "Show the versions to paste into bug reports.", lambda: show_about(self.native)),
        ):
            action = menu.addAction(text)
            action.setToolTip(tooltip)
            action.triggered.connect(lambda _=False, call=call: call())
        return menu

    def save_defaults(self) -> None:
        """Save the preset, the models and following the newest frame as defaults of new docks."""
        write_preferences(self._choices.to_preferences(read_preferences()))
        self.status.value = "Saved as defaults."

    def restore_defaults(self) -> None:
        """Restore the plugin's defaults, here and in new docks."""
        write_preferences(Preferences())
        self._choices.load_preferences(Preferences())
        self.status.value = "Defaults restored."

    def reset_choices(self, *_: Any) -> None:
        """Update the list of image layers, and choose the active one."""
        if self._open:
            self.welcome.setVisible(not image_layers(self._viewer))
            if self._current is None:
                self._choices.follow_active_video()
            self._update_buttons()

    def settings(self) -> TrackerSettings:
        """Return the chosen settings; raise a `SettingsError` if one is out of its range."""
        return self._choices.settings()

    # runs and exports

    def run(self) -> None:
        """Start tracking; the landmarks appear in a new layer."""
        if self._current is not None or self._export is not None:
            return
        video = self.video.value
        try:
            settings = self.settings()
            frames = frames_of_layer(video)
        except FaceLandmarksError as error:
            self._show_error(str(error))
            return
        start, stop = self._choices.frame_range(int(frames.shape[0]))
        models = str(self.model.value or DEFAULT_BUNDLE)
        run = self._current = BackgroundRun(
            partial(load_models, models),
            settings,
            frames,
            start,
            stop,
            resume_checkpoint=bool(self.resume_checkpoint.value),
            regions=regions_of_layers(self._viewer.layers),
            models=models,
            checkpoints=preferences.folder_of_checkpoints(),
        )
        self._shown, self._notice_shown = ShownRun(self._viewer, video, run, self.follow), False
        self._set_running(True)
        self._show_progress(0, stop - start)
        self.status.value, self.notice.value = "Starting …", ""
        self._reported_at = time.monotonic()
        self._steps = track_in_background(run)
        self._in_window = self.native.window().isVisible()
        self._guard = CloseGuard(self.native, lambda: self._current is not None)
        self._worker = create_worker(
            _do_steps, self._steps, _start_thread=False, _connect={"finished": self._on_finished}
        )
        self._timer.start(START_MS)

    def _start_worker(self) -> None:
        """Start the worker thread."""
        if self._worker is not None:
            self._worker.start()
        self._worker = None

    def cancel(self) -> None:
        """Cancel the run, keeping its finished frames, or the export, which then writes no file."""
        if self._export is not None:
            self._export.cancelled = True
        if self._current is not None:
            self._current.cancel()
            self.cancel_button.enabled = self.pause_button.enabled = False
            self.status.value = "Stopping …"

    def pause_or_resume(self) -> None:
        """Pause or resume the run; the finished landmarks can be inspected meanwhile."""
        run = self._current
        if run is None or run.cancelled or self._shown is None:
            return
        if run.paused:
            run.resume()
            self._shown.times.clear()
        else:
            run.pause()
        self.pause_button.text = "Resume" if run.paused else "Pause"
        if self._worker is None:  # the worker has been started
            self._poll()
            self._report_progress(run, self._shown)

    def export(self) -> None:
        """Show the file dialog, and write the landmarks in the chosen format."""
        if self._export is not None:
            return
        layer = current_landmarks(self._viewer).layer
        if layer is None:
            self._show_error("There are no landmarks to export: track a video, or open a file of landmarks.")
            return
        tracked = video_of_layer(self._viewer, layer)
        video = next((item for item in (tracked, self.video.value) if is_video(item)), None)
        suggested = export_dialog.suggested_file(layer, video)
        answer = export_dialog.ask_for_file(self.native, suggested, video is not None)
        if answer is None:
            return
        try:
            path, name = export_dialog.file_and_format(*answer)
        except FaceLandmarksError as error:
            self._show_error(str(error))
            return
        self.cancel_button.enabled = True
        self._export = export_dialog.ExportProgress(path.name)
        self._update_buttons()
        self.status.value = f"Exporting to {path.name} …"
        self._timer.start(REFRESH_MS)
        outlines, frame = overlays_of(self._viewer).shown.outlines, frame_shown(self._viewer, layer)
        create_worker(
            export_dialog.write_export,
            export_dialog.snapshot(layer, path, name, video, outlines, frame),
            self._export,
            _connect={"returned": self._on_exported},
        )

    def _on_exported(self, result: tuple[bool, str]) -> None:
        if not self._open:
            return
        done, sentence = result
        self._export = None
        self._timer.stop()
        self._set_running(False)
        if done:
            self._show_progress(int(self.progress.max))
            self.status.value = sentence
        else:
            self._show_error(sentence)

    @property
    def is_open(self) -> bool:
        """Whether the dock still exists."""
        return self._open

    @property
    def running(self) -> bool:
        """Whether a run is in progress."""
        return self._current is not None

    @property
    def landmarks(self) -> Any:
        """The Points layer of the run in progress or of the last one."""
        return None if self._shown is None else self._shown.layer

    def _set_running(self, running: bool) -> None:
        self._choices.enable(not running)
        self.pause_button.enabled = self.cancel_button.enabled = running
        self.pause_button.text = "Pause"
        self._update_buttons()

    def _update_buttons(self) -> None:
        """Enable the buttons that can be used now; the tooltips of the others say why they cannot."""
        current = current_landmarks(self._viewer)
        busy = "" if self._current is None and self._export is None else BUSY
        obstacle = "" if self.video.value is not None else "There is no video: open one first."
        self._enable(self.run_button, TRACK, obstacle or busy)
        obstacle = "" if current.layer is not None else "There are no landmarks yet: press Run."
        obstacle = "Wait until the run has ended, or cancel it." if current.being_tracked else obstacle
        for button in (self.check_button, self.correct_button, self.measure_button, self.table_button):
            self._enable(button, ACTIONS[button.text], obstacle)
        self._enable(self.export_button, ACTIONS["Export …"], obstacle or busy)

    @staticmethod
    def _enable(button: PushButton, tooltip: str, obstacle: str) -> None:
        button.enabled, button.tooltip = not obstacle, obstacle or tooltip

    def _poll(self) -> None:
        """Show the progress of the run or export, and the frames finished since the last call."""
        export = self._export
        if export is not None and export.total:
            self._show_progress(export.done, export.total)
            self.status.value = f"Exporting to {export.name}: {export.done} of {export.total} frames"
        run, shown = self._current, self._shown
        if run is None or shown is None:
            return
        if self._in_window and not self.native.window().isVisible():  # the dock or the viewer was closed
            self.cancel()
        if self._worker is not None:
            # add the layer before starting the worker: while a thread works, this takes twice as long
            if shown.layer not in self._viewer.layers:
                paint_later(self.native.window())
            if run.cancelled or not shown.add_step():
                self._start_worker()
            self._timer.start(START_MS if self._worker is not None else REFRESH_MS)
            return
        shown.update()
        if run.paused or time.monotonic() - self._reported_at >= REPORT_SECONDS:
            self._report_progress(run, shown)
        self._show_notice(run)

    def _report_progress(self, run: BackgroundRun, shown: ShownRun) -> None:
        self._reported_at = time.monotonic()
        self._show_progress(shown.done)
        if not run.cancelled:
            self.status.value = run.stage or describe_progress(run, shown.times)

    def _show_progress(self, done: int, total: int | None = None) -> None:
        self.progress.native.setUpdatesEnabled(False)  # else Qt would repaint the window immediately
        if total is not None:
            self.progress.max = total
        if self.progress.value != done:
            self.progress.value = done
        self.progress.native.setUpdatesEnabled(True)

    def _show_notice(self, run: BackgroundRun) -> None:
        if run.notice is not None and not self._notice_shown:
            self._notice_shown = True
            self.notice.value = run.notice
            show_info(run.notice)

    def _on_finished(self) -> None:
        """Finish the run after its worker thread has ended, for whatever reason."""
        run, self._current = self._current, None
        if self._steps is not None:
            self._steps.close()
        if run is None or self._shown is None:
            return
        if not self._open:
            self._finish_without_dock(run)
            return
        self._timer.stop()
        self._shown.finish()
        if not self.is_open:  # `finish` processes events, which may have closed the dock
            return
        self._show_progress(self._shown.done)
        self._set_running(False)
        self.reset_choices()
        self._show_notice(run)
        self.status.value = describe_end(run)
        if run.error is not None:
            self._show_error(describe_end(run))
        elif run.tracks is not None:
            if run.tracks.warnings:
                show_warning(summarize_warnings(run.tracks.warnings))
            self._report_check(run.tracks)

    def _report_check(self, tracks: Tracks) -> None:
        """Append to the status of a finished run how many sequences should be checked."""
        status = self.status.value

        def show(count: int) -> None:
            if self._open and self.status.value == status:
                result = f"{counted(count, 'sequence')} to check." if count else "Check found nothing."
                self.status.value = f"{status} {result}"

        create_worker(lambda: len(check(tracks).suspects), _start_thread=True, _connect={"returned": show})

    def _finish_without_dock(self, run: BackgroundRun) -> None:
        """Keep the finished frames of a run whose dock was closed, unless the window was closed too."""
        if self._shown is not None and self._guard is not None and self._guard.window_is_open:
            self._shown.finish()
            show_info(f"The dock was closed during a run. {describe_end(run)}")

    def _show_error(self, sentence: str) -> None:
        self.status.value = self._error = sentence
        show_error(sentence)

    def _clear_error(self, *_: Any) -> None:
        """Clear an error message from the status when its cause may be gone."""
        if self._open and self._error and self.status.value == self._error:
            self.status.value = ""
        self._error = ""

    def _on_layer_removed(self, event: Any) -> None:
        shown = self._shown
        if self._current is not None and shown is not None and event.value in (shown.video, shown.layer):
            self.cancel()
        self.reset_choices()

    def _on_destroyed(self) -> None:
        self._open = False
        if self._export is not None:
            self._export.cancelled = True
        if self._current is not None:
            self._current.cancel()
            if self._shown is not None:
                self._shown.stop_following()
            self._start_worker()


def _do_steps(steps: Generator[None]) -> Generator[None]:
    """Wrap `steps` for napari's worker, so that they can still be closed after the worker has stopped."""
    yield from steps
