"""The Control tab: a picture becomes a map, and the map with some words a new picture."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import gradio as gr
from PIL import Image

from preprocessors import PREPROCESSORS, named, preprocess
from scar.errors import InputError
from scar.studio import views
from scar.studio.builder import SceneBuilder
from scar.studio.examples import Scene
from scar.studio.library import Library
from scar.studio.metadata import save_png
from scar.studio.safety import SafeImage, Upload, explain
from scar.studio.session import MAX_PROMPT, check_prompt
from scar.studio.texts import say, tell
from scar.studio.workbench import QUIET, SEND_INDEX, Run, Workbench, results_folder

MAP_SIDE = 512  # longer side of a map
LABELS = {
    "canny": "Canny",
    "depth": "Depth",
    "hed": "HED",
    "sketch": "Sketch",
    "lineart": "Lineart",
    "none": "As it is",
}
SENTENCE, CLASS = "Sentence", "Class"
PICTURE_ALT = "The picture a map is drawn from"
MAP_ALT = "The control map the new picture will follow"


class ControlTab:
    """Builds the tab inside the current `gr.Blocks` and wires its events."""

    def __init__(self, library: Library, scenes: list[Scene]):
        self.library, self.scenes = library, scenes
        self.bench = Workbench(library, "control")
        with gr.Row(elem_classes="workspace"):
            with gr.Column(min_width=320, elem_classes="pane"):
                self._picture()
                self._map()
                self._words()
                self.bench.buttons(say("Generate"))
                self.bench.settings()
            with gr.Column(min_width=320, elem_classes="pane"):
                self.bench.results()
                with gr.Row(elem_classes="actions"):
                    self.bench.save_button()
                self.bench.history()
        self._wire()

    def _picture(self) -> None:
        with gr.Row(elem_classes="twin"):
            self.source = SafeImage(
                label=say("Picture"), sources=["upload", "clipboard"], height=240, min_width=140,
                elem_id="control-source", buttons=[], alt_text=PICTURE_ALT,
                placeholder=say("Drop a picture"),
            )  # fmt: skip
            self.map = gr.Image(
                label=say("Map"), format="png", height=240, min_width=140, interactive=False,
                elem_id="control-map", buttons=["download", "fullscreen"], alt_text=MAP_ALT,
            )  # fmt: skip
        self.examples = gr.HTML(
            views.scene_strip(self.scenes), js_on_load=SEND_INDEX, elem_id="control-examples",
            visible=bool(self.scenes),
        )  # fmt: skip
        self.builder = SceneBuilder("control")

    def _map(self) -> None:
        self.kind = gr.Radio(_kinds(), value="canny", label=say("Map"), elem_id="control-kind")
        self.about = gr.HTML(_describe("canny"), elem_id="control-about")
        self.sliders: dict[tuple[str, str], gr.Slider] = {}
        self.groups: dict[str, gr.Row] = {}
        for name, preprocessor in PREPROCESSORS.items():
            is_tunable = preprocessor.status().backend == "real"
            numbers = {k: p for k, p in preprocessor.parameters.items() if p.range and is_tunable}
            with gr.Row(visible=name == "canny") as self.groups[name]:
                for key, parameter in numbers.items():
                    lowest, highest = parameter.range
                    self.sliders[name, key] = gr.Slider(
                        lowest, highest, value=parameter.default, step=1, min_width=140,
                        label=say(key.capitalize()), info=say(parameter.help.capitalize() + "."),
                    )  # fmt: skip

    def _words(self) -> None:
        with gr.Row():
            self.by = gr.Radio(
                _manners(), value=SENTENCE, label=say("Say it with a"), elem_id="control-by",
                min_width=120,
            )  # fmt: skip
            self.prompt = gr.Textbox(
                label=say("What should it show?"), lines=1, max_lines=4, max_length=MAX_PROMPT,
                placeholder=say("a cat and a red apple on a beach"), scale=3,
                elem_id="control-prompt",
            )  # fmt: skip
            self.label = gr.Dropdown(
                [],
                label=say("Class"),
                filterable=True,
                visible=False,
                scale=3,
                elem_id="control-class",
            )

    def told(self) -> dict:
        """Updates that put what the page holds from the start into the visitor's language."""
        return {
            **self.bench.told(),
            self.kind: gr.update(choices=_kinds()),
            self.by: gr.update(choices=_manners()),
            self.about: _describe("canny"),
            self.source: gr.update(alt_text=tell(PICTURE_ALT)),
            self.map: gr.update(alt_text=tell(MAP_ALT)),
            self.examples: views.scene_strip(self.scenes),
        }

    def _wire(self) -> None:
        bench, sliders = self.bench, list(self.sliders.values())
        drawing = [self.source, self.kind, *sliders]
        drawn = [self.map, self.about, *self.groups.values()]
        for trigger in (self.source.change, self.kind.change, *[s.release for s in sliders]):
            trigger(self._draw, drawing, drawn, **QUIET)
        pictured = [self.source, self.prompt]
        self.examples.select(self._pick, None, pictured, **QUIET)
        self.builder.wire(self._show, pictured)
        self.by.change(
            self._switch, [self.by, bench.panel.model], [self.prompt, self.label], **QUIET
        )
        bench.wire(
            [bench.run.click, self.prompt.submit],
            self._start,
            self._events,
            [*drawing, self.by, self.prompt, self.label, bench.panel.model, *bench.panel.inputs],
        )
        restored = [self.kind, *sliders, self.by, self.prompt, self.label, *bench.recall_outputs]
        self.source.upload(
            self._uploaded, [self.source, bench.panel.model], restored, **QUIET
        ).success(self._draw, drawing, drawn, **QUIET)
        bench.strip.select(
            self._recall, [bench.runs, bench.panel.model], [self.source, *restored], **QUIET
        )

    def _draw(self, upload: Upload | None, kind: str, *values: Any) -> dict:
        groups = {row: gr.update(visible=name == kind) for name, row in self.groups.items()}
        try:
            drawn = None if upload is None else self._control_map(upload, kind, values)
        except Exception as error:
            return {**groups, self.map: None, self.about: views.status_error(explain(error))}
        path = drawn and str(save_png(drawn, {"task": "map"}, results_folder()))
        return {**groups, self.map: path, self.about: _describe(kind)}

    def _control_map(self, upload: Upload, kind: str, values: tuple) -> Image.Image:
        if upload.problem:
            raise InputError(upload.problem)
        if kind not in PREPROCESSORS:
            raise InputError(f"There is no map called '{kind}'.")
        return _drawn(upload.path, kind, tuple(self._numbers(kind, values).items()))

    def _numbers(self, kind: str, values: tuple) -> dict[str, int]:
        """What the sliders of one kind of map say, from the values of all of them."""
        pairs = zip(self.sliders, values, strict=True)
        return {key: _whole(key, value) for (name, key), value in pairs if name == kind}

    def _switch(self, by: str, model: str) -> list:
        if by == SENTENCE:
            return [gr.update(visible=True), gr.update(visible=False)]
        return [gr.update(visible=False), gr.update(visible=True, choices=self._classes(model))]

    def _classes(self, model: str) -> list[tuple[str, int]]:
        try:
            classes = self.library.get(model).classes
        except InputError:
            return []
        return [(tell(name), index) for index, name in enumerate(classes)]

    def _start(self, upload: Upload | None, kind: str, *others: Any) -> dict:
        count = len(self.sliders)
        values, (by, prompt, label, *_) = others[:count], others[count:]
        if upload is None:
            raise InputError("Please choose a picture first: upload one or take an example.")
        _meant(by, prompt, label)
        shown = self._control_map(upload, kind, values)
        return {self.bench.stage: views.stage_waiting(shown)}

    def _events(self, upload: Upload, kind: str, *others: Any) -> Iterator[Any]:
        count = len(self.sliders)
        values, (by, prompt, label, model, *sampling) = others[:count], others[count:]
        settings = self.bench.panel.settings(*sampling)
        control_map = self._control_map(upload, kind, values)
        words = _meant(by, prompt, label)
        drawing = {"control": kind, **self._numbers(kind, values)}
        yield from self.library.generate(model, control_map, words, settings, drawing)

    def _pick(self, event: gr.EventData) -> list:
        return self._show(self.scenes[event.index])

    def _show(self, scene: Scene) -> list:
        return [scene.publish(results_folder()), scene.caption]

    def _uploaded(self, upload: Upload, model: str) -> dict:
        parameters = upload.parameters or {}
        updates = self._restored(parameters, model) if "prompt" in parameters else {}
        if updates:
            note = self.bench.panel.restored_note(parameters)
            gr.Info(note, duration=4, title=tell("Restored"))
        return updates or {self.kind: gr.skip()}

    def _recall(self, runs: list[Run], model: str, event: gr.EventData) -> dict:
        updates, parameters = self.bench.recalled(runs, event.index)
        updates |= self._restored(parameters, model)
        # What was kept of the run is its map: it is shown as the picture, and used as it is.
        return {**updates, self.source: runs[event.index].before, self.kind: "none"}

    def _restored(self, parameters: dict[str, Any], model: str) -> dict:
        """Updates that bring back the words, the map's kind and the settings of a past run."""
        updates = self.bench.panel.restored(parameters)
        if not updates:
            return {}
        kind, prompt = parameters.get("control"), parameters.get("prompt")
        if kind in [name for _, name in _kinds()]:
            updates[self.kind] = kind
        for (name, key), slider in self.sliders.items():
            value = parameters.get(key)
            if name == kind and type(value) is int and slider.minimum <= value <= slider.maximum:
                updates[slider] = value
        if isinstance(prompt, str):
            updates |= {self.by: SENTENCE, self.prompt: prompt[:MAX_PROMPT]}
        elif type(prompt) is int and 0 <= prompt < len(classes := self._classes(model)):
            updates |= {
                self.by: CLASS,
                self.prompt: gr.update(visible=False),
                self.label: gr.update(choices=classes, value=prompt, visible=True),
            }
        return updates


@lru_cache(maxsize=16)
def _drawn(path: str, kind: str, values: tuple[tuple[str, int], ...]) -> Image.Image:
    """The map of an uploaded file; a file's path holds its hash, so it never changes."""
    return preprocess(kind, named(kind).open(path), MAP_SIDE, **dict(values))


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise InputError(f"The {name} must be a whole number.")
    return int(value)


def _meant(by: str, prompt: str, label: int | None) -> str | int:
    if by == SENTENCE:
        return check_prompt(prompt, "Please say what the picture should show.")
    if not isinstance(label, int):
        raise InputError("Please choose a class.")
    return label


def _kinds() -> list[tuple[str, str]]:
    return [(tell(LABELS[name]), name) for name in PREPROCESSORS if _problem(name) is None]


def _manners() -> list[tuple[str, str]]:
    return [(tell(manner), manner) for manner in (SENTENCE, CLASS)]


def _problem(name: str) -> str | None:
    status = PREPROCESSORS[name].status()
    return None if status.state == "ready" else status.reason


def _describe(name: str) -> str:
    """What the chosen map is and who draws it; then the maps that cannot be drawn here and why."""
    preprocessor = PREPROCESSORS[name]
    missing = [f"{tell(LABELS[n])}: {tell(_problem(n))}" for n in PREPROCESSORS if _problem(n)]
    return views.notes(
        f"{tell(preprocessor.description)} {tell(preprocessor.status().reason)}",
        tell(f"{len(missing)} more kinds of map are not available here"),
        missing,
    )
