"""Train the CEN patch experts: ``python -m napari_face_landmarks.training cen --data FOLDER --out FOLDER``.

Zadeh et al. 2017, "Convolutional experts constrained local model for facial landmark detection": a small
network per landmark, scale and view maps an 11 x 11 support region of the normalised frame to a response; the
target is a Gaussian of the distance to the label. All experts of a scale are trained together in batched
products.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from napari_face_landmarks.clnf.normalized_frame import MIN_NORM, image_to_frame, sample_frame, transform
from napari_face_landmarks.clnf.patch_experts import FRONTAL_STORED, N_STORED, SUPPORT, save_patch_experts
from napari_face_landmarks.clnf.pdm import PDM, fit_pdm, load_pdm, shape_3d
from napari_face_landmarks.ibug import N_LANDMARKS, inter_ocular
from napari_face_landmarks.jit import kernel
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.training.augment import (
    displaced,
    flipped,
    occlude,
    photometric,
    soft_tissue_bumps,
    with_moved_tissue,
)
from napari_face_landmarks.training.faces import Faces, load_faces
from napari_face_landmarks.training.log import add_options, append_row, write_json
from napari_face_landmarks.training.loop import Loop, scheduled
from napari_face_landmarks.training.marks import draw_marks
from napari_face_landmarks.training.mixed_precision import faster_precision, in_precision
from napari_face_landmarks.training.pose_augmentation import (
    HeadModel,
    draw_expression,
    load_head_model,
    rotate_head,
    yaw_of_mesh,
)
from napari_face_landmarks.video.pixels import to_grey

Generator = np.random.Generator
PIXELS = SUPPORT * SUPPORT
HALF = SUPPORT // 2
INPUT_GAIN = float(SUPPORT)  # supports of norm 1 have pixels of about 1/11; folded into w1 when saved
LEVELS = 256.0  # units of the pools per grey level
FRAME_MARGIN = 11  # margin around the mean face in which supports are sampled, pixels of the frame
SIDE_LANDMARKS = np.arange(N_LANDMARKS)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class CenPlan:
    """Parameters of a training run; all are stored in the metrics."""

    scales: tuple[float, ...] = (0.25, 0.5, 0.7)  # scales s of the normalised frame
    hidden: tuple[int, int] = (32, 16)  # widths h1 and h2 of the hidden layers
    side_yaw: float = 24.0  # yaw of the side view's centre, degrees; positive: nose to the left of the image
    frontal_reach: float = 16.0  # largest yaw of faces for the frontal view, degrees
    side_from: float = 8.0  # smallest yaw of faces for the side view; the ranges overlap
    frontal_copies: int = 6  # augmented images of each face for the frontal view
    side_copies: int = 9  # the same for the side view
    turned_share: float = 0.5  # share of the side view's augmented images with heads rotated by their mesh
    acted_share: float = 0.3  # share of augmented images with another expression
    turned_to: tuple[float, float] = (12.0, 45.0)  # range of yaw of rotated heads, degrees
    sigma: float = 1.0  # standard deviation of the target, pixels of the frame
    reach: float = 6.0  # half the side of the windows in which positions are sampled, pixels of the frame
    stray: float = 2.0  # standard deviation of the distance between window centre and label
    far_stray: float = 5.0  # the same for a share of the windows, `far_share`
    far_share: float = 0.2
    near_share: float = 0.15  # share of positions sampled near the label instead of in the window
    pictures: int = 10  # faces for each expert in a batch
    places: int = 24  # positions in the window of each of these faces
    map_weight: float = 0.2  # weight of the loss of whole windows relative to that of single responses
    steps: int = 7000  # optimiser steps of a scale
    learning_rate: float = 4e-3  # of Adam, cosine schedule
    ema: float = 0.998  # decay of the exponential moving average of the weights
    evaluate_every: int = 2000  # steps between evaluations on the held-out faces
    seed: int = 2026
    threads: int = 1  # of torch


@dataclass(frozen=True)
class Pool:
    """Images of N faces in the normalised frame of one scale."""

    pictures: npt.NDArray[np.uint16]  # (N, H, W); grey levels times 256
    places: npt.NDArray[np.float32]  # (N, 68, 2); landmarks in pixels of the image, x then y
    covered: npt.NDArray[np.bool_]  # (N, 68); whether a landmark is occluded
    unit: npt.NDArray[np.float32]  # (N,); inter-ocular distance, pixels of the frame


@dataclass(frozen=True)
class Pools:
    """Faces of one scale for the frontal and the side view."""

    frontal: Pool
    side: Pool


class Experts(nn.Module):
    """All 107 experts of one scale, networks 121 -> h1 -> h2 -> 1, as batched products."""

    def __init__(self, hidden: tuple[int, int]) -> None:
        super().__init__()
        h1, h2 = hidden
        self.w1 = nn.Parameter(torch.randn(N_STORED, PIXELS, h1) * math.sqrt(2 / PIXELS))
        self.b1 = nn.Parameter(torch.zeros(N_STORED, 1, h1))
        self.w2 = nn.Parameter(torch.randn(N_STORED, h1, h2) * math.sqrt(2 / h1))
        self.b2 = nn.Parameter(torch.zeros(N_STORED, 1, h2))
        self.w3 = nn.Parameter(torch.randn(N_STORED, h2, 1) * math.sqrt(1 / h2))
        self.b3 = nn.Parameter(torch.full((N_STORED, 1, 1), -2.0))

    def forward(self, supports: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return the logits (E, B) of the experts `rows` for contrast-normalised supports (E, B, 121)."""
        first = torch.relu(torch.baddbmm(self.b1[rows], supports * INPUT_GAIN, self.w1[rows]))
        second = torch.relu(torch.baddbmm(self.b2[rows], first, self.w2[rows]))
        return torch.baddbmm(self.b3[rows], second, self.w3[rows])[..., 0]

    def stored(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the layers as they are stored, each with its bias as row 0."""
        with torch.no_grad():
            return {
                "w1": torch.cat([self.b1, self.w1 * INPUT_GAIN], dim=1).numpy().copy(),
                "w2": torch.cat([self.b2, self.w2], dim=1).numpy().copy(),
                "w3": torch.cat([self.b3, self.w3], dim=1)[..., 0].numpy().copy(),
            }


@kernel
def take_supports(
    pictures: npt.NDArray[Any],
    which: npt.NDArray[np.int64],
    x: npt.NDArray[np.int64],
    y: npt.NDArray[np.int64],
    supports: npt.NDArray[np.float32],
) -> None:
    """Fill `supports`, (L, K, 121), with contrast-normalised pixels around `x`, `y` of the images `which`."""
    for row in range(which.shape[0]):
        for k in range(which.shape[1]):
            picture = pictures[which[row, k]]
            out = supports[row, k]
            left, top = x[row, k] - HALF, y[row, k] - HALF
            total = np.float32(0)
            for c in range(SUPPORT):
                for r in range(SUPPORT):
                    value = np.float32(picture[top + r, left + c]) * np.float32(1 / LEVELS)
                    out[c * SUPPORT + r] = value
                    total += value
            mean = total / np.float32(PIXELS)
            power = np.float32(0)
            for i in range(PIXELS):
                out[i] -= mean
                power += out[i] * out[i]
            scale = np.float32(1) / max(np.sqrt(power), np.float32(MIN_NORM))
            for i in range(PIXELS):
                out[i] *= scale


def augmented(
    image: npt.NDArray[np.uint8],
    landmarks: npt.NDArray[np.float32],
    other: npt.NDArray[np.uint8],
    rng: Generator,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return the augmented image in greyscale, its landmarks, and whether each is occluded."""
    bumps = soft_tissue_bumps(landmarks, rng) if rng.random() < 0.25 else np.zeros((0, 5), np.float32)
    covered = np.zeros(N_LANDMARKS, np.bool_)
    picture = image.copy()
    if len(bumps):
        picture = with_moved_tissue(image, bumps)
        landmarks = displaced(landmarks, bumps)
    if rng.random() < 0.12:
        draw_marks(picture, landmarks, rng)
    if rng.random() < 0.12:
        mask = occlude(picture, other, rng)
        at = np.clip(np.round(landmarks).astype(int), 0, mask.shape[0] - 1)
        covered = mask[at[:, 1], at[:, 0]]
    if rng.random() < 0.7:
        picture = photometric(picture, rng)
    return to_grey(np.ascontiguousarray(picture)), landmarks, covered


def frame_size(pdm: PDM, scale: float) -> tuple[int, int, int, int]:
    """Return x0, y0, width and height of the part of the frame that images of the pool show."""
    extent = np.abs(shape_3d(pdm, np.zeros(pdm.n_modes))[:2]).max(axis=1) * scale * 1.2
    margin = FRAME_MARGIN + HALF
    x, y = (math.ceil(value + margin) for value in extent)
    return -x, -y, 2 * x + 1, 2 * y + 1


def take_pictures(
    grey: npt.NDArray[np.uint8], landmarks: npt.NDArray[np.float32], pdm: PDM, plan: CenPlan, rng: Generator
) -> list[tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]]:
    """Return image and landmarks in the normalised frame of each scale, for a slightly jittered pose."""
    params = fit_pdm(pdm, landmarks)
    params[0] *= math.exp(rng.normal(0, 0.05))
    params[3] += np.clip(rng.normal(0, math.radians(4)), -math.radians(12), math.radians(12))
    params[4:6] += rng.uniform(-3, 3, 2)
    taken = []
    for scale in plan.scales:
        x0, y0, width, height = frame_size(pdm, scale)
        to_frame = image_to_frame(params, scale)
        levels = sample_frame(grey, to_frame, x0, y0, width, height) * LEVELS
        picture = np.asarray(levels + 0.5, dtype=np.uint16)
        places = transform(to_frame, landmarks) - np.array([x0, y0])
        taken.append((picture, places.astype(np.float32)))
    return taken


def yaw_of(landmarks: npt.NDArray[np.float32], pdm: PDM) -> npt.NDArray[np.float64]:
    """Return the yaw of each face, (N,) degrees."""
    return np.degrees([fit_pdm(pdm, points)[2] for points in landmarks])


def _posed(
    faces: Faces, i: int, may_turn: bool, head: HeadModel, plan: CenPlan, rng: Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Return image and landmarks of face `i`, at random with rotated head or another expression."""
    image, landmarks, mesh = faces.images[i], faces.landmarks[i], faces.mesh[i].astype(np.float64)
    turns = may_turn and rng.random() < plan.turned_share
    changes_expression = rng.random() < plan.acted_share
    if not (turns or changes_expression):
        return image, landmarks
    added_yaw = 0.0
    if turns:
        yaw = yaw_of_mesh(mesh, head)
        target = math.copysign(math.radians(rng.uniform(*plan.turned_to)), yaw)
        added_yaw = target - yaw if abs(target) > abs(yaw) else 0.0
    expression = draw_expression(mesh, head, rng) if changes_expression else None
    return rotate_head(image, landmarks, mesh, head, added_yaw, 0.0, expression, rng)


def make_pools(faces: Faces, pdm: PDM, head: HeadModel, plan: CenPlan, *, varied: bool) -> list[Pools]:
    """Sample the faces and their mirror images, augmented if `varied`; return a `Pools` for each scale."""
    rng = np.random.default_rng([plan.seed, varied])
    yaw = yaw_of(faces.landmarks, pdm)
    has_mesh = faces.has_mesh
    frontal = [(i, mirror) for i in np.flatnonzero(np.abs(yaw) < plan.frontal_reach) for mirror in (0, 1)]
    side = [(i, int(yaw[i] < 0)) for i in np.flatnonzero(np.abs(yaw) > plan.side_from)]
    views = (("frontal", frontal, plan.frontal_copies), ("side", side, plan.side_copies))
    gathered: list[list[Pool]] = []
    for view, jobs, copies in views:
        jobs = jobs * copies if varied else jobs
        samples: list[list[tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]]] = []
        hidden = np.zeros((len(jobs), N_LANDMARKS), np.bool_)
        unit = np.zeros(len(jobs), np.float32)
        for k, (i, mirror) in enumerate(tqdm(jobs, desc=f"images, {view}", unit="face")):
            image, landmarks = faces.images[i], faces.landmarks[i]
            if varied and has_mesh[i]:
                image, landmarks = _posed(faces, i, view == "side", head, plan, rng)
            if mirror:
                image, landmarks = flipped(image, landmarks)
            if varied:
                other = faces.images[int(rng.integers(len(faces.images)))]
                grey, landmarks, hidden[k] = augmented(image, landmarks, other, rng)
            else:
                grey = to_grey(np.ascontiguousarray(image))
            samples.append(take_pictures(grey, landmarks, pdm, plan, rng))
            unit[k] = inter_ocular(landmarks) / fit_pdm(pdm, landmarks)[0]
        pools = []
        for level, scale in enumerate(plan.scales):
            pictures, places = map(np.stack, zip(*(face[level] for face in samples), strict=True))
            pools.append(Pool(pictures, places, hidden, unit * np.float32(scale)))
        gathered.append(pools)
    return [Pools(*both) for both in zip(*gathered, strict=True)]


def draw_places(
    pool: Pool, landmarks: npt.NDArray[np.int64], plan: CenPlan, rng: Generator
) -> tuple[npt.NDArray[np.int64], ...]:
    """Draw integer positions near each landmark: image numbers, x and y, (L, pictures * places)."""
    n, height, width = pool.pictures.shape
    chosen = rng.integers(n, size=plan.pictures)
    labels = pool.places[chosen][:, landmarks].transpose(1, 0, 2)[:, :, None]
    stray = np.where(rng.random((*labels.shape[:2], 1, 1)) < plan.far_share, plan.far_stray, plan.stray)
    centre = labels + stray * rng.standard_normal(labels.shape)
    shape = (len(landmarks), plan.pictures, plan.places, 2)
    position = centre + rng.uniform(-plan.reach - 0.5, plan.reach + 0.5, shape)
    near = rng.random((*shape[:3], 1)) < plan.near_share
    position = np.where(near, labels + rng.normal(0, 1.2 * plan.sigma, shape), position)
    rounded = np.round(position).astype(np.int64).reshape(len(landmarks), -1, 2)
    x = np.clip(rounded[..., 0], HALF, width - 1 - HALF)
    y = np.clip(rounded[..., 1], HALF, height - 1 - HALF)
    which = np.broadcast_to(np.repeat(chosen, plan.places), x.shape).copy()
    return which, x, y


def targets(
    pool: Pool,
    landmarks: npt.NDArray[np.int64],
    which: npt.NDArray[np.int64],
    x: npt.NDArray[np.int64],
    y: npt.NDArray[np.int64],
    sigma: float,
) -> npt.NDArray[np.float32]:
    """Return the Gaussian of the distance to the label, (L, K); 0 for occluded landmarks."""
    rows = landmarks[:, None]
    distance = (pool.places[which, rows, 0] - x) ** 2 + (pool.places[which, rows, 1] - y) ** 2
    target = np.exp(-distance / (2 * sigma**2))
    target[pool.covered[which, rows]] = 0.0
    return np.asarray(target, dtype=np.float32)


def draw_batch(pools: Pools, plan: CenPlan, rng: Generator) -> tuple[Tensor, Tensor]:
    """Return supports (107, B, 121) and targets (107, B) of the frontal experts, then of the side experts."""
    count = plan.pictures * plan.places
    supports = np.empty((N_STORED, count, PIXELS), np.float32)
    wanted = np.empty((N_STORED, count), np.float32)
    row = 0
    for pool, landmarks in ((pools.frontal, FRONTAL_STORED), (pools.side, SIDE_LANDMARKS)):
        which, x, y = draw_places(pool, landmarks, plan, rng)
        end = row + len(landmarks)
        take_supports(pool.pictures, which, x, y, supports[row:end])
        wanted[row:end] = targets(pool, landmarks, which, x, y, plan.sigma)
        row = end
    return torch.from_numpy(supports), torch.from_numpy(wanted)


def expert_loss(logits: Tensor, wanted: Tensor, plan: CenPlan) -> Tensor:
    """Return the sum of the experts' losses; `logits` and targets `wanted` are (107, pictures * places).

    The loss is the cross-entropy of each response, plus that of the responses of a window normalised to a sum
    of 1, since the search compares them. Windows that miss the label weigh less.
    """
    single = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=1)
    shape = (len(logits), plan.pictures, plan.places)
    log_response, target = nn.functional.logsigmoid(logits).view(shape), wanted.view(shape)
    share = log_response - torch.logsumexp(log_response, dim=2, keepdim=True)
    window = -(target * share).sum(dim=2) / target.sum(dim=2).clamp_min(0.3)
    return (single + plan.map_weight * window.mean(dim=1)).sum()


def responses(
    experts: Experts, pools: Pools, plan: CenPlan, reach: int, jitter: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return responses and targets, (107, F, side * side), and labels, (107, F, 2), in jittered windows."""
    rng = np.random.default_rng(plan.seed + 2)
    side = 2 * reach + 1
    across, down = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    faces = max(len(pools.frontal.pictures), len(pools.side.pictures))
    response = np.full((N_STORED, faces, side * side), np.nan, np.float32)
    wanted = np.full_like(response, np.nan)
    label = np.full((N_STORED, faces, 2), np.nan, np.float32)
    row = 0
    for pool, landmarks in ((pools.frontal, FRONTAL_STORED), (pools.side, SIDE_LANDMARKS)):
        end = row + len(landmarks)
        height, width = pool.pictures.shape[1:]
        for face in range(min(faces, len(pool.pictures))):
            truth = pool.places[face, landmarks]
            centre = np.round(truth + rng.uniform(-jitter, jitter, truth.shape)).astype(np.int64)
            x = np.clip(centre[:, :1] + across.ravel(), HALF, width - 1 - HALF)
            y = np.clip(centre[:, 1:] + down.ravel(), HALF, height - 1 - HALF)
            which = np.full(x.shape, face)
            supports = np.empty((*x.shape, PIXELS), np.float32)
            take_supports(pool.pictures, which, x, y, supports)
            with torch.no_grad():
                logits = experts(torch.from_numpy(supports), slice(row, end))
                response[row:end, face] = torch.sigmoid(logits).numpy()
            wanted[row:end, face] = targets(pool, landmarks, which, x, y, plan.sigma)
            label[row:end, face] = truth - centre + reach
        row = end
    return response, wanted, label


def measure(experts: Experts, pools: Pools, plan: CenPlan, reach: int = 6) -> dict[str, Any]:
    """Return metrics of the experts in the search windows of held-out faces.

    These are ``loss``, ``squared_error``, ``correlation`` of response and target, (107,), ``peak``, (107,),
    the median distance of the largest response from the label in pixels of the frame, and ``miss``, (107,),
    the share of faces on which this distance is over 3.
    """
    response, wanted, label = responses(experts, pools, plan, reach, jitter=2.0)
    side = 2 * reach + 1
    known = ~np.isnan(response)
    r, t = np.clip(response[known], 1e-6, 1 - 1e-6), wanted[known]
    single = -(t * np.log(r) + (1 - t) * np.log1p(-r)).mean()
    r, t = r.reshape(-1, side * side), t.reshape(-1, side * side)
    window = -(t * np.log(r / r.sum(axis=1, keepdims=True))).sum(axis=1) / np.maximum(t.sum(axis=1), 0.3)
    correlation = np.array(
        [np.corrcoef(f[s], w[s])[0, 1] for f, w, s in zip(response, wanted, known, strict=True)]
    )
    top = np.where(known, response, -1.0).argmax(axis=2)
    peak = np.stack([top % side, top // side], axis=-1)
    distance = np.where(known.any(axis=2), np.linalg.norm(peak - label, axis=-1), np.nan)
    return {
        "loss": float(single + plan.map_weight * window.mean()),
        "squared_error": float(((response[known] - wanted[known]) ** 2).mean()),
        "correlation": np.nan_to_num(correlation),
        "peak": np.nanmedian(distance, axis=1),
        "miss": np.nanmean(np.where(np.isnan(distance), np.nan, distance > 3.0), axis=1),
    }


def train_scale(
    level: int, pools: Pools, held_out: Pools, out: Path, plan: CenPlan
) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, Any]]:
    """Train the experts of one scale, or resume; return the best weights as stored, and their metrics."""
    scale = plan.scales[level]
    seeds = [plan.seed, round(1000 * scale)]  # independent of the other scales
    trial_experts, supports = Experts(plan.hidden), torch.randn(N_STORED, plan.pictures * plan.places, PIXELS)
    precision = faster_precision(CPU, lambda: trial_experts(supports).sum().backward())
    torch.manual_seed(sum(seeds))
    experts, averaged = Experts(plan.hidden), Experts(plan.hidden)
    averaged.load_state_dict(experts.state_dict())
    optimiser = torch.optim.Adam(experts.parameters(), lr=plan.learning_rate)
    loop = Loop(out / f"cen.{scale:g}", experts, averaged, optimiser, plan.ema)
    loop.extra["kept"] = averaged.state_dict()
    loop.resume()
    first = loop.step
    bar = tqdm(range(first, plan.steps), initial=first, total=plan.steps, desc=f"cen {scale:g}", unit="step")
    for step in bar:
        supports, wanted = draw_batch(pools, plan, np.random.default_rng([*seeds, step]))
        loop.set_rate(scheduled(step, plan.steps, plan.learning_rate, 100, 2e-3))
        with in_precision(CPU, precision):
            logits = experts(supports)
        loss = expert_loss(logits.float(), wanted, plan)
        loop.descend(loss)
        if loop.step % plan.evaluate_every and loop.step != plan.steps:
            continue
        result, running = measure(averaged, held_out, plan), loop.running / N_STORED
        row = {
            "scale": scale,
            "step": loop.step,
            "seconds": round(loop.seconds, 1),
            "loss": running,
            "held_out_loss": result["loss"],
            "squared_error": result["squared_error"],
            "correlation": float(result["correlation"].mean()),
            "peak_px": float(result["peak"].mean()),
            "miss": float(result["miss"].mean()),
        }
        append_row(out / "cen.log.csv", row)
        bar.set_postfix(loss=f"{running:.4f}", held_out=f"{result['loss']:.5f}")
        if result["loss"] < loop.best:
            loop.best = result["loss"]
            loop.extra["kept"] = {name: tensor.clone() for name, tensor in averaged.state_dict().items()}
        loop.save()
    averaged.load_state_dict(loop.extra["kept"])
    return averaged.stored(), {**measure(averaged, held_out, plan), "seconds": loop.seconds}


def train_cen(
    data: Path, out: Path, pdm: PDM, bundle: str = "research", plan: CenPlan | None = None
) -> dict[str, Any]:
    """Train the patch experts, or resume; write ``cen.npz`` and ``cen.metrics.json``, return the metrics."""
    plan = plan or CenPlan()
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(plan.threads)
    cv2.setNumThreads(1)
    start = time.monotonic()
    faces = load_faces(data, bundle=bundle, held_out=False, machine_made=False)
    held_out_faces = load_faces(data, bundle=bundle, held_out=True)
    head = load_head_model(data)
    pools = make_pools(faces, pdm, head, plan, varied=True)
    held_out = make_pools(held_out_faces, pdm, head, plan, varied=False)
    weights, measured = [], []
    for level in range(len(plan.scales)):
        trained, result = train_scale(level, pools[level], held_out[level], out, plan)
        weights.append(trained)
        measured.append(result)
    save_experts(out / "cen.npz", plan, weights, measured)
    metrics = {
        "bundle": bundle,
        "faces": len(faces.names),
        "held_out_faces": len(held_out_faces.names),
        "frontal_pictures": len(pools[0].frontal.pictures),
        "side_pictures": len(pools[0].side.pictures),
        "supports_per_expert": plan.steps * plan.pictures * plan.places,
        "seconds": time.monotonic() - start,
        "training_seconds": sum(result["seconds"] for result in measured),
        "plan": asdict(plan),
        "held_out": held_out_numbers(plan, measured, held_out),
    }
    write_json(out / "cen.metrics.json", metrics)
    return metrics


def save_experts(
    path: Path,
    plan: CenPlan,
    weights: list[dict[str, npt.NDArray[np.float32]]],
    measured: list[dict[str, Any]],
) -> None:
    """Write the experts of all scales, from `train_scale`, to a file."""
    arrays = {
        "scales": np.array(plan.scales),
        "view_centres": np.array([[0.0, yaw, 0.0] for yaw in (0.0, plan.side_yaw, -plan.side_yaw)]),
        "visibility": np.ones((2, N_LANDMARKS), np.bool_),
        "confidences": np.clip(np.stack([result["correlation"] for result in measured]), 0.0, 1.0),
    }
    layers = {name: np.stack([trained[name] for trained in weights]) for name in ("w1", "w2", "w3")}
    save_patch_experts(path, arrays | layers)


def held_out_numbers(plan: CenPlan, measured: list[dict[str, Any]], held_out: list[Pools]) -> dict[str, Any]:
    """Return the metrics of each scale for the model card."""
    return {
        f"{scale:g}": {
            "loss": result["loss"],
            "squared_error": result["squared_error"],
            "correlation": float(result["correlation"].mean()),
            "peak_median_px": float(result["peak"].mean()),
            "peak_median_over_outer_eye": float(result["peak"].mean() / pools.frontal.unit.mean()),
            "misses_over_3_px": float(result["miss"].mean()),
        }
        for scale, result, pools in zip(plan.scales, measured, held_out, strict=True)
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this step to the command line."""
    plan, ascending = CenPlan(), "ascending (default %(default)s)"
    parser.add_argument("--pdm", type=Path, help="file of the PDM (default pdm.npz in --out)")
    parser.add_argument("--scales", type=float, nargs="+", default=plan.scales, help=ascending)
    add_options(parser, plan, steps="optimiser steps of a scale", threads="threads", seed="seed")


def run(args: argparse.Namespace) -> None:
    """Run this step of the training."""
    plan = CenPlan(scales=tuple(args.scales), steps=args.steps, threads=args.threads, seed=args.seed)
    pdm = load_pdm(args.pdm or args.out / "pdm.npz")
    print(json.dumps(train_cen(args.data, args.out, pdm, args.bundle, plan), indent=2))
