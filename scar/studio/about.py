"""The About tab: what the model can and cannot do, how to call it, what the server promises."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import gradio as gr

from scar.images import FORMATS, MAX_ASPECT, MAX_BYTES, MAX_PIXELS, MAX_SIDE, MIN_SIDE
from scar.studio.session import MAX_PROMPT, MAX_VARIANTS
from scar.studio.texts import tell

LARGEST_PICTURE = 2 * 1024 * 1024

CALL = """```python
from gradio_client import Client, handle_file

client = Client("ADDRESS_OF_THIS_PAGE")
path, parameters = client.predict(
    handle_file("scene.png"), "make it night", seed=0, api_name="/edit"
)
```"""
ENDPOINTS = (
    "`/generate` takes a control map and a sentence or class number, `/preprocess` draws a map.",
    "Iterating over `client.submit(...)` gives the partial pictures.",
)
LIMITS = (
    f"Pictures: {', '.join(FORMATS)}, at most {MAX_BYTES // 2**20} MB and "
    f"{MAX_PIXELS // 10**6} megapixels, {MIN_SIDE} to {MAX_SIDE} pixels a side, at most "
    f"{MAX_ASPECT} times as long as wide.",
    f"Words: at most {MAX_PROMPT} characters. Variants: at most {MAX_VARIANTS} a run.",
    "One run at a time; others wait in line.",
    "Results are deleted from the server after some hours.",
    "The server fetches no addresses and keeps no accounts.",
)


class AboutTab:
    """Builds the tab inside the current `gr.Blocks`; `card` is the model card, if there is one."""

    def __init__(self, card: Path | None):
        with gr.Column(elem_classes="prose-page"):
            if card and card.exists():
                gr.Markdown(with_pictures(card), sanitize_html=True)
            self.reference = gr.Markdown(_reference())

    def told(self) -> dict:
        """Updates that put what the page holds from the start into the visitor's language."""
        return {self.reference: _reference()}


def _reference() -> str:
    """How to call the studio, and what it accepts."""
    endpoints = "\n".join(f"- {tell(line)}" for line in ENDPOINTS)
    limits = "\n".join(f"- {tell(line)}" for line in LIMITS)
    calling, bounds = tell("From Python"), tell("Limits")
    return f"### {calling}\n{CALL}\n\n{endpoints}\n\n### {bounds}\n{limits}"


def with_pictures(card: Path) -> str:
    """The text of a Markdown file without its front matter, its PNG pictures put inside."""
    text = re.sub(r"\A---\n.*?\n---\n", "", card.read_text(encoding="utf-8-sig"), flags=re.DOTALL)

    def put_inside(match: re.Match) -> str:
        words, path = match[1], (card.parent / match[2]).resolve()
        is_ours = path.is_relative_to(card.parent.resolve()) and path.suffix == ".png"
        if not is_ours or not path.exists() or path.stat().st_size > LARGEST_PICTURE:
            return f"*{words}*"
        data = base64.b64encode(path.read_bytes()).decode()
        return f"![{words}](data:image/png;base64,{data})"

    return re.sub(r"!\[([^\]]*)\]\(([^)]+)\)", put_inside, text)
