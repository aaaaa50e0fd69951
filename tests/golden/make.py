"""Compute the golden tensors again from checkouts of the reference implementations.

    python tests/golden/make.py --llamagen PATH --var PATH           writes them
    python tests/golden/make.py --llamagen PATH --var PATH --check   compares with those here

PATH: FoundationVision/LlamaGen at ce98ec4 and FoundationVision/VAR at 78b9539. Their modules are
imported from there; weights and inputs are random, by the seeds below. Every number is computed
in fp32 on the CPU.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

HERE = Path(__file__).parent
LLAMAGEN = "FoundationVision/LlamaGen@ce98ec41803a74a90ce68c40ababa9eaeffeb4ec"
VAR = "FoundationVision/VAR@78b95394fc5896192e3a003e4b295f8ea743c48f"
CLASSES, CODES, WIDTH, HEADS, LAYERS = 10, 64, 32, 2, 2
CHANNELS = {"ch": 32, "ch_mult": (1, 1), "num_res_blocks": 1}
SCALES = (1, 2, 2, 3, 3, 4, 4, 5, 5, 6)
# Scale of the noise in a weight, by the end of its name; of others see `randomise`.
SPREAD = {
    "output.weight": 0.3,
    "head.weight": 0.3,
    "embedding_table.weight": 1.0,
    "tok_embeddings.weight": 1.0,
    "class_emb.weight": 1.0,
    "cap_proj.fc1.weight": WIDTH**-0.5,
    "lvl_embed.weight": 0.5,
    "pos_start": 0.5,
    "pos_1LC": 0.5,
    "bias": 0.02,
}
# Logarithms of attention scales; 6 lies above the bound of log(100).
HEAD_SCALES = ([1.0869140625, 1.1806640625], [6.0, 0.9970703125])


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def randomise(module: nn.Module, seed: int, **spread: float) -> None:
    """Random weights, exact in fp16, under which activations keep their size.

    spread: as `SPREAD`, for one model.
    """
    generator = random(seed)
    for name, weight in module.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        scale = next((s for end, s in (SPREAD | spread).items() if name.endswith(end)), None)
        if scale is not None:
            weight.copy_(scale * noise)
        elif weight.dim() == 1:
            weight.copy_(1 + 0.1 * torch.randn(weight.shape, generator=generator))
        else:
            weight.copy_(noise * weight[0].numel() ** -0.5)
        weight.copy_(weight.half())
    module.eval().requires_grad_(False)


def random_images(side: int, seed: int) -> Tensor:
    """(2, 3, side, side) in [-1, 1], exact in fp16."""
    return (2 * torch.rand(2, 3, side, side, generator=random(seed)) - 1).half().float()


def llamagen(**shape):
    reference = import_module("autoregressive.models.gpt")
    size = {"dim": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": CODES}
    return reference.Transformer(reference.ModelArgs(**size, **shape))


def sampled(model, seed: int, condition: Tensor, mask=None, **sampling) -> Tensor:
    """Tokens that LlamaGen generates; greedily with sample_logits=False."""
    generate = import_module("autoregressive.models.generate").generate
    torch.manual_seed(seed)
    tokens = generate(model, condition, model.block_size, emb_masks=mask, **sampling)
    for layer in model.layers:
        layer.attention.kv_cache = None  # not among the weights
    return tokens.long()


def llamagen_c2i():
    """Logits of a class and of the null class; tokens of class 1."""
    model = llamagen(num_classes=CLASSES, block_size=64)
    randomise(model, 100)
    generator = random(101)
    labels = torch.randint(CLASSES, (2,), generator=generator)
    labels[1] = CLASSES  # the null class
    tokens = torch.randint(CODES, (2, 64), generator=generator)
    logits = model(tokens[:, :-1], labels, input_pos=torch.arange(64))[0]
    one = torch.tensor([1, 1])
    greedy = {"sample_logits": False}
    nucleus = {"temperature": 1.1, "top_k": 50, "top_p": 0.9}
    return model, {
        "labels": labels,
        "tokens": tokens,
        "logits": logits,
        "sample_labels": one,
        "greedy": sampled(model, 102, one, cfg_scale=3.0, **greedy),
        "greedy_unguided": sampled(model, 102, one, cfg_scale=1.0, **greedy),
        "sampled": sampled(model, 102, one, cfg_scale=2.0, **nucleus),
        "sampled_all": sampled(model, 102, one, cfg_scale=4.0),
    }


def llamagen_t2i():
    """Three captions, of 6, 3 and 3 slots of 6, left-padded."""
    slots = 6
    model = llamagen(model_type="t2i", caption_dim=16, cls_token_num=slots, block_size=16)
    randomise(model, 110)
    null = torch.randn(slots, 16, generator=random(117)).half().float()
    model.cls_embedding.uncond_embedding = null  # the published one has 120 slots
    generator = random(111)
    text = torch.randn(3, slots, 16, generator=generator)
    tokens = torch.randint(CODES, (3, 16), generator=generator)
    valid = torch.arange(slots) >= torch.tensor([[0], [3], [3]])
    text = text * valid.unsqueeze(-1)
    positions = torch.arange(slots + 15)
    mask = torch.ones(3, 1, slots + 15, slots + 15, dtype=torch.bool).tril()
    mask[..., :slots] &= valid[:, None, None]
    mask |= torch.eye(slots + 15, dtype=torch.bool)  # a padded slot attends to itself
    logits = model(tokens[:, :-1], text, input_pos=positions, mask=mask)[0]
    return model, {
        "text": text,
        "valid": valid,
        "tokens": tokens,
        "logits": logits[:, slots - 1 :],
        "greedy": sampled(model, 112, text, valid, cfg_scale=3.0, sample_logits=False),
        "sampled": sampled(model, 112, text, valid, cfg_scale=7.5, top_k=50),
    }


def vq16():
    reference = import_module("tokenizer.tokenizer_image.vq_model")
    model = reference.VQModel(reference.ModelArgs(codebook_size=CODES, z_channels=16))
    model.encoder = reference.Encoder(z_channels=16, **CHANNELS)
    model.decoder = reference.Decoder(z_channels=16, **CHANNELS)
    randomise(model, 120)
    images = random_images(8, 121)
    tokens = model.encode(images)[2][2].view(2, 16)
    decoded = model.decode_code(tokens.flatten(), (2, 8, 4, 4)).clamp(-1, 1)  # as it is shown
    return model, {"images": images, "tokens": tokens, "decoded": decoded}


def var_tokenizer():
    vae = import_module("models.basic_vae")
    model = import_module("models.vqvae").VQVAE(CODES, 8, 32, v_patch_nums=SCALES)
    model.encoder = vae.Encoder(z_channels=8, **CHANNELS)
    model.decoder = vae.Decoder(z_channels=8, **CHANNELS)
    randomise(model, 130, **{"quantize.embedding.weight": 1.0})
    images = random_images(12, 133)
    by_scale = model.img_to_idxBl(images)
    return model, {
        "images": images,
        "tokens": torch.cat(by_scale, dim=1),
        "inputs": model.quantize.idxBl_to_var_input(by_scale),
        "decoded": model.idxBl_to_img(by_scale, same_shape=True, last_one=True),
    }


def var():
    """Logits of a class and of the null class; tokens and images of classes 1 and 2."""
    tokenizer, data = var_tokenizer()
    model = import_module("models.var").VAR(
        tokenizer,
        CLASSES,
        depth=LAYERS,
        embed_dim=WIDTH,
        num_heads=HEADS,
        attn_l2_norm=True,
        patch_nums=SCALES,
        cond_drop_rate=0.0,
    )
    randomise(model, 131)
    for block, scales in zip(model.blocks, HEAD_SCALES, strict=True):
        block.attn.scale_mul_1H11.copy_(torch.tensor(scales).view(1, HEADS, 1, 1))
    labels = torch.tensor([1, CLASSES])
    out = {name: data[name] for name in ("tokens", "inputs")}
    out |= {"labels": labels, "logits": model(labels, data["inputs"])}
    samplings = {
        "greedy": {"cfg": 1.5, "top_k": 1},
        "sampled": {"cfg": 1.5, "top_k": 50, "top_p": 0.96},
        "sampled_all": {"cfg": 4.0},
    }
    drawn = []
    tokenizer.quantize.embedding.register_forward_hook(lambda _, inputs, __: drawn.append(*inputs))
    for name, sampling in samplings.items():
        drawn.clear()
        image = model.autoregressive_infer_cfg(2, torch.tensor([1, 2]), g_seed=135, **sampling)
        out |= {name: torch.cat(drawn, dim=1), f"{name}_image": image}
    return model, out


FILES = {
    "llamagen-c2i": (llamagen_c2i, LLAMAGEN),
    "llamagen-t2i": (llamagen_t2i, LLAMAGEN),
    "vq16": (vq16, LLAMAGEN),
    "var-tokenizer": (var_tokenizer, VAR),
    "var": (var, VAR),
}


def stored(model: nn.Module, data: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = {
        f"weights/{name}": value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    return weights | {f"data/{name}": value.contiguous() for name, value in data.items()}


def difference(here: dict[str, Tensor], made: dict[str, Tensor]) -> str:
    """A sentence on what differs; empty if nothing does."""
    if here.keys() != made.keys():
        return f"other tensors: {', '.join(sorted(here.keys() ^ made.keys()))}"
    wrong = [
        f"{name} by {(here[name].float() - made[name].float()).abs().max():.2g}"
        for name in made
        if not torch.equal(here[name], made[name])
    ]
    return ", ".join(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llamagen", type=Path, required=True, help="a checkout of LlamaGen")
    parser.add_argument("--var", type=Path, required=True, help="a checkout of VAR")
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    arguments = parser.parse_args()
    sys.path[:0] = [str(arguments.llamagen), str(arguments.var)]
    failed = False
    for name, (make, reference) in FILES.items():
        with torch.no_grad():
            tensors = stored(*make())
        file = HERE / f"{name}.safetensors"
        if arguments.check:
            wrong = difference(load_file(file), tensors)
            failed |= bool(wrong)
            print(f"{file.name}: {wrong or 'the same to the last bit'}")
        else:
            save_file(tensors, file, {"reference": reference})
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
