"""The metric of docs/adding_a_metric.md, in a folder of its own: in reports, tables, comparisons and the dashboard."""

import json
from pathlib import Path

import numpy as np
import pytest

import eval as eval_script
from dashboard.runs import read_reports
from groundscore.errors import UserError
from groundscore.exchange.jsonl import write_predictions
from groundscore.scoring.bootstrap import Terms
from groundscore.scoring.masks import encode_mask
from groundscore.scoring.metrics import Metric, register
from groundscore.splits import evaluation_set
from tests.page_plugins import importable_plugins

SPLIT = "refcoco|unc|val"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A user's folder with the page's module, as the current directory; nothing of it is left behind."""
    monkeypatch.chdir(tmp_path)
    with importable_plugins(tmp_path):
        yield "area_error"


def save_predictions(path: Path, world: Path, change) -> None:
    """Writes the true masks of a split, each put through `change`, as predictions."""
    lines = []
    for item in evaluation_set(SPLIT, world):
        for index, mask in enumerate(item.masks):
            line = {"split": SPLIT, "image": item.path_below(world), "expression": index, "present": True}
            lines.append(line | {"mask": encode_mask(change(mask))})
    write_predictions(path, lines)


def upper_half(mask: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(mask.any(1))
    return mask * (np.arange(len(mask)) < rows[len(rows) // 2])[:, None]


def test_a_metric_of_a_plugin_is_reported_shown_and_compared(plugin, world, tmp_path, capsys):
    for name, change in (("true", np.asarray), ("half", upper_half)):
        save_predictions(tmp_path / f"{name}.jsonl", world, change)
        flags = ["--plugin", plugin, "--predictions", f"{name}.jsonl", "--dataset_dir", str(world)]
        output = tmp_path / "runs/mine" / f"{name}.json"
        assert eval_script.main([*flags, "--val_dataset", SPLIT, "--output", str(output), "--bootstrap", "50"]) == 0

    scores = json.loads(output.read_text())["splits"][SPLIT]
    low, high = scores["area_error_ci95"]
    assert 0 < low <= scores["area_error"] <= high < 1
    value, printed = 100 * scores["area_error"], capsys.readouterr().out
    assert "area error ↓" in printed and f"{value:.1f} ({100 * low:.1f}–{100 * high:.1f})" in printed

    reports = [str(tmp_path / "runs/mine" / f"{name}.json") for name in ("true", "half")]
    assert eval_script.main(["--plugin", plugin, "--compare", *reports]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "area error ↓" in line]
    assert f"| +{value:.1f} " in line

    half, true = read_reports(tmp_path / "runs/mine")
    assert "area error ↓ 0.0" in true[-2] and f"area error ↓ {value:.1f}" in half[-2]


@pytest.mark.parametrize(
    ("name", "kinds", "message"),
    [
        ("gIoU", ["plain"], "this name is already taken"),
        ("mine", ["planar"], "no kind of split is called 'planar'"),
        ("images", ["plain"], "use this name for something else"),
        ("gIoU_ci95", ["plain"], "use this name for something else"),
    ],
)
def test_a_metric_that_cannot_be_is_refused(name, kinds, message):
    with pytest.raises(UserError, match=message):
        register(Metric(name, kinds, lambda e: Terms.mean(e.image, e.union)))
