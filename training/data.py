"""The training data: the mixture of families, and which item of it comes when.

The order is a counter, so that a position in training is one number. Sample n of a run is the same whatever the number
of ranks or workers. Micro-batch m holds the samples m B … m B + B - 1, and rank r of W takes the micro-batches r,
r + W, …: W ranks see in a step the very micro-batches that one rank sees in W times as many accumulations.
"""

import contextlib
import ctypes
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from checkpoints.runs import Position
from dataloaders.batching.collate import Collator, Processor
from dataloaders.mixture import Mixture, build_mixture
from dataloaders.settings import declared_data
from training.config import TrainingConfig
from training.loop import Schedule
from training.stopping import WorkersEnd
from utils.distributed import World
from utils.settings import settings_of

PREFETCHED = 2  # micro-batches that a worker reads ahead
MEGAPIXEL = 10**6


def build_data(config: TrainingConfig, schedule: Schedule) -> Mixture:
    """The mixture of families that the flags describe."""
    return build_mixture(
        config.dataset_dir,
        **{name: getattr(config, name) for name in settings_of(*declared_data())},
        seed=config.seed,
        samples_per_epoch=schedule.samples_per_epoch,
        bad_samples_file=None if config.dry_run else config.bad_samples_file,
    )


def worker_count(workers: int | None, device: torch.device) -> int:
    """Data-loading processes per rank: as asked for, or 4 on a GPU and 1 on a CPU."""
    return workers if workers is not None else (4 if device.type == "cuda" else 1)


def expected_batch_bytes(config: TrainingConfig, processor: Processor) -> int:
    """Bytes of a micro-batch: the images, and masks of a megapixel for the expressions drawn for each of them."""
    image = np.zeros((1000, 1000, 3), dtype=np.uint8)
    preparations = filter(None, (processor.backbone_images, processor.decoder_images))
    masks = MEGAPIXEL * config.num_classes_per_sample
    return config.batch_size * (sum(prepare(image)[0].nbytes for prepare in preparations) + masks)


def build_batches(
    mixture: Mixture, collator: Collator, schedule: Schedule, start: Position, world: World, workers: int
) -> DataLoader:
    """The micro-batches of this process from `start` to the end of training, read ahead by `workers` processes."""
    sampler = CounterSampler(
        start=start.samples,
        stop=schedule.total_samples,
        per_epoch=schedule.samples_per_epoch,
        batch_size=schedule.batch_size,
        rank=world.rank,
        world_size=world.size,
    )
    return DataLoader(
        mixture,
        batch_sampler=sampler,
        collate_fn=collator,
        num_workers=workers,
        prefetch_factor=PREFETCHED if workers else None,
        pin_memory=world.device.type == "cuda",
        persistent_workers=workers > 0,
        worker_init_fn=partial(prepare_worker, end=WorkersEnd()),
        generator=torch.Generator(),  # otherwise the loader draws from the generator that training restores
    )


class CounterSampler(Sampler[list[tuple[int, int]]]):
    """Yields the micro-batches of process `rank`, each a list of (epoch, item), for samples `start` to `stop`.

    Samples are counted over the whole run; an epoch has `per_epoch` of them.
    """

    def __init__(self, *, start: int, stop: int, per_epoch: int, batch_size: int, rank: int, world_size: int):
        self.firsts = range(start + rank * batch_size, stop, world_size * batch_size)
        self.per_epoch = per_epoch
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for first in self.firsts:
            yield [divmod(sample, self.per_epoch) for sample in range(first, first + self.batch_size)]

    def __len__(self) -> int:
        return len(self.firsts)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_large_blocks() -> None:
    """Has this process keep the memory of large arrays that it frees, for the next ones of that size.

    glibc gives it back to the system, which clears every page of the next image again: of 12 megapixels, with its masks
    and what they are resized from, that takes as long as everything else. Elsewhere nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def prepare_worker(worker_id: int, end: WorkersEnd | None = None) -> None:
    """Workers share the machine's cores with each other and with training; `end` decides when they may end."""
    if end is not None:
        end.protect()
    torch.set_num_threads(1)
    keep_large_blocks()
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(0)
