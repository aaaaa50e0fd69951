"""What keeps the studio standing on the open internet, inside the application.

`SafeImage` lets only files of this server's own upload folder through `scar.images.open_image`;
`explain` turns any failure of a run into one sentence; the sweeper deletes what nobody needs.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from scar.errors import InputError, SamplingError, WeightsError
from scar.images import open_image
from scar.studio.metadata import read_parameters
from scar.studio.texts import tell

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upload:
    """A picture a visitor gave: its file, the parameters inside, if any, or why it is of no use."""

    path: str
    parameters: dict[str, Any] | None = None
    opened: Image.Image | None = None
    problem: str = ""

    @property
    def image(self) -> Image.Image:
        """The picture, upright RGB; raises `InputError` if the file holds none that can be used."""
        if self.opened is None:
            raise InputError(self.problem)
        return self.opened

    def read(self, open: Callable[[str], Image.Image]) -> Image.Image:
        """The file as something else than a picture: `open` is `open_map`, `open_mask`, ..."""
        if self.problem:
            raise InputError(self.problem)
        return open(self.path)


class SafeImage(gr.Image):
    """A `gr.Image` whose handlers receive an `Upload`, also for a bad file.

    The handler that asks a bad one for its picture gets the reason, and can tell it in the language
    of the visitor, which is not known here.
    """

    is_template = True

    def preprocess(self, payload: Any) -> Upload | None:
        if payload is None:
            return None
        # Gradio has checked that a path lies in the upload folder; it decodes data URLs unchecked.
        if not payload.path or (payload.url or "").startswith("data:"):
            return Upload("", problem="Please upload the picture as a file.")
        try:
            image = open_image(payload.path)
        except InputError as error:
            return Upload(payload.path, problem=str(error))
        return Upload(payload.path, read_parameters(payload.path), image)


def explain(error: Exception) -> str:
    """One sentence about `error` for the person in front of the page; the rest goes to the log."""
    return tell(_sentence(error))


def _sentence(error: Exception) -> str:
    if isinstance(error, InputError | WeightsError):
        return str(error)
    log.error("a run failed", exc_info=error)
    # torch's by name: the studio starts before torch is imported.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "The device is out of memory; try a smaller picture, or again in a moment."
    if isinstance(error, SamplingError):
        return "The model produced values that are not finite; try another seed or less guidance."
    if isinstance(error, FileNotFoundError):
        return "A file of the model is missing; the log of the server says which."
    return "Something went wrong inside the program; the log of the server says what."


def start_sweeper(folder: Path, age: float = 4 * 3600, pause: float = 600) -> threading.Thread:
    """Every `pause` seconds delete files in `folder` older than `age`, and empty folders."""

    def run() -> None:
        while True:
            sweep(folder, age)
            time.sleep(pause)

    thread = threading.Thread(target=run, name="sweep temporary files", daemon=True)
    thread.start()
    return thread


def sweep(folder: Path, age: float) -> int:
    """Delete files below `folder` that nobody touched for `age` seconds; returns how many."""
    removed, oldest = 0, time.time() - age
    for root, _, names in os.walk(folder, topdown=False):
        try:
            for name in names:
                path = Path(root, name)
                if path.lstat().st_mtime < oldest:
                    path.unlink()
                    removed += 1
            if Path(root) != folder and os.stat(root).st_mtime < oldest:
                os.rmdir(root)
        except OSError:
            continue  # in use, or gone already
    return removed
