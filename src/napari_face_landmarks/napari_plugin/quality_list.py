"""The list of the quality dock: the places to check, as Qt asks for them."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QAbstractListModel, QModelIndex, Qt

from napari_face_landmarks.quality import Suspect


class SuspectsModel(QAbstractListModel):
    """The places to check, one row each; however many, only those in sight are asked for."""

    def __init__(self, parent: Any) -> None:
        super().__init__(parent)
        self.places: list[Suspect] = []
        self._n_faces = 0

    def fill(self, places: list[Suspect], n_faces: int) -> None:
        """Show other places."""
        if places == self.places and n_faces == self._n_faces:
            return
        self.beginResetModel()
        self.places, self._n_faces = places, n_faces
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Return the number of places."""
        return 0 if parent is not None and parent.isValid() else len(self.places)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a row says, and as its tooltip all of it."""
        if not index.isValid() or index.row() >= len(self.places):
            return None
        place = self.places[index.row()]
        face = f", face {place.face}" if self._n_faces > 1 else ""
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{place.frame}{face}: {place.text}"
        if role == Qt.ItemDataRole.ToolTipRole:
            frames = (
                f"Frame {place.frame}"
                if place.first == place.last
                else (f"Frame {place.frame}, of {place.first} to {place.last}")
            )
            return f"{frames}{face}: {place.text}"
        return None
