"""Train PFLD: ``python -m napari_face_landmarks.training pfld --data FOLDER --out FOLDER``."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.ibug import MIRROR_68, inter_ocular, nme
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.pfld.crop import CROP_SIZE, crops_of_landmarks, sample_crops, to_image
from napari_face_landmarks.training import augment, pose_augmentation
from napari_face_landmarks.training import faces as face_files
from napari_face_landmarks.training.from_onnx import depthwise_widths, load_exported
from napari_face_landmarks.training.held_out import draw_faces
from napari_face_landmarks.training.labels import lid_apertures, pose_of
from napari_face_landmarks.training.log import add_options, append_row, write_json
from napari_face_landmarks.training.loop import Loop, floating, load_checkpoint, scheduled
from napari_face_landmarks.training.mixed_precision import fastest, in_precision
from napari_face_landmarks.training.network import NARROW, WIDE, Middles, Pfld, PfldFeatures, PfldOutputs
from napari_face_landmarks.training.onnx_float16 import export
from napari_face_landmarks.training.pruning import is_thinner, middles_of, with_widths
from napari_face_landmarks.video import prefetch

NO_BUMPS = np.zeros((0, 5), np.float32)
HELD_OUT_SEED = 7
CALIBRATION_BATCHES = 12
SOFTNESS = 0.2  # px of the crop
LOG_SIGMA = (-8.0, 1.0)
"""Range to which the logarithm of sigma (fractions of the crop) is clamped in training and export."""
LEAST_LOG_SIGMA = -5.5
"""Limit, 0.5 px of the crop, below which the loss sees a tenth of the decrease of the logarithm of sigma."""
DIFFERENCES: tuple[tuple[tuple[tuple[int, int], ...], float], ...] = (
    (((37, 41), (38, 40), (43, 47), (44, 46)), 3.0),  # upper and lower lid
    (((37, 44), (38, 43), (41, 46), (40, 47)), 1.0),  # right and left lids
    (((48, 54),), 2.0),  # commissures
    (((17, 26), (18, 25), (19, 24), (20, 23), (21, 22)), 0.5),  # brows
    (((50, 52), (49, 53), (58, 56), (59, 55), (61, 63), (67, 65)), 0.5),  # half-lips
    (((62, 66), (61, 67), (63, 65), (51, 57)), 0.75),  # upper and lower lip
)
"""Pairs of landmarks whose differences are used in measures, and the weight of each pair.

Errors of single landmarks are small also for a network that gives every eye the mean aperture and every mouth
level corners. Symmetry is not favoured: the targets are the differences of the labels.
"""
DIFFERENCE_SHARE = 4.0
FOLLOWED_SHARE = 3.0
"""Weight of `movement_error`."""
MEASURED_FACES = 300
"""Number of held-out faces for the evaluation of differences at each checkpoint."""


@dataclass(frozen=True)
class PfldPlan:
    """Parameters of a training run; all are stored in the checkpoint and the metrics."""

    steps: int = 6000
    faces_per_batch: int = 40
    negatives_per_batch: int = 8
    twins_per_batch: int = 10
    turned_share: float = 0.35
    acted_share: float = 0.4
    mild_share: float = 0.2
    reshaped_share: float = 0.0
    middles: Middles = WIDE
    learning_rate: float = 2e-3
    started_rate: float = 1.6e-3
    thinned_rate: float = 5e-4
    weight_decay: float = 1e-3
    ema: float = 0.998
    evaluate_every: int = 400
    seed: int = 2026
    threads: int = 2


PLANS = {
    "open": PfldPlan(steps=7000, middles=NARROW),
    "research": PfldPlan(steps=15000, turned_share=0.2, acted_share=0.15, mild_share=0.3, reshaped_share=0.5),
}
"""Photographs of ``research`` have turned heads and expressions without augmentation. Its network is wide for
accuracy; that of ``open``, the default bundle, is also designed for speed."""


def distance(error: Tensor, softness: float = SOFTNESS) -> Tensor:
    """Return the length, (...,), of errors (..., 2) in pixels of the crop, whose mean is the reported error.

    `softness` smooths the length near zero, where its gradient is discontinuous. With the wing loss, which
    gives small errors more weight, the final error was 0.5 % higher.
    """
    return torch.sqrt((error**2).sum(-1) + softness**2)


def _pairs() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return first and second landmark and weight of each pair of `DIFFERENCES`, (P,); weights sum to 1."""
    rows = [(*pair, weight) for pairs, weight in DIFFERENCES for pair in pairs]
    first, second, weight = (np.array(column) for column in zip(*rows, strict=True))
    return first, second, (weight / weight.sum()).astype(np.float32)


def difference_error(error: Tensor, trust: Tensor) -> Tensor:
    """Return the weighted mean error of the differences of `DIFFERENCES`, (B,).

    `error`, (B, 68, 2), is the error of each landmark in pixels of the crop, `trust`, (B, 68), the weight of
    its label.
    """
    first, second, weight = _pairs()
    together = torch.minimum(trust[:, first], trust[:, second]) * torch.from_numpy(weight).to(error.device)
    return (together * distance(error[:, first] - error[:, second])).sum(-1)


def movement_error(found: Tensor, truth: Tensor, twin: Tensor, softness: float = SOFTNESS) -> Tensor:
    """Return the error of known local movements, mean over the faces with a twin.

    Landmarks are (B, L, 2), pixels of the crop. `twin`, (B,) int64, is the row of the same face with moved
    skin (`augment.twin_faces`), or its own row without a twin. `softness` is that of `distance`.
    """
    moved = truth - truth[twin]
    length = moved.norm(dim=-1)
    weight = length / length.sum(-1, keepdim=True).clamp_min(1e-3)
    error = (weight * distance(found - found[twin] - moved, softness)).sum(-1)
    return error.sum() / (length.sum(-1) > 0).sum().clamp_min(1)


def total_loss(outputs: PfldOutputs, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss of a batch: distances, differences, movements, sigma, score and head pose.

    The landmarks of a face have the weight ``1 + sum(1 - cos(angle))`` over its head-pose angles, the
    geometric term of PFLD (Guo et al. 2019, equation 2), so that turned heads weigh more.
    """
    is_face = batch["is_face"]
    weight = is_face * (1 + (1 - torch.cos(batch["pose"])).sum(-1))
    weight = (weight / weight.mean().clamp_min(1e-6)).view(-1, 1)
    truth, trust = batch["landmarks"], batch["trust"]
    loss = torch.zeros(())
    for output, share in (
        (outputs.landmarks, 4.0),
        (outputs.heat_landmarks, 2.0),
        (outputs.global_landmarks, 2.0),
    ):
        loss = loss + share * (weight * trust * distance((output - truth) * CROP_SIZE)).mean()
    differences = difference_error((outputs.landmarks - truth) * CROP_SIZE, trust)
    loss = loss + DIFFERENCE_SHARE * (weight.view(-1) * differences).mean()
    followed = movement_error(outputs.landmarks * CROP_SIZE, truth * CROP_SIZE, batch["twin"])
    loss = loss + FOLLOWED_SHARE * followed
    squared = ((outputs.landmarks.detach() - truth) ** 2).sum(-1).clamp_max(0.04)
    # without a face sigma is meaningless and may grow without bound
    log_sigma = outputs.log_sigma.where(is_face.view(-1, 1) > 0, LOG_SIGMA[0]).clamp(*LOG_SIGMA)
    # a face that the network rejects may have a sigma near zero and would outweigh the batch
    log_sigma = torch.maximum(log_sigma, LEAST_LOG_SIGMA + 0.1 * (log_sigma - LEAST_LOG_SIGMA))
    likelihood = 2 * log_sigma + squared / (2 * torch.exp(2 * log_sigma))
    loss = loss + 0.3 * (likelihood * trust * is_face.view(-1, 1)).mean()
    loss = loss + nn.functional.binary_cross_entropy_with_logits(outputs.score, is_face)
    pose_error = (outputs.pose - batch["pose"]) ** 2
    return loss + 2.0 * (pose_error * is_face.view(-1, 1)).mean()


def teaching_loss(
    outputs: PfldOutputs,
    features: PfldFeatures,
    shown: PfldOutputs,
    shown_features: PfldFeatures,
    is_face: Tensor,
) -> Tensor:
    """Return the distillation loss between a network and its teacher (`shown`): landmarks of faces, features.

    The loss of features is their squared error over their mean square, as in Romero et al. 2015, "FitNets"
    (arXiv 1412.6550, equation 3), without a regressor, since both networks have the same widths there.
    """
    apart = distance((outputs.landmarks - shown.landmarks) * CROP_SIZE).mean(-1)
    loss = 4.0 * (is_face * apart).sum() / is_face.sum().clamp_min(1)
    for own, wanted in zip(features, shown_features, strict=True):
        share = nn.functional.mse_loss(own.float(), wanted.float()) / wanted.float().square().mean()
        loss = loss + 2.0 * share
    return loss


class TrainingStream:
    """Source of training batches, each seeded by its number, so that resumed runs get the same batches."""

    def __init__(self, data: Path, bundle: str, plan: PfldPlan) -> None:
        self.plan = plan
        self.faces = face_files.load_faces(data, bundle=bundle, held_out=False)
        self.head = pose_augmentation.load_head_model(data)
        self.has_mesh = self.faces.has_mesh
        known = self.faces.trust
        self.trust = np.ones((len(self.has_mesh), 68), np.float32) if known is None else known
        self.angles = np.zeros((len(self.has_mesh), 2))
        self.angles[self.has_mesh] = [self._angles(mesh) for mesh in self.faces.mesh[self.has_mesh]]
        self.pictures = face_files.load_detection(data, bundle=bundle, held_out=False)

    def _angles(self, mesh: npt.NDArray[np.float32]) -> tuple[float, float]:
        """Return pitch and yaw of a face mesh, radians."""
        rotation = pose_of(mesh.astype(np.float64), self.head.mean)[1]
        pitch = math.asin(np.clip(-rotation[2, 1], -1, 1))
        return pitch, pose_augmentation.yaw_of_mesh(mesh.astype(np.float64), self.head)

    def _face(
        self, i: int, rng: augment.Generator
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], float, float]:
        """Return image, landmarks, pitch and yaw of face `i`, maybe rotated or with another expression."""
        image, landmarks = self.faces.images[i], self.faces.landmarks[i]
        pitch, yaw = self.angles[i]
        rotates = rng.random() < self.plan.turned_share
        changes_expression = rng.random() < self.plan.acted_share
        if not (rotates or changes_expression) or not self.has_mesh[i]:
            return image, landmarks, pitch, yaw
        mesh = self.faces.mesh[i].astype(np.float64)
        added_yaw = added_pitch = 0.0
        if rotates:
            side = math.copysign(1.0, yaw if abs(yaw) > math.radians(4) else rng.normal())
            target = side * math.radians(rng.uniform(12, 60))
            if target * side > yaw * side:  # otherwise already turned further
                added_yaw = float(np.clip(target - yaw, -math.radians(45), math.radians(45)))
            added_pitch = math.radians(float(np.clip(rng.normal(0, 8), -18, 18)))
        expression = pose_augmentation.draw_expression(mesh, self.head, rng) if changes_expression else None
        picture, points = pose_augmentation.rotate_head(
            image, landmarks, mesh, self.head, added_yaw, added_pitch, expression, rng
        )
        return picture, points, pitch + added_pitch, yaw + added_yaw

    def _texture(self, rng: augment.Generator) -> npt.NDArray[np.uint8]:
        if rng.random() < 0.5:
            picture = self.pictures.images[rng.integers(len(self.pictures.images))]
        else:
            picture = self.faces.images[int(rng.integers(len(self.faces.images)))]
        return augment.texture(picture, rng)

    def _negative(self, rng: augment.Generator) -> npt.NDArray[np.uint8]:
        if rng.random() < 0.45:  # next to a face, a small part of it, or far larger than it
            i = int(rng.integers(len(self.faces.images)))
            crop = crops_of_landmarks(self.faces.landmarks[i][None])[0]
            kind = rng.random()
            if kind < 0.5:
                angle = rng.uniform(0, 2 * math.pi)
                reach = rng.uniform(0.6, 1.2) * crop[2]
                crop[:2] += reach * np.array([math.cos(angle), math.sin(angle)], np.float32)
                crop[2] *= math.exp(rng.normal(0, 0.3))
            elif kind < 0.75:
                crop[2] *= rng.uniform(0.12, 0.38)
                crop[:2] += rng.normal(0, 0.6, 2).astype(np.float32) * crop[2]
            else:
                crop[2] *= rng.uniform(3.0, 6.0)
            crop[3] += rng.normal(0, 0.5)
            return augment.cut(self.faces.images[i], crop, NO_BUMPS)
        if rng.random() < 0.25:
            return drawing(self._texture(rng), rng)
        while True:
            i = int(rng.integers(len(self.pictures.images)))
            picture = self.pictures.images[i]
            height, width = picture.shape[:2]
            side = math.exp(rng.uniform(math.log(20), math.log(0.9 * min(height, width))))
            cx, cy = rng.uniform(0, width), rng.uniform(0, height)
            boxes = self.pictures.boxes[i]
            overlap = np.zeros(1)
            if len(boxes):
                x0, y0, x1, y1 = boxes.T[:4]
                across = np.minimum(cx + side / 2, x1) - np.maximum(cx - side / 2, x0)
                down = np.minimum(cy + side / 2, y1) - np.maximum(cy - side / 2, y0)
                inside = np.clip(across, 0, None) * np.clip(down, 0, None)
                overlap = inside / (side**2 + (x1 - x0) * (y1 - y0) - inside)
            if overlap.max() < 0.1:
                return augment.cut(
                    picture, np.array([cx, cy, side, rng.normal(0, 0.4)], np.float32), NO_BUMPS
                )

    def batch(self, number: int) -> dict[str, npt.NDArray[Any]]:
        """Return batch `number`: images (B, 3, 112, 112) uint8, landmarks, pose, trust, is_face and twin."""
        plan = self.plan
        rng = np.random.default_rng([plan.seed, number])
        size = plan.faces_per_batch + plan.negatives_per_batch
        images = np.empty((size, CROP_SIZE, CROP_SIZE, 3), np.uint8)
        landmarks = np.full((size, 68, 2), 0.5, np.float32)
        pose = np.zeros((size, 3), np.float32)
        trust = np.ones((size, 68), np.float32)
        is_face = np.zeros(size, np.float32)
        twin = np.arange(size)
        k = 0
        while k < plan.faces_per_batch:
            i = int(rng.choice(len(self.faces.images), p=self.faces.weight))
            samples: tuple[augment.Sample, ...]
            if k < 2 * plan.twins_per_batch:
                (pitch, yaw), picture, points = self.angles[i], self.faces.images[i], self.faces.landmarks[i]
                samples = augment.twin_faces(picture, points, rng)
                twin[k], twin[k + 1] = k + 1, k
            else:
                sample, pitch, yaw = self._sample(i, rng)
                samples = (sample,)
            for sample in samples:
                images[k], landmarks[k], is_face[k] = sample.image, sample.landmarks, 1
                trust[k] = self.trust[i][MIRROR_68] if sample.mirrored else self.trust[i]
                eyes = sample.landmarks[42:48].mean(0) - sample.landmarks[36:42].mean(0)
                # mirrored images have yaw of opposite sign: take the sign from the side of the nose
                yaw = abs(yaw) * np.sign(_nose_offset(sample.landmarks))
                pose[k] = pitch, yaw, math.atan2(eyes[1], eyes[0])
                k += 1
        for k in range(plan.faces_per_batch, size):
            images[k] = augment.photometric(self._negative(rng), rng)
        return {
            "images": images.transpose(0, 3, 1, 2),
            "landmarks": landmarks,
            "pose": pose,
            "trust": trust,
            "is_face": is_face,
            "twin": twin,
        }

    def _sample(self, i: int, rng: augment.Generator) -> tuple[augment.Sample, float, float]:
        """Return an augmented crop of face `i`, its pitch and its yaw."""
        if rng.random() < self.plan.mild_share:
            nothing = np.zeros((0, 0, 3), np.uint8)
            sample = augment.augmented_face(
                self.faces.images[i], self.faces.landmarks[i], nothing, rng, mild=True
            )
            return sample, *self.angles[i]
        picture, points, pitch, yaw = self._face(i, rng)
        other, reshaped = self._texture(rng), self.plan.reshaped_share
        return augment.augmented_face(picture, points, other, rng, reshaped_share=reshaped), pitch, yaw

    def batches(self, first: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Yield the batches from number `first` to the last step."""
        for number in range(first, self.plan.steps):
            yield self.batch(number)


def drawing(background: npt.NDArray[np.uint8], rng: augment.Generator) -> npt.NDArray[np.uint8]:
    """Return an image without a face, with shapes like eyes and mouths: letters, rings, strokes, noise.

    The background, (S, S, 3) uint8, is sometimes replaced by a plain colour or coarse noise.
    """
    size = len(background)
    kind = rng.random()
    image = background.copy()
    if kind < 0.6:
        image[:] = rng.integers(0, 256, 3)
        image = np.clip(image + rng.normal(0, 12, (1, size, 1)), 0, 255).astype(np.uint8)
    elif kind < 0.75:
        noise = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
        image = np.asarray(cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    letters = "abcdeghkmnopqrsxyzABDEGOQRS03568@&%?"
    for _ in range(int(rng.integers(1, 6))):
        colour = rng.integers(0, 256, 3).tolist()
        at = (int(rng.uniform(-0.2, 0.7) * size), int(rng.uniform(0.3, 1.1) * size))
        width = int(rng.integers(1, 14))
        shape = rng.random()
        if shape < 0.55:
            text = "".join(letters[i] for i in rng.integers(0, len(letters), int(rng.integers(1, 5))))
            font = int(rng.integers(0, 8))
            scale = rng.uniform(0.8, 4.5)
            cv2.putText(
                image, text, at, font, scale, rng.integers(0, 256, 3).tolist(), width + 4, cv2.LINE_AA
            )
            cv2.putText(image, text, at, font, scale, colour, width, cv2.LINE_AA)
        elif shape < 0.8:
            axes = (int(rng.uniform(0.03, 0.45) * size), int(rng.uniform(0.03, 0.45) * size))
            thickness = -1 if rng.random() < 0.4 else width
            angle = float(rng.uniform(0, 180))
            cv2.ellipse(image, (at[0], at[1]), axes, angle, 0, 360, colour, thickness, cv2.LINE_AA)
        else:
            end = (int(rng.uniform(0, size)), int(rng.uniform(0, size)))
            cv2.line(image, at, end, colour, width, cv2.LINE_AA)
    return np.asarray(image, dtype=np.uint8)


def _nose_offset(landmarks: npt.NDArray[np.float32]) -> float:
    jaw_middle = (landmarks[2] + landmarks[14]) / 2
    across = landmarks[45] - landmarks[36]
    return float((landmarks[30] - jaw_middle) @ across)


def evaluate(network: Pfld, faces: face_files.Faces) -> dict[str, float]:
    """Return errors on held-out faces in two passes as in tracking, the first one in detector-like crops."""
    network.eval()
    rng = np.random.default_rng(HELD_OUT_SEED)
    crops = np.stack(
        [augment.jittered_crop(points, augment.DETECTOR_JITTER, rng) for points in faces.landmarks]
    )
    errors = {}
    landmarks = faces.landmarks
    sigmas = np.zeros((len(crops), 68))
    for name in ("first", "second"):
        inputs = np.concatenate(
            [sample_crops(image, crop[None]) for image, crop in zip(faces.images, crops, strict=True)]
        )
        with torch.no_grad():
            outputs = network(torch.from_numpy(inputs))
        landmarks = to_image(outputs.landmarks.float().numpy(), crops)
        sigmas = np.exp(outputs.log_sigma.float().numpy()) * crops[:, 2:3]
        errors[name] = nme(landmarks, faces.landmarks)
        crops = crops_of_landmarks(landmarks)
    network.train()
    return {
        "nme_first": float(errors["first"].mean()),
        "nme": float(errors["second"].mean()),
        "median": float(np.median(errors["second"])),
        "failures_over_8_percent": float((errors["second"] > 0.08).mean()),
        "sigma_ratio": face_files.sigma_ratio(landmarks, sigmas, faces),
    }


def evaluate_differences(network: Pfld, faces: face_files.Faces) -> dict[str, float]:
    """Return errors of differences between landmarks, in crops of a tracker.

    ``differences`` is `difference_error` over the inter-ocular distance; ``shut_aperture`` and
    ``open_aperture`` are mean apertures (lid distance over eye width) of eyes labelled under 0.06 and over
    0.2; ``aperture_slope`` is the slope of predicted on labelled apertures.
    """
    network.eval()
    rng = np.random.default_rng(HELD_OUT_SEED)
    crops = np.stack(
        [augment.jittered_crop(points, augment.TRACKER_JITTER, rng) for points in faces.landmarks]
    )
    predicted = np.empty_like(faces.landmarks)
    for first in range(0, len(crops), 64):
        part = slice(first, first + 64)
        pairs = zip(faces.images[part], crops[part], strict=True)
        inputs = np.concatenate([sample_crops(image, crop[None]) for image, crop in pairs])
        with torch.no_grad():
            predicted[part] = to_image(
                network(torch.from_numpy(inputs)).landmarks.float().numpy(), crops[part]
            )
    network.train()
    error = torch.from_numpy((predicted - faces.landmarks) / inter_ocular(faces.landmarks)[:, None, None])
    trust = torch.ones(error.shape[:2]) if faces.trust is None else torch.from_numpy(faces.trust)
    apertures, labelled = lid_apertures(predicted).ravel(), lid_apertures(faces.landmarks).ravel()
    return {
        "differences": float(difference_error(error * CROP_SIZE, trust).mean()) / CROP_SIZE,
        "shut_aperture": float(apertures[labelled < 0.06].mean()) if (labelled < 0.06).any() else math.nan,
        "open_aperture": float(apertures[labelled > 0.2].mean()) if (labelled > 0.2).any() else math.nan,
        "aperture_slope": float(np.polyfit(labelled, apertures, 1)[0]),
    }


class Exported(nn.Module):
    """Network for the export, with the outputs landmarks, sigma (fractions of the crop) and face score."""

    def __init__(self, network: Pfld, sigma_scale: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.sigma_scale = sigma_scale

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return landmarks (B, 68, 2), sigma (B, 68) and score (B,)."""
        outputs = self.network(crops)
        return (
            outputs.landmarks,
            torch.exp(outputs.log_sigma.clamp(*LOG_SIGMA)) * self.sigma_scale,
            torch.sigmoid(outputs.score),
        )


def export_onnx(network: Pfld, path: Path, sigma_scale: float = 1.0) -> None:
    """Write the network as ONNX with a dynamic batch size."""
    names = ("crops", "landmarks", "sigma", "score")
    example = torch.rand(2, 3, CROP_SIZE, CROP_SIZE)
    axes = {name: {0: "faces"} for name in names}
    export(Exported(network, sigma_scale), example, path, "crops", names[1:], axes)


def train(data: Path, out: Path, bundle: str, plan: PfldPlan, start: Path | None = None) -> dict[str, Any]:
    """Train PFLD, or resume from its checkpoint in `out`; export the best weights, return their metrics.

    `start` is the folder of a finished run, possibly of another bundle, whose best weights are the initial
    ones, or of a bundle, whose ``pfld.onnx`` is read. If its widths differ from those of the plan, the
    network is pruned or widened (`pruning.with_widths`); a pruned network is also distilled from the
    original.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(plan.threads)
    cv2.setNumThreads(1)  # its threads would spin while they wait
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision, layout = _fastest_format(device)
    torch.manual_seed(plan.seed)
    network = Pfld(plan.middles).to(device, memory_format=layout)
    rate = plan.learning_rate if start is None else plan.started_rate
    state = load_checkpoint(out / "pfld", device)
    stream = TrainingStream(data, bundle, plan)
    teacher = None
    if start is not None and (state is None or state.get("taught", False)):
        start_network = _load_start(start, stream, device)
        widths = middles_of(start_network)
        if state is None:
            initial = start_network
            if widths != plan.middles:
                initial = with_widths(start_network, plan.middles, _examples(stream, device))
            network.load_state_dict(initial.state_dict())
        if is_thinner(plan.middles, widths):
            rate = plan.thinned_rate
            teacher = start_network.to(memory_format=layout).eval().requires_grad_(False)
    # an export, and a run that continues one, have the statistics of faces only (`_examples`)
    frozen = teacher is not None
    if state is not None:
        frozen = frozen or state.get("frozen", False)
    elif start is not None:
        earlier = load_checkpoint(start / "pfld", device) or {}
        from_export = not (start / "pfld.best.pt").exists()
        frozen = frozen or from_export or (earlier.get("frozen", False) and not earlier.get("taught", False))
    if frozen:
        _freeze_statistics(network)
    averaged = Pfld(plan.middles).to(device)
    averaged.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=plan.weight_decay)
    extra = {"taught": teacher is not None, "frozen": frozen}
    loop = Loop(out / "pfld", network, averaged, optimiser, plan.ema, extra=extra)
    loop.resume()
    batches = prefetch(stream.batches(loop.step))
    held_out = face_files.load_faces(data, bundle=bundle, held_out=True)
    measured = draw_faces(face_files.load_measured(data, bundle=bundle), MEASURED_FACES)
    metrics: dict[str, Any] = {}
    bar = tqdm(batches, total=plan.steps, initial=loop.step, desc="pfld", unit="step")
    for arrays in bar:
        loop.set_rate(scheduled(loop.step, plan.steps, rate, 300, 0.005))
        batch = {name: torch.from_numpy(value).to(device) for name, value in arrays.items()}
        images = (batch["images"].float() / 255).contiguous(memory_format=layout)
        with in_precision(device, precision):
            features = network.features(images)
            outputs = _as_float(network.heads(features))
        loss = total_loss(outputs, batch)
        if teacher is not None:
            with in_precision(device, precision), torch.no_grad():
                shown_features = teacher.features(images)
                shown = _as_float(teacher.heads(shown_features))
            loss = loss + teaching_loss(outputs, features, shown, shown_features, batch["is_face"])
        if not loop.descend(loss, clip=20.0):
            tqdm.write(f"step {loop.step - 1}: gradient is not finite, skipped")
            if not all(torch.isfinite(value).all() for value in floating(network)):
                raise FloatingPointError(
                    f"The weights of PFLD are not finite at step {loop.step - 1}: start the training again."
                )
        bar.set_postfix(loss=f"{loop.running:.3f}", best=f"{100 * loop.best:.2f} %")
        if loop.step % plan.evaluate_every and loop.step != plan.steps:
            continue
        result = {**evaluate(averaged, held_out), **evaluate_differences(averaged, measured)}
        progress = {"step": loop.step, "seconds": loop.seconds}
        append_row(out / "pfld.log.csv", {"step": loop.step, "loss": loop.running, **progress, **result})
        if result["nme"] + result["differences"] < loop.best:
            loop.best = result["nme"] + result["differences"]
            metrics = {
                "bundle": bundle,
                "began_with": None if start is None else start.name,
                "plan": asdict(plan),
                "faces": len(stream.faces.images),
                "held_out_faces": len(held_out.images),
                **progress,
                "parameters": sum(p.numel() for n, p in network.named_parameters() if "pose" not in n),
                **result,
            }
            export_onnx(averaged, out / "pfld.onnx", sigma_scale=result["sigma_ratio"])
            write_json(out / "pfld.metrics.json", metrics)
            torch.save(averaged.state_dict(), out / "pfld.best.pt")
            averaged.train()
        loop.save()
    return metrics


def _as_float(outputs: PfldOutputs) -> PfldOutputs:
    return PfldOutputs(*(value.float() for value in outputs))


def _examples(stream: TrainingStream, device: torch.device) -> list[Tensor]:
    """Return training crops of faces, on which statistics of a network are measured.

    Images without a face are omitted: in a few, rarely active channels are 10,000 times as large as in faces.
    """
    batches = (stream.batch(number) for number in range(CALIBRATION_BATCHES))
    faces = (torch.from_numpy(batch["images"][batch["is_face"] > 0]) for batch in batches)
    return [images.to(device).float() / 255 for images in faces]


def _load_start(start: Path, stream: TrainingStream, device: torch.device) -> Pfld:
    """Return the network, with its own widths, of a finished run or else of a bundle."""
    best, exported = start / "pfld.best.pt", start / "pfld.onnx"
    if best.exists():
        state = torch.load(best, map_location=device, weights_only=True)
        widths = [len(weight) for name, weight in state.items() if name.endswith("body.1.0.weight")]
        network: Pfld = Pfld(_in_stages(widths, best)).to(device)
        network.load_state_dict(state)
        return network
    if not exported.exists():
        raise ModelError(
            f"There are no weights of PFLD in {start}: give the folder of a finished run or of a bundle."
        )
    network = Pfld(_in_stages(depthwise_widths(exported), exported)).to(device)
    load_exported(network, exported, _examples(stream, device))
    return network


def _freeze_statistics(network: nn.Module) -> None:
    """Let a network normalise by its stored statistics instead of those of each batch.

    The statistics of rarely active channels vary between batches: the outputs of stage 4 differed by as much
    as their own size.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _in_stages(widths: Sequence[int], path: Path) -> Middles:
    """Group the widths of a network's depthwise convolutions by stage; return those of the blocks."""
    ends = list(accumulate(len(stage) for stage in WIDE))
    if len(widths) < ends[2]:
        raise ModelError(f"{path} is not an export of this network: train from the start, without --start.")
    return tuple(widths[: ends[0]]), tuple(widths[ends[0] : ends[1]]), tuple(widths[ends[1] : ends[2]])


def _fastest_format(device: torch.device) -> tuple[torch.dtype, torch.memory_format]:
    """Return the precision and memory format with which PFLD trains fastest on this machine."""
    if device.type != "cpu":
        return torch.bfloat16, torch.channels_last
    trials = {}
    for layout in (torch.channels_last, torch.contiguous_format):
        network = Pfld().to(device, memory_format=layout)
        crops = torch.rand(4, 3, CROP_SIZE, CROP_SIZE).contiguous(memory_format=layout)
        for dtype in (torch.float32, torch.bfloat16):
            trials[dtype, layout] = partial(_try, network, crops, dtype)
    return fastest(trials)


def _try(network: Pfld, crops: Tensor, dtype: torch.dtype) -> None:
    with in_precision(crops.device, dtype):
        landmarks = network(crops).landmarks
    landmarks.sum().backward()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this step to the command line."""
    defaults = PfldPlan()
    by_bundle = ", ".join(f"{plan.steps} for {bundle}" for bundle, plan in PLANS.items())
    parser.add_argument("--steps", type=int, help=f"optimiser steps (default {by_bundle})")
    add_options(parser, defaults, threads="threads", seed="seed")
    folder = "folder of a finished run or of a bundle, whose weights are the initial ones"
    parser.add_argument("--start", type=Path, help=folder)
    highest = "highest learning rate with --start (default %(default)s)"
    parser.add_argument("--rate", type=float, default=defaults.started_rate, help=highest)


def run(args: argparse.Namespace) -> None:
    """Run this step of the training."""
    plan = replace(PLANS[args.bundle], threads=args.threads, seed=args.seed, started_rate=args.rate)
    if args.steps is not None:
        plan = replace(plan, steps=args.steps)
    print(json.dumps(train(args.data, args.out, args.bundle, plan, args.start), indent=2))
