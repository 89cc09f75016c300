"""The comparison of the six systems: what it starts, what it skips, and its table; and the table of all benchmarks."""

import pytest

from groundscore.errors import UserError
from groundscore.scoring.metrics import KINDS, table_columns
from miniature import benchmarks, compare
from model.systems import SYSTEMS
from tests.fake_programs import replace_programs
from training.arguments import parse_arguments


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Runs `compare` in `tmp_path` without training anything; returns the commands that it started."""
    losses = [{"step": step, "train/loss": 10.0 - step} for step in range(1, 7)]
    scores = {"gIoU": 0.5, "cIoU": None, "silent": 1, "expressions": 4}
    commands = replace_programs(monkeypatch, tmp_path, losses, scores)

    def start(*more):
        commands.clear()
        paths = {"--base": "base", "--dataset_dir": "data", "--runs": "runs", "--out": "table.md"}
        flags = [part for flag, name in paths.items() for part in (flag, str(tmp_path / name))]
        compare.main([*flags, "--steps", "100", *more])
        return list(commands)

    return start


def test_every_system_trains_with_flags_that_train_ds_knows(started):
    trainings = [command for command in started() if "train_ds.py" in command]
    configs = [parse_arguments(command[command.index("train_ds.py") + 1 :]) for command in trainings]
    assert [config.model_key for config in configs] == list(SYSTEMS)
    assert {config.total_steps for config in configs} == {100}
    assert [config.model_key for config in configs if config.vision_tower_for_mask] == ["PixelLM"]


def test_what_is_done_is_not_done_again(started, tmp_path):
    assert len(started("--systems", "lisa,UGround")) == 4
    assert len(started("--systems", "LISA,UGround,GSVA")) == 2
    table = (tmp_path / "table.md").read_text()
    assert "| LISA    | 0.500 / none" in table and "| GSVA " in table and "| READ" not in table
    assert "2 of 8" in table and "7.00 → 6.00" in table


def test_a_report_of_other_settings_is_not_taken(started):
    started("--systems", "LISA")
    for flags in (["--limit", "5"], ["--batch_size", "4"], ["--splits", "refcoco|unc|testA"]):
        with pytest.raises(UserError, match=r"LISA.json was made with other settings \(.*'limit': '60'"):
            started("--systems", "LISA", *flags)


def test_mistakes_are_said(started, tmp_path):
    with pytest.raises(UserError, match="--systems: there is no reed; choose from LISA"):
        started("--systems", "lisa,REED")
    with pytest.raises(UserError, match="multiple of --processes"):
        started("--batch_size", "3", "--processes", "2")
    with pytest.raises(UserError, match="--base"):
        started("--base", str(tmp_path / "elsewhere"))


# --- all benchmarks --------------------------------------------------------------------------------------------------


def test_the_table_of_all_benchmarks_shows_scores_that_every_kind_of_split_has():
    assert benchmarks.SHOWN.keys() == KINDS.keys()
    assert all(set(names) <= table_columns(kind).keys() for kind, names in benchmarks.SHOWN.items())


def test_the_table_of_all_benchmarks_has_a_line_per_score_and_the_reason_for_a_split_that_failed():
    scores = {"gIoU": 0.5, "cIoU": 0.25, "N_acc": None, "T_acc": 1.0}
    failed = {"error": "out of memory"}
    reports = {
        "LISA": {"splits": {"ReasonSeg|val": {"given": scores}, "grefcoco|unc|val": {"given": scores}}},
        "GSVA": {"splits": {"ReasonSeg|val": {"given": scores}, "grefcoco|unc|val": {"given": failed}}},
    }
    header, _, *lines = benchmarks.table(reports, "given", nested=True).splitlines()
    assert header.split() == ["|", "benchmark", "|", "score", "|", "LISA", "|", "GSVA", "|"]
    assert [line.replace(" ", "") for line in lines] == [
        "|ReasonSeg\\|val|gIoU|50.0|50.0|",
        "||cIoU|25.0|25.0|",
        "|grefcoco\\|unc\\|val|gIoU|50.0|seebelow|",
        "||cIoU|25.0|seebelow|",
        "||N_acc|none|seebelow|",
        "||T_acc|100.0|seebelow|",
        "",
        "-GSVAongrefcoco|unc|val:outofmemory",
    ]
