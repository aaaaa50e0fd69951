"""What a run of the model looks like from outside: checked settings in, progress and results out.

Everything here is a plain function or generator over PIL images, free of the interface. Closing a
generator ends the decoding at its next step, so a caller stops a run by closing it.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from scar.config import MAX_SEED, SAMPLING_RANGES, Range
from scar.errors import InputError
from scar.images import to_mask

MAX_PROMPT = 200
MAX_VARIANTS = 4
WORKING_SIDE = 1024  # a larger picture is scaled down: the model sees far fewer pixels anyway
AS_IT_IS = {"control": "none"}  # what the parameters say of a map that was given as one
PREVIEWS = 10  # partial images a run aims to show; each costs a decoding of the pixels

SAMPLING = tuple(SAMPLING_RANGES)
# The interface and the checks read the same table.
RANGES: dict[str, Range] = {
    "seed": Range(int, 0, MAX_SEED, (0, MAX_SEED), 1, "the same one gives the same picture"),
    **SAMPLING_RANGES,
    "variants": Range(int, 1, MAX_VARIANTS, (1, MAX_VARIANTS), 1, "pictures in one run"),
}


@dataclass(frozen=True)
class Settings:
    """How to sample. `seed` None draws one; variants use seed, seed + 1, ... Of the others None
    means what the model likes best."""

    seed: int | None = None
    guidance: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    variants: int = 1
    preview: bool = True


@dataclass(frozen=True)
class Progress:
    """A moment of a run: step k of N, a step being a token or a scale.

    `image` is None while nothing is decoded or previews are off.
    """

    image: Image.Image | None
    step: int
    total: int
    tokens: int
    seconds: float
    unit: str = "token"
    variant: int = 1
    variants: int = 1


@dataclass(frozen=True)
class Result:
    """A finished image beside what it was made from, with every parameter that made it."""

    image: Image.Image
    before: Image.Image
    parameters: dict[str, Any]
    seconds: float
    tokens: int


def run_edit(
    pipe: Any,
    image: Image.Image,
    instruction: str,
    settings: Settings,
    region: Image.Image | None = None,
) -> Iterator[Progress | Result]:
    """Edit `image`; yields progress and, for each variant, one result.

    `region` (any mode and size) is white where the edit may happen; None or all black leaves it to
    the model to foresee.
    Raises `InputError` for an instruction that is empty or too long.
    """
    instruction = check_prompt(instruction, "Please say what should change.")
    image = bounded(image)
    if region is not None:
        region = to_mask(region, image.size)
        region = region if region.getbbox() else None

    def stream(**options: Any) -> Iterator[Any]:
        return pipe.stream_edit(image, instruction, region=region or "auto", **options)

    facts = {"task": "edit", "instruction": instruction, "region": region is not None}
    yield from _run(pipe, stream, image, facts, settings)


def run_generate(
    pipe: Any,
    control_map: Image.Image,
    prompt: str | int,
    settings: Settings,
    drawing: Mapping[str, Any] = AS_IT_IS,
) -> Iterator[Progress | Result]:
    """Make an image from `control_map` and a sentence or a class number; yields like `run_edit`.

    `drawing` says in the parameters how the map was drawn: `control`, its kind, and its settings.
    """
    if isinstance(prompt, str):
        prompt = check_prompt(prompt, "Please say what the picture should show.")
    control_map = bounded(control_map)

    def stream(**options: Any) -> Iterator[Any]:
        return pipe.stream_generate(control_map, prompt, **options)

    facts = {"task": "generate", "prompt": prompt, **drawing}
    yield from _run(pipe, stream, control_map, facts, settings)


def check_settings(**values: Any) -> Settings:
    """`Settings` from untrusted values; raises `InputError` naming the first one that is wrong."""
    checked: dict[str, Any] = {"preview": bool(values.pop("preview", True))}
    for name, value in values.items():
        if name not in RANGES:
            raise InputError(f"There is no setting called '{name}'.")
        checked[name] = None if value is None else _number(name, value)
    if checked.get("variants", 1) is None:
        raise InputError("Please give a value for variants.")
    return Settings(**checked)


def slider_values(sampling: Any) -> dict[str, float]:
    """The sampling a model likes best, or the nearest that the sliders show."""
    return {name: RANGES[name].clamped(getattr(sampling, name)) for name in SAMPLING}


def check_prompt(text: Any, when_empty: str) -> str:
    """The sentence without surrounding space; raises `InputError` if it is empty or too long."""
    if not isinstance(text, str) or not text.strip():
        raise InputError(when_empty)
    text = " ".join(text.split())
    if len(text) > MAX_PROMPT:
        raise InputError(f"Please use at most {MAX_PROMPT} characters; these are {len(text)}.")
    return text


def bounded(image: Image.Image, side: int = WORKING_SIDE) -> Image.Image:
    """The image with its longer side at most `side`."""
    scale = side / max(image.size)
    if scale >= 1:
        return image
    return image.resize([max(1, round(side * scale)) for side in image.size])


def _run(
    pipe: Any,
    stream: Callable[..., Iterator[Any]],
    before: Image.Image,
    facts: dict[str, Any],
    settings: Settings,
) -> Iterator[Progress | Result]:
    seed = random.randrange(MAX_SEED) if settings.seed is None else settings.seed
    sampling = {
        name: getattr(pipe.defaults, name) if value is None else value
        for name, value in ((name, getattr(settings, name)) for name in SAMPLING)
    }
    unit = "scale" if pipe.paradigm == "next-set" else "token"
    every = 1 if unit == "scale" else max(1, pipe.total_tokens // PREVIEWS)
    for variant in range(1, settings.variants + 1):
        start = time.perf_counter()
        yield Progress(None, 0, 1, 0, 0.0, unit, variant, settings.variants)
        out = None
        seeded = (seed + variant - 1) % (MAX_SEED + 1)
        for out in stream(seed=seeded, preview_every=every, **sampling):
            image = out.image if settings.preview else None
            seconds = time.perf_counter() - start
            moment = (image, out.step, out.total, out.tokens, seconds)
            yield Progress(*moment, unit, variant, settings.variants)
        assert out is not None  # a stream always ends with the result
        parameters = {
            "software": "SCAR",
            **facts,
            "seed": out.seed,
            **sampling,
            "paradigm": pipe.paradigm,
        }
        yield Result(out.image, before, parameters, time.perf_counter() - start, out.tokens)


def _number(name: str, value: Any) -> float | int:
    kind, lowest, highest, *_ = RANGES[name]
    label = name.replace("_", " ")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"The {label} must be a number.")
    if kind is int and value != int(value):
        raise InputError(f"The {label} must be a whole number.")
    if not lowest <= value <= highest:
        raise InputError(f"The {label} must lie between {lowest:g} and {highest:.10g}.")
    return kind(value)
