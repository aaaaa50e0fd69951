"""Line art: the drawing an illustrator would ink, by the informative-drawings network."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from preprocessors.controlnet import detector_module
from preprocessors.preprocessor import Parameter, Preprocessor
from preprocessors.weights import fill
from scar.weights.pins import DETECTOR_PINS, Pin


def detect(rgb: np.ndarray, coarse: bool) -> np.ndarray:
    """White lines on black of `rgb`, uint8 (H, W, 3) with sides that are multiples of 64."""
    detector, side = _detector(DETECTOR_PINS[_weights(coarse=coarse)]), min(rgb.shape[:2])
    return detector(rgb, detect_resolution=side, image_resolution=side, output_type="np")[..., 0]


@cache
def _detector(pin: Pin) -> Any:
    module = detector_module("lineart")
    network = fill(module.Generator(input_nc=3, output_nc=1, n_residual_blocks=3), pin.name)
    return module.LineartDetector(network, coarse_model=None)  # one style at a time, chosen by pin


def _weights(coarse: bool, **_: object) -> str:
    return "lineart-coarse" if coarse else "lineart"


LINEART = Preprocessor(
    "lineart",
    "Fine ink lines with varying weight.",
    detect,
    {
        "coarse": Parameter(False, "fewer, rougher lines (real detector)"),
        "resolution": Parameter(512, "working resolution of the real detector", range=(64, 1024)),
    },
    weights=_weights,
)
