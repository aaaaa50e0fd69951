"""The studio: SCAR in the browser. The only place that imports gradio."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from scar.errors import InputError
from scar.studio import views
from scar.studio.about import AboutTab
from scar.studio.api import PublicApi
from scar.studio.compare import SIDES, CompareTab
from scar.studio.control import ControlTab
from scar.studio.edit import EditTab
from scar.studio.examples import load_scenes
from scar.studio.guard import Guard
from scar.studio.library import Library
from scar.studio.safety import start_sweeper
from scar.studio.session import SAMPLING, slider_values
from scar.studio.texts import I18N, say, speaks_chinese
from scar.studio.theme import CSS, HEAD, THEME
from scar.studio.workbench import QUIET
from scar.studio.zero_gpu import is_zero_gpu

QUEUE = 64

__all__ = ["Library", "build_studio", "is_zero_gpu", "launch_studio", "start_sweeper"]


def build_studio(
    models: Library | Mapping[str, Any | Callable[[], Any]], assets: Path | None = None
) -> gr.Blocks:
    """The interface over `models`: name -> pipeline, or a function that loads one.

    `assets` is the folder that holds examples/examples.json and MODEL_CARD.md; either may lack.
    """
    library = models if isinstance(models, Library) else Library(models)
    scenes = load_scenes(assets / "examples") if assets else []
    with gr.Blocks(title="SCAR Studio", fill_width=True, delete_cache=(600, 4 * 3600)) as studio:
        with gr.Row(elem_classes="masthead"):
            masthead = gr.HTML(views.masthead())
            badge = gr.HTML(views.badge(library.names[0], None), elem_id="badge")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab(say("Edit"), id="edit"):
                edit = EditTab(library, scenes)
            with gr.Tab(say("Control to image"), id="control"):
                control = ControlTab(library, scenes)
            with gr.Tab(say("Compare"), id="compare"):
                compare = CompareTab(library, scenes)
            with gr.Tab(say("About"), id="about"):
                about = AboutTab(assets / "MODEL_CARD.md" if assets else None)
        PublicApi(library)
        benches = (edit.bench, control.bench)
        sampling = [component for bench in benches for component in bench.panel.sampling]
        welcome = partial(_welcome, library, len(benches))
        studio.load(welcome, None, [badge, *sampling, *compare.guidances], **QUIET)
        for bench in benches:
            bench.chosen.then(
                partial(_badge, library), bench.panel.model, badge, queue=False, **QUIET
            )
        tabs = (edit, control, compare, about)
        static = [masthead, *(part for tab in tabs for part in tab.told())]
        studio.load(partial(_told, masthead, tabs, static), None, static, queue=False, **QUIET)
    studio.queue(max_size=QUEUE, default_concurrency_limit=1, api_open=False)
    return studio


def _told(masthead: gr.HTML, tabs: tuple, static: list) -> Any:
    """What the page holds from the start and the browser cannot translate, where it is English."""
    if not speaks_chinese():
        return [gr.skip()] * len(static)
    updates = {masthead: views.masthead()}
    for tab in tabs:
        updates |= tab.told()
    return updates


def _welcome(library: Library, benches: int) -> list:
    """The badge, and the sampling the first model likes best for every bench and comparison."""
    name = library.names[0]
    try:
        best = library.get(name).defaults
    except InputError:
        return [_badge(library, name), *[gr.skip()] * (len(SAMPLING) * benches + len(SIDES))]
    values = slider_values(best)
    return [
        _badge(library, name),
        *[*values.values()] * benches,
        *[values["guidance"]] * len(SIDES),
    ]


def _badge(library: Library, name: str) -> str:
    """The badge of a model that has been asked for."""
    name = name.strip()
    pipe = library.get(name) if library.is_loaded(name) else None
    return views.badge(name, pipe, library.problem(name), library.may_fetch)


def launch_studio(studio: gr.Blocks, host: str = "0.0.0.0", port: int | None = None) -> str:
    """Serve `studio` with every route it does not need closed; returns the address at once."""
    _, address, _ = studio.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        i18n=I18N,
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
        mcp_server=find_spec("mcp") is not None,
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
