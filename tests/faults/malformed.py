"""Over 200 malformed or odd image files, all made from one seed, as (name, bytes)."""

import gzip
import io
import pickle
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image

FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}


def malformed(seed=0):
    """All files, in a fixed order."""
    rng = np.random.default_rng(seed)
    yield from not_images()
    yield from foreign_formats()
    for suffix, format in FORMATS.items():
        yield from damaged(suffix, encoded(picture(rng), format), rng)
    yield from odd_headers()
    yield from bombs()
    yield from odd_modes(rng)
    yield from odd_jpegs(rng)
    yield "oversize.png", encoded(picture(rng)) + bytes(10 * 1024 * 1024)


def not_images():
    yield "empty.png", b""
    yield "one.png", b"\x89"
    yield "zeros.png", bytes(1000)
    yield "page.png", b"<html><script>alert(1)</script></html>"
    yield "vector.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    yield "program.png", b"MZ" + bytes(500)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "a")
    yield "archive.png", archive.getvalue()
    yield "pickle.png", pickle.dumps({"a": [1, 2, 3]})
    yield "gzip.png", gzip.compress(b"some words")
    yield "words.png", "Nur Wörter, kein Bild.".encode()
    yield "drawing.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\nshowpage"
    yield "paper.pdf", b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>"


def foreign_formats():
    image = Image.new("RGB", (32, 32), "red")
    for format in ("ICO", "TIFF", "BMP", "GIF", "PPM", "TGA", "PCX", "SGI", "JPEG2000"):
        yield f"{format.lower()}.png", encoded(image, format)
    yield "psd.png", b"8BPS\x00\x01" + bytes(100)
    yield "fits.png", b"SIMPLE  =                    T" + b" " * 2850
    yield "avif.png", b"\x00\x00\x00\x20ftypavif" + bytes(100)
    floating = Image.fromarray(np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32))
    yield "float.png", encoded(floating, "TIFF")


def damaged(suffix, data, rng):
    for percent in (1, 5, 10, 25, 50, 75, 90, 99):
        yield f"cut-{percent}.{suffix}", data[: max(1, len(data) * percent // 100)]
    for count in (1, 4, 32, 256):
        for attempt in range(8):
            changed = bytearray(data)
            for position in rng.integers(0, len(data), count):
                changed[position] ^= int(rng.integers(1, 256))
            yield f"flip-{count}-{attempt}.{suffix}", bytes(changed)
    middle = len(data) // 2
    yield f"hole.{suffix}", data[:middle] + bytes(200) + data[middle + 200 :]
    yield f"trailing.{suffix}", data + b"<script>alert(1)</script>"
    yield f"leading.{suffix}", b"\n" + data
    yield f"twice.{suffix}", data + data


def odd_headers():
    sizes = [
        (0, 0), (0, 10), (10, 0), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (100_000, 100_000),
        (20_000, 20_000), (10_000, 10_000), (5001, 5000), (1, 8000), (8193, 1100), (15, 15),
        (16, 16), (16, 129), (129, 16),
    ]  # fmt: skip
    for width, height in sizes:
        yield f"header-{width}x{height}.png", png(width, height, b"")
    for depth, colour in ((3, 2), (16, 3), (8, 5), (8, 7), (1, 2), (255, 255)):
        yield f"depth-{depth}-{colour}.png", png(32, 32, bytes(32 * 97), depth, colour)
    good = png(32, 32, bytes(32 * 97))
    yield "bad-crc.png", good[:29] + b"\0\0\0\0" + good[33:]
    yield "no-data.png", good[:33] + chunk(b"IEND", b"")
    yield "two-headers.png", good[:33] + good[8:33] + good[33:]


def bombs():
    for side, name in ((10_000, "100-megapixels.png"), (20_000, "400-megapixels.png")):
        yield name, png(side, side, bytes(side * (side // 8 + 1)), depth=1, colour=0)
    start, end = png(32, 32, bytes(32 * 97))[:33], chunk(b"IEND", b"")
    body = chunk(b"IDAT", zlib.compress(bytes(32 * 97)))
    large = zlib.compress(bytes(50_000_000))
    yield "text-bomb.png", start + chunk(b"zTXt", b"a\0\0" + large) + body + end
    yield "profile-bomb.png", start + chunk(b"iCCP", b"a\0\0" + large) + body + end
    yield "data-bomb.png", start + chunk(b"IDAT", large) + end
    texts = b"".join(chunk(b"tEXt", b"k%d\0v" % n) for n in range(10_000))
    yield "many-texts.png", start + texts + body + end


def odd_modes(rng):
    image = picture(rng)
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        yield f"mode-{mode.replace(';', '')}.png", encoded(convert(image, mode))
    palette = image.convert("P")
    yield "palette-clear.png", encoded(palette, transparency=0)
    yield "grey-clear.png", encoded(image.convert("L"), transparency=10)
    yield "all-clear.png", encoded(Image.new("RGBA", (32, 32), (0, 0, 0, 0)))
    yield "alpha.webp", encoded(image.convert("RGBA"), "WEBP", lossless=True)
    yield "black.png", encoded(Image.new("RGB", (32, 32)))
    frames = {"save_all": True, "append_images": [Image.new("RGB", image.size, "blue")]}
    yield "animated.png", encoded(image, "PNG", **frames)
    yield "animated.webp", encoded(image, "WEBP", **frames)


def odd_jpegs(rng):
    image = picture(rng)
    for orientation in (*range(1, 9), 99):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"orientation-{orientation}.jpg", encoded(image, "JPEG", exif=exif)
    yield "garbage-exif.jpg", encoded(image, "JPEG", exif=b"Exif\0\0" + bytes(range(256)) * 20)
    yield "garbage-profile.jpg", encoded(image, "JPEG", icc_profile=bytes(range(256)))
    yield "cmyk.jpg", encoded(image.convert("CMYK"), "JPEG")
    yield "grey.jpg", encoded(image.convert("L"), "JPEG")
    yield "progressive.jpg", encoded(image, "JPEG", progressive=True)
    yield "quality-1.jpg", encoded(image, "JPEG", quality=1)
    yield "strip.jpg", encoded(Image.new("RGB", (65_500, 16)), "JPEG")


def picture(rng):
    return Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8))


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def convert(image, mode):
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


def png(width, height, rows, depth=8, colour=2):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
