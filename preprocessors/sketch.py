"""Sketch: a few bold strokes, made from PiDiNet edges with the recipe of CAR.

Source of the recipe: "CAR: Controllable Autoregressive Modeling for Visual Generation".
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from preprocessors.controlnet import detector_module
from preprocessors.preprocessor import Parameter, Preprocessor
from preprocessors.weights import fill
from scar.weights.pins import DETECTOR_PINS, Pin


def detect(rgb: np.ndarray) -> np.ndarray:
    """Strokes of `rgb`, uint8 (H, W, 3) with sides that are multiples of 64, as 0 or 255.

    `scribble` is the recipe: thin the edges (sigma 3, above 127), blur them with sigma 3, and make
    everything above 4 of 255 white.
    """
    detector, side = _detector(DETECTOR_PINS["pidinet"]), min(rgb.shape[:2])
    sizes = {"detect_resolution": side, "image_resolution": side}
    return detector(rgb, **sizes, output_type="np", scribble=True)[..., 0]


@cache
def _detector(pin: Pin) -> Any:
    module = detector_module("pidi")
    return module.PidiNetDetector(fill(module.pidinet(), pin.name))


SKETCH = Preprocessor(
    "sketch",
    "Bold strokes, like a quick drawing with a felt pen.",
    detect,
    {"resolution": Parameter(512, "working resolution of the real detector", range=(64, 1024))},
    weights=lambda **_: "pidinet",
)
