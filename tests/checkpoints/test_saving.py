"""Directories appear whole or not at all."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from checkpoints import load_model, save_model
from checkpoints.files import open_tensors
from checkpoints.processing import GroundingProcessor
from groundscore.errors import UserError
from model.config import GroundingConfig
from model.grounding import GroundingModel
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def tiny():
    return tiny_model("UGround", seed=2)


def test_a_directory_holds_everything(tiny, tmp_path):
    save_model(*tiny, tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.model",
        "added_tokens.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
        "README.md",
        "digests.json",
    }


def test_from_pretrained_loads_it_without_flags(tiny, tmp_path):
    save_model(*tiny, tmp_path / "saved")
    model, report = GroundingModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state = tiny[0].state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert GroundingProcessor.from_pretrained(tmp_path / "saved").tokenizer.seg_token_ids
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "saved").convert_tokens_to_ids("[SEG]")
        == (model.config.seg_token_ids[0])
    )


def test_shards_have_an_index_and_read_back(tiny, tmp_path):
    save_model(*tiny, tmp_path / "saved", shard_bytes=50_000)
    files = sorted(path.name for path in (tmp_path / "saved").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((tmp_path / "saved" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    tensors = open_tensors(tmp_path / "saved")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in tiny[0].state_dict().items())
    load_model(tmp_path / "saved")


def test_precision_is_kept(tmp_path):
    model, processor = tiny_model("LISA")
    save_model(model.to(torch.bfloat16), processor, tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == "bfloat16"
    assert open_tensors(tmp_path / "saved")["lm_head.weight"].dtype == torch.bfloat16


class Failing:
    """A processor that cannot be saved: a full disk, or Ctrl-C."""

    def __init__(self, error):
        self.error = error

    def save_pretrained(self, directory):
        raise self.error


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failing_save_leaves_nothing_behind(tiny, tmp_path, error):
    with pytest.raises(type(error)):
        save_model(tiny[0], Failing(error), tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_save_leaves_what_was_there(tiny, tmp_path):
    save_model(*tiny, tmp_path / "saved")
    with pytest.raises(OSError):
        save_model(tiny[0], Failing(OSError("disk full")), tmp_path / "saved", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    load_model(tmp_path / "saved")


def test_an_existing_directory_is_refused_unless_asked(tiny, tmp_path):
    save_model(*tiny, tmp_path / "saved")
    with pytest.raises(UserError, match="already exists"):
        save_model(*tiny, tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").write_text("old")
    save_model(*tiny, tmp_path / "saved", overwrite=True)
    load_model(tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_what_this_program_did_not_write_is_never_replaced(tiny, tmp_path):
    (tmp_path / "saved").write_text("notes")
    with pytest.raises(UserError, match="is a file"):
        save_model(*tiny, tmp_path / "saved", overwrite=True)
    save_model(*tiny, tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_text("notes")
    with pytest.raises(UserError, match="contains notes.txt"):
        save_model(*tiny, tmp_path / "model", overwrite=True)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.model", "preprocessor_config.json"])
def test_one_changed_bit_of_a_saved_model_is_refused(tiny, tmp_path, name):
    save_model(*tiny, tmp_path / "saved")
    flip_a_bit(tmp_path / "saved" / name)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        load_model(tmp_path / "saved")


def test_large_files_are_read_against_their_digests_when_asked(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("checkpoints.digests.LARGEST", 100_000)
    save_model(*tiny, tmp_path / "saved")
    flip_a_bit(tmp_path / "saved" / "model.safetensors")
    load_model(tmp_path / "saved")
    with pytest.raises(UserError, match="model.safetensors is damaged"):
        load_model(tmp_path / "saved", verify=True)


def test_directories_of_before_have_no_digests_and_load(tiny, tmp_path):
    save_model(*tiny, tmp_path / "saved")
    (tmp_path / "saved" / "digests.json").unlink()
    load_model(tmp_path / "saved")
    _, _, report = load_model(tmp_path / "saved", verify=True)
    assert "has no digests" in str(report)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1, "files": {"../x": {"bytes": 1, "blake2b": ""}}}'])
def test_a_damaged_list_of_digests_is_one_line(tiny, tmp_path, content):
    save_model(*tiny, tmp_path / "saved")
    (tmp_path / "saved" / "digests.json").write_text(content)
    with pytest.raises(UserError, match="digests.json"):
        load_model(tmp_path / "saved")


def test_the_configuration_comes_back(tiny, tmp_path):
    save_model(*tiny, tmp_path / "saved")
    config = GroundingConfig.from_pretrained(tmp_path / "saved")
    assert config.seg_token_ids == tiny[0].config.seg_token_ids
    assert config.sam_config.vision_config.to_dict() == tiny[0].config.sam_config.vision_config.to_dict()
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_type"] == "uground"
