"""Parameters inside a PNG: a result carries all that made it; dropped back, it restores them."""

from __future__ import annotations

import hashlib
import json
import os
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from scar import png
from scar.images import save_image

KEY = "parameters"
MAX_CHARACTERS = 8192


def save_png(image: Image.Image, parameters: dict[str, Any], folder: str | os.PathLike) -> Path:
    """Write `image` as a PNG with `parameters` as JSON in its text; returns the path.

    The file lies in a subfolder of `folder` named by its content, so that results never mix.
    """
    text = PngImagePlugin.PngInfo()
    text.add_text(KEY, json.dumps(parameters))
    buffer = BytesIO()
    save_image(image, buffer, "PNG", pnginfo=text)
    data = buffer.getvalue()
    folder = Path(folder) / hashlib.sha256(data).hexdigest()[:24]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"scar-{parameters.get('task', 'image')}-{parameters.get('seed', 0)}.png"
    path.write_bytes(data)
    return path


def read_parameters(path: str | os.PathLike) -> dict[str, Any] | None:
    """The parameters `save_png` wrote, or None if the file carries none that can be understood.

    Values are only as trustworthy as the file: check them before use.
    """
    try:
        text = png.text(Path(path).read_bytes(), KEY)
        if text is None or len(text) > MAX_CHARACTERS:
            return None
        parameters = json.loads(text)
    except (OSError, ValueError, RecursionError):  # no file, or no JSON: it restores nothing
        return None
    if not isinstance(parameters, dict) or parameters.get("software") != "SCAR":
        return None
    return parameters
