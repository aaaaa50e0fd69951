"""The Space's entry: builds the studio and serves it.

    python app.py [--port 7860] [--host 0.0.0.0] [--model FOLDER_OR_HUB_ID ...] [--any-model]

Without arguments it needs no network: the embedded models serve.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import tempfile
from functools import partial
from pathlib import Path

with contextlib.suppress(ImportError):
    import spaces  # noqa: F401 - on a ZeroGPU Space it must come before torch

from scar.assets import ASSETS


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the SCAR studio.")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument(
        "--model", action="append", default=[], metavar="PATH",
        help="offer a checkpoint folder or Hub id beside the embedded models (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--any-model", action="store_true",
        help="let visitors name a folder of this machine or a Hub id; not for the open internet",
    )  # fmt: skip
    arguments = parser.parse_args()

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as after Ctrl-C: cleanly
    with _temporary_folder() as folder:
        # Gradio reads these when it is imported; its files get a folder that only we sweep.
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        os.environ["GRADIO_TEMP_DIR"] = folder
        serve(arguments, Path(folder))


def _temporary_folder() -> tempfile.TemporaryDirectory:
    """A folder of our own inside GRADIO_TEMP_DIR, or where the system keeps temporary files."""
    parent = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    if parent.resolve().is_relative_to(ASSETS.parent.resolve()):
        raise SystemExit(
            f"Temporary files cannot lie in {parent}: this program's own folder is never served; "
            "set GRADIO_TEMP_DIR or TMPDIR to another one."
        )
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix="scar-studio-", dir=parent)
    except OSError as error:
        raise SystemExit(
            f"Temporary files cannot be written to {parent} ({error.strerror}); set "
            "GRADIO_TEMP_DIR to another folder."
        ) from None


def serve(arguments: argparse.Namespace, folder: Path) -> None:
    """Serve until interrupted, with temporary files in `folder`."""
    from scar.studio import Library, build_studio, is_zero_gpu, launch_studio, start_sweeper

    find = load if arguments.any_model else None
    library = Library(models(arguments.model), find, remote=arguments.model)
    studio = build_studio(library, ASSETS)
    start_sweeper(folder)
    try:
        address = launch_studio(studio, arguments.host, arguments.port)
    except OSError:
        port = arguments.port or 7860
        raise SystemExit(f"Cannot listen on port {port}; try another --port.") from None
    if is_zero_gpu():
        library.preload_all()
    else:
        library.preload(library.names[0])  # after the page is there: importing torch takes a while
    print(f"SCAR studio on {address.replace('0.0.0.0', 'localhost')}", flush=True)
    studio.block_thread()


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
