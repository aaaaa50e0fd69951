"""The Advanced group: which model, and how it samples."""

from __future__ import annotations

from typing import Any

import gradio as gr

from scar.errors import InputError
from scar.studio.library import Library
from scar.studio.session import RANGES, SAMPLING, Settings, check_settings, slider_values
from scar.studio.texts import say, tell


class SettingsPanel:
    """Builds the group inside the current block; `inputs` feed `settings`."""

    def __init__(self, library: Library, tab: str):
        self.library, self.tab = library, tab
        with gr.Accordion(say("Advanced"), open=False, elem_id=f"{tab}-advanced"):
            self.model = gr.Dropdown(
                library.names, value=library.names[0], label=say("Model"), elem_id=f"{tab}-model",
                visible=len(library.names) > 1 or library.find is not None,
                allow_custom_value=library.find is not None, info=say("Loads when it is chosen."),
            )  # fmt: skip
            with gr.Row():
                self.seed = gr.Number(
                    0, label=say("Seed"), precision=0, minimum=0, elem_id=f"{tab}-seed",
                    info=say("Same picture, words and seed: same result."),
                )  # fmt: skip
                self.randomize = gr.Checkbox(
                    True, label=say("New seed every run"), elem_id=f"{tab}-randomize"
                )
            self.guidance = self._slider(
                "guidance", 3.0, "Guidance",
                "Changes too little? Raise it. Too much? Lower it.",
            )  # fmt: skip
            self.temperature = self._slider(
                "temperature", 1.0, "Temperature",
                "Messy? Lower it. Every run the same? Raise it.",
            )  # fmt: skip
            with gr.Row():
                self.top_k = gr.Number(
                    0, label=say("Top k"), precision=0, minimum=0, elem_id=f"{tab}-top-k",
                    info=say("Draw from the k likeliest tokens; 0 means all."),
                )  # fmt: skip
                self.top_p = self._slider(
                    "top_p", 1.0, "Top p", "Draw from the likeliest tokens that sum to p."
                )
            with gr.Row():
                self.variants = self._slider(
                    "variants", 1, "Variants", "Pictures in one run, from seeds that follow."
                )
                self.preview = gr.Checkbox(
                    True, label=say("Live preview"), elem_id=f"{tab}-preview"
                )

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The arguments of `settings`, in order."""
        return [self.seed, self.randomize, *self.sampling, self.variants, self.preview]

    @property
    def sampling(self) -> list[gr.components.Component]:
        return [self.guidance, self.temperature, self.top_k, self.top_p]

    def settings(
        self, seed: Any, randomize: bool, guidance: Any, temperature: Any, top_k: Any, top_p: Any,
        variants: Any, preview: Any,
    ) -> Settings:  # fmt: skip
        """Checked settings from the values of `inputs`; raises `InputError`."""
        return check_settings(
            seed=None if randomize else seed, guidance=guidance, temperature=temperature,
            top_k=top_k, top_p=top_p, variants=variants, preview=preview,
        )  # fmt: skip

    def restored(self, parameters: dict[str, Any]) -> dict:
        """Updates that bring back the settings of a past run; nothing if a slider lacks one."""
        values = {name: parameters.get(name) for name in ("seed", *SAMPLING)}
        try:
            check_settings(**values)
        except InputError:
            return {}
        if any(RANGES[name].clamped(value) != value for name, value in values.items() if value):
            return {}
        return {self.randomize: False, **{getattr(self, name): values[name] for name in values}}

    def restored_note(self, parameters: dict[str, Any]) -> str:
        """What to tell when `restored` has brought settings back, and what it could not bring."""
        told = [tell("The settings inside this picture were restored.")]
        if parameters.get("region") is True:
            told.append(tell("The region is not in the file; paint it again."))
        names = self.library.names
        if len(names) > 1 and parameters.get("model") in names:
            told.append(tell(f"The picture was made with {parameters['model']}."))
        return " ".join(told)

    def defaults(self, name: str) -> dict:
        """Updates that set the sampling to what the model called `name` likes best."""
        best = self.library.get(name).defaults
        return {getattr(self, field): value for field, value in slider_values(best).items()}

    def _slider(self, name: str, value: float, label: str, info: str) -> gr.Slider:
        allowed = RANGES[name]
        return gr.Slider(
            *allowed.usual, value=value, step=allowed.step, label=say(label), info=say(info),
            elem_id=f"{self.tab}-{name.replace('_', '-')}",
        )  # fmt: skip
