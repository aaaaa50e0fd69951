"""The scene builder: a ToyScenes picture put together from a place and a few objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from scar.errors import InputError
from scar.studio.examples import Scene
from scar.studio.texts import say, tell
from scar.studio.workbench import QUIET, toast

SLOTS = 3
POSITIONS = ("left", "middle", "right")
SIZES = ("small", "medium", "large")
NOTHING = ""


class SceneBuilder:
    """Builds the closed group inside the current block; `wire` connects it.

    The names fill the lists when the group is opened: they come with torch, which the page does not
    wait for.
    """

    def __init__(self, tab: str):
        with gr.Accordion(
            say("Build a scene"), open=False, elem_id=f"{tab}-builder", elem_classes="builder"
        ) as self.group:
            self.place = gr.Dropdown([], label=say("Place"), elem_id=f"{tab}-builder-place")
            self.objects, self.positions, self.sizes = [], [], []
            for slot in range(SLOTS):
                with gr.Row():
                    self._slot(f"{tab}-builder", slot)
            self.build = gr.Button(say("Build the scene"), elem_id=f"{tab}-builder-build")

    def _slot(self, prefix: str, slot: int) -> None:
        number, place = slot + 1, POSITIONS[(slot + 1) % SLOTS]

        def choose(kind: str, label: str, choices: list[str], value: str, **shape: int) -> Any:
            elem_id = f"{prefix}-{kind}-{number}"
            return gr.Dropdown(choices, value=value, label=say(label), elem_id=elem_id, **shape)

        wide, narrow = {"min_width": 240, "scale": 2}, {"min_width": 100}
        self.objects.append(choose("object", f"Object {number}", [NOTHING], NOTHING, **wide))
        self.positions.append(choose("position", "Position", [*POSITIONS], place, **narrow))
        self.sizes.append(choose("size", "Size", [*SIZES], "medium", **narrow))

    @property
    def inputs(self) -> list[gr.Dropdown]:
        """The arguments of `scene`, in order."""
        return [self.place, *self.objects, *self.positions, *self.sizes]

    def wire(self, show: Callable[[Scene], Any], outputs: list) -> None:
        """Connect everything; `show` turns a built scene into updates of `outputs`."""
        self.group.expand(self._fill, [self.place, self.objects[0]], self.inputs, **QUIET)
        self.build.click(lambda *v: show(self.scene(*v)), self.inputs, outputs, **QUIET)

    def scene(self, place: str, *values: str) -> Scene:
        """The scene that the values of `inputs` describe; `gr.Error` if they describe none."""
        from scar.toyscenes import compose

        objects, positions, sizes = (values[i : i + SLOTS] for i in range(0, 3 * SLOTS, SLOTS))
        slots = zip(objects, positions, sizes, strict=True)
        parts = [compose.Part(*slot) for slot in slots if slot[0]]
        try:
            scene = compose.compose(place, parts)
        except InputError as error:
            raise toast(error) from None
        image, instructions = compose.picture_and_edits(scene)
        return Scene(image, scene.caption, instructions)

    def _fill(self, place: str | None, first: str) -> list[Any]:
        """Every list in the visitor's language; the first opening chooses a place and a cat."""
        from scar.toyscenes import compose

        places, names = compose.place_names(), compose.object_names()
        if place is None:
            place, first = places[0], names[0]
        objects = [(tell("nothing"), NOTHING), *_told(sorted(names))]
        return [
            gr.update(choices=_told(places), value=place),
            gr.update(choices=objects, value=first),
            *[gr.update(choices=objects)] * (SLOTS - 1),
            *[gr.update(choices=_told(POSITIONS))] * SLOTS,
            *[gr.update(choices=_told(SIZES))] * SLOTS,
        ]


def _told(names: Any) -> list[tuple[str, str]]:
    return [(tell(name), name) for name in names]
