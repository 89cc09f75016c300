"""Train the miniature's vision encoders before any language: `python -m miniature.vision --help`.

The published models start from a CLIP that recognises what images show and from a SAM that segments what is pointed
at; so does the miniature. CLIP learns to classify its patches: what is there, in which colour, of which size and on
which square of a board; so does the image encoder in Qwen3-VL's layout. SAM learns the masks of objects (or of the
background) from points on them, from their names, colours and sizes, and from coarse maps like those of an LLM; any
other mask decoder learns the same, and whether there is an object where it scores that. Scenes are generated in memory.
The encoders are independent: train both at the same time, each on one core.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from groundscore.errors import UserError, run_main
from groundscore.flags import count
from miniature.sizes import SEGMENTERS

ENCODERS = ("clip", "qwen3_vl")


def main(argv: Sequence[str]) -> None:
    """Train one encoder in place; a base whose encoder is trained already stays as it is."""
    parser = argparse.ArgumentParser(prog="python -m miniature.vision", description=__doc__.partition(":")[0] + ".")
    parser.add_argument("encoder", choices=(*ENCODERS, *SEGMENTERS), help="which encoder to train")
    parser.add_argument("--base", type=Path, required=True, help="untrained base models, of which it is replaced")
    parser.add_argument("--steps", type=count, default=1500, help="optimizer steps of 16 images (1500)")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate (2e-3)")
    parser.add_argument("--seed", type=count, default=1, help="of the scenes and the initial weights (1)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(argv)
    part = options.encoder if options.encoder in ENCODERS else f"{options.encoder}_miniature*"
    if not any(options.base.glob(part)):
        raise UserError(f"--base {options.base} holds no {part}; python -m miniature.base --out writes base models")
    finished = options.base / f"{options.encoder}.trained"
    if finished.is_file():
        print(f"[miniature] {options.encoder} of {options.base} is trained already")
        return
    import torch

    from miniature.encoders import train_clip, train_qwen
    from miniature.segmenters import train_segmenter

    own = {"clip": train_clip, "qwen3_vl": train_qwen}
    train = own.get(options.encoder) or partial(train_segmenter, options.encoder)
    torch.manual_seed(options.seed)
    train(options.base, steps=options.steps, lr=options.lr, seed=options.seed)
    finished.write_text(f"{options.steps} steps\n", encoding="utf-8")


if __name__ == "__main__":
    run_main(main)
