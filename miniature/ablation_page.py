"""docs/ablation.md: tables of all rows, in words what they show and what they do not, and plots."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from groundscore.errors import UserError
from miniature.ablation_results import (
    ANALYSED,
    COMPARED,
    GENERALISED,
    LAST,
    LEARNED,
    ROWS,
    SPLITS,
    Results,
    Spread,
    best_layer,
    difference,
    favourite,
    final_entropy,
    layer_curve,
    score,
    score_of_targets,
    spread,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DECIDED = 2.0  # standard errors that a difference must exceed to count


def page(results: Results, images: dict[str, Path], directory: Path) -> str:
    """The page as Markdown; `images` by name, linked relative to `directory`."""
    any_run = next(iter(next(iter(results.values())).values()))
    seeds = sorted({seed for runs in results.values() for seed in runs})
    missing = [row.title for row in ROWS if row.name not in results]

    def image(name: str, title: str) -> str:
        return f"\n![{title}]({images[name].relative_to(directory).as_posix()})\n" if name in images else ""

    return f"""# Does choosing a layer help?

UGround lets every `[SEG]` choose the hidden state whose similarity map prompts SAM. Each row is trained from the
shipped miniature base for {any_run["steps"]} steps of LoRA on the same batches for the same seed, and scored on answers
that it writes itself, on the first {any_run["limit"]} images of three held-out splits. Numbers are means over seeds
({", ".join(map(str, seeds))}) ± their standard deviation; a row with one seed has none.
{_missing(missing)}
## Scores

gIoU. For the last split also the part whose expressions have targets, two thirds of them several at once
("multi-target"), and N_acc, the share of the no-target expressions that the model rejects.

{scores_table(results)}

## What holds

{findings(results)}

## Every layer, and the best one

Masks of given answers, decoded from each hidden state of the trained model in one pass
(`evaluation/layer_analysis.py`). "Policy" takes each target's likeliest layer, "oracle" the best layer of each target
by its truth: no policy can exceed it. The oracle also profits from choosing among {_layer_count(results)} masks by
luck.

{layers_table(results)}
{image("layers", "gIoU of every layer")}
## Why one layer

The shipped base decides much of this. It was pretrained in mode 2 with a policy of its own, which went
from uniform to the last layer within about 1000 of 1750 steps. Its similarity loss trained the chosen layer's map,
which may have made a small lead a large one; that was not measured. What was measured: the base's last layer shows the
targets and no other does. On `refcoco|unc|val` the mean reward of layers 0 to 6 is −1.69, −1.69, −1.69, −1.69, −1.69,
−1.64 and −1.30, and the last is the best layer for 353 of 354 targets (`python -m benchmarks.policy`). A policy that is
right about its reward must choose it. The row with similarity loss on the maps of all layers takes the advantage of
being chosen away: its curve below 6 shows what the other layers can reach.

## The policies over training

Reward is minus the map loss of the chosen layer. The histograms show the first seed of each row.
{image("training", "entropy and reward over training")}{image("histograms", "chosen layers over training")}
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


def _claim(found: Spread | None, better: str, worse: str) -> str | None:
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


def _shown(value: object) -> str:
    return "-" if value is None else str(value)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _markdown(lines: list[list[str]]) -> str:
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])


# --- plots ---------------------------------------------------------------------------------------------------------


TITLES = {row.name: row.title for row in ROWS}


def draw(results: Results, directory: Path) -> dict[str, Path]:
    """Write the images that the results allow into `directory`: "training", "histograms" and "layers", by name."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("the plots need matplotlib: ./build.sh --dev installs it") from None

    matplotlib.use("Agg")
    directory.mkdir(parents=True, exist_ok=True)
    policies = {row.name: results[row.name] for row in ROWS if row.has_policy and row.name in results}
    analysed = {name: runs for name, runs in results.items() if any(run["layers"] for run in runs.values())}
    made = {}
    if policies:
        made["training"] = _training(policies, directory / "training.png")
        made["histograms"] = _histograms(policies, directory / "histograms.png")
    if analysed:
        made["layers"] = _layers(analysed, directory / "layers.png")
    return made


def _training(policies: Results, path: Path) -> Path:
    """Entropy and reward of every policy, a line for each seed."""
    import matplotlib.pyplot as plt

    figure, (entropy, reward) = plt.subplots(1, 2, figsize=(13, 4.2), layout="constrained")
    colours = plt.get_cmap("tab10").colors + plt.get_cmap("Set2").colors
    for (name, runs), colour in zip(policies.items(), colours):
        for number, run in enumerate(runs.values()):
            lines = [line for line in run["history"] if "policy/entropy" in line]
            steps = [line["step"] for line in lines]
            label = TITLES[name] if number == 0 else None
            entropy.plot(steps, [line["policy/entropy"] for line in lines], color=colour, label=label, linewidth=1.2)
            if "--reward batch" not in _flags(name):  # a sum over the micro-batch, on another scale
                reward.plot(steps, [line["policy/reward"] for line in lines], color=colour, linewidth=1.2)
    entropy.set(xlabel="step", ylabel="entropy in nats", ylim=(0, None))
    reward.set(xlabel="step", ylabel="reward of the chosen layer")
    figure.legend(loc="outside right center", fontsize=8)
    return _save(figure, path)


def _histograms(policies: Results, path: Path) -> Path:
    """Which layers each policy chose over training, the first seed of each."""
    import matplotlib.pyplot as plt

    columns = 4
    figure, axes = plt.subplots(
        -(-len(policies) // columns),
        columns,
        figsize=(13, 2.6 * -(-len(policies) // columns)),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    for axis in axes.flat[len(policies) :]:
        axis.set_axis_off()
    for axis, (name, runs) in zip(axes.flat, policies.items()):
        lines = [line for line in next(iter(runs.values()))["history"] if "policy/layers" in line]
        shares = [[count / max(sum(line["policy/layers"]), 1) for count in line["policy/layers"]] for line in lines]
        number = len(shares[0])
        colours = plt.get_cmap("viridis")([layer / (number - 1) for layer in range(number)])
        stacked = axis.stackplot([line["step"] for line in lines], *zip(*shares), colors=colours)
        axis.set_title(textwrap.fill(TITLES[name], 42), fontsize=8)
        axis.set(ylim=(0, 1), xlabel="step")
    figure.legend(stacked, [f"layer {layer}" for layer in range(number)], loc="outside right center", fontsize=8)
    return _save(figure, path)


def _layers(analysed: Results, path: Path) -> Path:
    """Mean mask IoU with every layer, given answers; a dot where the policy's own choice ends up."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(ANALYSED), figsize=(13, 4.2), layout="constrained", sharey=True)
    colours = plt.get_cmap("tab10").colors + plt.get_cmap("Set2").colors
    for axis, kind in zip(axes, ANALYSED):
        for (name, runs), colour in zip(analysed.items(), colours):
            curve = layer_curve(runs, kind)
            label = TITLES[name] if kind == ANALYSED[0] else None
            axis.plot(curve["iou"], color=colour, marker=".", linewidth=1.2, label=label)
            axis.plot(len(curve["iou"]), curve["greedy"], color=colour, marker="o", linestyle="none")
            axis.plot(len(curve["iou"]) + 1, curve["oracle"], color=colour, marker="^", linestyle="none")
        number = len(curve["iou"])
        axis.set_xticks(range(number + 2), [*map(str, range(number)), "policy", "oracle"], fontsize=8)
        axis.set(xlabel="hidden state that prompts the mask", title=kind)
    axes[0].set_ylabel("gIoU with given answers")
    figure.legend(loc="outside right center", fontsize=8)
    return _save(figure, path)


def _flags(name: str) -> str:
    return next(row.flags for row in ROWS if row.name == name)


def _save(figure: "Figure", path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=90)
    plt.close(figure)
    return path
