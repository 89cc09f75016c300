"""The scores of a run, and the best of them."""

import json
from pathlib import Path

import pytest

from checkpoints.runs import (
    BEST,
    LATEST,
    Position,
    Scores,
    copy_checkpoint,
    find_checkpoint,
    open_scores,
    save_checkpoint,
    scores_at,
)
from tests.training.test_checkpoints import ALONE, FakeEngine, fake_checkpoint

DAMAGES = [
    b"",
    b"{",
    b"[]",
    b"\xff",
    b'{"best": 3, "evaluations": []}',
    b'{"best": null, "evaluations": [{"step": "1"}]}',
]


def test_the_best_is_chosen_by_ciou_and_ties_by_giou(tmp_path):
    scores = Scores(tmp_path)
    assert scores.add(1, 0, {"val": {"gIoU": 0.9, "cIoU": 0.5}}, "val")
    assert not scores.add(2, 0, {"val": {"gIoU": 0.95, "cIoU": 0.4}}, "val")
    assert not scores.add(3, 0, {"val": {"gIoU": 0.9, "cIoU": 0.5}}, "val")
    assert scores.add(4, 1, {"val": {"gIoU": 0.91, "cIoU": 0.5}}, "val")
    scores.go_back_to(2)
    assert scores.has(2) and not scores.has(4)
    assert scores.content["best"]["step"] == 4
    scores.go_back_to(0)
    assert scores.content["best"] is None


@pytest.fixture
def run(tmp_path) -> Path:
    """Evaluated at steps 2 (the best) and 4, each time after the latest checkpoint."""
    scores = Scores(tmp_path)
    for step, score in ((2, 0.9), (4, 0.4)):
        latest = save_checkpoint(
            FakeEngine(),
            tmp_path / LATEST,
            position=Position(step=step, samples=2 * step, world_size=1),
            settings={},
            keep=1,
            world=ALONE,
            scores=scores.content,
        )
        if scores.add(step, 0, {"val": {"gIoU": score, "cIoU": score, "images": 3}}, "val"):
            copy_checkpoint(latest, tmp_path / BEST, keep=1, world=ALONE, scores=scores.content)
    scores.save()
    return tmp_path


def opened(run: Path, said: list[str] | None = None) -> Scores:
    said = [] if said is None else said
    return open_scores(run, find_checkpoint(run / LATEST), ALONE, say=said.append)


def test_scores_come_back(run):
    scores = opened(run)
    assert scores.content == json.loads((run / "scores.json").read_text())
    assert scores.content["best"]["step"] == 2 and scores.has(4)
    assert scores_at(find_checkpoint(run / BEST))["val"]["cIoU"] == 0.9


def test_a_lost_file_does_not_make_the_next_validation_the_best(run):
    (run / "scores.json").unlink()
    scores = opened(run)
    assert scores.content["best"]["step"] == 2 and scores.has(2)
    assert not scores.add(6, 0, {"val": {"gIoU": 0.5, "cIoU": 0.5}}, "val")
    assert scores_at(find_checkpoint(run / BEST))["val"]["cIoU"] == 0.9


@pytest.mark.parametrize("content", DAMAGES)
def test_a_damaged_file_is_moved_aside_and_rebuilt_from_the_checkpoint(run, content):
    (run / "scores.json").write_bytes(content)
    said = []
    scores = opened(run, said)
    assert scores.content["best"]["step"] == 2 and scores.has(2)
    assert len(said) == 1 and "scores.json is damaged" in said[0]
    assert (run / "scores.json.damaged").read_bytes() == content


def test_the_best_checkpoint_knows_better_than_a_file_that_was_written_before_it(run):
    content = json.loads((run / "scores.json").read_text())
    content["best"]["cIoU"] = 0.1
    (run / "scores.json").write_text(json.dumps(content))
    assert opened(run).content["best"]["cIoU"] == 0.9


def test_a_score_without_its_checkpoint_is_no_best(run):
    (run / BEST).rename(run / "elsewhere")
    assert opened(run).content["best"] is None


def test_a_best_of_before_has_its_score_in_the_file_and_is_kept_where_that_is_lost(tmp_path):
    fake_checkpoint(tmp_path / LATEST, 4)
    fake_checkpoint(tmp_path / BEST, 2)
    best = {"step": 2, "epoch": 0, "split": "val", "gIoU": 0.5, "cIoU": 0.5}
    (tmp_path / "scores.json").write_text(json.dumps({"best": best, "evaluations": []}))
    assert opened(tmp_path).content["best"] == best
    (tmp_path / "scores.json").unlink()
    said = []
    assert opened(tmp_path, said).content["best"] is None
    assert "it is kept as best_ckpt_model.1" in said[0] and (tmp_path / "best_ckpt_model.1/global_step2").is_dir()
