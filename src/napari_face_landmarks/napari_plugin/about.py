"""The window that tells the versions of everything, to be copied into a report of a bug."""

from __future__ import annotations

from typing import Any

from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QDialog, QDialogButtonBox, QLabel, QPlainTextEdit, QVBoxLayout

from napari_face_landmarks.versions import about

WORDS = (
    "68 face landmarks on video: PFLD with CLNF refinement. The code is under the BSD 3-Clause licence, each "
    "bundle of models under its own. In a report of a bug, paste these lines:"
)


def show_about(parent: Any = None) -> QDialog:
    """Show the versions in a window of their own, and return it.

    Parameters
    ----------
    parent : QWidget, optional
        What it belongs to, and closes with.
    """
    dialog = QDialog(parent)
    dialog.setWindowTitle("About Face Landmarks")
    dialog.resize(420, 420)
    words = QLabel(WORDS)
    words.setWordWrap(True)
    text = QPlainTextEdit(about())
    text.setReadOnly(True)
    text.setToolTip("Versions of the plugin, Python, the system, the models and the libraries.")
    buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
    copy = buttons.addButton("Copy", QDialogButtonBox.ButtonRole.ActionRole)
    copy.setToolTip("Copy the lines to the clipboard.")
    copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(text.toPlainText()))
    close = buttons.button(QDialogButtonBox.StandardButton.Close)
    close.setToolTip("Close this window.")
    buttons.rejected.connect(dialog.close)
    layout = QVBoxLayout(dialog)
    for part in (words, text, buttons):
        layout.addWidget(part)
    dialog.show()
    return dialog
