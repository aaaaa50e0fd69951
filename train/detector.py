"""Train the embedded network: python -m train.detector --steps N --out DIR

The teacher is ToyScenes. Its depth is exact; its line maps are computed from the clean picture and
that depth, so that an outline counts even where its colour is close to what is behind it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    conv2d,
    interpolate,
    max_pool2d,
    pad,
)

from preprocessors.embedded import RESOLUTION
from preprocessors.map_network import MAPS, MapNetwork
from scar.toyscenes.dataset import ToyScenes

# A quarter of the pixels gives four times the pictures: half of the steps learn layout there.
SIDES = (RESOLUTION, RESOLUTION // 2)
PAIRS = {RESOLUTION: 1, RESOLUTION // 2: 4}  # each gives two pictures, the source and the target
OBJECTS = 48


def train(steps: int, seed: int = 0) -> MapNetwork:
    """Train a network for `steps` steps; the same steps and seed give the same network."""
    torch.manual_seed(seed)
    network = MapNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    scenes = {side: ToyScenes("train", side, OBJECTS, wild=0.0) for side in SIDES}
    first, start = 0, time.monotonic()
    for step in range(steps):
        side = SIDES[step % len(SIDES)]
        pictures, depth = _pictures(scenes[side], range(first, first + PAIRS[side]))
        first += PAIRS[side]
        loss = map_loss(network(_augment(pictures) * 2 - 1), target_maps(pictures, depth)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}  loss {loss.item():.4f}  {time.monotonic() - start:.0f} s")
    return network.eval()


@torch.inference_mode()
def evaluate(network: MapNetwork, count: int = 64) -> dict[str, float]:
    """Mean absolute error, 0..1, of each map on `count` test scenes at the working resolution."""
    scenes = ToyScenes("test", RESOLUTION, OBJECTS)
    errors = torch.zeros(len(MAPS))
    for i in range(count // 2):
        pictures, depth = _pictures(scenes, [i])
        difference = network(pictures * 2 - 1).sigmoid() - target_maps(pictures, depth)
        errors += difference.abs().mean((0, 2, 3)) / (count // 2)
    return dict(zip(MAPS, errors.tolist(), strict=True))


def map_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each map, (4,): soft targets are matched exactly at its minimum."""
    return binary_cross_entropy_with_logits(logits, targets, reduction="none").mean((0, 2, 3))


def target_maps(pictures: Tensor, depth: Tensor) -> Tensor:
    """What the network should draw, (B, 4, H, W) in 0..1, in the order of MAPS.

    pictures: (B, 3, H, W) in 0..1. depth: (B, H, W), 0 far to 1 near.
    """
    depth = depth[:, None]
    low, high = depth.amin((2, 3), keepdim=True), depth.amax((2, 3), keepdim=True)
    relative = (depth - low) / (high - low).clamp(min=1e-3)
    edges = soft_edges(pictures, relative)
    return torch.cat([relative, edges, strokes(edges), ink(pictures)], dim=1)


def soft_edges(pictures: Tensor, depth: Tensor) -> Tensor:
    """Like HED: strong at steps in depth, weaker at steps in colour, a few pixels wide."""
    colour = _slope(blur(pictures, 1.0)).amax(1, keepdim=True)
    outline = -max_pool2d(-depth, 3, 1, 1)
    outline = max_pool2d(depth, 3, 1, 1) - outline
    strength = 1 - torch.exp(-6 * colour - 10 * (outline - 0.04).clamp(min=0))
    return (1.4 * blur(strength, 1.2) - 0.1).clamp(0, 1)


def strokes(edges: Tensor) -> Tensor:
    """The sketch recipe on `edges`: keep strong ridges, then widen them to bold strokes."""
    smooth = blur(edges, 1.5)
    ridge = torch.zeros_like(smooth, dtype=torch.bool)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        before = torch.roll(smooth, (dy, dx), (2, 3))
        after = torch.roll(smooth, (-dy, -dx), (2, 3))
        ridge |= (smooth >= before) & (smooth >= after)
    return (blur((ridge & (smooth > 0.4)).float(), 1.0) > 4 / 255).float()


def ink(pictures: Tensor) -> Tensor:
    """Thin lines: the dark side of every step in colour, by a difference of Gaussians."""
    difference = (blur(pictures, 2.0) - blur(pictures, 0.7)).amax(1, keepdim=True)
    return (14 * difference - 0.2).clamp(0, 1)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, C, H, W) with replicated borders."""
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.softmax(-(offsets**2) / (2 * sigma**2), dim=0)
    channels = images.shape[1]
    padded = pad(images, (radius,) * 4, mode="replicate")
    padded = conv2d(padded, kernel.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)
    return conv2d(padded, kernel.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)


def _slope(images: Tensor) -> Tensor:
    padded = pad(images, (1, 1, 1, 1), mode="replicate")
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return (dx**2 + dy**2).sqrt()


def _pictures(scenes: ToyScenes, indices) -> tuple[Tensor, Tensor]:
    batch = scenes.batch(indices)
    pictures = torch.cat([batch.source, batch.target]).float() / 255
    return pictures, torch.cat([batch.source_depth, batch.target_depth])


def _augment(pictures: Tensor) -> Tensor:
    """Random exposure, blur and noise, as pictures meet on their way to an upload."""
    count = len(pictures)
    gain = 0.7 + 0.6 * torch.rand(count, 3, 1, 1)
    pictures = (pictures * gain + 0.2 * (torch.rand(count, 1, 1, 1) - 0.5)).clamp(0, 1)
    if torch.rand(()) < 0.5:
        small = interpolate(pictures, scale_factor=0.5, mode="bilinear", antialias=True)
        pictures = interpolate(small, scale_factor=2.0, mode="bicubic").clamp(0, 1)
    return pictures + 0.03 * torch.rand(count, 1, 1, 1) * torch.randn_like(pictures)


def main() -> None:
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(prog="python -m train.detector")
    parser.add_argument("--steps", type=int, default=520)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("assets/preprocessors"))
    options = parser.parse_args()
    network = train(options.steps, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "embedded.safetensors"
    save_file({k: v.half().contiguous() for k, v in network.state_dict().items()}, file)
    file.chmod(0o644)
    errors = "  ".join(f"{name} {error:.4f}" for name, error in evaluate(network).items())
    print(f"{file}: {file.stat().st_size / 1e6:.2f} MB; mean absolute error on test: {errors}")


if __name__ == "__main__":
    main()
