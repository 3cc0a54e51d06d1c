"""Network of the face detector, assignment of its cells to faces, and losses.

A single-stage, anchor-free network of depthwise-separable convolutions with a small feature pyramid at
strides 8, 16 and 32, similar to YuNet (Wu et al. 2023). Each cell predicts 16 values, see `detection.decode`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from napari_face_landmarks.detection.decode import CELL_VALUES, STRIDES

CENTRE_RADIUS = 2.5
CANDIDATES = 10


class SeparableBlock(nn.Module):
    """Depthwise and pointwise convolution with normalisation; with a skip connection if shapes match."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, kernel, stride, kernel // 2, groups=inputs, bias=False)
        self.norm1 = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        y = functional.relu(self.norm1(self.depthwise(x)))
        y = self.norm2(self.pointwise(y))
        return functional.relu(x + y if self.skip else y)


class FaceDetector(nn.Module):
    """Face detector; `widths` are the channels at strides 2 to 32, `neck` those of the feature pyramid."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 96, 112), neck: int = 64) -> None:
        super().__init__()
        w2, w4, w8, w16, w32 = widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, w2, 3, 2, 1, bias=False), nn.BatchNorm2d(w2), nn.ReLU(inplace=True)
        )
        self.to4 = nn.Sequential(SeparableBlock(w2, w4, 2), SeparableBlock(w4, w4))
        self.to8 = nn.Sequential(SeparableBlock(w4, w8, 2), SeparableBlock(w8, w8), SeparableBlock(w8, w8))
        self.to16 = nn.Sequential(
            SeparableBlock(w8, w16, 2), SeparableBlock(w16, w16, kernel=5), SeparableBlock(w16, w16, kernel=5)
        )
        self.to32 = nn.Sequential(
            SeparableBlock(w16, w32, 2),
            SeparableBlock(w32, w32, kernel=5),
            SeparableBlock(w32, w32, kernel=5),
        )
        self.lateral = nn.ModuleList(nn.Conv2d(width, neck, 1) for width in (w8, w16, w32))
        self.smooth = nn.ModuleList(SeparableBlock(neck, neck) for _ in STRIDES)
        self.tower = nn.ModuleList(SeparableBlock(neck, neck) for _ in STRIDES)
        self.heads = nn.ModuleList(nn.Conv2d(neck, CELL_VALUES, 1) for _ in STRIDES)
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
            with torch.no_grad():
                head.bias[0] = -4.0  # faces are rare: initial probability of 2 %
                head.bias[4:6] = 1.0

    def forward(self, frames: Tensor) -> Tensor:
        """Map RGB frames (B, H, W, 3) uint8 to all cells, (B, A, 16), in the order of `cell_grid`."""
        x = (frames.permute(0, 3, 1, 2).float() - 128.0) * (1.0 / 64.0)
        x8 = self.to8(self.to4(self.stem(x)))
        x16 = self.to16(x8)
        x32 = self.to32(x16)
        levels = [layer(level) for layer, level in zip(self.lateral, (x8, x16, x32), strict=True)]
        levels[1] = levels[1] + functional.interpolate(levels[2], scale_factor=2.0, mode="nearest")
        levels[0] = levels[0] + functional.interpolate(levels[1], scale_factor=2.0, mode="nearest")
        cells = []
        for level, smooth, tower, head in zip(levels, self.smooth, self.tower, self.heads, strict=True):
            cells.append(head(tower(smooth(level))).flatten(2))
        return torch.cat(cells, dim=2).transpose(1, 2)


class ExportedDetector(nn.Module):
    """Network for the export, with probabilities instead of the two logits."""

    def __init__(self, network: FaceDetector) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames (B, H, W, 3) uint8 to cells (B, A, 16), whose first two values are probabilities."""
        cells = self.network(frames)
        return torch.cat([torch.sigmoid(cells[..., :2]), cells[..., 2:]], dim=-1)


def cell_grid(height: int, width: int) -> Tensor:
    """Return x, y (pixels) and stride of every cell's centre, (A, 3)."""
    parts = []
    for stride in STRIDES:
        rows, columns = torch.meshgrid(
            torch.arange(height // stride), torch.arange(width // stride), indexing="ij"
        )
        centres = torch.stack([columns, rows], dim=-1).reshape(-1, 2) * stride + (stride - 1) / 2
        parts.append(torch.cat([centres, torch.full((len(centres), 1), float(stride))], dim=1))
    return torch.cat(parts)


def decode_cells(cells: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Return boxes (B, A, 4) x0, y0, x1, y1 and points (B, A, 5, 2) of all cells, in pixels."""
    stride = grid[:, 2:3]
    centre = grid[:, :2] + cells[..., 2:4] * stride
    half = torch.exp(cells[..., 4:6].clamp(-6.0, 6.0)) * stride * 0.5
    points = grid[:, None, :2] + cells[..., 6:].unflatten(-1, (5, 2)) * stride[:, None]
    return torch.cat([centre - half, centre + half], dim=-1), points


def box_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of boxes (..., 4), which are broadcast."""
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    shared = size[..., 0] * size[..., 1]
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    return shared / (area_a + area_b - shared).clamp(min=1e-6)


@torch.no_grad()
def assign(
    cells: Tensor, boxes: Tensor, truth: Tensor, present: Tensor, grid: Tensor
) -> tuple[Tensor, Tensor]:
    """Assign cells to labelled faces by simplified optimal transport (SimOTA, Ge et al. 2021, YOLOX).

    `cells` are (B, A, 16), the decoded `boxes` (B, A, 4), `grid` (A, 3), the labelled boxes `truth` (B, G,
    4), padded where `present`, (B, G) bool, is False. Returns which cells are positive, (B, A) bool, and the
    row of `truth` of each, (B, A).
    """
    x, y, stride = grid[:, 0], grid[:, 1], grid[:, 2]
    t = truth[:, :, None]
    inside = (x > t[..., 0]) & (x < t[..., 2]) & (y > t[..., 1]) & (y < t[..., 3])
    cx, cy = (t[..., 0] + t[..., 2]) / 2, (t[..., 1] + t[..., 3]) / 2
    near = ((x - cx).abs() < CENTRE_RADIUS * stride) & ((y - cy).abs() < CENTRE_RADIUS * stride)
    candidate = (inside | near) & present[..., None]
    overlap = torch.where(candidate, box_overlap(boxes[:, None], t), torch.zeros(()))
    probability = torch.sqrt(torch.sigmoid(cells[..., 0]) * torch.sigmoid(cells[..., 1]))[:, None]
    cost = -torch.log(probability + 1e-6) - 3.0 * torch.log(overlap + 1e-6)
    cost = cost + 1e4 * (~(inside & near)).float()
    cost = torch.where(candidate, cost, torch.full((), 1e8))
    best = overlap.topk(min(CANDIDATES, overlap.shape[-1]), dim=-1).values.sum(-1)
    wanted = best.round().clamp(min=1, max=CANDIDATES)
    order = cost.topk(CANDIDATES, dim=-1, largest=False)
    taken = torch.arange(CANDIDATES) < wanted[..., None]
    chosen = torch.zeros_like(cost, dtype=torch.bool)
    chosen.scatter_(-1, order.indices, taken)
    chosen &= candidate
    final = torch.where(chosen, cost, torch.full((), 1e9))
    return chosen.any(dim=1), final.argmin(dim=1)


def enclosing_iou_loss(a: Tensor, b: Tensor) -> Tensor:
    """Return the EIoU loss of box pairs (N, 4) (Zhang et al. 2021, equation 7)."""
    corner = torch.minimum(a[:, :2], b[:, :2])
    span = (torch.maximum(a[:, 2:], b[:, 2:]) - corner).clamp(min=1e-3)
    centre = ((a[:, :2] + a[:, 2:] - b[:, :2] - b[:, 2:]) / 2).square().sum(1) / span.square().sum(1)
    sides = ((a[:, 2:] - a[:, :2] - b[:, 2:] + b[:, :2]) / span).square().sum(1)
    return 1.0 - box_overlap(a, b) + centre + sides


def detector_loss(cells: Tensor, grid: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Return the training loss of predictions (B, A, 16) on a grid (A, 3), and its parts.

    `truth` has ``boxes`` (B, G, 4), ``points`` (B, G, 5, 2), ``present`` (B, G) bool, ``ignore`` (B, K, 4).
    """
    boxes, points = decode_cells(cells, grid)
    positive, face = assign(cells, boxes, truth["boxes"], truth["present"], grid)
    ignore = truth["ignore"][:, :, None]
    x, y = grid[:, 0], grid[:, 1]
    masked = (x >= ignore[..., 0]) & (x < ignore[..., 2]) & (y >= ignore[..., 1]) & (y < ignore[..., 3])
    counted = positive | ~masked.any(dim=1)
    total = positive.sum().clamp(min=1).float()

    logit = cells[..., 0]
    probability = torch.sigmoid(logit)
    target = positive.float()
    plain = functional.binary_cross_entropy_with_logits(logit, target, reduction="none")
    focus = torch.where(positive, 1.0 - probability, probability).detach().pow(1.5)
    face_loss = (plain * focus)[counted].sum() / total

    batch, cell = positive.nonzero(as_tuple=True)
    row = face[batch, cell]
    true_boxes, true_points = truth["boxes"][batch, row], truth["points"][batch, row]
    if len(batch) == 0:
        nothing = dict.fromkeys(("overlap", "box", "points"), 0.0)
        return face_loss + cells.sum() * 0.0, {"face": float(face_loss.detach()), **nothing}
    found_boxes, found_points = boxes[batch, cell], points[batch, cell]
    overlap = box_overlap(found_boxes, true_boxes).detach()
    overlap_loss = functional.binary_cross_entropy_with_logits(cells[batch, cell, 1], overlap)
    box_loss = enclosing_iou_loss(found_boxes, true_boxes).mean()
    size = (true_boxes[:, 2:] - true_boxes[:, :2]).prod(1).sqrt()[:, None, None]
    points_loss = functional.smooth_l1_loss(found_points / size, true_points / size, beta=0.03)
    loss = face_loss + 0.5 * overlap_loss + 2.0 * box_loss + 8.0 * points_loss
    parts = {"face": face_loss, "overlap": overlap_loss, "box": box_loss, "points": points_loss}
    return loss, {name: float(value.detach()) for name, value in parts.items()}
