"""The Edit tab: a picture, a sentence, and the edited picture appearing token by token."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import gradio as gr

from scar.errors import InputError
from scar.studio import views
from scar.studio.builder import SceneBuilder
from scar.studio.examples import Scene
from scar.studio.library import Library
from scar.studio.painter import painter, region_from
from scar.studio.safety import SafeImage, Upload
from scar.studio.session import MAX_PROMPT, check_prompt
from scar.studio.texts import say, tell
from scar.studio.workbench import QUIET, SEND_INDEX, Run, Workbench, results_folder, toast

SUGGESTIONS = ["add a red apple on the left", "make it night", "change the place to a beach"]

ALT = "The picture to edit"

Chain = tuple[list[str], int]  # files of the sources, and which one is shown


class EditTab:
    """Builds the tab inside the current `gr.Blocks` and wires its events."""

    def __init__(self, library: Library, scenes: list[Scene]):
        self.library, self.scenes = library, scenes
        self.bench = Workbench(library, "edit")
        with gr.Row(elem_classes="workspace"):
            with gr.Column(min_width=320, elem_classes="pane"):
                self._inputs()
                self.bench.buttons(say("Edit the picture"))
                self._region()
                self.bench.settings()
            with gr.Column(min_width=320, elem_classes="pane"):
                self._outputs()
        self._wire()

    def _inputs(self) -> None:
        self.source = SafeImage(
            label=say("Picture"), sources=["upload", "clipboard"], height=300,
            elem_id="edit-source", buttons=["fullscreen"], alt_text=ALT,
            placeholder=say("Drop a picture here\nor click to choose one"),
        )  # fmt: skip
        with gr.Row(elem_classes="examples-row", visible=bool(self.scenes)):
            self.examples = gr.HTML(
                views.scene_strip(self.scenes), js_on_load=SEND_INDEX, elem_id="edit-examples"
            )
            self.surprise = gr.Button(
                say("Surprise me"), size="sm", min_width=110, scale=0, elem_id="edit-surprise"
            )
        self.builder = SceneBuilder("edit")
        self.instruction = gr.Textbox(
            label=say("What should change?"), placeholder=say("replace the dog with a cat"),
            lines=1, max_lines=4, max_length=MAX_PROMPT, elem_id="edit-instruction",
        )  # fmt: skip
        self.chips = gr.HTML(views.chips(SUGGESTIONS), js_on_load=SEND_INDEX, elem_id="edit-chips")
        self.suggestions = gr.State(SUGGESTIONS)

    def _region(self) -> None:
        with gr.Accordion(say("Region"), open=False, elem_id="edit-region-group"):
            gr.Markdown(say("Paint what may change; outside, every pixel stays as it is."))
            self.region = painter("edit-source", "edit-region")

    def _outputs(self) -> None:
        self.bench.results()
        with gr.Row(elem_classes="actions"):
            self.reuse = _action(say("Use as input"), "edit-reuse")
            self.undo = _action(say("Undo"), "edit-undo")
            self.redo = _action(say("Redo"), "edit-redo")
            self.bench.save_button()
        self.bench.history()
        self.chain = gr.State(([], 0))

    def told(self) -> dict:
        """Updates that put what the page holds from the start into the visitor's language."""
        return {
            **self.bench.told(),
            self.source: gr.update(alt_text=tell(ALT)),
            self.examples: views.scene_strip(self.scenes),
            self.chips: views.chips(SUGGESTIONS),
        }

    def _wire(self) -> None:
        bench = self.bench
        running = bench.wire(
            [bench.run.click, self.instruction.submit],
            self._start,
            self._events,
            [self.source, self.instruction, self.region, bench.panel.model, *bench.panel.inputs],
        )
        running.success(
            lambda latest: gr.update(interactive=latest is not None),
            bench.latest, self.reuse, queue=False, **QUIET,
        )  # fmt: skip
        chained = [self.source, self.chain, self.undo, self.redo]
        scened = [*chained, self.instruction, self.chips, self.suggestions]
        self.examples.select(self._pick, None, scened, **QUIET)
        self.surprise.click(self._surprise, None, scened, **QUIET)
        self.builder.wire(self._scene, scened)
        self.chips.select(self._suggest, self.suggestions, self.instruction, **QUIET)
        recalled = [*chained, self.instruction, *bench.recall_outputs]
        self.source.upload(self._uploaded, self.source, recalled, **QUIET)
        bench.strip.select(self._recall, [bench.runs, self.chain], recalled, **QUIET)
        self.reuse.click(
            lambda latest, chain: self._show(_extended(chain, latest.path)),
            [bench.latest, self.chain], chained, **QUIET,
        )  # fmt: skip
        self.undo.click(lambda c: self._show((c[0], c[1] - 1)), self.chain, chained, **QUIET)
        self.redo.click(lambda c: self._show((c[0], c[1] + 1)), self.chain, chained, **QUIET)

    def _start(self, upload: Upload | None, instruction: str, *others: Any) -> dict:
        if upload is None:
            raise InputError("Please choose a picture first: upload one or take an example.")
        check_prompt(instruction, "Please say what should change.")
        return {self.bench.stage: views.stage_waiting(upload.image)}

    def _events(
        self, upload: Upload, instruction: str, region: Any, model: str, *sampling: Any
    ) -> Iterator[Any]:
        settings, mask = self.bench.panel.settings(*sampling), region_from(region)
        yield from self.library.edit(model, upload.image, instruction, settings, mask)

    def _pick(self, event: gr.EventData) -> dict:
        return self._scene(self.scenes[event.index])

    def _surprise(self) -> dict:
        scene = random.choice(self.scenes)
        return {**self._scene(scene), self.instruction: random.choice(scene.instructions)}

    def _scene(self, scene: Scene) -> dict:
        sentences = scene.instructions[:4]
        return {
            **self._show(([scene.publish(results_folder())], 0)),
            self.chips: views.chips(sentences),
            self.suggestions: sentences,
        }

    def _suggest(self, sentences: list[str], event: gr.EventData) -> str:
        return sentences[event.index]

    def _uploaded(self, upload: Upload) -> dict:
        if upload.problem:
            raise toast(InputError(upload.problem))
        updates = self._show(([upload.path], 0))
        del updates[self.source]  # it is shown already
        words = (upload.parameters or {}).get("instruction")
        if isinstance(words, str) and (restored := self.bench.panel.restored(upload.parameters)):
            note = self.bench.panel.restored_note(upload.parameters)
            gr.Info(note, duration=4, title=tell("Restored"))
            updates |= {self.instruction: words[:MAX_PROMPT], **restored}
        return updates

    def _recall(self, runs: list[Run], chain: Chain, event: gr.EventData) -> dict:
        updates, parameters = self.bench.recalled(runs, event.index)
        source = self._show(_extended(chain, runs[event.index].before))
        return {**updates, **source, self.instruction: parameters["instruction"]}

    def _show(self, chain: Chain) -> dict:
        paths, position = chain
        return {
            self.source: paths[position],
            self.chain: chain,
            self.undo: gr.update(interactive=position > 0),
            self.redo: gr.update(interactive=position < len(paths) - 1),
        }


def _action(label: str, elem_id: str) -> gr.Button:
    return gr.Button(label, size="md", min_width=70, interactive=False, elem_id=elem_id)


def _extended(chain: Chain, path: str) -> Chain:
    """The chain with `path` as its newest source; what was undone is forgotten."""
    paths, position = chain
    if paths and paths[position] == path:
        return chain
    paths = [*paths[: position + 1], path]
    return paths, len(paths) - 1
