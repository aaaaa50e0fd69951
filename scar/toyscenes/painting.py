"""A painter's box for batched backdrops: gradients, ridges, textures in perspective, soft dots."""

from functools import cache

import torch
from torch import Tensor

from scar.toyscenes.seeds import Seeds, dot_table


class Painter:
    """Paints layers over `rgb` (B, 3, S, S); keeps what is sky and how near everything is."""

    def __init__(self, seeds: Seeds, horizon: float, sway: float = 0.05):
        self.seeds, self.x, self.y = seeds, seeds.x, seeds.y
        self.horizon = horizon + sway * (seeds[0] - 0.5)  # (B, 1, 1)
        batch, size = len(seeds.numbers), seeds.size
        device = seeds.numbers.device
        self.rgb = torch.zeros(batch, 3, size, size, device=device)
        self.open_sky = torch.ones(batch, size, size, device=device)
        self.depth = torch.zeros(batch, size, size, device=device)
        below = ((self.y - self.horizon) / (1 - self.horizon)).clamp(0, 1)
        self.below = below  # (B, S, 1) 0 at the horizon to 1 at the lower edge
        # Perspective: rows of equal height on the ground shrink towards the horizon.
        self.distance = 1 / (below + 0.22)
        self.side = (self.x - 0.5) * self.distance

    def finished(self) -> tuple[Tensor, Tensor, Tensor]:
        warmth = 0.07 * (self.seeds.numbers[:, 13:16] - 0.5)[:, :, None, None]
        return (self.rgb * (1 + warmth)).clamp(0, 1), self.open_sky, self.depth

    def over(self, colour: str | Tensor, opacity: Tensor) -> None:
        """Lay one colour, or a picture (B, 3, S, S), over what is there."""
        if isinstance(colour, str):
            colour = hexcolour(colour, self.rgb.device)
        self.rgb.lerp_(colour, opacity[:, None])

    def gradient(self, top: Tensor, bottom: Tensor) -> Tensor:
        t = (self.y / self.horizon).clamp(0, 1)[:, None]
        return top + (bottom - top) * t * t

    def edge(self, line: Tensor) -> Tensor:
        """1 below a line y = line, 0 above it, one pixel soft."""
        return ((self.y - line) * self.seeds.size + 0.5).clamp(0, 1)

    def solid(self, opacity: Tensor, depth: float | Tensor) -> None:
        self.open_sky = self.open_sky * (1 - opacity)
        self.depth = torch.where(opacity > 0.5, depth, self.depth)

    # -- the far layers ------------------------------------------------------------------------

    def sky(self, top: str, bottom: str) -> None:
        device = self.rgb.device
        self.rgb.copy_(self.gradient(hexcolour(top, device), hexcolour(bottom, device)))

    def wall(self, top: str, bottom: str) -> None:
        self.sky(top, bottom)
        self.solid(torch.ones_like(self.open_sky), 0.15)

    def clouds(self, amount: float, colour: str = "#ffffff") -> None:
        n = self.seeds.noise(self.x * 2.2, self.y * 5.5, 0)
        fade = (1 - self.y / self.horizon).clamp(0, 1) * 1.6
        self.over(colour, ((n - 0.52) * 4.5).clamp(0, 1) * fade.clamp(0, 1) * amount)

    def ridge(self, height: float, swing: float, pace: float, sharp: bool) -> Tensor:
        """The y of a hill line, (B, 1, S)."""
        k = int(pace * 10) % 7
        a = torch.sin((self.x * pace + self.seeds[k]) * 6.283)
        b = torch.sin((self.x * pace * 2.3 + self.seeds[k + 3]) * 6.283)
        if sharp:
            a, b = 1 - 2 * (a * 0.8).abs(), 0.6 * (1 - 2 * b.abs())
        return self.horizon - height - swing * (0.65 * a + 0.35 * b)

    def hills(
        self, colour: str, height: float, swing: float, pace: float, far: float, sharp: bool = False
    ) -> None:
        line = self.ridge(height, swing, pace, sharp)
        mask = self.edge(line)
        self.over(colour, mask)
        rim = (1 - (self.y - line) * 9).clamp(0, 1)
        self.over("#ffffff", mask * rim * 0.16)
        self.solid(mask, far)

    def peaks(self, rock: str, snow: str, height: float, far: float) -> None:
        s = self.seeds
        line = torch.full_like(self.x, 2.0).expand(len(s.numbers), -1, -1)
        lit = torch.zeros_like(line)
        for i in range(3):
            middle = 0.15 + 0.35 * i + 0.12 * (s[2 + i] - 0.5)
            top = self.horizon - height * (0.75 + 0.4 * s[5 + i])
            slope = top + (self.x - middle).abs() * (1.0 + 0.3 * s[8 + i])
            lit = torch.where(slope < line, (self.x < middle).float(), lit)
            line = torch.minimum(line, slope)
        mask = self.edge(line)
        self.over(rock, mask)
        self.over("#3b4d86", mask * (1 - lit) * 0.28)
        drop = self.y - self.horizon + height * 0.62 + 0.03 * torch.sin(self.x * 40 + s[4] * 6)
        self.over(snow, mask * (-drop * 22).clamp(0, 1) * (0.82 + 0.18 * lit))
        self.over("#dbe9ff", mask * ((self.y - self.horizon) * 6 + 1).clamp(0, 1) * 0.45)
        self.solid(mask, far)

    def cone(self, rock: str, lava: str) -> None:
        middle = 0.5 + 0.3 * (self.seeds[3] - 0.5)
        run = (self.x - middle).abs()
        line = torch.maximum(self.horizon - 0.36 + run * 0.85, self.horizon - 0.30)
        glow = torch.exp(
            -(((self.x - middle) / 0.14) ** 2 + ((self.y - self.horizon + 0.33) / 0.1) ** 2)
        )
        self.over(lava, glow * 0.85)
        mask = self.edge(line)
        self.over(rock, mask)
        wander = 0.03 * torch.sin(self.y * 26 + self.seeds[5] * 6)
        stream = (1 - (self.x - middle - wander).abs() / 0.022).clamp(0, 1)
        self.over(lava, mask * stream)
        self.over(lava, mask * (1 - (self.y - line) * 30).clamp(0, 1) * (run < 0.075))
        self.solid(mask, 0.12)

    def skyline(self, colour: str, height: float, count: int, far: float) -> None:
        column = (self.x + self.seeds[count]) * count
        table = dot_table(self.rgb.device)
        row = (self.seeds[count + 1] * 63).long()
        own = table[row, column.floor().long() % 64]  # (B, 1, S, 4)
        inside = column - column.floor()
        roof = self.horizon - height * (0.35 + 0.65 * own[..., 0])
        mask = self.edge(roof) * ((inside > 0.04) & (inside < 0.96))
        self.over(colour, mask)
        self.over("#ffffff", mask * own[..., 1] * 0.18)
        across, down = inside * 3, (self.y - roof) / 0.055
        window = ((across - across.floor() - 0.5).abs() < 0.24) & (
            (down - down.floor() - 0.5).abs() < 0.26
        )
        self.over("#fff0b8", mask * (window & (down > 0.35)) * 0.55)
        self.solid(mask, far)

    def trunks(self, colour: str, count: int, width: float, drop: float) -> None:
        column = (self.x + self.seeds[count]) * count
        own = dot_table(self.rgb.device)[3 + count, column.floor().long() % 64]
        inside = (column - column.floor() - 0.35 - 0.3 * own[..., 0]).abs() / count
        mask = ((width * (0.7 + 0.6 * own[..., 1]) - inside) * self.seeds.size).clamp(0, 1)
        mask = mask * (self.y < self.horizon + drop)
        self.over(colour, mask)
        self.solid(mask, 0.16)

    def canopy(self, colour: str) -> None:
        n = self.seeds.noise(self.x * 5, self.y * 5, 6)
        line = 0.05 + 0.11 * n
        mask = ((line - self.y) * 26).clamp(0, 1)
        self.over(colour, mask)
        self.over("#8fd07a", mask * ((n - 0.5) * 4).clamp(0, 1) * 0.5)
        self.solid(mask, 0.3)

    def stars(self, amount: float) -> None:
        distance, own = self.seeds.dots(self.x * 11, self.y * 11, 2, 0.35)
        size = 0.06 + 0.09 * own
        fade = ((self.horizon + 0.02 - self.y) * 8).clamp(0, 1)
        self.over("#fffbe6", ((size - distance) * 14).clamp(0, 1) * fade * amount)

    def nebula(self, colour: str, amount: float) -> None:
        n = self.seeds.noise(self.x * 2, self.y * 2 + self.x, 4)
        self.over(colour, ((n - 0.42) * 2.2).clamp(0, 1) * amount)

    def planet(self, colour: str, shade: str) -> None:
        cx, cy = 0.2 + 0.6 * self.seeds[6], 0.14 + 0.1 * self.seeds[7]
        dx, dy = self.x - cx, self.y - cy
        r = torch.sqrt(dx * dx + dy * dy)
        mask = ((0.085 - r) * self.seeds.size).clamp(0, 1)
        self.over(colour, mask)
        self.over(shade, mask * ((dx + dy) * 9 + 0.25).clamp(0, 1) * 0.8)

    def glow(self, colour: str) -> None:
        dx = self.x - 0.25 - 0.5 * self.seeds[6]
        dy = self.y - self.horizon + 0.03
        r2 = dx * dx + dy * dy
        self.over("#ffd27a", torch.exp(-r2 / 0.07) * 0.75)
        self.over(colour, ((0.085 - torch.sqrt(r2)) * self.seeds.size * 0.5).clamp(0, 1))

    def rays(self, colour: str, amount: float) -> None:
        lean = (self.x - 0.5) / (0.7 + self.y) * 5 + self.seeds[2] * 6.283
        beam = (torch.sin(lean * 2.1) * 0.6 + torch.sin(lean * 3.7 + 1) * 0.4).clamp(0, 1)
        self.over(colour, beam * (1 - self.y / 0.75).clamp(0, 1) * amount)
        self.solid(torch.ones_like(self.open_sky), 0.1)

    def bubbles(self, colour: str) -> None:
        distance, own = self.seeds.dots(self.x * 6, self.y * 6, 5, 0.62, jitter=0.4)
        ring = (1 - (distance - 0.12 - 0.08 * own).abs() * 16).clamp(0, 1)
        self.over(colour, ring * 0.7 * (self.y < self.horizon + 0.1))

    def window(self, glass: str, frame: str, width: float) -> None:
        dx = (self.x - 0.28 - 0.44 * self.seeds[2]).abs()
        dy = (self.y - self.horizon + 0.30).abs()
        pixels = self.seeds.size
        outer = ((width - dx) * pixels).clamp(0, 1) * ((0.17 - dy) * pixels).clamp(0, 1)
        inner = ((width - 0.022 - dx) * pixels).clamp(0, 1)
        inner = inner * ((0.148 - dy) * pixels).clamp(0, 1)
        bars = ((dx - 0.010) * pixels).clamp(0, 1) * ((dy - 0.010) * pixels).clamp(0, 1)
        self.over(frame, outer)
        self.over(glass, inner * bars)
        hill = self.edge(self.horizon - 0.22 + 0.02 * torch.sin(self.x * 14 + self.seeds[3] * 6))
        self.over("#8fce7d", inner * bars * hill)

    def pattern(self, colour: str, count: int, amount: float) -> None:
        wave = torch.sin((self.x * count + self.seeds[4]) * 6.283)
        self.over(colour, (wave * 3).clamp(0, 1) * amount * (self.y < self.horizon))

    def tiles(self, colour: str, side: float) -> None:
        u, v = self.x / side + self.seeds[3], (self.y - self.horizon) / side
        gap = torch.maximum((u - u.floor() - 0.5).abs(), (v - v.floor() - 0.5).abs())
        self.over(colour, ((0.44 - gap) * side * self.seeds.size).clamp(0, 1) * 0.75)

    def curtain(self, colour: str) -> None:
        fold = torch.sin((self.x * 7.5 + self.seeds[3]) * 6.283 + 0.6 * torch.sin(self.y * 5))
        sides = ((self.x - 0.5).abs() * 2.2 - 0.12 * torch.cos(self.y * 2.6)).clamp(0, 1)
        self.over(colour, (0.5 + 0.5 * fold) * (0.35 + 0.65 * sides))
        swag = 0.10 + 0.035 * torch.sin(self.x * 18.85 + self.seeds[3]).abs()
        self.over("#a51f3f", ((swag - self.y) * 40).clamp(0, 1))
        self.over("#f2c45a", (1 - (self.y - swag).abs() * 90).clamp(0, 1))

    def spotlight(self, colour: str) -> None:
        middle = 0.5 + 0.3 * (self.seeds[5] - 0.5)
        reach = (self.x - middle).abs() / (0.06 + 0.42 * self.y)
        self.over(colour, (1 - reach).clamp(0, 1) * 0.38)

    def stands(self, colours: list[str]) -> None:
        top = self.horizon - 0.24 + 0.05 * torch.cos((self.x - 0.5) * 3)
        mask = self.edge(top)
        self.over("#8d94a8", mask)
        row = (self.y - top) / 0.04
        distance, own = self.seeds.dots(self.x * 26, row, 2, 0.0, jitter=0.3)
        for i, colour in enumerate(colours):
            pick = (own >= i / len(colours)) & (own < (i + 1) / len(colours))
            self.over(colour, mask * ((0.42 - distance) * 4).clamp(0, 1) * pick)
        self.over("#e8ecf4", self.edge(self.horizon - 0.035))
        self.solid(mask, 0.14)

    # -- the ground ----------------------------------------------------------------------------

    def ground(self, far: str, near: str, at: float = 0.0, wave: float = 0.0) -> None:
        device = self.rgb.device
        line = self.horizon + at + wave * torch.sin((self.x * 1.5 + self.seeds[1]) * 6.283)
        mask = self.edge(line)
        far, near = hexcolour(far, device), hexcolour(near, device)
        self.over(far + (near - far) * self.below[:, None], mask)
        self.solid(mask, ground_depth(self.y, self.horizon))

    def band(self, far: str, near: str, top: float, bottom: float) -> None:
        """A strip of water that begins at the horizon."""
        device = self.rgb.device
        mask = self.edge(self.horizon)
        far, near = hexcolour(far, device), hexcolour(near, device)
        t = ((self.y - self.horizon) / max(bottom, 1e-3)).clamp(0, 1)[:, None]
        self.over(far + (near - far) * t, mask)
        self.solid(mask, ground_depth(self.y, self.horizon))

    def stripe(self, colour: str, at: float, width: float, wave: float = 0.0) -> None:
        line = self.horizon + at + wave * torch.sin((self.x * 1.5 + self.seeds[1]) * 6.283)
        self.over(colour, self.edge(line) * (1 - self.edge(line + width)))

    def on_ground(self, opacity: Tensor) -> Tensor:
        return opacity * self.edge(self.horizon + 0.01)

    def mottle(self, colour: str, amount: float, scale: float) -> None:
        n = self.seeds.noise(self.side * scale * 0.5, self.distance * scale, 7)
        self.over(colour, self.on_ground(((n - 0.5) * 3).clamp(0, 1) * amount))

    def waves(self, colour: str, amount: float, scale: float) -> None:
        bend = 0.5 * torch.sin(self.side * 2.2 + self.seeds[8] * 6.283)
        crest = torch.sin((self.distance * 0.9 + 0.22 * bend) * scale + self.seeds[9] * 6.283)
        self.over(colour, self.on_ground(((crest - 0.25) * 2).clamp(0, 1) * amount))

    def boards(self, colour: str, rows: bool = False) -> None:
        u = self.distance * 3 if rows else self.side * 3.4 + self.seeds[3]
        gap = (u - u.floor() - 0.5).abs()
        start = self.horizon + (0.16 if rows else 0.0)
        seam = ((gap - 0.44) * 18).clamp(0, 1) * 0.75
        shade = torch.sin(u.floor() * 2.4 + self.seeds[4] * 6) * 0.10 + 0.10
        self.over(colour, torch.maximum(seam, shade) * self.edge(start))

    def checkers(self, colour: str) -> None:
        u, v = self.side * 2.6 + self.seeds[3], self.distance * 1.6
        soft = 5.0
        wave = torch.sin(u * 3.1416) * torch.sin(v * 3.1416)
        self.over(colour, self.on_ground((wave * soft + 0.5).clamp(0, 1)))

    def rows(self, colours: list[str], count: int) -> None:
        u = self.side * count * 0.55 + self.seeds[3]
        bump = self.seeds.noise(self.side * 7, self.distance * 9, 7)
        for i, colour in enumerate(colours):
            mine = torch.remainder(u.floor(), len(colours)) == i
            inside = 1 - (u - u.floor() - 0.5).abs() * 2.2
            mask = ((inside - 0.1) * 3).clamp(0, 1) * mine * (0.55 + 0.45 * bump)
            self.over(colour, self.on_ground(mask))

    def stripes(self, colour: str, count: int) -> None:
        wave = torch.sin(self.distance * count * 0.9 + self.seeds[3] * 6.283)
        self.over(colour, self.on_ground((wave * 6 + 0.5).clamp(0, 1) * 0.8))

    def road_marks(self, colour: str) -> None:
        u = self.side * 1.1 + 0.35 * (self.seeds[3] - 0.5)
        dash = torch.sin(self.distance * 5 + self.seeds[4] * 6.283)
        mask = ((0.05 - u.abs()) * 40).clamp(0, 1) * (dash * 6 + 2).clamp(0, 1)
        self.over(colour, mask * self.edge(self.horizon + 0.12))

    def craters(self, colour: str) -> None:
        u, v = self.side * 2.4, self.distance * 1.7
        distance, own = self.seeds.dots(u, v, 8, 0.35, jitter=0.25)
        size = 0.2 + 0.14 * own
        self.over(colour, self.on_ground(((size - distance) * 9).clamp(0, 1) * 0.5))
        rim = (1 - (distance - size).abs() * 16).clamp(0, 1)
        self.over("#d6d5e6", self.on_ground(rim * 0.6))

    def lava(self, colour: str) -> None:
        n = self.seeds.noise(self.side * 2.6, self.distance * 2.6, 7)
        vein = (1 - (n - 0.5).abs() * 20).clamp(0, 1)
        self.over(colour, self.on_ground(vein))

    def disc_on_floor(self, colour: str, amount: float, width: float) -> None:
        middle = 0.5 + 0.3 * (self.seeds[5] - 0.5)
        r2 = ((self.x - middle) / width) ** 2 + ((self.y - 0.84) / 0.115) ** 2
        self.over(colour, ((1.08 - r2) * 6).clamp(0, 1) * amount)


def ground_depth(y: Tensor, horizon: Tensor) -> Tensor:
    """Depth of the ground at height y: 0.2 at the horizon to 1 at the picture's lower edge."""
    return 0.2 + 0.8 * ((y - horizon) / (1 - horizon)).clamp(0, 1)


@cache
def hexcolour(code: str, device: torch.device) -> Tensor:
    """ "#ff8000" as (3, 1, 1) in 0..1."""
    values = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return torch.tensor(values, device=device)[:, None, None]
