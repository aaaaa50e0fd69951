"""Options that several command lines share."""

from __future__ import annotations

import argparse
from typing import get_args

from scar.config import SAMPLING_RANGES, Null, Sampling
from scar.presets import PRESETS

_EMBEDDED = [PRESETS[f"toy-{paradigm}"].sampling for paradigm in ("next-token", "next-set")]


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """--guidance, --temperature, --top-k, --top-p and --null: the fields of `Sampling`."""
    group = parser.add_argument_group(
        "sampling",
        "Each default is the model's own; those of the embedded next-token and next-set models are "
        "in brackets.",
    )
    for name, allowed in SAMPLING_RANGES.items():
        text = f"{allowed}; {allowed.about} {_defaults(name)}"
        option = f"--{name.replace('_', '-')}"
        group.add_argument(option, type=allowed.kind, metavar="N", help=text)
    text = f"what guidance drops: the words, or the image as well {_defaults('null')}"
    group.add_argument("--null", choices=get_args(Null), help=text)


def sampling_options(arguments: argparse.Namespace) -> dict:
    """Those of the sampling options that were given; raises ConfigError for one out of range."""
    names = (*SAMPLING_RANGES, "null")
    given = {name: getattr(arguments, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    Sampling(**given)
    return given


def _defaults(name: str) -> str:
    return f"[{', '.join(str(getattr(sampling, name)) for sampling in _EMBEDDED)}]"
