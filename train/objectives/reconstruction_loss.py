"""Perceptual and adversarial losses of decoded images, in a frozen feature space.

    L_perceptual    = |phi(x) - phi(x')|^2                       of whole images
    L_close_up      = the same of close-ups of the edit
    L_generator     = -E[D(phi(x'))]                             D's weights held fixed
    L_discriminator = E[max(0, 1 - D(phi(x)))] + E[max(0, 1 + D(phi(sg x')))]

x is the target, x' its reconstruction, phi EfficientNet-Lite0, D the discriminator, sg the stopped
gradient; the last two are VQGAN's hinge losses.

Letters: B images, S pixels a side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scar.config import EncoderConfig
from scar.encoder import VisualEncoder
from train.evaluate.metrics import CROP, Box, crops


class ReconstructionLoss(nn.Module):
    """Weighted losses of decoded images, whole and as close-ups of what an edit touches.

    perceptual: weight of the feature distance of whole images; of larger ones a random crop of 128
        pixels is compared, since they would cost more than all else.
    close_up: weight of the feature distance of close-ups.
    adversarial: weight of the generator loss on close-ups; above 0 there is a discriminator.
    """

    def __init__(self, size: int, perceptual: float, close_up: float, adversarial: float):
        super().__init__()
        self.perceptual, self.close_up, self.adversarial = perceptual, close_up, adversarial
        self.features = FeatureLevels(size)
        self.discriminator = Discriminator(FeatureLevels.channels) if adversarial else nn.Module()

    def forward(self, recon: Tensor, target: Tensor, boxes: list[Box]) -> dict[str, Tensor]:
        """Losses by name, of reconstructions and targets (B, 3, S, S) in [-1, 1].

        boxes: B boxes of what the edit touches, in pixels.
        """
        losses = {}
        if self.perceptual:
            side = float(recon.shape[-1])
            windows = [window((0.0, 0.0, side, side)) for _ in recon]
            levels = [self.features(crops(x, windows)) for x in (recon, target)]
            losses["perceptual"] = self.perceptual * feature_distance(*levels)
        if self.close_up or self.adversarial:
            boxes = [window(box) for box in boxes]
            recon_levels, target_levels = (self.features(crops(x, boxes)) for x in (recon, target))
            losses["close_up"] = self.close_up * feature_distance(recon_levels, target_levels)
        if self.adversarial:
            generator_loss, discriminator_loss = self.discriminator(recon_levels, target_levels)
            losses["critic"] = discriminator_loss
            losses["adversarial"] = self.adversarial * generator_loss
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


class Discriminator(nn.Module):
    """Tells reconstructions from targets in a frozen feature space, by a small head per level, as
    in Projected GANs (Sauer et al. 2021) but without their random projections."""

    def __init__(self, channels: tuple[int, ...], width: int = 64):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, width, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 1)
            )
            for c in channels
        )

    def forward(self, recon: list[Tensor], target: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Generator and discriminator loss of features (B, C, h, w) per level.

        The generator loss has no gradient for the heads, the discriminator loss none for the
        features.
        """
        generator_losses, discriminator_losses = [], []
        for head, fake, real in zip(self.heads, recon, target, strict=True):
            # From unit length to unit variance.
            fake, real = (x * x.shape[1] ** 0.5 for x in (fake, real))
            fixed = {name: weight.detach() for name, weight in head.named_parameters()}
            generator_losses.append(-torch.func.functional_call(head, fixed, fake).mean())
            discriminator_losses.append(
                F.relu(1 - head(real)).mean() + F.relu(1 + head(fake.detach())).mean()
            )
        return torch.stack(generator_losses).mean(), torch.stack(discriminator_losses).mean()
