"""Backdrops beyond the eighteen places: colours, noise, patterns, collages, and places in disguise.

Like a place, each is a short function that paints on a `Painter`. Their colours, directions and
scales come from the scene's numbers.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from math import tau

import torch
import torch.nn.functional as F
from torch import Tensor

from scar.toyscenes.painting import Painter, ground_depth
from scar.toyscenes.places import PLACES, InputPos
from scar.toyscenes.sprites import COLOURS, sheet

TEXTURE = 256  # pixels a side of noise and collage textures, which repeat
COLLAGES = 6


def fraction(p: Painter, i: int, k: float) -> Tensor:
    """One more number in 0..1 of every scene, (B, 1, 1), from its i-th."""
    return torch.frac(p.seeds[i] * (k * 61.7 + 13.3))


def random_colour(p: Painter, i: int) -> Tensor:
    """A colour of any hue, from pale to strong and dark to light, (B, 3, 1, 1)."""
    saturation = 0.85 * fraction(p, i, 1.0)
    return from_hsv(p.seeds[i], saturation, 0.2 + 0.8 * fraction(p, i, 2.0))


def from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """(B, H, W) each, in 0..1, to RGB (B, 3, H, W)."""
    channels = []
    for n in (5, 3, 1):
        k = torch.remainder(n + 6 * hue, 6)
        channels.append(value * (1 - saturation * torch.minimum(k, 4 - k).clamp(0, 1)))
    return torch.stack(channels, 1)


def axes(p: Painter, i: int, least: float, most: float) -> tuple[Tensor, Tensor]:
    """Coordinates (B, S, S) around the centre, turned by any angle and scaled."""
    angle, scale = tau * p.seeds[i], least * (most / least) ** fraction(p, i, 3.0)
    x, y = (p.x - 0.5) * scale, (p.y - 0.5) * scale
    return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()


def sampled(textures: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Repeating textures (B or 1, 3, T + 1, T + 1) at coordinates (B, S, S): (B, 3, S, S)."""
    grid = torch.stack([torch.remainder(u, 1), torch.remainder(v, 1)], -1) * 2 - 1
    return F.grid_sample(textures.expand(len(u), -1, -1, -1), grid, align_corners=True)


def flat(p: Painter) -> None:
    p.rgb.copy_(random_colour(p, 1).expand_as(p.rgb))


def gradient(p: Painter) -> None:
    u, v = axes(p, 2, 0.8, 1.6)
    radial = torch.sqrt(u * u + v * v) * 1.5
    t = torch.where(p.seeds[5] > 0.7, radial, u + 0.5).clamp(0, 1)[:, None]
    first, second, third = (random_colour(p, i) for i in (1, 3, 6))
    p.rgb.copy_(torch.lerp(torch.lerp(first, second, t), torch.lerp(second, third, t), t))


def noise(p: Painter) -> None:
    u, v = axes(p, 2, 0.2, 1.2)
    field = sampled(noise_texture(p.rgb.device), u + p.seeds[4], v + p.seeds[7])
    grey = field.mean(1, keepdim=True)
    field = torch.lerp(grey, field, fraction(p, 5, 1.0)[:, None])
    strength = (0.1 + 0.3 * fraction(p, 6, 1.0))[:, None]
    p.rgb.copy_((random_colour(p, 1) + strength * field).clamp(0, 1))


def stripes(p: Painter) -> None:
    u, _ = axes(p, 2, 2, 12)
    wave = torch.sin(tau * (u + p.seeds[4]))
    pattern(p, (wave * (1 + 9 * p.seeds[5]) * 0.5 + 0.5 + 0.6 * (p.seeds[7] - 0.5)).clamp(0, 1))


def checks(p: Painter) -> None:
    u, v = axes(p, 2, 4, 16)
    wave = torch.sin(torch.pi * u) * torch.sin(torch.pi * v)
    pattern(p, (wave * (1 + 9 * p.seeds[5]) + 0.5).clamp(0, 1))


def dots(p: Painter) -> None:
    u, v = axes(p, 2, 3, 12)
    distance, _ = p.seeds.dots(u, v, 4, 0.1, jitter=0.2)
    radius = 0.15 + 0.25 * p.seeds[5]
    pattern(p, ((radius - distance) * 10 + 0.5).clamp(0, 1))


def bricks(p: Painter) -> None:
    u, v = axes(p, 2, 3, 10)
    v = v * 1.8
    u = u + 0.5 * torch.remainder(v.floor(), 2)
    gap = torch.maximum((u - u.floor() - 0.5).abs(), (v - v.floor() - 0.5).abs())
    pattern(p, ((0.45 - gap) * 14).clamp(0, 1))


def pattern(p: Painter, share: Tensor) -> None:
    """Two colours by their share (B, S, S), often much alike."""
    first, second = random_colour(p, 1), random_colour(p, 3)
    contrast = (0.25 + 0.75 * fraction(p, 8, 1.0))[:, None]
    p.rgb.copy_(torch.lerp(first, torch.lerp(first, second, contrast), share[:, None]))


def patches(p: Painter) -> None:
    u, v = axes(p, 2, 2, 7)
    bend = 0.4 * fraction(p, 4, 2.0)
    u, v = u + bend * torch.sin(v * 2.1), v + bend * torch.sin(u * 1.7)
    _, own = p.seeds.dots(u, v, 4, 0.0)
    hue = torch.frac(p.seeds[1] + own * fraction(p, 1, 4.0))
    value = 0.3 + 0.7 * torch.frac(own * 7.3)
    p.rgb.copy_(from_hsv(hue, 0.7 * fraction(p, 3, 1.0).expand_as(own), value))


def collage(p: Painter) -> None:
    """Sprites and patches out of focus: things that are there, but not what is spoken of."""
    u, v = axes(p, 2, 0.3, 0.8)
    textures = collages(p.rgb.device)
    picked = textures[(p.seeds.numbers[:, 5] * len(textures)).long()]
    p.rgb.copy_(sampled(picked, u + p.seeds[4], v + p.seeds[7]))
    p.rgb.copy_(disguised(p.rgb, p.seeds.numbers[:, 1]))


def room(p: Painter) -> None:
    """A floor and a wall of two materials."""
    noise(p)
    u = p.side * (1 + 3 * fraction(p, 4, 1.0))
    grain = sampled(noise_texture(p.rgb.device), u * 0.5 + p.seeds[7], p.distance * 0.3 + u * 0)
    grain = grain.mean(1, keepdim=True)
    floor = (random_colour(p, 3) + (0.04 + 0.2 * p.seeds[8])[:, None] * grain).clamp(0, 1)
    mask = p.edge(p.horizon)
    p.over(floor * (0.75 + 0.25 * p.below[:, None]), mask)


def landscape(p: Painter) -> None:
    """Sky, one or two ridges, and ground, in colours no place has."""
    p.rgb.copy_(p.gradient(random_colour(p, 1), random_colour(p, 3)))
    for i, height in ((5, 0.12), (6, 0.02)):
        line = p.ridge(height, 0.05 * (0.3 + p.seeds[i]), 1.3 + 0.4 * i, sharp=i == 5)
        p.over(random_colour(p, i), p.edge(line))
    p.over(random_colour(p, 8), p.edge(p.horizon + 0.04))


def bokeh(p: Painter) -> None:
    gradient(p)
    for i, scale in ((4, 3.0), (7, 4.5), (9, 7.0)):
        distance, own = p.seeds.dots(p.x * scale, p.y * scale, i, 0.3, jitter=0.7)
        radius = 0.18 + 0.24 * own
        disc = ((radius - distance) * 12).clamp(0, 1) * 0.55
        p.over(from_hsv(torch.frac(p.seeds[i] + 0.2 * own), 0.5 + 0 * own, 1 + 0 * own), disc)


def marble(p: Painter) -> None:
    u, v = axes(p, 2, 1, 3)
    field = sampled(noise_texture(p.rgb.device), u * 0.3, v * 0.3)
    pattern(p, 0.5 + 0.5 * torch.sin(tau * u + 2.5 * field[:, 0] + 3 * field[:, 1] * p.seeds[5]))


def inside_out(p: Painter, draw: Callable[[Painter], None]) -> None:
    """A picture without sky: lit from one side, and often with ground below a horizon."""
    draw(p)
    u, _ = axes(p, 10, 1, 1)
    p.rgb.mul_((1 + 0.5 * fraction(p, 11, 1.0) * u)[:, None])
    ground = p.edge(p.horizon)
    shown = 0.8 * fraction(p, 12, 1.0) * (p.seeds[12] < 0.4)
    if draw not in (room, landscape):
        p.over(random_colour(p, 9), ground * shown)
    p.depth = torch.where(ground > 0.5, ground_depth(p.y, p.horizon), 0.15)
    p.open_sky = torch.zeros_like(p.open_sky)


def place_in_disguise(p: Painter, draw: Callable[[Painter], None]) -> None:
    """A place mirrored now and then, in other colours."""
    draw(p)
    mirrored = (p.seeds.numbers[:, 12] > 0.5)[:, None, None]
    p.rgb = torch.where(mirrored[..., None], p.rgb.flip(-1), p.rgb)
    p.open_sky = torch.where(mirrored, p.open_sky.flip(-1), p.open_sky)
    p.depth = torch.where(mirrored, p.depth.flip(-1), p.depth)
    p.rgb = disguised(p.rgb, p.seeds.numbers[:, 11])


def disguised(rgb: Tensor, number: Tensor) -> Tensor:
    """Hues turned by any angle and colours paler or stronger; rgb (B, 3, S, S), number (B,)."""
    angle = (tau * number)[:, None, None]
    strength = (0.3 + torch.frac(number * 43.7))[:, None, None]
    red, green, blue = rgb.unbind(1)
    luma = 0.3 * red + 0.59 * green + 0.11 * blue
    # Colour as two differences that turn about the grey axis.
    u, v = (blue - luma) * strength, (red - luma) * strength
    u, v = u * angle.cos() - v * angle.sin(), u * angle.sin() + v * angle.cos()
    green = luma - (0.3 * v + 0.11 * u) / 0.59
    return torch.stack([luma + v, green, luma + u], 1).clamp(0, 1)


@cache
def noise_texture(device: torch.device) -> Tensor:
    """Coloured 1/f noise of unit variance, (1, 3, T + 1, T + 1); it repeats."""
    generator = torch.Generator().manual_seed(17)
    white = torch.fft.fft2(torch.randn(3, TEXTURE, TEXTURE, generator=generator))
    steps = torch.fft.fftfreq(TEXTURE)
    frequency = torch.sqrt(steps[:, None] ** 2 + steps**2)
    frequency[0, 0] = torch.inf
    field = torch.fft.ifft2(white / frequency**1.2).real
    field = (field / field.std((1, 2), keepdim=True)).clamp(-2.5, 2.5)
    return repeating(field[None]).to(device)


@cache
def collages(device: torch.device) -> Tensor:
    """Pictures full of sprites and patches, ever more blurred: (COLLAGES, 3, T + 1, T + 1)."""
    generator = torch.Generator().manual_seed(19)
    sprites = sheet()
    pages = []
    for page in range(COLLAGES):
        canvas = torch.rand(3, 1, 1, generator=generator).repeat(1, TEXTURE, TEXTURE)
        for _ in range(50):
            top, left, side, pick = torch.rand(4, generator=generator).tolist()
            side = int(30 + 70 * side)
            colour = torch.rand(3, 1, 1, generator=generator)
            rows = (torch.arange(side) + int(top * TEXTURE)) % TEXTURE
            columns = (torch.arange(side) + int(left * TEXTURE)) % TEXTURE
            layer = colour.expand(3, side, side), torch.ones(1, side, side)
            if pick > 0.3:
                rgba = sprites[int((pick - 0.3) / 0.7 * len(sprites))][None].float() / 255
                rgba = F.interpolate(rgba, (side, side), mode="bilinear", antialias=True)[0]
                layer = rgba[:3], rgba[3:]
            under = canvas[:, rows[:, None], columns]
            canvas[:, rows[:, None], columns] = under + (layer[0] - under) * layer[1]
        small = F.interpolate(canvas[None], (160 >> (page // 2),) * 2, mode="area")
        wrapped = F.pad(small, (2, 2, 2, 2), mode="circular")
        scale = TEXTURE / small.shape[-1]
        side = round(wrapped.shape[-1] * scale)
        fine = F.interpolate(wrapped, (side, side), mode="bicubic").clamp(0, 1)
        edge = (side - TEXTURE) // 2
        pages.append(fine[:, :, edge : edge + TEXTURE, edge : edge + TEXTURE])
    return repeating(torch.cat(pages)).to(device)


def repeating(textures: Tensor) -> Tensor:
    """The first row and column once more at the end."""
    return F.pad(textures, (0, 1, 0, 1), mode="circular")


def _kind(draw: Callable[[Painter], None], noun: str) -> InputPos:
    return InputPos(
        draw.__name__, noun, f"on {noun}", True, 0.5, partial(inside_out, draw=draw), sway=0.7
    )


def _plain(name: str, rgb: tuple[float, float, float]) -> InputPos:
    def draw(p: Painter) -> None:
        p.rgb.copy_(torch.tensor(rgb, device=p.rgb.device)[:, None, None].expand_as(p.rgb))
        p.depth.fill_(0.15)
        p.open_sky = torch.zeros_like(p.open_sky)

    noun = f"a plain {name} background"
    return InputPos(f"plain {name}", noun, f"on {noun}", True, 0.5, draw)


PLAIN = tuple(_plain(name, rgb) for name, rgb in COLOURS.items())
DISGUISED = tuple(
    replace(place, sway=0.3, draw=partial(place_in_disguise, draw=place.draw)) for place in PLACES
)
KINDS = (
    _kind(flat, "a plain background"),
    _kind(gradient, "a smooth background"),
    _kind(noise, "a cloudy background"),
    _kind(stripes, "a striped background"),
    _kind(checks, "a checked background"),
    _kind(dots, "a dotted background"),
    _kind(bricks, "a brick background"),
    _kind(patches, "a patchwork background"),
    _kind(collage, "a blurred background"),
    _kind(room, "a floor before a wall"),
    _kind(landscape, "a strange landscape"),
)
# Shown by the split `wild` alone.
HELD_OUT_KINDS = (_kind(bokeh, "a background of lights"), _kind(marble, "a marble background"))

# What `Scene.place` counts: the eighteen places come first.
BACKDROPS = PLACES + PLAIN + DISGUISED + KINDS + HELD_OUT_KINDS
PLAIN_AT = len(PLACES)
DISGUISED_AT = PLAIN_AT + len(PLAIN)
KINDS_AT = DISGUISED_AT + len(DISGUISED)
HELD_OUT_AT = KINDS_AT + len(KINDS)
