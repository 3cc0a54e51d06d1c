"""The tab Correct: drag landmarks, refit the face to them, propagate the correction, undo."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from functools import partial
from typing import Any

import numpy as np
from magicgui.widgets import ComboBox, Label, ProgressBar, SpinBox
from superqt.utils import create_worker

from napari_face_landmarks.correction import names_of_faces, propagate_steps, refit_in_tracks
from napari_face_landmarks.data.edit import edited_values, with_face
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import FaceLandmarksError, in_one_line
from napari_face_landmarks.napari_plugin import commands
from napari_face_landmarks.napari_plugin.edit_history import LayerEditor
from napari_face_landmarks.napari_plugin.layers import (
    count_frames,
    frame_shown,
    frames_of_layer,
    image_layers,
    video_of_layer,
    zoom_in,
)
from napari_face_landmarks.napari_plugin.panels import EditingDock, undo_and_redo
from napari_face_landmarks.napari_plugin.qt_forms import Form, horizontal_row, push_button
from napari_face_landmarks.napari_plugin.run_controller import format_duration, models_of_tracks
from napari_face_landmarks.quality.statistics import count as counted
from napari_face_landmarks.tracking.frame_source import check_length

LOG = logging.getLogger(__name__)
DRAG = "drag three or four that are wrong, then refit this frame."
HOW = f"Press Move landmarks, {DRAG}"
"""Instruction while nothing is corrected."""
MOVED = " Now refit this frame, then propagate."
"""Instruction after landmarks were moved."""
PLACED = (
    "The face was not found on this frame; the landmarks are those of frame {}. Drag three or four of them "
    "to the face, then refit this frame."
)
UNCHANGED = "no frame changed, because the face is not visible on the next one."
TO_THE_END = 0
PROPAGATE = {
    "backwards": ("Back", "Propagate backwards from this frame; takes as long as tracking."),
    "forwards": ("Forwards", "Propagate forwards from this frame; takes as long as tracking."),
    "everywhere": (
        "All frames",
        "Propagate all corrections of this face: from each corrected frame to the next, and to the ends of "
        "the track.",
    ),
}
"""Directions of propagation, with their buttons' texts and tooltips."""
REPORT_SECONDS = 0.5


class CorrectDock(EditingDock):
    """The panel Correct; `length` 0 propagates up to the next corrected frame, or to the end."""

    def __init__(self, napari_viewer: Any) -> None:
        self._worker: Any = None
        self._title, self._outcome = "", ""
        self._started_at = self._reported_at = 0.0
        self._make_controls(napari_viewer)
        super().__init__(
            napari_viewer,
            [
                horizontal_row(self.previous_button, self.next_button),
                horizontal_row(self.move_button, self.refit_button),
                horizontal_row(self.undo_button, self.redo_button),
                Label(value="Propagate to other frames:"),
                horizontal_row(self.backwards_button, self.forwards_button, self.everywhere_button),
                self.length,
                self.progress,
                horizontal_row(self.cancel_button, self.export_button),
            ],
        )
        self.native.layout().insertWidget(1, Form([self.video, self.face]))
        self.face.choices = self._faces
        events = napari_viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.connect(self._on_images)
        self._on_layer()

    def _make_controls(self, napari_viewer: Any) -> None:
        self.video = ComboBox(
            label="Video", choices=lambda _: image_layers(napari_viewer), tooltip="Video of the landmarks."
        )
        self.face = ComboBox(label="Face", tooltip="Face to refit and to propagate.")
        self.move_button = push_button(
            "Move landmarks",
            "Zoom in on the face and let napari drag points of this layer. If the face was not found on this "
            "frame, the landmarks of the nearest frame are copied first.",
            self.move,
        )
        self.undo_button, self.redo_button = undo_and_redo()
        self.previous_button = push_button(
            "Previous to check",
            "Go to the previous frame listed in the tab Check. Key: Shift+N.",
            lambda: commands.previous_to_check(napari_viewer),
        )
        self.next_button = push_button(
            "Next to check",
            "Go to the next frame listed in the tab Check. Key: N.",
            lambda: commands.next_to_check(napari_viewer),
        )
        self.refit_button = push_button(
            "Refit this frame",
            "Fit the other landmarks to the manual ones, which stay fixed. Three or four good ones repair a "
            "whole face. Takes less than a second.",
            lambda: self._start("refitting a face", None),
        )
        self.length = SpinBox(
            label="At most (0: all)",
            min=0,
            max=10**8,
            value=TO_THE_END,
            tooltip="Largest number of frames for Back and Forwards; 0: up to the next manually corrected "
            "frame or the end. Manually corrected frames are never changed.",
        )
        self.backwards_button, self.forwards_button, self.everywhere_button = (
            push_button(text, tooltip, partial(self.propagate, direction))
            for direction, (text, tooltip) in PROPAGATE.items()
        )
        self.cancel_button = push_button("Cancel", "Stop without changes.", self.cancel, enabled=False)
        self.export_button = push_button(
            "Export …",
            "Write the landmarks to a file; the NumPy format records which ones are manual.",
            lambda: commands.landmarks_dock(napari_viewer, "Track").track.export(),
        )
        self._layer_buttons = (
            self.previous_button,
            self.next_button,
            self.refit_button,
            self.forwards_button,
            self.backwards_button,
            self.move_button,
            self.export_button,
        )
        self.progress = ProgressBar(min=0, max=1, value=0)

    def _faces(self, _: Any = None) -> list[tuple[str, int]]:
        tracks = None if self.layer is None else self.layer.metadata.get("tracks")
        if not isinstance(tracks, Tracks):
            return []
        return [(name, face) for face, name in enumerate(names_of_faces(tracks))]

    @property
    def busy(self) -> bool:
        """Whether a refit or a propagation is running."""
        return self._worker is not None

    def _on_layer(self) -> None:
        video = video_of_layer(self._viewer, self.layer)
        if video is not None and self.is_open:
            self.video.value = video
        self._update()

    def _on_images(self, _: Any = None) -> None:
        if self.is_open:
            self.video.reset_choices()
            self._on_layer()

    def _show(self, editor: LayerEditor | None) -> None:
        super()._show(editor)
        self.face.reset_choices()
        for button in self._layer_buttons:
            button.enabled = editor is not None and not self.busy
        corrected = editor is not None and bool(editor.manual.any())
        self.everywhere_button.enabled = corrected and not self.busy
        self.cancel_button.enabled = self.busy
        if editor is not None and not self.busy:
            count, frames = int(editor.manual.sum()), int((editor.manual > 0).sum())
            summary = f"Manual landmarks: {count}; frames with manual landmarks: {frames}."
            moved = MOVED if (editor.can_undo or "").startswith("moving") else ""
            self.status.value = summary + moved if count else HOW

    def show_reason(self, frame: int, reason: str) -> None:
        """Show why a frame should be checked, with instructions while nothing is corrected."""
        corrected = self.editor is not None and self.editor.manual.any()
        self.status.value = f"Frame {frame}: {reason}." + ("" if corrected else f" {HOW}")

    def move(self) -> None:
        """Zoom in on the face and make it draggable; copy a missing face from the nearest frame."""
        editor = self.editor
        if editor is None:
            return
        self.status.value = DRAG.capitalize()
        tracks, face, frame = editor.tracks, int(self.face.value or 0), self._frame(editor)
        current, with_the_face = tracks.frame_indices == frame, np.flatnonzero(tracks.present[:, face])
        if current.any() and len(with_the_face) and not tracks.present[current, face].any():
            nearest = with_the_face[np.abs(tracks.frame_indices[with_the_face] - frame).argmin()]
            landmarks, pose = (array[nearest, face].copy() for array in (tracks.landmarks, tracks.pose))
            confidence = np.zeros_like(tracks.confidence[nearest, face])
            sigma = np.full_like(tracks.sigma[nearest, face], np.nan)
            row = int(np.flatnonzero(current)[0])
            values = edited_values(tracks, row, face, landmarks, confidence, sigma, pose)
            editor.apply(with_face(tracks, row, face, values), "placing a face")
            self.status.value = PLACED.format(tracks.frame_indices[nearest])
        self._viewer.layers.selection.active = editor.layer
        editor.layer.mode = "select"
        for landmarks in editor.tracks.landmarks[current, face]:
            zoom_in(self._viewer, self.video.value, editor.layer, frame, landmarks)

    def _frame(self, editor: LayerEditor) -> int:
        frame = frame_shown(self._viewer, editor.layer)
        return int(editor.tracks.frame_indices[0]) if frame is None else frame

    def propagate(self, direction: str) -> None:
        """Propagate the correction from the current frame."""
        self._start(f"propagating {direction}", direction)

    def cancel(self) -> None:
        """Stop the running refit or propagation; nothing is changed."""
        if self._worker is not None:
            self._worker.quit()
            self.cancel_button.enabled = False

    def _start(self, title: str, direction: str | None) -> None:
        editor, video = self.editor, self.video.value
        if editor is None or self._worker is not None:
            return
        try:
            count_frames(video)
            frames = frames_of_layer(video)
        except FaceLandmarksError as error:
            self._show_error(str(error))
            return
        frame, until = self._frame(editor), None
        if self.length.value != TO_THE_END and direction != "everywhere":
            until = frame + int(self.length.value) * (1 if direction == "forwards" else -1)
        steps = _work(editor.tracks, frames, frame, self.face.value or 0, direction, until)
        self._worker = create_worker(
            lambda: (yield from steps),
            _start_thread=False,
            _connect={
                "yielded": self._on_progress,
                "returned": lambda result: self._on_returned(editor, title, result),
                "finished": self._on_finished,
            },
        )
        self._update()
        self._title, self._started_at = title.capitalize(), time.monotonic()
        self.status.value = f"{self._title} …"
        self._worker.start()

    def _on_progress(self, step: tuple[int, int]) -> None:
        if not self.is_open:
            return
        done, total = step
        self.progress.max, self.progress.value = total, done
        now = time.monotonic()
        if done <= 1:
            self._started_at = now  # the models and their kernels are loaded
        elif now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            left = format_duration((total - done) * (now - self._started_at) / (done - 1))
            self.status.value = f"{self._title}: {done} of {total} frames, {left} left"

    def _on_returned(self, editor: LayerEditor, title: str, result: Tracks | str) -> None:
        if not self.is_open:
            return
        if isinstance(result, str):
            self._show_error(result)
        elif editor.layer in self._viewer.layers:
            changed = count_changed(editor.tracks, result)
            editor.apply(result, title)
            outcome = f"{counted(changed, 'frame')} changed." if changed else UNCHANGED
            self._outcome = f"{self._title}: {outcome}"

    def _on_finished(self) -> None:
        if not self.is_open:
            return
        self._worker = None
        before = self._outcome or self.status.value
        self._update()
        self.progress.value = self.progress.max if self._outcome else 0
        if self._outcome:
            self.status.value = f"{before} {self.status.value}"
        elif before.endswith(".") and before != HOW and "Manual landmarks:" not in before:
            self.status.value = before
        self._outcome = ""

    def _on_destroyed(self) -> None:
        super()._on_destroyed()
        if self._worker is not None:
            self._worker.quit()


def count_changed(before: Tracks, after: Tracks) -> int:
    """Return the number of frames on which the landmarks of two tracks differ."""
    same = (before.landmarks == after.landmarks) | (np.isnan(before.landmarks) & np.isnan(after.landmarks))
    return int((~same.all(axis=(1, 2, 3))).sum())


def _work(
    tracks: Tracks, frames: Any, frame: int, face: int, direction: Any, until: int | None
) -> Generator[tuple[int, int], None, Tracks | str]:
    """Refit (without direction) or propagate in the worker thread; return the tracks or an error message."""
    try:
        models = models_of_tracks(tracks)
        yield 0, 1
        if direction is None:
            check_length(int(frames.shape[0]), frame)
            return refit_in_tracks(models, frames[frame], tracks, frame, face)
        return (yield from propagate_steps(models, frames, tracks, frame, face, direction, until))
    except FaceLandmarksError as error:
        return str(error)
    except Exception as error:
        LOG.exception("The correction failed")
        reason = f"{type(error).__name__}: {in_one_line(error)}"
        return f"The correction failed with an unexpected error ({reason})."
