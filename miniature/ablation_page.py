"""The page of the policy study: what the policy buys in its first lines, tables of all rows, findings, and plots."""

import argparse
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from groundscore.scoring import percent
from groundscore.scoring.layer_rows import SIDES
from groundscore.scoring.layers import LEAST
from groundscore.scoring.tables import markdown_table
from groundscore.splits import QUERY_KINDS
from miniature.ablation_results import (
    ANALYSED,
    COMPARED,
    GENERATED,
    GIVEN,
    LAST_ROW,
    LEARNED,
    above_noise,
    audits,
    best_layer,
    difference,
    favourite,
    final_entropy,
    gain,
    layer_curve,
)
from miniature.study_results import COLUMNS, LEVEL, Results, StudyRow, bounds, interval, queries_table, spread

FEW = 4  # rows that are named where they are missing
# What `scripts/miniature/pretrain.sh` makes, by the names that the study's script gives them.
BASES = {
    "none": "whose pretraining trained no map (`MAPS=none`)",
    "all": "with the map of a random layer for each target, which is the shipped one",
    "last": "with the map of the last layer (`MAPS=last`)",
}


def page(results: Results, rows: Sequence[StudyRow], images: dict[str, Path], options: argparse.Namespace) -> str:
    """The page as Markdown; `images` by name, linked relative to the page."""
    seeds = sorted({seed for runs in results.values() for seed in runs})
    bases = list(dict.fromkeys(row.base for row in rows))
    missing = [row.title for row in rows if row.name not in results]

    told = [f"`{base}` {BASES[base]}" for base in bases if base in BASES]
    made = textwrap.fill(f"Bases of `scripts/miniature/pretrain.sh`: {'; '.join(told)}.", 120) if told else ""

    def image(name: str, title: str) -> str:
        if name not in images:
            return ""
        return f"\n![{title}]({images[name].relative_to(options.out.parent).as_posix()})\n"

    return f"""# What does the layer policy buy?

{verdicts(results, rows, bases)}

UGround lets every `[SEG]` choose the hidden state whose similarity map prompts SAM. Each row is trained for
{options.steps} steps of LoRA, on the same batches for the same seed, and scored on the first {options.limit} images of
each held-out split; means over seeds ({", ".join(map(str, seeds))}) ± standard deviation, "seeds" of them where a row
has not all. Every run has a page of its own with all layers (`python -m evaluation.audit`).
{made}
{_missing(missing, len(rows))}
{COLUMNS}

## Answers that the model writes itself

{queries_table(results, rows, "generated")}

## Given answers

{queries_table(results, rows, "given")}

## What holds

{findings(results, rows, bases)}

## The best layer, and luck

Masks decoded from each hidden state. The best of all layers, taken by the truth, gains over the last layer; the best of
as many redraws of the last layer (dropout on its `[SEG]` state) gains by luck. What is left is the layers'. "Above
noise" is the share of expressions for which another layer is better by more than 95 % of the expressions gain from
redraws; beside it the same share of the redraws. Means over {", ".join(ANALYSED)}.

Answers that the model writes itself:

{gains_table(results, rows, GENERATED)}

Given answers, which hold all expressions of an image at once, as no row was trained:

{gains_table(results, rows, GIVEN)}

Which kinds of query gain from another layer, beyond luck, in answers that the model writes itself (all rows of a base
together):

{kinds_table(results, rows, bases)}

gIoU by layer, of the policy, and of the best layer of each expression, in answers that the model writes itself:

{layers_table(results, rows)}
{image("layers", "gIoU of every layer")}
## Where the maps point

How often the map of a layer is highest on the target: over the layer's image tokens, with which UGround prompts SAM,
and over SAM's image embedding, as READ draws it (the similarity to the projected `[SEG]` state). Answers that
the model writes itself, in percent of the targets, means over the three splits and seeds. The audits show such maps.

{pointing_table(results, rows)}

## The policies over training

Reward is minus the map loss of the chosen layer. The histograms show the first seed of each row.
{image("training", "entropy and reward over training")}{image("histograms", "chosen layers over training")}
The results are in `docs/reports/policy_study`, a directory for `--runs`; `./scripts/miniature/ablation.sh` makes some
of one's own. An [earlier study](ablation.md) used a base whose pretraining had settled on the last layer.
"""


def _missing(titles: Sequence[str], rows: int) -> str:
    """Which rows have no result yet, by name if there are few."""
    if not titles:
        return ""
    if len(titles) > FEW:
        return f"\n{len(titles)} of {rows} rows (every row on every base) are not trained; `--dry_run` lists them.\n"
    return f"\nNot trained yet: {'; '.join(titles)}.\n"


def verdicts(results: Results, rows: Sequence[StudyRow], bases: Sequence[str]) -> str:
    """The finding; then for each base the policy against the last layer, and what is left of the best layer's gain
    without luck."""
    lines = []
    for base in bases:
        learned, last = (f"{base}.{name}" if base else name for name in (LEARNED, LAST_ROW))
        found = difference(results, learned, last)
        left = spread(gain(run, "beyond_luck") for run in results.get(learned, {}).values())
        shares = [
            spread(above_noise(run, of) for run in results.get(learned, {}).values()) for of in ("layers", "redraws")
        ]
        parts = [f"the policy against the last layer {interval(found)}" if found else "the policy is not trained yet"]
        if left:
            parts.append(f"the best layer of each expression beyond luck {interval(left)}")
        if None not in shares:
            another, redraw = (f"{percent(share.mean)} %" for share in shares)
            parts.append(f"more than noise is gained by another layer on {another} of them, by a redraw on {redraw}")
        lines.append(f"**{base or 'This base'}**: {'; '.join(parts)}.")
    told = "\n".join(textwrap.fill(f"- {line}", 120, subsequent_indent="  ") for line in lines)
    return f"{_headline(results, bases)}\n{told}"


def _headline(results: Results, bases: Sequence[str]) -> str:
    """The finding in a sentence: on which bases the policy is better than the last layer, or worse, beyond noise."""
    better, worse, open_ones = [], [], []
    for base in bases:
        learned, last = (f"{base}.{name}" if base else name for name in (LEARNED, LAST_ROW))
        found = difference(results, learned, last)
        low, high = (-1.0, 1.0) if found is None or found.n < 2 else bounds(found)
        decided = found is not None and abs(found.mean) >= LEAST and not low <= 0 <= high
        (open_ones if not decided else better if found.mean > 0 else worse).append(base or "this base")
    if not better and not worse:
        return "**The policy buys nothing that these runs can show**: no base decides between it and the last layer."
    parts = [f"{name} on {', '.join(some)}" for name, some in (("better", better), ("worse", worse)) if some]
    rest = f", not decided on {', '.join(open_ones)}" if open_ones else ""
    return f"**The policy against the last layer: {' and '.join(parts)}**{rest}."


def gains_table(results: Results, rows: Sequence[StudyRow], answer: str) -> str:
    """One line for each row that has layers; answer: `GENERATED` or `GIVEN`."""
    lines = [
        ["row", "likeliest layer (share)", "entropy", "best layer", "luck", "beyond luck", "above noise", "redraws"]
    ]
    for row in rows:
        all_runs = results.get(row.name, {}).values()
        runs = [run for run in all_runs if any(one.get("gains") for one in audits(run, answer))]
        if not runs:
            continue
        likes = [favourite(run) for run in runs] if row.has_policy else []
        numbers = [spread(gain(run, name, answer) for run in runs) for name in ("layers", "luck", "beyond_luck")]
        numbers += [spread(above_noise(run, name, answer) for run in runs) for name in ("layers", "redraws")]
        shown = ", ".join(f"{layer} ({share:.0%})" for layer, share in filter(None, likes))
        entropy = spread(final_entropy(run) for run in runs)
        lines.append([row.title, shown or "-", str(entropy or "-"), *(one.percent if one else "-" for one in numbers)])
    return markdown_table(lines) if len(lines) > 1 else "No row of UGround has run yet."


def kinds_table(results: Results, rows: Sequence[StudyRow], bases: Sequence[str]) -> str:
    """The gain beyond luck by kind of query: means over runs, splits and rows of a base."""
    lines = [["base", *QUERY_KINDS[:4]]]
    for base in bases:
        runs = [run for row in rows if row.base == base for run in results.get(row.name, {}).values()]
        cells = []
        for kind in QUERY_KINDS[:4]:
            found = [one["kinds"].get(kind, {}).get("beyond_luck") for run in runs for one in audits(run)]
            scores = spread(one["value"] for one in found if one)
            cells.append(scores.percent if scores else "-")
        lines.append([base or "this base", *cells])
    return markdown_table(lines)


def layers_table(results: Results, rows: Sequence[StudyRow]) -> str:
    """gIoU of every layer, of the policy's choice and of the best layer, for each analysed split."""
    curves = [(row, split, layer_curve(results.get(row.name, {}), split)) for row in rows for split in ANALYSED]
    curves = [one for one in curves if one[2]]
    if not curves:
        return "No row of UGround has run yet."
    depth = max(len(curve["layers"]) for _, _, curve in curves)
    lines = [["row", "split", *map(str, range(depth)), "policy", "best"]]
    for row, split, curve in curves:
        values = [percent(value) for value in curve["layers"]] + [""] * (depth - len(curve["layers"]))
        lines.append([row.title, split, *values, percent(curve["policy"]), percent(curve["best"])])
    return markdown_table(lines)


def pointing_table(results: Results, rows: Sequence[StudyRow]) -> str:
    """How often the maps of every layer are highest on their target, a line for each row and side of the maps."""
    found = {}
    for row in rows:
        for side in SIDES:
            curves = [one["pointing"][side] for run in results.get(row.name, {}).values() for one in audits(run)
                      if side in one.get("pointing", {})]  # fmt: skip
            if curves:
                found[row.title, side] = [spread(one[name]["value"] for one in curves).mean for name in curves[0]]
    if not found:
        return "No row has maps yet."
    depth = max(map(len, found.values()))
    lines = [["row", "map over", *map(str, range(depth))]]
    for (title, side), shares in found.items():
        # A system without a choice has the map of its last layer alone.
        lines.append([title, side, *[""] * (depth - len(shares)), *(percent(share) for share in shares)])
    return markdown_table(lines)


def findings(results: Results, rows: Sequence[StudyRow], bases: Sequence[str]) -> str:
    """What the numbers say, as a list; differences are paired by seed."""
    claims = [
        (LEARNED, LAST_ROW, "the policy", "the fixed last layer"),
        ("mode3_context", LEARNED, "the context gate", "a gate per layer"),
        ("mode3_context_expected", "mode3_expected", "the context gate with expected", "a gate per layer"),
        (LEARNED, "mode3_sample_ema", "leave_one_out", "sample + EMA"),
        ("mode3_expected", LEARNED, "expected", "leave_one_out"),
        (LEARNED, "mode2", "mode 3", "mode 2"),
        ("mode1_all_maps", LAST_ROW, "similarity loss on all layers without a policy", "on the last alone"),
        ("mode3_all_maps", "mode1_all_maps", "the policy over layers that are all trained", "their last layer"),
        ("mode3_context_all_maps", "mode1_all_maps", "the context gate over layers that are all trained", "their last"),
        ("mode3_sample_ema", "mode3_sample_none", "the EMA baseline", "no baseline"),
        ("mode3_sample_critic", "mode3_sample_ema", "the critic", "the EMA baseline"),
        ("mode3_sample_ema", "mode3_reference", "a reward per target and normalized states", "the reference's form"),
        (LEARNED, "no_mask_prompt", "the mask prompt", "none"),
        (LEARNED, "no_map_loss", "the similarity loss", "none"),
        ("mode3_entropy", LEARNED, "an entropy bonus", "none"),
        (LAST_ROW, "lisa", "UGround's mode 1", "LISA"),
        (LAST_ROW, "read", "UGround's mode 1", "READ"),
    ]
    lines = []
    for base in bases:
        prefix, said = (f"{base}.", f" ({base})") if base else ("", "")
        for row, other, a, b in claims:
            found = difference(results, prefix + row, prefix + other)
            if found:
                lines.append(f"- **{a[0].upper()}{a[1:]} against {b}**{said}: {interval(found)}.")
    for base in bases:
        runs = [run for row in rows if row.base == base for run in results.get(row.name, {}).values() if favourite(run)]
        if not runs:
            continue
        said = f" ({base})" if base else ""
        times = Counter(favourite(run)[0] for run in runs).most_common()
        layers = ", ".join(f"layer {layer} in {count}" for layer, count in times)
        best = sum(favourite(run)[0] == best_layer(run) for run in runs)
        told = f"{layers}; in {best} its gIoU is the best"
        lines.append(f"- **The likeliest layer**{said}, of {len(runs)} runs with a policy: {told}.")
    head = (
        f"Differences are in IoU, generated answers, the mean of {', '.join(COMPARED)} queries, paired by seed, with "
        f"{LEVEL:.0%}\nintervals by Student's t. A difference below 0.01 is no finding, whatever its verdict here."
    )
    return "\n".join([head, "", *(textwrap.fill(line, 120, subsequent_indent="  ") for line in lines)])
