"""The models a studio offers: loaded once each, on first use or ahead of it."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from huggingface_hub import constants
from PIL import Image

from scar.errors import InputError, ScarError
from scar.studio.session import AS_IT_IS, Progress, Result, Settings, run_edit, run_generate
from scar.studio.zero_gpu import is_zero_gpu, on_gpu

log = logging.getLogger(__name__)

FOLDERS = re.compile(r"(?<!\S)/(\S*/)*")  # where the server keeps its files is not shown
PATIENCE = 120.0  # seconds a run waits for the one before it
VISITED = 2  # models that visitors named and that stay loaded


class Library:
    """Models by name. A value is a pipeline, or a function without arguments that loads one.

    Args:
        models: what the operator offers.
        find: loads what a visitor names, a folder or a Hub id; None: only what is offered.
        remote: offered models whose files, or those of their encoders, may have to be fetched.
    """

    def __init__(
        self,
        models: Mapping[str, Any | Callable[[], Any]],
        find: Callable[[str], Any] | None = None,
        remote: Collection[str] = (),
    ):
        if not models:
            raise ValueError("a studio needs at least one model")
        self.find, self.remote = find, frozenset(remote)
        self._offered = list(models)
        self._models = dict(models)
        self._locks = defaultdict(threading.Lock)
        self._problems: dict[str, str] = {}
        self._device = threading.Lock()
        self._edit = on_gpu(self._edit, self._tokens)
        self._generate = on_gpu(self._generate, self._tokens)

    @property
    def names(self) -> list[str]:
        return list(self._offered)

    @property
    def is_busy(self) -> bool:
        """Whether a run holds the device now."""
        return self._device.locked()

    @property
    def may_fetch(self) -> bool:
        """Whether a visitor may still make this program ask the Hub for files.

        Not where HF_HUB_OFFLINE forbids it, nor once all that is offered is loaded or local.
        """
        if constants.HF_HUB_OFFLINE:
            return False
        return self.find is not None or any(not self.is_loaded(name) for name in self.remote)

    def get(self, name: str) -> Any:
        """The pipeline called `name`, loading it if need be; raises `InputError` if it cannot."""
        name = name.strip()
        if name not in self._offered and self.find is None:
            known = ", ".join(self._offered)
            raise InputError(f"There is no model called '{name}'; choose one of: {known}.")
        with self._locks[name if name in self._offered else ""]:
            if self.is_loaded(name):
                return self._models[name]
            try:
                load = self._models.get(name) or partial(self.find, name)
                self._models[name] = _warm(load())
            except Exception as error:
                reason = (str(error).splitlines() or ["no reason was given"])[0]
                is_known = isinstance(error, ScarError)  # its message says it all
                log.error("cannot load '%s': %s", name, reason, exc_info=not is_known)
                reason = FOLDERS.sub("", reason).rstrip(".")
                self._problems[name] = f"The model '{name}' cannot be loaded: {reason}."
                raise InputError(self._problems[name]) from None
            self._problems.pop(name, None)
            visited = [other for other in self._models if other not in self._offered]
            for other in visited[:-VISITED]:
                del self._models[other]
            return self._models[name]

    def edit(
        self,
        name: str,
        image: Image.Image,
        instruction: str,
        settings: Settings,
        region: Image.Image | None = None,
    ) -> Iterator[Progress | Result]:
        """`run_edit` with the model called `name`."""
        with self._turn():
            self.get(name)
            yield from _named(name, self._edit(name, image, instruction, settings, region))

    def generate(
        self,
        name: str,
        control_map: Image.Image,
        prompt: str | int,
        settings: Settings,
        drawing: Mapping[str, Any] = AS_IT_IS,
    ) -> Iterator[Progress | Result]:
        """`run_generate` with the model called `name`."""
        with self._turn():
            self.get(name)
            yield from _named(name, self._generate(name, control_map, prompt, settings, drawing))

    # These may run in a process of their own, forked from this one: models are loaded before, and
    # no lock is taken there.
    def _edit(self, name: str, *arguments: Any) -> Iterator[Progress | Result]:
        yield from run_edit(self._models[name.strip()], *arguments)

    def _generate(self, name: str, *arguments: Any) -> Iterator[Progress | Result]:
        yield from run_generate(self._models[name.strip()], *arguments)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One run at a time: a stopped one may still be finishing its last step."""
        if not self._device.acquire(timeout=PATIENCE):
            raise InputError("The model is busy; please try again in a moment.")
        try:
            yield
        finally:
            self._device.release()

    def _tokens(self, name: str, image: Any, words: Any, settings: Settings, *_: Any) -> int:
        return self._models[name.strip()].total_tokens * settings.variants

    def is_loaded(self, name: str) -> bool:
        return hasattr(self._models.get(name), "stream_edit")

    def problem(self, name: str) -> str | None:
        """Why the last attempt to load `name` failed, or None."""
        return self._problems.get(name)

    def preload_all(self) -> None:
        """Load every offered model now, in this thread.

        ZeroGPU replaces the device of the main thread only, so what is loaded in another one, as
        visitors' requests are, would look for a GPU that is not there.
        """
        for name in self._offered:
            with contextlib.suppress(InputError):  # logged, and kept as the model's problem
                self.get(name)

    def preload(self, name: str) -> threading.Thread:
        """Start loading `name` in the background."""

        def load() -> None:
            with contextlib.suppress(InputError):  # logged, and kept as the model's problem
                self.get(name)

        thread = threading.Thread(target=load, name=f"load {name}", daemon=True)
        thread.start()
        return thread


def _named(name: str, events: Iterator[Progress | Result]) -> Iterator[Progress | Result]:
    """`events`, with the name of the model among the parameters of every result."""
    with contextlib.closing(events):
        for event in events:
            if isinstance(event, Result):
                event = replace(event, parameters={**event.parameters, "model": name.strip()})
            yield event


def _warm(pipe: Any) -> Any:
    """`pipe` after one step of a run: what is slow once is done before a visitor asks. Not where
    the device is lent call by call."""
    if is_zero_gpu():
        return pipe
    picture = Image.new("RGB", (pipe.size, pipe.size), "grey")
    stream = pipe.stream_edit(picture, "warm up", seed=0)
    next(stream)
    stream.close()
    return pipe
