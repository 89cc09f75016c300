"""What answering concurrent requests together brings, over HTTP.

    python -m benchmarks.service                                   the shipped miniature
    python -m benchmarks.service --version runs/quickstart/hf

The same questions, each about another image, are asked one by one and by --max_batch clients at once, in turn. The best
time of each counts; the ratio is that of one run on one machine.
"""

from __future__ import annotations

import io
import time
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from groundscore.errors import run_main
from groundscore.flags import positive
from inference.limits import Limits
from inference.model_flags import add_model_flags
from inference.service.serving import ALONE, ServiceServer, add_service_flags, load_session
from utils.flags import FlagParser

WEIGHTS = Path(__file__).parents[1] / "miniature/weights"
MINIATURE = (
    *("--version", str(WEIGHTS / "llava"), "--vision_tower", str(WEIGHTS / "clip"), "--model_key", "UGround"),
    *("--vision_pretrained", str(WEIGHTS / "sam_miniature.pth")),
)
PAGE_FLAGS = {"host": "127.0.0.1", "port": None, "root_path": None, "share": False, "auth": None, "tab": None}


def build_parser() -> FlagParser:
    """Returns the parser of this benchmark."""
    parser = FlagParser(prog="python -m benchmarks.service", description=__doc__.partition("\n")[0])
    add_model_flags(parser, version_required=False)
    add_service_flags(parser)
    group = parser.add_argument_group("benchmark")
    group.add_argument("--questions", type=positive, default=16, metavar="N", help="questions of a round")
    group.add_argument("--rounds", type=positive, default=3, metavar="N", help="rounds, of which the best counts")
    group.add_argument("--threads", type=positive, default=2, metavar="N", help="CPU threads")
    group.add_argument("--max_new_tokens", type=positive, default=32, metavar="N", help="length of an answer")
    return parser


def main(argv: Sequence[str]) -> None:
    """Prints a table with one line."""
    parser = build_parser()
    flags = parser.parse(argv)
    if flags.version is None:
        flags = parser.parse([*MINIATURE, *argv])
    one, together = measure(flags)
    print(f"|questions|one by one, s|{flags.max_batch} at once, s|ratio|\n|---|---|---|---|")
    print(f"|{flags.questions}|{one:.2f}|{together:.2f}|{one / together:.2f}|")


def measure(flags: Namespace) -> tuple[float, float]:
    """Returns the least seconds for all questions one by one, and at once."""
    import torch

    from inference.service.client import GroundingClient

    torch.set_num_threads(flags.threads)
    limits = Limits(answer=flags.max_new_tokens, together=flags.max_batch, waiting=flags.questions)
    served = Namespace(**vars(flags) | PAGE_FLAGS | {"api": ALONE})
    server = ServiceServer(served, limits, lambda tell: load_session(served, limits, tell))
    server.start()
    try:
        server.model.wait()
        server.model.get()
        client, images = GroundingClient(server.url), [_image(number) for number in range(flags.questions)]

        def ask(number: int) -> None:
            client.ground(images[number], f"Where is the red clock, number {number}?")

        ask(0)
        seconds: list[list[float]] = [[], []]
        for _ in range(flags.rounds):
            for clients, taken in zip((1, flags.max_batch), seconds, strict=True):
                with ThreadPoolExecutor(clients) as pool:
                    began = time.perf_counter()
                    list(pool.map(ask, range(flags.questions)))
                    taken.append(time.perf_counter() - began)
        return min(seconds[0]), min(seconds[1])
    finally:
        server.close()


def _image(number: int) -> bytes:
    """The file of an image of random blocks."""
    import numpy as np
    from PIL import Image

    blocks = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(blocks).resize((320, 240), Image.Resampling.NEAREST).save(content, "PNG")
    return content.getvalue()


if __name__ == "__main__":
    run_main(main)
