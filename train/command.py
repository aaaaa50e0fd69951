"""How the command lines of training end: a message and exit code 1 where the user can mend it."""

from __future__ import annotations

import sys
from collections.abc import Callable

# scar.errors.ScarError, and the plain ValueErrors of recipes and data.
USER_ERRORS = ValueError


def exit_code(command: Callable[[], int | None]) -> int:
    """Run `command`; what it returns, None being 0. Any other error is a bug and is raised."""
    try:
        return command() or 0
    except USER_ERRORS as error:
        # A file name or JSON may hold lone surrogates, which no terminal prints.
        print(f"error: {error}".encode("utf-8", "backslashreplace").decode(), file=sys.stderr)
        return 1
