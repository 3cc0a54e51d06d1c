"""What is installed, as a text for reports of bugs."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, requires, version

from napari_face_landmarks.errors import ModelError

PACKAGE = "napari-face-landmarks"
TOOLKITS = ("PyQt6", "PySide6", "PyQt5", "PySide2")
MORE = ("vispy", "qtpy", "h5py", "tables", "xarray", "h5netcdf", "pyarrow", "matplotlib", "dask")


def versions() -> dict[str, str]:
    """Return the versions of this package, Python, the system, the models and the libraries that are there.

    Returns
    -------
    dict of str to str
        In the order in which they help to find a fault; libraries that are not installed are left out.
    """
    from napari_face_landmarks.models.catalog import known_models

    found = {
        PACKAGE: version(PACKAGE),
        "Python": platform.python_version(),
        "system": platform.platform(),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    try:
        found |= {f"models {item.title}": f"{item.version}, {item.licence}" for item in known_models()}
    except ModelError as error:
        found["models"] = str(error)
    for name in _libraries():
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # not needed, or another build, such as opencv-python-headless
            continue
    return found


def about() -> str:
    """Return `versions` as lines of text, to be put into a report of a bug.

    Examples
    --------
    >>> print(about().splitlines()[0])
    napari-face-landmarks: 0.1.0
    """
    return "\n".join(f"{name}: {what}" for name, what in versions().items())


def _libraries() -> list[str]:
    needed = [text for text in requires(PACKAGE) or [] if "extra ==" not in text]
    names = [text.split(";")[0].split("[")[0].split(">")[0].split("<")[0].strip() for text in needed]
    return list(dict.fromkeys([*sorted(names), *TOOLKITS, *MORE]))
