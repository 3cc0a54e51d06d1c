"""Evaluate a bundle on the held-out faces of 300-W for its model card."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from napari_face_landmarks.evaluation.dataset import LabelledFaces, read_faces
from napari_face_landmarks.evaluation.measures_report import MeasureSummary, measure_fits
from napari_face_landmarks.evaluation.metrics import (
    EvaluationPlan,
    Fits,
    Summary,
    fit_faces,
    pooled_poor_fits,
    summarise,
)
from napari_face_landmarks.evaluation.options import CONDITIONS
from napari_face_landmarks.files.json_file import plain as as_plain
from napari_face_landmarks.models import DEFAULT_BUNDLE, Models, load_models
from napari_face_landmarks.priority import cores
from napari_face_landmarks.training.faces import LABELLED
from napari_face_landmarks.training.log import write_json

FIGURES = ("mean", "median", "inner", "jaw", "failures", "auc", "confidence", "growth", "better_than_off")
"""Attributes of `Summary` in the model card."""
MEASURES = (
    "mouth_opening", "mouth_width", "eye_aperture", "eye_aperture_difference",
    "commissure_height_difference", "commissure_excursion_difference", "brow_height_difference",
)  # fmt: skip
"""Measures in the model card."""
DIGITS = 4


def evaluate(models: Models, faces: LabelledFaces, threads: int = 1, seed: int = 0) -> dict[str, Any]:
    """Return the errors of a bundle on labelled faces for its model card.

    ``jitter`` has `FIGURES` by condition and refine mode, with boxes like those of a tracker; ``detector``
    has them by refine mode on unmodified images, with boxes of the detector. `seed` is that of jitter and
    corruptions.
    """
    jitter = EvaluationPlan(conditions=CONDITIONS, boxes="jitter", seed=seed, threads=threads)
    detector = EvaluationPlan(conditions=("none",), boxes="detector", seed=seed, threads=threads)
    fits = _fitted(faces, models, jitter)
    jittered, detected = summarise(fits), summarise(_fitted(faces, models, detector))
    plain = [summary for summary in jittered if summary.condition == "none"]
    record = {
        "faces": len(faces),
        "seed": seed,
        "jitter": {
            condition: _figures([summary for summary in jittered if summary.condition == condition])
            for condition in CONDITIONS
        },
        "detector": {"found": detected[0].found, **_figures(detected)},
        "poor_fits": {mode: poor for (_, mode), poor in pooled_poor_fits(fits).items()},
        "reliability": {summary.refine: summary.reliability for summary in plain},
        "risk": {summary.refine: summary.risk for summary in plain},
        "covered": {summary.refine: summary.covered for summary in jittered if summary.covered is not None},
        "measures": _measures(measure_fits(fits, faces, {models.name: models}, jitter)),
    }
    return _rounded(record)


def _fitted(faces: LabelledFaces, models: Models, plan: EvaluationPlan) -> list[Fits]:
    with tqdm(total=len(faces), desc=f"boxes: {plan.boxes}", unit=" faces") as bar:
        return fit_faces(faces, {models.name: models}, plan, lambda: bar.update() and None)


def _figures(summaries: Sequence[Summary]) -> dict[str, dict[str, float]]:
    """Return `FIGURES`, without missing values, by refine mode."""
    return {
        summary.refine: {
            name: getattr(summary, name) for name in FIGURES if getattr(summary, name) is not None
        }
        for summary in summaries
    }


def _measures(summaries: Sequence[MeasureSummary]) -> dict[str, dict[str, Any]]:
    """Return agreement of `MEASURES`, shut eyes and deformations by condition and refine mode."""
    record: dict[str, dict[str, Any]] = {}
    for summary in summaries:
        record.setdefault(summary.condition, {})[summary.refine] = {
            **{i.measure: [i.correlation, i.slope] for i in summary.agreement if i.measure in MEASURES},
            "shut_aperture": summary.eyes.shut_aperture,
            "shut_share": summary.eyes.share,
            **{f"{name} followed": share for name, share in summary.followed.items()},
        }
    return record


def _rounded(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record for JSON with `DIGITS` decimals; numbers that are not finite become None."""
    text = json.dumps(as_plain(record))
    return dict(json.loads(text, parse_float=lambda number: round(float(number), DIGITS)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this step to the command line."""
    parser.add_argument(
        "--models", default=DEFAULT_BUNDLE, help="name or folder of a bundle (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default %(default)s)")
    parser.add_argument("--threads", type=int, default=cores(), help="default: one per core")


def run(args: argparse.Namespace) -> None:
    """Run this step and write ``evaluation.metrics.json`` for the model card."""
    faces = read_faces([Path(args.data) / name for name in LABELLED], "held-out")
    report = evaluate(load_models(args.models), faces, args.threads, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "evaluation.metrics.json", report)
    print(json.dumps(report, indent=2))
