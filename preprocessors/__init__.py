"""Control maps: canny, depth, hed, sketch, lineart, and none for an image that already is a map.

    from preprocessors import PREPROCESSORS, preprocess
    control_map = preprocess("depth", image, 512)

Importing this package is quick: detectors and their libraries load on first use. Detectors whose
weights are not on this machine are replaced by one small embedded network.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from preprocessors.canny import CANNY
from preprocessors.depth import DEPTH
from preprocessors.hed import HED
from preprocessors.lineart import LINEART
from preprocessors.preprocessor import Backend, Parameter, Preprocessor, Status
from preprocessors.sketch import SKETCH
from scar.errors import InputError, WeightsError
from scar.images import to_map

__all__ = [
    "PREPROCESSORS",
    "Parameter",
    "Preprocessor",
    "Status",
    "WeightsError",
    "named",
    "preprocess",
]


def preprocess(
    name: str,
    image: Image.Image,
    size: int | None = None,
    *,
    backend: Backend = "auto",
    **parameters: int | bool | str,
) -> Image.Image:
    """Draw the control map called `name` of `image`.

    Returns an RGB image with equal channels (for "none": the image itself), white on black, of
    the shape of `image`, its longer side scaled to `size` pixels (64..2048) when given. `image`
    may be of any mode (`scar.pixels` says how it is read), with sides of at least 16 pixels and an
    aspect of at most 8:1. `backend` "auto" takes the real detector when its weights are on this
    machine and otherwise the embedded network, never waiting for a download; "real" downloads what
    is missing. Same input, same map. `PREPROCESSORS[name].parameters` has the parameters and their
    ranges.

    Raises `scar.errors.InputError` for an unusable input and `WeightsError` for unusable weights.
    """
    return named(name)(image, size, backend=backend, **parameters)


def named(name: str) -> Preprocessor:
    """The preprocessor called `name`. Raises `scar.errors.InputError` if there is none."""
    if name not in PREPROCESSORS:
        known = ", ".join(PREPROCESSORS)
        raise InputError(f"There is no preprocessor {name!r}; there are: {known}.")
    return PREPROCESSORS[name]


def _identity(rgb: np.ndarray) -> np.ndarray:
    return rgb


NONE = Preprocessor(
    "none", "The image already is a map: it is used as it is.", _identity, convert=to_map
)
PREPROCESSORS = {p.name: p for p in (CANNY, DEPTH, HED, SKETCH, LINEART, NONE)}
