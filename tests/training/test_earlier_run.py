"""A fresh start never costs an earlier run anything."""

from pathlib import Path

import pytest

from checkpoints.runs import BEST, LATEST
from groundscore.errors import UserError
from tests.training.test_checkpoints import ALONE, fake_checkpoint
from training.arguments import parse_arguments
from training.launch import move_earlier_run


@pytest.fixture
def run(tmp_path) -> Path:
    """A run with everything that a run leaves behind, and a merged model in it."""
    directory = tmp_path / "runs" / "kite"
    fake_checkpoint(directory / LATEST, 4)
    fake_checkpoint(directory / BEST, 2)
    for name in ("scores.json", "metrics.jsonl", "meta/meta_1.log", "tensorboard/events", "merged/config.json"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(name)
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def launch(run: Path, *flags: str) -> None:
    arguments = ["--log_base_dir", str(run.parent), "--exp_name", run.name, *flags]
    move_earlier_run(parse_arguments(arguments), ALONE)


def test_a_fresh_start_moves_the_earlier_run_aside_whole(run, capsys):
    before = contents(run)
    launch(run, "--no_resume")
    assert contents(run.parent / "kite.1") == before and not run.exists()
    assert f"the earlier run is kept in {run.parent}/kite.1" in capsys.readouterr().out
    fake_checkpoint(run / LATEST, 1)
    launch(run, "--no_resume")
    assert contents(run.parent / "kite.1") == before and (run.parent / "kite.2" / LATEST).is_dir()


@pytest.mark.parametrize("flags", [(), ("--resume_from_best",), ("--no_save_ckpt",), ("--eval_only", "--no_resume")])
def test_a_run_that_goes_on_stays_where_it_is(run, flags):
    before = contents(run)
    launch(run, *flags)
    assert contents(run) == before and [path.name for path in run.parent.iterdir()] == ["kite"]


def test_a_checkpoint_of_the_run_itself_is_gone_on_from_in_its_place(run):
    launch(run, "--resume", str(run / BEST / "global_step2"))
    assert run.is_dir()
    other = fake_checkpoint(run.parent / "other" / LATEST, 7)
    launch(run, "--resume", str(other))
    assert (run.parent / "kite.1" / LATEST / "global_step4").is_dir()


def test_the_best_alone_is_not_replaced_by_a_run_that_starts_afresh(run):
    (run / LATEST).rename(run / "elsewhere")
    launch(run)
    assert (run.parent / "kite.1" / BEST / "global_step2").is_dir()


def test_a_launch_that_failed_before_it_trained_is_not_moved(tmp_path):
    run = tmp_path / "runs" / "kite"
    (run / "meta").mkdir(parents=True)
    launch(run, "--no_resume")
    assert run.is_dir()


def test_a_name_that_is_taken_is_never_written_over(run):
    (run.parent / "kite.1").symlink_to("nowhere")
    launch(run, "--no_resume")
    assert (run.parent / "kite.2" / BEST).is_dir()


def test_a_run_that_holds_the_base_of_the_next_is_not_moved(run):
    with pytest.raises(UserError, match="--version .*merged lies in .*kite, which a new run moves aside"):
        launch(run, "--no_resume", "--version", str(run / "merged"))
    assert run.is_dir()


def test_a_linked_run_keeps_its_link(run):
    link = run.parent / "link"
    link.symlink_to(run)
    launch(link, "--no_resume")
    assert (run.parent / "kite.1" / BEST).is_dir() and link.is_symlink() and link.is_dir()
