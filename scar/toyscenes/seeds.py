"""Seeded randomness of ToyScenes' places, as smooth fields over a batch of pictures."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

DETAILS = 16  # uniform random numbers that a scene gives to its place


class Seeds:
    """Random numbers (B, DETAILS) in 0..1 of a batch of scenes, with the pixel grid they fill."""

    def __init__(self, numbers: Tensor, size: int):
        self.numbers = numbers
        self.size = size
        line = (torch.arange(size, device=numbers.device) + 0.5) / size
        self.x = line[None, None, :]  # (1, 1, S)
        self.y = line[None, :, None]  # (1, S, 1)

    def __getitem__(self, i: int) -> Tensor:
        """The i-th number of every scene, (B, 1, 1)."""
        return self.numbers[:, i % DETAILS, None, None]

    def noise(self, u: Tensor, v: Tensor, i: int) -> Tensor:
        """Smooth noise in 0..1 at coordinates u, v (broadcast to (B, S, S)), period 8."""
        texture = noise_texture(self.numbers.device)
        shape = (len(self.numbers), self.size, self.size)
        u = torch.remainder(u / 8 + self[i], 1).expand(shape) * 2 - 1
        v = torch.remainder(v / 8 + self[i + 1], 1).expand(shape) * 2 - 1
        grid = torch.stack([u, v], -1)
        texture = texture.expand(len(u), -1, -1, -1)
        return F.grid_sample(texture, grid, align_corners=True)[:, 0]

    def dots(
        self, u: Tensor, v: Tensor, i: int, share: float, jitter: float = 0.6
    ) -> tuple[Tensor, Tensor]:
        """One dot a cell of the u, v grid: distance to it in cells, and its own number in 0..1.

        A share of the cells has no dot: their distance is 9.
        """
        table = dot_table(self.numbers.device)  # (64, 64, 4)
        shift = (self[i] * 64).floor().long()
        column = (u.floor().long() + shift) % 64
        row = (v.floor().long() + shift // 2) % 64
        here = table[row, column]  # (B, S, S, 4)
        du = u - u.floor() - 0.5 - jitter * (here[..., 0] - 0.5)
        dv = v - v.floor() - 0.5 - jitter * (here[..., 1] - 0.5)
        distance = torch.sqrt(du * du + dv * dv)
        return torch.where(here[..., 2] < share, 9.0, distance), here[..., 3]

    def flakes(self) -> Tensor:
        distance, own = self.dots(self.x * 9, self.y * 9, 9, 0.3)
        return ((0.09 + 0.09 * own - distance) * 16).clamp(0, 1) * 0.92

    def drops(self) -> Tensor:
        distance, own = self.dots((self.x + 0.25 * self.y) * 15, self.y * 4.5, 9, 0.35)
        across = (self.x + 0.25 * self.y) * 15
        across = (across - across.floor() - 0.5).abs()
        along = (0.5 - distance).clamp(0, 1) * 2
        return (1 - across * 4.5).clamp(0, 1) * along * (0.35 + 0.3 * own)


@cache
def noise_texture(device: torch.device) -> Tensor:
    """Smooth periodic noise (1, 1, 257, 257) in 0..1; the last row and column are the first."""
    generator = torch.Generator().manual_seed(7)
    total = torch.zeros(1, 1, 256, 256)
    for cells, weight in ((8, 1.0), (16, 0.5), (32, 0.25)):
        values = torch.rand(1, 1, cells, cells, generator=generator)
        wrapped = F.pad(values, (2, 2, 2, 2), mode="circular")
        side = 256 // cells
        fine = F.interpolate(wrapped, scale_factor=side, mode="bicubic", align_corners=False)
        total += weight * fine[:, :, 2 * side : -2 * side, 2 * side : -2 * side]
    total = (total - total.min()) / (total.max() - total.min())
    return F.pad(total, (0, 1, 0, 1), mode="circular").to(device)


@cache
def dot_table(device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.rand(64, 64, 4, generator=generator).to(device)
