"""The Space's entry: builds the studio and serves it.

    python app.py [--port 7860] [--host 0.0.0.0] [--model FOLDER_OR_HUB_ID ...]

Without arguments it needs no network: the embedded models serve.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from functools import partial
from pathlib import Path

with contextlib.suppress(ImportError):
    import spaces  # noqa: F401 - on a ZeroGPU Space it must come before torch

ASSETS = Path(__file__).parent / "assets"


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the SCAR studio.")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument(
        "--model", action="append", default=[], metavar="PATH",
        help="offer a checkpoint folder or Hub id beside the embedded models (repeatable)",
    )  # fmt: skip
    arguments = parser.parse_args()

    # Gradio reads these when it is imported. Its files get a folder of their own to be swept.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("GRADIO_TEMP_DIR", str(Path(tempfile.gettempdir()) / "scar-studio"))
    from scar.studio import Library, build_studio, launch_studio

    library = Library(models(arguments.model))
    library.preload(library.names[0])
    studio = build_studio(library, ASSETS)
    launch_studio(studio, arguments.host, arguments.port)


def models(extra: list[str]) -> dict[str, partial]:
    """Loaders by name: those asked for on the command line first, then the embedded ones."""
    named = {name: partial(load, name) for name in extra}
    return {
        **named,
        "SCAR next-token": partial(load, "embedded", "next-token"),
        "SCAR next-set": partial(load, "embedded", "next-set"),
    }


def load(source: str, paradigm: str | None = None):
    """The pipeline at `source`; torch is imported here, after the page can already be served."""
    from scar import ScarPipeline

    return ScarPipeline.from_pretrained(source, **({"paradigm": paradigm} if paradigm else {}))


if __name__ == "__main__":
    main()
