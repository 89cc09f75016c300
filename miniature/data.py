"""Write the miniature data set: `python -m miniature.data --out DIR`."""

import argparse
import itertools
import math
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from groundscore.errors import UserError, run_main
from groundscore.flags import count
from groundscore.progress import ProgressBar
from groundscore.reading import read_json

MARKER = "miniature.json"

# Images per set and split at scale 1. A new set goes to the end: what is drawn for a set depends on its index here.
COUNTS = {
    "ade20k": {"train": 500},
    "refcoco": {"train": 1600, "val": 80, "testA": 60, "testB": 60},
    "grefcoco": {"train": 500, "val": 60, "testA": 40, "testB": 40},
    "reason_seg": {"train": 1000, "val": 80, "test": 120},
    "llava": {"train": 1200},
    "cocostuff": {"train": 120},
    "mapillary": {"train": 60},
    "pascal_part": {"train": 80},
    "paco_lvis": {"train": 100},
    "refcoco+": {"train": 100, "val": 20, "testA": 20, "testB": 20},
    "refcocog": {"train": 100, "val": 20, "test": 20},
    "refclef": {"train": 60, "val": 15, "testA": 15, "testB": 15, "testC": 15},
    "refzom": {"train": 80, "val": 15, "test": 25},
    "R-refcoco": {"train": 60, "val": 15, "testA": 15, "testB": 15},
    "R-refcoco+": {"train": 60, "val": 15, "testA": 15, "testB": 15},
    "R-refcocog": {"train": 60, "val": 15, "test": 15},
    "fprefcoco": {"train": 60, "val": 15, "test": 15},
    "fprefcoco+": {"train": 60, "val": 15, "test": 15},
    "fprefcocog": {"train": 60, "val": 15, "test": 15},
    "reason_seg_plus": {"instance_seg": 40, "cot": 40, "conversations": 40, "caption": 40},
    "multi_reason_seg": {"train": 100, "val": 20, "test_less": 20, "test_many": 20},
}


def main(argv: Sequence[str]) -> None:
    """Writes the data set."""
    arguments = parse(argv)
    write(arguments.out, seed=arguments.seed, scale=arguments.scale, sets=arguments.sets, plain=arguments.plain)
    if arguments.sheet:
        from miniature.sheet import draw_sheet

        draw_sheet(arguments.sheet, seed=arguments.seed)
        print(f"[miniature] a look at it: {arguments.sheet}")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Returns the flags of `python -m miniature.data`."""
    parser = argparse.ArgumentParser(prog="python -m miniature.data", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory to write, the later --dataset_dir")
    parser.add_argument("--seed", type=count, default=0, help="another seed is another world")
    parser.add_argument("--scale", type=_scale, default=1.0, help="factor on the number of images")
    parser.add_argument("--sets", type=_sets, default=tuple(COUNTS), help=f"which of {','.join(COUNTS)} (default: all)")
    parser.add_argument("--plain", action="store_true", help="refcoco: refer to things by colour and name only")
    parser.add_argument("--sheet", type=Path, help="also draw some scenes with what is said about them to this PNG")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser.parse_args(argv)


def _scale(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _sets(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in COUNTS:
            raise UserError(f'--sets: "{name}" is not one of {", ".join(COUNTS)}')
    return names


def write(out: Path, *, seed: int, scale: float, sets: Sequence[str] = tuple(COUNTS), plain: bool = False) -> None:
    """Write the data set; one of the same seed and scale that is complete already is left as it is."""
    import json

    content = {"seed": seed, "scale": scale, "counts": {name: COUNTS[name] for name in sets}, "plain": plain}
    if (out / MARKER).is_file():
        if read_json(out / MARKER, missing="it marks a complete miniature") == content:
            print(f"[miniature] {out} is complete already")
            return
        raise UserError(f"{out} holds another miniature (seed, scale or sets); remove it or choose another --out")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty and no miniature; choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write_sets(partial, seed, scale, sets, plain)
        (partial / MARKER).write_text(json.dumps(content))
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_sets(root: Path, seed: int, scale: float, chosen: Sequence[str], plain: bool) -> None:
    import numpy as np

    from miniature import reasoning_sets, refer_sets, region_sets, sets
    from miniature.language import KIND_WEIGHTS
    from miniature.scenes import Scene, random_scene

    total = sum(_scaled(count, scale) for name in chosen for count in COUNTS[name].values())
    bar, written = ProgressBar("[miniature] images"), itertools.count(1)
    names = [(name, split) for name in COUNTS for split in COUNTS[name]]
    streams = dict(zip(names, np.random.SeedSequence(seed).spawn(len(names))))

    def scenes(name: str, split: str) -> Iterator[Scene]:
        for scene_seed in streams[name, split].generate_state(_scaled(COUNTS[name][split], scale)):
            yield random_scene(int(scene_seed) >> 1)
            bar.show(next(written), total)

    kinds = ("name",) if plain else tuple(KIND_WEIGHTS)
    writers = {
        "ade20k": lambda splits, rng: sets.write_ade20k(root, splits["train"], rng),
        "refcoco": lambda splits, rng: sets.write_refcoco(root, splits, rng, kinds),
        "grefcoco": lambda splits, rng: sets.write_grefcoco(root, splits, rng),
        "reason_seg": lambda splits, rng: sets.write_reason_seg(root, splits, rng),
        "llava": lambda splits, rng: sets.write_llava_instruct(root, splits["train"], rng),
        "cocostuff": lambda splits, rng: region_sets.write_cocostuff(root, splits["train"], rng),
        "mapillary": lambda splits, rng: region_sets.write_mapillary(root, splits["train"], rng),
        "pascal_part": lambda splits, rng: region_sets.write_pascal_part(root, splits["train"], rng),
        "paco_lvis": lambda splits, rng: region_sets.write_paco_lvis(root, splits["train"], rng),
        "refzom": lambda splits, rng: refer_sets.write_refzom(root, splits, rng),
        "reason_seg_plus": lambda splits, rng: reasoning_sets.write_lisa_plus(root, splits, rng),
        "multi_reason_seg": lambda splits, rng: reasoning_sets.write_muse(root, splits, rng),
    }
    for name in refer_sets.SETS:
        writers[name] = partial(refer_sets.write_refer, root, name)
    for number, name in enumerate(COUNTS):
        if name in chosen:
            splits = {split: scenes(name, split) for split in COUNTS[name]}
            writers[name](splits, np.random.default_rng([seed, number]))
    if "R-refcoco" in chosen and "refcoco" in chosen:
        refer_sets.write_unified_refs(root, "refcoco")  # scored beside the sets with false premises


def _scaled(count: int, scale: float) -> int:
    return max(1, round(count * scale))


if __name__ == "__main__":
    run_main(main)
