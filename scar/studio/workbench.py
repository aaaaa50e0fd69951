"""What every tab that runs a model shares: settings, run and stop, stage, results, history."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from scar.images import InputError, open_image
from scar.studio import views
from scar.studio.library import Library
from scar.studio.metadata import read_parameters, save_png
from scar.studio.safety import explain
from scar.studio.session import RANGES, Progress, Result, check_settings

log = logging.getLogger(__name__)

HISTORY = 24
# A click anywhere on a button with data-index sends that index.
SEND_INDEX = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-index]');
  if (button) trigger('select', {index: Number(button.dataset.index)});
});
"""

# On a phone the stage lies below the button that was pressed.
SHOW_STAGE = """() => {
  document.querySelector('#%s-stage').scrollIntoView({block: 'nearest', behavior: 'smooth'});
}"""


@dataclass(frozen=True)
class Run:
    """One finished run in the history: file of the result, file of the source, thumbnail."""

    path: str
    before: str
    thumbnail: str
    label: str


class Workbench:
    """Built in three places of a tab - `controls`, `results`, `history` - then wired once."""

    def __init__(self, library: Library, name: str):
        self.library, self.name = library, name

    def controls(self, label: str) -> None:
        """Run, Stop and the Advanced group."""
        with gr.Row(elem_classes="run-row"):
            self.run = gr.Button(label, variant="primary", elem_id=f"{self.name}-run")
            self.stop = gr.Button(
                "Stop", variant="stop", visible=False, elem_id=f"{self.name}-stop"
            )
        with gr.Accordion("Advanced", open=False, elem_id=f"{self.name}-advanced"):
            self.model = gr.Dropdown(
                self.library.names,
                value=self.library.names[0],
                label="Model",
                visible=len(self.library.names) > 1,
                elem_id=f"{self.name}-model",
            )
            with gr.Row():
                self.seed = gr.Number(
                    0, label="Seed", precision=0, minimum=0, elem_id=f"{self.name}-seed",
                    info="Same picture, words and seed: same result.",
                )  # fmt: skip
                self.randomize = gr.Checkbox(
                    True, label="New seed every run", elem_id=f"{self.name}-randomize"
                )
            self.guidance = self._slider(
                "guidance",
                3.0,
                0.1,
                "Guidance",
                "Changes too little? Raise. Too much? Lower.",
            )
            self.temperature = self._slider(
                "temperature", 1.0, 0.05, "Temperature", "Lower is safer, higher more varied."
            )
            with gr.Row():
                self.top_k = gr.Number(
                    0, label="Top k", precision=0, minimum=0, elem_id=f"{self.name}-top-k",
                    info="Draw from the k likeliest tokens; 0 means all.",
                )  # fmt: skip
                self.top_p = self._slider(
                    "top_p", 1.0, 0.01, "Top p", "Draw from the likeliest tokens that sum to p."
                )
            with gr.Row():
                self.variants = self._slider(
                    "variants", 1, 1, "Variants", "Pictures in one run, from seeds that follow."
                )
                self.preview = gr.Checkbox(
                    True, label="Live preview", elem_id=f"{self.name}-preview"
                )

    def results(self) -> None:
        """The stage, its status line and what can be done with a result."""
        self.stage = gr.HTML(views.stage_empty(), elem_id=f"{self.name}-stage")
        self.status = gr.HTML(views.status_idle(), elem_id=f"{self.name}-status")

    def save_button(self) -> None:
        """Download of the latest result, with its parameters inside."""
        self.download = gr.DownloadButton(
            "Download",
            interactive=False,
            size="md",
            min_width=90,
            elem_id=f"{self.name}-download",
        )

    def history(self) -> None:
        """The strip of past runs."""
        self.strip = gr.HTML(
            "", elem_id=f"{self.name}-history", js_on_load=SEND_INDEX, elem_classes="history"
        )
        self.runs = gr.State([])
        self.latest = gr.State(None)

    @property
    def settings(self) -> list[gr.components.Component]:
        """Inputs for `settings_from`, in its order."""
        return [
            self.model, self.seed, self.randomize, self.guidance, self.temperature, self.top_k,
            self.top_p, self.variants, self.preview,
        ]  # fmt: skip

    @property
    def outputs(self) -> list[gr.components.Component]:
        """Everything a run changes."""
        return [
            self.stage, self.status, self.run, self.stop, self.download, self.strip, self.runs,
            self.latest, self.seed,
        ]  # fmt: skip

    def show(self, events: Iterator[Progress | Result], runs: list[Run], unit: str) -> Iterator:
        """Turn the events of a run into updates of `outputs`; failures become one sentence."""
        try:
            for event in events:
                if isinstance(event, Result):
                    runs = [_remember(event), *runs][:HISTORY]
                    yield self._finished(event, runs)
                elif event.image is None:
                    yield {self.status: views.status_progress(event, unit)}
                else:
                    yield {
                        self.stage: views.stage_partial(event.image, event),
                        self.status: views.status_progress(event, unit),
                    }
            yield self.idle()
        except Exception as error:
            yield {**self.idle(), self.status: views.status_error(explain(error))}
        finally:
            events.close()

    def busy(self) -> dict:
        return {self.run: gr.update(visible=False), self.stop: gr.update(visible=True)}

    def idle(self) -> dict:
        return {self.run: gr.update(visible=True), self.stop: gr.update(visible=False)}

    def wire(self, triggers: list, start: Callable, run: Callable, inputs: list) -> Any:
        """Connect run and stop. `start(*inputs)` answers at once; `run(*inputs)` waits in line."""
        started = gr.on(
            triggers, start, inputs, self.outputs, concurrency_limit=None, trigger_mode="once",
            show_progress="hidden", api_visibility="private",
        )  # fmt: skip
        started.success(None, None, None, js=SHOW_STAGE % self.name, api_visibility="private")
        running = started.success(
            run, [*inputs, self.runs], self.outputs, concurrency_limit=1, concurrency_id="model",
            show_progress="hidden", trigger_mode="once", api_visibility="private",
        )  # fmt: skip
        running.failure(
            lambda: {**self.idle(), self.status: views.status_idle()},
            None, self.outputs, queue=False, show_progress="hidden", api_visibility="private",
        )  # fmt: skip
        self.stop.click(
            lambda: {**self.idle(), self.status: views.status_stopped()},
            None, self.outputs, cancels=[running], queue=False, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip
        return running

    def _finished(self, result: Result, runs: list[Run]) -> dict:
        return {
            self.stage: views.stage_result(result),
            self.status: views.status_done(result),
            self.download: gr.update(value=runs[0].path, interactive=True),
            self.strip: history_strip(runs, 0),
            self.runs: runs,
            self.latest: runs[0],
            self.seed: result.parameters["seed"],
        }

    def _slider(self, name: str, value: float, step: float, label: str, info: str) -> gr.Slider:
        lowest, highest, _ = RANGES[name]
        return gr.Slider(
            lowest, highest, value=value, step=step, label=label, info=info,
            elem_id=f"{self.name}-{name.replace('_', '-')}",
        )  # fmt: skip


def settings_from(
    seed: Any, randomize: bool, guidance: Any, temperature: Any, top_k: Any, top_p: Any,
    variants: Any, preview: Any,
) -> Any:  # fmt: skip
    """Checked settings from the values of `Workbench.settings` after the model."""
    return check_settings(
        seed=None if randomize else seed, guidance=guidance, temperature=temperature, top_k=top_k,
        top_p=top_p, variants=variants, preview=preview,
    )  # fmt: skip


def recall(run: Run) -> Result:
    """The result of a past run, read back from its files; `InputError` if they are gone."""
    parameters = read_parameters(run.path)
    if parameters is None:
        raise InputError("This result has expired on the server; run it again with its seed.")
    return Result(open_image(run.path), open_image(run.before), parameters, 0.0, 0)


def history_strip(runs: list[Run], selected: int | None) -> str:
    return views.strip([(run.thumbnail, run.label) for run in runs], selected)


def results_folder() -> Path:
    """Where results lie until they are swept."""
    root = os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio"
    return Path(root) / "results"


def _remember(result: Result) -> Run:
    words = str(result.parameters.get("instruction", result.parameters.get("prompt", "")))
    path = save_png(result.image, result.parameters, results_folder())
    before = save_png(result.before, {"task": "source"}, results_folder())
    label = f"{words} (seed {result.parameters['seed']})"
    return Run(str(path), str(before), views.thumbnail_url(result.image), label)
