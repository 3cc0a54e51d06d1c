"""Settle where the landmarks lie: ``python -m napari_face_landmarks.training settle --bundle research``.

The landmark network is trained on labels that were drawn together (`reading.steadied`) and on faces changed
in many ways, and the shape model draws unusual faces towards the mean: what the models say varies less from
face to face than what people say. That much is a linear function of the landmarks themselves. It is fitted
here, by ridge regression, to the faces of the training side as people labelled them, twice: for PFLD, where
it becomes the last layer of ``pfld.onnx``, and for CLNF after it, where it becomes ``beyond`` of ``cen.npz``.
The bundle ``open`` has no faces with the 68 points placed by hand; it stays as it is.

Each face weighs as one over its squared size and over its error, so that the mean distance falls rather than
the mean square. Mirror images take part, so that left and right are treated alike;
faces with one side weakened, so that uneven faces stay uneven; and heads turned by their mesh.
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
from napari_face_landmarks.files.onnx_safe import open_network
from napari_face_landmarks.ibug import MIRROR_68, N_LANDMARKS, inter_ocular, nme
from napari_face_landmarks.pfld.crop import crops_of_landmarks
from napari_face_landmarks.pfld.network import predict, predict_mirrored
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.training.augment import (
    DETECTOR_JITTER,
    augmented_face,
    cut,
    displaced,
    jittered_crop,
    photometric,
    soft_tissue_bumps,
    texture,
)
from napari_face_landmarks.training.faces import Faces, load_faces, sigma_ratio
from napari_face_landmarks.training.pose_augmentation import Turner, load_turner, turned, yaw_of_mesh
from napari_face_landmarks.video.pixels import to_grey

Floats = npt.NDArray[np.float64]
Kind = tuple[Faces, float]

N_VALUES = 2 * N_LANDMARKS
PREFIX = "settled/"
"""Of the names of what is put into the network, by which it is found again."""


@dataclass(frozen=True)
class CalibrationPlan:
    """How the two linear maps are fitted.

    Attributes
    ----------
    copies : int
        Crops of each face, plain and changed, that PFLD's is fitted to.
    changed_weight : float
        Weight of a face that is changed in light (for PFLD also in shape and by covers), beside a plain one.
    moved_weight, turned_weight : float
        The same of a face with a weakness or an expression, and of one on a head turned further.
    most_yaw : float
        How far heads are turned, radians.
    pfld_ridge, clnf_ridge : float
        Penalty on the square of the map, in variances of the landmarks.
    seed : int
    """

    copies: int = 3
    changed_weight: float = 1.0
    moved_weight: float = 0.5
    turned_weight: float = 0.1
    most_yaw: float = math.radians(45)
    pfld_ridge: float = 3e-3
    clnf_ridge: float = 0.2
    seed: int = 2026


def fit_map(
    found: npt.NDArray[np.floating],
    wanted: npt.NDArray[np.floating],
    weight: npt.NDArray[np.floating],
    ridge: float,
) -> Floats:
    """Fit ``wanted - found`` as a linear function of `found`.

    Parameters
    ----------
    found, wanted : ndarray, (N, 68, 2)
        Landmarks in a frame of their own, in which left and right are mirror images about ``x = 0``.
    weight : ndarray, (N,)
        Of each face.
    ridge : float
        Penalty, in mean variances of `found`.

    Returns
    -------
    ndarray, (137, 136), float64
        Row 0 the constant, the others multiply x and y of each landmark.
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
    among = weighted.T @ levels
    penalty = ridge * np.trace(among) / N_VALUES
    slopes = np.linalg.solve(among + penalty * np.eye(N_VALUES), weighted.T @ (missing - mean_missing))
    return np.concatenate([(mean_missing - mean @ slopes)[None], slopes])


def _mirrored(points: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return np.asarray(points[:, MIRROR_68] * np.array([-1, 1]))


def settle_network(path: Path, out: Path, beyond: Floats, spread: float) -> None:
    """Write the landmark network with a last layer that adds a linear function of its landmarks to them.

    Parameters
    ----------
    path, out : Path
        ``pfld.onnx`` as it was exported or settled before, and where the new one goes.
    beyond : ndarray, (137, 136)
        As `fit_map` gives it, of landmarks as fractions of the crop less a half.
    spread : float
        What the network's sigma is multiplied by.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(path))
    graph = model.graph
    _unsettle(graph)
    _rename(graph, lambda name: PREFIX + name if name in ("landmarks", "sigma") else name)
    # (I + slopes) of half precision: what is rounded off counts for the deviation from the middle only
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
        own = [PREFIX + name for name in inputs]
        graph.node.append(helper.make_node(kind, own, [output], f"{PREFIX}{k}", **attributes))
    onnx.checker.check_model(model)
    part = out.with_suffix(".part")
    onnx.save(model, str(part))
    part.replace(out)


def _unsettle(graph: Any) -> None:
    """Take out what `settle_network` has put into a graph."""
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
    """Fit what PFLD's landmarks lack, (137, 136), fractions of the crop less a half, to labelled faces.

    The first of the kinds is also taken changed in light and shape and with covers.
    """
    rng = np.random.default_rng([plan.seed, 1])
    faces = kinds[0][0]
    count = len(faces.images)
    found, wanted, weights = [], [], []
    crops_of = [(pictures, True, weight) for pictures, weight in kinds]
    for pictures, mild, weight in (*crops_of, (faces, False, plan.changed_weight)):
        for _ in range(plan.copies):
            samples = [
                augmented_face(image, points, texture(faces.images[rng.integers(count)], rng), rng, mild=mild)
                for image, points in zip(pictures.images, pictures.landmarks, strict=True)
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

    Faces that people labelled are mostly even, and a map fitted to these alone would make uneven ones even.
    """
    rng = np.random.default_rng([plan.seed, 4])
    images, landmarks = [], []
    for image, points in zip(faces.images, faces.landmarks, strict=True):
        bumps = soft_tissue_bumps(points, rng)
        height, width = image.shape[:2]
        whole = np.array([(width - 1) / 2, (height - 1) / 2, width, 0], np.float32)
        images.append(cut(image, whole, bumps, width))
        landmarks.append(displaced(points, bumps))
    return replace(faces, images=images, landmarks=np.stack(landmarks))


@dataclass(frozen=True)
class Looks:
    """What PFLD says of some faces, looked at plain and mirrored after a first look.

    Attributes
    ----------
    landmarks : ndarray, (N, 68, 2), float32
    sigma : ndarray, (N, 68), float32
    """

    landmarks: npt.NDArray[np.float32]
    sigma: npt.NDArray[np.float32]


def look_twice(session: onnxruntime.InferenceSession, faces: Faces, plan: CalibrationPlan) -> Looks:
    """Look at each face at a box such as a detector gives, and where that finds it plain and mirrored."""
    rng = np.random.default_rng([plan.seed, 2])
    looks = []
    for image, points in zip(faces.images, faces.landmarks, strict=True):
        first = predict(session, image, jittered_crop(points, DETECTOR_JITTER, rng)[None])
        looks.append(predict_mirrored(session, image, crops_of_landmarks(first.landmarks)))
    return Looks(np.stack([look.landmarks[0] for look in looks]), np.stack([look.sigma[0] for look in looks]))


def clnf_fits(faces: Faces, looks: Looks, pdm: PDM, experts: PatchExperts) -> list[ClnfFit]:
    """Run CLNF with the default settings on each face."""
    settings = TrackerSettings()
    return [
        refine(to_grey(image), points, None, ClnfModel(pdm, experts), settings, sigma)
        for image, points, sigma in zip(faces.images, looks.landmarks, looks.sigma, strict=True)
    ]


def with_turned_heads(faces: Faces, turner: Turner, plan: CalibrationPlan) -> Faces:
    """Return the faces that have a mesh, each on a head turned away further (`turn.turned`)."""
    rng = np.random.default_rng([plan.seed, 5])
    chosen = np.flatnonzero(faces.has_mesh)
    images, landmarks = [], []
    for i in chosen:
        mesh = faces.mesh[i].astype(np.float64)
        yaw = yaw_of_mesh(mesh, turner)
        more = math.copysign(rng.uniform(0.25, 1.0) * plan.most_yaw, yaw)
        picture, points = turned(faces.images[i], faces.landmarks[i], mesh, turner, more, 0.0, None, rng)
        images.append(picture)
        landmarks.append(points)
    return replace(faces, images=images, landmarks=np.stack(landmarks))


def in_other_light(faces: Faces, plan: CalibrationPlan) -> Faces:
    """Return the faces blurred, dark, noisy or otherwise as cameras may see them (`augment.photometric`)."""
    rng = np.random.default_rng([plan.seed, 3])
    return replace(faces, images=[photometric(image, rng) for image in faces.images])


def clnf_map(samples: Sequence[tuple[Faces, list[ClnfFit], float]], ridge: float) -> Floats:
    """Fit what CLNF's landmarks lack, (137, 136), as `PatchExperts.beyond` says it.

    Parameters
    ----------
    samples : sequence of tuple
        Labelled faces, CLNF's fits of them, and their weight.
    ridge : float
        As for `fit_map`.
    """
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
    """Fit both maps for the models in a folder and write ``pfld.onnx``, ``cen.npz`` and what was gained.

    Parameters
    ----------
    data : Path
        The folder of training data.
    folder : Path
        Where ``pfld.onnx``, ``pdm.npz`` and ``cen.npz`` are.
    out : Path
        Where the new ones go, and ``settle.metrics.json``; may be the same.
    plan : CalibrationPlan

    Returns
    -------
    dict
        The plan, and the errors on the held-out faces (NME) without and with the maps.
    """
    faces = load_faces(data, bundle="research", held_out=False, machine_made=False)
    held_out = load_faces(data, bundle="research", held_out=True)
    out.mkdir(parents=True, exist_ok=True)
    pdm, experts = load_pdm(folder / "pdm.npz"), replace(load_patch_experts(folder / "cen.npz"), beyond=None)
    network = out / "pfld.onnx"
    settle_network(folder / "pfld.onnx", network, np.zeros((1 + N_VALUES, N_VALUES)), 1.0)  # none yet
    plain = open_session(network)
    before = look_twice(plain, held_out, plan)

    kinds = [(faces, 1.0), (with_moved_tissue(faces, plan), plan.moved_weight)]
    if faces.has_mesh.any():
        kinds.append((with_turned_heads(faces, load_turner(data), plan), plan.turned_weight))
    beyond = pfld_map(plain, kinds, plan)
    settle_network(network, network, beyond, 1.0)
    after = look_twice(open_session(network), held_out, plan)
    ratios = [sigma_ratio(looks.landmarks, looks.sigma, held_out) for looks in (before, after)]
    spread = ratios[1] / ratios[0]
    settle_network(network, network, beyond, spread)
    settled = open_session(network)

    samples = [
        (pictures, clnf_fits(pictures, look_twice(settled, pictures, plan), pdm, experts), weight)
        for pictures, weight in (*kinds, (in_other_light(faces, plan), plan.changed_weight))
    ]
    beyond = clnf_map(samples, plan.clnf_ridge)
    with np.load(folder / "cen.npz", allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in LARGEST}
    save_patch_experts(out / "cen.npz", {**arrays, "beyond": beyond}, arrays["w1"].dtype)

    final = load_patch_experts(out / "cen.npz")
    errors: dict[str, dict[str, float]] = {}
    after = replace(after, sigma=after.sigma * np.float32(spread))
    for name, looks, used in (("before", before, experts), ("after", after, final)):
        refined = np.stack([fit.landmarks for fit in clnf_fits(held_out, looks, pdm, used)])
        both = {"pfld": looks.landmarks, "clnf": refined}
        errors[name] = {key: float(nme(points, held_out.landmarks).mean()) for key, points in both.items()}
    metrics = {
        "faces": len(faces.names),
        "held_out_faces": len(held_out.names),
        "plan": asdict(plan),
        "spread": spread,
        "held_out": errors,
    }
    (out / "settle.metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open a network of one's own training."""
    return open_network(path.read_bytes(), path, "train it again", trusted=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this step to the command line."""
    parser.add_argument(
        "--models", type=Path, help="folder of pfld.onnx, pdm.npz and cen.npz (default: OUT itself)"
    )


def run(args: argparse.Namespace) -> None:
    """Run this step of the training."""
    if args.bundle != "research":
        print("The bundle open has no faces with the 68 points placed by hand: nothing to settle.")
        return
    print(json.dumps(settle(args.data, args.models or args.out, args.out, CalibrationPlan()), indent=2))
