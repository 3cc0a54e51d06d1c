"""The command `evaluate`: errors of the bundles on labelled faces."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_face_landmarks.cli.console import progress_bar, say
from napari_face_landmarks.cli.options import count
from napari_face_landmarks.cli.output_paths import check_distinct, prepare_place
from napari_face_landmarks.settings import REFINE_MODES

if TYPE_CHECKING:
    from napari_face_landmarks.models import Models


def add_evaluate(commands: Any) -> None:
    """Add the command `evaluate`."""
    from napari_face_landmarks.evaluation import options

    parser = commands.add_parser(
        "evaluate",
        help="measure the error of bundles on labelled faces",
        description="Fit labelled faces with every bundle, refine mode and corruption, and print errors, "
        "failures and the calibration of the confidence. The files are .npz with the arrays webp, "
        "offsets, names and landmarks, described in evaluation/README.md.",
    )
    parser.add_argument("files", metavar="FILE.npz", type=Path, nargs="+", help="labelled faces")
    parser.add_argument(
        "--models", metavar="NAME|FOLDER", nargs="+", help="bundles; default: all that `models` lists"
    )
    parser.add_argument(
        "--measures",
        action="store_true",
        help="compare measures too (eye aperture, mouth, brows, left minus right) with those of the labels, "
        "shut eyes with open ones, and landmarks with known deformations of the face",
    )
    parser.add_argument(
        "--refine",
        nargs="+",
        choices=REFINE_MODES,
        help="one or more of %(choices)s; default: off always, with --measures auto too",
    )
    parser.add_argument(
        "--boxes",
        choices=options.BOX_SOURCES,
        default=options.DEFAULT_BOXES,
        help="where the boxes come from: the labels (truth), the labels shifted by 4 %% of the face like "
        "the boxes of a tracker (jitter), or the bundle's detector; default: %(default)s",
    )
    parser.add_argument(
        "--perturb",
        nargs="+",
        choices=(*options.CONDITIONS, "all"),
        default=list(options.DEFAULT_CONDITIONS),
        metavar="WHAT",
        help=f"corruptions of the images: {', '.join(options.CONDITIONS)}, or all; default: none",
    )
    parser.add_argument(
        "--faces",
        choices=options.SIDES,
        default=options.DEFAULT_SIDE,
        help="all faces of the files, or one side of the training's split by the names of the faces; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--json", metavar="OUT.json", type=Path, help="write all results, including those of each face"
    )
    parser.add_argument(
        "--table",
        metavar="OUT.md",
        type=Path,
        help="write Markdown tables; if the file has the markers <!-- accuracy table --> and "
        "<!-- end of accuracy table -->, between these; with --measures, between "
        "<!-- measures table --> and <!-- end of measures table --> where it has those",
    )
    parser.add_argument("--limit", metavar="N", type=count, help="use a random sample of N faces")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="random seed; default: %(default)s")
    parser.add_argument(
        "--threads", metavar="N", type=count, help="number of threads; default: one per processor core"
    )
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    check_distinct(options.files, [path for path in (options.json, options.table) if path is not None])

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
        threads=options.threads or len(_cores()),
    )
    faces = read_faces(options.files, options.faces, options.limit, options.seed)
    bundles = _bundles(options.models or list_models())
    for path in (options.json, options.table):
        if path is not None:
            prepare_place(path)
    for sentence in _trained_on(bundles, faces.files) if options.faces != "held-out" else ():
        say(f"Warning: {sentence}")
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


def _cores() -> set[int]:
    """Return the processor cores available to this process."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _bundles(names: Sequence[str]) -> dict[str, Models]:
    """Load bundles by name; a second bundle with the same name is listed as the user gave it."""
    from napari_face_landmarks.models import load_models

    bundles: dict[str, Models] = {}
    for given in dict.fromkeys(names):
        models = load_models(given)
        bundles[models.name if models.name not in bundles else given] = models
    return bundles


def _trained_on(bundles: Mapping[str, Models], files: Sequence[str]) -> list[str]:
    """Return a warning for each bundle whose card lists one of the files as training data."""
    sentences = []
    for name, models in bundles.items():
        data = models.card.get("trained_on")
        entries = [str(item.get("data")) for item in data if isinstance(item, dict)] if data else []
        known = {entry.rsplit("/", 1)[-1] for entry in entries}
        seen = [Path(file).name for file in files if Path(file).stem in known]
        if seen:
            sentences.append(
                f"The bundle {name} was trained on faces of {', '.join(seen)}: use --faces held-out to "
                "measure on faces that it was not trained on."
            )
    return sentences
