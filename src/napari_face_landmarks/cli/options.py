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


def add_options(parser: Any, options: Mapping[str, str], **arguments: Mapping[str, Any]) -> None:
    """Add options and positional arguments to a parser or to one of its groups.

    `options` maps usages, such as ``"-o --output OUT.csv"`` and ``"video VIDEO"``, to help texts. The last
    word is the metavar, which determines the type (see `_type_of`); an option without one is a flag.
    `arguments` maps attribute names to further arguments of ``add_argument``.
    """
    for usage, text in options.items():
        words = usage.split()
        names = [word for word in words if word.startswith("-")] or words[:1]
        metavar = words[len(names) :]
        extra = dict(arguments.get(names[-1].lstrip("-").replace("-", "_"), {}))
        if metavar:
            extra = {"metavar": metavar[0], "type": _type_of(metavar[0]), **extra}
        elif not extra:
            extra = {"action": "store_true"}
        parser.add_argument(*names, help=text, **extra)


def _type_of(metavar: str) -> Callable[[str], Any]:
    """Return the function that converts the text of an option: N is a positive integer, OUT.csv a path."""
    types: dict[str, Callable[[str], Any]] = {"N": count, "WHEN": frame_or_time}
    types |= dict.fromkeys(("VIDEO", "VIDEO|RESULT", "FILE", "FOLDER", "IN", "OUT"), Path)
    return types.get(metavar, Path if "." in metavar else str)


MODELS = {
    "--models NAME|FOLDER": "a bundle that `models` lists, or the folder of one; openface, or a folder with "
    "OpenFace's models or with a landmark network and its pfld.json; default: the first bundle in the list",
}
FORMAT = {"--format NAME": "the format of OUT, if several formats share its suffix (see `formats`)"}
SOURCE = {
    "--every N": "track only every n-th frame; frame numbers and times remain those of the video",
    "--stream N": "number of the video stream to track, counted from 0; default: the stream marked as "
    "default, otherwise the largest one that is not an attached picture",
}
SOURCE_ARGUMENTS: dict[str, dict[str, Any]] = {"every": {"default": 1}, "stream": {"type": int}}
"""Further arguments of `add_options` for `SOURCE`."""


def add_settings_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of `TrackerSettings`, with the range, help and default of the field."""
    group = parser.add_argument_group("settings of the tracker")
    purposes = " ".join(f"{item.name}: {item.help}" for item in PRESETS).replace("%", "%%")
    preset = f"named settings that the options below override. {purposes} Default: %(default)s."
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
    """Convert text to a number; return other text unchanged, which `TrackerSettings` rejects."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def count(text: str) -> int:
    """Convert text to a positive integer."""
    value = number(text)
    if not isinstance(value, int) or value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return value


def frame_or_time(text: str) -> int | float:
    """Convert text to a frame number ("250"), or to seconds, a float ("12.5", "12s", "1:30", "0:01:30.5")."""
    match = re.fullmatch(r"(?:(\d+):)?(?:(\d{1,2}):)?(\d+(?:\.\d*)?)(s?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a frame such as 250 nor a time such as 1:30.5")
    first, second, last, unit = match.groups()
    if not (first or unit or "." in last):
        return int(last)
    hours, minutes = (first, second) if second else ("0", first or "0")
    return 3600.0 * int(hours) + 60.0 * int(minutes) + float(last)


def chosen_settings(options: argparse.Namespace) -> TrackerSettings:
    """Return the settings of the preset, with those changed by individual options."""
    return TrackerSettings.preset(options.preset, **changed_settings(options))


def changed_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that individual options change, by name."""
    names = [item.name for item in dataclasses.fields(TrackerSettings)]
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def as_arguments(value: Any) -> list[Any]:
    """Return a list of `value`, or an empty one for None so that the callee's default applies."""
    return [] if value is None else [value]
