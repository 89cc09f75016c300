"""The study of the six systems: what it starts, what it skips, and its page; and the table of all benchmarks."""

from pathlib import Path

import pytest

from groundscore.errors import UserError
from groundscore.scoring.metrics import KINDS, table_columns
from miniature import benchmarks, compare
from model.systems import SYSTEMS
from tests.fake_programs import replace_programs
from training.arguments import parse_arguments

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Runs `compare` in `tmp_path` without training anything; returns the commands that it started."""
    losses = [{"step": step, "train/loss": 10.0 - step} for step in range(1, 7)]
    commands = replace_programs(monkeypatch, tmp_path, losses, {"gIoU": 0.5})

    def start(*more):
        commands.clear()
        paths = {"--base": "base", "--dataset_dir": "data", "--runs": "runs", "--out": "page.md"}
        flags = [part for flag, name in paths.items() for part in (flag, str(tmp_path / name))]
        compare.main([*flags, "--steps", "100", *more])
        return list(commands)

    return start


def trainings(commands):
    return [
        parse_arguments(command[command.index("train_ds.py") + 1 :]) for command in commands if "train_ds.py" in command
    ]


def test_every_system_trains_on_its_own_data_and_on_everything_with_flags_that_train_ds_knows(started):
    configs = trainings(started("--seeds", "4"))
    names = [f"{system}.published.seed4" for system in SYSTEMS if system != "UGround"]
    assert [config.run_name for config in configs] == names + [
        f"{system}.full.seed4" for system in ("LISA", "READ", "PixelLM", "UGround")
    ]
    assert {config.total_steps for config in configs} == {100} and {config.seed for config in configs} == {4}
    assert {config.model_key for config in configs if config.vision_tower_for_mask} == {"PixelLM"}
    by_name = {config.run_name.removesuffix(".seed4"): config for config in configs}
    assert "correct_refer_seg" in by_name["READ.published"].dataset
    assert "grefcoco" in by_name["GSVA.published"].refer_seg_data.split("||")
    assert "grefcoco" not in by_name["LISA.published"].refer_seg_data.split("||")
    assert len({config.dataset for config in configs if ".full." in config.run_name}) == 1
    assert len(by_name["LISA.full"].dataset.split("||")) == 8


def test_all_rows_of_a_seed_come_before_the_next_seed_and_what_is_done_is_not_done_again(started, tmp_path):
    flags = ("--systems", "lisa,UGround", "--diets", "full")
    names = [config.run_name for config in trainings(started(*flags, "--seeds", "0,1"))]
    assert names == ["LISA.full.seed0", "UGround.full.seed0", "LISA.full.seed1", "UGround.full.seed1"]
    assert len(started("--systems", "LISA,UGround,READ", "--diets", "full", "--seeds", "0,1")) == 4
    assert started("--systems", "GSVA,UGround", "--diets", "full", "--seeds", "0,1") == [], "GSVA is LISA's network"
    started(*flags, "--seeds", "0,1")
    page = (tmp_path / "page.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("| LISA: everything"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    # Per answer: explicit is the mean of two expressions; no-target ones got an empty mask here.
    assert cells[1:] == ["2", *["50.0 ± 0.0"] * 4, *["100.0 ± 0.0"] * 3]
    claims = page.split("## What it shows")[1].split("## ")[0]
    assert "**GSVA's `[REJ]` against" not in claims
    equal = "not decided: explicit, implicit, single, multi, positive, none, correction"
    assert f"- **UGround against LISA, both on everything**: {equal}." in " ".join(claims.split())
    assert "7.00 → 6.00" in page and "READ" not in page.split("## Training")[0]


@pytest.mark.parametrize(
    ("name", "base"), [("six_systems", "miniature/weights"), ("six_systems_qwen3_vl", "miniature/weights_qwen3_vl")]
)
def test_the_shipped_pages_follow_from_the_shipped_results(name, base, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    results = ["--runs", f"docs/reports/{name}", "--out", str(tmp_path / "page.md")]
    compare.main([*results, "--base", base, "--jobs", "2", "--page_only"])
    assert (tmp_path / "page.md").read_text() == (ROOT / f"docs/{name}.md").read_text()


def test_the_decoder_of_another_base_takes_the_place_of_its_own(started):
    (config,) = trainings(started("--systems", "UGround", "--seeds", "0", "--decoder", "elsewhere/sam2_miniature"))
    assert config.vision_pretrained == "elsewhere/sam2_miniature"


def test_without_out_the_page_lies_among_the_runs(started, tmp_path):
    compare.main(
        ["--systems", "LISA", "--diets", "full", "--seeds", "0", "--base", str(tmp_path / "base")]
        + ["--dataset_dir", str(tmp_path / "data"), "--runs", str(tmp_path / "runs")]
    )
    assert "| LISA: everything" in (tmp_path / "runs/page.md").read_text()


def test_a_dry_run_names_every_run_its_time_and_the_first_commands(started, capsys):
    assert started("--systems", "LISA", "--dry_run") == []
    told = capsys.readouterr().out
    assert told.count("LISA.published.seed") >= 3 and "6 runs to go, about" in told
    assert "train_ds.py --version" in told and "-m evaluation.audit --version" in told
    started("--systems", "LISA", "--seeds", "0")
    assert started("--systems", "LISA", "--dry_run") == []
    told = capsys.readouterr().out
    assert "4 runs to go" in told and "2 rows by their finished runs" in told


@pytest.mark.parametrize("flags", [["--limit", "5"], ["--batch_size", "4"], ["--splits", "refcoco|unc|testA"]])
def test_results_of_other_settings_are_not_taken(started, flags):
    started("--systems", "LISA", "--seeds", "0")
    with pytest.raises(UserError, match=f"seed1.json was made with another {flags[0]} than LISA.published.seed0"):
        started("--systems", "LISA", "--seeds", "1", *flags)


def test_results_of_another_base_are_neither_taken_nor_continued(started, tmp_path):
    flags = ("--systems", "LISA", "--diets", "full")
    started(*flags, "--seeds", "0")
    for seeds in (("0",), ("0,1",), ("0,1", "--dry_run")):
        with pytest.raises(
            UserError, match=r"LISA.full.seed0 is from a base of llava\+sam, .* llava\+sam2; name another"
        ):
            started(*flags, "--seeds", *seeds, "--decoder", "elsewhere/sam2_miniature")
    path = tmp_path / "runs/100_steps/LISA.full.seed0.json"
    path.write_text(path.read_text().replace(', "base": "llava+sam"', ""))
    with pytest.raises(UserError, match="from a base of unnamed parts"):
        started(*flags, "--seeds", "0,1")


def test_mistakes_are_said(started, tmp_path):
    for flags, message in (
        (["--systems", "lisa,REED"], "--systems: there is no reed; choose from LISA"),
        (["--diets", "vegan"], "--diets: there is no vegan"),
        (["--batch_size", "3", "--processes", "2"], "multiple of --processes"),
        (["--seeds", "one"], "--seeds one"),
        (["--base", str(tmp_path / "elsewhere")], "elsewhere"),
        (["--page_only"], "holds no result"),
    ):
        with pytest.raises(UserError, match=message):
            started(*flags)


def test_the_benchmarks_are_of_the_longest_training_on_the_published_data(tmp_path):
    for name in ("50_steps/LISA.published.seed0", "100_steps/LISA.published.seed3", "100_steps/LISA.published.seed1"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "100_steps/UGround.full.seed0").mkdir()
    assert benchmarks.find_run(tmp_path, "LISA") == tmp_path / "100_steps/LISA.published.seed1"
    assert benchmarks.find_run(tmp_path, "UGround") == tmp_path / "100_steps/UGround.full.seed0"
    assert benchmarks.find_run(tmp_path, "READ") is None


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


@pytest.mark.slow
def test_a_short_study_trains_audits_and_writes_its_page(tmp_path):
    """The real thing on the shipped base: PixelLM with its own decoder and UGround, on all eight families."""
    from miniature import data

    data.main(["--out", str(tmp_path / "data"), "--scale", "0.05"])
    paths = ["--dataset_dir", tmp_path / "data", "--runs", tmp_path / "runs", "--out", tmp_path / "page.md"]
    flags = [*map(str, paths), "--systems", "PixelLM,UGround", "--diets", "full", "--seeds", "0"]
    compare.main([*flags, "--steps", "2", "--limit", "1"])
    lines = [
        line for line in (tmp_path / "page.md").read_text().splitlines() if line.startswith("| UGround, everything")
    ]
    assert len(lines) == 3 and "-" not in lines[0].split("|")[4], "every kind of query was asked"
