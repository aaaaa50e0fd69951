"""HTML of the studio's own widgets: the stage, the status line and the picture strips.

Words come out in the language of the visitor being answered. Pictures travel inside the page as
data URLs: a partial image is a few kilobytes, needs no file on the server and is on screen in one
message.
"""

from __future__ import annotations

import base64
from html import escape
from io import BytesIO
from typing import Any

from PIL import Image

from scar.studio.examples import Scene
from scar.studio.session import Progress, Result
from scar.studio.texts import tell

PREVIEW_SIDE = 384
LOSSLESS_SIDE = 512
HUB = "A model or its encoders may be fetched from the Hub when they are first used."
NO_HUB = "Everything runs on this machine; nothing is fetched."
STRIP = 16  # example scenes shown; "surprise me" draws from all


def masthead() -> str:
    return f"<h1>SCAR</h1><p>{tell('Say what should change. Watch it happen.')}</p>"


def stage_empty() -> str:
    """The stage before the first run."""
    return (
        '<div class="stage empty"><div class="hint">'
        '<span class="brush" aria-hidden="true">&#10022;</span>'
        f"<p>{tell('The result appears here, token by token.')}</p></div></div>"
    )


def stage_waiting(before: Image.Image | None) -> str:
    """The stage between the click and the first token: the source, faded."""
    if before is None:
        return stage_empty()
    return _stage(
        "waiting", before.size, _image(preview_url(before), tell("The picture being edited"))
    )


def stage_partial(image: Image.Image, progress: Progress) -> str:
    """The stage while tokens arrive."""
    alt = tell(f"Partial result, step {progress.step} of {progress.total}")
    return _stage("partial", image.size, _image(preview_url(image), alt))


def stage_result(result: Result, compare: bool = True) -> str:
    """The finished image; with `compare`, under a divider that mouse, touch and keys can move."""
    what = escape(str(result.parameters.get("instruction", result.parameters.get("prompt", ""))))
    after = _image(full_url(result.image), f"{tell('After')}: {what}", "after")
    if not compare:
        return _stage("done", result.image.size, after)
    left = tell("Map" if result.parameters.get("task") == "generate" else "Before")
    before = _image(full_url(result.before), left, "before")
    slider = (
        '<input type="range" min="0" max="100" value="50" step="1" '
        f'aria-label="{tell("Compare before and after: position of the divider")}" '
        "oninput=\"this.parentNode.style.setProperty('--cut', this.value + '%')\">"
    )
    tags = f'<span class="tag left">{left}</span><span class="tag right">{tell("After")}</span>'
    line = '<span class="divider" aria-hidden="true"></span>'
    return _stage("done compare", result.image.size, after + before + line + tags + slider)


def badge(name: str, pipe: Any | None, problem: str | None = None, may_fetch: bool = False) -> str:
    """Which model serves, on what device, and whether files may still come from the Hub."""
    if problem:
        title, words = escape(tell(problem)), escape(tell(f"{name}: missing"))
        return f'<span class="badge wrong" title="{title}">{words}</span>'
    if pipe is None:
        return f'<span class="badge">{escape(tell(f"{name}: loading …"))}</span>'
    reach = tell("may fetch from the Hub" if may_fetch else "offline")
    facts = f"{name} · {pipe.size} px · {pipe.device} · {reach}"
    title = tell(HUB if may_fetch else NO_HUB)
    return f'<span class="badge ready" title="{escape(title)}">{escape(facts)}</span>'


def status_idle(text: str = "") -> str:
    return _status("idle", f"<span>{escape(text or tell('Ready'))}</span>", 0)


def status_waiting(text: str = "Reading the picture and the words …") -> str:
    return _status("busy", f"<span>{escape(tell(text))}</span>", 0)


def status_progress(progress: Progress) -> str:
    """Step k of N, speed, elapsed and the time that is left."""
    if not progress.step:
        return status_waiting()
    seconds = max(progress.seconds, 1e-6)
    left = seconds / progress.step * (progress.total - progress.step)
    parts = [
        f"<b>{tell(f'{progress.unit} {progress.step} / {progress.total}')}</b>",
        tell(f"{progress.tokens / seconds:.0f} tokens/s"),
        f"{seconds:.1f} s",
        tell(f"{left:.1f} s left"),
    ]
    if progress.variants > 1:
        parts.insert(0, tell(f"picture {progress.variant} / {progress.variants}"))
    return _status("busy", _spans(parts), progress.step / progress.total)


def status_done(result: Result, note: str = "") -> str:
    seconds = max(result.seconds, 1e-6)
    parts = [
        f"<b>{tell(f'{result.tokens} tokens')}</b>",
        f"{result.seconds:.1f} s",
        tell(f"{result.tokens / seconds:.0f} tokens/s"),
        tell(f"seed {result.parameters['seed']}"),
        *([escape(tell(note))] if note else []),
    ]
    return _status("done", _spans(parts), 1)


def status_stopped() -> str:
    return _status("idle", f"<span>{tell('Stopped. Nothing was kept.')}</span>", 0)


def status_error(message: str) -> str:
    return f'<div class="status error" role="alert"><p>{escape(message)}</p></div>'


def scene_strip(scenes: list[Scene]) -> str:
    """The first example scenes as picture buttons."""
    return strip([(thumbnail_url(scene.image), scene.caption) for scene in scenes[:STRIP]])


def strip(pictures: list[tuple[str, str]], selected: int | None = None) -> str:
    """A row of picture buttons from (data URL, label) pairs; a click sends its index."""
    buttons = "".join(
        f'<button type="button" data-index="{index}" aria-label="{escape(label)}" '
        f'title="{escape(label)}" aria-pressed="{str(index == selected).lower()}">'
        f'<img src="{url}" alt="" draggable="false"></button>'
        for index, (url, label) in enumerate(pictures)
    )
    return f'<div class="strip" role="group" aria-label="{tell("Pictures")}">{buttons}</div>'


def chips(sentences: list[str]) -> str:
    """A row of sentence buttons; a click sends its index."""
    buttons = "".join(
        f'<button type="button" data-index="{index}">{escape(sentence)}</button>'
        for index, sentence in enumerate(sentences)
    )
    return f'<div class="chips" role="group" aria-label="{tell("Suggestions")}">{buttons}</div>'


def notes(text: str, more: str, lines: list[str]) -> str:
    """Small print, with `lines` folded away under `more` if there are any."""
    folded = "".join(f"<p>{escape(line)}</p>" for line in lines)
    folded = f"<details><summary>{escape(more)}</summary>{folded}</details>" if lines else ""
    return f'<div class="note"><p>{escape(text)}</p>{folded}</div>'


def preview_url(image: Image.Image) -> str:
    """A small JPEG of `image` as a data URL."""
    small = image.copy()
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return _data_url(small, "JPEG", quality=90, subsampling=0)


def full_url(image: Image.Image) -> str:
    """`image` at its own size: lossless where that is small, else a good JPEG."""
    if max(image.size) <= LOSSLESS_SIDE:
        return _data_url(image, "PNG")
    return _data_url(image, "JPEG", quality=92)


def thumbnail_url(image: Image.Image, side: int = 112) -> str:
    """A square thumbnail cut from the middle, as a data URL."""
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    square = image.crop((left, top, left + short, top + short)).resize((side, side))
    return _data_url(square, "JPEG", quality=85)


def _stage(kind: str, size: tuple[int, int], content: str) -> str:
    width, height = size
    shape = f"--aspect:{width / height:.4f};--cut:50%"
    return f'<div class="stage {kind}" style="{shape}">{content}</div>'


def _status(kind: str, text: str, fraction: float) -> str:
    percent = round(100 * fraction)
    return (
        f'<div class="status {kind}"><p role="status">{text}</p>'
        f'<div class="bar" role="progressbar" aria-label="{tell("Progress")}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}">'
        f'<i style="width:{percent}%"></i></div></div>'
    )


def _spans(parts: list[str]) -> str:
    return "".join(f"<span>{part}</span>" for part in parts)


def _image(url: str, alt: str, kind: str = "") -> str:
    return f'<img class="{kind}" src="{url}" alt="{alt}" draggable="false">'


def _data_url(image: Image.Image, format: str, **options: int) -> str:
    buffer = BytesIO()
    image.convert("RGB").save(buffer, format, **options)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{format.lower()};base64,{data}"
