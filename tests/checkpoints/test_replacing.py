"""`merge_lora_weights.py` onto a directory that exists, and what a merge that failed leaves: what was there."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import merge_lora_weights
from checkpoints import load_model, merging, writing
from checkpoints.digests import DIGESTS_FILE
from checkpoints.files import CARD_FILE
from checkpoints.runs import LATEST
from groundscore.errors import UserError
from tests.checkpoints.trained_run import merge


def test_what_is_there_is_kept_unless_asked(run):
    target = merge(run, "--no_check")
    with pytest.raises(UserError, match="--overwrite"):
        merge(run)
    (target / "model.safetensors").write_bytes(b"old")
    merge(run, "--overwrite")
    load_model(target)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def refused(run: Path, target: Path, match: str) -> None:
    """Merging into `target` with --overwrite ends with one line and changes no file."""
    before = contents(run.parent)
    with pytest.raises(UserError, match=match) as error:
        merge_lora_weights.main(["--weight", str(run), "--save_path", str(target), "--overwrite", "--no_check"])
    assert "\n" not in str(error.value)
    assert contents(run.parent) == before


def test_overwriting_never_takes_the_run_or_its_base(run):
    for target in (run, run.parent, run.parent / "base", run / LATEST, run / LATEST / "global_step3"):
        refused(run, target, "is, or contains,|is inside the checkpoints")
    refused(run, run / LATEST / "global_step9", "is inside the checkpoints")
    (run.parent / "link").symlink_to(run)
    refused(run, run.parent / "link", "is, or contains, .*weight")
    merge_lora_weights.main(["--weight", str(run), "--save_path", str(run / "merged"), "--no_check"])
    merge_lora_weights.main(["--weight", str(run), "--save_path", str(run / "merged"), "--no_check", "--overwrite"])


def test_overwriting_replaces_merged_models_of_ours_only(run):
    documents = run.parent / "documents"
    documents.mkdir()
    (documents / "config.json").write_text('{"model_type": "llava"}')
    refused(run, documents, "was not written by merge_lora_weights")
    (documents / "thesis.txt").write_text("years of work")
    refused(run, documents, "contains thesis.txt, which is not a part of a merged model")
    refused(run, documents / "thesis.txt", "thesis.txt is a file")
    target = merge(run, "--no_check")
    (target / "eval").mkdir()
    refused(run, target, "contains eval, which is not a part")
    (target / "eval").rmdir()
    (target / "pytorch_model.bin").write_text("another model")  # the name of a part, but none that was written here
    refused(run, target, "contains pytorch_model.bin, which is not a part")
    (target / "pytorch_model.bin").unlink()
    card = (target / CARD_FILE).read_text()
    (target / CARD_FILE).write_text(f"{card}What I found out about this model: …")
    refused(run, target, "README.md was changed after it was written")
    (target / CARD_FILE).write_text(card)
    merge(run, "--overwrite", "--no_check")
    (target / DIGESTS_FILE).unlink()  # as directories of before
    merge(run, "--overwrite", "--no_check")


def test_a_merge_that_answers_differently_leaves_the_old_one(run, monkeypatch):
    target = merge(run)
    before = contents(target)

    def differs(*_):
        raise UserError("the merged model does not answer as the run did")

    monkeypatch.setattr(merging, "check_merge", differs)
    with pytest.raises(UserError, match="does not answer"):
        merge(run, "--overwrite", "--precision", "bf16")
    assert contents(target) == before
    assert sorted(path.name for path in run.parent.iterdir()) == ["base", "merged", "run"]


def test_a_tensor_that_reads_back_differently_is_an_error_and_nothing_stays(run, monkeypatch):
    monkeypatch.setattr(
        writing, "open_tensors", lambda path: {name: torch.zeros(1) for name in ("lm_head.weight", "other")}
    )
    with pytest.raises(UserError, match=r"tensors read back differently"):
        merge(run)
    assert sorted(path.name for path in run.parent.iterdir()) == ["base", "run"]


def test_a_disk_without_room_is_noticed_before_writing(run, monkeypatch):
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    with pytest.raises(UserError, match="No space left on device: .* has room for 10.0 kB"):
        merge(run)
    assert sorted(path.name for path in run.parent.iterdir()) == ["base", "run"]
