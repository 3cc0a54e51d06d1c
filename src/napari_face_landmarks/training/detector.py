"""Train the face detector: ``python -m napari_face_landmarks.training detector``.

The step writes ``detector.onnx`` (weights with the best average precision on held-out images),
``detector.metrics.json``, ``detector.log.csv`` and ``detector.checkpoint.pt``, from which it resumes.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from napari_face_landmarks.detection import detector
from napari_face_landmarks.detection.boxes import suppress
from napari_face_landmarks.detection.decode import CELL_VALUES, decode
from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.training import detector_network
from napari_face_landmarks.training.detector_data import BUNDLES, Composer, load_data
from napari_face_landmarks.training.detector_match import average_precision, match, recall_at
from napari_face_landmarks.training.log import append_row, write_json
from napari_face_landmarks.training.loop import Loop, scheduled
from napari_face_landmarks.training.onnx_float16 import export
from napari_face_landmarks.video import prefetch

Array = npt.NDArray[Any]

SIZES = (256, 256, 256, 320)
"""Sides of the training images; one is drawn for each batch."""
MAX_FACES = 24
STEPS, RATE = 5000, 3e-3
STARTED_STEPS, STARTED_RATE = 5000, 1.5e-3
"""Steps and learning rate of a run with ``--start``."""
EMA = 0.9985
COMPOSED_HELD_OUT = 400
LOGGED = (
    "average_precision", "recall_at_one_false_alarm_in_50", "recall", "false_alarms_per_picture",
    "mean_overlap", "mean_point_error",
)  # fmt: skip
REPORTED_SCORES = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this step to the command line."""
    parser.add_argument(
        "--start", type=Path, help="checkpoint, or folder with one, whose weights are the initial ones"
    )
    parser.add_argument(
        "--steps", type=int, help=f"optimiser steps; default: {STEPS}, {STARTED_STEPS} with --start"
    )
    parser.add_argument("--batch", type=int, default=16, help="images per step")
    parser.add_argument(
        "--rate", type=float, help=f"highest learning rate; default: {RATE}, {STARTED_RATE} with --start"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and images")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--evaluate-every", type=int, default=500, help="steps between evaluations")
    parser.add_argument("--device", default=None, help="cpu or cuda; default: cuda if available")


def batches(
    composer: Composer, seed: int, start: int, steps: int, batch: int
) -> Iterator[tuple[int, dict[str, Array]]]:
    """Yield the batches of the steps from `start` to `steps`, each composed with its own seed."""
    for step in range(start, steps):
        yield step, compose_batch(composer, np.random.default_rng([seed, step]), batch)


def compose_batch(composer: Composer, rng: np.random.Generator, batch: int) -> dict[str, Array]:
    """Compose one batch: ``frames`` (B, S, S, 3) uint8 and the arrays of `detector_network.detector_loss`."""
    size = int(rng.choice(SIZES))
    pictures = [composer.compose(rng, size) for _ in range(batch)]
    n_faces = max(1, min(MAX_FACES, max(len(picture[1]) for picture in pictures)))
    n_ignored = max(1, max(len(picture[3]) for picture in pictures))
    result: dict[str, Array] = {
        "frames": np.stack([picture[0] for picture in pictures]),
        "boxes": np.zeros((batch, n_faces, 4), np.float32),
        "points": np.zeros((batch, n_faces, 5, 2), np.float32),
        "present": np.zeros((batch, n_faces), np.bool_),
        "ignore": np.zeros((batch, n_ignored, 4), np.float32),
    }
    result["boxes"][:, :, 2:] = 1.0
    for b, (_, boxes, points, ignore) in enumerate(pictures):
        n = min(len(boxes), n_faces)
        result["boxes"][b, :n], result["points"][b, :n] = boxes[:n], points[:n]
        result["present"][b, :n] = True
        result["ignore"][b, : len(ignore)] = ignore
    return result


def held_out_pictures(data: Path, bundle: str) -> tuple[list[Any], list[Any]]:
    """Return held-out photographs at input size, and images composed of them; with the labels of both."""
    photos, crops, backgrounds = load_data(data, bundle, held_out=True)
    plain = []
    for photo in [*photos, *backgrounds]:
        frame, factor = detector.fit_to_input(photo.levels[0], detector.DEFAULT_INPUT_SIZE)
        boxes = (photo.boxes + 0.5) * np.tile(factor, 2) - 0.5
        points = (photo.points + 0.5) * factor - 0.5
        plain.append((frame, boxes[photo.trusted], points[photo.trusted], boxes[~photo.trusted]))
    composer = Composer(photos, crops, backgrounds)
    rng = np.random.default_rng(2026)
    composed = [composer.compose(rng, 320) for _ in range(COMPOSED_HELD_OUT)]
    return plain, composed


@torch.no_grad()
def evaluate(network: detector_network.FaceDetector, pictures: list[Any], min_score: float) -> dict[str, Any]:
    """Return average precision, recall, false alarms and errors on labelled images."""
    device = next(network.parameters()).device
    exported = detector_network.ExportedDetector(network).eval()
    scores, states, overlaps, errors, n_faces = [], [], [], [], 0
    for frame, truth, true_points, ignore in pictures:
        cells = exported(torch.as_tensor(frame[None], device=device))[0].cpu().numpy()
        boxes, points = decode(cells, frame.shape[0], frame.shape[1], 0.02)
        boxes, points = boxes[:400], points[:400]
        kept = suppress(boxes, boxes[:, 4], detector.MAX_OVERLAP)
        state, overlap, error = match(boxes[kept], points[kept], truth, true_points, ignore)
        counted = state >= 0
        scores.append(boxes[kept, 4][counted])
        states.append(state[counted])
        overlaps.append(overlap[counted])
        errors.append(error[counted])
        n_faces += len(truth)
    score, state = np.concatenate(scores), np.concatenate(states) == 1
    overlap, error = np.concatenate(overlaps), np.concatenate(errors)
    confident = score >= min_score
    false_scores = np.sort(score[~state])[::-1]
    recall, limit = recall_at(score, state, n_faces, len(pictures))

    def found_from(threshold: float) -> dict[str, float]:
        counted = score >= threshold
        return {
            "recall": float(np.count_nonzero(state & counted) / max(n_faces, 1)),
            "false_alarms_per_picture": float(np.count_nonzero(~state & counted) / len(pictures)),
        }

    return {
        "pictures": len(pictures),
        "faces": n_faces,
        "average_precision": average_precision(score, state, n_faces),
        "recall_at_one_false_alarm_in_50": recall,
        "score_of_one_false_alarm_in_50": limit,
        "min_score": min_score,
        **found_from(min_score),
        "by_min_score": {f"{threshold:g}": found_from(threshold) for threshold in REPORTED_SCORES},
        "highest_false_score": float(false_scores[0]) if len(false_scores) else 0.0,
        "mean_overlap": float(np.nanmean(overlap[confident & state])) if (confident & state).any() else 0.0,
        "mean_point_error": float(np.nanmean(error[confident & state])) if (confident & state).any() else 1.0,
    }


def export_onnx(network: detector_network.FaceDetector, path: Path) -> None:
    """Write the network as ONNX, float16 weights: ``frames`` (B, H, W, 3) uint8 to ``cells`` (B, A, 16)."""
    copy = detector_network.FaceDetector()
    copy.load_state_dict({name: value.cpu() for name, value in network.state_dict().items()})
    example = torch.zeros(1, 256, 320, 3, dtype=torch.uint8)
    axes = {"frames": {0: "batch", 1: "height", 2: "width"}, "cells": {0: "batch", 1: "cell"}}
    export(detector_network.ExportedDetector(copy), example, path, "frames", ["cells"], axes)


def load_start(path: Path, network: detector_network.FaceDetector) -> dict[str, str]:
    """Load the averaged weights of another run; return its bundle, steps and seconds."""
    path = path / "detector.checkpoint.pt" if path.is_dir() else path
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state["averaged" if "averaged" in state else "average"])
    except (OSError, KeyError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"{path} has no weights of a detector ({type(error).__name__}): give the checkpoint of an "
            "earlier run, or its folder."
        ) from error
    return {
        "bundle": str(state.get("bundle", "unknown")),
        "steps": str(int(state["step"])),
        "seconds": f"{float(state['seconds']):.0f}",
    }


def run(args: argparse.Namespace) -> int:
    """Train and evaluate the detector; return the exit status."""
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(args.seed)
    sys.setswitchinterval(5e-4)  # training has many short operations next to the composing thread
    args.steps = args.steps or (STARTED_STEPS if args.start else STEPS)
    args.rate = args.rate or (STARTED_RATE if args.start else RATE)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)

    photos, crops, backgrounds = load_data(args.data, args.bundle, held_out=False)
    composer = Composer(photos, crops, backgrounds)
    plain, composed = held_out_pictures(args.data, args.bundle)
    tqdm.write(
        f"training: {len(photos)} photographs, {len(crops)} crops, {len(backgrounds)} backgrounds; "
        f"held out: {len(plain)} photographs; on {device}"
    )

    network, averaged = (detector_network.FaceDetector().to(device) for _ in range(2))
    averaged.eval()
    averaged.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), lr=args.rate, weight_decay=0.02)
    loop = Loop(out / "detector", network, averaged, optimiser, EMA)
    loop.extra = {"bundle": args.bundle, "start": {}}
    if loop.resume():
        tqdm.write(f"resuming from step {loop.step}")
    elif args.start is not None:
        start = loop.extra["start"] = load_start(args.start, network)
        averaged.load_state_dict(network.state_dict())
        tqdm.write(f"starting from the bundle {start['bundle']} after {start['steps']} steps")

    grids = {size: detector_network.cell_grid(size, size).to(device) for size in set(SIZES)}
    sums: dict[str, float] = {}
    steps_logged, first = 0, loop.step
    stream = prefetch(batches(composer, args.seed, first, args.steps, args.batch))
    for step, batch in tqdm(stream, initial=first, total=args.steps, desc="detector", mininterval=5):
        loop.set_rate(scheduled(step, args.steps, args.rate, min(300, max(args.steps // 4, 1)), 0.01))
        tensors = {name: torch.as_tensor(value, device=device) for name, value in batch.items()}
        frames = tensors.pop("frames")
        network.train()
        loss, parts = detector_network.detector_loss(network(frames), grids[frames.shape[1]], tensors)
        loop.descend(loss, clip=10.0)
        steps_logged += 1
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value
        if loop.step % args.evaluate_every and loop.step != args.steps:
            continue
        metrics = {
            "photographs": evaluate(averaged, plain, detector.DEFAULT_MIN_SCORE),
            "composed": evaluate(averaged, composed, detector.DEFAULT_MIN_SCORE),
        }
        value = (metrics["photographs"]["average_precision"] + metrics["composed"]["average_precision"]) / 2
        losses = {name: total / steps_logged for name, total in sums.items()}
        _log(out / "detector.log.csv", loop.step, loop.seconds, losses, metrics)
        sums, steps_logged = {}, 0
        if -value < loop.best:
            loop.best = -value
            export_onnx(averaged, out / "detector.onnx")
            _write_metrics(out / "detector.metrics.json", args, loop, metrics, composer)
        loop.save()
    return 0


def _log(path: Path, step: int, seconds: float, losses: dict[str, float], metrics: dict[str, Any]) -> None:
    row: dict[str, float] = {"step": step, "seconds": round(seconds, 1)}
    row.update({f"loss_{name}": round(value, 5) for name, value in losses.items()})
    for part, values in metrics.items():
        row.update({f"{part}_{name}": round(values[name], 5) for name in LOGGED})
    append_row(path, row)
    tqdm.write(" ".join(f"{name}={value}" for name, value in row.items()))


def _write_metrics(
    path: Path, args: argparse.Namespace, loop: Loop, metrics: dict[str, Any], composer: Composer
) -> None:
    wholes, crops = BUNDLES[args.bundle]
    content = {
        "model": "detector",
        "bundle": args.bundle,
        "data": [f"detection/{name}" for name in (*wholes, "background")]
        + [f"landmarks_open/{name}" for name in crops],
        "training_images": len(composer.photos) + len(composer.crops) + len(composer.backgrounds),
        "seed": args.seed,
        "start": loop.extra["start"] or "random weights",
        "steps": args.steps,
        "best_step": loop.step,
        "batch": args.batch,
        "seconds": round(loop.seconds, 1),
        "values_per_cell": CELL_VALUES,
        "held_out": metrics,
    }
    write_json(path, content)
