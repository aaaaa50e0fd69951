"""What a camera does to pictures: exposure, contrast, tint, softness, noise, JPEG blocks.

The same numbers do the same to every pixel of any picture, so that a source and a target with one
look still differ only where the edit is. All sums are written out: their rounding must not depend
on the rest of the batch.
"""

import math
from functools import cache
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

LOOK = 9  # numbers of a look
GRAIN = 509  # pixels a side of the table of noise
BLOCK = 8


def random_look(rng: Random) -> tuple[float, ...]:
    """exposure, contrast, red and blue gain, softness, noise and its shift, JPEG step in 0..1."""
    return (
        rng.uniform(-0.12, 0.12),
        rng.uniform(0.75, 1.2),
        rng.uniform(0.88, 1.12),
        rng.uniform(0.88, 1.12),
        rng.random() if rng.random() < 0.35 else 0.0,
        0.05 * rng.random() ** 2 if rng.random() < 0.4 else 0.0,
        rng.random(),
        rng.random(),
        rng.uniform(0.03, 0.15) if rng.random() < 0.2 else 0.0,
    )


def photographed(rgb: Tensor, looks: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) in 0..1 with looks (B, LOOK) applied."""
    exposure, contrast, red, blue = (looks[:, i, None, None, None] for i in range(4))
    rgb = (rgb - 0.5) * contrast + 0.5 + exposure
    rgb = rgb * torch.cat([red, torch.ones_like(red), blue], 1)
    rows = (looks[:, 4] > 0).nonzero()[:, 0]
    if len(rows):
        rgb[rows] = softened(rgb[rows], looks[rows, 4])
    rows = (looks[:, 5] > 0).nonzero()[:, 0]
    if len(rows):
        rgb[rows] += looks[rows, 5, None, None, None] * grain(looks[rows, 6:8], rgb.shape[-1])
    rgb = rgb.clamp(0, 1)
    rows = (looks[:, 8] > 0).nonzero()[:, 0]
    if len(rows):
        rgb[rows] = blocky(rgb[rows], looks[rows, 8])
    return rgb


def softened(rgb: Tensor, amount: Tensor) -> Tensor:
    """Blurred by a kernel of 5 x 5 at 128 pixels whose spread grows with amount (B,) in 0..1."""
    sigma = (0.3 + 0.9 * amount) * rgb.shape[-1] / 128
    reach = max(1, rgb.shape[-1] // 64)
    for dim in (2, 3):
        padding = (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0)
        wide = F.pad(rgb, padding, mode="replicate")
        size = rgb.shape[dim]
        weights = [torch.exp(-(k * k) / (2 * sigma**2)) for k in range(-reach, reach + 1)]
        total = torch.stack(weights).sum(0)
        rgb = torch.zeros_like(rgb)
        for k, weight in enumerate(weights):
            rgb += wide.narrow(dim, k, size) * (weight / total)[:, None, None, None]
    return rgb


def grain(shift: Tensor, size: int) -> Tensor:
    """Normal noise (B, 3, S, S), cut out of one table where shift (B, 2) says."""
    table = grain_table(shift.device)
    start = (shift * GRAIN).long()
    line = torch.arange(size, device=shift.device)
    rows = (start[:, :1] + line) % GRAIN
    columns = (start[:, 1:] + line) % GRAIN
    return table[:, rows[:, :, None], columns[:, None, :]].movedim(0, 1)


@cache
def grain_table(device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(23)
    return torch.randn(3, GRAIN, GRAIN, generator=generator).clamp(-3, 3).to(device)


def blocky(rgb: Tensor, step: Tensor) -> Tensor:
    """Cosine coefficients of 8 x 8 blocks rounded to steps (B,) that grow with the frequency."""
    batch, channels, size, _ = rgb.shape
    blocks = rgb.view(batch, channels, size // BLOCK, BLOCK, size // BLOCK, BLOCK)
    basis = cosines()
    blocks = transformed(transformed(blocks, 3, basis), 5, basis)
    line = torch.arange(BLOCK, device=rgb.device)
    steps = step.view(-1, 1, 1, 1, 1, 1) * (1 + 0.5 * (line[:, None, None] + line))
    blocks = torch.round(blocks / steps) * steps
    inverse = [list(row) for row in zip(*basis, strict=True)]
    blocks = transformed(transformed(blocks, 3, inverse), 5, inverse)
    return blocks.reshape(rgb.shape).clamp(0, 1)


def transformed(blocks: Tensor, dim: int, matrix: list[list[float]]) -> Tensor:
    """A matrix (8, 8) times a dimension of 8."""
    parts = blocks.unbind(dim)
    rows = [sum(w * part for w, part in zip(row, parts, strict=True)) for row in matrix]
    return torch.stack(rows, dim)


@cache
def cosines() -> list[list[float]]:
    """The orthonormal cosine transform."""
    return [
        [
            math.sqrt((1 if k == 0 else 2) / BLOCK) * math.cos(math.pi * (2 * n + 1) * k / 16)
            for n in range(BLOCK)
        ]
        for k in range(BLOCK)
    ]
