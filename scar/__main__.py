"""python -m scar edit | generate | convert | bench"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ValueError, OSError) as error:
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
        help="where the image may change: as the model foresees, everywhere, or an image, white "
        "where it may (default: auto)",
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
    bench.add_argument("what", choices=("check", "decode", "edit", "maps", "train", "ui"))
    bench.add_argument("--preset", help="of decode (several without it), edit and ui")
    bench.add_argument("--device", default="cpu")
    bench.add_argument("--repeat", type=int, default=3)
    bench.set_defaults(run=_bench)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG to write")
    parser.add_argument("--model", default="embedded", help="embedded, a folder, or a Hub id")
    parser.add_argument("--paradigm", default="next-token", choices=("next-token", "next-set"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)


def _edit(arguments: argparse.Namespace) -> int:
    from scar.images import open_image

    image = open_image(arguments.image)
    region = {"auto": "auto", "none": None}.get(arguments.region, arguments.region)
    if region not in ("auto", None):
        region = open_image(region).convert("L")
    pipe = _pipeline(arguments)
    return _run(
        pipe.stream_edit(image, arguments.instruction, region=region, **_options(arguments)),
        arguments,
    )


def _generate(arguments: argparse.Namespace) -> int:
    from scar.images import open_image

    control_map = open_image(arguments.map)
    prompt = int(arguments.prompt) if arguments.prompt.isdecimal() else arguments.prompt
    return _run(
        _pipeline(arguments).stream_generate(control_map, prompt, **_options(arguments)), arguments
    )


def _pipeline(arguments: argparse.Namespace):
    from scar import ScarPipeline

    return ScarPipeline.from_pretrained(
        arguments.model, paradigm=arguments.paradigm, device=arguments.device
    )


def _options(arguments: argparse.Namespace) -> dict:
    names = ("seed", "guidance", "temperature", "top_k", "top_p")
    return {name: getattr(arguments, name) for name in names}


def _run(outputs, arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    bar = tqdm(unit="step", leave=False)
    for out in outputs:
        bar.total = out.total
        bar.update(out.step - bar.n)
    bar.close()
    out.image.save(arguments.output, format="PNG")
    print(
        f"{arguments.output}: {out.drawn} of {out.tokens} tokens drawn in {out.seconds:.2f} s, "
        f"seed {out.seed}"
    )
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from scar.convert import convert
    from scar.hub import published_file

    file = published_file(arguments.file, arguments.sha256)
    convert(arguments.kind, file, arguments.preset, arguments.to, weights=arguments.weights)
    print(f"{arguments.to}: converted {file.name}")
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from scar import bench, bench_check, bench_decode, bench_train

    device, repeat = arguments.device, arguments.repeat
    preset = arguments.preset or "toy-next-token"
    presets = (arguments.preset,) if arguments.preset else ()
    runs = {
        "check": partial(bench_check.check, device),
        "decode": partial(bench_decode.decode, presets, device, repeat),
        "edit": partial(bench.edit, preset, device, repeat),
        "maps": partial(bench.maps, repeat),
        "train": partial(bench_train.train, device, repeat),
        "ui": partial(bench.ui, preset, device, repeat),
    }
    return 1 if runs[arguments.what]() is False else 0


if __name__ == "__main__":
    sys.exit(main())
