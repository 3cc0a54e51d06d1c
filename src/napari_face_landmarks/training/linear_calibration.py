"""Final linear map to manual labels: ``python -m napari_face_landmarks.training settle --bundle research``.

PFLD is trained on regularised labels (`mesh_regression`) and augmented faces, and the shape model pulls
unusual faces towards the mean, so predicted landmarks vary less from face to face than manual labels. This
shrinkage is a linear function of the landmarks. It is fitted here by ridge regression to the manual labels of
the training faces, twice: for PFLD, where it becomes the last layer of ``pfld.onnx``, and for CLNF after it,
where it becomes ``beyond`` of ``cen.npz``. The bundle ``open`` has no faces with manual iBUG landmarks and is
not changed.

The weight of a face is one over its squared size and its error, which minimises the mean distance rather than
the mean square. Mirror images are included, so that left and right are treated alike; faces with one side
weakened, so that asymmetric faces remain asymmetric; and heads rotated by means of their mesh.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from napari_face_landmarks.clnf import normalized_frame
from napari_face_landmarks.clnf.fit import ClnfFit, ClnfModel, refine
from napari_face_landmarks.clnf.patch_experts import (
    LARGEST,
    PatchExperts,
    load_patch_experts,
    save_patch_experts,
)
from napari_face_landmarks.clnf.pdm import PDM, load_pdm
from napari_face_landmarks.ibug import MIRROR_68, N_LANDMARKS, inter_ocular, nme
from napari_face_landmarks.pfld.crop import crops_of_landmarks
from napari_face_landmarks.pfld.network import predict
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.training import augment
from napari_face_landmarks.training.faces import Faces, load_faces, sigma_ratio
from napari_face_landmarks.training.log import write_json
from napari_face_landmarks.training.onnx_float16 import open_session
from napari_face_landmarks.training.pose_augmentation import Turner, load_turner, turned, yaw_of_mesh
from napari_face_landmarks.video.pixels import to_grey

Floats = npt.NDArray[np.float64]
Kind = tuple[Faces, float]

N_VALUES = 2 * N_LANDMARKS
PREFIX = "settled/"
"""Prefix of the names of the nodes and weights that are added to the network."""


@dataclass(frozen=True)
class CalibrationPlan:
    """How the two linear maps are fitted."""

    copies: int = 3  # crops of each face, unmodified and augmented, for PFLD's map
    # weight of a face under other light (for PFLD also with other shape and occlusion) relative to an
    # unmodified one
    changed_weight: float = 1.0
    # moved_weight, turned_weight: weight of a face with a weakness or an expression, and of one with a
    # rotated head
    moved_weight: float = 0.5
    turned_weight: float = 0.1
    most_yaw: float = math.radians(45)  # maximum rotation, radians
    # pfld_ridge, clnf_ridge: penalty on the squared map, in variances of the landmarks
    pfld_ridge: float = 3e-3
    clnf_ridge: float = 0.2
    seed: int = 2026


def fit_map(
    found: npt.NDArray[np.floating],
    wanted: npt.NDArray[np.floating],
    weight: npt.NDArray[np.floating],
    ridge: float,
) -> Floats:
    """Fit ``wanted - found``, landmarks (N, 68, 2), as a linear function of `found`, by weights (N,).

    The landmarks are in a normalised frame in which left and right are mirror images about ``x = 0``. `ridge`
    is the penalty in mean variances of `found`. Returns (137, 136) float64: row 0 is the constant, the others
    multiply x and y of each landmark.
    """
    found = np.concatenate([found, _mirrored(found)]).astype(np.float64)
    wanted = np.concatenate([wanted, _mirrored(wanted)]).astype(np.float64)
    size = inter_ocular(wanted)
    error = np.linalg.norm(found - wanted, axis=-1).mean(axis=1) / size
    share = np.tile(weight, 2) / size**2 / np.maximum(error, 0.01)
    share /= share.sum()
    levels = found.reshape(len(found), -1)
    missing = (wanted - found).reshape(len(found), -1)
    mean, mean_missing = share @ levels, share @ missing
    levels = levels - mean
    weighted = levels * share[:, None]
    covariance = weighted.T @ levels
    penalty = ridge * np.trace(covariance) / N_VALUES
    slopes = np.linalg.solve(covariance + penalty * np.eye(N_VALUES), weighted.T @ (missing - mean_missing))
    return np.concatenate([(mean_missing - mean @ slopes)[None], slopes])


def _mirrored(points: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return np.asarray(points[:, MIRROR_68] * np.array([-1, 1]))


def settle_network(path: Path, out: Path, beyond: Floats, spread: float) -> None:
    """Write the landmark network with a final layer that adds a linear function of its landmarks to them.

    The exported ``pfld.onnx`` may already have such a layer. `beyond`, (137, 136), is from `fit_map`, for
    landmarks as fractions of the crop minus one half; `spread` is a factor of the network's sigma.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(path))
    graph = model.graph
    _unsettle(graph)
    _rename(graph, lambda name: PREFIX + name if name in ("landmarks", "sigma") else name)
    # (I + slopes) in half precision: rounding affects only the deviation from the centre
    slopes = (np.eye(N_VALUES) + beyond[1:]).astype(np.float16)
    constant = beyond[0] + 0.5 - 0.5 * slopes.astype(np.float64).sum(axis=0)
    values = {
        "slopes_half": slopes,
        "constant": constant.astype(np.float32),
        "flat": np.array([-1, N_VALUES], np.int64),
        "pairs": np.array([-1, N_LANDMARKS, 2], np.int64),
        "spread": np.array(spread, np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(array, PREFIX + name) for name, array in values.items())
    to_float = {"to": onnx.TensorProto.FLOAT}
    steps: tuple[tuple[str, tuple[str, ...], str, dict[str, Any]], ...] = (
        ("Cast", ("slopes_half",), f"{PREFIX}slopes", to_float),
        ("Reshape", ("landmarks", "flat"), f"{PREFIX}row", {}),
        ("Gemm", ("row", "slopes", "constant"), f"{PREFIX}moved", {}),
        ("Reshape", ("moved", "pairs"), "landmarks", {}),
        ("Mul", ("sigma", "spread"), "sigma", {}),
    )
    for k, (kind, inputs, output, attributes) in enumerate(steps):
        prefixed = [PREFIX + name for name in inputs]
        graph.node.append(helper.make_node(kind, prefixed, [output], f"{PREFIX}{k}", **attributes))
    onnx.checker.check_model(model)
    part = out.with_suffix(".part")
    onnx.save(model, str(part))
    part.replace(out)


def _unsettle(graph: Any) -> None:
    """Remove what `settle_network` has added to a graph."""
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


def pfld_map(session: onnxruntime.InferenceSession, kinds: Sequence[Kind], plan: CalibrationPlan) -> Floats:
    """Fit PFLD's map, (137, 136), for fractions of the crop minus one half, to labelled faces.

    The first of the kinds is also used with augmented light, shape and occlusion.
    """
    rng = np.random.default_rng([plan.seed, 1])
    faces = kinds[0][0]
    count = len(faces.images)
    found, wanted, weights = [], [], []
    crops_of = [(images, True, weight) for images, weight in kinds]
    for images, mild, weight in (*crops_of, (faces, False, plan.changed_weight)):
        for _ in range(plan.copies):
            samples = [
                augment.augmented_face(
                    image,
                    points,
                    augment.texture(faces.images[int(rng.integers(count))], rng),
                    rng,
                    mild=mild,
                )
                for image, points in zip(images.images, images.landmarks, strict=True)
            ]
            for first in range(0, len(samples), 32):
                inputs = np.stack([sample.image for sample in samples[first : first + 32]])
                crops = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2), dtype=np.float32) / 255
                found.append(session.run(["landmarks"], {"crops": crops})[0])
            wanted += [sample.landmarks for sample in samples]
            weights += [weight] * len(samples)
    return fit_map(np.concatenate(found) - 0.5, np.stack(wanted) - 0.5, np.array(weights), plan.pfld_ridge)


def with_moved_tissue(faces: Faces, plan: CalibrationPlan) -> Faces:
    """Return the faces with a weakness of one side or an expression (`augment.soft_tissue_bumps`).

    Manually labelled faces are mostly symmetric, and a map fitted to these alone would symmetrise others.
    """
    rng = np.random.default_rng([plan.seed, 4])
    images, landmarks = [], []
    for image, points in zip(faces.images, faces.landmarks, strict=True):
        bumps = augment.soft_tissue_bumps(points, rng)
        height, width = image.shape[:2]
        whole = np.array([(width - 1) / 2, (height - 1) / 2, width, 0], np.float32)
        images.append(augment.cut(image, whole, bumps, width))
        landmarks.append(augment.displaced(points, bumps))
    return replace(faces, images=images, landmarks=np.stack(landmarks))


@dataclass(frozen=True)
class Predictions:
    """PFLD's output for the faces, averaged over the plain and the mirrored crop."""

    landmarks: npt.NDArray[np.float32]  # (N, 68, 2)
    sigma: npt.NDArray[np.float32]  # (N, 68)


def predict_faces(session: onnxruntime.InferenceSession, faces: Faces, plan: CalibrationPlan) -> Predictions:
    """Run PFLD in a box like a detector's, then plain and mirrored in the crop at the landmarks found."""
    rng = np.random.default_rng([plan.seed, 2])
    outputs = []
    for image, points in zip(faces.images, faces.landmarks, strict=True):
        first = predict(session, image, augment.jittered_crop(points, augment.DETECTOR_JITTER, rng)[None])
        outputs.append(predict(session, image, crops_of_landmarks(first.landmarks), mirrored=True))
    return Predictions(
        np.stack([output.landmarks[0] for output in outputs]),
        np.stack([output.sigma[0] for output in outputs]),
    )


def clnf_fits(faces: Faces, outputs: Predictions, pdm: PDM, experts: PatchExperts) -> list[ClnfFit]:
    """Run CLNF with the default settings on each face."""
    settings = TrackerSettings()
    return [
        refine(to_grey(image), points, None, ClnfModel(pdm, experts), settings, sigma)
        for image, points, sigma in zip(faces.images, outputs.landmarks, outputs.sigma, strict=True)
    ]


def with_turned_heads(faces: Faces, turner: Turner, plan: CalibrationPlan) -> Faces:
    """Return the faces with a mesh, with their heads rotated further (`pose_augmentation`)."""
    rng = np.random.default_rng([plan.seed, 5])
    chosen = np.flatnonzero(faces.has_mesh)
    images, landmarks = [], []
    for i in chosen.tolist():
        mesh = faces.mesh[i].astype(np.float64)
        yaw = yaw_of_mesh(mesh, turner)
        more = math.copysign(rng.uniform(0.25, 1.0) * plan.most_yaw, yaw)
        rotated, points = turned(faces.images[i], faces.landmarks[i], mesh, turner, more, 0.0, None, rng)
        images.append(rotated)
        landmarks.append(points)
    return replace(faces, images=images, landmarks=np.stack(landmarks))


def in_other_light(faces: Faces, plan: CalibrationPlan) -> Faces:
    """Return the faces blurred, darkened, noisy and so on (`augment.photometric`)."""
    rng = np.random.default_rng([plan.seed, 3])
    return replace(faces, images=[augment.photometric(image, rng) for image in faces.images])


def clnf_map(samples: Sequence[tuple[Faces, list[ClnfFit], float]], ridge: float) -> Floats:
    """Fit CLNF's map, (137, 136), as in `PatchExperts.beyond`, to labelled faces, their fits and weights."""
    found, wanted, weights = [], [], []
    for faces, fits, weight in samples:
        for fit, points in zip(fits, faces.landmarks, strict=True):
            if fit.converged:
                upright = normalized_frame.image_to_frame(fit.params, 1.0)
                found.append(normalized_frame.transform(upright, fit.landmarks))
                wanted.append(normalized_frame.transform(upright, points))
                weights.append(weight)
    return fit_map(np.stack(found), np.stack(wanted), np.array(weights), ridge)


def settle(data: Path, folder: Path, out: Path, plan: CalibrationPlan) -> dict[str, Any]:
    """Fit both maps for the models of a folder; write ``pfld.onnx`` and ``cen.npz`` to `out`.

    Also writes ``settle.metrics.json``, and returns it: the plan, and the errors on the held-out faces (NME)
    without and with the maps.
    """
    faces = load_faces(data, bundle="research", held_out=False, machine_made=False)
    held_out = load_faces(data, bundle="research", held_out=True)
    out.mkdir(parents=True, exist_ok=True)
    pdm, experts = load_pdm(folder / "pdm.npz"), replace(load_patch_experts(folder / "cen.npz"), beyond=None)
    network = out / "pfld.onnx"
    settle_network(folder / "pfld.onnx", network, np.zeros((1 + N_VALUES, N_VALUES)), 1.0)  # identity
    plain = open_session(network)
    before = predict_faces(plain, held_out, plan)

    kinds = [(faces, 1.0), (with_moved_tissue(faces, plan), plan.moved_weight)]
    if faces.has_mesh.any():
        kinds.append((with_turned_heads(faces, load_turner(data), plan), plan.turned_weight))
    beyond = pfld_map(plain, kinds, plan)
    settle_network(network, network, beyond, 1.0)
    after = predict_faces(open_session(network), held_out, plan)
    ratios = [sigma_ratio(outputs.landmarks, outputs.sigma, held_out) for outputs in (before, after)]
    spread = ratios[1] / ratios[0]
    settle_network(network, network, beyond, spread)
    settled = open_session(network)

    samples = [
        (images, clnf_fits(images, predict_faces(settled, images, plan), pdm, experts), weight)
        for images, weight in (*kinds, (in_other_light(faces, plan), plan.changed_weight))
    ]
    beyond = clnf_map(samples, plan.clnf_ridge)
    with np.load(folder / "cen.npz", allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in LARGEST}
    save_patch_experts(out / "cen.npz", {**arrays, "beyond": beyond}, arrays["w1"].dtype)

    final = load_patch_experts(out / "cen.npz")
    errors: dict[str, dict[str, float]] = {}
    after = replace(after, sigma=after.sigma * np.float32(spread))
    for name, outputs, used in (("before", before, experts), ("after", after, final)):
        refined = np.stack([fit.landmarks for fit in clnf_fits(held_out, outputs, pdm, used)])
        both = {"pfld": outputs.landmarks, "clnf": refined}
        errors[name] = {key: float(nme(points, held_out.landmarks).mean()) for key, points in both.items()}
    metrics = {
        "faces": len(faces.names),
        "held_out_faces": len(held_out.names),
        "plan": asdict(plan),
        "spread": spread,
        "held_out": errors,
    }
    write_json(out / "settle.metrics.json", metrics)
    return metrics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this step to the command line."""
    parser.add_argument(
        "--models", type=Path, help="folder of pfld.onnx, pdm.npz and cen.npz (default: OUT itself)"
    )


def run(args: argparse.Namespace) -> None:
    """Run this step of the training."""
    if args.bundle != "research":
        print("The bundle open has no faces with manual iBUG landmarks, so there is no map to fit.")
        return
    print(json.dumps(settle(args.data, args.models or args.out, args.out, CalibrationPlan()), indent=2))
