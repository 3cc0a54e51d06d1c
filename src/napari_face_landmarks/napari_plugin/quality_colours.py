"""The colours of the quality plot, in dark and light themes."""

from __future__ import annotations

from qtpy.QtGui import QColor, QPalette

# Okabe and Ito's colours (2008), which stay apart for the colour-blind; the light theme's are darker shades
CURVES_ON_DARK = ("#56b4e9", "#e69f00", "#cc79a7")
CURVES_ON_LIGHT = ("#0072b2", "#a85f00", "#8f3d6b")
CHECK_ON_DARK, CHECK_ON_LIGHT = "#ff6f5e", "#c4200f"
SOURCES_ON_DARK = {"pfld": "#56b4e9", "clnf": "#f0e442", "carried": "#009e73", "manual": "#d55e00"}
SOURCES_ON_LIGHT = {"pfld": "#3d93c6", "clnf": "#8a7f00", "carried": "#00664b", "manual": "#d55e00"}
SOURCE_WORDS = {"pfld": "PFLD", "clnf": "CLNF", "carried": "carried", "manual": "by hand"}


def colour_of(name: str, palette: QPalette) -> QColor:
    """Return a colour that can be told from a palette's background.

    Parameters
    ----------
    name : str
        "text"; "faint", for frames; "check", for what is to be checked; "0" to "2", for curves; or a source
        of landmarks.
    palette : QPalette
        Of the widget, which follows napari's theme.
    """
    text = QColor(palette.color(QPalette.ColorRole.WindowText))
    dark = text.lightnessF() > 0.5
    if name == "faint":
        text.setAlphaF(0.25)
        return text
    if name == "check":
        return QColor(CHECK_ON_DARK if dark else CHECK_ON_LIGHT)
    if name.isdigit():
        return QColor((CURVES_ON_DARK if dark else CURVES_ON_LIGHT)[int(name)])
    if name in SOURCE_WORDS:
        return QColor((SOURCES_ON_DARK if dark else SOURCES_ON_LIGHT)[name])
    return text
