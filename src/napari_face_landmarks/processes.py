"""New Python processes with this process's modules."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def can_start_python() -> bool:
    """Return whether `sys.executable` is a Python, which it is not in programs with Python inside."""
    return Path(sys.executable or "").stem.lower().startswith("python") and not getattr(sys, "frozen", False)


def start_python(
    code: str, variables: Mapping[str, str] | None = None, background: bool = False, **pipes: Any
) -> subprocess.Popen[bytes]:
    """Start a Python process that finds modules where this one does; raise an `OSError` if that fails.

    Parameters
    ----------
    code : str
        The program.
    variables : mapping of str to str, optional
        Environment variables, in addition to those of this process.
    background : bool
        On Windows, whether the process has no console window and a lower priority.
    **pipes
        `stdin`, `stdout` and `stderr` of `subprocess.Popen`; `DEVNULL` by default.
    """
    python_path = os.environ.get("PYTHONPATH")
    paths = [os.path.abspath(path) for path in sys.path]  # an empty entry is the current folder
    flags = 0
    if sys.platform == "win32" and background:
        flags = subprocess.CREATE_NO_WINDOW | subprocess.BELOW_NORMAL_PRIORITY_CLASS
    path = os.pathsep.join([*([python_path] if python_path else []), *paths])
    environment = {**os.environ, **(variables or {}), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    pipes = {**dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL), **pipes}
    command = [sys.executable, "-P", "-c", code]
    return subprocess.Popen(command, creationflags=flags, env=environment, **pipes)
