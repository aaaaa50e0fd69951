"""What the studio withstands: bad files, bad paths, bad addresses, crowds, and a failing model."""

import json
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from faults.fake_pipeline import FakePipeline, edited
from faults.malformed import malformed
from faults.serving import Caller, edit_values, file_data, scene, served
from scar.errors import InputError, SamplingError
from scar.images import open_image
from scar.studio import QUEUE
from scar.studio.guard import MAX_BODY, MAX_UPLOAD_BODY

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


@pytest.fixture(scope="module")
def pipe():
    pipe = FakePipeline()
    pipe.total_tokens = 4  # few partial pictures: crowds are served quickly
    return pipe


@pytest.fixture(scope="module")
def address(pipe, tmp_path_factory):
    with served({"next-token": pipe}, tmp_path_factory.mktemp("assets")) as url:
        yield url


@pytest.fixture
def caller(address):
    return Caller(address)


@pytest.fixture
def uploaded(caller, tmp_path):
    scene(width=64, height=48).save(tmp_path / "scene.png")
    return caller.upload((tmp_path / "scene.png").read_bytes())


def plain(message):
    """Whether `message` is one sentence without insides of the program."""
    insides = ("Traceback", "Error", "/", "\\", "\n", "scar.")
    return message.endswith(".") and not any(part in message for part in insides)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_every_malformed_image_opens_or_is_refused_in_one_sentence():
    files = list(malformed())
    assert len(files) >= 200
    opened = 0
    for name, data in files:
        try:
            image = open_image(data)
        except InputError as refusal:
            assert plain(str(refusal)), (name, str(refusal))
        else:
            opened += 1
            assert image.mode == "RGB" and min(image.size) >= 16, name
    assert 30 <= opened <= len(files) - 60


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_server_answers_every_malformed_image_and_lives_on(caller, uploaded):
    for name, data in list(malformed())[::4]:
        try:
            path = caller.upload(data, name)
        except httpx.HTTPStatusError as refusal:
            assert refusal.response.status_code == 413, name
            continue
        kind, answer = caller.call("preprocess", file_data(path), "none")
        if kind == "error":
            assert plain(answer["error"]), (name, answer)
    assert caller.call("preprocess", file_data(uploaded), "none")[0] == "complete"


def test_a_bomb_is_refused_before_it_is_decoded(caller):
    data = dict(malformed())["100-megapixels.png"]
    kind, answer = caller.call("preprocess", file_data(caller.upload(data)), "none")
    assert kind == "error" and "too many pixels" in answer["error"]


OPEN_AND_WEIGH = """
import re, sys, time
from scar.errors import InputError
from scar.images import open_image

def peak():  # resident kB of this program alone: what getrusage says includes its parent
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

before, start = peak(), time.process_time()
try:
    open_image(sys.argv[1])
except InputError:
    print(time.process_time() - start, (peak() - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_refusing_a_bomb_takes_under_a_second_and_50_megabytes(tmp_path):
    (tmp_path / "bomb.png").write_bytes(dict(malformed())["100-megapixels.png"])
    command = [sys.executable, "-c", OPEN_AND_WEIGH, tmp_path / "bomb.png"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    seconds, megabytes = map(float, answer.stdout.split())
    assert seconds < 1 and megabytes < 50


PATHS = [
    "/etc/passwd", "//etc/passwd", "/proc/self/environ", "../app.py", "../../etc/passwd",
    "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd", "file:///etc/passwd",
    "C:/windows/win.ini", "/tmp/../etc/passwd", "app.py", "/etc/./passwd",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_path_outside_the_uploads_is_served_or_read(caller, pipe, path):
    answer = caller.http.get(f"/gradio_api/file={path}")
    assert answer.status_code in (403, 404)
    started = pipe.finished
    kind, _ = caller.edit(file_data(path))
    assert kind == "error" and pipe.finished == started


def test_the_program_itself_is_not_served(caller):
    import scar.images

    answer = caller.http.get(f"/gradio_api/file={scar.images.__file__}")
    assert answer.status_code in (403, 404)


@pytest.fixture
def listener():
    """A local server that notes whether anyone connects."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.3)
        yield server


def visited(server):
    try:
        server.accept()[0].close()
        return True
    except TimeoutError:
        return False


def test_the_server_fetches_no_address(caller, listener):
    host, port = listener.getsockname()
    target = f"http://{host}:{port}/a.png"
    forms = [target, f"HTTP://{host}:{port}/", target.replace(":", "%3a", 1), f"//{host}:{port}/a"]
    for form in forms:
        assert caller.http.get(f"/gradio_api/file={form}").status_code in (403, 404)
    for url in (target, "https://example.com/a.png", "ftp://example.com/a.png"):
        kind, _ = caller.edit(file_data(url))
        assert kind == "error"
        kind, _ = caller.edit(file_data(None, url=url))
        assert kind == "error"
    assert not visited(listener)


@pytest.mark.parametrize("route", ["/proxy=http://a.b", "/component_server", "/openapi.json"])
def test_routes_without_use_are_closed(caller, route):
    for prefix in ("", "/gradio_api"):
        answer = caller.http.get(prefix + route)
        assert answer.status_code == 404


@pytest.mark.parametrize("name", ["component_server.png", "proxy=1.png", "openapi.json.png"])
def test_a_file_may_be_named_like_a_closed_route(caller, name, tmp_path):
    scene(width=64, height=48).save(tmp_path / "scene.png")
    path = caller.upload((tmp_path / "scene.png").read_bytes(), name)
    assert caller.read({"path": path}) == (tmp_path / "scene.png").read_bytes()
    assert caller.http.get(f"/gradio_api/file/{path}").status_code != 404


def test_data_addresses_are_refused(caller):
    picture = file_data(None, url="data:image/png;base64,iVBORw0KGgo=")
    kind, answer = caller.edit(picture)
    assert kind == "error" and plain(answer["error"])


def test_large_bodies_are_refused_announced_or_not(caller):
    def pieces():
        for _ in range(8):
            yield b"x" * (MAX_BODY // 4)

    url = "/gradio_api/call/edit"
    assert caller.http.post(url, content=b"x" * (MAX_BODY + 1)).status_code == 413
    assert caller.http.post(url, content=pieces()).status_code == 413
    large = b"x" * (MAX_UPLOAD_BODY + 1)
    assert caller.http.post("/gradio_api/upload", content=large).status_code == 413


def test_deep_json_is_refused(caller):
    for body in ("[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000):
        answer = caller.http.post("/gradio_api/call/edit", content=body)
        assert 400 <= answer.status_code < 500


def test_uploads_are_never_shown_as_pages(caller):
    for name in ("a.html", "a.svg"):
        path = caller.upload(b"<script>alert(1)</script>", name)
        answer = caller.http.get(f"/gradio_api/file={path}")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "attachment" in answer.headers.get("content-disposition", "")


def crowd(address, uploaded, count):
    """`count` clients at once, each with its own words; ("complete" | "error", answer) of each."""

    def ask(number):
        caller = Caller(address)
        return caller, caller.edit(file_data(uploaded), f"edit number {number}", number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, range(count)))


def test_fifty_clients_get_fifty_right_answers(address, uploaded):
    picture = scene(width=64, height=48)
    for number, (caller, (kind, answer)) in enumerate(crowd(address, uploaded, 50)):
        assert kind == "complete", answer
        image, parameters = answer
        assert parameters["instruction"] == f"edit number {number}"
        expected = edited(picture, f"edit number {number}", number)
        assert caller.download(image).tobytes() == expected.tobytes()


def test_a_crowd_beyond_the_queue_is_refused_politely(address, caller, uploaded, pipe):
    pipe.step_seconds = 0.02
    answers = [answer for _, answer in crowd(address, uploaded, 120)]
    pipe.step_seconds = 0
    done = [answer for kind, answer in answers if kind == "complete"]
    refused = [answer for kind, answer in answers if kind == "error"]
    assert len(done) >= QUEUE and len(done) + len(refused) == 120
    assert refused and all("ueue is full" in json.dumps(answer) for answer in refused)
    assert caller.edit(file_data(uploaded))[0] == "complete"


def test_a_client_that_leaves_frees_the_model(address, caller, uploaded, pipe):
    pipe.step_seconds, abandoned = 0.5, pipe.abandoned
    event = caller.join("edit", *edit_values(file_data(uploaded))).json()["event_id"]
    with caller.http.stream("GET", f"/gradio_api/call/edit/{event}") as lines:
        next(lines.iter_lines())
    pipe.step_seconds = 0
    done = threading.Event()

    def next_client():
        Caller(address).edit(file_data(uploaded))
        done.set()

    threading.Thread(target=next_client, daemon=True).start()
    assert done.wait(30) and pipe.running == 0
    assert pipe.abandoned == abandoned + 1


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OutOfMemoryError("CUDA out of memory at /secret/path"), "out of memory"),
        (MemoryError(), "out of memory"),
        (SamplingError("nan in logits"), "not finite"),
        (FileNotFoundError("/secret/path/model.safetensors"), "file of the model is missing"),
        (RuntimeError("boom at /secret/path"), "went wrong"),
    ],
)
def test_a_failing_model_gives_one_sentence_and_the_next_call_works(
    caller, uploaded, pipe, error, sentence
):
    def fail():
        raise error

    pipe.fail = fail
    kind, answer = caller.edit(file_data(uploaded))
    pipe.fail = lambda: None
    assert kind == "error" and sentence in answer["error"] and plain(answer["error"])
    assert caller.edit(file_data(uploaded))[0] == "complete"
