"""Whether data keeps up with training: samples a second of training's own loader, at the sizes of the 7B model.

    python -m benchmarks.loader --dataset_dir dataset/miniature_all
    python -m benchmarks.loader --synthetic 100000         a generated set of COCO's size, 640 × 480 as there
    python -m benchmarks.loader --megapixels 12            photographs of 12 megapixels, three masks each

The mixture of all families is drawn, decoded, resized and collated by the worker processes of `train_ds.py`, and
nothing else happens. The last column compares with what a GPU's training step takes (--needed).
CPU seconds a sample are those of the workers; they suffer less from neighbours than samples a second do.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import benchmark_parser
from benchmarks.synthetic import PHOTOS, add_source_flags, data_root, write_photos
from groundscore.errors import UserError, run_main

PREFETCHED = 2  # micro-batches that `DataLoader` reads ahead for every worker


@dataclass(frozen=True)
class Rate:
    """What the loader gives: samples a second, and the CPU seconds of its workers for each of them."""

    samples_per_second: float
    cpu_seconds: float


def main(argv: Sequence[str]) -> None:
    """Prints a line per number of workers."""
    parser = benchmark_parser("loader", __doc__)
    parser.usage = "%(prog)s SOURCE [OPTION ...]"  # the sources in one pair of brackets do not fit 80 columns
    source = add_source_flags(parser)
    parser.add_argument(
        "--fast_decode",
        type=int,
        default=0,
        metavar="SIDE",
        help="as of train_ds.py (default: off)",
    )
    source.add_argument("--megapixels", type=float, metavar="N", help="generate four photographs of this size")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], metavar="N", help="processes (default: 1 2)")
    parser.add_argument("--batch_size", type=int, default=2, metavar="N", help="samples of a micro-batch (default: 2)")
    parser.add_argument("--samples", type=int, default=400, metavar="N", help="how many are drawn (default: 400)")
    parser.add_argument("--families", metavar="NAMES", help="joined by || (default: all eight)")
    parser.add_argument("--tokenizer", type=Path, default=Path("miniature/weights/llava"), metavar="DIR")
    parser.add_argument(
        "--needed",
        type=float,
        default=11.0,
        metavar="RATE",
        help="samples a second of one GPU's training (default: 11, which benchmarks.scale predicts for an H100)",
    )
    flags = parser.parse_args(argv)
    if min(flags.workers) < 1:
        raise UserError(f"--workers {min(flags.workers)}: at least 1; without workers training itself reads")

    from benchmarks.measuring import in_a_new_process

    with _data(flags) as (root, families):
        print("|workers|samples/s|CPU ms a sample|times what a GPU needs|\n|---|---|---|---|", flush=True)
        for workers in flags.workers:
            arguments = (root, families, workers, flags.batch_size, flags.samples, flags.tokenizer, flags.fast_decode)
            rate = in_a_new_process(loader_rate, *arguments)
            print(
                f"|{workers}|{rate.samples_per_second:.1f}|{1000 * rate.cpu_seconds:.0f}"
                f"|{rate.samples_per_second / flags.needed:.1f}|",
                flush=True,
            )


@contextmanager
def _data(flags: argparse.Namespace) -> Iterator[tuple[Path, str | None]]:
    """The data root and the families that the flags ask for."""
    if flags.megapixels is None:
        with data_root(flags) as root:
            yield root, flags.families
        return
    with tempfile.TemporaryDirectory(prefix="uground_photos_") as folder:
        write_photos(Path(folder), flags.megapixels)
        yield Path(folder), "custom"


def loader_rate(
    root: Path,
    families: str | None,
    workers: int,
    batch_size: int,
    samples: int,
    tokenizer: Path,
    fast_decode: int = 0,
) -> Rate:
    """Draw `samples` of the mixture of `families` (None: all) as fast as the workers give them."""
    import torch

    from benchmarks.data import collator
    from checkpoints.runs import Position
    from dataloaders.mixture import build_mixture
    from dataloaders.settings import ALL_FAMILIES
    from training.data import build_batches
    from training.loop import Schedule
    from utils.distributed import World

    torch.set_num_threads(1)
    names = families or ALL_FAMILIES
    rates = [1.0] * len(names.split("||"))
    chosen = {"dataset": names, "sample_rates": rates, "custom_data": PHOTOS, "fast_decode": fast_decode}
    mixture = build_mixture(root, samples_per_epoch=samples, **chosen)
    steps = samples // batch_size
    ahead = PREFETCHED * workers  # ready before the clock starts
    if steps <= ahead:
        raise UserError(f"--samples {samples}: more than {ahead * batch_size} are needed with {workers} workers")
    schedule = Schedule(epochs=1, steps_per_epoch=steps, accumulation=1, batch_size=batch_size, world_size=1)
    world = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
    batches = build_batches(mixture, collator(tokenizer), schedule, Position(0, 0, 1), world, workers)
    for number, _ in enumerate(batches, start=1):
        if number == ahead:
            began = time.perf_counter()
    seconds = time.perf_counter() - began
    del batches, _  # ends the workers, whose time is counted then
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Rate((steps - ahead) * batch_size / seconds, (used.ru_utime + used.ru_stime) / (steps * batch_size))


if __name__ == "__main__":
    run_main(main)
