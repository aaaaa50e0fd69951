"""How soon the studio answers a person, measured in a real browser: `python -m scar bench ui`."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from scar.assets import ASSETS
from scar.errors import InputError
from scar.studio.library import Library

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
LONGEST = 300.0  # seconds to wait for anything: a busy machine is slow, not broken

# The first frame in which each thing is seen, and the clicks, on the page's own clock.
WATCH = """
() => {
  window.moments = {};
  const note = (name) => { window.moments[name] ??= performance.now() / 1000; };
  const seen = (selector) => document.querySelector(selector)?.offsetParent;
  document.addEventListener('click', (event) => {
    if (event.target.closest('#edit-run')) note('run');
    if (event.target.closest('#edit-stop')) note('stop');
  }, true);
  const look = () => {
    if (window.moments.run && seen('#edit-stage .stage.partial img')) note('partial');
    if (window.moments.stop && seen('#edit-run')) note('again');
    requestAnimationFrame(look);
  };
  look();
}
"""


@dataclass(frozen=True)
class Answer:
    """Seconds of one run that was stopped after its first partial picture."""

    partial: float  # from the press of Run to the first partial picture on the screen
    freed: float  # from the press of Stop to the model being free for the next run
    again: float  # from the press of Stop to Run being back on the screen


def ui(preset: str, device: str, repeat: int) -> None:
    """The studio over the embedded model, in a browser: the first partial picture, and Stop."""
    with tempfile.TemporaryDirectory(prefix="scar-bench-") as folder:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        from scar import ScarPipeline
        from scar.studio import Library, build_studio, launch_studio

        paradigm = preset.removeprefix("toy-")
        library = Library(
            {paradigm: partial(ScarPipeline.from_pretrained, paradigm=paradigm, device=device)}
        )
        library.get(paradigm)
        studio = build_studio(library, ASSETS)
        try:
            address = launch_studio(studio, "127.0.0.1")
            with browser_page() as page:
                answers = [measure(page, address, library, scene) for scene in range(repeat)]
        finally:
            studio.close()
    tokens = library.get(paradigm).total_tokens
    print(f"{preset} on {device}, {tokens} tokens, median (worst) of {repeat} runs, seconds")
    for field, words in {
        "partial": "Run pressed to first partial picture",
        "freed": "Stop pressed to model free",
        "again": "Stop pressed to Run back on the page",
    }.items():
        seconds = [getattr(answer, field) for answer in answers]
        print(f"{words:>37}: {median(seconds):.2f} ({max(seconds):.2f})")


@contextmanager
def browser_page() -> Iterator[Any]:
    """A page of a headless Chromium; raises `InputError` if there is none on this machine."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise InputError("This measure needs playwright: pip install playwright.") from None
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise InputError("This measure needs Chromium: apt-get install chromium.")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS, timeout=1000 * LONGEST)
        try:
            yield browser.new_page()
        finally:
            browser.close()


def measure(page: Any, address: str, library: Library, scene: int) -> Answer:
    """Edit example `scene` of the studio at `address` and stop at the first partial picture."""
    page.set_default_timeout(1000 * LONGEST)
    page.goto(address)
    page.click(f"#edit-examples button >> nth={scene}")
    page.wait_for_selector("#edit-source img")
    page.fill("#edit-instruction textarea", "make it night")
    page.click("#edit-advanced > button")
    page.fill("#edit-variants input[type=number]", "4")  # still at work when Stop is pressed
    page.press("#edit-variants input[type=number]", "Tab")
    page.evaluate(WATCH)
    page.click("#edit-run")
    page.wait_for_selector("#edit-stage .stage.partial img")
    pressed = time.perf_counter()
    page.click("#edit-stop")
    while library.is_busy:
        if time.perf_counter() - pressed > LONGEST:
            raise InputError("The model was not freed after Stop.")
        time.sleep(0.005)
    freed = time.perf_counter() - pressed
    page.wait_for_function("window.moments.again")
    moments = page.evaluate("window.moments")
    return Answer(
        partial=moments["partial"] - moments["run"],
        freed=freed,
        again=moments["again"] - moments["stop"],
    )
