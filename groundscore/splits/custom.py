"""Your own data for evaluation."""

from pathlib import Path

from dataloaders.families.custom import CustomEntry, CustomFile, targets_in
from dataloaders.sample import REJ, SEG
from groundscore.annotations.bad_samples import BadSamples
from groundscore.annotations.images import read_image
from groundscore.errors import UserError
from groundscore.splits.item import EvaluationItem, EvaluationSet, unions


class CustomEvaluation(EvaluationSet):
    """Every entry of a custom file; its questions that are answered with targets are the expressions."""

    def __init__(self, dataset_dir: Path, name: str, bad_samples: BadSamples | None = None):
        self.name = "custom"
        self.split = name
        self._file = CustomFile(dataset_dir, name, bad_samples=bad_samples)
        self._rows = [row for row in range(len(self._file)) if len(targets_in(self._file[row].conversations))]
        if not self._rows:
            raise UserError(f"{self._file.path}: no answer there has {SEG} or {REJ}")

    def __len__(self) -> int:
        return len(self._rows)

    def entry(self, number: int) -> tuple[Path, int | None]:
        return self._file[self._rows[number]].path, self._rows[number]

    def __getitem__(self, index: int) -> EvaluationItem:
        entry: CustomEntry = self._file[self._rows[index]]
        image = read_image(entry.path)
        masks, ignore = entry.regions(*image.shape[:2])
        turns, targets, used = [], [], 0
        for turn in (turn for turns in entry.conversations for turn in turns):
            kinds = targets_in([[turn]])
            count = int(kinds.sum())
            if len(kinds):
                turns.append(turn)
                targets.append(masks[used : used + count])
            used += count
        return EvaluationItem(
            image_path=entry.path,
            image=image,
            expressions=[turn.question for turn in turns],
            prompts=[turn.question for turn in turns],
            given_answers=[turn.answer for turn in turns],
            joint_prompt="",
            joint_answer="",
            masks=unions(targets),
            ignore=ignore,
            exists=[bool(len(one)) for one in targets],
            dataset=self.name,
            split=self.split,
            ref_ids=[-1] * len(turns),
            target_masks=targets,
            index=self._rows[index],
            may_be_absent=True,
        )
