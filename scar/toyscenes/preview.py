"""The labelled contact sheet of ToyScenes, and the example scenes that the demo ships."""

import json
from collections import Counter
from pathlib import Path
from random import Random
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from scar.toyscenes.dataset import Batch, ToyScenes
from scar.toyscenes.edits import FAMILIES
from scar.toyscenes.language import PHRASINGS, with_article
from scar.toyscenes.places import PLACES, WEATHERS
from scar.toyscenes.scenes import Scene, free_columns
from scar.toyscenes.seeds import DETAILS
from scar.toyscenes.sprites import Sprite, sheet, vocabulary

TILE = 184
GAP = 16
COLUMNS = 8
INK, GREY, PAPER = "#1d2433", "#667085", "#ffffff"
WIDTH = COLUMNS * (TILE + GAP) + GAP


def contact_sheet() -> Image.Image:
    """Places, weather, four edits of every family and the starter vocabulary on one sheet."""
    test = ToyScenes(split="test", size=2 * TILE // 16 * 16)
    sections = [
        titled(f"{len(PLACES)} places", places_section(test)),
        titled("Weather and time of day", weather_section(test)),
        titled("Edits: source, target, instruction", edits_section()),
        titled("Wild edits, two of each source", wild_section()),
        titled(f"Starter vocabulary: 48 of {len(vocabulary())} objects", vocabulary_section()),
    ]
    page = Image.new("RGB", (WIDTH, sum(s.height for s in sections) + 90), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, 20), "ToyScenes", fill=INK, font=ImageFont.load_default(44))
    y = 80
    for section in sections:
        page.paste(section, (0, y))
        y += section.height
    return page


def write_examples(folder: Path, count: int = 48) -> None:
    """Source scenes of the test split as 256 px PNG files, and examples.json about them.

    Taken in order of index, skipping empty scenes and places already shown three times.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scenes = ToyScenes(split="test", size=256)
    shown: Counter[int] = Counter()
    chosen = []
    for index in range(10_000):
        source = scenes.example(index).source
        if source.things and shown[source.place] < 3 and len(chosen) < count:
            shown[source.place] += 1
            chosen.append(index)
    entries = []
    for number, index in enumerate(chosen):
        example = scenes.example(index)
        pictures, _ = scenes.render([example.source])
        name = f"scene_{number:02}.png"
        picture(pictures[0]).save(folder / name, optimize=True)
        suggestions = suggested_edits(example.source, scenes, Random(index))
        entry = {"file": name, "caption": example.source.caption, "instructions": suggestions}
        entries.append(entry | {"place": PLACES[example.source.place].name, "test_index": index})
    text = json.dumps(entries, indent=1, ensure_ascii=False)
    (folder / "examples.json").write_text(text + "\n", "utf-8")


def suggested_edits(scene: Scene, scenes: ToyScenes, rng: Random) -> list[str]:
    """Four plain instructions that fit a scene: add, replace, recolour or remove, surroundings."""
    present = {t.sprite.index for t in scene.things}
    absent = [
        s for s in vocabulary()[: len(scenes.names)] if s.index not in present and not s.hangs
    ]
    new, other = rng.sample(absent, 2)
    columns = free_columns(scene, sky=False)
    thing = rng.choice(scene.things)
    pool = [s for s in absent if s is not new] if not thing.sprite.hangs else hanging(scene)
    edits = [f"replace the {thing.sprite.name} with {with_article(rng.choice(pool) or other)}"]
    if columns:
        column = rng.choice(columns)
        place = "in the middle" if column == "middle" else f"on the {column}"
        edits.insert(0, f"add {with_article(new)} {place}")
    colours = [c for c in scenes.bank.colours[thing.sprite.index] if c != thing.colour]
    if colours and rng.random() < 0.6:
        edits.append(f"make the {thing.sprite.name} {rng.choice(colours)}")
    else:
        edits.append(f"remove the {rng.choice(scene.things).sprite.name}")
    outdoor = PLACES[scene.place].outdoor
    if outdoor and scene.weather == "clear" and rng.random() < 0.5:
        edits.append(PHRASINGS[rng.choice(WEATHERS[1:])][0])
    else:
        sky = any(t.sprite.hangs for t in scene.things) or scene.weather != "clear"
        places = [p for i, p in enumerate(PLACES) if i != scene.place and (p.outdoor or not sky)]
        edits.append(f"change the background to {rng.choice(places).noun}")
    return edits


def hanging(scene: Scene) -> list[Sprite]:
    """The starter objects that hang in the sky and are not in the scene."""
    present = {t.sprite.index for t in scene.things}
    return [s for s in vocabulary()[:48] if s.hangs and s.index not in present]


# -- sections of the sheet -------------------------------------------------------------------


def places_section(test: ToyScenes) -> Image.Image:
    found: dict[int, Scene] = {}
    for index in range(2000):
        scene = test.example(index).source
        if len(scene.things) == 2 and scene.weather == "clear":
            found.setdefault(scene.place, scene)
    scenes = [found[i] for i in range(len(PLACES))]
    return grid(render(test, scenes), [PLACES[s.place].name for s in scenes], 9)


def weather_section(test: ToyScenes) -> Image.Image:
    rng = Random(5)
    scenes, labels = [], []
    for name in ("mountains", "beach"):
        place = test.places.index(name)
        details = tuple(rng.random() for _ in range(DETAILS))
        for weather in WEATHERS:
            scenes.append(Scene(place, weather, (), details))
            labels.append(f"{name}, {weather}")
    return grid(render(test, scenes), labels, 10)


def wild_section(count: int = 40) -> Image.Image:
    batch = ToyScenes(size=256, wild=1.0).batch(range(count))
    labels = [f"{t}  ({f})" for t, f in zip(batch.instruction, batch.family, strict=True)]
    return grid(side_by_side(batch), labels, 4)


def edits_section() -> Image.Image:
    rows = []
    for number, family in enumerate(FAMILIES):
        # The scene depends on the index more than on the family: take others for each.
        indices = range(4 * number, 4 * number + 4)
        batch = ToyScenes(split="test", size=256, families=[family]).batch(indices)
        labels = [f"{text}  ({family})" for text in batch.instruction]
        rows.append(grid(side_by_side(batch), labels, 4))
    return stacked(rows)


def side_by_side(batch: Batch) -> list[Image.Image]:
    """Source and target of every example."""
    pairs = []
    for source, target in zip(batch.source, batch.target, strict=True):
        pair = Image.new("RGB", (2 * TILE + 4, TILE), PAPER)
        pair.paste(tile(picture(source), TILE), (0, 0))
        pair.paste(tile(picture(target), TILE), (TILE + 4, 0))
        pairs.append(pair)
    return pairs


def vocabulary_section() -> Image.Image:
    cells = []
    for rgba in sheet()[:48]:
        cell = Image.new("RGBA", (128, 128), "#f2f4f7")
        cell.alpha_composite(Image.fromarray(rgba.permute(1, 2, 0).contiguous().numpy(), "RGBA"))
        cells.append(cell.convert("RGB"))
    return grid(cells, [s.name for s in vocabulary()[:48]], 16)


# -- layout ----------------------------------------------------------------------------------


def render(scenes: ToyScenes, wanted: list[Scene]) -> list[Image.Image]:
    return [picture(p) for p in scenes.render(wanted)[0]]


def picture(pixels: Tensor) -> Image.Image:
    """A uint8 picture (3, S, S) as a PIL image."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def grid(images: list[Image.Image], labels: list[str], columns: int) -> Image.Image:
    """Images in columns over the page's width, each with its label below."""
    width = (WIDTH - GAP) // columns - (GAP if columns < 9 else 8)
    step = (WIDTH - GAP) // columns
    images = [tile(i, width) if i.width == i.height else i for i in images]
    font = ImageFont.load_default(17 if columns < 9 else 15 if columns < 16 else 13)
    height = max(i.height for i in images)
    per_line = max(8, int(width / (font.size * 0.52)))
    texts = ["\n".join(wrap(label, per_line)[:2]) for label in labels]
    lines = max(text.count("\n") + 1 for text in texts)
    row = height + int(font.size * 1.35) * lines + 14
    page = Image.new("RGB", (WIDTH, row * -(-len(images) // columns)), PAPER)
    draw = ImageDraw.Draw(page)
    for i, (image, text) in enumerate(zip(images, texts, strict=True)):
        x, y = GAP + i % columns * step, i // columns * row
        page.paste(image, (x, y))
        draw.text((x + 2, y + height + 4), text, fill=INK, font=font, spacing=3)
    return page


def tile(image: Image.Image, side: int) -> Image.Image:
    """The image at that size with rounded corners on paper."""
    image = image.resize((side, side), Image.Resampling.LANCZOS)
    corners = Image.new("L", (4 * side, 4 * side), 0)
    box = (0, 0, 4 * side - 1, 4 * side - 1)
    ImageDraw.Draw(corners).rounded_rectangle(box, 4 * side // 14, fill=255)
    corners = corners.resize((side, side), Image.Resampling.LANCZOS)
    return Image.composite(image, Image.new("RGB", image.size, PAPER), corners)


def titled(title: str, body: Image.Image) -> Image.Image:
    head = Image.new("RGB", (WIDTH, 46), PAPER)
    ImageDraw.Draw(head).text((GAP, 12), title, fill=GREY, font=ImageFont.load_default(24))
    return stacked([head, body])


def stacked(images: list[Image.Image]) -> Image.Image:
    page = Image.new("RGB", (WIDTH, sum(i.height for i in images)), PAPER)
    y = 0
    for image in images:
        page.paste(image, (0, y))
        y += image.height
    return page
