"""The dock "Many videos": settings for all videos, state and quality of each, measures in one table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from magicgui.widgets import ComboBox
from napari.layers import Layer
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Qt, QTimer, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QDialog,
    QFileDialog,
    QHeaderView,
    QLineEdit,
    QProgressBar,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)
from superqt.utils import create_worker

from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.io.formats import FORMATS
from napari_face_landmarks.measures import MEASURES
from napari_face_landmarks.measures.definitions import name_without_side
from napari_face_landmarks.measures.plot import unit_symbol
from napari_face_landmarks.napari_plugin.layers import image_layers, landmark_layers, show_alone
from napari_face_landmarks.napari_plugin.panels import run_in_thread
from napari_face_landmarks.napari_plugin.points_layer import tracks_to_layer_data
from napari_face_landmarks.napari_plugin.preferences import read_preferences
from napari_face_landmarks.napari_plugin.qt_forms import (
    PLUGIN,
    Advanced,
    CloseGuard,
    Docked,
    Form,
    Scrolling,
    WrappedLabel,
    button,
    elide_long_items,
    hbox,
    read_only_table,
    set_contents,
    vbox,
    video_patterns,
    with_tooltip,
)
from napari_face_landmarks.napari_plugin.run_controller import format_duration
from napari_face_landmarks.napari_plugin.settings_form import SettingsControls
from napari_face_landmarks.priority import cores
from napari_face_landmarks.quality import check
from napari_face_landmarks.quality.statistics import count as counted
from napari_face_landmarks.runs.batch import track_many
from napari_face_landmarks.runs.batch_files import find_videos
from napari_face_landmarks.runs.job import FAILED, FileResult
from napari_face_landmarks.runs.measures import MEASURES_TABLE
from napari_face_landmarks.runs.summary import summary_line
from napari_face_landmarks.runs.worker import error_sentence
from napari_face_landmarks.tracking.control import RunControl

TITLE = "Many videos"
NO_MEASURES = "There are no measures yet: press Track all."
POLL_MS = 250
"""Between two updates of the table during a batch."""
COLUMNS = ("Video", "State", "Quality")
WAITING = "waiting"
RESULTS = "landmarks"
"""Name of the suggested results folder, next to the videos."""
HINT = "Add video files or a folder, or drop them here."


@dataclass
class StudyVideo:
    """A video of a study with its result, as shown in the table."""

    path: str  # absolute
    state: str = WAITING
    quality: str = ""
    detail: str = ""  # description of the result, one sentence per line
    output: str = ""  # file of its landmarks, if finished
    part: float = 0.0  # fraction tracked, 0 to 1


@dataclass
class Study(RunControl):
    """A batch of videos, tracked by `track_many` in a worker thread; read and cancelled by the GUI.

    When it is cancelled, finished videos are kept, and the next batch resumes unfinished ones.
    """

    videos: list[StudyVideo]
    folder: Path  # of the results
    options: dict[str, Any] = field(default_factory=dict)  # of `track_many`
    error: str = ""  # reason of a premature end
    results: list[FileResult] = field(default_factory=list)  # in any order

    def __post_init__(self) -> None:
        super().__init__()

    def run(self) -> None:
        """Run the batch; errors are stored in `error`."""
        for video in self.videos:
            video.state, video.quality, video.detail = WAITING, "", ""
            video.output, video.part = "", 0.0
        try:
            track_many(
                [video.path for video in self.videos],
                self.folder,
                resume=True,
                measures=True,
                progress=self._on_progress,
                on_result=self._on_result,
                cancelled=lambda: self.cancelled,
                **self.options,
            )
        except Exception as error:
            self.error = error_sentence(error)
        for video in self.videos:
            if not video.output and not video.detail:
                video.state = "to be resumed" if video.part else "not begun"

    def _video(self, path: str) -> StudyVideo:
        return next(video for video in self.videos if video.path == path)

    def _on_progress(self, path: str, done: int, total: int) -> None:
        video = self._video(path)
        video.part = min(done / max(total, 1), 1.0)
        video.state = f"{100 * video.part:.0f} %"

    def _on_result(self, result: FileResult) -> None:
        video = self._video(result.video)
        self.results.append(result)
        sentences = [result.reason, *result.warnings]
        if result.status != FAILED:
            video.output = result.output
            try:
                found = check(Tracks.load(result.output, self.options.get("format")))
            except FaceLandmarksError as error:
                sentences.append(str(error))
            else:
                suspects = len(found.suspects)
                share = 100 * result.frames_with_faces // max(result.frames, 1)
                video.quality = f"{suspects or 'none'} to check"
                video.quality += f", face on {share} %" if share < 100 else ""
                sentences += found.words
        video.part = 1.0
        video.state = f"{result.status} before" if result.earlier else result.status
        video.detail = "\n".join(filter(None, sentences)) or result.status


class StudyDock(Docked):
    """Contents of the dock "Many videos": tracks videos with the same settings and shows the results."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(TITLE)
        self._viewer = napari_viewer
        self.videos: list[StudyVideo] = []
        self._study: Study | None = None
        self._first_progress: tuple[float, float] | None = None
        self._suggested = ""  # folder of results
        self._state = SimpleNamespace(open=True, study=None)  # outlives this widget, whose parts Qt deletes
        self._make_controls()
        self._make_settings()
        self._lay_out()
        self._guard: CloseGuard | None = None
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._poll)
        self.setAcceptDrops(True)
        state = self._state
        self.destroyed.connect(lambda: _on_deleted(state))
        self._update_buttons()

    def _make_controls(self) -> None:
        self.add_button = button("Add files …", "Choose video files.", self.ask_for_videos)
        self.folder_button = button(
            "Add folder …", "Add all videos in a folder and its subfolders.", self.ask_for_folder
        )
        self.remove_button = button(
            "Remove", "Remove the selected videos from the list; no file is deleted.", self.remove
        )
        self.run_button = button(
            "Track all",
            "Track and measure all videos; finished ones are skipped.",
            self.run,
        )
        self.cancel_button = button(
            "Cancel", "Stop. Results are kept, and Track all resumes the remaining videos.", self.cancel
        )
        self.measures_button = button(
            "All measures", "Show the measures of all videos in one table.", self.show_measures
        )
        self.results_button = button("Open the folder", "Show the result files.", self.open_folder)
        conditional = (self.remove_button, self.run_button, self.measures_button, self.results_button)
        self._help = {each: each.toolTip() for each in conditional}
        table_help = "Click to open a video with its landmarks, or to see why it failed."
        self.table = with_tooltip(read_only_table(len(COLUMNS)), table_help)
        self.table.setHorizontalHeaderLabels(COLUMNS)
        self.table.verticalHeader().setVisible(False)
        self.table.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setMinimumSectionSize(50)
        self.table.cellClicked.connect(lambda row, _: self.open_result(row))
        self.folder = with_tooltip(QLineEdit(), "Folder for landmarks, measures and tables of all videos.")
        self.folder.setPlaceholderText("Results folder")
        self.browse_button = button("…", "Choose the results folder.", self.ask_for_results)
        self.progress = QProgressBar()
        self.progress.setRange(0, 100)
        self.progress.setValue(0)
        self.status = WrappedLabel(lines=2)
        self.status.setText(HINT)

    def _make_settings(self) -> None:
        self._chosen = chosen = SettingsControls(self._show_message)
        self.preset, self.model, self.settings_controls = (
            chosen.preset,
            chosen.model,
            chosen.settings_controls,
        )
        self.format = ComboBox(
            label="Format",
            choices=[(item.title, item.name) for item in FORMATS],
            tooltip="Format of the landmark files; measures are written as CSV.",
        )
        chosen.load_preferences(read_preferences())
        self._settings = [self.preset, self.format, self.model, *self.settings_controls.values()]

    def _lay_out(self) -> None:
        self.browse_button.setMaximumWidth(40)
        self.advanced = Advanced([self.model, self._chosen.licence, *self.settings_controls.values()])
        elide_long_items(self.model.native, 8)
        inner = QWidget()
        inner.setLayout(
            vbox(
                hbox(self.add_button, self.folder_button, self.remove_button),
                (self.table, 1),
                Form([self.preset, self.format]),
                hbox(self.folder, self.browse_button),
                hbox(self.run_button, self.cancel_button),
                hbox(self.measures_button, self.results_button),
                self.progress,
                self.status,
                self.advanced,
            )
        )
        set_contents(self, Scrolling(inner))

    # the list of videos

    def ask_for_videos(self) -> None:
        """Show a dialog for video files and add them."""
        paths, _ = QFileDialog.getOpenFileNames(self, "Add videos", "", video_patterns())
        self.add(paths)

    def ask_for_folder(self) -> None:
        """Show a dialog for a folder and add its videos."""
        folder = QFileDialog.getExistingDirectory(self, "Add the videos of a folder")
        self.add([folder] if folder else [])

    def ask_for_results(self) -> None:
        """Show a dialog for the results folder."""
        folder = QFileDialog.getExistingDirectory(self, "Results folder", self.folder.text())
        if folder:
            self.folder.setText(folder)

    def dragEnterEvent(self, event: Any) -> None:
        """Accept dragged files and folders."""
        if event.mimeData().hasUrls() and self._study is None:
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Add the videos of dropped files and folders."""
        paths = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        if paths and self._study is None:
            event.acceptProposedAction()
            self.add(paths)

    def add(self, inputs: Sequence[str]) -> None:
        """Add video files and the videos in folders to the list; `inputs` as for `track_many`."""
        if not inputs or self._study is not None:
            return
        try:
            found = [str(video) for video, _ in find_videos(inputs)]
        except FaceLandmarksError as error:
            self._show_error(str(error))
            return
        known = {video.path for video in self.videos}
        self.videos += [StudyVideo(path) for path in found if path not in known]
        if self.folder.text() in ("", self._suggested):
            first = Path(inputs[0])
            self._suggested = str((first if first.is_dir() else first.parent).absolute() / RESULTS)
            self.folder.setText(self._suggested)
        self.status.setText(f"{counted(len(self.videos), 'video')}.")
        self._update_table()

    def remove(self) -> None:
        """Remove the selected videos from the list."""
        rows = {index.row() for index in self.table.selectedIndexes()}
        self.videos = [video for row, video in enumerate(self.videos) if row not in rows]
        self.status.setText(f"{counted(len(self.videos), 'video')}." if self.videos else HINT)
        self._update_table()

    # running a batch

    @property
    def running(self) -> bool:
        """Whether videos are being tracked."""
        return self._study is not None

    def run(self) -> None:
        """Track all videos in the list; finished ones are skipped."""
        if self._study is not None or not self.videos:
            return
        if not self.folder.text().strip():
            self._show_error("There is no results folder: choose one.")
            return
        try:
            settings = self._chosen.settings()
        except FaceLandmarksError as error:
            self._show_error(str(error))
            return
        options = {
            "settings": settings,
            "models": str(self.model.value),
            "format": str(self.format.value),
            "jobs": max(1, cores() - 1),  # one core remains for the GUI
        }
        study = self._study = self._state.study = Study(self.videos, Path(self.folder.text()), options)
        self._guard = CloseGuard(self, lambda: self._study is not None)
        self._first_progress = None
        self.status.setText("Starting …")
        self._update_buttons()
        self._timer.start()
        finished = {"finished": lambda: self._on_finished()}  # a slot of a deleted widget is not called
        create_worker(study.run, _start_thread=True, _connect=finished)

    def cancel(self) -> None:
        """Cancel the batch; finished videos are kept, and the next run resumes unfinished ones."""
        if self._study is not None:
            self._study.cancel()
            self.cancel_button.setEnabled(False)
            self.status.setText("Stopping …")

    def _poll(self) -> None:
        """Show the progress of the batch; cancel it if the dock was closed."""
        study = self._study
        if study is None or not self._state.open:
            return
        if not self.window().isVisible():
            study.cancel()
        self._update_table()
        part = sum(video.part for video in self.videos) / len(self.videos)
        self.progress.setValue(int(100 * part))
        now = time.monotonic()
        if not study.cancelled and part > 0:
            if self._first_progress is None:  # exclude the start and earlier results from the rate
                self._first_progress = now, part
            since, before = self._first_progress
            text = f"{len(study.results)} of {len(self.videos)} videos done"
            if part > before:
                text += f", about {format_duration((now - since) * (1 - part) / (part - before))} left"
            self.status.setText(text)

    def _on_finished(self) -> None:
        study, self._study = self._study, None
        if study is None:
            return
        if not self._state.open:
            if self._guard is not None and self._guard.window_is_open:
                show_info(f"The dock {TITLE} was closed: the results are kept in {study.folder}.")
            return
        self._state.study = None
        self._timer.stop()
        self._update_table()
        if study.error:
            self._show_error(study.error)
            return
        self.progress.setValue(int(100 * sum(video.part for video in self.videos) / len(self.videos)))
        text = "Cancelled; Track all resumes the remaining videos. " if study.cancelled else ""
        if study.results:
            text += f"{summary_line(study.results)} Click a video to open its landmarks."
        self.status.setText(text.strip() or "Nothing was tracked.")

    # showing results

    def _update_table(self) -> None:
        """Update the table from the list of videos."""
        self.table.setRowCount(len(self.videos))
        for row, video in enumerate(self.videos):
            texts = (Path(video.path).name, video.state, video.quality)
            for column, text in enumerate(texts):
                item = self.table.item(row, column)
                if item is None:
                    self.table.setItem(row, column, item := QTableWidgetItem())
                if item.text() != text:
                    item.setText(text)
                tooltip = f"{video.path}\n{video.detail}".strip()
                if item.toolTip() != tooltip:
                    item.setToolTip(tooltip)
        self._update_buttons()

    def _update_buttons(self) -> None:
        """Enable the controls that can be used now; the tooltips of the others say why they cannot."""
        idle = self._study is None
        for control in (self.add_button, self.folder_button, self.folder, self.browse_button):
            control.setEnabled(idle)
        for setting in self._settings:
            setting.enabled = idle
        self.cancel_button.setEnabled(not idle and self._study is not None and not self._study.cancelled)
        folder = Path(self.folder.text() or RESULTS)
        no_videos = "" if self.videos else "There are no videos yet: add some."
        obstacles = {
            self.remove_button: no_videos,
            self.run_button: no_videos,
            self.measures_button: "" if (folder / MEASURES_TABLE).is_file() else NO_MEASURES,
            self.results_button: ""
            if folder.is_dir()
            else "There is no results folder yet: press Track all.",
        }
        for each, obstacle in obstacles.items():
            each.setEnabled(not obstacle and (idle or each is self.results_button))
            each.setToolTip(obstacle or self._help[each])

    def open_result(self, row: int) -> None:
        """Show the video of a row with its landmarks, and hide all others."""
        video = self.videos[row]
        if not video.output:
            self.status.setText(video.detail or f"{Path(video.path).name}: {video.state}.")
            return
        shown = [each for each in image_layers(self._viewer) if each.metadata.get("path") == video.path]
        try:
            image = shown[-1] if shown else self._viewer.open(video.path, plugin=PLUGIN)[0]
        except FaceLandmarksError as error:
            self._show_error(str(error))
            return
        known = [each for each in landmark_layers(self._viewer) if each.metadata.get("path") == video.output]
        show_alone(self._viewer, image, *known)
        if known:
            self._viewer.layers.selection.active = known[-1]
            return
        self.status.setText(f"Opening {Path(video.output).name} …")
        run_in_thread(
            partial(Tracks.load, video.output, self.format.value),
            partial(self._on_loaded, image, video.output),
        )

    def _on_loaded(self, image: Any, output: str, found: Tracks | str) -> None:
        if not self._state.open or image not in self._viewer.layers:
            return
        if isinstance(found, str):
            self._show_error(found)
            return
        data, attributes, kind = tracks_to_layer_data(found, image)[0]
        attributes["metadata"] = {**attributes["metadata"], "path": output}
        self._viewer.add_layer(Layer.create(data, attributes, kind))
        self.status.setText(f"{image.name}: continue in the tabs of the dock Face landmarks.")

    def show_measures(self) -> None:
        """Show the measures of all videos in one table, a column for each video and face."""
        try:
            show_measures(self, Path(self.folder.text()) / MEASURES_TABLE)
        except (OSError, ValueError) as error:
            self._show_error(f"The table of measures could not be read ({error}): press Track all again.")

    def open_folder(self) -> None:
        """Show the results folder in the system's file manager."""
        QDesktopServices.openUrl(QUrl.fromLocalFile(self.folder.text()))

    def _show_message(self, sentence: str) -> None:
        if hasattr(self, "status"):
            self.status.setText(sentence)

    def _show_error(self, sentence: str) -> None:
        self.status.setText(sentence)
        self._update_buttons()
        show_error(sentence)


def _on_deleted(state: SimpleNamespace) -> None:
    state.open = False
    if state.study is not None:
        state.study.cancel()


def show_measures(parent: QWidget, path: Path) -> QDialog:
    """Show a batch's table of measures in a dialog, with a row for each measure, and return it."""
    import pandas as pd

    rows = pd.read_csv(path)
    titles = [Path(video).stem for video in rows["video"].astype(str)]
    many = rows["video"].duplicated(keep=False)
    titles = [
        f"{title}, {face}" if several else title
        for title, face, several in zip(titles, rows.get("face", titles), many, strict=True)
    ]
    measured = [name for name in rows.columns if name not in ("video", "face")]
    dialog = QDialog(parent)
    dialog.setWindowTitle("Measures of all videos")
    dialog.resize(720, 480)
    table = QTableWidget(len(measured), len(titles))
    table.setHorizontalHeaderLabels(titles)
    unit = str(rows["unit"].iloc[0]) if "unit" in rows and len(rows) else ""
    table.setVerticalHeaderLabels(
        [f"{name.replace('_', ' ')} {_unit_of(name, unit)}".strip() for name in measured]
    )
    table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
    for line, name in enumerate(measured):
        for column, value in enumerate(rows[name]):
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            table.setItem(line, column, QTableWidgetItem("" if text == "nan" else text))
    table.resizeColumnsToContents()
    note = WrappedLabel()
    note.setText(f"As a file: {path}. Low and high are the ends of the 95 % interval.")
    dialog.setLayout(vbox(table, note))
    dialog.show()
    return dialog


def _unit_of(column: str, length_unit: str) -> str:
    """Return the unit symbol of a column of a batch's measures; `length_unit` is the unit of lengths."""
    if "symmetry" in column:
        return "%"
    bases = {name_without_side(item.name): item.kind for item in MEASURES}
    kind = next((kind for base, kind in bases.items() if column.startswith(f"{base}_")), "")
    return unit_symbol(
        {"length": length_unit, "area": length_unit and f"{length_unit}2", "angle": "deg"}.get(kind, "")
    )
