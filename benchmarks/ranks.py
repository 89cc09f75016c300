"""What many ranks ask of a shared disk when they start, simulated: each is a process of this machine.

    python -m benchmarks.ranks --dataset_dir dataset/miniature_all --ranks 64

Every rank opens the mixture of all families, as training does, and draws its first micro-batch; --together of them run
at a time. The first start finds no index, the second finds all. Counted are a rank's metadata operations (opening,
listing, making and renaming files, and asking for their state) and the index files that all ranks wrote. What a network
and its file server take for them is not simulated. The index goes to a temporary folder; the data folder is not written
to.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from benchmarks import benchmark_parser
from benchmarks.synthetic import add_source_flags, data_root
from groundscore.errors import UserError, run_main

OPERATIONS = ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove")  # Python's audit events
BATCH_SIZE, STEPS = 2, 100  # of every rank


@dataclass(frozen=True)
class Started:
    """What a rank did until it had its first micro-batch: operations by kind, CPU seconds, and the samples
    (epoch, item) of the micro-batch."""

    operations: dict[str, int]
    cpu_seconds: float
    samples: list[tuple[int, int]]


def main(argv: Sequence[str]) -> None:
    """Prints a line per start."""
    parser = benchmark_parser("ranks", __doc__)
    add_source_flags(parser)
    parser.add_argument("--ranks", type=int, default=64, metavar="N", help="how many there are (default: 64)")
    parser.add_argument("--together", type=int, default=8, metavar="N", help="how many run at a time (default: 8)")
    parser.add_argument("--families", metavar="NAMES", help="joined by || (default: all eight)")
    flags = parser.parse_args(argv)
    if min(flags.ranks, flags.together) < 1:
        raise UserError("--ranks and --together: at least 1")
    with data_root(flags) as root, tempfile.TemporaryDirectory(prefix="uground_index_") as cache:
        print(
            f"|start of {flags.ranks} ranks|operations a rank|of all|index files written|CPU s a rank|\n{'|---' * 5}|"
        )
        for start in ("first", "again"):
            ranks, written = start_ranks(root, flags.families, Path(cache), ranks=flags.ranks, together=flags.together)
            operations = [sum(rank.operations.values()) for rank in ranks]
            seconds = statistics.median(rank.cpu_seconds for rank in ranks)
            print(
                f"|{start}|{statistics.median(operations):.0f}|{sum(operations)}|{written}|{seconds:.2f}|", flush=True
            )


def start_ranks(
    root: Path, families: str | None, cache: Path, *, ranks: int, together: int
) -> tuple[list[Started], int]:
    """Start every rank once, in a process of its own. cache: where their indices lie.

    Returns what each did, and how many index files they and their helpers wrote together.
    """
    import training.data  # noqa: F401 (once, before the processes are forked)

    context = multiprocessing.get_context("fork")
    started: list[Started] = []
    written = context.Value("i")
    for first in range(0, ranks, together):
        wave = []
        for rank in range(first, min(first + together, ranks)):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_report, args=(sender, written, root, families, cache, rank, ranks))
            process.start()
            sender.close()
            wave.append((rank, process, receiver))
        for rank, process, receiver in wave:
            try:
                started.append(receiver.recv())
            except EOFError as error:
                raise UserError(f"rank {rank} could not start; what it says stands above") from error
            finally:
                process.join()
    return started, written.value


def _report(sender: Connection, written: Synchronized, *arguments) -> None:
    sender.send(_start(written, *arguments))


def _start(written: Synchronized, root: Path, families: str | None, cache: Path, rank: int, ranks: int) -> Started:
    from dataloaders.mixture import build_mixture
    from dataloaders.settings import ALL_FAMILIES
    from groundscore.annotations.index_cache import ENVIRONMENT
    from training.data import CounterSampler

    os.environ[ENVIRONMENT] = str(cache)
    names = families or ALL_FAMILIES
    rates = [1.0] * len(names.split("||"))
    total = ranks * BATCH_SIZE * STEPS
    counted = _count_operations(written)
    began = time.process_time()
    mixture = build_mixture(root, dataset=names, sample_rates=rates, samples_per_epoch=total)
    sampler = CounterSampler(start=0, stop=total, per_epoch=total, batch_size=BATCH_SIZE, rank=rank, world_size=ranks)
    samples = next(iter(sampler))
    for sample in samples:
        mixture[sample]
    return Started(dict(counted), time.process_time() - began, samples)


def _count_operations(written: Synchronized) -> Counter[str]:
    """Counts what this process does from here on; written: index files that it and its helpers name."""
    counted: Counter[str] = Counter()
    stat = os.stat

    def hook(event: str, arguments: tuple) -> None:
        if event in OPERATIONS:
            counted[event] += 1
            if event == "os.rename" and str(arguments[1]).endswith(".arrow"):
                with written:
                    written.value += 1

    def counted_stat(*arguments, **options):
        counted["os.stat"] += 1
        return stat(*arguments, **options)

    sys.addaudithook(hook)
    os.stat = counted_stat
    return counted


if __name__ == "__main__":
    run_main(main)
