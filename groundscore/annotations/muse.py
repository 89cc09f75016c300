"""MUSE: questions about an image that ask for one target or many, each with its own mask."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

from groundscore.annotations.bad_entries import BadEntry, BadSamples
from groundscore.annotations.image_files import check_size
from groundscore.annotations.index_cache import open_entries
from groundscore.annotations.json_files import (
    NOT_OFFICIAL,
    check_text,
    entries_by_image,
    require_integer,
    require_list,
    require_path,
    require_segmentation,
    require_text,
)
from groundscore.annotations.records import Joined
from groundscore.annotations.segmentations import NO_PIXEL, encode_segmentation
from groundscore.errors import UserError, shown
from groundscore.json_items import read_items
from groundscore.names import did_you_mean
from groundscore.rle import Rle, area
from groundscore.targets import refuse_targets

PLACEHOLDER = "{seg}"
MUSE_SPLITS = ("train", "val", "test_less", "test_many")


@dataclass(frozen=True)
class MuseTarget:
    """What a target is called: its category, and a description if there is one; and its COCO segmentation."""

    category: str
    rephrased: str
    segmentation: Any


@dataclass(frozen=True)
class MuseQuestion:
    """answer: text with `{seg}` for each target in order, or None."""

    text: str
    targets: tuple[MuseTarget, ...]
    answer: str | None


@dataclass(frozen=True)
class MuseEntry:
    """number: its index in the file. has_objects: the file lists objects for the image."""

    number: int
    path: Path
    height: int
    width: int
    questions: tuple[MuseQuestion, ...]
    has_objects: bool
    where: str

    def masks(self, question: MuseQuestion) -> list[Rle]:
        """Returns a mask for each target of a question; none is empty."""
        return [self._mask(target, question, number) for number, target in enumerate(question.targets)]

    def _mask(self, target: MuseTarget, question: MuseQuestion, number: int) -> Rle:
        where = f"{self.where}, question {shown(question.text)}, target {number}"
        drawn = encode_segmentation(target.segmentation, self.height, self.width, where)
        if not area(drawn):
            raise BadEntry.at(where, f"{NO_PIXEL}, though it is {target.category!r}")
        return drawn


def muse_path(dataset_dir: Path, name: str, split: str) -> Path:
    """Returns the path of a file of MUSE."""
    return dataset_dir / "multi_reason_seg" / name / f"MUSE_{split}.json"


class MuseFile(Sequence):
    """The entries of `multi_reason_seg/<name>/MUSE_<split>.json`."""

    def __init__(
        self,
        dataset_dir: Path,
        name: str,
        split: str,
        *,
        excluded: Collection[int] = (),
        bad_samples: BadSamples | None = None,
    ):
        self._images = dataset_dir / "refer_seg" / "images" / "mscoco" / "images"
        self.path = muse_path(dataset_dir, name, split)
        self._entries = open_entries(
            dataset_dir,
            f"multi_reason_seg/{name}_{split}",
            self.path,
            self._parse,
            excluded=excluded,
            bad_samples=bad_samples,
            label=f"multi_reason_seg/{split}",
        )

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> MuseEntry:
        record = self._entries[index]
        questions = tuple(
            MuseQuestion(text, tuple(MuseTarget(*target) for target in targets), answer)
            for text, targets, answer in record["questions"]
        )
        number = record["number"]
        return MuseEntry(
            number,
            self._images / record["image"],
            record["height"],
            record["width"],
            questions,
            record["has_objects"],
            f"{self.path}: entry {number}",
        )

    def _parse(self) -> dict[str, Any]:
        return entries_by_image(read_items(self.path), self._read_entry, itemgetter("image"))

    def _read_entry(self, item: Any, number: int) -> dict:
        where = f"{self.path}: entry {number}"
        height, width = (require_integer(item, key, where) for key in ("height", "width"))
        check_size(height, width, where)
        questions = require_list(item, "questions", where)
        answers = require_list(item, "answers", where)
        texts = (
            require_list(item, "text_answers", where)
            if item.get("text_answers") is not None
            else [None] * len(questions)
        )
        if not len(questions) == len(answers) == len(texts):
            raise UserError(
                f"{where} has {len(questions)} questions, but {len(answers)} answers and {len(texts)} text "
                f"answers; {NOT_OFFICIAL}"
            )
        if not questions:
            raise UserError(f"{where} has no question; {NOT_OFFICIAL}")
        return {
            "number": number,
            "image": _image_name(item, where),
            "height": height,
            "width": width,
            "questions": [
                _read_question(*triple, f"{where}, question {index}")
                for index, triple in enumerate(zip(questions, answers, texts))
            ],
            "has_objects": "ann_list" not in item or bool(require_list(item, "ann_list", where)),
        }


def _image_name(item: dict, where: str) -> str:
    """Returns the path of the image below the folder of COCO's images."""
    if item.get("file_name") is not None:
        return f"train2014/{require_path(item, 'file_name', where)}"
    url = require_text(item, "coco_url", where)
    name = PurePosixPath(url).name
    return f"{'train2017' if 'train2017' in url else 'val2017'}/{require_path({'coco_url': name}, 'coco_url', where)}"


def _read_question(question: Any, targets: Any, answer: Any, where: str) -> tuple[str, list, str | None]:
    check_text(question, where)
    if not isinstance(targets, list):
        raise UserError(f"{where}: its answer should be a list of annotations, it is {shown(targets)}; {NOT_OFFICIAL}")
    if answer is not None:
        check_text(answer, f"{where}: its text answer")
        if answer.count(PLACEHOLDER) != len(targets):
            raise BadEntry.at(  # the published file has such entries
                where, f"its text answer has {answer.count(PLACEHOLDER)} {PLACEHOLDER} for {len(targets)} targets"
            )
    elif not targets:
        raise UserError(f"{where} has neither a target nor a text answer; {NOT_OFFICIAL}")
    refuse_targets(question + (answer or ""), where)
    read = []
    for number, target in enumerate(targets):
        spot = f"{where}, target {number}"
        category = require_text(target, "category_name", spot)
        rephrased = target.get("rephrased_name")
        if rephrased is not None:
            rephrased = check_text(rephrased, f"{spot}: 'rephrased_name'", empty=True).strip()
        read.append([category, rephrased or "", require_segmentation(target, spot)])
    return question.strip(), read, answer


def split_muse(splits: str) -> list[str]:
    """Returns the files of a split: "test" is test_less and test_many, "train_val" is two."""
    if splits in MUSE_SPLITS:
        return [splits]
    files: list[str] = []
    for name in splits.replace("test_less", "less").replace("test_many", "many").split("_"):
        known = {"train": ["train"], "val": ["val"], "less": ["test_less"], "many": ["test_many"]}
        known["test"] = known["less"] + known["many"]
        if name not in known:
            raise UserError(
                f"unknown split {splits!r}; MUSE has train, val, test, test_less, test_many"
                f"{did_you_mean(splits, MUSE_SPLITS)}"
            )
        files += known[name]
    return files


def open_muse(
    dataset_dir: Path, name: str, split: str, *, excluded: Collection[int] = (), bad_samples: BadSamples | None = None
) -> Joined:
    """Returns the entries of all files of a split, which may be several (`split_muse`)."""
    options = {"excluded": excluded, "bad_samples": bad_samples}
    return Joined([MuseFile(dataset_dir, name, file, **options) for file in split_muse(split)])
