"""Measures of pictures: PSNR, distances and retrieval in frozen encoder features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from scar.config import EncoderConfig
from scar.encoder import VisualEncoder

CROP = 128  # pixels a side of a crop whose features are taken

Box = tuple[float, float, float, float]


def psnr(a: Tensor, b: Tensor, where: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB of images (B, 3, S, S) in [-1, 1], one value an example.

    where: (B, S, S) bool, the pixels that count. An example without any gives NaN.
    """
    error = (a - b).float().square().mean(1) / 4  # (B, S, S) for a peak of 1
    weights = torch.ones_like(error) if where is None else where.float()
    mse = (error * weights).sum((1, 2)) / weights.sum((1, 2))
    return -10 * torch.log10(mse.clamp(min=1e-10))


class Features:
    """Frozen EfficientNet-Lite0 features of crops, on a 4 x 4 grid so that shape and place
    count."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.encoder = VisualEncoder(EncoderConfig("efficientnet-lite0", CROP, "multi")).to(device)

    def __call__(self, images: Tensor, boxes: Sequence[Box] | None = None) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1], cropped to `boxes` (x0, y0, x1, y1 px) -> (B, F)."""
        if boxes is not None:
            images = crops(images, boxes)
        grid = torch.cat([self.encoder(part) for part in images.split(64)]).movedim(-1, 1)
        return F.adaptive_avg_pool2d(grid, 4).flatten(1)


class SpriteFinder:
    """Names the sprite that a crop shows, by nearest neighbour among all sprites of a
    vocabulary."""

    def __init__(self, features: Features, sprites: Tensor):
        """sprites: (N, 4, s, s) RGBA in [0, 1]."""
        self.features = features
        alpha = sprites[:, 3:]
        on_grey = (sprites[:, :3] * alpha + 0.5 * (1 - alpha)) * 2 - 1
        gallery = features(F.interpolate(on_grey, CROP, mode="bilinear", antialias=True))
        self.center = gallery.mean(0)
        self.gallery = F.normalize(gallery - self.center, dim=1)

    def __call__(self, images: Tensor, boxes: Sequence[Box]) -> Tensor:
        """(B, 3, S, S), B boxes -> (B,) index of the nearest sprite."""
        crops = F.normalize(self.features(images, boxes) - self.center, dim=1)
        return (crops @ self.gallery.T).argmax(1)


def crops(images: Tensor, boxes: Sequence[Box]) -> Tensor:
    """A crop of each image (B, 3, S, S) around its box: (B, 3, CROP, CROP)."""
    return torch.stack([crop(image, box) for image, box in zip(images, boxes, strict=True)])


def crop(image: Tensor, box: Box) -> Tensor:
    """The square around a box (at least 16 px a side), inside the image, as (3, CROP, CROP)."""
    x0, y0, x1, y1 = box
    size = image.shape[-1]
    side = min(max(x1 - x0, y1 - y0, 16), size)
    left = round(min(max((x0 + x1 - side) / 2, 0), size - side))
    top = round(min(max((y0 + y1 - side) / 2, 0), size - side))
    part = image[:, top : top + round(side), left : left + round(side)]
    return F.interpolate(part.unsqueeze(0), (CROP, CROP), mode="bilinear", antialias=True)[0]


def bounding_boxes(masks: Tensor) -> list[Box]:
    """(B, S, S) bool -> the box of each mask; the whole image where a mask is empty."""
    boxes = []
    for mask in masks:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        if len(rows) == 0:
            boxes.append((0.0, 0.0, float(mask.shape[1]), float(mask.shape[0])))
        else:
            boxes.append(
                (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
            )
    return boxes
