"""The served studio over HTTP: endpoints, streaming, refusals, and the program's entry."""

import ast
import asyncio
import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from faults.fake_pipeline import FakePipeline, edited
from faults.serving import scene, served
from gradio_client import Client, handle_file
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pipe():
    return FakePipeline(step_seconds=0.002)


@pytest.fixture(scope="module")
def client(pipe, tmp_path_factory):
    models = {"next-token": pipe, "next-set": FakePipeline("next-set")}
    with served(models, tmp_path_factory.mktemp("assets")) as url:
        yield Client(url, verbose=False)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    scene(width=96, height=64).save(path)
    return handle_file(path)


def test_exactly_three_endpoints_are_public(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert sorted(endpoints) == ["/edit", "/generate", "/preprocess"]
    names = [p["parameter_name"] for p in endpoints["/edit"]["parameters"]]
    assert names[:2] == ["image", "instruction"] and "seed" in names


def flattened(error):
    """The errors in nested groups of them."""
    inner = getattr(error, "exceptions", None)
    return [error] if inner is None else [each for group in inner for each in flattened(group)]


@contextlib.asynccontextmanager
async def tools(client):
    """A session of the Model Context Protocol with the studio."""
    address = f"{client.src}gradio_api/mcp/"
    async with streamablehttp_client(address) as (read, write, _), ClientSession(read, write) as it:
        await it.initialize()
        yield it


def test_the_endpoints_are_tools_that_take_data_urls_and_no_addresses(client):
    def call(image):
        async def run():
            async with tools(client) as session:
                names = [tool.name for tool in (await session.list_tools()).tools]
                (name,) = [name for name in names if name.endswith("edit")]
                values = {"image": image, "instruction": "make it night", "seed": 5}
                return names, await session.call_tool(name, values)

        return asyncio.run(run())

    buffer = BytesIO()
    scene(width=96, height=64).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    names, answer = call(f"data:image/png;base64,{data}")
    assert len(names) == 3
    (drawn,) = answer.content
    file, parameters = ast.literal_eval(drawn.text)
    assert parameters["seed"] == 5
    image = Image.open(BytesIO(httpx.get(file["url"]).content)).convert("RGB")
    expected = edited(scene(width=96, height=64), "make it night", 5)
    assert image.tobytes() == expected.tobytes()
    with pytest.raises(BaseExceptionGroup) as refusal:
        call("http://127.0.0.1:9/picture.png")
    assert "400 Bad Request" in str(flattened(refusal.value))


def test_an_edit_streams_partials_and_ends_with_the_result(client, picture):
    job = client.submit(picture, "make it night", seed=5, api_name="/edit")
    path, parameters = job.result(timeout=30)
    assert len(job.outputs()) >= 8
    image = Image.open(path)
    assert image.format == "PNG" and image.size == (96, 64)
    expected = edited(scene(width=96, height=64), "make it night", 5)
    assert image.convert("RGB").tobytes() == expected.tobytes()
    assert json.loads(image.info["parameters"]) == parameters
    assert parameters["seed"] == 5


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(client, picture):
    def run(seed):
        path, _ = client.predict(picture, "make it night", seed=seed, api_name="/edit")
        return Path(path).read_bytes()

    assert run(1) == run(1) != run(2)


def test_a_region_keeps_what_lies_outside(client, picture, tmp_path):
    mask = Image.new("L", (96, 64))
    mask.paste(255, (48, 0, 96, 64))
    mask.save(tmp_path / "mask.png")
    region = handle_file(tmp_path / "mask.png")
    path, _ = client.predict(picture, "make it night", region, seed=1, api_name="/edit")
    left = (0, 0, 48, 64)
    kept = Image.open(path).convert("RGB").crop(left)
    assert kept.tobytes() == scene(width=96, height=64).crop(left).tobytes()


def test_generation_takes_a_sentence_or_a_class_number(client, picture):
    for prompt, meant in (("a cat on a beach", "a cat on a beach"), ("2", 2)):
        _, parameters = client.predict(picture, prompt, seed=1, api_name="/generate")
        assert parameters["prompt"] == meant


def test_a_transparent_layer_is_a_mask_and_a_map(client, picture, tmp_path):
    layer = Image.new("RGBA", (96, 64))
    layer.paste("white", (48, 0, 96, 64))
    layer.save(tmp_path / "layer.png")
    layer = handle_file(tmp_path / "layer.png")
    path, _ = client.predict(picture, "make it night", layer, seed=1, api_name="/edit")
    left = (0, 0, 48, 64)
    kept = Image.open(path).convert("RGB").crop(left)
    assert kept.tobytes() == scene(width=96, height=64).crop(left).tobytes()
    assert "icc_profile" in Image.open(path).info
    on_black = Image.new("RGB", (96, 64))
    on_black.paste("white", (48, 0, 96, 64))
    drawn = Image.open(client.predict(layer, "none", api_name="/preprocess"))
    assert drawn.tobytes() == on_black.tobytes() and "icc_profile" in drawn.info
    path, _ = client.predict(layer, "a cat", seed=1, api_name="/generate")
    assert Image.open(path).tobytes() == edited(on_black, "a cat", 1).tobytes()


def test_a_prompt_of_thousands_of_digits_is_too_long(client, picture):
    with pytest.raises(Exception, match="at most 200 characters"):
        client.predict(picture, "7" * 5000, api_name="/generate")


def test_preprocess_draws_edges(client, picture):
    edges = Image.open(client.predict(picture, "canny", api_name="/preprocess")).convert("L")
    assert edges.size == (96, 64)
    assert edges.getextrema() == (0, 255)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"instruction": " "}, "say what should change"),
        ({"instruction": "x" * 300}, "at most 200 characters"),
        ({"guidance": 1000}, "guidance must lie between 0 and 30"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": -1}, "seed must lie between 0 and 2147483647"),
        ({"top_p": "abc"}, "top p must be a number"),
        ({"model": "another"}, "no model called 'another'"),
        ({"image": None}, "send a picture"),
    ],
)
def test_bad_calls_get_one_sentence(client, picture, change, sentence):
    call = {"image": picture, "instruction": "make it night"} | change
    with pytest.raises(Exception, match=sentence):
        client.predict(**call, api_name="/edit")


def test_a_cancelled_job_frees_the_model(client, picture, pipe):
    abandoned, pipe.step_seconds = pipe.abandoned, 0.05
    job = client.submit(picture, "make it night", api_name="/edit")
    while not job.outputs():
        time.sleep(0.02)
    job.cancel()
    pipe.step_seconds = 0.002
    client.predict(picture, "make it night", api_name="/edit")
    assert pipe.abandoned == abandoned + 1 and pipe.running == 0


def test_the_entry_explains_itself_without_loading_anything():
    command = [sys.executable, ROOT / "app.py", "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0
    assert "--port" in answer.stdout and "--model" in answer.stdout


def test_the_entry_serves_the_page_and_its_badge(tmp_path):
    """The real program with whatever models are there; without weights it still answers."""
    command = [sys.executable, ROOT / "app.py", "--host", "127.0.0.1", "--port", str(free_port())]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        address = next(line for line in server.stdout if line.startswith("SCAR studio on"))
        page = httpx.get(address.split()[-1], timeout=30)
        assert page.status_code == 200 and "SCAR Studio" in page.text
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.parametrize("variable", ["TMPDIR", "GRADIO_TEMP_DIR"])
def test_temporary_files_inside_the_program_are_refused_in_one_sentence(variable):
    command = [sys.executable, ROOT / "app.py"]
    environment = {**os.environ, variable: str(ROOT / "tests")}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 1 and answer.stderr.count("\n") == 1
    assert str(ROOT / "tests") in answer.stderr and "GRADIO_TEMP_DIR" in answer.stderr


def test_the_operators_folder_for_temporary_files_is_used_and_kept(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    import app

    (tmp_path / "own.txt").write_text("kept")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "new"))
    with app._temporary_folder() as folder:
        assert Path(folder).parent == tmp_path / "new"
    assert not Path(folder).exists() and (tmp_path / "new").is_dir()


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def test_a_port_in_use_gets_one_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, ROOT / "app.py", "--host", "127.0.0.1", "--port", port]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 1
    assert answer.stderr.strip().endswith(f"Cannot listen on port {port}; try another --port.")
