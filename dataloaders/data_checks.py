"""Is a data folder complete? One report for every data set that the families know, see `inspect.py`."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from groundscore.annotations.bad_samples import BadSamples
from groundscore.annotations.custom import CustomEntry, CustomFile
from groundscore.annotations.image_files import read_sizes
from groundscore.annotations.images import list_images, list_names, read_image
from groundscore.annotations.json_files import BrokenFile
from groundscore.annotations.label_maps import Ade20k, CocoStuff, LabelMaps, Mapillary
from groundscore.annotations.labelme import draw_regions, read_annotation, require_target
from groundscore.annotations.lisa_plus import SUBSETS, PlusEntry, PlusFile
from groundscore.annotations.llava import LlavaDialogues
from groundscore.annotations.muse import MUSE_SPLITS, MuseEntry, MuseFile
from groundscore.annotations.part_annotations import PacoLvis, PartAnnotations, PascalPart
from groundscore.annotations.reason_seg import list_split, read_explanations
from groundscore.annotations.refer_files import CORRECTED, FALSE_PREMISE_SETS, REFER_SETS, ReferFiles, ReferTables
from groundscore.annotations.refer_index import ReferImage, ReferIndex
from groundscore.annotations.repairs import BadEntry, Repair, Tolerance, noting_repairs
from groundscore.errors import UserError
from groundscore.reading import MISSING, check_regular, what_it_is

REASON_SPLITS = ("train", "val", "test")
NAMED = 3  # of files that are missing, say
# How images begin whose format keeps every number, as masks and label maps need: PNG, BMP, GIF, TIFF.
_LOSSLESS = (b"\x89PNG", b"BM", b"GIF8", b"II*\0", b"MM\0*")

# Where a user gets the files.
ORIGINS = {
    "ade20k": "ADEChallengeData2016 of the MIT Scene Parsing Benchmark",
    "cocostuff": "stuffthingmaps_trainval2017 of COCO-Stuff, and train2017 of COCO",
    "mapillary": "Mapillary Vistas 2.0",
    "pascal_part": "VOC2010 of PASCAL VOC, and train.json as VLPart (facebookresearch) converts it",
    "paco_lvis": "PACO-LVIS v1 (facebookresearch/paco), and train2017 of COCO",
    "llava_instruct_150k": "LLaVA-Instruct-150K on Hugging Face, and train2017 of COCO",
    "ReasonSeg": "ReasonSeg of LISA (dvlab-research); SESAME has a version with false premises",
    "reason_seg_plus": "LISA_Plus_* of LISA++ on Hugging Face, and train2017 of COCO",
    "MultiReasonSeg": "MUSE of PixelLM, and train2014, train2017 and val2017 of COCO",
    "refclef": "refer (lichengunc) with saiapr_tc-12 of ImageCLEF",
    "refcoco|val": "SESAME (UC Berkeley); for evaluation splits of two parts, such as refcoco|val",
    "grefcoco": "gRefCOCO (henghuiding), and train2014 of COCO",
    "refzom": "Ref-ZOM (toggle1995), and train2014 and val2014 of COCO",
    "fprefcoco": "FP-RefCOCO of SESAME (UC Berkeley), and train2014 of COCO",
    "R-refcoco": "R-RefCOCO of robust-ref-seg as SESAME repacks it, and train2014 of COCO",
    "custom": "your own; dataloaders/README.md describes the format",
}


@dataclass(frozen=True)
class Problem:
    """text: what is wrong. remedy: what to do about it.

    kind: "bad", entries without a usable image or mask; "broken", a file that is not built as it should be;
        "incomplete", files that are missing.
    """

    kind: str
    text: str
    remedy: str


@dataclass
class SetReport:
    """What there is of a data set.

    expected: files and folders that it needs, first its own. shared: how many at the end others need as well, so that
        their being there says nothing about this one. counts: entries per split.
    problems: what is wrong. notes: what is odd and yet in order. repairs: what is mended while the set is read.
    """

    family: str
    name: str
    expected: list[Path]
    shared: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)

    @property
    def found(self) -> list[Path]:
        return [path for path in self.expected if path.exists()]

    @property
    def state(self) -> str:
        """ "present", "missing" (nothing of it is there), or "bad"."""
        own = self.expected[: len(self.expected) - self.shared]
        if not any(path.exists() for path in own):
            return "missing"
        return "bad" if self.problems else "present"

    def count(self, kind: str) -> int:
        """How many problems there are of a kind."""
        return sum(problem.kind == kind for problem in self.problems)

    @property
    def origin(self) -> str:
        name, *split = self.name.split("|")
        for key in (name, "|".join([name.rstrip("+g"), *split]), self.family):
            if key in ORIGINS:
                return ORIGINS[key]
        return "refer (lichengunc), and train2014 of COCO"


class _Findings(BadSamples):
    """Notes all bad entries of annotation files, whatever their share.

    bad, broken, incomplete: as in `Problem`. notes: what is odd, yet in order. repairs: as the keys of a dictionary.
    """

    def __init__(self):
        super().__init__(Tolerance(0.5))
        self.bad: list[str] = []
        self.broken: list[str] = []
        self.incomplete: list[str] = []
        self.notes: list[str] = []
        self.repairs: dict[Repair, None] = {}

    def note_error(self, error: UserError) -> None:
        (self.bad if isinstance(error, BadEntry) else self.broken).append(str(error))

    def note_incomplete(self, what: str, lacking: Sequence[Path], total: int) -> None:
        """`lacking` are those files of `total` of which `what` is true."""
        if lacking:
            self.incomplete.append(_count(what, lacking, total))

    def note_unused(self, what: str, unused: Sequence[Path], total: int) -> None:
        """The same of files that need not be used, as in the folder of another set."""
        if unused:
            self.notes.append(_count(what, unused, total))

    def look_at(self, path: Path, starts: tuple[bytes, ...] = (b"",)) -> None:
        """Note a file whose first bytes are known to be something else's, or none of `starts`."""
        try:
            check_regular(path, missing=MISSING)
        except UserError as error:
            self.broken.append(str(error))
            return
        with path.open("rb") as file:
            begin = file.read(64)
        other = what_it_is(begin) if begin else "is empty"
        if other is None and not begin.startswith(starts):
            other = "is no PNG file; masks and label maps are PNG, since JPEG and its like change their numbers"
        if other is not None:
            self.broken.append(f"{path} {other}")

    def skip_entries(self, source: str, problems: Sequence[str], good: int) -> None:
        self.bad += problems

    def draw(self, entry: "Entry") -> None:
        """Read the image of an entry and draw all its masks."""
        for step in entry.steps:
            try:
                with noting_repairs() as repairs:
                    step()
            except UserError as error:
                self.note_error(error)
            self.repairs |= repairs


@dataclass(frozen=True)
class Entry:
    """An image of a set. steps: read it and draw its masks, each by itself for the errors and repairs in it."""

    path: Path
    steps: tuple[Callable[[], object], ...]

    @classmethod
    def of(cls, path: Path, *steps: Callable[[], object]) -> "Entry":
        return cls(path, steps)


Reader = Callable[[_Findings], Iterator[tuple[str, Sequence[Entry]]]]


def check_data(root: Path, *, decode: bool = False) -> Iterator[SetReport]:
    """A report for every known set, and for every file of `custom/`, each as soon as it is done. decode: open every
    image and draw every mask too."""
    for family, name, own, shared, read in _known_sets(root):
        expected = [*own, *shared]
        report = SetReport(family, name, expected, len(shared))
        if report.state != "missing":
            _check_set(report, read, decode)
        yield report


def _check_set(report: SetReport, read: Reader, decode: bool) -> None:
    """Fill in counts and problems of a set that is there, at least in part."""
    missing = [path for path in report.expected if not path.exists()]
    for path in missing:
        report.problems.append(Problem("incomplete", f"{path} is missing", f"fetch it: {report.origin}"))
    if missing:
        return
    findings = _Findings()
    try:
        for split, entries in read(findings):
            report.counts[split] = len(entries)
            _check_entries(findings, split, entries, decode)
    except BrokenFile as error:
        findings.broken += error.problems
    except UserError as error:
        findings.broken.append(str(error))
    mend = "correct it: dataloaders/README.md" if report.family == "custom" else f"fetch it anew: {report.origin}"
    report.problems += [Problem("broken", text, mend) for text in dict.fromkeys(findings.broken)]
    fetch = f"fetch them: {report.origin}"
    report.problems += [Problem("incomplete", text, fetch) for text in dict.fromkeys(findings.incomplete)]
    leave_out = f"{mend}; train_ds.py and eval.py leave such entries out up to --skip_bad_samples"
    report.problems += [Problem("bad", text, leave_out) for text in dict.fromkeys(findings.bad)]
    report.notes, report.repairs = findings.notes, list(findings.repairs)


def _known_sets(root: Path) -> Iterator[tuple[str, str, list[Path], list[Path], Reader]]:
    """Family, name, its own files, folders that it shares, and a function that yields the pictures of every split."""
    coco = root / "coco/train2017"
    mscoco = root / "refer_seg/images/mscoco/images"
    ade, mapillary, vlpart = root / "ade20k", root / "mapillary", root / "vlpart"
    folders = [ade / "images/training", ade / "annotations/training"]
    yield "sem_seg", "ade20k", folders, [], _label_maps(root, Ade20k)
    yield "sem_seg", "cocostuff", [root / "cocostuff/train2017"], [coco], _label_maps(root, CocoStuff)
    folders = [mapillary / "training/images", mapillary / "training/v2.0/labels"]
    yield "sem_seg", "mapillary", [mapillary / "config_v2.0.json", *folders], [], _label_maps(root, Mapillary)
    files = [vlpart / "pascal_part/train.json", vlpart / "pascal_part/VOCdevkit/VOC2010/JPEGImages"]
    yield "sem_seg", "pascal_part", files, [], _parts(root, PascalPart)
    file = vlpart / "paco/annotations/paco_lvis_v1_train.json"
    yield "sem_seg", "paco_lvis", [file], [coco], _parts(root, PacoLvis)
    for name, refer_files in REFER_SETS.items():
        yield "refer_seg", name, *_refer_paths(root, name, refer_files), _refer(root, name, REFER_SETS)
    for name, refer_files in FALSE_PREMISE_SETS.items():
        own, shared = _refer_paths(root, name, refer_files)
        if name not in REFER_SETS:
            family = "correct_refer_seg" if name in CORRECTED else "neg_refer_seg"
            yield family, name, own, shared, _refer(root, name, FALSE_PREMISE_SETS)
        elif refer_files != REFER_SETS[name]:  # only the refs file is not that of the set itself
            read = _refer(root, name, FALSE_PREMISE_SETS, without="train")
            yield "refer_seg", f"{name}|val", own[:1], [*own[1:], *shared], read
    name = "llava_instruct_150k"
    yield "vqa", name, [root / "llava_dataset" / f"{name}.json"], [coco], _vqa(root, name)
    folder = root / "reason_seg/ReasonSeg"
    for split in REASON_SPLITS:
        yield "reason_seg", f"ReasonSeg|{split}", [folder / split], [], _reason(root, split)
    for name, subset in SUBSETS.items():
        file = root / "reason_seg_plus" / subset.file
        yield "reason_seg_plus", name, [file], [mscoco / "train2017"], _plus(root, name)
    for split in MUSE_SPLITS:
        file = root / "multi_reason_seg/MultiReasonSeg" / f"MUSE_{split}.json"
        yield "multi_reason_seg", f"MultiReasonSeg|{split}", [file], [], _muse(root, split)
    for path in sorted((root / "custom").glob("*.jsonl")):
        yield "custom", path.stem, [path], [], _custom(root, path.stem)


def _label_maps(root: Path, kind: type[LabelMaps]) -> Reader:
    def read(findings: _Findings) -> Iterator[tuple[str, Sequence[Entry]]]:
        maps = kind(root)
        images, labels = maps.images, maps.labels
        stems = {Path(name).stem: name for name in list_names(labels)}
        of_images = list_images(images)
        lacking = [images / name for stem, name in of_images.items() if f"{stem}.png" not in _names_in(labels)]
        if kind is CocoStuff:  # whose images are in a folder that other sets use too
            findings.note_unused("images have no label map", lacking, len(of_images))
        else:
            findings.note_incomplete("images have no label map", lacking, len(of_images))
            lacking = [labels / name for stem, name in stems.items() if f"{stem}.jpg" not in _names_in(images)]
            findings.note_incomplete("label maps have no image", lacking, len(stems))
        odd = [labels / name for name in stems.values() if not name.endswith(".png")]
        findings.note_incomplete("files beside the label maps are no .png", odd, len(stems))
        paths = maps.paths()
        for path in paths:
            if f"{path.stem}.png" in _names_in(labels):
                findings.look_at(labels / f"{path.stem}.png", _LOSSLESS)
        yield "train", [Entry.of(path, partial(_draw_all, maps, number)) for number, path in enumerate(paths)]

    return read


def _parts(root: Path, kind: type) -> Reader:
    def read(findings: _Findings) -> Iterator[tuple[str, Sequence[Entry]]]:
        parts = kind(root, bad_samples=findings)
        paths = parts.paths()
        total = len(paths) + len(parts.unannotated)
        findings.note_unused("images of the file have no annotation", parts.unannotated, total)
        if kind is PascalPart:  # COCO's folder has other sets' images too
            _note_unlisted(findings, {*paths, *parts.unannotated}, "images are not in the file")
        yield "train", [Entry.of(path, partial(_draw_all, parts, number)) for number, path in enumerate(paths)]

    return read


def _draw_all(source: LabelMaps | PartAnnotations, number: int) -> None:
    entry = source[number]
    read_image(entry.path, size=entry.size)
    for category in entry.categories:
        entry.mask(category)


def _note_unlisted(findings: _Findings, listed: Collection[Path], what: str) -> None:
    """Note the images that lie beside `listed`, and are none of them."""
    for folder in sorted({path.parent for path in listed}):
        present = [folder / name for name in sorted(list_images(folder).values())] if folder.is_dir() else []
        findings.note_unused(what, [path for path in present if path not in listed], len(present))


def _refer_paths(root: Path, name: str, files: ReferFiles) -> tuple[list[Path], list[Path]]:
    folder = root / "refer_seg" / name
    refs = [folder / file for file in files.refs]
    chosen = next((path for path in refs if path.exists()), refs[0])
    pictures = [root / "refer_seg" / images for images in files.images]
    return [chosen, folder / "instances.json"], [next((path for path in pictures if path.exists()), pictures[0])]


def _refer(root: Path, name: str, sets: dict[str, ReferFiles], *, without: str = "") -> Reader:
    def read(findings: _Findings) -> Iterator[tuple[str, Sequence[Entry]]]:
        for split in sorted(ReferTables(root, name, sets).splits.keys() - {without}):
            index = ReferIndex(root, name, split, sets=sets, bad_samples=findings)
            yield split, [Entry.of(image.path, *_refer_steps(index, image)) for image in index]

    return read


def _refer_steps(index: ReferIndex, image: ReferImage) -> Iterator[Callable[[], object]]:
    yield partial(read_image, image.path, size=(image.height, image.width))
    for expression in image.expressions:
        yield partial(index.mask, image, expression)


def _vqa(root: Path, name: str) -> Reader:
    def read(findings: _Findings) -> Iterator[tuple[str, Sequence[Entry]]]:
        paths = dict.fromkeys(path for path, _ in LlavaDialogues(root, name, bad_samples=findings))
        yield "train", [Entry.of(path, partial(read_image, path)) for path in paths]

    return read


def _reason(root: Path, split: str) -> Reader:
    def read(findings: _Findings) -> Iterator[tuple[str, Sequence[Entry]]]:
        images = list_split(root, "ReasonSeg", split)
        names = _names_in(images[0].parent)
        lacking = [image for image in images if image.with_suffix(".json").name not in names]
        findings.note_incomplete("images have no annotation", lacking, len(images))
        lacking = [image.with_suffix(".json") for image in images if image.name not in names]
        findings.note_incomplete("annotations have no image", lacking, len(images))
        paired = [image for image in images if {image.name, image.with_suffix(".json").name} <= names]
        for image in paired:
            try:
                annotation = read_annotation(image.with_suffix(".json"))
                require_target(annotation)
                if annotation.size is not None and annotation.size not in read_sizes(image):
                    read_image(image, size=annotation.size)
            except UserError as error:
                findings.note_error(error)
        yield split, [Entry.of(image, partial(_draw_reason, image)) for image in paired]
        if split == "train":
            explained = [images[0].parent / name for name in read_explanations(root, "ReasonSeg")]
            lacking = [path for path in explained if path.name not in names]
            findings.note_unused("explanations are of no image of the split", lacking, len(explained))

    return read


def _draw_reason(image: Path) -> None:
    annotation = read_annotation(image.with_suffix(".json"))
    draw_regions(annotation, *read_image(image, size=annotation.size).shape[:2])


def _plus(root: Path, name: str) -> Reader:
    def read(findings: _Findings) -> Iterator[tuple[str, Sequence[Entry]]]:
        file = PlusFile(root, name, bad_samples=findings)
        yield "train", [Entry.of(entry.path, partial(_draw_plus, entry)) for entry in file]

    return read


def _draw_plus(entry: PlusEntry) -> None:
    entry.masks(*read_image(entry.path).shape[:2])


def _muse(root: Path, split: str) -> Reader:
    def read(findings: _Findings) -> Iterator[tuple[str, Sequence[Entry]]]:
        file = MuseFile(root, "MultiReasonSeg", split, bad_samples=findings)
        yield split, [Entry.of(entry.path, *_muse_steps(entry)) for entry in file]

    return read


def _muse_steps(entry: MuseEntry) -> Iterator[Callable[[], object]]:
    yield partial(read_image, entry.path, size=(entry.height, entry.width))
    for question in entry.questions:
        yield partial(entry.masks, question)


def _custom(root: Path, name: str) -> Reader:
    def read(findings: _Findings) -> Iterator[tuple[str, Sequence[Entry]]]:
        entries = list(CustomFile(root, name, bad_samples=findings))
        specs = [(entry, spec) for entry in entries for spec in (*entry.mask_specs, entry.ignore_spec)]
        masks = dict.fromkeys(entry.folder / spec for entry, spec in specs if isinstance(spec, str))
        findings.note_incomplete("masks are missing", [path for path in masks if not path.exists()], len(masks))
        for path in masks:
            if path.exists():
                findings.look_at(path, _LOSSLESS)
        used = {*masks, *(entry.path for entry in entries)}
        _note_unlisted(findings, used, f"images are in no line of {name}.jsonl")
        yield name, [Entry.of(entry.path, partial(_draw_custom, entry)) for entry in entries]

    return read


def _draw_custom(entry: CustomEntry) -> None:
    entry.regions(*read_image(entry.path).shape[:2])


def _count(what: str, paths: Sequence[Path], total: int) -> str:
    names = ", ".join(map(str, paths[:NAMED]))
    return f"{len(paths)} of {total} {what}: {names}{', …' if len(paths) > NAMED else ''}"


@cache
def _names_in(folder: Path) -> frozenset[str]:
    """The names in a folder, none if it is not there: one look instead of one for each of a hundred thousand files."""
    return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()


def _check_entries(findings: _Findings, split: str, entries: Sequence[Entry], decode: bool) -> None:
    """Look for the images of a split, or with `decode` draw all that are there."""
    paths = list(dict.fromkeys(entry.path for entry in entries))
    missing = {path for path in paths if path.name not in _names_in(path.parent)}
    if missing:
        lacking = [path for path in paths if path in missing]
        findings.incomplete.append(f"{split}: {_count('images are missing', lacking, len(paths))}")
    if decode:
        for entry in entries:
            if entry.path not in missing:
                findings.draw(entry)
        return
    for path in sorted(set(paths) - missing):
        findings.look_at(path)
