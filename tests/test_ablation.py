"""The ablation: what it starts, what it skips, and what its page says."""

import json

import pytest

from groundscore.errors import UserError
from miniature import ablation
from miniature.ablation_page import page
from miniature.ablation_results import (
    COMPARED,
    GENERALISED,
    LAST,
    LEARNED,
    ROWS,
    SPLITS,
    difference,
    read_results,
    score_of_targets,
)
from model.settings import model_overrides
from tests.fake_programs import replace_programs
from training.arguments import parse_arguments


def result(row: str, seed: int, giou: float, favourite: int = 6) -> dict:
    """What a run leaves behind: 10 targets a split, the last of 7 layers the best one."""
    counts = [10 if layer == favourite else 0 for layer in range(7)]
    curve = {
        "targets": 10,
        "iou": [0.1] * 6 + [giou],
        "greedy": giou,
        "oracle": giou + 0.02,
        "probabilities": [1 / 7] * 7,
        "chosen": counts,
        "best": counts,
    }
    line = {"step": 5, "train/loss": 2.0, "policy/entropy": 0.5, "policy/reward": -1.0, "policy/layers": counts}
    policy = next(each for each in ROWS if each.name == row).has_policy
    return {
        "row": row,
        "seed": seed,
        "steps": 5,
        "limit": 3,
        "scores": {kind: {"gIoU": giou, "N_acc": 1.0, "expressions": 4, "empty_targets": 1} for kind in SPLITS},
        "history": [line if policy else {"step": 5, "train/loss": 2.0}],
        "layers": dict.fromkeys(COMPARED, curve),
        "seconds": {"training": 60, "scoring": 10},
    }


def write(directory, *results):
    for each in results:
        (directory / f"{each['row']}.seed{each['seed']}.json").write_text(json.dumps(each))


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Runs `ablation` in `tmp_path` with training and scoring replaced; returns the commands that it started."""
    scores = {"gIoU": 0.5, "cIoU": 0.5, "N_acc": 1.0}
    commands = replace_programs(monkeypatch, tmp_path, [{"step": 5, "train/loss": 2.0}], scores)
    monkeypatch.setattr(ablation, "layers_of", lambda run, options: None)
    monkeypatch.setattr(ablation, "write_page", lambda directory, options: None)

    def go(*more):
        commands.clear()
        paths = {"--base": "base", "--dataset_dir": "data", "--runs": "runs", "--out": "page.md"}
        flags = [part for flag, name in paths.items() for part in (flag, str(tmp_path / name))]
        ablation.main([*flags, "--steps", "5", *more])
        return list(commands)

    return go


def test_every_row_trains_with_flags_that_train_ds_knows(start):
    trainings = [command for command in start("--seeds", "3") if "train_ds.py" in command]
    configs = [parse_arguments(command[command.index("train_ds.py") + 1 :]) for command in trainings]
    assert [config.run_name for config in configs] == [f"{row.name}.seed3" for row in ROWS]
    assert {config.seed for config in configs} == {3}
    settings = [
        json.dumps([config.model_key, model_overrides(vars(config)), config.entropy_weight]) for config in configs
    ]
    assert len(set(settings)) == len(ROWS), "two rows are trained alike"


def test_all_rows_of_a_seed_come_before_the_next_seed(start):
    names = [dict(zip(command, command[1:])).get("--exp_name") for command in start("--rows", "lisa,mode1")]
    assert [name for name in names if name] == [f"{row}.seed{seed}" for seed in (0, 1, 2) for row in ("mode1", "lisa")]


def test_what_is_done_is_not_done_again(start):
    assert len(start("--rows", "lisa", "--seeds", "0,1")) == 4
    assert len(start("--rows", "lisa", "--seeds", "0,1,2")) == 2


def test_results_of_different_numbers_of_images_are_not_mixed(start, tmp_path):
    start("--rows", "lisa,mode1", "--seeds", "0")
    assert set(read_results(tmp_path / "runs/5_steps")) == {"lisa", "mode1"}
    start("--rows", "lisa", "--seeds", "1", "--limit", "5")
    with pytest.raises(UserError, match="on the first 5 images do not belong in one table"):
        read_results(tmp_path / "runs/5_steps")


def test_mistakes_are_said(start):
    with pytest.raises(UserError, match="no nothing"):
        start("--rows", "nothing")
    with pytest.raises(UserError, match="--seeds one"):
        start("--seeds", "one")


def test_differences_are_paired_by_seed(tmp_path):
    write(tmp_path, *(result(LAST, seed, 0.5 + seed / 10) for seed in range(3)))
    write(tmp_path, *(result(LEARNED, seed, 0.6 + seed / 10) for seed in range(1, 4)))
    found = difference(read_results(tmp_path), LEARNED, LAST)
    assert found.n == 2
    assert found.mean == pytest.approx(0.1)
    assert found.error == pytest.approx(0, abs=1e-9)


def test_expressions_that_mean_nothing_are_taken_out_of_the_multi_target_score():
    run = result(LAST, 0, 0.0)
    run["scores"][GENERALISED] = {"gIoU": (1 + 0 + 0.5 + 0.3) / 4, "N_acc": 0.5, "expressions": 4, "empty_targets": 2}
    assert score_of_targets(run) == pytest.approx(0.4)


@pytest.mark.parametrize(
    "learned, verdict",
    [
        ((0.60, 0.61, 0.62), "it helps"),
        ((0.40, 0.41, 0.42), "it harms"),
        ((0.40, 0.50, 0.60), "not decided"),
    ],
)
def test_the_page_calls_a_difference_by_its_standard_error(tmp_path, learned, verdict):
    write(tmp_path, *(result(LAST, seed, 0.5 + seed / 1000) for seed in range(3)))
    write(tmp_path, *(result(LEARNED, seed, giou) for seed, giou in enumerate(learned)))
    text = page(read_results(tmp_path), {}, tmp_path)
    line = next(line for line in text.splitlines() if "greedy layers against the fixed last layer" in line)
    assert verdict in line


def test_the_page_says_where_a_policy_collapsed_and_whether_that_layer_is_the_best(tmp_path):
    write(tmp_path, result(LAST, 0, 0.5), result(LEARNED, 0, 0.5), result(LEARNED, 1, 0.5, favourite=2))
    text = page(read_results(tmp_path), {}, tmp_path)
    assert "in 2 of 2 runs with a policy one layer" in text
    assert "in 1 of these it is also the layer with the best mean IoU" in text
    assert "| 6 (100%), 2 (100%) |" in text
    assert "Not trained yet: " in text


@pytest.mark.slow
def test_a_short_ablation_trains_scores_and_writes_its_page(tmp_path):
    """The real thing on the shipped base, with pictures of its own."""
    from miniature import data

    data.main(["--out", str(tmp_path / "data"), "--scale", "0.05", "--sets", "refcoco,grefcoco,reason_seg"])
    paths = ["--dataset_dir", tmp_path / "data", "--runs", tmp_path / "runs", "--out", tmp_path / "docs/ablation.md"]
    ablation.main([*map(str, paths), "--quick", "--rows", f"{LAST},{LEARNED}", "--steps", "3", "--limit", "2"])
    text = (tmp_path / "docs/ablation.md").read_text()
    assert text.count("| UGround, mode 1: last layer |") == 1 + len(COMPARED)
    for name in ("training", "histograms", "layers"):
        assert f"(ablation/{name}.png)" in text
        assert (tmp_path / f"docs/ablation/{name}.png").stat().st_size > 5000
