"""PNG chunk by chunk, without Pillow's limits on chunks that the pixels do not depend on.

Pillow refuses a whole image for a long text, an oversized profile or a wrong checksum in a chunk
that the pixels do not depend on. The PNG specification lets a decoder skip such chunks.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT = 2**20  # bytes of a text or profile once inflated, as in Pillow
ORIENTING = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # texts that may hold the orientation


class Chunk(NamedTuple):
    kind: bytes
    body: bytes
    raw: bytes  # with length, kind and checksum
    is_intact: bool  # the checksum is right


def is_png(data: bytes) -> bool:
    return data.startswith(SIGNATURE)


def chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG, up to where it ends or is cut off."""
    position = len(SIGNATURE)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 12 + length
        if end > len(data):
            return
        raw = data[position:end]
        kind, body = raw[4:8], raw[8:-4]
        is_intact = zlib.crc32(raw[4:-4]) == int.from_bytes(raw[-4:], "big")
        yield Chunk(kind, body, raw, is_intact)
        position = end


def essential(data: bytes) -> bytes:
    """A PNG reduced to the chunks that its pixels depend on: the critical ones, and transparency,
    colour profile and orientation where they can be read. A truncated file stays truncated; other
    formats are returned unchanged.
    """
    if not is_png(data):
        return data
    kept, position, done = [SIGNATURE], len(SIGNATURE), set()
    for chunk in chunks(data):
        position += len(chunk.raw)
        if not chunk.kind[0] & 32:  # a capital first letter: critical
            kept.append(chunk.raw)
            continue
        meaning = _meaning(chunk) if chunk.is_intact else None
        if meaning and meaning not in done:
            done.add(meaning)
            depth, colour_type = data[24:26]
            is_clear = meaning == b"tRNS"
            kept.append(_transparency(chunk, depth, colour_type) if is_clear else chunk.raw)
    return b"".join([*kept, data[position:]])


def text(data: bytes, keyword: str) -> str | None:
    """The text under `keyword`, or None where there is none of at most `MAX_TEXT` bytes."""
    for chunk in chunks(data) if is_png(data) else ():
        key, _, rest = chunk.body.partition(b"\0")
        if chunk.kind not in (b"tEXt", b"zTXt", b"iTXt") or key != keyword.encode("latin-1"):
            continue
        value = _text_value(chunk.kind, rest)
        if value is not None:
            return value.decode("utf-8" if chunk.kind == b"iTXt" else "latin-1", "replace")
    return None


def _transparency(chunk: Chunk, depth: int, colour_type: int) -> bytes:
    """A tRNS chunk in the 8 bits Pillow makes of 2 or 4 bits of grey and 16 bits of colour; empty
    where it is too short."""
    width = {0: 2, 2: 6}.get(colour_type, 1)
    if len(chunk.body) < width:
        return b""
    values = list(struct.unpack(f">{width // 2}H", chunk.body[: width // 2 * 2]))
    if colour_type == 0 and depth in (2, 4):
        values = [value * (255 // (2**depth - 1)) for value in values]
    elif colour_type == 2 and depth == 16:
        values = [value >> 8 for value in values]
    else:
        return chunk.raw
    tagged = b"tRNS" + struct.pack(f">{len(values)}H", *(value & 255 for value in values))
    return struct.pack(">I", len(tagged) - 4) + tagged + struct.pack(">I", zlib.crc32(tagged))


def _meaning(chunk: Chunk) -> bytes | None:
    """The kind of an ancillary chunk that the pixels depend on; None: another, or unreadable."""
    kind, body = chunk.kind, chunk.body
    key, _, rest = body.partition(b"\0")
    if kind in (b"tRNS", b"eXIf"):
        return kind
    if kind == b"iCCP" and rest[:1] == b"\0" and _inflated(rest[1:]) is not None:
        return kind
    if kind in (b"tEXt", b"zTXt", b"iTXt") and key in ORIENTING:
        return key if _text_value(kind, rest) is not None else None
    return None


def _text_value(kind: bytes, rest: bytes) -> bytes | None:
    """The bytes of a text chunk after its keyword; None if they are too long or damaged."""
    if kind == b"tEXt":
        return rest if len(rest) <= MAX_TEXT else None
    if kind == b"zTXt":
        return _inflated(rest[1:]) if rest[:1] == b"\0" else None
    flags, after = rest[:2], rest[2:].split(b"\0", 2)  # language, translated keyword, text
    if len(flags) < 2 or len(after) < 3 or flags[1]:
        return None
    value = after[2]
    return _inflated(value) if flags[0] else value if len(value) <= MAX_TEXT else None


def _inflated(data: bytes) -> bytes | None:
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(data, MAX_TEXT)
    except zlib.error:
        return None
    return None if inflate.unconsumed_tail else plain
