"""What `--cache_features` saves: two epochs over as many images as ReasonSeg has for training.

    python -m benchmarks.features                          239 random images, the bench model
    python -m benchmarks.features --images 24 --size tiny

An epoch is a forward and backward pass for every image, two at a time. The features of the second come from disk.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import benchmark_parser
from groundscore.errors import run_main
from groundscore.progress import ProgressBar

REASONSEG_TRAIN = 239


@dataclass(frozen=True)
class Epoch:
    """CPU seconds and seconds of an epoch, images that went through the encoders, and size of the directory in MB."""

    cpu_seconds: float
    seconds: float
    encoded: int
    megabytes: float


def main(argv: Sequence[str]) -> None:
    """Prints a line per epoch."""
    parser = benchmark_parser("features", __doc__)
    parser.add_argument("--images", "--pictures", type=int, default=REASONSEG_TRAIN, metavar="N", help="(default: 239)")
    parser.add_argument("--size", choices=("tiny", "bench"), default="bench")
    parser.add_argument("--conversations", type=int, default=1, metavar="N", help="conversations about each image")
    flags = parser.parse_args(argv)
    print("|epoch|s|CPU s|images encoded|MB on disk|\n|---|---|---|---|---|")
    for number, epoch in enumerate(two_epochs(flags.size, flags.images, flags.conversations), start=1):
        print(
            f"|{number}|{epoch.seconds:.1f}|{epoch.cpu_seconds:.1f}|{epoch.encoded}|{epoch.megabytes:.1f}|", flush=True
        )


def two_epochs(size: str, total: int, conversations: int) -> Iterator[Epoch]:
    """Train on the same random images twice, from an empty cache."""
    from benchmarks.bench_model import SIZES, bench_batch, bench_model
    from model.feature_cache import FeatureCache

    shape = replace(SIZES[size], images=2, conversations=conversations)
    model = bench_model(shape)
    with tempfile.TemporaryDirectory(prefix="uground_features_") as folder:
        model.cache_features(FeatureCache(folder, 10**12))
        encoded = []
        model.decoder.encoder.register_forward_pre_hook(lambda module, inputs: encoded.append(len(inputs[0])))
        for _ in range(2):
            encoded.clear()
            bar = ProgressBar("images")
            wall, cpu = time.perf_counter(), time.process_time()
            for first in range(0, total, shape.images):
                images = min(shape.images, total - first)
                batch = bench_batch(replace(shape, images=images), seed=first)
                batch.image_keys = [f"{number:032x}" for number in range(first, first + images)]
                model.zero_grad()
                model(batch).loss.backward()
                bar.show(first + images, total)
            size_on_disk = sum(path.stat().st_size for path in Path(folder).rglob("*.features"))
            yield Epoch(time.process_time() - cpu, time.perf_counter() - wall, sum(encoded), size_on_disk / 1e6)


if __name__ == "__main__":
    run_main(main)
