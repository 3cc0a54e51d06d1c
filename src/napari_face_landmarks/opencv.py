"""OpenCV, imported without its side effects; all modules of the package import `cv2` from here.

On Linux, ``import cv2`` sets environment variables that make Qt use the plugins and fonts of OpenCV's wheel,
after which Qt programs may fail to open a window.
"""

from __future__ import annotations

import os

QT_VARIABLES = ("QT_QPA_PLATFORM_PLUGIN_PATH", "QT_QPA_FONTDIR")

_before = {name: os.environ.get(name) for name in QT_VARIABLES}

import cv2  # noqa: E402

for _name, _value in _before.items():
    if _value is None:
        os.environ.pop(_name, None)
    else:
        os.environ[_name] = _value

__all__ = ["cv2"]
