"""Make a bundle of trained files: check that they load, and write the model card with their SHA-256."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.models.bundle import CARD, MODEL_FILES, PART_FILES, file_entry, load_bundle
from napari_face_landmarks.pfld.crop import CROP_SIZE
from napari_face_landmarks.training.mesh_regression import HAND_SHARE

CARD_VERSION = "0.4.5"

TERMS_300W = (
    "research use only: «The data are provided for research purposes only. Commercial use (i.e., use in "
    "training commercial algorithms) is not allowed.»"
)
CITE_300W = (
    "C. Sagonas, E. Antonakos, G. Tzimiropoulos, S. Zafeiriou, M. Pantic: 300 Faces In-The-Wild Challenge: "
    "Database and Results, Image and Vision Computing 47, 2016"
)
CITE_HELEN = (
    "V. Le, J. Brandt, Z. Lin, L. Bourdev, T. S. Huang: Interactive Facial Feature Localization, ECCV 2012"
)
CITE_LFPW = (
    "P. N. Belhumeur, D. W. Jacobs, D. J. Kriegman, N. Kumar: Localizing Parts of Faces Using a Consensus of "
    "Exemplars, CVPR 2011"
)
CITE_LONDON = "L. DeBruine, B. Jones: Face Research Lab London Set, 2017, doi 10.6084/m9.figshare.5047666"
CITE_CANADA = (
    "L. DeBruine, B. Jones: Young Adult White Faces with Manipulated Versions, 2016, "
    "doi 10.6084/m9.figshare.4220517"
)
BY_HAND = "with the iBUG 68 points placed by hand"
BY_MACHINE = "boxes made by machine (YuNet), for the detector"


def _source(data: str, what: str, licence: str, *citations: str) -> dict[str, Any]:
    return {"data": data, "what": what, "licence": licence, "cite": list(citations)}


BOXES_BY_MESH = "boxes for the detector from the mesh"
LABELLED_BY_MESH = (
    "labels for the landmarks made from a machine-made face mesh, calibrated on templates placed by hand; "
    f"{BOXES_BY_MESH}"
)
READ_FROM_MESH = (
    "labels for the landmarks read from a machine-made face mesh by a regression fitted to the faces that "
    f"people labelled; {BOXES_BY_MESH}"
)
STEADIED = (
    f"{BY_HAND}; PFLD is trained on these, moved {100 * (1 - HAND_SHARE):.0f} % of the way to what a "
    "regression reads from the face's mesh without having seen its label; a last linear map is fitted to the "
    "labels as they were placed"
)


def _freely_licensed(labelled: str) -> tuple[dict[str, Any], ...]:
    return (
        _source(
            "landmarks_open/london_neutral", f"faces with templates; {labelled}", "CC BY 4.0", CITE_LONDON
        ),
        _source("landmarks_open/london_smiling", f"faces; {labelled}", "CC BY 4.0", CITE_LONDON),
        _source("landmarks_open/canada", f"faces with templates; {labelled}", "CC BY 4.0", CITE_CANADA),
        _source(
            "landmarks_open/faker",
            f"generated portraits (faker-js/assets-person-portrait); {labelled}",
            "CC0",
        ),
        _source("landmarks_open/interfaces", f"photographs (cjdowner/interfaces); {labelled}", "CC0"),
        _source(
            "landmarks_open/voteview",
            f"portraits of members of the US Congress (voteview/member_photos); {labelled}",
            "mostly works of the US government",
        ),
        _source("detection/interfaces", f"photographs (cjdowner/interfaces), {BY_MACHINE}", "CC0"),
        _source("detection/faker", f"portraits (faker-js/assets-person-portrait), {BY_MACHINE}", "CC0"),
        _source("detection/background", "18 pictures without people, for the detector", "Pixabay"),
    )


LIDS = "landmarks, lids, irises and lips made from a machine-made face mesh"
CITE_FAIRFACE = "K. Karkkainen, J. Joo: FairFace, WACV 2021"
CITE_GRID = (
    "M. Cooke, J. Barker, S. Cunningham, X. Shao: The GRID audiovisual sentence corpus, JASA 120, 2006"
)
CITE_HDTF = "Z. Zhang, L. Li, Y. Ding, C. Fan: Flow-Guided One-Shot Talking Face Generation (HDTF), CVPR 2021"
CLIPS = "CC BY 4.0 (GRID, HDTF); works of the US government; Pexels licence; MIT sample"
VARIED_OPEN = (
    _source("landmarks_open/fairface", f"faces; {LIDS}", "CC BY 4.0", CITE_FAIRFACE),
    _source("landmarks_open/sfhq_t2i", f"synthetic portraits; {LIDS}", "MIT", "D. Beniaguev: SFHQ-T2I, 2024"),
    _source("landmarks_open/caltech_faces", f"faces; {LIDS}", "CC BY 4.0", "M. Weber: Caltech Faces 1999"),
    _source("landmarks_open/webmorph_composite", f"composite portraits; {LIDS}", "CC BY 4.0",
            "L. DeBruine: WebMorph, 2016"),
    _source("landmarks_open/rendered_heads", "rendered heads with exact landmarks",
            "MIT", "T. Do et al.: VALID avatars, 2022"),
    _source("landmarks_open/grid_blinks", f"frames of clips; {LIDS}", "CC BY 4.0", CITE_GRID),
    _source("landmarks_open/speeches_256", f"frames of public addresses; {LIDS}",
            "CC BY 4.0 and works of the US government", CITE_HDTF),
    _source("landmarks_open/speeches_384", f"frames of public addresses; {LIDS}",
            "CC BY 4.0 and works of the US government", CITE_HDTF),
    _source("landmarks_open/clips_384", f"frames of two clips; {LIDS}", "Pexels licence; MIT"),
    _source("landmarks_open/winks_composite", f"winks composed of frames of these clips; {LIDS}", CLIPS),
)  # fmt: skip
"""Training data of the part models in addition to that of the landmark network."""
VARIED_RESEARCH = (
    _source("landmarks_research/yale", f"faces; {LIDS}", "research only", "Yale Face Database"),
    _source("landmarks_research/lfw_eyes", f"faces; {LIDS}", "research only",
            "G. B. Huang et al.: Labeled Faces in the Wild, 2007"),
    _source("landmarks_research/webmorph_3dsk", f"faces with templates; {LIDS}", "research only"),
    _source("landmarks_research/mead_384", f"frames of clips; {LIDS}", "non-commercial research",
            "K. Wang et al.: MEAD, ECCV 2020"),
)  # fmt: skip

SOURCES_OPEN = (*_freely_licensed(LABELLED_BY_MESH), *VARIED_OPEN)
SOURCES_RESEARCH = (
    _source("landmarks_300w_train/helen_train", f"HELEN {STEADIED}", TERMS_300W, CITE_300W, CITE_HELEN),
    _source("landmarks_300w_train/lfpw_train", f"LFPW {STEADIED}", TERMS_300W, CITE_300W, CITE_LFPW),
    _source("detection/helen_train", f"HELEN photographs, {BY_MACHINE}", TERMS_300W, CITE_300W, CITE_HELEN),
    _source("detection/lfpw_train", f"LFPW photographs, {BY_MACHINE}", TERMS_300W, CITE_300W, CITE_LFPW),
    *_freely_licensed(READ_FROM_MESH),
    *VARIED_OPEN,
    *VARIED_RESEARCH,
)
AUGMENTATION = (
    "Rotation, shift and scale of the box like those of a detector and a tracker; flips; heads rotated up to "
    "60 degrees of yaw by means of their mesh; {shapes}one-sided weakness and strong expression by "
    "warping; mouth corners, brows, lids and half lips moved one by one; pen marks, dressings, sutures, "
    "bruises and swellings; occlusion by hands, masks and hair; blur, noise, JPEG, low light, side light, "
    "colour casts, greyscale. A share of the faces remains unmodified."
)
NOT_FOR = (
    "Identifying people, judging emotion, health or character from a face, or any decision about a person. "
    "Not validated as a medical device."
)
CARDS: dict[str, dict[str, Any]] = {
    "open": {
        "licence": "CC BY 4.0",
        "terms": "The weights may be used by anyone for any purpose, commercial ones included, with "
        "attribution: «napari-face-landmarks, model bundle open, CC BY 4.0; trained on the Face Research Lab "
        "London Set, Young Adult White Faces and a WebMorph set (L. DeBruine, B. Jones), FairFace "
        "(K. Karkkainen, J. Joo), Caltech Faces 1999 (M. Weber), GRID (M. Cooke et al.) and HDTF (Z. Zhang "
        "et al.), all CC BY 4.0, on SFHQ-T2I (D. Beniaguev) and VALID avatars (T. Do et al.), MIT, and on "
        "public-domain portraits». The plugin's code is BSD-3-Clause.",
        "trained_on": list(SOURCES_OPEN),
        "augmentation": AUGMENTATION.format(shapes=""),
        "not_for": NOT_FOR,
        "coverage": "PFLD and the part models: a quarter of the faces are FairFace's, balanced over seven "
        "groups "
        "of origin and ages from 0 to over 70; an eighth synthetic portraits, a seventh rendered "
        "heads of 42 identities, the rest portraits and frames of few speakers. A quarter of each "
        "batch has a shut or half-shut eye, a tenth uneven eyes. Detector and patch experts: two "
        "thirds are portraits of members of the US Congress, mostly older white men, many in black "
        "and white. The error by group was not measured. Photographs are rotated by at most about 40 "
        "degrees, rendered heads up to 90.",
    },
    "research": {
        "licence": "research use only",
        "notice": "The models «research» may be used for research only, not commercially: they were trained "
        "on 300-W faces; the models «open» are free for any use.",
        "terms": "The weights were trained on 300-W faces (HELEN, LFPW), whose terms allow research only. "
        "They may be used and passed on for research; commercial use, and use in training commercial "
        "algorithms, is not allowed. The plugin's code is BSD-3-Clause.",
        "trained_on": list(SOURCES_RESEARCH),
        "augmentation": AUGMENTATION.format(shapes="other shapes of the head, "),
        "not_for": NOT_FOR,
        "coverage": "Half of the faces are photographs from the web labelled by hand, mostly adults, rotated "
        "by at most about 45 degrees; a third are those of the bundle open, the rest actors, news "
        "photographs and portraits for research. The error by group was not measured.",
    },
}
HELD_OUT = (
    "about 15 % of the faces, chosen by a seeded hash of the file name (of the person if the name identifies "
    "one), never trained on"
)


def write_bundle(run: Path, out: Path, bundle: str) -> dict[str, Any]:
    """Copy the trained files of a run to a bundle's folder, write its card and return it."""
    out.mkdir(parents=True, exist_ok=True)
    card_path = out / CARD
    old = json.loads(card_path.read_text()) if card_path.exists() else {}
    metrics = dict(old.get("metrics", {}))
    for name in (*MODEL_FILES, *PART_FILES):
        if (run / name).exists() and (run / name).resolve() != (out / name).resolve():
            shutil.copyfile(run / name, out / name)
    for path in sorted(run.glob("*.metrics.json")):
        metrics[path.name.removesuffix(".metrics.json")] = json.loads(path.read_text())
    if "linear-maps" in metrics:
        metrics.pop("settle", None)  # the same step in bundles until 0.4.2
    about = CARDS[bundle]
    names = [*MODEL_FILES, *(name for name in PART_FILES if (out / name).exists())]
    card = {
        "name": bundle,
        "version": CARD_VERSION,
        **about,
        "held_out": HELD_OUT,
        "metrics": metrics,
        "files": {name: file_entry(out / name) for name in names},
    }
    part = card_path.with_suffix(".part")
    part.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(card_path)
    network = load_bundle(out).pfld
    assert isinstance(network, onnxruntime.InferenceSession)
    outputs = network.run(None, {"crops": np.full((1, 3, CROP_SIZE, CROP_SIZE), 0.5, np.float32)})
    if not all(np.isfinite(values).all() for values in outputs):
        raise ModelError(f"{out / 'pfld.onnx'} has outputs that are not finite: train PFLD again.")
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
