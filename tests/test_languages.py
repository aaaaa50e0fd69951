"""The studio's two languages: complete tables, and a server that answers in the visitor's own."""

import json
import re
from pathlib import Path

import pytest
from faults.fake_pipeline import FakePipeline
from faults.malformed import encoded
from faults.serving import Visitor, file_data, served
from PIL import Image

from scar.images import InputError, check_size, open_image, open_mask
from scar.studio import QUEUE, about, texts
from scar.studio.builder import POSITIONS, SIZES, SLOTS
from scar.studio.compare import SIDES
from scar.studio.guard import BUSY
from scar.studio.painter import SHAPES
from scar.studio.session import RANGES, check_prompt, check_settings
from scar.studio.texts import HOLE, LABELS, NAMES, SENTENCES, in_chinese, prefers_chinese, tell
from scar.toyscenes.compose import Part, compose, object_names, place_names

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
    yield open_mask, encoded(Image.new("L", (20, 20)))
    yield lambda _: check_prompt("x" * 201, ""), None
    for name, value in {"seed": -1, "top_k": 1.5, "guidance": "3", "variants": None}.items():
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


@pytest.mark.parametrize(
    ("header", "is_chinese"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", True), ("zh-TW,zh;q=0.9", True), ("zh-TW", True),
        ("zh-HK,zh;q=0.9", False), ("zh-SG", False), ("zh-Hant-TW,zh-TW;q=0.9", False),
        ("zh,en;q=0.5", False), ("en,zh-CN;q=0.9", False), ("", False),
    ],
)  # fmt: skip
def test_the_server_speaks_chinese_exactly_where_the_page_does(header, is_chinese):
    """Gradio's page knows zh-CN and zh-TW, and shows English to every other form of Chinese."""
    assert prefers_chinese(header) is is_chinese


def test_values_stand_in_the_holes_of_a_chinese_sentence():
    assert in_chinese("The top k must lie between 0 and 16384.") == "Top k必须在 0 和 16384 之间。"
    assert in_chinese("The guidance must be a number.") == "引导强度必须是数字。"
    assert in_chinese("token 3 / 64") == "词元 3 / 64"
    assert in_chinese("{0} words nobody translated") == "{0} words nobody translated"
    assert tell("Ready") == "Ready"


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


def test_the_page_is_put_into_the_language_of_the_visitor(address):
    """What the browser cannot translate: alternative texts, strips, the badge, kinds of map."""
    visitor = Visitor(address, "zh-CN")
    loads = [d for d in visitor.config["dependencies"] if d["targets"][0][1] == "load"]
    said = json.dumps([visitor.outputs(d, []) for d in loads], ensure_ascii=False)
    for words in ("要编辑的图片", "两侧共同编辑的图片", "控制图的图片", "新图片将遵循", "· 离线",
                  "深度", "建议", "就绪"):  # fmt: skip
        assert words in said, words


def test_a_full_queue_is_told_in_the_language_of_the_visitor(address, monkeypatch):
    for language, status, told in (("zh-CN", 429, in_chinese(BUSY)), ("en", 503, "Queue is full")):
        visitor = Visitor(address, language)
        event = visitor.event("edit-builder", "expand")
        body = {"data": [None, ""], "fn_index": event["id"], **visitor.session}
        monkeypatch.setattr("gradio.queueing.Queue.__len__", lambda queue: QUEUE)
        answer = visitor.http.post("/gradio_api/queue/join", json=body)
        monkeypatch.undo()
        (words,) = answer.json().values()
        assert answer.status_code == status and told in words
        assert visitor.http.post("/gradio_api/queue/join", json=body).status_code == 200


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
