"""The policy study: what it starts, what it skips, and what its page says."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from groundscore.errors import UserError
from miniature import ablation
from miniature.ablation_page import page
from miniature.ablation_results import LAST_ROW, LEARNED, ROWS, STUDY, best_layer, difference, favourite, gain
from miniature.study import SPLITS, settings
from miniature.study_results import bounds, query_scores, read_results
from model.settings import model_overrides
from tests.fake_programs import audit_rows, make_base, replace_programs, write_audit
from training.arguments import parse_arguments

ROOT = Path(__file__).resolve().parents[1]
REPORTS = ROOT / "docs/reports/policy_study"


def options_for(tmp_path, *more):
    options = ablation.build_parser().parse_args(["--out", str(tmp_path / "page.md"), "--held_out", "data", *more])
    options.steps, options.limit = 5, 3
    return options


def write(directory, name: str, seed: int, *, last: int, **options) -> None:
    """The result of a run whose last layer has this IoU; `options` of `audit_rows`."""
    write_audit(directory / "made.html", SPLITS.split("||"), {"gIoU": last / 100}, last=last, **options)
    report = json.loads((directory / "made.json").read_text())
    rows = [one for answer in ("given", "generated") for one in audit_rows("a|val", answer, last=last, **options)]
    line = {"step": 5, "train/loss": 2.0, "policy/entropy": 0.5, "policy/reward": -1.0, "policy/layers": [1, 9]}
    result = {
        "row": name,
        "seed": seed,
        "settings": settings(options_for(directory)),
        "audit": report["audit"],
        "queries": query_scores(rows),
        "history": [line if "mode1" not in name else {"step": 5, "train/loss": 2.0}],
        "seconds": {"training": 60, "scoring": 10},
    }
    (directory / f"{name}.seed{seed}.json").write_text(json.dumps(result))


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Runs `ablation` in `tmp_path` with training and scoring replaced; returns the commands that it started."""
    commands = replace_programs(monkeypatch, tmp_path, [{"step": 5, "train/loss": 2.0}], {"gIoU": 0.5})
    monkeypatch.setattr("miniature.ablation_plots.draw", lambda results, rows, directory: {})

    def go(*more):
        commands.clear()
        paths = {"--base": "base", "--dataset_dir": "data", "--runs": "runs", "--out": "page.md"}
        flags = [part for flag, name in paths.items() for part in (flag, str(tmp_path / name))]
        ablation.main([*flags, "--steps", "5", *more])
        return list(commands)

    return go


def trained(commands):
    return [
        parse_arguments(command[command.index("train_ds.py") + 1 :]) for command in commands if "train_ds.py" in command
    ]


def test_every_row_trains_with_flags_that_train_ds_knows(start):
    configs = trained(start("--rows", "all", "--seeds", "3"))
    assert [config.run_name for config in configs] == [f"{row.name}.seed3" for row in ROWS]
    assert {config.seed for config in configs} == {3}
    settings = [
        json.dumps([config.model_key, model_overrides(vars(config)), config.entropy_weight]) for config in configs
    ]
    assert len(set(settings)) == len(ROWS), "two rows are trained alike"


def test_bases_and_rows_of_a_seed_come_before_the_next_seed(start, tmp_path):
    for name in ("none", "last"):
        make_base(tmp_path / name)
    bases = f"none={tmp_path / 'none'},last={tmp_path / 'last'}"
    configs = trained(start("--bases", bases, "--rows", "mode3_context,mode1", "--seeds", "0,1"))
    rows = ["none.mode1", "last.mode1", "none.mode3_context", "last.mode3_context"]
    assert [config.run_name for config in configs] == [f"{row}.seed{seed}" for seed in (0, 1) for row in rows]
    assert configs[1].version == str(tmp_path / "last/llava") and configs[2].gate == "context"
    text = (tmp_path / "page.md").read_text()
    assert "- **none**: " in text and "| last: mode 1: last layer" in text
    assert "`none` whose pretraining trained no map (`MAPS=none`); `last` with" in " ".join(text.split())
    assert "`all`" not in text


def test_the_study_has_modes_estimators_gates_and_deep_supervision_and_five_seeds(start, capsys):
    start("--dry_run")
    told = capsys.readouterr().out
    assert f"{5 * len(STUDY)} runs to go" in told
    flags = " ".join(row.flags for row in ROWS if row.name in STUDY)
    for part in ("--mode 1", "--mode 2", "--mode 3", "leave_one_out", "expected", "sample", "--gate context", "all"):
        assert part in flags


def test_what_is_done_is_not_done_again(start):
    assert len(start("--rows", "lisa", "--seeds", "0,1")) == 4
    assert len(start("--rows", "lisa", "--seeds", "0,1,2")) == 2


def test_the_shipped_page_follows_from_the_shipped_results(monkeypatch, tmp_path):
    directory = tmp_path / "policy_study"
    plots = {name: directory / f"{name}.png" for name in ("training", "histograms", "layers")}
    monkeypatch.setattr("miniature.ablation_plots.draw", lambda results, rows, to: plots)
    bases = ",".join(f"{name}=nowhere/{name}" for name in ("none", "all", "last"))
    rows = ",".join({path.name.split(".")[1] for path in (REPORTS / "200_steps").glob("*.json")})
    flags = ["--runs", str(REPORTS), "--out", str(tmp_path / "policy_study.md")]
    ablation.main([*flags, "--bases", bases, "--rows", rows, "--page_only"])
    assert (tmp_path / "policy_study.md").read_text() == (ROOT / "docs/policy_study.md").read_text()
    assert all((ROOT / "docs" / plot.relative_to(tmp_path)).is_file() for plot in plots.values())


def test_two_runs_at_a_time_have_logs_of_their_own_and_one_that_fails_keeps_others_from_beginning(
    start, tmp_path, monkeypatch
):
    directory = tmp_path / "runs/5_steps"
    assert len(start("--rows", "lisa,read", "--seeds", "0,1", "--jobs", "2")) == 8
    names = [f"{row}.seed{seed}" for row in ("lisa", "read") for seed in (0, 1)]
    assert sorted(path.name for path in directory.glob("*.log")) == [f"{name}.log" for name in names]
    assert all((directory / f"{name}.json").exists() for name in names)

    def fails(command, check, stdout, stderr):
        stdout.write(b"out of memory\n")
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr("miniature.programs.subprocess.run", fails)
    with pytest.raises(UserError, match="training lisa.seed[23] ended with code 1; what it printed is in .*[23].log"):
        start("--rows", "lisa", "--seeds", "2,3,4,5,6,7,8,9", "--jobs", "2")
    logs = [path for path in directory.glob("lisa.seed*.log") if b"out of memory" in path.read_bytes()]
    assert len(logs) <= 2, "one of each thread"


def test_mistakes_are_said(start, tmp_path):
    for flags, message in (
        (["--rows", "nothing"], "no nothing"),
        (["--jobs", "0"], "--jobs must be above 0"),
        (["--bases", "none"], "expected NAME=DIR"),
        (
            ["--bases", f"none={tmp_path}/nowhere", "--rows", "lisa"],
            "nowhere is not a base: it should have one of llava",
        ),
    ):
        with pytest.raises(UserError, match=message):
            start(*flags)


def test_scores_by_kind_of_query_are_means_over_expressions():
    scores = query_scores(audit_rows("a|val", "given", last=60, greedy=1))
    assert scores == {"given": {"explicit": 0.6, "positive": 1.0, "single": 0.6, "implicit": 0.6, "multi": 0.6,
                                "none": 1.0, "correction": 1.0}}  # fmt: skip


def test_differences_are_paired_by_seed(tmp_path):
    for seed in range(3):
        write(tmp_path, LAST_ROW, seed, last=50 + seed)
    for seed in range(1, 4):
        write(tmp_path, LEARNED, seed, last=60 + seed)
    found = difference(read_results(tmp_path, ROWS), LEARNED, LAST_ROW)
    assert found.n == 2 and found.mean == pytest.approx(0.1) and found.error == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    "learned, verdict", [((60, 61, 62), "better"), ((40, 41, 42), "worse"), ((40, 50, 60), "not decided")]
)
def test_the_page_says_first_what_the_policy_buys_with_an_interval(tmp_path, learned, verdict):
    for seed in range(3):
        write(tmp_path, LAST_ROW, seed, last=50 + seed % 2)
    for seed, iou in enumerate(learned):
        write(tmp_path, LEARNED, seed, last=iou)
    results = read_results(tmp_path, ROWS)
    text = page(results, ROWS, {}, options_for(tmp_path))
    headline, *told = text.splitlines()[2:6]
    first = " ".join(" ".join(told).split())
    if verdict == "not decided":
        assert headline.startswith("**The policy buys nothing that these runs can show**")
    else:
        assert headline == f"**The policy against the last layer: {verdict} on this base**."
    found = difference(results, LEARNED, LAST_ROW)
    low, high = bounds(found)
    between = f"{100 * low:+.1f} to {100 * high:+.1f}"
    assert f"{100 * found.mean:+.1f} IoU ({between}, 3 seeds: {verdict})" in first
    assert "the best layer of each expression beyond luck" in first
    assert f"{len(ROWS) - 2} of {len(ROWS)} rows" in text
    few = [row for row in ROWS if row.name in (LAST_ROW, LEARNED, "lisa")]
    assert "Not trained yet: LISA." in page(results, few, {}, options_for(tmp_path))


def test_luck_is_subtracted_from_what_the_best_layer_gains(tmp_path):
    write(tmp_path, LEARNED, 0, last=50, first=70, luck=65)
    (run,) = read_results(tmp_path, ROWS)[LEARNED].values()
    assert (gain(run, "layers"), gain(run, "luck")) == (pytest.approx(0.2), pytest.approx(0.15))
    assert gain(run, "beyond_luck") == pytest.approx(0.05)


def test_the_page_says_where_a_policy_settled_and_whether_that_layer_is_the_best(tmp_path):
    write(tmp_path, LEARNED, 0, last=50)
    write(tmp_path, LEARNED, 1, last=50, greedy=0)
    results = read_results(tmp_path, ROWS)
    assert [favourite(run) for run in results[LEARNED].values()] == [(1, 1.0), (0, 1.0)]
    assert {best_layer(run) for run in results[LEARNED].values()} == {1}
    text = page(results, ROWS, {}, options_for(tmp_path))
    told = " ".join(text.split())
    assert "**The likeliest layer**, of 2 runs with a policy: layer 1 in 1, layer 0 in 1; in 1 its gIoU" in told
    assert "1 (100%), 0 (100%)" in text
    table = text.split("## Where the maps point")[1]
    pointing = [line.split("|")[2:-1] for line in table.splitlines() if "mode 3" in line]
    cells = [[cell.strip() for cell in line] for line in pointing]
    assert cells == [["image tokens", "0.0", "100.0"], ["mask decoder", "0.0", "0.0"]]


@pytest.mark.slow
def test_a_short_study_trains_audits_and_writes_its_page(tmp_path):
    """The real thing on the shipped base, with images of its own."""
    from miniature import data

    splits = "ReasonSeg|val||refcoco|unc|val||grefcoco|unc|val"
    data.main(["--out", str(tmp_path / "data"), "--scale", "0.05", "--sets", "refcoco,grefcoco,reason_seg"])
    paths = ["--dataset_dir", tmp_path / "data", "--runs", tmp_path / "runs", "--out", tmp_path / "docs/study.md"]
    flags = [*map(str, paths), "--rows", f"{LAST_ROW},mode3_context", "--seeds", "0", "--splits", splits]
    ablation.main([*flags, "--steps", "2", "--limit", "2"])
    text = (tmp_path / "docs/study.md").read_text()
    assert text.count("| mode 3, leave_one_out, context gate ") >= 2
    for name in ("training", "histograms", "layers"):
        assert f"(study/{name}.png)" in text
        assert (tmp_path / f"docs/study/{name}.png").stat().st_size > 5000
