"""E, the visual foundation model: images -> a grid of features, frozen.

    F_s = E(I_s)          (B, 3, H, W) -> (B, h, w, C)

To add an encoder of timm: a row in `ENCODERS` here and its pin in `scar.weights.pins.ENCODER_PINS`.

Letters: B batch, H x W pixels, h x w grid of the features, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from scar.config import EncoderConfig
from scar.errors import ConfigError
from scar.weights.pins import ENCODER_PINS, packaged_file


@dataclass(frozen=True)
class EncoderSpec:
    """One row of the table of encoders."""

    timm_name: str
    patch: int  # pixels per position of the feature grid, along a side
    width: int  # C of features="last"
    # Of features="multi": indices of a ViT's blocks, or of a CNN's stages.
    levels: tuple[int, ...]
    stages: tuple[tuple[int, int], ...] = ()  # of a CNN: (channels, stride) of each of `levels`
    block_width: int = 0  # of a ViT's blocks, where the neck after them changes it (SAM)


ENCODERS = {
    #                              timm name                                  patch width  levels
    "dinov2-s": EncoderSpec("vit_small_patch14_dinov2.lvd142m", 14, 384, (2, 5, 8, 11)),
    "dinov2-b": EncoderSpec("vit_base_patch14_dinov2.lvd142m", 14, 768, (2, 5, 8, 11)),
    "dinov2-l": EncoderSpec("vit_large_patch14_dinov2.lvd142m", 14, 1024, (5, 11, 17, 23)),
    "dinov3-b": EncoderSpec("vit_base_patch16_dinov3.lvd1689m", 16, 768, (2, 5, 8, 11)),
    "vit-b": EncoderSpec("vit_base_patch16_224.augreg2_in21k_ft_in1k", 16, 768, (2, 5, 8, 11)),
    "sam-b": EncoderSpec("samvit_base_patch16.sa1b", 16, 256, (2, 5, 8, 11), block_width=768),
    "clip-b": EncoderSpec("vit_base_patch16_clip_224.openai", 16, 768, (2, 5, 8, 11)),
    "siglip2-b": EncoderSpec("vit_base_patch16_siglip_256.v2_webli", 16, 768, (2, 5, 8, 11)),
    "efficientnet-lite0": EncoderSpec(
        "tf_efficientnet_lite0.in1k", 16, 112, (2, 3), ((40, 8), (112, 16))
    ),
}

CPU_MICRO_BATCH = 4  # images per forward pass on a CPU: activations stay in its caches


class VisualEncoder(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] -> features (B, h, w, C), h = w = image_size / patch.

    Frozen by its constructor; never part of a SCAR checkpoint. Resizes and normalises as the
    published weights expect.

    Features are those of the last layer ("last"), or of several depths, each layer-normalised
    without affine weights and concatenated ("multi"), so that every depth has the same variance in
    L_pres. Finer stages of a CNN become channels by pixel unshuffle, so that no value is averaged:
    for efficientnet-lite0 that gives 40 x 4 + 112 = 272 channels.

    Args:
        pretrained: load the published weights; False leaves them random (tests).

    Raises:
        ConfigError: unknown name, or a size that is no multiple of the patch.
        WeightsError: the Python package that carries the weights is missing. OSError: the Hub
            cannot be reached.
    """

    model: Any  # of timm
    mean: Tensor  # (3, 1, 1), of images in [0, 1]
    std: Tensor  # (3, 1, 1)

    def __init__(self, config: EncoderConfig, pretrained: bool = True):
        super().__init__()
        self.grid, self.width = feature_shape(config)
        self.config, self.spec = config, ENCODERS[config.name]
        spec = self.spec
        self.model = _create(config, spec, pretrained)
        self.requires_grad_(False).eval()
        fold_batch_norms(self.model)
        defaults: Any = timm.get_pretrained_cfg(spec.timm_name)
        self.register_buffer("mean", torch.tensor(defaults.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(defaults.std).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> VisualEncoder:
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        size = len(images) if images.is_cuda else CPU_MICRO_BATCH
        return torch.cat([self._features(part) for part in images.split(size)])  # (B, h, w, C)

    def _features(self, images: Tensor) -> Tensor:
        """(b, 3, H, W) -> (b, h, w, C)."""
        side = self.config.image_size
        if images.shape[-2:] != (side, side):
            images = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
        x = ((images + 1) / 2 - self.mean) / self.std  # (b, 3, image_size, image_size)
        levels = self.model(x) if self.spec.stages else self._vit_levels(x)  # (b, C_l, h_l, w_l)
        if self.config.features == "last":
            return levels[-1].movedim(1, -1).float()  # (b, h, w, C)
        # A stage with twice the resolution has 4 C_l channels after this: (b, h, w, C_l (h_l/h)^2)
        folded = [F.pixel_unshuffle(f, f.shape[-1] // self.grid).movedim(1, -1) for f in levels]
        return torch.cat([F.layer_norm(f.float(), f.shape[-1:]) for f in folded], dim=-1)

    def _vit_levels(self, x: Tensor) -> list[Tensor]:
        last = self.config.features == "last"
        levels = 1 if last else list(self.spec.levels)
        return self.model.forward_intermediates(
            x, indices=levels, norm=last, intermediates_only=True
        )


def feature_shape(config: EncoderConfig) -> tuple[int, int]:
    """(h, C) of an encoder's features, whose grid is square, without building it."""
    if config.name not in ENCODERS:
        raise ConfigError(f"unknown encoder {config.name!r}; known: {', '.join(ENCODERS)}")
    spec = ENCODERS[config.name]
    if config.image_size % spec.patch:
        raise ConfigError(f"{config.name} needs a size that is a multiple of {spec.patch}")
    if config.features not in ("last", "multi"):
        raise ConfigError(f"features must be last or multi, not {config.features!r}")
    width = spec.width
    if config.features == "multi":
        widths = [c * (spec.patch // stride) ** 2 for c, stride in spec.stages]
        width = sum(widths) or (spec.block_width or spec.width) * len(spec.levels)
    return config.image_size // spec.patch, width


def fold_batch_norms(net: nn.Module) -> None:
    """Fold every batch norm of a frozen network into the convolution before it, in place.

    Both are affine at inference, so the outputs are the same up to rounding. timm joins norm and
    activation in one module; its activation stays.
    """
    for parent in list(net.modules()):
        conv = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                conv = name
            elif isinstance(child, nn.BatchNorm2d) and conv:
                setattr(parent, conv, fuse_conv_bn_eval(getattr(parent, conv), child))
                setattr(parent, name, getattr(child, "act", nn.Identity()))
                conv = None


def _create(config: EncoderConfig, spec: EncoderSpec, pretrained: bool) -> Any:
    if not spec.stages:
        pin = ENCODER_PINS[config.name]
        revision = f"@{pin.revision}" if pin.revision else ""
        return timm.create_model(
            spec.timm_name,
            pretrained=pretrained,
            pretrained_cfg_overlay={"hf_hub_id": f"{pin.repo}{revision}"},
            num_classes=0,
            img_size=config.image_size,
        )
    name = spec.timm_name.split(".")[0]
    levels = spec.levels if config.features == "multi" else spec.levels[-1:]
    features: Any = timm.create_model(
        name, pretrained=False, features_only=True, out_indices=levels
    )
    if pretrained:
        weights = _packaged_weights(config.name, timm.create_model(name, pretrained=False))
        features.load_state_dict({key: weights[key] for key in features.state_dict()})
    last = features.feature_info.get_dicts(["stage"])[-1]["stage"]
    features.blocks = features.blocks[:last]  # timm would run the stages after it too
    return features


def _packaged_weights(name: str, model: nn.Module) -> dict[str, Tensor]:
    """The weights a Python package carries, under timm's names: both hold the same tensors in the
    same order."""
    path = packaged_file(ENCODER_PINS[name])
    weights = torch.load(path, weights_only=True, map_location="cpu")
    return dict(zip(model.state_dict(), weights.values(), strict=True))
