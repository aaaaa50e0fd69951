"""The example scenes: pictures with sentences that fit them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from scar.images import open_image
from scar.studio.metadata import save_png


@dataclass(frozen=True)
class Scene:
    """An example picture, what it shows, and edits that suit it."""

    image: Image.Image
    caption: str
    instructions: list[str]

    def publish(self, folder: Path) -> str:
        """The file of a fresh copy in `folder`: the program's own files are never served."""
        return str(save_png(self.image, {"task": "example"}, folder))


def load_scenes(folder: Path) -> list[Scene]:
    """Scenes listed in `folder`/examples.json; none if there is no list.

    The list holds objects with `file`, `caption` and `instructions`.
    """
    index = folder / "examples.json"
    if not index.exists():
        return []
    return [
        Scene(open_image(folder / entry["file"]), entry["caption"], entry["instructions"])
        for entry in json.loads(index.read_text(encoding="utf-8-sig"))
    ]
