"""The Edit tab: a picture, a sentence, and the edited picture appearing token by token."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import gradio as gr

from scar.images import InputError
from scar.studio import views
from scar.studio.examples import Scene
from scar.studio.library import Library
from scar.studio.painter import painter, region_from
from scar.studio.safety import SafeImage, Upload
from scar.studio.session import MAX_PROMPT, check_prompt
from scar.studio.workbench import SEND_INDEX, Run, Workbench, history_strip, recall, settings_from

SUGGESTIONS = ["add a red apple on the left", "make it night", "change the place to a beach"]


class EditTab:
    """Builds the tab inside the current `gr.Blocks` and wires its events."""

    def __init__(self, library: Library, scenes: list[Scene]):
        self.library, self.scenes = library, scenes
        self.bench = Workbench(library, "edit")
        with gr.Row(elem_classes="workspace"):
            with gr.Column(min_width=320, elem_classes="pane"):
                self._inputs()
                self.bench.controls("Edit the picture")
            with gr.Column(min_width=320, elem_classes="pane"):
                self._outputs()
        self._wire()

    def _inputs(self) -> None:
        self.source = SafeImage(
            label="Picture", sources=["upload", "clipboard"], height=300, elem_id="edit-source",
            buttons=["fullscreen"], alt_text="The picture to edit",
            placeholder="Drop a picture here\nor click to choose one",
        )  # fmt: skip
        pictures = [(views.thumbnail_url(scene.image), scene.caption) for scene in self.scenes]
        with gr.Row(elem_classes="examples-row", visible=bool(self.scenes)):
            self.examples = gr.HTML(
                views.strip(pictures), js_on_load=SEND_INDEX, elem_id="edit-examples"
            )
            self.surprise = gr.Button(
                "Surprise me", size="sm", min_width=110, scale=0, elem_id="edit-surprise"
            )
        self.instruction = gr.Textbox(
            label="What should change?", placeholder="replace the dog with a cat", lines=1,
            max_lines=4, max_length=MAX_PROMPT, elem_id="edit-instruction", submit_btn=False,
        )  # fmt: skip
        self.chips = gr.HTML(views.chips(SUGGESTIONS), js_on_load=SEND_INDEX, elem_id="edit-chips")
        self.suggestions = gr.State(SUGGESTIONS)
        with gr.Accordion("Region", open=False, elem_id="edit-region-group"):
            gr.Markdown("Paint where the edit may happen; outside, every pixel stays as it is.")
            self.region = painter("edit-source", "edit-region")

    def _outputs(self) -> None:
        self.bench.results()
        with gr.Row(elem_classes="actions"):
            self.reuse = _action("Use as input", "edit-reuse")
            self.undo = _action("Undo", "edit-undo")
            self.redo = _action("Redo", "edit-redo")
            self.bench.save_button()
        self.bench.history()
        self.chain = gr.State(([], 0))  # files of the sources, and which one is shown

    def _wire(self) -> None:
        bench, quick = self.bench, {"show_progress": "hidden", "api_visibility": "private"}
        inputs = [self.source, self.instruction, self.region, *bench.settings]
        running = bench.wire(
            [bench.run.click, self.instruction.submit], self._start, self._run, inputs
        )
        running.success(
            lambda latest: gr.update(interactive=latest is not None),
            bench.latest, self.reuse, queue=False, **quick,
        )  # fmt: skip
        chain_outputs = [self.source, self.chain, self.undo, self.redo]
        scene_outputs = [*chain_outputs, self.instruction, self.chips, self.suggestions]
        self.examples.select(self._pick, None, scene_outputs, **quick)
        self.surprise.click(self._surprise, None, scene_outputs, **quick)
        self.chips.select(self._suggest, self.suggestions, self.instruction, **quick)
        restored = [
            self.instruction, bench.seed, bench.randomize, bench.guidance, bench.temperature,
            bench.top_k, bench.top_p,
        ]  # fmt: skip
        self.source.upload(self._uploaded, self.source, [*chain_outputs[1:], *restored], **quick)
        self.reuse.click(
            lambda latest, chain: _show(_extended(chain, latest.path)),
            [bench.latest, self.chain], chain_outputs, **quick,
        )  # fmt: skip
        self.undo.click(lambda c: _show((c[0], c[1] - 1)), self.chain, chain_outputs, **quick)
        self.redo.click(lambda c: _show((c[0], c[1] + 1)), self.chain, chain_outputs, **quick)
        bench.strip.select(
            self._recall,
            [bench.runs, self.chain],
            [*chain_outputs, *restored, bench.stage, bench.status, bench.download, bench.strip,
             bench.latest],
            **quick,
        )  # fmt: skip

    def _start(self, upload: Upload | None, instruction: str, *others: Any) -> dict:
        bench = self.bench
        try:
            _checked(upload, instruction)
        except InputError as error:
            raise _toast(error) from None
        return {
            **bench.busy(),
            bench.stage: views.stage_waiting(upload.image),
            bench.status: views.status_waiting(),
        }

    def _run(
        self, upload: Upload, instruction: str, region: Any, model: str, *rest: Any
    ) -> Iterator[dict]:
        *settings, runs = rest

        def events() -> Iterator[Any]:
            _checked(upload, instruction)
            checked = settings_from(*settings)
            mask = region_from(region)
            yield from self.library.edit(model, upload.image, instruction, checked, mask)

        yield from self.bench.show(events(), runs, "token")

    def _pick(self, event: gr.EventData) -> list:
        return self._scene(self.scenes[event.index], gr.skip())

    def _surprise(self) -> list:
        scene = random.choice(self.scenes)
        return self._scene(scene, random.choice(scene.instructions))

    def _scene(self, scene: Scene, instruction: Any) -> list:
        sentences = scene.instructions[:4]
        return [
            *_show(([scene.path], 0)), instruction, views.chips(sentences), sentences,
        ]  # fmt: skip

    def _suggest(self, sentences: list[str], event: gr.EventData) -> str:
        return sentences[event.index]

    def _uploaded(self, upload: Upload) -> list:
        chain = ([upload.path], 0)
        steps = [chain, gr.update(interactive=False), gr.update(interactive=False)]
        if upload.parameters is None or "instruction" not in upload.parameters:
            return [*steps, *[gr.skip()] * 7]
        gr.Info("The settings inside this picture were restored.", duration=4)
        return [*steps, *_restored(upload.parameters)]

    def _recall(self, runs: list[Run], chain: tuple, event: gr.EventData) -> list:
        run = runs[event.index]
        try:
            result = recall(run)
        except InputError as error:
            raise _toast(error) from None
        return [
            *_show(_extended(chain, run.before)),
            *_restored(result.parameters),
            views.stage_result(result),
            views.status_idle(run.label),
            gr.update(value=run.path, interactive=True),
            history_strip(runs, event.index),
            run,
        ]


def _action(label: str, elem_id: str) -> gr.Button:
    return gr.Button(label, size="md", min_width=70, interactive=False, elem_id=elem_id)


def _checked(upload: Upload | None, instruction: str) -> None:
    if upload is None:
        raise InputError("Please choose a picture first: upload one or take an example.")
    check_prompt(instruction, "Please say what should change.")


def _toast(error: InputError) -> gr.Error:
    return gr.Error(str(error), title="One thing is missing", print_exception=False)


def _extended(chain: tuple[list[str], int], path: str) -> tuple[list[str], int]:
    """The chain with `path` as its newest source; what was undone is forgotten."""
    paths, position = chain
    if paths and paths[position] == path:
        return chain
    paths = [*paths[: position + 1], path]
    return paths, len(paths) - 1


def _show(chain: tuple[list[str], int]) -> list:
    paths, position = chain
    undo = gr.update(interactive=position > 0)
    redo = gr.update(interactive=position < len(paths) - 1)
    return [paths[position], chain, undo, redo]


def _restored(parameters: dict[str, Any]) -> list:
    """Updates of instruction, seed, randomize, guidance, temperature, top_k and top_p."""
    names = ("guidance", "temperature", "top_k", "top_p")
    return [
        parameters["instruction"], parameters["seed"], False, *[parameters[n] for n in names],
    ]  # fmt: skip
