"""What decoded images are judged by: features of a frozen network, and a critic of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scar.config import EncoderConfig
from scar.encoder import VisualEncoder
from train.evaluate.metrics import CROP, Box, crops


class ReconstructionLoss(nn.Module):
    """Weighted losses of decoded images, whole and as close-ups of what an edit touches.

    perceptual: weight of the feature distance of whole images; larger ones, which would cost more
        than all else, are seen through a window of 128 pixels.
    close_up: weight of the feature distance of close-ups.
    adversarial: weight of a critic's opinion of close-ups; it learns beside what it judges.
    """

    def __init__(self, size: int, perceptual: float, close_up: float, adversarial: float):
        super().__init__()
        self.perceptual, self.close_up, self.adversarial = perceptual, close_up, adversarial
        self.features = FeatureLevels(size)
        self.critic = Critic(FeatureLevels.channels) if adversarial else nn.Module()

    def forward(self, seen: Tensor, wanted: Tensor, boxes: list[Box]) -> dict[str, Tensor]:
        """Decoded and true images (B, 3, S, S) in [-1, 1], and a box of each, by name of loss."""
        losses = {}
        if self.perceptual:
            side = float(seen.shape[-1])
            windows = [window((0.0, 0.0, side, side)) for _ in seen]
            a, b = (self.features(crops(x, windows)) for x in (seen, wanted))
            losses["perceptual"] = self.perceptual * feature_distance(a, b)
        if self.close_up or self.adversarial:
            boxes = [window(box) for box in boxes]
            near, near_wanted = (self.features(crops(x, boxes)) for x in (seen, wanted))
            losses["close_up"] = self.close_up * feature_distance(near, near_wanted)
        if self.adversarial:
            fooled, losses["critic"] = self.critic(near, near_wanted)
            losses["adversarial"] = self.adversarial * fooled
        return losses


def window(box: Box) -> Box:
    """The box, or a random square of 128 pixels inside it where it is far larger: as a close-up,
    shrunk to 128 pixels, it would show no detail."""
    x0, y0, x1, y1 = box
    if max(x1 - x0, y1 - y0) <= 1.5 * CROP:
        return box
    u, v = torch.rand(2).tolist()
    left, top = x0 + u * max(x1 - x0 - CROP, 0), y0 + v * max(y1 - y0 - CROP, 0)
    return left, top, left + CROP, top + CROP


class FeatureLevels(nn.Module):
    """Channel-normalised EfficientNet-Lite0 features of an image, levels 1/2 to 1/16."""

    channels = (16, 24, 40, 80, 112)

    def __init__(self, size: int):
        super().__init__()
        encoder = VisualEncoder(EncoderConfig("efficientnet-lite0", size, "multi"))
        self.mean, self.std = nn.Buffer(encoder.mean), nn.Buffer(encoder.std)
        net = encoder.model
        self.stem = nn.Sequential(net.conv_stem, net.bn1)
        self.stages = nn.ModuleList(net.blocks[: len(self.channels)])
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FeatureLevels:
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w) a level; gradients flow into the images."""
        x = self.stem(((images + 1) / 2 - self.mean) / self.std)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(F.normalize(x.float(), dim=1, eps=1e-3))
        return levels


def feature_distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """LPIPS without learned weights (Zhang et al. 2018)."""
    return sum((x - y).square().sum(1).mean() for x, y in zip(a, b, strict=True))


class Critic(nn.Module):
    """Tells features of decoded images from those of true ones, a small head a level.

    A discriminator in a frozen feature space as in Projected GANs (Sauer et al. 2021), without
    their random projections.
    """

    def __init__(self, channels: tuple[int, ...], width: int = 64):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, width, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 1)
            )
            for c in channels
        )

    def forward(self, seen: list[Tensor], true: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The loss of who wants to pass for true, which leaves the critic alone, and the critic's
        own, which leaves the features alone (hinge)."""
        fooled, told = [], []
        for head, x, y in zip(self.heads, seen, true, strict=True):
            x, y = (z * z.shape[1] ** 0.5 for z in (x, y))  # from unit length to unit variance
            still = {name: weight.detach() for name, weight in head.named_parameters()}
            fooled.append(-torch.func.functional_call(head, still, x).mean())
            told.append(F.relu(1 - head(y)).mean() + F.relu(1 + head(x.detach())).mean())
        return torch.stack(fooled).mean(), torch.stack(told).mean()
