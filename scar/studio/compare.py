"""The Compare tab: one picture, one sentence and one seed through two models or two guidances."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from scar.errors import InputError
from scar.studio import views
from scar.studio.examples import Scene
from scar.studio.library import Library
from scar.studio.safety import SafeImage, Upload, explain
from scar.studio.session import (
    MAX_PROMPT,
    RANGES,
    Result,
    check_prompt,
    check_settings,
    slider_values,
)
from scar.studio.texts import say, tell
from scar.studio.workbench import LOADING, MODEL, QUIET, SEND_INDEX, results_folder, toast

SIDES = ("left", "right")
ALT = "The picture both sides edit"


class CompareTab:
    """Builds the tab inside the current `gr.Blocks` and wires its events."""

    def __init__(self, library: Library, scenes: list[Scene]):
        self.library, self.scenes = library, scenes
        with gr.Row(elem_classes="workspace"):
            with gr.Column(min_width=320, elem_classes="pane"):
                self._inputs()
            with gr.Column(min_width=320, elem_classes="pane"):
                self._words()
        self.models, self.guidances, self.stages, self.statuses = [], [], [], []
        with gr.Row(elem_classes="workspace"):
            for index, side in enumerate(SIDES):
                with gr.Column(min_width=320, elem_classes="pane"):
                    self._side(index, side)
        self._wire()

    def _inputs(self) -> None:
        self.source = SafeImage(
            label=say("Picture"), sources=["upload", "clipboard"], height=240, buttons=[],
            elem_id="compare-source", alt_text=ALT,
            placeholder=say("Drop a picture here\nor click to choose one"),
        )  # fmt: skip
        self.examples = gr.HTML(
            views.scene_strip(self.scenes), js_on_load=SEND_INDEX, elem_id="compare-examples",
            visible=bool(self.scenes),
        )  # fmt: skip

    def _words(self) -> None:
        self.instruction = gr.Textbox(
            label=say("What should change?"), placeholder=say("make it night"), lines=1,
            max_lines=4, max_length=MAX_PROMPT, elem_id="compare-instruction",
        )  # fmt: skip
        self.seed = gr.Number(
            0, label=say("Seed of both sides"), precision=0, minimum=0, elem_id="compare-seed"
        )
        self.run = gr.Button(say("Compare"), variant="primary", elem_id="compare-run")
        self.stop = gr.Button(say("Stop"), variant="stop", visible=False, elem_id="compare-stop")

    def _side(self, index: int, side: str) -> None:
        names = self.library.names
        allowed = RANGES["guidance"]
        with gr.Row():
            model = gr.Dropdown(
                names, value=names[min(index, len(names) - 1)], label=say(f"Model, {side}"),
                allow_custom_value=self.library.find is not None, min_width=140,
                elem_id=f"compare-model-{side}",
            )  # fmt: skip
            guidance = gr.Slider(
                *allowed.usual, value=3.0, step=allowed.step, label=say(f"Guidance, {side}"),
                min_width=140, elem_id=f"compare-guidance-{side}",
            )  # fmt: skip
        self.models.append(model)
        self.guidances.append(guidance)
        self.stages.append(gr.HTML(views.stage_empty(), elem_id=f"compare-stage-{side}"))
        self.statuses.append(gr.HTML(views.status_idle(), elem_id=f"compare-status-{side}"))

    def told(self) -> dict:
        """Updates that put what the page holds from the start into the visitor's language."""
        return {
            **dict.fromkeys(self.stages, views.stage_empty()),
            **dict.fromkeys(self.statuses, views.status_idle()),
            self.source: gr.update(alt_text=tell(ALT)),
            self.examples: views.scene_strip(self.scenes),
        }

    def _wire(self) -> None:
        outputs = [*self.stages, *self.statuses, self.run, self.stop]
        inputs = [self.source, self.instruction, self.seed, *self.models, *self.guidances]
        began = gr.on(
            [self.run.click, self.instruction.submit], self._start, inputs, outputs,
            concurrency_limit=None, **QUIET,
        )  # fmt: skip
        running = began.success(
            self._events, inputs, outputs, trigger_mode="once", **MODEL, **QUIET
        )
        running.failure(
            lambda: {**self._idle(), **dict.fromkeys(self.statuses, views.status_stopped())},
            None, outputs, queue=False, **QUIET,
        )  # fmt: skip
        self.stop.click(None, cancels=[running], api_visibility="private")
        for model, *told in zip(self.models, self.guidances, self.statuses, strict=True):
            model.change(self._choose, model, told, **MODEL, **QUIET)
        self.examples.select(self._pick, None, [self.source, self.instruction], **QUIET)

    def _start(self, upload: Upload | None, instruction: str, *others: Any) -> dict:
        try:
            if upload is None:
                raise InputError("Please choose a picture first: upload one or take an example.")
            waiting = views.stage_waiting(upload.image)
            check_prompt(instruction, "Please say what should change.")
        except InputError as error:
            raise toast(error) from None
        return {
            self.run: gr.update(visible=False),
            self.stop: gr.update(visible=True),
            **dict.fromkeys(self.stages, waiting),
            **dict.fromkeys(self.statuses, views.status_waiting("Waiting for its turn …")),
        }

    def _events(self, upload: Upload, instruction: str, seed: Any, *sides: Any) -> Iterator[dict]:
        models, guidances = sides[:2], sides[2:]
        for index, (model, guidance) in enumerate(zip(models, guidances, strict=True)):
            stage, status = self.stages[index], self.statuses[index]
            try:
                settings = check_settings(seed=seed or 0, guidance=guidance)
                if not self.library.is_loaded(model):
                    yield {status: views.status_waiting(LOADING)}
                device = self.library.get(model).device
                forget_peak(device)
                for event in self.library.edit(model, upload.image, instruction, settings):
                    if isinstance(event, Result):
                        yield {
                            stage: views.stage_result(event),
                            status: views.status_done(event, peak(device)),
                        }
                    elif event.image is not None:
                        yield {
                            stage: views.stage_partial(event.image, event),
                            status: views.status_progress(event),
                        }
            except Exception as error:
                yield {stage: views.stage_empty(), status: views.status_error(explain(error))}
        yield self._idle()

    def _idle(self) -> dict:
        return {self.run: gr.update(visible=True), self.stop: gr.update(visible=False)}

    def _choose(self, name: str) -> list:
        try:
            best = self.library.get(name).defaults
        except InputError as error:
            return [gr.skip(), views.status_error(explain(error))]
        return [slider_values(best)["guidance"], views.status_idle(tell(f"{name} is ready"))]

    def _pick(self, event: gr.EventData) -> list:
        scene = self.scenes[event.index]
        return [scene.publish(results_folder()), scene.instructions[0]]


def forget_peak(device: Any) -> None:
    """Count the peak anew, where the system can: on a GPU and on Linux."""
    if str(device).startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: Any) -> str:
    """The most memory in use since `forget_peak`, in words."""
    if str(device).startswith("cuda"):
        import torch

        return f"GPU memory peak {torch.cuda.max_memory_allocated(device) / 2**20:.0f} MB"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes on Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"memory peak of the program {peak / 2**20:.0f} MB"
