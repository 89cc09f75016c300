"""Our own data, `custom/NAME.jsonl` (DATA.md of groundscore): from the regions of any tool, and back.

A region becomes conversations: one for its label, or one for each text that means it; regions with the same text are
asked for together. The labels are kept beside the masks ("labels"), where training does not look.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from groundscore.annotations.custom import CustomFile
from groundscore.annotations.images import read_image
from groundscore.errors import UserError
from groundscore.exchange.regions import NewImages, Region, RegionImage, ToolFormat, ToolOptions, region
from groundscore.reading import parse_json, read_lines
from groundscore.rle import as_json, encode
from groundscore.targets import SEG, join_names, refuse_targets
from groundscore.writing import make_directory, write_lines

_REQUEST = re.compile(r"Please segment the (.+) in the image\.")


def question_for(text: str) -> str:
    """Returns the question about a name; a sentence is a question itself."""
    text = " ".join(text.split())
    return text if text[-1:] in ".?!" else f"Please segment the {re.sub(r'^[Tt]he ', '', text)} in the image."


def write_custom(images: Iterable[RegionImage], dataset_dir: Path, name: str) -> int:
    """Write `custom/NAME.jsonl` and the images, in `custom/NAME/`; returns the number of lines.

    Raises `UserError` where there is one of this name already, or no image has a region.
    """
    folder = dataset_dir / "custom"
    path = folder / f"{name}.jsonl"
    if "/" in name or name.startswith(".") or not name:
        raise UserError(f"{name!r} is no name of own data: a file name without .jsonl")
    if path.exists() or (folder / name).exists():
        raise UserError(f"{path} or the folder beside it exists; choose another name, or remove them")
    make_directory(folder)
    new, count = NewImages(folder / name, as_they_are=True), 0

    def lines() -> Iterator[str]:
        nonlocal count
        for image in images:
            if image.regions:
                count += 1
                yield json.dumps(_line(image, f"{name}/{new.add(image)}"), ensure_ascii=False) + "\n"

    try:
        write_lines(path, lines())
        if not count:
            path.unlink()
            raise UserError("no image has a region, so there is nothing to ask for")
    except BaseException:
        shutil.rmtree(folder / name, ignore_errors=True)
        raise
    return count


def _line(image: RegionImage, name: str) -> dict:
    asked: dict[str, list[Region]] = {}
    for one in image.regions:
        for text in one.texts or (one.label,):
            if not text.strip():
                raise UserError(f"{image.where}: a region has neither label nor text")
            asked.setdefault(question_for(refuse_targets(text, image.where)), []).append(one)
    answers = {question: f"{join_names([SEG] * len(regions))}." for question, regions in asked.items()}
    targets = [one for regions in asked.values() for one in regions]
    return {
        "image": name,
        "conversations": [[{"question": question, "answer": answer}] for question, answer in answers.items()],
        "masks": [as_json(one.mask) for one in targets],
        **({} if image.ignore is None else {"ignore": as_json(image.ignore)}),
        "labels": [one.label for one in targets],
    }


def read(path: Path, options: ToolOptions) -> Iterator[RegionImage]:
    """Yields the images of `custom/NAME.jsonl`; turns and absent targets have no place among regions."""
    if path.suffix != ".jsonl" or path.parent.name != "custom":
        raise UserError(f"{path} should be DATASET_DIR/custom/NAME.jsonl")
    file = CustomFile(path.parent.parent, path.stem)
    for entry, (number, line) in zip(file, read_lines(path, missing="it is own data"), strict=True):
        labels = parse_json(line, f"{path}: line {number}").get("labels")
        size = read_image(entry.path).shape[:2]
        masks, ignore = entry.regions(*size)
        questions = [
            question for turns in entry.conversations for question, answer in turns for _ in range(answer.count(SEG))
        ]
        found: dict[tuple, Region] = {}
        for index, (question, mask) in enumerate(zip(questions, masks)):
            inner = _REQUEST.fullmatch(question)
            text = inner[1] if inner else question
            known = labels[index] if isinstance(labels, list) and index < len(labels) else None
            one = region(known if isinstance(known, str) else text, mask, [text])
            if known is not None and question_for(known) == question:
                one = replace(one, texts=())
            key = (one.label, one.mask["counts"])
            before = found.get(key)
            found[key] = (
                one if before is None else replace(before, texts=tuple(dict.fromkeys((*before.texts, *one.texts))))
            )
        name = entry.path.relative_to(path.parent).as_posix().removeprefix(f"{path.stem}/")
        yield RegionImage(
            entry.path, name, size, tuple(found.values()), None if ignore is None else encode(ignore), entry.where
        )


CUSTOM = ToolFormat(
    "custom",
    "our own data, DATASET_DIR/custom/NAME.jsonl",
    lambda path: path.suffix == ".jsonl" and path.parent.name == "custom",
    read,
    lambda images, out: write_custom(images, out.parent.parent, out.stem) and None,
)
