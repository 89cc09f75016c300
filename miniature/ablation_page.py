"""docs/ablation.md: tables of all rows, and in words what they show and what they do not."""

from pathlib import Path

from miniature.ablation_results import (
    Results,
    best_layer,
    difference,
    favourite,
    final_entropy,
    layer_curve,
    score,
    score_of_targets,
    spread,
)
from miniature.ablation_rows import ANALYSED, COMPARED, GENERALISED, LAST, LEARNED, ROWS, SPLITS

DECIDED = 2.0  # standard errors that a difference must exceed to count


def page(results: Results, pictures: dict[str, Path], directory: Path) -> str:
    """The page as Markdown; `pictures` by name, linked relative to `directory`."""
    any_run = next(iter(next(iter(results.values())).values()))
    seeds = sorted({seed for runs in results.values() for seed in runs})
    missing = [row.title for row in ROWS if row.name not in results]

    def picture(name: str, title: str) -> str:
        return f"\n![{title}]({pictures[name].relative_to(directory).as_posix()})\n" if name in pictures else ""

    return f"""# Does choosing a layer help?

UGround lets every `[SEG]` choose the hidden state whose similarity map prompts SAM. Each row is trained from the
shipped miniature base for {any_run["steps"]} steps of LoRA on the same batches for the same seed, and scored on answers
that it writes itself, on the first {any_run["limit"]} images of three held-out splits. Numbers are means over seeds
({", ".join(map(str, seeds))}) ± their standard deviation; a row with one seed has none.
{_missing(missing)}
## Scores

gIoU. Of the last split also the part whose expressions mean something, two thirds of them several things at once
("multi-target"), and N_acc, the share of the expressions that mean nothing which the model rejects.

{scores_table(results)}

## What holds

{findings(results)}

## Every layer, and the best one

Masks of given answers, decoded from each hidden state of the trained model in one pass
(`evaluation/layer_analysis.py`). "Policy" takes each target's likeliest layer, "oracle" the best layer of each target
by its truth: no policy can exceed it. The oracle also profits from choosing among {_layer_count(results)} masks by
luck.

{layers_table(results)}
{picture("layers", "gIoU of every layer")}
## Why one layer

The shipped base decides much of this. It was pretrained in mode 2 with a policy of its own (`pretrain.sh`), which went
from uniform to the last layer within about 1000 of 1750 steps. Its similarity loss trained the chosen layer's map,
which may have made a small lead a large one; that was not measured. What was measured: the base's last layer shows the
targets and no other does. On `refcoco|unc|val` the mean reward of layers 0 to 6 is −1.69, −1.69, −1.69, −1.69, −1.69,
−1.64 and −1.30, and the last is the best layer for 353 of 354 targets (`python -m benchmarks.policy`). A policy that is
right about its reward must choose it. The row with similarity loss on the maps of all layers takes the advantage of
being chosen away: its curve below 6 shows what the other layers can learn.

## The policies over training

Reward is minus the map loss of the chosen layer. The histograms show the first seed of each row.
{picture("training", "entropy and reward over training")}{picture("histograms", "chosen layers over training")}
`./scripts/miniature/ablation.sh` makes this page again; `--rows mode1,{LEARNED} --seeds 7` adds a seed to two rows.
`python -m benchmarks.policy` measures bias and variance of the estimators.
"""


def _missing(titles: list[str]) -> str:
    return f"\nNot trained yet: {'; '.join(titles)}.\n" if titles else ""


def _layer_count(results: Results) -> int:
    curves = [layer_curve(runs, ANALYSED[0]) for runs in results.values()]
    return next((len(curve["iou"]) for curve in curves if curve), 0)


def scores_table(results: Results) -> str:
    """One line for each row."""
    lines = [
        ["row", "seeds", *(f"{kind}<br>{_escaped(split)}" for kind, split in SPLITS.items()), "multi-target", "N_acc"]
    ]
    lines[0] += ["likeliest layer (share)", "entropy", "training s"]
    for row in ROWS:
        runs = list(results.get(row.name, {}).values())
        if not runs:
            continue
        likes = [favourite(run) for run in runs] if row.has_policy else []
        lines.append(
            [
                row.title,
                str(len(runs)),
                *(_shown(spread([score(run, kind) for run in runs])) for kind in SPLITS),
                _shown(spread([score_of_targets(run) for run in runs])),
                _shown(spread([score(run, GENERALISED, "N_acc") for run in runs])),
                ", ".join(f"{layer} ({share:.0%})" for layer, share in likes) or "-",
                _shown(spread([final_entropy(run) for run in runs])),
                str(round(sum(run["seconds"]["training"] for run in runs) / len(runs))),
            ]
        )
    return _markdown(lines)


def layers_table(results: Results) -> str:
    """Mean IoU of every layer, of the policy's choice and of the oracle, for each analysed split."""
    number = _layer_count(results)
    lines = [["row", "split", *map(str, range(number)), "policy", "oracle"]]
    for row in ROWS:
        for kind in ANALYSED:
            curve = layer_curve(results.get(row.name, {}), kind)
            if curve:
                values = [*curve["iou"], curve["greedy"], curve["oracle"]]
                lines.append([row.title, kind, *(f"{value:.3f}" for value in values)])
    return _markdown(lines) if len(lines) > 1 else "No row of UGround has run yet."


def findings(results: Results) -> str:
    """What the numbers say, as a list; differences are paired by seed, on the mean of the compared splits."""
    claims = [
        (LEARNED, LAST, "the learned policy with greedy layers", "the fixed last layer"),
        (LEARNED, "mode3_sample_ema", "leave_one_out", "sample + EMA"),
        ("mode3_expected", LEARNED, "expected", "leave_one_out"),
        ("mode3_sample_ema", "mode3_sample_none", "the EMA baseline", "no baseline"),
        ("mode3_sample_critic", "mode3_sample_ema", "the critic", "the EMA baseline"),
        ("mode3_sample_ema", "mode3_reference", "a reward per target", "one per micro-batch"),
        (LEARNED, "mode2", "mode 3", "mode 2"),
        (LEARNED, "no_mask_prompt", "the mask prompt", "none"),
        (LEARNED, "no_map_loss", "the similarity loss", "none"),
        ("mode3_all_maps", "mode3_expected", "similarity loss on all layers", "on the chosen one"),
        ("mode3_all_maps", LAST, "the policy over layers that are all trained", "the fixed last layer"),
        ("mode3_entropy", LEARNED, "an entropy bonus", "none"),
        (LAST, "lisa", "UGround's mode 1", "LISA"),
        (LAST, "read", "UGround's mode 1", "READ"),
    ]
    lines = [_claim(difference(results, row, other), a, b) for row, other, a, b in claims]
    lines = [f"- {line}" for line in [*lines, *_collapse(results)] if line]
    head = (
        f"Differences are in gIoU, the mean of {' and '.join(COMPARED)}, paired by seed. With two or three seeds the\n"
        "standard error is itself a rough guess: a difference below 0.01 is no finding, whatever its verdict here."
    )
    return "\n".join([head, "", *lines])


def _claim(found, better: str, worse: str) -> str | None:
    if found is None:
        return None
    shown = f"**{better[0].upper()}{better[1:]} against {worse}**: {found.mean:+.3f}"
    if found.error is None:
        return f"{shown}, one seed: not decided."
    verdict = "not decided: less than two standard errors"
    if abs(found.mean) > DECIDED * found.error:
        verdict = "it helps" if found.mean > 0 else "it harms"
    return f"{shown} ± {found.error:.3f} (standard error, {found.n} seeds): {verdict}."


def _collapse(results: Results) -> list[str]:
    """Whether policies end on one layer, whether that is the best one, and what a perfect choice would add."""
    runs = [run for row in ROWS if row.has_policy for run in results.get(row.name, {}).values()]
    if not runs:
        return []
    likes = [favourite(run) for run in runs]
    one_layer = [run for run, (_, share) in zip(runs, likes, strict=True) if share > 0.95]
    right = [run for run in one_layer if favourite(run)[0] == best_layer(run)]
    gaps = [run["layers"][kind]["oracle"] - run["layers"][kind]["greedy"] for run in runs for kind in ANALYSED]
    lines = [
        f"**One layer for all**: in {len(one_layer)} of {len(runs)} runs with a policy one layer is the likeliest for "
        f"more than 95 % of the targets; in {len(right)} of these it is also the layer with the best mean IoU.",
        f"**What is left to gain**: the oracle is {sum(gaps) / len(gaps):.3f} above the policy's choice, on average.",
    ]
    fixed = results.get(LAST, {})
    curves = [layer_curve(fixed, kind) for kind in ANALYSED]
    if fixed and all(curves):
        room = sum(curve["oracle"] - curve["iou"][-1] for curve in curves) / len(curves)
        lines.append(
            f"**What any policy could gain on the model with a fixed last layer**: at most {room:.3f}, by which the "
            "oracle leads there."
        )
    return lines


def _shown(value) -> str:
    return "-" if value is None else str(value)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _markdown(lines: list[list[str]]) -> str:
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])
