"""Canny edges: thin white lines where the brightness changes sharply."""

from __future__ import annotations

import cv2
import numpy as np

from preprocessors.preprocessor import Parameter, Preprocessor
from scar.errors import InputError


def detect(rgb: np.ndarray, low: int, high: int) -> np.ndarray:
    """Edges of `rgb`, uint8 (H, W, 3), as 0 or 255 at the same size.

    The same call as in controlnet_aux's CannyDetector, but at the size of the map instead of one
    rounded to multiples of 64, and without the import time of that package.
    """
    if low > high:
        raise InputError(f"low ({low}) must not be above high ({high}).")
    return cv2.Canny(rgb, low, high)


CANNY = Preprocessor(
    "canny",
    "Thin, sharp edges: keeps outlines and texture exactly where they are.",
    detect,
    {
        "low": Parameter(100, "edges weaker than this are dropped", range=(0, 500)),
        "high": Parameter(200, "edges stronger than this always count", range=(0, 500)),
    },
)
