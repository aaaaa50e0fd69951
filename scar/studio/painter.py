"""The region painter: a light canvas over the source picture, in place of an image editor.

Its value is a small PNG as a data URL, white where the edit may happen, or "" for everywhere.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from scar.errors import InputError
from scar.images import open_image, to_mask
from scar.studio.texts import in_chinese

PREFIX = "data:image/png;base64,"
SHAPES = {
    "left": "Left half",
    "right": "Right half",
    "top": "Top half",
    "bottom": "Bottom half",
    "centre": "Centre",
    "clear": "Clear",
}
WORDS = [
    "Brush",
    "Brush size",
    "Region",
    "The picture to paint on",
    "Paint where the edit may happen",
]
SCRIPT = (Path(__file__).parent / "painter.js").read_text(encoding="utf-8")


def painter(source_id: str, elem_id: str) -> gr.HTML:
    """A painter over the picture shown inside the element `source_id`."""
    buttons = "".join(
        f'<button type="button" data-shape="{shape}">{label}</button>'
        for shape, label in SHAPES.items()
    )
    template = (
        '<div class="painter"><div class="board">'
        '<img alt="The picture to paint on"><canvas width="256" height="256" '
        'aria-label="Paint where the edit may happen"></canvas></div>'
        f'<div class="chips" role="group" aria-label="Region">{buttons}</div>'
        '<label class="brush-size">Brush <input type="range" min="4" max="40" value="14" '
        'aria-label="Brush size"></label></div>'
    )
    chinese = {words: in_chinese(words) for words in (*WORDS, *SHAPES.values())}
    script = SCRIPT.replace("SOURCE_ID", source_id).replace("CHINESE", json.dumps(chinese))
    return gr.HTML(
        "",
        html_template=template,
        js_on_load=script,
        elem_id=elem_id,
    )


def region_from(value: Any) -> Image.Image | None:
    """The painted region as an "L" image, or None for everywhere; `InputError` if unreadable."""
    if value in (None, ""):
        return None
    if not isinstance(value, str) or not value.startswith(PREFIX):
        raise InputError("The painted region could not be read; please clear it and paint again.")
    try:
        data = base64.b64decode(value[len(PREFIX) :], validate=True)
    except binascii.Error:
        raise InputError("The painted region could not be read; please paint it again.") from None
    mask = open_image(data, to_mask)
    return mask if mask.getbbox() else None
