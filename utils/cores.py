"""Do two processes compute faster than one here? `python -m utils.cores` prints how many to start, 1 or 2.

Two processors may be threads of one core, and a container may have less time than it shows processors: neither can be
read everywhere, so it is measured, in about a second.
"""

import os
import time
from collections.abc import Callable
from functools import partial

SECONDS = 0.2  # of a measurement
SIDE = 128  # of the matrices that are multiplied: as large as those of the miniature
GAIN = 1.5  # what two processes must do at least, where one does 1


def processes_that_pay(measure: Callable[[int], float]) -> int:
    """1, or 2 where two processes do at least `GAIN` times the work of one.

    measure(number of processes): the work that they do together in the same time.
    """
    measure(2)  # libraries are loaded and processors awake afterwards
    alone, together = (max(measure(number) for _ in range(2)) for number in (1, 2))
    return 2 if together >= GAIN * alone else 1


def products_until(end: float) -> int:
    """How many products of matrices this process makes until the time `end`, of `time.monotonic`."""
    import numpy as np

    matrix, count = np.full((SIDE, SIDE), 1 / SIDE, np.float32), 0
    while time.monotonic() < end:
        matrix = matrix @ matrix
        count += 1
    return count


def main() -> None:
    """Measure and print."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if allowed < 2:
        print(1)
        return
    from concurrent.futures import ProcessPoolExecutor

    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    with ProcessPoolExecutor(2) as pool:

        def measure(number: int) -> int:
            count = partial(products_until, time.monotonic() + SECONDS)
            return sum(future.result() for future in [pool.submit(count) for _ in range(number)])

        print(processes_that_pay(measure))


if __name__ == "__main__":
    main()
