"""The studio's two languages: complete tables, and a server that answers in the visitor's own."""

import json
import re
import secrets
from io import BytesIO
from pathlib import Path

import pytest
from faults.fake_pipeline import FakePipeline
from faults.serving import Caller, file_data, scene, served

from scar.images import InputError, check_size, open_image
from scar.studio import about, texts
from scar.studio.builder import POSITIONS, SIZES, SLOTS
from scar.studio.compare import SIDES
from scar.studio.painter import SHAPES
from scar.studio.session import RANGES, check_prompt, check_settings
from scar.studio.texts import HOLE, LABELS, NAMES, SENTENCES, in_chinese, tell
from train.data.toy_compose import Part, compose, object_names, place_names

HAN = re.compile("[\u4e00-\u9fff]")


def test_every_label_exists_in_each_language():
    english, *chinese = texts.I18N.translations.values()
    assert len(chinese) == 2
    for table in chinese:
        assert table.keys() == english.keys()
    untranslated = [words for words, told in LABELS.items() if not HAN.search(told)]
    assert untranslated == ["Top k", "Top p"]


def test_every_sentence_keeps_its_values_and_its_words():
    for words, told in SENTENCES.items():
        assert sorted(HOLE.findall(words)) == sorted(HOLE.findall(told)), words
        assert HAN.search(told), words


def test_every_place_object_and_setting_has_a_chinese_name():
    settings = [name.replace("_", " ") for name in RANGES]
    names = [*place_names(), *object_names(), *POSITIONS, *SIZES, *settings, "nothing"]
    assert [name for name in names if name not in NAMES] == []


def test_every_label_and_shape_is_used():
    sources = [path.read_text("utf-8") for path in Path(texts.__file__).parent.glob("*.py")]
    code = "".join(sources)
    built = {f"{words}, {side}" for words in ("Model", "Guidance") for side in SIDES}
    built |= {f"Object {slot + 1}" for slot in range(SLOTS)}
    parameters = {"Low", "High", "Resolution"}
    unused = [w for w in LABELS if f'"{w}"'.replace("\n", "\\n") not in code]
    infos = {w for w in unused if w.startswith(("Edges ", "Working "))}
    assert set(unused) == built | parameters | infos and len(infos) == 3
    assert all(HAN.search(in_chinese(shape)) for shape in SHAPES.values())


def refusals():
    """What the checks of every kind of input say."""
    yield check_size, (5, 5)
    yield check_size, (20_000, 20_000)
    yield check_size, (16, 900)
    yield check_size, (9000, 1200)
    for data in (b"", b"only words", b"\x89PNG\r\n\x1a\n"):
        yield open_image, data
    yield lambda _: check_prompt("x" * 201, ""), None
    for name, value in {"seed": -1, "top_k": 1.5, "guidance": "3", "top_p": None}.items():
        yield lambda pair: check_settings(**dict([pair])), (name, value)
    for place, parts in {
        "nowhere": [("cat", "left", "small")],
        "beach": [],
        "desert": [("dragon", "left", "small")],
        "street": [("cat", "above", "small")],
        "forest": [("cat", "left", "huge")],
        "pier": [("cat", "left", "small")] * 2,
        "kitchen": [("sun", "left", "small")],
    }.items():
        yield lambda pair: compose(pair[0], [Part(*part) for part in pair[1]]), (place, parts)


def test_every_refusal_has_a_chinese_sentence():
    for check, value in refusals():
        with pytest.raises(InputError) as refusal:
            check(value)
        told = in_chinese(str(refusal.value))
        assert HAN.search(told) and told.endswith("。"), str(refusal.value)


def test_the_about_tab_has_a_chinese_sentence_for_every_line():
    for line in (*about.ENDPOINTS, *about.LIMITS):
        assert HAN.search(in_chinese(line)), line


def test_values_stand_in_the_holes_of_a_chinese_sentence():
    assert in_chinese("The top k must lie between 0 and 16384.") == "Top k必须在 0 和 16384 之间。"
    assert in_chinese("The guidance must be a number.") == "引导强度必须是数字。"
    assert in_chinese("token 3 / 64") == "词元 3 / 64"
    assert in_chinese("{0} words nobody translated") == "{0} words nobody translated"
    assert tell("Ready") == "Ready"


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

    def send(self, event, values):
        """Everything the server says about one event, as messages."""
        body = {"data": values, "fn_index": event["id"], **self.session}
        self.http.post("/gradio_api/queue/join", json=body).raise_for_status()
        messages = []
        with self.http.stream("GET", "/gradio_api/queue/data", params=self.session) as lines:
            for line in lines.iter_lines():
                if line.startswith("data: "):
                    messages.append(json.loads(line[6:]))
        return messages

    def outputs(self, event, values):
        done = self.end(event, values)
        assert done["success"], done
        return done["output"]["data"]

    def end(self, event, values):
        """How an event ended."""
        messages = self.send(event, values)
        return next(m for m in messages if m["msg"] == "process_completed")

    def picture(self):
        buffer = BytesIO()
        scene().save(buffer, "PNG")
        return file_data(self.upload(buffer.getvalue()))


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with served({"fake": FakePipeline()}, tmp_path_factory.mktemp("assets")) as url:
        yield url


def run_values(picture, words):
    """The values of the Edit tab: sources, model, settings, history."""
    return [picture, words, "", "fake", 1, False, 3.0, 1.0, 0, 1.0, 1, True]


@pytest.mark.parametrize(
    ("language", "expected", "foreign"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", ["正在读取", "词元 6 / 64", "种子 1", "修改前"], "tokens/s"),
        ("en-GB,zh;q=0.5", ["Reading", "token 6 / 64", "seed 1", "Before"], "种子"),
    ],
)
def test_statuses_come_in_the_language_of_the_visitor(address, language, expected, foreign):
    visitor = Visitor(address, language)
    begin = visitor.event("edit-run", "click")
    values = run_values(visitor.picture(), "make it night")
    said = json.dumps(visitor.outputs(begin, values), ensure_ascii=False)
    messages = visitor.send(visitor.after(begin), [*values, None])
    said += json.dumps(messages, ensure_ascii=False)
    for words in expected:
        assert words in said
    assert foreign not in said


def test_errors_come_in_the_language_of_the_visitor(address):
    visitor = Visitor(address, "zh-CN")
    begin = visitor.event("edit-run", "click")
    for picture, words, sentence in (
        (None, "make it night", "请先选择图片"),
        (visitor.picture(), " ", "请说明想改变什么"),
        (file_data(visitor.upload(b"only some words")), "make it night", "这不是可以读取的"),
    ):
        done = visitor.end(begin, run_values(picture, words))
        assert not done["success"] and sentence in done["output"]["error"]
        assert done["output"]["title"] == "还差一步"


def test_a_built_scene_becomes_the_input_picture(address):
    visitor = Visitor(address, "zh-CN")
    opened = visitor.event("edit-builder", "expand")
    place, first, *_ = visitor.outputs(opened, [None, ""])
    assert place["value"] == "meadow" and ["海滩", "beach"] in place["choices"]
    assert first["value"] == "cat" and ["猫", "cat"] in first["choices"]
    build = visitor.event("edit-builder-build", "click")
    chosen = ["beach", "cat", "apple", "", "left", "right", "middle", *["small"] * 3]
    source, *others = visitor.outputs(build, chosen)
    assert visitor.download(source).size == (256, 256)
    assert "data-index" in json.dumps(others)
    done = visitor.end(build, ["beach", *[""] * 3, *chosen[4:]])
    assert "请选择一到" in done["output"]["error"]
