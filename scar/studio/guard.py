"""What keeps the studio standing on the open internet, in front of the application."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any
from urllib.parse import unquote

from scar.images import MAX_BYTES
from scar.studio.texts import in_chinese, prefers_chinese

MAX_BODY = 256 * 1024
MAX_UPLOAD_BODY = MAX_BYTES + 1024 * 1024
MAX_TOOL_BODY = MAX_BYTES * 4 // 3 + 1024 * 1024  # a tool call carries its picture in base64
BUSY = "The model is busy; please try again in a moment."
CLOSED_ROUTES = ("/proxy=", "/component_server", "/openapi.json")


class Guard:
    """ASGI middleware: bounded bodies, no server-side fetching, closed routes, safe headers, and
    a refusal beyond the queue that a Chinese page can show."""

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = _plain(scope["path"])
        if _is_closed(path):
            await _answer(send, 404, "Not found.")
            return
        body = b""
        if scope["method"] in ("POST", "PUT", "PATCH"):
            is_upload, is_tool = path.rstrip("/").endswith("/upload"), "/gradio_api/mcp" in path
            limit = MAX_UPLOAD_BODY if is_upload else MAX_TOOL_BODY if is_tool else MAX_BODY
            headers = {k.lower(): v for k, v in scope["headers"]}
            length = headers.get(b"content-length", b"0")
            if not length.isdigit() or int(length) > limit:
                await _answer(send, 413, f"Request body too large (limit {limit} bytes).")
                return
            if is_upload:
                receive = _counted(receive, limit)
            else:
                body = await _read(receive, limit)
                if body is None:
                    await _answer(send, 413, f"Request body too large (limit {limit} bytes).")
                    return
                if _names_a_url(body, is_tool):
                    await _answer(send, 400, "This server fetches no URLs; upload the file.")
                    return
                receive = _replayed(body, receive)
            language = headers.get(b"accept-language", b"").decode("latin-1")
            if path.rstrip("/").endswith("/queue/join") and prefers_chinese(language):
                send = _busy_in_chinese(send)
        await self.app(scope, receive, _with_safe_headers(send))


def _plain(path: str) -> str:
    """The path with every layer of percent-encoding removed, in lower case."""
    for _ in range(3):
        path = unquote(path)
    return path.lower()


def _is_closed(path: str) -> bool:
    route, _, target = path.replace("/file/", "/file=", 1).partition("/file=")
    if any(closed in route for closed in CLOSED_ROUTES):  # what follows is a visitor's file name
        return True
    return target.lstrip("/ ").startswith(("http:", "https:", "ftp:"))


def _names_a_url(body: bytes, is_tool: bool) -> bool:
    """Whether a JSON body holds a file whose `path` is a URL, which Gradio would download.

    In the arguments of a tool call (MCP) a plain string stands for a file, so there none may be a
    URL. Its data URLs are decoded, not fetched.
    """
    try:
        data = json.loads(body or b"null")
    except (ValueError, RecursionError):
        return False  # the application answers 400 itself
    if is_tool and any(_fetchable(text) for text in _strings(_arguments(data))):
        return True
    return any("://" in text for key, text in _named(data) if key == "path")


def _arguments(data: Any) -> Any:
    """What the tool calls of a JSON-RPC message or batch are given."""
    calls = data if isinstance(data, list) else [data]
    params = [call.get("params") for call in calls if isinstance(call, dict)]
    return [each.get("arguments") for each in params if isinstance(each, dict)]


def _fetchable(text: str) -> bool:
    return text.strip().lower().startswith(("http:", "https:", "ftp:", "file:"))


def _strings(data: Any) -> Iterator[str]:
    return (text for _, text in _named(data))


def _named(data: Any) -> Iterator[tuple[Any, str]]:
    """Every string in a JSON value, with the key or index that it stands under."""
    pending = [(None, data)]
    while pending:
        key, value = pending.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, dict):
            pending.extend(value.items())
        elif isinstance(value, list):
            pending.extend(enumerate(value))


async def _read(receive: Any, limit: int) -> bytes | None:
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(chunks)
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            return None
        if not message.get("more_body"):
            return b"".join(chunks)


def _replayed(body: bytes, receive: Any) -> Any:
    sent = False

    async def replay() -> Any:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _counted(receive: Any, limit: int) -> Any:
    size = 0

    async def counted() -> Any:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:  # more than was announced: end the upload as a broken connection
            return {"type": "http.disconnect"}
        return message

    return counted


def _busy_in_chinese(send: Any) -> Any:
    """A full queue (503) under another status: for 503 the page has an English sentence of its own,
    for every other it shows what the answer says."""
    is_full = False

    async def told(message: Any) -> None:
        nonlocal is_full
        if message["type"] == "http.response.start":
            is_full = message["status"] == 503
            if is_full:
                await _answer(send, 429, in_chinese(BUSY))
        if not is_full:
            await send(message)

    return told


def _with_safe_headers(send: Any) -> Any:
    async def safe(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", []),
                (b"x-content-type-options", b"nosniff"),
                (b"referrer-policy", b"same-origin"),
            ]
        await send(message)

    return safe


async def _answer(send: Any, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
