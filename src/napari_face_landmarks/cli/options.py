"""Options that several commands share, and their conversion to settings."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from napari_face_landmarks.settings import DEFAULT_PRESET, PRESETS, REFINE_MODES, TrackerSettings


def add_options(parser: Any, options: Mapping[str, str], **more: Mapping[str, Any]) -> None:
    """Add arguments and options to a parser, or to a group of one.

    `options` are the help texts, by what the usage shows: ``"-o --output OUT.csv"``, ``"video VIDEO"``. The
    last word says what is given, and by `kind_of` its type; an option without one is a flag. `more`, by the
    names of the attributes, are further arguments of ``add_argument``.
    """
    for usage, text in options.items():
        words = usage.split()
        names = [word for word in words if word.startswith("-")] or words[:1]
        given = words[len(names) :]
        extra = dict(more.get(names[-1].lstrip("-").replace("-", "_"), {}))
        if given:
            extra = {"metavar": given[0], "type": kind_of(given[0]), **extra}
        elif not extra:
            extra = {"action": "store_true"}
        parser.add_argument(*names, help=text, **extra)


def kind_of(metavar: str) -> Callable[[str], Any]:
    """Return what converts the text of an option: N is a number from 1, and OUT.csv a path, for example."""
    kinds: dict[str, Callable[[str], Any]] = {"N": count, "WHEN": frame_or_time}
    kinds |= dict.fromkeys(("VIDEO", "VIDEO|RESULT", "FILE", "FOLDER", "IN", "OUT"), Path)
    return kinds.get(metavar, Path if "." in metavar else str)


MODELS = {
    "--models NAME|FOLDER": "a bundle that `models` lists, or the folder of one; openface, or a folder with "
    "OpenFace's models or with a landmark network and its pfld.json; default: the first bundle in the list",
}
FORMAT = {"--format NAME": "the format of OUT, if several formats share its suffix (see `formats`)"}
SOURCE = {
    "--every N": "track only every n-th frame; numbers and times of the frames stay those of the video",
    "--stream N": "which of the video streams of the file to track, from 0; default: the one marked default, "
    "else the largest that is no attached picture",
}
"""Options of several commands: models, the format of an output, and the part of a file to track."""
SOURCE_KINDS: dict[str, dict[str, Any]] = {"every": {"default": 1}, "stream": {"type": int}}


def add_settings_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of `TrackerSettings`, with the range, help and default of the field."""
    group = parser.add_argument_group("settings of the tracker")
    purposes = " ".join(f"{item.name}: {item.help}" for item in PRESETS).replace("%", "%%")
    preset = f"named settings, which the options below override. {purposes} Default: %(default)s."
    names = [item.name for item in PRESETS]
    add_options(group, {"--preset": preset}, preset={"choices": names, "default": DEFAULT_PRESET})
    for item in dataclasses.fields(TrackerSettings):
        text = item.metadata["help"].replace("%", "%%")
        option = "--" + item.name.replace("_", "-")
        if item.name == "refine":
            group.add_argument(option, choices=REFINE_MODES, help=f"{text} Default: {item.default}.")
            continue
        low, high, metavar = item.metadata["low"], item.metadata["high"], "N" if item.type == "int" else "X"
        text = f"{text} From {low:g} to {high:g}, default: {item.default}."
        group.add_argument(option, metavar=metavar, type=number, help=text)


def number(text: str) -> int | float | str:
    """Convert text to a number; other text is returned unchanged for `TrackerSettings` to refuse."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def count(text: str) -> int:
    """Convert text to a positive integer."""
    found = number(text)
    if not isinstance(found, int) or found < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return found


def frame_or_time(text: str) -> int | float:
    """Convert text to a frame, an int, or to seconds, a float: "250", "12.5", "12s", "1:30", "0:01:30.5"."""
    found = re.fullmatch(r"(?:(\d+):)?(?:(\d{1,2}):)?(\d+(?:\.\d*)?)(s?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a frame such as 250 nor a time such as 1:30.5")
    first, second, last, unit = found.groups()
    if not (first or unit or "." in last):
        return int(last)
    hours, minutes = (first, second) if second else ("0", first or "0")
    return 3600.0 * int(hours) + 60.0 * int(minutes) + float(last)


def chosen_settings(options: argparse.Namespace) -> TrackerSettings:
    """Return the settings for the options: the preset with the settings that override it."""
    return TrackerSettings.preset(options.preset, **as_settings(options))


def as_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings given as individual options."""
    names = [item.name for item in dataclasses.fields(TrackerSettings)]
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def given(value: Any) -> list[Any]:
    """Return `value` as a list of arguments, empty for None, so that the callee's default applies."""
    return [] if value is None else [value]
