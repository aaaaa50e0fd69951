"""Pack the sprite vocabulary once, from two npm packages, into atlas pages and one JSON table.

    npm pack @lobehub/fluent-emoji-3d@1.1.0 && npm pack cldr-annotations-full@48.2.0
    (unpack both)
    python -m scar.toyscenes.pack_sprites FLUENT/package CLDR/package

It reads assets/sprites/objects.txt (which objects, in which category and order) and writes
assets/sprites/page_*.webp and assets/sprites/sprites.json. The result is part of the repository.
"""

import argparse
import colorsys
import json
from pathlib import Path

import numpy as np
from PIL import Image

from scar.assets import ASSETS

SPRITES = ASSETS / "sprites"
CELL = 128  # pixels a side
COLUMNS = 16
PER_PAGE = 128
MARGIN = 2


def pack(fluent: Path, cldr: Path) -> list[dict]:
    """Write the atlas pages and sprites.json; returns the table."""
    entries = ordered(*read_vocabulary(SPRITES / "objects.txt", cldr_names(cldr)))
    images = [fitted(Image.open(fluent / "assets" / f"{e['code']}.webp")) for e in entries]
    for entry, image in zip(entries, images, strict=True):
        entry["colour"] = dominant_colour(image)
    for page, start in enumerate(range(0, len(images), PER_PAGE)):
        atlas(images[start : start + PER_PAGE]).save(
            SPRITES / f"page_{page}.webp", quality=94, alpha_quality=100, method=6, exact=False
        )
    table = {"cell": CELL, "columns": COLUMNS, "per_page": PER_PAGE, "objects": entries}
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in table.pop("objects"))
    head = json.dumps(table)[:-1]
    (SPRITES / "sprites.json").write_text(f'{head}, "objects": [\n{lines}\n]}}\n', "utf-8")
    return entries


def cldr_names(cldr: Path) -> dict[str, str]:
    """English short names by character sequence, without variation selectors."""
    data = json.loads((cldr / "annotations/en/annotations.json").read_text("utf-8"))
    entries = data["annotations"]["annotations"]
    return {k.replace("\ufe0f", ""): v["tts"][0] for k, v in entries.items() if "tts" in v}


def read_vocabulary(path: Path, names: dict[str, str]) -> tuple[list[str], list[dict]]:
    """The starter names and every entry, in the order of the file."""
    starter, entries, category = [], [], ""
    for line in path.read_text("utf-8").splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("["):
            category = line.strip("[]")
        elif line and category == "starter":
            starter += [name.strip() for name in line.split(",")]
        elif line:
            code, _, name = line.partition(" ")
            char = "".join(chr(int(c, 16)) for c in code.split("-") if c != "fe0f")
            name = name or names[char]
            entry = {"name": name.removeprefix("some "), "code": code, "category": category}
            entries.append(entry | {"plural": name.startswith("some ")})
    twice = {e["name"] for e in entries if [x["name"] for x in entries].count(e["name"]) > 1}
    if twice:
        raise ValueError(f"objects.txt names these objects twice: {sorted(twice)}.")
    return starter, entries


def ordered(starter: list[str], entries: list[dict]) -> list[dict]:
    """The starter vocabulary first, then every category in proportion to its size."""
    by_name = {e["name"]: e for e in entries}
    rest = [e for e in entries if e["name"] not in set(starter)]
    sizes = {c: sum(e["category"] == c for e in rest) for c in {e["category"] for e in rest}}
    seen: dict[str, int] = {}
    rank = {}
    for e in rest:
        seen[e["category"]] = seen.get(e["category"], 0) + 1
        rank[e["name"]] = (seen[e["category"]] / sizes[e["category"]], e["category"])
    return [by_name[name] for name in starter] + sorted(rest, key=lambda e: rank[e["name"]])


def fitted(image: Image.Image) -> Image.Image:
    """The visible part, as large as a cell allows, standing on the cell's lower edge."""
    image = image.convert("RGBA")
    image = image.crop(image.getchannel("A").point(lambda a: 255 * (a > 24)).getbbox())
    scale = (CELL - 2 * MARGIN) / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    premultiplied = image.convert("RGBa").resize(size, Image.Resampling.LANCZOS)
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(premultiplied.convert("RGBA"), ((CELL - size[0]) // 2, CELL - MARGIN - size[1]))
    return cell


def atlas(images: list[Image.Image]) -> Image.Image:
    page = Image.new("RGBA", (COLUMNS * CELL, -(-len(images) // COLUMNS) * CELL))
    for i, image in enumerate(images):
        page.paste(image, (i % COLUMNS * CELL, i // COLUMNS * CELL))
    return page


def dominant_colour(image: Image.Image) -> str:
    """The colour name that most visible pixels have."""
    pixels = np.asarray(image.resize((32, 32))).reshape(-1, 4)
    votes: dict[str, int] = {}
    for r, g, b, _ in pixels[pixels[:, 3] > 128]:
        name = colour_name(*colorsys.rgb_to_hsv(r / 255, g / 255, b / 255))
        votes[name] = votes.get(name, 0) + 1
    return max(votes, key=lambda name: votes[name])


def colour_name(hue: float, saturation: float, value: float) -> str:
    if value < 0.25:
        return "black"
    if saturation < 0.18:
        return "white" if value > 0.8 else "grey"
    degrees = hue * 360
    if degrees < 45 and value < 0.62:
        return "brown"
    limits = (14, "red"), (44, "orange"), (68, "yellow"), (165, "green"), (255, "blue")
    limits += (292, "purple"), (334, "pink"), (361, "red")
    return next(name for limit, name in limits if degrees < limit)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fluent", type=Path, help="unpacked @lobehub/fluent-emoji-3d package")
    parser.add_argument("cldr", type=Path, help="unpacked cldr-annotations-full package")
    arguments = parser.parse_args()
    print(f"packed {len(pack(arguments.fluent, arguments.cldr))} objects into {SPRITES}")
