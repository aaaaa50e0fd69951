"""HED soft edges: a network's confidence that a pixel lies on a boundary."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from preprocessors.controlnet import detector_module
from preprocessors.preprocessor import Parameter, Preprocessor
from preprocessors.weights import fill
from scar.weights.pins import DETECTOR_PINS, Pin


def detect(rgb: np.ndarray) -> np.ndarray:
    """Soft edges of `rgb`, uint8 (H, W, 3) with sides that are multiples of 64."""
    detector, side = _detector(DETECTOR_PINS["hed"]), min(rgb.shape[:2])
    return detector(rgb, detect_resolution=side, image_resolution=side, output_type="np")[..., 0]


@cache
def _detector(pin: Pin) -> Any:
    module = detector_module("hed")
    return module.HEDdetector(fill(module.ControlNetHED_Apache2(), pin.name))


HED = Preprocessor(
    "hed",
    "Soft edges: strong on object boundaries, faint on texture.",
    detect,
    {"resolution": Parameter(512, "working resolution of the real detector", range=(64, 1024))},
    weights=lambda **_: "hed",
)
