"""The kinds of control map the studio offers, and the one way to draw them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from scar.studio.session import bounded

MAP_SIDE = 512  # a detector never sees a longer side


@dataclass(frozen=True)
class Detector:
    """`draw(image, **values of parameters)` gives the map of an RGB image.

    `parameters` maps a name to (lowest, highest, default); `problem` is None, or says in one
    sentence why the detector cannot run here.
    """

    name: str
    label: str
    draw: Callable[..., Image.Image]
    parameters: dict[str, tuple[int, int, int]]
    problem: str | None = None


def draw_map(detector: Detector, image: Image.Image, **values: int) -> Image.Image:
    """The RGB control map of `image`, at most `MAP_SIDE` a side, at the aspect of `image`."""
    image = bounded(image, MAP_SIDE)
    chosen = {name: default for name, (_, _, default) in detector.parameters.items()} | values
    return detector.draw(image, **chosen).convert("RGB").resize(image.size)


def canny(image: Image.Image, low: int, high: int) -> Image.Image:
    """White Canny edges on black; thresholds in 0 to 255."""
    grey = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2GRAY)
    return Image.fromarray(cv2.Canny(grey, min(low, high), max(low, high)))


DETECTORS = [
    Detector("canny", "Canny edges", canny, {"low": (0, 255, 100), "high": (0, 255, 200)}),
    Detector("none", "The picture is a map already", lambda image: image, {}),
]
