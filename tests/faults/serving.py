"""A studio served from this process on a free port, over pipelines the test can look into."""

import json
from contextlib import contextmanager
from io import BytesIO

import httpx
import numpy as np
from PIL import Image, ImageDraw

from scar.studio import build_studio, launch_studio

INSTRUCTIONS = ["add a red apple on the left", "make it night", "remove the ball"]


@contextmanager
def served(models, folder):
    """Yields the address of a studio over `models` with two example scenes kept in `folder`."""
    write_scenes(folder / "examples")
    studio = build_studio(models, folder)
    try:
        yield launch_studio(studio, "127.0.0.1")
    finally:
        studio.close()


def write_scenes(folder):
    folder.mkdir(parents=True)
    entries = []
    for index, colour in enumerate(["tomato", "gold"]):
        name = f"{index}.png"
        scene(colour).save(folder / name)
        entries.append({"file": name, "caption": f"a {colour} ball", "instructions": INSTRUCTIONS})
    (folder / "examples.json").write_text(json.dumps(entries))


def scene(colour="tomato", width=128, height=128):
    """A ball on a meadow under a sky."""
    shade = np.linspace(120, 250, height)[:, None].repeat(width, 1)
    pixels = np.stack([shade, shade, np.full_like(shade, 240)], -1).astype(np.uint8)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, height * 0.65, width, height], fill="yellowgreen")
    draw.ellipse([width * 0.3, height * 0.35, width * 0.7, height * 0.75], fill=colour)
    return image


class Caller:
    """Speaks to a studio over plain HTTP, as a hostile or hurried client would."""

    def __init__(self, address, **options):
        self.http = httpx.Client(base_url=address.rstrip("/"), timeout=60, **options)

    def upload(self, data, name="picture.png"):
        """The server's path of the uploaded file."""
        answer = self.http.post("/gradio_api/upload", files={"files": (name, data)})
        answer.raise_for_status()
        return answer.json()[0]

    def join(self, endpoint, *values):
        """The answer to a call's first half; its JSON names the event."""
        return self.http.post(f"/gradio_api/call/{endpoint}", json={"data": list(values)})

    def call(self, endpoint, *values):
        """("complete", outputs) or ("error", message)."""
        joined = self.join(endpoint, *values)
        if joined.status_code != 200:
            return "error", joined.text
        event, last = None, ("error", "the server closed the stream")
        url = f"/gradio_api/call/{endpoint}/{joined.json()['event_id']}"
        with self.http.stream("GET", url) as lines:
            for line in lines.iter_lines():
                if line.startswith("event: "):
                    event = line[7:]
                elif line.startswith("data: ") and event in ("complete", "error"):
                    last = event, json.loads(line[6:])
        return last

    def edit(self, picture, instruction="make it night", seed=None):
        return self.call("edit", *edit_values(picture, instruction, seed))

    def download(self, file):
        """The image an endpoint answered with."""
        answer = self.http.get(f"/gradio_api/file={file['path']}")
        answer.raise_for_status()
        return Image.open(BytesIO(answer.content)).convert("RGB")


def edit_values(picture, instruction="make it night", seed=None):
    """All nine inputs of the endpoint `edit`: a plain call has no defaults."""
    return [picture, instruction, None, "", seed, None, 1.0, 0, 1.0]


def file_data(path, **more):
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}
