"""python -m scar edit | generate | convert | bench"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from scar.command_line import add_sampling, sampling_options
from scar.config import MAX_SEED, check_seed, class_or_words
from scar.errors import ScarError


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except ScarError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scar", description="Edit and generate images with SCAR."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    edit = commands.add_parser("edit", help="change an image as a sentence says")
    edit.add_argument("image", type=Path)
    edit.add_argument("instruction")
    edit.add_argument(
        "--region",
        default="auto",
        metavar="auto|none|FILE",
        help="where the image may change: as the model predicts, everywhere, or an image, white "
        "or opaque where it may (default: auto)",
    )
    _add_model(edit)
    edit.set_defaults(run=_edit)

    generate = commands.add_parser("generate", help="make an image from a control map")
    generate.add_argument("map", type=Path)
    generate.add_argument("prompt", help="a caption, or the number of a class")
    _add_model(generate)
    generate.set_defaults(run=_generate)

    convert = commands.add_parser("convert", help="read published LlamaGen or VAR weights")
    kinds = ("llamagen", "vq16", "var", "var-tokenizer")
    convert.add_argument("--from", dest="kind", choices=kinds, required=True)
    convert.add_argument("file", help="a file, or one of the Hub: owner/name/file@commit")
    convert.add_argument("--sha256", default="", help="what the file has to hash to")
    convert.add_argument("--weights", choices=("ema", "model"), default="", help="if it holds both")
    convert.add_argument("--to", type=Path, required=True, help="checkpoint folder")
    convert.add_argument("--preset", required=True, help="for example llamagen-xl-t2i or var-d20")
    convert.set_defaults(run=_convert)

    bench = commands.add_parser("bench", help="measure speed and memory, as ratios in one run")
    bench.add_argument("what", choices=("check", "decode", "edit", "train", "ui"))
    bench.add_argument("--preset", help="of decode (several without it), edit and ui")
    bench.add_argument("--device", default="cpu")
    bench.add_argument("--repeat", type=int, default=3)
    bench.set_defaults(run=_bench)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="PNG, JPEG or WEBP to write"
    )
    parser.add_argument("--model", default="embedded", help="embedded, a folder, or a Hub id")
    parser.add_argument("--paradigm", default="next-token", choices=("next-token", "next-set"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, help=f"0 to {MAX_SEED}; default: any")
    add_sampling(parser)


def _edit(arguments: argparse.Namespace) -> int:
    from scar.images import open_image, open_mask

    _check(arguments)
    image = open_image(arguments.image)
    region = {"auto": "auto", "none": None}.get(arguments.region, arguments.region)
    if region not in ("auto", None):
        region = open_mask(region, image.size)
    pipe = _pipeline(arguments)
    return _run(
        pipe.stream_edit(image, arguments.instruction, region=region, **_options(arguments)),
        arguments,
    )


def _generate(arguments: argparse.Namespace) -> int:
    from scar.images import open_map

    _check(arguments)
    control_map = open_map(arguments.map)
    prompt = class_or_words(arguments.prompt)
    return _run(
        _pipeline(arguments).stream_generate(control_map, prompt, **_options(arguments)), arguments
    )


def _check(arguments: argparse.Namespace) -> None:
    """Check before anything is loaded what would otherwise fail after the run."""
    from scar.images import check_output

    check_output(arguments.output)
    sampling_options(arguments)
    if arguments.seed is not None:
        check_seed(arguments.seed)


def _pipeline(arguments: argparse.Namespace):
    from scar import ScarPipeline

    return ScarPipeline.from_pretrained(
        arguments.model, paradigm=arguments.paradigm, device=arguments.device
    )


def _options(arguments: argparse.Namespace) -> dict:
    return {"seed": arguments.seed, **sampling_options(arguments)}


def _run(outputs, arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from scar.images import save_image

    bar = tqdm(unit="step", leave=False)
    for out in outputs:
        bar.total = out.total
        bar.update(out.step - bar.n)
    bar.close()
    save_image(out.image, arguments.output)
    print(
        f"{arguments.output}: {out.drawn} of {out.tokens} tokens drawn in {out.seconds:.2f} s, "
        f"seed {out.seed}"
    )
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from scar.weights.convert import convert
    from scar.weights.hub import published_file

    file = published_file(arguments.file, arguments.sha256)
    convert(arguments.kind, file, arguments.preset, arguments.to, weights=arguments.weights)
    print(f"{arguments.to}: converted {file.name}")
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from scar.bench import check, decode, edit, train
    from scar.weights.checkpoint import usable_device

    device, repeat = str(usable_device(arguments.device)), arguments.repeat
    preset = arguments.preset or "toy-next-token"
    presets = (arguments.preset,) if arguments.preset else ()
    runs: dict[str, Callable[[], object]] = {
        "check": partial(check.check, device),
        "decode": partial(decode.decode, presets, device, repeat),
        "edit": partial(edit.edit, preset, device, repeat),
        "train": partial(train.train, device, repeat),
        "ui": partial(_bench_ui, preset, device, repeat),
    }
    return 1 if runs[arguments.what]() is False else 0


def _bench_ui(preset: str, device: str, repeat: int) -> None:
    from scar.errors import InputError

    try:
        from scar.studio.bench import ui
    except ModuleNotFoundError as error:  # the other benchmarks run without the studio's packages
        raise InputError(
            f"The studio needs the package {error.name}; install scar with the extra demo."
        ) from None
    ui(preset, device, repeat)


if __name__ == "__main__":
    sys.exit(main())
