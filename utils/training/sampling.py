"""Which item of the data comes when: a counter, so that a position in training is one number.

Sample n of a run is the same whatever the number of processes or workers: process r of W takes n = r, r + W, …
"""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class CounterSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, item) of samples start + rank, start + rank + world_size, … below `stop`.

    Samples are counted over the whole run; an epoch has `per_epoch` of them.
    """

    def __init__(self, *, start: int, stop: int, per_epoch: int, rank: int, world_size: int):
        self.samples = range(start + rank, stop, world_size)
        self.per_epoch = per_epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return (divmod(sample, self.per_epoch) for sample in self.samples)

    def __len__(self) -> int:
        return len(self.samples)


def one_thread_per_worker(worker_id: int) -> None:
    """Workers share the machine's cores with each other and with training."""
    torch.set_num_threads(1)
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(0)
