"""The embedded detector: one small network that predicts depth, soft edges, sketch and line art.

It replaces the real detectors where their weights are not on this machine. It is trained by
`train.detector` on ToyScenes; on photographs it is a rough substitute.

Letters: B batch, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from scar.assets import ASSETS
from scar.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from preprocessors.map_network import MapNetwork

FILE = ASSETS / "preprocessors" / "embedded.safetensors"
RESOLUTION = 256  # the network reads about this many pixels squared


def available() -> bool:
    """Whether the network's weights are in the assets folder."""
    return FILE.is_file()


def draw(name: str, image: Image.Image) -> np.ndarray:
    """The map called `name` of an RGB image, uint8 (H, W) at the working resolution."""
    import torch

    stretch = (image.width / image.height) ** 0.5
    sides = (RESOLUTION * stretch, RESOLUTION / stretch)
    width, height = (max(32, round(side / 32) * 32) for side in sides)
    rgb = np.array(image.resize((width, height), Image.Resampling.LANCZOS))
    pixels = torch.from_numpy(rgb).permute(2, 0, 1)[None] / 127.5 - 1  # (1, 3, H, W)
    maps = control_maps(load_network(), pixels, [name])  # (1, H, W)
    return (maps[0] * 255).round().byte().numpy()


def control_maps(network: MapNetwork, images: Tensor, names: Sequence[str]) -> Tensor:
    """The map of each image, in [0, 1].

    Args:
        images: (B, 3, H, W) in [-1, 1], sides multiples of 32.
        names: B of `preprocessors.map_network.MAPS`.

    Returns:
        (B, H, W).
    """
    import torch

    from preprocessors.map_network import MAPS

    channels = [MAPS.index(name) for name in names]
    with torch.no_grad():
        maps = network(images).sigmoid()[range(len(names)), channels]  # (B, H, W)
        for row, name in enumerate(names):
            if name == "depth":
                maps[row] = normalize_depth(maps[row : row + 1])[0]
            if name == "sketch":  # strokes are 0 or 1
                maps[row] = (maps[row] > 0.5).float()
    return maps


def normalize_depth(depth: Tensor) -> Tensor:
    """(B, H, W), each stretched to [0, 1]: real detectors predict relative depth."""
    low, high = depth.amin((1, 2), keepdim=True), depth.amax((1, 2), keepdim=True)
    return (depth - low) / (high - low).clamp(min=1e-3)


def load_network(device: str = "cpu") -> MapNetwork:
    """The frozen network, loaded once. Raises WeightsError if its weights are missing."""
    if not available():
        raise WeightsError(f"The embedded network is missing; restore {FILE}.")
    return _load_file(FILE, device)


@cache
def _load_file(file: Path, device: str) -> MapNetwork:
    from safetensors.torch import load_file

    from preprocessors.map_network import MapNetwork

    network = MapNetwork()
    network.load_state_dict({key: value.float() for key, value in load_file(file).items()})
    return network.eval().requires_grad_(False).to(device)
