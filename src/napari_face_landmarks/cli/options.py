"""Options that several commands share, and the settings that they make."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from typing import Any

from napari_face_landmarks.settings import DEFAULT_PRESET, PRESETS, REFINE_MODES, TrackerSettings


def add_models_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses the models."""
    parser.add_argument(
        "--models",
        metavar="NAME|FOLDER",
        help="a bundle that `models` lists, or a folder of one; openface, or a folder of OpenFace's models "
        "or of a landmark network with a pfld.json; where not given, the first bundle that is listed",
    )


def add_format_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that tells formats of one suffix apart."""
    parser.add_argument(
        "--format",
        metavar="NAME",
        help="the format of OUT, where several that `formats` lists share its suffix",
    )


def add_settings_options(parser: argparse.ArgumentParser) -> None:
    """Add one option for each field of TrackerSettings; ranges, texts and defaults are the field's."""
    group = parser.add_argument_group("settings of the tracker")
    purposes = " ".join(f"{item.name}: {item.help}" for item in PRESETS).replace("%", "%%")
    group.add_argument(
        "--preset",
        choices=[item.name for item in PRESETS],
        default=DEFAULT_PRESET,
        help=f"settings for a purpose, which the options below change. {purposes} Default: %(default)s.",
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
    """Return the number that `text` is; what is none is left to the check of TrackerSettings to refuse."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def count(text: str) -> int:
    """Return the whole number from 1 that `text` is."""
    found = number(text)
    if not isinstance(found, int) or found < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return found


def chosen_settings(options: argparse.Namespace) -> TrackerSettings:
    """Return the settings that the options make."""
    return TrackerSettings.preset(options.preset, **given_settings(options))


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that were given one by one."""
    names = [item.name for item in dataclasses.fields(TrackerSettings)]
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def given(value: Any) -> list[Any]:
    """Return the arguments to call with, so that the default of what is called holds where none is given."""
    return [] if value is None else [value]
