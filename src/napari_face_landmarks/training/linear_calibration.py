"""Final linear maps of the networks' landmarks: ``python -m napari_face_landmarks.training linear-maps``.

Predicted landmarks vary less from face to face than labels, and follow local movements of the skin only in
part. Both effects are mostly linear functions of the landmarks. Ridge regression corrects them: maps are
fitted to the labels of training faces and to movements of their skin, which are known exactly. The maps
become the last layers of ``pfld.onnx`` and ``mouth.onnx``. Heights of brows and mouth corners, which are
compared between left and right, have larger weights in the movements than other coordinates.

For ``research``, manually labelled faces have the largest weights. The weight of a face is inversely
proportional to its squared size and its error, so that the mean distance is minimised rather than the mean
square. Mirror images are included, so that left and right are treated alike.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.ibug import MIRROR_68, N_LANDMARKS, inter_ocular, nme
from napari_face_landmarks.parts.crop import MOUTH, MOUTH_SIZE, mouth_crops
from napari_face_landmarks.pfld.crop import crops_of_landmarks, sample_crops, to_crop, to_image
from napari_face_landmarks.pfld.network import predict
from napari_face_landmarks.training import augment
from napari_face_landmarks.training.faces import Faces, load_faces, load_measured, take
from napari_face_landmarks.training.log import write_json
from napari_face_landmarks.training.onnx_float16 import open_session

Floats = npt.NDArray[np.float64]

HEIGHTS = (*range(17, 27), 48, 54, 60, 64)
"""Landmarks whose heights have the weight `heights_weight` in movements: brows and mouth corners."""
MOVEMENTS = ((0,), (1, 2, 3), (4, 5))
"""Groups of movements of `augment.local_bump`, of each one is drawn: mouth corner, brow, lower lip."""
MOUTH_MIRROR = MIRROR_68[MOUTH] - MOUTH[0]
LEAST_ERROR = 0.01  # lower limit of the errors in the weights, outer-eye distances
PREFIX = "settled/"
"""Prefix of the names of nodes and weights of the map; must not change: bundles since 0.4.2 contain it."""


@dataclass(frozen=True)
class CalibrationPlan:
    """Parameters of the fit of the linear maps; all are stored in the metrics."""

    faces: int = 5000  # number of training faces
    hand_weight: float = 20.0  # weight of a manually labelled face relative to others
    followed_weight: float = 1.0  # weight of movements relative to that of labels with `LEAST_ERROR`
    heights_weight: float = 20.0  # the same for the heights of `HEIGHTS`
    ridge: float = 3e-3  # penalty on the squared map, in variances of the landmarks
    seed: int = 2026


@dataclass(frozen=True)
class Moves:
    """Movements of landmarks between two images of a face, outer-eye distances."""

    found: Floats  # (M, L, 2); predicted
    wanted: Floats  # (M, L, 2); true
    weight: float  # of a movement, relative to labels with `LEAST_ERROR`
    strict_weight: float  # the same for the heights of the landmarks `strict`
    strict: Sequence[int]


def fit_map(
    found: npt.NDArray[np.floating],
    wanted: npt.NDArray[np.floating],
    weight: npt.NDArray[np.floating],
    ridge: float,
    size: npt.NDArray[np.floating],
    mirror: npt.NDArray[np.int64],
    moves: Moves,
) -> Floats:
    """Fit ``wanted - found``, landmarks (N, L, 2), as a linear function of `found` with weights (N,).

    The landmarks are in a frame in which mirrored faces, with landmarks in the order `mirror`, are mirror
    images about ``x = 0``. `size`, (N,), is the outer-eye distance of each face in it; `ridge` is the penalty
    in mean variances of `found`. Returns (1 + 2 L, 2 L) float64: the constant in row 0, then the factors of x
    and y of each landmark.
    """

    def rows(points: npt.NDArray[np.floating]) -> Floats:
        both = np.concatenate([points, points[:, mirror] * (-1, 1)])
        return both.reshape(len(both), -1).astype(np.float64)

    error = np.maximum(np.linalg.norm(found - wanted, axis=-1).mean(axis=1) / size, LEAST_ERROR)
    share = np.tile(weight / size**2 / error, 2) / (2 * weight.sum())
    values, errors = rows(found), rows(wanted - found)
    mean, mean_errors = share @ values / share.sum(), share @ errors / share.sum()
    values = values - mean
    weighted = values * share[:, None]
    covariance, product = weighted.T @ values, weighted.T @ (errors - mean_errors)

    def solve(followed: float) -> Floats:
        each = followed / LEAST_ERROR / (2 * len(moves.found))
        moved = rows(moves.found)
        total = covariance + each * moved.T @ moved
        target = product + each * moved.T @ rows(moves.wanted - moves.found)
        penalty = ridge * np.trace(total) / len(total)
        return np.linalg.solve(total + penalty * np.eye(len(total)), target)

    slopes = solve(moves.weight)
    heights = 2 * np.asarray(moves.strict) + 1
    slopes[:, heights] = solve(moves.strict_weight)[:, heights]
    return np.concatenate([(mean_errors - mean @ slopes)[None], slopes])


def add_linear_map(path: Path, out: Path, linear_map: Floats) -> None:
    """Write a landmark network with a final layer that adds a linear function of its landmarks to them.

    A map that ``pfld.onnx`` or ``mouth.onnx`` already has is replaced. `linear_map` is the map from `fit_map`
    for landmarks as fractions of the crop minus one half.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(path))
    graph = model.graph
    _without_map(graph)
    _rename(graph, lambda name: PREFIX + name if name == "landmarks" else name)
    # (I + slopes) in half precision; the constant makes up for its rounding at the centre of the crop
    n_values = linear_map.shape[1]
    slopes = (np.eye(n_values) + linear_map[1:]).astype(np.float16)
    constant = linear_map[0] + 0.5 - 0.5 * slopes.astype(np.float64).sum(axis=0)
    values = {
        "slopes_half": slopes,
        "constant": constant.astype(np.float32),
        "flat": np.array([-1, n_values], np.int64),
        "pairs": np.array([-1, n_values // 2, 2], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(array, PREFIX + name) for name, array in values.items())
    to_float = {"to": onnx.TensorProto.FLOAT}
    steps: tuple[tuple[str, tuple[str, ...], str, dict[str, Any]], ...] = (
        ("Cast", ("slopes_half",), f"{PREFIX}slopes", to_float),
        ("Reshape", ("landmarks", "flat"), f"{PREFIX}row", {}),
        ("Gemm", ("row", "slopes", "constant"), f"{PREFIX}moved", {}),
        ("Reshape", ("moved", "pairs"), "landmarks", {}),
    )
    for k, (kind, inputs, output, attributes) in enumerate(steps):
        prefixed = [PREFIX + name for name in inputs]
        graph.node.append(helper.make_node(kind, prefixed, [output], f"{PREFIX}{k}", **attributes))
    onnx.checker.check_model(model)
    with replacing(out) as temporary:
        onnx.save(model, str(temporary))


def _without_map(graph: Any) -> None:
    """Remove the nodes and weights added by `add_linear_map`."""
    kept = [node for node in graph.node if not node.name.startswith(PREFIX)]
    weights = [tensor for tensor in graph.initializer if not tensor.name.startswith(PREFIX)]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(weights)
    _rename(graph, lambda name: name.removeprefix(PREFIX))


def _rename(graph: Any, new: Callable[[str], str]) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                names[k] = new(name)


@dataclass(frozen=True)
class Predictions:
    """Predictions on V views of N training faces: two unmodified crops, then crops with moved skin."""

    found: npt.NDArray[np.float32]  # (N, V, L, 2); predicted landmarks, fractions of the crop minus one half
    wanted: npt.NDArray[np.float32]  # (N, V, L, 2); labels, likewise
    size: npt.NDArray[np.float32]  # (N, V); outer-eye distance, fraction of the crop's side


def predict_views(
    faces: Faces,
    pfld: onnxruntime.InferenceSession,
    mouth: onnxruntime.InferenceSession | None,
    plan: CalibrationPlan,
) -> Predictions:
    """Predict landmarks in views of the faces by PFLD, or by `mouth` in crops placed by PFLD."""
    seen = []
    for number, (image, points) in enumerate(zip(faces.images, faces.landmarks, strict=True)):
        rng = np.random.default_rng([plan.seed, 1, number])
        crops = [augment.jittered_crop(points, augment.TRACKER_JITTER, rng) for _ in range(2)]
        views = [(image, points, crop) for crop in crops]
        for numbers in MOVEMENTS:
            bumps = augment.local_bump(points, rng, int(rng.choice(numbers)))
            views.append(
                (augment.with_moved_tissue(image, bumps), augment.displaced(points, bumps), crops[0])
            )
        labels, where = np.stack([view[1] for view in views]), np.stack([view[2] for view in views])
        inputs = np.concatenate([sample_crops(picture, crop[None]) for picture, _, crop in views])
        found = pfld.run(["landmarks"], {"crops": inputs})[0]
        size = inter_ocular(labels)
        if mouth is not None:
            where, labels = mouth_crops(to_image(found, where)), labels[:, MOUTH]
            pairs = zip(views, where, strict=True)
            lips = np.concatenate([sample_crops(view[0], crop[None], MOUTH_SIZE) for view, crop in pairs])
            found = mouth.run(["landmarks"], {"crops": lips})[0]
        seen.append((found - 0.5, to_crop(labels, where) - 0.5, size / where[:, 2]))
    return Predictions(*(np.stack(values).astype(np.float32) for values in zip(*seen, strict=True)))


def network_map(seen: Predictions, weight: npt.NDArray[np.floating], plan: CalibrationPlan) -> Floats:
    """Fit the map of PFLD or of the mouth network to its predictions on faces with weights (N,)."""
    count = seen.found.shape[2]
    first = 0 if count == N_LANDMARKS else int(MOUTH[0])
    found, wanted, size = (np.concatenate([v[:, 0], v[:, 1]]) for v in (seen.found, seen.wanted, seen.size))
    moved, truth = (
        ((v[:, 2:] - v[:, :1]) / seen.size[:, :1, None, None]).reshape(-1, count, 2).astype(np.float64)
        for v in (seen.found, seen.wanted)
    )
    strict = [k - first for k in HEIGHTS if 0 <= k - first < count]
    moves = Moves(moved, truth, plan.followed_weight, plan.heights_weight, strict)
    mirror = MIRROR_68 if count == N_LANDMARKS else MOUTH_MIRROR
    weights = np.tile(weight, 2)
    return fit_map(found, wanted, weights, plan.ridge, size, mirror, moves)


def draw_faces(data: Path, bundle: str, plan: CalibrationPlan) -> tuple[Faces, Floats]:
    """Return training faces with the labels used in evaluations, and their weights, (N,).

    All faces with manual iBUG labels are included; the others are drawn at random.
    """
    faces = load_measured(data, bundle=bundle, held_out=False)
    chance = load_faces(data, bundle=bundle, held_out=False).weight  # of the same faces
    n_manual = 0
    if bundle == "research":
        n_manual = len(load_faces(data, bundle=bundle, held_out=False, machine_made=False).names)
    others, chance = np.arange(n_manual, len(faces.names)), chance[n_manual:]
    count = min(max(plan.faces - n_manual, 0), len(others))
    rng = np.random.default_rng(plan.seed)
    rows = rng.choice(others, count, replace=False, p=chance / chance.sum()) if count else others[:0]
    weight = np.r_[np.full(n_manual, plan.hand_weight), np.ones(count)]
    return take(faces, [*range(n_manual), *np.sort(rows).tolist()]), weight


def predict_faces(
    session: onnxruntime.InferenceSession, faces: Faces, plan: CalibrationPlan
) -> npt.NDArray[np.float32]:
    """Return PFLD's landmarks, (N, 68, 2), in its second pass, after a first one in detector-like boxes."""
    rng = np.random.default_rng([plan.seed, 2])
    found = []
    for image, points in zip(faces.images, faces.landmarks, strict=True):
        first = predict(session, image, augment.jittered_crop(points, augment.DETECTOR_JITTER, rng)[None])
        found.append(predict(session, image, crops_of_landmarks(first.landmarks), mirrored=True).landmarks[0])
    return np.stack(found)


def fit_maps(data: Path, bundle: str, folder: Path, out: Path, plan: CalibrationPlan) -> dict[str, Any]:
    """Fit the maps for the models in a folder; write ``pfld.onnx`` and ``mouth.onnx`` to `out`.

    Also writes and returns ``linear-maps.metrics.json``, with the plan and PFLD's NME on the held-out faces
    without and with the map.
    """
    held_out = load_faces(data, bundle=bundle, held_out=True)
    out.mkdir(parents=True, exist_ok=True)
    faces, weight = draw_faces(data, bundle, plan)
    plain = with_map(folder / "pfld.onnx", out / "pfld.onnx", np.zeros((137, 136)))
    before = predict_faces(plain, held_out, plan)
    linear_map = network_map(predict_views(faces, plain, None, plan), weight, plan)
    calibrated = with_map(out / "pfld.onnx", out / "pfld.onnx", linear_map)
    mouth = with_map(folder / "mouth.onnx", out / "mouth.onnx", np.zeros((41, 40)))
    linear_map = network_map(predict_views(faces, calibrated, mouth, plan), weight, plan)
    with_map(out / "mouth.onnx", out / "mouth.onnx", linear_map)

    both = {"before": before, "after": predict_faces(calibrated, held_out, plan)}
    errors = {name: float(nme(points, held_out.landmarks).mean()) for name, points in both.items()}
    metrics = {
        "faces": len(faces.names),
        "held_out_faces": len(held_out.names),
        "plan": asdict(plan),
        "held_out": errors,
    }
    write_json(out / "linear-maps.metrics.json", metrics)
    return metrics


def with_map(path: Path, out: Path, linear_map: Floats) -> onnxruntime.InferenceSession:
    """Write a network with a map by `add_linear_map`, and open it."""
    add_linear_map(path, out, linear_map)
    return open_session(out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this step to the command line."""
    parser.add_argument("--models", type=Path, help="folder of a bundle or a training run (default: OUT)")


def run(args: argparse.Namespace) -> None:
    """Run this step of the training."""
    models = args.models or args.out
    print(json.dumps(fit_maps(args.data, args.bundle, models, args.out, CalibrationPlan()), indent=2))
