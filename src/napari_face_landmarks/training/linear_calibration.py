"""Final linear maps of the networks' landmarks: ``python -m napari_face_landmarks.training linear-maps``.

Predicted landmarks vary less from face to face than labels, and follow a local movement of the skin only in
part. Both are linear functions of the landmarks for the most part, and are undone here by ridge regression:
maps are fitted to the labels of training faces and, at the same time, to movements of their skin, which are
known exactly whatever the error of the labels. They become the last layer of ``pfld.onnx`` and of
``mouth.onnx``. The heights of brows and mouth corners, of which differences between left and right are
measured, have to follow the movements more strictly than other coordinates.

For ``research`` the labels by hand count most. The weight of a face is one over its squared size and its
error, which minimises the mean distance rather than the mean square. Mirror images are included, so that left
and right are treated alike.
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
"""Landmarks whose heights must follow movements most: brows and mouth corners."""
MOVEMENTS = ((0,), (1, 2, 3), (4, 5))
"""Numbers for `augment.local_bump`, one drawn of each: a mouth corner, a brow, half of the lower lip."""
MOUTH_MIRROR = MIRROR_68[MOUTH] - MOUTH[0]
LEAST_ERROR = 0.01  # outer-eye distances
PREFIX = "settled/"
"""Prefix of the names of the nodes and weights that are added to the network, in bundles since 0.4.2."""


@dataclass(frozen=True)
class CalibrationPlan:
    """How the linear maps are fitted."""

    faces: int = 5000  # training faces, drawn at random, that the maps are fitted to
    hand_weight: float = 20.0  # weight of a face that people labelled, relative to others
    # followed_weight, heights_weight: weight of movements relative to that of labels with `LEAST_ERROR`, of
    # all coordinates and of the heights of `HEIGHTS`
    followed_weight: float = 1.0
    heights_weight: float = 20.0
    ridge: float = 3e-3  # penalty on the squared map, in variances of the landmarks
    seed: int = 2026


@dataclass(frozen=True)
class Moves:
    """Landmarks' movements between two pictures of a face: found and wanted."""

    # found, wanted: (M, L, 2), in face sizes
    found: Floats
    wanted: Floats
    weight: float  # of each, relative to labels with `LEAST_ERROR`
    strict_weight: float  # the same for the heights of the landmarks that are `strict`
    strict: Sequence[int]  # numbers of landmarks


def fit_map(
    found: npt.NDArray[np.floating],
    wanted: npt.NDArray[np.floating],
    weight: npt.NDArray[np.floating],
    ridge: float,
    size: npt.NDArray[np.floating],
    mirror: npt.NDArray[np.int64],
    moves: Moves,
) -> Floats:
    """Fit ``wanted - found``, landmarks (N, L, 2), as a linear function of `found`, by weights (N,).

    The landmarks are in a normalised frame in which left and right, `mirror`, are mirror images about
    ``x = 0``. `size` is the outer-eye distance of each face there, (N,); `ridge` the penalty in mean
    variances of `found`. Returns (1 + 2 L, 2 L) float64: row 0 is the constant, the others multiply x and y
    of each landmark.
    """

    def rows(points: npt.NDArray[np.floating]) -> Floats:
        both = np.concatenate([points, points[:, mirror] * (-1, 1)])
        return both.reshape(len(both), -1).astype(np.float64)

    error = np.maximum(np.linalg.norm(found - wanted, axis=-1).mean(axis=1) / size, LEAST_ERROR)
    share = np.tile(weight / size**2 / error, 2) / (2 * weight.sum())
    levels, missing = rows(found), rows(wanted - found)
    mean, mean_missing = share @ levels / share.sum(), share @ missing / share.sum()
    levels = levels - mean
    weighted = levels * share[:, None]
    covariance, product = weighted.T @ levels, weighted.T @ (missing - mean_missing)

    def solve(followed: float) -> Floats:
        each = followed / LEAST_ERROR / (2 * len(moves.found))
        moved = rows(moves.found)
        total = covariance + each * moved.T @ moved
        wished = product + each * moved.T @ rows(moves.wanted - moves.found)
        penalty = ridge * np.trace(total) / len(total)
        return np.linalg.solve(total + penalty * np.eye(len(total)), wished)

    slopes = solve(moves.weight)
    heights = 2 * np.asarray(moves.strict) + 1
    slopes[:, heights] = solve(moves.strict_weight)[:, heights]
    return np.concatenate([(mean_missing - mean @ slopes)[None], slopes])


def add_linear_map(path: Path, out: Path, beyond: Floats) -> None:
    """Write the landmark network with a final layer that adds a linear function of its landmarks to them.

    The exported ``pfld.onnx`` or ``mouth.onnx`` may already have such a layer. `beyond` is from `fit_map`,
    for landmarks as fractions of the crop minus one half.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(path))
    graph = model.graph
    _without_map(graph)
    _rename(graph, lambda name: PREFIX + name if name == "landmarks" else name)
    # (I + slopes) in half precision: rounding affects only the deviation from the centre
    n_values = beyond.shape[1]
    slopes = (np.eye(n_values) + beyond[1:]).astype(np.float16)
    constant = beyond[0] + 0.5 - 0.5 * slopes.astype(np.float64).sum(axis=0)
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
    with replacing(out) as part:
        onnx.save(model, str(part))


def _without_map(graph: Any) -> None:
    """Remove what `add_linear_map` has added to a graph."""
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
class Seen:
    """What a network says of N training faces, each seen twice and then with its skin moved in places."""

    # found, wanted: (N, V, L, 2), fractions of the crop minus one half; the first two views are unmodified
    found: npt.NDArray[np.float32]
    wanted: npt.NDArray[np.float32]
    size: npt.NDArray[np.float32]  # (N, V), the outer-eye distance, likewise


def look_at(
    faces: Faces,
    pfld: onnxruntime.InferenceSession,
    mouth: onnxruntime.InferenceSession | None,
    plan: CalibrationPlan,
) -> Seen:
    """Run PFLD, or after it the mouth's network if it is given, on views of the faces."""
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
    return Seen(*(np.stack(values).astype(np.float32) for values in zip(*seen, strict=True)))


def network_map(seen: Seen, weight: npt.NDArray[np.floating], plan: CalibrationPlan) -> Floats:
    """Fit the map of a network, PFLD or the mouth's, to what it says of faces, with their weights (N,)."""
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


def drawn(data: Path, bundle: str, plan: CalibrationPlan) -> tuple[Faces, Floats]:
    """Return training faces with labels as they are measured against, and their weights (N,).

    All faces that people labelled with iBUG landmarks are among them.
    """
    faces = load_measured(data, bundle=bundle, held_out=False)
    chance = load_faces(data, bundle=bundle, held_out=False).weight  # of the same faces
    by_hand = 0
    if bundle == "research":
        by_hand = len(load_faces(data, bundle=bundle, held_out=False, machine_made=False).names)
    others, chance = np.arange(by_hand, len(faces.names)), chance[by_hand:]
    count = min(max(plan.faces - by_hand, 0), len(others))
    rng = np.random.default_rng(plan.seed)
    rows = rng.choice(others, count, replace=False, p=chance / chance.sum()) if count else others[:0]
    weight = np.r_[np.full(by_hand, plan.hand_weight), np.ones(count)]
    return take(faces, [*range(by_hand), *np.sort(rows).tolist()]), weight


def predict_faces(
    session: onnxruntime.InferenceSession, faces: Faces, plan: CalibrationPlan
) -> npt.NDArray[np.float32]:
    """Return PFLD's landmarks, (N, 68, 2): in a box like a detector's, then plain and mirrored in its own."""
    rng = np.random.default_rng([plan.seed, 2])
    found = []
    for image, points in zip(faces.images, faces.landmarks, strict=True):
        first = predict(session, image, augment.jittered_crop(points, augment.DETECTOR_JITTER, rng)[None])
        found.append(predict(session, image, crops_of_landmarks(first.landmarks), mirrored=True).landmarks[0])
    return np.stack(found)


def fit_maps(data: Path, bundle: str, folder: Path, out: Path, plan: CalibrationPlan) -> dict[str, Any]:
    """Fit the maps for the models of a folder; write ``pfld.onnx`` and ``mouth.onnx`` to `out`.

    Also writes ``linear-maps.metrics.json``, and returns it: the plan, and PFLD's error on the held-out
    faces (NME) without and with the map.
    """
    held_out = load_faces(data, bundle=bundle, held_out=True)
    out.mkdir(parents=True, exist_ok=True)
    faces, weight = drawn(data, bundle, plan)
    plain = with_map(folder / "pfld.onnx", out / "pfld.onnx", np.zeros((137, 136)))
    before = predict_faces(plain, held_out, plan)
    beyond = network_map(look_at(faces, plain, None, plan), weight, plan)
    calibrated = with_map(out / "pfld.onnx", out / "pfld.onnx", beyond)
    mouth = with_map(folder / "mouth.onnx", out / "mouth.onnx", np.zeros((41, 40)))
    beyond = network_map(look_at(faces, calibrated, mouth, plan), weight, plan)
    with_map(out / "mouth.onnx", out / "mouth.onnx", beyond)

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


def with_map(path: Path, out: Path, beyond: Floats) -> onnxruntime.InferenceSession:
    """Write a network with a map by `add_linear_map` and open it."""
    add_linear_map(path, out, beyond)
    return open_session(out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this step to the command line."""
    parser.add_argument(
        "--models", type=Path, help="folder of the bundle's or run's files (default: OUT itself)"
    )


def run(args: argparse.Namespace) -> None:
    """Run this step of the training."""
    models = args.models or args.out
    print(json.dumps(fit_maps(args.data, args.bundle, models, args.out, CalibrationPlan()), indent=2))
