"""`merge_lora_weights.py`: from a training run to one directory."""

import sys
from types import SimpleNamespace

import pytest
import torch

import merge_lora_weights
from model.checkpoints import load_model, save_model
from tests.tiny import tiny_model
from utils.errors import UserError
from utils.training import restoring


@pytest.fixture
def trained(monkeypatch):
    """A model that training left behind, as `load_trained` gives it; what it was asked for is recorded."""
    asked = SimpleNamespace()

    def load_trained(path, *, precision, base):
        asked.path, asked.precision, asked.base = path, precision, base
        return *tiny_model(), {"precision": "fp32", "base": {"vision_tower": None}}

    monkeypatch.setattr(restoring, "load_trained", load_trained)
    return asked


def test_the_merged_model_is_saved_and_read_back(trained, tmp_path, capsys):
    merge_lora_weights.main(["--weight", "run", "--save-path", str(tmp_path / "merged"), "--version", "elsewhere"])
    expected, _ = tiny_model()
    model, _, report = load_model(tmp_path / "merged")
    assert not report.new
    for name, tensor in expected.state_dict().items():
        assert model.state_dict()[name].equal(tensor), name
    assert (trained.path, trained.precision, trained.base) == ("run", "fp32", {"version": "elsewhere"})
    assert "equal bit for bit" in capsys.readouterr().out


def test_precision_is_that_of_the_saved_weights_and_buffers_stay_exact(trained, tmp_path):
    merge_lora_weights.main(["--weight", "run", "--save_path", str(tmp_path / "merged"), "--precision", "bf16"])
    model, _, _ = load_model(tmp_path / "merged", precision="bf16")
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert model.policy.reward_mean.dtype == torch.float32
    assert model.lm_head.weight.equal(tiny_model()[0].lm_head.weight.bfloat16())


def test_the_references_layout(trained, tmp_path):
    base, processor = tiny_model()
    base.vision_tower.save_pretrained(tmp_path / "clip")
    target = tmp_path / "exported"
    arguments = ["--weight", "run", "--save_path", str(target), "--export", "reference"]
    merge_lora_weights.main([*arguments, "--vision_tower", str(tmp_path / "clip")])
    model, _, report = load_model(target)
    assert report.kind == "reference checkpoint"
    for name, tensor in base.state_dict().items():
        assert model.state_dict()[name].equal(tensor), name


def test_what_is_there_is_kept_unless_asked(trained, tmp_path):
    save_model(*tiny_model(seed=5), tmp_path / "merged")
    arguments = ["--weight", "run", "--save_path", str(tmp_path / "merged")]
    with pytest.raises(UserError, match="--overwrite"):
        merge_lora_weights.main(arguments)
    merge_lora_weights.main([*arguments, "--overwrite"])
    assert load_model(tmp_path / "merged")[0].lm_head.weight.equal(tiny_model()[0].lm_head.weight)


def test_a_tensor_that_reads_back_differently_is_an_error(trained, tmp_path, monkeypatch):
    real = merge_lora_weights.checksums
    results = iter([{}, {"lm_head.weight": 0}])
    monkeypatch.setattr(merge_lora_weights, "checksums", lambda tensors: {**real(tensors), **next(results)})
    with pytest.raises(UserError, match=r"1 of \d+ tensors read back differently \(lm_head.weight"):
        merge_lora_weights.main(["--weight", "run", "--save_path", str(tmp_path / "merged")])


def test_help_needs_no_torch(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as done:
        merge_lora_weights.main(["--help"])
    assert done.value.code == 0
    assert "--save_path" in capsys.readouterr().out
