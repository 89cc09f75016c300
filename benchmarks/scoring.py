"""What scoring saved predictions costs: RefCOCO's val, testA and testB at their official sizes, masks as RLE.

    python -m benchmarks.scoring
    python -m benchmarks.scoring --keep DIR        the data stay, for another run or for `groundscore score` itself

Images of COCO's sizes, as many refs and expressions as the official files have, outlines as long as COCO's. The command
`groundscore score` runs on all three splits, and on a quarter of the images, in a process of its own. Printed are the
seconds by the wall clock and of the CPU, the peak of memory beyond what the program itself takes, and the CPU seconds
of each part, which say what bounds the command.
"""

import contextlib
import io
import json
import os
import pickle
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks import benchmark_parser
from groundscore.errors import run_main
from groundscore.reading import read_json

# Images, refs and expressions of the official splits.
SPLITS = {"val": (1500, 3811, 10834), "testA": (750, 1975, 5657), "testB": (750, 1810, 5095)}
SPECS = [f"refcoco|unc|{split}" for split in SPLITS]
SIZES = ((480, 640), (427, 640), (640, 480), (375, 500))  # height and width, the most frequent of COCO
PHOTOS = 24  # different images; the others are links to them
CORNERS = 40  # of a polygon, as of COCO's on average
WORDS = ("left", "right", "man", "woman", "in", "red", "behind", "table", "front", "dog")


def main(argv: Sequence[str]) -> None:
    """Prints a line for the whole and one for a quarter, and what the time goes into."""
    parser = benchmark_parser("scoring", __doc__)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where data and predictions are kept")
    parser.add_argument("--share", type=float, default=1.0, metavar="R", help="of the official sizes (default: 1)")
    flags = parser.parse_args(argv)
    from benchmarks.measuring import in_a_new_process

    with _folder(flags.keep) as root:
        if not (root / "all.jsonl").exists():
            write_data(root, flags.share)
        lines = [f"|{'predictions':20}|expressions|seconds|CPU seconds|peak MB|", "|---|---|---|---|---|"]
        for name, limit in (("a quarter", 0.25), ("all", None)):
            in_a_new_process(_score, root, limit)  # the index is there, and files are in memory
            cost = in_a_new_process(_score, root, limit)
            lines.append(f"|{name}|{cost[0]}|{cost[1]:.1f}|{cost[2]:.1f}|{cost[3]:.0f}|")
        print("\n".join(lines), flush=True)
        print("\n|part|CPU seconds|\n|---|---|")
        for name, seconds in in_a_new_process(measure_parts, root).items():
            print(f"|{name}|{seconds:.1f}|")


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


# --- data -------------------------------------------------------------------------------------------------------------


def write_data(root: Path, share: float) -> None:
    """Writes RefCOCO's files in the official layout, and predictions for every expression of the three splits."""
    rng = np.random.default_rng(0)
    photos = root / "refer_seg/images/mscoco/images/train2014"
    photos.mkdir(parents=True)
    for number in range(PHOTOS):
        height, width = SIZES[number % len(SIZES)]
        coarse = Image.fromarray(rng.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8))
        noise = rng.integers(-12, 13, (height, width, 3))
        image = np.clip(np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) + noise, 0, 255)
        Image.fromarray(image.astype(np.uint8)).save(root / f"photo_{number}.jpg", quality=92)
    noise = rng.normal(0, 24, (900, 900))
    images, annotations, refs, lines = [], [], [], []
    for split, sizes in SPLITS.items():
        image_count, ref_count, expression_count = (max(1, round(share * count)) for count in sizes)
        first = len(images)
        for number in range(first, first + image_count):
            height, width = SIZES[number % PHOTOS % len(SIZES)]
            name = f"COCO_train2014_{number:012}.jpg"
            os.link(root / f"photo_{number % PHOTOS}.jpg", photos / name)
            images.append({"id": number, "file_name": name, "height": height, "width": width})
        asked = [0] * image_count
        for number in range(ref_count):
            image = images[first + number % image_count]
            polygon = _outline(rng, image)
            annotation = len(annotations)
            annotations.append({"id": annotation, "image_id": image["id"], "segmentation": [polygon.tolist()]})
            sentences = expression_count // ref_count + (number < expression_count % ref_count)
            words = [" ".join(rng.choice(WORDS, 3)) for _ in range(sentences)]
            refs.append(
                {
                    "ref_id": annotation,
                    "ann_id": annotation,
                    "image_id": image["id"],
                    "category_id": 1,
                    "split": split,
                    "sentences": [{"sent_id": len(lines) + n, "sent": text} for n, text in enumerate(words)],
                }
            )
            for _ in range(sentences):
                place = asked[number % image_count]
                asked[number % image_count] += 1
                lines.append(_line(rng, noise, split, image, place, polygon))
    folder = root / "refer_seg/refcoco"
    folder.mkdir(parents=True)
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    (root / "all.jsonl").write_text("".join(lines))


def _outline(rng: np.random.Generator, image: dict) -> np.ndarray:
    """A wobbly outline somewhere in the image, x0, y0, x1, y1, …"""
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    radius = np.exp(rng.uniform(3.2, 5)) * (1 + 0.15 * rng.standard_normal(CORNERS).cumsum() / CORNERS**0.5)
    centre = rng.uniform(0.2, 0.8, 2) * (image["width"], image["height"])
    points = centre[:, None] + radius * np.stack([np.cos(angles), np.sin(angles)])
    return np.clip(points.T, 0, (image["width"] - 1, image["height"] - 1)).round(2).reshape(-1)


def _line(
    rng: np.random.Generator, noise: np.ndarray, split: str, image: dict, expression: int, polygon: np.ndarray
) -> str:
    """A prediction: the outline shifted, with the ragged edges that a model's masks have."""
    from groundscore.rle import as_json, encode

    size = (image["height"], image["width"])
    inside = Image.new("L", size[::-1])
    ImageDraw.Draw(inside).polygon((polygon + rng.normal(0, 6)).tolist(), fill=255)
    soft = np.asarray(inside.resize((size[1] // 4, size[0] // 4)).resize(size[::-1], Image.Resampling.BICUBIC))
    row, column = rng.integers(noise.shape - np.array(size))
    ragged = soft + noise[row : row + size[0], column : column + size[1]] > 128
    path = f"refer_seg/images/mscoco/images/train2014/{image['file_name']}"
    line = {"split": f"refcoco|unc|{split}", "image": path, "expression": expression, "present": True}
    return json.dumps(line | {"mask": as_json(encode(ragged))}) + "\n"


# --- measuring --------------------------------------------------------------------------------------------------------


def _score(root: Path, share: float | None) -> tuple[int, float, float, float]:
    """Runs the command on a share of the images; expressions, seconds, CPU seconds, MB beyond the program's."""
    import groundscore.commands as program
    from benchmarks.measuring import peak_memory_mb, reset_peak_memory

    flags = [] if share is None else ["--limit", str(max(1, round(share * _images(root))))]
    flags += ["--data", str(root), "--split", "||".join(SPECS), "--output", str(root / "report.json")]
    before = reset_peak_memory()
    began, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        program.main(["score", str(root / "all.jsonl"), *flags])
    seconds, cpu_seconds, peak = time.perf_counter() - began, time.process_time() - cpu, peak_memory_mb()
    report = read_json(root / "report.json")
    expressions = sum(scores["expressions"] for scores in report["splits"].values())
    return expressions, seconds, cpu_seconds, peak - before


def _images(root: Path) -> int:
    import groundscore

    return len(groundscore.load("refcoco|unc|val", root))


def measure_parts(root: Path) -> dict[str, float]:
    """CPU seconds of what the command does, part by part."""
    import groundscore
    from groundscore.annotations.images import check_image_file
    from groundscore.exchange.jsonl import read_predictions
    from groundscore.scoring.counts import expression_counts
    from groundscore.scoring.masks import to_rle

    splits = groundscore.load_all(SPECS, root)
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        seconds[name] = seconds.get(name, 0.0) + time.process_time() - began

    with timed("reading the lines of predictions"):
        found = read_predictions(root / "all.jsonl", splits)
    for spec, split in splits.items():
        for number in range(len(split)):
            with timed("reading records of the index"):
                item = split[number]
            with timed("checking images"):
                check_image_file(item.image_path, size=item.size)
            with timed("drawing targets"):
                targets = item.targets
            image = item.path_below(root)
            with timed("reading and checking predicted masks"):
                masks = [
                    to_rle(found[spec][image, index].read_masks(), item.size, image) for index in range(len(targets))
                ]
            with timed("counting pixels"):
                for mask, (target,) in zip(masks, targets, strict=True):
                    expression_counts(mask, target)
    return dict(sorted(seconds.items(), key=lambda pair: -pair[1]))


if __name__ == "__main__":
    run_main(main)
