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
    """An example picture, a public copy of its file, what it shows and edits that suit it."""

    image: Image.Image
    path: str
    caption: str
    instructions: list[str]


def load_scenes(folder: Path, public: Path) -> list[Scene]:
    """Scenes listed in `folder`/examples.json, copied into `public`; none if there is no list.

    The list holds objects with `file`, `caption` and `instructions`. The copies are what the
    interface serves, so that the folder of the program itself can stay closed.
    """
    index = folder / "examples.json"
    if not index.exists():
        return []
    scenes = []
    for entry in json.loads(index.read_text(encoding="utf-8")):
        image = open_image(folder / entry["file"])
        path = save_png(image, {"task": "example"}, public)
        scenes.append(Scene(image, str(path), entry["caption"], entry["instructions"]))
    return scenes
