"""Family `reason_seg`: sentences that take thought to find their target, some with an explanation in words."""

from pathlib import Path

import numpy as np

from dataloaders.sample import Sample, Turn
from dataloaders.templates import fill, pick, read_pool
from dataloaders.wording import choose
from groundscore.annotations.images import read_image
from groundscore.annotations.labelme import ReasonAnnotation, draw_regions, read_annotation
from groundscore.annotations.reason_seg import list_split, read_explanations, read_split
from groundscore.errors import UserError
from groundscore.targets import SEG


class ReasonSeg:
    """Draws sentences about a picture; every sentence is a conversation with the same target.

    names: "ReasonSeg|train"; splits are joined by "_", as in "ReasonSeg|train_val".
    num_sentences: at most so many sentences of a picture.
    explanatory: where a picture has an explanation, the probability that it is the whole answer; otherwise it follows
        the mask half of the time. -1 does without explanations and their file.
    use_expand_question_list: ask in more ways.
    """

    name = "reason_seg"

    def __init__(
        self,
        dataset_dir: Path,
        names: str,
        *,
        num_sentences: int = 3,
        explanatory: float = 0.1,
        use_expand_question_list: bool = False,
    ):
        parts = names.split("|")
        if len(parts) != 2 or not all(parts):
            raise UserError(f"--reason_seg_data is a name and splits, such as ReasonSeg|train_val, not {names!r}")
        self._dataset, splits = parts
        self._images = [path for split in splits.split("_") for path in list_split(dataset_dir, self._dataset, split)]
        read_split(self._images)  # structural faults stop here; bad entries are told when they are drawn
        self._num_sentences = num_sentences
        self._explanatory = explanatory
        self._explanations: dict[str, str] = {}
        if explanatory != -1:
            self._explanations = read_explanations(dataset_dir, self._dataset)
        self._short_questions = read_pool("short_questions", ("{class_name}",))
        self._long_questions = read_pool("long_questions", ("{sent}",))
        if use_expand_question_list:
            self._short_questions += read_pool("expanded_short_questions", ("{class_name}",))
            self._long_questions += read_pool("expanded_long_questions", ("{sent}",))
        self._requests = read_pool("explanatory_questions")
        self._answers = read_pool("answers", (SEG,))

    def sizes(self) -> dict[str, int]:
        return {self._dataset: len(self._images)}

    def draw(self, rng: np.random.Generator) -> Sample:
        path = self._images[int(rng.integers(len(self._images)))]
        annotation = read_annotation(path.with_suffix(".json"))
        image = read_image(path, size=annotation.size)
        target, ignore = draw_regions(annotation, *image.shape[:2])
        sentences = [annotation.sentences[i] for i in choose(rng, len(annotation.sentences), self._num_sentences)]
        explanation = self._explanations.get(path.name)
        in_words, explained = False, False
        if explanation is not None:
            in_words = bool(rng.random() < self._explanatory)
            explained = not in_words and bool(rng.random() < 0.5)
        if in_words:
            conversations = [(Turn(sentence, explanation),) for sentence in sentences]
        elif explained:
            conversations = [(self._ask_for_both(rng, sentence, explanation),) for sentence in sentences]
        else:
            conversations = [(self._ask_for_mask(rng, sentence, annotation),) for sentence in sentences]
        targets = 0 if in_words else len(sentences)
        return Sample(
            image_path=path,
            image=image,
            conversations=conversations,
            masks=np.repeat(target[None], targets, axis=0),
            ignore=ignore,
            family=self.name,
            dataset=self._dataset,
            expressions=tuple(sentences[:targets]),
        )

    def _ask_for_mask(self, rng: np.random.Generator, sentence: str, annotation: ReasonAnnotation) -> Turn:
        if annotation.is_sentence:
            question = fill(pick(rng, self._long_questions), sent=sentence)
        else:
            question = fill(pick(rng, self._short_questions), class_name=sentence.lower())
        return Turn(question, pick(rng, self._answers))

    def _ask_for_both(self, rng: np.random.Generator, sentence: str, explanation: str) -> Turn:
        question = f"{sentence} {pick(rng, self._requests)}"
        return Turn(question, f"{pick(rng, self._answers)} {explanation}")
