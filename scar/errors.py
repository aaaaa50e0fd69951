"""What goes wrong in ways that people can mend."""

from __future__ import annotations


class InputError(ValueError):
    """An input that cannot be used; the message is one plain sentence for whoever sent it."""
