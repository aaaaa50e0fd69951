"""The studio in a real headless Chromium: what a person sees, presses and keeps."""

import json
import os
import time
from io import BytesIO
from pathlib import Path

import pytest
from faults.fake_pipeline import FakePipeline
from faults.serving import scene, served
from PIL import Image

from scar.studio import Library, build_studio, launch_studio
from scar.studio.bench import measure
from scar.studio.session import PREVIEWS

CHROMIUM = "/usr/bin/chromium"
PATIENCE = 1000 * int(os.environ.get("SCAR_BROWSER_TIMEOUT", "15"))  # longer on a busy machine
SIDES = ("before", "after")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not Path(CHROMIUM).exists(), reason="chromium is not installed (apt-get install chromium)"
    ),
]

# Every picture the stage shows while it is partial, and the strongest layer lying over it.
WATCH = """
() => {
  window.seen = new Set(); window.covered = 0;
  const look = () => {
    const image = document.querySelector('#edit-stage .stage.partial img');
    if (image) {
      window.seen.add(image.src);
      const box = image.getBoundingClientRect();
      const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
      if (top && !top.closest('#edit-stage .stage')) window.covered += 1;
    }
    requestAnimationFrame(look);
  };
  look();
}
"""


@pytest.fixture(scope="module")
def pipe():
    return FakePipeline(step_seconds=0.015)


@pytest.fixture
def endless(pipe):
    """Makes runs that never end by themselves; calling it lets the next ones end."""

    def end():
        pipe.endless = False

    pipe.endless = True
    yield end
    end()


@pytest.fixture(scope="module")
def library(pipe):
    return Library({"next-token": pipe, "next-set": FakePipeline("next-set")})


@pytest.fixture(scope="module")
def address(library, tmp_path_factory):
    with served(library, tmp_path_factory.mktemp("assets")) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def blank_page(browser, address):
    """Makes pages; afterwards nothing may have failed in their consoles or left the machine."""
    contexts, problems, foreign = [], [], []

    def note_request(request):
        if not request.url.startswith((address, "data:", "blob:")):
            foreign.append(request.url)

    def blank(**options):
        options.setdefault("viewport", {"width": 1280, "height": 900})
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda m: m.type == "error" and problems.append(m.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", note_request)
        return page

    yield blank
    for context in contexts:
        context.close()
    assert problems == [] and foreign == []


@pytest.fixture
def open_page(blank_page, address):
    """Opens the studio, each time in a page of its own: Gradio calls leaving one an error."""

    def open(**options):
        page = blank_page(**options)
        page.goto(address)
        page.wait_for_selector("#edit-run")
        return page

    return open


@pytest.fixture
def page(open_page):
    return open_page()


def upload(page, image, selector="#edit-source", **text):
    buffer = BytesIO()
    image.save(buffer, "PNG", **text)
    page.set_input_files(
        f"{selector} input[type=file]",
        {"name": "picture.png", "mimeType": "image/png", "buffer": buffer.getvalue()},
    )
    page.wait_for_selector(f"{selector} img")


def pick_and_run(page, instruction="make it night"):
    page.click("#edit-examples button >> nth=0")
    page.wait_for_selector("#edit-source img")
    page.fill("#edit-instruction textarea", instruction)
    page.click("#edit-run")
    page.wait_for_selector("#edit-stage .stage.done")


def source_of(page):
    return page.get_attribute("#edit-source img", "src")


def open_advanced(page):
    page.click("#edit-advanced > button")
    page.wait_for_selector("#edit-seed input")


def keep(page, name):
    """Save a screenshot where SCAR_SCREENSHOTS says."""
    if folder := os.environ.get("SCAR_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def test_an_upload_and_enter_show_the_edit_growing(page):
    upload(page, scene(width=160, height=120))
    page.fill("#edit-instruction textarea", "make it night")
    page.evaluate(WATCH)
    page.press("#edit-instruction textarea", "Enter")
    page.wait_for_selector("#edit-stage .stage.done")
    assert page.evaluate("window.seen.size") >= 4
    assert page.evaluate("window.covered") == 0
    assert "64 tokens" in page.inner_text("#edit-status")
    sizes = page.eval_on_selector_all(
        "#edit-stage img", "images => images.map(i => [i.naturalWidth, i.naturalHeight])"
    )
    assert sizes == [[160, 120], [160, 120]]
    keep(page, "desktop")


def test_the_divider_moves_by_keyboard(page):
    pick_and_run(page)
    page.focus("#edit-stage input[type=range]")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    cut = page.eval_on_selector("#edit-stage .stage", "e => e.style.getPropertyValue('--cut')")
    assert cut == "60%"


def test_the_download_is_a_png_with_the_seed_that_is_shown(page):
    pick_and_run(page)
    page.wait_for_selector("#edit-download:not([disabled])")
    with page.expect_download() as download:
        page.click("#edit-download")
    image = Image.open(download.value.path())
    parameters = json.loads(image.info["parameters"])
    assert image.format == "PNG" and parameters["instruction"] == "make it night"
    assert f"seed {parameters['seed']}" in page.inner_text("#edit-status")


def test_running_without_a_picture_or_words_says_what_is_missing(page):
    page.click("#edit-run")
    page.get_by_text("Please choose a picture first").wait_for()
    page.click("#edit-examples button >> nth=0")
    page.wait_for_selector("#edit-source img")
    page.click("#edit-run")
    page.get_by_text("Please say what should change").wait_for()
    assert page.is_visible("#edit-run")


def test_a_file_that_is_no_image_gives_one_sentence(page):
    file = {"name": "notes.png", "mimeType": "image/png", "buffer": b"only some words"}
    page.set_input_files("#edit-source input[type=file]", file)
    page.get_by_text("This is not a PNG, JPEG or WEBP image").first.wait_for()
    pick_and_run(page)


def test_stop_ends_the_run_and_the_next_one_works(page, pipe, endless):
    abandoned = pipe.abandoned
    page.click("#edit-examples button >> nth=0")
    page.wait_for_selector("#edit-source img")
    page.fill("#edit-instruction textarea", "make it night")
    page.click("#edit-run")
    page.wait_for_selector("#edit-stage .stage.partial")
    page.click("#edit-stop")
    page.get_by_text("Stopped").wait_for()
    page.wait_for_selector("#edit-run")
    endless()
    assert page.query_selector("#edit-history button") is None
    page.click("#edit-run")  # at once: the button is back only when a press counts
    page.wait_for_selector("#edit-stage .stage.done")
    assert pipe.abandoned == abandoned + 1 and pipe.running == 0


def test_the_measure_sees_the_first_partial_picture_and_the_stop(
    blank_page, address, library, pipe, endless
):
    abandoned, first = pipe.abandoned, pipe.step_seconds * (pipe.total_tokens // PREVIEWS)
    answer = measure(blank_page(), address, library, scene=0)
    endless()
    assert first <= answer.partial < first + PATIENCE / 1000
    assert 0 < answer.freed < first + PATIENCE / 1000 and answer.again > 0
    assert pipe.abandoned == abandoned + 1 and pipe.running == 0


def test_a_closed_tab_frees_the_model(open_page, pipe, endless):
    abandoned = pipe.abandoned
    page = open_page()
    page.click("#edit-surprise")
    page.wait_for_selector("#edit-source img")
    page.click("#edit-run")
    page.wait_for_selector("#edit-stage .stage.partial")
    page.close()
    deadline = time.monotonic() + 4 * PATIENCE / 1000
    while pipe.running and time.monotonic() < deadline:
        time.sleep(0.1)
    endless()
    other = open_page()
    pick_and_run(other)
    assert pipe.abandoned == abandoned + 1 and pipe.running == 0


def test_use_as_input_then_undo_then_redo(page):
    pick_and_run(page)
    first = source_of(page)
    page.click("#edit-reuse")
    page.wait_for_function(f"document.querySelector('#edit-source img').src !== '{first}'")
    second = source_of(page)
    page.click("#edit-undo")
    page.wait_for_function(f"document.querySelector('#edit-source img').src === '{first}'")
    page.click("#edit-redo")
    page.wait_for_function(f"document.querySelector('#edit-source img').src === '{second}'")


def test_history_brings_a_run_back(page):
    open_advanced(page)
    pick_and_run(page, "make it night")
    seed = page.input_value("#edit-seed input")
    pick_and_run(page, "remove the ball")
    page.wait_for_selector("#edit-history button >> nth=1")
    page.click("#edit-history button >> nth=1")
    page.wait_for_function(
        "document.querySelector('#edit-instruction textarea').value === 'make it night'"
    )
    assert page.input_value("#edit-seed input") == seed
    assert not page.is_checked("#edit-randomize input")
    assert "make it night" in page.get_attribute("#edit-stage img.after", "alt")


def test_a_result_dropped_back_restores_its_settings(page, open_page, tmp_path):
    open_advanced(page)
    pick_and_run(page, "remove the ball")
    page.wait_for_selector("#edit-download:not([disabled])")
    with page.expect_download() as download:
        page.click("#edit-download")
    path = tmp_path / "result.png"
    download.value.save_as(path)
    seed = page.input_value("#edit-seed input")
    page = open_page()
    open_advanced(page)
    page.set_input_files("#edit-source input[type=file]", path)
    page.get_by_text("settings inside this picture").wait_for()
    assert page.input_value("#edit-instruction textarea") == "remove the ball"
    assert page.input_value("#edit-seed input") == seed


def test_a_phone_sees_everything_without_scrolling_sideways(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    pick_and_run(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.wait_for_function(
        "document.querySelector('#edit-stage').getBoundingClientRect().bottom <= innerHeight + 1"
    )
    keep(page, "phone")


def test_dark_mode_follows_the_system(open_page):
    page = open_page(color_scheme="dark")
    page.wait_for_function("document.body.classList.contains('dark')")
    pick_and_run(page)
    keep(page, "dark")


def test_every_control_has_a_name_and_every_picture_words(page):
    pick_and_run(page)
    open_advanced(page)
    snapshot = page.evaluate("""
    () => [...document.querySelectorAll('input:not([type=file]), textarea, button, select')]
      .filter(e => e.offsetParent !== null)
      .filter(e => !(e.getAttribute('aria-label') || e.innerText || e.title
                     || e.labels?.length || e.getAttribute('aria-labelledby')))
      .map(e => e.outerHTML.slice(0, 200))
    """)
    assert snapshot == []
    assert (
        page.eval_on_selector_all("img", "i => i.filter(e => !e.hasAttribute('alt')).length") == 0
    )


def test_painting_a_region_keeps_every_pixel_outside(page, tmp_path):
    upload(page, scene())
    page.fill("#edit-instruction textarea", "make it night")
    page.click("#edit-region-group > button")
    canvas = page.wait_for_selector("#edit-region canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.85, box["y"] + box["height"] * 0.6, steps=4)
    page.mouse.up()
    keep(page, "region")
    page.click("#edit-run")
    page.wait_for_selector("#edit-download:not([disabled])")
    with page.expect_download() as download:
        page.click("#edit-download")
    image = Image.open(download.value.path())
    assert json.loads(image.info["parameters"])["region"] is True
    left = (0, 0, 64, 128)
    assert image.convert("RGB").crop(left).tobytes() == scene().crop(left).tobytes()
    assert image.convert("RGB").tobytes() != scene().tobytes()


def test_a_map_is_shown_before_a_picture_is_made_from_it(page, tmp_path):
    page.get_by_role("tab", name="Control to image").click()
    page.click("#control-examples button >> nth=0")
    page.wait_for_selector("#control-map img")
    assert page.query_selector("#control-stage .stage.done") is None
    page.fill("#control-prompt textarea", "a cat on a beach")
    page.click("#control-run")
    page.wait_for_selector("#control-download:not([disabled])")
    with page.expect_download() as download:
        page.click("#control-download")
    parameters = json.loads(Image.open(download.value.path()).info["parameters"])
    assert parameters["prompt"] == "a cat on a beach" and parameters["control"] == "canny"
    keep(page, "control")


def test_a_class_can_be_chosen_instead_of_a_sentence(page):
    page.get_by_role("tab", name="Control to image").click()
    page.click("#control-examples button >> nth=0")
    page.wait_for_selector("#control-map img")
    page.get_by_label("Class", exact=True).check()
    page.wait_for_selector("#control-class input")
    page.click("#control-run")
    page.get_by_text("Please choose a class").wait_for()
    page.click("#control-class input")
    page.get_by_role("option", name="red apple").click()
    page.click("#control-run")
    page.wait_for_selector("#control-stage .stage.done")


def test_two_models_are_compared_on_one_picture_and_seed(page):
    page.get_by_role("tab", name="Compare").click()
    page.click("#compare-examples button >> nth=0")
    page.wait_for_selector("#compare-source img")
    page.click("#compare-run")
    for side in ("left", "right"):
        page.wait_for_selector(f"#compare-stage-{side} .stage.done")
        assert "memory" in page.inner_text(f"#compare-status-{side}")
        assert "seed 0" in page.inner_text(f"#compare-status-{side}")
    keep(page, "compare")


def test_about_tells_the_limits(page):
    page.get_by_role("tab", name="About").click()
    page.get_by_text("megapixels").wait_for()


def test_a_chinese_browser_gets_a_chinese_page(open_page):
    page = open_page(locale="zh-CN")
    page.wait_for_function("document.querySelector('#edit-run').innerText === '编辑图片'")
    assert page.get_by_role("tab", name="对比").is_visible()
    page.get_by_text("结果会在这里").first.wait_for()
    pick_and_run(page)
    assert "词元" in page.inner_text("#edit-status")


def test_the_embedded_model_edits_an_example_scene(browser, tmp_path_factory):
    """The real model that ships with the repository, on the real scenes."""
    import app

    if not list((app.ASSETS / "embedded").glob("**/config.json")):
        pytest.skip("the embedded checkpoint is not in assets/embedded")
    library = Library(app.models([]))
    library.get(library.names[0])
    studio = build_studio(library, app.ASSETS)
    try:
        page = browser.new_page()
        page.goto(launch_studio(studio, "127.0.0.1"))
        page.click("#edit-examples button >> nth=0")
        page.click("#edit-chips button >> nth=0")
        page.wait_for_selector("#edit-source img")
        page.wait_for_function("document.querySelector('#edit-instruction textarea').value")
        page.evaluate(WATCH)
        page.click("#edit-run")
        page.wait_for_selector("#edit-stage .stage.done", timeout=60_000)
        assert page.evaluate("window.seen.size") >= 4
        before, after = (page.get_attribute(f"#edit-stage img.{s}", "src") for s in SIDES)
        assert before != after
        keep(page, "embedded")
    finally:
        studio.close()
