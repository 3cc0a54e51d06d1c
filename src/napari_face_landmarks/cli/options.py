"""Options that several commands share, and their conversion to settings."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
from typing import Any

from napari_face_landmarks.settings import DEFAULT_PRESET, PRESETS, REFINE_MODES, TrackerSettings


def add_models_option(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--models``."""
    parser.add_argument(
        "--models",
        metavar="NAME|FOLDER",
        help="a bundle that `models` lists, or the folder of one; openface, or a folder with OpenFace's "
        "models or with a landmark network and its pfld.json; default: the first bundle in the list",
    )


def add_format_option(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--format``, which selects among formats with the same suffix."""
    parser.add_argument(
        "--format",
        metavar="NAME",
        help="the format of OUT, if several formats share its suffix (see `formats`)",
    )


def add_stream_options(parser: argparse.ArgumentParser) -> None:
    """Add the options ``--every`` and ``--stream``."""
    parser.add_argument(
        "--every",
        metavar="N",
        type=count,
        default=1,
        help="track only every n-th frame; numbers and times of the frames stay those of the video",
    )
    parser.add_argument(
        "--stream",
        metavar="N",
        type=int,
        help="which of the video streams of the file to track, from 0; default: the one marked default, else "
        "the largest that is no attached picture",
    )


def add_settings_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of `TrackerSettings`, with the range, help and default of the field."""
    group = parser.add_argument_group("settings of the tracker")
    purposes = " ".join(f"{item.name}: {item.help}" for item in PRESETS).replace("%", "%%")
    group.add_argument(
        "--preset",
        choices=[item.name for item in PRESETS],
        default=DEFAULT_PRESET,
        help=f"named settings, which the options below override. {purposes} Default: %(default)s.",
    )
    for item in dataclasses.fields(TrackerSettings):
        text = item.metadata["help"].replace("%", "%%")
        option = "--" + item.name.replace("_", "-")
        if item.name == "refine":
            group.add_argument(option, choices=REFINE_MODES, help=f"{text} Default: {item.default}.")
            continue
        low, high = item.metadata["low"], item.metadata["high"]
        group.add_argument(
            option,
            metavar="N" if item.type == "int" else "X",
            type=number,
            help=f"{text} From {low:g} to {high:g}, default: {item.default}.",
        )


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
    return TrackerSettings.preset(options.preset, **given_settings(options))


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings given as individual options."""
    names = [item.name for item in dataclasses.fields(TrackerSettings)]
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def given(value: Any) -> list[Any]:
    """Return `value` as a list of arguments, empty for None, so that the callee's default applies."""
    return [] if value is None else [value]
