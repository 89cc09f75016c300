"""Which item of the data comes when: a counter, so that a position in training is one number.

Sample n of a run is the same whatever the number of processes or workers. Micro-batch m holds the samples m B …
m B + B - 1, and process r of W takes the micro-batches r, r + W, …: W processes see in a step the very micro-batches
that one process sees in W times as many accumulations.
"""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from training.stopping import WorkersEnd


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


def prepare_worker(worker_id: int, end: WorkersEnd | None = None) -> None:
    """Workers share the machine's cores with each other and with training; `end` decides when they may end."""
    if end is not None:
        end.protect()
    torch.set_num_threads(1)
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(0)
