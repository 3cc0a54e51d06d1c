"""The dock "Many videos": one form of settings, state and quality of each video, measures in one table."""

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
from napari_face_landmarks.measures.plot import unit_symbol
from napari_face_landmarks.napari_plugin.layers import image_layers, landmark_layers, show_alone
from napari_face_landmarks.napari_plugin.panels import do_elsewhere
from napari_face_landmarks.napari_plugin.points_layer import tracks_to_layer_data
from napari_face_landmarks.napari_plugin.preferences import read_preferences
from napari_face_landmarks.napari_plugin.qt_forms import (
    PLUGIN,
    Advanced,
    CloseGuard,
    Docked,
    Form,
    Scrolling,
    Words,
    button,
    column_of,
    fill,
    line_of,
    may_be_narrow,
    table_to_read,
    video_patterns,
    with_help,
)
from napari_face_landmarks.napari_plugin.run_controller import duration
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
LOOK_MS = 250
"""Between two looks at what the working thread has done."""
COLUMNS = ("Video", "State", "Quality")
WAITING = "waiting"
RESULTS = "landmarks"
"""The folder of the results that is proposed, next to the videos."""
HINT = "Add video files or a folder, or drop them here."


@dataclass
class StudyVideo:
    """A video of a study and what became of it, as the table shows it."""

    path: str  # absolute
    state: str = WAITING
    quality: str = ""
    detail: str = ""  # all that is known of the result, one sentence a line
    output: str = ""  # the file of its landmarks, once there is one
    part: float = 0.0  # how much of it is tracked, 0 to 1


@dataclass
class Study(RunControl):
    """Videos that `track_many` tracks on a working thread; read by the GUI, which may cancel it.

    What is done by then is kept, and the next batch resumes what was begun.
    """

    videos: list[StudyVideo]
    folder: Path  # of the results
    options: dict[str, Any] = field(default_factory=dict)  # of `track_many`
    error: str = ""  # why the batch has ended before its time, or nothing could be written
    results: list[FileResult] = field(default_factory=list)  # in any order

    def __post_init__(self) -> None:
        super().__init__()

    def run(self) -> None:
        """Do the batch; errors end up in `error`."""
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
    """Track many videos with the same settings, and look at the results."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(TITLE)
        self._viewer = napari_viewer
        self.videos: list[StudyVideo] = []
        self._study: Study | None = None
        self._first_look: tuple[float, float] | None = None
        self._proposed = ""  # the folder of results
        self._there = SimpleNamespace(open=True, study=None)  # outlives this widget, whose parts Qt deletes
        self._make_controls()
        self._make_settings()
        self._lay_out()
        self._guard: CloseGuard | None = None
        self._timer = QTimer(self)
        self._timer.setInterval(LOOK_MS)
        self._timer.timeout.connect(self._look)
        self.setAcceptDrops(True)
        there = self._there
        self.destroyed.connect(lambda: _leave(there))
        self._offer()

    def _make_controls(self) -> None:
        self.add_button = button("Add files …", "Choose video files.", self.ask_for_videos)
        self.folder_button = button(
            "Add folder …", "Add all videos of a folder and of the folders in it.", self.ask_for_folder
        )
        self.remove_button = button(
            "Remove", "Take the selected videos off the list; no file is deleted.", self.remove
        )
        self.run_button = button(
            "Track all",
            "Track all videos and measure them; those that are done already are left alone.",
            self.run,
        )
        self.cancel_button = button(
            "Cancel", "Stop. What is done is kept, and Track all resumes the rest.", self.cancel
        )
        self.measures_button = button(
            "All measures", "Show the measures of all videos in one table.", self.show_measures
        )
        self.results_button = button("Open the folder", "Show the files of the results.", self.open_folder)
        offered = (self.remove_button, self.run_button, self.measures_button, self.results_button)
        self._help = {each: each.toolTip() for each in offered}
        what_a_click_does = "A click opens a video with its landmarks, or says why it failed."
        self.table = with_help(table_to_read(len(COLUMNS)), what_a_click_does)
        self.table.setHorizontalHeaderLabels(COLUMNS)
        self.table.verticalHeader().setVisible(False)
        self.table.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setMinimumSectionSize(50)
        self.table.cellClicked.connect(lambda row, _: self.open_result(row))
        self.folder = with_help(
            QLineEdit(), "Landmarks, measures and tables of all videos are written there."
        )
        self.folder.setPlaceholderText("Folder of the results")
        self.browse_button = button("…", "Choose the folder of the results.", self.ask_for_results)
        self.progress = QProgressBar()
        self.progress.setRange(0, 100)
        self.progress.setValue(0)
        self.status = Words(lines=2)
        self.status.setText(HINT)

    def _make_settings(self) -> None:
        self._chosen = chosen = SettingsControls(self._tell)
        self.preset, self.model, self.settings_controls = (
            chosen.preset,
            chosen.model,
            chosen.settings_controls,
        )
        self.format = ComboBox(
            label="Format",
            choices=[(item.title, item.name) for item in FORMATS],
            tooltip="Of the files of landmarks; measures are written as CSV.",
        )
        chosen.begin_as(read_preferences())
        self._settings = [self.preset, self.format, self.model, *self.settings_controls.values()]

    def _lay_out(self) -> None:
        self.browse_button.setMaximumWidth(40)
        self.advanced = Advanced([self.model, self._chosen.licence, *self.settings_controls.values()])
        may_be_narrow(self.model.native, 8)
        inner = QWidget()
        inner.setLayout(
            column_of(
                line_of(self.add_button, self.folder_button, self.remove_button),
                (self.table, 1),
                Form([self.preset, self.format]),
                line_of(self.folder, self.browse_button),
                line_of(self.run_button, self.cancel_button),
                line_of(self.measures_button, self.results_button),
                self.progress,
                self.status,
                self.advanced,
            )
        )
        fill(self, Scrolling(inner))

    # which videos

    def ask_for_videos(self) -> None:
        """Have the user choose video files."""
        paths, _ = QFileDialog.getOpenFileNames(self, "Add videos", "", video_patterns())
        self.add(paths)

    def ask_for_folder(self) -> None:
        """Have the user choose a folder of videos."""
        folder = QFileDialog.getExistingDirectory(self, "Add the videos of a folder")
        self.add([folder] if folder else [])

    def ask_for_results(self) -> None:
        """Have the user choose where the results go."""
        folder = QFileDialog.getExistingDirectory(self, "Folder of the results", self.folder.text())
        if folder:
            self.folder.setText(folder)

    def dragEnterEvent(self, event: Any) -> None:
        """Take files and folders that are dragged here."""
        if event.mimeData().hasUrls() and self._study is None:
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Add the videos among files and folders that are dropped here."""
        paths = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        if paths and self._study is None:
            event.acceptProposedAction()
            self.add(paths)

    def add(self, inputs: Sequence[str]) -> None:
        """Add videos, and those of folders, to the list, given as `track_many` takes them."""
        if not inputs or self._study is not None:
            return
        try:
            found = [str(video) for video, _ in find_videos(inputs)]
        except FaceLandmarksError as error:
            self._tell_error(str(error))
            return
        known = {video.path for video in self.videos}
        self.videos += [StudyVideo(path) for path in found if path not in known]
        if self.folder.text() in ("", self._proposed):
            first = Path(inputs[0])
            self._proposed = str((first if first.is_dir() else first.parent).absolute() / RESULTS)
            self.folder.setText(self._proposed)
        self.status.setText(f"{counted(len(self.videos), 'video')}.")
        self._fill()

    def remove(self) -> None:
        """Take the selected videos off the list."""
        rows = {index.row() for index in self.table.selectedIndexes()}
        self.videos = [video for row, video in enumerate(self.videos) if row not in rows]
        self.status.setText(f"{counted(len(self.videos), 'video')}." if self.videos else HINT)
        self._fill()

    # a batch from its start to its end

    @property
    def running(self) -> bool:
        """Whether videos are being tracked."""
        return self._study is not None

    def run(self) -> None:
        """Track all videos of the list; those that are done already are left alone."""
        if self._study is not None or not self.videos:
            return
        if not self.folder.text().strip():
            self._tell_error("There is no folder for the results: choose one.")
            return
        try:
            settings = self._chosen.settings()
        except FaceLandmarksError as error:
            self._tell_error(str(error))
            return
        options = {
            "settings": settings,
            "models": str(self.model.value),
            "format": str(self.format.value),
            "jobs": max(1, cores() - 1),  # one is left for the window
        }
        study = self._study = self._there.study = Study(self.videos, Path(self.folder.text()), options)
        self._guard = CloseGuard(self, lambda: self._study is not None)
        self._first_look = None
        self.status.setText("Starting …")
        self._offer()
        self._timer.start()
        finished = {"finished": lambda: self._on_finished()}  # a slot of a deleted widget is not called
        create_worker(study.run, _start_thread=True, _connect=finished)

    def cancel(self) -> None:
        """Stop; what is done is kept, and what was begun is resumed by the next run."""
        if self._study is not None:
            self._study.cancel()
            self.cancel_button.setEnabled(False)
            self.status.setText("Stopping …")

    def _look(self) -> None:
        """Show how far the batch is; a dock that was closed ends it."""
        study = self._study
        if study is None or not self._there.open:
            return
        if not self.window().isVisible():
            study.cancel()
        self._fill()
        part = sum(video.part for video in self.videos) / len(self.videos)
        self.progress.setValue(int(100 * part))
        now = time.monotonic()
        if not study.cancelled and part > 0:
            if self._first_look is None:  # the start, and what was done before, say nothing of the speed
                self._first_look = now, part
            since, before = self._first_look
            text = f"{len(study.results)} of {len(self.videos)} videos done"
            if part > before:
                text += f", about {duration((now - since) * (1 - part) / (part - before))} left"
            self.status.setText(text)

    def _on_finished(self) -> None:
        study, self._study = self._study, None
        if study is None:
            return
        if not self._there.open:
            if self._guard is not None and self._guard.window_is_open:
                show_info(f"The dock {TITLE} was closed: what is done is kept in {study.folder}.")
            return
        self._there.study = None
        self._timer.stop()
        self._fill()
        if study.error:
            self._tell_error(study.error)
            return
        self.progress.setValue(int(100 * sum(video.part for video in self.videos) / len(self.videos)))
        words = "Cancelled; Track all resumes the rest. " if study.cancelled else ""
        if study.results:
            words += f"{summary_line(study.results)} A click on a video opens its landmarks."
        self.status.setText(words.strip() or "Nothing was tracked.")

    # showing it

    def _fill(self) -> None:
        """Show the list as it stands."""
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
        self._offer()

    def _offer(self) -> None:
        """Enable what can be done now."""
        idle = self._study is None
        for control in (self.add_button, self.folder_button, self.folder, self.browse_button):
            control.setEnabled(idle)
        for setting in self._settings:
            setting.enabled = idle
        self.cancel_button.setEnabled(not idle and self._study is not None and not self._study.cancelled)
        folder = Path(self.folder.text() or RESULTS)
        no_videos = "" if self.videos else "There are no videos yet: add some."
        missing = {
            self.remove_button: no_videos,
            self.run_button: no_videos,
            self.measures_button: "" if (folder / MEASURES_TABLE).is_file() else NO_MEASURES,
            self.results_button: "" if folder.is_dir() else "There is no such folder yet: press Track all.",
        }
        for each, why in missing.items():
            each.setEnabled(not why and (idle or each is self.results_button))
            each.setToolTip(why or self._help[each])

    def open_result(self, row: int) -> None:
        """Show the video of a row with its landmarks in the viewer, and hide all others."""
        video = self.videos[row]
        if not video.output:
            self.status.setText(video.detail or f"{Path(video.path).name}: {video.state}.")
            return
        shown = [each for each in image_layers(self._viewer) if each.metadata.get("path") == video.path]
        try:
            image = shown[-1] if shown else self._viewer.open(video.path, plugin=PLUGIN)[0]
        except FaceLandmarksError as error:
            self._tell_error(str(error))
            return
        known = [each for each in landmark_layers(self._viewer) if each.metadata.get("path") == video.output]
        show_alone(self._viewer, image, *known)
        if known:
            self._viewer.layers.selection.active = known[-1]
            return
        self.status.setText(f"Opening {Path(video.output).name} …")
        do_elsewhere(
            partial(Tracks.load, video.output, self.format.value),
            partial(self._on_loaded, image, video.output),
        )

    def _on_loaded(self, image: Any, output: str, found: Tracks | str) -> None:
        if not self._there.open or image not in self._viewer.layers:
            return
        if isinstance(found, str):
            self._tell_error(found)
            return
        data, attributes, kind = tracks_to_layer_data(found, image)[0]
        attributes["metadata"] = {**attributes["metadata"], "path": output}
        self._viewer.add_layer(Layer.create(data, attributes, kind))
        self.status.setText(f"{image.name}: go on with the tabs of the dock Face landmarks.")

    def show_measures(self) -> None:
        """Show the measures of all videos in one table, a column for each video and face."""
        try:
            show_measures(self, Path(self.folder.text()) / MEASURES_TABLE)
        except (OSError, ValueError) as error:
            self._tell_error(f"The table of measures cannot be read ({error}): press Track all again.")

    def open_folder(self) -> None:
        """Show the folder of the results in the system's file manager."""
        QDesktopServices.openUrl(QUrl.fromLocalFile(self.folder.text()))

    def _tell(self, sentence: str) -> None:
        if hasattr(self, "status"):
            self.status.setText(sentence)

    def _tell_error(self, sentence: str) -> None:
        self.status.setText(sentence)
        self._offer()
        show_error(sentence)


def _leave(there: SimpleNamespace) -> None:
    there.open = False
    if there.study is not None:
        there.study.cancel()


def show_measures(parent: QWidget, path: Path) -> QDialog:
    """Show a batch's table of measures, a row for each measure, in a window of its own; return that."""
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
    words = Words()
    words.setText(f"As a file: {path}. Low and high are the ends of the 95 % interval.")
    dialog.setLayout(column_of(table, words))
    dialog.show()
    return dialog


def _unit_of(column: str, of_lengths: str) -> str:
    """Return the symbol of the unit of a column of a batch's measures; `of_lengths` is that of lengths."""
    if "symmetry" in column:
        return "%"
    bases = {item.name.removesuffix(f"_{item.side}"): item.kind for item in MEASURES}
    kind = next((kind for base, kind in bases.items() if column.startswith(f"{base}_")), "")
    return unit_symbol(
        {"length": of_lengths, "area": of_lengths and f"{of_lengths}2", "angle": "deg"}.get(kind, "")
    )
