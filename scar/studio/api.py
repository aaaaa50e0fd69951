"""The public endpoints: `edit`, `generate` and `preprocess`, for gradio_client, over HTTP, and as
MCP tools where the package `mcp` is there; a tool takes its pictures as data URLs.

They are wired to components that are never shown, so that uploads pass the same checks and calls
wait in the same line as those of the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gradio as gr

from preprocessors import named, preprocess
from scar.config import class_or_words
from scar.errors import InputError
from scar.images import open_map, open_mask
from scar.studio.library import Library
from scar.studio.metadata import save_png
from scar.studio.safety import SafeImage, Upload, explain
from scar.studio.session import RANGES, Progress, Result, bounded, check_settings
from scar.studio.workbench import results_folder

MAP_SIDE = 512  # a detector never sees a longer side


def _with_ranges(endpoint: Callable) -> Callable:
    """The endpoint with the allowed ranges in its docstring, which programs are shown."""
    endpoint.__doc__ = endpoint.__doc__.format(**RANGES)
    return endpoint


class PublicApi:
    """Adds the endpoints to the current `gr.Blocks`."""

    def __init__(self, library: Library):
        self.library = library
        with gr.Row(visible=False):
            image = SafeImage(label="image")
            words = gr.Textbox(label="words")
            region = SafeImage(label="region")
            detector = gr.Textbox("canny", label="detector")
            sampling = [
                gr.Textbox(library.names[0], label="model"),
                gr.Number(None, label="seed"),
                gr.Number(None, label="guidance"),
                gr.Number(None, label="temperature"),
                gr.Number(None, label="top_k"),
                gr.Number(None, label="top_p"),
            ]
            result = gr.Image(label="result", format="png")
            parameters = gr.JSON(label="parameters")
            run = gr.Button()
        model = {"concurrency_limit": 1, "concurrency_id": "model"}
        gr.on(
            [run.click], self.edit, [image, words, region, *sampling], [result, parameters],
            api_name="edit", **model,
        )  # fmt: skip
        gr.on(
            [run.click], self.generate, [image, words, *sampling], [result, parameters],
            api_name="generate", **model,
        )  # fmt: skip
        gr.on([run.click], self.draw_map, [image, detector], result, api_name="preprocess")

    @_with_ranges
    def edit(
        self, image: Upload, instruction: str, region: Upload | None = None, model: str = "",
        seed: float | None = None, guidance: float | None = None,
        temperature: float | None = None, top_k: float | None = None, top_p: float | None = None,
    ) -> Iterator:  # fmt: skip
        """Edit a picture with one sentence; streams partial pictures, the last one is the result.

        Args:
            image: PNG, JPEG or WEBP of at most 10 MB.
            instruction: what should change, at most 200 characters.
            region: optional picture, white where the edit may happen, or transparent where not.
            model: name of the model; empty for the first one.
            seed: {seed}, for a repeatable result; none draws one.
            guidance: {guidance}; higher follows the words more closely; as all below, none for what
                the model likes best.
            temperature: {temperature}; lower is safer.
            top_k: {top_k}; draw from the k likeliest tokens, 0 for all.
            top_p: {top_p}; draw from the likeliest tokens that sum to p.
        """

        def events() -> Iterator[Any]:
            settings = check_settings(
                seed=seed, guidance=guidance, temperature=temperature, top_k=top_k, top_p=top_p
            )
            picture = _given(image).image
            mask = region.read(partial(open_mask, size=picture.size)) if region else None
            yield from self.library.edit(self._name(model), picture, instruction, settings, mask)

        yield from _answers(events())

    @_with_ranges
    def generate(
        self, control_map: Upload, prompt: str, model: str = "", seed: float | None = None,
        guidance: float | None = None, temperature: float | None = None,
        top_k: float | None = None, top_p: float | None = None,
    ) -> Iterator:  # fmt: skip
        """Make a picture from a control map and a sentence; streams like `edit`.

        Args:
            control_map: edges, depth, a sketch or another map, as `preprocess` draws them.
            prompt: what the picture should show, or the number of a class.
            model: name of the model; empty for the first one.
            seed: {seed}, for a repeatable result; none draws one.
            guidance: {guidance}; as all below, none for what the model likes best.
            temperature: {temperature}; lower is safer.
            top_k: {top_k}; draw from the k likeliest tokens, 0 for all.
            top_p: {top_p}; draw from the likeliest tokens that sum to p.
        """

        def events() -> Iterator[Any]:
            settings = check_settings(
                seed=seed, guidance=guidance, temperature=temperature, top_k=top_k, top_p=top_p
            )
            words = class_or_words(prompt)
            picture = _given(control_map).read(open_map)
            yield from self.library.generate(self._name(model), picture, words, settings)

        yield from _answers(events())

    def draw_map(self, image: Upload, detector: str = "canny"):
        """Draw a control map from a picture.

        Args:
            image: PNG, JPEG or WEBP of at most 10 MB.
            detector: canny, depth, hed, sketch or lineart.
        """
        try:
            picture = bounded(_given(image).read(named(detector).open), MAP_SIDE)
            drawn = preprocess(detector, picture)
            return str(save_png(drawn, {"task": "map"}, results_folder()))
        except Exception as error:
            raise gr.Error(explain(error), print_exception=False) from None

    def _name(self, model: str) -> str:
        return model or self.library.names[0]


def _given(upload: Upload | None) -> Upload:
    if upload is None:
        raise InputError("Please send a picture.")
    return upload


def _answers(events: Iterator[Progress | Result]) -> Iterator:
    try:
        for event in events:
            if isinstance(event, Result):
                path = save_png(event.image, event.parameters, results_folder())
                yield str(path), event.parameters
            elif event.image is not None:
                yield event.image, {"step": event.step, "total": event.total}
    except Exception as error:
        raise gr.Error(explain(error), print_exception=False) from None
    finally:
        events.close()
