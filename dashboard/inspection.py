"""The check of the data folder, once per dashboard and in the background: which sets are there, what is wrong."""

import logging
import threading
from pathlib import Path

from dataloaders.data_checks import SetReport, check_data
from groundscore.errors import UserError

log = logging.getLogger(__name__)


class Inspection:
    """Reports on all sets below `root`, as they come.

    reports: those that are done; finished: whether all are; problem: why none will come, as a sentence.
    """

    def __init__(self, root: Path):
        self.root = root
        self.reports: list[SetReport] = []
        self.finished = False
        self.problem: str | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin, unless it has begun."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="inspection", daemon=True)
                self._thread.start()

    def trainable_sets(self) -> list[str]:
        """ "family/name" of every set that samples can be drawn from, in the families' order."""
        return [
            f"{report.family}/{report.name}"
            for report in self.reports
            if report.state == "present" and "train" in report.counts
        ]

    def _run(self) -> None:
        try:
            if not self.root.is_dir():
                raise UserError(f"There is no folder {self.root}; --dataset_dir names another one.")
            for report in check_data(self.root):
                self.reports.append(report)
        except UserError as error:
            self.problem = str(error)
        except Exception:
            log.exception("the check of %s failed", self.root)
            self.problem = "The data could not be checked; the program's log says why."
        finally:
            self.finished = True
