"""Names the object that a crop of a ToyScenes picture shows: a linear map of frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scar.toyscenes.dataset import PlacedObject, ToyScenes
from train.data.batch import to_signed
from train.data.toy_tasks import main_object_views
from train.evaluate.metrics import Box, Features

CACHE = Path("runs/toy_classifier")


class ObjectClassifier(nn.Module):
    """Softmax regression on standardised features of square crops."""

    def __init__(self, features: Features, inputs: int, objects: int):
        super().__init__()
        self.features = features
        self.mean, self.std = nn.Buffer(torch.zeros(inputs)), nn.Buffer(torch.ones(inputs))
        self.linear = nn.Linear(inputs, objects)

    @torch.no_grad()
    def forward(self, images: Tensor, boxes: Sequence[Box]) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1] and a box in pixels for each -> (B,) sprite index."""
        return self.logits(self.features(images, boxes)).argmax(1)

    def logits(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, objects)."""
        return self.linear((features - self.mean) / self.std)


def open_classifier(
    features: Features, size: int, objects: int, examples: int = 1000, cache: Path = CACHE
) -> ObjectClassifier:
    """A classifier of the first `objects` sprites in pictures of `size` pixels.

    It is trained on that many training examples the first time, and read from `cache` after that.
    """
    device = features.encoder.mean.device
    file = cache / f"{objects}-objects-{size}-px-{examples}-examples.safetensors"
    if file.is_file():
        state = load_file(file)
        classifier = ObjectClassifier(features, len(state["mean"]), objects)
        classifier.load_state_dict(state)
        return classifier.to(device)
    crops, labels = _crops(features, size, objects, examples)
    classifier = _fit(ObjectClassifier(features, crops.shape[1], objects).to(device), crops, labels)
    cache.mkdir(parents=True, exist_ok=True)
    save_file(classifier.state_dict(), file)
    return classifier


@torch.no_grad()
def accuracy(
    classifier: ObjectClassifier, images: Tensor, objects: list[list[PlacedObject]]
) -> float:
    """Share of the objects of images (B, 3, S, S) in [-1, 1] that are named right in their box."""
    placed = [(i, o) for i, some in enumerate(objects) for o in some]
    right = 0
    for part in (placed[i : i + 256] for i in range(0, len(placed), 256)):
        named = classifier(images[[i for i, _ in part]], [o.box for _, o in part]).tolist()
        right += sum(name == o.sprite for name, (_, o) in zip(named, part, strict=True))
    return right / max(len(placed), 1)


@torch.no_grad()
def _crops(features: Features, size: int, objects: int, examples: int) -> tuple[Tensor, Tensor]:
    """Features (M, F) and labels (M,) of every object in the pictures of training examples."""
    device = features.encoder.mean.device
    scenes = ToyScenes("train", size, objects, device=device, wild=0.0)
    crops, labels = [], []
    for first in range(0, examples, 50):
        pictures = main_object_views(scenes.batch(range(first, min(first + 50, examples))))
        placed = [(i, o) for i, some in enumerate(pictures.objects) for o in some]
        images = to_signed(pictures.images)[[i for i, _ in placed]]
        crops.append(features(images, [o.box for _, o in placed]))
        labels += [o.sprite for _, o in placed]
    crops = torch.cat(crops)
    return crops, torch.tensor(labels, device=crops.device)


def _fit(
    classifier: ObjectClassifier, crops: Tensor, labels: Tensor, epochs: int = 12
) -> ObjectClassifier:
    torch.manual_seed(0)
    nn.init.zeros_(classifier.linear.weight)
    classifier.mean.copy_(crops.mean(0))
    classifier.std.copy_(crops.std(0).clamp(min=1e-3))
    optimizer = torch.optim.AdamW(classifier.linear.parameters(), lr=1e-3, weight_decay=0.1)
    for _ in range(epochs):
        for rows in torch.randperm(len(crops), device=crops.device).split(64):
            loss = F.cross_entropy(classifier.logits(crops[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return classifier.requires_grad_(False)
