"""The studio: SCAR in the browser. The only place that imports gradio."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from scar.studio.api import PublicApi
from scar.studio.edit import EditTab
from scar.studio.examples import load_scenes
from scar.studio.guard import Guard
from scar.studio.library import Library
from scar.studio.theme import CSS, HEAD, THEME
from scar.studio.workbench import results_folder

QUEUE = 64

__all__ = ["Library", "build_studio", "launch_studio"]


def build_studio(
    models: Library | Mapping[str, Any | Callable[[], Any]], assets: Path | None = None
) -> gr.Blocks:
    """The interface over `models`: name -> pipeline, or a function that loads one.

    `assets` is the folder that holds examples/examples.json and MODEL_CARD.md; either may lack.
    """
    library = models if isinstance(models, Library) else Library(models)
    scenes = load_scenes(assets / "examples", results_folder()) if assets else []
    with gr.Blocks(title="SCAR Studio", fill_width=True, delete_cache=(600, 4 * 3600)) as studio:
        gr.HTML(
            '<header class="masthead"><h1>SCAR</h1>'
            "<p>Say what should change. Watch it happen.</p></header>"
        )
        with gr.Tabs(elem_id="tabs"), gr.Tab("Edit", id="edit"):
            EditTab(library, scenes)
        PublicApi(library)
    studio.queue(max_size=QUEUE, default_concurrency_limit=1, api_open=False)
    return studio


def launch_studio(
    studio: gr.Blocks, host: str = "0.0.0.0", port: int | None = None, block: bool = True
) -> str:
    """Serve `studio` with every route it does not need closed; returns the local address."""
    _, address, _ = studio.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=not block,
        quiet=True,
        theme=THEME,
        css=CSS,
        head=HEAD,
        footer_links=["api", "settings"],
        share=False,
        max_file_size="10mb",
        allowed_paths=[],
        blocked_paths=[str(Path(__file__).parents[2])],
        show_error=False,
        strict_cors=True,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        pwa=False,
        max_threads=8,
        state_session_capacity=200,
        app_kwargs={
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
            "middleware": [Middleware(Guard)],
        },
    )
    return address
