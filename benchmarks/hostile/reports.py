"""Reports and saved predictions with hostile values."""

import json
import math
from pathlib import Path

from benchmarks.hostile.attack import Attack, Materials


def _compared(damage):
    """An attack on a report: `damage(value)` changes it, then it is compared with the clean one."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        clean = materials.report()
        value = json.loads(clean.read_text())
        value = damage(value) or value
        hostile = folder / "hostile.json"
        hostile.write_text(value if isinstance(value, str) else json.dumps(value))
        for rows in clean.parent.glob(f"{clean.stem}*.jsonl"):
            (folder / rows.name.replace(clean.stem, "hostile", 1)).write_bytes(rows.read_bytes())
        return ["eval.py", "--compare", str(hostile), str(clean)]

    return prepare


def _row(field: str, replacement):
    """An attack on the rows beside a report: the field of the first row becomes something else."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        clean = materials.report()
        hostile = folder / "hostile.json"
        hostile.write_bytes(clean.read_bytes())
        first, *others = clean.with_suffix(".rows.jsonl").read_text().splitlines()
        row = json.loads(first)
        if field not in row:
            raise RuntimeError(f"rows have no {field!r} any more, but {sorted(row)}")
        row[field] = replacement
        hostile.with_suffix(".rows.jsonl").write_text("\n".join([json.dumps(row), *others]) + "\n")
        return ["eval.py", "--compare", str(hostile), str(clean)]

    return prepare


HOSTILE = (
    ("NaN", math.nan),
    ("-1", -1),
    ("text", "12"),
    ("null", None),
    ("true", True),
    ("a list", [1]),
    ("400 digits", 10**400),
)

ATTACKS = (
    *(
        Attack(f"report: {field} of a row is {name}", _row(field, value), says=("hostile.rows.jsonl",),
               quick=(field, name) == ("intersection", "NaN"))
        for field in ("intersection", "union")
        for name, value in HOSTILE
    ),
    Attack("report: a list", _compared(lambda value: "[]"), says=("hostile.json",)),
    Attack("report: nothing", _compared(lambda value: "{}"), says=("hostile.json",)),
    Attack("report: 100,000 brackets deep", _compared(lambda value: '{"a":' * 100_000 + "1" + "}" * 100_000)),
)  # fmt: skip
