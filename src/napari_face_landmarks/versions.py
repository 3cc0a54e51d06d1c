"""Versions of this package, its models and its libraries, for bug reports and result files."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version

from napari_face_landmarks.errors import ModelError

__version__ = "0.2.0"
_PACKAGE = "napari-face-landmarks"
NUMERIC = ("numpy", "numba", "onnxruntime", "av", "opencv-python", "opencv-python-headless")
"""Libraries whose version may change the last digits of landmarks."""
_OPTIONAL = (
    *("PyQt6", "PySide6", "PyQt5", "PySide2", "vispy", "qtpy"),
    *("h5py", "tables", "xarray", "h5netcdf", "pyarrow", "matplotlib", "dask"),
)


def library_versions(names: Iterable[str] = NUMERIC) -> dict[str, str]:
    """Return the versions of the named distributions; missing ones are left out."""
    installed = {}
    for name in names:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


def versions() -> dict[str, str]:
    """Return the versions of this package, Python, the system, the models and the installed libraries."""
    from napari_face_landmarks.models.catalog import known_models

    found = {
        _PACKAGE: __version__,
        "Python": platform.python_version(),
        "system": platform.platform(),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    try:
        found |= {f"models {item.title}": f"{item.version}, {item.licence}" for item in known_models()}
    except ModelError as error:
        found["models"] = str(error)
    required = [text for text in requires(_PACKAGE) or [] if "extra ==" not in text]
    names = sorted(text.split(";")[0].split("[")[0].split(">")[0].split("<")[0].strip() for text in required)
    return found | library_versions(dict.fromkeys([*names, *NUMERIC, *_OPTIONAL]))


def about() -> str:
    """Return the output of `versions` as text for a bug report, one line each.

    Examples
    --------
    >>> print(about().splitlines()[0])
    napari-face-landmarks: 0.2.0
    """
    return "\n".join(f"{name}: {value}" for name, value in versions().items())
