"""The stand-in: one small network that draws depth, soft edges, sketch and line art at once.

It is trained by `train.detector` on ToyScenes, whose depth is exact, so that all maps
can be drawn without a network connection. On photographs it is a rough substitute for the real
detectors.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from scar.assets import ASSETS
from scar.errors import WeightsError

if TYPE_CHECKING:
    from preprocessors.map_network import MapNetwork

FILE = ASSETS / "preprocessors" / "embedded.safetensors"
MAPS = ("depth", "hed", "sketch", "lineart")  # the channels of the network's output
RESOLUTION = 256  # the picture is drawn with about this many pixels squared


def available() -> bool:
    """Whether the network's weights are in the assets folder."""
    return FILE.is_file()


def draw(name: str, image: Image.Image) -> np.ndarray:
    """The map called `name` of an RGB image, uint8 (H, W) at the working resolution."""
    import torch

    if not available():
        raise WeightsError(f"The embedded network is missing; restore {FILE}.")
    stretch = (image.width / image.height) ** 0.5
    size = [max(32, round(s / 32) * 32) for s in (RESOLUTION * stretch, RESOLUTION / stretch)]
    rgb = np.array(image.resize(size, Image.Resampling.LANCZOS))
    pixels = torch.from_numpy(rgb).permute(2, 0, 1)[None] / 127.5 - 1  # (1, 3, H, W) in -1..1
    with torch.inference_mode():
        drawn = _network(FILE)(pixels).sigmoid()[0, MAPS.index(name)]  # (H, W)
    if name == "depth":  # stretched to the whole range, as the real detectors draw it
        drawn = (drawn - drawn.min()) / (drawn.max() - drawn.min()).clamp(min=1e-3)
    if name == "sketch":  # ink or no ink
        drawn = (drawn > 0.5).float()
    return (drawn * 255).round().byte().numpy()


@cache
def _network(file: Path) -> MapNetwork:
    from safetensors.torch import load_file

    from preprocessors.map_network import MapNetwork

    network = MapNetwork()
    network.load_state_dict({k: v.float() for k, v in load_file(file).items()})
    return network.eval().requires_grad_(False)
