"""The places of ToyScenes: procedural backdrops, drawn in batches, and the weather over them.

Every place is one short function that paints a stack of layers, far to near, on a `Painter`.
Coordinates run from 0 to 1, x to the right and y downwards. Only smooth, large shapes are used:
a small tokenizer must be able to represent them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scar.toyscenes.painting import Painter, hexcolour
from scar.toyscenes.seeds import Seeds


@dataclass(frozen=True)
class InputPos:
    """One place: its name, how it is spoken of ("a beach", "on a beach"), and how it is drawn."""

    name: str
    noun: str
    where: str
    outdoor: bool
    horizon: float
    draw: Callable[[Painter], None]
    sway: float = 0.05  # of the horizon, from scene to scene


def backdrop(place: InputPos, seeds: Seeds) -> tuple[Tensor, Tensor, Tensor]:
    """RGB (B, 3, S, S) in 0..1, the share of sky (B, S, S), and depth (B, S, S), 1 near."""
    painter = Painter(seeds, place.horizon, place.sway)
    place.draw(painter)
    return painter.finished()


def meadow(p: Painter) -> None:
    p.sky("#4aa3f0", "#cfeeff")
    p.clouds(0.9)
    p.hills("#8fc98a", 0.10, 0.045, 2.0, far=0.12)
    p.hills("#6dbb5e", 0.04, 0.035, 1.3, far=0.2)
    p.ground("#7ccb52", "#4a9e36")
    p.mottle("#a9e06a", 0.55, 5)


def beach(p: Painter) -> None:
    p.sky("#3fa7f2", "#d8f4ff")
    p.clouds(0.7)
    p.band("#1d86c8", "#4fd0d6", -0.1, 0.09)
    p.ground("#f7e0a8", "#e8bd77", at=0.09, wave=0.012)
    p.stripe("#ffffff", 0.085, 0.012, wave=0.012)
    p.mottle("#fff0c9", 0.5, 4)


def desert(p: Painter) -> None:
    p.sky("#5cb2e8", "#ffe6bd")
    p.hills("#d98e5f", 0.12, 0.07, 1.7, far=0.12, sharp=True)
    p.hills("#e8ab63", 0.035, 0.04, 1.1, far=0.2)
    p.ground("#f2c16e", "#d9924a")
    p.waves("#fbdc97", 0.5, 7)


def arctic(p: Painter) -> None:
    p.sky("#7cc4ee", "#eefaff")
    p.hills("#8fc3e6", 0.10, 0.08, 2.6, far=0.12, sharp=True)
    p.hills("#c3e2f5", 0.03, 0.03, 1.6, far=0.2)
    p.ground("#eef8ff", "#b5d7f0")
    p.mottle("#ffffff", 0.7, 4)


def forest(p: Painter) -> None:
    p.sky("#a9dcc0", "#e2f6cf")
    p.trunks("#6fa98a", 9, 0.016, 0.0)
    p.hills("#5d9c6a", 0.20, 0.05, 3.5, far=0.14)
    p.trunks("#5a4634", 6, 0.024, 0.04)
    p.hills("#3d7d4b", 0.05, 0.03, 4.5, far=0.2)
    p.ground("#5c9a45", "#2f6a33")
    p.mottle("#a7cf62", 0.6, 6)
    p.canopy("#2f7d46")


def mountains(p: Painter) -> None:
    p.sky("#4c94e4", "#d5ecff")
    p.clouds(0.5)
    p.peaks("#7f92bd", "#f6faff", 0.30, 0.10)
    p.hills("#5f9b7c", 0.06, 0.04, 1.8, far=0.16)
    p.ground("#86c071", "#518f52")
    p.mottle("#b3dc8d", 0.5, 5)


def pier(p: Painter) -> None:
    p.sky("#55b4f5", "#dff5ff")
    p.clouds(0.8)
    p.band("#1f78c4", "#3fb4dc", 0.0, 0.6)
    p.waves("#8fe0ee", 0.55, 8)
    p.ground("#c08a58", "#a36c3f", at=0.16)
    p.boards("#85522f", rows=True)


def seabed(p: Painter) -> None:
    p.sky("#23b4d9", "#0d5fa6")
    p.rays("#a8f4ff", 0.45)
    p.hills("#0f6f9f", 0.10, 0.06, 2.2, far=0.14)
    p.ground("#d7c68f", "#9bab8c")
    p.mottle("#f4e9b4", 0.6, 5)
    p.bubbles("#dffbff")


def street(p: Painter) -> None:
    p.sky("#6cb8f0", "#f1f0e4")
    p.clouds(0.7)
    p.skyline("#a3b4cf", 0.24, 7, far=0.1)
    p.skyline("#7487ab", 0.14, 5, far=0.16)
    p.ground("#b9bcc4", "#a7abb5")
    p.ground("#5d6170", "#4a4e5c", at=0.09)
    p.road_marks("#f6e7a8")


def living_room(p: Painter) -> None:
    p.wall("#f4dcc0", "#e9c9a6")
    p.pattern("#fbe9d3", 11, 0.5)
    p.window("#9ad8f7", "#ffffff", 0.16)
    p.stripe("#fff7ea", -0.012, 0.014)
    p.ground("#c68e5b", "#a86f42")
    p.boards("#8a5630")
    p.disc_on_floor("#cf6a63", 0.9, 0.44)
    p.disc_on_floor("#f0c9a8", 0.55, 0.36)


def kitchen(p: Painter) -> None:
    p.wall("#d9efe6", "#bfe0d6")
    p.tiles("#f4fffb", 0.095)
    p.stripe("#e9b872", -0.03, 0.03)
    p.ground("#f7f3ea", "#ded7c8")
    p.checkers("#86a9b8")


def space(p: Painter) -> None:
    p.sky("#0d0f2e", "#37306e")
    p.nebula("#b04fc0", 0.55)
    p.stars(1.0)
    p.planet("#f0a24e", "#b9563e")
    p.ground("#a9a8bd", "#74738c", wave=0.02)
    p.craters("#5f5e77")


def volcano(p: Painter) -> None:
    p.sky("#4a2340", "#f08a4b")
    p.clouds(0.5, "#7a3f52")
    p.cone("#4b3a45", "#ff8a3c")
    p.hills("#3a2e38", 0.03, 0.03, 2.4, far=0.2)
    p.ground("#5a4850", "#372d36")
    p.lava("#ff9a3d")


def wheat_field(p: Painter) -> None:
    p.sky("#58aaf0", "#fdf3d2")
    p.clouds(0.7)
    p.hills("#93b563", 0.05, 0.03, 1.6, far=0.16)
    p.ground("#f3cf62", "#d79a2f")
    p.rows(["#fbe389", "#cc8f2c"], 8)


def flower_field(p: Painter) -> None:
    p.sky("#5cb6f5", "#e6f7ff")
    p.clouds(0.8)
    p.hills("#79b775", 0.05, 0.035, 1.8, far=0.16)
    p.ground("#58a54b", "#3f8a3d")
    p.rows(["#f0567f", "#f7c63f", "#a765d8", "#ff8f4f"], 7)


def stage(p: Painter) -> None:
    p.wall("#7c1f3a", "#4f1228")
    p.curtain("#c92f4f")
    p.spotlight("#ffe9b0")
    p.ground("#b07a4c", "#8a5833")
    p.boards("#6d4223")
    p.disc_on_floor("#ffe9b8", 0.4, 0.36)


def stadium(p: Painter) -> None:
    p.sky("#55aef2", "#dff3ff")
    p.stands(["#d65a64", "#f2c14e", "#5a7fd6", "#f3f3f3"])
    p.ground("#4fb04a", "#37913c")
    p.stripes("#69c65b", 5)
    p.stripe("#ffffff", 0.12, 0.012)


def candy_land(p: Painter) -> None:
    p.sky("#9fd4ff", "#ffe3f3")
    p.clouds(1.0, "#fff4fb")
    p.hills("#c9b3f5", 0.12, 0.06, 1.8, far=0.12)
    p.hills("#ffb3d1", 0.05, 0.05, 1.4, far=0.2)
    p.ground("#ffd0e2", "#f79ac0")
    p.waves("#fff0f6", 0.75, 4)


PLACES: tuple[InputPos, ...] = (
    InputPos("meadow", "a meadow", "in a meadow", True, 0.52, meadow),
    InputPos("beach", "a beach", "on a beach", True, 0.47, beach),
    InputPos("desert", "a desert", "in a desert", True, 0.52, desert),
    InputPos("arctic", "the arctic", "in the arctic", True, 0.52, arctic),
    InputPos("forest", "a forest", "in a forest", True, 0.54, forest),
    InputPos("mountains", "the mountains", "in the mountains", True, 0.54, mountains),
    InputPos("pier", "a pier", "on a pier", True, 0.42, pier),
    InputPos("seabed", "the seabed", "on the seabed", False, 0.54, seabed),
    InputPos("street", "a city street", "on a city street", True, 0.52, street),
    InputPos("living room", "a living room", "in a living room", False, 0.56, living_room),
    InputPos("kitchen", "a kitchen", "in a kitchen", False, 0.56, kitchen),
    InputPos("space", "space", "in space", False, 0.54, space),
    InputPos("volcano", "a volcano", "by a volcano", True, 0.54, volcano),
    InputPos("wheat field", "a wheat field", "in a wheat field", True, 0.5, wheat_field),
    InputPos("flower field", "a flower field", "in a flower field", True, 0.5, flower_field),
    InputPos("stage", "a stage", "on a stage", False, 0.56, stage),
    InputPos("stadium", "a stadium", "in a stadium", True, 0.5, stadium),
    InputPos("candy land", "candy land", "in candy land", True, 0.52, candy_land),
)

WEATHERS = ("clear", "night", "snow", "rain", "sunset")

# What the weather does to the colours of everything on the ground.
LIGHT = {
    "clear": (1.0, 1.0, 1.0),
    "night": (0.42, 0.48, 0.72),
    "snow": (0.93, 0.96, 1.0),
    "rain": (0.70, 0.75, 0.82),
    "sunset": (1.0, 0.76, 0.62),
}

# Objects stay a little brighter than the night around them.
OBJECT_LIGHT = LIGHT | {"night": (0.62, 0.66, 0.9)}

SKY = {
    "night": ("#0b1033", "#3a4a86"),
    "snow": ("#b9c6d6", "#e9eef4"),
    "rain": ("#66748a", "#a9b4c0"),
    "sunset": ("#5a4a9c", "#ffb25a"),
}


def weathered(weather: str, rgb: Tensor, sky: Tensor, seeds: Seeds, place: InputPos) -> Tensor:
    """The backdrop (B, 3, S, S) in that weather, before any object stands in it."""
    if weather == "clear":
        return rgb
    top, bottom = (hexcolour(c, rgb.device) for c in SKY[weather])
    light = torch.tensor(LIGHT[weather], device=rgb.device)[:, None, None]
    painter = Painter(seeds, place.horizon, place.sway)
    # Clouds and other sky detail shine through a little.
    painter.rgb = painter.gradient(top, bottom) * 0.85 + rgb * light * 0.15
    if weather == "night":
        painter.stars(0.9)
        painter.clouds(0.25, "#5d6ba5")
    elif weather == "sunset":
        painter.glow("#ffe08a")
        painter.clouds(0.7, "#ff8f7a")
    else:
        painter.clouds(0.5, "#dfe6ee" if weather == "snow" else "#55617a")
    lit = rgb * light
    if weather == "snow":
        cover = torch.tensor([0.93, 0.96, 1.0], device=rgb.device)[:, None, None]
        lit = lit + (cover - lit) * 0.64
    return lit + (painter.rgb - lit) * sky[:, None]


def falling(weather: str, seeds: Seeds) -> Tensor:
    """How much of the picture snowflakes or raindrops cover, (B, S, S); they fall before all."""
    return seeds.flakes() if weather == "snow" else seeds.drops()
