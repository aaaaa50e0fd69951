"""What every tab that runs a model shares: run and stop, stage and status, results and history."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from scar.errors import InputError
from scar.images import open_image
from scar.studio import views
from scar.studio.library import Library
from scar.studio.metadata import read_parameters, save_png
from scar.studio.panel import SettingsPanel
from scar.studio.safety import explain
from scar.studio.session import Progress, Result
from scar.studio.texts import say, tell

HISTORY = 24
QUIET = {"show_progress": "hidden", "api_visibility": "private"}
MODEL = {"concurrency_limit": 1, "concurrency_id": "model"}  # one run at a time per device

LOADING = "Loading the model, once …"

# A click anywhere on a button with data-index sends that index.
SEND_INDEX = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-index]');
  if (button) trigger('select', {index: Number(button.dataset.index)});
});
"""

# On a phone the stage lies below the button that was pressed; it first takes its new shape.
SHOW_STAGE = """() => {
  const stage = document.querySelector('#%s-stage');
  setTimeout(() => stage.scrollIntoView({block: 'nearest', behavior: 'smooth'}), 150);
}"""


@dataclass(frozen=True)
class Run:
    """One finished run in the history: file of the result, file of the source, thumbnail."""

    path: str
    before: str
    thumbnail: str
    label: str


class Workbench:
    """The parts of a tab, each built where the tab wants it, then wired together.

    `start(*inputs)` gives the first updates at once or raises `InputError`; `events(*inputs)` is
    the run itself, which waits in line for the model.
    """

    def __init__(self, library: Library, tab: str):
        self.library, self.tab = library, tab

    def buttons(self, label: str) -> None:
        with gr.Row(elem_classes="run-row"):
            self.run = gr.Button(label, variant="primary", elem_id=f"{self.tab}-run")
            self.stop = gr.Button(
                say("Stop"), variant="stop", visible=False, elem_id=f"{self.tab}-stop"
            )

    def settings(self) -> None:
        self.panel = SettingsPanel(self.library, self.tab)

    def results(self) -> None:
        self.stage = gr.HTML(views.stage_empty(), elem_id=f"{self.tab}-stage")
        self.status = gr.HTML(views.status_idle(), elem_id=f"{self.tab}-status")

    def save_button(self) -> None:
        self.download = gr.DownloadButton(
            say("Download"),
            interactive=False,
            size="md",
            min_width=90,
            elem_id=f"{self.tab}-download",
        )

    def history(self) -> None:
        self.strip = gr.HTML("", elem_id=f"{self.tab}-history", js_on_load=SEND_INDEX)
        self.runs = gr.State([])
        self.latest = gr.State(None)

    def wire(self, triggers: list, start: Callable, events: Callable, inputs: list) -> Any:
        """Connect everything; returns the run, for what should follow its success."""
        outputs = [
            self.stage, self.status, self.run, self.stop, self.download, self.strip, self.runs,
            self.latest, self.panel.seed,
        ]  # fmt: skip

        which = inputs.index(self.panel.model)

        def begin(*values: Any) -> dict:
            ready = self.library.is_loaded(values[which])
            status = views.status_waiting() if ready else views.status_waiting(LOADING)
            try:
                return {**self._busy(), self.status: status, **start(*values)}
            except InputError as error:
                raise toast(error) from None

        def proceed(*values: Any) -> Iterator[dict]:
            *given, runs = values
            yield from self._updates(events(*given), runs)

        began = gr.on(triggers, begin, inputs, outputs, concurrency_limit=None, **QUIET)
        began.success(None, None, None, js=SHOW_STAGE % self.tab, api_visibility="private")
        running = began.success(
            proceed, [*inputs, self.runs], outputs, trigger_mode="once", **MODEL, **QUIET
        )
        # A stopped run counts as failed once the browser has let go of it: only then is the run
        # button back, so that no press of it is lost.
        running.failure(
            lambda: {**self._idle(), self.status: views.status_stopped()}, None, outputs,
            queue=False, **QUIET,
        )  # fmt: skip
        self.stop.click(None, cancels=[running], api_visibility="private")
        self.chosen = self.panel.model.change(
            self._choose, self.panel.model, [*self.panel.sampling, self.status], **MODEL, **QUIET
        )
        return running

    def recalled(self, runs: list[Run], index: int) -> tuple[dict, dict[str, Any]]:
        """Updates that show a past run again, and its parameters; `gr.Error` if it is gone."""
        run = runs[index]
        parameters = read_parameters(run.path)
        if parameters is None or not Path(run.before).exists():
            raise toast(InputError("This result has expired; run it again with its seed."))
        result = Result(open_image(run.path), open_image(run.before), parameters, 0.0, 0)
        updates = {
            self.stage: views.stage_result(result),
            self.status: views.status_idle(run.label),
            self.download: gr.update(value=run.path, interactive=True),
            self.strip: history_strip(runs, index),
            self.latest: run,
            **self.panel.restored(parameters),
        }
        return updates, parameters

    def told(self) -> dict:
        """Updates that put what the page holds from the start into the visitor's language."""
        return {self.stage: views.stage_empty(), self.status: views.status_idle()}

    @property
    def recall_outputs(self) -> list[gr.components.Component]:
        """What `recalled` may update."""
        return [
            self.stage, self.status, self.download, self.strip, self.latest, self.panel.seed,
            self.panel.randomize, *self.panel.sampling,
        ]  # fmt: skip

    def _updates(self, events: Iterator[Progress | Result], runs: list[Run]) -> Iterator[dict]:
        try:
            for event in events:
                if isinstance(event, Result):
                    runs = [_remember(event), *runs][:HISTORY]
                    yield self._finished(event, runs)
                elif event.image is None:
                    yield {self.status: views.status_progress(event)}
                else:
                    yield {
                        self.stage: views.stage_partial(event.image, event),
                        self.status: views.status_progress(event),
                    }
            yield self._idle()
        except Exception as error:
            yield {
                **self._idle(),
                self.stage: views.stage_empty(),
                self.status: views.status_error(explain(error)),
            }
        finally:
            events.close()

    def _finished(self, result: Result, runs: list[Run]) -> dict:
        return {
            self.stage: views.stage_result(result),
            self.status: views.status_done(result),
            self.download: gr.update(value=runs[0].path, interactive=True),
            self.strip: history_strip(runs, 0),
            self.runs: runs,
            self.latest: runs[0],
            self.panel.seed: result.parameters["seed"],
        }

    def _busy(self) -> dict:
        return {self.run: gr.update(visible=False), self.stop: gr.update(visible=True)}

    def _idle(self) -> dict:
        return {self.run: gr.update(visible=True), self.stop: gr.update(visible=False)}

    def _choose(self, name: str) -> dict:
        try:
            updates = self.panel.defaults(name)
        except Exception as error:
            return {self.status: views.status_error(explain(error))}
        return {**updates, self.status: views.status_idle(tell(f"{name} is ready"))}


def toast(error: InputError) -> gr.Error:
    """`error` as a message over the page."""
    return gr.Error(tell(str(error)), title=tell("One thing is missing"), print_exception=False)


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
    seed = tell(f"seed {result.parameters['seed']}")
    return Run(str(path), str(before), views.thumbnail_url(result.image), f"{words} ({seed})")
