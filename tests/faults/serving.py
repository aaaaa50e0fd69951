"""A studio served from this process on a free port, over pipelines the test can look into."""

import json
import secrets
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
        return Image.open(BytesIO(self.read(file))).convert("RGB")

    def read(self, file):
        """The bytes of a file the server offers."""
        answer = self.http.get(f"/gradio_api/file={file['path']}")
        answer.raise_for_status()
        return answer.content


class Visitor(Caller):
    """Presses what a page shows, as the page itself would, in a session and a language."""

    def __init__(self, address, language):
        super().__init__(address, headers={"accept-language": language})
        self.session = {"session_hash": secrets.token_hex(6)}
        self.config = self.http.get("/config").json()
        self.elements = {c["props"].get("elem_id"): c["id"] for c in self.config["components"]}

    def event(self, elem_id, name):
        target = [self.elements[elem_id], name]
        return next(d for d in self.config["dependencies"] if target in d["targets"])

    def after(self, event):
        """What runs the model once `event` has succeeded."""
        later = [d for d in self.config["dependencies"] if d["trigger_after"] == event["id"]]
        return next(d for d in later if d["backend_fn"])

    def updated(self, event, values, **about):
        """The values an event gives to what has an elem_id, by that."""
        names = {number: elem_id for elem_id, number in self.elements.items()}
        pairs = zip(event["outputs"], self.outputs(event, values, **about), strict=True)
        return {
            names.get(number): update.get("value") if is_update(update) else update
            for number, update in pairs
        }

    def send(self, event, values, **about):
        """Everything the server says about one event, as messages; `about` is the event's data."""
        body = {"data": values, "fn_index": event["id"], "event_data": about, **self.session}
        self.http.post("/gradio_api/queue/join", json=body).raise_for_status()
        messages = []
        with self.http.stream("GET", "/gradio_api/queue/data", params=self.session) as lines:
            for line in lines.iter_lines():
                if line.startswith("data: "):
                    messages.append(json.loads(line[6:]))
        return messages

    def outputs(self, event, values, **about):
        done = self.end(event, values, **about)
        assert done["success"], done
        return done["output"]["data"]

    def end(self, event, values, **about):
        """How an event ended."""
        messages = self.send(event, values, **about)
        return next(m for m in messages if m["msg"] == "process_completed")

    def picture(self):
        buffer = BytesIO()
        scene().save(buffer, "PNG")
        return file_data(self.upload(buffer.getvalue()))


def is_update(value):
    """Whether a component gets new properties, among which may be its value."""
    return isinstance(value, dict) and "__type__" in value


def edit_values(picture, instruction="make it night", seed=None):
    """All nine inputs of the endpoint `edit`: a plain call has no defaults."""
    return [picture, instruction, None, "", seed, None, 1.0, 0, 1.0]


def file_data(path, **more):
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}
