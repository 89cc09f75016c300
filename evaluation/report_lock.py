"""One evaluation at a time writes a report: who comes second hears so before it has done any work."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from evaluation.running import place
from groundscore.errors import UserError
from utils.file_locks import open_locked


@contextmanager
def lock_report(report: Path) -> Iterator[None]:
    """Inside the `with` block no other evaluation writes the report; `UserError` on all processes if one does."""
    rank, world = place()
    lock, problem = None, [None]
    if rank == 0:
        try:
            lock = open_locked(report.with_name(f".{report.name}.lock"))
        except OSError as error:
            problem = [f"{report.parent} cannot be written ({error.strerror}); --output FILE.json names another place"]
        else:
            if lock is None:
                problem = [f"another evaluation is writing {report}; wait for its end, or give this one a --name"]
    if world > 1:
        torch.distributed.broadcast_object_list(problem, src=0)
    if problem[0] is not None:
        raise UserError(problem[0])
    try:
        yield
    finally:
        if lock is not None:
            Path(lock.name).unlink(missing_ok=True)
            lock.close()
