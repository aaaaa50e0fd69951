"""Relative depth: white is near, black is far.

Depth Anything V2 Small is the default: sharper than MiDaS, a fifth of its download, and published
as safetensors. MiDaS (DPT-Hybrid) is what CAR and ControlNet made their depth maps with.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from preprocessors.controlnet import detector_module, quietly
from preprocessors.preprocessor import Parameter, Preprocessor
from preprocessors.weights import fill
from scar.weights.pins import DETECTOR_PINS, Pin

PATCH = 14  # pixels on the side of a DINOv2 patch
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def detect(rgb: np.ndarray, model: str) -> np.ndarray:
    """Depth of `rgb`, uint8 (H, W, 3) with sides that are multiples of 64, stretched to 0..255."""
    if model == "midas":
        detector, side = _midas(DETECTOR_PINS[model]), min(rgb.shape[:2])
        return detector(rgb, detect_resolution=side, image_resolution=side)[..., 0]
    return _depth_anything(DETECTOR_PINS[model], rgb)


def depth_anything() -> Any:
    """Depth Anything V2 Small as transformers builds it, 24.8 M parameters, without weights."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        image_size=518,
        hidden_size=384,
        num_attention_heads=6,
        out_indices=[3, 6, 9, 12],  # type: ignore[call-arg]  # a property of all backbones
        reshape_hidden_states=False,
    )
    return DepthAnythingForDepthEstimation(DepthAnythingConfig(backbone_config=backbone))


@cache
@quietly
def _midas(pin: Pin) -> Any:
    network = detector_module("midas.midas.dpt_depth").DPTDepthModel(backbone="vitb_rn50_384")
    return detector_module("midas").MidasDetector(fill(network, pin.name))


def _depth_anything(pin: Pin, rgb: np.ndarray) -> np.ndarray:
    import torch
    from torch.nn.functional import interpolate

    image = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    sides = [max(1, round(side / PATCH)) * PATCH for side in rgb.shape[:2]]
    image = interpolate((image - mean) / std, sides, mode="bicubic", antialias=True)
    with torch.inference_mode():
        nearness = _depth_anything_network(pin)(image).predicted_depth[0]  # (H, W)
    nearness = nearness - nearness.min()
    nearness = nearness / nearness.max().clamp(min=1e-6)
    return (nearness * 255).round().byte().numpy()


@cache
def _depth_anything_network(pin: Pin) -> Any:
    return fill(depth_anything(), pin.name)


DEPTH = Preprocessor(
    "depth",
    "Relative depth: white is near, black is far.",
    detect,
    {
        "model": Parameter(
            "depth-anything", "real detector to use", choices=("depth-anything", "midas")
        ),
        "resolution": Parameter(384, "working resolution of the real detector", range=(64, 1024)),
    },
    weights=lambda model, **_: model,
)
