"""How the studio looks: system fonts, warm paper and ink, one vermilion accent."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

_SANS = ("Inter", "ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "sans-serif")
_MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "monospace")

THEME = gr.themes.Base(
    primary_hue="orange",
    neutral_hue="stone",
    radius_size="lg",
    font=_SANS,
    font_mono=_MONO,
).set(
    body_background_fill="#faf8f5",
    body_background_fill_dark="#161412",
    block_background_fill="#ffffff",
    block_background_fill_dark="#211e1b",
    block_border_width="1px",
    block_label_text_size="13px",
    button_primary_background_fill="#c2410c",
    button_primary_background_fill_hover="#9a3412",
    button_primary_background_fill_dark="#c2410c",
    button_primary_background_fill_hover_dark="#ea580c",
    button_primary_text_color="#ffffff",
    button_primary_text_color_dark="#ffffff",
)

CSS = (Path(__file__).parent / "studio.css").read_text(encoding="utf-8")

HEAD = '<meta name="description" content="Edit a picture with one sentence.">'
