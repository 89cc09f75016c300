"""What to do about bad entries: stop at the first (the default), or leave out a few and write down which.

An entry is bad where reading it raises `UserError`. Those that are found when annotation files are indexed and those
that are found when a sample is drawn are counted apart.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from utils.errors import UserError

FIRST_DRAWS = 100  # a share of fewer draws than this says little


class BadSamples:
    """Skips and records bad entries until their share exceeds `share`.

    path: a JSON line is added to this file for every bad entry, once per process.

    One bad draw is let pass whatever the share; from then on the run stops when more than `share` of all draws (of the
    first hundred, until there are more) were bad. Counts are shared with worker processes.
    """

    def __init__(self, share: float, path: str | Path = "bad_samples.jsonl"):
        if not 0 <= share < 1:
            raise UserError(f"--skip_bad_samples is a share from 0 up to 1, not {share}")
        self.share = share
        self.path = Path(path)
        self._written: set[str] = set()
        self._draws = torch.zeros((), dtype=torch.int64).share_memory_()
        self._bad = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def skipped(self) -> int:
        """Bad draws so far, in all worker processes together."""
        return int(self._bad)

    def count_draw(self) -> None:
        self._draws += 1

    def skip_draw(self, source: str, error: UserError) -> None:
        """Record a draw that failed; raises where there were too many."""
        self._write(source, str(error))
        self._draws += 1
        self._bad += 1
        bad, draws = int(self._bad), int(self._draws)
        if bad > max(1, self.share * max(draws, FIRST_DRAWS)):
            raise UserError(
                f"{bad} of {draws} draws were bad, more than --skip_bad_samples {self.share} allows; they are listed "
                f"in {self.path}. The last one: {error}"
            ) from error

    def skip_entries(self, source: str, problems: Sequence[str], good: int) -> None:
        """Record what is wrong in an annotation file that has `good` good entries; raises where it is too much."""
        for problem in problems:
            self._write(source, problem)
        total = good + len(problems)
        if len(problems) > self.share * total:
            raise UserError(
                f"{source}: {len(problems)} of {total} entries are bad, more than --skip_bad_samples {self.share} "
                f"allows; they are listed in {self.path}. The first one: {problems[0]}"
            )

    def _write(self, source: str, problem: str) -> None:
        if problem in self._written:
            return
        self._written.add(problem)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"source": source, "problem": problem}, ensure_ascii=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def settle(source: str, problems: Sequence[str], good: int, bad_samples: BadSamples | None) -> None:
    """Stop at the first problem of an annotation file, or leave it to `bad_samples`."""
    if not problems:
        return
    if bad_samples is not None and bad_samples.share > 0:
        bad_samples.skip_entries(source, problems, good)
        return
    more = f" ({len(problems) - 1} more entries there are bad)" if len(problems) > 1 else ""
    raise UserError(f"{problems[0]}{more}")
