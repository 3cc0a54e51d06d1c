"""The commands `models` and `about`."""

from __future__ import annotations

import argparse
from typing import Any


def add_models(commands: Any) -> None:
    """Add the command `models`."""
    parser = commands.add_parser("models", help="list the model bundles and their licences")
    parser.add_argument("--markdown", action="store_true", help="print the complete model cards")
    parser.set_defaults(run=_models)


def add_about(commands: Any) -> None:
    """Add the command `about`."""
    parser = commands.add_parser("about", help="print the versions of all components, for bug reports")
    parser.set_defaults(run=_about)


def _models(options: argparse.Namespace) -> int:
    from napari_face_landmarks.models import list_models, load_card
    from napari_face_landmarks.models.card import card_markdown, held_out_error
    from napari_face_landmarks.models.openface import LICENCE, VERSION, openface_folder

    for name in list_models():
        card = load_card(name)
        if options.markdown:
            print(card_markdown(card))
            continue
        print(f"{name} {card['version']}: {card['licence']}")
        if isinstance(card.get("terms"), str):
            print(f"    {card['terms']}")
        data = card.get("trained_on")
        if isinstance(data, list):
            names = [str(item["data"]) for item in data if isinstance(item, dict) and "data" in item]
            print(f"    trained on: {', '.join(names)}")
        error = held_out_error(card)
        if error is not None:
            print(
                f"    mean error on held-out faces of 300-W: {100 * error:.2f} % of the inter-ocular distance"
            )
    if not options.markdown and (folder := openface_folder()) is not None:
        print(f"openface {VERSION}: {LICENCE}\n    {folder}")
    return 0


def _about(options: argparse.Namespace) -> int:
    from napari_face_landmarks.versions import about

    print(about())
    return 0
