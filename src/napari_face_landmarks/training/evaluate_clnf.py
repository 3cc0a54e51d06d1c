"""Measure and tune CLNF on held-out faces: ``python -m napari_face_landmarks.training.evaluate_clnf``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.fit import ClnfModel, fit_landmarks, refine
from napari_face_landmarks.clnf.parameters import PUBLISHED, TUNED, EngineConstants
from napari_face_landmarks.clnf.patch_experts import PatchExperts, load_patch_experts
from napari_face_landmarks.clnf.pdm import PDM, load_pdm, project
from napari_face_landmarks.detection.boxes import centres
from napari_face_landmarks.detection.detector import detect_faces
from napari_face_landmarks.evaluation.corruptions import perturb
from napari_face_landmarks.evaluation.options import CONDITIONS, Condition
from napari_face_landmarks.ibug import inter_ocular, nme
from napari_face_landmarks.pfld.network import crops_of_boxes, predict_twice
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.training.faces import load_faces
from napari_face_landmarks.training.onnx_float16 import open_session
from napari_face_landmarks.video.pixels import to_grey

Floats = npt.NDArray[np.float64]

STEPS: dict[str, tuple[float, ...]] = {
    "regularisation": (0.4, 0.7, 1.4, 2.5),
    "regularisation_slope": (0.5, 0.75, 1.3),
    "sigma": (0.6, 0.8, 1.25, 1.6),
    "sigma_slope": (-1.0, 0.0, 3.0),
    "weight": (0.5, 0.75, 1.4, 2.0),
    "prior_weight": (0.4, 0.7, 1.4, 2.5),
    "prior_floor": (0.5, 0.75, 1.4, 2.0),
    "hidden": (0.0, 0.5, 0.7, 1.5, 2.5),
    "residual_share": (0.8, 0.9, 1.1, 1.25),
    "residual_sigma": (0.6, 0.8, 1.25, 1.6),
    "fit_noise": (0.6, 0.8, 1.25, 1.6),
}
"""Factors that `tune` tries for each constant."""


@dataclass(frozen=True)
class Starts:
    """Faces with initial landmarks."""

    images: list[npt.NDArray[np.uint8]]  # list of ndarray, (H, W)
    # landmarks, truth: (N, 68, 2)
    landmarks: Floats
    sigma: Floats  # (N, 68)
    truth: Floats


def find_starts(
    data: Path, models: Path, bundle: str = "research", conditions: Sequence[Condition] = ("none",)
) -> Starts:
    """Run detector and PFLD on the held-out faces, once per condition; faces not found are omitted."""
    detector = open_session(models / "detector.onnx")
    pfld = open_session(models / "pfld.onnx")
    faces = load_faces(data, bundle=bundle, held_out=True)
    images, landmarks, sigma, truth = [], [], [], []
    for name, image, points in zip(faces.names, faces.images, faces.landmarks, strict=True):
        boxes = detect_faces(detector, image).boxes
        if len(boxes) == 0:
            continue
        nearest = np.argmin(np.linalg.norm(centres(boxes) - points.mean(axis=0), axis=1))
        for condition in conditions:
            seen = perturb(image, points, condition, name).image
            output = predict_twice(pfld, seen, crops_of_boxes(boxes[nearest : nearest + 1]))
            images.append(to_grey(seen))
            landmarks.append(output.landmarks[0])
            sigma.append(output.sigma[0])
            truth.append(points)
    return Starts(
        images,
        np.asarray(landmarks, dtype=np.float64),
        np.asarray(sigma, dtype=np.float64),
        np.asarray(truth, dtype=np.float64),
    )


def perturbed_starts(starts: Starts, pdm: PDM, error: float, seed: int = 2026) -> Starts:
    """Return starts at the labels with a correlated error of about the given NME.

    Half of its variance is an error of pose, a third an error of shape within the PDM, the rest independent.
    """
    rng = np.random.default_rng(seed)
    landmarks = np.empty_like(starts.truth)
    for i, points in enumerate(starts.truth):
        unit = float(inter_ocular(points))
        params = fit_landmarks(pdm, points)
        deformed = params.copy()
        deformed[6:] += rng.normal(size=pdm.n_modes) * np.sqrt(pdm.eigenvalues)
        centred = (points - points.mean(axis=0)) / unit
        rotation = np.stack([-centred[:, 1], centred[:, 0]], axis=1)
        pose = rng.normal(size=2) + rng.normal() * centred + rng.normal() * rotation
        parts = [pose, project(pdm, deformed) - project(pdm, params)]
        parts.append(rng.normal(size=points.shape))
        offset = np.zeros_like(points)
        for share, part in zip((0.5, 0.33, 0.17), parts, strict=True):
            offset += np.sqrt(share) * part / np.sqrt(np.mean(part**2))
        size = error * unit * rng.lognormal(0, 0.3) / np.linalg.norm(offset, axis=1).mean()
        landmarks[i] = points + size * offset
    sigma = np.full(landmarks.shape[:2], 0.8 * error) * inter_ocular(starts.truth)[:, None]
    return Starts(starts.images, landmarks, sigma, starts.truth)


def refined(
    starts: Starts, pdm: PDM, experts: PatchExperts, constants: EngineConstants, settings: TrackerSettings
) -> tuple[Floats, int]:
    """Return the refined landmarks, (N, 68, 2), and the number of faces on which CLNF failed."""
    landmarks = np.empty_like(starts.landmarks)
    failures = 0
    for i, image in enumerate(starts.images):
        found = refine(
            image, starts.landmarks[i], None, ClnfModel(pdm, experts, constants), settings, starts.sigma[i]
        )
        landmarks[i] = found.landmarks
        failures += not found.converged
    return landmarks, failures


def evaluate(
    starts: Starts, pdm: PDM, experts: PatchExperts, constants: EngineConstants, settings: TrackerSettings
) -> dict[str, Any]:
    """Return the mean errors (NME) of the start, of its fit to the PDM and of CLNF, and the time per face."""
    pairs = zip(starts.landmarks, starts.sigma, strict=True)
    fitted = [project(pdm, fit_landmarks(pdm, points, sigma, constants=constants)) for points, sigma in pairs]
    began = time.perf_counter()
    landmarks, failures = refined(starts, pdm, experts, constants, settings)
    milliseconds = 1000 * (time.perf_counter() - began) / len(starts.images)
    before, after = nme(starts.landmarks, starts.truth), nme(landmarks, starts.truth)
    return {
        "faces": len(starts.images),
        "start": float(before.mean()),
        "start in the PDM": float(nme(np.stack(fitted), starts.truth).mean()),
        "CLNF": float(after.mean()),
        "ms per face": milliseconds,
        "failed": failures,
        "share of improved faces": float((after < before).mean()),
    }


def tune(
    starts: Starts, pdm: PDM, experts: PatchExperts, constants: EngineConstants, settings: TrackerSettings
) -> EngineConstants:
    """Coordinate descent on the constants, as long as the mean NME falls by 0.005 % or more."""

    def error(candidate: EngineConstants) -> float:
        return float(nme(refined(starts, pdm, experts, candidate, settings)[0], starts.truth).mean())

    best = error(constants)
    for _ in range(2):
        at_start = best
        for name, factors in STEPS.items():
            centre = getattr(constants, name)
            for factor in factors:
                candidate = dataclasses.replace(constants, **{name: centre * factor})
                value = error(candidate)
                if value < best - 5e-5:
                    best, constants = value, candidate
                    print(f"{100 * best:.3f} %  {name} = {getattr(candidate, name):.4g}", flush=True)
        if at_start - best < 5e-5:
            break
    return constants


def main(arguments: list[str] | None = None) -> int:
    """Run the measurement (or the tuning) from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m napari_face_landmarks.training.evaluate_clnf", description=__doc__
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of training data")
    parser.add_argument("--models", type=Path, required=True, help="a bundle's folder")
    parser.add_argument("--published", action="store_true", help="the published constants")
    parser.add_argument(
        "--start-error",
        type=float,
        help="start at the labels with this NME, in percent",
    )
    parser.add_argument("--perturb", nargs="+", choices=CONDITIONS, default=["none"], help="corruptions")
    parser.add_argument("--tune", action="store_true", help="optimise the constants")
    args = parser.parse_args(arguments)
    pdm, experts = load_pdm(args.models / "pdm.npz"), load_patch_experts(args.models / "cen.npz")
    constants, settings = PUBLISHED if args.published else TUNED, TrackerSettings()
    starts = find_starts(args.data, args.models, conditions=args.perturb)
    if args.start_error is not None:
        starts = perturbed_starts(starts, pdm, args.start_error / 100)
    if args.tune:
        constants = tune(starts, pdm, experts, constants, settings)
        print(constants)
    print(json.dumps(evaluate(starts, pdm, experts, constants, settings), indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
