"""How far an evaluation is: the scores so far, and the line that tells them and how long it will take."""

from collections.abc import Callable, Iterable

from evaluation.records import ImageResult
from groundscore.progress import ProgressBar
from groundscore.scoring import percent
from groundscore.scoring.counts import iou

Progress = Callable[[int, int, float | None, float | None], None]


class RunningScores:
    """Scores of the images done so far, for `progress` alone: those of earlier calls and of this process.

    total: how many images there are. progress: called with images done, `total`, and gIoU and cIoU or None.
    """

    def __init__(self, done: Iterable[ImageResult], remaining: int, progress: Progress | None):
        self.progress = progress
        self.images = self.pairs = self.intersection = self.union = 0
        self.ious = 0.0
        for result in done:
            self._count(result)
        self.total = self.images + remaining
        if progress and remaining:
            progress(self.images, self.total, None, None)

    def add(self, results: Iterable[ImageResult]) -> None:
        """Counts further images and reports progress."""
        for result in results:
            self._count(result)
        if self.progress and self.pairs:
            self.progress(self.images, self.total, self.ious / self.pairs, iou(self.intersection, self.union))

    def _count(self, result: ImageResult) -> None:
        self.images += 1
        for pair in (pair for row in result.rows for pair in row.pairs()):
            self.pairs += 1
            self.ious += pair.iou
            self.intersection += pair.intersection
            self.union += pair.union


class ScoreBar(ProgressBar):
    """A progress bar with the scores so far; it is called as `Progress`.

    Of several processes that share a split the main one shows its own part.
    """

    def __call__(self, done: int, total: int, giou: float | None, ciou: float | None) -> None:
        scores = (("gIoU", giou), ("cIoU", ciou))
        self.show(done, total, "".join(f"  {name} {percent(value)}" for name, value in scores if value is not None))
