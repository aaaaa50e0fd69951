"""The words of the interface in English and Chinese.

The English sentence is the key, so the code reads as the page does. `say` is for what the page
holds from the start: the browser picks the language. `tell` is for what the server says while it
runs: the language comes with the visitor's request. chinese.json holds both, and the names of what
stands in a scene; a name in braces there stands for a value.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import LocalContext

_TABLES = json.loads((Path(__file__).parent / "chinese.json").read_text(encoding="utf-8"))
LABELS, SENTENCES, NAMES = (_TABLES[name] for name in ("labels", "sentences", "names"))
I18N = gr.I18n(**{"en": {words: words for words in LABELS}, "zh": LABELS, "zh-CN": LABELS})
HOLE = re.compile(r"\{(\w+)\}")


def say(words: str) -> Any:
    """`words` in the language of the browser; English where there is no translation."""
    return I18N(words) if words in LABELS else words


def tell(words: str) -> str:
    """`words` in the language of the visitor being answered; English outside of a request."""
    return in_chinese(words) if speaks_chinese() else words


def speaks_chinese() -> bool:
    """Whether the visitor being answered prefers Chinese, as the browser decides for `say`."""
    request = LocalContext.request.get(None)
    headers = getattr(request, "headers", None) or {}
    return prefers_chinese(headers.get("accept-language", ""))


def prefers_chinese(language: str) -> bool:
    """Whether the value of an Accept-Language header names Chinese first, in one of the two forms
    that Gradio's page knows: in any other, zh-HK or plain zh, it shows English."""
    return re.split("[,;]", language)[0].strip() in ("zh-CN", "zh-TW")


def in_chinese(words: str) -> str:
    """`words` in Chinese: known as they are, or with values in the holes of a known sentence."""
    for table in (SENTENCES, LABELS, NAMES):
        if words in table:
            return table[words]
    for pattern, chinese in _patterns():
        if found := pattern.fullmatch(words):
            values = {name: in_chinese(value) for name, value in found.groupdict().items()}
            return chinese.format(**values)
    return words


@cache
def _patterns() -> list[tuple[re.Pattern, str]]:
    """Sentences with holes as patterns, those with the most fixed words first."""
    holed = [key for key in SENTENCES if HOLE.search(key)]
    holed.sort(key=lambda key: -len(HOLE.sub("", key)))
    return [(_pattern(key), SENTENCES[key]) for key in holed]


def _pattern(key: str) -> re.Pattern:
    parts = HOLE.split(key)  # fixed words and names of holes in turn
    fixed, holes = map(re.escape, parts[::2]), [f"(?P<{name}>.+?)" for name in parts[1::2]] + [""]
    return re.compile("".join(a + b for a, b in zip(fixed, holes, strict=True)), re.DOTALL)
