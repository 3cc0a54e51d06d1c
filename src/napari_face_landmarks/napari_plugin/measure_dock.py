"""The tab Measure: curves tied to the time slider, lines on the face, tables."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QPointF, QSize, Qt, QTimer
from qtpy.QtGui import QColor, QIcon, QPainter, QPen, QPixmap, QPolygonF
from qtpy.QtWidgets import (
    QAbstractButton,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHeaderView,
    QInputDialog,
    QLabel,
    QPushButton,
    QTableWidgetItem,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_face_landmarks.data.frame import FrameResult
from napari_face_landmarks.data.names import MODELS
from napari_face_landmarks.data.tracks import Tracks, collect
from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.ibug import OUTLINES
from napari_face_landmarks.measures import (
    MEASURES,
    PAIRS,
    Measure,
    MeasureTable,
    blinks,
    compare,
    measure,
    summary,
)
from napari_face_landmarks.measures.files import events_to_dataframe, to_dataframe, write_table
from napari_face_landmarks.measures.plot import SIDE_COLOURS, plot_measures, save_figure, unit_symbol
from napari_face_landmarks.measures.validation import caution
from napari_face_landmarks.napari_plugin.curves import Curves, columns_of
from napari_face_landmarks.napari_plugin.layers import frame_shown, show_frame, video_of_layer
from napari_face_landmarks.napari_plugin.panels import (
    EnlargeableCurves,
    FollowingPanel,
    reader_of,
    run_in_thread,
)
from napari_face_landmarks.napari_plugin.qt_forms import (
    LayerChooser,
    WrappedLabel,
    call_while_open,
    elide_long_items,
    hbox,
    read_only_table,
    set_contents,
    vbox,
    with_tooltip,
)

OUTLINE = "#909090"
LINES_LAYER = "Measured"
"""Name of the layer with the measured lines."""
ICON_SIZE = 68
"""Side of the icon of a measure in the list, px."""
VALUES_HELP = "All measures on the current frame with standard errors; click one to show its curves."
CHANGES_HELP = (
    "At rest: before, after, and the change ± half its 95 % interval; * marks changes larger than the "
    "uncertainty of the landmarks."
)
TABLE = "Table of every frame"
EXPORTS = {
    TABLE: "CSV (*.csv);;Parquet (*.parquet)",
    "Blinks": "CSV (*.csv)",
    "Summary": "CSV (*.csv)",
    "Plot": "PNG (*.png);;SVG (*.svg);;PDF (*.pdf)",
    "Report": "Web page (*.html)",
    "Changes since before": "CSV (*.csv)",
}
REST_TEXT = "Rest: this frame"
VALUE_HEADERS = ("Right", "Left", "L \N{MINUS SIGN} R")
CHANGE_HEADERS = ("Before", "After", "Change")
NAME_WIDTHS = {VALUE_HEADERS: 112, CHANGE_HEADERS: 130}  # px
NUMBER_WIDTH = 42  # px, of columns without errors
ABBREVIATIONS = {
    "_right": " R",
    "_left": " L",
    "_difference": " L\N{MINUS SIGN}R",
    "_": " ",
    "closure": "eye closure",  # as the list of curves calls it
    "mrd": "MRD ",
    "commissure": "comm.",
    "excursion": "exc.",
    "outer mouth": "outer",
    "inter canthal": "canthal",
    "deviation": "dev.",
    "aperture area": "aperture",
}
"""Replacements in measures' names for the table."""
WITHOUT_SECONDS = (TABLE, "Plot")


def _suffixes(filters: str) -> list[str]:
    """Return the suffixes in the name filters of a file dialog."""
    return re.findall(r"\*(\.\w+)", filters)


def _with_suffix(path: Path, what: str, chosen: str = "") -> Path:
    """Return the path of an export with a suffix: of the format `chosen` in the dialog, or the first one.

    A dot in a recording's name (``S01.rest``) does not start a suffix.
    """
    known = _suffixes(EXPORTS[what])
    if path.suffix.lower() in known:
        return path
    return path.with_name(path.name + (_suffixes(chosen) or known)[0])


def icon_of_measure(name: str, landmarks: npt.NDArray[Any]) -> QPixmap:
    """Return an icon of a face (68, 2) with the lines of a measure."""
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    size = max(float((high - low).max()), 1e-9)
    points = (landmarks - (low + high) / 2) / size * (ICON_SIZE - 6) + ICON_SIZE / 2
    pixmap = QPixmap(ICON_SIZE, ICON_SIZE)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    lines = [(OUTLINE, tuple(outline.tolist())) for outline in OUTLINES]
    colours = {**SIDE_COLOURS, "both": "#d62728"}
    lines += [(colours[item.side], line) for item, line in _lines(name)]
    for colour, line in lines:
        painter.setPen(QPen(QColor(colour), 1.5 if colour == OUTLINE else 5.0))
        corners = [QPointF(*points[i]) for i in line]
        painter.drawPolyline(QPolygonF(corners))
        if colour != OUTLINE:
            for corner in corners:
                painter.drawPoint(corner)
    painter.end()
    return pixmap


def _lines(name: str) -> list[tuple[Measure, tuple[int, ...]]]:
    """Return the lines of a measure on both sides, as landmark indices."""
    wanted = {"closure": "eye_height"}.get(name, name)
    return [
        (item, line)
        for item in MEASURES
        if wanted in (item.name, item.name.removesuffix(f"_{item.side}"))
        for line in item.lines
    ]


class MeasuresDock(FollowingPanel):
    """The panel Measure: measures of the faces in the current landmarks layer.

    `before_plot`, on the left of `plot`, shows the curves of the recording chosen in `befores`.
    `values` shows all measures on the current frame (right, left and difference, with standard errors), or
    the changes at rest since the other recording. `table` has the measures shown, or is None.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._tracks: Any = None
        self._rest: int | str = "auto"
        self._n_live = 0
        self._lines: Any = None
        self._icons_of: Any = None
        self._compared: Any = None
        self._pending_export: tuple[str, Path] | None = None
        self._before: tuple[Any, Tracks, MeasureTable] | None = None
        self.table: MeasureTable | None = None
        self._make_controls()
        self._lay_out()
        self._connect()
        self._start_following()

    def _make_controls(self) -> None:
        self.layers = LayerChooser(self._viewer)
        self.faces = with_tooltip(QComboBox(), "Face to measure.")
        self.names = with_tooltip(QComboBox(), "Measure to plot; its definition is shown below.")
        before = "Compare with another recording of this person: curves side by side, and a table of changes."
        self.befores = with_tooltip(QComboBox(), before)
        files = "Write a table, the blinks, a summary, the plot or a report."
        self.export_button = with_tooltip(QComboBox(), files)
        self.export_button.addItems(["Export …", *EXPORTS])
        for box, chars in ((self.names, 8), (self.faces, 6), (self.befores, 12), (self.export_button, 8)):
            elide_long_items(box, chars)
        self.names.addItem("eye closure", "closure")
        titles = {item.name: item.title for item in MEASURES}
        for name in PAIRS:
            self.names.addItem(titles[f"{name}_right"].removesuffix(", right"), name)
        for item in MEASURES:
            if item.side == "both":
                self.names.addItem(item.title, item.name)
        self.names.setIconSize(QSize(ICON_SIZE // 2, ICON_SIZE // 2))
        self.plot, self.before_plot = Curves(), Curves()
        self.before_plot.hide()
        self.before_plot.cursor.hide()  # the slider does not apply to this recording
        self.before_plot.setYLink(self.plot)
        self.curves = QWidget()
        side_by_side = hbox(self.before_plot, self.plot)
        side_by_side.setContentsMargins(0, 0, 0, 0)
        self.curves.setLayout(side_by_side)
        self.values = with_tooltip(read_only_table(3), VALUES_HELP)
        self.values.setHorizontalHeaderLabels(VALUE_HEADERS)
        self.values.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.of_frame = QLabel()  # names the frame of the values
        set_contents(self.values.findChild(QAbstractButton), self.of_frame)  # the corner of the table
        self.values.setTextElideMode(Qt.TextElideMode.ElideNone)  # text may extend into the margins of cells
        self.values.setStyleSheet("QTableWidget, QHeaderView { font-size: 8pt; padding: 0px; }")
        self.values.verticalHeader().setDefaultSectionSize(20)
        self.values.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.rest_button = with_tooltip(
            QPushButton(REST_TEXT),
            "Use the current frame as the face at rest, by which lengths are scaled; click again to use the "
            "calmest second.",
        )
        self.rest_button.setCheckable(True)
        lines = "Draw the measured lines on the face."
        self.lines_box = with_tooltip(QCheckBox("Show on the face"), lines)
        self.status = WrappedLabel(lines=2)

    def _lay_out(self) -> None:
        self.wide = EnlargeableCurves(self._viewer, self.curves, "Face landmarks: measures")
        column = vbox(
            self.layers,
            hbox((self.names, 2), (self.faces, 1)),
            (self.wide, 1),
            hbox((self.lines_box, 1), self.wide.button),
            self.befores,
            (self.values, 1),
            hbox(self.rest_button, (self.export_button, 1)),
            self.status,
        )
        self.setLayout(column)

    def _connect(self) -> None:
        call_while_open(self, self._current, self._fill_befores)
        self.befores.currentIndexChanged.connect(self._on_before)
        self.faces.currentIndexChanged.connect(self._draw)
        self.names.currentIndexChanged.connect(self._draw)
        self.rest_button.toggled.connect(self._on_rest)
        self.lines_box.toggled.connect(self._draw_lines)
        self.export_button.activated.connect(self._on_export)
        self.plot.cursor.sigPositionChangeFinished.connect(self._on_cursor)
        self.plot.scene().sigMouseClicked.connect(self._on_click)
        self.values.cellClicked.connect(lambda row, _: self._on_row(row))
        self._viewer.dims.events.current_step.connect(self._on_slider)
        self._viewer.layers.events.removed.connect(self._on_removed)

    # measuring

    def _is_active(self) -> bool:
        return self.isVisible() or self.wide.enlarged

    def _on_layer(self) -> None:
        self._rest, self._tracks, self.table, self._n_live = "auto", None, None, 0
        self._pending_export = None
        self._fill_befores()
        self.rest_button.setChecked(False)
        self._draw()
        if self._layer is None:
            self.status.setText("Track a video, or open landmarks, to measure its faces.")

    def _fill_befores(self) -> None:
        """List the other landmarks layers for comparison."""
        if not self.is_open:
            return
        chosen = self.befores.currentData()
        others = [layer for layer in self._current.layers if layer is not self._current.layer]
        with signals_blocked(self.befores):
            self.befores.clear()
            self.befores.addItem("Compare with …", None)
            for layer in others:
                self.befores.addItem(f"Before: {layer.name}", layer)
            self.befores.setCurrentIndex(others.index(chosen) + 1 if chosen in others else 0)
        self.befores.setVisible(bool(others))
        if self.befores.currentData() is not chosen:
            self._on_before()

    def _on_before(self, *_: Any) -> None:
        """Measure the recording for comparison in a thread."""
        layer, self._before = self.befores.currentData(), None
        if layer is None:
            self._draw()
            return
        read = reader_of(layer)

        def work() -> Any:
            tracks = read()
            return layer, tracks, measure(tracks)

        def show(found: Any) -> None:
            if not self.is_open or self.befores.currentData() is not layer:
                return
            if isinstance(found, str):
                self.status.setText(found)
                return
            self._before = found
            self._draw()

        run_in_thread(work, show)

    def _on_run(self, results: Sequence[FrameResult]) -> None:
        if self._busy or len(results) <= 1.2 * self._n_live + 25:
            return
        self._n_live = len(results)
        frames, fps = list(results), self._layer.metadata.get("fps") or 25.0
        times = np.arange(frames[-1].index + 1) / fps
        self._measure(lambda: collect(frames, timestamps=times))

    def _on_landmarks(self, read: Callable[[], Tracks]) -> None:
        self._n_live = 0
        self._measure(read)

    def _measure(self, tracks_of: Callable[[], Tracks]) -> None:
        """Measure tracks in a thread, show the result and do a pending export."""
        rest = self._rest

        def work() -> Any:
            tracks = tracks_of()
            return tracks, measure(tracks, rest=rest)

        def show(found: Any) -> None:
            export, self._pending_export = self._pending_export, None
            if isinstance(found, str):
                self.table = None
                self._draw()
                self.status.setText(found)
                return
            self._tracks, self.table = found
            self._fill_faces()
            self._fill_icons()
            self._draw()
            if export is not None:
                self.export(*export)

        self._compute(work, show)

    def _fill_faces(self) -> None:
        names = list(self.table.face_names) if self.table is not None else []
        if names != [self.faces.itemText(k) for k in range(self.faces.count())]:
            with signals_blocked(self.faces):
                self.faces.clear()
                self.faces.addItems(names)
        self.faces.setVisible(len(names) > 1)

    def _fill_icons(self) -> None:
        """Draw the icons of the measures in the list with the measured face, once per layer."""
        if self._icons_of is self._layer or self.table is None:
            return
        at = self.table.rest[0] if len(self.table.rest[0]) else np.flatnonzero(self.table.usable[:, 0])
        if not len(at):
            return
        self._icons_of, face = self._layer, self._tracks.landmarks[at[0], 0].astype(np.float64)
        for row in range(self.names.count()):
            self.names.setItemIcon(row, QIcon(icon_of_measure(self.names.itemData(row), face)))

    def _on_rest(self, chosen: bool) -> None:
        frame = None if self._layer is None else frame_shown(self._viewer, self._layer)
        self._rest = frame if chosen and frame is not None else "auto"
        self.rest_button.setText(REST_TEXT if self._rest == "auto" else f"Rest: frame {frame}")
        self._invalidate()
        self._poll()

    # showing measures

    @property
    def face(self) -> int:
        """Index of the chosen face."""
        return max(0, int(self.faces.currentIndex()))

    @property
    def _name(self) -> str:
        return str(self.names.currentData())

    def _draw(self, *_: Any) -> None:
        table, before = self.table, None if self._before is None else self._before[2]
        older = "" if self._before is None else str(self._before[0].name)
        newer = "" if self._before is None or self._layer is None else str(self._layer.name)
        self.before_plot.show_measure(before, self._name, 0, f"Before: {older}")
        self.before_plot.setVisible(before is not None)
        self.export_button.model().item(len(EXPORTS)).setEnabled(before is not None)  # changes
        self.plot.show_measure(table, self._name, self.face, newer and f"After: {newer}")
        if table is None:
            self.values.setRowCount(0)
            self._remove_lines()
            return
        self._show_definition(table)
        if before is not None:
            self._show_changes()
        self._on_slider()

    def _show_definition(self, table: MeasureTable) -> None:
        shown = [column for column, _ in columns_of(table, self._name)]
        definition = next((item.help for item in MEASURES if item.name in shown), "")
        if self._name == "closure":
            definition = "1 minus the ratio of the eye's height to the open eye's: 0 is open, 1 is shut."
        columns = [(self._name, "this measure"), (f"{self._name}_difference", "left minus right")]
        warning = caution(columns, str(table.meta.get(MODELS, "")))
        sentences = [f"{definition.rstrip('.')}.", *table.warnings, *([warning] if warning else [])]
        if not np.isfinite(table.timestamps).all():
            sentences.append("No time stamps: blinks are not marked, and exports ask for the frame rate.")
        if any(table.columns[table.column(name)].unit.startswith("percent") for name in shown):
            sentences.append("Percentages are relative to the distance between the outer canthi at rest.")
        self.status.setText(" ".join(sentences))

    def _on_slider(self, *_: Any) -> None:
        if not self.is_open or self._layer is None or self.table is None:
            return
        frame = frame_shown(self._viewer, self._layer)
        if frame is None:
            return
        self.plot.set_frame(frame)
        if self._before is None:
            self._show_values(frame)
        self._draw_lines()

    def _show_values(self, frame: int) -> None:
        """Show all measures on a frame, and select the one that is plotted."""
        table = self.table
        assert table is not None
        rows = np.flatnonzero(table.frame_indices == frame)
        cells = []
        for place in range(self.names.count()):
            name, texts = str(self.names.itemData(place)), [("", "")] * 3
            for k, column in enumerate((f"{name}_right", f"{name}_left", f"{name}_difference")):
                column = name if k == 0 and name in table.names else column
                if len(rows) and column in table.names:
                    value, error = (
                        part[rows[0], self.face, table.column(column)]
                        for part in (table.values, table.errors)
                    )
                    texts[k] = self._cell(column, value, error) if np.isfinite(value) else ("n/a", "")
            cells.append(texts)
        self.of_frame.setText(f" frame {frame}")
        self._set_cells(
            VALUE_HEADERS, [str(self.names.itemData(k)) for k in range(self.names.count())], cells
        )
        self.values.selectRow(self.names.currentIndex())

    def _show_changes(self) -> None:
        """Show all measures at rest, before and after, with their changes; * marks significant ones."""
        changes = self._changes()
        if changes is None:
            return
        changes = changes[(changes["side"] != "symmetry") & np.isfinite(changes["change"])]
        cells, titles = [], []
        for _, row in changes.iterrows():
            half = row["change_high"] - row["change"]
            mark = " *" if abs(row["change"]) > half else ""
            change, full = self._cell(row["measure"], row["change"], half, "+")
            digits = len(change.partition("±")[0].partition(".")[2])
            values = [(f"{row[when]:.{digits}f}", "") for when in ("before", "after")]
            cells.append([*values, (change + mark, full)])
            titles.append(row["measure"])
        self.of_frame.setText(" at rest")
        self._set_cells(CHANGE_HEADERS, titles, cells)

    def _cell(self, column: str, value: float, error: float, sign: str = "") -> tuple[str, str]:
        """Return a value with its error, abbreviated for a cell, and with name and unit for the tooltip."""
        title, unit = self._title_and_unit(column)
        full = f"{title}: {with_error(value, error, sign)} {unit_symbol(unit)}"
        return briefly_with_error(value, error, sign), full

    def _set_cells(
        self, head: tuple[str, str, str], names: Sequence[str], cells: Sequence[Sequence[tuple[str, str]]]
    ) -> None:
        """Set headers and cells of the table; cells are (text, tooltip)."""
        table = self.values
        if table.rowCount() != len(names) or table.horizontalHeaderItem(0).text() != head[0]:
            table.setRowCount(len(names))
            table.setHorizontalHeaderLabels(list(head))
            table.verticalHeader().setFixedWidth(NAME_WIDTHS[head])
            for row, name in enumerate(names):
                title, unit = self._title_and_unit(name)
                for long, short in ABBREVIATIONS.items():
                    name = name.replace(long, short)
                shown = "" if unit == "ratio" else unit_symbol(unit)
                table.setVerticalHeaderItem(row, QTableWidgetItem(f"{name} {shown}".strip()))
                table.verticalHeaderItem(row).setToolTip(f"{title} ({unit})")
            table.clearSelection()
            modes = QHeaderView.ResizeMode
            for column, label in enumerate(head):
                alone = label in ("Before", "After")
                table.horizontalHeader().setSectionResizeMode(column, modes.Fixed if alone else modes.Stretch)
                table.horizontalHeader().resizeSection(column, NUMBER_WIDTH)
            for row in range(len(names)):
                for column in range(len(head)):
                    item = QTableWidgetItem("")
                    item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
                    table.setItem(row, column, item)
            table.setToolTip(VALUES_HELP if head == VALUE_HEADERS else CHANGES_HELP)
        for row, texts in enumerate(cells):
            for column, (text, tooltip) in enumerate(texts):
                table.item(row, column).setText(text)
                table.item(row, column).setToolTip(tooltip)

    def _title_and_unit(self, name: str) -> tuple[str, str]:
        """Return the title and the unit of a column or of a measure of both sides."""
        assert self.table is not None
        known = {column.name: column for column in self.table.columns}
        place = self.names.findData(name)
        shown = known.get(name) or known[f"{name}_right"]
        return shown.title if name in known else self.names.itemText(place), shown.unit

    def _on_row(self, row: int) -> None:
        if self._before is None:
            self.names.setCurrentIndex(row)

    def _changes(self) -> Any:
        """Return the table of changes since the other recording, computed once for each pair."""
        if self._before is None or self.table is None:
            return None
        key = (self._before[2], self.table, self.face)
        if self._compared is None or any(a is not b for a, b in zip(self._compared[0], key, strict=True)):
            try:
                self._compared = key, compare(self._before[2], self.table, (0, self.face))
            except FaceLandmarksError as error:
                self.status.setText(str(error))
                return None
        return self._compared[1]

    def _on_cursor(self, *_: Any) -> None:
        if self._layer is not None:
            show_frame(self._viewer, self._layer, round(self.plot.cursor.value()))

    def _on_click(self, event: Any) -> None:
        if self._layer is None or event.button() != Qt.MouseButton.LeftButton:
            return
        show_frame(self._viewer, self._layer, self.plot.frame_at(event.scenePos()))

    # measured lines on the face

    def _draw_lines(self, *_: Any) -> None:
        table, layer = self.table, self._layer
        frame = None if layer is None else frame_shown(self._viewer, layer)
        if not self.lines_box.isChecked() or table is None or frame is None or self._tracks is None:
            self._remove_lines()
            return
        rows = np.flatnonzero(self._tracks.frame_indices == frame)
        paths = [] if not len(rows) else self._paths(self._tracks.landmarks[rows[0], self.face], frame)
        if self._lines is None:
            self._lines = self._viewer.add_shapes(
                name=LINES_LAYER, ndim=3, scale=layer.scale, translate=layer.translate, edge_color="#f5c400"
            )
            self._viewer.layers.selection.active = layer
        self._lines.data = []
        if paths:
            size = float(np.ptp(self._tracks.landmarks[rows[0], self.face], axis=0).max())
            self._lines.add(paths, shape_type="path", edge_width=max(1.0, size / 120), edge_color="#f5c400")

    def _paths(self, landmarks: npt.NDArray[Any], frame: int) -> list[npt.NDArray[np.float64]]:
        if not np.isfinite(landmarks).all():
            return []
        found = []
        for _, line in _lines(self._name):
            points = landmarks[list(line), ::-1].astype(np.float64)
            if len(points) == 1:
                points = np.repeat(points, 2, axis=0) + np.array([[-2.0, 0.0], [2.0, 0.0]])
            found.append(np.column_stack([np.full(len(points), float(frame)), points]))
        return found

    def _remove_lines(self) -> None:
        lines, self._lines = self._lines, None
        if lines is None:
            return
        layers = self._viewer.layers

        def remove() -> None:
            if lines in layers:
                layers.remove(lines)

        QTimer.singleShot(0, remove)  # napari crashes if a handler of `removed` removes layers

    def _on_removed(self, event: Any) -> None:
        if event.value is self._lines:
            self._lines = None
            if self.is_open:
                self.lines_box.setChecked(False)

    # exports

    def _on_export(self, chosen: int) -> None:
        self.export_button.setCurrentIndex(0)
        if chosen:
            self.save(list(EXPORTS)[chosen - 1])

    def save(self, what: str = TABLE) -> None:
        """Show a file dialog, and write one of `EXPORTS` as soon as the landmarks are measured."""
        self._poll()
        if self._layer is None or (self.table is None and not self._busy) or not self._ask_for_rate(what):
            return
        recording = self._layer.name.removesuffix(" landmarks")
        name = "measures" if what == TABLE else what.lower()
        suggested = f"{recording} {name}{_suffixes(EXPORTS[what])[0]}".replace("/", " ")
        path, line = QFileDialog.getSaveFileName(
            self, f"Export: {what}", str(self._folder() / suggested), EXPORTS[what]
        )
        if not path:
            return
        if not self._busy:
            self.export(what, _with_suffix(Path(path), what, line))
            return
        self._pending_export = what, _with_suffix(Path(path), what, line)
        self.status.setText("Measuring …")

    def _ask_for_rate(self, what: str) -> bool:
        """Ask for the frame rate if an export needs it and it is unknown; return False if cancelled."""
        table = self.table
        if table is None or what in WITHOUT_SECONDS or np.isfinite(table.timestamps).all():
            return True
        question = "This recording has no time stamps. Frames per second:"
        fps, accepted = QInputDialog.getDouble(self, "Frame rate", question, 25.0, 0.01, 100_000.0, 2)
        if accepted:
            self.table = dataclasses.replace(table, timestamps=table.frame_indices / fps)
            self._draw()
        return bool(accepted)

    def export(self, what: str, path: Path) -> None:
        """Write one of `EXPORTS` to a file in a thread; errors are shown in the status."""
        table, tracks = self.table, self._tracks
        if table is None:
            self.status.setText("There is nothing to export: track a video first.")
            return
        path = _with_suffix(path, what)
        source = self._path_of(self._layer)
        older = None if self._before is None else self._path_of(self._before[0])
        before, face, changes = self._before, self.face, self._changes()
        if what == "Changes since before" and changes is None:
            self.status.setText("There is no recording to compare with: choose one below the curves.")
            return

        def work() -> str:
            from napari_face_landmarks.measures.report import write_comparison, write_report

            if what == TABLE:
                write_table(path, to_dataframe(table))
            elif what == "Blinks":
                write_table(path, events_to_dataframe(blinks(table)))
            elif what == "Summary":
                write_table(path, summary(table))
            elif what == "Plot":
                save_figure(path, plot_measures(table, face=face))
            elif what == "Changes since before":
                write_table(path, changes)
            elif before is not None:
                write_comparison(path, (before[1], before[2], older), (tracks, table, source))
            else:
                write_report(path, tracks, table, source)
            return f"Exported to {path.name}."

        def show(text: str) -> None:
            if self.is_open:
                self.status.setText(text)

        self.status.setText(f"Writing {path.name} …")
        run_in_thread(work, show)

    def _path_of(self, layer: Any) -> str | None:
        """Return the path of the video of a landmarks layer, or None."""
        video = video_of_layer(self._viewer, layer)
        return None if video is None else video.metadata.get("path") or getattr(video.source, "path", None)

    def _folder(self) -> Path:
        source = self._path_of(self._layer)
        return Path(source).parent if source else Path.home()


def briefly_with_error(value: float, error: float, sign: str = "") -> str:
    """Return a value with its error in about nine characters, for narrow cells."""
    two = error < 3.55 and (error >= 1 or (error >= 0.1 and abs(value) < 10))
    return with_error(value, error, sign, 1 + two).replace(" ± 0.", "±.").replace(" ± ", "±")


def with_error(value: float, error: float, sign: str = "", significant: int = 2) -> str:
    """Return a value with its error, both rounded to `significant` digits of the error.

    `sign` "+" adds a plus sign to positive values.
    """
    if not np.isfinite(error) or error <= 0:
        return f"{value:{sign}.3g}"
    digits = max(0, significant - 1 - int(np.floor(np.log10(error))))
    value = round(float(value), digits) + 0.0  # no minus before a zero
    return f"{value:{sign}.{digits}f} ± {error:.{digits}f}"
