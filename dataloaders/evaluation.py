"""The evaluation sets: pictures in a fixed order, with what is asked, the given answer and the true masks.

"ReasonSeg|val"            name and split; also test_overall, test_shortquery and test_longquery
"fpReasonSeg|val"          the same pictures, each with a second question about what is not there
"refcoco|unc|testA"        name, annotator (not read: each set has one) and split; also refzom|final|test, grefcoco|…
"multirefcoco|unc|testA"   the same expressions, to be asked for all together
"fprefcoco|val"            false premises: fprefcoco(+/g), R-refcoco(+/g); and plain refcoco(+/g) without their pictures
"MultiReasonSeg|test"      MUSE: val, test_less, test_many, and test for both
"custom|name"              custom/<name>.jsonl
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch.utils.data import ConcatDataset

from dataloaders.custom import CustomEntry, CustomFile, targets_in
from dataloaders.families import split_names
from dataloaders.images import read_image
from dataloaders.labelme import draw_regions, read_annotation
from dataloaders.multi_reason_seg import PLACEHOLDER, MuseEntry, MuseFile, split_muse
from dataloaders.reason_seg import list_images
from dataloaders.refer_files import FALSE_PREMISE_SETS, REFER_SETS
from dataloaders.refer_index import ReferIndex
from dataloaders.refer_seg import clean
from dataloaders.sample import REJ, SEG
from dataloaders.templates import fill, pick, read_pool
from dataloaders.wording import join_names
from utils.errors import UserError

PROMPT_SEED = 42  # of the questions that are taken from a pool
MULTI_SETS = ("refcoco", "refcoco+", "refcocog")


@dataclass
class EvaluationItem:
    """One picture with its expressions, N of them.

    image uint8 RGB [H, W, 3].
    expressions: as the data set has them.
    prompts: one question per expression, asked in a conversation of its own.
    given_answers: what each would be answered, for teacher-forced scoring.
    joint_prompt, joint_answer: one question about all expressions, and its answer; the reference's protocol. Empty
        where every expression is asked for by itself in all protocols (MUSE, custom).
    masks uint8 [N, H, W] in {0, 1}; ignore bool [H, W] or None: pixels that do not count.
    exists: whether each expression means something in the picture.
    dataset, split: where the item is from.
    ref_ids: which ref each expression belongs to; an expression without one has -1.
    target_masks: where an expression means several things with a mask each, uint8 [n, H, W] for every expression, in
        the order of the `[SEG]` in its given answer; `masks` are their unions. None elsewhere.
    index: the entry's place in its file, where a picture may occur more than once; None elsewhere.
    together: the set is about asking for all expressions at once.

    Questions are without the image placeholder; conversation texts put it before them.
    """

    image_path: Path
    image: np.ndarray
    expressions: list[str]
    prompts: list[str]
    given_answers: list[str]
    joint_prompt: str
    joint_answer: str
    masks: np.ndarray
    ignore: np.ndarray | None
    exists: list[bool]
    dataset: str
    split: str
    ref_ids: list[int] = field(default_factory=list)
    target_masks: list[np.ndarray] | None = None
    index: int | None = None
    together: bool = False


class ReasonSegEvaluation(Sequence):
    """The first sentence of every picture of a ReasonSeg split."""

    def __init__(self, dataset_dir: Path, name: str, split: str):
        folder, _, kind = split.partition("_")
        if kind not in ("", "overall", "shortquery", "longquery"):
            raise UserError(f"unknown part {kind!r} of split {folder}; known are overall, shortquery and longquery")
        self.name = name
        self.split = split
        self.images = list_images(dataset_dir, name, folder)
        if kind in ("shortquery", "longquery"):
            long = kind == "longquery"
            self.images = [p for p in self.images if read_annotation(p.with_suffix(".json")).is_sentence is long]
            if not self.images:
                raise UserError(f"{name}|{split}: no annotation there has is_sentence {str(long).lower()}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> EvaluationItem:
        path = self.images[index]
        annotation = read_annotation(path.with_suffix(".json"))
        image = read_image(path)
        mask, ignore = draw_regions(annotation, *image.shape[:2])
        if not mask.any():
            raise UserError(f"{annotation.path} marks no target: its shapes are empty, flags or regions to ignore")
        sentence = annotation.sentences[0]
        if annotation.is_sentence:
            prompt = f" {sentence} Please output segmentation mask."
        else:
            prompt = f" What is {sentence} in this image? Please output segmentation mask."
        answer = f"{SEG}."
        return EvaluationItem(
            image_path=path,
            image=image,
            expressions=[sentence],
            prompts=[prompt],
            given_answers=[answer],
            joint_prompt=prompt,
            joint_answer=answer,
            masks=mask[None],
            ignore=ignore,
            exists=[True],
            dataset=self.name,
            split=self.split,
            ref_ids=[-1],
        )


class FalsePremiseReasonSegEvaluation(Sequence):
    """A ReasonSeg split in SESAME's version: the first sentence of a picture, and one with a false premise."""

    name = "fpReasonSeg"

    def __init__(self, dataset_dir: Path, split: str):
        self.split = split
        self._items = ReasonSegEvaluation(dataset_dir, "ReasonSeg", split)
        paths = [path.with_suffix(".json") for path in self._items.images]
        if not any(read_annotation(path).false_premise for path in paths):
            raise UserError(
                f"fpReasonSeg|{split}: no annotation in {paths[0].parent} has 'false_premise_QA'; SESAME's version of "
                "ReasonSeg has it"
            )

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> EvaluationItem:
        item = self._items[index]
        annotation = read_annotation(item.image_path.with_suffix(".json"))
        asked = [(annotation.sentences[0], annotation.is_sentence)]
        if annotation.false_premise is not None:
            asked.append(annotation.false_premise[:2])
        item.expressions = [text for text, _ in asked]
        item.prompts = [
            f"{text} Please output segmentation mask."
            if is_sentence
            else f"What is {text.lower()} in this image? Please output segmentation mask."
            for text, is_sentence in asked
        ]
        item.exists = [True, False][: len(asked)]
        item.given_answers = [f"{SEG}.", f"{REJ}."][: len(asked)]
        item.joint_prompt = item.joint_answer = ""
        item.masks = np.concatenate([item.masks, np.zeros_like(item.masks)])[: len(asked)]
        item.ref_ids = [-1] * len(asked)
        item.dataset, item.split = self.name, self.split
        return item


class ReferEvaluation(Sequence):
    """All expressions of every picture of a referring data set's split.

    together: what is scored is asking for all of them at once.
    """

    def __init__(self, dataset_dir: Path, name: str, split: str, *, together: bool = False):
        self.name = f"multi{name}" if together else name
        self.split = split
        self._together = together
        self._index = self._open(dataset_dir, name, split)

    def _open(self, dataset_dir: Path, name: str, split: str) -> ReferIndex:
        return ReferIndex(dataset_dir, name, split)

    def _prompt(self, text: str, index: int, place: int) -> str:
        return f"What is {text} in this image? Please output segmentation mask."

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> EvaluationItem:
        image = self._index[index]
        picture = read_image(image.path, size=(image.height, image.width))
        masks = np.stack([self._index.mask(image, expression) for expression in image.expressions])
        texts = [clean(expression.text) for expression in image.expressions]
        exists = [bool(mask.any()) for mask in masks]
        tokens = [SEG if there else REJ for there in exists]
        pairs = ", ".join(f"{text}:{token}" for text, token in zip(texts, tokens))
        return EvaluationItem(
            image_path=image.path,
            image=picture,
            expressions=[expression.text for expression in image.expressions],
            prompts=[self._prompt(text, index, place) for place, text in enumerate(texts)],
            given_answers=[f"{token}." for token in tokens],
            # The missing space before "in" is the reference's, and so that of the published scores.
            joint_prompt=f" What are {', '.join(texts)}in this image? Please output segmentation masks.",
            joint_answer=f"Sure,{pairs}.",
            masks=masks,
            ignore=None,
            exists=exists,
            dataset=self.name,
            split=self.split,
            ref_ids=[expression.ref_id for expression in image.expressions],
            together=self._together,
        )


class FalsePremiseEvaluation(ReferEvaluation):
    """Expressions some of which mean nothing in the picture; the questions, from a pool, allow for that."""

    def _open(self, dataset_dir: Path, name: str, split: str) -> ReferIndex:
        self._questions = read_pool("conditional_short_questions", ("{class_name}",))
        return ReferIndex(dataset_dir, name, split, sets=FALSE_PREMISE_SETS)

    def _prompt(self, text: str, index: int, place: int) -> str:
        rng = np.random.default_rng([PROMPT_SEED, index, place])
        return fill(pick(rng, self._questions), class_name=text)


class MuseEvaluation(Sequence):
    """Every entry of a MUSE split; its questions are the expressions."""

    def __init__(self, dataset_dir: Path, name: str, split: str):
        self.name = name
        self.split = split
        self._entries = ConcatDataset([MuseFile(dataset_dir, name, file) for file in split_muse(split)])
        self._questions = read_pool("long_questions", ("{sent}",))

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> EvaluationItem:
        entry: MuseEntry = self._entries[index]
        image = read_image(entry.path, size=(entry.height, entry.width))
        targets = [entry.masks(question) for question in entry.questions]
        rng = np.random.default_rng([PROMPT_SEED, index])
        answers = []
        for question in entry.questions:
            names = [target.rephrased or target.category for target in question.targets]
            named = join_names([f"{name} is {SEG}" for name in names]) + "."
            answers.append(named if question.answer is None else question.answer.replace(PLACEHOLDER, SEG))
        return EvaluationItem(
            image_path=entry.path,
            image=image,
            expressions=[question.text for question in entry.questions],
            prompts=[fill(pick(rng, self._questions), sent=question.text) for question in entry.questions],
            given_answers=answers,
            joint_prompt="",
            joint_answer="",
            masks=unions(targets),
            ignore=None,
            exists=[bool(len(masks)) for masks in targets],
            dataset=self.name,
            split=self.split,
            ref_ids=[-1] * len(targets),
            target_masks=targets,
            # In "test" the entries of the second file are counted on from those of the first.
            index=index if self.split == "test" else entry.number,
        )


class CustomEvaluation(Sequence):
    """Every entry of a custom file; its questions that are answered with targets are the expressions."""

    def __init__(self, dataset_dir: Path, name: str):
        self.name = "custom"
        self.split = name
        self._file = CustomFile(dataset_dir, name)
        self._rows = [row for row in range(len(self._file)) if len(targets_in(self._file[row].conversations))]
        if not self._rows:
            raise UserError(f"{self._file.path}: no answer there has {SEG} or {REJ}")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> EvaluationItem:
        entry: CustomEntry = self._file[self._rows[index]]
        image = read_image(entry.path)
        size = image.shape[:2]
        masks = entry.masks(*size)
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
            ignore=entry.ignore(*size),
            exists=[bool(len(one)) for one in targets],
            dataset=self.name,
            split=self.split,
            ref_ids=[-1] * len(turns),
            target_masks=targets,
            index=self._rows[index],
        )


def unions(targets: Sequence[np.ndarray]) -> np.ndarray:
    """The union of each of several stacks of masks, uint8 [N, H, W]."""
    return np.stack([masks.any(0) for masks in targets]).astype(np.uint8)


def evaluation_set(spec: str, dataset_dir: str | Path) -> Sequence[EvaluationItem]:
    """The set that `spec` names; its items are decoded when they are asked for."""
    name, *parts = (part.strip() for part in spec.split("|"))
    root = Path(dataset_dir)
    split = parts[-1] if parts else ""
    plain = name.removeprefix("multi")
    if not name or not split or len(parts) > 2:
        pass
    elif name == "custom" and len(parts) == 1:
        return CustomEvaluation(root, split)
    elif name == "fpReasonSeg" and len(parts) == 1:
        return FalsePremiseReasonSegEvaluation(root, split)
    elif name.startswith("MultiReasonSeg") and len(parts) == 1:
        return MuseEvaluation(root, name, split)
    elif name.startswith("multi") and plain in MULTI_SETS and len(parts) == 2:
        return ReferEvaluation(root, plain, split, together=True)
    elif name in REFER_SETS and len(parts) == 2:
        return ReferEvaluation(root, name, split)
    elif name in FALSE_PREMISE_SETS and (len(parts) == 1 or name not in REFER_SETS):
        return FalsePremiseEvaluation(root, name, split)
    elif len(parts) == 1 and name not in REFER_SETS and not name.startswith("multi"):
        return ReasonSegEvaluation(root, name, split)
    annotated = [*REFER_SETS, *(f"multi{name}" for name in MULTI_SETS)]
    false_premises = [name for name in FALSE_PREMISE_SETS if name not in REFER_SETS]
    raise UserError(
        f"unknown evaluation set {spec!r}; known are ReasonSeg|SPLIT, fpReasonSeg|SPLIT, MultiReasonSeg|SPLIT, "
        f"custom|NAME, NAME|ANNOTATOR|SPLIT with NAME one of {', '.join(annotated)}, and NAME|SPLIT with NAME one of "
        f"{', '.join(false_premises)}"
    )


def evaluation_sets(specs: str, dataset_dir: str | Path) -> dict[str, Sequence[EvaluationItem]]:
    """The sets of a list joined by "||", by their specs, in that order."""
    names = split_names(specs)
    if not names:
        raise UserError("no evaluation set is named; for example: ReasonSeg|val")
    return {name: evaluation_set(name, dataset_dir) for name in names}
