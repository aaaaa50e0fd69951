"""What goes wrong in ways that people can mend."""

from __future__ import annotations


class InputError(ValueError):
    """An input that cannot be used; the message is one plain sentence for whoever sent it."""


class ConfigError(InputError):
    """A config or a recipe that cannot be used: an unknown key, a wrong type, a number out of
    range."""
