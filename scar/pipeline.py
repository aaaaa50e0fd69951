"""PIL in, PIL out."""

from __future__ import annotations

import hashlib
import random
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from scar.compiled import Compiled, padded
from scar.config import Sampling, ScarConfig, check_seed
from scar.frozen import FrozenEncoders
from scar.images import InputError, composite, crop_back, fit_square, to_map, to_mask, to_rgb
from scar.model import SCAR
from scar.prefix import TextEmbedding
from scar.region import change_matte, changed_cells, region_tokens, select_region
from scar.sampling import Prefilled, Steps, decode
from scar.weights.checkpoint import (
    WeightsError,
    load_config,
    load_model,
    load_tokenizer,
    usable_device,
)
from scar.weights.hub import checkpoint_folder

CACHE_SIZE = 16  # images and sentences whose features are kept
PREVIEW_SECONDS = 0.1  # least time between two previews
PREVIEW_SHARE = 0.2  # most of the time that previews may take


@dataclass(frozen=True)
class Output:
    """An image as far as it is drawn."""

    image: Image.Image  # RGB, at the size of the input
    seed: int
    seconds: float  # since the call
    step: int  # sets decoded; 0: the region is known, and no token drawn yet
    total: int  # sets in all; step == total on the last output
    tokens: int  # tokens decoded
    drawn: int = 0  # tokens of the whole image that are drawn rather than the source's own
    # "L", at the size of the input, 255 where the image may change; None: everywhere
    region: Image.Image | None = None
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage, on the last output


class _EncodedImage:
    """An input image as the frozen networks read it. Its tokens are made when they are needed."""

    def __init__(self, image: Image.Image, size: int, frozen: FrozenEncoders, device: torch.device):
        self.square, self.box = fit_square(image, size)
        self.frozen = frozen
        signed = (pil_to_tensor(self.square).float() / 127.5 - 1).unsqueeze(0)
        self.signed = signed.to(device)  # (1, 3, S, S)
        self.features = frozen.encoder(self.signed)  # (1, h, w, C)

    @cached_property
    def tokens(self) -> Tensor:
        return self.frozen.tokenizer.encode(self.signed)  # (1, N)

    @cached_property
    def reconstruction(self) -> Tensor:
        return self.frozen.tokenizer.decode(self.tokens)  # (1, 3, S, S)


@dataclass(frozen=True)
class _Region:
    free: Tensor  # (1, N) bool, tokens that are drawn
    mask: Image.Image  # "L", at the size of the input, 255 where pixels may change


@dataclass(frozen=True)
class _Request:
    """A batch of images to decode together."""

    images: list[Image.Image]
    texts: list[str]
    labels: list[int]  # -1: the text is the condition
    seed: int
    sampling: Sampling
    region: list[Image.Image] | str | None  # masks of the sizes of the images, "auto", or None
    preview_every: int | None


class ScarPipeline:
    """Edits images and generates them from control maps.

    Same input, same seed, same device: same bytes. Calls may not overlap in time.
    """

    def __init__(
        self,
        config: ScarConfig,
        model: SCAR,
        frozen: FrozenEncoders,
        device: torch.device | str = "cpu",
        compile: bool = False,
    ):
        self.device = torch.device(device)
        self.config = config
        self.steps = Compiled() if compile else Steps()
        self._shortest = config.condition.text_slots if compile else 0  # slots of a sentence
        self.model = model.to(self.device).eval()
        self.frozen = frozen.to(self.device)
        self.paradigm = model.backbone.paradigm
        self.size = config.tokenizer.image_size
        self.total_tokens = sum(config.tokenizer.set_sizes)
        self.classes = list(config.class_names)
        self.defaults = config.sampling
        self._images: OrderedDict[str, _EncodedImage] = OrderedDict()
        self._texts: OrderedDict[str, TextEmbedding] = OrderedDict()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = "embedded",
        *,
        paradigm: str = "next-token",
        device: str = "auto",
        compile: bool = False,
    ) -> ScarPipeline:
        """Load a checkpoint.

        Args:
            source: "embedded" (ships with the code, needs no network), a folder, or a Hub id,
                owner/name@commit for the one state of it that was looked at.
            paradigm: "next-token" or "next-set", for sources that hold both as sub-folders.
            device: "auto", "cpu", "cuda", ...
            compile: decode with compiled steps, on CUDA as graphs. The first call, and the first
                with other sampling settings, takes minutes for a large model; on CUDA all calls
                must come from one thread. See `scar.compiled`.

        Raises:
            WeightsError: there is no such checkpoint, or it is damaged; the message says which.
            InputError: this machine has no such device.
        """
        device = usable_device(device)
        folder = checkpoint_folder(source)
        if not (folder / "config.json").is_file() and (folder / paradigm).is_dir():
            folder = folder / paradigm
        config = load_config(folder)
        tokenizer = load_tokenizer(config.tokenizer, folder)
        try:
            frozen = FrozenEncoders(config, tokenizer)
        except OSError as error:  # what the Hub's client raises offline
            raise WeightsError(
                f"the frozen encoders of {source} are not on this machine and could not be "
                "fetched; connect once, or use the embedded model"
            ) from error
        return cls(config, load_model(config, folder), frozen, device, compile)

    def edit(self, image: Image.Image, instruction: str, **options) -> Output:
        """The last output of `stream_edit`; no partial image is rendered."""
        return self.edit_batch([image], [instruction], **options)[0]

    def generate(self, control_map: Image.Image, prompt: str | int, **options) -> Output:
        """The last output of `stream_generate`; no partial image is rendered."""
        return self.generate_batch([control_map], [prompt], **options)[0]

    def edit_batch(
        self, images: Sequence[Image.Image], instructions: Sequence[str], **options
    ) -> list[Output]:
        """`edit` for images of any sizes, each with its instruction, decoded together. All options
        are shared; one generator seeded with `seed` draws for the whole batch."""
        return _last(self._stream(self._edit_request(images, instructions, **options)))

    def generate_batch(
        self, control_maps: Sequence[Image.Image], prompts: Sequence[str | int], **options
    ) -> list[Output]:
        """`generate` for several control maps, as `edit_batch`."""
        return _last(self._stream(self._generate_request(control_maps, prompts, **options)))

    def stream_edit(
        self,
        image: Image.Image,
        instruction: str,
        *,
        seed: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        null: str | None = None,
        region: Image.Image | str | None = "auto",
        preview_every: int | None = None,
    ) -> Iterator[Output]:
        """Edit an image, yielding it as it is drawn.

        Args:
            image: any mode, size and aspect, as opened; the output is upright RGB of its size.
            seed: from 0 to 2147483647; None draws one, which the output names.
            guidance, temperature, top_k, top_p, null: see `scar.config.Sampling`; None: the
                model's default.
            region: where the image may change. "auto": as foreseen from the prefix, if the model
                was trained for it; a picture, white where it may, or opaque where it has
                transparency (see `scar.pixels.to_mask`); None: everywhere, as in the paper. Outside
                the region the output equals the input, bit for bit.
            preview_every: drawn sets between two outputs; None: as time allows. The first and the
                last always come; where there is a region, one with step 0 comes before any token.

        Raises:
            InputError: the instruction is empty. ValueError: a parameter out of range.
            SamplingError: the model gave values that are not finite.
        """
        options = {
            "guidance": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p,
            "null": null, "preview_every": preview_every,
        }  # fmt: skip
        request = self._edit_request([image], [instruction], seed=seed, region=region, **options)
        return (outputs[0] for outputs in self._stream(request))

    def stream_generate(
        self,
        control_map: Image.Image,
        prompt: str | int,
        *,
        seed: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        null: str | None = None,
        preview_every: int | None = None,
    ) -> Iterator[Output]:
        """Generate an image from a control map and a caption, or a class label (int).

        Raises: as `stream_edit`; InputError also for a class this model does not know.
        """
        options = {
            "guidance": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p,
            "null": null, "preview_every": preview_every,
        }  # fmt: skip
        request = self._generate_request([control_map], [prompt], seed=seed, **options)
        return (outputs[0] for outputs in self._stream(request))

    def _edit_request(
        self,
        images: Sequence[Image.Image],
        instructions: Sequence[str],
        *,
        seed: int | None = None,
        region: Image.Image | str | None = "auto",
        preview_every: int | None = 0,
        **sampling,
    ) -> _Request:
        if any(not instruction.strip() for instruction in instructions):
            raise InputError("The instruction is empty; say what should change.")
        if isinstance(region, str) and region != "auto":
            raise ValueError(f"region must be 'auto', a mask or None, not {region!r}")
        images, texts = [to_rgb(image) for image in images], list(instructions)
        if isinstance(region, Image.Image):
            region = [to_mask(region, image.size) for image in images]
        labels = [-1] * len(texts)
        sampling = self._sampling(**sampling)
        return _Request(images, texts, labels, _seed(seed), sampling, region, preview_every)

    def _generate_request(
        self,
        control_maps: Sequence[Image.Image],
        prompts: Sequence[str | int],
        *,
        seed: int | None = None,
        preview_every: int | None = 0,
        **sampling,
    ) -> _Request:
        texts = [prompt if isinstance(prompt, str) else "" for prompt in prompts]
        labels = [-1 if isinstance(prompt, str) else int(prompt) for prompt in prompts]
        for text, label in zip(texts, labels, strict=True):
            self._check_prompt(text, label)
        sampling = self._sampling(**sampling)
        maps = [to_map(control_map) for control_map in control_maps]
        return _Request(maps, texts, labels, _seed(seed), sampling, None, preview_every)

    def _check_prompt(self, text: str, label: int) -> None:
        count = self.config.condition.classes
        if label == -1 and not text.strip():
            raise InputError("The prompt is empty; say what the image should show.")
        if label != -1 and not 0 <= label < count:
            known = (
                f"its classes are 0 to {count - 1}"
                if count
                else "it has no classes; use a sentence"
            )
            raise InputError(f"This model does not know class {label}: {known}.")

    @torch.inference_mode()
    def _stream(self, request: _Request) -> Iterator[list[Output]]:
        """The images of a batch as they are drawn."""
        clock = _Clock()
        images = request.images
        encoded = [self._encode_image(image) for image in images]
        features = torch.cat([e.features for e in encoded])  # (B, h, w, C)
        text = self._encode_texts(request.texts)
        clock.mark("encode")

        labels = torch.tensor(request.labels, device=self.device)
        prefilled = self.model.prefill(features, text, labels, request.sampling, self.steps)
        regions = self._regions(request.region, images, encoded, features, prefilled)
        clock.mark("prefill")
        ends = list(accumulate(self.config.tokenizer.set_sizes))

        def outputs(pictures: list[Image.Image], tokens: int, step: int) -> list[Output]:
            timings = dict(clock.stages) if step == len(ends) else {}
            return [
                Output(
                    picture,
                    request.seed,
                    clock.total(),
                    step,
                    len(ends),
                    tokens,
                    int(region.free.sum()) if region else ends[-1],
                    region.mask if region else None,
                    timings,
                )
                for picture, region in zip(pictures, regions, strict=True)
            ]

        if any(regions) and request.preview_every != 0:
            yield outputs(images, 0, 0)
            clock.mark("caller")
        for tokens in self._decode(request, prefilled, encoded, regions):
            known = tokens.shape[1]
            clock.mark("decode")
            if known < ends[-1] and request.preview_every is None and not clock.preview_is_due():
                continue
            pictures = self._render(tokens, images, encoded, regions, last=known == ends[-1])
            clock.mark("pixels")
            yield outputs(pictures, known, ends.index(known) + 1)
            clock.mark("caller")

    def _decode(
        self,
        request: _Request,
        prefilled: Prefilled,
        encoded: list[_EncodedImage],
        regions: list[_Region | None],
    ) -> Iterator[Tensor]:
        forced = None
        if any(regions):
            source = torch.cat([e.tokens for e in encoded])  # (B, N)
            everything = torch.ones_like(source[:1], dtype=torch.bool)
            free = torch.cat([r.free if r else everything for r in regions])  # (B, N)
            forced = (source, ~free)
        return decode(
            self.model.backbone,
            prefilled,
            self.frozen.tokenizer,
            request.sampling,
            torch.Generator(self.device).manual_seed(request.seed),
            forced,
            1 if request.preview_every is None else request.preview_every,
            self.steps,
        )

    def _regions(
        self,
        region: list[Image.Image] | str | None,
        images: list[Image.Image],
        encoded: list[_EncodedImage],
        features: Tensor,
        prefilled: Prefilled,
    ) -> list[_Region | None]:
        """Where each image may change; None: everywhere."""
        if isinstance(region, list):
            return [self._painted_region(mask) for mask in region]
        if region is None or self.model.region is None:
            return [None] * len(images)
        probability = self.model.region_probability(prefilled, features)  # (B, h, w)
        found = [select_region(p, self.config.region) for p in probability]
        triples = zip(found, images, encoded, strict=True)
        return [
            None if cells is None else self._foreseen_region(cells, image, e.box)
            for cells, image, e in triples
        ]

    def _foreseen_region(self, cells: Tensor, image: Image.Image, box: tuple) -> _Region:
        free = region_tokens(cells.unsqueeze(0), self.config.tokenizer.sides)
        square = to_pil_image(cells.to(torch.uint8).mul(255).cpu())
        square = square.resize((self.size, self.size), Image.Resampling.NEAREST)
        return _Region(free, square.resize(image.size, Image.Resampling.NEAREST, box=box))

    def _painted_region(self, mask: Image.Image) -> _Region:
        """mask: "L", 0 or 255, at the size of the input."""
        square, _ = fit_square(mask, self.size)
        painted = pil_to_tensor(square)[:1] > 127  # (1, S, S)
        cells = changed_cells(painted, self.config.tokenizer.grid).to(self.device)
        return _Region(region_tokens(cells, self.config.tokenizer.sides), mask)

    def _encode_image(self, image: Image.Image) -> _EncodedImage:
        key = hashlib.sha256(image.tobytes() + repr(image.size).encode()).hexdigest()
        if key not in self._images:
            self._images[key] = _EncodedImage(image, self.size, self.frozen, self.device)
        return _cached(self._images, key)

    def _encode_text(self, text: str) -> TextEmbedding:
        if text not in self._texts:
            self._texts[text] = self.frozen.encode_text([text])
        return _cached(self._texts, text)

    def _encode_texts(self, texts: list[str]) -> TextEmbedding:
        """Left-padded to the longest of them."""
        found = [self._encode_text(text) for text in texts]
        longest = max([self._shortest, *(text.valid.shape[1] for text in found)])
        found = [padded(text, longest) for text in found]
        return TextEmbedding(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _render(
        self,
        tokens: Tensor,
        images: list[Image.Image],
        encoded: list[_EncodedImage],
        regions: list[_Region | None],
        last: bool,
    ) -> list[Image.Image]:
        """The pictures so far at the sizes of the inputs; what is not drawn yet shows the input,
        dimmed."""
        tokenizer = self.frozen.tokenizer
        signed = torch.cat([e.signed for e in encoded])
        pixels = tokenizer.decode(tokens) if last else tokenizer.preview(tokens, signed * 0.35)
        pictures = []
        for row, (image, e, region) in enumerate(zip(images, encoded, regions, strict=True)):
            drawn = crop_back(_to_pil(pixels[row]), e.box, image.size)
            if region is not None:
                matte = change_matte(pixels[row : row + 1], e.reconstruction)
                matte = crop_back(to_pil_image(matte.float().cpu()), e.box, image.size)
                drawn = composite(image, drawn, region.mask, matte)
            pictures.append(drawn)
        return pictures

    def _sampling(self, **options) -> Sampling:
        """The model's defaults with what is given; None: as they are."""
        return replace(self.defaults, **{k: v for k, v in options.items() if v is not None})


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.stages: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self.last
        self.last = now
        if stage == "pixels":
            self.rendered = now

    def preview_is_due(self) -> bool:
        """Whether the last preview is old enough, and previews have not taken more than their
        share of the time."""
        if "pixels" not in self.stages:
            return True
        rendering, now = self.stages["pixels"], time.perf_counter()
        return now - self.rendered >= PREVIEW_SECONDS and rendering < PREVIEW_SHARE * self.total()

    def total(self) -> float:
        return time.perf_counter() - self.start


def _last(outputs: Iterator[list[Output]]) -> list[Output]:
    return deque(outputs, maxlen=1)[0]


def _cached(cache: OrderedDict, key: str):
    """The entry, as the most recent one; the oldest ones go."""
    cache.move_to_end(key)
    while len(cache) > CACHE_SIZE:
        cache.popitem(last=False)
    return cache[key]


def _seed(seed: int | None) -> int:
    return random.randrange(2**31) if seed is None else check_seed(seed)


def _to_pil(pixels: Tensor) -> Image.Image:
    """(3, S, S) in [-1, 1] -> RGB."""
    return to_pil_image(((pixels.float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
