"""How soon the studio answers a person, measured in a real browser."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from scar.images import InputError
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
