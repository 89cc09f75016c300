"""Which checkpoint a run resumes."""

from pathlib import Path

import pytest

from checkpoints.runs import BEST, LATEST
from groundscore.errors import UserError
from tests.training.test_checkpoints import ALONE, fake_checkpoint
from training.arguments import parse_arguments
from training.resuming import checkpoint_to_resume


@pytest.fixture
def run(tmp_path) -> Path:
    """Latest checkpoints at steps 4 and 6, the best at step 2."""
    for directory, steps in ((LATEST, (4, 6)), (BEST, (2,))):
        for step in steps:
            fake_checkpoint(tmp_path / directory, step)
    return tmp_path


def chosen(run: Path, *flags: str) -> str | None:
    found = checkpoint_to_resume(parse_arguments(flags), run, ALONE)
    return found and f"{found.parent.name}/{found.name}"


def test_a_run_resumes_its_latest_unless_told_otherwise(run):
    assert chosen(run) == "ckpt_model/global_step6"
    assert chosen(run, "--resume_from_best") == "best_ckpt_model/global_step2"
    assert chosen(run, "--no_resume") is None
    assert chosen(run, "--resume", str(run / LATEST / "global_step4")) == "ckpt_model/global_step4"
    assert chosen(run / "nowhere") is None


def test_a_damaged_checkpoint_is_passed_over_and_reported(run, capsys):
    (run / LATEST / "global_step6" / "weights.pt").write_bytes(b"y" * 6)
    assert chosen(run) == "ckpt_model/global_step4"
    assert "global_step6/weights.pt is damaged" in capsys.readouterr().err
    with pytest.raises(UserError, match="damaged"):
        chosen(run, "--resume", str(run / LATEST / "global_step6"))


def test_a_run_without_an_undamaged_checkpoint_does_not_start_afresh_by_itself(run):
    for file in (run / LATEST).rglob("weights.pt"):
        file.unlink()
    with pytest.raises(
        UserError, match="none is complete and undamaged; --resume .*best_ckpt_model/global_step2 resumes"
    ):
        chosen(run)
    for file in run.rglob("weights.pt"):
        file.unlink()
    with pytest.raises(UserError, match="none is complete and undamaged.*--no_resume"):
        chosen(run)


def test_until_there_is_a_best_there_is_the_latest_and_the_other_way_round(tmp_path):
    fake_checkpoint(tmp_path / "a" / LATEST, 3)
    assert chosen(tmp_path / "a", "--resume_from_best") == "ckpt_model/global_step3"
    fake_checkpoint(tmp_path / "b" / BEST, 3)
    assert chosen(tmp_path / "b", "--no_save_ckpt") == "best_ckpt_model/global_step3"
