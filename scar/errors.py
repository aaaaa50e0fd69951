"""Errors that people can act on: one message that says what is wrong and what to do.

    ScarError                 what the command lines print as one sentence, without a traceback
    |- InputError             an image, a text, a number or a file from outside
    |- ConfigError            a field of a config
    |- WeightsError           weights or a checkpoint: missing, damaged, or of another model
    `- SamplingError          the model gave logits that are not finite

Everything else is a fault of the program and keeps its traceback. Nothing is imported here, so that
a program can name these before torch is loaded.
"""

from __future__ import annotations


class ScarError(ValueError):
    """The message is written for whoever called."""


class InputError(ScarError):
    """An input that cannot be used."""


class ConfigError(ScarError):
    """A config or a recipe with an unknown key, or a value that is not allowed."""


class WeightsError(ScarError):
    """Weights or a config are missing, damaged, or of another model."""


class SamplingError(ScarError):
    """The model gave logits that are not finite."""
