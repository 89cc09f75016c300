"""The reference implementation and this one side by side: the same weights, the same batch, one run.

    python -m benchmarks.versus --reference DIR                    training step, evaluation, generation
    python -m benchmarks.versus --reference DIR --lora_r 8         LoRA on q_proj and v_proj, as in the recipes
    python -m benchmarks.versus --reference DIR --images 3 --sizes 480x640,640x427,1080x1920 --conversations 5 --segs 2

DIR is a checkout of the public UGround repository, and its Python (--python) one with the libraries that it needs;
docs/performance.md says how to get both. Each implementation runs in a process of its own. They are first compared on
one batch with the policy's choices given, and refused unless they have the same losses. Then they take turns: CPU
seconds of the process on --threads threads, and the most memory that it had during the piece of work; medians of
--repeats turns after one that warms up, with the least and the most. A ratio is the median of the turns' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import benchmark_parser
from groundscore.errors import UserError, run_main
from groundscore.writing import write_json

ROOT = Path(__file__).resolve().parent.parent
WORKS = {
    "train": "training step",
    "evaluate": "evaluation on given answers",
    "generate": "generation of {tokens} tokens",
}
SAME = 1e-3  # largest relative difference of two losses that are taken for the same
NO_LOSS = ("policy_loss",)  # that the reference does not report by itself
USUAL, SDPA = "eager", "sdpa"  # attention of the reference's LLM on a CPU: its own, and PyTorch's fused one


@dataclass(frozen=True)
class Comparison:
    """What both sides run; shape: fields of `BenchShape` that differ from the bench's."""

    shape: dict[str, Any] = field(default_factory=dict)
    lora_r: int = 0
    lora_dropout: float = 0.05
    prompt_tokens: int = 60
    new_tokens: int = 32
    threads: int = 1


def main(argv: Sequence[str]) -> None:
    """Prints the table of all works."""
    parser = benchmark_parser("versus", __doc__)
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR", help="checkout of the reference")
    parser.add_argument(
        "--python", type=Path, metavar="FILE", help="Python with its libraries (default: DIR/.venv/bin/python)"
    )
    parser.add_argument("--work", choices=[*WORKS, "all"], default="all")
    parser.add_argument("--attention", choices=[USUAL, SDPA, "both"], default="both", help="of the reference's LLM")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns that count (default: 5)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of each process (default: 1)")
    parser.add_argument("--lora_r", type=int, default=0, metavar="N", help="rank of LoRA; 0 trains the LLM (default)")
    parser.add_argument("--lora_dropout", type=float, default=0.05, metavar="P", help="(default: 0.05)")
    parser.add_argument("--images", type=int, metavar="N", help="images of a training batch (default: 2)")
    parser.add_argument("--sizes", type=_sizes, metavar="HxW,…", help="of the images, in turn (default: 480x640)")
    parser.add_argument("--conversations", type=int, metavar="N", help="conversations about each image (default: 3)")
    parser.add_argument("--segs", type=int, metavar="N", help="[SEG] per answer (default: 1)")
    parser.add_argument("--layers", type=int, metavar="N", help="layers of the LLM (default: 8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all turns there")
    flags = parser.parse_args(argv)
    named = ("images", "sizes", "conversations", "segs", "layers")
    shape = {name: value for name in named if (value := getattr(flags, name)) is not None}
    comparison = Comparison(shape, flags.lora_r, flags.lora_dropout, threads=flags.threads)
    checkout, python = flags.reference, flags.python or flags.reference / ".venv" / "bin" / "python"
    check_checkout(checkout, python)
    works = list(WORKS) if flags.work == "all" else [flags.work]
    attentions = [USUAL, SDPA] if flags.attention == "both" else [flags.attention]
    with both_sides(comparison, checkout.resolve(), python) as (ours, reference):
        print(f"losses differ by at most {check_losses(ours, reference):.1e} of their size\n", flush=True)
        head = "|work|what|ours|" + "".join(f"reference, {each}|ratio|" for each in attentions)
        print(head + "\n" + "|---" * (head.count("|") - 1) + "|", flush=True)
        turns = {}
        for work in works:
            turns[work] = take_turns(work, comparison, ours, reference, attentions, flags.repeats)
            for line in table_rows(WORKS[work].format(tokens=comparison.new_tokens), turns[work]):
                print(line, flush=True)
    if flags.json:
        write_json(flags.json, {"comparison": asdict(comparison), "turns": turns})


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    """(height, width) of each of "480x640,1080x1920"."""
    try:
        sizes = tuple((int(height), int(width)) for height, width in (each.split("x") for each in text.split(",")))
    except ValueError:
        sizes = ()
    if not sizes or min(min(size) for size in sizes) < 8:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of heights and widths like 480x640,1080x1920")
    return sizes


def check_checkout(checkout: Path, python: Path) -> None:
    """Raises `UserError` unless there is a checkout and a Python to run it."""
    if not (checkout / "model" / "UGround.py").is_file():
        raise UserError(f"--reference {checkout}: no checkout of UGround, it has no model/UGround.py")
    if not python.is_file():
        raise UserError(
            f"--python {python}: there is no such file; docs/performance.md says how to make an environment for the "
            "reference, whose libraries are older than ours"
        )


# --- two processes ---------------------------------------------------------------------------------------------------


class Side:
    """A process that answers requests, see `versus_reference.serve`; name: in messages; log: where it prints."""

    def __init__(self, name: str, command: Sequence[str | Path], log: Path, threads: int, cwd: Path):
        self.name, self._log = name, log
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        with log.open("w") as printed:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                text=True,
                cwd=cwd,
                env=environment,
            )

    def ask(self, work: str, **options: Any) -> dict[str, Any]:
        """The answer: `cpu_seconds`, `peak_gb` and `value`; `UserError` with the end of its log if it dies."""
        try:
            self._process.stdin.write(json.dumps({"work": work, **options}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; its log says why
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            end = "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])
            raise UserError(f"{self.name} ended with status {self._process.returncode} during {work!r}:\n{end}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        with suppress(BrokenPipeError):  # it died with a request unread
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextmanager
def both_sides(comparison: Comparison, checkout: Path, python: Path) -> Iterator[tuple[Side, Side]]:
    """Our process, which exports its weights and batches, and then the reference's, which reads them."""
    with tempfile.TemporaryDirectory(prefix="versus-") as folder, ExitStack() as started:
        exported = Path(folder) / "exported"
        exported.mkdir()

        def start(name: str, log: str, *command: str | Path) -> Side:
            side = Side(name, command, Path(folder) / log, comparison.threads, ROOT)
            started.callback(side.close)
            return side

        settings = json.dumps(asdict(comparison))
        ours = start("our side", "ours.log", sys.executable, "-m", "benchmarks.versus_ours", exported, settings)
        ours.ask("choices")  # answered once the export is written
        script = ROOT / "benchmarks" / "versus_reference.py"
        yield ours, start("the reference's side", "reference.log", python, script, checkout, exported)


# --- what they are asked ---------------------------------------------------------------------------------------------


def check_losses(ours: Side, reference: Side) -> float:
    """The largest relative difference of a loss, with the policy's choices given; `UserError` if it is no rounding."""
    choices = ours.ask("choices")["value"]
    here, there = (side.ask("losses", layers=choices)["value"] for side in (ours, reference))
    shared = [name for name in there if name not in NO_LOSS]
    differences = {name: abs(here[name] - there[name]) / max(abs(there[name]), 1e-9) for name in shared}
    worst = max(differences, key=differences.__getitem__)
    if not differences[worst] <= SAME:
        raise UserError(
            f"the two do not compute the same: {worst} is {here[worst]:.6g} here and {there[worst]:.6g} in the "
            "reference; their times cannot be compared. Is the checkout the one that docs/performance.md names?"
        )
    return differences[worst]


def take_turns(
    work: str, comparison: Comparison, ours: Side, reference: Side, attentions: Sequence[str], repeats: int
) -> dict[str, list[dict[str, float]]]:
    """`repeats` answers of "ours" and of the reference with each attention, in turn."""
    arms = {"ours": (ours, {}), **{each: (reference, {"attention": each}) for each in attentions}}
    turns: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    for turn in range(repeats + 1):
        for arm, (side, options) in arms.items():
            answer = side.ask(work, tokens=comparison.new_tokens, **options)
            if turn:  # the first one warms up
                turns[arm].append({"cpu_seconds": answer["cpu_seconds"], "peak_gb": answer["peak_gb"]})
    return turns


def table_rows(name: str, turns: dict[str, list[dict[str, float]]]) -> list[str]:
    """Two lines of a Markdown table: CPU seconds and peak memory, each with its ratios to the reference."""
    lines = []
    for what, title in (("cpu_seconds", "CPU s"), ("peak_gb", "peak GB")):
        ours = [turn[what] for turn in turns["ours"]]
        cells = [name, title, spread(ours, ".2f")]
        for arm, of_arm in turns.items():
            if arm != "ours":
                theirs = [turn[what] for turn in of_arm]
                ratios = [here / there for here, there in zip(ours, theirs, strict=True)]
                cells += [spread(theirs, ".2f"), spread(ratios, ".3f")]
        lines.append(f"|{'|'.join(cells)}|")
    return lines


def spread(values: Sequence[float], form: str) -> str:
    """The median, and the least and the most."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


if __name__ == "__main__":
    run_main(main)
