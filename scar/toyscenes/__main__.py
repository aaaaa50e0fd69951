"""ToyScenes on the command line.

python -m scar.toyscenes --preview sheet.png      a labelled contact sheet
python -m scar.toyscenes --bench                  rendered pairs per second
python -m scar.toyscenes --examples assets/examples
"""

import argparse
import time
from pathlib import Path

from scar.toyscenes.dataset import ToyScenes
from scar.toyscenes.preview import contact_sheet, write_examples


def bench(size: int, pairs: int) -> tuple[float, float]:
    """Rendered pairs per second, and milliseconds of processor time for one."""
    scenes = ToyScenes(size=size)
    scenes.batch(range(64))
    start, used = time.perf_counter(), time.process_time()
    for first in range(0, pairs, 64):
        scenes.batch(range(first, first + 64))
    spent = time.perf_counter() - start, time.process_time() - used
    return pairs / spent[0], 1000 * spent[1] / pairs


def main() -> None:
    parser = argparse.ArgumentParser(description="ToyScenes: previews, speed and demo examples.")
    parser.add_argument("--preview", type=Path, help="write a labelled contact sheet to this PNG")
    parser.add_argument("--examples", type=Path, help="write the demo's example scenes here")
    parser.add_argument("--bench", action="store_true", help="print rendered pairs per second")
    arguments = parser.parse_args()
    if arguments.bench:
        for size, pairs in ((128, 512), (256, 256)):
            speed, used = bench(size, pairs)
            print(f"{size} px: {speed:.0f} pairs/s, {used:.1f} ms of processor time a pair")
    if arguments.preview or arguments.examples:
        if arguments.preview:
            contact_sheet().save(arguments.preview)
        if arguments.examples:
            write_examples(arguments.examples)


if __name__ == "__main__":
    main()
