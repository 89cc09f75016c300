"""What every tab may use."""

from dataclasses import dataclass, field
from pathlib import Path

from dashboard.answering import Answerer
from dashboard.limits import Limits
from dashboard.loading import BackgroundModel


@dataclass
class Context:
    """One dashboard's shared things, handed to every tab.

    model: loads in the background and gives a `ChatSession`; None where no tab needs one.
    answers: runs everything that needs the model, one after the other.
    folder: the only place below which files of visitors are written; it is removed when the program ends.
    dataset_dir, runs_dir: where data and experiments are.
    """

    folder: Path
    limits: Limits
    model: BackgroundModel | None = None
    dataset_dir: Path = Path("dataset")
    runs_dir: Path = Path("runs")
    answers: Answerer = field(init=False)

    def __post_init__(self):
        self.answers = Answerer(self.limits.targets)
