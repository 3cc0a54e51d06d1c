"""Train the part models: ``python -m napari_face_landmarks.training parts --data FOLDER --out FOLDER``."""

from __future__ import annotations

import argparse
import copy
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from napari_face_landmarks.evaluation.metrics import roc_area
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.parts.crop import EYE_SIDE, EYE_SIZE, MOUTH_SIDE, MOUTH_SIZE
from napari_face_landmarks.training.augment import Generator, Image, compressed, cut, displaced, random_blur
from napari_face_landmarks.training.from_onnx import load_exported
from napari_face_landmarks.training.log import add_options, append_row, write_json
from napari_face_landmarks.training.loop import Loop, floating, scheduled
from napari_face_landmarks.training.marks import draw_on_part
from napari_face_landmarks.training.mixed_precision import in_precision
from napari_face_landmarks.training.onnx_float16 import export
from napari_face_landmarks.training.part_labels import (
    EYE_REACH,
    MOUTH_REACH,
    PartFaces,
    apertures,
    load_parts,
)
from napari_face_landmarks.training.part_network import ExportedEye, ExportedMouth, PartNetwork, PartOutputs
from napari_face_landmarks.training.pfld import movement_error

Floats = npt.NDArray[np.float32]

SHIFT, SCALE, ROLL = 0.055, 0.10, math.radians(5.5)
"""Standard deviations of crops placed by PFLD, whose error is about 4 % of the inter-ocular distance: shift
in crop sides, logarithm of the side, radians."""
SHUT, HALF = 0.06, 0.17
"""Largest apertures of shut and of half-shut eyes in the balance of batches."""
CLOSED, WIDE = 0.03, 0.16
"""Largest opening of closed mouths and smallest one of wide-open mouths, fractions of the crop's side."""
EYE_SHARES = (0.22, 0.16, 0.62)
MOUTH_SHARES = (0.40, 0.38, 0.22)
"""Shares of the three states in each batch."""
SOFTNESS = 0.15  # px of the crop
HELD_OUT_SEED = 11
FOLLOWED_SHARE = 3.0
"""Weight of `movement_loss`."""
EXTRA = 6
"""Number of outputs of the eye network in addition to landmarks."""


@dataclass(frozen=True)
class PartsPlan:
    """Parameters of a training run; all are stored in the metrics."""

    steps: int = 5000
    batch: int = 64
    learning_rate: float = 2.5e-3
    started_rate: float = 8e-4
    weight_decay: float = 1e-3
    ema: float = 0.998
    evaluate_every: int = 1000
    warped_share: float = 0.35
    covered_share: float = 0.4
    drawn_share: float = 0.3
    twin_share: float = 0.5
    mild_share: float = 0.15
    kept_share: float = 0.3  # share of the initial network in the exported average
    seed: int = 2026
    threads: int = 1


@dataclass(frozen=True)
class Part:
    """The crops of one part of the face."""

    name: str  # "eye" or "mouth"
    patches: npt.NDArray[np.uint8]  # (N, P, P) or (N, P, P, 3); crops with a margin
    # (N, L, 2); landmarks, of eyes also both ends of the horizontal diameter of the iris; crop fractions
    labels: Floats
    known: npt.NDArray[np.bool_]  # (N, L); False for hidden irises
    chance: npt.NDArray[np.float64]  # (N,); probability of each patch in training
    face: npt.NDArray[np.int64]  # (N,); number of the face
    size: int  # side of the network's input
    reach: float  # side of a patch over the side of the crop

    @property
    def unit(self) -> float:
        """Approximate outer-eye distance in pixels of the network's input."""
        return self.size / (EYE_SIDE if self.name == "eye" else MOUTH_SIDE)


def part_of(faces: PartFaces, name: str) -> Part:
    """Return the eyes or the mouths of labelled faces with balanced probabilities of their states."""
    if name == "mouth":
        opening = (faces.lips[:, 18] - faces.lips[:, 14])[:, 1]
        state = np.digitize(opening, (CLOSED, WIDE))
        chance = _balanced(state, faces.mouth_weight, MOUTH_SHARES)
        known = np.ones(faces.lips.shape[:2], np.bool_)
        face = np.arange(len(faces.lips))
        return Part(name, faces.mouths, faces.lips, known, chance, face, MOUTH_SIZE, MOUTH_REACH)
    state = np.digitize(apertures(faces.lids), (SHUT, HALF))
    chance = _balanced(state, faces.eye_weight, EYE_SHARES)
    half = np.stack([faces.iris[:, 2] / 2, np.zeros(len(faces.iris), np.float32)], axis=1)
    centre = faces.iris[:, :2]
    labels = np.concatenate([faces.lids, (centre - half)[:, None], (centre + half)[:, None]], axis=1)
    known = np.isfinite(labels).all(axis=2)
    labels = np.where(known[..., None], labels, 0.5).astype(np.float32)
    return Part(name, faces.eyes, labels, known, chance, faces.eye_face, EYE_SIZE, EYE_REACH)


def _balanced(
    state: npt.NDArray[np.int64], weight: Floats, shares: tuple[float, ...]
) -> npt.NDArray[np.float64]:
    chance = weight.astype(np.float64)
    for number, share in enumerate(shares):
        members = state == number
        chance[members] *= share / max(chance[members].sum(), 1e-9)
    return np.asarray(chance / chance.sum())


def part_network(name: str) -> PartNetwork:
    """Return a new network of a part."""
    return PartNetwork(EYE_SIZE, 1, 6, EXTRA) if name == "eye" else PartNetwork(MOUTH_SIZE, 3, 20, fine=True)


def draw_batch(part: Part, plan: PartsPlan, rng: Generator) -> dict[str, npt.NDArray[Any]]:
    """Return augmented crops of a part and their labels.

    These are ``images`` (B, S, S) or (B, S, S, 3), 0 to 1, ``labels`` (B, L, 2), ``known`` (B, L), and
    ``twin`` (B,), the row of the same crop with moved skin, or its own row.
    """
    twins = round(plan.batch * plan.twin_share / 2) if part.name == "mouth" else 0
    rows = rng.choice(len(part.chance), plan.batch, p=part.chance)
    rows[twins : 2 * twins] = rows[:twins]
    twin = np.arange(plan.batch)
    twin[: 2 * twins] = np.roll(twin[: 2 * twins], twins)
    mild = rng.random(plan.batch) < plan.mild_share
    mild[twins : 2 * twins] = mild[:twins]
    seeds = rng.integers(2**31, size=plan.batch)
    seeds[twins : 2 * twins] = seeds[:twins]
    images, labels = [], []
    for k, (row, is_mild) in enumerate(zip(rows, mild, strict=True)):
        warped = k >= twins if k < 2 * twins else not is_mild and rng.random() < plan.warped_share
        crop_rng = np.random.default_rng(seeds[k])
        image, label = _crop(part, int(row), crop_rng, warped, 0.6 if is_mild else 1.0, single=k < 2 * twins)
        if not is_mild:
            change_rng = np.random.default_rng(seeds[k] + 1)
            if k >= 2 * twins:
                if change_rng.random() < plan.drawn_share:
                    image = draw_on_part(image, label * part.size - 0.5, part.unit, change_rng)
                if change_rng.random() < plan.covered_share:
                    cover(image, part.patches[rng.integers(len(part.patches))], change_rng)
            image = soften(image, part.unit, change_rng)
        images.append(image)
        labels.append(label)
    # twins share their light: different light would hide how the skin moved
    light_seed = int(rng.integers(2**31))
    lit = [
        light(group.astype(np.float32), mild_group, np.random.default_rng([light_seed, number]))
        for number, group, mild_group in zip(
            (0, 0, 1),
            *(np.split(array, [twins, 2 * twins]) for array in (np.stack(images), mild)),
            strict=True,
        )
    ]
    return {
        "images": np.concatenate(lit) / 255,
        "labels": np.stack(labels),
        "known": part.known[rows],
        "twin": twin,
    }


def _crop(
    part: Part, row: int, rng: Generator, warped: bool, jitter: float, single: bool = False
) -> tuple[Image, Floats]:
    """Return a crop jittered like those placed by PFLD, if `warped` with moved skin, and its labels."""
    size = part.patches.shape[1]
    side = size / part.reach
    points = (part.labels[row] - 0.5) * side + size / 2 - 0.5  # pixels of the patch
    shift = np.clip(rng.normal(0, SHIFT, 2), -0.18, 0.18) * jitter
    scale = math.exp(float(np.clip(rng.normal(0, SCALE), -0.22, 0.22)) * jitter)
    crop = np.array(
        [*(size / 2 - 0.5 + shift * side), side * scale, rng.normal(0, ROLL) * jitter], np.float32
    )
    bumps = skin_bumps(part, points, side, rng, single) if warped else np.zeros((0, 5), np.float32)
    if warped:
        points = displaced(points.astype(np.float32), bumps)
        image = cut(part.patches[row], crop, bumps, part.size)
    else:
        cos, sin = math.cos(crop[3]) * crop[2] / part.size, math.sin(crop[3]) * crop[2] / part.size
        middle = (part.size - 1) / 2
        matrix = np.array(
            [
                [cos, -sin, crop[0] - cos * middle + sin * middle],
                [sin, cos, crop[1] - sin * middle - cos * middle],
            ]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        image = np.asarray(
            cv2.warpAffine(
                part.patches[row], matrix, (part.size,) * 2, flags=flags, borderMode=cv2.BORDER_REPLICATE
            ),
            dtype=np.uint8,
        )
    across = points - crop[:2]
    cos, sin = math.cos(crop[3]) / crop[2], math.sin(crop[3]) / crop[2]
    label = np.stack([across[:, 0] * cos + across[:, 1] * sin, across[:, 1] * cos - across[:, 0] * sin], 1)
    return image, (label + 0.5).astype(np.float32)


def skin_bumps(part: Part, points: Floats, side: float, rng: Generator, single: bool = False) -> Floats:
    """Draw bumps (as `soft_tissue_bumps`), (B, 5), at some groups of landmarks or at a `single` one."""
    groups: tuple[tuple[tuple[int, ...], float], ...]  # landmarks, share of the movement that is sideways
    if part.name == "eye":
        aperture = max(float(apertures(points[:6])), 0.0)
        # displacements increase with the aperture, so that the lids of shut eyes hardly separate
        groups = (((1, 2), 0.5), ((4, 5), 0.5), ((0,), 0.5), ((3,), 0.5), ((0, 1), 0.5), ((2, 3), 0.5))
        width, amount, reach = float(np.linalg.norm(points[3] - points[0])), 0.03 + 0.12 * aperture, 0.35
    else:
        lower_lip = (((7, 8), 0.35), ((10, 11), 0.35), ((7, 8, 17), 0.35), ((10, 11, 19), 0.35))
        groups = (
            ((6, 12, 16), 1.0), ((0,), 1.0), ((8, 9, 18), 0.35), ((2, 3, 14), 0.35), ((4, 15), 0.35),
            ((2, 13), 0.35), *lower_lip, *lower_lip,
        )  # fmt: skip
        width, amount, reach = side * 0.55, 0.09, 0.28
    if single:
        groups = (groups[rng.integers(len(groups))],)
    bumps = []
    for members, share in groups:
        if single or rng.random() < (0.35 if part.name == "eye" else 0.2):
            move = np.clip(rng.normal(0, amount, 2), -0.2, 0.2) * width * np.array([share, 1.0])
            if part.name == "eye" and aperture < HALF:
                move *= 0.6
            radius = reach * width * rng.uniform(0.8 if part.name == "eye" else 0.45, 1.5)
            move *= min(1.0, 0.8 * radius / max(float(np.linalg.norm(move)), 1e-6))
            bumps.append([*points[list(members)].mean(axis=0), *move, radius])
    return np.asarray(bumps, dtype=np.float32).reshape(-1, 5)


def cover(image: Image, other: Image, rng: Generator) -> None:
    """Occlude a crop in place: glasses, strokes, hair, a hand or a border; `other` is a texture."""
    size = image.shape[0]
    shape = np.zeros(image.shape[:2], np.uint8)
    kind, centre = rng.random(), rng.uniform(0.1, 0.9, 2) * size
    strength, pen = rng.uniform(0.5, 1.0), rng.uniform(0, 255, 3 if image.ndim == 3 else 1)
    if kind < 0.25:  # rim of glasses
        centre = size * (0.5 + rng.normal(0, 0.15, 2))
        axes = tuple(int(size * v) for v in rng.uniform((0.3, 0.2), (0.7, 0.5)))
        first_end, last_end = (0.0, 360.0) if rng.random() < 0.6 else rng.uniform(0, 360, 2).tolist()
        cv2.ellipse(
            shape, tuple(int(v) for v in centre), axes, rng.normal(0, 8), first_end, last_end, 255,
            int(rng.integers(1, 4)), cv2.LINE_AA,
        )  # fmt: skip
        if rng.random() < 0.5:
            pen = np.full_like(pen, rng.uniform(0, 90))
    elif kind < 0.55:  # strokes, hatching, hair
        first = centre
        for _ in range(int(rng.integers(1, 6))):
            last = first + rng.normal(0, 0.35 * size, 2)
            bend = (first + last) / 2 + rng.normal(0, 0.12 * size, 2)
            t = np.linspace(0, 1, 8)[:, None]
            path = (1 - t) ** 2 * first + 2 * t * (1 - t) * bend + t * t * last
            cv2.polylines(
                shape, [np.round(path * 16).astype(np.int32)], False, 255, int(rng.integers(1, 3)),
                cv2.LINE_AA, 4,
            )  # fmt: skip
            first = last if rng.random() < 0.5 else first + rng.normal(0, 0.1 * size, 2)
    elif kind < 0.7:  # dots, glare
        for _ in range(int(rng.integers(1, 4))):
            at = centre + rng.normal(0, 0.15 * size, 2)
            axes = tuple(int(v) for v in rng.integers(1, max(size // 9, 2), 2))
            cv2.ellipse(shape, tuple(int(v) for v in at), axes, rng.uniform(0, 180), 0, 360, 255, -1)
        pen = np.full_like(pen, 255.0) if rng.random() < 0.5 else pen
    else:  # a hand, a patch, the border of the image
        angle = rng.uniform(0, 2 * math.pi)
        normal = np.array([math.cos(angle), math.sin(angle)])
        y, x = np.mgrid[:size, :size] - size / 2
        edge = rng.uniform(-0.25, 0.45) * size
        covered = x * normal[0] + y * normal[1] > edge
        if rng.random() < 0.5:
            covered &= (
                np.abs(x * normal[1] - y * normal[0] - rng.normal(0, 0.3 * size))
                < rng.uniform(0.08, 0.3) * size
            )
        shape[covered] = 255
        strength = 1.0
        if rng.random() < 0.6:
            texture = cv2.resize(other, (size, size))
            image[covered] = texture[covered]
            return
        pen = np.asarray(image[rng.integers(size), rng.integers(size)], np.float64).reshape(-1)
    alpha = shape.astype(np.float32) * (strength / 255)
    if image.ndim == 3:
        alpha = alpha[..., None]
    image[:] = np.asarray(image * (1 - alpha) + (pen if image.ndim == 3 else pen[0]) * alpha, dtype=np.uint8)


def soften(image: Image, unit: float, rng: Generator) -> Image:
    """Downscale, blur or compress a crop at random; `unit` is the outer-eye distance, px."""
    size = image.shape[0]
    if rng.random() < 0.3:
        small = max(round(size * rng.uniform(0.22, 0.9)), 8)
        image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        if rng.random() < 0.4:
            image = compressed(image, 20, 85, rng)
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    elif rng.random() < 0.5:
        image = random_blur(image, unit, rng)
    if rng.random() < 0.15:
        image = compressed(image, 20, 85, rng)
    return np.asarray(image, dtype=np.uint8)


def light(images: Floats, mild: npt.NDArray[np.bool_], rng: Generator) -> Floats:
    """Change light and colour of crops, (B, S, S) or (B, S, S, 3), 0 to 255, and add noise."""
    count, size = len(images), images.shape[1]
    colour = images.ndim == 4
    each = (count, 1, 1, 1) if colour else (count, 1, 1)
    power = np.where(mild, 0.3, 1.0).reshape(each).astype(np.float32)

    def draw(chance: float, values: npt.NDArray[np.floating], plain: float) -> Floats:
        chosen = rng.random(count) < chance
        return np.where(chosen, values, plain).reshape(each).astype(np.float32)

    if colour:
        grey = (rng.random(count) < 0.2).reshape(each)
        luma = (images @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
        cast = (1 + power * rng.normal(0, 0.08, (count, 1, 1, 3))).astype(np.float32)
        images = np.where(grey, luma, images * cast)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    angle, depth = rng.uniform(0, 2 * math.pi, (count, 1, 1)), rng.uniform(0, 0.7, (count, 1, 1))
    depth *= rng.random((count, 1, 1)) < 0.35
    slopes = (depth * np.cos(angle)).astype(np.float32), (depth * np.sin(angle)).astype(np.float32)
    side = 1 + slopes[0] * ramp[None, None] + slopes[1] * ramp[None, :, None]
    images = images * (side[..., None] if colour else side)
    dark = draw(0.12, rng.uniform(0.12, 0.5, count), 1.0)
    mean = images.mean(axis=tuple(range(1, images.ndim)), keepdims=True)
    gain = np.exp(power * draw(1.0, rng.normal(0, 0.25, count), 0.0))
    images = ((images - mean) * gain + mean + power * draw(1.0, rng.normal(0, 22, count), 0.0)) * dark
    gamma = np.exp(power * draw(0.3, rng.normal(0, 0.35, count), 0.0))
    curved = gamma.reshape(-1) != 1
    images[curved] = 255 * np.clip(images[curved] / 255, 0, 1) ** gamma[curved]
    noise = power * draw(0.3, rng.uniform(1, 10, count), 0.0)
    noisy = noise.reshape(-1) > 0
    images[noisy] += noise[noisy] * rng.standard_normal(images[noisy].shape, dtype=np.float32)
    return np.clip(images, 0, 255)


def held_out_crops(part: Part) -> tuple[Floats, Floats]:
    """Return held-out crops, 0 to 1, jittered like those placed by PFLD, and their labels."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    made = [_crop(part, row, rng, False, 1.0) for row in range(len(part.patches))]
    images = np.stack([image for image, _ in made]).astype(np.float32) / np.float32(255)
    return images, np.stack([label for _, label in made])


def to_tensor(images: Floats) -> Tensor:
    """Return crops as input of the network, (B, channels, S, S)."""
    if images.ndim == 3:
        return torch.from_numpy(images[:, None])
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def part_loss(name: str, outputs: PartOutputs, labels: Tensor, known: Tensor, size: int) -> Tensor:
    """Return the loss of a batch: distances, differences between landmarks, spreads, iris, shut eyes."""
    count = outputs.landmarks.shape[1]
    truth = labels[:, :count]
    loss = torch.zeros(())
    for output, share in (
        (outputs.landmarks, 1.0),
        (outputs.heat_landmarks, 0.5),
        (outputs.global_landmarks, 0.5),
    ):
        error = (output - truth) * size
        loss = loss + share * torch.sqrt((error**2).sum(-1) + SOFTNESS**2).mean()
    pairs, weight = (((1, 5), (2, 4)), 1.5) if name == "eye" else (
        ((13, 19), (14, 18), (15, 17), (3, 9), (0, 6), (2, 10), (4, 8)), 1.0
    )  # fmt: skip
    upper, lower = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    for output, share in ((outputs.landmarks, 1.0), (outputs.global_landmarks, 0.3)):
        error = (output[:, lower] - output[:, upper] - truth[:, lower] + truth[:, upper])[..., 1] * size
        loss = loss + share * weight * torch.sqrt(error**2 + SOFTNESS**2).mean()
    loss = loss + 0.2 * _likelihood(outputs.landmarks, truth, outputs.log_sigma).mean()
    if name == "mouth":
        return loss
    extra, visible = outputs.extra, known[:, count].float()
    first, last = labels[:, count], labels[:, count + 1]
    centre, diameter = (first + last) / 2, (last - first).norm(dim=-1)
    error = (extra[:, :2] - centre) * size
    size_error = (extra[:, 2] - diameter) * size
    iris_loss = torch.sqrt((error**2).sum(-1) + SOFTNESS**2) + torch.sqrt(size_error**2 + SOFTNESS**2)
    iris_loss = iris_loss + 0.2 * _likelihood(extra[:, :2], centre, extra[:, 3] - 3.0)
    loss = loss + 0.7 * (iris_loss * visible).mean()
    aperture = _aperture(truth)
    shut = ((0.14 - aperture) / 0.10).clamp(0, 1)
    loss = loss + 0.3 * nn.functional.binary_cross_entropy_with_logits(extra[:, 4], visible)
    return loss + 0.5 * nn.functional.binary_cross_entropy_with_logits(extra[:, 5], shut)


def movement_loss(outputs: PartOutputs, labels: Tensor, twin: Tensor, size: int) -> Tensor:
    """Return the errors of the known movements between twins, pixels of the crop."""
    shares = (outputs.landmarks, 1.0), (outputs.heat_landmarks, 0.3), (outputs.global_landmarks, 0.3)
    losses = [share * movement_error(found * size, labels * size, twin, SOFTNESS) for found, share in shares]
    return torch.stack(losses).sum()


def _likelihood(output: Tensor, truth: Tensor, log_sigma: Tensor) -> Tensor:
    squared = ((output.detach() - truth) ** 2).sum(-1).clamp_max(0.04)
    log_sigma = log_sigma.clamp(-8.0, 1.0)
    return 2 * log_sigma + squared / (2 * torch.exp(2 * log_sigma))


def _aperture(lids: Tensor) -> Tensor:
    width = (lids[:, 3] - lids[:, 0]).norm(dim=-1).clamp_min(1e-3)
    return (lids[:, 5, 1] + lids[:, 4, 1] - lids[:, 1, 1] - lids[:, 2, 1]) / 2 / width


def predict_crops(network: PartNetwork, images: Floats) -> PartOutputs:
    """Run a network in batches on crops, 0 to 1; return the concatenated outputs."""
    network.eval()
    with torch.no_grad():
        parts = [network(to_tensor(images[first : first + 512])) for first in range(0, len(images), 512)]
    return PartOutputs(*(torch.cat(values) for values in zip(*parts, strict=True)))


def evaluate(network: PartNetwork, part: Part, images: Floats, labels: Floats) -> dict[str, Any]:
    """Return metrics on held-out crops: errors in eye or mouth widths, slopes, apertures, iris."""
    outputs = predict_crops(network, images)
    found = outputs.landmarks.numpy()
    count = found.shape[1]
    truth = labels[:, :count]
    ends = (0, 3) if part.name == "eye" else (0, 6)
    width = np.linalg.norm(truth[:, ends[1]] - truth[:, ends[0]], axis=1)
    error = np.linalg.norm(found - truth, axis=2)
    sigma = np.exp(outputs.log_sigma.numpy().clip(-8, 1))
    result: dict[str, Any] = {
        "error": float(np.median(error.mean(axis=1) / width)),
        "sigma_ratio": float(np.sqrt(np.median(error**2 / (2 * sigma**2)) / math.log(2))),
    }
    if part.name == "mouth":
        opening = [(points[:, 18] - points[:, 14])[:, 1] for points in (found, truth)]
        result["opening_slope"], result["opening_correlation"] = _slope(*opening)
        wide = [np.linalg.norm(points[:, 6] - points[:, 0], axis=1) for points in (found, truth)]
        result["width_slope"] = _slope(*wide)[0]
        droop = [(points[:, 6] - points[:, 0])[:, 1] for points in (found, truth)]
        result["corners_slope"] = _slope(*droop)[0]
        return result
    by_model, by_label = apertures(found), apertures(truth)
    shut, opened = by_label < 0.03, by_label > 0.2
    result["aperture_slope"], result["aperture_correlation"] = _slope(by_model, by_label)
    result["shut"], result["open"] = float(by_model[shut].mean()), float(by_model[opened].mean())
    result["shut_95"] = float(np.percentile(by_model[shut], 95))
    either = shut | opened
    result["roc_area"] = roc_area(by_model[either], opened[either])
    result["roc_area_shut"] = roc_area(outputs.extra[either, 5].numpy(), shut[either])
    visible = part.known[:, count]
    first, last = labels[visible, count], labels[visible, count + 1]
    extra = outputs.extra.numpy()[visible]
    diameter = np.linalg.norm(last - first, axis=1)
    apart = np.linalg.norm(extra[:, :2] - (first + last) / 2, axis=1)
    result["iris_centre"] = float(np.median(apart / width[visible]))
    result["iris_diameter"] = float(np.median(np.abs(extra[:, 2] / diameter - 1)))
    spread = np.exp(extra[:, 3].clip(-5, 4) - 3)
    result["iris_sigma_ratio"] = float(np.sqrt(np.median(apart**2 / (2 * spread**2)) / math.log(2)))
    result["winks"] = wink_ratio(part, by_model, by_label)
    return result


def wink_ratio(part: Part, by_model: npt.NDArray[np.float64], by_label: npt.NDArray[np.float64]) -> float:
    """Return the mean aperture of shut eyes over that of open eyes, on faces with one of each."""
    ratios = []
    pairs = np.flatnonzero(part.face[1:] == part.face[:-1])
    for row in pairs:
        pair = np.array([row, row + 1])
        pair = pair[np.argsort(by_label[pair])]
        if by_label[pair[0]] < 0.03 and by_label[pair[1]] > 0.18:
            ratios.append((by_model[pair[0]], by_model[pair[1]]))
    shut, opened = np.mean(ratios, axis=0) if ratios else (np.nan, np.nan)
    return float(shut / opened)


def _slope(found: npt.NDArray[np.floating], truth: npt.NDArray[np.floating]) -> tuple[float, float]:
    return float(np.polyfit(truth, found, 1)[0]), float(np.corrcoef(truth, found)[0, 1])


def load_or_make(data: Path, out: Path, bundle: str, held_out: bool) -> PartFaces:
    """Load the crops from ``OUT/parts.train.npz`` or ``parts.held_out.npz``, which is made if missing."""
    path = out / f"parts.{'held_out' if held_out else 'train'}.npz"
    if not path.exists():
        faces = load_parts(data, bundle, held_out)
        with replacing(path) as temporary:
            np.savez(temporary, **vars(faces))
        return faces
    with np.load(path, allow_pickle=False) as archive:
        return PartFaces(**{item.name: archive[item.name] for item in fields(PartFaces)})


def train(
    data: Path, out: Path, bundle: str, name: str, plan: PartsPlan, start: Path | None = None
) -> dict[str, Any]:
    """Train the network of a part, "eye" or "mouth", or resume; export its average, return the metrics."""
    torch.set_num_threads(plan.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(plan.seed)
    out.mkdir(parents=True, exist_ok=True)
    part = part_of(load_or_make(data, out, bundle, held_out=False), name)
    held_out = part_of(load_or_make(data, out, bundle, held_out=True), name)
    images, labels = held_out_crops(held_out)
    network, highest = part_network(name), plan.learning_rate
    if start is not None:
        _load_start(network, start, part, plan)
        highest = plan.started_rate
    initial, averaged = (copy.deepcopy(network) for _ in range(2))
    optimiser = torch.optim.AdamW(network.parameters(), lr=highest, weight_decay=plan.weight_decay)
    loop = Loop(out / name, network, averaged, optimiser, plan.ema)
    loop.resume()
    metrics: dict[str, Any] = {}
    steps = range(loop.step, plan.steps)
    for step in tqdm(steps, total=plan.steps, initial=loop.step, desc=name, mininterval=10):
        batch = draw_batch(part, plan, np.random.default_rng([plan.seed, step]))
        crops = to_tensor(batch.pop("images"))
        truth = {key: torch.from_numpy(values) for key, values in batch.items()}
        loop.set_rate(scheduled(step, plan.steps, highest, 200, 0.003))
        network.train()
        with in_precision(torch.device("cpu"), torch.bfloat16):
            features = network.features(crops)
        outputs = network.heads(*(values.float() for values in features))
        loss = part_loss(name, outputs, truth["labels"], truth["known"], part.size)
        if name == "mouth":
            loss = loss + FOLLOWED_SHARE * movement_loss(outputs, truth["labels"], truth["twin"], part.size)
        loop.descend(loss, clip=20.0)
        if loop.step % plan.evaluate_every and loop.step != plan.steps:
            continue
        final = averaged if start is None else mixed(averaged, initial, plan.kept_share)
        result = evaluate(final, held_out, images, labels)
        progress = {"step": loop.step, "seconds": loop.seconds}
        append_row(out / f"{name}.log.csv", {"step": loop.step, "loss": loop.running, **progress, **result})
        metrics = {
            "bundle": bundle,
            "began_with": None if start is None else start.name,
            "plan": asdict(plan),
            "crops": len(part.patches),
            "held_out_crops": len(held_out.patches),
            **progress,
            "parameters": sum(p.numel() for p in network.parameters()),
            "held_out": result,
        }
        export_onnx(final, name, out / f"{name}.onnx", result)
        write_json(out / f"{name}.metrics.json", metrics)
        torch.save(final.state_dict(), out / f"{name}.best.pt")
        loop.save()
    return metrics


def mixed(network: PartNetwork, initial: PartNetwork, share: float) -> PartNetwork:
    """Return the weighted mean of two networks, in which `initial` has a share (Wortsman et al. 2022).

    The mean keeps most gains of the training from `initial`, for example under blur, and reduces losses
    elsewhere.
    """
    final = copy.deepcopy(network)
    with torch.no_grad():
        torch._foreach_lerp_(floating(final), floating(initial), share)
    return final


def _load_start(network: PartNetwork, start: Path, part: Part, plan: PartsPlan) -> None:
    """Load the weights of a finished run or, if there are none, of a bundle's exported network."""
    best = start / f"{part.name}.best.pt"
    if best.exists():
        state = torch.load(best, weights_only=True)
        network.load_state_dict(network.state_dict() | state)  # a coarse network lacks the fine maps
        return
    batches = [draw_batch(part, plan, np.random.default_rng([plan.seed, 0, k])) for k in range(8)]
    load_exported(network, start / f"{part.name}.onnx", [to_tensor(batch["images"]) for batch in batches])


def export_onnx(network: PartNetwork, name: str, path: Path, result: dict[str, float]) -> None:
    """Write a network as ONNX with float16 weights, and spreads scaled to the held-out errors."""
    network = copy.deepcopy(network).eval()
    size = EYE_SIZE if name == "eye" else MOUTH_SIZE
    if name == "eye":
        whole: nn.Module = ExportedEye(network, result["sigma_ratio"], result["iris_sigma_ratio"])
        outputs = ["landmarks", "sigma", "iris", "iris_sigma", "iris_confidence", "shut"]
    else:
        whole, outputs = ExportedMouth(network, result["sigma_ratio"]), ["landmarks", "sigma"]
    axes = {key: {0: "faces"} for key in ("crops", *outputs)}
    export(whole, torch.zeros(2, 3, size, size), path, "crops", outputs, axes)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this step to the command line."""
    add_options(parser, PartsPlan(), steps="optimiser steps", threads="threads", seed="seed")
    parser.add_argument("--part", choices=("eye", "mouth"), action="append", help="default: both")
    parser.add_argument(
        "--start", type=Path, help="folder of a run or bundle whose weights are the initial ones"
    )


def run(args: argparse.Namespace) -> None:
    """Run this step of the training."""
    plan = replace(PartsPlan(), steps=args.steps, threads=args.threads, seed=args.seed)
    for name in args.part or ("eye", "mouth"):
        print(json.dumps(train(args.data, args.out, args.bundle, name, plan, args.start), indent=2))
