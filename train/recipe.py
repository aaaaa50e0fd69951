"""A training run as data: nested frozen dataclasses, read from YAML, overridden by key=value.

A recipe is resolved when it is loaded: its base, the overrides, and the preset with its changes,
so `recipe.model` is the whole config of the model.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence, Sized
from math import ceil
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from scar.config import ScarConfig
from scar.errors import ConfigError
from scar.presets import preset_dict
from scar.validation import did_you_mean, from_dict, merged, to_dict, validated
from train.sections import (
    ComputeConfig,
    DataConfig,
    DropConfig,
    LossesConfig,
    MayChange,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    TokenizerTraining,
    WeightsConfig,
)


@validated
class Recipe:
    """Everything that decides a run. Paths are relative to where the command is run."""

    objective: Literal["tokenizer", "scar"]
    preset: str  # a key of scar.presets.PRESETS
    model: ScarConfig  # the preset; a file holds only the fields that it replaces
    run: RunConfig
    about: MayChange[str] = ""  # what the run costs and gives, in a sentence or two
    data: DataConfig = Field(default_factory=DataConfig)
    weights: WeightsConfig = WeightsConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    drop: DropConfig = DropConfig()
    losses: LossesConfig = LossesConfig()
    tokenizer_training: TokenizerTraining = TokenizerTraining()
    compute: ComputeConfig = ComputeConfig()

    def __post_init__(self) -> None:
        size, reads = self.data.size, self.model.tokenizer.image_size
        if size != reads:
            raise ValueError(
                f"data.size is {size}, but the tokenizer of {self.preset} reads images of {reads}"
            )
        if self.schedule.batch_size % self.schedule.accumulate:
            raise ValueError("batch_size must be a multiple of accumulate")
        if self.schedule.epochs and self.data.kind == "toy":
            raise ValueError("toy data have no end: set steps, not epochs")
        if self.weights.train_only and not (self.weights.init and self.objective == "scar"):
            raise ValueError(
                "train_only: prefix needs init, the backbone that stays, and objective scar"
            )
        if self.objective == "tokenizer" and (
            self.compute.gradient_checkpointing or self.compute.compile
        ):
            raise ValueError(
                "gradient_checkpointing and compile are for transformers, objective scar"
            )

    @staticmethod
    def upgraded(data: dict) -> dict:
        """`data` in sections and with its model whole, whichever version wrote it."""
        data = sectioned(data)
        preset, changes = data.get("preset"), data.get("model", {})
        if not (isinstance(preset, str) and isinstance(changes, dict)):
            return data
        data["model"] = preset_dict(preset, changes)
        framing = data.setdefault("data", {})
        tokenizer = data["model"].get("tokenizer")
        if not framing.get("size") and isinstance(tokenizer, dict):
            framing["size"] = tokenizer.get("image_size")
        return data


_FIELDS = typing.get_type_hints(Recipe, include_extras=True)
_SECTIONS = {
    name: typing.get_type_hints(hint, include_extras=True)
    for name, hint in _FIELDS.items()
    if dataclasses.is_dataclass(hint) and hint is not ScarConfig
}
# Recipes had no sections once; these names were others, the rest is found in its section.
_RENAMED = {
    "data": ("data", "kind"),
    "allow_data_change": ("data", "allow_change"),
    "optimizer": ("optimizer", "name"),
    **{f"drop_{what}": ("drop", what) for what in ("both", "image", "text")},
}
_SHORT = _RENAMED | {
    name: (section, name)
    for section, names in _SECTIONS.items()
    for name in names
    if (section, name) not in _RENAMED.values()
}


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe and apply `key=value` overrides: `optimizer.learning_rate=1e-4`,
    `model.backbone.layers=2`, or without the section, `learning_rate=1e-4`.

    A recipe may name another one of its folder as `base`: it has all fields of that one but those
    it sets itself.

    Raises:
        ConfigError: the file is missing, is not a mapping, names an unknown key, or has a value
            that is not allowed.
    """
    return make_recipe(_read(Path(path)), overrides)


def make_recipe(data: dict, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe of these fields, with `key=value` overrides; raises as `load_recipe`."""
    try:
        data = sectioned(data)
        for override in overrides:
            key, equals, text = override.partition("=")
            if not equals:
                raise ConfigError(f"{override!r} is not key=value")
            _set(data, key, yaml.load(text, _Loader))
        return from_dict(Recipe, data)
    except ConfigError as error:
        raise ConfigError(f"recipe: {error}") from None


def change(recipe: Recipe, **fields: Any) -> Recipe:
    """The recipe with fields replaced, named as in overrides; `model` is changes of the preset."""
    data = to_dict(recipe)
    for key, value in fields.items():
        _set(data, key, value)
    return make_recipe(data)


def value_of(recipe: Recipe, name: str) -> Any:
    """A field by its name without the section."""
    section, field = _SHORT[name]
    return getattr(getattr(recipe, section), field)


def sectioned(data: dict) -> dict:
    """A recipe's fields in their sections; raises ConfigError for an unknown key."""
    result: dict = {}
    for key, value in data.items():
        if key in _SECTIONS and isinstance(value, dict):
            result[key] = result.get(key, {}) | value
        else:
            _set(result, key, value)
    return result


def changed_fields(recipe: Recipe, before: dict) -> list[str]:
    """Names of the fields that a run with the recipe `before`, in any version's form, had
    otherwise, but for those that may change when it resumes."""
    known = {key: value for key, value in before.items() if key in _FIELDS or key in _SHORT}
    now, then = _flat(to_dict(recipe)), _flat(Recipe.upgraded(known))
    free = {name for name, hint in _FIELDS.items() if _may_change(hint)}
    free |= {f"{s}.{n}" for s, names in _SECTIONS.items() for n in names if _may_change(names[n])}
    return [name for name in now if now[name] != then.get(name, now[name]) and name not in free]


def bounded_seed(seed: int) -> int:
    """Any integer as one that torch and numpy take: from 0 to 2^63 - 1, where it stays itself."""
    return seed % 2**63


def scheduled(recipe: Recipe, source: Sized) -> Recipe:
    """The recipe with its epochs over `source` as steps; the last one may reach into the next."""
    if not recipe.schedule.epochs:
        return recipe
    steps = ceil(recipe.schedule.epochs * len(source) / recipe.schedule.batch_size)
    return change(recipe, steps=steps)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-4 as text; this one reads it as a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _read(path: Path) -> dict:
    """The fields of a file and of its base, in sections."""
    if not path.is_file():
        raise ConfigError(f"recipe {path} does not exist; recipes are in train/recipes/")
    try:
        data = yaml.load(path.read_text("utf-8-sig"), _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {path} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"recipe {path} must be a mapping of fields")
    base = data.pop("base", None)
    own = sectioned(data)
    return _over(_read(path.parent / base), own) if base else own


def _over(base: dict, own: dict) -> dict:
    """`own` over its base: fields of sections one by one, those of the model at any depth."""
    result = base | own
    for key in base.keys() & own.keys():
        if key == "model":
            result[key] = merged(base[key], own[key])
        elif key in _SECTIONS:
            result[key] = base[key] | own[key]
    return result


def _set(data: dict, key: str, value: Any) -> None:
    """Set a field by its name, which may have dots or lack the section."""
    first, *rest = str(key).split(".")
    if first in _SHORT and not (first in _SECTIONS and rest):
        path = [*_SHORT[first], *rest]
    elif first in _FIELDS:
        path = [first, *rest]
    else:
        raise ConfigError(f"unknown key {key!r}{did_you_mean(str(key), [*_FIELDS, *_SHORT])}")
    *parents, last = path
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigError(f"{parent} has no fields, so {key!r} cannot be set")
    data[last] = value


def _flat(data: dict, path: str = "") -> dict:
    """Fields by dotted names; shares of tasks and names of columns are values."""
    result = {}
    for key, value in data.items():
        nested = isinstance(value, dict) and key not in ("tasks", "columns")
        result |= _flat(value, f"{path}{key}.") if nested else {f"{path}{key}": value}
    return result


def _may_change(hint: Any) -> bool:
    return "may change" in getattr(hint, "__metadata__", ())
