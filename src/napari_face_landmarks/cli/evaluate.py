"""The command `evaluate`: errors of the bundles on labelled faces."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_face_landmarks.cli.console import print_stderr, progress_bar
from napari_face_landmarks.cli.options import add_options
from napari_face_landmarks.cli.output_paths import check_distinct, prepare_output
from napari_face_landmarks.evaluation import options as choices
from napari_face_landmarks.priority import cores
from napari_face_landmarks.settings import REFINE_MODES

if TYPE_CHECKING:
    from napari_face_landmarks.models import Models

OPTIONS = {
    "files FILE.npz": "labelled faces",
    "--models NAME|FOLDER": "bundles; default: all that `models` lists",
    "--measures": "also compare measures (eye aperture, mouth, brows, left minus right) with those of the "
    "labels, closed eyes with open ones, and landmarks with known deformations of the face",
    "--refine": "one or more of %(choices)s; default: off always, and with --measures also auto",
    "--boxes": "source of the boxes: the labels (truth), the labels shifted by 4 %% of the face "
    "like the boxes of a tracker (jitter), or the bundle's detector; default: %(default)s",
    "--perturb WHAT": f"corruptions of the images: {', '.join(choices.CONDITIONS)}, or all; default: none",
    "--faces": "all faces of the files, or one part of the split into training and held-out faces; "
    "default: %(default)s",
    "--json OUT.json": "write all results, including those of each face",
    "--table OUT.md": "write Markdown tables; if the file has the markers <!-- accuracy table --> and "
    "<!-- end of accuracy table -->, between these; with --measures, between "
    "<!-- measures table --> and <!-- end of measures table --> where it has those",
    "--limit N": "use a random sample of N faces",
    "--seed N": "random seed; default: %(default)s",
    "--threads N": "number of threads; default: one per processor core",
}


def add_evaluate(commands: Any) -> None:
    """Add the command `evaluate`."""
    parser = commands.add_parser(
        "evaluate",
        help="measure the error of bundles on labelled faces",
        description="Fit labelled faces with every bundle, refine mode and corruption, and print errors, "
        "failures and the calibration of the confidence. The files are .npz with the arrays webp, "
        "offsets, names and landmarks, described in evaluation/README.md.",
    )
    add_options(
        parser,
        OPTIONS,
        files={"nargs": "+"},
        models={"nargs": "+"},
        refine={"nargs": "+", "choices": REFINE_MODES},
        boxes={"choices": choices.BOX_SOURCES, "default": choices.DEFAULT_BOXES},
        perturb={
            "nargs": "+",
            "choices": (*choices.CONDITIONS, "all"),
            "default": list(choices.DEFAULT_CONDITIONS),
        },
        faces={"choices": choices.SIDES, "default": choices.DEFAULT_SIDE},
        seed={"type": int, "default": 0},
    )
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    outputs = check_distinct(options.files, (options.json, options.table))

    from napari_face_landmarks.evaluation.dataset import read_faces
    from napari_face_landmarks.evaluation.measures_report import measure_fits
    from napari_face_landmarks.evaluation.metrics import (
        EvaluationPlan,
        fit_faces,
        pooled_poor_fits,
        summarise,
    )
    from napari_face_landmarks.evaluation.options import CONDITIONS, DEFAULT_REFINE, MEASURED_REFINE
    from napari_face_landmarks.evaluation.report import measures_to_markdown, to_json, to_markdown, to_text
    from napari_face_landmarks.files.json_file import write_json
    from napari_face_landmarks.files.markdown import has_section, write_section
    from napari_face_landmarks.models import list_models

    plan = EvaluationPlan(
        refine=tuple(
            dict.fromkeys(options.refine or (MEASURED_REFINE if options.measures else DEFAULT_REFINE))
        ),
        conditions=CONDITIONS if "all" in options.perturb else tuple(dict.fromkeys(options.perturb)),
        boxes=options.boxes,
        seed=options.seed,
        threads=options.threads or cores(),
    )
    faces = read_faces(options.files, options.faces, options.limit, options.seed)
    bundles = _bundles(options.models or list_models())
    for path in outputs:
        prepare_output(path)
    for sentence in _training_warnings(bundles, faces.files) if options.faces != "held-out" else ():
        print_stderr(f"Warning: {sentence}")
    with progress_bar("Evaluating", len(faces), "faces") as advance:
        fits = fit_faces(faces, bundles, plan, advance)
    summaries, pooled = summarise(fits), pooled_poor_fits(fits)
    measures = measure_fits(fits, faces, bundles, plan) if options.measures else []
    if options.json is not None:
        record = to_json(summaries, pooled, faces, options.faces, plan, bundles, measures)
        write_json(options.json, record)
    if options.table is not None:
        if measures and has_section(options.table, "measures table"):
            table = measures_to_markdown(measures, faces, options.faces)
            write_section(options.table, table, "measures table")
        else:
            table = to_markdown(summaries, pooled, faces, options.faces, plan, measures)
            write_section(options.table, table, "accuracy table")
    print(to_text(summaries, pooled, measures), end="")
    return 0


def _bundles(names: Sequence[str]) -> dict[str, Models]:
    """Load bundles; a second bundle of the same name is listed by its argument on the command line."""
    from napari_face_landmarks.models import load_models

    bundles: dict[str, Models] = {}
    for argument in dict.fromkeys(names):
        models = load_models(argument)
        bundles[models.name if models.name not in bundles else argument] = models
    return bundles


def _training_warnings(bundles: Mapping[str, Models], files: Sequence[str]) -> list[str]:
    """Return a warning for each bundle whose card lists one of the files as training data."""
    sentences = []
    for name, models in bundles.items():
        data = models.card.get("trained_on")
        entries = [str(item.get("data")) for item in data if isinstance(item, dict)] if data else []
        stems = {entry.rsplit("/", 1)[-1] for entry in entries}
        shared = [Path(file).name for file in files if Path(file).stem in stems]
        if shared:
            sentences.append(
                f"The bundle {name} was trained on faces of {', '.join(shared)}: use --faces held-out to "
                "evaluate it on other faces."
            )
    return sentences
