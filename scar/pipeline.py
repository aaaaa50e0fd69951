"""PIL in, PIL out."""

from __future__ import annotations

import hashlib
import random
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from scar.checkpoint import WeightsError, load_config, load_model, load_tokenizer, usable_device
from scar.compiled import Compiled, padded
from scar.conditioning import Text
from scar.config import Sampling, ScarConfig, check_seed
from scar.frozen import Frozen
from scar.hub import checkpoint_folder
from scar.images import InputError, blend, crop_back, fit_square, to_map, to_mask, to_rgb
from scar.model import SCAR
from scar.sampling import Steps

REMEMBERED = 16  # sources and sentences whose features are kept


@dataclass(frozen=True)
class Output:
    """An image as far as it is drawn."""

    image: Image.Image  # RGB, at the size of the input
    seed: int
    seconds: float  # since the call
    step: int  # sets decoded
    total: int  # sets in all; step == total on the last output
    tokens: int  # tokens decoded
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage, on the last output


@dataclass(frozen=True)
class _Seen:
    """What the frozen networks say of one input image."""

    square: Image.Image
    box: tuple[int, int, int, int]
    signed: Tensor  # (1, 3, S, S)
    features: Tensor  # (1, h, w, C)
    tokens: Tensor  # (1, N)


class ScarPipeline:
    """Edits images and generates them from control maps.

    Same input, same seed, same device: same bytes. Calls may not overlap in time.
    """

    def __init__(
        self,
        config: ScarConfig,
        model: SCAR,
        frozen: Frozen,
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
        self._images: OrderedDict[str, _Seen] = OrderedDict()
        self._texts: OrderedDict[str, Text] = OrderedDict()

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
            frozen = Frozen(config, tokenizer)
        except OSError as error:  # what the Hub's client raises offline
            raise WeightsError(
                f"the frozen encoders of {source} are not on this machine and could not be "
                "fetched; connect once, or use the embedded model"
            ) from error
        return cls(config, load_model(config, folder), frozen, device, compile)

    def edit(self, image: Image.Image, instruction: str, **options) -> Output:
        """The last output of `stream_edit`."""
        return _last(self.stream_edit(image, instruction, **options))

    def generate(self, control_map: Image.Image, prompt: str | int, **options) -> Output:
        """The last output of `stream_generate`."""
        return _last(self.stream_generate(control_map, prompt, **options))

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
        region: Image.Image | None = None,
        every: int = 4,
    ) -> Iterator[Output]:
        """Edit an image, yielding it as it is drawn.

        Args:
            image: any mode, size and aspect, as opened; the output is upright RGB of its size.
            seed: from 0 to 2147483647; None draws one, which the output names.
            guidance, temperature, top_k, top_p: see `scar.config.Sampling`; None: the model's
            default.
            region: white where the edit may happen, or opaque where it has transparency (see
            `scar.pixels.to_mask`). Outside it the output equals the input exactly.
            every: sets between two outputs; the last always comes.

        Raises:
            InputError: the instruction is empty. ValueError: a parameter out of range.
            SamplingError: the model gave values that are not finite.
        """
        if not instruction.strip():
            raise InputError("The instruction is empty; say what should change.")
        sampling = self._sampling(guidance, temperature, top_k, top_p)
        image = to_rgb(image)
        region = None if region is None else to_mask(region, image.size)
        return self._stream(image, instruction, -1, seed, sampling, region, every)

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
        every: int = 4,
    ) -> Iterator[Output]:
        """Generate an image from a control map and a caption, or a class label (int).

        Raises: as `stream_edit`; InputError also for a class this model does not know.
        """
        text, label = (prompt, -1) if isinstance(prompt, str) else ("", int(prompt))
        if isinstance(prompt, str) and not prompt.strip():
            raise InputError("The prompt is empty; say what the image should show.")
        if not isinstance(prompt, str) and not 0 <= label < self.config.condition.classes:
            count = self.config.condition.classes
            known = (
                f"its classes are 0 to {count - 1}"
                if count
                else "it has no classes; use a sentence"
            )
            raise InputError(f"This model does not know class {label}: {known}.")
        sampling = self._sampling(guidance, temperature, top_k, top_p)
        return self._stream(to_map(control_map), text, label, seed, sampling, None, every)

    @torch.inference_mode()
    def _stream(
        self,
        image: Image.Image,
        text: str,
        label: int,
        seed: int | None,
        sampling: Sampling,
        region: Image.Image | None,
        every: int,
    ) -> Iterator[Output]:
        clock = _Clock()
        seed = random.randrange(2**31) if seed is None else check_seed(seed)
        generator = torch.Generator(self.device).manual_seed(seed)
        seen = self._see(image)
        words = self._read(text)
        free = None if region is None else self._cells(region)
        clock.mark("encode")
        sets = self.model.generate(
            seen.features,
            words,
            torch.tensor([label], device=self.device),
            self.frozen.tokenizer,
            sampling,
            generator,
            forced=None if free is None else (seen.tokens, ~free),
            every=every,
            steps=self.steps,
        )
        ends = list(accumulate(self.config.tokenizer.set_sizes))
        for tokens in sets:
            step, total = ends.index(tokens.shape[1]) + 1, len(ends)
            clock.mark("prefill" if step == 1 else "decode")
            drawn = self._draw(tokens, seen, image, region, last=step == total)
            clock.mark("pixels")
            timings = dict(clock.stages) if step == total else {}
            yield Output(drawn, seed, clock.total(), step, total, tokens.shape[1], timings)
            clock.mark("caller")

    def _see(self, image: Image.Image) -> _Seen:
        key = hashlib.sha256(image.tobytes() + repr(image.size).encode()).hexdigest()
        if key not in self._images:
            square, box = fit_square(image, self.size)
            signed = (pil_to_tensor(square).float() / 127.5 - 1).unsqueeze(0).to(self.device)
            tokens = self.frozen.tokenizer.encode(signed)
            self._images[key] = _Seen(square, box, signed, self.frozen.encoder(signed), tokens)
        return _kept(self._images, key)

    def _read(self, text: str) -> Text:
        if text not in self._texts:
            self._texts[text] = padded(self.frozen.encode_text([text]), self._shortest)
        return _kept(self._texts, text)

    def _cells(self, region: Image.Image) -> Tensor:
        """(1, N) bool: the tokens of every set that touch the region."""
        square, _ = fit_square(region, self.size)
        mask = pil_to_tensor(square)[:1].unsqueeze(0).float() / 255  # (1, 1, S, S)
        sides = self.config.tokenizer.sides
        touched = [F.adaptive_max_pool2d(mask, side).flatten(1) > 0.5 for side in sides]
        return torch.cat(touched, dim=1).to(self.device)

    def _draw(
        self,
        tokens: Tensor,
        seen: _Seen,
        image: Image.Image,
        region: Image.Image | None,
        last: bool,
    ) -> Image.Image:
        """The picture so far at the size of the input; what is not drawn yet shows the input,
        dimmed."""
        tokenizer = self.frozen.tokenizer
        pixels = tokenizer.decode(tokens) if last else tokenizer.preview(tokens, seen.signed * 0.35)
        square = to_pil_image(
            ((pixels[0].float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        )
        drawn = crop_back(square, seen.box, image.size)
        return drawn if region is None else blend(image, drawn, region)

    def _sampling(self, guidance, temperature, top_k, top_p) -> Sampling:
        given = {"guidance": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        return replace(self.defaults, **{k: v for k, v in given.items() if v is not None})


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.stages: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self.last
        self.last = now

    def total(self) -> float:
        return time.perf_counter() - self.start


def _last(outputs: Iterator[Output]) -> Output:
    return deque(outputs, maxlen=1)[0]


def _kept(memory: OrderedDict, key: str):
    memory.move_to_end(key)
    while len(memory) > REMEMBERED:
        memory.popitem(last=False)
    return memory[key]
