"""Run attacks and print a table: attack, expected, seen, seconds, memory above clean input.

    python -m benchmarks.hostile                  all of them (some ten minutes)
    python -m benchmarks.hostile --quick          the tenth that the tests run
    python -m benchmarks.hostile --only pickle    those whose name holds a text
    python -m benchmarks.hostile --list           their names

`--output FILE.json` keeps the table. Exit code 1 where an attack was not withstood.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import benchmark_parser
from benchmarks.hostile import data_files, models_and_runs
from benchmarks.hostile.attack import Attack, Materials, Outcome, attempt
from groundscore.errors import UserError, printable, run_main

ATTACKS: tuple[Attack, ...] = data_files.ATTACKS + models_and_runs.ATTACKS


def main(argv: Sequence[str]) -> int:
    """Prints a line per attack; returns 0 if all were withstood, else 1."""
    parser = benchmark_parser("hostile", __doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the attacks")
    parser.add_argument("--only", metavar="TEXT", help="attacks whose name holds this")
    parser.add_argument("--list", action="store_true", help="print the names and leave")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the outcomes there too")
    options = parser.parse_args(argv)
    chosen = [
        attack for attack in ATTACKS if (not options.quick or attack.quick) and (options.only or "") in attack.name
    ]
    if not chosen:
        raise UserError(f"--only {options.only}: no attack has this in its name; --list prints them")
    if options.list:
        print("\n".join(attack.name for attack in chosen))
        return 0
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="hostile_") as name:
        materials = Materials(Path(name) / "materials")
        materials.folder.mkdir()
        print(f"{len(chosen)} attacks; first the clean inputs are made", file=sys.stderr)
        print(f"{'attack':44} {'seen':>5} {'s':>6} {'MB':>6}  verdict")
        for number, attack in enumerate(chosen):
            folder = Path(name) / str(number)
            folder.mkdir()
            outcomes.append(attempt(attack, materials, folder))
            print(row(outcomes[-1]), flush=True)
    withstood = sum(not outcome.faults for outcome in outcomes)
    print(f"{withstood} of {len(outcomes)} attacks withstood")
    if options.output:
        options.output.write_text(json.dumps([record(outcome) for outcome in outcomes], indent=1) + "\n")
    return 0 if withstood == len(outcomes) else 1


def row(outcome: Outcome) -> str:
    """A line of the table; if the attack was not withstood, with the reason and the last line of output."""
    code = "-" if outcome.code is None else str(outcome.code)
    line = f"{outcome.attack.name:44} {code:>5} {outcome.seconds:6.1f} {outcome.megabytes:6}"
    if not outcome.faults:
        return f"{line}  withstood"
    return f"{line}  NOT: {'; '.join(outcome.faults)}\n      {printable(outcome.last_line, 200)}"


def record(outcome: Outcome) -> dict:
    """An outcome as JSON."""
    return {
        "attack": outcome.attack.name,
        "expected": list(outcome.attack.codes),
        "seen": outcome.code,
        "seconds": round(outcome.seconds, 1),
        "megabytes_above_clean": outcome.megabytes,
        "faults": list(outcome.faults),
        "last_line": printable(outcome.last_line, 200),
    }


if __name__ == "__main__":
    run_main(main)
