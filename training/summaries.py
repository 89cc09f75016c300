"""The tables that a run begins with: its flags, its data, its parameters and how they are trained.

Every function returns lines of text; nothing is printed here.
"""

import textwrap
from collections.abc import Mapping, Sequence

from dataloaders.families import FAMILIES
from dataloaders.mixture import Mixture
from training.config import TrainingConfig
from training.loop import Schedule
from training.trainable import ParameterCount, human
from utils.distributed import World
from utils.settings import settings_of

WIDTH = 100  # of lines in a file
RULE = "─"


def heading(title: str) -> list[str]:
    """A title with a rule under it."""
    return ["", title, RULE * len(title)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, totals: int = 0) -> list[str]:
    """Columns as wide as needed, the first to the left and the others to the right; a rule above the last `totals`
    rows."""
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]

    def write(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if n == 0 else cell.rjust(width) for n, (cell, width) in enumerate(zip(line, widths))
        ]
        return "  " + "  ".join(cells).rstrip()

    rule = "  " + "  ".join(RULE * width for width in widths)
    lines = [write(head), rule, *(write(row) for row in rows[: len(rows) - totals])]
    return lines + ([rule, *(write(row) for row in rows[-totals:])] if totals else [])


def pairs(values: Mapping[str, object], *, width: int | None = None) -> list[str]:
    """Names and values below each other; values that are too long for a terminal of `width` are wrapped."""
    room = width or WIDTH
    width = max(map(len, values), default=0)
    lines = []
    for name, value in values.items():
        first, *others = textwrap.wrap(str(value), max(room - width - 4, 1), break_long_words=False) or [""]
        lines.append(f"  {name.ljust(width)}  {first}".rstrip())
        lines += [" " * (width + 4) + other for other in others]
    return lines


def describe_flags(config: TrainingConfig, *, width: int | None = None) -> list[str]:
    """All flags by group; what was given, on the command line or in a file, has a star. Unset flags and those about
    families that are not trained on are left out. width: of the terminal."""
    groups: dict[str, list[str]] = {}
    unused = {
        name
        for each, family in FAMILIES.items()
        if each not in config.families
        for name in settings_of(family.Settings)
    }
    for setting in settings_of(type(config)).values():
        value = getattr(config, setting.name)
        if value in (None, "") or setting.name in ("local_rank", "print_flags", *unused):
            continue
        star = "*" if setting.name in config.given else ""
        groups.setdefault(setting.group, []).append(f"{setting.name}{star} {_shown(value)}")
    lines = [*heading("Flags (* as given)")]
    widest = max(map(len, groups))
    for group, items in groups.items():
        lines += _side_by_side(group.ljust(widest), items, width or WIDTH)
    return lines


def _side_by_side(label: str, items: Sequence[str], width: int) -> list[str]:
    """Items side by side after a label, broken between items only."""
    lines, line = [], f"  {label} "
    for number, item in enumerate(items):
        piece = f" {item}" + ("," if number < len(items) - 1 else "")
        if len(line) + len(piece) > width and line.strip() != label.strip():
            lines.append(line)
            line = " " * (len(label) + 3)
        line += piece
    return [*lines, line]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe_data(mixture: Mixture, samples_per_epoch: int, validation: Mapping[str, int]) -> list[str]:
    """Families with their share of an epoch and the sizes of their data sets; `validation`: images by split."""
    rows = []
    for family, share in zip(mixture.families, mixture.probabilities.tolist(), strict=True):
        sizes = family.sizes()
        rows.append(
            (family.name, f"{100 * share:.1f} %", f"{share * samples_per_epoch:,.0f}", f"{sum(sizes.values()):,}")
        )
        if list(sizes) != [family.name]:
            rows += [(f"  {name}", "", "", f"{size:,}") for name, size in sizes.items()]
    everything = sum(sum(family.sizes().values()) for family in mixture.families)
    rows.append(("all", "100 %", f"{samples_per_epoch:,}", f"{everything:,}"))
    lines = [*heading("Data"), *table(("training", "share", "samples/epoch", "to draw from"), rows, totals=1)]
    if validation:
        lines += ["", *table(("validation", "images"), [(name, f"{size:,}") for name, size in validation.items()])]
    return lines


def describe_parameters(counts: Sequence[ParameterCount]) -> list[str]:
    """A table of the parts of the model: all parameters, and the trainable ones."""
    total, trainable = sum(c.total for c in counts), sum(c.trainable for c in counts)
    rows = [(c.part, human(c.total), human(c.trainable) if c.trainable else "-", _share(c)) for c in counts]
    rows.append(("all", human(total), human(trainable), f"{100 * trainable / max(total, 1):.2f} %"))
    return [*heading("Parameters"), *table(("part", "all", "trainable", "share"), rows, totals=1)]


def _share(count: ParameterCount) -> str:
    return f"{100 * count.trainable / count.total:.2f} %" if count.trainable else "-"


def describe_training(
    config: TrainingConfig, schedule: Schedule, world: World, precision: str, *, width: int | None = None
) -> list[str]:
    """What a step is, how many there are, and on what they run. width: of the terminal."""
    steps = f"{schedule.total_steps:,} = {schedule.epochs} epochs × {schedule.steps_per_epoch:,}"
    batch = (
        f"{schedule.samples_per_step} = batch {schedule.batch_size} × accumulation {schedule.accumulation} × "
        f"world size {schedule.world_size}"
    )
    optimizers = "Muon and AdamW" if config.optimizer == "muon" else "AdamW"
    values = {
        "steps": steps,
        "samples/step": batch,
        "optimizer": f"{optimizers}, betas {config.beta1:g} {config.beta2:g}",
        "learning rate": f"{config.warmup_min_lr:g} to {config.lr:g} in {config.warmup_num_steps} steps, then to 0",
        "device": f"{world.device.type}, {precision}, ZeRO stage {config.zero_stage}",
    }
    return [*heading("Training"), *pairs(values, width=width)]
