"""Put trained files together as a bundle: check that they load, and write the model card with their sha256."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from napari_face_landmarks.models.bundle import CARD, MODEL_FILES, file_entry, load_models

CARD_VERSION = "0.1.0"

RESEARCH_300W = {
    "licence": "research use only: «The data are provided for research purposes only. Commercial use (i.e., use in "
    "training commercial algorithms) is not allowed.»",
    "citation": "C. Sagonas, E. Antonakos, G. Tzimiropoulos, S. Zafeiriou, M. Pantic: 300 Faces In-The-Wild "
    "Challenge: Database and Results, Image and Vision Computing 47, 2016",
}
DATA: dict[str, dict[str, str]] = {
    "landmarks_300w_train/helen_train": {
        **RESEARCH_300W,
        "what": "HELEN training pictures with the iBUG 68 points placed by hand",
        "also_cite": "V. Le, J. Brandt, Z. Lin, L. Bourdev, T. S. Huang: Interactive Facial Feature Localization, "
        "ECCV 2012",
    },
    "landmarks_300w_train/lfpw_train": {
        **RESEARCH_300W,
        "what": "LFPW training pictures with the iBUG 68 points placed by hand",
        "also_cite": "P. N. Belhumeur, D. W. Jacobs, D. J. Kriegman, N. Kumar: Localizing Parts of Faces Using a "
        "Consensus of Exemplars, CVPR 2011",
    },
    "detection/helen_train": {**RESEARCH_300W, "what": "the same photographs, boxes made by machine (YuNet)"},
    "detection/lfpw_train": {**RESEARCH_300W, "what": "the same photographs, boxes made by machine (YuNet)"},
    "detection/interfaces": {
        "licence": "CC0",
        "what": "photographs (cjdowner/interfaces), boxes made by machine (YuNet)",
    },
    "detection/faker": {
        "licence": "CC0",
        "what": "generated portraits (faker-js/assets-person-portrait), boxes made by machine (YuNet)",
    },
    "detection/background": {"licence": "Pixabay", "what": "18 pictures without people"},
}
CARDS: dict[str, dict[str, Any]] = {
    "research": {
        "licence": "research use only",
        "terms": "The weights were trained on 300-W faces (HELEN, LFPW), whose terms allow research only. They may "
        "be used and passed on for research; commercial use, and use in training commercial algorithms, is "
        "not allowed. The plugin's code is BSD-3-Clause.",
        "trained_on": list(DATA),
        "not_for": "Identifying people, judging emotion, health or character from a face, or any decision about a "
        "person. Not validated as a medical device.",
        "coverage": "Photographs from the web, mostly adults, faces that are not turned by more than about 45 "
        "degrees; age and skin tone are as 300-W has them and were not labelled, so the error over groups "
        "is not known.",
    },
}


def write_bundle(run: Path, out: Path, bundle: str) -> dict[str, Any]:
    """Copy the trained files of a run to a bundle's folder, write its card and load it once.

    Parameters
    ----------
    run : Path
        Where the training steps have put their files and their ``*.metrics.json``.
    out : Path
        The bundle's folder.
    bundle : str
        The bundle's name.

    Returns
    -------
    dict
        The card.
    """
    out.mkdir(parents=True, exist_ok=True)
    card_path = out / CARD
    old = json.loads(card_path.read_text()) if card_path.exists() else {}
    metrics = dict(old.get("metrics", {}))
    for name in MODEL_FILES:
        if (run / name).exists() and (run / name).resolve() != (out / name).resolve():
            shutil.copyfile(run / name, out / name)
    for path in sorted(run.glob("*.metrics.json")):
        metrics[path.name.removesuffix(".metrics.json")] = json.loads(path.read_text())
    about = CARDS[bundle]
    card = {
        "name": bundle,
        "version": CARD_VERSION,
        **about,
        "trained_on": [{"data": name, **DATA[name]} for name in about["trained_on"]],
        "held_out": "10 % of the labelled faces, chosen by a seeded hash of the file name, never trained on",
        "metrics": metrics,
        "files": {name: file_entry(out / name) for name in MODEL_FILES},
    }
    part = card_path.with_suffix(".part")
    part.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(card_path)
    load_models(out)
    return card


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this step to the command line."""
    parser.add_argument("--into", type=Path, help="the bundle's folder (default: models in OUT)")


def run(args: argparse.Namespace) -> None:
    """Run this step."""
    into = args.into or args.out / "models" / args.bundle
    card = write_bundle(args.out, into, args.bundle)
    total = sum(entry["bytes"] for entry in card["files"].values())
    print(f"{into}: {len(card['files'])} files, {total / 1e6:.2f} MB")
