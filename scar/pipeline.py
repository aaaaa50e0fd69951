"""The public pipeline: PIL images in, PIL images out.

    request      inputs are checked                                    `scar.inputs`
    encode       frozen networks: images -> features, texts -> embeddings
    prefill      the prefix runs through the backbone once             `scar.model.SCAR.prefill`
    region       which tokens are sampled, which copied                `scar.edit_region`
    decode       tokens set by set                                     `scar.sampling.decode`
    render       tokens -> pixels, composited onto the source

Letters: B batch, S pixels along a side, h x w grid of the features, C their channels, N tokens of
an image, m tokens so far.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from scar.compiled import CompiledRunner
from scar.config import ScarConfig
from scar.edit_region import EditRegion, forced_tokens, painted_region, predicted_region, render
from scar.errors import WeightsError
from scar.frozen import FrozenEncoders
from scar.inputs import EncodedImage, InputEncoder, Request, edit_request, generate_request
from scar.model import SCAR
from scar.output import Output, StageTimer
from scar.region import select_region
from scar.sampling import EagerRunner, Prefilled, decode
from scar.weights.checkpoint import load_config, load_model, load_tokenizer, usable_device
from scar.weights.hub import checkpoint_folder

__all__ = ["Output", "ScarPipeline"]

BACKDROP = 0.35  # brightness of the source where a preview has no tokens yet


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
        self.runner = CompiledRunner() if compile else EagerRunner()
        self.model = model.to(self.device).eval()
        self.frozen = frozen.to(self.device)
        self.paradigm = model.backbone.paradigm
        self.size = config.tokenizer.image_size
        self.total_tokens = sum(config.tokenizer.set_sizes)
        self.classes = list(config.class_names)
        self.defaults = config.sampling
        # Compiled functions and CUDA graphs are made for one length of text.
        min_slots = config.condition.text_slots if compile else 0
        self._encoder = InputEncoder(self.frozen, self.size, self.device, min_slots)

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
            source: "embedded" (ships with the code, needs no network), a folder, or a Hub id:
                owner/name, or owner/name@commit.
            paradigm: "next-token" or "next-set", for sources that hold both as sub-folders.
            device: "auto", "cpu", "cuda", ...
            compile: decode with torch.compile, on CUDA with CUDA graphs. The first call, and the
                first with other sampling settings, takes minutes for a large model; on CUDA all
                calls must come from one thread. See `scar.compiled`.

        Raises:
            WeightsError: there is no such checkpoint, it is damaged, or its encoders are missing.
            InputError: this machine has no such device.
        """
        torch_device = usable_device(device)
        folder = checkpoint_folder(source)
        if not (folder / "config.json").is_file() and (folder / paradigm).is_dir():
            folder = folder / paradigm
        config = load_config(folder)
        tokenizer = load_tokenizer(config.tokenizer, folder)
        try:
            frozen = FrozenEncoders(config, tokenizer)
        except OSError as error:  # raised by the Hub's client when it is offline
            raise WeightsError(
                f"the frozen encoders of {source} are not on this machine and could not be "
                "fetched; connect once, or use the embedded model"
            ) from error
        return cls(config, load_model(config, folder), frozen, torch_device, compile)

    def edit(self, image: Image.Image, instruction: str, **options: Any) -> Output:
        """The last output of `stream_edit`, without previews."""
        return self.edit_batch([image], [instruction], **options)[0]

    def generate(self, control_map: Image.Image, prompt: str | int, **options: Any) -> Output:
        """The last output of `stream_generate`, without previews."""
        return self.generate_batch([control_map], [prompt], **options)[0]

    def edit_batch(
        self, images: Sequence[Image.Image], instructions: Sequence[str], **options: Any
    ) -> list[Output]:
        """`edit` for images of any sizes, each with its instruction, decoded together. They share
        all options and one random generator."""
        return _last(self._stream(edit_request(self.config, images, instructions, **options)))

    def generate_batch(
        self, control_maps: Sequence[Image.Image], prompts: Sequence[str | int], **options: Any
    ) -> list[Output]:
        """`generate` for several control maps, as `edit_batch`."""
        return _last(self._stream(generate_request(self.config, control_maps, prompts, **options)))

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
        """Edit an image, yielding previews and then the result.

        Args:
            image: any mode, size and aspect, as opened; the output is upright RGB of its size.
            seed: from 0 to 2147483647; None draws one, which is in the output.
            guidance, temperature, top_k, top_p, null: see `scar.config.Sampling`; None: the
                model's default.
            region: where the image may change. "auto": as predicted from the prefix, if the model
                was trained for it; a mask, white where it may change, or opaque if it has
                transparency (see `scar.pixels.to_mask`); None: everywhere, as in the paper. Outside
                the region the output equals the input bit for bit.
            preview_every: sampled sets between two outputs; None: as often as time allows. The
                first and the last always come; with a region, one with step 0 comes before any
                token.

        Raises:
            InputError: the instruction is empty, or an option is out of range.
            SamplingError: the model gave logits that are not finite.
        """
        options: dict[str, Any] = {
            "guidance": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p,
            "null": null, "preview_every": preview_every,
        }  # fmt: skip
        request = edit_request(
            self.config, [image], [instruction], seed=seed, region=region, **options
        )
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
        options: dict[str, Any] = {
            "guidance": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p,
            "null": null, "preview_every": preview_every,
        }  # fmt: skip
        request = generate_request(self.config, [control_map], [prompt], seed=seed, **options)
        return (outputs[0] for outputs in self._stream(request))

    @torch.inference_mode()
    def _stream(self, request: Request) -> Iterator[list[Output]]:
        """The outputs of a batch: previews, then the results."""
        timer = StageTimer()
        images = request.images
        encoded = self._encoder.encode_images(images)
        features = torch.cat([e.features for e in encoded])  # (B, h, w, C)
        text = self._encoder.encode_texts(request.texts)  # (B, T, W)
        labels = torch.tensor(request.labels, device=self.device)  # (B,)
        timer.mark("encode")

        prefilled = self.model.prefill(features, text, labels, request.sampling, self.runner)
        regions = self._regions(request, encoded, features, prefilled)
        timer.mark("prefill")
        ends = list(accumulate(self.config.tokenizer.set_sizes))

        if any(regions) and request.preview_every != 0:
            yield self._outputs(images, regions, request.seed, 0, ends, timer)
            timer.mark("caller")
        for tokens in self._decode(request, prefilled, encoded, regions):  # (B, m)
            timer.mark("decode")
            last = tokens.shape[1] == ends[-1]
            if not last and request.preview_every is None and not timer.preview_is_due():
                continue
            results = self._render(tokens, images, encoded, regions, last)
            timer.mark("pixels")
            yield self._outputs(results, regions, request.seed, tokens.shape[1], ends, timer)
            timer.mark("caller")

    def _decode(
        self,
        request: Request,
        prefilled: Prefilled,
        encoded: list[EncodedImage],
        regions: list[EditRegion | None],
    ) -> Iterator[Tensor]:
        return decode(
            self.model.backbone,
            prefilled,
            self.frozen.tokenizer,
            request.sampling,
            torch.Generator(self.device).manual_seed(request.seed),
            forced_tokens(regions, encoded),
            1 if request.preview_every is None else request.preview_every,
            self.runner,
        )

    def _regions(
        self,
        request: Request,
        encoded: list[EncodedImage],
        features: Tensor,
        prefilled: Prefilled,
    ) -> list[EditRegion | None]:
        """Where each image may change; None: everywhere."""
        tokenizer = self.config.tokenizer
        if isinstance(request.region, list):
            return [painted_region(mask, tokenizer, self.device) for mask in request.region]
        if request.region is None or self.model.region is None:
            return [None] * len(request.images)
        probability = self.model.region_probability(prefilled, features)  # r (B, h, w)
        regions: list[EditRegion | None] = []
        for r, image, e in zip(probability, request.images, encoded, strict=True):
            cells = select_region(r, self.config.region)  # (h, w)
            found = None if cells is None else predicted_region(cells, image, e.box, tokenizer)
            regions.append(found)
        return regions

    def _render(
        self,
        tokens: Tensor,
        images: list[Image.Image],
        encoded: list[EncodedImage],
        regions: list[EditRegion | None],
        last: bool,
    ) -> list[Image.Image]:
        """Tokens so far (B, m) -> images at the sizes of the inputs. A preview shows the dimmed
        input where no token is decoded yet."""
        tokenizer = self.frozen.tokenizer
        if last:
            pixels = tokenizer.decode(tokens)  # (B, 3, S, S)
        else:
            source = torch.cat([e.pixels for e in encoded])
            pixels = tokenizer.preview(tokens, source * BACKDROP)
        return render(pixels, images, encoded, regions)

    def _outputs(
        self,
        images: list[Image.Image],
        regions: list[EditRegion | None],
        seed: int,
        tokens: int,
        ends: list[int],
        timer: StageTimer,
    ) -> list[Output]:
        step = ends.index(tokens) + 1 if tokens else 0
        return [
            Output(
                image,
                seed,
                timer.total(),
                step,
                len(ends),
                tokens,
                drawn=int(region.sampled.sum()) if region else ends[-1],
                region=region.mask if region else None,
                timings=dict(timer.stages) if step == len(ends) else {},
            )
            for image, region in zip(images, regions, strict=True)
        ]


def _last(outputs: Iterator[list[Output]]) -> list[Output]:
    return deque(outputs, maxlen=1)[0]
