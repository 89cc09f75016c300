"""The page of the six systems: what the rows differ in, tables by kind of query, and what training took."""

import argparse
import textwrap
from collections.abc import Iterable, Sequence
from statistics import median

from groundscore.scoring import percent
from groundscore.scoring.tables import markdown_table
from groundscore.splits import QUERY_KINDS
from miniature.study_results import COLUMNS, LEVEL, Results, StudyRow, bounds, paired, queries_table, spread

SHOWN_LOSSES = 5
DECODER_TITLES = {"sam": "SAM", "sam2": "SAM 2.1", "sam_hq": "SAM-HQ", "sam3_tracker": "SAM 3's tracker"}
BACKBONE_TITLES = {"llava": "LLaVA", "qwen3_vl": "Qwen3-VL"}
_PIXELLM = """PixelLM has 3 × 2 tokens and its own decoder on CLIP features of 256 pixels, which alone starts from
nothing; the others have {decoder}."""
_PIXELLM_BY_SAM = """PixelLM has 3 tokens a target, which prompt {decoder} as those of the others do: its own decoder
needs images of one shape."""
_PIXELLM_AND_LISA = ("PixelLM.full", "LISA.full")
# Rows that are compared, seed by seed: (row, other, what differs).
CLAIMS = (
    ("UGround.full", "LISA.full", "UGround against LISA, both on everything"),
    ("READ.full", "LISA.full", "READ against LISA, both on everything"),
    ("UGround.full", "READ.full", "UGround against READ, both on everything"),
    ("PixelLM.full", "LISA.full", "PixelLM against LISA, both on everything"),
    ("GSVA.published", "LISA.published", "GSVA's diet against LISA's, one network"),
    ("SESAME.published", "LISA.published", "SESAME's diet against LISA's, one network"),
    ("LISA.full", "LISA.published", "LISA on everything against its own diet"),
    ("READ.full", "READ.published", "READ on everything against its own diet"),
    ("PixelLM.full", "PixelLM.published", "PixelLM on everything against its own diet"),
    ("LISA.full", "GSVA.published", "GSVA, the same network as LISA, on everything against its own diet"),
    ("LISA.full", "SESAME.published", "SESAME, the same network as LISA, on everything against its own diet"),
)


def page(results: Results, rows: Sequence[StudyRow], options: argparse.Namespace) -> str:
    """The tables with what they were made of."""
    seeds = sorted({seed for runs in results.values() for seed in runs})
    base = next(iter(next(iter(results.values())).values()))["settings"]["base"]
    backbone, decoder = titles(base)
    own_decoder = base.startswith("llava+")
    pixellm = (_PIXELLM if own_decoder else _PIXELLM_BY_SAM).format(decoder=decoder)
    missing = [row.title for row in rows if row.name not in results]
    return f"""# Six systems, one budget: {backbone} with {decoder}

Each row is trained for {options.steps} steps of {options.batch_size} images on the miniature, from one base, with LoRA
and the same flags but for its data: "as published" are the families that the system's paper trains on (gRefCOCO is half
of what GSVA draws of expressions), "everything" all eight families (UGround's own diet). Scored on the first
{options.limit} images of each split; means over seeds ({", ".join(map(str, seeds))}) ± standard deviation.
{pixellm}
{f"{chr(10)}Not trained yet: {'; '.join(missing)}.{chr(10)}" if missing else ""}
## What it shows

Differences of generated answers in percent, paired by seed, with {LEVEL:.0%} intervals by Student's t; kinds of query
whose interval has 0 in it are not decided. One in twenty is decided by chance.

{findings(results, CLAIMS)}

What it does not show: how the systems compare at 7B, or with each paper's own schedule. The budget is one and short,
the world is drawn, and the base has seen all eight families with UGround's network (maps of a random layer as mask
prompts, no policy, no tokens of any system): UGround's prompts and all kinds of answer were there before. LISA,
GSVA and SESAME are one network and differ in their data (GSVA's answers `[REJ]` to what is not there, SESAME's denies
and corrects in words): on everything they have one row.

The same with other backbones and mask decoders is on [the page of the pairs](pairs.md); what training on everything
reaches beyond this budget, absent targets above all, on [its own page](unified.md).

{COLUMNS}

## Answers that the system writes itself

{queries_table(results, rows, "generated")}

## Given answers

All expressions of an image are in one given answer, as published scores have it. No row was trained on such answers,
which is why masks are worse than above, and why nobody writes `[REJ]` inside them.

{queries_table(results, rows, "given")}

## Training

"Loss" is the mean of the first and of the last {SHOWN_LOSSES} recorded ones; seconds are the median of the runs, on
{options.processes} processes, {options.jobs} runs at a time (device: {options.device}).

{_training_table(results, rows)}

{_pixellm_cost(results) if own_decoder else ""}
The results are in `{options.runs}`, a directory for `--runs`; `./scripts/miniature/six_systems.sh`
makes some of one's own.
"""


def titles(base: str) -> tuple[str, str]:
    """What readers call the backbone and the mask decoder of a base; base: as `pair_of` names it."""
    backbone, _, decoder = base.partition("+")
    return BACKBONE_TITLES.get(backbone, backbone), DECODER_TITLES.get(decoder, decoder)


def findings(results: Results, claims: Sequence[tuple[str, str, str]]) -> str:
    """What pairs of rows differ in, a line for each; claims: (row, other, what differs)."""
    lines = []
    for row, other, what in claims:
        parts: dict[str, list[str]] = {"better at": [], "worse at": [], "not decided:": []}
        for kind in QUERY_KINDS:
            found = paired(results, row, other, lambda run, kind=kind: run["queries"].get("generated", {}).get(kind))
            if found is None:
                continue
            low, high = bounds(found) if found.n > 1 else (-1.0, 1.0)
            if low <= 0 <= high:
                parts["not decided:"].append(kind)
            else:
                shown = f"{kind} {percent(found.mean, '+')} ({percent(low, '+')} to {percent(high, '+')})"
                parts["better at" if found.mean > 0 else "worse at"].append(shown)
        told = [f"{name} {', '.join(kinds)}" for name, kinds in parts.items() if kinds]
        if told:
            lines.append(textwrap.fill(f"- **{what}**: {'; '.join(told)}.", 120, subsequent_indent="  "))
    return "\n".join(lines) or "No pair of rows has run yet."


def _pixellm_cost(results: Results) -> str:
    """Why PixelLM's step takes longer, and by how much, where it and LISA were trained on everything."""
    pixellm, lisa = (_seconds(results.get(name, {}).values()) for name in _PIXELLM_AND_LISA)
    if not pixellm or not lisa:
        return ""
    times = pixellm / lisa
    return f"""PixelLM decodes 16 × 16 and 32 × 32 cells where SAM's decoder has 8 × 8, which makes its training
{times:.1f} times as long as LISA's on everything, at the same width (`--out_dim 64`; at the 7B's 256, its default
without a SAM, its step takes ten times as long).
"""


def _seconds(runs: Iterable[dict]) -> float | None:
    """The median of what training took, which one run on a busy machine leaves as it is; None without runs."""
    seconds = [run["seconds"]["training"] for run in runs]
    return median(seconds) if seconds else None


def _training_table(results: Results, rows: Sequence[StudyRow]) -> str:
    table = [["row", "loss", "seconds"]]
    for row in rows:
        runs = list(results.get(row.name, {}).values())
        if runs:
            losses = [[line["train/loss"] for line in run["history"]] for run in runs]
            first, last = (
                spread(sum(part) / len(part) for part in parts)
                for parts in ([one[:SHOWN_LOSSES] for one in losses], [one[-SHOWN_LOSSES:] for one in losses])
            )
            table.append([row.title, f"{first.mean:.2f} → {last.mean:.2f}", f"{_seconds(runs):.0f}"])
    return markdown_table(table)
