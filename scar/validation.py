"""Frozen dataclasses that check their fields, and say what is wrong in one sentence.

`validated` makes one, `from_dict` and `to_dict` read and write it. Types are strict: no text for
numbers, no booleans for integers, no unknown keys.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass, is_pydantic_dataclass

from scar.errors import ConfigError

T = TypeVar("T")

Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]

_BOUNDS = ("ge", "gt", "le", "lt")
_NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@typing.dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def validated(cls: type[T]) -> type[T]:
    """A frozen pydantic dataclass; its constructor raises ConfigError for a value it refuses."""
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    checked: Any = dataclass(frozen=True, config=config)(cls)
    init = checked.__init__

    @wraps(init)
    def __init__(self, *args, **kwargs):
        try:
            init(self, *args, **kwargs)
        except ValidationError as error:
            raise ConfigError(explain(checked, error)) from None

    checked.__init__ = __init__
    return checked


def from_dict(kind: type[T], data: Any) -> T:
    """The config that `data`, plain values as JSON has them, describes.

    A class with a static method `upgraded` is given what older versions wrote in today's form.

    Raises:
        ConfigError: an unknown key, a missing one, or a value of another type or out of range; the
            message names the path, the value and what is allowed.
    """
    upgrade: Callable = getattr(kind, "upgraded", lambda data: data)
    try:
        # Lists are tuples and mappings are dataclasses only in JSON.
        return TypeAdapter(kind).validate_json(json.dumps(upgrade(data)))
    except ValidationError as error:
        raise ConfigError(explain(kind, error)) from None
    except TypeError as error:
        raise ConfigError(f"a config holds plain values only: {error}") from None


def to_dict(config: Any) -> dict:
    """The inverse of `from_dict`, ready for JSON."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def explain(kind: type, error: ValidationError) -> str:
    """The first fault in one sentence."""
    fault = error.errors(include_url=False)[0]
    names, hint = [], kind
    for part in fault["loc"]:
        hint, is_name = _inside(hint, part)
        names += [str(part)] if is_name else []
    path, value = ".".join(names) or "a config", _short(fault["input"])
    match fault["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            return f"unknown key {path!r}{did_you_mean(names[-1], _siblings(kind, fault['loc']))}"
        case "missing":
            return f"{path} is missing"
        case "union_tag_invalid" | "union_tag_not_found":
            kinds = _either([option.__name__ for option in _options(hint)])
            got = fault["input"].get("kind") if isinstance(fault["input"], dict) else fault["input"]
            return f"{path}.kind must be {kinds}, not {_short(got)}"
        case "value_error":
            reason = str(fault["ctx"]["error"])
            return f"{path}: {reason}" if names else reason
        case "greater_than_equal" | "greater_than" | "less_than_equal" | "less_than":
            return f"{path} must be {_range(hint)}, not {value}"
    return f"{path} must be {describe(hint)}, not {value}"


def describe(hint: Any) -> str:
    """What a field of this type may hold, in words."""
    origin = typing.get_origin(hint)
    if origin is Annotated and typing.get_args(hint)[0] in (int, float):
        return f"{_NOUNS[typing.get_args(hint)[0]]}, {_range(hint)}"
    if origin is Annotated:
        return describe(typing.get_args(hint)[0])
    if origin is Literal:
        return _either([str(option) or "empty" for option in typing.get_args(hint)])
    if origin is tuple:
        return f"a list, each {describe(typing.get_args(hint)[0])}"
    return _NOUNS.get(hint, "a mapping")


def did_you_mean(key: str, known: typing.Iterable[str]) -> str:
    """The end of a sentence about an unknown key; "" where nothing is near."""
    near = get_close_matches(key, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def merged(base: dict, changes: dict) -> dict:
    """`base` with nested fields replaced; a mapping in both is merged, anything else replaced."""
    result = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if nested else value
    return result


def _inside(hint: Any, part: str | int) -> tuple[Any, bool]:
    """The type at `part` of this one, and whether `part` is a name in the file: the kind of a
    union is not."""
    options = {option.__name__: option for option in _options(hint)}
    if part in options:
        return options[part], False
    if is_pydantic_dataclass(hint):
        return typing.get_type_hints(hint, include_extras=True).get(str(part)), True
    inner = typing.get_args(hint)
    return (inner[-1] if typing.get_origin(hint) is dict else inner and inner[0]), True


def _options(hint: Any) -> tuple[type, ...]:
    """The classes of a union, () if it is none."""
    if typing.get_origin(hint) is Annotated:
        return _options(typing.get_args(hint)[0])
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if is_union else ()


def _siblings(kind: Any, path: tuple) -> list[str]:
    """The keys that are known where the last one of `path` is not."""
    for part in path[:-1]:
        kind, _ = _inside(kind, part)
    return list(typing.get_type_hints(kind))


def _range(hint: Any) -> str:
    """Bounds in words: "1 or more", "between 0 and 30", "0 or more and below 1"."""
    metadata = [m for field in hint.__metadata__ for m in getattr(field, "metadata", [field])]
    limits = {b: f"{getattr(m, b):.10g}" for b in _BOUNDS for m in metadata if hasattr(m, b)}
    if limits.keys() == {"ge", "le"}:
        return f"between {limits['ge']} and {limits['le']}"
    words = {"ge": "{} or more", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
    return " and ".join(words[bound].format(limit) for bound, limit in limits.items())


def _either(options: list[str]) -> str:
    *most, last = options
    return f"{', '.join(most)} or {last}" if most else last


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
