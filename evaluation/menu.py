"""The menu of benchmarks for a terminal: the reference's entries in its order, then those that its menu lacks."""

from collections.abc import Callable

from groundscore.errors import UserError
from groundscore.splits import BENCHMARKS


def choose_benchmarks(read: Callable[[str], str] = input, show: Callable[[str], None] = print) -> str:
    """Ask which benchmarks to evaluate, until the choice is confirmed; their strings joined by "||".

    Raises `UserError` when the input ends.
    """
    for number, name in enumerate(BENCHMARKS):
        show(f"{number:>3}  {name}")
    while True:
        try:
            chosen = chosen_benchmarks(read("benchmarks (0, 0-2, 0,2,4, all, or a split such as custom|mine): "))
            show("chosen: " + ", ".join(chosen))
            if read("evaluate these? [Y/n] ").strip().lower() in ("", "y", "yes"):
                return "||".join(chosen)
        except UserError as error:
            show(f"{error}; once more")
        except EOFError:
            raise UserError("nothing was chosen; --val_dataset names the splits without a menu") from None


def chosen_benchmarks(text: str) -> list[str]:
    """The benchmarks that numbers, ranges and names separated by commas stand for, each once, in menu order."""
    named, numbers = [], set()
    for part in (part.strip() for part in text.split(",")):
        if part == "all":
            numbers |= set(range(len(BENCHMARKS)))
        elif "|" in part:
            named += [name.strip() for name in part.split("||") if name.strip()]
        elif part:
            numbers |= set(_range(part))
    chosen = [name for number, name in enumerate(BENCHMARKS) if number in numbers]
    chosen += [name for name in dict.fromkeys(named) if name not in chosen]
    if not chosen:
        raise UserError("nothing is chosen")
    return chosen


def _range(text: str) -> range:
    first, dash, last = (piece.strip() for piece in text.partition("-"))
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise UserError(f"{text!r} is neither a number of the menu nor a range of them")
    start, end = int(first), int(last) if dash else int(first)
    if start > end or end >= len(BENCHMARKS):
        raise UserError(f"{text!r} is outside 0-{len(BENCHMARKS) - 1}")
    return range(start, end + 1)
