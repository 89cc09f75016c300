"""The command `groundscore convert`: own data into `custom` and back, and predictions out to other tools."""

from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from groundscore.benchmark import load_all
from groundscore.errors import UserError
from groundscore.exchange.counting import format_of
from groundscore.exchange.predictions import Matching
from groundscore.exchange.regions import Region, RegionImage, ToolOptions
from groundscore.exchange.tools import READABLE, TOOLS, WRITABLE, read_regions, write_regions
from groundscore.flags import UserParser
from groundscore.progress import ProgressBar
from groundscore.rle import area, union
from groundscore.scoring.masks import to_rle
from groundscore.splits import EvaluationItem, LeftOut, OpenSplit


def add_convert_flags(parser: UserParser) -> None:
    """Declare the flags of `groundscore convert`."""
    readable = "; ".join(f"{name}: {TOOLS[name].help}" for name in READABLE)
    writable = "; ".join(f"{name}: {TOOLS[name].help}" for name in WRITABLE)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="file or folder; with --split: predictions")
    parser.add_argument(
        "target", type=Path, metavar="TARGET", help="a new folder, or DATASET_DIR/custom/NAME.jsonl for own data"
    )
    parser.add_argument(
        "--from", dest="source_format", choices=READABLE, help=f"form of SOURCE (default: its looks): {readable}"
    )
    parser.add_argument("--to", choices=WRITABLE, help=f"form of TARGET (needed unless it is custom): {writable}")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the images lie")
    parser.add_argument("--label", default="", metavar="NAME", help="what masks without a name show")
    parser.add_argument(
        "--columns", default="", metavar="KIND=NAME,…", help="columns of a table: image=…,mask=…,text=…"
    )
    parser.add_argument("--split", metavar="SPLITS", help="SOURCE has predictions for these splits, joined by ||")
    parser.add_argument("--data", type=Path, default=Path("dataset"), metavar="DIR", help="root of the data of --split")


def convert(flags: Namespace, argv: Sequence[str]) -> int:
    """Read the source and write the target; returns 0."""
    target: Path = flags.target.absolute()
    to = flags.to or (target.suffix == ".jsonl" and target.parent.name == "custom" and "custom")
    if not to:
        raise UserError(
            f"{flags.target} is no DATASET_DIR/custom/NAME.jsonl; --to names the form: {', '.join(WRITABLE)}"
        )
    if flags.split:
        images = predicted_regions(flags.source, load_all(flags.split, flags.data))
    else:
        options = ToolOptions(flags.images, flags.label, _columns(flags.columns))
        images = read_regions(flags.source.absolute(), flags.source_format or "", options)
    count: list[int] = []
    write_regions(_counted(images, count), target, to)
    print(f"{len(count)} images, {sum(count)} masks: {flags.target}")
    if to == "custom":
        root = target.parent.parent
        print(f'try: python -m dataloaders.inspect --dataset_dir {root} --val_dataset "custom|{target.stem}"')
    return 0


def _columns(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    for kind, equals, name in pairs:
        if kind not in ("image", "mask", "text") or not equals or not name:
            raise UserError(f"--columns {text}: write image=NAME,mask=NAME,text=NAME, those that are not found")
    return {kind: name for kind, _, name in pairs}


def _counted(images: Iterable[RegionImage], count: list[int]) -> Iterator[RegionImage]:
    """Passes images on, noting their numbers of regions."""
    for image in images:
        count.append(len(image.regions))
        yield image


def predicted_regions(path: Path, splits: dict[str, OpenSplit], form: str | None = None) -> Iterator[RegionImage]:
    """Yields the images of splits with the masks that a file of predictions has for their expressions, which are the
    labels; masks without a pixel are left out. form: of the file, by default what it looks like."""
    found = format_of(path, form).read(path, splits, None)
    for spec, split in splits.items():
        matching = Matching(path, split, found.get(spec, {}))
        bar = ProgressBar(spec)
        bar.show(0, len(split))
        for number in range(len(split)):
            item = split.read(number)
            if isinstance(item, LeftOut):
                matching.leave_out(item)
                continue
            predictions = matching.take(item)
            if not matching.missing:
                yield _regions_of(item, predictions, split)
            bar.show(number + 1, len(split))
        matching.check_missing()


def _regions_of(item: EvaluationItem, predictions: Sequence, split: OpenSplit) -> RegionImage:
    size = item.image.shape[:2]
    regions: list[Region] = []
    for text, prediction in zip(item.expressions, predictions):
        mask = union([to_rle(prediction.read_masks(), size, prediction.where, 0.0)], size)
        if prediction.present is not False and area(mask):
            regions.append(Region(text, mask))
    return RegionImage(item.image_path, item.path_below(split.root), size, tuple(regions), None, str(item.image_path))
