"""The plots of the policy study: entropy and reward over training, the layers chosen meanwhile, gIoU by layer."""

import textwrap
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from groundscore.errors import UserError
from miniature.ablation_results import ANALYSED, layer_curve
from miniature.study_results import Results, StudyRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(results: Results, rows: Sequence[StudyRow], directory: Path) -> dict[str, Path]:
    """Write the images that the results allow into `directory`: "training", "histograms" and "layers", by name."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("the plots need matplotlib: ./build.sh --dev installs it") from None

    matplotlib.use("Agg")
    directory.mkdir(parents=True, exist_ok=True)
    known = {row: results[row.name] for row in rows if row.name in results}
    policies = {row: runs for row, runs in known.items() if row.has_policy}
    analysed = {row: runs for row, runs in known.items() if layer_curve(runs, ANALYSED[0])}
    made = {}
    if policies:
        made["training"] = _training(policies, directory / "training.png")
        made["histograms"] = _histograms(policies, directory / "histograms.png")
    if analysed:
        made["layers"] = _layers(analysed, directory / "layers.png")
    return made


def _training(policies: dict[StudyRow, dict], path: Path) -> Path:
    """Entropy and reward of every policy, a line for each seed."""
    import matplotlib.pyplot as plt

    figure, (entropy, reward) = plt.subplots(1, 2, figsize=(13, 4.2), layout="constrained")
    colours = plt.get_cmap("tab10").colors + plt.get_cmap("Set2").colors
    for (row, runs), colour in zip(policies.items(), cycle(colours)):
        for number, run in enumerate(runs.values()):
            lines = [line for line in run["history"] if "policy/entropy" in line]
            steps = [line["step"] for line in lines]
            label = row.title if number == 0 else None
            entropy.plot(steps, [line["policy/entropy"] for line in lines], color=colour, label=label, linewidth=1.2)
            if "--reward batch" not in row.flags:  # a sum over the micro-batch, on another scale
                reward.plot(steps, [line["policy/reward"] for line in lines], color=colour, linewidth=1.2)
    entropy.set(xlabel="step", ylabel="entropy in nats", ylim=(0, None))
    reward.set(xlabel="step", ylabel="reward of the chosen layer")
    figure.legend(loc="outside right center", fontsize=8)
    return _save(figure, path)


def _histograms(policies: dict[StudyRow, dict], path: Path) -> Path:
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
    for axis, (row, runs) in zip(axes.flat, policies.items()):
        lines = [line for line in next(iter(runs.values()))["history"] if "policy/layers" in line]
        shares = [[count / max(sum(line["policy/layers"]), 1) for count in line["policy/layers"]] for line in lines]
        number = len(shares[0])
        colours = plt.get_cmap("viridis")([layer / (number - 1) for layer in range(number)])
        stacked = axis.stackplot([line["step"] for line in lines], *zip(*shares), colors=colours)
        axis.set_title(textwrap.fill(row.title, 42), fontsize=8)
        axis.set(ylim=(0, 1), xlabel="step")
    figure.legend(stacked, [f"layer {layer}" for layer in range(number)], loc="outside right center", fontsize=8)
    return _save(figure, path)


def _layers(analysed: dict[StudyRow, dict], path: Path) -> Path:
    """Mean mask IoU with every layer, generated answers; a dot where the policy's own choice ends up."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(ANALYSED), figsize=(13, 4.2), layout="constrained", sharey=True)
    colours = plt.get_cmap("tab10").colors + plt.get_cmap("Set2").colors
    for axis, split in zip(axes, ANALYSED):
        for (row, runs), colour in zip(analysed.items(), cycle(colours)):
            curve = layer_curve(runs, split)
            if curve is None:
                continue
            number = len(curve["layers"])
            label = row.title if split == ANALYSED[0] else None
            axis.plot(curve["layers"], color=colour, marker=".", linewidth=1.2, label=label)
            axis.plot(number, curve["policy"], color=colour, marker="o", linestyle="none")
            axis.plot(number + 1, curve["best"], color=colour, marker="^", linestyle="none")
            axis.set_xticks(range(number + 2), [*map(str, range(number)), "policy", "best"], fontsize=8)
        axis.set(xlabel="hidden state that prompts the mask", title=split)
    axes[0].set_ylabel("gIoU with generated answers")
    figure.legend(loc="outside right center", fontsize=8)
    return _save(figure, path)


def _save(figure: "Figure", path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=90)
    plt.close(figure)
    return path
