"""Measure a bundle on the held-out faces, through the same functions that users call.

``python -m napari_face_landmarks.training evaluate --data FOLDER --models NAME --out FOLDER``
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from napari_face_landmarks.ibug import nme
from napari_face_landmarks.models import DEFAULT_BUNDLE, Models, load_models
from napari_face_landmarks.settings import REFINE_MODES, TrackerSettings
from napari_face_landmarks.tracking import FaceTracker
from napari_face_landmarks.tracking.identity import overlaps
from napari_face_landmarks.training.faces import Faces, load_faces

POOR = 0.08


def evaluate(models: Models, faces: Faces) -> dict[str, Any]:
    """Return the error of each refine mode on labelled faces, with the box that the detector finds.

    Parameters
    ----------
    models : Models
    faces : Faces
        Pictures with one labelled face each; of several detections, the one that overlaps it most counts.

    Returns
    -------
    dict
        ``faces``, ``found`` and, per refine mode, the mean, median and poor share of the error over the
        inter-ocular distance, and the milliseconds a face.
    """
    finder = FaceTracker(models, TrackerSettings(max_faces=8))
    boxes = [
        _box_of(finder.detect(image), points)
        for image, points in zip(faces.images, faces.landmarks, strict=True)
    ]
    found = [i for i, box in enumerate(boxes) if box is not None]
    report: dict[str, Any] = {"faces": len(boxes), "found": len(found)}
    errors: dict[str, npt.NDArray[np.float64]] = {}
    for mode in REFINE_MODES:
        tracker = FaceTracker(models, TrackerSettings(refine=mode))
        landmarks, sources, seconds = [], [], []
        for i in tqdm(found, desc=f"refine {mode}", unit="face"):
            began = time.perf_counter()
            fit = tracker.fit(faces.images[i], boxes[i])
            seconds.append(time.perf_counter() - began)
            landmarks.append(fit.landmarks[0])
            sources.append(int(fit.source[0]))
        errors[mode] = nme(np.stack(landmarks), faces.landmarks[found])
        report[mode] = {
            "nme": float(errors[mode].mean()),
            "median": float(np.median(errors[mode])),
            "poor": float((errors[mode] > POOR).mean()),
            "refined": float(np.mean([source == 2 for source in sources])),
            "milliseconds": 1e3 * float(np.median(seconds)),
        }
    report["better_with_clnf"] = float((errors["always"] < errors["off"]).mean())
    return report


def _box_of(
    found: npt.NDArray[np.float32], points: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32] | None:
    """Return the detection that shows the labelled face, (1, 5), or None."""
    truth = np.concatenate([points.min(axis=0), points.max(axis=0)])[None]
    if not len(found):
        return None
    shared = overlaps(found, truth)[:, 0]
    best = int(shared.argmax())
    return found[best : best + 1] if shared[best] > 0.3 else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this step to the command line."""
    parser.add_argument(
        "--models", default=DEFAULT_BUNDLE, help="name or folder of a bundle (default %(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Run this step and write ``evaluation.metrics.json``, which the model card takes in."""
    faces = load_faces(Path(args.data), bundle="research", held_out=True)
    report = evaluate(load_models(args.models), faces)
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2)
    (args.out / "evaluation.metrics.json").write_text(text + "\n")
    print(text)
