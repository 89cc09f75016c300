"""What the data costs: seconds to start, samples a second, memory. Prints a table.

    python -m benchmarks.data --dataset_dir dataset/miniature_all
    python -m benchmarks.data --synthetic 100000        a generated set with the annotations of so many images

For each family: how long it takes to start for the first time (annotation files are parsed) and again (their index is
opened), the most memory that each start took beyond what the program itself takes, how many samples a second one worker
process draws and collates at the sizes of the 7B model, and what memory the worker had in the end beyond that of the
program: its own and what it inherited. Mapped files, which all processes share, do not count in it.
The index goes to a temporary folder; the data folder is not written to.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import benchmark_parser
from benchmarks.measuring import MEGABYTE, anonymous_memory_mb, in_a_new_process, peak_memory_mb, reset_peak_memory
from benchmarks.synthetic import add_source_flags, data_root
from groundscore.errors import UserError, run_main

if TYPE_CHECKING:
    from dataloaders.batching.collate import Collator
    from dataloaders.mixture import Mixture

FULL = "all"
SAM_SIZE, CLIP_SIZE, IMAGE_GRID = 1024, 336, (24, 24)


@dataclass
class Start:
    """seconds to build the mixture, cpu_seconds of all its processes, and the most memory that one of them took
    meanwhile, in MB."""

    seconds: float
    cpu_seconds: float
    megabytes: float


@dataclass
class Work:
    """What one worker process does: samples per second, and the memory that it needs beyond the program's, in MB."""

    samples_per_second: float
    megabytes: float


@dataclass
class Cost:
    """First start, later start, and the work of one worker process."""

    first: Start
    again: Start
    work: Work


def main(argv: Sequence[str]) -> None:
    """Prints a line per family."""
    parser = benchmark_parser("data", __doc__)
    add_source_flags(parser)
    parser.add_argument("--draws", type=int, default=100, metavar="N", help="samples per family (default: 100)")
    parser.add_argument("--families", metavar="NAMES", help="joined by || (default: all eight, and their mixture)")
    parser.add_argument("--tokenizer", type=Path, default=Path("miniature/weights/llava"), metavar="DIR")
    flags = parser.parse_args(argv)
    with data_root(flags) as root:
        _report(root, flags)


def _report(root: Path, flags: argparse.Namespace) -> None:
    from dataloaders.settings import ALL_FAMILIES
    from groundscore.names import split_names

    names = split_names(flags.families or ALL_FAMILIES)
    print(
        "|family|first start s|CPU s|MB|again s|MB|samples/s per worker|worker MB|\n|---|---|---|---|---|---|---|---|"
    )
    for name in [*names, FULL] if flags.families is None else names:
        try:
            cost = measure(root, name, draws=flags.draws, tokenizer=flags.tokenizer)
        except UserError as error:
            print(f"|{name}|{error}|", flush=True)
            continue
        first, again, work = cost.first, cost.again, cost.work
        print(
            f"|{name}|{first.seconds:.2f}|{first.cpu_seconds:.2f}|{first.megabytes:.0f}|{again.seconds:.2f}|{again.megabytes:.0f}"
            f"|{work.samples_per_second:.1f}|{work.megabytes:.0f}|",
            flush=True,
        )


def measure(root: Path, family: str, *, draws: int, tokenizer: Path | None) -> Cost:
    """What a family costs, or all of them. tokenizer: None draws without collating."""
    with tempfile.TemporaryDirectory(prefix="uground_index_") as cache:
        first, _ = in_a_new_process(_start, root, family, cache, 0, None)
        again, work = in_a_new_process(_start, root, family, cache, draws, tokenizer)
    return Cost(first, again, work)


def _start(root: Path, family: str, cache: str, draws: int, tokenizer: Path | None) -> tuple[Start, Work | None]:
    """Build the mixture as training does; then let a worker process draw from it."""
    import torch

    from dataloaders.mixture import build_mixture
    from dataloaders.settings import ALL_FAMILIES
    from groundscore.annotations.index_cache import ENVIRONMENT

    os.environ[ENVIRONMENT] = cache
    torch.set_num_threads(1)
    anonymous = anonymous_memory_mb()
    before = reset_peak_memory()
    began, used = time.monotonic(), _cpu_seconds()
    names = ALL_FAMILIES if family == FULL else family
    rates = [1.0] * len(names.split("||"))
    mixture = build_mixture(root, dataset=names, sample_rates=rates, samples_per_epoch=max(draws, 1))
    highest = max(peak_memory_mb(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / MEGABYTE)
    start = Start(time.monotonic() - began, _cpu_seconds() - used, highest - before)
    if not draws:
        return start, None
    context = multiprocessing.get_context("fork")  # as the loader's workers on Linux
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(mixture, draws, tokenizer, sender))
    worker.start()
    sender.close()  # else the end of the worker would not be the end of what it sends
    try:
        result = receiver.recv()
    except EOFError as error:
        worker.join()
        raise UserError(f"{family}: the worker died (exit code {worker.exitcode}); is there enough memory?") from error
    worker.join()
    if isinstance(result, Exception):
        raise result
    result.megabytes -= anonymous
    return start, result


def _cpu_seconds() -> float:
    """CPU seconds of this process and of those that it started and that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _work(mixture: "Mixture", draws: int, tokenizer: Path | None, sender: Connection) -> None:
    """In the worker: draw and collate, one sample a batch."""
    from training.data import prepare_worker

    prepare_worker(0)
    try:
        collate = collator(tokenizer) if tokenizer else lambda samples: samples
        collate([mixture[0]])  # what is opened and loaded once does not count
        began = time.monotonic()
        for item in range(draws):
            collate([mixture[item]])
        seconds = time.monotonic() - began
        sender.send(Work(draws / seconds, anonymous_memory_mb()))
    except Exception as error:
        sender.send(error)


def collator(tokenizer: Path) -> "Collator":
    """Makes batches as for the 7B model, with the tokenizer of that directory."""
    from dataloaders.batching.collate import Collator, Processor
    from dataloaders.batching.tokenization import GroundingTokenizer
    from model.backbones.llava import LlavaPreparation
    from model.decoders.sam import SamPreparation

    loaded = GroundingTokenizer.from_directory(tokenizer)
    loaded.add_grounding_tokens(1)
    return Collator(Processor(loaded, LlavaPreparation(CLIP_SIZE, IMAGE_GRID, True), SamPreparation(SAM_SIZE)))


if __name__ == "__main__":
    run_main(main)
