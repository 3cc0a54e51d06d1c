"""Collect trained files in a bundle, write its model card with their SHA-256, and check that it loads."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.models.bundle import (
    CARD,
    MODEL_FILES,
    PART_FILES,
    file_entry,
    load_bundle,
    load_card,
)
from napari_face_landmarks.pfld.crop import CROP_SIZE

CARD_VERSION = "0.4.7"


def write_bundle(run: Path, out: Path, bundle: str) -> dict[str, Any]:
    """Copy the trained files of a run to the folder of a bundle, write its model card and return it.

    Licence, training data and intended use in the card are copied from the installed bundle; edit them there.
    """
    out.mkdir(parents=True, exist_ok=True)
    card_path = out / CARD
    previous_card = json.loads(card_path.read_text()) if card_path.exists() else {}
    metrics = dict(previous_card.get("metrics", {}))
    for name in (*MODEL_FILES, *PART_FILES):
        if (run / name).exists() and (run / name).resolve() != (out / name).resolve():
            shutil.copyfile(run / name, out / name)
    for path in sorted(run.glob("*.metrics.json")):
        metrics[path.name.removesuffix(".metrics.json")] = json.loads(path.read_text())
    if "linear-maps" in metrics:
        metrics.pop("settle", None)  # name of this step up to bundle 0.4.2
    names = [*MODEL_FILES, *(name for name in PART_FILES if (out / name).exists())]
    files = {name: file_entry(out / name) for name in names}
    card = {**load_card(bundle), "version": CARD_VERSION, "metrics": metrics, "files": files}
    with replacing(card_path) as temporary:
        temporary.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    network = load_bundle(out).pfld
    assert isinstance(network, onnxruntime.InferenceSession)
    outputs = network.run(None, {"crops": np.full((1, 3, CROP_SIZE, CROP_SIZE), 0.5, np.float32)})
    if not all(np.isfinite(values).all() for values in outputs):
        raise ModelError(f"{out / 'pfld.onnx'} has outputs that are not finite: train PFLD again.")
    return card


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this step to the command line."""
    parser.add_argument("--into", type=Path, help="folder of the bundle (default: models in OUT)")


def run(args: argparse.Namespace) -> None:
    """Run this step."""
    folder = args.into or args.out / "models" / args.bundle
    card = write_bundle(args.out, folder, args.bundle)
    total = sum(entry["bytes"] for entry in card["files"].values())
    print(f"{folder}: {len(card['files'])} files, {total / 1e6:.2f} MB")
